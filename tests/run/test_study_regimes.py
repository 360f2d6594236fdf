"""A run of five configured regimes with other names. Oracle: numpy's digitize on the run's index."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import refused
from matplotlib.figure import Figure

from market_regimes import Agent, Study
from market_regimes.compare.cell import Cell, run_cell
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.segments import segments_of
from market_regimes.run.folder import read_configuration
from train_model_multi_patch import main

NAMES = ["quiet", "calmish", "normal", "rough", "panic"]
BOUNDS = [12.0, 16.0, 22.0, 26.0]
REGIMES = [f"--market.regimes=[{','.join(NAMES)}]", f"--market.regime_bounds={BOUNDS}"]
QUICK = [
    "--run.total_timesteps=256",
    "--run.n_envs=2",
    "--run.progress_bar=false",
    "--algorithm.n_steps=64",
    "--algorithm.batch_size=64",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_prices):
    """A run of 256 steps on 900 bars, and its file."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "own.csv"
    make_prices(900).to_csv(path, index=False)
    main([*QUICK, f"--market.data={path}", f"--run.out={folder}", "--run.name=run", *REGIMES])
    return folder / "run", path


def test_an_evaluation_has_the_configured_regimes(run):
    folder = run[0]
    result = json.loads((folder / "evaluation-test.json").read_text())
    by_regime = result["joint"]["agent"]["regimes"]
    assert list(by_regime) == NAMES

    # The labels of every decision are numpy's.
    positions = pd.read_csv(folder / "positions-test.csv")
    expected = np.array(NAMES)[np.digitize(positions["volatility_index"], BOUNDS)]
    assert positions["regime"].tolist() == expected.tolist()

    # Each row of the account counts in one regime.
    assert sum(cell["bars"] for cell in by_regime.values()) == result["joint"]["agent"]["bars"]


def test_scalars_are_called_as_the_regimes(run, read_scalars):
    tags = read_scalars(run[0]).keys()
    by_regime = {tag.removeprefix("train/value_error_") for tag in tags if tag.startswith("train/value_error_")}
    assert by_regime
    assert by_regime <= set(NAMES)


def test_a_signal_names_the_regime_by_the_runs_bounds(run):
    folder, path = run
    (signal,) = Agent.load(folder).signal(path)
    (segment,) = segments_of(MarketConfig(str(path), regimes=NAMES, regime_bounds=tuple(BOUNDS)))["test"]
    assert signal.regime == NAMES[np.digitize(segment.market.index[-1], BOUNDS)]


def test_an_evaluation_of_other_bars_keeps_the_regimes(run, capsys):
    folder, path = run
    main(["evaluate", str(folder), "--data", str(path), "--from", "2002-01-01", "--to", "2002-12-31"])
    (result,) = [json.loads(each.read_text()) for each in folder.glob("evaluation-own-*.json")]
    assert list(result["joint"]["agent"]["regimes"]) == NAMES
    assert "panic" in capsys.readouterr().out


def test_a_run_is_not_resumed_with_other_regimes(run, capsys):
    folder, path = run
    changed = ["--market.regimes=[a,b,c,d,e]", f"--market.regime_bounds={BOUNDS}"]
    shown = refused(capsys, "--resume", str(folder), *QUICK, f"--market.data={path}", *changed)
    assert "market.regimes" in shown


def test_a_cell_of_a_comparison_has_them_beside_calm_stormy_and_crash(run):
    market = MarketConfig(
        str(run[1]),
        regimes=NAMES,
        regime_bounds=tuple(BOUNDS),
        train=("2000-01-03", "2001-12-31"),
        test=("2002-01-01", "2003-06-01"),
    )
    algorithm = dict(n_steps=64, batch_size=64, n_epochs=1, device="cpu", normalize_returns=True)
    cell = Cell("own", "fold", "variant", 0, RunConfig(n_envs=2, total_timesteps=256), market, algorithm)
    figures = run_cell(cell)["figures"]

    of_regimes = {name for name in NAMES if f"test_sharpe_{name}" in figures}
    assert len(of_regimes) >= 3
    for role, name in (("calm", "quiet"), ("crash", "panic")):
        assert figures.get(f"test_sharpe_{role}") == figures.get(f"test_sharpe_{name}")
    assert "test_sharpe_stormy" in figures


def test_two_regimes_are_enough(tmp_path, make_prices, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *arguments, **options: None)
    path = tmp_path / "own.csv"
    make_prices(900).to_csv(path, index=False)
    two = ["--market.regimes=[low,high]", "--market.regime_quantiles=[0.7]"]
    main([*QUICK, f"--market.data={path}", f"--run.out={tmp_path}", "--run.name=two", *two])

    result = json.loads((tmp_path / "two" / "evaluation-test.json").read_text())
    assert list(result["joint"]["agent"]["regimes"]) == ["low", "high"]


def test_a_run_keeps_its_regimes_from_python_too(run):
    """Other names or bounds would go on with other scalars, so they are refused; the run's own load."""
    folder = run[0]
    config = read_configuration(folder)
    assert Study(config.run, config.market, config.algorithm).load(folder) is None

    renamed = replace(config.market, regimes=["a", "b", "c", "d", "e"])
    moved = replace(config.market, regime_bounds=(12.0, 16.0, 22.0, 27.0))
    for market in (renamed, moved):
        with pytest.raises(ValueError, match=r"a run keeps market\.regimes and their bounds"):
            Study(config.run, market, config.algorithm).load(folder)


@pytest.mark.parametrize("name", ["ratio", "buy_and_hold", "informed_rule"])
def test_a_regime_that_would_overwrite_another_scalar_is_refused(run, name):
    market = MarketConfig(str(run[1]), regimes=["low", "middle", "high", name])
    with pytest.raises(ValueError, match=f"market.regimes: {name} would log as eval/sharpe_{name}"):
        Study(RunConfig(n_envs=2), market)
