"""The flags that are written down are those of the constructors, and the text that is written gives them back."""

import runpy
from typing import Any, Literal

import pytest

from market_regimes.commands.algorithm_flags import ALGORITHM_FLAGS
from market_regimes.commands.constructors import algorithm_flags, source_of
from market_regimes.commands.flag import Flag
from market_regimes.run.schedule import schedule


@pytest.mark.parametrize("field", Flag._fields)
def test_the_flags_are_those_of_the_constructors(field):
    written = {flag.name: getattr(flag, field) for flag in ALGORITHM_FLAGS}
    signatures = {flag.name: getattr(flag, field) for flag in algorithm_flags()}

    assert written == signatures, "call `make flags`"
    assert list(written) == list(signatures), "call `make flags`"


@pytest.mark.parametrize(
    "hint",
    [
        int,
        float | None,
        Literal["a", "b"],
        Literal["a"] | None,
        list[int] | dict[str, list[int]] | None,
        dict[str, Any],
        schedule,
    ],
    ids=lambda hint: getattr(hint, "__name__", str(hint)),  # an address would differ between processes
)
def test_a_flag_is_read_back_from_what_is_written(hint, tmp_path):
    flag = Flag("policy_kwargs.depth", hint, 0.5, 'how "deep", ' * 30)

    (tmp_path / "flags.py").write_text(source_of((flag,)), encoding="utf-8")

    assert runpy.run_path(tmp_path / "flags.py")["ALGORITHM_FLAGS"] == (flag,)
