"""A strategy of the user's own beside the agent: a column of target positions. Oracle: arithmetic on a few bars."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from market_regimes.compare.cell import Cell, run_cell
from market_regimes.compare.folds import folds_of
from market_regimes.compare.html_report import write_report
from market_regimes.compare.tables import tables_of, write_tables
from market_regimes.config import CompareConfig, MarketConfig, RunConfig, TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.evaluation import benchmarks, evaluate, write_evaluation
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.strategies import HOLD, STRATEGIES, Strategy, buy_and_hold, own_rule, trading_by
from market_regimes.evaluate.tables import print_seeds, print_summary
from market_regimes.market.describe import described, lines_of, notes_of
from market_regimes.market.segments import read_data, segments_of
from market_regimes.prices import read_frame
from market_regimes.run.study import Study
from market_regimes.run.trained import notes_on_missing_targets, segments_as_trained, trained_on

ALGORITHM = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=64, n_epochs=1, gamma=0.95)
PERIODS = dict(
    train=("2000-01-03", "2001-03-30"), validation=("2001-04-02", "2001-08-31"), test=("2001-09-03", "2002-03-29")
)
FREE = TradingCosts(fee_bp=0.0)


def backtests(segments):
    """Of the strategies that apply, by label."""
    return {strategy.label: account.frames for strategy, account in benchmarks(segments, FREE).items()}


@pytest.fixture
def table(make_prices):
    return make_prices(600).assign(mine=np.arange(600) % 4 / 4)


@pytest.fixture
def config_of(tmp_path):
    """A function that writes a table and gives the configuration that reads it."""

    def config_of(table, trading=FREE, **keys):
        table.to_csv(tmp_path / "own.csv", index=False)
        keys = {"benchmark_positions": "mine", "bars_per_year": 252, **keys}
        return MarketConfig(str(tmp_path / "own.csv"), **PERIODS, trading=trading, **keys)

    return config_of


def test_the_target_of_a_row_is_filled_after_its_close(config_of, table):
    """Long on the closes of bars 450 and 451 only: bought at the open of 451, sold at that of 453."""
    config = config_of(table.assign(mine=(table.index == 450) | (table.index == 451)).astype({"mine": float}))
    frame = backtests(segments_of(config)["test"])["own rule"]["own"]
    opens, closes, dates = table["open"], table["close"], table["date"]
    earned = frame["return"][frame["return"] != 0]
    assert earned.index.tolist() == dates[451:454].tolist()
    expected = [closes[451] / opens[451] - 1, closes[452] / closes[451] - 1, opens[453] / closes[452] - 1]
    assert earned.tolist() == pytest.approx(expected, rel=1e-9)
    assert frame["equity"].iloc[-1] == pytest.approx(opens[453] / opens[451], rel=1e-9)


def test_each_symbol_has_its_own(tmp_path, table, make_prices):
    table.to_csv(tmp_path / "a.csv", index=False)
    make_prices(550, seed=1).assign(mine=0.75).to_csv(tmp_path / "b.csv", index=False)
    config = MarketConfig(
        str(tmp_path), **{**PERIODS, "test": ("2001-09-03", "2002-01-31")}, benchmark_positions="mine"
    )
    segments = segments_of(config)["test"]
    frames = backtest(segments, FREE, own_rule(segments))
    dates = table.set_index("date")["mine"].shift(1)
    assert frames["a"]["target"].tolist() == dates[frames["a"].index].tolist()
    assert set(frames["b"]["target"]) == {0.75}
    without = replace(segments[1], market=replace(segments[1].market, benchmark_targets=None))
    assert own_rule([segments[0], without]) is None
    assert "own rule" not in backtests([segments[0], without])


@pytest.mark.parametrize(
    ("trading", "allowed", "refused", "span"),
    [
        (TradingCosts(), [0.0, 1.0], [-0.01, 1.01], "0 to 1"),
        (TradingCosts(-1.0, 2.0), [-1.0, 2.0], [-1.1, 2.5], "-1 to 2"),
        (TradingCosts(positions=[0.0, 0.5]), [0.25, 1.0], [1.5], "0 to 1"),
    ],
)
def test_targets_that_may_not_be_held_are_refused(config_of, table, trading, allowed, refused, span):
    for target in allowed:
        segments_of(config_of(table.assign(mine=table["mine"].clip(0, 0.9).where(table.index != 300, target)), trading))
    for target in refused:
        changed = table.assign(mine=table["mine"].where(table.index != 300, target))
        message = rf"row 301 after the header \(date 2001-02-26\): mine of own lies outside the {span} that may be held"
        with pytest.raises(ValueError, match=f"{message}, it is '{target}'"):
            segments_of(config_of(changed, trading))


def test_a_missing_target_is_refused_where_an_order_is_given(config_of, table):
    """The first decision falls on bar 20, the last on the bar before the last of the test period."""
    last = int(table.index[table["date"] == PERIODS["test"][1]][0])
    inside = table.assign(mine=table["mine"].where((table.index >= 20) & (table.index < last)))
    (segment,) = segments_of(config_of(inside))["test"]
    assert np.isfinite(backtests([segment])["own rule"]["own"]["return"]).all()
    for bar in (20, last - 1):
        with pytest.raises(
            ValueError, match=rf"row {bar + 1} after the header .*: mine of own is missing, and market.b"
        ):
            segments_of(config_of(inside.assign(mine=inside["mine"].where(inside.index != bar))))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("min", "has no column min, which market.benchmark_positions names: it has date, .*; mine is nearest"),
        ("close", "market.benchmark_positions names close, which is read as the close"),
    ],
)
def test_names_that_are_refused(config_of, table, name, message):
    with pytest.raises(ValueError, match=message):
        segments_of(config_of(table, benchmark_positions=name))
    with pytest.raises(ValueError, match=f"S&P 500 has no column {name}, which market.benchmark_positions names"):
        segments_of(MarketConfig(benchmark_positions=name))


def test_it_stands_in_every_table(config_of, table, tmp_path, capsys):
    config = config_of(table)
    study = Study(RunConfig(total_timesteps=256, n_envs=2), config, ALGORITHM)
    sharpes = {
        name: figures(joint(backtest(found, FREE, own_rule(found))), 252)["sharpe_ratio"]
        for name, found in study.segments.items()
    }
    assert len(set(sharpes.values())) == 3
    scores, _ = study.score()
    assert scores["sharpe_own_rule"] == pytest.approx(sharpes["validation"])
    result = study.evaluate(tmp_path, "test")
    found = json.loads((tmp_path / "evaluation-test.json").read_text())
    assert list(found["joint"]) == ["agent", "buy and hold", "own rule", *list(found["joint"])[3:]]
    assert found["joint"]["own rule"]["sharpe_ratio"] == pytest.approx(sharpes["test"])
    print_summary(result, "title")
    assert f" {sharpes['test']:.2f} " in capsys.readouterr().out
    print_seeds({0: result, 1: result}, "title")
    assert f"Sharpe ratio of the own rule {sharpes['test']:.2f}, of the fitted rule" in capsys.readouterr().out


def test_it_stands_in_a_comparisons_report(config_of, table, tmp_path):
    config = config_of(table)
    compare = CompareConfig(first_test="2001-09-03")
    fold, *_ = folds_of(compare, replace(config, train=None, validation=None, test=None))
    cell = Cell("own", fold.name, "baseline", 0, RunConfig(total_timesteps=64, n_envs=2), fold.market, ALGORITHM)
    results = [{"status": "ok", **run_cell(cell)}]
    (segment,) = segments_of(fold.market, ("train", "test"))["test"]
    frame = backtest([segment], FREE, own_rule([segment]))["own"]
    assert results[0]["figures"]["own_sharpe"] == pytest.approx(figures(frame, 252)["sharpe_ratio"])
    assert results[0]["daily"]["own"] == pytest.approx(frame["return"].tolist(), abs=1e-8)
    comparison = SimpleNamespace(cells=[cell], result=lambda i: results[i])
    tables = tables_of(comparison, [fold], {"baseline": {}}, "baseline")
    write_tables(tmp_path, tables)
    write_report(tmp_path / "report.html", tables, "title", "baseline", "", {})
    page = (tmp_path / "report.html").read_text()
    assert '<th scope="col">own rule</th>' in page
    returns = pd.Series(results[0]["daily"]["own"])
    assert tables.sharpe["own"].iloc[0] == pytest.approx(returns.mean() / returns.std() * 252**0.5)
    assert f"<td>{tables.sharpe['own'].iloc[0]:.3g}</td>" in page


def test_a_comparison_of_other_targets_is_another(config_of, table):
    compare = CompareConfig(first_test="2001-09-03")
    prints = []
    for one in (table, table.assign(mine=0.5), table.assign(volume=7)):
        config = replace(config_of(one), train=None, validation=None, test=None)
        prints.append(folds_of(compare, config)[0].fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_a_run_does_not_depend_on_it(config_of, table):
    """What an agent observes and earns is the same, so a run may be resumed with other targets."""
    one, two = (segments_of(config_of(t))["train"][0] for t in (table, table.assign(mine=0.5)))
    assert one.market.fingerprint() == two.market.fingerprint()
    assert one.scaling == two.scaling


def test_other_bars_may_lack_it(config_of, table):
    config = config_of(table)
    known = trained_on(segments_of(config))
    (seen,) = segments_as_trained(read_frame(table, "own"), known, config)
    assert np.array_equal(seen.market.benchmark_targets, table["mine"])
    assert notes_on_missing_targets([seen], config) == []
    (lacking,) = segments_as_trained(read_frame(table.drop(columns="mine"), "own"), known, config)
    assert notes_on_missing_targets([lacking], config) == ["own has no numbers in mine: the own rule is left out"]
    assert notes_on_missing_targets([lacking], replace(config, benchmark_positions=None)) == []
    holed = read_frame(table.assign(mine=table["mine"].where(table.index != 500)), "own")
    assert len(segments_as_trained(holed, known, config, last_bar=True)) == 1
    with pytest.raises(ValueError, match=r"row 501 .*: mine of own is missing"):
        segments_as_trained(holed, known, config)


def test_it_is_said(config_of, table):
    config = config_of(table)
    data = read_data(config)
    assert "own rule: targets of mine, each known at the close of its row" in notes_of(data, config)
    (symbol,) = described(data)
    assert (symbol["own_rule"], symbol["unused_columns"]) == ("mine", ["volume"])
    assert f"  {'own rule':<11}mine" in lines_of(symbol)


# A strategy is one entry of the table: a made-up one is in the evaluation, the picture and the printed tables.


def cash(segments, trading):
    """Holds nothing, and so earns nothing."""
    return lambda known: np.zeros(len(known.bar))


@pytest.fixture
def with_cash(config_of, table):
    """An evaluation of an agent that holds everything, with one more strategy."""
    entry = Strategy("cash", "cash in hand", trading_by(cash))
    segments = segments_of(config_of(table))["test"]
    return entry, evaluate(buy_and_hold, segments, FREE, table=(*STRATEGIES, entry))


def test_a_new_strategy_is_in_the_evaluation(with_cash):
    entry, evaluation = with_cash
    result = evaluation.result(step=0)

    assert list(result["joint"])[-2:] == ["cash in hand", "random timing"]
    assert result["joint"]["cash in hand"]["total_return"] == 0.0
    assert result["joint"]["cash in hand"]["sharpe_ratio"] is None
    assert result["symbols"]["own"]["cash in hand"]["exposure"] == 0.0
    assert evaluation.sharpe_ratios[entry] is None


def test_a_new_strategy_is_in_the_legend_of_the_picture(with_cash, tmp_path, monkeypatch):
    _, evaluation = with_cash
    legends = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *rest, **options: legends.append(labels_of(figure)))

    write_evaluation(evaluation, tmp_path, "test", {})

    assert [label for label in legends[0] if "agent" not in label] == [
        "buy and hold",
        "own rule",
        "volatility target",
        "fitted rule",
        "cash in hand",
        "random timing",
    ]


def labels_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_a_new_strategy_is_in_the_printed_tables(with_cash, monkeypatch, capsys):
    entry, evaluation = with_cash
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("market_regimes.evaluate.tables.STRATEGIES", (*STRATEGIES, entry))
    result = evaluation.result(step=0)

    print_summary(result, "one seed")
    (head,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["figure"]]
    assert head.split()[-5:] == ["cash", "in", "hand", "random", "timing"]

    print_seeds({0: result, 1: result}, "two seeds")
    ratios, growths = capsys.readouterr().out.splitlines()[-2:]
    assert ratios.startswith("Sharpe ratio of the own rule ")
    assert ratios.endswith(", of the cash in hand n/a")
    assert growths.startswith("growth a year of the own rule ")
    assert growths.endswith(", of the cash in hand 0.0 %")


def test_a_strategy_that_does_not_apply_is_left_out(config_of, table):
    absent = Strategy("absent", "absent", trading_by(lambda segments, trading: None))
    segments = segments_of(config_of(table))["test"]

    labels = [strategy.label for strategy in benchmarks(segments, FREE, (HOLD, absent))]

    assert labels == ["buy and hold"]


def test_names_of_strategies_differ_in_every_place():
    for name in ("key", "label", "title", "scalar"):
        assert len({getattr(strategy, name) for strategy in STRATEGIES}) == len(STRATEGIES)
    lines = [strategy.dashes for strategy in STRATEGIES if strategy.in_comparisons]
    assert len(set(lines)) == len(lines)
