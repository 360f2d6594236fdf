"""Prices, volatility index and regimes; the oracles are plain loops and the figures known of the S&P 500."""

from dataclasses import replace
from datetime import date
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from arch.data import nasdaq, sp500, vix
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markets import covered, load_markets, load_shipped

from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.market.data import read_bars
from market_regimes.market.environment import MarketCore
from market_regimes.market.features import Observations
from market_regimes.market.market import market_of
from market_regimes.market.oddities import oddities
from market_regimes.market.periods import check_periods, date_text, period_of
from market_regimes.market.regimes import DEFAULT_REGIMES, REGIMES, estimated_index, ewma_volatility
from market_regimes.market.segments import Segment
from market_regimes.market.shipped import shipped


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


def test_sp500_is_what_it_is_known_to_be(market):
    assert len(market.dates) == 5031
    assert (date_text(market.dates[0]), date_text(market.dates[-1])) == ("1999-01-04", "2018-12-31")
    assert market.close[-1] == pytest.approx(2506.85, abs=0.01)
    assert np.all(np.diff(market.dates.astype(int)) > 0)


def test_prices_are_those_that_the_loaders_of_arch_give():
    for name, data in dict(sp500=sp500, nasdaq=nasdaq).items():
        expected, [bars] = data.load(), shipped(name)
        assert np.array_equal(bars.dates, expected.index.to_numpy())
        for column in ("Open", "Close", "Volume"):
            assert np.array_equal(getattr(bars, column.lower()), expected[column])
    [bars], known = shipped("sp500", "real"), vix.load()["vix"].dropna()
    days = np.isin(bars.dates, known.index)
    assert np.array_equal(bars.volatility_index[days], known.reindex(bars.dates[days]))


def test_regimes_of_the_sp500(market):
    assert np.all(market.regime[:20] == -1)
    days = dict(zip(REGIMES, np.bincount(market.regime[20:]), strict=True))
    assert days == {"calm": 1927, "normal": 2572, "volatile": 442, "crash": 70}
    crash = market.dates[market.regime == 3]
    assert (date_text(crash[0]), date_text(crash[-1])) == ("2008-09-29", "2009-03-24")


@pytest.mark.parametrize("per_year", [52, 252, 7 * 252, 365 * 24])
def test_volatility_remembers_days_whatever_the_bars(per_year):
    """By a loop: a day multiplies the weight of what lies behind it by 0.94, however many bars it has."""
    close = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 200)))
    decay = 0.94 ** (252 / per_year)
    total, weight, expected = 0.0, 0.0, []
    for before, now in pairwise(close):
        total, weight = decay * total + np.log(now / before) ** 2, decay * weight + 1
        expected.append(100 * np.sqrt(per_year * total / weight))
    volatility = ewma_volatility(close, per_year)
    assert np.all(np.isnan(volatility[:20]))
    assert volatility[20:] == pytest.approx(expected[19:], rel=1e-9)


def test_the_first_volatility_by_hand():
    """19 returns of 0 and one of 1 %, the last: its share is 0.06 / (1 - 0.94 ** 20) = 0.06 / 0.7098938 = 0.0845197."""
    close = np.array([100.0] * 20 + [100 * np.exp(0.01)])
    assert ewma_volatility(close)[20] == pytest.approx(np.sqrt(252 * 0.0845197), rel=1e-6)  # 4.615 points
    assert np.isnan(ewma_volatility(close[:-1])).all()


def weight_of_first(k, n, decay):
    """The share that the first k of n returns have in the average, by adding up the weights."""
    weights = [decay ** (n - 1 - i) for i in range(n)]
    return sum(weights[:k]) / sum(weights)


@pytest.mark.parametrize("dropped", [1, 2, 19, 100])
@pytest.mark.parametrize("per_year", [252, 78 * 252])
def test_dropped_first_bars_move_the_volatility_by_their_share_and_no_more(dropped, per_year):
    """Variance with them = share of the dropped * theirs + the rest * variance without them, at every bar."""
    close = 100 * np.exp(np.cumsum(np.random.default_rng(5).standard_t(4, 500) * 0.01))
    decay = 0.94 ** (252 / per_year)
    whole, cut = ewma_volatility(close, per_year), ewma_volatility(close[dropped:], per_year)
    assert np.isnan(cut[:20]).all()
    squared = np.diff(np.log(close)) ** 2
    first = sum(decay ** (dropped - 1 - i) * squared[i] for i in range(dropped))
    first /= sum(decay**i for i in range(dropped))
    for bar in range(dropped + 20, 500, 37):
        share = weight_of_first(dropped, bar, decay)
        expected = share * first * per_year * 1e4 + (1 - share) * cut[bar - dropped] ** 2
        assert whole[bar] ** 2 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dropped", [1, 2, 7, 50])
def test_dropped_first_days_change_no_label_once_their_weight_is_nothing(market, dropped):
    """After 600 days the weight of the start is 0.94 ** 600 = 8e-17, below the last digit of a double."""
    cut = DEFAULT_REGIMES.labels(estimated_index(ewma_volatility(market.close[dropped:])))
    assert np.array_equal(cut[600:], market.regime[600 + dropped :])
    early = (cut[20:600] != market.regime[20 + dropped : 600 + dropped]).mean()
    assert early < 0.03


def five_minutes(days=40, seed=0):
    """Closes of sessions of 78 bars, wild at the open: their variance falls from 16 to 1 over an hour."""
    rng = np.random.default_rng(seed)
    session = 0.0006 * (1 + 3 * np.exp(-np.arange(78) / 6))
    return 100 * np.exp(np.cumsum(rng.normal(0, 1, days * 78) * np.tile(session, days)))


@pytest.mark.parametrize("dropped", [1, 2, 3, 40])
@pytest.mark.parametrize("equal_closes", [False, True])
def test_labels_of_intraday_bars_do_not_hang_on_the_first(dropped, equal_closes):
    """After one session the share of the first 40 of 78 returns is still 0.51; of them few labels depend."""
    close = five_minutes()
    if equal_closes:
        close[1] = close[0]
    indices = [estimated_index(ewma_volatility(prices, 78 * 252)) for prices in (close, close[dropped:])]
    whole, cut = map(DEFAULT_REGIMES.labels, indices)
    assert whole[20:].min() >= 0
    assert (whole[78 + dropped :] != cut[78:]).mean() < (0.01 if dropped < 4 else 0.06)


def test_bars_of_the_warm_up_decide_no_bound_and_no_scaling(write, make_prices):
    """Wild first bars, without which all is the same."""
    table = make_prices(400)
    wild = table.copy()
    wild.loc[:18, ["open", "high", "low", "close"]] *= np.linspace(1, 3, 19)[:, None]
    segments = []
    for name, prices in (("calm", table), ("wild", wild)):
        (bars,) = read_bars(MarketConfig(write(prices, f"{name}.csv")))
        market = replace(market_of(bars, MarketConfig(volatility_index="auto"), range(0, 300), 399), symbol="A")
        own = np.where(np.arange(400) < 20, np.nan, 20 + np.arange(400) / 10)
        volatility = np.where(np.arange(400) < 20, np.nan, 5 + np.arange(400) % 7)
        market = replace(market, index=own, volatility=volatility, regimes=DEFAULT_REGIMES.fitted(own, range(0, 300)))
        segments.append(Segment.scaled_by(market, range(50, 400), range(0, 300)))
    assert segments[0].market.regimes == segments[1].market.regimes

    # Windows of returns that lie after the warm-up end from bar 39 on.
    observations = [Observations([segment.market], [segment.scaling]) for segment in segments]
    bars = np.arange(20, 400)
    flat = np.zeros(380)
    calm, wild = (table.at(bars, flat) for table in observations)
    assert np.array_equal(calm[:, 20:], wild[:, 20:])
    assert np.array_equal(calm[19:], wild[19:])


@pytest.mark.parametrize(("per_day", "per_year"), [(1, 252), (7, 7 * 252), (24, 24 * 365)])
def test_a_shock_fades_by_the_same_share_a_day_in_files_of_any_bars(make_prices, write, per_day, per_year):
    """Prices that stand still but for one jump: a month, 21 trading days, later 0.94 ** 21 of its variance is left."""
    days = pd.date_range("2010-01-04", periods=80) if per_day == 24 else pd.bdate_range("2010-01-04", periods=80)
    step = pd.Timedelta(hours=1)
    times = [day + step * bar for day in days for bar in range(per_day)]
    steady = make_prices(len(times)).assign(date=times, open=100.0, high=100.0, low=100.0, close=100.0)
    steady.loc[40 * per_day :, ["open", "high", "low", "close"]] = 105.0
    (market,) = load_markets([write(steady)])
    assert market.bars_per_year == per_year
    jump = 40 * per_day
    days_before = jump * 252 / per_year
    shares = (market.volatility[jump:] / market.volatility[jump]) ** 2
    whole = (1 - 0.94**days_before) / (1 - 0.94 ** (days_before + 21))  # of the weights, before and after
    assert shares[per_year // 12] == pytest.approx(0.94**21 * whole, rel=1e-9)


def test_real_index_is_the_vix_where_there_is_one(market):
    real = load_shipped("sp500", "real")
    published = vix.load()["vix"]
    day = np.flatnonzero(real.dates == np.datetime64("2015-08-24"))[0]
    assert real.index[day] == published.loc["2015-08-24"] > 40
    assert np.array_equal(real.index[20:3000], market.index[20:3000])


def test_estimate_correlates_with_the_vix_as_documented(market):
    real = load_shipped("sp500", "real")
    both = market.dates >= np.datetime64("2014-01-03")
    assert np.corrcoef(real.index[both], market.index[both])[0, 1] == pytest.approx(0.83, abs=0.01)


def test_bounds_belong_to_the_regime_above():
    assert DEFAULT_REGIMES.labels(np.array([14.99, 15.0, 25.0, 40.0])).tolist() == [0, 1, 2, 3]


def test_periods_include_both_dates_and_refuse_what_is_none(market):
    year = period_of(market, "2008-01-02", "2008-12-31")
    assert len(year) == 253
    assert date_text(market.dates[year[0]]) == "2008-01-02"
    assert date_text(market.dates[year[-1]]) == "2008-12-31"
    for days, expected in (
        (("2020-01-01", "2021-01-01"), "market.test: the period .* is not covered by sp500, .* to 2018-12-31"),
        (("first of May", "2021-01-01"), "market.test: a period is given by two ISO dates"),
        (("2011-01-01", "2010-01-01"), "market.test: the period .* ends before it begins"),
    ):
        with pytest.raises(ValueError, match=expected):
            check_periods(MarketConfig(test=days), ["test"], [market])


def test_the_same_data_have_the_same_fingerprint(market):
    assert market.fingerprint() == load_shipped("sp500").fingerprint()
    assert market.fingerprint() != load_shipped("sp500", "real").fingerprint()


@pytest.mark.parametrize("bar", [20, 2500, -1])
@pytest.mark.parametrize("name", ["dates", "open", "close", "index"])
def test_the_fingerprint_tells_one_other_number(market, name, bar):
    values = getattr(market, name).copy()
    values[bar] += 1 if name == "dates" else 1e-9
    assert replace(market, **{name: values}).fingerprint() != market.fingerprint()


def test_the_fingerprint_is_that_of_the_bars_that_are_used(market):
    whole = market.fingerprint()
    assert next(iter(whole)) == "1999-01"
    assert len(whole) == 240  # months of 20 years
    until = period_of(market, "1999-01-01", "2010-12-31").stop - 1
    used = market.fingerprint(until)
    assert list(used.items()) == list(whole.items())[:144]
    changed = market.close.copy()
    changed[until + 1 :] *= 2  # bars that are appended, or change, later
    assert replace(market, close=changed).fingerprint(until) == used
    changed[100] *= 1.0001
    differs = replace(market, close=changed).fingerprint(until)
    assert [month for month in used if used[month] != differs[month]] == [str(market.dates[100].astype("M8[M]"))]


def test_nasdaq_has_its_own_bounds_from_training():
    nasdaq = load_shipped("nasdaq")
    assert nasdaq.close[-1] == pytest.approx(6635.28, abs=0.01)
    train = period_of(nasdaq, "1999-01-01", "2008-12-31")
    bounded = replace(nasdaq, regimes=nasdaq.regimes.fitted(nasdaq.index, train))
    assert bounded.regimes.bounds == pytest.approx(np.quantile(nasdaq.index[20 : train.stop], [0.383, 0.898, 0.986]))
    shares = np.bincount(bounded.regime[20 : train.stop]) / (len(train) - 20)
    assert shares == pytest.approx([0.383, 0.515, 0.088, 0.014], abs=0.001)


@pytest.fixture
def write(tmp_path, make_prices):
    """A function that writes a table, by default made-up prices, and gives its path."""

    def write(table=None, name="prices.csv", **columns):
        table = (make_prices() if table is None else table).assign(**columns)
        path = tmp_path / name
        table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
        return str(path)

    return write


def test_csv_and_parquet_give_the_same_market(write, make_prices):
    (from_csv,), (from_parquet,) = load_markets([write()]), load_markets([write(name="prices.parquet")])
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


def test_own_index_is_taken_and_must_cover_the_periods(write, make_prices):
    own = np.full(600, 33.0)
    own[:50] = np.nan
    path = write(vix=own)
    market = covered(path, 50, 599)
    assert np.all(market.index[50:] == 33.0)
    assert market.index[20:50] == pytest.approx(6.517 + 0.7027 * market.volatility[20:50])
    with pytest.raises(ValueError, match=r"no volatility_index for 10 of the bars .* the first on 2000-02-28"):
        covered(path, 40, 599)
    assert np.isfinite(load_markets([path], "estimated")[0].index[20:]).all()
    with pytest.raises(ValueError, match="no column volatility_index"):
        load_markets([write()], "real")
    with pytest.raises(ValueError, match="no real index"):
        load_markets(["nasdaq"], "real")


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
        load_markets([write(make_prices(700), "daily.csv"), write(make_prices(700).assign(date=times))])


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
        (lambda t: t.iloc[[*range(300), *range(301, 600), 300]], r"row 600 .*far from those of the rows around it"),
        (lambda t: pd.concat([t[:100], t[99:]]), r"row 101 .*2000-05-19.*same date"),
        (lambda t: spoiled(t, 17, "close", np.nan), r"row 17 after the header \(date 2000-01-25\): close of prices"),
        (lambda t: spoiled(t, 17, "open", "n/a"), "row 17 .*open of prices is not a finite number, it is 'n/a'"),
        (lambda t: spoiled(t, 17, "high", np.inf), "row 17 .*high of prices is not a finite number"),
        (lambda t: spoiled(t, 17, "close", 0), "row 17 .*close of prices is not positive"),
        (lambda t: spoiled(t, 17, "low", -3), "row 17 .*low of prices is not positive"),
        (lambda t: t.assign(high=t["low"] * 0.9), "row 1 .*high of prices is below its low; 599 more"),
        (lambda t: spoiled(t, 17, "date", "25/01/2000"), r"row 17 .*25/01/2000.*ISO"),
        (lambda t: spoiled(t, 17, "date", None), "row 17 .*ISO"),
        (
            lambda t: t.assign(open=[1e-3] * 17 + [1e3] * 583, close=[1e-3] * 17 + [1e3] * 583, low=1e-4, high=1e4),
            "row 18 .*open of prices changed by a factor",
        ),
        (lambda t: spoiled(t, 17, "open", 1e6), "row 17 .*open of prices is outside its low and high"),
        (lambda t: spoiled(t, 17, "date", "2000-01-25T00:00+09:00"), "row 1 .*no time zone, and others have one"),
        (lambda t: spoiled(t, 17, "close", "True"), "row 17 .*not a finite number"),
        (lambda t: t[:59], r"59 row\(s\) of prices, from 2000-01-03 to 2000-03-23: at least 60"),
        (lambda t: t[:0], "header and no rows"),
        (lambda t: t.assign(Date=t["date"].shift(-1)), "two columns for date: date and Date"),
        (lambda t: t.assign(symbol=[None] + ["A"] * 599), "row 1 .*symbol is missing"),
        (lambda t: t.assign(vix=-1.0), "volatility_index of prices is not positive"),
        (lambda t: t.assign(vix="high"), "volatility_index of prices is not a number, it is 'high'"),
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
    [(b"", "cannot be read"), (b"\xff\xfe\x00\x01", "prices.csv"), (b"PK\x03\x04", "prices.csv"), (b"a,b\n1", "lacks")],
)
def test_files_that_are_no_table_are_refused(tmp_path, content, expected):
    for name in ("prices.csv", "prices.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=expected if name.endswith("csv") else "cannot be read"):
            load_markets([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("date,open,high,low,close\n2000-01-03,1,234.5,1,235,1,233,1,234\n", "more fields than its header"),
    ],
)
def test_other_dialects_are_refused_with_what_to_do(tmp_path, text, expected):
    (tmp_path / "prices.csv").write_text(text)
    with pytest.raises(ValueError, match=expected):
        load_markets([str(tmp_path / "prices.csv")])


def test_jumps_and_gaps_are_told(write, make_prices, market):
    assert oddities(market) == []
    table = make_prices()
    table.loc[300:, ["open", "high", "low", "close"]] /= 4
    table = table.drop(index=range(100, 130))
    jump, gap = (oddity.text for oddity in oddities(load_markets([write(table)])[0]))
    assert "close of prices moves by -7" in jump
    assert str(table["date"][300].date()) in jump
    assert f"no bar for 45 days from {table['date'][99].date()}" in gap


def test_paths_that_are_no_data_are_refused(tmp_path):
    for entry, expected in (
        ("nowhere.csv", "no file"),
        ("sp5000", "sp500, nasdaq"),
        (str(tmp_path), "holds no file that ends in .csv"),
    ):
        with pytest.raises(ValueError, match=expected):
            load_markets([entry])


def test_periods_outside_the_data_are_refused(market):
    check_periods(MarketConfig(test=("1998-12-28", "2019-01-08")), ["test"], [market])  # a few days over: holidays
    for days in (("1990-01-01", "2008-12-31"), ("2011-01-01", "2030-12-31")):
        with pytest.raises(ValueError, match=r"is not covered by sp500, whose 5031 bars .* 1999-01-04 to 2018-12-31"):
            check_periods(MarketConfig(test=days), ["test"], [market])


CELLS = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.text(max_size=8), st.dates(), st.none())


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 6), CELLS), min_size=1, max_size=4))
@example([(59, 6, 1e39)])
@example([(0, 0, date(1997, 1, 1))])  # three years before the next bar
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    core = MarketCore([Segment.scaled_by(market, range(60, 100), range(25, 60))], costs=TradingCosts(-10.0, 10.0))
    for action in np.linspace(-10, 10, 40):
        assert np.isfinite(core.observations()).all()
        assert np.isfinite(core.step(np.array([action])).reward).all()


@given(st.binary(max_size=300) | st.text(alphabet='date,opnhiglwcs0123456789.-\n"e', max_size=400).map(str.encode))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_makes_a_library_fail(tmp_path, content):
    for header in (b"", b"date,open,high,low,close\n"):
        (tmp_path / "prices.csv").write_bytes(header + content)
        with pytest.raises(ValueError, match=r"prices\.csv") as refusal:  # 60 rows do not fit
            load_markets([str(tmp_path / "prices.csv")])
        assert type(refusal.value) is ValueError
        assert "\n" not in str(refusal.value)
