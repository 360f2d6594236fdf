"""The sentences at the top of a comparison. Expected values are written out."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.compare.headline import alike, headline


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


def row(market, variant, sharpe, hold, ends, years=4.0, **more):
    """The seeds of a variant together; the ends are those of the interval of its difference from buy-and-hold."""
    low, high = ends
    lead = dict(lead_over_hold=sharpe - hold, lead_low=low, lead_high=high, years=years)
    rules = dict(informed=np.nan, attained_seeds_together=np.nan)
    return dict(market=market, variant=variant, sharpe_seeds_together=sharpe, hold=hold) | lead | rules | more


SHARPE = pd.DataFrame(
    [
        row("x", "a", 1.5, 1.0, (0.125, 0.875), informed=3.0, attained_seeds_together=0.25),
        row("x", "b", 0.5, 1.0, (-1.5, 0.5), informed=3.0, attained_seeds_together=-0.25),
        row("x", "c", 1.25, 1.0, (-0.25, 0.75)),  # above, and not told from buy-and-hold
        row("y", "a", 0.25, 0.5, (-0.5, 0.125)),
        row("z", "a", np.nan, 0.5, (np.nan, np.nan)),
        row("short", "a", 3.0, 0.5, (1.0, 4.0), years=0.5),
    ]
)
DAILY = pd.DataFrame(
    dict(
        market=["x", "x", "y", "z", "short"],
        date=pd.to_datetime(["2001-01-02", "2002-03-04", "2005-05-05", "2006-06-06", "2007-07-07"]),
    )
)


def test_what_is_said_of_variants_and_markets():
    assert headline(EFFECTS, SHARPE, DAILY, "base") == [
        "Higher Sharpe ratio on the test days than base: a (+0.250 [+0.125, +0.375]); "
        "lower: b (-0.500 [-0.750, -0.250]).",
        "Value loss that spreads less than that of base: no variant.",
        "x, tested on 2001-01-02 to 2002-03-04, each variant's seeds together: 1 of 3 variants beat "
        "buy-and-hold; best is "
        "a, Sharpe ratio 1.50 against 1.00, difference +0.50 [+0.12, +0.88], 25 % of what is attainable (3.00).",
        "y, tested on 2005-05-05 to 2005-05-05, each variant's seeds together: 0 of 1 variants beat "
        "buy-and-hold; best is "
        "a, Sharpe ratio 0.25 against 0.50, difference -0.25 [-0.50, +0.12].",
        "short, tested on 2007-07-07 to 2007-07-07, each variant's seeds together: too short to tell, 0.50 years "
        "of bars; "
        "best is a, Sharpe ratio 3.00 against 0.50, difference +2.50 [+1.00, +4.00].",
    ]


def test_growth_stands_beside_the_sharpe_ratio_of_the_best_variant():
    growths = dict(growth_seeds_together=0.125, hold_growth=0.0625)
    known = dict(attained_growth_seeds_together=0.5, informed_growth=0.1875)
    sharpe = pd.DataFrame(
        [
            row("x", "a", 1.5, 1.0, (0.125, 0.875), informed=3.0, attained_seeds_together=0.25, **growths, **known),
            row("y", "a", 0.25, 0.5, (-0.5, 0.125), **growths),
        ]
    )

    of_x, of_y = headline(pd.DataFrame(), sharpe, DAILY, "base")

    assert of_x.endswith(
        "25 % of what is attainable (3.00); it grows 12.5 % a year against 6.2 %, 50 % of what is attainable (18.8 %)."
    )
    assert of_y.endswith("difference -0.25 [-0.50, +0.12]; it grows 12.5 % a year against 6.2 %.")


def test_under_five_seeds_nothing_is_told():
    few = pd.DataFrame([effect("a", "test_sharpe", 0.25, None, None, "n/a")])
    assert headline(few, pd.DataFrame(), DAILY, "base") == [
        "Higher Sharpe ratio on the test days than base: cannot be told, since fewer than 5 seeds have a value."
    ]


@pytest.mark.parametrize("effects", [pd.DataFrame(), EFFECTS[EFFECTS["metric"] == "test_mean_reward"]])
def test_without_figures_there_is_no_sentence(effects):
    assert headline(effects, pd.DataFrame(), pd.DataFrame(columns=["market", "date"]), "base") == []


# Calm and stormy days


def test_the_sentence_on_calm_and_storm_is_of_the_medians():
    """Medians 2.0, 0.8, 1.1 and, of the other market, 1.3 and 0.5, whose logarithms are 0.26 and 0.69 from 0."""
    ratios = {
        ("one", "off"): (2.0, 9.0, 1.0),
        ("one", "small"): (0.8, 0.1, 1.0),
        ("one", "dsac"): (1.1, 1.0, 7.0),
        ("two", "off"): (1.3, 1.3, 1.3),
        ("two", "small"): (0.5, None, 0.5),
        ("three", "off"): (None, None, None),
    }
    cells = pd.DataFrame(
        [
            dict(market=market, variant=variant, seed=seed, status="ok", grad_ratio_stormy=ratio)
            for (market, variant), values in ratios.items()
            for seed, ratio in enumerate(values)
        ]
    )
    cells = pd.concat([cells, cells.iloc[:1].assign(status="failed", grad_ratio_stormy=0.0, seed=9)])
    about = "calm and stormy days pull the critic alike (a ratio of 0.8 to 1.25)"
    assert alike(cells) == [
        f"one: {about} with dsac (1.10); small (0.80).",
        f"two: {about} with none of 2 variants; closest is off (1.30).",
        "three: no ratio of gradients, because stormy or calm days are too few, or all policies recurrent.",
    ]
    assert alike(cells.drop(columns="grad_ratio_stormy"))[0].startswith("one: no ratio")


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        # 1.6 is a factor of 1.6 from alike, 0.5 one of 2, though 0.5 lies nearer to 1.
        ({"half": 0.5, "more": 1.6}, "with none of 2 variants; closest is more (1.60)."),
        ({"tenth": 0.1, "double": 2.5}, "with none of 2 variants; closest is double (2.50)."),
        # A factor of 1 / 0.815 = 1.227 is more than one of 1.21: 0.185 and 0.21 from 1.
        ({"below": 0.815, "above": 1.21}, "with above (1.21); below (0.81)."),
    ],
)
def test_gradient_ratios_are_ranked_by_their_factor_from_one(ratios, sentence):
    rows = [dict(market="one", variant=name, status="ok", grad_ratio_stormy=ratio) for name, ratio in ratios.items()]
    (found,) = alike(pd.DataFrame(rows))
    assert found.endswith(sentence)
