"""
Files as programs export them; all hold the same bars, so what is read must equal what pandas reads from a plain CSV.
"""

import gzip
import io
import zipfile
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_regimes.market.load import read_files
from market_regimes.market.table import ReadOptions

BARS = 130  # half a year: days above 12 decide
NAMES = ["Open", "High", "Low", "Close", "Volume"]


@pytest.fixture(scope="module")
def daily(make_prices):
    """Daily bars, Monday to Friday, with four decimals."""
    return make_bars(make_prices, BARS)


def make_bars(make_prices, bars, seed=0, frequency="B", start="2000-01-03"):
    table = make_prices(bars, seed, start, frequency).set_axis(["Date", *NAMES], axis=1).set_index("Date")
    return table.round(4).assign(Volume=np.arange(bars) + 1000)


@pytest.fixture
def write(tmp_path):
    """A function that writes text or bytes and gives the path."""

    def write(content, name="prices.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def equals(bars, table, close_only=False):
    """Whether bars are exactly those of a table, as pandas reads it from a plain CSV."""
    plain = pd.read_csv(io.StringIO(table.to_csv()), parse_dates=["Date"])
    assert bars.dates.dtype == np.dtype("M8[s]")
    assert np.array_equal(bars.dates, plain["Date"].to_numpy().astype("M8[s]"))
    assert np.array_equal(bars.close, plain["Close"])
    assert np.array_equal(bars.open, plain["Close" if close_only else "Open"])
    assert bars.fill == ("close" if close_only else "open")
    return True


def texts(table, date="%Y-%m-%d"):
    """A table with its dates as a column of text."""
    return table.reset_index().assign(Date=table.index.strftime(date))


def csv_of(table, **keywords):
    return table.to_csv(index=False, **keywords)


def renamed(table, names, **keywords):
    return csv_of(texts(table).set_axis(names, axis=1), **keywords)


def yfinance(tables, by="field"):
    """The two header rows that yfinance's frames get in a CSV."""
    wide = pd.concat(tables, axis=1, names=["Ticker", "Price"])
    return (wide.swaplevel(axis=1) if by == "field" else wide).sort_index(axis=1)


def thousands(table, decimal=".", separator=","):
    """All numbers as text in another convention; prices times 100, so that they have thousands."""
    marks = str.maketrans({",": separator, ".": decimal})
    return texts(table).assign(
        **{name: table[name].map("{:,.4f}".format).str.translate(marks).to_numpy() for name in NAMES}
    )


EXPORTS = {
    "plain": lambda t: t.to_csv(),
    "metatrader": lambda t: csv_of(
        texts(t, "%Y.%m.%d").set_axis(["<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<TICKVOL>"], axis=1), sep="\t"
    ),
    "angle brackets, semicolons": lambda t: renamed(
        t, ["<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"], sep=";"
    ),
    "stooq": lambda t: csv_of(
        texts(t, "%Y%m%d")
        .set_axis(["<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"], axis=1)
        .assign(**{"<TICKER>": "prices", "<PER>": "D", "<TIME>": "000000", "<OPENINT>": 0})[
            ["<TICKER>", "<PER>", "<DATE>", "<TIME>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>", "<OPENINT>"]
        ]
    ),
    "alpha vantage": lambda t: renamed(t[::-1], ["timestamp", "1. open", "2. high", "3. low", "4. close", "5. volume"]),
    "nasdaq.com": lambda t: csv_of(
        texts(t[::-1], "%m/%d/%Y")[["Date", "Close", "Volume", "Open", "High", "Low"]]
        .assign(**{name: "$" + t[name][::-1].astype(str).to_numpy() for name in ["Open", "High", "Low", "Close"]})
        .rename(columns={"Close": "Close/Last"})
    ),
    "investing.com": lambda t: csv_of(
        texts(t[::-1], "%b %d, %Y")
        .set_axis(["Date", "Open", "High", "Low", "Price", "Vol."], axis=1)
        .assign(**{"Vol.": "1.25M", "Change %": "-0.5%"}),
        quoting=1,
    ),
    "cryptodatadownload": lambda t: (
        "https://www.CryptoDataDownload.com\n"
        + csv_of(texts(t[::-1]).assign(unix=t.index[::-1].astype("M8[s]").astype(int), symbol="prices"))
    ),
    "binance, no header": lambda t: csv_of(
        texts(t).assign(Date=milliseconds(t), end=milliseconds(t) + 86_399_999, quote=1.5, n=7, a=0.5, b=0.7, ignore=0),
        header=False,
    ),
    "binance, milliseconds then microseconds": lambda t: csv_of(
        texts(t).assign(Date=np.where(np.arange(len(t)) < 50, 1, 1000) * milliseconds(t)), header=False
    ),
    "klines": lambda t: csv_of(texts(t).assign(Date=milliseconds(t)).rename(columns={"Date": "open_time"})),
    "tradingview": lambda t: csv_of(
        texts(t).assign(Date=milliseconds(t) // 1000, RSI=50.0).rename(columns={"Date": "time"})
    ),
    "microseconds": lambda t: csv_of(texts(t).assign(Date=milliseconds(t) * 1000)),
    "nanoseconds": lambda t: csv_of(texts(t).assign(Date=milliseconds(t) * 10**6)),
    "histdata, no header": lambda t: csv_of(texts(t, "%Y%m%d 000000"), header=False, sep=";"),
    "dukascopy": lambda t: csv_of(texts(t, "%d.%m.%Y 00:00:00.000").rename(columns={"Date": "Gmt time"})),
    "kaggle, Name": lambda t: csv_of(texts(t).assign(Name="prices")),
    "finrl, tic": lambda t: csv_of(texts(t).assign(tic="prices", day=0)),
    "spreadsheet serial days": lambda t: csv_of(texts(t).assign(Date=milliseconds(t) // 86_400_000 + 25_569)),
    "day first": lambda t: csv_of(texts(t, "%d/%m/%Y")),
    "month first": lambda t: csv_of(texts(t, "%m-%d-%Y")),
    "04-Jan-2021": lambda t: csv_of(texts(t, "%d-%b-%Y")),
    "January 4, 2021": lambda t: csv_of(texts(t, "%B %d, %Y")),
    "Mon 04 Jan 2021": lambda t: csv_of(texts(t, "%a %d %b %Y")),
    "digits": lambda t: csv_of(texts(t, "%Y%m%d")),
    "digits of 14": lambda t: csv_of(texts(t, "%Y%m%d000000")),
    "2021/1/4": lambda t: csv_of(texts(t).assign(Date=[f"{d.year}/{d.month}/{d.day}" for d in t.index])),
    "twelve hours": lambda t: csv_of(texts(t, "%m/%d/%Y 12:00:00 AM")),
    "browser dates": lambda t: csv_of(texts(t, "%a %b %d %Y 00:00:00 GMT+0100 (Central European Standard Time)")),
    "T and Z": lambda t: csv_of(texts(t, "%Y-%m-%dT00:00:00.000Z")),
    "unnamed index": lambda t: t.rename_axis(None).to_csv(),
    "row numbers": lambda t: texts(t).to_csv(),
    "R's row names": lambda t: "Open,High,Low,Close,Volume\n" + t.to_csv(header=False),
    "newest first": lambda t: t[::-1].to_csv(),
    "thousands": lambda t: csv_of(thousands(t)),
    "thousands, tabs": lambda t: csv_of(thousands(t), sep="\t"),
    "decimal commas": lambda t: t.to_csv(sep=";", decimal=","),
    "thousands with points": lambda t: csv_of(thousands(t, ",", "."), sep=";"),
    "thousands with points, quoted": lambda t: csv_of(thousands(t, ",", ".")),
    "thousands with apostrophes": lambda t: csv_of(thousands(t, ".", "'")),
    "thousands with no-break spaces": lambda t: csv_of(thousands(t, ",", "\u00a0"), sep=";"),
    "euros": lambda t: csv_of(texts(t).assign(Close=[f"{price:.4f} €" for price in t["Close"]])),
    "quoted": lambda t: csv_of(texts(t), quoting=1),
    "formulas": lambda t: csv_of(texts(t).assign(Close=[f'="{price:.4f}"' for price in t["Close"]])),
    "lines before": lambda t: "Report of today\nSymbol:,SPY\n\n" + t.to_csv(),
    "lines before, padded": lambda t: "Report of today,,,,,\n,,,,,\n" + t.to_csv(),
    "separator at the end": lambda t: t.to_csv(lineterminator=",\n"),
    "separator at the end of rows": lambda t: t.to_csv(lineterminator=",\n").replace("Volume,", "Volume"),
    "footer": lambda t: t.to_csv() + "Source: exchange,,,,,\n",
    "total": lambda t: t.to_csv() + "Total,,,,,123456\n",
    "last row without prices": lambda t: t.to_csv() + "2000-07-03,,,,,500\n",
    "holiday without prices": lambda t: t.to_csv().replace(
        "2000-02-01,", "2000-01-31 12:00,null,null,null,null,null\n2000-02-01,"
    ),
    "byte order mark": lambda t: b"\xef\xbb\xbf" + t.to_csv().encode(),
    "UTF-16": lambda t: t.to_csv(sep="\t").encode("utf-16"),
    "Windows-1252": lambda t: csv_of(texts(t).assign(note="£")).encode("cp1252"),
    "Windows lines": lambda t: t.to_csv(lineterminator="\r\n"),
    "blank lines": lambda t: t.to_csv(lineterminator="\n\n"),
    "pipes": lambda t: t.to_csv(sep="|"),
    "spaces after commas": lambda t: t.to_csv().replace(",", ", "),
    "no header": lambda t: t.to_csv(header=False),
    "no header, newest first": lambda t: t[::-1].to_csv(header=False),
    "no header, other order": lambda t: t[["High", "Low", "Open", "Close"]].to_csv(header=False),
    "no header, time": lambda t: csv_of(
        texts(t).assign(Open="00:00", o=t["Open"].to_numpy())[["Date", "Open", "o", "High", "Low", "Close"]],
        header=False,
    ),
    "date and time": lambda t: csv_of(texts(t).assign(Time="00:00")),
    "date and time, no colons": lambda t: csv_of(texts(t, "%Y%m%d").assign(time=0)),
    "polygon": lambda t: csv_of(texts(t).assign(Date=milliseconds(t)).set_axis(list("tohlcv"), axis=1)),
    "quantmod": lambda t: t.add_prefix("prices.").rename_axis(None).to_csv(),
    "field_symbol": lambda t: t.add_suffix("_prices").to_csv(),
    "tuples": lambda t: t.set_axis([str((name, "prices")) for name in t], axis=1).to_csv(),
    "yfinance": lambda t: yfinance({"prices": t}).to_csv(),
    "yfinance, by ticker": lambda t: yfinance({"prices": t}, by="symbol").to_csv(),
    "yfinance, no third row": lambda t: yfinance({"prices": t}).to_csv().replace("Date,,,,,\n", ""),
}


def milliseconds(table):
    return table.index.astype("M8[ms]").astype(np.int64).to_numpy()


@pytest.mark.parametrize("kind", EXPORTS)
def test_exports_equal_the_plain_file(daily, write, kind):
    table = daily * np.array([100, 100, 100, 100, 1]) if kind.startswith("thousands") else daily
    (bars,) = read_files([write(EXPORTS[kind](table.round(4)))])
    assert equals(bars, table.round(4))
    assert bars.symbol == "prices"
    for sentence in bars.assumptions:
        assert len(sentence) < 120
        assert "\n" not in sentence


SAID = {
    "newest first": ["newest first: sorted"],
    "day first": ["day first: 13/01/2000 decides"],
    "month first": ["month first: 01-13-2000 decides"],
    "klines": ["dates are epoch milliseconds in UTC"],
    "binance, milliseconds then microseconds": [
        "no header: open is column 2, high is column 3, low is column 4, close is column 5, volume is column 6",
        "dates are epoch microseconds and milliseconds in UTC",
    ],
    "last row without prices": ["dropped the last row (2000-07-03), which has no prices"],
    "total": ["dropped the last row (Total), which has no prices"],
    "holiday without prices": ["dropped 1 row(s) without prices, the first 2000-01-31 12:00"],
    "decimal commas": ["decimal commas"],
    "thousands": ["commas separate thousands"],
    "euros": ["currency signs removed: €"],
    "lines before": ["3 line(s) before the header skipped"],
    "Windows-1252": ["not UTF-8: read as Windows-1252"],
    "yfinance": ["two header rows: fields and symbols"],
    "spreadsheet serial days": ["dates are serial days of a spreadsheet, 1 being 1900-01-01"],
    "plain": [],
}


@pytest.mark.parametrize("kind", SAID)
def test_what_was_assumed_is_said(daily, write, kind):
    table = daily * 100 if kind == "thousands" else daily
    assert read_files([write(EXPORTS[kind](table))])[0].assumptions == SAID[kind]


def test_exports_of_several_symbols(make_prices, daily, write):
    other = make_bars(make_prices, BARS, seed=1)
    missing = other.copy()
    missing.iloc[[0, 50]] = np.nan
    long = pd.concat([texts(daily).assign(stock="NA"), texts(other).assign(stock="000001")])
    for content, second, names in (
        (yfinance({"NA": daily, "000001.SZ": other}).to_csv(), other, ["NA", "000001.SZ"]),
        (yfinance({"NA": daily, "B": missing}, by="symbol").to_csv(), missing.dropna(), ["NA", "B"]),
        (csv_of(long), other, ["NA", "000001"]),
        (csv_of(long.sort_values("Date", kind="stable")), other, ["NA", "000001"]),
        (daily.add_prefix("NA.").join(other.add_prefix("BRK.B.")).to_csv(), other, ["NA", "BRK.B"]),
    ):
        bars = {one.symbol: one for one in read_files([write(content)])}
        assert sorted(bars) == sorted(names)
        assert equals(bars["NA"], daily)
        assert equals(bars[names[1]], second)
        assert np.array_equal(bars["NA"].volume, daily["Volume"])
    assert (
        "B has no prices on 2 of the file's dates"
        in read_files([write(yfinance({"NA": daily, "B": missing}).to_csv())])[1].assumptions
        + read_files([write(yfinance({"NA": daily, "B": missing}).to_csv())])[0].assumptions
    )


def test_adjusted_closes_of_several_symbols(make_prices, daily, write):
    adjusted = daily.assign(**{"Adj Close": (daily["Close"] / 2).round(4)})
    for by in ("field", "symbol"):
        for bars in read_files([write(yfinance({"SPY": adjusted, "QQQ": adjusted}, by).to_csv())]):
            assert np.array_equal(bars.close, adjusted["Adj Close"])
            assert bars.unused_columns == []


def test_tickers_may_be_numbers(make_prices, daily, write):
    other = make_bars(make_prices, BARS, seed=1)
    for content in (
        yfinance({"000001": daily, "600519": other}).to_csv(),
        pd.DataFrame({"000001": daily["Close"], "600519": other["Close"]}).to_csv(),
    ):
        first, second = read_files([write(content)])
        assert (first.symbol, second.symbol) == ("000001", "600519")
        assert np.array_equal(first.close, daily["Close"])
        assert np.array_equal(second.close, other["Close"])


@pytest.mark.parametrize("lower", [["low", "open"], ["spy", "qqq"], ["Ouverture", "Cloture"]])
def test_columns_of_unknown_words_are_no_symbols(daily, write, lower):
    with pytest.raises(ValueError, match=r"lacks the column\(s\) close"):
        read_files([write(daily[["Open", "Close"]].set_axis(lower, axis=1).to_csv())])
    (bars,) = read_files([write(daily[["Close", "Volume"]].set_axis(["SPY", "VOLUME"], axis=1).to_csv())])
    assert bars.symbol == "SPY"
    assert bars.unused_columns == ["VOLUME"]


def test_the_strongest_name_is_taken(daily, write):
    table = texts(daily).assign(
        Last=1.0, VWAP=2.0, **{"Adj. Open": 1.0, "adjVolume": 3, "<TICKVOL>": 4, "Name": "Fund"}
    )
    (bars,) = read_files([write(table.assign(symbol="SPY").to_csv())])
    assert equals(bars, daily)
    assert np.array_equal(bars.volume, daily["Volume"])
    assert bars.symbol == "SPY"
    assert bars.unused_columns == ["Unnamed: 0", "Last", "VWAP", "Adj. Open", "adjVolume", "<TICKVOL>", "Name"]
    assert list(bars.extra) == ["Last", "VWAP", "Adj. Open", "adjVolume", "<TICKVOL>"]


def test_a_wide_table_of_closes(make_prices, daily, write):
    closes = pd.DataFrame({"SPY": daily["Close"], "BRK.B": make_bars(make_prices, BARS, 1)["Close"], "VIX": 20.0})
    closes.iloc[:30, 1] = np.nan
    spy, other = read_files([write(closes.to_csv())])
    assert (spy.symbol, other.symbol) == ("SPY", "BRK.B")
    assert equals(spy, daily, close_only=True)
    assert np.array_equal(other.close, closes["BRK.B"].dropna())
    assert len(other.dates) == BARS - 30
    assert (spy.volatility_index == 20).all()
    assert "one column of closes per symbol: SPY, BRK.B" in spy.assumptions
    assert "no opening prices: orders fill at the close" in spy.assumptions
    fred = daily[["Close"]].rename(columns={"Close": "SP500"}).rename_axis("observation_date").astype(object)
    fred.iloc[20] = "."
    (index,) = read_files([write(fred.to_csv())])
    assert index.symbol == "SP500"
    assert len(index.close) == BARS - 1


def test_parquet_with_any_index(make_prices, daily, tmp_path):
    other = make_bars(make_prices, BARS, seed=1)
    frames = {
        "index": daily,
        "unnamed": daily.rename_axis(None),
        "kept": daily.reset_index().set_index("Date", drop=False),
        "column": daily.reset_index(),
        "filtered": pd.concat([daily[:1], daily]).reset_index()[1:],
        "days": texts(daily).assign(Date=daily.index.date),
        "text": texts(daily),
        "prices as text": texts(daily).assign(Close=daily["Close"].astype(str).to_numpy()),
        "yfinance": yfinance({"yfinance": daily}),
        "yfinance, columns": yfinance({"yfinance, columns": daily}).reset_index(),
    }
    for name, frame in frames.items():
        path = tmp_path / f"{name}.parquet"
        frame.to_parquet(path)
        (bars,) = read_files([str(path)])
        assert equals(bars, daily)
        assert bars.symbol == name
    long = pd.concat({"A": daily, "B": other}, names=["symbol"])
    for name, frame in {
        "long": long,
        "swapped": long.swaplevel(),
        "long, unnamed": long.rename_axis([None, None]),
    }.items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
        if name == "long, unnamed":
            continue
        first, second = read_files([str(tmp_path / f"{name}.parquet")])
        assert first.symbol == "A"
        assert equals(first, daily)
        assert equals(second, other)


def test_compressed_files_and_folders(daily, write, tmp_path):
    text = daily.to_csv().encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.csv", text)
    write(gzip.compress(text), "a.csv.gz")
    write(archive.getvalue(), "b.zip")
    write(text, "c.TXT")
    write("notes", "readme.md")
    bars = read_files([str(tmp_path)])
    assert [one.symbol for one in bars] == ["a", "b", "c"]
    assert all(equals(one, daily) for one in bars)
    with pytest.raises(ValueError, match=r"the symbol a is in .*a\.csv and in .*a\.csv\.gz"):
        read_files([str(tmp_path), write(text, "a.csv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no file that ends in"):
        read_files([str(tmp_path / "empty")])


def test_spreadsheets(daily, tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "prices.xlsx"
    with pd.ExcelWriter(path) as book:
        daily.to_excel(book, sheet_name="bars", startrow=2)
        daily.to_excel(book, sheet_name="more")
    (bars,) = read_files([str(path)])
    assert equals(bars, daily)
    assert "sheet bars; not read: more" in bars.assumptions


ADJUSTED = [
    "adjClose",
    "adjclose",
    "Adj. Close",
    "Adjusted",
    "Adj Close",
    "adjusted_close",
    "Close Adj",
    "adj_close_price",
]


@pytest.mark.parametrize(
    "name", [*ADJUSTED, "5. adjusted close", "Adj Close**", "ADJ_CLOSE", "AdjustedClose", "adjusted"]
)
def test_no_name_of_an_adjusted_close_is_overlooked(daily, write, name):
    adjusted = (daily["Close"] * np.linspace(0.5, 1, BARS)).round(4)
    (bars,) = read_files([write(daily.assign(**{name: adjusted}).to_csv())])
    assert np.array_equal(bars.close, adjusted)
    assert bars.open == pytest.approx((daily["Open"] * adjusted / daily["Close"]).to_numpy(), rel=1e-12)
    assert bars.unused_columns == []
    (raw,) = read_files([write(daily.assign(**{name: adjusted}).to_csv())], ReadOptions(columns={"adjusted_close": ""}))
    assert equals(raw, daily)
    assert raw.unused_columns == [name]


@pytest.mark.parametrize(
    "name", ["vix", "VIX", "vix_close", "VIXCLS", "VIX Close", "^VIX", "volatility_index", "vixClose"]
)
def test_no_name_of_a_volatility_index_is_overlooked(daily, write, name):
    (bars,) = read_files([write(daily.assign(**{name: 33.0}).to_csv())])
    assert (bars.volatility_index == 33).all()
    with pytest.raises(ValueError, match=r"lacks the column\(s\) close: it has Date, .*VIX"):
        read_files([write(daily[["Open"]].assign(VIX=20.0).to_csv())])


def test_other_columns_are_kept_and_named(daily, write):
    table = daily.assign(RSI=50.5, note="text", dividends=[""] * 64 + ["0.5"] + [""] * 65)
    (bars,) = read_files([write(table.to_csv())])
    assert bars.unused_columns == ["RSI", "note", "dividends"]
    assert sorted(bars.extra) == ["RSI", "dividends"]
    assert (bars.extra["RSI"] == 50.5).all()
    assert bars.extra["dividends"][64] == 0.5
    assert np.isnan(bars.extra["dividends"][63])
    assert np.array_equal(bars.volume, table["Volume"])
    (bars,) = read_files([write(EXPORTS["investing.com"](daily))])
    assert (bars.volume == 1.25e6).all()
    assert (bars.extra["Change %"] == -0.5).all()


ZONES = {
    "short offset": ("%Y-%m-%d 00:00:00+02", "+02:00"),
    "basic form": ("%Y%m%dT000000+0200", "+02:00"),
    "hours only": ("%Y-%m-%dT00+02:00", "+02:00"),
    "extended": ("%Y-%m-%d 00:00:00+09:00", "+09:00"),
    "half hours": ("%Y-%m-%dT00:00:00+05:30", "+05:30"),
    "west": ("%Y-%m-%d 00:00:00.000-05:00", "-05:00"),
    "Z": ("%Y-%m-%dT00:00:00Z", "UTC"),
    "UTC": ("%Y-%m-%d 00:00:00 UTC", "UTC"),
    "name": ("%Y-%m-%d 00:00 Europe/Berlin", "Europe/Berlin"),
    "abbreviation": ("%Y-%m-%d 00:00 CET", "CET"),
    "java": ("%Y-%m-%dT00:00+01:00[Europe/Berlin]", "+01:00"),
    "date with offset": ("%Y-%m-%d+02:00", "+02:00"),
    "GMT and offset": ("%d/%m/%Y 00:00:00 GMT+0900", "+09:00"),
}


@pytest.mark.parametrize("kind", ZONES)
def test_an_exchanges_day_stays_its_day(daily, write, kind):
    text, zone = ZONES[kind]
    (bars,) = read_files([write(csv_of(texts(daily, text)))])
    assert equals(bars, daily)
    assert bars.zone == zone


def test_a_parquet_file_keeps_its_clock(daily, tmp_path):
    daily.tz_localize("Asia/Tokyo").to_parquet(tmp_path / "zoned.parquet")
    (bars,) = read_files([str(tmp_path / "zoned.parquet")])
    assert equals(bars, daily)
    assert bars.zone == "Asia/Tokyo"


def test_offsets_that_change_keep_the_clock(make_prices, write):
    """New York's sessions of 2000 around 2 April, when -05:00 becomes -04:00."""
    days = pd.bdate_range("2000-03-20", "2000-04-14", tz="America/New_York")
    times = [day + pd.Timedelta(hours=10 + hour) for day in days for hour in range(5)]
    table = make_bars(make_prices, len(times)).set_index(pd.DatetimeIndex(times, name="Datetime"))
    (bars,) = read_files([write(table.to_csv())])
    assert sorted({str(time)[11:16] for time in bars.dates}) == ["10:00", "11:00", "12:00", "13:00", "14:00"]
    assert bars.zone == "-05:00/-04:00"
    assert bars.assumptions == []


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_hour_that_a_clock_shows_twice_is_ordered_by_instant(make_prices, write, tmp_path, newest_first):
    """Berlin's 2:00 to 3:00 of 29 October 2000 comes at +02:00 and again at +01:00."""
    instants = pd.date_range("2000-10-27", periods=240, freq="30min", tz="UTC")
    table = make_bars(make_prices, 240).set_index(instants.tz_convert("Europe/Berlin").rename("Date"))
    table = table[::-1] if newest_first else table
    table.to_parquet(tmp_path / "zoned.parquet")
    for path in (write(table.to_csv()), str(tmp_path / "zoned.parquet")):
        (bars,) = read_files([path])
        assert np.array_equal(bars.dates, instants.tz_localize(None).to_numpy().astype("M8[s]"))
        assert bars.zone == "UTC"
        assert "the clock goes back on 2000-10-29: dates are in UTC" in bars.assumptions
        assert np.array_equal(bars.close, table["Close"].sort_index())


def test_hours_from_two_columns(make_prices, write, tmp_path):
    hours = pd.date_range("2020-01-01", periods=400, freq="h")
    table = make_bars(make_prices, 400).set_index(hours.rename("Date"))
    for date, time, zone in (
        ("%Y-%m-%d", "%H:%M", None),
        ("%d.%m.%Y", "%H:%M:%S", None),
        ("%Y%m%d", "%H%M%S", None),
        ("%m/%d/%Y", "%I:%M %p", None),
        ("%Y-%m-%d", "%H:%M+02:00", "+02:00"),
    ):
        (bars,) = read_files([write(csv_of(texts(table, date).assign(Time=hours.strftime(time))))])
        assert equals(bars, table)
        assert bars.zone == zone
    frame = table.reset_index(drop=True).assign(date=hours.normalize(), time=hours.time)
    frame.to_parquet(tmp_path / "prices.parquet")
    assert equals(read_files([str(tmp_path / "prices.parquet")])[0], table)
    with pytest.raises(ValueError, match=r"row 3 .*the time is not one of a day.*it is '25:00'"):
        read_files([write(csv_of(texts(table).assign(time=["10:00"] * 2 + ["25:00"] + ["11:00"] * 397)))])
    (bars,) = read_files(
        [write(csv_of(texts(table).assign(Date=hours.strftime("%y-%d-%m"), Time=hours.strftime("%Hh%M"))))],
        ReadOptions(columns={"time": "Time"}, date_format="%y-%d-%m %Hh%M"),
    )
    assert equals(bars, table)


def few(daily, date):
    """Days up to the twelfth only, of many months: nothing decides what is the month."""
    days = pd.DatetimeIndex([f"{2000 + i // 12}-{i % 12 + 1:02d}-{i % 7 + 1:02d}" for i in range(BARS)], name="Date")
    return csv_of(texts(daily.set_index(days), date)), daily.set_index(days)


def test_day_and_month_are_not_guessed(daily, write):
    text, table = few(daily, "%d/%m/%Y")
    with pytest.raises(ValueError, match=r"01/01/2000 may have the day or the month first.*market\.date_format"):
        read_files([write(text)])
    (bars,) = read_files([write(text)], ReadOptions(date_format="day_first"))
    assert equals(bars, table)
    text, table = few(daily, "%m/%d/%Y %H:%M")
    assert equals(read_files([write(text)], ReadOptions(date_format="month_first"))[0], table)
    assert equals(read_files([write(text)], ReadOptions(date_format="%m/%d/%Y %H:%M"))[0], table)
    text = csv_of(texts(daily, "%d/%m/%y"))
    with pytest.raises(
        ValueError, match=r"year of two digits, as in 03/01/00, leaves the order open: set market\.date_format"
    ):
        read_files([write(text)])
    for stated in ("%d/%m/%y", "day_first"):
        assert equals(read_files([write(text)], ReadOptions(date_format=stated))[0], daily)
    text = csv_of(texts(daily, "%d. %m. %Y, 00h +0900"))
    (bars,) = read_files([write(text)], ReadOptions(date_format="%d. %m. %Y, %Hh %z"))
    assert equals(bars, daily)
    assert bars.zone == "+09:00"


def test_columns_may_be_named_by_hand(daily, write):
    german = texts(daily).set_axis(["Datum", "Erster", "Hoch", "Tief", "Schluss", "Umsatz"], axis=1)
    with pytest.raises(ValueError, match=r"lacks the column\(s\) close: it has Datum, Erster.*market.columns"):
        read_files([write(csv_of(german))])
    stated = dict(open="Erster", high="Hoch", low="Tief", close="Schluss")
    (bars,) = read_files([write(csv_of(german))], ReadOptions(columns=stated))
    assert equals(bars, daily)
    assert bars.assumptions == ["dates are in Datum, the only column that holds some"]
    assert equals(read_files([write(csv_of(german))], ReadOptions(columns={**stated, "date": "Datum"}))[0], daily)
    with pytest.raises(ValueError, match=r"no column Eröffnung, which market\.columns names"):
        read_files([write(csv_of(german))], ReadOptions(columns={**stated, "open": "Eröffnung"}))
    headless = csv_of(texts(daily)[["Close", "Date", "High", "Low", "Open"]], header=False)
    by_number = dict(close="1", date="2", high="3", low="4", open="5")
    assert equals(read_files([write(headless)], ReadOptions(columns=by_number))[0], daily)
    with pytest.raises(ValueError, match=r"market\.columns: prize is none of date"):
        ReadOptions(columns={"prize": "Close"})


REFUSED = {
    "two closes": (lambda t: csv_of(texts(t).assign(close=1.0)), "two columns for close: Close and close"),
    "two dates": (
        lambda t: csv_of(texts(t).assign(timestamp="2001-01-01")),
        "two columns for date: Date and timestamp",
    ),
    "two symbols": (
        lambda t: csv_of(texts(t).assign(symbol="A", ticker="B")),
        "two columns for symbol: symbol and ticker",
    ),
    "closes first": (lambda t: t[["Close", "High", "Low", "Open"]].to_csv(header=False), "no header.*market.columns"),
    "three columns": (lambda t: t[["Close", "Volume"]].to_csv(header=False), "no header.*market.columns"),
    "foreign names": (lambda t: renamed(t, ["DATE", "ERSTER", "HOCH", "TIEF", "LETZTER", "VOLUMEN"]), "lacks.* close"),
    "thousands or decimals": (
        lambda t: csv_of(
            texts(t).assign(**{n: t[n].map("{:07.3f}".format).str.replace(".", ",").to_numpy() for n in NAMES[:4]}),
            sep=";",
        ).replace(";0", ";"),
        r"may be a thousand or have three decimals: set market\.decimal",
    ),
    "both conventions": (
        lambda t: csv_of(texts(t).assign(Open="1,234.50", Close="1.234,50")),
        "has a decimal point and 1.234,50 a decimal comma",
    ),
    "two orders of days": (
        lambda t: csv_of(texts(t, "%d/%m/%Y").replace("13/01/2000", "01/13/2000")),
        "has the day first and 01/13/2000 the month",
    ),
    "mixed forms": (
        lambda t: csv_of(texts(t).replace("2000-01-13", "13/01/2000")),
        r"row 9 .*13/01/2000\): the date is not in ISO",
    ),
    "impossible day": (lambda t: csv_of(texts(t).replace("2000-01-13", "2000-01-32")), r"row 9 after the header .*ISO"),
    "no header, bad price": (
        lambda t: csv_of(texts(t).astype(object).replace({"Close": {t["Close"].iloc[8]: "x"}}), header=False),
        "no header.*market.columns",
    ),
    "disorder": (
        lambda t: pd.concat([t[50:], t[:50]]).to_csv(),
        r"row 81 .*a later date in the bar before: sort by date",
    ),
    "twice": (lambda t: pd.concat([t[:50], t[49:]]).to_csv(), "row 51 .*the bar before at the same date"),
    "twice, newest first": (
        lambda t: pd.concat([t[:50], t[49:]])[::-1].to_csv(),
        "row 81 .*the bar before at the same date",
    ),
    "some zones": (
        lambda t: csv_of(texts(t).replace("2000-01-13", "2000-01-13 00:00+09:00")),
        "row 1 .*no time zone, and others have one",
    ),
    "rounded epochs": (
        lambda t: csv_of(texts(t).assign(Date=[f"{ms:.5e}" for ms in milliseconds(t)])),
        "row 1 .*not in ISO form",
    ),
    "number as date": (
        lambda t: csv_of(texts(t).assign(Date=np.arange(len(t)))),
        "row 1 .*a number of an unknown kind; market.date_format",
    ),
    "percent as price": (
        lambda t: csv_of(texts(t).assign(Close="5%")),
        "row 1 .*close of prices is not a finite number, it is '5%'",
    ),
    "price in millions": (
        lambda t: csv_of(texts(t).assign(Close="5M")),
        "row 1 .*close of prices is not a finite number, it is '5M'",
    ),
    "half a row": (
        lambda t: csv_of(texts(t).astype(object).replace({"Close": {t["Close"].iloc[-1]: ""}})),
        "row 130 .*close of prices is not a finite number",
    ),
    "no prices": (lambda t: csv_of(texts(t).assign(Open="", High="", Low="", Close="")), "has no prices in any row"),
    "adjusted only": (lambda t: t.rename(columns={"Close": "Adj Close"}).to_csv(), r"lacks the column\(s\) close"),
    "thousands unquoted": (lambda t: t.to_csv().replace("2000-02-01,", "2000-02-01,1,"), "more fields than its header"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_ambiguous_is_refused_in_one_sentence(daily, write, kind):
    make, expected = REFUSED[kind]
    path = write(make(daily))
    with pytest.raises(ValueError, match=expected) as refusal:
        read_files([path])
    assert str(refusal.value).startswith(path)
    assert "\n" not in str(refusal.value)


def test_the_decimal_mark_may_be_stated(daily, write):
    text = REFUSED["thousands or decimals"][0](daily)
    shown = pd.read_csv(io.StringIO(text), sep=";", decimal=",")["Close"]
    assert np.array_equal(read_files([write(text)], ReadOptions(decimal=","))[0].close, shown)
    assert np.array_equal(read_files([write(text)], ReadOptions(decimal="."))[0].close, (1000 * shown).round())


def test_closes_only_and_opens_that_are_closes(daily, write):
    (bars,) = read_files([write(daily[["Close"]].to_csv())])
    assert equals(bars, daily, close_only=True)
    assert bars.assumptions == ["no opening prices: orders fill at the close"]
    assert equals(read_files([write(daily[["Close"]].to_csv(header=False))])[0], daily, close_only=True)
    (bars,) = read_files([write(daily.assign(Open=daily["Close"]).to_csv())])
    assert bars.assumptions == ["open equals close in every bar: an order at the open gets the price of the close"]
    assert bars.fill == "open"
    (bars,) = read_files([write(daily[["Open", "Close"]].to_csv())])
    assert bars.assumptions == ["no high and low: open and close are not checked against them"]


CELLS = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.text(max_size=8), st.dates(), st.none())


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 6), CELLS), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cells_give_one_sentence_or_checked_bars(tmp_path, make_prices, cells):
    table = make_prices(100).assign(vix=20.0).astype(object)
    for row, column, value in cells:
        table.iloc[row, column] = value
    table.to_csv(tmp_path / "prices.csv", index=False)
    try:
        (bars,) = read_files([str(tmp_path / "prices.csv")])
    except ValueError as refusal:
        assert type(refusal) is ValueError  # noqa: PT017
        assert "\n" not in str(refusal)  # noqa: PT017
        return
    assert all(a < b for a, b in pairwise(bars.dates))
    for prices in (bars.open, bars.close):
        assert np.isfinite(prices).all()
        assert (prices > 0).all()


@given(
    st.binary(max_size=300) | st.text(alphabet='date,;\topnhiglwcs0123456789.-\n"e/: $', max_size=400).map(str.encode)
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_makes_a_library_fail(tmp_path, content):
    for header in (b"", b"date,open,high,low,close\n", b"2000-01-03;1;2;0.5;1\n"):
        for name in ("prices.csv", "prices.csv.gz", "prices.zip", "prices.parquet"):
            (tmp_path / name).write_bytes(header + content)
            with pytest.raises(ValueError, match="prices") as refusal:  # 60 rows do not fit
                read_files([str(tmp_path / name)])
            assert type(refusal.value) is ValueError
            assert "\n" not in str(refusal.value)
