"""
Kill a training run at random moments, resume it each time, and compare it with the run that was left alone.

    python benchmarks/kills.py [--kills 20] [--seed 0]

Each kill is a SIGKILL, up to ``DELAY`` seconds after the process began to train. The two runs must
agree bit for bit: every scalar but ``time/``, and every byte of the last checkpoint's tensors: parameters,
optimizer, environment, generators.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from market_regimes.run.checkpoint import newest_first

COMMAND = [sys.executable, str(Path(__file__).parent.parent / "train_model_multi_patch.py"), "train"]
FLAGS = [
    "--market.data=[sp500,nasdaq]",
    "--run.total_timesteps=122880",
    "--run.eval_every=4096",
    "--run.checkpoint_every=2048",
    "--run.progress_bar=false",
]
DELAY = 1.2  # seconds, the longest


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, env=environment)


def _kill(process: subprocess.Popen[bytes], folder: Path, delay: float) -> None:
    """Kill the process some seconds after it has first touched its log."""
    log = folder / "progress.csv"
    begin = time.time()
    while not log.exists() or log.stat().st_mtime < begin:
        if process.poll() is not None:
            raise SystemExit("the run ended before it could be killed")
        time.sleep(0.005)

    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _scalars(folder: Path) -> pd.DataFrame:
    """What a run logged, but for its times."""
    return pd.read_csv(folder / "progress.csv").filter(regex="^(?!time/)")


def _tensors(folder: Path) -> bytes:
    """Of the last checkpoint: parameters, optimizer, environment, generators."""
    return (newest_first(folder)[0] / "tensors.pt").read_bytes()


def main() -> None:
    """Print the kills and whether the runs agree; exit with 1 if they do not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)

    with tempfile.TemporaryDirectory() as out:
        whole = Path(out) / "whole"
        killed = Path(out) / "killed"

        # The run that is left alone.
        if _start(*FLAGS, f"--run.out={out}", "--run.name=whole").wait() != 0:
            raise SystemExit("the run that was left alone failed")

        # The run that is killed and resumed.
        process = _start(*FLAGS, f"--run.out={out}", "--run.name=killed")
        for kill in range(arguments.kills):
            _kill(process, killed, generator.uniform(0, DELAY))
            print(f"kill {kill + 1}: newest checkpoint {[path.name for path in newest_first(killed)][:1]}", flush=True)
            process = _start("--resume", str(killed))
        if process.wait() != 0:
            raise SystemExit("the last resumed run failed")

        expected = _scalars(whole)
        scalars_agree = expected.equals(_scalars(killed))
        tensors_agree = _tensors(whole) == _tensors(killed)

    scalars = expected.count().sum()
    print(f"{arguments.kills} kills: {scalars} scalars agree: {scalars_agree}; tensors agree: {tensors_agree}")
    sys.exit(not (scalars_agree and tensors_agree))


if __name__ == "__main__":
    main()
