"""Configurations and run folders are UTF-8 whatever the locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FILES = [
    *sorted((ROOT / "market_regimes").rglob("*.py")),
    ROOT / "train_model_multi_patch.py",
]


def without_encoding(text):
    """Lines that read or write text as the locale has it."""
    lines = []

    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        named = any(keyword.arg == "encoding" for keyword in call.keywords)
        if name == "open" and isinstance(call.func, ast.Attribute):  # os.open gives a descriptor
            continue
        text_mode = name == "open" and not any("b" in word for word in words)
        if not named and (text_mode or (name == "read_text" and "utf-8" not in "".join(words)) or name == "write_text"):
            lines.append(call.lineno)

    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_is_read_and_written_in_a_named_encoding(path):
    assert without_encoding(path.read_text("utf-8")) == []


def test_a_missing_encoding_is_reported():
    text = "open(a)\np.read_text()\np.write_text(b)\nopen(a, 'rb')\np.read_text('utf-8')\nopen(a, encoding='utf-8')\n"
    assert without_encoding(text) == [1, 2, 3]


def test_a_configuration_is_utf_8_under_an_ascii_locale(tmp_path):
    for name, mark, steps in (
        ("plain", b"", b"12345"),
        ("marked", b"\xef\xbb\xbf", b"54321"),
    ):  # byte order mark
        (tmp_path / f"{name}.yaml").write_bytes(mark + b"# caf\xc3\xa9\nrun:\n  total_timesteps: " + steps)

    code = (
        "import locale, train_model_multi_patch as cli\n"
        "assert locale.getencoding() != 'UTF-8', locale.getencoding()\n"
        "for name in ('plain', 'marked'):\n"
        "    print(cli.train_parser().parse_args(['--config', f'{name}.yaml']).run.total_timesteps)"
    )

    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(ROOT),
    }
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert shown.stdout.split() == ["12345", "54321"], shown.stderr[-1000:]
