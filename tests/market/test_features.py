"""Columns that a user names as features. Oracles: pandas' shift and ffill, and arithmetic beside the literals."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped

from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig, MarketConfig
from market_regimes.evaluate.play import backtest
from market_regimes.market.data import read_bars
from market_regimes.market.describe import described, lines_of, notes_of
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.scaling import FeatureScaling, Scaling
from market_regimes.market.segments import read_data, segments_of
from market_regimes.prices import ReadOptions, read_frame
from market_regimes.run.trained import Trained, segments_as_trained, trained_on

PERIODS = dict(
    train=("2000-01-03", "2001-03-30"), validation=("2001-04-02", "2001-08-31"), test=("2001-09-03", "2002-03-29")
)


@pytest.fixture
def table(make_prices):
    """600 bars with an indicator that begins at bar 14, a monthly number and a traded volume."""
    rng = np.random.default_rng(3)
    prices = make_prices(600)
    rsi = np.where(np.arange(600) < 14, np.nan, rng.uniform(20, 80, 600))
    return prices.assign(rsi=rsi, macro=rng.normal(3, 1, 600), note="x", volume=rng.integers(1000, 9000, 600))


@pytest.fixture
def config_of(tmp_path):
    """A function that writes a table and gives the configuration that reads it."""

    def config_of(table, **keys):
        table.to_csv(tmp_path / "own.csv", index=False)
        return MarketConfig(str(tmp_path / "own.csv"), **PERIODS, **keys)

    return config_of


def market_of(config):
    return segments_of(config)["train"][0].market


@pytest.mark.parametrize("lag", [0, 1, 6])
def test_a_lag_is_pandas_shift(config_of, table, lag):
    market = market_of(config_of(table, features=["rsi", "macro", "volume"], feature_lag=lag))
    expected = table.assign(volume=np.log(table["volume"]).diff())
    for name in ("rsi", "macro", "volume"):
        assert np.array_equal(market.features[name], expected[name].shift(lag), equal_nan=True)
    assert list(market.features) == ["rsi", "macro", "volume"]


def test_a_lag_beyond_the_data_knows_nothing_before_it(config_of, table):
    config = config_of(table, features=["macro"], feature_lag=21)
    with pytest.raises(
        ValueError, match="macro, 21 bars late, is not known of own on 2000-01-31, as the bars begin on"
    ):
        segments_of(config)  # the first decision falls on bar 20
    assert len(segments_of(replace(config, feature_lag=20))) == 3
    with pytest.raises(ValueError, match="volume, 20 bars late"):  # whose change needs one bar more
        segments_of(replace(config, features=["volume"], feature_lag=20))


@pytest.mark.parametrize("lag", [0, 2])
def test_gaps_are_filled_by_the_value_before_them(config_of, table, lag):
    table["macro"] = table["macro"].where(table.index % 21 == 5)
    market = market_of(config_of(table, features=["macro"], feature_fill="forward", feature_lag=lag))
    assert np.array_equal(market.features["macro"], table["macro"].ffill().shift(lag), equal_nan=True)


@pytest.mark.parametrize("word", ["", "n/a", "-", "NaN"])
@pytest.mark.parametrize("bar", [20, 300, 599])
def test_a_gap_is_refused_with_row_and_date(config_of, table, bar, word):
    cells = table.assign(macro=table["macro"].astype(object), date=table["date"].dt.date)
    cells.loc[bar, "macro"] = word
    periods = {**PERIODS, "test": (PERIODS["test"][0], str(cells["date"].iloc[-1]))}
    config = replace(config_of(cells, features=["macro"]), **periods)
    expected = (
        rf"own.csv, row {bar + 1} after the header \(date {cells['date'][bar]}\): macro of own is missing: market.fe"
    )
    with pytest.raises(ValueError, match=expected):
        segments_of(config)


def test_what_no_observation_needs_may_be_missing(config_of, table):
    """Of 600 bars the test period ends on bar 584; the first decision falls on bar 20."""
    last = int(table.index[table["date"] == PERIODS["test"][1]][0])
    table["macro"] = table["macro"].where((table.index >= 20) & (table.index <= last))
    assert len(segments_of(config_of(table, features=["macro"]))) == 3
    for bar, problem in ((20, "has no value yet"), (last, "is missing")):
        with pytest.raises(ValueError, match=f"row {bar + 1} after the header .*: macro of own {problem}"):
            segments_of(config_of(table.assign(macro=table["macro"].where(table.index != bar)), features=["macro"]))
    later = config_of(table.assign(macro=table["macro"].shift(-1)), features=["macro"], feature_lag=1)
    assert len(segments_of(later)) == 3


def test_what_is_before_the_first_value_is_refused_even_if_gaps_are_filled(config_of, table):
    config = config_of(table.assign(macro=table["macro"].where(table.index > 20)), features=["macro"])
    with pytest.raises(ValueError, match=r"row 21 after the header .*: macro of own has no value yet"):
        segments_of(replace(config, feature_fill="forward"))


@pytest.mark.parametrize("fill", [None, "forward"])
@pytest.mark.parametrize("volume", [0.0, -5.0, np.nan])
def test_volume_must_be_positive_on_the_bar_and_the_one_before(config_of, table, volume, fill):
    def config(bar):
        changed = table.assign(volume=table["volume"].where(table.index != bar, volume))
        return config_of(changed, features=["volume"], feature_fill=fill)

    with pytest.raises(ValueError, match=r"row 20 after the header .*: volume of own is missing or not positive"):
        segments_of(config(19))
    assert len(segments_of(config(18))) == 3


def test_volume_is_the_field_whatever_the_file_calls_it(config_of, table):
    renamed = table.rename(columns={"volume": "Vol."})
    market = market_of(config_of(renamed, features=["volume"]))
    assert np.array_equal(market.features["volume"], np.log(table["volume"]).diff(), equal_nan=True)
    with pytest.raises(ValueError, match=r"market.features names Vol\., which is the volume: there it is volume"):
        segments_of(config_of(renamed, features=["Vol."]))
    with pytest.raises(ValueError, match=r"market.features names volume, which market.columns leaves out"):
        segments_of(config_of(table, features=["volume"], columns={"volume": ""}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Rsi", "has no column Rsi, which market.features names: it has date, .*; rsi is nearest"),
        ("macros", "has no column macros, .*; macro is nearest"),
        ("colour", "has no column colour, which market.features names: it has date, open"),
        ("close", "market.features names close, which is read as the close: a column has one meaning"),
        ("Last", "has no column Last"),
        ("high", "is read as the high"),
        ("date", "is read as the date"),
        ("volatility_index", "is read as the volatility_index"),
        ("note", r"row 1 after the header \(date 2000-01-03\): note is not a finite number, it is 'x'; 599 more"),
    ],
)
def test_names_that_are_refused(config_of, table, name, message):
    with pytest.raises(ValueError, match=message):
        segments_of(config_of(table, features=[name]))


def test_roles_under_other_names_are_refused(config_of, table):
    renamed = table.rename(columns={"close": "Last"}).assign(VIX=20.0)
    for name, role in (("Last", "close"), ("VIX", "volatility_index")):
        with pytest.raises(ValueError, match=f"market.features names {name}, which is read as the {role}"):
            segments_of(config_of(renamed, features=[name]))
    free = config_of(renamed.assign(VIX=table["macro"]), features=["VIX"], columns={"volatility_index": ""})
    assert np.array_equal(market_of(free).features["VIX"], table["macro"])


def test_a_name_that_the_file_has_twice_is_refused_unless_both_are_the_same(config_of, table, tmp_path):
    config = config_of(table, features=["rsi"])
    text = (tmp_path / "own.csv").read_text()
    (tmp_path / "own.csv").write_text(text.replace("macro", "rsi", 1))
    with pytest.raises(ValueError, match=r"has two columns rsi, which market.features names"):
        segments_of(config)
    config = config_of(table.assign(macro=table["rsi"]), features=["rsi"])
    text = (tmp_path / "own.csv").read_text()
    (tmp_path / "own.csv").write_text(text.replace("macro", "rsi", 1))
    assert len(segments_of(config)) == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (dict(features=["a", "a"]), "names a column twice: a, a"),
        (dict(feature_lag=-1), "feature_lag must be at least 0"),
        (dict(feature_fill="backward"), "feature_fill must be 'forward' or null"),
    ],
)
def test_configurations_that_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        MarketConfig(**keys)


def test_data_that_ship_have_volume_and_nothing_else():
    found = segments_of(MarketConfig(features=["volume"]))["test"][0].market
    assert found.features["volume"][1] == pytest.approx(np.log(775_000_000 / 877_000_000))
    with pytest.raises(ValueError, match=r"S&P 500 has no column rsi, which market.features names: it has volume"):
        segments_of(MarketConfig(features=["rsi"]))
    with pytest.raises(ValueError, match=r"synthetic-01 has no column rsi, .* it has none beside prices"):
        segments_of(MarketConfig("synthetic", features=["rsi"]))


def test_numbers_are_read_as_the_files_other_numbers(tmp_path, make_prices):
    """Decimal commas, thousands, per cent, and a column of another symbol's."""
    table = make_prices(100).drop(columns=["volume", "high", "low"])
    lines = ["date;open;close;yield;size"]
    for i, row in enumerate(table.itertuples()):
        prices = ";".join(f"{value:.2f}".replace(".", ",") for value in (row.open, row.close))
        lines.append(f"{row.date:%d.%m.%Y};{prices};{i % 7},25 %;1.{i:03d}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    config = MarketConfig(str(tmp_path / "own.csv"), features=["yield", "size"])
    (bars,) = read_bars(config)
    assert bars.extra["yield"].tolist() == [i % 7 + 0.25 for i in range(100)]
    assert bars.extra["size"].tolist() == [1000.0 + i for i in range(100)]
    assert bars.notes.unused_columns == ()


def test_columns_of_a_field_and_a_symbol_are_each_symbols_own(tmp_path, make_prices):
    """As yfinance's two header rows: a feature is named by its field."""
    prices = make_prices(100)
    parts = {
        (field, symbol): prices[field] * factor if field == "close" else np.arange(100.0) * factor
        for field in ("close", "rsi")
        for symbol, factor in (("AAA", 1.0), ("BBB", 2.0))
    }
    frame = pd.DataFrame(parts).set_axis(pd.DatetimeIndex(prices["date"], name="date"))
    frame.to_parquet(tmp_path / "two.parquet")
    config = MarketConfig(str(tmp_path / "two.parquet"), features=["rsi"])
    one, two = read_bars(config)
    assert (one.extra["rsi"][3], two.extra["rsi"][3]) == (3.0, 6.0)
    assert one.notes.unused_columns == two.notes.unused_columns == ()
    frame.drop(columns=[("rsi", "BBB")]).to_parquet(tmp_path / "two.parquet")
    with pytest.raises(ValueError, match=r"BBB has no column rsi, which market.features names"):
        segments_of(config)


def test_a_column_beside_the_closes_of_many_symbols_is_everyones(tmp_path, make_prices):
    """In a wide table capitals name symbols, but for the columns that an option names."""
    prices = make_prices(100)
    wide = pd.DataFrame(dict(date=prices["date"], AAA=prices["close"], BBB=prices["close"] * 2, CPI=np.arange(100.0)))
    wide.to_csv(tmp_path / "wide.csv", index=False)
    one, two = read_bars(MarketConfig(str(tmp_path / "wide.csv"), features=["CPI"]))
    assert (one.symbol, two.symbol) == ("AAA", "BBB")
    assert one.extra["CPI"].tolist() == two.extra["CPI"].tolist() == list(range(100))


def test_rows_without_prices_that_have_values_are_said(tmp_path, make_prices):
    table = make_prices(100).assign(macro=1.0)
    table.loc[[40, 41], ["open", "high", "low", "close"]] = np.nan
    table.to_csv(tmp_path / "own.csv", index=False)
    (bars,) = read_bars(MarketConfig(str(tmp_path / "own.csv"), features=["macro"]))
    assert bars.notes.assumptions == (
        "dropped 2 row(s) without prices, the first 2000-02-28, and with them values of macro",
    )
    table.loc[[40, 41], "macro"] = np.nan
    table.to_csv(tmp_path / "own.csv", index=False)
    (bars,) = read_bars(MarketConfig(str(tmp_path / "own.csv"), features=["macro"]))
    assert bars.notes.assumptions == ("dropped 2 row(s) without prices, the first 2000-02-28",)


def test_what_is_read_is_said(config_of, table):
    config = config_of(table, features=["macro", "volume"], feature_lag=1, feature_fill="forward")
    data = read_data(config)
    line = "macro, volume (log change); known 1 bar(s) late; gaps filled forward"
    assert f"observed besides prices: {line}" in notes_of(data, config)
    (symbol,) = described(data)
    assert f"  {'features':<11}{line}" in lines_of(symbol)
    assert symbol["unused_columns"] == ["rsi", "note"]
    plain = read_data(replace(config, features=[]))
    assert plain.read[0].notes.unused_columns == ("volume", "rsi", "macro", "note")
    assert not any("observed" in sentence for sentence in notes_of(plain, config_of(table)))
    fold, *_ = folds_of(CompareConfig(first_test="2001-09-03"), replace(config, train=None, validation=None, test=None))
    assert f"observed besides prices: {line}" in fold.notes


def test_the_observation_grows_by_the_features(config_of, table):
    config = config_of(table, features=["macro", "rsi"])
    env = MarketVecEnv(MarketCore(segments_of(config)["train"], 3), seed=0)
    plain = MarketVecEnv(MarketCore(segments_of(replace(config, features=[]))["train"], 3), seed=0)
    assert (env.observation_space.shape, plain.observation_space.shape) == ((25,), (23,))
    for _ in range(3):
        one, two = env.reset(), plain.reset()
        assert one.dtype == np.float32
        assert np.array_equal(np.delete(one, [22, 23], axis=1), two)
        for column, name in ((22, "macro"), (23, "rsi")):
            training = table[name][20:325]  # the last training bar is 324
            expected = (table[name][env.core.bar] - training.mean()) / training.std(ddof=0)
            assert one[:, column] == pytest.approx(expected.to_numpy(), rel=1e-5, abs=1e-6)


def test_statistics_and_ranges_by_hand():
    """Known 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9 about it: variance 3.5. Seen: 2 to 9."""
    found = FeatureScaling.of(np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, np.nan, 9.0]))
    assert (found.mean, found.std, found.seen) == (3.0, pytest.approx(3.5**0.5), (2.0, 9.0))
    assert FeatureScaling.of(np.full(9, 0.1), np.full(9, 0.1)).std == 0.0


def test_a_feature_that_does_not_move_in_training_is_refused(config_of, table):
    config = config_of(table.assign(macro=np.where(table.index < 325, 0.1, table["macro"])), features=["macro"])
    with pytest.raises(ValueError, match="macro of own does not move from 2000-01-31 to 2001-03-30"):
        MarketCore(segments_of(config)["train"])


def test_the_close_before_the_training_period_is_observed_and_scales_nothing(config_of, table):
    """The period begins on bar 100. Its first decision falls on bar 99, whose feature is needed."""
    assert str(table["date"][100].date()) == "2000-05-22"
    table.loc[99, "macro"] = 1e6
    (segment,) = segments_of(replace(config_of(table, features=["macro"]), train=("2000-05-22", "2001-03-30")))["train"]
    found, training = segment.scaling.features["macro"], table["macro"][100:325]
    assert (found.mean, found.std) == pytest.approx((training.mean(), training.std(ddof=0)))
    assert found.seen == (training.min(), 1e6)
    for bar in (98, 99):
        config = config_of(table.assign(macro=table["macro"].where(table.index > bar)), features=["macro"])
        config = replace(config, train=("2000-05-22", "2001-03-30"))
        if bar == 98:
            assert len(segments_of(config)) == 3
        else:
            with pytest.raises(ValueError, match=r"row 100 after the header .*: macro of own has no value yet"):
                segments_of(config)


def test_a_run_keeps_its_features_and_reads_what_earlier_runs_kept(config_of, table):
    (known,) = trained_on(segments_of(config_of(table, features=["macro", "rsi"]))).values()
    content = json.loads(json.dumps(known.to_json()))
    assert Trained.from_json(content) == known
    assert list(content["scaling"]["features"]) == ["macro", "rsi"]
    observed = table["macro"][20:325]
    assert content["scaling"]["features"]["macro"]["seen"] == [observed.min(), observed.max()]
    (plain,) = trained_on(segments_of(config_of(table))).values()
    earlier = plain.to_json()
    del earlier["scaling"]["features"]
    assert Trained.from_json(earlier) == plain


@pytest.mark.parametrize(
    "change",
    [
        {"std": 0.0},
        {"std": float("inf")},
        {"mean": float("nan")},
        {"seen": [2.0, 1.0]},
        {"seen": None},
        {"mean": "0"},
        {"colour": 1.0},
    ],
)
def test_other_content_is_refused(change):
    entry = {"mean": 0.0, "std": 1.0, "seen": [0.0, 1.0]} | change
    close = np.exp(np.random.default_rng(0).normal(size=40))
    scaling = Scaling.of(close, close, close, range(20, 40), range(20, 40), 20).to_json()
    with pytest.raises(ValueError, match=r"\w"):
        Scaling.from_json(scaling | {"features": {"macro": entry}})


def test_new_bars_are_seen_as_training_would_have_seen_them(config_of, table):
    config = config_of(table, features=["macro", "volume"], feature_lag=1)
    segments = segments_of(config)
    known = trained_on(segments)
    (seen,) = segments_as_trained(
        read_frame(table, "own", ReadOptions(own=config.own_columns)), known, config, days=PERIODS["test"]
    )
    frames, states = [], [[], []]
    for segment, notes in ((segments["test"][0], states[0]), (seen, states[1])):

        def rule(known, notes=notes):
            notes.append(known.observations)
            return np.tanh(known.observations.sum(axis=1))

        frames.append(backtest([segment], config.trading, rule)["own"])
    assert np.array_equal(np.stack(states[0]), np.stack(states[1]))
    assert frames[0].equals(frames[1])
    with pytest.raises(ValueError, match=r"trained on the features \['macro', 'volume'\], and its configuration names"):
        segments_as_trained(read_frame(table, "own"), known, replace(config, features=["volume", "macro"]))


def test_only_the_last_bar_is_needed_for_a_signal(config_of, table):
    config = config_of(table, features=["macro"], feature_lag=1)
    known = trained_on(segments_of(config))
    for bars, needed in (([598], True), ([*range(598), 599], False)):
        holed = table.assign(macro=table["macro"].where(~table.index.isin(bars)))
        read = read_frame(holed, "own", ReadOptions(own=config.own_columns))
        if needed:
            with pytest.raises(ValueError, match=r"row 599 after the header .*: macro of own is missing"):
                segments_as_trained(read, known, config, last_bar=True)
        else:
            (segment,) = segments_as_trained(read, known, config, last_bar=True)
            assert segment.market.features["macro"][-1] == table["macro"][598]


def test_the_fingerprint_covers_the_features_and_no_other_column(config_of, table):
    config = config_of(table, features=["macro"])
    before = market_of(config).fingerprint()
    assert market_of(config_of(table.assign(rsi=1.0, volume=5), features=["macro"])).fingerprint() == before
    moved = table.assign(macro=table["macro"].where(table["date"] != "2001-02-14", 0.0))
    after = market_of(config_of(moved, features=["macro"])).fingerprint()
    assert [month for month in before if before[month] != after[month]] == ["2001-02"]
    plain = market_of(config_of(table)).fingerprint()
    assert plain == market_of(config_of(moved)).fingerprint()
    assert plain.keys() == before.keys()
    assert plain != before
    compare = CompareConfig(first_test="2001-09-03")
    prints = [
        folds_of(compare, replace(config_of(one, features=features), train=None, validation=None, test=None))[0]
        for one, features in ((table, ["macro"]), (moved, ["macro"]), (table, []), (moved, []))
    ]
    assert len({fold.fingerprint for fold in prints}) == 3
    assert prints[2].fingerprint == prints[3].fingerprint


ROW = """
    Feature(
        "momentum_60",
        "log growth",
        "momentum",
        lambda market: np.log(market.close / np.concatenate([np.full(60, np.nan), market.close[:-60]])),
        history=60,
    ),
)
# Bars before"""
USED = """
import json
import numpy as np
from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.market.environment import MarketCore
from market_regimes.market.segments import segments_of
from market_regimes.run.export import layout_of
from market_regimes.run.trained import trained_on

segments = segments_of(MarketConfig("sp500", features=["volume"]))
(segment,) = segments["train"]
core = MarketCore([segment], 1, episode_bars=None)
observed = [float(core.observations()[0, 22])]
for _ in range(9):
    core.step(np.zeros(1))
    observed.append(float(core.observations()[0, 22]))
layout = layout_of(trained_on(segments), TradingCosts())
print(json.dumps([segment.first, observed, layout]))
"""


def test_a_feature_is_added_by_one_row_of_one_file(tmp_path):
    """A copy of the program with one more row; its oracle is a loop over closes of the S&P 500."""
    root = Path(__file__).parents[2]
    for name in ("market_regimes", "quantile_critic"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "distributional_ppo.py", tmp_path)
    file = tmp_path / "market_regimes" / "market" / "features.py"
    text = file.read_text("utf-8")
    file.write_text(text.replace("\n)\n# Bars before", ROW), "utf-8")

    result = subprocess.run(
        [sys.executable, "-c", USED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True
    )
    assert result.returncode == 0, result.stderr.decode()
    first, observed, layout = json.loads(result.stdout)

    # Bar 60 is the first with a momentum; the bars of training from there on scale it.
    close = load_shipped("sp500").close
    days = (load_shipped("sp500").dates < np.datetime64("2009-01-01")).sum()
    momentum = [np.log(close[bar] / close[bar - 60]) for bar in range(60, days)]
    mean = sum(momentum) / len(momentum)
    std = np.sqrt(sum((value - mean) ** 2 for value in momentum) / len(momentum))
    assert first == 60
    assert observed == pytest.approx([(value - mean) / std for value in momentum[:10]], rel=1e-5)

    # The layout of the export names it behind the index and before the user's column.
    names = [number["name"] for number in layout["observation"]["numbers"]]
    assert names[20:] == ["ewma_volatility", "volatility_index", "momentum_60", "feature_volume", "position"]
    assert layout["scaling"]["S&P 500"]["momentum_60"]["std"] == pytest.approx(std)
