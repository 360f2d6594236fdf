"""Meaning of a column by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

PRICES = ("open", "high", "low", "close")
CLOSES = ("close", "adjusted_close")
TRADED = (*PRICES, "adjusted_close")
FIELDS = (*TRADED, "volatility_index", "volume")
COLUMNS = ("date", "time", "symbol", *FIELDS)  # names in ``market.columns``

# Names in lower case with underscores. The first group with a match decides, so "last" is the close only without a
# "close".
MAYBE_DATES = (
    "day",
    "index",
    "unnamed_0",
    "level_0",
)  # only if they hold dates: others hold weekdays or row numbers
ALIASES: dict[str, tuple[str, ...]] = {
    "date": (
        "date datetime timestamp date_time time_stamp gmt_time utc_time local_time unix unix_timestamp epoch open_time "
        "time ts t dt trade_date trading_date trading_day observation_date bar_time start_time window_start "
        "timestamp_ms dates",
        " ".join(MAYBE_DATES),
    ),
    "symbol": (
        "symbol ticker tic sym",
        "ts_code stock code asset instrument security secid contract pair stock_code stock_symbol ticker_symbol",
        "name",
    ),
    "open": ("open", "open_price opening opening_price price_open px_open o"),
    "high": ("high", "high_price price_high px_high h max_price"),
    "low": ("low", "low_price price_low px_low l min_price"),
    "close": (
        "close close_last close_price closing closing_price price_close px_close last_close c",
        "price last px_last settle settlement settlement_price last_price",
    ),
    "volume": (
        "volume",
        "vol trade_volume total_volume v",
        "real_volume",
        "tickvol tick_volume base_volume",
    ),
}
TIERS = {role: [group.split() for group in groups] for role, groups in ALIASES.items()}

TICKER = re.compile(r"[A-Z0-9^$#.=:/\-]{1,15}")

# Patterns of names. An overlooked column of adjusted closes would turn splits into crashes.
PATTERNS = {
    "adjusted_close": re.compile(
        r"adj(usted)?|(adj|adjusted|split_adjusted)_?(clos(e|ing)|last|price|prc)(_price|_last)?"
        r"|(clos(e|ing)|last|price)(_price)?_?(adj|adjusted)"
    ),
    "volatility_index": re.compile(r"(cboe_)?(vix|volatility_index)(_?(close|cls|last|value|index))?"),
}


def plain(name: object) -> str:
    """
    :param name: column name in a file
    :return: name in lower case with underscores, without brackets, units and numbering: "<DATE>" and "1. date" give
        "date"
    """
    text = re.sub(r"\([^)]*\)", " ", str(name))
    text = text.strip(" <>[]\"'*#\ufeff")
    text = re.sub(r"^\d+[a-z]?\.\s*", "", text)

    # Split words at capitals and other marks.
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)

    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def role_of(name: object) -> str | None:
    """:return: possible role of a column with this name, None: the name is unknown"""
    text = plain(name)
    for role, tiers in TIERS.items():
        if any(text in tier for tier in tiers):
            return role

    for role, pattern in PATTERNS.items():
        if pattern.fullmatch(text):
            return role

    return None


def unnumbered(name: str) -> str:
    """:return: name without the number that distinguishes equal names: "close" for "close.1" """
    return re.sub(r"(?<=[a-z])\.\d+$", "", name)


def candidates(role: str, names: Iterable[str]) -> list[str]:
    """:return: names with the strongest claim to the role, in order; several are a conflict"""
    texts = {name: plain(unnumbered(name)) for name in names}
    if role in PATTERNS:
        return [name for name, text in texts.items() if PATTERNS[role].fullmatch(text)]

    for tier in TIERS[role]:
        of_tier = [name for name, text in texts.items() if text in tier]
        if of_tier:
            return of_tier

    return []


def split_pair(name: str) -> tuple[str, str] | None:
    """:return: (field, symbol) of names like SPY.Open, Close_SPY or ('Close', 'SPY'), None: no such name"""
    tuple_text = re.fullmatch(r"\(['\"]([^'\"]*)['\"], ['\"]([^'\"]*)['\"]\)", name)
    if tuple_text:
        parts = [(tuple_text[1], tuple_text[2])]
    else:
        marks = re.finditer(r"[._ :|/-]", name)
        parts = [(name[: mark.start()], name[mark.end() :]) for mark in marks]

    # Take the longest field on either side of a mark.
    pairs = [(right, left) for left, right in parts if left and role_of(right) in FIELDS]
    pairs += [(left, right) for left, right in parts if right and role_of(left) in FIELDS]

    return max(pairs, key=lambda pair: len(pair[0]), default=None)
