"""
Put one small mistake at a time into the library and see whether a test fails.

    python benchmarks/mutants.py [FILE ...] [--count 400] [--seed 0] [--tests ...] [--workers 1] [--again]

The operators are mutmut's (without "= None", which any test sees), and two of ours: a call that is a statement goes,
and a function becomes its neighbour (``min``, ``max``). Texts of errors and warnings, annotations and docstrings stay.
The tests run once under coverage.py, in a copy of the repository. Then a process that has collected them all forks once
per mutant, puts the mistake into the functions and constants in memory (and, for the tests that start the command line,
into the copy), and runs the tests that reach its line, fastest first, until one fails or ``--budget`` seconds of tests
are over. ``[tool.mutmut]`` in pyproject.toml says which files, which functions not, and which tests.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import difflib
import fnmatch
import functools
import hashlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import types
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

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
PLAIN = (int, float, str, tuple, list, dict, set, frozenset)
ADDRESS = re.compile("0x[0-9a-f]+")
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
    trees: ClassVar[dict[str, cst.Module]] = {}
    spans: ClassVar[dict[tuple[str, str], tuple[int, int]]] = {}  # the body of each function

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file, self.scope, self.found = file, list[str](), list[Mutant]()
        self.skipped = set[int]()  # what only compile=True runs
        self.counts: dict[str, int] = defaultdict(int)

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Raise | cst.Import | cst.ImportFrom | cst.Assert):
            return False
        if isinstance(node, cst.Call) and _name(node.func) in UNSEEN:
            return False
        if id(node) in self.skipped or (isinstance(node, cst.If) and _name(node.test) == "TYPE_CHECKING"):
            return False
        if isinstance(node, cst.If | cst.IfExp) and "compil" in cst.Module([]).code_for_node(node.test):
            negated = isinstance(node.test, cst.UnaryOperation) and isinstance(node.test.operator, cst.Not)
            self.skipped |= {id(node.test), id(node.orelse if negated else node.body)}
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
            self.spans[self.file, function] = self.get_metadata(PositionProvider, node.body).start.line, last
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


class Reach:
    """Which tests reach a line, and how long they take."""

    def __init__(self, tests: dict[str, tuple[float, list[str]]], shared: dict[str, float], lines: Any) -> None:
        self.tests, self.shared, self.lines = tests, shared, lines

    def of(self, mutant: Mutant, body: tuple[int, int] | None) -> set[str]:
        """Tests that reach the line, or else its function; all for what is run by an import, as a default is."""
        if body is None or not body[0] <= mutant.line <= body[1]:
            return set(self.tests)
        for first, last in (mutant.line, mutant.last_line), body:
            if tests := {
                test for line, reach in self.lines[mutant.file].items() if first <= int(line) <= last for test in reach
            }:
                return tests & self.tests.keys()
        return set()

    def order(self, chosen: set[str], budget: float) -> dict[str, float]:
        """The fastest tests that fit into the budget, in order, and the seconds after which each is ended."""
        whole = {test: self.tests[test][0] + sum(self.shared[name] for name in self.tests[test][1]) for test in chosen}
        limits, spent, made = dict[str, float](), 0.0, set[str]()
        for test in sorted(chosen, key=whole.__getitem__):
            own, fixtures = self.tests[test]
            spent += own + sum(self.shared[name] for name in fixtures if name not in made)
            made.update(fixtures)
            if not limits or spent < budget:
                limits[test] = 10 * whole[test] + 20
        return limits


class Worker:
    """A pytest plugin that, in place of the tests collected, runs for each mutant some of them in a fork."""

    def __init__(
        self, folder: Path, files: list[str], mutants: list[Mutant], reach: Reach, budget: float, results: int
    ) -> None:
        self.folder, self.files, self.mutants, self.reach = folder, files, mutants, reach
        self.budget, self.results = budget, results
        self.note, self.is_fork = Path(f"{folder}.note"), False

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        for file in self.files:  # the tests must pass in this order, too, and with the same code put in
            control = Mutant(file, "", 0, 0, sys.maxsize)
            while control.result != "survived":
                chosen = self.reach.order(self.reach.of(control, (0, sys.maxsize)) & items.keys(), 10.0)
                self._run(control, (ROOT / file).read_text(), items, chosen)
                if control.by:
                    print("left out, fails in this order:", control.by, file=sys.__stderr__, flush=True)
                    items.pop(control.by)
        for mutant in self.mutants:
            tree, span = Finder.trees[mutant.file], Finder.spans.get((mutant.file, mutant.function))
            code = tree.deep_replace(*mutant.nodes).code
            mutant.mutation = _describe(tree.code, code)
            reaching = self.reach.of(mutant, span) & items.keys()
            chosen = self.reach.order(reaching, self.budget)
            mutant.tests = f"{len(chosen)} of {len(reaching)}"
            self._run(mutant, code, items, chosen)
            if mutant.result != "survived" or not chosen:
                mutant.reason = "" if chosen else "no test reaches it"
            row = {name: getattr(mutant, name) for name in COLUMNS}
            os.write(self.results, (json.dumps(row) + "\n").encode())
        return True

    def _run(self, mutant: Mutant, code: str, items: dict[str, Any], chosen: dict[str, float]) -> None:
        """Enter the result."""
        begin = time.perf_counter()
        if code:
            (self.folder / mutant.file).write_text(code)
        if not (process := os.fork()):
            self._test(mutant, code, [items[test] for test in chosen], chosen)
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what it has started
        if code:
            shutil.copyfile(ROOT / mutant.file, self.folder / mutant.file)
        mutant.seconds = round(time.perf_counter() - begin, 1)
        mutant.result, mutant.by = ("killed", self.note.read_text()) if status else ("survived", "")
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            mutant.result = "timeout"

    def _test(self, mutant: Mutant, code: str, items: list[Any], limits: dict[str, float]) -> None:
        """Run the tests in a fork, which ends with 0 where all pass."""
        os.setsid()
        self.is_fork, status = True, 1
        try:
            self.note.write_text("import")
            module = sys.modules.get(mutant.file.removesuffix(".py").replace("/", "."))
            if code and module is not None:
                _put_in(module, code)
            for item, following in itertools.zip_longest(items, items[1:]):
                self.note.write_text(item.nodeid)
                signal.setitimer(signal.ITIMER_REAL, limits[item.nodeid])
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            status = 0
        finally:
            os._exit(status)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.is_fork:
            os._exit(1)


def _put_in(module: Any, code: str) -> None:
    """Let a module that is imported be as if its code were this; what others hold of it changes, too."""
    fresh = {name: value for name, value in vars(module).items() if name.startswith("__")}
    exec(compile(code, module.__file__, "exec"), fresh)
    seen = set[int]()
    for name, value in fresh.items():
        old = vars(module).get(name)
        if not name.startswith("__") and _exchange(old, value, module.__name__, seen):
            for other in list(sys.modules.values()):
                if getattr(other, "__dict__", {}).get(name, module) is old:
                    setattr(other, name, value)


def _exchange(old: Any, new: Any, module: str, seen: set[int]) -> bool:
    """Give functions, wherever they are, the code and defaults of others; True: a value that has to be replaced."""
    if id(old) in seen or (type(old) is not type(new) and type(old).__module__ != module):
        return False
    seen.add(id(old))
    if isinstance(old, types.FunctionType):
        code = new.__code__ if new.__code__.co_freevars else new.__code__.replace(co_freevars=old.__code__.co_freevars)
        old.__code__, old.__defaults__, old.__kwdefaults__ = code, new.__defaults__, new.__kwdefaults__
    if isinstance(old, type) and old.__module__ == module:
        for name, value in vars(new).items():
            if name in vars(old) and _exchange(vars(old)[name], value, module, seen):
                setattr(old, name, value)
    if isinstance(old, dict | list | tuple) and len(old) == len(new):
        keys = list(old) if isinstance(old, dict) else range(len(old))
        for key in keys if not isinstance(old, dict) or keys == list(new) else []:
            _exchange(old[key], new[key], module, seen)
    if not isinstance(old, type):
        for name in ("__wrapped__", "__func__", "fget", "fset", "func"):
            if (inner := getattr(old, name, None)) is not None:
                _exchange(inner, getattr(new, name, None), module, seen)
        if type(old).__module__ == module:
            for name, value in getattr(new, "__dict__", {}).items():
                _exchange(vars(old).get(name), value, module, seen)
    return isinstance(old, PLAIN) and ADDRESS.sub("", repr(old)) != ADDRESS.sub("", repr(new))


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
    sources = [*ROOT.glob("*.py"), *ROOT.glob("market_regimes/**/*.py"), *ROOT.glob("tests/**/*.py")]
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


def _measure(folder: Path, files: list[str], selection: list[str]) -> Reach:
    """Run the tests once, or take what is known of them from an earlier run."""
    own = [*files, *(name for name in _tracked() if name.startswith("tests/"))]
    state = b"".join((ROOT / name).read_bytes() for name in own) + repr([files, selection]).encode()
    found = Path(tempfile.gettempdir()) / f"mutants-{hashlib.sha256(state).hexdigest()[:16]}.json"

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
        shared = {name: recorder.seconds.pop(name, 0.0) for name in recorder.users}
        tests = {test: (s, [n for n in shared if test in recorder.users[n]]) for test, s in recorder.seconds.items()}
        found.write_text(json.dumps([tests, shared, lines, recorder.failed]))
        return code

    if not found.exists():
        os.waitpid(_fork(Path(f"{folder}.log"), record), 0)
    if not found.exists():
        raise SystemExit(f"the tests cannot run:\n{Path(f'{folder}.log').read_text()[-3000:]}")
    tests, shared, lines, failed = json.loads(found.read_text())
    for test in failed:
        print(f"left out, fails as it is: {test}")
        tests.pop(test, None)
    print(f"{len(tests)} tests of {sum(own for own, _ in tests.values()) + sum(shared.values()):.0f} s", flush=True)
    return Reach(tests, shared, lines)


def _describe(old: str, new: str) -> str:
    """The lines that differ, shortened."""
    changes = [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "-+"]
    minus, plus = (" ".join(line[1:].strip() for line in changes if line[0] == sign)[:200] for sign in "-+")
    return f"{minus} -> {plus}"


def _write(out: Path, mutants: list[Mutant]) -> None:
    with out.open("w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(vars(mutant) for mutant in sorted(mutants, key=Mutant.key) if mutant.result)


def _sample(arguments: argparse.Namespace, files: list[str]) -> list[Mutant]:
    """The mutants drawn, with what the CSV knows of them; with ``--again`` those of the CSV."""
    found = list[Mutant]()
    for file in files:
        wrapper, finder = MetadataWrapper(cst.parse_module((ROOT / file).read_text())), Finder(file)
        wrapper.visit(finder)
        finder.trees[file] = wrapper.module
        found += finder.found
    print(f"{len(found)} mutants in {len(files)} files")
    known = {}
    if arguments.out.exists():
        with arguments.out.open(newline="") as rows:
            known = {(row["file"], row["function"], int(row["id"])): row for row in csv.DictReader(rows)}
    if not arguments.again:
        found = random.Random(arguments.seed).sample(found, min(arguments.count, len(found)))
    for mutant in found:
        for name in ("mutation", "result", "by", "seconds", "tests", "reason") if mutant.key() in known else ():
            setattr(mutant, name, known[mutant.key()][name])
    return [mutant for mutant in found if mutant.result] if arguments.again else found


def main() -> None:
    """Write one row per mutant, and print the share killed of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="instead of those in pyproject.toml")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", nargs="+", default=SETTINGS["pytest_add_cli_args_test_selection"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests for one mutant")
    parser.add_argument("--again", action="store_true", help="those that survive in the CSV without a reason")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "mutants.csv")
    arguments = parser.parse_args()
    wanted, left_out = (_matching(SETTINGS[key]) for key in ("only_mutate", "do_not_mutate"))
    files = arguments.files or sorted(wanted - left_out)
    mutants = _sample(arguments, files)
    sought = "survived" if arguments.again else ""
    waiting = [m for m in mutants if m.result == sought and not m.reason]
    _import_others()
    with tempfile.TemporaryDirectory() as work:
        folders = [_copy(Path(work) / str(number)) for number in range(arguments.workers)]
        reach = _measure(folders[0], files, arguments.tests)
        source, target = os.pipe()
        selection = sorted({test.partition("::")[0] for test in reach.tests})
        for number, folder in enumerate(folders):
            worker = Worker(folder, files, waiting[number :: len(folders)], reach, arguments.budget, target)
            _fork(Path(f"{folder}.log"), functools.partial(_pytest, folder, selection, worker))
        os.close(target)
        by_key = {mutant.key(): mutant for mutant in waiting}
        for line in os.fdopen(source):
            row = json.loads(line)
            mutant = by_key.pop((row["file"], row["function"], row["id"]))
            vars(mutant).update(row)
            _write(arguments.out, mutants)
            shown = ("result", "seconds", "file", "line", "mutation", "by")
            print(*(row[name] for name in shown), sep="  ", flush=True)
        if by_key:
            print(f"{len(by_key)} are left:\n", Path(f"{folders[0]}.log").read_text()[-3000:])
    _write(arguments.out, mutants)
    for name in [*files, ""]:
        own = [mutant for mutant in mutants if mutant.file.startswith(name) and mutant.result]
        dead = sum(mutant.result != "survived" for mutant in own)
        print(f"{name or 'all'}: {dead} of {len(own)} killed, {dead / max(1, len(own)):.1%}")


if __name__ == "__main__":
    main()
