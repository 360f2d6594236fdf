"""
Questions to a finished agent. Oracles: an account of four bars by hand, and evaluations under the conditions that the
question states.
"""

from dataclasses import replace

import numpy as np
import pytest
from builders import segment_of, walking_market
from markets import market_of_prices

from market_regimes.config import ArgumentError, PortfolioConfig, TradingCosts
from market_regimes.evaluate.evaluation import evaluate
from market_regimes.evaluate.portfolio import AccountAgent
from market_regimes.evaluate.question import Question
from market_regimes.evaluate.strategies import HOLD, INFORMED

# After 20 bars of warm-up decisions fall on closes 100, 110, 121 and 110; the opens after them are 105, 110, 132, 99.
WARM_UP = [100.0, 102.0] * 10
CLOSES = [*WARM_UP, 100.0, 110.0, 121.0, 110.0, 99.0]
OPENS = [*WARM_UP, 100.0, 105.0, 110.0, 132.0, 99.0]
FREE = TradingCosts(fee_bp=0.0, fill="next_open")
SHARED = PortfolioConfig(cash="shared")


def of_four_bars(closes_only=False):
    market = market_of_prices(CLOSES, OPENS)
    if closes_only:
        market = replace(market, fill="close")
    return [segment_of(market, first=21)]


def always_in(known):
    return np.ones(len(known.bar))


def in_turns(known):
    return (known.bar // 3 % 2).astype(float)


def walks():
    return [segment_of(walking_market(name, seed)) for seed, name in enumerate("ABC")]


def equity(question, costs=FREE, segments=None):
    evaluation = evaluate(always_in, segments or of_four_bars(), costs, question=question)
    return evaluation.agent.joint["equity"].to_numpy()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        # Bought at the open of 105, and held to 99.
        (Question(), [110 / 105, 121 / 105, 110 / 105, 99 / 105]),
        # One purchase at 2 + 3 bp: x = 1 - 0.0005 x, so that 1 / 1.0005 is left.
        (Question(fee=2, slippage=3), [110 / 105 / 1.0005, 121 / 105 / 1.0005, 110 / 105 / 1.0005, 99 / 105 / 1.0005]),
        # Bought at the close just seen, 100.
        (Question(fill="close"), [1.1, 1.21, 1.1, 0.99]),
        # Bought at the next close, 110: the first bar earns nothing.
        (Question(fill="next_close"), [1.0, 1.1, 1.0, 0.9]),
        (Question(fill="close", delay=1), [1.0, 1.1, 1.0, 0.9]),
        # Bought two bars later than at 105, at the open of 132.
        (Question(delay=2), [1.0, 1.0, 110 / 132, 99 / 132]),
        # All at once: at the close of 121, for 10 bp.
        (Question(10, 0, "next_close", 1), [1.0, 1.0, 110 / 121 / 1.001, 99 / 121 / 1.001]),
    ],
)
def test_four_bars_by_hand_for_the_agent_and_for_buy_and_hold(question, expected):
    evaluation = evaluate(always_in, of_four_bars(), FREE, question=question)

    assert evaluation.agent.joint["equity"].tolist() == pytest.approx(expected, abs=1e-12)
    assert evaluation.strategies[HOLD].joint["equity"].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("portfolio", [PortfolioConfig(), SHARED], ids=["separate", "shared"])
def test_costs_and_fill_are_those_of_an_evaluation_under_them(portfolio):
    asked = evaluate(in_turns, walks(), FREE, question=Question(5, 2, "close"), portfolio=portfolio)
    stated = TradingCosts(fee_bp=5.0, slippage_bp=2.0, fill="close")
    trained = evaluate(in_turns, walks(), stated, portfolio=portfolio)
    answer = asked.result(7)

    assert answer.pop("question") == {"fee": 5, "slippage": 2, "fill": "close", "delay": 0}
    assert answer == trained.result(7)
    assert answer["joint"] != evaluate(in_turns, walks(), FREE, portfolio=portfolio).result(7)["joint"]


@pytest.mark.parametrize("portfolio", [PortfolioConfig(), SHARED], ids=["separate", "shared"])
def test_a_delay_of_one_is_the_figure_one_bar_later(portfolio):
    plain = evaluate(in_turns, walks(), TradingCosts(), portfolio=portfolio)
    asked = evaluate(in_turns, walks(), TradingCosts(), portfolio=portfolio, question=Question(delay=1))

    assert asked.sharpe_ratio == plain.robustness["sharpe_ratio_one_bar_later"]
    assert asked.sharpe_ratio != plain.sharpe_ratio

    # Two bars later than the decision: the delay of the question and that of the figure add up.
    twice = evaluate(in_turns, walks(), TradingCosts(), portfolio=portfolio, question=Question(delay=2))
    assert asked.robustness["sharpe_ratio_one_bar_later"] == pytest.approx(twice.sharpe_ratio, abs=1e-12)


@pytest.mark.parametrize("portfolio", [PortfolioConfig(), SHARED], ids=["separate", "shared"])
def test_every_strategy_is_in_cash_until_its_first_order_is_filled(portfolio):
    asked = evaluate(in_turns, walks(), TradingCosts(), portfolio=portfolio, question=Question(delay=3))

    for strategy, account in asked.strategies.items():
        frame = account.joint
        assert (frame["return"].iloc[:3] == 0).all(), strategy
        assert (frame["position"].iloc[:3] == 0).all(), strategy
    assert asked.strategies[HOLD].joint["position"].iloc[3] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (dict(fee=-1.0), "fee=-1 must be .* nearest: 0"),
        (dict(slippage=1000.0), "slippage=1000 must be .* nearest: 999"),
        (dict(fee=float("nan")), "fee=nan .* nearest: 1"),
        (dict(fill="open"), "fill=open must be one of next_open, close, next_close"),
        (dict(delay=-1), "delay=-1: .* nearest: 0"),
    ],
)
def test_conditions_that_make_no_sense_are_refused_with_the_nearest(stated, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Question(**stated)


def test_bars_that_cannot_answer_are_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match="has no opening prices; nearest: fill=next_close"):
        equity(Question(fill="next_open"), segments=of_four_bars(closes_only=True))
    with pytest.raises(ArgumentError, match="delay=4: A has 4 bars; nearest: 3"):
        equity(Question(delay=4))
    with pytest.raises(ArgumentError, match="delay=3: A has 4 bars; nearest: 2"):
        equity(Question(fill="next_close", delay=3))


def test_a_question_has_a_name_for_files_and_a_sentence_for_headings():
    question = Question(5, 2.5, "next_close", 1)

    assert question.name == "fee-5-slippage-2.5-fill-next_close-delay-1"
    assert question.sentence == (
        "asked of the finished run: a fee of 5 bp, slippage of 2.5 bp, orders filled at the next close, every order 1 "
        "bar(s) later; all strategies trade so"
    )
    assert Question(fee=0).name == "fee-0"
    assert Question(fee=0).is_asked
    assert not Question().is_asked


def test_without_opens_the_fill_at_the_next_close_stands_beside():
    """Bought at 100, the close just seen: 0.99 in the end; bought at the next close, 110: 99 / 110."""
    evaluation = evaluate(always_in, of_four_bars(closes_only=True), TradingCosts(fee_bp=0.0, fill="close"))
    joint = evaluation.summary["joint"]

    assert list(joint)[:2] == ["agent", "agent, filled at the next close"]
    assert joint["agent"]["total_return"] == pytest.approx(-0.01, abs=1e-12)
    assert joint["agent, filled at the next close"]["total_return"] == pytest.approx(99 / 110 - 1, abs=1e-12)

    # With opens, and where a later fill is asked for, nothing needs to stand beside.
    with_opens = evaluate(always_in, of_four_bars(), FREE)
    asked = evaluate(always_in, of_four_bars(closes_only=True), FREE, question=Question(fill="next_close"))
    assert "agent, filled at the next close" not in with_opens.summary["joint"]
    assert "agent, filled at the next close" not in asked.summary["joint"]


@pytest.mark.parametrize("portfolio", [PortfolioConfig(), SHARED], ids=["separate", "shared"])
def test_the_next_close_fills_symbols_with_opens_too(portfolio):
    """A has opens and B has none: the next close is that of the bar after the decision for both."""
    with_opens = segment_of(walking_market("A", 0))
    closes_only = segment_of(replace(walking_market("B", 1), fill="close"))
    segments = [with_opens, closes_only]

    beside = evaluate(in_turns, segments, FREE, portfolio=portfolio).next_close
    asked = evaluate(in_turns, segments, FREE, portfolio=portfolio, question=Question(fill="next_close"))

    assert beside.joint["equity"].tolist() == pytest.approx(asked.agent.joint["equity"].tolist(), abs=1e-12)


@pytest.mark.parametrize("together", [False, True], ids=["symbols", "account"])
@pytest.mark.parametrize("delay", [1, 2, 7])
def test_an_account_that_rebalances_rarely_does_so_as_often_later(together, delay):
    """Orders of the rows 0, 5, 10, ... are filled ``delay`` rows later, at the weights that were wanted then."""
    segments = walks()[:2]
    wanted = np.random.default_rng(0).uniform(0.0, 0.5, (110, 2))
    portfolio = replace(SHARED, rebalance_every=5)

    def by_symbol(known):
        return wanted[known.bar - 20, known.symbol]

    def by_account(state):
        return wanted[state.row]

    agent = AccountAgent(lambda bench: by_account) if together else by_symbol
    played = evaluate(agent, segments, FREE, portfolio=portfolio, question=Question(delay=delay)).played

    rows = np.arange(len(played.account))
    ordered = (played.trades != 0).any(axis=1).to_numpy()
    assert np.flatnonzero(ordered).tolist() == [row for row in rows if row >= delay and (row - delay) % 5 == 0]

    weights = played.weights.to_numpy()[ordered]
    decided = rows[ordered] - delay
    np.testing.assert_allclose(weights, wanted[decided], atol=1e-12)


@pytest.mark.parametrize("portfolio", [PortfolioConfig(), SHARED], ids=["separate", "shared"])
def test_the_share_of_the_attainable_growth_by_hand(portfolio):
    evaluation = evaluate(in_turns, walks(), FREE, portfolio=portfolio)
    years = len(evaluation.agent.joint) / evaluation.rows_per_year
    growth = np.log(evaluation.agent.joint["equity"].iloc[-1]) / years

    assert evaluation.growth == pytest.approx(growth, abs=1e-12)
    assert evaluation.share_of_attainable_growth is None  # nobody knows the law of these walks

    # 0.03 of the way from 0.01 to 0.05: a half.
    known = replace(evaluation)
    known.__dict__.update(growth=0.03, growths={HOLD: 0.01, INFORMED: 0.05})
    assert known.share_of_attainable_growth == pytest.approx(0.5)
