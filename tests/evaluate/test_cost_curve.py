"""Growth and Sharpe ratio over costs. Oracles: a closed form for constant turnover, backtests at the stated cost."""

import numpy as np
import pytest
from builders import segment_of, walking_market

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.cost_curve import crossing
from market_regimes.evaluate.evaluation import evaluate
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.question import Question


def in_turns(known):
    return (known.bar % 2).astype(float)


def walks(count, drift=0.01):
    return [segment_of(walking_market(name, seed, drift=drift)) for seed, name in enumerate("AB"[:count])]


@pytest.mark.parametrize(
    ("values", "cost"),
    [
        ([3.0, 1.0, -1.0], 3.0),  # half-way from 2 to 4
        ([3.0, 0.0, -1.0], 2.0),
        ([0.0, -1.0, -2.0], "below the grid"),
        ([3.0, 2.0, 1.0], "above the grid"),
        ([1.0, -1.0, 1.0], 1.0),  # the first of two
    ],
)
def test_the_first_cost_without_a_lead_lies_straight_between_those_of_the_grid(values, cost):
    assert crossing([0.0, 2.0, 4.0], np.array(values)) == cost


def test_the_break_even_of_constant_turnover_has_a_closed_form():
    """
    All in, all out, on every bar: a purchase leaves 1 / (1 + c) and a sale 1 - c. With n purchases and m sales the
    growth is g - n log(1 + c) - m log(1 - c)^-1, about g - (n + m) c, which is 0 at c = g / (n + m).
    """
    segments = walks(1, drift=0.02)
    free = evaluate(in_turns, segments, TradingCosts(fee_bp=0.0))
    account = free.agent.joint
    orders = int((account["trade"].abs() > 1e-9).sum())
    expected = 1e4 * np.log(account["equity"].iloc[-1]) / orders
    assert expected > 1

    curve = free.cost_curve(np.linspace(0, 2 * expected, 41).tolist())
    assert curve.break_even["no_growth"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("cash", ["separate", "shared"])
def test_each_cost_is_that_of_a_question_to_an_agent_that_does_not_see_its_position(cash, delay):
    """The orders of the agent and of buy-and-hold are as late as the question says."""
    portfolio = PortfolioConfig(cash=cash)
    later = Question(delay=delay)
    curve = evaluate(in_turns, walks(2), TradingCosts(), portfolio=portfolio, question=later).cost_curve([5.0, 0.0])
    assert curve.costs == [0.0, 5.0]

    for i, cost in enumerate(curve.costs):
        question = Question(fee=cost, delay=delay)
        asked = evaluate(in_turns, walks(2), TradingCosts(), portfolio=portfolio, question=question)
        agent = figures(asked.agent.joint, asked.rows_per_year)
        assert curve.growth[i] == pytest.approx(agent["growth_per_year"], abs=1e-12)
        assert curve.sharpe[i] == pytest.approx(agent["sharpe_ratio"], abs=1e-10)
        hold = asked.summary["joint"]["buy and hold"]
        assert curve.growth_of_hold[i] == pytest.approx(hold["growth_per_year"], abs=1e-12)
