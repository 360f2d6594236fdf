"""
``torchrun ... train``: several processes on one run. Oracles: one process of the whole run beside one that was stopped;
the class without the command line, whose update ``tests/test_processes.py`` holds against that of one process.
"""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from market_regimes.run import checkpoint
from market_regimes.run.checkpoint import newest_first, read
from train_model_multi_patch import main

ROOT = Path(__file__).parents[2]
FEW = ["--run.n_envs=2", "--run.eval_every=512", "--run.checkpoint_every=256", "--run.progress_bar=false"]
FEW += ["--algorithm.n_steps=64", "--algorithm.batch_size=32", "--algorithm.n_epochs=2"]
FLAGS = [*FEW, "--run.total_timesteps=1024", "--algorithm.value_target=sr_lambda", "--algorithm.use_sde=true"]
FLAGS += ["--market.validation=[2009-01-01,2009-06-30]", "--market.test=[2011-01-01,2011-06-30]"]


def as_torchrun_does(rank, port, shown, arguments):
    """One process of two, with the variables that torchrun sets."""
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="none")
    os.environ |= dict(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with shown.with_suffix(f".{rank}").open("w") as file:
        sys.stdout = sys.stderr = file
        main(arguments)


def start(shown, *arguments):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=as_torchrun_does, args=(r, port, shown, [*arguments])) for r in (0, 1)]
    for worker in workers:
        worker.start()
    return workers


def finished(workers, shown):
    """What both have printed, when they have ended."""
    for worker in workers:
        worker.join()
    return [shown.with_suffix(f".{rank}").read_text() for rank in (0, 1)], [worker.exitcode for worker in workers]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("processes")
    printed, codes = finished(
        start(out / "shown", "train", *FLAGS, f"--run.out={out}", "--run.name=whole"), out / "shown"
    )
    assert codes == [0, 0], printed
    return out / "whole", printed


def test_the_first_process_alone_prints_and_writes(whole):
    folder, printed = whole
    assert "training in" in printed[0]
    assert "sharpe_ratio" in printed[0]
    assert printed[1] == ""
    assert len(list(folder.glob("events*"))) == 1
    rows = pd.read_csv(folder / "progress.csv").dropna(subset="train/value_loss")
    assert rows["time/total_timesteps"].tolist() == [256, 512, 768, 1024]  # of both
    assert (folder / "equity-test.png").exists()
    steps = [json.loads((folder / name).read_text())["step"] for name in ("best.json", "evaluation-test.json")]
    assert steps[0] == steps[1]
    assert steps[0] in (512, 1024)


def test_each_process_steps_environments_of_its_own(whole):
    tensors, state = read(newest_first(whole[0])[0])
    (other,), (other_state,) = tensors["others"], state["others"]
    assert not torch.equal(tensors["last_obs"], other["last_obs"])
    assert not torch.equal(tensors["torch_rng"], other["torch_rng"])
    assert state["market_rng"] != other_state["market_rng"]
    assert "parameters" not in other


def test_a_killed_process_ends_the_run_in_one_sentence_and_it_goes_on_to_the_same(whole, tmp_path):
    folder, shown = tmp_path / "killed", tmp_path / "shown"
    workers = start(shown, "train", *FLAGS, f"--run.out={tmp_path}", "--run.name=killed")
    while not (folder / "checkpoints").exists() or len(newest_first(folder)) < 2:
        assert workers[0].is_alive()
        time.sleep(0.005)
    workers[1].kill()
    (printed, _), codes = finished(workers, shown)
    assert codes == [2, -signal.SIGKILL]
    error = f"error: another process of the training in {folder} has ended: start it again with --resume {folder}"
    assert printed.splitlines()[-1] == error
    printed, codes = finished(start(shown, "train", "--resume", str(folder)), shown)
    assert codes == [0, 0], printed
    assert re.search(r"goes on from step (256|512|768)", printed[0])
    for name in ("best.json", "evaluation-test.json"):
        assert (folder / name).read_text() == (whole[0] / name).read_text()
    assert (newest_first(folder)[0] / "tensors.pt").read_bytes() == (
        newest_first(whole[0])[0] / "tensors.pt"
    ).read_bytes()


def test_ctrl_c_stops_both_where_they_can_go_on(whole, tmp_path):
    folder, shown = tmp_path / "stopped", tmp_path / "shown"
    workers = start(shown, "train", *FLAGS, f"--run.out={tmp_path}", "--run.name=stopped")
    while not (folder / "checkpoints").exists() or len(newest_first(folder)) < 2:
        time.sleep(0.005)
    for worker in workers:  # as a terminal does
        os.kill(worker.pid, signal.SIGINT)
    (printed, _), codes = finished(workers, shown)
    assert codes == [130, 0]
    assert f"train --resume {folder}\n" in printed
    tensors, _ = read(newest_first(folder)[0])
    assert len(tensors["others"]) == 1
    _, codes = finished(start(shown, "train", "--resume", str(folder)), shown)
    assert codes == [0, 0]
    tensors = [(newest_first(path)[0] / "tensors.pt").read_bytes() for path in (folder, whole[0])]
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_takes_its_own_part_of_a_checkpoint(rank, monkeypatch):
    monkeypatch.setattr(checkpoint, "n_processes", lambda: 3)
    monkeypatch.setattr(checkpoint, "rank", lambda: rank)
    parts = [({"rng": i}, {"steps": i}) for i in range(3)]
    tensors, state = checkpoint.with_others({"parameters": 7, "rng": 0}, {"steps": 0}, parts[1:])
    tensors, state = checkpoint.of_this_process(tensors, state, "path")
    assert (tensors["parameters"], tensors["rng"], state["steps"]) == (7, rank, rank)


def test_a_run_of_two_processes_goes_on_in_two_only(whole, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(whole[0])])
    assert "is of 2 processes and cannot go on in 1: start it by torchrun --standalone --nproc-per-node=2" in (
        capsys.readouterr().err
    )
    main(["evaluate", str(whole[0])])  # which needs one


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--seeds=0-1"], "--seeds trains one run after another, each in one process"),
        (["train", "--run.normalize_observations=true"], "run.normalize_observations needs one process"),
        (["signal", "run"], "torchrun trains one run in several processes: start signal without it"),
        (["sanity"], "torchrun trains one run in several processes: start sanity without it"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(arguments, sentence, tmp_path):
    printed, codes = finished(start(tmp_path / "shown", *arguments), tmp_path / "shown")
    assert codes == [2, 2]
    assert all(sentence in text for text in printed)


def test_torchrun_itself(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "train_model_multi_patch.py"), "train", "--run.env_id=CartPole-v1", *FEW]
    command += ["--run.total_timesteps=256", f"--run.out={tmp_path}", "--run.name=run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training in") == 1
    values = read(newest_first(tmp_path / "run")[0])[0]["parameters"]["policy"].values()
    assert all(np.isfinite(value.numpy()).all() for value in values)
