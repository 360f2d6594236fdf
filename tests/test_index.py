"""The tests are an index of the modules: who looks for the tests of a module finds a file of its name."""

import ast
from fnmatch import filter as fnmatch_filter
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"

# Modules that no test file is named after, and why.
WITHOUT_A_FILE = {
    "*/__init__.py": "a docstring, or the names that a package exports",
    "market_regimes/commands/algorithm_flags.py": "a list, which test_constructors.py compares with the constructors",
}


def modules():
    """Every module that is installed, as a path from the root. Benchmarks and examples are scripts, no modules."""
    names = ("distributional_ppo", "recurrent_distributional_ppo", "train_model_multi_patch", "upgd")
    packages = [*(ROOT / "quantile_critic").rglob("*.py"), *(ROOT / "market_regimes").rglob("*.py")]
    paths = [*(ROOT / f"{name}.py" for name in names), *packages]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def place_of(module):
    """Folder of a module's tests. The folders of ``market_regimes`` stand in ``tests`` without its name."""
    folder = Path(module).parent
    if folder.parts[:1] == ("market_regimes",):
        folder = Path(*folder.parts[1:])
    return TESTS / folder


def files_of(module, folder):
    """Test files of a module's name: ``test_NAME.py``, and ``test_NAME_SUBJECT.py`` where one would be too long."""
    name = Path(module).stem
    return [*folder.glob(f"test_{name}.py"), *folder.glob(f"test_{name}_*.py")]


@pytest.mark.parametrize("module", modules())
def test_every_module_has_a_test_file_of_its_name(module):
    if not any(fnmatch(module, pattern) for pattern in WITHOUT_A_FILE):
        expected = f"{place_of(module).relative_to(ROOT)}/test_{Path(module).stem}.py"
        assert files_of(module, place_of(module)), f"{module} has no {expected}"


def test_every_pattern_on_the_list_is_of_some_module():
    for pattern in WITHOUT_A_FILE:
        assert fnmatch_filter(modules(), pattern), pattern


def imported_tests(text):
    """Names of the test files that a test file imports from, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if any(part.startswith("test_") for part in name.split("."))}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_file_imports_another(path):
    assert imported_tests(path.read_text("utf-8")) == set(), "what two test files need stands in tests/builders.py"


def test_an_import_of_a_test_file_is_reported():
    text = "import test_head\ndef f():\n    from tests.run.test_agent import make\n"
    text += "from tests.run import test_log, builders\n"
    results = imported_tests(text)
    assert results >= {"test_head", "tests.run.test_agent", "tests.run.test_log"}
    assert "tests.run.builders" not in results


def test_a_file_of_a_longer_module_name_is_no_file_of_a_shorter_one(tmp_path):
    """``test_regimes.py`` is not the file of ``regime.py``; ``test_regime_bounds.py`` is."""
    for name in ("test_regimes.py", "test_regime_bounds.py"):
        (tmp_path / name).touch()
    assert [path.name for path in files_of("market_regimes/market/regime.py", tmp_path)] == ["test_regime_bounds.py"]
    assert place_of("market_regimes/market/regime.py") == TESTS / "market"
    assert place_of("quantile_critic/head.py") == TESTS / "quantile_critic"
    assert place_of("market_regimes/files.py") == place_of("upgd.py") == TESTS
