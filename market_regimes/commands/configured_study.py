"""From a configuration to a run: its market, read, and its study, built."""

from __future__ import annotations

import sys
from typing import get_args

import jsonargparse
from gymnasium.error import Error as GymnasiumError

from market_regimes.commands.configuration import instantiated
from market_regimes.commands.parser import Parser
from market_regimes.commands.refusals import REFUSALS, refusals
from market_regimes.config import PeriodName
from market_regimes.market.describe import notes_of, warnings_of
from market_regimes.market.segments import Segments, read_data
from market_regimes.run.study import Study


def segments_of(parser: Parser, config: jsonargparse.Namespace) -> Segments:
    """
    Read the market of a run and print what was assumed.

    :param parser: of ``train``
    :param config: of the run; it gets the periods
    :return: the periods' symbols; nothing in other environments
    """
    objects = instantiated(parser, config)
    if objects.run.env_id != "market":
        return {}
    with refusals(parser):
        data = read_data(objects.market)

    for line in notes_of(data, objects.market):
        print(line)
    for sentence in warnings_of(data.read):
        print(f"warning: {sentence}", file=sys.stderr)

    # The run keeps what the data decided.
    for name in get_args(PeriodName):
        config.market[name] = data.config.days(name)
    config.market.trading.fill = data.config.trading.fill
    return data.segments


def study_of(
    parser: Parser,
    config: jsonargparse.Namespace,
    segments: Segments,
) -> Study:
    """
    :param parser: of ``train``
    :param config: of a run
    :param segments: of its market, from ``segments_of``
    :return: the run, built; a value that a constructor refuses ends the program
    """
    objects = instantiated(parser, config)
    with refusals(parser, (*REFUSALS, GymnasiumError)):
        return Study(objects.run, objects.market, config.algorithm.as_dict(), segments)
