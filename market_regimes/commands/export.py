"""The command ``export``."""

from __future__ import annotations

import jsonargparse

from market_regimes.commands.parser import Parser
from market_regimes.commands.progress import working
from market_regimes.commands.refusals import UNREADABLE, refusals
from market_regimes.run.agent import Agent


def export(parser: Parser, options: jsonargparse.Namespace) -> None:
    """
    Write a run's agent as ONNX.

    :param parser: refuses what cannot be read or written
    :param options: of the command
    """
    out = options.out or options.folder / "agent.onnx"

    with refusals(parser, UNREADABLE):
        agent = Agent.load(options.folder, options.checkpoint, options.device)
        with working(f"{options.folder.name}: writing {out.name}", options.progress_bar):
            layout = agent.export(out)

    print(f"{options.folder}, step {agent.step}: {out}, and the layout of its observation: {layout}")
