"""Prices as programs export them: one function per kind, from a table of daily bars to the file's content."""

import io

import numpy as np
import pandas as pd

BARS = 130  # half a year: days above 12 decide


NAMES = ["Open", "High", "Low", "Close", "Volume"]


def make_bars(make_prices, bars, seed=0, frequency="B", start="2000-01-03"):
    table = make_prices(bars, seed, start, frequency).set_axis(["Date", *NAMES], axis=1).set_index("Date")

    return table.round(4).assign(Volume=np.arange(bars) + 1000)


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


def made_up(times, seed=0):
    """Bars at these times with four decimals, as files have them."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, len(times))))
    opens = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(opens, close) + 1
    low = np.minimum(opens, close) - 1
    volume = rng.integers(1_000, 9_000, len(times))
    columns = [opens, high, low, close, volume]

    return pd.DataFrame(dict(zip(NAMES, columns, strict=True)), index=times).round(4)


def same_bars(bars, table):
    """Compare bars with a table whose index holds the dates."""
    np.testing.assert_array_equal(bars.dates, table.index.to_numpy().astype("M8[s]"))
    np.testing.assert_array_equal(bars.open, table["Open"])
    np.testing.assert_array_equal(bars.close, table["Close"])
    assert bars.fill == "open"


def stamps(times):
    """Times as bars have them, datetime64[s]."""
    return pd.DatetimeIndex(times).to_numpy().astype("M8[s]")


def session_stamps(hours, minute=30):
    """Bars at these hours of each working day of a quarter."""
    days = pd.bdate_range("2020-01-02", "2020-03-31")

    return stamps([day + pd.Timedelta(hours=hour, minutes=minute) for day in days for hour in hours])


def milliseconds(table):
    return table.index.astype("M8[ms]").astype(np.int64).to_numpy()


EXPORTS = {
    "plain": lambda t: t.to_csv(),
    "metatrader": lambda t: csv_of(
        texts(t, "%Y.%m.%d").set_axis(["<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<TICKVOL>"], axis=1),
        sep="\t",
    ),
    "angle brackets, semicolons": lambda t: renamed(
        t, ["<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"], sep=";"
    ),
    "stooq": lambda t: csv_of(
        texts(t, "%Y%m%d")
        .set_axis(["<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"], axis=1)
        .assign(**{"<TICKER>": "prices", "<PER>": "D", "<TIME>": "000000", "<OPENINT>": 0})[
            [
                "<TICKER>",
                "<PER>",
                "<DATE>",
                "<TIME>",
                "<OPEN>",
                "<HIGH>",
                "<LOW>",
                "<CLOSE>",
                "<VOL>",
                "<OPENINT>",
            ]
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
        texts(t).assign(
            Date=milliseconds(t),
            end=milliseconds(t) + 86_399_999,
            quote=1.5,
            n=7,
            a=0.5,
            b=0.7,
            ignore=0,
        ),
        header=False,
    ),
    "binance, milliseconds then microseconds": lambda t: csv_of(
        texts(t).assign(Date=np.where(np.arange(len(t)) < 50, 1, 1000) * milliseconds(t)),
        header=False,
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
    "separator at the end": lambda t: t.to_csv().replace("\n", ",\n"),
    "separator at the end of rows": lambda t: t.to_csv().replace("\n", ",\n").replace("Volume,", "Volume"),
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


def write_to(folder, content, name="prices.csv"):
    """Write text or bytes and give the path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return str(path)
