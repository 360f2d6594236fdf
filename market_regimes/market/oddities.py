"""Prices that are unusual but usable: jumps, splits that were not adjusted, gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.market.market import Market
from market_regimes.market.periods import date_text
from market_regimes.prices import BarLength, Bars, bar_length

JUMP = 2.0  # factor between two closes from which a user is told
SPLITS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)  # shares for one
SPLIT_STDS = 4.0  # usual moves by which a ratio may differ from that of a split
NEIGHBOURS = 20  # bars on each side of a move, whose median is the usual move
ROBUST_STD = 1.4826  # standard deviation over median of absolute normal moves
LEAST_STD = 0.005  # of a bar
GAP_DAYS = 20  # days without a bar from which a user is told
USUAL_GAPS = 10  # median distances of bars that make a gap long, where bars are rare

TAKEN_BACK = "moves that are taken back at the next bar"
LIKE_A_SPLIT = "moves like a split that was not adjusted"
LARGE = "moves by a factor of two or more"
GAPS = "long gaps"
QUESTIONS = {
    TAKEN_BACK: " and back at the next bar; a mistaken price?",
    LIKE_A_SPLIT: "; a split that was not adjusted?",
    LARGE: ", by no ratio of a split:",
}


@dataclass(frozen=True)
class Oddity:
    """
    What may be wrong with a symbol's prices, or may not be.

    :param kind: what it has in common with those of other symbols
    :param symbol: whose
    :param text: a sentence with file, symbol and date
    """

    kind: str
    symbol: str
    text: str


def oddities(bars: Bars | Market) -> list[Oddity]:
    """
    :return: the largest move that the next bar takes back, the largest like a split, the largest other one by a factor
        of two, and a long gap, where there are such: no errors, but they may be some
    """
    move = np.diff(np.log(bars.close))
    is_large = np.abs(move) > np.log(JUMP)
    is_taken_back = _taken_back(move, is_large)
    is_split = _like_splits(bars, move) & ~is_taken_back
    masks = {TAKEN_BACK: is_taken_back, LIKE_A_SPLIT: is_split, LARGE: is_large & ~is_split & ~is_taken_back}

    moves = [_largest_move(bars, move, mask, kind) for kind, mask in masks.items() if mask.any()]
    return moves + _long_gap(bars)


def _taken_back(move: np.ndarray, is_large: np.ndarray) -> np.ndarray:
    """Large moves of which the next bar takes back more than half, and the moves that do so, shape (T - 1,)."""
    rest = np.abs(move[:-1] + move[1:])
    first = np.append(is_large[:-1] & (rest < np.abs(move[:-1]) / 2), False)
    second = np.insert(first[:-1], 0, False)
    either: np.ndarray = first | second
    return either


def _largest_move(bars: Bars | Market, move: np.ndarray, mask: np.ndarray, kind: str) -> Oddity:
    bar = int(np.argmax(np.where(mask, np.abs(move), 0.0))) + 1
    change = 100 * (bars.close[bar] / bars.close[bar - 1] - 1)
    text = (
        f"{bars.source}: close of {bars.symbol} moves by {change:+.0f} % on {date_text(bars.dates[bar])}"
        f"{QUESTIONS[kind]} {int(mask.sum())} such bar(s)"
    )
    return Oddity(kind, bars.symbol, text)


def _long_gap(bars: Bars | Market) -> list[Oddity]:
    """The longest gap, if it is long."""
    days = np.diff(bars.dates).astype("m8[D]").astype(int)
    gap = int(np.argmax(days))
    if days[gap] <= max(GAP_DAYS, USUAL_GAPS * float(np.median(days))):
        return []
    since = date_text(bars.dates[gap])
    return [Oddity(GAPS, bars.symbol, f"{bars.source}: {bars.symbol} has no bar for {days[gap]} days from {since}")]


def _like_splits(bars: Bars | Market, move: np.ndarray) -> np.ndarray:
    """
    Closes that differ by the ratio of a split and a usual move; of days, opens must do so as well, since shares are
    split over night. A crash falls in the session, or by a ratio that no split has.

    :param move: log returns, shape (T - 1,)
    :return: mask of the returns, shape (T - 1,)
    """
    # The usual move is the median of the bars around, which the split itself does not move.
    size = pd.Series(np.abs(move))
    around = size.rolling(2 * NEIGHBOURS + 1, center=True, min_periods=NEIGHBOURS).median().to_numpy()
    usual = np.fmax(around, float(size.median()))
    spread = np.maximum(usual * ROBUST_STD, LEAST_STD)

    is_split = _is_ratio(move, spread)
    length = bar_length(bars.dates)
    is_daily = length.unit == "second" or length == BarLength("day", 1)
    if is_daily and bars.fill == "open" and not np.array_equal(bars.open, bars.close):
        overnight = np.log(bars.open[1:] / bars.close[:-1])
        is_split &= _is_ratio(overnight, spread)
    return is_split


def _is_ratio(move: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Whether each log return is near the logarithm of a split's ratio, shape (T - 1,)."""
    distance = np.abs(np.abs(move)[:, None] - np.log(SPLITS)).min(axis=1)
    is_near: np.ndarray = distance <= SPLIT_STDS * spread
    return is_near
