"""The command ``data``."""

from __future__ import annotations

import json

import jsonargparse

from market_regimes.commands.parser import Parser
from market_regimes.commands.refusals import refusals
from market_regimes.config import MarketConfig, PortfolioConfig, TradingCosts
from market_regimes.market.describe import SHOWN, absent, described, lines_of, table_of, warnings_of
from market_regimes.market.segments import read_data


def data(parser: Parser, config: jsonargparse.Namespace) -> None:
    """
    Print what is read from files.

    :param parser: refuses what cannot be read
    :param config: of the command
    """
    with refusals(parser):
        keys = config.market.as_dict()
        trading = TradingCosts(**keys.pop("trading"))
        portfolio = PortfolioConfig(**keys.pop("portfolio"))
        read = read_data(MarketConfig(data=config.files, trading=trading, portfolio=portfolio, **keys))
    symbols = described(read)
    if config.json:
        print(json.dumps(symbols, indent=2))
        return

    # Many symbols are a table, a few have lines of their own.
    if len(symbols) > SHOWN:
        lines = table_of(symbols, read.read)
    else:
        lines = [line for symbol in symbols for line in lines_of(symbol)]
    warnings = warnings_of(read.read, with_moves=True)
    for line in [*lines, *absent(read), *(f"warning: {sentence}" for sentence in warnings)]:
        print(line)
