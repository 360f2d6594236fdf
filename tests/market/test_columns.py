"""Columns that a user names: lags, gaps, names. Oracles: pandas' shift and ffill, and arithmetic by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import PERIODS

from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig, MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.describe import described, lines_of, notes_of
from market_regimes.market.segments import read_data, segments_of


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
        ValueError,
        match="macro, 21 bars late, is not known of own on 2000-01-31, as the bars begin on",
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
            segments_of(
                config_of(
                    table.assign(macro=table["macro"].where(table.index != bar)),
                    features=["macro"],
                )
            )

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

    with pytest.raises(
        ValueError,
        match=r"row 20 after the header .*: volume of own is missing or not positive",
    ):
        segments_of(config(19))

    assert len(segments_of(config(18))) == 3


def test_volume_is_the_field_whatever_the_file_calls_it(config_of, table):
    renamed = table.rename(columns={"volume": "Vol."})
    market = market_of(config_of(renamed, features=["volume"]))

    assert np.array_equal(market.features["volume"], np.log(table["volume"]).diff(), equal_nan=True)

    with pytest.raises(
        ValueError,
        match=r"market.features names Vol\., which is the volume: there it is volume",
    ):
        segments_of(config_of(renamed, features=["Vol."]))

    with pytest.raises(ValueError, match=r"market.features names volume, which market.columns leaves out"):
        segments_of(config_of(table, features=["volume"], columns={"volume": ""}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Rsi",
            "has no column Rsi, which market.features names: it has date, .*; rsi is nearest",
        ),
        ("macros", "has no column macros, .*; macro is nearest"),
        ("colour", "has no column colour, which market.features names: it has date, open"),
        (
            "close",
            "market.features names close, which is read as the close: a column has one meaning",
        ),
        ("Last", "has no column Last"),
        ("high", "is read as the high"),
        ("date", "is read as the date"),
        ("volatility_index", "is read as the volatility_index"),
        (
            "note",
            r"row 1 after the header \(date 2000-01-03\): note is not a finite number, it is 'x'; 599 more",
        ),
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

    free = config_of(
        renamed.assign(VIX=table["macro"]),
        features=["VIX"],
        columns={"volatility_index": ""},
    )

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

    with pytest.raises(
        ValueError,
        match=r"S&P 500 has no column rsi, which market.features names: it has volume",
    ):
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
    wide = pd.DataFrame(
        dict(
            date=prices["date"],
            AAA=prices["close"],
            BBB=prices["close"] * 2,
            CPI=np.arange(100.0),
        )
    )
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

    fold, *_ = folds_of(
        CompareConfig(first_test="2001-09-03"),
        replace(config, train=None, validation=None, test=None),
    )

    assert f"observed besides prices: {line}" in fold.notes
