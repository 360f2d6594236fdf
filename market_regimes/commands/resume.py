"""What goes on in its folder: its configuration, and what may change."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

from market_regimes.commands.arguments import values_of
from market_regimes.commands.configuration import find_files_from_anywhere, parsed
from market_regimes.commands.parser import Parser
from market_regimes.files import stamped

NOT_COMPARED = {"resume", "config", "defaults", "run.out", "run.name"}  # they say where, not what


def with_recorded_configuration(parser: Parser, arguments: list[str]) -> list[str]:
    """
    :param parser: of the command
    :param arguments: of it
    :return: the arguments with the recorded configuration of what is resumed, if anything is
    """
    folders = values_of("--resume", arguments)
    if not folders:
        return arguments
    if values_of("--config", arguments) or values_of("--seeds", arguments):
        parser.error("--resume goes on with the run's own configuration and seeds: leave --config and --seeds away")

    config = Path(folders[-1]).expanduser() / "config.yaml"
    if not config.exists():
        parser.error(f"{folders[-1]} is no run folder: it has no config.yaml")
    return ["--config", str(config), *arguments]


def start_or_resume(
    parser: Parser, config: jsonargparse.Namespace, folder: Path | None, may_change: set[str], name: str | None = None
) -> None:
    """
    :param parser: of the command
    :param config: of what is resumed, refused if it is not as it was; of what is new, which gets what it lacks
    :param folder: to go on in, None: a new one
    :param may_change: keys that may differ where it goes on
    :param name: of a new folder that nobody named, None: it is left to the run
    """
    find_files_from_anywhere(config)
    if folder is not None:
        check_unchanged(parser, config, folder, may_change)
    elif name is not None:
        config.run.name = config.run.name or stamped(name)


def check_unchanged(
    parser: Parser,
    config: jsonargparse.Namespace,
    folder: Path,
    may_change: set[str],
) -> None:
    """
    Refuse a resumed run with another configuration than the one it was started with.

    :param parser: of the command
    :param config: given now
    :param folder: with the configuration from before
    :param may_change: keys that may differ
    """
    recorded = parsed(parser, ["--config", str(folder / "config.yaml")])
    find_files_from_anywhere(recorded)
    before = recorded.as_flat()

    # A run may only become longer.
    steps = getattr(before, "run.total_timesteps")
    if "run.total_timesteps" in may_change and config.run.total_timesteps < steps:
        parser.error(f"{folder} was started with run.total_timesteps={steps}: a resumed run may only become longer")

    # All else stays.
    for key, value in vars(config.as_flat()).items():
        if key in may_change | NOT_COMPARED or getattr(before, key) == value:
            continue
        parser.error(
            f"{folder} was started with {key}={getattr(before, key)}: a resumed run may change only "
            f"{' and '.join(sorted(may_change))}"
        )


def leave_fill_to_the_data(config: jsonargparse.Namespace) -> None:
    """
    Earlier versions recorded ``next_open`` for data without opening prices, too, whose orders filled at the close. Of a
    run that exists the data decide as they did when it was trained: ``check_provenance`` holds that they are the same.

    :param config: of a run that exists
    """
    if config.market.trading.fill == "next_open":
        config.market.trading.fill = None
