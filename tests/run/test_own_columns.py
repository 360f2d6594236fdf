"""A run whose file has columns of the user's own, from the command line: training, evaluation, signal, resuming."""

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.market.scaling import FeatureScaling
from market_regimes.market.segments import Segment
from market_regimes.run.signal import outside_training
from train_model_multi_patch import main

ARGUMENTS = ["--run.total_timesteps=128", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"]
ARGUMENTS += ["--algorithm.n_steps=32", "--algorithm.batch_size=32", "--algorithm.n_epochs=1"]
ARGUMENTS += ["--market.train=[2000-01-03,2001-06-29]", "--market.validation=[2001-07-02,2001-10-31]"]
ARGUMENTS += ["--market.test=[2001-11-01,2002-04-19]", "--market.features=[macro,volume]"]
ARGUMENTS += ["--market.benchmark_positions=mine", "--market.trading.start_equity=10000", "--market.trading.min_fee=1"]


def table_of(make_prices):
    rng = np.random.default_rng(2)
    columns = dict(
        macro=rng.uniform(1, 2, 600), other=1.0, volume=rng.integers(50, 99, 600), mine=rng.uniform(0, 1, 600)
    )
    return make_prices(600).assign(**columns)


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_prices):
    folder = tmp_path_factory.mktemp("own")
    table_of(make_prices).to_csv(folder / "prices.csv", index=False)
    main([*ARGUMENTS, f"--market.data={folder / 'prices.csv'}", f"--run.out={folder}", "--run.name=x"])
    return folder / "x", folder / "prices.csv"


def refused(capsys, *arguments):
    with pytest.raises(SystemExit):
        main([str(argument) for argument in arguments])
    return capsys.readouterr().err


def test_a_run_is_resumed_unless_a_feature_changed(run, tmp_path, make_prices, capsys):
    folder, _ = run
    changed = table_of(make_prices)
    changed["other"] = 5.0
    changed.to_csv(tmp_path / "prices.csv", index=False)
    main(["train", "--resume", str(folder), f"--market.data={tmp_path / 'prices.csv'}"])
    shown = capsys.readouterr().out
    assert "observed besides prices: macro, volume (log change); known at the close of their row\n" in shown
    assert "own rule: targets of mine, each known at the close of its row\n" in shown
    changed.loc[100, "macro"] = 1.5
    changed.to_csv(tmp_path / "prices.csv", index=False)
    error = refused(capsys, "train", "--resume", folder, f"--market.data={tmp_path / 'prices.csv'}")
    assert "bars of prices changed in 2000-05;" in error
    assert "was started with market.features=" in refused(
        capsys, "train", "--resume", folder, "--market.features=[macro]"
    )


def test_evaluate_and_signal_read_the_features_of_other_files(run, tmp_path, make_prices, capsys):
    folder, _ = run
    other = table_of(make_prices).assign(other=2.0)
    other.to_csv(tmp_path / "other.csv", index=False)
    main(["evaluate", str(folder), "--data", str(tmp_path / "other.csv"), "--from", "2001-11-01", "--to", "2002-04-19"])
    one, two = (folder / f"positions-{name}.csv" for name in ("test", "other-2001-11-01-to-2002-04-19"))
    assert one.read_text() == two.read_text().replace(",other,", ",prices,")
    assert " has no numbers in mine" not in capsys.readouterr().out
    other.drop(columns="mine").to_csv(tmp_path / "other.csv", index=False)
    main(["evaluate", str(folder), "--data", str(tmp_path / "other.csv"), "--from", "2001-11-01"])
    assert f"\n{tmp_path / 'other.csv'} has no numbers in mine: the own rule is left out\n" in capsys.readouterr().out
    joint = json.loads((folder / "evaluation-other-2001-11-01-to-2002-04-19.json").read_text())["joint"]
    assert "own rule" not in joint
    assert "own rule" in json.loads((folder / "evaluation-test.json").read_text())["joint"]
    main(["signal", str(folder), "--data", str(tmp_path / "other.csv"), "--json", "--observation"])
    (answer,) = json.loads(capsys.readouterr().out)
    scaling = json.loads((folder / "scaling.json").read_text())["prices"]["scaling"]["features"]
    expected = [
        (other["macro"].iloc[-1] - scaling["macro"]["mean"]) / scaling["macro"]["std"],
        (np.log(other["volume"]).diff().iloc[-1] - scaling["volume"]["mean"]) / scaling["volume"]["std"],
    ]
    assert len(answer["observation"]) == 25
    assert answer["observation"][22:24] == pytest.approx(expected, rel=1e-5)
    other.drop(columns="macro").to_csv(tmp_path / "other.csv", index=False)
    for command in ("evaluate", "signal"):
        error = refused(capsys, command, folder, "--data", tmp_path / "other.csv")
        assert "other.csv has no column macro, which market.features names: it has date, open" in error


def test_a_feature_outside_what_training_saw_is_warned_of(run, make_prices):
    agent, table = Agent.load(run[0]), table_of(make_prices)[:390]  # the training period ends on the last of them
    low, high = table["macro"][20:].min(), table["macro"][20:].max()

    def warnings(macro):
        changed = table.assign(macro=table["macro"].where(table.index < 389, macro))
        (signal,) = agent.signal(changed, now=datetime(2001, 6, 30))
        return signal.warnings

    assert warnings(low) == warnings(high) == []
    span = f"lies outside the {low:.6g} to {high:.6g} that training saw"
    assert warnings(3.25) == [f"the feature macro of 2001-06-29, 3.25, {span}"]
    assert warnings(-0.5) == [f"the feature macro of 2001-06-29, -0.5, {span}"]


def test_ranges_of_other_symbols_are_compared_as_they_are_scaled(run):
    """Another symbol saw 4 to 20, about its mean of 10 and in units of 2: -3 to 5 as the own one is scaled."""
    agent = Agent.load(run[0])
    (segment,) = agent.segments(run[1])
    known = agent.trained["prices"]

    def sentences(value, *scalings):
        features = {**segment.market.features, "macro": np.full(len(segment.market.close), value)}
        trained = {
            str(i): replace(
                known, scaling=replace(known.scaling, features={**known.scaling.features, "macro": scaling})
            )
            for i, scaling in enumerate(scalings)
        }
        seen = Segment(replace(segment.market, features=features), segment.period, trained["0"].scaling)
        return [text for text in outside_training(seen, trained) if "macro" in text]

    own, other = FeatureScaling(0.0, 1.0, (-1.0, 1.0)), FeatureScaling(10.0, 2.0, (4.0, 20.0))
    assert sentences(1.0, own) == sentences(4.999, own, other) == sentences(-2.999, own, other) == []
    assert sentences(5.001, own, other) == [
        "the feature macro of 2002-04-19, 5.001, lies outside the -3 to 5 that training saw"
    ]
    assert sentences(1.001, own) == [
        "the feature macro of 2002-04-19, 1.001, lies outside the -1 to 1 that training saw"
    ]


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
    table = table_of(make_prices)
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
    algorithm = dict(policy="MlpLstmPolicy", n_steps=16, batch_size=32, n_epochs=1, policy_kwargs=LSTM)
    return Study(settings, config, algorithm).start(), table


LSTM = dict(lstm_hidden_size=4)


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


def test_the_volume_is_no_target_position():
    with pytest.raises(ValueError, match="benchmark_positions=volume: the volume of a bar is no target position"):
        MarketConfig(benchmark_positions="volume")
