"""The command ``data``."""

from __future__ import annotations

import json

import jsonargparse

from market_regimes.commands.arguments import Parser
from market_regimes.commands.building import refusals
from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.market.describe import absent, described, lines_of, read_data, warnings_of


def data(parser: Parser, config: jsonargparse.Namespace) -> None:
    """Say what is read from files."""
    with refusals(parser):
        keys = config.market.as_dict()
        trading = TradingCosts(**keys.pop("trading"))
        read = read_data(MarketConfig(data=config.files, trading=trading, **keys))
    symbols = described(read)
    if config.json:
        print(json.dumps(symbols, indent=2))
        return
    for symbol in symbols:
        print("\n".join(lines_of(symbol)))
    for line in [*absent(read), *(f"warning: {sentence}" for sentence in warnings_of(read.read))]:
        print(line)
