"""Sides of a quote. Bid and ask of an instrument are one price, not two symbols."""

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
    Meaning of a column name with one side of a quote.

    :param side: "bid", "ask" or "mid"
    :param field: rest of the name
    :param symbol: symbol in the name, "" without one
    """

    side: str
    field: str
    symbol: str

    @property
    def is_close(self) -> bool:
        """Return whether the price is a close."""
        return role_of(self.field) in CLOSES


def without_side(name: str) -> tuple[str, str] | None:
    """
    :param name: name of a column, a symbol or a file
    :return: side of a quote in the name, and the rest: ("bid", "Close") for "Bid Close", "Close.Bid", "closeBid",
        "bidclose" and "Close (bid)", ("ask", "") for "Ask". None: no side, or two
    """
    # Separate a side from a price in the same word.
    text = re.sub(rf"(?i)(?<![a-z]){SIDE}{PRICE}(?![a-z])", r"\1 \2", name)
    text = re.sub(rf"(?i)(?<![a-z]){PRICE}{SIDE}(?![a-z])", r"\1 \2", text)
    sides = list(re.finditer(rf"(?i)(?<![a-z0-9]){SIDE}(?![a-z0-9])", text))
    if len(sides) != 1:
        return None

    # Join the rest by the name's mark.
    side = sides[0]
    before = re.sub(r"[\s._:|/(\[-]+$", "", text[: side.start()])
    after = re.sub(r"^[\s._:|/)\]-]+", "", text[side.end() :])
    mark = " "
    if "_" in name:
        mark = "_"
    without = mark.join(part for part in (before, after) if part)

    return SIDES[side[1].lower()], without


def quotes_of(names: Iterable[str], pairs: Mapping[str, tuple[str, str]]) -> dict[str, Quote]:
    """
    :param names: names of the columns
    :param pairs: columns that the file names by a field and a symbol: column -> (field, symbol)
    :return: columns of one side of a quote. Bid Close and close_ask are no symbols called Bid and ask
    """
    # A side has a field, a field and a symbol, or nothing beside it.
    possible = _possible_quotes(names, pairs)

    quotes = {}
    for name, quote in possible.items():
        pair = split_pair(quote.field)
        if role_of(quote.field) in FIELDS:
            quotes[name] = quote
        elif pair is not None and not quote.symbol:
            quotes[name] = Quote(quote.side, *pair)
        elif any(peer.field == quote.field and peer.side != quote.side for peer in possible.values()):
            quotes[name] = Quote(quote.side, "close", quote.field)  # EURUSD.Bid beside EURUSD.Ask

    # A single column BID is a ticker like any other name in capitals.
    bare = [name for name in quotes if without_side(name) in (("bid", ""), ("ask", ""), ("mid", ""))]
    if len(bare) == 1 and TICKER.fullmatch(bare[0]):
        del quotes[bare[0]]
    return quotes


def _possible_quotes(names: Iterable[str], pairs: Mapping[str, tuple[str, str]]) -> dict[str, Quote]:
    """List the columns whose name, field or symbol has a side, including Mid Cap."""
    possible = {}
    for name in names:
        # The side may be in the field or in the symbol.
        field, symbol = pairs.get(name, (name, ""))
        of_field = without_side(field)
        of_symbol = without_side(symbol)
        if of_field is not None:
            side, name_part = of_field
            possible[name] = Quote(side, name_part or "close", symbol)
        elif of_symbol is not None and role_of(field) in FIELDS:
            side, name_part = of_symbol
            possible[name] = Quote(side, field, name_part)

    return possible
