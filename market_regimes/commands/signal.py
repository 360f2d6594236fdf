"""The command ``signal``."""

from __future__ import annotations

import jsonargparse

from market_regimes.commands.parser import Parser
from market_regimes.commands.refusals import UNREADABLE, refusals
from market_regimes.run.agent import Agent
from market_regimes.run.signal import filled_at, json_of, position_of, print_signals


def signal(parser: Parser, options: jsonargparse.Namespace) -> None:
    """
    Print what to hold after the last bar.

    :param parser: refuses what cannot be read
    :param options: of the command
    """
    first = options["from"]
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
