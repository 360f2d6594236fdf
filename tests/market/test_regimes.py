"""Volatility, its index and the regimes; the oracles are plain loops and the figures known of the S&P 500."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from markets import load_markets, load_shipped

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.market import market_of
from market_regimes.market.observations import Observations
from market_regimes.market.periods import date_text, period_of
from market_regimes.market.regimes import (
    DEFAULT_REGIMES,
    Regimes,
    estimated_index,
    ewma_volatility,
    groups_of,
    regimes_of,
)
from market_regimes.market.segment import Segment
from market_regimes.market.segments import segments_of


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


def test_regimes_of_the_sp500(market):
    assert np.all(market.regime[:20] == -1)

    days = dict(zip(DEFAULT_REGIMES.names, np.bincount(market.regime[20:]), strict=True))

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
    whole, cut = (
        ewma_volatility(close, per_year),
        ewma_volatility(close[dropped:], per_year),
    )

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
        market = replace(
            market_of(bars, MarketConfig(volatility_index="auto"), range(0, 300), 399),
            symbol="A",
        )
        own = np.where(np.arange(400) < 20, np.nan, 20 + np.arange(400) / 10)
        volatility = np.where(np.arange(400) < 20, np.nan, 5 + np.arange(400) % 7)
        market = replace(
            market,
            index=own,
            volatility=volatility,
            regimes=DEFAULT_REGIMES.fitted(own, range(0, 300)),
        )
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


def test_estimate_correlates_with_the_vix_as_documented(market):
    real = load_shipped("sp500", "real")
    both = market.dates >= np.datetime64("2014-01-03")

    assert np.corrcoef(real.index[both], market.index[both])[0, 1] == pytest.approx(0.83, abs=0.01)


def test_bounds_belong_to_the_regime_above():
    assert DEFAULT_REGIMES.labels(np.array([14.99, 15.0, 25.0, 40.0])).tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_nasdaq_has_its_own_bounds_from_training():
    nasdaq = load_shipped("nasdaq")

    assert nasdaq.close[-1] == pytest.approx(6635.28, abs=0.01)

    train = period_of(nasdaq, "1999-01-01", "2008-12-31")
    bounded = replace(nasdaq, regimes=nasdaq.regimes.fitted(nasdaq.index, train))

    assert bounded.regimes.bounds == pytest.approx(np.quantile(nasdaq.index[20 : train.stop], [0.383, 0.898, 0.986]))

    shares = np.bincount(bounded.regime[20 : train.stop]) / (len(train) - 20)

    assert shares == pytest.approx([0.383, 0.515, 0.088, 0.014], abs=0.001)


FIVE = Regimes(
    ("still", "calm", "usual", "wild", "storm"),
    (10.0, 15.0, 25.0, 40.0),
    (0.1, 0.4, 0.9, 0.98),
)


def test_five_regimes_label_a_market_as_four_do():
    index = np.array([np.nan, 9.99, 10.0, 24.0, 25.0, 40.0])

    assert FIVE.labels(index).tolist() == [-1, 0, 1, 2, 3, 4]

    market = replace(load_shipped("sp500"), regimes=FIVE)

    assert market.regime.max() == 4
    assert market.regime[:20].tolist() == [-1] * 20


def test_bounds_of_five_regimes_are_their_quantiles():
    """Of the numbers 0 to 1000 the share q lies at 1000 q."""
    assert FIVE.fitted(np.arange(1001.0), range(0, 1001)).bounds == pytest.approx([100, 400, 900, 980])


@pytest.mark.parametrize("bounds", [(15.0, 25.0), (15.0, 25.0, 40.0, 50.0)])
def test_bounds_that_do_not_fit_the_names_are_refused(bounds):
    with pytest.raises(ValueError, match="4 regimes need 3 bounds"):
        Regimes(bounds=bounds)


FIVE_NAMES = ["quiet", "calmish", "normal", "rough", "panic"]


def test_five_regimes_are_labelled_by_the_bounds_that_the_configuration_states():
    config = MarketConfig(regimes=FIVE_NAMES, regime_bounds=(12.0, 16.0, 22.0, 35.0))
    regimes = regimes_of(config)

    assert regimes.names == tuple(FIVE_NAMES)
    assert regimes.labels(np.array([11.9, 12.0, 16.0, 21.9, 22.0, 34.9, 35.0, np.nan])).tolist() == [
        0,
        1,
        2,
        2,
        3,
        3,
        4,
        -1,
    ]


def test_quantiles_of_the_training_period_bound_the_regimes():
    regimes = regimes_of(MarketConfig(regimes=["low", "middle", "high"], regime_quantiles=(0.25, 0.75)))
    assert regimes.bounds == ()

    # Of 1, 2, ..., 101 a quarter lies below 26 and three quarters below 76.
    fitted = regimes.fitted(np.arange(1.0, 202.0), range(0, 101))
    assert fitted.bounds == (26.0, 76.0)


def test_stated_quantiles_decide_for_the_sp500_too():
    config = MarketConfig("sp500", regime_quantiles=(0.5, 0.9, 0.99))
    (segment,) = segments_of(config)["train"]
    index = segment.market.index[segment.training.start : segment.training.stop]

    expected = np.nanquantile(index, (0.5, 0.9, 0.99))
    assert segment.market.regimes.bounds == pytest.approx(expected)


def test_other_names_alone_keep_the_default_bounds():
    regimes = regimes_of(MarketConfig(regimes=["a", "b", "c", "d"]))
    assert regimes == replace(DEFAULT_REGIMES, names=("a", "b", "c", "d"))
    assert regimes_of(MarketConfig()) == DEFAULT_REGIMES


@pytest.mark.parametrize(
    ("names", "stormy"),
    [(2, (1,)), (3, (2,)), (4, (2, 3)), (5, (3, 4)), (6, (3, 4, 5))],
)
def test_the_upper_half_of_the_regimes_is_stormy(names, stormy):
    groups = groups_of([f"regime{position}" for position in range(names)])

    assert groups["calm"] == (0,)
    assert groups["crash"] == (names - 1,)
    assert groups["stormy"] == stormy
    assert [groups[f"regime{position}"] for position in range(names)] == [(position,) for position in range(names)]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (dict(regimes=["one"]), "at least two different names"),
        (dict(regimes=["a", "b", "a", "c"]), "at least two different names"),
        (dict(regimes=["a", "b/c", "d", "e"]), "'b/c' must be a letter, then letters, digits and underscores"),
        (dict(regimes=["a", "calm", "b", "c"]), "only the first may be called calm"),
        (dict(regimes=["crash", "a", "b", "c"]), "only the last crash"),
        (dict(regimes=["a", "stormy", "b", "c"]), "none stormy"),
        (dict(regimes=FIVE_NAMES), "names 5 regimes: market.regime_bounds says at which 4 points"),
        (dict(regimes=FIVE_NAMES, regime_bounds=(15.0, 25.0, 40.0)), "regime_bounds of 5 regimes must be 4 increasing"),
        (dict(regime_bounds=(15.0, 25.0, 40.0, 50.0)), "regime_bounds of 4 regimes must be 3 increasing"),
        (dict(regime_bounds=(15.0, 15.0, 40.0)), "must be 3 increasing positive number"),
        (dict(regime_bounds=(0.0, 15.0, 40.0)), "must be 3 increasing positive number"),
        (dict(regime_quantiles=(0.2, 0.5, 1.0)), "below 1"),
        (dict(regime_quantiles=(0.2, 0.5, 0.9), regime_bounds=(15.0, 25.0, 40.0)), "give one"),
    ],
)
def test_regimes_that_contradict_themselves_are_refused(keys, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        MarketConfig(**keys)
