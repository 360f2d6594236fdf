"""Prices, volatility index and regimes; the oracles are plain loops and the figures known of the S&P 500."""

from dataclasses import replace

import numpy as np
import pytest
from arch.data import vix

from market_regimes.data import REGIMES, date_text, ewma_volatility, load_shipped, regimes


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


def test_sp500_is_what_it_is_known_to_be(market):
    assert len(market.dates) == 5031
    assert (date_text(market.dates[0]), date_text(market.dates[-1])) == ("1999-01-04", "2018-12-31")
    assert market.close[-1] == pytest.approx(2506.85, abs=0.01)
    assert np.all(np.diff(market.dates.astype(int)) > 0)


def test_regimes_of_the_sp500(market):
    days = dict(zip(REGIMES, np.bincount(market.regime), strict=True))
    assert days == {"calm": 1927, "normal": 2592, "volatile": 442, "crash": 70}
    crash = market.dates[market.regime == 3]
    assert (date_text(crash[0]), date_text(crash[-1])) == ("2008-09-29", "2009-03-24")


def test_volatility_is_riskmetrics_by_a_loop(market):
    returns = np.diff(np.log(market.close[:300]))
    variance = returns[0] ** 2
    expected = [variance]
    for r in returns[1:]:
        variance = 0.94 * variance + 0.06 * r**2
        expected.append(variance)
    assert market.volatility[1:300] == pytest.approx(100 * np.sqrt(252 * np.array(expected)))


def test_real_index_is_the_vix_where_there_is_one(market):
    real = load_shipped("sp500", "real")
    published = vix.load()["vix"]
    day = np.flatnonzero(real.dates == np.datetime64("2015-08-24"))[0]
    assert real.index[day] == published.loc["2015-08-24"] > 40
    assert np.array_equal(real.index[:3000], market.index[:3000])


def test_estimate_correlates_with_the_vix_as_documented(market):
    real = load_shipped("sp500", "real")
    both = market.dates >= np.datetime64("2014-01-03")
    assert np.corrcoef(real.index[both], market.index[both])[0, 1] == pytest.approx(0.83, abs=0.01)


def test_bounds_belong_to_the_regime_above():
    assert regimes(np.array([14.99, 15.0, 25.0, 40.0])).tolist() == [0, 1, 2, 3]


def test_labels_know_nothing_of_the_future(market):
    close = market.close.copy()
    close[3000:] *= np.linspace(1.0, 3.0, len(close) - 3000)
    assert np.array_equal(ewma_volatility(close)[:3000], market.volatility[:3000])


def test_periods_include_both_dates_and_refuse_what_is_none(market):
    year = market.period("2008-01-02", "2008-12-31")
    assert len(year) == 253
    assert date_text(market.dates[year[0]]) == "2008-01-02"
    assert date_text(market.dates[year[-1]]) == "2008-12-31"
    with pytest.raises(ValueError, match="2018-12-31"):
        market.period("2020-01-01", "2021-01-01")
    with pytest.raises(ValueError, match="ISO dates"):
        market.period("first of May", "2021-01-01")


def test_fingerprint_tells_other_data(market):
    assert market.fingerprint() == load_shipped("sp500").fingerprint()
    assert market.fingerprint() != load_shipped("sp500", "real").fingerprint()
    assert market.fingerprint() != replace(market, close=market.close + 1e-9).fingerprint()
