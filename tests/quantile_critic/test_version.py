"""The version stands in one place, and reading it imports nothing."""

import ast
from pathlib import Path

import distributional_ppo
from quantile_critic import version


def test_the_class_has_the_version_of_the_file():
    assert distributional_ppo.__version__ == version.__version__


def test_the_file_imports_nothing():
    tree = ast.parse(Path(version.__file__).read_text())

    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
