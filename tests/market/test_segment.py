"""The scaling of a segment by its training period."""

from dataclasses import replace

import numpy as np
import pytest

from market_regimes.market.environment import MarketCore
from market_regimes.market.segments import segments_of


def test_a_feature_that_does_not_move_in_training_is_refused(config_of, table):
    config = config_of(
        table.assign(macro=np.where(table.index < 325, 0.1, table["macro"])),
        features=["macro"],
    )

    with pytest.raises(ValueError, match="macro of own does not move from 2000-01-31 to 2001-03-30"):
        MarketCore(segments_of(config)["train"])


def test_the_close_before_the_training_period_is_observed_and_scales_nothing(config_of, table):
    """The period begins on bar 100. Its first decision falls on bar 99, whose feature is needed."""
    assert str(table["date"][100].date()) == "2000-05-22"

    table.loc[99, "macro"] = 1e6
    (segment,) = segments_of(replace(config_of(table, features=["macro"]), train=("2000-05-22", "2001-03-30")))["train"]
    found, training = segment.scaling.features["macro"], table["macro"][100:325]

    assert (found.mean, found.std) == pytest.approx((training.mean(), training.std(ddof=0)))
    assert found.seen == (training.min(), 1e6)

    for bar in (98, 99):
        config = config_of(table.assign(macro=table["macro"].where(table.index > bar)), features=["macro"])
        config = replace(config, train=("2000-05-22", "2001-03-30"))
        if bar == 98:
            assert len(segments_of(config)) == 3
        else:
            with pytest.raises(
                ValueError,
                match=r"row 100 after the header .*: macro of own has no value yet",
            ):
                segments_of(config)
