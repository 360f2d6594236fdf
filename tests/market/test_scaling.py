"""The numbers that a run keeps of its training period. Oracle: numpy on a handful of bars, by hand."""

import json
import math

import numpy as np
import pytest

from market_regimes.market.scaling import Scaling, log_returns

CLOSE = np.exp([0.0, 0.1, 0.3, 0.2, 0.2, 0.9])  # log returns 0, 0.1, 0.2, -0.1, 0, 0.7
VOLATILITY = np.array([np.nan, 10.0, 12.0, 14.0, 30.0, 99.0])
INDEX = np.array([np.nan, 15.0, np.nan, 25.0, 20.0, 99.0])


def scaling():
    return Scaling.of(CLOSE, VOLATILITY, INDEX, fitted=range(1, 5), observed=range(2, 5), window=2)


def test_statistics_and_ranges_by_hand():
    found = scaling()
    assert log_returns(CLOSE) == pytest.approx([0.0, 0.1, 0.2, -0.1, 0.0, 0.7])
    # Mean 0.05 and mean square (0.01 + 0.04 + 0.01 + 0) / 4 = 0.015: variance 0.015 - 0.0025 = 0.0125.
    assert (found.return_mean, found.return_std) == pytest.approx((0.05, math.sqrt(0.0125)))
    # 10, 12, 14, 30: mean 16.5, squares 36 + 16 + 4 + 196 about 16: variance 63 - 0.25 = 62.75; median 13.
    assert (found.volatility_mean, found.volatility_std) == pytest.approx((16.5, math.sqrt(62.75)))
    assert found.median_volatility == 13.0
    assert found.returns == pytest.approx((-0.1, 0.2))  # windows of two from bar 1 to bar 4
    assert found.volatility == (12.0, 30.0)
    assert found.index == (20.0, 25.0)


def test_windows_reach_back_to_the_first_bar_at_most():
    found = Scaling.of(CLOSE, VOLATILITY, INDEX, fitted=range(1, 5), observed=range(1, 3), window=20)
    assert found.returns == pytest.approx((0.0, 0.2))


def test_json_keeps_every_bit():
    found = scaling()
    assert Scaling.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "change",
    [
        {"return_std": 0.0},
        {"volatility_std": -1.0},
        {"return_mean": float("nan")},
        {"return_std": float("inf")},
        {"returns": [1.0, -1.0]},
        {"index": [1.0, float("inf")]},
        {"index": [1.0]},
        {"index": None},
        {"return_mean": "0"},
        {"colour": 1.0},
    ],
)
def test_other_content_is_refused(change):
    with pytest.raises(ValueError, match=r"\w"):
        Scaling.from_json(scaling().to_json() | change)
    for other in (None, [], {}, "text"):
        with pytest.raises(ValueError, match=r"\w"):
            Scaling.from_json(other)
