"""The house: which file imports which. Imports for type checkers count, too."""

import ast
import sys
from pathlib import Path

import pytest
from builders import SHORT, RandomEnv

from distributional_ppo import DistributionalPPO

ROOT = Path(__file__).parents[1]
FILES = [ROOT / f"{name}.py" for name in ("distributional_ppo", "recurrent_distributional_ppo", "upgd")]
FILES += [*sorted((ROOT / "quantile_critic").glob("*.py"))]
MODULES = {str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path for path in FILES}


def imported(path):
    """Names of all modules that a file imports, wherever the import stands."""
    names = set()

    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where an arrow points"
            names |= {
                node.module,
                *(f"{node.module}.{alias.name}" for alias in node.names),
            }

    return names


GRAPH = {name: imported(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
# The one arrow back, taken when the name is asked for: `from distributional_ppo import RecurrentDistributionalPPO`.
GRAPH["distributional_ppo"].remove("recurrent_distributional_ppo")


def test_no_file_imports_itself_by_way_of_others():
    def reached(name, visited):
        for target in GRAPH[name] - visited:
            visited |= {target} | reached(target, visited | {target})
        return visited

    assert GRAPH["distributional_ppo"] >= {
        "quantile_critic.losses",
        "quantile_critic.rollout",
    }

    for name in GRAPH:
        assert name not in reached(name, set()), name


def test_the_parts_know_nothing_of_the_algorithm_and_the_patch_only_the_losses():
    for name, others in GRAPH.items():
        if name not in ("distributional_ppo", "recurrent_distributional_ppo"):
            assert others.isdisjoint({"distributional_ppo", "recurrent_distributional_ppo"}), name

        if name != "upgd":
            assert "upgd" not in others, name

    assert GRAPH["quantile_critic.losses"] == set() == GRAPH["upgd"]
    assert GRAPH["quantile_critic.patch"] == {"quantile_critic.losses"}

    foreign = {name.split(".")[0] for name in imported(MODULES["quantile_critic.losses"])}
    assert foreign <= {"__future__", "math", "typing", "torch"}

    for path in MODULES.values():
        assert not any(name.split(".")[0] in ("market_regimes", "train_model_multi_patch") for name in imported(path))


# Each may import those before it, and itself.
PACKAGES = (
    "config",
    "files",
    "prices",
    "market",
    "evaluate",
    "run",
    "compare",
    "tune",
    "commands",
)
# Nothing in the house imports these; the package's own file names what users import from it.
COMMAND_LINE = {"train_model_multi_patch", "market_regimes.__init__"}
MARKET_FILES = sorted((ROOT / "market_regimes").rglob("*.py"))

HOUSE = MODULES | {
    str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path
    for path in [*MARKET_FILES, ROOT / "train_model_multi_patch.py"]
}


def layer(module):
    """Position of a module among ``PACKAGES``; above all of them the command line, below them what knows no market."""
    parts = module.split(".")
    if module in COMMAND_LINE:
        return len(PACKAGES)
    return PACKAGES.index(parts[1]) if parts[0] == "market_regimes" else -1


def test_no_arrow_of_the_markets_runs_back_up():
    for name, path in HOUSE.items():
        for target in imported(path) & HOUSE.keys():
            assert layer(target) <= layer(name), f"{name} imports {target}"
            if layer(target) == -1 and layer(name) >= 0:  # the algorithm is the run's, not the prices'
                assert layer(name) >= PACKAGES.index("run"), f"{name} imports {target}"


def test_no_file_of_the_markets_imports_itself_by_way_of_others():
    left = {name: imported(path) & HOUSE.keys() - {name} for name, path in HOUSE.items()}
    left["distributional_ppo"].remove("recurrent_distributional_ppo")  # as above
    assert "market_regimes.run.callback" in left["market_regimes.run.study"]

    while ends := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in ends}

    assert not left, f"these import one another: {sorted(left)}"


def test_all_others_read_prices_through_one_door():
    """`market_regimes.prices` names what they need; its files import one another and nothing from the door."""
    for name, path in HOUSE.items():
        inner = {module for module in imported(path) & HOUSE.keys() if module.startswith("market_regimes.prices.")}
        if name.startswith("market_regimes.prices."):
            assert "market_regimes.prices" not in imported(path), name
        else:
            assert inner == set(), f"{name} goes around the door: {sorted(inner)}"


def test_no_lower_layer_knows_of_prices():
    for name, path in HOUSE.items():
        if layer(name) < PACKAGES.index("prices"):
            assert "market_regimes.prices" not in imported(path), name


def test_an_import_for_types_counts(tmp_path):
    (tmp_path / "one.py").write_text("if TYPE_CHECKING:\n    from market_regimes.run.study import Study\n")
    assert "market_regimes.run.study" in imported(tmp_path / "one.py")


def test_the_callback_and_the_trading_rules_get_no_more_than_they_need():
    assert "market_regimes.run.study" not in imported(HOUSE["market_regimes.run.callback"])

    rules = imported(HOUSE["market_regimes.evaluate.strategies"])
    assert "market_regimes.market.environment.Known" in rules
    assert "market_regimes.market.environment.MarketCore" not in rules


def test_without_the_compiler_all_else_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "quantile_critic.compiled", None)
    model = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).learn(64)
    assert model.num_timesteps == 64
    with pytest.raises(ImportError, match="compiled"):
        DistributionalPPO("MlpPolicy", RandomEnv(), compile=True, **SHORT)
