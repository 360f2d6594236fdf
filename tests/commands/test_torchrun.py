"""
``torchrun ... train``: several processes on one run. Oracle: a run left alone, for one that was killed or stopped and
resumed. The update is held against that of one process in ``tests/test_processes.py``.
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

import pandas as pd
import pytest
import torch

from market_regimes.run import checkpoint, resume
from market_regimes.run.callback import Following
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
    """What both have printed and their exit codes, when they have ended."""
    for worker in workers:
        worker.join(120)
        worker.kill()  # one that waits for ever fails by its exit code
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


def wait_for_checkpoints(folder, workers):
    end = time.monotonic() + 60
    while not (folder / "checkpoints").exists() or len(newest_first(folder)) < 2:
        assert all(worker.is_alive() for worker in workers)
        assert time.monotonic() < end
        time.sleep(0.005)


def run_of_which_one_is_killed(out, rank):
    """:return: its folder; the other process has said why it ended"""
    folder, shown = out / "killed", out / "shown"
    workers = start(shown, "train", *FLAGS, f"--run.out={out}", "--run.name=killed")
    wait_for_checkpoints(folder, workers)
    workers[rank].kill()
    printed, codes = finished(workers, shown)
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 2)
    assert printed[1 - rank].splitlines()[-1] == (
        f"error: another process of the training in {folder} has ended, with an error of its own or killed: "
        f"train --resume {folder}, or Study.resume in Python, goes on from its last checkpoint"
    )
    return folder


def test_without_the_first_process_the_other_one_ends_in_one_sentence(tmp_path):
    run_of_which_one_is_killed(tmp_path, 0)


def test_a_killed_process_ends_the_run_in_one_sentence_and_it_goes_on_to_the_same(whole, tmp_path):
    folder = run_of_which_one_is_killed(tmp_path, 1)
    printed, codes = finished(start(tmp_path / "shown", "train", "--resume", str(folder)), tmp_path / "shown")

    assert codes == [0, 0], printed
    assert re.search(r"goes on from step (256|512|768)", printed[0])

    for name in ("best.json", "evaluation-test.json"):
        assert (folder / name).read_text() == (whole[0] / name).read_text()

    tensors = [(newest_first(path)[0] / "tensors.pt").read_bytes() for path in (folder, whole[0])]

    assert tensors[0] == tensors[1]


def test_ctrl_c_stops_both_where_they_can_go_on(whole, tmp_path):
    folder, shown = tmp_path / "stopped", tmp_path / "shown"
    workers = start(shown, "train", *FLAGS, f"--run.out={tmp_path}", "--run.name=stopped")
    wait_for_checkpoints(folder, workers)

    for worker in workers:  # as torchrun does
        os.kill(worker.pid, signal.SIGINT)

    (printed, _), codes = finished(workers, shown)

    assert codes == [130, 0]
    assert re.search(rf"go on with: torchrun --standalone --nproc-per-node=2 \S+ train --resume {folder}\n", printed)

    tensors, state = read(newest_first(folder)[0])

    assert len(tensors["others"]) == 1
    assert state["num_timesteps"] < 1024


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_takes_its_own_part_of_a_checkpoint(rank, monkeypatch):
    monkeypatch.setattr(resume, "n_processes", lambda: 3)
    monkeypatch.setattr(resume, "rank", lambda: rank)
    parts = [({"rng": i}, {"steps": i}) for i in range(3)]
    tensors, state = resume.with_others({"parameters": 7, "rng": 0}, {"steps": 0}, parts[1:])
    tensors, state = resume.of_this_process(tensors, state, "path")

    assert (tensors["parameters"], tensors["rng"], state["steps"]) == (7, rank, rank)


def test_a_run_of_two_processes_goes_on_in_two_only(whole, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(whole[0])])

    error = capsys.readouterr().err

    assert "written by 2 process(es) and this is one of 1: use torchrun --standalone --nproc-per-node=2\n" in error

    main(["evaluate", str(whole[0])])  # which needs one


def test_what_one_process_refuses_or_fails_at_it_says(whole, tmp_path, monkeypatch):
    """The other one says that it has ended."""
    name = ["train", *FLAGS, f"--run.out={whole[0].parent}", "--run.name=whole"]
    printed, codes = finished(start(tmp_path / "shown", *name), tmp_path / "shown")

    assert codes == [2, 2]
    assert "exists already" in printed[0]
    assert printed[1] == "error: another process of this training has ended\n"

    def fails(self):
        raise TypeError("a mistake")

    monkeypatch.setattr(Following, "_on_rollout_start", fails)
    workers = start(tmp_path / "shown", "train", *FLAGS, f"--run.out={tmp_path}", "--run.name=fails")
    printed, codes = finished(workers, tmp_path / "shown")
    path = tmp_path / "fails/traceback-1.txt"

    assert printed[1] == f"error: training failed in {tmp_path / 'fails'} with TypeError: a mistake; see {path}\n"
    assert "a mistake" in path.read_text()
    assert "has ended, with an error of its own" in printed[0]
    assert not (tmp_path / "fails/traceback.txt").exists()


@pytest.mark.parametrize("state", [[], {"others": 5}, {"others": [1]}, {"others": [{}]}])
def test_a_state_of_no_run_is_one_sentence(state, monkeypatch):
    monkeypatch.setattr(resume, "n_processes", lambda: 2)
    monkeypatch.setattr(resume, "rank", lambda: 1)

    with pytest.raises(checkpoint.CheckpointError, match="the checkpoint path does not fit this run"):
        resume.of_this_process({}, state, "path")


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


def test_a_gpu_is_refused_as_nobody_tried_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    workers = start(tmp_path / "shown", "train", "--algorithm.device=auto")
    printed, codes = finished(workers, tmp_path / "shown")

    assert codes == [2, 2]
    assert set(printed) == {"error: torchrun trains on the CPU only: give --algorithm.device=cpu\n"}


def test_torchrun_itself(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "train_model_multi_patch.py"), "train", "--run.env_id=CartPole-v1", *FEW]
    command += ["--run.total_timesteps=256", f"--run.out={tmp_path}", "--run.name=run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training in") == 1

    tensors, state = read(newest_first(tmp_path / "run")[0])

    assert (len(tensors["others"]), state["num_timesteps"]) == (1, 256)


def test_accounts_of_two_processes_go_on_as_if_they_had_not_stopped(make_prices, tmp_path):
    """A run of 768 rows beside one of 384 that is resumed: the same parameters, and each process at the same rows."""
    prices = tmp_path / "prices.csv"
    table = pd.concat([make_prices(600, seed=i).assign(symbol=name) for i, name in enumerate("AB")])
    table.to_csv(prices, index=False)
    flags = ["--run.n_envs=2", "--run.progress_bar=false", "--algorithm.n_steps=24", "--algorithm.batch_size=48"]
    flags += [f"--run.out={tmp_path}", f"--market.data={prices}", "--market.episode_bars=60"]
    flags += ["--market.portfolio.cash=shared", "--market.portfolio.training=account"]

    def run(*arguments):
        printed, codes = finished(start(tmp_path / "shown", "train", *arguments), tmp_path / "shown")
        assert codes == [0, 0], printed

    run(*flags, "--run.name=whole", "--run.total_timesteps=768")
    run(*flags, "--run.name=half", "--run.total_timesteps=384")
    run("--resume", str(tmp_path / "half"), "--run.total_timesteps=768")

    whole, _ = read(newest_first(tmp_path / "whole")[0])
    resumed, _ = read(newest_first(tmp_path / "half")[0])
    assert whole["last_obs"].shape[0] == 4  # of each process: accounts x symbols
    for ours, theirs in ((resumed, whole), (resumed["others"][0], whole["others"][0])):
        assert ours["market"].keys() == {"row", "end", "weights", "equity", "age", "since_trade"}
        for name, expected in theirs["market"].items():
            assert torch.equal(ours["market"][name], expected), name
    for name, expected in whole["parameters"]["policy"].items():
        assert torch.equal(resumed["parameters"]["policy"][name], expected), name
    assert not torch.equal(whole["market"]["row"], whole["others"][0]["market"]["row"])
