"""Checkpoints: whole or refused, and never code. The oracle of a restored run is the run that was not interrupted."""

import hashlib
import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from builders import QUICK_FLAGS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distributional_ppo import DistributionalPPO
from market_regimes import Agent
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.files import write_file
from market_regimes.run import resume
from market_regimes.run.checkpoint import CheckpointError, load_agent, newest_first, path_of, prune, read, write
from market_regimes.run.resume import capture
from market_regimes.run.study import Study
from train_model_multi_patch import main

TENSORS = {"parameters": {"policy": {"w": torch.arange(6.0).reshape(2, 3)}}, "numbers": [1, 2.5, True, None]}


def algorithm(**changes):
    return dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=32, n_epochs=1, **changes)


def small_study(out, **changes):
    run = RunConfig(n_envs=2, total_timesteps=256, out=str(out), name="run", progress_bar=False)
    return Study(run, MarketConfig(), algorithm(**changes))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return small_study(tmp_path_factory.mktemp("runs")).start("seed: 0\n")


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, 7, TENSORS, {"step": 7, "big": 2**100, "float": 0.1})
    tensors, state = read(path_of(tmp_path, 7))

    assert torch.equal(tensors["parameters"]["policy"]["w"], TENSORS["parameters"]["policy"]["w"])
    assert tensors["numbers"] == [1, 2.5, True, None]
    assert state == {"step": 7, "big": 2**100, "float": 0.1}


def test_a_step_trained_again_is_never_without_a_checkpoint(tmp_path):
    for attempt in range(12):
        write(tmp_path, 7, TENSORS, {"attempt": attempt})
        assert read(path_of(tmp_path, 7))[1] == {"attempt": attempt}

    write(tmp_path, 3, TENSORS, {})

    assert len(newest_first(tmp_path)) == 13

    prune(tmp_path, None)

    assert [path.name for path in newest_first(tmp_path)] == ["000000000007.11", "000000000003"]


def test_a_write_that_fails_anywhere_leaves_the_one_before(tmp_path, monkeypatch):
    """Every call to the system in turn raises as a full or failing disk does."""
    failures = 0

    for name in ("fsync", "replace", "open"):
        real = getattr(os, name)
        for fail_at in range(20):
            run = tmp_path / f"{name}-{fail_at}"
            write(run, 1, TENSORS, {"step": 1})
            calls = iter(range(1000))

            def call(*args, real=real, calls=calls, fail_at=fail_at):
                if next(calls) == fail_at:
                    raise OSError(28, "No space left on device")
                return real(*args)

            with monkeypatch.context() as patch:
                patch.setattr(os, name, call)
                try:
                    write(run, 2, TENSORS, {"step": 2})
                    break
                except OSError:
                    failures += 1
            states = [read(path)[1]["step"] for path in newest_first(run)]  # what has its name is whole
            assert states in ([1], [2, 1])
            write(run, 2, TENSORS, {"step": 2})
            prune(run, None)
            assert [read(path)[1]["step"] for path in newest_first(run)] == [2, 1]
            assert len(list((run / "checkpoints").iterdir())) == 2

    assert failures >= 8


@pytest.mark.parametrize("name", ["tensors.pt", "state.json"])
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_torn_and_changed_files_are_refused(tmp_path, name, where, flip, cut):
    write(tmp_path, 1, TENSORS, {"step": 1, "text": "abc"})
    path = path_of(tmp_path, 1) / name
    content = bytearray(path.read_bytes())
    position = int(where * len(content))
    if cut:
        content = content[:position]
    else:
        content[position] ^= flip
    path.write_bytes(content)
    try:
        _, state = read(path_of(tmp_path, 1))
    except CheckpointError:
        return

    assert name == "state.json"  # where white space may change without changing what it says
    assert state == {"step": 1, "text": "abc"}


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="torn or none"):
        read(path_of(tmp_path, 1))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def forge(path, content):
    """A file whose digest is right: what an attacker would give."""
    state = json.loads((path / "state.json").read_text())["state"]
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode() + content).hexdigest()
    (path / "tensors.pt").write_bytes(content)
    (path / "state.json").write_text(json.dumps({"sha256": digest, "state": state}))


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, kind):
    write(tmp_path, 1, TENSORS, {})
    trap = tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"parameters": Malicious(str(trap))}, buffer)
    forge(path_of(tmp_path, 1), buffer.getvalue() if kind == "torch" else pickle.dumps(Malicious(str(trap))))

    with pytest.raises(CheckpointError, match="something else than tensors"):
        read(path_of(tmp_path, 1))

    assert not trap.exists()


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in range(5):
        write(tmp_path, step, {}, {})

    (tmp_path / "checkpoints" / "000000000009.tmp").mkdir()
    prune(tmp_path, best_step=1)

    assert [int(p.name) for p in newest_first(tmp_path)] == [4, 3, 1]
    assert not (tmp_path / "checkpoints" / "000000000009.tmp").exists()


def test_pruning_keeps_what_a_kept_checkpoint_calls_the_best(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step, {}, {"training": {"best_step": 2}})

    prune(tmp_path, best_step=4)

    assert [int(p.name) for p in newest_first(tmp_path)] == [4, 3, 2]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_file(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("full")))

    with pytest.raises(OSError, match="full"):
        write_file(tmp_path / "file", "new")

    assert (tmp_path / "file").read_text() == "old"


def test_restoring_gives_what_was_captured(run_folder, tmp_path):
    path = newest_first(run_folder)[0]
    study = small_study(tmp_path)
    tensors, state = read(path)
    resume.restore(study.model, tensors, state, path)
    again, state_again = resume.capture(study.model)

    assert {k: v for k, v in state.items() if k != "training"} == json.loads(json.dumps(state_again))

    flat = dict(flatten(tensors))

    assert flat.keys() == dict(flatten(again)).keys()

    for name, value in flatten(again):
        assert type(value) is type(flat[name])
        assert torch.equal(value, flat[name]) if isinstance(value, torch.Tensor) else value == flat[name], name

    assert study.model.num_timesteps == 256
    assert study.model._last_obs.dtype == np.float32


def flatten(tree, prefix=""):
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if pairs is None:
        yield prefix, tree
    else:
        for key, value in pairs:
            yield from flatten(value, f"{prefix}/{key}")


def test_the_newest_whole_checkpoint_is_used(run_folder, tmp_path, capsys):
    copy = shutil.copytree(run_folder, tmp_path / "copy")
    newest, before = newest_first(copy)[:2]
    (newest / "tensors.pt").write_bytes(b"")
    (copy / "best.json").unlink(missing_ok=True)
    study = small_study(tmp_path)
    study.load(copy)
    message = capsys.readouterr().err

    assert f"{newest} is torn or was changed" in message

    expected = read(before)[0]["parameters"]["policy"]
    actual = study.model.policy.state_dict()

    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_checkpoints_of_another_network_do_not_fit(run_folder, tmp_path, capsys):
    study = small_study(tmp_path, policy_kwargs=dict(n_quantiles=5))
    for attempt in (study.load, lambda folder: study.resume(folder, "")):
        with pytest.raises(ValueError, match="holds no checkpoint"):
            attempt(run_folder)
        assert "does not fit this run" in capsys.readouterr().err


def test_parameters_that_are_not_finite_are_refused(run_folder, tmp_path, capsys):
    copy = shutil.copytree(run_folder, tmp_path / "copy")

    for path in newest_first(copy):
        tensors, state = read(path)
        tensors["parameters"]["policy"]["action_net.bias"][0] = torch.nan
        write(copy, int(path.name), tensors, state)
        shutil.rmtree(path)

    with pytest.raises(ValueError, match="holds no checkpoint"):
        small_study(tmp_path).load(copy)

    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ['{"step": Infinity}', '{"step": "1"}', '{"step": true}', "[" * 100_000, "\0", "[]"]
)
def test_files_beside_the_checkpoints_are_refused_when_they_are_none(run_folder, tmp_path, content):
    for name in ("best.json", "run.json"):
        copy = shutil.copytree(run_folder, tmp_path / name)
        (copy / name).write_text(content)
        with pytest.raises(ValueError, match=rf"{name} is torn or no run's"):
            small_study(tmp_path).load(copy)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(run_folder, tmp_path, capsys):
    copy = shutil.copytree(run_folder, tmp_path / "copy")

    for path in copy.iterdir():
        if path.name not in ("config.yaml", "run.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    small_study(tmp_path).resume(copy, "")

    assert "begins anew" in capsys.readouterr().out

    first, second = (read(newest_first(folder)[0])[0]["parameters"]["policy"] for folder in (run_folder, copy))

    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("numpy_rng"),
        lambda state: state.update(num_timesteps="many"),
        lambda state: state.update(market_rng={"bit_generator": "os.system"}),
        lambda state: state.update(python_rng=[3, [1, 2], None]),
        lambda state: state.pop("training"),
        lambda state: state.update(training={"best": "me"}),
        lambda state: state["training"].update(csv_rows="two"),
        lambda state: state["training"].update(event_sizes=["events"]),
    ],
)
def test_states_with_the_right_digest_and_wrong_content_are_refused(run_folder, tmp_path, capsys, spoil):
    copy = shutil.copytree(run_folder, tmp_path / "copy")

    for path in newest_first(copy):
        tensors, state = read(path)
        spoil(state)
        write(copy, int(path.name), tensors, state)
        shutil.rmtree(path)

    with pytest.raises(ValueError, match="holds no checkpoint that can be resumed"):
        small_study(tmp_path).resume(copy, "")

    assert "does not fit this run" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_a_file_written_leaves_nothing_open_and_nothing_beside_it(tmp_path):
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        write_file(tmp_path / "file", "text")

    assert len(os.listdir("/proc/self/fd")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def model(seed=0):
    return DistributionalPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, seed=seed, device="cpu")


def test_a_single_number_that_is_not_finite_is_refused(tmp_path):
    tensors, _ = capture(model())
    next(iter(tensors["parameters"]["policy"].values())).view(-1)[-1] = torch.nan

    with pytest.raises(CheckpointError, match="not finite"):
        load_agent(model(1), tensors, tmp_path)


def test_a_checkpoint_that_lacks_a_parameter_does_not_fit(tmp_path):
    tensors, _ = capture(model())
    load_agent(model(1), tensors, tmp_path)
    tensors["parameters"]["policy"].pop("action_net.bias")

    with pytest.raises(CheckpointError, match="does not fit"):
        load_agent(model(1), tensors, tmp_path)


@pytest.fixture
def home(tmp_path, make_prices, monkeypatch):
    """The working folder and the user's home, with a file and a folder of files."""
    make_prices(400).to_csv(tmp_path / "p.csv", index=False)
    (tmp_path / "both").mkdir()
    for i, name in enumerate("AB"):
        make_prices(400, seed=i).to_csv(tmp_path / "both" / f"{name}.csv", index=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_tensors_of_a_checkpoint_lie_wherever_they_were_saved(home):
    """``torch.load`` maps them to the CPU; a checkpoint says nothing of where it is read."""
    main([*QUICK_FLAGS, "--market.data=p.csv", "--run.name=x", "--algorithm.device=cpu"])
    path = newest_first(home / "runs" / "x")[0]
    tensors, state = read(path)

    assert all(value.device == torch.device("cpu") for value in tensors["parameters"]["policy"].values())

    tensors["cuda_rng"] = [torch.get_rng_state()] * 2
    write(home / "runs" / "x", int(path.name) + 2, tensors, state)

    assert Agent.load("runs/x", "last").step == 64

    main(["--resume", "runs/x", "--run.total_timesteps=128"])


SMALL = dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)


@pytest.fixture
def files(tmp_path, make_prices):
    """a.csv has opening prices, b.csv has closes only."""
    make_prices(400).to_csv(tmp_path / "a.csv", index=False)
    make_prices(400, seed=1).drop(columns="open").to_csv(tmp_path / "b.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("which", ["first", "Best", "", None])
def test_a_checkpoint_is_the_best_or_the_last(files, which):
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(files), name="run", progress_bar=False)
    folder = Study(run, MarketConfig(str(files / "a.csv")), SMALL).start()

    with pytest.raises(ValueError, match="a checkpoint is best or last, got"):
        Agent.load(folder, which)
