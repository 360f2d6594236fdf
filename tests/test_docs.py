"""README and pages say what is: the Python runs, flags exist with the defaults named, files are there."""

import re
from pathlib import Path

import pytest

from market_regimes.commands import parsers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_the_readme_is_short():
    assert README.count("\n") <= 160


def test_flags_in_commands_exist():
    ours = (parsers.compare_parser(), parsers.tune_parser())

    allowed = {action.dest for parser in ours for action in parser._actions} | {
        *("format", "out"),
        *("period", "checkpoint", "data", "from", "to", "position"),
        "logdir",
        "table",
        "seeds",
    }

    used = set(
        re.findall(
            r"--([\w.]+)",
            "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)),
        )
    )

    assert used <= allowed


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
