"""Files that stay complete when a process is killed, and that are UTF-8 in every locale."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml

from market_regimes.config import SHIPPED, ArgumentError, RunConfig

# Ways to resume a run, in Python and on the command line.
RESUMPTIONS = {"resume": "go on in it by Study.resume", "--resume": "--resume {}"}
MERGE = "tag:yaml.org,2002:merge"  # tag of the key <<


def write_file(path: Path, content: str | bytes) -> None:
    """
    Replace a file. At any time either the old or the new file is complete.

    :param path: file in an existing folder
    :param content: new content; text becomes UTF-8
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

    # Rename once everything is on disk.
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power loss, if the system supports it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """
    :param path: path of a file
    :return: its JSON object
    :raises ValueError: if its content is not a JSON object
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
    Refuse duplicate keys. YAML's reader silently keeps the last value.

    :param text: YAML or JSON; the reader refuses any other text
    :param source: origin of the text, for the error message
    :raises ValueError: if a mapping at any depth has a key twice; the message names both lines
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
    """Check the keys of a mapping and of all nodes below. An alias leads to a node that was already checked."""
    if id(node) in visited or isinstance(node, yaml.ScalarNode):
        return
    visited.add(id(node))

    # A list has no keys.
    if isinstance(node, yaml.SequenceNode):
        for position, entry in enumerate(node.value):
            _check_node(entry, source, f"{path}[{position}]", lines, visited)
        return

    # Compare paths, since market.data is the key data of the section market. Compare keys as the reader does: 1 and 0x1
    # are one key, and so are a and "a".
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
    """Return the key as the reader sees it, as text."""
    if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
        return str(key.value)
    try:
        return str(yaml.constructor.SafeConstructor().construct_object(key))
    except yaml.YAMLError:  # a Python tag, which the reader refuses
        return str(key.value)


def found_from_anywhere(data: str | list[str]) -> str | list[str]:
    """
    :param data: names of shipped data, files and folders; ``~`` is the user's home
    :return: data with absolute paths of existing files, so that they work from any folder
    """
    if isinstance(data, list):
        return [str(found_from_anywhere(entry)) for entry in data]

    path = Path(data).expanduser()
    if data in SHIPPED or not path.exists():
        return data
    return str(path.resolve())


def leave_closed_pipe() -> NoReturn:
    """End the process quietly if the reader of its output has ended, as Python's documentation of SIGPIPE advises."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # otherwise the flush at exit fails again
    sys.exit(1)


def stamped(name: str) -> str:
    """:return: the name with the time, for a folder without the user's name"""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def new_folder(run: RunConfig) -> Path:
    """
    :param run: settings with a name for the folder, or None for environment and time
    :return: folder of the run, or of the runs of several seeds
    :raises ValueError: if it already exists
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
