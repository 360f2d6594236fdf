"""Every command ends quietly where its output is closed, as by `| head`: one traceback of any of them is a fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

from market_regimes import MarketConfig, RunConfig, Study

ROOT = Path(__file__).parents[1]

QUICK = [
    "--run.total_timesteps=32",
    "--run.n_envs=2",
    "--algorithm.n_steps=16",
    "--algorithm.batch_size=16",
]
QUICK += ["--market.data=own.csv", "--run.progress_bar=false"]
COMMANDS = {
    "train": ["train", *QUICK],
    "help": ["train", "--help"],
    "evaluate": ["evaluate", "run"],
    "signal": ["signal", "run"],
    "export": ["export", "run"],
    "data": ["data", "own.csv"],
    "tune": [
        "tune",
        *QUICK,
        "--config=space.yaml",
        "--first_validation=2001-03-01",
    ],
}
# The program is imported once, then a process per command runs it to the interpreter's own end.
PROGRAM = """
import json, os, sys
import train_model_multi_patch
from market_regimes.commands import compare, data, evaluate, export, sanity, signal, train, tune
from market_regimes.evaluate import evaluation

evaluation.tear_sheet = lambda *args: None
for name, arguments in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), 2)
        train_model_multi_patch.main(arguments)
        sys.exit()
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sep="=")
"""


def test_a_closed_pipe_ends_every_command_quietly(tmp_path, make_prices):
    make_prices(600).to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "space.yaml").write_text("space: {algorithm.gamma: [0.9]}")
    run = RunConfig(
        total_timesteps=32,
        n_envs=2,
        out=str(tmp_path),
        name="run",
        progress_bar=False,
    )
    Study(
        run,
        MarketConfig(str(tmp_path / "own.csv")),
        dict(n_steps=16, batch_size=32, n_epochs=1),
    ).start()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)  # what is printed waits for a flush, at the latest that of the exit
    command = [sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    codes = dict(line.rsplit("=", 1) for line in done.stdout.splitlines())
    ended = {name: ((tmp_path / name).read_text(), int(codes[name])) for name in COMMANDS}

    assert ended == dict.fromkeys(COMMANDS, ("", 1))
