"""Sides of a quote, which are no symbols: the bid and the ask of one instrument are one price."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from market_regimes.prices.columns import CLOSES, FIELDS, TICKER, role_of, split_pair

SIDES = {
    "bid": "bid",
    "bids": "bid",
    "ask": "ask",
    "asks": "ask",
    "offer": "ask",
    "mid": "mid",
    "midpoint": "mid",
}
SIDE = "(bids?|asks?|offer|midpoint|mid)"
PRICE = "(open|high|low|close|last|price|volume|vol)"


@dataclass(frozen=True)
class Quote:
    """
    What a column's name tells of a price of one side.

    :param side: "bid", "ask" or "mid"
    :param field: the rest of the name
    :param symbol: that the name has, "" if it has none
    """

    side: str
    field: str
    symbol: str

    @property
    def is_close(self) -> bool:
        """Whether it is the price of a close."""
        return role_of(self.field) in CLOSES


def without_side(name: str) -> tuple[str, str] | None:
    """
    :param name: of a column, a symbol or a file
    :return: the side of a quote that it names and the rest: ("bid", "Close") for "Bid Close", "Close.Bid", "closeBid",
        "bidclose" and "Close (bid)", ("ask", "") for "Ask"; None if it names no side, or two
    """
    # Part a side from a price that stands beside it in one word.
    text = re.sub(rf"(?i)(?<![a-z]){SIDE}{PRICE}(?![a-z])", r"\1 \2", name)
    text = re.sub(rf"(?i)(?<![a-z]){PRICE}{SIDE}(?![a-z])", r"\1 \2", text)
    sides = list(re.finditer(rf"(?i)(?<![a-z0-9]){SIDE}(?![a-z0-9])", text))
    if len(sides) != 1:
        return None

    # The rest, joined by the mark that the name uses.
    side = sides[0]
    before = re.sub(r"[\s._:|/(\[-]+$", "", text[: side.start()])
    after = re.sub(r"^[\s._:|/)\]-]+", "", text[side.end() :])
    mark = " "
    if "_" in name:
        mark = "_"
    rest = mark.join(part for part in (before, after) if part)

    return SIDES[side[1].lower()], rest


def quotes_of(names: Iterable[str], pairs: Mapping[str, tuple[str, str]]) -> dict[str, Quote]:
    """
    :param names: of the columns
    :param pairs: of columns that the file names by a field and a symbol: column -> (field, symbol)
    :return: the columns that hold one side of a quote: Bid Close and close_ask are no symbols called Bid and ask
    """
    # Beside a side there stands a field, a field and a symbol, or nothing.
    possible = _possible_quotes(names, pairs)

    quotes = {}
    for name, quote in possible.items():
        pair = split_pair(quote.field)
        if role_of(quote.field) in FIELDS:
            quotes[name] = quote
        elif pair is not None and not quote.symbol:
            quotes[name] = Quote(quote.side, *pair)
        elif any(other.field == quote.field and other.side != quote.side for other in possible.values()):
            quotes[name] = Quote(quote.side, "close", quote.field)  # EURUSD.Bid beside EURUSD.Ask

    # A single column BID is a ticker as good as any other in capitals.
    bare = [name for name in quotes if without_side(name) in (("bid", ""), ("ask", ""), ("mid", ""))]
    if len(bare) == 1 and TICKER.fullmatch(bare[0]):
        del quotes[bare[0]]
    return quotes


def _possible_quotes(names: Iterable[str], pairs: Mapping[str, tuple[str, str]]) -> dict[str, Quote]:
    """The columns whose name, field or symbol has a side; Mid Cap is among them."""
    possible = {}
    for name in names:
        # The side may stand in the field or in the symbol.
        field, symbol = pairs.get(name, (name, ""))
        of_field = without_side(field)
        of_symbol = without_side(symbol)
        if of_field is not None:
            side, rest = of_field
            possible[name] = Quote(side, rest or "close", symbol)
        elif of_symbol is not None and role_of(field) in FIELDS:
            side, rest = of_symbol
            possible[name] = Quote(side, field, rest)

    return possible
