"""docs/recurrent.md says what is."""

import re
from inspect import signature
from pathlib import Path

import pytest

from distributional_ppo import RecurrentDistributionalPPO

PAGE = (Path(__file__).parents[1] / "docs" / "recurrent.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_its_python_runs(block):
    names = {}
    exec(compile(block, "recurrent.md", "exec"), names)
    assert names["quantiles"].shape == (1, 32)


def test_its_flag_has_the_default_it_names():
    flags = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", PAGE, re.MULTILINE))
    parameters = signature(RecurrentDistributionalPPO).parameters
    assert flags == {name: repr(parameters[name].default) for name in flags} != {}
