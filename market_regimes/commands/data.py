"""The command ``data``."""

from __future__ import annotations

import json

import jsonargparse

from market_regimes.commands.arguments import Parser
from market_regimes.commands.building import refusals
from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.market.describe import SHOWN, absent, described, lines_of, table_of, warnings_of
from market_regimes.market.segments import read_data


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
    many = len(symbols) > SHOWN
    lines = table_of(symbols, read.read) if many else [line for symbol in symbols for line in lines_of(symbol)]
    warnings = warnings_of(read.read, with_moves=True)
    for line in [*lines, *absent(read), *(f"warning: {sentence}" for sentence in warnings)]:
        print(line)
