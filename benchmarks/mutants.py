"""
Put one small mistake at a time into the library and see whether a test fails.

    python benchmarks/mutants.py [FILE ...] [--count 400] [--seed 0] [--tests ...] [--workers 1] [--again]

The operators are mutmut's (without "= None", which any test sees), and two of ours: a call that is a statement goes,
and a function becomes its neighbour (``min``, ``max``). Texts of errors and warnings, annotations and docstrings stay.
The tests run once under coverage.py, in a copy of the repository. Then each mutant is a fork of a process that has
imported torch. It runs the tests that reach its line, fastest first, until one fails or ``--budget`` seconds of tests
are over. ``[tool.mutmut]`` in pyproject.toml says which files, which functions not, and which tests.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import difflib
import fnmatch
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_assignment, operator_string

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
NEIGHBOURS = "min max, minimum maximum, mean sum, std var, any all, floor ceil, argmin argmax, first last, exp expm1"
NEIGHBOURS += ", log log1p, nanmean nansum, amin amax, logical_and logical_or, ones zeros, ones_like zeros_like"
SWAPS = {a: b for pair in NEIGHBOURS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
UNSEEN = {"warn", "print", "cast", "TypeVar", "isinstance", "getLogger"}  # calls whose arguments stay


@dataclass
class Mutant:
    """One mistake. ``id`` counts within the function, so that it outlives changes elsewhere."""

    file: str
    function: str
    id: int
    line: int
    last_line: int
    mutation: str = ""
    result: str = ""  # killed, survived or timeout
    by: str = ""  # the test that failed
    seconds: float = 0.0
    tests: str = ""  # passed, of those within the budget, of those that reach it
    reason: str = ""  # why it survived
    nodes: tuple[Any, ...] = field(default=(), repr=False)

    def key(self) -> tuple[str, str, int]:
        return self.file, self.function, self.id


COLUMNS = [column.name for column in fields(Mutant) if column.name not in ("nodes", "last_line")]


def _name(node: cst.BaseExpression) -> str:
    return node.attr.value if isinstance(node, cst.Attribute) else node.value if isinstance(node, cst.Name) else ""


class Finder(cst.CSTVisitor):
    """Collects the mutants of a file."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file, self.scope, self.found = file, list[str](), list[Mutant]()
        self.counts: dict[str, int] = defaultdict(int)
        self.spans: dict[str, tuple[int, int]] = {}

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Raise | cst.Import | cst.ImportFrom | cst.Assert):
            return False
        if isinstance(node, cst.Call) and _name(node.func) in UNSEEN:
            return False
        if isinstance(node, cst.If) and _name(node.test) == "TYPE_CHECKING":
            return False
        if isinstance(node, cst.Assign) and _name(node.targets[0].target) == "__all__":
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.scope.append(node.name.value)
            if any(fnmatch.fnmatch(".".join(self.scope), out) for out in SETTINGS["functions_left_out"]):
                return False
        function, place = ".".join(self.scope), self.get_metadata(PositionProvider, node, None)
        if place is None:
            return True
        first, last = place.start.line, place.end.line
        if isinstance(node, cst.FunctionDef):
            self.spans[function] = first, last
        for mutated in self._mutated(node):
            self.counts[function] += 1
            self.found.append(Mutant(self.file, function, self.counts[function], first, last, nodes=(node, mutated)))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.scope.pop()

    @staticmethod
    def _mutated(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        for kind, operator in mutation_operators:
            if isinstance(node, kind) and operator is not operator_assignment:
                variants = list(operator(node))
                if operator is operator_arg_removal and isinstance(node, cst.Call):  # not those that become None
                    variants = variants[len(variants) - len(node.args) :] if len(node.args) > 1 else []
                yield from variants[:1] if operator is operator_string else variants
        if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call) and _name(node.value.func) not in UNSEEN:
            yield cst.Pass()
        if isinstance(node, cst.Call) and _name(node.func) in SWAPS:
            name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
            yield node.with_deep_changes(name, value=SWAPS[_name(node.func)])


class Recorder:
    """A pytest plugin: which lines each test reaches, and how long it takes. A shared fixture counts for its users."""

    def __init__(self, measure: coverage.Coverage) -> None:
        self.measure, self.seconds, self.users = (
            measure,
            defaultdict[str, float](float),
            defaultdict[str, list[str]](list),
        )
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        for fixtures in item._fixtureinfo.name2fixturedefs.values():
            if fixtures[-1].scope != "function":
                self.users[f"{fixtures[-1].baseid}::{fixtures[-1].argname}"].append(item.nodeid)
        self.context = item.nodeid
        self.measure.switch_context(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        outer, begin = self.context, time.perf_counter()
        if fixturedef.scope != "function":
            self.context = f"{fixturedef.baseid}::{fixturedef.argname}"
            self.measure.switch_context(self.context)
        try:
            return (yield)
        finally:
            self.seconds[self.context] += time.perf_counter() - begin if self.context != outer else 0
            self.context = outer
            self.measure.switch_context(outer)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)


class Chosen:
    """A pytest plugin: runs the tests given, in their order, each with its own time limit; keeps the first failure."""

    def __init__(self, limits: dict[str, float], note: Path) -> None:
        self.limits, self.note, self.passed = limits, note, 0
        self.order = {test: place for place, test in enumerate(limits)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.note.write_text(f"{self.passed}\n{nodeid}")
        signal.setitimer(signal.ITIMER_REAL, self.limits[nodeid])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.passed += 1


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def _matching(patterns: list[str]) -> set[str]:
    return {name for pattern in patterns for name in fnmatch.filter(_tracked(), pattern)}


def _copy(folder: Path) -> Path:
    """The files that git knows, as they are now."""
    for name in _tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def _import_others() -> None:
    """Import, before forking, what the library and its tests import from elsewhere, torch above all."""
    sources = [*ROOT.glob("*.py"), *ROOT.glob("market_regimes/**/*.py"), *ROOT.glob("tests/*.py")]
    own = {path.stem for path in [*ROOT.iterdir(), *ROOT.glob("benchmarks/*.py"), *sources]} | {"ray", "sbx"}
    names = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source.read_text()))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    for name in sorted(name for name in names if name.partition(".")[0] not in own):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)  # a process with more cannot be forked


def _pytest(folder: Path, arguments: list[str], plugin: object) -> int:
    """Run tests in a folder; only ever called in a fork."""
    os.chdir(folder)
    os.environ.update(PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # the first failure will do
    hypothesis.settings.register_profile("mutants", phases=phases, database=None)
    hypothesis.settings.load_profile("mutants")
    fixed = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={folder}.tmp"]
    return int(pytest.main([*fixed, *SETTINGS["pytest_add_cli_args"], *arguments], plugins=[plugin]))


def _fork(log: Path, work: Any) -> int:
    """:return: id of a process that does the work and ends with what it returns"""
    if pid := os.fork():
        return pid
    os.setsid()
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        code = 70
        try:
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)


def _reach(
    folder: Path, files: list[str], selection: list[str]
) -> tuple[dict[str, float], dict[str, dict[str, list[str]]]]:
    """:return: seconds per test, and by file and line the tests that reach it"""
    state = b"".join(
        (ROOT / name).read_bytes() for name in [*files, *_tracked()] if name in files or name.startswith("tests/")
    )
    name = hashlib.sha256(state + repr([files, selection]).encode()).hexdigest()[:16]
    found = Path(tempfile.gettempdir()) / f"mutants-{name}.json"  # kept for the next run

    def record() -> int:
        measure = coverage.Coverage(data_file=None, include=[str(folder / file) for file in files], config_file=False)
        recorder = Recorder(measure)
        measure.start()
        code = _pytest(folder, selection, recorder)
        measure.stop()
        lines: dict[str, dict[str, list[str]]] = {}
        for file in files:
            reached = measure.get_data().contexts_by_lineno(str(folder / file))
            expanded = {n: {t for c in contexts for t in recorder.users.get(c, [c])} for n, contexts in reached.items()}
            lines[file] = {str(n): sorted(tests - {""}) for n, tests in expanded.items()}
        tests = {test: seconds for test, seconds in recorder.seconds.items() if test not in recorder.users}
        for fixture, users in recorder.users.items():
            for test in users:
                tests[test] += recorder.seconds[fixture]
        found.write_text(json.dumps([tests, lines, recorder.failed]))
        return code

    if not found.exists():
        os.waitpid(_fork(Path(f"{folder}.log"), record), 0)
    if not found.exists():
        raise SystemExit(f"the tests cannot run:\n{Path(f'{folder}.log').read_text()[-3000:]}")
    tests, lines, failed = json.loads(found.read_text())
    for test in failed:
        print(f"left out, fails as it is: {test}")
        tests.pop(test, None)
    return tests, lines


def _selected(mutant: Mutant, span: tuple[int, int] | None, lines: dict[str, list[str]]) -> set[str]:
    """Tests that reach the line; else, as of a default, its function; else, as of a constant, its file."""
    for first, last in [(mutant.line, mutant.last_line), *([span] if span else []), (0, sys.maxsize)]:
        if tests := {test for line, reach in lines.items() if first <= int(line) <= last for test in reach}:
            return tests
    return set()


def _limits(chosen: set[str], tests: dict[str, float], budget: float) -> dict[str, float]:
    """The fastest tests that fit into the budget, in order, and the seconds after which each is ended."""
    limits, spent = dict[str, float](), 0.0
    for test in sorted(chosen & tests.keys(), key=lambda test: tests[test]):
        spent += tests[test]
        if not limits or spent < budget:
            limits[test] = 10 * tests[test] + 20
    return limits


def _describe(old: str, new: str) -> str:
    """The lines that differ, shortened."""
    changes = [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "-+"]
    minus, plus = (" ".join(line[1:].strip() for line in changes if line[0] == sign)[:200] for sign in "-+")
    return f"{minus} -> {plus}"


def _start(mutant: Mutant, code: str, limits: dict[str, float], folder: Path) -> int:
    """:return: id of the process that runs the tests against the mutant, in a folder of its own"""
    (folder / mutant.file).write_text(code)
    files = list(dict.fromkeys(test.partition("::")[0] for test in limits))
    note = Path(f"{folder}.note")
    note.write_text("0\nimport")

    def work() -> int:
        signal.setitimer(signal.ITIMER_REAL, 120)
        return _pytest(folder, ["-x", *files], Chosen(limits, note))

    return _fork(Path(f"{folder}.log"), work)


def _finish(mutant: Mutant, status: int, folder: Path) -> None:
    """Enter the result, and put the file back."""
    passed, _, test = Path(f"{folder}.note").read_text().partition("\n")
    shutil.copyfile(ROOT / mutant.file, folder / mutant.file)
    mutant.tests = f"{passed} of {mutant.tests}"
    mutant.result, mutant.by = ("survived", "") if status == 0 else ("killed", test)
    if os.WIFSIGNALED(status):
        mutant.result = "timeout" if os.WTERMSIG(status) == signal.SIGALRM else "killed"
    elif os.WEXITSTATUS(status) > 1:
        mutant.by = "import"


def _control(file: str, budget: float, tests: dict[str, float], lines: dict[str, list[str]], folder: Path) -> None:
    """Take tests out that fail in the order used here with the file as it is."""
    while True:
        same = Mutant(file, "", 0, 0, sys.maxsize)
        limits = _limits(_selected(same, None, lines), tests, budget)
        _, status = os.waitpid(_start(same, (ROOT / file).read_text(), limits, folder), 0)
        _finish(same, status, folder)
        if same.result == "survived":
            return
        if same.by not in tests:
            raise SystemExit(f"{file} cannot be tested: {Path(f'{folder}.log').read_text()[-3000:]}")
        print(f"left out, fails in this order: {same.by}")
        del tests[same.by]


def _write(out: Path, mutants: list[Mutant]) -> None:
    with out.open("w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(mutant) for mutant in sorted(mutants, key=Mutant.key) if mutant.result)


def _known(out: Path) -> dict[tuple[str, str, int], dict[str, str]]:
    if not out.exists():
        return {}
    with out.open(newline="") as file:
        return {(row["file"], row["function"], int(row["id"])): row for row in csv.DictReader(file)}


def _sample(arguments: argparse.Namespace, files: list[str]) -> tuple[list[Mutant], dict[str, Any], dict[str, Any]]:
    """:return: the mutants drawn, and by file its tree and the lines of its functions"""
    trees, spans, found = {}, {}, list[Mutant]()
    for file in files:
        wrapper, finder = MetadataWrapper(cst.parse_module((ROOT / file).read_text())), Finder(file)
        wrapper.visit(finder)
        trees[file], spans[file] = wrapper.module, finder.spans
        found += finder.found
    print(f"{len(found)} mutants in {len(files)} files")
    drawn = random.Random(arguments.seed).sample(found, min(arguments.count, len(found)))
    known = _known(arguments.out)
    for mutant in found if arguments.again else drawn:
        if row := known.get(mutant.key()):
            mutant.result, mutant.reason = row["result"], row["reason"]
            mutant.mutation, mutant.by, mutant.tests, mutant.seconds = (
                row["mutation"],
                row["by"],
                row["tests"],
                float(row["seconds"]),
            )
    return ([mutant for mutant in found if mutant.result] if arguments.again else drawn), trees, spans


class Run:
    """Mutants that wait or run, and what they need; one process and one copy of the repository per worker."""

    def __init__(self, arguments: argparse.Namespace, files: list[str], work: Path) -> None:
        self.mutants, self.trees, self.spans = _sample(arguments, files)
        self.budget, self.out = arguments.budget, arguments.out
        _import_others()
        self.folders = [_copy(work / str(worker)) for worker in range(arguments.workers)]
        self.tests, self.lines = _reach(self.folders[0], files, arguments.tests)
        print(f"{len(self.tests)} tests of {sum(self.tests.values()):.0f} s", flush=True)
        for file in files:  # the tests must pass in this order, too
            _control(file, 10.0, self.tests, self.lines[file], self.folders[0])
        self.running: dict[int, tuple[Mutant, Path, float]] = {}

    def start(self, mutant: Mutant) -> None:
        """Begin to test a mutant, in a folder that is free."""
        tree = self.trees[mutant.file]
        code = tree.deep_replace(*mutant.nodes).code
        mutant.mutation = _describe(tree.code, code)
        chosen = _selected(mutant, self.spans[mutant.file].get(mutant.function), self.lines[mutant.file])
        limits = _limits(chosen, self.tests, self.budget)
        mutant.tests = f"{len(limits)} of {len(chosen)}"
        if not limits:
            mutant.result, mutant.reason = "survived", "no test reaches it"
            return
        folder = self.folders.pop()
        self.running[_start(mutant, code, limits, folder)] = mutant, folder, time.perf_counter()

    def finish(self) -> None:
        """Wait for one and enter its result."""
        process, status = os.wait()
        mutant, folder, begin = self.running.pop(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what it has started
        mutant.seconds = round(time.perf_counter() - begin, 1)
        _finish(mutant, status, folder)
        self.folders.append(folder)
        _write(self.out, self.mutants)
        print(mutant.result, mutant.seconds, mutant.file, mutant.line, mutant.mutation, mutant.by, sep="  ", flush=True)


def main() -> None:
    """Write one row per mutant, and print the share killed of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="instead of those in pyproject.toml")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", nargs="+", default=SETTINGS["pytest_add_cli_args_test_selection"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests for one mutant")
    parser.add_argument("--again", action="store_true", help="those that survive in the CSV, with today's tests")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "mutants.csv")
    arguments = parser.parse_args()
    wanted, left_out = (_matching(SETTINGS[key]) for key in ("only_mutate", "do_not_mutate"))
    files = arguments.files or sorted(wanted - left_out)
    with tempfile.TemporaryDirectory() as work:
        run = Run(arguments, files, Path(work))
        waiting = [mutant for mutant in run.mutants if mutant.result == ("survived" if arguments.again else "")]
        while waiting or run.running:
            if waiting and run.folders:
                run.start(waiting.pop(0))
            else:
                run.finish()
    _write(arguments.out, run.mutants)
    for name in [*files, ""]:
        own = [mutant for mutant in run.mutants if mutant.file.startswith(name)]
        dead = sum(mutant.result != "survived" for mutant in own)
        print(f"{name or 'all'}: {dead} of {len(own)} killed, {dead / max(1, len(own)):.1%}")


if __name__ == "__main__":
    main()
