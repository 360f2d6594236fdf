"""Files: written such that a kill leaves the old or the new one whole, and read as UTF-8 whatever the locale."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml

from market_regimes.config import SHIPPED, ArgumentError, RunConfig

# How a run goes on, in Python and on the command line.
RESUMPTIONS = {"resume": "go on in it by Study.resume", "--resume": "--resume {}"}
MERGE = "tag:yaml.org,2002:merge"  # of the key <<


def write_file(path: Path, content: str | bytes) -> None:
    """
    Replace a file such that at any time either the old or the new one is whole.

    :param path: of the file, in a folder that is there
    :param content: the new one, a text as UTF-8
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

    # The name changes hands once all is on the disk.
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a loss of power, where the system has a way to."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """
    :param path: of a file
    :return: the JSON object that it holds
    :raises ValueError: if it holds anything else
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is torn or no run's") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is torn or no run's")
    return content


def check_keys(text: str, source: str) -> None:
    """
    Refuse what the reader of YAML takes silently: of a key that stands twice it keeps the last value alone.

    :param text: YAML or JSON; a text that is none is left to its reader
    :param source: where it comes from, for the refusal
    :raises ValueError: if a mapping at any depth has a key twice: names both lines
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return
    if root is not None:
        _check_node(root, source, "", {}, set())


def _check_node(
    node: yaml.Node,
    source: str,
    path: str,
    lines: dict[str, int],
    visited: set[int],
) -> None:
    """Check a mapping's keys and all that lies below it; an alias leads to a node that was checked already."""
    if id(node) in visited or isinstance(node, yaml.ScalarNode):
        return
    visited.add(id(node))

    # A list has no keys of its own.
    if isinstance(node, yaml.SequenceNode):
        for position, entry in enumerate(node.value):
            _check_node(entry, source, f"{path}[{position}]", lines, visited)
        return

    # Paths are compared, since market.data is the key data of the section market. Keys are those that the reader sees:
    # 1 and 0x1 are one key, and so are a and "a".
    for key, value in node.value:
        name = f"{path}.{_scalar(key)}" if path else _scalar(key)
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and name in lines:
            where = f"in line {line}"
            if lines[name] < line:
                where = f"in lines {lines[name]} and {line}"
            raise ValueError(f"{source}: the key {name} stands twice, {where}: keep one")
        lines[name] = line
        _check_node(value, source, name, lines, visited)


def _scalar(key: yaml.Node) -> str:
    """The key as the reader sees it, as text."""
    if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
        return str(key.value)
    try:
        return str(yaml.constructor.SafeConstructor().construct_object(key))
    except yaml.YAMLError:  # a tag of Python, which the reader refuses
        return str(key.value)


def found_from_anywhere(data: str | list[str]) -> str | list[str]:
    """
    :param data: names of shipped data, files and folders; ``~`` is the user's home
    :return: the same with the absolute paths of what exists, so that another working folder finds it, too
    """
    if isinstance(data, list):
        return [str(found_from_anywhere(entry)) for entry in data]

    path = Path(data).expanduser()
    if data in SHIPPED or not path.exists():
        return data
    return str(path.resolve())


def leave_closed_pipe() -> NoReturn:
    """End the process quietly where what reads its output has ended, as Python's documentation of SIGPIPE advises."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # else the flush at exit fails once more
    sys.exit(1)


def stamped(name: str) -> str:
    """:return: the name with the time, for a folder that nobody named"""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def new_folder(run: RunConfig) -> Path:
    """
    :param run: names the folder, or leaves it to environment and time
    :return: where the run, or the runs of several seeds, will lie
    :raises ValueError: if it exists already
    """
    name = run.name or stamped(run.env_id)
    folder = Path(run.out).expanduser() / name
    if folder.exists():
        raise ArgumentError(
            lambda argument: (
                f"the run folder {folder} exists already: choose another run.name, or "
                f"{RESUMPTIONS[argument('resume')].format(folder)}"
            )
        )
    return folder
