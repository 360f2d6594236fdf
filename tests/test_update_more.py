"""Updates in places that few runs reach; oracles: the update by hand, SB3's buffer by another name, SB3's logger."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
from test_update import OwnBuffer, Walk, clip_vf
from test_update import train as train_beside_hand

from distributional_ppo import DistributionalPPO
from quantile_critic.log import reduced
from quantile_critic.settings import LossSettings, Scaling


def test_an_episode_truncated_at_the_first_step_of_a_rollout():
    """The third episode of 9 steps ends at step 27: the first of the second rollout of 26."""
    train_beside_hand(n_steps=26, value_target="sr_lambda", gae_lambda=0.6)


@pytest.mark.parametrize("flags", [clip_vf("per_quantile"), dict(value_target="sr_lambda", gae_lambda=0.6)])
def test_a_buffer_of_another_name_trains_the_same_however_often(flags):
    """The second update of a rollout finds the buffer flat, one environment after the other."""
    models = []
    for buffer_class in (RolloutBuffer, OwnBuffer):
        env = DummyVecEnv([Walk] * 3)
        model = DistributionalPPO(
            "MlpPolicy",
            env,
            n_steps=16,
            batch_size=20,
            seed=0,
            device="cpu",
            rollout_buffer_class=buffer_class,
            **flags,
        )
        model.learn(48)
        model.train()
        models.append(model)
    one, two = (torch.nn.utils.parameters_to_vector(model.policy.parameters()) for model in models)
    assert torch.allclose(one, two, rtol=0, atol=1e-6)


class Still(gym.Env):
    """One step per episode: the first 16 rewards vary, the others are 5."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        reward = float(self.np_random.normal()) if self.steps <= 16 else 5.0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), reward, True, False, {}


def test_popart_waits_where_all_returns_are_equal():
    """The newest rollout alone counts, and its returns have no spread to be normalised by."""
    model = DistributionalPPO(
        "MlpPolicy",
        Still(),
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        gae_lambda=1.0,
        seed=0,
        device="cpu",
        normalize_returns=True,
        use_popart=True,
        return_stats_rate=1.0,
    )
    model.learn(16)
    assert model.policy.value_net.ret_std > 0
    model.learn(16, reset_num_timesteps=False)
    assert model.policy.value_net.ret_std == 0
    assert model.policy.value_net.ret_mean == 5
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_a_log_that_a_user_asks_for_is_written_at_once(tmp_path):
    model = DistributionalPPO("MlpPolicy", Still(), n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(16)
    model.logger.record("mine", 7.0)
    model.dump_logs()
    assert "mine" in (tmp_path / "progress.csv").read_text()


@pytest.mark.parametrize("ortho_init", [True, False])
@pytest.mark.parametrize("n_quantiles", [2, 3])
def test_two_quantiles_and_more_begin_as_one(n_quantiles, ortho_init):
    """The critic's Adam has torch's own epsilon, the actor's that of PPO."""
    policy_kwargs = dict(n_quantiles=n_quantiles, ortho_init=ortho_init)
    model = DistributionalPPO("MlpPolicy", Still(), policy_kwargs=policy_kwargs, seed=0, device="cpu")
    quantiles = model.policy.predict_quantiles(np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32))
    assert quantiles.shape == (20, n_quantiles)
    assert torch.equal(quantiles, quantiles[:, :1].expand_as(quantiles))
    assert sorted(group["eps"] for group in model.policy.optimizer.param_groups) == [1e-8, 1e-5]


class Spoil(BaseCallback):
    """Makes one number of the rollout undefined."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        getattr(self.model.rollout_buffer, self.name)[3, 0] = np.nan


@pytest.mark.parametrize("name", ["rewards", "values", "log_probs", "advantages", "returns"])
def test_each_array_of_a_rollout_is_looked_at(name):
    model = DistributionalPPO("MlpPolicy", Still(), n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    before = torch.nn.utils.parameters_to_vector(model.policy.parameters()).clone()
    with pytest.raises(FloatingPointError, match=rf"the rollout's {name}, the first at index \[3, 0\]"):
        model.learn(16, Spoil(name))
    assert torch.equal(before, torch.nn.utils.parameters_to_vector(model.policy.parameters()))


def test_the_weight_of_the_first_critic_is_that_of_a_call_without_its_number():
    """Variances 1 and 4: at first the mean deviation is 1.5, and 2.25 / 1.1 and 2.25 / 4.1 are the weights."""
    model = DistributionalPPO(
        "MlpPolicy",
        Still(),
        normalize_returns=True,
        variance_scaling_mode="dsac_t",
        device="cpu",
        n_steps=16,
        batch_size=16,
    )
    assert model.variance_weight(torch.tensor([1.0, 4.0])).tolist() == pytest.approx([2.045455, 0.548780], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", 2.0),  # the last
        ("value_loss", 3.0),  # (1 + 6 + 2) / 3
        ("variance_scaling_weight_min", 1.0),
        ("variance_scaling_weight_max_2", 6.0),
        ("my_weight_minutes", 3.0),  # a user's own, whose name has "weight_min" in it
    ],
)
def test_a_metric_is_reduced_by_its_name_and_no_part_of_it(name, expected):
    assert reduced(name, np.array([1.0, 6.0, 2.0], dtype=np.float32)) == expected


def test_settings_of_the_loss_follow_the_flags_and_are_python_numbers():
    model = DistributionalPPO(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=16,
        batch_size=16,
        device="cpu",
        quantile_huber_kappa=np.float32(0.5),
        ent_coef=np.float32(0.1),
    )
    assert model.loss_settings == LossSettings(
        kappa=0.5,
        kappa_in_stds=False,
        critic_loss="quantile_huber",
        normalize_advantage=True,
        scaling=Scaling("batch", 0.1, 10.0),
        clipping=None,
        has_entropy=True,
        target="gae",
        gradient_clipping="joint",
    )
    assert type(model.loss_settings.kappa) is float
    model.use_variance_gradient_scaling = False
    model.ent_coef = 0.0
    model.clip_range_vf = lambda _: 0.2
    settings = model.loss_settings.by_name()
    assert settings["scaling"] is None
    assert (settings["has_entropy"], settings["clipping.mode"], settings["clipping.units"]) == (
        False,
        "per_quantile",
        "raw",
    )
