"""What an evaluation showed, in a sentence or two."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from market_regimes.evaluate.robustness import AHEAD, AT_A_COST, BEHIND, MAX_COST_BP, is_too_short, over_seeds
from market_regimes.evaluate.strategies import AGENT, HOLD
from market_regimes.evaluate.tables import figure_text, median

LUCK = 0.05  # probability with which an agent without timing may be called better than luck, or worse
ALIKE = 0.005  # differences of Sharpe ratios below it are not shown
BETTER = "is better than luck"
WORSE = "is worse than luck"
UNTOLD = "cannot be told from luck"


def verdict_of(result: dict[str, Any]) -> str:
    """
    :param result: of one evaluation, as its JSON holds it
    :return: whether the agent beat buy-and-hold, whether its timing can be told from luck, and what costs and a later
        fill leave of it
    """
    agent = result["joint"][AGENT]
    hold = result["joint"].get(HOLD.label)
    if hold is None:
        return (
            f"Mean return {agent['mean_reward']:.2f} over new episodes, standard deviation {agent['std_reward']:.2f}."
        )
    ratio_of_hold = hold["sharpe_ratio"]
    figures = result["robustness"]
    if agent["sharpe_ratio"] is None:
        return _without_ratio(agent, ratio_of_hold)

    # Ruin, and periods that are too short for more.
    ratio = f"Sharpe ratio {agent['sharpe_ratio']:.2f}"
    symbols = len(result["symbols"])
    if figures["ruined"] and len(figures["ruined"]) == symbols:
        return f"{_ruin(figures['ruined'], symbols)}; {ratio}, {_of_hold(ratio_of_hold)}."
    if is_too_short(figures["years"]):
        return _too_short(figures["years"], "one seed", ratio, ratio_of_hold)

    # The lead, the timing, and what later fills and costs leave of them.
    later = figures["sharpe_ratio_one_bar_later"]
    if figures["fills_at_close"]:  # nobody trades at a close that is still to come
        ratio += f" ({figure_text('', later)} with orders filled one bar later)"
    against = _against(ratio, ratio_of_hold, figures, "one seed")
    sentences = [f"{against}; {_timing(result)}."]
    if figures["ruined"]:
        sentences.append(f"{_ruin(figures['ruined'], symbols)}.")
    return " ".join([*sentences, *_costs_and_delay(figures)])


def verdict_of_seeds(results: Collection[dict[str, Any]]) -> str:
    """
    :param results: of the same evaluation, one per seed
    :return: whether the seeds' mean Sharpe ratio is above that of buy-and-hold, how many seeds are above it, and the
        timing of how many can be told from luck
    """
    first = next(iter(results))
    agents = [result["joint"][AGENT] for result in results]
    if HOLD.label not in first["joint"]:
        mean = median([agent["mean_reward"] for agent in agents])
        return f"Median of the mean returns of {len(agents)} seeds: {figure_text('mean_reward', mean)}."
    if len(results) == 1:
        return verdict_of(first)

    figures = over_seeds(results)
    other = figures["sharpe_ratio_of_buy_and_hold"]
    seeds = f"{figures['seeds']} seeds"
    if not figures["seeds_with_sharpe_ratio"]:
        return f"No Sharpe ratio: the returns of all {seeds} are constant; {_of_hold(other)}."
    ratio = f"mean Sharpe ratio {figures['mean_sharpe_ratio']:.2f}"
    if is_too_short(figures["years"]):
        return _too_short(figures["years"], seeds, ratio, other)

    # The lead, and what a later fill leaves of it.
    all_robustness = [result["robustness"] for result in results]
    if any(each["fills_at_close"] for each in all_robustness):
        later = median([each["sharpe_ratio_one_bar_later"] for each in all_robustness])
        ratio += f" (median {figure_text('', later)} with orders filled one bar later)"
    sentence = _against(ratio, other, figures, seeds)
    if other is not None:
        sentence += f"; {figures['seeds_above']} of {seeds} have a higher ratio"

    # The timing, exceptions, and what costs leave.
    timed = sum(_relation_to_luck(result) == BETTER for result in results)
    sentence += f"; the timing of {timed} is better than luck."
    return " ".join([sentence, *_exceptions(figures, all_robustness), *_costs_and_delay_of_seeds(all_robustness)])


def _against(ratio: str, other: float | None, figures: dict[str, Any], seeds: str) -> str:
    """
    :param ratio: the agent's, in words
    :param other: that of buy-and-hold
    :param figures: with the difference and its interval
    :param seeds: on which it rests, in words
    """
    if other is None:
        return f"{ratio[0].upper()}{ratio[1:]}, {seeds}; buy-and-hold has none"

    # The interval of the difference.
    low = figures["sharpe_difference_low"]
    high = figures["sharpe_difference_high"]
    against = f"{ratio} against {other:.2f}"
    if low is None or high is None:
        return f"Cannot be told from buy-and-hold: {against}, {seeds}, too few bars for an interval"
    difference = f"difference {figures['sharpe_difference']:+.2f} [{low:+.2f}, {high:+.2f}], {seeds}"
    return f"{_relation(low, high)}: {against}, {difference}"


def _relation(low: float, high: float) -> str:
    """
    :param low: lower end of the interval of the difference
    :param high: upper end
    """
    if max(abs(low), abs(high)) < ALIKE:
        return "Level with buy-and-hold"
    if low > 0:
        return "Beat buy-and-hold"
    if high < 0:
        return "Lost to buy-and-hold"
    return "Cannot be told from buy-and-hold"


def _without_ratio(agent: dict[str, Any], other: float | None) -> str:
    """:param agent: figures of one whose returns do not vary"""
    reason = "it never held a position"
    if agent.get("exposure"):
        reason = "it held a position for one bar at most"
    return f"The agent's returns do not vary, so it has no Sharpe ratio: {reason}; {_of_hold(other)}."


def _of_hold(other: float | None) -> str:
    if other is None:
        return "buy-and-hold has none"
    return f"buy-and-hold has {other:.2f}"


def _ruin(ruined: dict[str, str], symbols: int) -> str:
    """
    :param ruined: per symbol the bar of its account's ruin
    :param symbols: how many are traded
    """
    symbol, bar = min(ruined.items(), key=lambda item: item[1])
    which = ""
    if symbols > 1:
        which = f" in {len(ruined)} of {symbols} symbols, first in {symbol},"
    return f"Ruined{which} on {bar}: 99 % of the equity there is lost"


def _too_short(years: float, seeds: str, ratio: str, other: float | None) -> str:
    reason = f"{years:.2f} years of bars, and at least one is needed"
    return f"Too short to tell: {reason}; {ratio}, {seeds}, {_of_hold(other)}."


def _timing(result: dict[str, Any]) -> str:
    """
    :param result: of one evaluation, with the agent's rank among its shifted copies
    :return: whether the agent's timing can be told from luck
    """
    copies = result["random_timings"]
    relation = _relation_to_luck(result)
    if not copies:
        return f"its timing {relation}: no shifted copy has a Sharpe ratio"

    # With few copies even the best of all may be so by luck.
    words = f"its timing {relation}: {result['random_timings_below_agent']} of {copies} shifted copies are worse"
    equal = result["random_timings_equal_to_agent"]
    if equal:
        words += f", {equal} as good"
    return words


def _relation_to_luck(result: dict[str, Any]) -> str:
    """
    Without timing the agent is one of n + 1 that are drawn alike, so that each rank has a probability of 1 / (n + 1).
    Equal copies count against both answers.

    :param result: of one evaluation, with the agent's rank among its n shifted copies
    """
    copies = result["random_timings"]
    if not copies:
        return UNTOLD

    # The agent's highest and its lowest rank.
    below = result["random_timings_below_agent"]
    equal = result["random_timings_equal_to_agent"]
    if copies - below + 1 <= LUCK * (copies + 1):
        return BETTER
    if below + equal + 1 <= LUCK * (copies + 1):
        return WORSE
    return UNTOLD


def _costs_and_delay(figures: dict[str, Any]) -> list[str]:
    """
    :param figures: from ``robustness``
    :return: sentences on the break-even cost and, where orders fill at the open, on a later fill
    """
    sentences = []
    if figures["break_even"] == AT_A_COST:
        sentences.append(f"Costs of {figures['break_even_cost_bp']:.1f} bp of the traded value end its lead.")
    if figures["break_even"] == BEHIND:
        sentences.append("It has no lead even at no cost.")
    if figures["break_even"] == AHEAD:
        sentences.append(f"Its lead outlasts costs of {MAX_COST_BP:g} bp of the traded value.")
    if not figures["fills_at_close"]:
        later = figure_text("", figures["sharpe_ratio_one_bar_later"])
        sentences.append(f"With orders filled one bar later its Sharpe ratio is {later}.")
    return sentences


def _exceptions(figures: dict[str, Any], all_robustness: list[dict[str, Any]]) -> list[str]:
    """Sentences on seeds that have no Sharpe ratio or were ruined."""
    sentences = []

    # Left out of the mean.
    without = figures["seeds"] - figures["seeds_with_sharpe_ratio"]
    if without:
        sentences.append(f"The mean leaves out {without} of {figures['seeds']} seeds, whose returns do not vary.")

    # Ruined.
    ruined = sum(bool(each["ruined"]) for each in all_robustness)
    if ruined:
        sentences.append(f"{ruined} of {figures['seeds']} seeds were ruined.")
    return sentences


def _costs_and_delay_of_seeds(all_robustness: list[dict[str, Any]]) -> list[str]:
    """The same for several seeds."""
    costs = [each["break_even_cost_bp"] for each in all_robustness if each["break_even"] == AT_A_COST]
    leading = len(costs) + sum(each["break_even"] == AHEAD for each in all_robustness)
    sentences = [f"At no cost {leading} of {len(all_robustness)} seeds lead."]
    if costs:
        span = f"{costs[0]:.1f} bp"
        if len(costs) > 1:
            span = f"{min(costs):.1f} to {max(costs):.1f} bp"
        sentences.append(f"Costs of {span} of the traded value end the lead of {len(costs)}.")
    if not any(each["fills_at_close"] for each in all_robustness):
        later = median([each["sharpe_ratio_one_bar_later"] for each in all_robustness])
        sentences.append(f"With orders filled one bar later the median Sharpe ratio is {figure_text('', later)}.")
    return sentences
