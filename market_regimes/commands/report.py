"""What the command line prints of an evaluation."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from market_regimes.commands.several import n_started
from market_regimes.evaluate.robustness import over_seeds
from market_regimes.evaluate.tables import print_seeds, print_summary
from market_regimes.evaluate.verdict import verdict_of, verdict_of_seeds
from market_regimes.files import write_file


def program() -> str:
    """:return: how a user calls this program"""
    name = Path(sys.argv[0]).name
    if n_started() > 1:
        return f"torchrun --standalone --nproc-per-node={n_started()} {name}"
    return f"{'python ' if name.endswith('.py') else ''}{name}"


def report(
    scored: dict[int | None, tuple[Path, dict[str, Any]]],
    name: str,
    group: Path | None,
    notes: list[str],
    on_market: bool,
    first: str | None = None,
) -> None:
    """
    Print the verdict, the tables, the files and what can be done next; of several seeds their summary, which is written
    as well.

    :param scored: per seed the run folder and the result of its evaluation
    :param name: of the period
    :param group: folder of the runs of several seeds, None: there is one run
    :param notes: sentences that belong to the verdict
    :param on_market: whether the runs are on a market
    :param first: day from which a signal must play the bars to equal this evaluation; None: any past gives the same
    """
    files = [f"evaluation-{name}.json"]
    if on_market:
        files += [f"{kind}-{name}.csv" for kind in ("positions", "trades")]
        files += [f"tearsheet-{name}.html", f"equity-{name}.png", f"returns-{name}.png"]
    (folder, result), results = next(iter(scored.values())), {seed: result for seed, (_, result) in scored.items()}
    verdict = verdict_of(result) if group is None else verdict_of_seeds(results.values())
    print(verdict)
    print("".join(f"{sentence}\n" for sentence in notes), end="")
    if group is None:
        print_summary(result, title=f"{folder}, step {result['step']}, {name}")
        print(f"{folder}: {', '.join(files)}")
    else:
        write_file(group / f"seeds-{name}.json", json.dumps(results, indent=2))
        print_seeds(results, title=f"{group}, {name}")
        of_group = [f"seeds-{name}.json"]
        if on_market:
            summary = {"verdict": verdict, **over_seeds(results.values())}
            write_file(group / f"verdict-{name}.json", json.dumps(summary, indent=2))
            of_group.append(f"verdict-{name}.json")
        print(f"{group}: {', '.join(of_group)}; in each seed's folder: {', '.join(files)}")
    print("next:")
    if on_market:
        played = "" if first is None else f" --from {first}"
        print(f"  {program()} signal {shlex.quote(str(folder))} --data FILE{played}")
        print(f"  {program()} evaluate {shlex.quote(str(group or folder))} --data FILE --from DATE --to DATE")
    print(f"  tensorboard --logdir {shlex.quote(str(group or folder.parent))}")
