"""The sentences at the top of a comparison. Expected values are written out."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.compare.headline import headline


def effect(variant, metric, difference, low, high, verdict, market="all"):
    return dict(
        market=market, variant=variant, metric=metric, difference=difference, low=low, high=high, verdict=verdict
    )


EFFECTS = pd.DataFrame(
    [
        effect("a", "test_sharpe", 0.25, 0.125, 0.375, "better"),
        effect("b", "test_sharpe", -0.5, -0.75, -0.25, "worse"),
        effect("c", "test_sharpe", 0.0, -0.1, 0.1, "no difference shown"),
        effect("c", "test_sharpe", 9.0, 8.0, 10.0, "better", market="sp500"),  # of one market: not what is said
        effect("a", "value_loss_spread", 0.0, -0.1, 0.1, "no difference shown"),
        effect("a", "test_mean_reward", 5.0, 4.0, 6.0, "better"),  # another metric
    ]
)
SHARPE = pd.DataFrame(
    [
        dict(market="x", variant="a", sharpe=1.5, hold=1.0, informed=3.0, attained=0.25),
        dict(market="x", variant="b", sharpe=0.5, hold=1.0, informed=3.0, attained=-0.25),
        dict(market="y", variant="a", sharpe=0.25, hold=0.5, informed=np.nan, attained=np.nan),
        dict(market="z", variant="a", sharpe=np.nan, hold=0.5, informed=np.nan, attained=np.nan),
    ]
)
DAILY = pd.DataFrame(
    dict(market=["x", "x", "y", "z"], date=pd.to_datetime(["2001-01-02", "2002-03-04", "2005-05-05", "2006-06-06"]))
)


def test_what_is_said_of_variants_and_markets():
    assert headline(EFFECTS, SHARPE, DAILY, "base") == [
        "Higher Sharpe ratio on the test days than base: a (+0.250 [+0.125, +0.375]); "
        "lower: b (-0.500 [-0.750, -0.250]).",
        "Value loss that spreads less than that of base: no variant.",
        "x, tested on 2001-01-02 to 2002-03-04: 1 of 2 variants beat buy-and-hold; best is a, "
        "Sharpe ratio 1.50 against 1.00, 25 % of what is attainable (3.00).",
        "y, tested on 2005-05-05 to 2005-05-05: 0 of 1 variants beat buy-and-hold; best is a, "
        "Sharpe ratio 0.25 against 0.50.",
    ]


def test_under_five_seeds_nothing_is_told():
    few = pd.DataFrame([effect("a", "test_sharpe", 0.25, None, None, "n/a")])
    assert headline(few, pd.DataFrame(), DAILY, "base") == [
        "Higher Sharpe ratio on the test days than base: cannot be told, since fewer than 5 seeds have a value."
    ]


@pytest.mark.parametrize("effects", [pd.DataFrame(), EFFECTS[EFFECTS["metric"] == "test_mean_reward"]])
def test_without_figures_there_is_no_sentence(effects):
    assert headline(effects, pd.DataFrame(), pd.DataFrame(columns=["market", "date"]), "base") == []
