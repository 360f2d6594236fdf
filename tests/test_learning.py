"""The benchmarks of learning. Oracles: Monte Carlo draws, Gymnasium's own rewards, the signature of PPO."""

import inspect
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from stable_baselines3 import PPO

from benchmarks import chain, learning
from benchmarks.results import with_tables

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", chain.REWARDS)
@pytest.mark.parametrize("state", range(chain.STATES))
def test_exact_quantiles_are_those_of_draws(name, state):
    rewards, rng, n = chain.REWARDS[name], np.random.default_rng(state), 20_000
    returns = np.zeros(n)
    for step in range(state, chain.STATES):
        returns += chain.GAMMA ** (step - state) * np.array([rewards.draw(rng, step) for _ in range(n)])
    taus = np.arange(1, 32) / 32
    shares = np.array([(returns <= quantile).mean() for quantile in rewards.quantiles(taus, state)])
    assert np.all(np.abs(shares - taus) < 5 * np.sqrt(taus * (1 - taus) / n))
    assert rewards.std(state) == pytest.approx(returns.std(), rel=0.05)


def test_sampled_targets_learn_the_distribution_and_gae_a_narrower_one():
    """A tenth of the committed run's steps; lambda 0.5, where lambda-returns are much narrower than returns."""
    errors = {
        target: chain.run_cell(chain.Cell("Gaussian", target, 0.5, 8, 0.01, 0), 20_000) for target in chain.TARGETS
    }
    assert errors["sr_lambda"]["error"] < 0.1 < errors["gae"]["error"]


class Cell(NamedTuple):
    number: int


def double(cell):
    return {"number": cell.number, "double": 2 * cell.number}


def triple(cell):
    return {"number": cell.number, "double": 3 * cell.number}


def fail_third(cell):
    time.sleep(0.05)
    if cell.number == 2:
        raise OSError("no such game")
    (Path(os.environ["CELLS"]) / str(cell.number)).touch()
    return {"number": cell.number}


def test_a_cell_that_fails_ends_the_rest_and_what_ended_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CELLS", str(tmp_path))
    with pytest.raises(OSError, match="no such game"):
        learning.run_missing(tmp_path / "cells.csv", [Cell(number) for number in range(50)], fail_third, 2)
    written = pd.read_csv(tmp_path / "cells.csv")["number"]
    assert len(written) < 12
    assert {str(number) for number in written} == {path.name for path in tmp_path.iterdir()} - {"cells.csv"}


def test_only_missing_cells_are_run(tmp_path):
    path = tmp_path / "cells.csv"
    learning.run_missing(path, [Cell(1), Cell(2)], double, 1)
    found = learning.run_missing(path, [Cell(1), Cell(2), Cell(3)], triple, 1)
    assert sorted(found["double"]) == [2, 4, 9]
    pd.testing.assert_frame_equal(pd.read_csv(path), found.sort_values("number").reset_index(drop=True))


def test_rewards_are_scaled_for_the_learner_and_recorded_as_they_are():
    settings = dict(n_envs=1, gamma=0.9)
    env, raw = learning.environment("Pendulum-v1", 10, 0, settings), gym.make("Pendulum-v1")
    assert settings == dict(gamma=0.9)
    env.seed(7)
    env.reset()
    raw.reset(seed=7)
    total = 0.0
    for _ in range(200):
        reward, info = raw.step(np.array([0.5], np.float32))[1], env.step(np.array([[0.5]], np.float32))
        total += reward
        assert info[1][0] == np.float32(reward * 1024)
    assert info[3][0]["episode"]["r"] == pytest.approx(total, abs=1e-5)


def test_a_run_is_scored_by_its_final_policy(monkeypatch):
    """50 deterministic episodes; observations are scaled as in training, rewards are those of the task."""
    monkeypatch.setitem(
        learning.SETTINGS, "Acrobot-v1", learning.SETTINGS["Acrobot-v1"] | dict(n_timesteps=2048, n_steps=64)
    )
    asked = []

    def evaluate(model, env, n_eval_episodes=10, deterministic=True, return_episode_rewards=False):
        asked.append((model, env))
        assert (n_eval_episodes, deterministic, return_episode_rewards) == (50, True, True)
        return [-100.0, -90.0, -500.004], [1, 1, 1]

    monkeypatch.setattr(learning, "evaluate_policy", evaluate)
    first, second = (learning.run_cell(learning.Cell("Acrobot-v1", "PopArt", 0, 3)) for _ in range(2))
    assert first.pop("seconds") > 0
    assert second.pop("seconds") > 0
    assert first == second
    assert [first[name] for name in ("task", "variant", "exponent", "seed", "steps")] == [
        "Acrobot-v1",
        "PopArt",
        0,
        3,
        2048,
    ]
    assert first["return"] == -230.0
    assert len(first["curve"].split()) == learning.BINS
    (model, env), (again, _) = asked
    assert (env.training, env.norm_reward, env.num_envs) == (False, False, 10)
    np.testing.assert_array_equal(env.obs_rms.mean, model.get_env().obs_rms.mean)
    assert env.obs_rms.count > 2048
    assert model.num_timesteps == 2048
    assert model.use_popart
    for one, two in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
        assert one.equal(two)


def test_a_curve_is_the_mean_return_of_the_episodes_that_ended_in_each_twentieth():
    """Of 100 steps a twentieth are 5: the first to the fifth step are in the first."""
    curve = learning.Curve(100)
    for step, returns in ((1, [10.0]), (5, [20.0, 60.0]), (6, [7.0]), (96, [1.0]), (100, [2.0]), (104, [6.0])):
        curve.model = SimpleNamespace(num_timesteps=step)
        curve.update_locals({"infos": [{}, *({"episode": {"r": value}} for value in returns)]})
        assert curve.on_step()
    assert curve.text().split() == ["30", "7", *["nan"] * 17, "3"]


@pytest.mark.parametrize("task", learning.SETTINGS)
def test_settings_are_parameters_of_ppo(task):
    own = {"n_timesteps", "n_envs", "normalize", "compile"}
    assert learning.SETTINGS[task].keys() - own <= inspect.signature(PPO).parameters.keys()


def test_tables_are_those_of_the_committed_runs():
    docs, page = ((ROOT / name).read_text() for name in ("docs/learning.md", "benchmarks/README.md"))
    runs, chains = pd.read_csv(learning.CELLS), pd.read_csv(chain.CELLS)
    assert docs == with_tables(docs, {"learning": learning.learning_table(runs), "scale": learning.scale_table(runs)})
    assert page == with_tables(page, {"systems": learning.systems_table(runs), "chain": chain.table(chains)})


def test_four_seeds_are_no_column():
    runs = pd.read_csv(learning.CELLS)
    whole, fewer = (
        learning.learning_table(each) for each in (runs, runs.query("variant != 'scaling off' or seed != 4"))
    )
    assert "n/a" not in whole
    assert fewer.count("n/a") == len(learning.TASKS)


@pytest.mark.parametrize("task", learning.SCALED_TASKS)
def test_the_committed_runs_are_the_same_at_every_scale_with_popart(task):
    runs = pd.read_csv(learning.CELLS)
    exponents = sorted(runs.query("task == @task and variant == 'PopArt'")["exponent"].unique())
    assert exponents == learning.EXPONENTS
    one = learning.returns(runs, task, "PopArt")
    assert len(one) >= 5
    for exponent in exponents:
        assert learning.returns(runs, task, "PopArt", exponent).sort_index().equals(one.sort_index())


def test_on_the_committed_runs_sampled_targets_give_the_quantiles_of_the_return():
    """Within 0.05 standard deviations, each quantile of each state on average, wherever kappa is small."""
    runs = pd.read_csv(chain.CELLS).query("value_target == 'sr_lambda' and kappa <= 0.1")
    assert len(runs) >= 45
    assert runs["error"].max() < 0.05


def test_recommended_is_the_config():
    flags = learning.recommended()
    assert flags["variance_scaling_mode"] == "dsac_t"
    assert flags["value_target"] == "sr_lambda"
    assert flags.pop("policy_kwargs") == {"n_quantiles": 128}
    assert not flags.keys() & inspect.signature(PPO).parameters.keys()


def test_the_study_of_critics_is_paired_and_its_control_is_ppo():
    """PPO's means over its curves are 0 and 10, the variant's 5 more; the worst twentieth is -20."""
    cells = learning.critic_cells(["CartPole-v1"], ["SB3 PPO", "clipped apart"], 2)
    assert [(cell.variant, cell.seed) for cell in cells] == [
        ("SB3 PPO", 0),
        ("clipped apart", 0),
        ("SB3 PPO", 1),
        ("clipped apart", 1),
    ]
    assert learning.CRITICS["PPO, clipped apart"]["policy_kwargs"] == dict(n_quantiles=1)

    curves = ["-20 20", "0 20", "-15 25", "5 25"]
    variants = ["SB3 PPO", "SB3 PPO", "clipped apart", "clipped apart"]
    rows = pd.DataFrame(dict(task="CartPole-v1", variant=variants, exponent=0, seed=[0, 1] * 2, curve=curves))
    rows["return"] = [20.0, 20.0, 30.0, 20.0]
    table = learning.critics_table(rows, ["CartPole-v1"], ["SB3 PPO", "clipped apart"])

    # 100 * 5 / (5 - -20) = 20 for both seeds; 100 * (10, 0) / (20 - -20), whose std is 17.68 and whose t(1) is 12.71.
    assert "+20.0 ± 0.0" in table
    assert "+12.5 ± 158.8" in table


def test_a_variants_vf_coef_counts_before_the_zoos(monkeypatch):
    """The zoo's is 0.19 on this task, and it also names keywords of the policy."""
    given = {}

    def stop(policy, env, **kwargs):
        given.update(kwargs)
        raise InterruptedError

    monkeypatch.setattr(learning, "DistributionalPPO", stop)
    for variant in ("clipped apart", "PopArt, clipped apart, mean and spread, vf_coef 5"):
        with pytest.raises(InterruptedError):
            learning.run_cell(learning.Cell("MountainCarContinuous-v0", variant, 0, 0))

        expected = 0.19 if variant == "clipped apart" else 5.0
        assert given["vf_coef"] == expected
        assert given["policy_kwargs"] == dict(log_std_init=-3.29, ortho_init=False)
        assert given["gradient_clipping"] == "apart"
