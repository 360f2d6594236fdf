"""Finished markets: their index and their fingerprints."""

from dataclasses import replace

import numpy as np
import pytest
from markets import covered, load_markets, load_shipped

from market_regimes.market.periods import period_of


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


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


@pytest.fixture
def write(tmp_path, make_prices):
    """A function that writes a table, by default made-up prices, and gives its path."""

    def write(table=None, name="prices.csv", **columns):
        table = (make_prices() if table is None else table).assign(**columns)
        path = tmp_path / name
        table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
        return str(path)

    return write


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
