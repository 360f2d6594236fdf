"""
Prices as ten programs write them. Oracle: the same bars from a plain file, as pandas alone reads it.

All files but the hourly one hold the same bars, so what is read from each is equal to the last digit.
"""

import numpy as np
import pandas as pd
import pytest

from market_regimes.prices import read_frame, read_prices

DAYS = pd.bdate_range("2019-01-02", "2020-12-31")
NAMES = ["Open", "High", "Low", "Close", "Volume"]


def prices(times, seed=0):
    """Made-up bars with four decimals, as files have them."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, len(times))))
    opens = np.concatenate([[100.0], close[:-1]])
    columns = [opens, np.maximum(opens, close) + 1, np.minimum(opens, close) - 1, close]
    volume = rng.integers(1_000, 9_000, len(times))
    return pd.DataFrame(dict(zip(NAMES, [*columns, volume], strict=True)), index=times).round(4)


def yfinance(tickers):
    """Two header rows, one ticker or several."""
    table = pd.concat({ticker: prices(DAYS, seed) for seed, ticker in enumerate(tickers)}, axis=1)
    table = table.swaplevel(axis=1).sort_index(axis=1)
    table.columns.names = ["Price", "Ticker"]
    return table.rename_axis("Date").to_csv()


def metatrader():
    """Names in angle brackets, tabs, dates with dots."""
    table = prices(DAYS).set_axis(["<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<TICKVOL>"], axis=1)
    table.insert(0, "<DATE>", DAYS.strftime("%Y.%m.%d"))
    return table.to_csv(sep="\t", index=False)


def klines():
    """Milliseconds of an epoch, times at which bars close, many further columns."""
    begin = (DAYS - pd.Timestamp(0)) // pd.Timedelta(milliseconds=1)
    table = prices(DAYS).rename(columns=str.lower)
    table.insert(0, "open_time", begin)
    table = table.assign(close_time=begin + 86_399_999, quote_volume=1.0, count=10, ignore=0)
    return table.to_csv(index=False)


def growing():
    """A last row that has no prices yet."""
    table = prices(DAYS.append(pd.DatetimeIndex(["2021-01-01"])))
    table.iloc[:-1] = prices(DAYS)
    table.iloc[-1, :4] = np.nan
    return table.rename_axis("Date").to_csv()


def day_first():
    return prices(DAYS).set_axis(DAYS.strftime("%d/%m/%Y"), axis=0).rename_axis("Date").to_csv()


def newest_first():
    return prices(DAYS)[::-1].rename(columns=str.lower).rename_axis("timestamp").to_csv()


DAILY = {
    "plain.csv": lambda: prices(DAYS).rename_axis("Date").to_csv(),
    "yfinance_one.csv": lambda: yfinance(["SPY"]),
    "yfinance_two.csv": lambda: yfinance(["SPY", "QQQ"]),
    "metatrader.csv": metatrader,
    "klines.csv": klines,
    "day_first.csv": day_first,
    "newest_first.csv": newest_first,
    "last_row_empty.csv": growing,
}


def same_bars(bars, table):
    np.testing.assert_array_equal(bars.dates, table.index.to_numpy().astype("M8[s]"))
    np.testing.assert_array_equal(bars.open, table["Open"])
    np.testing.assert_array_equal(bars.close, table["Close"])
    assert bars.fill == "open"


@pytest.mark.parametrize("name", DAILY)
def test_daily_bars_are_those_of_the_plain_file(tmp_path, name):
    (tmp_path / name).write_text(DAILY[name]())
    first, *others = sorted(read_prices([str(tmp_path / name)]), key=lambda bars: bars.symbol != "SPY")
    same_bars(first, prices(DAYS))
    for bars in others:
        same_bars(bars, prices(DAYS, seed=1))
    assert [bars.symbol for bars in others] == (["QQQ"] if name == "yfinance_two.csv" else [])


def test_a_compressed_file_whose_index_has_no_name(tmp_path):
    prices(DAYS).to_csv(tmp_path / "unnamed.csv.gz")
    (bars,) = read_prices([str(tmp_path / "unnamed.csv.gz")])
    same_bars(bars, prices(DAYS))
    assert bars.symbol == "unnamed"


def test_hours_whose_date_and_time_stand_apart(tmp_path):
    hours = pd.date_range("2020-01-01", "2020-03-31", freq="h")
    table = prices(hours)
    written = table.copy()
    written.insert(0, "Date", hours.strftime("%Y-%m-%d"))
    written.insert(1, "Time", hours.strftime("%H:%M"))
    written.to_csv(tmp_path / "date_and_time.csv", index=False)
    (bars,) = read_prices([str(tmp_path / "date_and_time.csv")])
    same_bars(bars, table)


LETTERS = ["C", "F", "T", "V"]  # Citigroup, Ford, AT&T and Visa; c, t and v also stand for close, time and volume


def by_letter(tickers):
    return {ticker: prices(DAYS, seed) for seed, ticker in enumerate(tickers)}


@pytest.mark.parametrize("tickers", [LETTERS, ["C"], ["V", "C"], ["O", "H", "L", "C"], ["SPY", "V"]])
@pytest.mark.parametrize("level", ["tickers above", "fields above"])
@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_a_ticker_of_one_letter_is_no_field(tmp_path, tickers, level, form):
    """Two levels of names, in either order: what is read is each ticker's own table."""
    tables = by_letter(tickers)
    both = pd.concat(tables, axis=1).rename_axis("Date")
    if level == "fields above":
        both = both.swaplevel(axis=1)
    if form == "csv":
        both.to_csv(tmp_path / "p.csv")
    elif form == "parquet":
        both.to_parquet(tmp_path / "p.parquet")
    found = read_frame(both, None) if form == "frame" else read_prices([str(tmp_path / f"p.{form}")])
    assert sorted(bars.symbol for bars in found) == sorted(tickers)
    for bars in found:
        same_bars(bars, tables[bars.symbol])


@pytest.mark.parametrize(
    "index",
    [
        DAYS.to_period("D"),
        DAYS.to_period("D").rename("Date"),
        pd.Index([day.date() for day in DAYS]),
        pd.Index([str(day.date()) for day in DAYS]),
        DAYS,
    ],
    ids=["periods", "named periods", "dates", "text", "times"],
)
def test_the_index_of_a_frame_may_hold_its_dates_in_any_form(index):
    table = prices(DAYS)
    (bars,) = read_frame(table.set_axis(index), "A")
    same_bars(bars, table)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("names", [None, ["symbol", None], [None, "date"], ["symbol", "date"]])
def test_an_index_of_symbols_and_dates_needs_no_names(names, swapped):
    tables = by_letter(["C", "SPY"])
    both = pd.concat(tables, names=names)
    found = read_frame(both.swaplevel() if swapped else both, None)
    assert [bars.symbol for bars in found] == ["C", "SPY"]
    for bars in found:
        same_bars(bars, tables[bars.symbol])
