"""
What to hold after the last bar, as the command line says it. Oracles: numpy in float64 on the policy's own weights, the
positions of an evaluation, figures worked by hand.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import RUN_OF_PRICES, train_with_columns, with_columns

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.market.environment import MarketCore
from market_regimes.market.market import Market
from market_regimes.market.scaling import FeatureScaling
from market_regimes.market.segment import Segment
from market_regimes.run.signal import (
    LastDecision,
    at_last_bar,
    outside_training,
    position_of,
    positions_held,
    replayed,
    signals_of,
)
from train_model_multi_patch import main

ROOT = Path(__file__).parents[2]


def answer(capsys, *arguments):
    capsys.readouterr()
    main(["signal", *map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert shown.err == ""
    return json.loads(shown.out)


def test_a_row_appended_gives_tomorrows_position_and_it_is_the_policys(run_of_prices, tmp_path, capsys):
    """By hand: two tanh layers of 64 on the printed observation, and the mean action clipped to 0 and 1."""
    folder, data = run_of_prices
    own = tmp_path / "prices.csv"
    own.write_text(data.read_text() + "2002-04-22,100.5,101.9,99.1,101.25,1000\n")
    ((entry),) = answer(capsys, folder, "--data", own, "--position", "0.25", "--observation")
    assert list(entry) == [
        *(
            "symbol",
            "date",
            "regime",
            "position",
            "target",
            "trade",
            "fill",
            "quantiles",
            "cvar",
            "warnings",
            "observation",
        )
    ]
    assert (entry["symbol"], entry["date"], entry["position"]) == ("prices", "2002-04-22", 0.25)
    closes = pd.read_csv(own)["close"].to_numpy()
    scaling = json.loads((folder / "scaling.json").read_text())["prices"]["scaling"]
    last = (np.log(closes[-1] / closes[-2]) - scaling["return_mean"]) / scaling["return_std"]
    assert entry["observation"][19] == pytest.approx(last, rel=1e-5)
    weights = {k: v.double().numpy() for k, v in Agent.load(folder).model.policy.state_dict().items()}
    hidden = np.array(entry["observation"])
    for layer in (0, 2):
        name = f"mlp_extractor.policy_net.{layer}"
        hidden = np.tanh(weights[f"{name}.weight"] @ hidden + weights[f"{name}.bias"])
    action = weights["action_net.weight"] @ hidden + weights["action_net.bias"]
    assert entry["target"] == pytest.approx(float(np.clip(action[0], 0, 1)), abs=1e-6)
    assert entry["trade"] == pytest.approx(entry["target"] - 0.25)


def test_the_command_line_says_what_an_evaluation_decided(run_of_prices, tmp_path, capsys):
    folder, data = run_of_prices
    decided = pd.read_csv(folder / "positions-test.csv", dtype=str)
    assert list(decided) == ["date", "symbol", "position", "target", "regime", "volatility_index"]
    assert decided["date"].iloc[0] == "2001-10-31"
    assert decided["date"].iloc[-1] == "2002-04-18"
    lines = data.read_text().splitlines(keepends=True)
    for row in decided.iloc[[0, 1, 50, -1]].itertuples():
        cut = tmp_path / "prices.csv"
        cut.write_text("".join([lines[0], *(line for line in lines[1:] if line[:10] <= row.date)]))
        (entry,) = answer(capsys, folder, "--data", cut, "--position", row.position, "--observation")
        assert entry["date"] == row.date
        assert 20 * entry["observation"][21] == pytest.approx(float(row.volatility_index), rel=1e-6)
        assert (entry["target"], entry["regime"]) == (float(row.target), row.regime)
        assert entry["position"] == float(row.position)


class Critic:
    """Predicts what it is given, in the wrong order."""

    carries_states = False

    def __init__(self, quantiles):
        self.policy, self.quantiles = self, quantiles

    def predict_quantiles(self, observations):
        return torch.tensor(self.quantiles, dtype=torch.float32)[:, torch.randperm(len(self.quantiles[0]))]

    quantiles_of_episode = predict_quantiles


def test_quantiles_lie_on_straight_lines_between_the_midpoints(run_of_prices):
    """Of ten quantiles 0, 1, ..., 9 the midpoints are 0.05, 0.15, ..., 0.95; of two, 0.25 and 0.75."""
    markets = [segment.market for segment in Agent.load(run_of_prices[0]).segments(run_of_prices[1])]
    last = LastDecision(np.array([0.5]), np.array([0.75]), [np.zeros((1, 23))], np.array([-1]))
    for quantiles, expected, worst in (
        ([list(range(10))], [0.0, 4.5, 9.0], 0.0),
        ([[2.0, 4.0]], [2.0, 3.0, 4.0], 2.0),
        ([[1.0]], [1.0, 1.0, 1.0], 1.0),
        ([[*range(20)]], [0.5, 9.5, 18.5], 0.0),  # 0.05 lies in the middle of 0.025 and 0.075
        ([[*range(-40, 0)]], [-38.5, -20.5, -2.5], -39.5),  # the mean of -40 and -39, the worst two of 40
    ):
        (signal,) = signals_of(Critic(quantiles), markets, TradingCosts(), last, [[]])
        assert list(signal.quantiles) == ["0.05", "0.5", "0.95"]
        assert list(signal.quantiles.values()) == pytest.approx(expected)
        assert (signal.cvar, signal.target, signal.trade) == (pytest.approx(worst), 0.75, 0.25)


def test_the_agents_stand_at_their_last_bars(run_of_prices):
    """Asked alone or after all bars before, a rule sees the same but the position; it holds what it decided last."""
    agent = Agent.load(run_of_prices[0])
    segments = agent.segments(run_of_prices[1])
    whole = MarketCore(segments, 1, TradingCosts(), episode_bars=None)
    while not whole.step(np.array([0.5])).truncated[0]:
        pass
    for decide, held, expected in (
        (at_last_bar, 0.25, 0.25),
        (at_last_bar, np.nan, 0.0),
        (replayed, 0.25, 0.25),
        (replayed, np.nan, whole.position[0]),
    ):
        core, known = MarketCore(segments, 1, TradingCosts(), episode_bars=None), []

        def rule(at, known=known):
            known.append(at)
            return np.array([0.5])

        last = decide(core, np.array([held]), rule)
        assert (known[-1].bar.tolist(), known[-1].position.tolist()) == ([599], [expected])
        assert last.observations[0][-1].tolist() == known[-1].observations[0].tolist()
        assert known[-1].observations[0, :-1].tolist() == whole.observations()[0, :-1].tolist()
        assert (last.held.tolist(), last.target.tolist()) == ([expected], [0.5])
        assert len(known) == len(last.observations[0]) == (1 if decide is at_last_bar else 580)


@pytest.mark.parametrize(
    ("texts", "position"),
    [
        ([], {}),
        (["0.5"], 0.5),
        (["-0.25"], -0.25),
        (["A=0.5"], {"A": 0.5}),
        (["A=B=1", "S&P 500=-1"], {"A=B": 1, "S&P 500": -1}),
    ],
)
def test_positions_are_written_as_a_number_or_by_symbol(texts, position):
    assert position_of(texts) == position


@pytest.mark.parametrize("texts", [["half"], ["0.5", "0.5"], ["A=half"], ["A=1", "A=2"], ["A=1", "0.5"], [""]])
def test_positions_written_otherwise_are_refused(texts):
    with pytest.raises(ValueError, match="--position"):
        position_of(texts)


def test_positions_held_are_those_of_the_symbols():
    assert positions_held(0.0, ["A", "B"]).tolist() == [0, 0]
    assert positions_held(0.5, ["A"]).tolist() == [0.5]
    np.testing.assert_array_equal(positions_held({"B": 0.5}, ["A", "B"]), [np.nan, 0.5])
    np.testing.assert_array_equal(positions_held(None, ["A", "B"]), [np.nan, np.nan])
    for position, sentence in (
        (0.5, "SYMBOL=X"),
        ({"C": 1.0}, "C=1: the bars are of A, B"),
        ({"A": float("nan")}, "finite"),
        ({"A": float("inf")}, "finite"),
    ):
        with pytest.raises(ValueError, match=sentence):
            positions_held(position, ["A", "B"])


def warned(run_of_prices, prices, position=0.0, now="2002-04-20 12:00"):
    (signal,) = Agent.load(run_of_prices[0]).signal(prices, position, now=datetime.fromisoformat(now))
    return signal.warnings


def test_nothing_is_warned_of_on_the_bars_of_training(run_of_prices, make_prices):
    prices, agent = make_prices(600), Agent.load(run_of_prices[0])
    for bars in (200, 201, 300, 388, 389):
        (signal,) = agent.signal(prices.iloc[:bars], now=prices["date"].iloc[bars - 1] + pd.Timedelta(days=1))
        assert signal.warnings == []


def test_observations_outside_what_training_saw_are_warned_of(run_of_prices, make_prices):
    prices = make_prices(389)  # the training period ends on the last of them
    returns = 100 * np.diff(np.log(prices["close"]))
    low, high = returns.min(), returns.max()
    fallen = pd.concat([prices, prices.iloc[-1:].assign(date=pd.Timestamp("2001-07-02"))], ignore_index=True)
    fallen.loc[389, ["open", "high", "low", "close"]] *= 0.8
    first, *others = warned(run_of_prices, fallen, now="2001-07-03")
    assert first == (
        f"the log return of 2001-07-02, {100 * np.log(0.8):.2f} %, lies outside the {low:.2f} to {high:.2f} "
        "that training saw"
    )
    assert [sentence.split(" of ")[0] for sentence in others] == ["the EWMA volatility", "the volatility index"]
    assert warned(run_of_prices, prices, 1.5, "2001-06-29") == [
        "the position held, 1.5, lies outside the 0 to 1 that may be held"
    ]


def test_missing_and_future_bars_are_warned_of(run_of_prices, make_prices):
    prices = make_prices(300)  # to 2001-02-23, a Friday
    assert warned(run_of_prices, prices, now="2001-02-26 09:00") == []
    assert warned(run_of_prices, prices, now="2001-02-27 09:00") == [
        "the bars end on 2001-02-23: by their own calendar that of 2001-02-26 has closed since, unless it was a holiday"
    ]
    assert warned(run_of_prices, prices, now="2001-02-21 09:00") == ["the last bar, of 2001-02-23, lies in the future"]


def test_bars_are_played_from_a_day_on_where_asked(run_of_prices, capsys):
    """Then the position held is the agent's own, unless it is given."""
    folder, data = run_of_prices
    frame = Agent.load(folder).backtest(data, "2001-11-01")["prices"]
    (entry,) = answer(capsys, folder, "--data", data, "--from", "2001-11-01")
    assert entry["position"] == frame["position"].iloc[-1]
    alone, given = (
        answer(capsys, folder, "--data", data, "--position", entry["position"], *more)[0]
        for more in ([], ["--from", "2001-11-01"])
    )
    assert entry == alone == given
    assert answer(capsys, folder, "--data", data, "--from", "2001-11-01", "--position=0")[0]["position"] == 0
    main(["signal", str(folder), "--data", str(data), "--from", "2001-11-01"])
    assert "position held: what the agent holds since 2001-11-01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fill", "missing", "fills", "words"),
    [
        ("next_open", "", ["next_open", "next_open"], "filled at the next open\n"),
        (None, "", ["next_open", "next_open"], "filled at the next open\n"),
        ("close", "", ["close", "close"], "filled at that close\n"),
        (None, "AB", ["close", "close"], "filled at that close\n"),
        (None, "B", ["next_open", "close"], "filled at the next open (A), that close (B)\n"),
    ],
)
def test_the_fill_is_the_environments(fill, missing, fills, words, tmp_path, make_prices, capsys):
    """Files without opening prices are filled at the close that was seen, where the configuration states no fill."""
    for i, name in enumerate("AB"):
        columns = ["open"] if name in missing else []
        make_prices(600, seed=i).drop(columns=columns).to_csv(tmp_path / f"{name}.csv", index=False)
    data = MarketConfig([str(tmp_path / "A.csv"), str(tmp_path / "B.csv")], trading=TradingCosts(fill=fill))
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(tmp_path), name="run", progress_bar=False)
    folder = Study(run, data, dict(n_steps=16, batch_size=32, n_epochs=1)).start()
    assert [entry["fill"] for entry in answer(capsys, folder)] == fills
    main(["signal", str(folder)])
    assert words in capsys.readouterr().out
    agent = Agent.load(folder)
    core = MarketCore(agent.segments(data.entries), 2, agent.trading, episode_bars=None)
    core.start_at(core.last - 1, np.zeros(2))  # a step back, whose return shows where an order is filled
    market = core.markets[1]
    whole, after_open = market.close[-1] / market.close[-2] - 1, market.close[-1] / market.open[-1] - 1
    held = core.step(np.ones(2)).growth[1] - 1
    assert held == pytest.approx(after_open if fills[1] == "next_open" else whole, abs=2e-4)  # 1 bp of fee
    assert abs(after_open - whole) > 1e-3 or "B" in missing


def test_evaluate_takes_any_file_and_any_dates(run_of_prices, tmp_path, make_prices, capsys):
    folder, _ = run_of_prices
    other = tmp_path / "other.csv"
    make_prices(700, seed=4).to_csv(other, index=False)
    capsys.readouterr()
    main(["evaluate", str(folder), "--data", str(other), "--from", "2001-06-25", "--to", "2001-11-02"])
    shown = capsys.readouterr().out.splitlines()
    # 95 bars of 261 a year.
    assert shown[0].startswith(("Too short to tell: 0.36 years of bars", "The agent's returns do not vary"))
    # Five business days of June, 88 of July to October, 2 of November.
    assert shown[1:4] == [
        "the run was not trained on other: scaled, and split into regimes, as prices",
        "5 of 95 days, 2001-06-25 to 2001-06-29, lie in the period that the run was trained on",
        "88 of 95 days, 2001-07-02 to 2001-10-31, lie in the period that its best model was chosen by",
    ]
    name = "other-2001-06-25-to-2001-11-02"
    for file in (f"evaluation-{name}.json", f"positions-{name}.csv", f"trades-{name}.csv", f"equity-{name}.png"):
        assert (folder / file).exists()
    decided = pd.read_csv(folder / f"positions-{name}.csv")
    assert (decided["date"].iloc[0], decided["date"].iloc[-1], len(decided)) == ("2001-06-22", "2001-11-01", 95)
    commands = shown[shown.index("next:") + 1 :]
    assert any(f" signal {folder} --data FILE" in command for command in commands)
    assert any(f" evaluate {folder} --data FILE --from DATE --to DATE" in command for command in commands)
    assert f"  tensorboard --logdir {folder.parent}" in commands


def test_evaluate_on_own_data_takes_dates_alone_and_no_period_beside_them(run_of_prices, capsys):
    folder, _ = run_of_prices
    main(["evaluate", str(folder), "--from", "2001-11-01"])
    assert "neither trained on nor chosen by any of these 122 days" in capsys.readouterr().out
    one, two = (folder / f"positions-{name}.csv" for name in ("test", "2001-11-01-to-2002-04-19"))
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(SystemExit):
        main(["evaluate", str(folder), "--from", "2001-11-01", "--period", "test"])
    assert "--period names days of the run's own data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", str(folder), "--from", "yesterday"])
    assert "two ISO dates" in capsys.readouterr().err


def test_several_seeds_are_evaluated_on_another_file_too(run_of_prices, tmp_path, capsys):
    data = run_of_prices[1]
    main([*RUN_OF_PRICES, f"--market.data={data}", f"--run.out={tmp_path}", "--run.name=group", "--seeds=0,1"])
    assert "Too short to tell: 0.47 years of bars" in capsys.readouterr().out  # 122 of 261
    main(["evaluate", str(tmp_path / "group"), "--data", str(data), "--from", "2002-01-01"])
    shown = capsys.readouterr().out
    assert shown.startswith("Too short to tell: 0.30 years of bars, and at least one is needed; mean Sharpe ratio ")
    assert " 2 seeds, buy-and-hold has " in shown
    assert set(json.loads((tmp_path / "group" / "seeds-prices-2002-01-01-to-2002-04-19.json").read_text())) == {
        "0",
        "1",
    }
    with pytest.raises(SystemExit):
        main(["signal", str(tmp_path / "group")])
    assert "name one of its runs: seed-0, seed-1" in capsys.readouterr().err


def test_signal_imports_no_library_of_pictures_or_statistics_no_compiler_and_no_extra(run_of_prices):
    code = (
        "import sys, train_model_multi_patch as cli\n"
        f"for data in [], ['--data', 'sp500']: cli.main(['signal', {str(run_of_prices[0])!r}, '--json', *data])\n"
        "heavy = {'matplotlib', 'quantstats', 'statsmodels', 'scipy', 'arch', 'seaborn', 'torch._dynamo'}\n"
        "heavy = (heavy | {'onnx', 'onnxscript', 'optuna'}) & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.fixture(scope="module")
def run_with_columns(tmp_path_factory, make_prices):
    """A run whose file has columns of the user's own, and the file."""
    return train_with_columns(tmp_path_factory.mktemp("own"), make_prices(600))


def test_a_feature_outside_what_training_saw_is_warned_of(run_with_columns, make_prices):
    agent, table = (
        Agent.load(run_with_columns[0]),
        with_columns(make_prices(600))[:390],
    )  # the training period ends on the last of them
    low, high = table["macro"][20:].min(), table["macro"][20:].max()

    def warnings(macro):
        changed = table.assign(macro=table["macro"].where(table.index < 389, macro))
        (signal,) = agent.signal(changed, now=datetime(2001, 6, 30))
        return signal.warnings

    assert warnings(low) == warnings(high) == []
    span = f"lies outside the {low:.6g} to {high:.6g} that training saw"
    assert warnings(3.25) == [f"the feature macro of 2001-06-29, 3.25, {span}"]
    assert warnings(-0.5) == [f"the feature macro of 2001-06-29, -0.5, {span}"]


def test_ranges_of_other_symbols_are_compared_as_they_are_scaled(run_with_columns):
    """Another symbol saw 4 to 20, about its mean of 10 and in units of 2: -3 to 5 as the own one is scaled."""
    agent = Agent.load(run_with_columns[0])
    (segment,) = agent.segments(run_with_columns[1])
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


SYMBOLS = ("A", "B", "C")


class FourQuantiles:
    """Predicts four quantiles that begin at the first number of the observation."""

    carries_states = False

    def __init__(self):
        self.policy = self

    def predict_quantiles(self, observations):
        first = torch.as_tensor(observations, dtype=torch.float32)[:, :1]
        return first + torch.tensor([0.0, 1.0, 3.0, 7.0]) * (1 + first.abs())

    quantiles_of_episode = predict_quantiles


def market_of(number):
    """60 bars that end a day later, in another regime and filled otherwise for each symbol."""
    dates = np.datetime64("2001-01-01", "s") + 86400 * (np.arange(60) + number)
    close = 100.0 + np.arange(60) * (number + 1)
    market = Market(SYMBOLS[number], "nowhere", dates, close - 1, close, close / 10, np.full(60, 10.0 + 12 * number))
    return replace(market, fill="close" if number == 1 else "open")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_every_number_of_a_signal_is_that_of_its_symbol(order):
    """CVaR, quantiles, regime, date, fill, position, target, trade, warnings and observation."""
    observations = [np.full((1, 23), value) for value in (-2.0, 0.5, 4.0)]
    last = LastDecision(
        held=np.array([0.1, 0.2, 0.3])[[*order]],
        target=np.array([1.0, 0.0, 0.5])[[*order]],
        observations=[observations[i] for i in order],
        ruined=np.full(3, -1),
    )
    markets = [market_of(i) for i in order]
    warnings = [[f"of {market.symbol}"] for market in markets]
    together = signals_of(FourQuantiles(), markets, TradingCosts(), last, warnings)
    for i, signal in enumerate(together):
        own = LastDecision(last.held[[i]], last.target[[i]], [last.observations[i]], last.ruined[[i]])
        (alone,) = signals_of(FourQuantiles(), [markets[i]], TradingCosts(), own, [warnings[i]])
        assert asdict(signal) == asdict(alone)
    for name in ("symbol", "date", "regime", "position", "target", "trade", "cvar"):
        assert len({getattr(signal, name) for signal in together}) == 3, name
    assert [signal.cvar for signal in together] == pytest.approx([[-2.0, 0.5, 4.0][i] for i in order])
    assert [signal.fill for signal in together] == [["next_open", "close", "next_open"][i] for i in order]
