"""The commands ``signal`` and ``export``, of a trained run."""

from __future__ import annotations

import jsonargparse

from market_regimes.commands.arguments import Parser
from market_regimes.commands.building import UNREADABLE, refusals
from market_regimes.commands.progress import working
from market_regimes.run.agent import Agent
from market_regimes.run.signal import filled_at, json_of, position_of, print_signals


def signal(parser: Parser, options: jsonargparse.Namespace) -> None:
    """Print what to hold after the last bar."""
    with refusals(parser, UNREADABLE):
        agent = Agent.load(options.folder, options.checkpoint, options.device)
        entries = options.data or agent.configured.market.entries
        position = position_of(options.position) if options.position else None
        signals = agent.signal(entries, position, options.like, first=options["from"], zone=options.zone)
    if options.json:
        print(json_of(signals, options.observation))
        return
    title = (
        f"{options.folder}, step {agent.step}, on {', '.join(entries)}: decided at the last close, "
        f"filled at {filled_at(signals)}"
    )
    print_signals(signals, title, options.observation)
    if not options.position:
        played = agent.plays_bars(options["from"])
        held = f"what the agent holds since {options['from'] or 'the first observation'}" if played else "0"
        print(f"position held: {held}, as --position does not give it")


def export(parser: Parser, options: jsonargparse.Namespace) -> None:
    """Write a run's agent as ONNX."""
    out = options.out or options.folder / "agent.onnx"
    with refusals(parser, UNREADABLE):
        agent = Agent.load(options.folder, options.checkpoint, options.device)
        with working(f"{options.folder.name}: writing {out.name}", options.progress_bar):
            layout = agent.export(out)
    print(f"{options.folder}, step {agent.step}: {out}, and the layout of its observation: {layout}")
