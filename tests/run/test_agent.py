"""
A trained agent apart from its data. Oracles: the positions that an evaluation wrote, pandas, numpy, and the rule that a
decision knows nothing of the bars after it.
"""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from builders import QUICK_FLAGS, with_columns

import market_regimes
from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.config import PortfolioConfig
from market_regimes.evaluate.play import positions
from market_regimes.evaluate.portfolio import Bench, in_one_account
from market_regimes.run.folder import Configured
from market_regimes.run.study import Study as StudyOfModule
from train_model_multi_patch import main

ROOT = Path(__file__).parents[2]


PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2003-04-18")
)


FROM, TO = "2002-03-01", "2003-02-13"  # 250 business days


def exactly(path):
    """A table as it was written: Python reads the shortest text of a float64 back as it, pandas may not."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False).assign(date=lambda t: pd.to_datetime(t["date"]))
    for name in table.columns.difference(["date", "symbol", "regime", "side"]):
        table[name] = table[name].map(lambda cell: float(cell or "nan"))
    return table


def trained(tmp_path, prices, name, market=None, **run):
    """A run of two updates, trained from Python without the command line."""
    data = tmp_path / f"{name}.csv"
    prices.to_csv(data, index=False)
    config = MarketConfig(str(data), **{**PERIODS, "episode_bars": 60, **(market or {})})
    run = RunConfig(
        total_timesteps=256, n_envs=2, eval_every=128, out=str(tmp_path), name=f"run-{name}", progress_bar=False, **run
    )
    study = Study(run, config, dict(seed=0, n_steps=64, batch_size=64, n_epochs=4, learning_rate=0.01))
    return study, study.start(), data


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_prices):
    """A run on one symbol, its folder and its data; not to be changed."""
    return trained(tmp_path_factory.mktemp("runs"), make_prices(860), "own")


@pytest.fixture(scope="module")
def many(tmp_path_factory, make_prices):
    """The same on three symbols, with VecNormalize."""
    return trained(tmp_path_factory.mktemp("runs"), several(make_prices), "many", normalize_observations=True)


@pytest.fixture
def copied(finished, tmp_path):
    """Its folder, to be changed."""
    return shutil.copytree(finished[1], tmp_path / "copy")


def several(make_prices):
    """Three symbols in one long table; the third begins later, so that it has fewer bars."""
    frames = [make_prices(860, seed).assign(symbol=symbol) for seed, symbol in enumerate(("A", "B B", "C"))]
    frames[2] = frames[2].iloc[7:]
    return pd.concat(frames, ignore_index=True)


CASES = {
    "one symbol": {},
    "VecNormalize": dict(normalize_observations=True),
    "several symbols, VecNormalize": dict(normalize_observations=True),
    "some positions, close": dict(
        market=dict(trading=TradingCosts(positions=[-1.0, 0.0, 0.25, 2.0], fill="close", cash_rate=0.02))
    ),
    "features, one bar late": dict(
        market=dict(features=["macro", "volume"], feature_lag=1, feature_fill="forward"), normalize_observations=True
    ),
    "short and leveraged": dict(market=dict(trading=TradingCosts(position_low=-0.5, position_high=1.5, fee_bp=3.0))),
}


IN_FULL = ("one symbol", "several symbols, VecNormalize")  # of the others every tenth day: each asks the same function


@pytest.mark.parametrize("case", CASES)
def test_the_signal_of_250_days_is_bit_for_bit_what_an_evaluation_decided(case, tmp_path, make_prices):
    prices = several(make_prices) if "several" in case else make_prices(860)
    rng = np.random.default_rng(1)
    macro = np.where(np.arange(len(prices)) % 5, np.nan, rng.normal(size=len(prices)))
    prices = prices.assign(macro=macro, volume=rng.integers(50, 99, len(prices)))
    _, folder, data = trained(tmp_path, prices, "own", **CASES[case])
    agent = Agent.load(folder)
    decided = positions(agent.backtest(data, FROM, TO), agent.segments(data, (FROM, TO)))
    dates = decided["date"].unique()
    assert len(dates) == 250
    assert dates[0] == pd.Timestamp("2002-02-28")  # the close before the first day whose return is earned
    assert decided["target"].nunique() > 3 or case == "some positions, close"
    read = exactly(data)
    days = list(decided.groupby("date"))
    for date, rows in days if case in IN_FULL else days[::10]:
        held = dict(zip(rows["symbol"], rows["position"], strict=True))
        answers = agent.signal(read[read["date"] <= date], held)
        assert [answer.symbol for answer in answers] == rows["symbol"].tolist()
        assert [answer.target for answer in answers] == rows["target"].tolist()
        assert [answer.regime for answer in answers] == rows["regime"].tolist()
        assert [answer.position for answer in answers] == rows["position"].tolist()
        assert {answer.date for answer in answers} == {str(date.date())}


def test_an_evaluation_of_the_run_and_of_its_agent_are_bit_for_bit_the_same(many):
    study, folder, data = many
    study.evaluate(folder, "test")
    agent = Agent.load(folder)
    agent.evaluate(agent.segments(str(data), PERIODS["test"]), folder, "again")
    for kind in ("positions", "trades"):
        assert (folder / f"{kind}-test.csv").read_bytes() == (folder / f"{kind}-again.csv").read_bytes()
    results = [json.loads((folder / f"evaluation-{name}.json").read_text()) for name in ("test", "again")]
    for part in (results[0]["joint"], *results[0]["symbols"].values()):
        del part["fitted rule"]  # which needs the training period
    assert results[0] == results[1]
    frames = agent.backtest(str(data), *PERIODS["test"])
    assert list(frames) == ["A", "B B", "C"]
    for symbol, frame in frames.items():
        decided = exactly(folder / "positions-test.csv")
        assert frame["target"].tolist() == decided.loc[decided["symbol"] == symbol, "target"].tolist()


def test_a_backtest_may_begin_and_end_anywhere(finished, make_prices):
    _, folder, _ = finished
    agent, prices = Agent.load(folder), make_prices(300, start="2010-01-04", seed=5)
    whole = agent.backtest(prices)["own"]
    assert len(whole) == 300 - 21  # 20 log returns before the first decision, and its fill at the bar after it
    part = agent.backtest(prices, "2010-06-01", "2010-06-30")["own"]
    assert [str(day.date()) for day in part.index[[0, -1]]] == ["2010-06-01", "2010-06-30"]
    for refused in (("2010-06-01", "2015-01-01"), ("2009-01-01", None), ("June", None)):
        with pytest.raises(ValueError, match="period"):
            agent.backtest(prices, *refused)


def test_a_past_that_the_run_was_trained_on_is_not_needed(finished, make_prices):
    prices = make_prices(860)
    _, folder, _ = finished
    agent = Agent.load(folder)
    (whole,), (late,), (shortest,) = (agent.signal(prices.iloc[-bars:]) for bars in (860, 400, 60))
    # 400 bars later the beginning weighs 0.94^380 of the variance.
    assert late.target == pytest.approx(whole.target, abs=1e-6)
    assert late.observation == pytest.approx(whole.observation, abs=1e-6)
    assert not [sentence for sentence in late.warnings if "few" in sentence]
    assert shortest.observation[:20] == whole.observation[:20]
    assert any(
        sentence.startswith("60 bars are few: the EWMA volatility remembers 155") for sentence in shortest.warnings
    )


def test_what_comes_later_changes_nothing(finished, make_prices):
    prices = make_prices(860)
    _, folder, _ = finished
    agent = Agent.load(folder)
    other = prices.copy()
    other.loc[other.index[700:], ["open", "high", "low", "close"]] *= 1.5
    before = [frame["target"].iloc[: 700 - 20] for frame in (agent.backtest(p)["own"] for p in (prices, other))]
    assert before[0].tolist() == before[1].tolist()


def test_frames_files_and_folders_give_the_same(finished, tmp_path, make_prices):
    _, folder, data = finished
    agent = Agent.load(str(folder))
    frame = exactly(data)
    (tmp_path / "folder").mkdir()
    frame.to_parquet(tmp_path / "folder" / "own.parquet")
    expected = agent.signal(data)
    assert expected == agent.signal([str(data)]) == agent.signal(tmp_path / "folder") == agent.signal(frame)
    assert expected == agent.signal(frame.set_index("date")) == agent.signal(frame.rename(columns=str.title))
    unnamed = frame.set_index(pd.DatetimeIndex(frame["date"].to_numpy())).drop(columns="date")
    assert expected == agent.signal(unnamed)
    with pytest.raises(ValueError, match="lacks the column"):
        agent.signal(frame.drop(columns="close"))
    with pytest.raises(ValueError, match=r"row 3 after the header .*: close of own is not positive"):
        agent.signal(frame.assign(close=frame["close"].where(frame.index != 2, -1.0)))


def test_several_symbols_in_a_frame_are_one_account_as_in_a_file(many, tmp_path, make_prices):
    """
    A and B lack every other Monday in turn, so that of 10 bars each has 9, and the account has a row per business day.
    Of the 52 Mondays of a year each lacks 26.
    """
    agent = Agent.load(many[1])
    table = several(make_prices)[lambda table: table["symbol"] != "C"]
    day = pd.to_datetime(table["date"])
    week = day.dt.isocalendar().week.astype(int)
    lacks = (day.dt.day_of_week == 0) & (week % 2 == np.where(table["symbol"] == "A", 0, 1))
    table = table[~lacks]
    table.to_csv(tmp_path / "two.csv", index=False)
    of_file = agent.segments(tmp_path / "two.csv")
    of_frame = agent.segments(table)
    for one, other in zip(of_file, of_frame, strict=True):
        assert other.market.bars_per_year == one.market.bars_per_year
        assert other.market.account_rows_per_year == one.market.account_rows_per_year
        assert other.market.account_rows_per_year / other.market.bars_per_year == pytest.approx(10 / 9, rel=0.01)
    fridays = table[(table["symbol"] == "A") & (day[table.index].dt.day_of_week == 4)].assign(symbol="C")
    with pytest.raises(ValueError, match="one run needs bars of one length"):
        agent.segments(pd.concat([table, fridays]))


def test_the_frame_given_is_not_changed(finished, make_prices):
    _, folder, _ = finished
    frame = make_prices(300).rename(columns={"close": "Close"})
    before = frame.copy(deep=True)
    Agent.load(folder).signal(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_new_symbols_are_seen_as_the_only_one_or_as_the_one_named(finished, many, make_prices):
    one, many = Agent.load(finished[1]), Agent.load(many[1])
    new = make_prices(300, seed=9)
    (told,) = one.signal(new.assign(symbol="NEW"))
    (untold,) = one.signal(new)
    assert told.warnings[0] == "the run was not trained on NEW: scaled, and split into regimes, as own"
    assert told.observation == untold.observation
    assert not any("not trained on" in sentence for sentence in untold.warnings)
    with pytest.raises(ValueError, match=r"not trained on NEW: .*like=SYMBOL.*\(A, B B, C\)"):
        many.signal(new.assign(symbol="NEW"))
    with pytest.raises(ValueError, match="lacks the column symbol"):
        many.signal(new)
    with pytest.raises(ValueError, match=r"like=D is none of .*: A, B B, C"):
        many.signal(new.assign(symbol="NEW"), like="D")
    (as_b,), (b,) = (many.signal(new.assign(symbol=name), like="B B") for name in ("NEW", "B B"))
    assert as_b.observation == b.observation
    assert as_b.target == b.target
    assert not any("not trained on" in sentence for sentence in b.warnings)
    (as_c,) = many.signal(new.assign(symbol="NEW"), like="C")
    assert as_c.observation[:20] != as_b.observation[:20]


def test_the_observation_in_numpy(finished, make_prices):
    """Log returns and EWMA volatility, each less its training mean over its training std; index / 20; position."""
    prices = make_prices(860)
    _, folder, _ = finished
    new = make_prices(300, seed=3)
    (answer,) = Agent.load(folder).signal(new, 0.25)

    def features(frame):
        returns = np.diff(np.log(frame["close"].to_numpy()))
        variance, weight, volatility, decay = 0.0, 0.0, [], 0.94 ** (252 / 261)
        for r in returns:
            variance, weight = decay * variance + (1 - decay) * r**2, decay * weight + 1 - decay
            volatility.append(100 * np.sqrt(261 * variance / weight))
        return returns, np.array(volatility)

    returns, volatility = features(prices)
    inside = (prices["date"] >= PERIODS["train"][0]) & (prices["date"] <= PERIODS["train"][1])
    training = slice(19, int(inside.sum()) - 1)  # the first bar has no return, the next 19 no volatility
    own_returns, own_volatility = features(new)
    expected = [
        *((own_returns[-20:] - returns[training].mean()) / returns[training].std()),
        (own_volatility[-1] - volatility[training].mean()) / volatility[training].std(),
        (6.517 + 0.7027 * own_volatility[-1]) / 20,
        0.25,
    ]
    assert answer.observation == pytest.approx(expected, abs=2e-6)


def test_loading_leaves_the_callers_generators_alone_and_unpickles_nothing(finished, copied, monkeypatch):
    folder, data = copied, finished[2]

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle is read")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    (folder / "model.zip").unlink()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # SB3's generator
    Agent.load(folder).signal(data)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_a_compiled_runs_agent_needs_no_compiler(finished, copied, monkeypatch):
    folder, data = copied, finished[2]
    expected = Agent.load(folder).signal(data)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["algorithm"]["compile"] = True
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setitem(sys.modules, "quantile_critic.compiled", None)
    assert Agent.load(folder).signal(data) == expected


def test_the_best_model_or_the_last(copied):
    (copied / "best.json").write_text(json.dumps({"step": 128}))
    assert Agent.load(copied).step == 128
    assert Agent.load(copied, "last").step == 256


def torn(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def without_std(content):
    content["own"]["scaling"]["return_std"] = 0.0


def with_nan(content):
    content["own"]["scaling"]["volatility_mean"] = float("nan")


REFUSED = {
    "no folder": (lambda f: (f / "config.yaml").unlink(), "is no run folder: it has no config.yaml"),
    "no run": (lambda f: (f / "run.json").unlink(), "is no run folder: it has no run.json"),
    "an earlier version": (
        lambda f: (f / "scaling.json").unlink(),
        r"has no scaling.json.* train --resume .*, writes it",
    ),
    "torn": (lambda f: (f / "scaling.json").write_text('{"own": '), "scaling.json is torn"),
    "no list": (lambda f: (f / "scaling.json").write_text("[]"), "scaling.json is torn"),
    "empty": (lambda f: (f / "scaling.json").write_text("{}"), "scaling.json is torn"),
    "no numbers": (lambda f: torn(f, "scaling.json", lambda c: c["own"].pop("scaling")), "scaling.json is torn"),
    "no spread": (lambda f: torn(f, "scaling.json", without_std), "scaling.json is torn"),
    "not finite": (lambda f: torn(f, "scaling.json", with_nan), "scaling.json is torn"),
    "another game": (lambda f: torn(f, "run.json", lambda c: c.update(data={})), "was not trained on market data"),
    "other numbers": (lambda f: torn(f, "run.json", lambda c: c.update(data_version=1)), "was made by version"),
    "another key": (
        lambda f: (f / "config.yaml").write_text("market: {colour: red}"),
        "no configuration of this version",
    ),
    "no mapping": (lambda f: (f / "config.yaml").write_text("- a"), "no configuration of this version"),
    "no text": (lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "no checkpoint": (
        lambda f: [path.unlink() for path in f.glob("checkpoints/*/state.json")],
        "holds no checkpoint that can be used",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_hold_no_agent_are_refused_in_one_sentence(case, copied):
    change, sentence = REFUSED[case]
    change(copied)
    with pytest.raises(ValueError, match=sentence) as refusal:
        Agent.load(copied)
    assert "\n" not in str(refusal.value)


def test_the_folder_of_several_seeds_names_its_runs(tmp_path):
    (tmp_path / "config.yaml").write_text("seeds: 0-1")
    for seed in range(2):
        (tmp_path / f"seed-{seed}").mkdir()
    with pytest.raises(ValueError, match="name one of its runs: seed-0, seed-1"):
        Agent.load(tmp_path)


def test_resuming_an_earlier_run_writes_its_scaling_and_loading_it_does_not(finished, copied):
    kept = (copied / "scaling.json").read_bytes()
    (copied / "scaling.json").unlink()
    finished[0].load(copied)
    assert not (copied / "scaling.json").exists()
    finished[0].resume(copied, (copied / "config.yaml").read_text())
    assert (copied / "scaling.json").read_bytes() == kept


def test_bars_of_another_spacing_or_without_the_index_of_training_are_refused(tmp_path, make_prices):
    _, folder, _ = trained(tmp_path, make_prices(860).assign(vix=20.0 + np.arange(860) % 30), "own")
    agent = Agent.load(folder)
    new = make_prices(300)
    with pytest.raises(ValueError, match="no column volatility_index, which the run saw in training"):
        agent.signal(new)
    (answer,) = agent.signal(new.assign(vix=44.0))
    assert answer.observation[21] == pytest.approx(2.2)
    gap = np.where(np.arange(300) < 299, np.nan, 44.0)
    assert agent.signal(new.assign(vix=gap))[0].observation[21] == pytest.approx(2.2)
    with pytest.raises(ValueError, match="has no volatility_index for 1 of the bars"):
        agent.signal(new.assign(vix=gap[::-1]))
    with pytest.raises(ValueError, match="own has 8760 bars per year, and the run was trained on 261"):
        agent.signal(make_prices(300, frequency="h").assign(vix=44.0))


def test_an_index_that_training_did_not_see_is_not_used(finished, make_prices):
    _, folder, _ = finished
    agent = Agent.load(folder)
    assert agent.signal(make_prices(300).assign(vix=44.0)) == agent.signal(make_prices(300))


def test_a_market_run_from_python_has_defaults_for_everything(tmp_path):
    study = Study(RunConfig(total_timesteps=64, n_envs=1, out=str(tmp_path), progress_bar=False))
    assert study.seed is None
    assert (study.model.gamma, study.model.n_steps) == (0.99, 2048)
    assert Study(algorithm={"gamma": 0.9}).model.gamma == 0.9
    with pytest.raises(ValueError, match=r"algorithm\.gamma must be within"):
        Study(algorithm={"gamma": 1.5})
    with pytest.raises(ValueError, match="classes by name"):
        Configured(RunConfig(), MarketConfig(), {"policy": object()}).text()


def test_a_run_from_python_is_evaluated_by_the_command_line(finished, copied):
    study, folder = finished[0], copied
    study.evaluate(folder, "validation")
    before = (folder / "evaluation-validation.json").read_bytes()
    main(["evaluate", str(folder), "--period", "validation"])
    assert (folder / "evaluation-validation.json").read_bytes() == before


def test_the_package_exports_its_public_names_and_imports_them_when_asked():
    assert market_regimes.Study is StudyOfModule
    assert set(market_regimes.__all__) == set(market_regimes._WHERE)
    for name in market_regimes.__all__:
        assert getattr(market_regimes, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Broker'"):
        _ = market_regimes.Broker
    code = "import sys, market_regimes.config; assert not {'torch', 'pandas', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_positions_of_a_ruined_agent_end_with_its_ruin(make_prices, tmp_path):
    trading = TradingCosts(position_low=5.0, position_high=10.0)
    _, folder, _ = trained(tmp_path, make_prices(860), "own", market=dict(trading=trading))
    crash = make_prices(300, seed=1)
    crash.loc[150:, ["open", "high", "low", "close"]] *= 0.5  # at 5 times the equity a fall by half is ruin
    agent = Agent.load(folder)
    segments = agent.segments(crash)
    frames = agent.backtest(crash)
    table = positions(frames, segments)
    assert table["date"].iloc[-1] == crash["date"][149]
    assert len(table) == 150 - 20
    assert (table["target"] >= 5).all()
    assert table["position"].iloc[0] == 0.0
    assert (table["position"].iloc[1:] > 1).all()


ONE_UPDATE = dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)


@pytest.fixture
def home(tmp_path, make_prices, monkeypatch):
    """The working folder and the user's home, with a file and a folder of files."""
    make_prices(400).to_csv(tmp_path / "p.csv", index=False)
    (tmp_path / "both").mkdir()
    for i, name in enumerate("AB"):
        make_prices(400, seed=i).to_csv(tmp_path / "both" / f"{name}.csv", index=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


RUINOUS = TradingCosts(position_low=5.0, position_high=5.5)


@pytest.fixture(scope="module")
def leveraged(tmp_path_factory, make_prices):
    """Runs whose agents always hold 5 or more, and prices that fall by a quarter on their 300th bar."""
    place = tmp_path_factory.mktemp("ruin")
    prices = make_prices(400)
    prices.to_csv(place / "p.csv", index=False)
    folders = {}
    for policy, keys in (("MlpPolicy", {}), ("MlpLstmPolicy", {"policy_kwargs": {"lstm_hidden_size": 8}})):
        run = RunConfig(total_timesteps=32, n_envs=2, out=str(place), name=policy, progress_bar=False)
        market = MarketConfig(str(place / "p.csv"), trading=RUINOUS)
        folders[policy] = Study(run, market, {**ONE_UPDATE, "policy": policy, **keys}).start()
    fallen = prices.copy()
    fallen.loc[300:, ["open", "high", "low", "close"]] *= 0.75
    return folders, fallen


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("bars", [300, 301, 302, 350, 400])
def test_a_signal_that_is_played_holds_what_the_evaluation_holds_after_ruin(leveraged, policy, bars):
    folders, prices = leveraged
    agent, cut = Agent.load(folders[policy]), prices.iloc[:bars]
    first = "2000-12-01"
    frame = agent.backtest(prices, first)["p"]
    now = datetime(2030, 1, 1)
    (signal,) = agent.signal(cut, first=first, now=now)
    ruined = bars > 300
    if ruined:
        assert (signal.position, signal.target, signal.trade) == (0.0, 0.0, 0.0)
        assert (frame.loc[prices["date"][301] :, "position"] == 0).all()
    else:
        row = frame.loc[prices["date"][bars - 1]]
        assert signal.position == row["position"] > 4
        assert signal.target >= 5
    day = str(prices["date"][300].date())
    said = [sentence for sentence in signal.warnings if "is ruined on" in sentence]
    assert said == (
        [f"the account that is played from {first} on is ruined on {day}: it holds nothing after that"] * ruined
    )

    # A position that is given is that of another account.
    (given,) = agent.signal(cut, position=5.0, first=first, now=now)
    assert (given.position, given.target >= 5) == (5.0, True)


def test_symbols_are_ruined_each_by_itself(tmp_path, make_prices):
    tables = [make_prices(400, seed=i).assign(symbol=name) for i, name in enumerate("AB")]
    pd.concat(tables).to_csv(tmp_path / "p.csv", index=False)
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(tmp_path), name="run", progress_bar=False)
    folder = Study(run, MarketConfig(str(tmp_path / "p.csv"), trading=RUINOUS), ONE_UPDATE).start()
    tables[0].loc[300:, ["open", "high", "low", "close"]] *= 0.75
    agent, prices = Agent.load(folder), pd.concat(tables)
    one, two = agent.signal(prices, first="2001-02-01")
    frames = agent.backtest(prices, "2001-02-01")
    assert (one.position, two.position) == (frames["A"]["position"].iloc[-1], frames["B"]["position"].iloc[-1])
    assert one.target == 0 < two.target
    assert two.position > 0


@pytest.mark.parametrize(
    ("prices", "got"),
    [
        (pd.Series([0.264, 0.3]), 'Series, of which to_frame\\("close"\\) makes a frame of closes'),
        (np.ones((100, 4)), "ndarray"),
        ({"A": pd.DataFrame()}, "dict"),
        ([pd.DataFrame()], "list"),
        ([0.264], "list"),
        (["p.csv", 3], "list"),
        ([], "list"),
        (None, "NoneType"),
        (0.264, "float"),
        (b"p.csv", "bytes"),
    ],
)
def test_prices_of_another_kind_are_refused_in_the_words_of_python(home, prices, got):
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(home), name="run", progress_bar=False)
    agent = Agent.load(Study(run, MarketConfig("p.csv"), ONE_UPDATE).start())
    for method in (agent.signal, agent.backtest):
        with pytest.raises(ValueError, match=f"^prices must be a pandas frame, a file, .* got {got}$"):
            method(prices)


def test_each_caller_reads_the_names_that_it_gave(home, capsys):
    """Of Python its arguments, of the command line its flags."""
    main([*QUICK_FLAGS, "--market.data=both", "--run.name=x"])
    agent, folder = Agent.load("runs/x"), "runs/x"
    cases = [
        (dict(prices="p.csv", like="C"), ["--data", "p.csv", "--like", "C"], "{like}=C is none of the symbols"),
        (dict(prices="p.csv"), ["--data", "p.csv"], "{like}=SYMBOL says as which of its symbols"),
        (dict(prices="both", position=0.5), ["--data", "both", "--position", "0.5"], "{position}"),
        (dict(prices="both", first="today"), ["--data", "both", "--from", "today"], "{first} and {last}: a period"),
        (dict(prices="both/x.pdf"), ["--data", "both/x.pdf"], "{prices}: both/x.pdf is no folder, does not end in"),
        (dict(prices="both", zone="Mars"), ["--data", "both", "--zone", "Mars"], "{zone}=Mars is no zone"),
    ]
    words = {name: name for name in ("like", "first", "last", "prices", "zone")}
    words["position"] = "position=dict(SYMBOL=X)"
    flags = dict(
        like="--like", position="--position SYMBOL=X", first="--from", last="--to", prices="--data", zone="--zone"
    )
    for keywords, arguments, sentence in cases:
        with pytest.raises(ValueError) as refusal:  # noqa: PT011  # its sentence is looked at below
            agent.signal(**keywords)
        assert sentence.format(**words) in str(refusal.value)
        assert "--" not in str(refusal.value)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["signal", folder, *arguments])
        assert sentence.format(**flags) in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^first and last: a period"):
        agent.backtest("both", "2001-01-01", "soon")


def test_a_signal_needs_no_volume_where_only_the_impact_of_orders_does(tmp_path, make_prices):
    prices = make_prices(400)
    prices.to_csv(tmp_path / "prices.csv", index=False)
    trading = TradingCosts(start_equity=1e4, impact_coefficient=1.0)
    settings = RunConfig(total_timesteps=64, n_envs=2, out=str(tmp_path), name="impact", progress_bar=False)
    algorithm = dict(n_steps=32, batch_size=32, n_epochs=1, seed=0)
    folder = Study(settings, MarketConfig(str(tmp_path / "prices.csv"), trading=trading), algorithm).start()
    agent = Agent.load(folder)
    (answer,) = agent.signal(prices.drop(columns="volume"), 0.5)
    assert answer.target == agent.signal(prices, 0.5)[0].target
    assert len(agent.backtest(prices)["prices"]) == 400 - 21
    with pytest.raises(ValueError, match=r"has no column volume, which market.trading.impact_coefficient names"):
        agent.backtest(prices.drop(columns="volume"))


@pytest.fixture(scope="module")
def remembering(tmp_path_factory, make_prices):
    """A recurrent run on a feature without its first 60 values and an own rule without its first 100."""
    folder = tmp_path_factory.mktemp("recurrent")
    table = with_columns(make_prices(600))
    table["macro"] = table["close"].pct_change(60)
    table.loc[:99, "mine"] = np.nan
    table.to_csv(folder / "prices.csv", index=False)
    config = MarketConfig(
        str(folder / "prices.csv"),
        train=("2000-06-01", "2001-06-29"),
        validation=("2001-07-02", "2001-10-31"),
        test=("2001-11-01", "2002-04-19"),
        features=["macro"],
        benchmark_positions="mine",
        episode_bars=60,
        trading=TradingCosts(start_equity=1e4, fee_per_share=0.01),
    )
    settings = RunConfig(total_timesteps=64, n_envs=2, out=str(folder), name="x", progress_bar=False)
    algorithm = dict(policy="MlpLstmPolicy", n_steps=16, batch_size=32, n_epochs=1, policy_kwargs=SMALL_LSTM)
    return Study(settings, config, algorithm).start(), table


SMALL_LSTM = dict(lstm_hidden_size=4)


def test_played_bars_begin_where_all_features_are_known_and_need_no_own_rule(remembering):
    """The feature is known from bar 60 on, so the first return is that of bar 61."""
    folder, table = remembering
    agent = Agent.load(folder)
    (whole,), (dated,) = agent.signal(table), agent.signal(table, first=str(table["date"][61].date()))
    assert (whole.target, whole.position, whole.observation) == (dated.target, dated.position, dated.observation)
    frame = agent.backtest(table)["prices"]
    assert frame.index[0] == table["date"][61]
    with pytest.raises(ValueError, match="macro of prices has no value yet: begin the period later, remove the rows"):
        agent.signal(table, first=str(table["date"][60].date()))
    with pytest.raises(ValueError, match=r"mine of prices is missing, and market\.benchmark_positions trades"):
        agent.segments(table, (str(table["date"][61].date()), None))


def test_a_signal_at_the_last_bar_alone_asks_for_no_cost_of_orders_before(tmp_path, make_prices):
    """At a price of ten cents a fee of 1 per share takes all, but no order is filled."""
    table = make_prices(600)
    table.to_csv(tmp_path / "own.csv", index=False)
    trading = TradingCosts(start_equity=1e4, fee_per_share=1.0)
    settings = RunConfig(total_timesteps=64, n_envs=2, out=str(tmp_path), name="fees", progress_bar=False)
    days = dict(train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"))
    config = MarketConfig(
        str(tmp_path / "own.csv"), test=("2001-11-01", "2002-04-19"), trading=trading, episode_bars=60, **days
    )
    folder = Study(settings, config, dict(n_steps=16, batch_size=32, n_epochs=1)).start()
    table.loc[:300, ["open", "high", "low", "close"]] /= 1e3
    agent = Agent.load(folder)
    assert np.isfinite(agent.signal(table)[0].target)
    with pytest.raises(ValueError, match="fee_per_share=1 takes all equity"):
        agent.backtest(table)


THREE_PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2003-04-18")
)


SYMBOLS = ("A", "B", "C")


@pytest.fixture(scope="module")
def run_of_three(tmp_path_factory, make_prices):
    """A run of one update on three symbols, and their bars."""
    out = tmp_path_factory.mktemp("runs")
    table = pd.concat([make_prices(860, seed=i).assign(symbol=name) for i, name in enumerate(SYMBOLS)])
    table.to_csv(out / "prices.csv", index=False)
    settings = RunConfig(total_timesteps=128, n_envs=2, eval_every=128, out=str(out), name="run", progress_bar=False)
    market = MarketConfig(str(out / "prices.csv"), episode_bars=60, **THREE_PERIODS)
    study = Study(settings, market, dict(seed=0, n_steps=64, batch_size=64, n_epochs=1, learning_rate=0.01))
    return study.start(), table


def test_an_agent_asked_for_several_symbols_answers_for_each_as_if_it_were_alone(run_of_three):
    folder, table = run_of_three
    agent = Agent.load(folder)
    held = {"A": 0.0, "B": 0.4, "C": 0.9}
    together = agent.signal(table, held)
    assert len({signal.cvar for signal in together}) == 3
    for signal in together:
        (alone,) = agent.signal(table[table["symbol"] == signal.symbol], {signal.symbol: held[signal.symbol]})
        assert (signal.symbol, signal.regime, signal.date) == (alone.symbol, alone.regime, alone.date)
        assert signal.cvar == pytest.approx(alone.cvar, rel=1e-5)
        assert signal.quantiles == pytest.approx(alone.quantiles, rel=1e-5)
        assert signal.observation == pytest.approx(alone.observation)
        assert (signal.position, signal.target) == pytest.approx((alone.position, alone.target), rel=1e-5)


LIMITS = PortfolioConfig(
    cash="shared", gross=0.8, weight_max=0.4, groups={"A": "x", "B": "x"}, group_max={"x": 0.5}, volatility_limit=15.0
)


@pytest.fixture(scope="module")
def sharing(tmp_path_factory, make_prices):
    """A run of one update on three symbols that share their cash under limits, and their bars."""
    out = tmp_path_factory.mktemp("runs")
    table = pd.concat([make_prices(860, seed=i).assign(symbol=name) for i, name in enumerate(SYMBOLS)])
    table.to_csv(out / "prices.csv", index=False)
    settings = RunConfig(total_timesteps=128, n_envs=2, eval_every=128, out=str(out), name="run", progress_bar=False)
    market = MarketConfig(str(out / "prices.csv"), episode_bars=60, portfolio=LIMITS, **THREE_PERIODS)
    study = Study(settings, market, dict(seed=0, n_steps=64, batch_size=64, n_epochs=1, learning_rate=0.01))
    return study.start(), table


@pytest.mark.parametrize("last", [400, 401, 555, 700])
def test_orders_have_the_weights_that_an_evaluation_of_the_same_bars_decides(sharing, last):
    folder, table = sharing
    agent = Agent.load(folder)
    days = table["date"].drop_duplicates().to_numpy()

    # The evaluation sees one bar more, which fills the orders.
    frames = agent.backtest(table[table["date"].isin(days[: last + 1])])
    decided = {symbol: frame["target"].iloc[-1] / len(SYMBOLS) for symbol, frame in frames.items()}
    orders = agent.portfolio(table[table["date"].isin(days[:last])], equity=100_000.0)

    assert orders.table["target"].to_dict() == pytest.approx(decided, rel=1e-12, abs=1e-15)
    assert orders.table["target"].abs().sum() <= 0.8 + 1e-9
    assert orders.table["target"].max() > 0


def test_orders_of_a_symbol_whose_bars_end_early_cannot_be_priced(sharing):
    folder, table = sharing
    agent = Agent.load(folder)
    days = table["date"].drop_duplicates().to_numpy()
    shorter = table[(table["symbol"] != "C") | table["date"].isin(days[:-3])]

    orders = agent.portfolio(shorter, equity=1e5)
    assert orders.table.loc["C", "order"] == 0
    with pytest.raises(ValueError, match="C cannot be priced"):
        agent.portfolio(shorter, equity=1e5, positions={"C": 10.0})


def test_a_symbol_that_the_training_left_out_gets_no_order_and_is_named(sharing, make_prices, capsys):
    folder, table = sharing
    agent = Agent.load(folder)
    listed_late = make_prices(860, seed=9).assign(symbol="NEW").iloc[500:]
    with_new = pd.concat([table, listed_late])

    orders = agent.portfolio(with_new, equity=1e5)
    said = capsys.readouterr().err
    expected = agent.portfolio(table, equity=1e5)
    alike = agent.portfolio(with_new, equity=1e5, like="A")

    assert said.startswith("NEW is left out: ")
    assert "--like" in said
    pd.testing.assert_frame_equal(orders.table, expected.table)
    assert "NEW" in alike.table.index
    with pytest.raises(ValueError, match="NEW"):
        agent.portfolio(with_new, equity=1e5, positions={"NEW": 3.0})
    with pytest.raises(ValueError, match="was not trained on NEW"):
        agent.portfolio(listed_late, equity=1e5)


def test_orders_count_in_shares_and_add_up_to_the_cash(sharing, tmp_path):
    folder, table = sharing
    held = tmp_path / "held.csv"
    held.write_text("symbol,shares\nA,20\nB,5\n")
    orders = Agent.load(folder).portfolio(table, equity=100_000.0, positions=held, lots=1.0)

    rows = orders.table
    assert (rows["order"] % 1 == 0).all()
    assert rows["held"].tolist() == [20.0, 5.0, 0.0]
    worth = (rows["shares"] * rows["price"]).sum()
    assert orders.cash_after + worth + orders.cost == pytest.approx(100_000.0)
    assert orders.cost == pytest.approx(1e-4 * (orders.bought + orders.sold))


def test_separate_accounts_of_several_symbols_give_no_order_list(run_of_three):
    folder, table = run_of_three
    with pytest.raises(ValueError, match=r"market\.portfolio\.cash=shared"):
        Agent.load(folder).portfolio(table, equity=1e5)


def test_a_run_records_its_portfolio_and_writes_its_account(sharing, tmp_path):
    folder, table = sharing
    agent = Agent.load(folder)
    assert agent.configured.market.portfolio == LIMITS

    result = agent.evaluate(agent.segments(table, ("2001-01-01", "2002-12-31")), tmp_path, "x")

    # The account's own arithmetic: cash is what no symbol holds, and the limits hold at every fill.
    account = pd.read_csv(tmp_path / "account-x.csv")
    positions = pd.read_csv(tmp_path / "positions-x.csv")
    np.testing.assert_allclose(account["cash"], 1 - account["net"], atol=1e-12)
    of_days = positions.pivot_table(index="date", columns="symbol", values="weight")
    assert (of_days.sum(axis=1) <= 0.8 + 1e-9).all()
    assert (of_days[["A", "B"]].sum(axis=1) <= 0.5 + 1e-9).all()
    assert account["equity"].iloc[-1] == pytest.approx((1 + account["return"]).prod())
    assert result["account"]["rows"] == len(account)

    # Growth by hand; the prices have 261 bars a year.
    growth = np.log(account["equity"].iloc[-1]) / (len(account) / 261)
    assert result["joint"]["agent"]["growth_per_year"] == pytest.approx(growth, rel=1e-3)


def test_orders_of_what_is_held_bring_about_each_row_of_the_evaluation(sharing):
    """Filled at the close, rarely rebalanced, within a band: where the account waits, the list has no order."""
    folder, table = sharing
    of_run = Agent.load(folder)
    limits = PortfolioConfig(
        cash="shared", gross=0.8, weight_max=0.4, no_trade_band=0.002, rebalance_every=3, minimum_holding=4
    )
    trading = TradingCosts(fee_bp=5.0, fill="close")
    market = replace(of_run.configured.market, portfolio=limits, trading=trading)
    agent = Agent(of_run.model, replace(of_run.configured, market=market), of_run.trained, of_run.step)

    # The account over all bars.
    segments = agent.segments(table)
    bench = Bench.of(segments, trading)
    played = in_one_account(bench, agent.rule(), limits)
    closes = np.array([segment.market.close for segment in segments])
    first = segments[0].first
    days = table["date"].drop_duplicates().to_numpy()

    traded = []
    for row in range(200, 212):
        equity = 1e5 * played.account["equity"].iloc[row - 1]
        price = closes[:, first + row]
        held = played.closing_weights.iloc[row - 1].to_numpy() * equity / price
        bars = table[table["date"].isin(days[: first + row + 1])]
        orders = agent.portfolio(bars, equity, dict(zip(SYMBOLS, held, strict=True)))

        np.testing.assert_allclose(orders.table["target"], played.weights.iloc[row], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(orders.table["value"] / equity, played.trades.iloc[row], atol=1e-9)
        traded.append(bool((played.trades.iloc[row] != 0).any()))
    assert 0 < sum(traded) < len(traded)
