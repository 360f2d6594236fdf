"""Flags and keys that a command would not heed, since it decides their values itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from market_regimes.commands.arguments import contents_of_files, values_of


@dataclass(frozen=True)
class Overruled:
    """
    A flag that a command would not heed.

    :param flag: without effect
    :param commands: that would not heed it
    :param beside: the flag that overrules it, None: the command does, always
    :param reason: of the refusal
    """

    flag: str
    commands: tuple[str, ...]
    beside: str | None
    reason: str

    @property
    def key(self) -> str:
        """The flag's key in a configuration."""
        return self.flag.removeprefix("--")

    def applies(
        self,
        command: str,
        arguments: list[str],
        contents: Iterable[dict[str, Any]],
    ) -> bool:
        """
        :param command: that is called
        :param arguments: of it
        :param contents: of its configuration files, by dotted keys
        :return: whether the command decides the value itself
        """
        if command not in self.commands:
            return False

        # By itself, by a flag beside it, or by a key of a file.
        if self.beside is None or values_of(self.beside, arguments):
            return True
        key = self.beside.removeprefix("--")
        return any(content.get(key) is not None for content in contents)


OVERRULED = (
    Overruled("--run.total_timesteps", ("sanity",), None, "sanity trains 6,144 steps"),
    Overruled("--algorithm.seed", ("train",), "--seeds", "--seeds gives every run its seed"),
    Overruled("--algorithm.seed", ("tune",), None, "--seeds gives every trial its seeds"),
    Overruled(
        "--algorithm.seed",
        ("compare", "regimes"),
        None,
        "--compare.seeds gives every cell its seed",
    ),
    *(
        Overruled(
            flag,
            ("compare", "regimes"),
            None,
            "--compare.first_test and its kin give every fold its days",
        )
        for flag in ("--market.train", "--market.validation", "--market.test")
    ),
    *(
        Overruled(
            flag,
            ("train", "tune", "compare", "regimes"),
            "--resume",
            "--resume goes on in its own folder",
        )
        for flag in ("--run.name", "--run.out")
    ),
)


def why_overruled(command: str, arguments: list[str]) -> str | None:
    """
    :param command: that is called
    :param arguments: of it
    :return: why one of the flags would do nothing, None: all are heeded
    """
    contents = contents_of_files(arguments).values()

    for rule in OVERRULED:
        if rule.applies(command, arguments, contents) and values_of(rule.flag, arguments):
            return f"{rule.reason}: leave {rule.flag} away"
    return None


def notes_on_unused_keys(command: str, arguments: list[str]) -> list[str]:
    """
    :param command: that is called
    :param arguments: of it
    :return: a sentence on each key of a configuration file that the command would not heed. It is no refusal, since a
        file may serve several commands
    """
    contents = contents_of_files(arguments)
    rules = [rule for rule in OVERRULED if rule.applies(command, arguments, contents.values())]

    return [
        f"{rule.key}={content[rule.key]} of {name} is not used: {rule.reason}"
        for rule in rules
        for name, content in contents.items()
        if content.get(rule.key) is not None
    ]
