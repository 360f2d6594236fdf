"""A resumed run equals the uninterrupted one, and every state in a checkpoint is needed for that."""

import random
import shutil
from copy import deepcopy

import pandas as pd
import pytest
import torch

from distributional_ppo import DistributionalPPO
from market_regimes.config import MarketConfig, RunConfig, TradingCosts
from market_regimes.run.callback import Training
from market_regimes.run.checkpoint import newest_first, path_of, read, write
from market_regimes.run.study import Study

PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2002-04-19")
)
SHORT = TradingCosts(position_low=-1.0)  # a position that is cut off at 0 would hide what it was before
SCORES = {32: 1.0, 64: 2.0}  # then lower: the best model is that of step 64
CLOCKS = {"time/fps", "time/time_elapsed", "time/iterations"}  # of the process; SB3 counts its iterations, too
EVERYTHING = dict(
    learning_rate="lin_0.001",
    clip_range="lin_0.2",
    use_sde=True,
    normalize_returns=True,
    use_popart=True,
    use_twin_critics=True,
    use_variance_gradient_scaling=True,
    variance_scaling_mode="dsac_t",
)
CONFIGURATIONS = {
    "everything": EVERYTHING,
    "plain": dict(learning_rate="lin_0.001"),
    "clipped values": dict(clip_range_vf="lin_0.5", normalize_returns=True, use_popart=True),
    "batch weights": dict(use_variance_gradient_scaling=True, normalize_returns=True),
    "sr_lambda": dict(value_target="sr_lambda", gamma=0.9),
    "AdaptiveUPGD": dict(policy_kwargs=dict(optimizer_class="AdaptiveUPGD")),
    "target_kl": dict(target_kl=1e-3, n_epochs=3),
    "recurrent": dict(policy="MlpLstmPolicy", sequence_length=5, policy_kwargs=dict(lstm_hidden_size=8)),
}
RECURRENT = {**EVERYTHING, "policy": "MlpLstmPolicy", "value_target": "sr_lambda"}
RECURRENT["policy_kwargs"] = dict(lstm_hidden_size=8, n_lstm_layers=2)
CONFIGURATIONS["recurrent, everything"] = RECURRENT


class Scripted(Study):
    """Its scores are scripted but for a draw of Python's generator; at some steps it keeps copies of its folder."""

    copies: tuple = ()

    def score(self):
        step = self.model.num_timesteps
        for at, copy in self.copies:
            if at == step:
                shutil.copytree(self.folder, copy)
        return {self.score_name: SCORES.get(step, 0.0) + 1e-3 * random.random()}, None


@pytest.fixture(scope="module")
def build(tmp_path_factory, make_prices):
    data = tmp_path_factory.mktemp("data")
    for i, name in enumerate("AB"):
        make_prices(600, seed=i).to_csv(data / f"{name}.csv", index=False)

    def make(folder, algorithm, **run):
        defaults = dict(n_envs=2, total_timesteps=256, eval_every=32, checkpoint_every=64, patience=5)
        defaults |= dict(progress_bar=False, normalize_observations=True, out=str(folder.parent), name=folder.name)
        base = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=16, batch_size=16, n_epochs=1)
        market = MarketConfig(
            data=[str(data / "A.csv"), str(data / "B.csv")], episode_bars=58, trading=SHORT, **PERIODS
        )
        study = Scripted(RunConfig(**{**defaults, **run}), market, {**base, **algorithm})
        study.folder = folder
        return study

    return make


@pytest.fixture(autouse=True, scope="module")
def no_picture():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("market_regimes.run.study.picture_of_training", lambda *args: None, raising=False)
        yield


def outcome(folder, read_scalars):
    """All that a run leaves, but for the clock's."""
    rows = pd.read_csv(folder / "progress.csv")
    newest, best = newest_first(folder)[0], path_of(folder, 64)
    _, state = read(newest)
    state["training"] = {name: value for name, value in state["training"].items() if name != "event_sizes"}
    return {
        "rows": rows[sorted(set(rows) - CLOCKS)].to_csv(),
        "events": {
            tag: [(e.step, e.value) for e in points]
            for tag, points in read_scalars(folder).items()
            if tag not in CLOCKS
        },
        "best": (folder / "best.json").read_text(),
        "steps": sorted({int(path.name[:12]) for path in newest_first(folder)}),
        "tensors": (newest / "tensors.pt").read_bytes(),
        "state": state,
        "best tensors": (best / "tensors.pt").read_bytes() if best.exists() else None,
    }


def killed_and_whole(build, folder, algorithm, read_scalars, **run):
    """Copies of a run as a kill leaves them at steps 32 and 160, between evaluation and checkpoint; its outcome."""
    study = build(folder / "whole", algorithm, **run)
    early, killed = folder / "early", folder / "killed"
    study.copies = ((32, early), (160, killed))
    study.start("")
    return early, killed, outcome(folder / "whole", read_scalars)


@pytest.mark.parametrize(
    ("name", "patience"), [*((name, 5) for name in CONFIGURATIONS), ("everything", None), ("plain", None)]
)
def test_a_killed_run_resumes_to_the_same(build, tmp_path, read_scalars, name, patience):
    algorithm = CONFIGURATIONS[name]
    _, killed, whole = killed_and_whole(build, tmp_path, algorithm, read_scalars, patience=patience)

    assert [int(path.name) for path in newest_first(killed)] == [128, 64]
    assert whole["state"]["num_timesteps"] == (224 if patience else 256)  # 64 is the best, 5 evaluations later is 224
    assert whole["steps"] == [64, 192, 224] if patience else [64, 192, 256]

    build(killed, algorithm, patience=patience).resume(killed, "")
    again = outcome(killed, read_scalars)

    for part, value in whole.items():
        assert again[part] == value, part


@pytest.fixture(scope="module", autouse=True)
def the_average_begins_at_once():
    """The average of "dsac_t" waits for a spread of the quantiles, which these few updates do not bring."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantile_critic.losses.SPREAD_SHARE", 0.0)
        yield


@pytest.fixture(scope="module")
def everything(build, tmp_path_factory, read_scalars):
    return killed_and_whole(build, tmp_path_factory.mktemp("everything"), EVERYTHING, read_scalars)


POLICY = ("tensors", "parameters", "policy")
STATISTICS = ("tensors", "observation_statistics", "")
STATES = {
    "parameters": POLICY,
    "mean of the returns": (*POLICY, "value_net.ret_mean"),
    "std of the returns": (*POLICY, "value_net.ret_std"),
    "updates of the returns' statistics": (*POLICY, "value_net.ret_updates"),
    "average std of the quantiles": (*POLICY, "value_net.std_average"),
    "filled share of that average": (*POLICY, "value_net.std_average_filled"),
    "a layer of the critic": (*POLICY, "value_net.net.weight"),
    "a layer of the second critic": (*POLICY, "value_net.second.weight"),
    "a layer of the actor": (*POLICY, "action_net.weight"),
    "log_std": (*POLICY, "log_std"),
    "optimizer": ("tensors", "parameters", "policy.optimizer"),
    "torch's generator": ("tensors", "torch_rng"),
    "numpy's generator": ("tensors", "numpy_rng"),
    "position in numpy's generator": ("state", "numpy_rng"),
    "Python's generator": ("state", "python_rng"),
    "the market's generator": ("state", "market_rng"),
    "noise of gSDE": ("tensors", "gsde_noise"),
    "mean of the observations": (*STATISTICS, "mean"),
    "variance of the observations": (*STATISTICS, "var"),
    "count of the observations": (*STATISTICS, "count"),
    "symbols traded": ("tensors", "market", "symbol"),
    "bars": ("tensors", "market", "bar"),
    "ends of the episodes": ("tensors", "market", "end"),
    "positions": ("tensors", "market", "position"),
    "equity": ("tensors", "market", "equity"),
    "returns of the episodes so far": ("tensors", "monitor", 0),
    "lengths of the episodes so far": ("tensors", "monitor", 1),
    "number of episodes": ("state", "episode_count"),
    "last observations": ("tensors", "last_obs"),
    "returns of finished episodes": ("tensors", "episode_returns"),
    "lengths of finished episodes": ("tensors", "episode_lengths"),
    "step": ("state", "num_timesteps"),
    "updates": ("state", "n_updates"),
    "when to evaluate": ("state", "training", "evaluation_due"),
    "when to save": ("state", "training", "checkpoint_due"),
    "patience": ("state", "training", "evaluations_without_better"),
    "best step": ("state", "training", "best_step"),
    "best score": ("state", "training", "best_score"),
    "rows of progress.csv": ("state", "training", "csv_rows"),
    "sizes of the event files": ("state", "training", "event_sizes"),
}
# Of the first step of a rollout: GAE looks at those of the steps after it. Recurrent policies: ``FORGOTTEN``.
UNUSED = {("last_episode_starts",)}
# What the first checkpoint has fits no later one, or would be made up for: another value instead.
OTHERWISE = {
    "when to save": lambda due: due + 32,
    "returns of finished episodes": lambda returns: returns + 1,
    "lengths of finished episodes": lambda lengths: lengths + 1,
    "best step": lambda step: 128,
}


def at(content, path):
    for key in path:
        content = content[key]
    return content


@pytest.mark.parametrize("name", STATES)
def test_without_any_one_state_the_resumed_run_differs(build, everything, tmp_path, read_scalars, name):
    """The state is put back to what it was at the first checkpoint, as if it had not been restored."""
    early, killed, whole = everything
    copy = shutil.copytree(killed, tmp_path / "copy")
    checkpoint = newest_first(copy)[0]
    tensors, state = read(checkpoint)
    first = dict(zip(("tensors", "state"), read(newest_first(early)[-1]), strict=True))
    place = at({"tensors": tensors, "state": state}, STATES[name][:-1])
    value = place[STATES[name][-1]]
    place[STATES[name][-1]] = OTHERWISE[name](value) if name in OTHERWISE else deepcopy(at(first, STATES[name]))
    write(copy, int(checkpoint.name), tensors, state)
    shutil.rmtree(checkpoint)
    build(copy, EVERYTHING).resume(copy, "")
    again = outcome(copy, read_scalars)

    assert [part for part in whole if again[part] != whole[part]]


@pytest.fixture(scope="module")
def recurrent(build, tmp_path_factory, read_scalars):
    return killed_and_whole(build, tmp_path_factory.mktemp("recurrent"), RECURRENT, read_scalars)


FORGOTTEN = {
    **{f"state {i} of the LSTMs": ("lstm_states", i, torch.zeros_like) for i in range(4)},
    "starts of episodes": ("last_episode_starts", slice(None), lambda starts: ~starts),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_recurrent_run_that_forgets_differs(build, recurrent, tmp_path, read_scalars, name):
    _, killed, whole = recurrent
    key, place, otherwise = FORGOTTEN[name]
    copy = shutil.copytree(killed, tmp_path / "copy")
    checkpoint = newest_first(copy)[0]
    tensors, state = read(checkpoint)

    assert len(tensors["lstm_states"]) == 4

    tensors[key][place] = otherwise(tensors[key][place])
    write(copy, int(checkpoint.name), tensors, state)
    shutil.rmtree(checkpoint)
    build(copy, RECURRENT).resume(copy, "")
    again = outcome(copy, read_scalars)

    assert [part for part in whole if again[part] != whole[part]]


@pytest.mark.parametrize("states", [None, [torch.zeros(2, 2, 9)] * 4, [torch.zeros(2, 2, 8)] * 2])
def test_states_of_other_lstms_are_refused(build, recurrent, tmp_path, capsys, states):
    _, killed, _ = recurrent
    copy = shutil.copytree(killed, tmp_path / "copy")
    checkpoint = newest_first(copy)[0]
    tensors, state = read(checkpoint)
    tensors["lstm_states"] = states or []
    write(copy, int(checkpoint.name), tensors, state)
    shutil.rmtree(checkpoint)
    build(copy, RECURRENT).resume(copy, "")

    assert "does not fit this run: its LSTMs' states have shapes" in capsys.readouterr().err


def test_every_state_of_a_checkpoint_is_tried(everything):
    tensors, state = read(newest_first(everything[1])[0])
    tried = {path[1:] for path in STATES.values()}

    def leaves(tree, prefix=()):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        if prefix in tried or not pairs:
            yield prefix
        else:
            for key, value in pairs:
                yield from leaves(value, (*prefix, key))

    assert {leaf for tree in (tensors, state) for leaf in leaves(tree)} <= tried | UNUSED


def test_a_kill_during_any_update_leaves_a_run_that_resumes_to_the_same(build, tmp_path, read_scalars, monkeypatch):
    """Copies of the folder from the ends of all rollouts, whatever was saved last."""
    study = build(tmp_path / "whole", EVERYTHING)
    train = DistributionalPPO.train

    def copy_and_train(model):
        shutil.copytree(tmp_path / "whole", tmp_path / str(model.num_timesteps))
        train(model)

    with monkeypatch.context() as patch:
        patch.setattr(DistributionalPPO, "train", copy_and_train)
        study.start("")

    whole = outcome(tmp_path / "whole", read_scalars)

    for step in (32, 96, 192):
        folder = tmp_path / str(step)
        build(folder, EVERYTHING).resume(folder, "")
        assert outcome(folder, read_scalars) == whole, step


def test_a_resumed_run_that_had_stopped_early_stays_stopped(build, tmp_path, read_scalars):
    folder = tmp_path / "run"
    build(folder, EVERYTHING).start("")
    before = outcome(folder, read_scalars)
    build(folder, EVERYTHING).resume(folder, "")

    assert outcome(folder, read_scalars) == before


def test_a_run_killed_before_its_first_checkpoint_is_the_whole_one(build, tmp_path, read_scalars):
    folder = tmp_path / "run"
    build(folder, EVERYTHING).start("")
    whole = outcome(folder, read_scalars)

    for path in folder.iterdir():
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    build(folder, EVERYTHING).resume(folder, "")

    assert outcome(folder, read_scalars) == whole


def test_schedules_go_on_where_they_were(build, tmp_path):
    """After u of 8 updates of 32 steps the rate is 0.001 (1 - u / 8): SB3 sets it before the update that follows."""
    study = build(tmp_path / "whole", CONFIGURATIONS["plain"], patience=None)
    study.copies = ((160, tmp_path / "killed"),)
    study.start("")
    build(tmp_path / "killed", CONFIGURATIONS["plain"], patience=None).resume(tmp_path / "killed", "")

    for name in ("whole", "killed"):
        rates = pd.read_csv(tmp_path / name / "progress.csv")["train/learning_rate"].dropna()
        assert rates.to_numpy() == pytest.approx([0.001 * (1 - u / 8) for u in range(1, 9)], abs=1e-12)


def test_another_environment_resumes_with_its_parameters_and_statistics(tmp_path):
    """At the first rollout after the resume they are those of the last checkpoint, but for the reset's observations."""
    run = dict(n_envs=2, out=str(tmp_path), name="pole", progress_bar=False, normalize_observations=True)
    algorithm = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=16, batch_size=16, n_epochs=1)
    study = Study(RunConfig("CartPole-v1", total_timesteps=64, **run), MarketConfig(), algorithm)
    folder = study.start("")
    tensors, state = read(newest_first(folder)[0])
    seen = {}
    longer = Study(RunConfig("CartPole-v1", total_timesteps=128, **run), MarketConfig(), algorithm)
    real = Training._on_rollout_start

    def look(self):
        real(self)
        if not seen:
            seen.update({name: value.clone() for name, value in self.model.policy.state_dict().items()})
            seen.update(count=self.model.get_vec_normalize_env().obs_rms.count, updates=self.model._n_updates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_on_rollout_start", look)
        longer.resume(folder, "")

    assert all(torch.equal(value, seen[name]) for name, value in tensors["parameters"]["policy"].items())
    assert seen["count"] == pytest.approx(float(tensors["observation_statistics"][""]["count"]) + 2)
    assert seen["updates"] == state["n_updates"] == 2
    assert longer.model.num_timesteps == 128
