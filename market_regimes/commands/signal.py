"""The command ``signal``."""

from __future__ import annotations

import jsonargparse

from market_regimes.commands.parser import Parser
from market_regimes.commands.refusals import UNREADABLE, refusals
from market_regimes.run.agent import Agent
from market_regimes.run.orders import json_of_orders, print_orders
from market_regimes.run.signal import filled_at, json_of, position_of, print_signals


def signal(parser: Parser, options: jsonargparse.Namespace) -> None:
    """
    Print what to hold after the last bar.

    :param parser: refuses what cannot be read
    :param options: of the command
    """
    first = options["from"]
    _check_orders(parser, options)
    if options.equity is not None:
        _orders(parser, options)
        return
    with refusals(parser, UNREADABLE):
        agent = Agent.load(options.folder, options.checkpoint, options.device)
        entries = options.data or agent.configured.market.entries
        position = position_of(options.position) if options.position else None
        signals = agent.signal(entries, position, options.like, first=first, zone=options.zone)
    if options.json:
        print(json_of(signals, options.observation))
        return

    # For a reader: by which agent, on which bars, from which position.
    title = (
        f"{options.folder}, step {agent.step}, on {', '.join(entries)}: decided at the last close, "
        f"filled at {filled_at(signals)}"
    )
    print_signals(signals, title, options.observation)
    if not options.position:
        held = "0"
        if agent.plays_bars(first):
            held = f"what the agent holds since {first or 'the first observation'}"
        print(f"position held: {held}, as --position does not give it")


def _check_orders(parser: Parser, options: jsonargparse.Namespace) -> None:
    """Refuse options of orders without an account, and options of a signal beside one."""
    if options.equity is None:
        for name in ("positions", "lots"):
            if options[name] is not None:
                parser.error(
                    f"--{name} is of an order list, which needs --equity: the value of the account, cash included, in "
                    "the currency of the prices"
                )
        return
    if options.position:
        parser.error("--position is a share of equity: beside --equity, --positions FILE gives the shares held")
    if options.observation:
        parser.error("--observation is of a signal, and --equity asks for orders: give one of them")


def _orders(parser: Parser, options: jsonargparse.Namespace) -> None:
    """
    Print what one account trades after the last bar.

    :param parser: refuses what cannot be read or priced
    :param options: of the command
    """
    with refusals(parser, UNREADABLE):
        agent = Agent.load(options.folder, options.checkpoint, options.device)
        entries = options.data or agent.configured.market.entries
        orders = agent.portfolio(
            entries,
            options.equity,
            options.positions,
            options.lots,
            like=options.like,
            first=options["from"],
            zone=options.zone,
        )
    if options.json:
        print(json_of_orders(orders))
        return
    print(f"{options.folder}, step {agent.step}, on {', '.join(entries)}")
    print_orders(orders)
