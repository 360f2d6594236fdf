"""``benchmarks/recurrent_learning.py``: its tasks and its table; ``recurrent_weight.py``: its cases."""

import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from benchmarks import recurrent_learning as learning
from benchmarks import recurrent_weight


def test_velocities_are_hidden():
    cart = learning.hidden("CartPole-v1")
    pendulum = learning.hidden("Pendulum-v1")

    for env in (cart, pendulum):
        check_env(env, warn=False)
        obs, _ = env.reset(seed=0)
        assert obs.shape == (2,)

    np.testing.assert_allclose(cart.reset(seed=1)[0], cart.unwrapped.state[[0, 2]], rtol=1e-6)

    obs = pendulum.reset(seed=1)[0]
    angle = pendulum.unwrapped.state[0]
    np.testing.assert_allclose(obs, [np.cos(angle), np.sin(angle)], rtol=1e-6)


def test_the_table_has_differences_seed_by_seed():
    ours = {("CartPole-v1", "defaults", seed): score for seed, score in enumerate([110.0, 220.0, 330.0])}
    theirs = {("CartPole-v1", "RecurrentPPO", seed): score for seed, score in enumerate([100.0, 200.0, 300.0])}
    # Differences 10, 20, 30: mean 20, std 10; t(0.975, 2) = 4.302653, so half the interval is 24.84.
    assert learning.table(ours | theirs).splitlines()[2:] == [
        "| CartPole-v1 | RecurrentPPO | 3 | 200.0 |  |",
        "| CartPole-v1 | defaults | 3 | 220.0 | +20.0 [-4.8, +44.8] |",
    ]


def test_a_study_of_critics_runs_what_it_names_and_has_a_file_of_its_own(tmp_path, monkeypatch, capsys):
    def run_missing(path, todo, run, workers):
        cells.extend(todo)

    cells = []
    monkeypatch.setattr(learning, "run_missing", run_missing)
    output = tmp_path / "runs.csv"
    output.write_text("task,variant,seed,score,minutes\nPendulum-v1,kappa in stds,0,-200,1\n")

    learning.main(["--seeds", "2", "--output", str(output), "--variants", "RecurrentPPO", "kappa in stds"])

    # Seed by seed, so that what is done is paired.
    assert [(cell.seed, cell.task, cell.variant) for cell in cells[:3]] == [
        (0, "CartPole-v1", "RecurrentPPO"),
        (0, "CartPole-v1", "kappa in stds"),
        (0, "Pendulum-v1", "RecurrentPPO"),
    ]
    assert len(cells) == 8
    assert "| Pendulum-v1 | kappa in stds | 1 | -200.0 |  |" in capsys.readouterr().out


def test_the_committed_table_is_that_of_the_readme():
    readme = learning.RUNS.with_name("README.md").read_text()
    assert learning.table(learning.read(learning.RUNS)) in readme


def score(model, env, n_eval_episodes):
    """Steps, of a policy that is asked about observations scaled as in its training."""
    ours = env.obs_rms
    trained = model.get_vec_normalize_env().obs_rms
    assert ours.count == trained.count > 1
    np.testing.assert_array_equal([ours.mean, ours.var], [trained.mean, trained.var])
    assert not env.training

    return model.num_timesteps, 0.0


def test_a_finished_run_is_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning, "VARIANTS", {"RecurrentPPO": None, "defaults": {}})
    monkeypatch.setattr(
        learning,
        "SETTINGS",
        {"CartPole-v1": dict(n_steps=8, batch_size=16, n_epochs=1)},
    )
    monkeypatch.setattr(learning, "evaluate_policy", score)

    for variant in [*learning.VARIANTS, *learning.CRITICS]:
        row = learning.run(learning.Cell("CartPole-v1", variant, 0), 64)
        assert (row["task"], row["variant"], row["seed"], row["score"]) == (
            "CartPole-v1",
            variant,
            0,
            "64",
        )

    output = tmp_path / "runs.csv"
    output.write_text("task,variant,seed,score,minutes\nCartPole-v1,RecurrentPPO,0,9,1\nCartPole-v1,defaults,0,8,1\n")
    learning.main(["--seeds", "1", "--output", str(output)])

    assert "| CartPole-v1 | defaults | 1 | 8.0 |  |" in capsys.readouterr().out


@pytest.mark.parametrize("policy", recurrent_weight.POLICIES)
def test_the_weight_differs_between_the_minibatches_of_an_update(policy, monkeypatch):
    monkeypatch.setattr(recurrent_weight, "STEPS", 4096)
    assert 1 < recurrent_weight.run(policy, 0) < 100
