"""The head and its return statistics. Oracles: numpy in float64, predictions in raw units before and after."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from builders import (
    NORMALISED,
    OBS,
    SHORT,
    CustomHeadPolicy,
    RandomEnv,
    Walk,
    make_walking,
    same_parameters,
)
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from distributional_ppo import (
    DistributionalPPO,
)
from quantile_critic.head import QuantileHead


def observed(rate, rollouts):
    """A head that saw the rollouts."""
    head = QuantileHead(nn.Linear(3, 1), 5)
    head.ret_std.zero_()
    for returns in rollouts:
        head.observe_returns(returns, rate, popart=False)
    return head


def test_statistics_are_the_debiased_average_of_mean_and_mean_square():
    rollouts = [np.random.default_rng(i).normal(10 * i, 1 + i, size=(16, 2)) for i in range(6)]
    mean = square = weight = 0.0

    for returns in rollouts:  # Adam's form of the average, in float64
        mean = 0.7 * mean + 0.3 * returns.mean()
        square = 0.7 * square + 0.3 * (returns**2).mean()
        weight = 0.7 * weight + 0.3

    head = observed(0.3, rollouts)

    assert head.ret_mean.item() == pytest.approx(mean / weight, rel=1e-5)
    assert head.ret_std.item() == pytest.approx(np.sqrt(square / weight - (mean / weight) ** 2), rel=1e-5)


def test_statistics_without_a_rate_are_those_of_all_returns_together():
    rollouts = [np.random.default_rng(i).normal(1000 + i, 0.5, size=(16, 2)) for i in range(6)]
    head = observed(None, rollouts)
    assert head.ret_mean.item() == pytest.approx(np.mean(rollouts), rel=1e-6)
    assert head.ret_std.item() == pytest.approx(np.std(rollouts), rel=1e-4)  # E[x^2] - E[x]^2 would be noise here


@given(
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
)
@settings(max_examples=100, deadline=None)
def test_popart_keeps_raw_predictions(mean, std, new_mean, new_std):
    torch.manual_seed(0)
    head = QuantileHead(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), 8)
    head.set_statistics(mean, std, popart=False)
    latent = torch.randn(32, 4)

    with torch.no_grad():
        before = head.to_raw(head.net(latent))
        head.set_statistics(new_mean, new_std, popart=True)
        after = head.to_raw(head.net(latent))

    bound = 1e-6 * (abs(mean) + abs(new_mean) + std + new_std)

    assert (before - after).abs().max().item() <= bound


def test_equal_returns_are_normalised_to_zero_and_predicted_exactly():
    head = observed(0.1, [np.full((4, 2), 3.0)])
    latent = torch.randn(2, 3)
    assert head.to_normalized(torch.tensor([3.0])).item() == 0.0
    assert head.value(head(latent)).flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.Tanh()])
def test_head_refuses_a_value_net_it_cannot_widen(module):
    with pytest.raises(ValueError, match="one output"):
        QuantileHead(module, 8)


@pytest.mark.parametrize("use_popart", [False, True])
@pytest.mark.parametrize("exponent", [-10, 10])
def test_scaled_rewards_leave_the_parameters(exponent, use_popart):
    flags = dict(normalize_returns=True, use_popart=use_popart)
    first = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT, **flags).learn(320)
    second = DistributionalPPO("MlpPolicy", RandomEnv(scale=2.0**exponent), **SHORT, **flags).learn(320)
    for a, b in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)  # a power of 2 changes no mantissa

    assert second.policy.value_net.ret_std == first.policy.value_net.ret_std * 2.0**exponent


def test_statistics_are_those_of_this_rollouts_returns_and_values_are_raw():
    records = []

    class Recorder(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            records.append(buffer.returns.astype(np.float64).copy())
            obs = torch.as_tensor(buffer.observations[5])
            values = self.model.policy.predict_values(obs).detach().numpy().flatten()

            assert values == pytest.approx(buffer.values[5], abs=1e-5)

    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        normalize_returns=True,
        return_stats_rate=None,
        **SHORT,
    )
    model.learn(192, callback=Recorder())

    assert model.policy.value_net.ret_mean.item() == pytest.approx(np.mean(records), rel=1e-5)
    assert model.policy.value_net.ret_std.item() == pytest.approx(np.std(records), rel=1e-5)


def test_first_values_are_zero_before_there_are_statistics():
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        normalize_returns=True,
        use_popart=True,
        **SHORT,
    )
    assert model.policy.predict_values(torch.zeros(2, 3)).flatten().tolist() == [
        0.0,
        0.0,
    ]


def test_scaled_rewards_with_clipping_in_std_leave_the_parameters():
    class Larger(gym.RewardWrapper):
        def reward(self, reward):
            return 1024.0 * reward

    flags = dict(clip_range_vf=0.2, clip_range_vf_units="std", **NORMALISED)
    first = make_walking(**flags).learn(192).policy.state_dict()
    second = make_walking(env=DummyVecEnv([lambda: Larger(Walk())] * 3), **flags).learn(192).policy.state_dict()

    for name, value in first.items():
        if "ret_" not in name:
            assert torch.allclose(value, second[name], atol=1e-5), name


def test_statistics_move_with_the_policy():
    model = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, **SHORT)
    model.policy.to("meta")
    assert {tensor.device.type for tensor in model.policy.state_dict().values()} == {"meta"}


class Still(gym.Env):
    """One step per episode: the first 16 rewards vary, the others are 5."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        reward = float(self.np_random.normal()) if self.steps <= 16 else 5.0
        return (
            self.np_random.uniform(-1, 1, 2).astype(np.float32),
            reward,
            True,
            False,
            {},
        )


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


class Biasless(CustomHeadPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1, bias=False)


def test_popart_and_an_end_of_normalisation_without_a_bias_are_refused(tmp_path):
    with pytest.raises(ValueError, match="bias"):
        DistributionalPPO(
            Biasless,
            RandomEnv(),
            normalize_returns=True,
            use_popart=True,
            **SHORT,
        )

    DistributionalPPO(Biasless, RandomEnv(), normalize_returns=True, **SHORT).learn(64).save(tmp_path / "model")
    with pytest.raises(ValueError, match="no bias"):
        DistributionalPPO.load(tmp_path / "model", RandomEnv(), normalize_returns=False).learn(64)


def test_a_head_without_a_bias_has_a_plain_form_unless_a_mean_must_be_added(tmp_path):
    model = DistributionalPPO(Biasless, RandomEnv(), **SHORT).learn(64)
    model.policy.save(tmp_path / "policy")
    plain = Biasless.load(tmp_path / "policy", device="cpu")

    torch.testing.assert_close(
        plain.predict_values(torch.as_tensor(OBS)),
        model.policy.predict_values(torch.as_tensor(OBS)),
    )

    model = DistributionalPPO(Biasless, RandomEnv(), normalize_returns=True, **SHORT).learn(64)
    model.policy.save(tmp_path / "policy")
    with pytest.raises(TypeError, match="n_quantiles"):
        Biasless.load(tmp_path / "policy", device="cpu")

    loaded = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert torch.equal(loaded.predict_quantiles(OBS), model.policy.predict_quantiles(OBS))


@pytest.mark.parametrize(
    "norm",
    [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm],
)
def test_a_parametrized_head_is_refused(norm):
    class Spectral(ActorCriticPolicy):
        def _build(self, lr_schedule):
            super()._build(lr_schedule)
            self.value_net = norm(nn.Linear(64, 1))

    with pytest.raises(ValueError, match="parametrized"):
        DistributionalPPO(Spectral, RandomEnv(), **SHORT)


def test_archives_from_before_the_average_load(tmp_path):
    model = make_walking().learn(96)
    parameters = model.get_parameters()
    del parameters["policy"]["value_net.std_average"]
    second = make_walking(seed=1)
    second.set_parameters(parameters)

    assert same_parameters(model, second)


@pytest.mark.parametrize(
    ("average", "filled"),
    [(0.0, 0.0), (0.3, 1.0)],
    ids=["before the first minibatch", "with an average"],
)
def test_archives_of_version_0_2_go_on_with_their_average(average, filled):
    settings = dict(
        n_steps=32,
        batch_size=32,
        seed=0,
        device="cpu",
        policy_kwargs=dict(net_arch=[8]),
    )
    flags = dict(variance_scaling_mode="dsac_t", normalize_returns=True)
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", **settings, **flags)
    parameters = model.get_parameters()
    parameters["policy"]["value_net.std_average"].fill_(average)
    del parameters["policy"]["value_net.std_average_filled"]
    model.set_parameters(parameters)
    head = model.policy.value_net

    assert (head.std_average.item(), head.std_average_filled.item()) == (
        pytest.approx(average),
        filled,
    )
