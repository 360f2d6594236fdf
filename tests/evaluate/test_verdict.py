"""The sentences that an evaluation begins with."""

import pytest

from market_regimes.evaluate.robustness import AHEAD, ALIKE, AT_A_COST, BEHIND
from market_regimes.evaluate.verdict import verdict_of, verdict_of_seeds


def result(own, held, share=0.5, interval=None, cost=None, **changed):
    """Of four years of an agent, as the JSON holds it; a cost is that at which its lead ends."""
    low, high = interval or (None, None)
    robustness = {
        "years": 4.0,
        "sharpe_difference": None if own is None or held is None else own - held,
        "sharpe_difference_low": low,
        "sharpe_difference_high": high,
        "sharpe_difference_std_error": None if own is None else 0.2,
        "sharpe_ratio_one_bar_later": None if own is None else own - 0.25,
        "break_even": BEHIND if cost is None else AT_A_COST,
        "break_even_cost_bp": cost,
        "fills_at_close": False,
        "ruined": {},
    }
    return {
        "joint": {"agent": {"sharpe_ratio": own, "exposure": 0.5}, "buy and hold": {"sharpe_ratio": held}},
        "symbols": {"A": {}},
        "random_timings": 0 if share is None else 100,
        "random_timings_below_agent": None if share is None else round(100 * share),
        "random_timings_equal_to_agent": None if share is None else 0,
        "robustness": robustness | changed,
    }


@pytest.mark.parametrize(
    ("one", "sentences"),
    [
        (
            result(0.45, 0.67, 0.76, (-0.6, 0.16)),
            "Cannot be told from buy-and-hold: Sharpe ratio 0.45 against 0.67, difference -0.22 [-0.60, +0.16], "
            "one seed; "
            "its timing cannot be told from luck: 76 of 100 shifted copies are worse. It has no lead even at no cost. "
            "With orders filled one bar later its Sharpe ratio is 0.20.",
        ),
        (  # what the program called beaten before
            result(1.22, 0.93, 0.99, (-0.11, 0.65), cost=6.04),
            "Cannot be told from buy-and-hold: Sharpe ratio 1.22 against 0.93, difference +0.29 [-0.11, +0.65], "
            "one seed; "
            "its timing is better than luck: 99 of 100 shifted copies are worse. Costs of 6.0 bp of the traded "
            "value end "
            "its lead. With orders filled one bar later its Sharpe ratio is 0.97.",
        ),
        (
            result(1.204, 0.67, 0.96, (0.01, 1.06), break_even=AHEAD),
            "Beat buy-and-hold: Sharpe ratio 1.20 against 0.67, difference +0.53 [+0.01, +1.06], one seed; its "
            "timing is "
            "better than luck: 96 of 100 shifted copies are worse. Its lead outlasts costs of 500 bp of the "
            "traded value. "
            "With orders filled one bar later its Sharpe ratio is 0.95.",
        ),
        (
            result(-0.5, 0.25, 0.04, (-1.5, -0.01)),
            "Lost to buy-and-hold: Sharpe ratio -0.50 against 0.25, difference -0.75 [-1.50, -0.01], one seed; "
            "its timing "
            "is worse than luck: 4 of 100 shifted copies are worse. It has no lead even at no cost. With orders filled "
            "one bar later its Sharpe ratio is -0.75.",
        ),
        (
            result(0.67, 0.67, 0.05, (0.0, 0.0), break_even=ALIKE),
            "Level with buy-and-hold: Sharpe ratio 0.67 against 0.67, difference +0.00 [+0.00, +0.00], one seed; its "
            "timing cannot be told from luck: 5 of 100 shifted copies are worse. With orders filled one bar later its "
            "Sharpe ratio is 0.42.",
        ),
        (
            result(0.45, None, 0.95),
            "Sharpe ratio 0.45, one seed; buy-and-hold has none; its timing cannot be told from luck: 95 of 100 "
            "shifted "
            "copies are worse. It has no lead even at no cost. With orders filled one bar later its Sharpe ratio "
            "is 0.20.",
        ),
        (  # closes only: the later fill stands in the first sentence, once
            result(0.9, 0.5, 0.5, (0.1, 0.7), cost=12.0, fills_at_close=True),
            "Beat buy-and-hold: Sharpe ratio 0.90 (0.65 with orders filled one bar later) against 0.50, "
            "difference +0.40 "
            "[+0.10, +0.70], one seed; its timing cannot be told from luck: 50 of 100 shifted copies are worse. "
            "Costs of "
            "12.0 bp of the traded value end its lead.",
        ),
        (
            result(3.0, 0.5, 0.99, (1.0, 4.0), years=0.5),
            "Too short to tell: 0.50 years of bars, and at least one is needed; Sharpe ratio 3.00, one seed, "
            "buy-and-hold has 0.50.",
        ),
        (
            result(0.2, 0.5, 0.4),
            "Cannot be told from buy-and-hold: Sharpe ratio 0.20 against 0.50, one seed, too few bars for an "
            "interval; its "
            "timing cannot be told from luck: 40 of 100 shifted copies are worse. It has no lead even at no cost. With "
            "orders filled one bar later its Sharpe ratio is -0.05.",
        ),
        (
            result(-0.2, 0.5, 0.4, (-1.5, 0.1), ruined={"A": "2008-10-08"}),
            "Ruined on 2008-10-08: 99 % of the equity there is lost; Sharpe ratio -0.20, buy-and-hold has 0.50.",
        ),
        (
            result(-0.2, 0.5, 0.4, (-1.5, 0.1), ruined={"A": "2008-10-08"}) | {"symbols": {"A": {}, "B": {}}},
            "Cannot be told from buy-and-hold: Sharpe ratio -0.20 against 0.50, difference -0.70 [-1.50, +0.10], "
            "one seed; "
            "its timing cannot be told from luck: 40 of 100 shifted copies are worse. Ruined in 1 of 2 symbols, "
            "first in "
            "A, on 2008-10-08: 99 % of the equity there is lost. It has no lead even at no cost. With orders "
            "filled one "
            "bar later its Sharpe ratio is -0.45.",
        ),
    ],
)
def test_the_verdict_in_words(one, sentences):
    assert verdict_of(one) == sentences


@pytest.mark.parametrize(
    ("exposure", "held", "sentence"),
    [
        (0.0, 0.67, "it never held a position; buy-and-hold has 0.67."),
        (0.5, None, "it held a position for one bar at most; buy-and-hold has none."),
    ],
)
def test_an_agent_whose_returns_do_not_vary_has_no_verdict_on_its_timing(exposure, held, sentence):
    one = result(None, held, None)
    one["joint"]["agent"]["exposure"] = exposure
    assert verdict_of(one) == f"The agent's returns do not vary, so it has no Sharpe ratio: {sentence}"


def test_the_verdict_on_another_environment_is_its_mean_return():
    one = {"joint": {"agent": {"mean_reward": 123.456, "std_reward": 7.0}}}
    assert verdict_of(one) == "Mean return 123.46 over new episodes, standard deviation 7.00."
    assert verdict_of_seeds([one, one]) == "Median of the mean returns of 2 seeds: 123.46."


def test_the_verdict_on_several_seeds_is_one_for_all():
    """
    Differences 0.03, -0.57 and -0.17: mean -0.2367, variance 0.09333, over three seeds 0.03111; days 0.2^2 = 0.04. Sum
    0.07111, degrees of freedom 0.07111^2 / (0.03111^2 / 2) = 10.45: t 2.2154 times 0.26667 is 0.5908.
    """
    results = [
        result(0.7, 0.67, 0.99, cost=2.0),
        result(0.1, 0.67, 0.5),
        result(None, 0.67, None, break_even="no turnover"),
        result(0.5, 0.67, 0.96, cost=0.5),
    ]
    assert verdict_of_seeds(results) == (
        "Cannot be told from buy-and-hold: mean Sharpe ratio 0.43 against 0.67, difference -0.24 [-0.83, +0.35], "
        "4 seeds; "
        "1 of 4 seeds have a higher ratio; the timing of 2 is better than luck. The mean leaves out 1 of 4 "
        "seeds, whose "
        "returns do not vary. At no cost 2 of 4 seeds lead. Costs of 0.5 to 2.0 bp of the traded value end the "
        "lead of 2. "
        "With orders filled one bar later the median Sharpe ratio is 0.25."
    )


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ((1.70, 1.72, 1.68), "Beat buy-and-hold: mean Sharpe ratio 1.70 against 0.67"),
        ((-0.35, -0.33, -0.37), "Lost to buy-and-hold: mean Sharpe ratio -0.35 against 0.67"),
        ((4.0, 1.0), "Cannot be told from buy-and-hold: mean Sharpe ratio 2.50 against 0.67"),  # seeds that differ
        ((0.8,), "Cannot be told from buy-and-hold: Sharpe ratio 0.80 against 0.67, difference +0.13 [-0.20, +0.40]"),
        ((None, None), "No Sharpe ratio: the returns of all 2 seeds are constant; buy-and-hold has 0.67."),
    ],
)
def test_seeds_beat_the_market_where_their_interval_leaves_out_0(ratios, words):
    assert verdict_of_seeds([result(ratio, 0.67, 0.5, (-0.2, 0.4)) for ratio in ratios]).startswith(words)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(years=0.9), "Too short to tell: 0.90 years of bars, and at least one is needed; mean Sharpe ratio 1.70"),
        (dict(fills_at_close=True), "Beat buy-and-hold: mean Sharpe ratio 1.70 (median 1.45 with orders filled one"),
    ],
)
def test_short_periods_and_fills_at_the_close_of_several_seeds(changed, words):
    assert verdict_of_seeds([result(1.7, 0.67, 0.5, **changed) for _ in range(2)]).startswith(words)


def test_seeds_that_were_ruined_are_named():
    results = [result(0.7, 0.67, 0.99, ruined={"A": "2008-10-08"}), result(0.1, 0.67, 0.5)]
    assert " 1 of 2 seeds were ruined. " in verdict_of_seeds(results)


@pytest.mark.parametrize(
    ("copies", "below", "equal", "words"),
    [
        (100, 96, 0, "is better than luck: 96 of 100 shifted copies are worse"),  # 5 of 101 ranks are so high: 4.95 %
        (100, 95, 0, "cannot be told from luck: 95 of 100 shifted copies are worse"),  # 6 of 101: 5.94 %
        (100, 4, 0, "is worse than luck: 4 of 100 shifted copies are worse"),
        (100, 5, 0, "cannot be told from luck: 5 of 100 shifted copies are worse"),
        (19, 19, 0, "is better than luck: 19 of 19 shifted copies are worse"),  # 1 of 20: 5 %
        (18, 18, 0, "cannot be told from luck: 18 of 18 shifted copies are worse"),  # 1 of 19: 5.3 %
        (9, 9, 0, "cannot be told from luck: 9 of 9 shifted copies are worse"),  # 1 of 10: 10 %
        (9, 0, 0, "cannot be told from luck: 0 of 9 shifted copies are worse"),
        (51, 49, 0, "cannot be told from luck: 49 of 51 shifted copies are worse"),  # 3 of 52: 5.8 %
        (51, 50, 0, "is better than luck: 50 of 51 shifted copies are worse"),  # 2 of 52: 3.8 %
        (100, 0, 100, "cannot be told from luck: 0 of 100 shifted copies are worse, 100 as good"),
        (100, 95, 5, "cannot be told from luck: 95 of 100 shifted copies are worse, 5 as good"),
        (100, 0, 5, "cannot be told from luck: 0 of 100 shifted copies are worse, 5 as good"),
        (0, None, None, "cannot be told from luck: no shifted copy has a Sharpe ratio"),
    ],
)
def test_the_sentence_counts_the_copies_that_were_drawn_and_their_ranks_hold_a_twentieth(copies, below, equal, words):
    """An agent without timing has each of the n + 1 ranks with equal probability."""
    one = result(0.9, 0.5, 0.5, (-0.1, 0.7))
    one |= {
        "random_timings": copies,
        "random_timings_below_agent": below,
        "random_timings_equal_to_agent": equal,
    }
    assert f"; its timing {words}." in verdict_of(one)
    timed = int("better" in words)
    assert f"the timing of {2 * timed} is better than luck." in verdict_of_seeds([one, one])
