"""Bars of files and of data that ship: what is read alike, and what is refused."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markets import covered, load_markets, load_shipped

from market_regimes.config import TradingCosts
from market_regimes.market.environment import MarketCore
from market_regimes.market.periods import period_of
from market_regimes.market.regimes import ewma_volatility
from market_regimes.market.segment import Segment


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


def test_csv_and_parquet_give_the_same_market(write, make_prices):
    (from_csv,), (from_parquet,) = (
        load_markets([write()]),
        load_markets([write(name="prices.parquet")]),
    )

    assert from_csv.symbol == from_parquet.symbol == "prices"
    assert from_csv.close == pytest.approx(make_prices()["close"].to_numpy(), rel=1e-12)
    assert np.array_equal(from_csv.dates, from_parquet.dates)
    assert from_csv.volatility == pytest.approx(ewma_volatility(from_csv.close, 261), nan_ok=True)

    indexed = make_prices().set_index("date")

    assert np.array_equal(load_markets([write(indexed, "indexed.parquet")])[0].dates, from_csv.dates)


def test_long_tables_and_folders_give_a_market_per_symbol(write, make_prices, tmp_path):
    table = pd.concat([make_prices(seed=i).assign(symbol=name) for i, name in enumerate(["A", "NA", "7"])])
    markets = load_markets([write(table.sort_values("date", kind="stable"), "long.csv")])

    assert [m.symbol for m in markets] == ["A", "NA", "7"]
    assert markets[1].close == pytest.approx(make_prices(seed=1)["close"].to_numpy())

    folder = tmp_path / "folder"
    folder.mkdir()

    for name in ("B", "A"):
        make_prices().to_csv(folder / f"{name}.csv", index=False)

    assert [m.symbol for m in load_markets([str(folder), "sp500"])] == ["S&P 500", "A", "B"]

    with pytest.raises(ValueError, match=r"symbol A is in .*A\.csv and in .*long\.csv"):
        load_markets([str(folder), write(table, "long.csv")])


def test_other_spellings_and_adjusted_closes(write, make_prices):
    table = make_prices()
    table["adj"] = table["close"] * np.linspace(0.5, 1.0, len(table))  # dividends: earlier prices count for less
    table.columns = ["Date", "Open", "High", "Low", "Close", "Volume", "Adj Close"]
    (market,) = load_markets([write(table)])

    assert market.close == pytest.approx(table["Adj Close"].to_numpy())
    assert market.open / market.close == pytest.approx((table["Open"] / table["Close"]).to_numpy())


def test_a_split_that_is_adjusted_moves_nothing(write, make_prices):
    """Four shares for one at bar 300: raw prices fall to a quarter, and all that comes from them stays."""
    table = make_prices()
    (whole,) = load_markets([write(table)])
    split = table.assign(adj_close=table["close"] / 4)
    split.loc[300:, ["open", "high", "low", "close"]] /= 4
    (market,) = load_markets([write(split)])

    for name in ("open", "close"):
        assert getattr(market, name) == pytest.approx(getattr(whole, name) / 4, rel=1e-12)

    for name in ("volatility", "index"):
        assert getattr(market, name) == pytest.approx(getattr(whole, name), rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Europe/Berlin", "America/New_York", "UTC"])
def test_an_exchanges_day_stays_its_day(write, make_prices, zone):
    table = make_prices()
    naive = load_markets([write(table)])[0]
    table["date"] = table["date"].dt.tz_localize(zone)

    for name in ("zoned.csv", "zoned.parquet"):
        (market,) = load_markets([write(table, name)])
        assert np.array_equal(market.dates, naive.dates)
        assert market.bars_per_year == 261  # a week of five days without holidays: 5 * 365.2425 / 7


def test_tickers_stay_text_and_second_columns_are_refused(write, make_prices, tmp_path):
    (market,) = load_markets([write(make_prices(), symbol="000001")])

    assert market.symbol == "000001"

    path = tmp_path / "twice.csv"
    path.write_text("date,open,high,low,close,close\n2000-01-03,1,2,1,1,2\n")

    with pytest.raises(ValueError, match=r"two columns for close: close and close\.1"):
        load_markets([str(path)])

    (timed,) = load_markets([write(time="10:00")])

    assert str(timed.dates[0]) == "2000-01-03T10:00:00"


def test_currencies_trade_five_days_a_week_though_they_open_on_sundays(write, make_prices):
    hours = pd.date_range("2010-01-03 22:00", periods=24 * 7 * 8, freq="h")
    open_ = [
        t
        for t in hours
        if not (t.day_of_week == 5 or (t.day_of_week == 6 and t.hour < 22) or (t.day_of_week == 4 and t.hour >= 22))
    ]
    (market,) = load_markets([write(make_prices(len(open_)).assign(date=open_))])

    assert market.bars_per_year == 6260  # 120 hours a week; was 24 * 252


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [("B", 261), ("D", 365), ("h", 24 * 365), ("W", 52), ("MS", 12)],
)
def test_bars_per_year_are_inferred(make_prices, write, frequency, expected):
    (market,) = load_markets([write(make_prices(frequency=frequency))])

    assert market.bars_per_year == expected
    assert load_markets([write(make_prices(frequency=frequency))], bars_per_year=1000)[0].bars_per_year == 1000


def test_intraday_bars_of_trading_days(make_prices, write):
    days = pd.bdate_range("2010-01-04", periods=100)
    times = [day + pd.Timedelta(hours=9.5 + hour) for day in days for hour in range(7)]
    (market,) = load_markets([write(make_prices(700).assign(date=times))])

    assert market.bars_per_year == 7 * 252
    assert len(period_of(market, "2010-01-04", "2010-01-05")) == 14

    hourly = load_markets([write(make_prices(700), "daily.csv"), write(make_prices(700).assign(date=times))][:1])

    assert hourly[0].bars_per_year == 261

    with pytest.raises(ValueError, match=r"daily \(.*\) has bars of 1 day and prices \(.*\) of 1 hour"):
        load_markets(
            [
                write(make_prices(700), "daily.csv"),
                write(make_prices(700).assign(date=times)),
            ]
        )


def spoiled(table, row, column, value):
    table = table.astype({column: object})
    table.loc[row - 1, column] = value
    return table


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda t: t.drop(columns=["close", "low"]),
            r"prices\.csv lacks the column\(s\) close: it has date, open",
        ),
        (
            lambda t: t.iloc[[*range(300), *range(301, 600), 300]],
            r"row 600 .*far from those of the rows around it",
        ),
        (lambda t: pd.concat([t[:100], t[99:]]), r"row 101 .*2000-05-19.*same date"),
        (
            lambda t: spoiled(t, 17, "close", np.nan),
            r"row 17 after the header \(date 2000-01-25\): close of prices",
        ),
        (
            lambda t: spoiled(t, 17, "open", "n/a"),
            "row 17 .*open of prices is not a finite number, it is 'n/a'",
        ),
        (
            lambda t: spoiled(t, 17, "high", np.inf),
            "row 17 .*high of prices is not a finite number",
        ),
        (lambda t: spoiled(t, 17, "close", 0), "row 17 .*close of prices is not positive"),
        (lambda t: spoiled(t, 17, "low", -3), "row 17 .*low of prices is not positive"),
        (
            lambda t: t.assign(high=t["low"] * 0.9),
            "row 1 .*high of prices is below its low; 599 more",
        ),
        (lambda t: spoiled(t, 17, "date", "25/01/2000"), r"row 17 .*25/01/2000.*ISO"),
        (lambda t: spoiled(t, 17, "date", None), "row 17 .*ISO"),
        (
            lambda t: t.assign(
                open=[1e-3] * 17 + [1e3] * 583,
                close=[1e-3] * 17 + [1e3] * 583,
                low=1e-4,
                high=1e4,
            ),
            "row 18 .*open of prices changed by a factor",
        ),
        (
            lambda t: spoiled(t, 17, "open", 1e6),
            "row 17 .*open of prices is outside its low and high",
        ),
        (
            lambda t: spoiled(t, 17, "date", "2000-01-25T00:00+09:00"),
            "row 1 .*no time zone, and others have one",
        ),
        (lambda t: spoiled(t, 17, "close", "True"), "row 17 .*not a finite number"),
        (
            lambda t: t[:59],
            r"59 row\(s\) of prices, from 2000-01-03 to 2000-03-23: at least 60",
        ),
        (lambda t: t[:0], "header and no rows"),
        (
            lambda t: t.assign(Date=t["date"].shift(-1)),
            "two columns for date: date and Date",
        ),
        (lambda t: t.assign(symbol=[None] + ["A"] * 599), "row 1 .*symbol is missing"),
        (lambda t: t.assign(vix=-1.0), "volatility_index of prices is not positive"),
        (
            lambda t: t.assign(vix="high"),
            "volatility_index of prices is not a number, it is 'high'",
        ),
    ],
)
def test_bad_data_are_refused_in_one_sentence(write, make_prices, spoil, expected):
    path = write(spoil(make_prices()))

    with pytest.raises(ValueError, match=expected) as refusal:
        load_markets([path])

    assert "\n" not in str(refusal.value)
    assert path in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe\x00\x01", "prices.csv"),
        (b"PK\x03\x04", "prices.csv"),
        (b"a,b\n1", "lacks"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, content, expected):
    for name in ("prices.csv", "prices.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=expected if name.endswith("csv") else "cannot be read"):
            load_markets([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "date,open,high,low,close\n2000-01-03,1,234.5,1,235,1,233,1,234\n",
            "more fields than its header",
        ),
    ],
)
def test_other_dialects_are_refused_with_what_to_do(tmp_path, text, expected):
    (tmp_path / "prices.csv").write_text(text)

    with pytest.raises(ValueError, match=expected):
        load_markets([str(tmp_path / "prices.csv")])


def test_paths_that_are_no_data_are_refused(tmp_path):
    for entry, expected in (
        ("nowhere.csv", "no file"),
        ("sp5000", "sp500, nasdaq"),
        (str(tmp_path), "holds no file that ends in .csv"),
    ):
        with pytest.raises(ValueError, match=expected):
            load_markets([entry])


CELLS = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.text(max_size=8), st.dates(), st.none())


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 6), CELLS), min_size=1, max_size=4))
@example([(59, 6, 1e39)])
@example([(0, 0, date(1997, 1, 1))])  # three years before the next bar
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_cells_give_one_sentence_or_finite_steps(tmp_path, make_prices, cells):
    table = make_prices(100).assign(vix=20.0).astype(object)

    for row, column, value in cells:
        table.iloc[row, column] = value

    table.to_csv(tmp_path / "prices.csv", index=False)
    try:
        market = covered(tmp_path / "prices.csv", 25, 99)
    except ValueError as refusal:
        assert type(refusal) is ValueError  # noqa: PT017
        assert "\n" not in str(refusal)  # noqa: PT017
        return
    core = MarketCore(
        [Segment.scaled_by(market, range(60, 100), range(25, 60))],
        costs=TradingCosts(-10.0, 10.0),
    )

    for action in np.linspace(-10, 10, 40):
        assert np.isfinite(core.observations()).all()
        assert np.isfinite(core.step(np.array([action])).reward).all()


@given(st.binary(max_size=300) | st.text(alphabet='date,opnhiglwcs0123456789.-\n"e', max_size=400).map(str.encode))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_file_makes_a_library_fail(tmp_path, content):
    for header in (b"", b"date,open,high,low,close\n"):
        (tmp_path / "prices.csv").write_bytes(header + content)
        with pytest.raises(ValueError, match=r"prices\.csv") as refusal:  # 60 rows do not fit
            load_markets([str(tmp_path / "prices.csv")])
        assert type(refusal.value) is ValueError
        assert "\n" not in str(refusal.value)
