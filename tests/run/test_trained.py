"""What a run keeps of its symbols, and other bars as its agent sees them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.environment import MarketCore
from market_regimes.market.features import WINDOW
from market_regimes.market.segment import Segment
from market_regimes.market.segments import segments_of
from market_regimes.prices import read_frame
from market_regimes.run.signal import outside_training
from market_regimes.run.trained import Trained, counterpart, notes_on_training_days, segments_as_trained, trained_on

SP500 = MarketConfig()


@pytest.fixture(scope="module")
def known():
    return trained_on(segments_of(SP500))


def test_the_days_bounds_and_the_index_of_the_sp500(known):
    (found,) = known.values()
    assert list(known) == ["S&P 500"]
    assert found.periods == {"train": ("1999-01-04", "2008-12-31"), "validation": ("2009-01-02", "2010-12-31")}
    assert (found.bounds, found.bars_per_year, found.own_index) == ((15.0, 25.0, 40.0), 252, False)
    assert found.scaling.returns == pytest.approx((np.log(848.92 / 933.22), np.log(1003.35 / 899.22)), abs=0.02)


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (MarketConfig("nasdaq"), False),
        (MarketConfig("synthetic"), True),
        (MarketConfig("sp500", "real", train=("1999-03-01", "2008-12-31"), test=("2014-06-02", "2018-12-31")), True),
    ],
)
def test_whether_the_index_is_the_datas_own(config, own):
    assert {entry.own_index for entry in trained_on(segments_of(config)).values()} == {own}


def test_json_keeps_every_bit(known):
    for symbol, entry in known.items():
        assert Trained.from_json(json.loads(json.dumps(entry.to_json()))) == known[symbol]


@pytest.mark.parametrize(
    "change",
    [
        {"bounds": [1.0, 2.0]},
        {"bars_per_year": 0.0},
        {"bars_per_year": None},
        {"own_index": 1},
        {"last_return_only": 1},
        {"periods": {"train": ["2000-01-01"]}},
        {"periods": {"train": ["2000-01-01", "today"]}},
        {"periods": {"train": ["2001-01-01", "2000-01-01"]}},
        {"periods": None},
        {"scaling": None},
    ],
)
def test_other_content_is_refused(known, change):
    with pytest.raises(ValueError, match=r"\w"):
        Trained.from_json(known["S&P 500"].to_json() | change)


def test_the_symbol_as_which_bars_are_seen(known):
    two = known | {"B": known["S&P 500"]}
    assert counterpart("B", two, None) == counterpart("B", two, "S&P 500") == "B"
    assert counterpart("C", two, "B") == "B"
    assert counterpart("C", known, None) == "S&P 500"
    for symbol, trained, like in (("C", two, None), ("B", two, "D")):
        with pytest.raises(ValueError, match="like="):
            counterpart(symbol, trained, like)


def test_bars_from_elsewhere_are_seen_as_in_training_and_warned_of_where_they_are_seen():
    """Of a run that was shown the last return only; the same bars under another name, with a jump five bars ago."""
    config = MarketConfig("synthetic_hidden")
    known = trained_on(segments_of(config))
    known = {symbol: Trained.from_json(json.loads(json.dumps(entry.to_json()))) for symbol, entry in known.items()}
    bars = read_bars(config)[0]
    close = bars.close * np.where(np.arange(len(bars.close)) < len(bars.close) - 5, 1, 3)
    (seen,) = segments_as_trained([replace(bars, source="mine.csv", close=close, open=close)], known, config)
    core = MarketCore([seen], episode_bars=None)
    core.start_at(core.bar, np.full(core.n_envs, 0.5))
    (row,) = core.observations()
    returns, scaling = np.diff(np.log(close[: seen.first + 1])), known[bars.symbol].scaling
    assert row[WINDOW - 1] == pytest.approx((returns[-1] - scaling.return_mean) / scaling.return_std, rel=1e-5)
    assert not np.delete(row, WINDOW - 1).any()
    assert outside_training(seen, known) == []
    shown = {symbol: replace(entry, last_return_only=False) for symbol, entry in known.items()}
    (seen,) = segments_as_trained([replace(bars, source="mine.csv", close=close, open=close)], shown, config)
    assert len(outside_training(seen, shown)) == 2  # the return of five bars ago and the volatility since


def test_segments_seen_are_those_of_the_run_where_the_bars_are_its_own(known):
    """Whatever the configuration says of bounds: they are kept."""
    (own,) = segments_of(SP500)["test"]
    (seen,) = segments_as_trained(read_bars(SP500), known, SP500, days=("2011-01-01", "2018-12-31"))
    assert (seen.first, seen.last, seen.scaling) == (own.first, own.last, own.scaling)
    assert seen.market.fingerprint() == own.market.fingerprint()
    assert np.array_equal(seen.market.regime, own.market.regime)
    moved = {"S&P 500": replace(known["S&P 500"], bounds=(10.0, 10.0, 12.0))}
    (seen,) = segments_as_trained(read_bars(SP500), moved, SP500)
    index = seen.market.index[20:]
    assert np.array_equal(seen.market.regime[20:], np.where(index < 10, 0, np.where(index < 12, 2, 3)))


def test_bars_per_year_that_the_configuration_states_are_not_inferred(known, make_prices):
    hourly = read_frame(make_prices(300, frequency="h"), "S&P 500")
    with pytest.raises(ValueError, match="8760 bars per year, and the run was trained on 252"):
        segments_as_trained(hourly, known, SP500)
    (seen,) = segments_as_trained(hourly, known, MarketConfig(bars_per_year=252))
    assert seen.market.bars_per_year == 252


@pytest.mark.parametrize(
    ("days", "sentences"),
    [
        (("2011-01-01", "2018-12-31"), ["the run was neither trained on nor chosen by any of these 2012 days"]),
        (
            ("2008-12-30", "2011-01-04"),
            [
                "2 of 508 days, 2008-12-30 to 2008-12-31, lie in the period that the run was trained on",
                "504 of 508 days, 2009-01-02 to 2010-12-31, lie in the period that its best model was chosen by",
            ],
        ),
        (
            ("2000-01-01", "2000-12-31"),
            ["252 of 252 days, 2000-01-03 to 2000-12-29, lie in the period that the run was trained on"],
        ),
    ],
)
def test_days_that_the_run_has_looked_at_are_counted(known, days, sentences):
    assert notes_on_training_days(segments_as_trained(read_bars(SP500), known, SP500, days=days), known) == sentences


def test_days_of_several_symbols_are_counted_once(known):
    (segment,) = segments_as_trained(read_bars(SP500), known, SP500, days=("2011-01-01", "2018-12-31"))
    longer = Segment(segment.market, range(segment.period.start - 1, segment.period.stop), segment.scaling)
    assert notes_on_training_days([segment, longer], known) == [
        "1 of 2013 days, 2010-12-31 to 2010-12-31, lie in the period that its best model was chosen by"
    ]
