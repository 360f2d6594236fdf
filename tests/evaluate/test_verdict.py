"""The sentence that an evaluation begins with."""

import pytest

from market_regimes.evaluate.verdict import verdict_of, verdict_of_seeds


def result(own, held, share):
    return {
        "joint": {"agent": {"sharpe_ratio": own}, "buy and hold": {"sharpe_ratio": held}},
        "share_of_random_timings_below_agent": share,
    }


@pytest.mark.parametrize(
    ("own", "held", "share", "sentence"),
    [
        (
            0.45,
            0.67,
            0.76,
            "Lost to buy-and-hold: Sharpe ratio 0.45 against 0.67; its timing cannot be told from luck: 76 of 100 "
            "shifted copies are worse.",
        ),
        (
            1.204,
            0.67,
            0.95,
            "Beat buy-and-hold: Sharpe ratio 1.20 against 0.67; its timing is better than luck: 95 of 100 "
            "shifted copies are worse.",
        ),
        (
            -0.5,
            -0.503,
            0.05,
            "Level with buy-and-hold: Sharpe ratio -0.50 against -0.50; its timing is worse than luck: 5 of 100 "
            "shifted copies are worse.",
        ),
        (
            0.45,
            None,
            0.94,
            "Sharpe ratio 0.45; buy-and-hold has none; its timing cannot be told from luck: 94 of 100 shifted copies "
            "are worse.",
        ),
        (
            0.45,
            0.44,
            0.06,
            "Beat buy-and-hold: Sharpe ratio 0.45 against 0.44; its timing cannot be told from luck",
        ),
    ],
)
def test_the_verdict_in_words(own, held, share, sentence):
    assert verdict_of(result(own, held, share)).startswith(sentence)


def test_an_agent_that_never_trades_has_no_verdict_on_its_timing():
    assert "has no Sharpe ratio" in verdict_of(result(None, 0.67, None))


def test_the_verdict_on_another_environment_is_its_mean_return():
    one = {"joint": {"agent": {"mean_reward": 123.456, "std_reward": 7.0}}}
    assert verdict_of(one) == "Mean return 123.46 over new episodes, standard deviation 7.00."
    assert verdict_of_seeds([one, one]) == "Median of the mean returns of 2 seeds: 123.46."


def test_the_verdict_on_several_seeds_counts_them():
    results = [result(0.7, 0.67, 0.99), result(0.1, 0.67, 0.5), result(None, 0.67, None), result(0.5, 0.67, 0.95)]
    assert verdict_of_seeds(results) == (
        "1 of 4 seeds beat buy-and-hold: median Sharpe ratio 0.50 against 0.67; the timing of 2 is better than luck."
    )
