"""README and pages say what is: the Python runs, flags exist with the defaults named, files are there."""

import ast
import re
from pathlib import Path

import pytest

from market_regimes.commands import parsers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MODULES = sorted(p for p in ROOT.rglob("*.py") if not {".venv", "build", "tests"} & set(p.relative_to(ROOT).parts))


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_the_readme_is_short():
    assert README.count("\n") <= 160


def test_flags_in_commands_exist():
    own = (parsers.compare_parser(), parsers.tune_parser())
    known = {action.dest for parser in own for action in parser._actions} | {
        *("format", "out"),
        *("period", "checkpoint", "data", "from", "to", "position"),
        "logdir",
        "table",
        "seeds",
    }
    used = set(re.findall(r"--([\w.]+)", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))))
    assert used <= known


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_body_is_longer_than_40_lines(path):
    """But for `train` and the value loss, which are each one story, and a constructor that repeats SB3's parameters."""
    stories = {"train": 80, "_value_loss": 60, "__init__": 80} if path.name == "distributional_ppo.py" else {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            assert not body or body[-1].end_lineno - body[0].lineno + 1 <= stories.get(node.name, 40), node.name
