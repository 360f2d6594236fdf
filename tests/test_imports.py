"""The house: which file imports which. Imports for type checkers count, too."""

import ast
import sys
from pathlib import Path

import pytest
from test_distributional_ppo import SHORT, RandomEnv

from distributional_ppo import DistributionalPPO

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "distributional_ppo.py", ROOT / "upgd.py", *sorted((ROOT / "quantile_critic").glob("*.py"))]
MODULES = {str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path for path in FILES}


def imported(path):
    """Names of all modules that a file imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where an arrow points"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


GRAPH = {name: imported(path) & MODULES.keys() - {name} for name, path in MODULES.items()}


def test_no_file_imports_itself_by_way_of_others():
    def reached(name, seen):
        for other in GRAPH[name] - seen:
            seen |= {other} | reached(other, seen | {other})
        return seen

    assert GRAPH["distributional_ppo"] >= {"quantile_critic.losses", "quantile_critic.rollout"}
    for name in GRAPH:
        assert name not in reached(name, set()), name


def test_the_parts_know_nothing_of_the_algorithm_and_the_patch_only_the_losses():
    for name, others in GRAPH.items():
        if name != "distributional_ppo":
            assert "distributional_ppo" not in others, name
        if name != "upgd":
            assert "upgd" not in others, name
    assert GRAPH["quantile_critic.losses"] == set() == GRAPH["upgd"]
    assert GRAPH["quantile_critic.patch"] == {"quantile_critic.losses"}
    foreign = {name.split(".")[0] for name in imported(MODULES["quantile_critic.losses"])}
    assert foreign <= {"__future__", "math", "typing", "torch"}
    for path in MODULES.values():
        assert not any(name.split(".")[0] in ("market_regimes", "train_model_multi_patch") for name in imported(path))


def test_without_the_compiler_all_else_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "quantile_critic.compiled", None)
    model = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).learn(64)
    assert model.num_timesteps == 64
    with pytest.raises(ImportError, match="compiled"):
        DistributionalPPO("MlpPolicy", RandomEnv(), compile=True, **SHORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= (700 if path.name == "distributional_ppo.py" else 400)
