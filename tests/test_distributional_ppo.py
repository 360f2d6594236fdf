"""``DistributionalPPO`` itself. The main oracle is SB3's PPO on the same seed."""

import contextlib
import copy
import functools
import inspect
import io
import pickle
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ApartPolicy
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

import distributional_ppo
from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy

SHORT = dict(n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")
HUGE_KAPPA = 2.0**20  # a power of two, so that dividing by it is exact
AS_PPO = dict(quantile_huber_kappa=HUGE_KAPPA, vf_coef=0.5 * 4 * HUGE_KAPPA, use_variance_gradient_scaling=False)


class RandomEnv(gym.Env):
    """Episodes of 16 steps with random observations; the reward is `scale` times a known function of them."""

    def __init__(self, observation_space=None, action_space=None, scale=1.0, reward=None, observation=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))
        self.action_space = action_space or spaces.Discrete(2)
        self.scale, self.reward, self.observation = scale, reward, observation

    def _observe(self):
        if self.observation is not None and self.t == 9:
            return np.full(3, self.observation, dtype=np.float32)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        reward = self.scale * (1.0 + np.sin(self.t))
        if self.reward is not None and self.t == 9:
            reward = self.reward
        return self._observe(), reward, self.t == 16, False, {}


class OwnPolicy(ActorCriticPolicy):
    """A user's policy with a critic head and an optimizer of its own."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_net = nn.Sequential(nn.Linear(self.mlp_extractor.latent_dim_vf, 16), nn.Tanh(), nn.Linear(16, 1))
        groups = [{"params": [p], "weight_decay": 0.0} for p in self.parameters()]
        self.optimizer = self.optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)


class OwnExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space, features_dim=8):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Linear(3, features_dim), nn.BatchNorm1d(features_dim))

    def forward(self, observations):
        return self.net(observations)


class AwkwardExtractor(BaseFeaturesExtractor):
    """Gradients whose strides are not their parameters', that share their storage, that repeat one number."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.conv = nn.Conv2d(2, 3, 3)
        self.weight, self.change = nn.Parameter(torch.randn(4, 48) / 7), nn.Parameter(torch.zeros(4, 48))
        self.scales = nn.Parameter(torch.zeros(3))

    def forward(self, observations):
        features = torch.tanh(self.conv(observations.permute(0, 3, 1, 2))).flatten(1)
        return nn.functional.linear(features, self.weight + self.change) * (1 + self.scales.sum())


class BiasedPolicy(ActorCriticPolicy):
    """A user's policy whose optimizer also steps a tensor that no module has."""

    def _build(self, lr_schedule):
        self.extra = [nn.Parameter(torch.zeros(2))]
        super()._build(lr_schedule)
        self.optimizer.add_param_group({"params": self.extra})

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(self.action_net(latent_pi) + self.extra[0])


class MaskingPolicy(ActorCriticPolicy):
    """A user's policy that puts another distribution in place of its own: the second action is impossible."""

    def _get_action_dist_from_latent(self, latent_pi):
        distribution = super()._get_action_dist_from_latent(latent_pi)
        logits = distribution.distribution.logits.clone()
        logits[:, 1] = -1e8
        distribution.distribution = torch.distributions.Categorical(logits=logits)
        return distribution


class CalmPolicy(ActorCriticPolicy):
    """A user's policy that changes its own distribution."""

    def _get_action_dist_from_latent(self, latent_pi):
        distribution = super()._get_action_dist_from_latent(latent_pi)
        distribution.distribution.scale = distribution.distribution.scale * 1e-3
        return distribution


def same_parameters(one, other):
    ours, theirs = one.policy.state_dict(), other.policy.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# ------------------------------------------------------------------------------------------------ against SB3's PPO


def sb3_ppo(*args, **kwargs):
    """SB3's PPO with the optimizer's fused form, which ours takes by default."""
    model = PPO(*args, **kwargs)
    for group in model.policy.optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True
    return model


class Scalars(BaseCallback):
    """The scalars of every update, as the logger has them before the next rollout."""

    def __init__(self):
        super().__init__()
        self.updates = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        scalars = {k[6:]: v for k, v in self.logger.name_to_value.items() if k.startswith("train/")}
        if scalars:
            self.updates.append(scalars)

    _on_training_end = _on_rollout_start


class ByHand(Scalars):
    """With SB3's PPO: two of its scalars replaced by what ours mean, the KL over all epochs and the gradient's norm."""

    def _on_training_start(self):
        self.kls, self.norms, get = [], [], self.model.rollout_buffer.get
        evaluate, clip = self.model.policy.evaluate_actions, nn.utils.clip_grad_norm_

        def noting_get(batch_size):
            for self.batch in get(batch_size):
                yield self.batch

        def noting_evaluate(*args):
            result = evaluate(*args)
            log_ratio = (result[1] - self.batch.old_log_prob).detach().double()
            self.kls.append((log_ratio.exp() - 1 - log_ratio).mean().item())
            return result

        def noting_clip(*args):
            self.norms.append(clip(*args).item())

        self.model.rollout_buffer.get, self.model.policy.evaluate_actions = noting_get, noting_evaluate
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(nn.utils, "clip_grad_norm_", noting_clip)

    def _on_rollout_start(self):
        super()._on_rollout_start()
        if self.kls:
            self.updates[-1] |= dict(approx_kl=np.mean(self.kls))
        if self.norms:
            self.updates[-1] |= dict(grad_norm=np.mean(self.norms))
        self.kls.clear()
        self.norms.clear()

    def _on_training_end(self):
        self._on_rollout_start()
        self.patch.undo()


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", dict(n_steps=50, target_kl=0.003)),  # a short last minibatch, an update ended by the KL
        ("CartPole-v1", dict(n_steps=33)),  # of one sample
        ("CartPole-v1", dict(learning_rate=lambda progress: 1e-2 * progress**2 + 1e-4)),
        ("CartPole-v1", dict(clip_range=lambda progress: 0.001 + 0.01 * progress**2)),
        ("CartPole-v1", dict(clip_range_vf=lambda progress: 200.0 + 100 * progress**2)),  # which holds nothing back
        ("Pendulum-v1", dict(ent_coef=0.01, normalize_advantage=False)),
        ("Pendulum-v1", dict(use_sde=True, sde_sample_freq=4)),
        ("Pendulum-v1", dict(use_sde=True, ent_coef=0.1, policy_kwargs=dict(squash_output=True))),  # no exact entropy
        (RandomEnv(action_space=spaces.MultiDiscrete([2, 3])), {}),
        (RandomEnv(action_space=spaces.MultiBinary(3)), dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD))),
        (RandomEnv(), dict(policy_kwargs=dict(ortho_init=False, share_features_extractor=False))),
        (RandomEnv(), dict(policy_kwargs=dict(features_extractor_class=OwnExtractor, net_arch=[8]))),
        (RandomEnv(), dict(policy_kwargs=dict(optimizer_class=torch.optim.Adagrad))),
        (RandomEnv(), dict(gamma=0.7, gae_lambda=0.3)),
        (
            RandomEnv(spaces.Box(-1, 1, (6, 6, 2))),
            dict(max_grad_norm=0.1, policy_kwargs=dict(features_extractor_class=AwkwardExtractor)),
        ),
        ("CartPole-v1", dict(policy=MaskingPolicy)),
        ("Pendulum-v1", dict(policy=CalmPolicy)),
        *[("CartPole-v1", dict(n_epochs=6, learning_rate=3e-3, target_kl=0.001 * 2**i)) for i in range(5)],
    ],
)
def test_one_quantile_at_huge_kappa_is_ppo_bit_for_bit(env, kwargs):
    kwargs = {**SHORT, "policy": "MlpPolicy", "env": env, **kwargs}
    their_updates, our_updates = ByHand(), Scalars()
    theirs = sb3_ppo(**copy.deepcopy(kwargs)).learn(256, their_updates)
    policy_kwargs = {**kwargs.pop("policy_kwargs", {}), "n_quantiles": 1}
    ours = DistributionalPPO(policy_kwargs=policy_kwargs, **kwargs, **AS_PPO).learn(256, our_updates)
    for one, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(our_updates.updates) >= 4
    for our, their in zip(our_updates.updates, their_updates.updates, strict=True):
        our["value_loss"] *= 4 * HUGE_KAPPA
        for name, expected in their.items():
            if np.isnan(expected):  # the variance explained where there is none
                assert name not in our
            else:
                assert our[name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_three_environments_are_ppo_bit_for_bit():
    kwargs = dict(SHORT, n_steps=20, policy="MlpPolicy")  # 60 = 32 + 28
    theirs = sb3_ppo(env=make_vec_env("CartPole-v1", 3, seed=0), **kwargs).learn(240)
    kwargs |= dict(policy_kwargs=dict(n_quantiles=1), **AS_PPO)
    ours = DistributionalPPO(env=make_vec_env("CartPole-v1", 3, seed=0), **kwargs).learn(240)
    for one, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_frozen_stays_and_what_only_the_optimizer_knows_moves():
    """Oracle: SB3's PPO, whose `zero_grad` and `backward` serve all that the optimizer steps."""
    moved = []
    for make, flags in ((sb3_ppo, {}), (DistributionalPPO, dict(AS_PPO, policy_kwargs=dict(n_quantiles=1)))):
        model = make(BiasedPolicy, RandomEnv(), **SHORT, **flags).learn(64)
        model.policy.mlp_extractor.policy_net.requires_grad_(False)
        frozen = copy.deepcopy(model.policy.mlp_extractor.policy_net.state_dict())
        model.learn(64)
        for name, value in model.policy.mlp_extractor.policy_net.state_dict().items():
            assert torch.equal(value, frozen[name])
        moved.append(model.policy.extra[0])
    assert moved[0].abs().min() > 0
    assert torch.equal(*moved)


def test_constructor_takes_ppos_parameters_in_ppos_order_and_with_its_defaults():
    theirs = list(inspect.signature(PPO.__init__).parameters.values())
    ours = list(inspect.signature(DistributionalPPO.__init__).parameters.values())[: len(theirs)]
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


def test_every_parameter_is_documented_and_read():
    source = inspect.getsource(distributional_ppo)
    for name in inspect.signature(DistributionalPPO).parameters:
        assert f":param {name}:" in DistributionalPPO.__doc__, name
    for name in inspect.signature(DistributionalPPO).parameters.keys() - inspect.signature(PPO).parameters.keys():
        assert len(re.findall(rf"self\.{name}\b", source)) >= 2, f"{name} is stored but not read"


# --------------------------------------------------------------------------------------- variance gradient scaling


def test_equal_clamps_of_one_are_scaling_off_bit_for_bit():
    off = DistributionalPPO("MlpPolicy", "CartPole-v1", use_variance_gradient_scaling=False, **SHORT).learn(200)
    ones = DistributionalPPO(
        "MlpPolicy", "CartPole-v1", variance_scaling_clip_min=1.0, variance_scaling_clip_max=1.0, **SHORT
    ).learn(200)
    assert same_parameters(off, ones)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_host_hook_reduces_over_samples(reduction):
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", **SHORT)
    quantiles = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]] * 2)
    loss = model._quantile_huber_loss(quantiles, torch.tensor([[3.0], [6.0]]), reduction=reduction)
    expected = {"none": [0.12, 0.85], "mean": [0.485], "sum": [0.97]}[reduction]
    assert loss.reshape(-1).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="reduction"):
        model._quantile_huber_loss(quantiles, torch.zeros(2), reduction="median")


def test_one_quantile_with_scaling_warns():
    with pytest.warns(UserWarning, match="n_quantiles=1"):
        DistributionalPPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(n_quantiles=1), **SHORT)


def test_a_flash_crash_trains_on_at_the_upper_clamp():
    model = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT)
    with torch.no_grad():  # quantiles spread by +-1e6: variance about 1e12
        model.policy.value_net.last_layers[0].bias.copy_(torch.linspace(-1.7e6, 1.7e6, 32))
    model.learn(64)
    scalars = model.logger.name_to_value
    assert scalars["train/quantile_variance_mean"] == pytest.approx(1e12, rel=0.1)
    assert scalars["train/variance_scaling_weight"] == 10.0
    assert scalars["train/variance_scaling_clamped"] == 1.0
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())


# --------------------------------------------------------------------------------------------- return normalisation


@pytest.mark.parametrize("use_popart", [False, True])
@pytest.mark.parametrize("exponent", [-10, 10])
def test_scaled_rewards_leave_the_parameters(exponent, use_popart):
    flags = dict(normalize_returns=True, use_popart=use_popart)
    one = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT, **flags).learn(320)
    other = DistributionalPPO("MlpPolicy", RandomEnv(scale=2.0**exponent), **SHORT, **flags).learn(320)
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)  # a power of 2 changes no mantissa
    assert other.policy.value_net.ret_std == one.policy.value_net.ret_std * 2.0**exponent


def test_statistics_are_those_of_this_rollouts_returns_and_values_are_raw():
    seen = []

    class Recorder(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            seen.append(buffer.returns.astype(np.float64).copy())
            obs = torch.as_tensor(buffer.observations[5])
            values = self.model.policy.predict_values(obs).detach().numpy().flatten()
            assert values == pytest.approx(buffer.values[5], abs=1e-5)

    model = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, return_stats_rate=None, **SHORT)
    model.learn(192, callback=Recorder())
    assert model.policy.value_net.ret_mean.item() == pytest.approx(np.mean(seen), rel=1e-5)
    assert model.policy.value_net.ret_std.item() == pytest.approx(np.std(seen), rel=1e-5)


def test_first_values_are_zero_before_there_are_statistics():
    model = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, use_popart=True, **SHORT)
    assert model.policy.predict_values(torch.zeros(2, 3)).flatten().tolist() == [0.0, 0.0]


def test_critic_learns_the_value_of_an_endless_environment():
    """Reward 1 for ever is worth 1 / (1 - gamma): SB3's own check of its GAE, here of the critic in raw units."""

    class Endless(gym.Env):
        observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 1.0, False, False, {}

    model = DistributionalPPO(
        "MlpPolicy", Endless(), normalize_returns=True, gamma=0.5, learning_rate=1e-2, n_steps=64, seed=0
    ).learn(3_000)
    assert model.policy.predict_values(torch.zeros(1, 1)).item() == pytest.approx(2.0, abs=0.05)


# ------------------------------------------------------------------------------------ what PPO accepts, it accepts


@pytest.mark.parametrize("n_quantiles", [1, 32, 51, 200])
def test_predictions_have_their_shapes_and_agree(n_quantiles):
    flags = dict(normalize_returns=True, use_variance_gradient_scaling=n_quantiles > 1)
    model = DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=dict(n_quantiles=n_quantiles), **SHORT, **flags)
    model.learn(128)
    obs = torch.randn(7, 3)
    quantiles, values = model.policy.predict_quantiles(obs), model.policy.predict_values(obs)
    assert quantiles.shape == (7, n_quantiles)
    assert values.shape == (7, 1)
    assert torch.allclose(quantiles.mean(dim=1, keepdim=True), values, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.policy.predict_quantiles(obs.numpy()), quantiles)


@pytest.mark.parametrize(
    ("policy", "make_env", "policy_kwargs"),
    [
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1), dict(net_arch=[8])),
        ("MultiInputPolicy", lambda: SimpleMultiObsEnv(random_start=False), {}),
        ("MlpPolicy", lambda: RandomEnv(spaces.Discrete(5)), {}),
        ("MlpPolicy", lambda: RandomEnv(), dict(share_features_extractor=False, activation_fn=nn.ReLU)),
        ("MlpPolicy", lambda: RandomEnv(), dict(net_arch=dict(pi=[8], vf=[8, 8]), optimizer_class=torch.optim.AdamW)),
        (ActorCriticPolicy, lambda: RandomEnv(), {}),
        (OwnPolicy, lambda: RandomEnv(), dict(features_extractor_class=OwnExtractor)),
    ],
)
def test_policies_train_save_pickle_and_load_without_a_warning_of_ours(policy, make_env, policy_kwargs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*mini-batch size.*|.*normalized Box action.*")
        policy_kwargs = {**policy_kwargs, "n_quantiles": 8}
        model = DistributionalPPO(policy, make_env(), policy_kwargs=policy_kwargs, normalize_returns=True, **SHORT)
        model.learn(64)
    obs = model.get_env().reset()
    model.policy.set_training_mode(False)
    model.predict(obs)  # SB3's action distributions keep their last graph, which cannot be copied

    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    copies = [
        DistributionalPPO.load(tmp_path / "model", device="cpu").policy,
        model.policy_class.load(tmp_path / "policy", device="cpu"),
        pickle.loads(pickle.dumps(model.policy)),
        copy.deepcopy(model.policy),
    ]
    for policy_copy in copies:
        policy_copy.set_training_mode(False)
        assert isinstance(policy_copy, QuantileActorCriticPolicy)
        assert torch.equal(policy_copy.predict_quantiles(obs), model.policy.predict_quantiles(obs))
    for name, tensor in model.policy.state_dict().items():
        assert tensor.is_floating_point() or "num_batches_tracked" in name, name


def test_own_policy_keeps_its_class_and_its_optimizer_groups():
    model = DistributionalPPO(OwnPolicy, RandomEnv(), **SHORT)
    assert isinstance(model.policy, OwnPolicy)
    owned = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.policy.parameters()}
    assert len(model.policy.optimizer.param_groups) == len(owned)


@pytest.mark.parametrize(
    ("policy", "policy_kwargs"),
    [
        ("MlpPolicy", {}),
        ("MlpPolicy", dict(ortho_init=False)),
        ("MlpPolicy", dict(net_arch=dict(pi=[64], vf=[16]))),  # fewer inputs than quantiles
        ("MlpPolicy", dict(share_features_extractor=False, features_extractor_class=OwnExtractor)),
        (OwnPolicy, {}),
    ],
)
@pytest.mark.parametrize("n_quantiles", [2, 32, 200])
def test_the_first_rollout_and_all_quantiles_are_those_of_ppo(policy, policy_kwargs, n_quantiles):
    """Oracle: SB3's PPO. The head takes the random numbers of PPO's value, and so all after it are PPO's."""

    def begin(make, **more):
        model = make(policy, RandomEnv(), policy_kwargs={**policy_kwargs, **more}, **SHORT)
        _, callback = model._setup_learn(64)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
        return model

    theirs, ours = begin(PPO), begin(DistributionalPPO, n_quantiles=n_quantiles)
    observations = torch.rand(64, 3)
    with torch.no_grad():
        quantiles = ours.policy.predict_quantiles(observations)
        values = theirs.policy.predict_values(observations)
    torch.testing.assert_close(quantiles, values.expand_as(quantiles), atol=1e-6, rtol=0)
    assert torch.equal(ours.policy.action_net.weight, theirs.policy.action_net.weight)
    assert np.array_equal(ours.rollout_buffer.actions, theirs.rollout_buffer.actions)
    assert ours.rollout_buffer.advantages == pytest.approx(theirs.rollout_buffer.advantages, abs=1e-5)


def test_the_layers_before_the_head_learn_as_fast_as_those_of_ppo():
    """Oracle: SB3's PPO. The gradient of the mean in the hidden layers is that of its value, not a fraction of it."""

    def gradients(policy):
        policy.predict_values(torch.linspace(-1, 1, 48).reshape(16, 3)).sum().backward()
        return [parameter.grad for parameter in policy.mlp_extractor.value_net.parameters()]

    theirs = gradients(PPO("MlpPolicy", RandomEnv(), **SHORT).policy)
    for own, their in zip(gradients(DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).policy), theirs, strict=True):
        torch.testing.assert_close(own, their, atol=1e-5, rtol=1e-4)
    apart = DistributionalPPO(ApartPolicy, RandomEnv(), **SHORT).policy
    for own, their in zip(gradients(apart), theirs, strict=True):
        assert own.norm() < 0.5 * their.norm()


def test_another_optimizer_does_not_undo_what_was_learnt():
    policy = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).learn(64).policy
    weight = policy.value_net.last_layers[0].weight.clone()
    assert weight.std(dim=0).min() > 0
    policy.optimizer = torch.optim.Adam(policy.parameters())
    assert torch.equal(policy.value_net.last_layers[0].weight, weight)


class OwnAdam(ActorCriticPolicy):
    """A user's policy that makes its optimizer itself."""

    own_optimizer = staticmethod(functools.partial(torch.optim.Adam, eps=1e-3))

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = self.own_optimizer(self.parameters(), lr=lr_schedule(1))


class OwnRMSprop(OwnAdam):
    own_optimizer = staticmethod(functools.partial(torch.optim.RMSprop, eps=1e-5))


@pytest.mark.parametrize(
    ("policy", "flags", "policy_kwargs", "expected"),
    [
        ("MlpPolicy", {}, {}, [1e-5, 1e-8]),
        ("MlpPolicy", dict(use_twin_critics=True), {}, [1e-5, 1e-8]),
        ("MlpPolicy", {}, dict(share_features_extractor=False, features_extractor_class=OwnExtractor), [1e-5, 1e-8]),
        ("MlpPolicy", dict(use_variance_gradient_scaling=False), dict(n_quantiles=1), [1e-5]),
        ("MlpPolicy", {}, dict(optimizer_kwargs=dict(eps=1e-4)), [1e-4]),
        ("MlpPolicy", {}, dict(optimizer_class=torch.optim.AdamW), [1e-8]),
        (OwnAdam, {}, {}, [1e-3]),
        (OwnRMSprop, {}, {}, [1e-5]),
    ],
)
def test_only_the_critic_has_a_smaller_eps(policy, flags, policy_kwargs, expected):
    policy = DistributionalPPO(policy, RandomEnv(), policy_kwargs=policy_kwargs, **flags, **SHORT).policy
    groups = policy.optimizer.param_groups
    assert [group["eps"] for group in groups] == expected
    every = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(every) == sorted(id(parameter) for parameter in policy.parameters())
    if len(groups) == 2:
        observations = torch.rand(8, 3)
        policy.get_distribution(observations).distribution.logits.sum().backward()
        assert all(parameter.grad is None for parameter in groups[1]["params"])
        policy.zero_grad()
        policy.quantiles_of_loss(observations).sum().backward()
        assert all(parameter.grad is None for parameter in groups[0]["params"])
    copied = pickle.loads(pickle.dumps(policy))
    assert [group["eps"] for group in copied.optimizer.param_groups] == expected
    assert (
        type(policy)(**policy._get_constructor_parameters()).optimizer.state_dict()["param_groups"][-1]["eps"]
        == expected[-1]
    )


@pytest.mark.parametrize(
    ("policy_kwargs", "low", "high"), [({}, 0, 0.05), (dict(optimizer_kwargs=dict(eps=1e-5)), 0.5, 1)]
)
def test_a_small_weight_does_not_slow_the_critic(policy_kwargs, low, high):
    """Adam divides a constant factor of the loss out (Kingma & Ba 2015, section 2.1) as far as eps lets it."""
    moved = []
    for factor in (1.0, 2.0**-7):
        model = DistributionalPPO(
            "MlpPolicy",
            RandomEnv(),
            use_variance_gradient_scaling=False,
            max_grad_norm=1e9,
            vf_coef=factor,
            policy_kwargs=policy_kwargs,
            **SHORT,
        )
        before = model.policy.value_net.weight.detach().clone()
        model.learn(64)
        moved.append(model.policy.value_net.weight.detach() - before)
    assert low <= (moved[0] - moved[1]).norm() / moved[0].norm() < high


class TouchingPolicy(ActorCriticPolicy):
    """A user's policy that touches its value_net after SB3 has built it."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        nn.init.zeros_(self.value_net.weight)


def test_own_policy_finds_the_weights_of_its_value_net():
    model = DistributionalPPO(TouchingPolicy, RandomEnv(), policy_kwargs=dict(n_quantiles=np.int64(4)), **SHORT)
    assert model.policy.value_net.last_layers[0].weight.abs().sum() == 0
    assert model.policy.value_net.weight.shape == (4, 64)


class Biasless(OwnPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1, bias=False)


def test_popart_and_an_end_of_normalisation_without_a_bias_are_refused(tmp_path):
    with pytest.raises(ValueError, match="bias"):
        DistributionalPPO(Biasless, RandomEnv(), normalize_returns=True, use_popart=True, **SHORT)
    DistributionalPPO(Biasless, RandomEnv(), normalize_returns=True, **SHORT).learn(64).save(tmp_path / "model")
    with pytest.raises(ValueError, match="no bias"):
        DistributionalPPO.load(tmp_path / "model", RandomEnv(), normalize_returns=False).learn(64)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_a_parametrized_head_is_refused(norm):
    class Spectral(ActorCriticPolicy):
        def _build(self, lr_schedule):
            super()._build(lr_schedule)
            self.value_net = norm(nn.Linear(64, 1))

    with pytest.raises(ValueError, match="parametrized"):
        DistributionalPPO(Spectral, RandomEnv(), **SHORT)


def test_policies_without_a_critic_are_refused():
    with pytest.raises(TypeError, match="ActorCriticPolicy, got QNetwork"):
        DistributionalPPO(QNetwork, RandomEnv(), **SHORT)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_policy_can_be_exported(env):
    """As one graph, such as ONNX asks for. Oracle: the policy itself."""

    class Deterministic(nn.Module):
        def __init__(self, policy):
            super().__init__()
            self.policy = policy

        def forward(self, observations):
            return self.policy(observations, deterministic=True)

    module = Deterministic(DistributionalPPO("MlpPolicy", env, **SHORT).policy.eval())
    observations = torch.zeros(1, *module.policy.observation_space.shape)
    exported = torch.export.export(module, (observations,), strict=False).module()
    for ours, theirs in zip(exported(observations), module(observations), strict=True):
        torch.testing.assert_close(ours, theirs)


class FlatPolicy(ActorCriticPolicy):
    """A user's policy with values of another shape, which PPO flattens anyway, and a keyword of its own."""

    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values.flatten(), log_prob, entropy

    def forward(self, obs, deterministic=False, temperature=1.0):
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, values, log_prob / temperature


def test_own_evaluate_actions_and_forward_work_as_with_ppo():
    flat, plain = (DistributionalPPO(policy, RandomEnv(), **SHORT).learn(128) for policy in (FlatPolicy, "MlpPolicy"))
    assert same_parameters(flat, plain)
    assert flat.policy(torch.zeros(1, 3), temperature=2.0)[2].item() == pytest.approx(-0.34, abs=0.1)


def test_a_critic_beside_the_value_net_is_refused():
    class Beside(ActorCriticPolicy):
        def evaluate_actions(self, obs, actions):
            _, log_prob, entropy = super().evaluate_actions(obs, actions)
            return torch.zeros(len(obs), 1), log_prob, entropy

    with pytest.raises(ValueError, match=r"have shape \(32, 1\) where value_net gave \(32, 32\)"):
        DistributionalPPO(Beside, RandomEnv(), **SHORT).learn(64)


@pytest.mark.parametrize("actions", [torch.arange(2), torch.tensor(1), torch.tensor([[0], [1]])])
def test_log_probabilities_broadcast_as_sb3s(actions):
    theirs, ours = (model("MlpPolicy", RandomEnv(), **SHORT).policy for model in (PPO, DistributionalPPO))
    one = torch.zeros(1, 3)
    expected = theirs.get_distribution(one).log_prob(actions)
    torch.testing.assert_close(ours.get_distribution(one).log_prob(actions), expected)


def test_schedules_callbacks_vecnormalize_and_custom_buffers(tmp_path):
    class Counting(RolloutBuffer):
        gets = 0

        def get(self, batch_size=None):
            Counting.gets += 1
            return super().get(batch_size)

    env = VecNormalize(make_vec_env(RandomEnv, n_envs=3))
    model = DistributionalPPO(
        "MlpPolicy",
        env,
        LinearSchedule(1e-3, 1e-4, 1.0),
        32,
        40,
        clip_range=LinearSchedule(0.2, 0.1, 1.0),
        rollout_buffer_class=Counting,
        normalize_returns=True,
        device="cpu",
    )
    assert model.get_vec_normalize_env() is env
    steps = []
    model.learn(200, callback=lambda local, _: steps.append(local["self"].num_timesteps) or True)
    assert Counting.gets == model.n_epochs * 3
    assert steps[-1] == 288
    assert model.logger.name_to_value["train/learning_rate"] < 1e-3


def test_observations_may_have_gaps_that_the_policy_fills():
    class Filling(OwnExtractor):
        def forward(self, observations):
            return super().forward(torch.nan_to_num(observations))

    env = RandomEnv(observation=float("nan"))
    model = DistributionalPPO("MlpPolicy", env, policy_kwargs=dict(features_extractor_class=Filling), **SHORT).learn(64)
    assert np.isnan(model.rollout_buffer.observations).any()
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("is_own", [False, True])
def test_a_train_that_does_not_come_here_leaves_the_rows_of_the_log(tmp_path, is_own):
    class Late(DistributionalPPO):
        def train(self):
            self.logger.record("train/own", 1.0)
            if not is_own and self.num_timesteps > 128:
                super().train()

    model = Late("MlpPolicy", make_vec_env(RandomEnv, seed=0), **SHORT)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(4 * 64)
    table = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)
    assert table["timetotal_timesteps"].tolist() == [64, 128, 192, 256]
    assert np.isfinite(table["rolloutep_rew_mean"]).all()
    assert table["trainown"].tolist() == [1.0] * 4


def test_batch_norm_statistics_move_only_in_training():
    policy_kwargs = dict(features_extractor_class=OwnExtractor)
    ours = DistributionalPPO(
        "MlpPolicy", RandomEnv(), policy_kwargs={**policy_kwargs, "n_quantiles": 1}, **SHORT, **AS_PPO
    ).learn(64)
    theirs = sb3_ppo("MlpPolicy", RandomEnv(), policy_kwargs=policy_kwargs, **SHORT).learn(64)
    ours_norm, their_norm = ours.policy.features_extractor.net[1], theirs.policy.features_extractor.net[1]
    assert ours_norm.num_batches_tracked == their_norm.num_batches_tracked > 0
    assert torch.equal(ours_norm.running_mean, their_norm.running_mean)


# ------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("flags", "error", "match"),
    [
        (dict(clip_range_vf=0.2, normalize_returns=True), ValueError, "use_popart"),
        (dict(n_epochs=0), ValueError, "n_epochs"),
        (dict(quantile_huber_kappa=0.0), ValueError, "quantile_huber_kappa"),
        (dict(quantile_huber_kappa=float("inf")), ValueError, "quantile_huber_kappa"),
        (dict(return_stats_rate=0.0), ValueError, "return_stats_rate"),
        (dict(return_stats_rate=1.1), ValueError, "return_stats_rate"),
        (dict(use_popart=True), ValueError, "normalize_returns"),
        (dict(use_variance_gradient_scaling="False"), TypeError, "True or False"),
        (dict(variance_scaling_clip_min=11.0), ValueError, "variance_scaling_clip_min"),
        (dict(variance_scaling_clip_max=float("nan")), ValueError, "variance_scaling_clip_max"),
    ],
)
def test_wrong_values_are_refused_by_constructor_and_load(flags, error, match):
    with pytest.raises(error, match=match):
        DistributionalPPO("MlpPolicy", "CartPole-v1", **{**SHORT, **flags})
    archive = io.BytesIO()
    DistributionalPPO("MlpPolicy", "CartPole-v1", **SHORT).save(archive)
    with pytest.raises(error, match=match):
        DistributionalPPO.load(archive, **flags)


def test_defaults_are_those_of_the_design_and_disable_needs_no_clip_range():
    parameters = inspect.signature(DistributionalPPO).parameters
    expected = dict(quantile_huber_kappa=1.0, value_target="gae", normalize_returns=False, return_stats_rate=0.1)
    expected |= dict(use_popart=False, distributional_vf_clip_mode=None, distributional_vf_clip_variance_factor=2.0)
    expected |= dict(clip_range_vf_units="raw", use_twin_critics=False, use_variance_gradient_scaling=True)
    expected |= dict(variance_scaling_clip_min=0.1, variance_scaling_clip_max=10.0, variance_scaling_mode="batch")
    expected |= dict(quantile_huber_kappa_units=None, critic_loss="quantile_huber", gradient_clipping="joint")
    assert {name: parameters[name].default for name in expected} == expected
    DistributionalPPO("MlpPolicy", RandomEnv(), distributional_vf_clip_mode="disable", **SHORT)


@pytest.mark.parametrize("n_quantiles", [0, -1, 2.5, True])
def test_wrong_numbers_of_quantiles_are_refused(n_quantiles):
    with pytest.raises(ValueError, match="n_quantiles"):
        DistributionalPPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(n_quantiles=n_quantiles), **SHORT)


def test_load_refuses_unknown_keywords_and_names_the_nearest(tmp_path):
    DistributionalPPO("MlpPolicy", "CartPole-v1", **SHORT).save(tmp_path / "model")
    with pytest.raises(TypeError, match="did you mean 'use_variance_gradient_scaling'"):
        DistributionalPPO.load(tmp_path / "model", use_variance_gradiant_scaling=False)
    assert DistributionalPPO.load(tmp_path / "model", num_timesteps=7).num_timesteps == 7  # an attribute, as in PPO


def test_plain_ppo_archives_are_refused_with_a_sentence(tmp_path):
    plain = PPO("MlpPolicy", "CartPole-v1", **SHORT)
    plain.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain PPO"):
        DistributionalPPO.load(tmp_path / "plain")
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", **SHORT)
    with pytest.raises(ValueError, match="plain PPO"):
        model.set_parameters(plain.get_parameters())
    plain.learn(64)
    model.set_parameters(plain.get_parameters(), exact_match=False)
    assert torch.equal(model.policy.action_net.weight, plain.policy.action_net.weight)
    model.learn(64)  # Adam's moments of the one-value head must not have come along


# ------------------------------------------------------------------------------------------------------ save and load


def test_a_scaled_run_continues_with_the_flag_off(tmp_path):
    env = make_vec_env(RandomEnv, n_envs=2, seed=0)
    model = DistributionalPPO("MlpPolicy", env, normalize_returns=True, **SHORT).learn(256)
    model.save(tmp_path / "model")
    rolled_back = DistributionalPPO.load(tmp_path / "model", env=env, use_variance_gradient_scaling=False)
    assert same_parameters(model, rolled_back)
    rolled_back.learn(256, reset_num_timesteps=False)
    assert "train/variance_scaling_weight" not in rolled_back.logger.name_to_value
    assert rolled_back.logger.name_to_value["train/vf_coef_effective"] == rolled_back.vf_coef
    assert rolled_back.policy.value_net.ret_updates == 4  # 2 rollouts before, 2 since


def test_parameters_and_custom_objects_travel(tmp_path):
    model = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, **SHORT).learn(128)
    model.save(tmp_path / "model")
    other = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, **{**SHORT, "seed": 1})
    other.set_parameters(tmp_path / "model.zip")
    assert same_parameters(model, other)
    assert other.policy.value_net.ret_updates == 2
    loaded = DistributionalPPO.load(tmp_path / "model", custom_objects={"learning_rate": 0.5})
    assert loaded.lr_schedule(1.0) == 0.5


def test_statistics_move_with_the_policy():
    model = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, **SHORT)
    model.policy.to("meta")
    assert {tensor.device.type for tensor in model.policy.state_dict().values()} == {"meta"}


# --------------------------------------------------------------------------------------------------- non-finite numbers


def unchanged(model, before):
    after = model.get_parameters()
    same = all(torch.equal(after["policy"][k], v) for k, v in before["policy"].items())
    return same and str(after["policy.optimizer"]) == str(before["policy.optimizer"])


@pytest.mark.parametrize(
    ("kwargs", "normalize_returns", "match"),
    [
        (dict(reward=float("nan")), True, r"rewards.*index \[8, 0\].*Check: environment"),
        (dict(reward=float("inf")), True, "rewards"),
        (dict(reward=3e38), False, "minibatch 0 .*scale of the rewards"),
        (dict(observation=float("nan")), True, "observations.*environment"),
    ],
)
def test_non_finite_rollouts_raise_before_anything_changes(kwargs, normalize_returns, match):
    model = DistributionalPPO("MlpPolicy", RandomEnv(**kwargs), normalize_returns=normalize_returns, **SHORT)
    before = copy.deepcopy(model.get_parameters())
    with pytest.raises(FloatingPointError, match=match) as error, np.errstate(all="ignore"):
        model.learn(128)
    assert isinstance(error.value, ValueError)  # as PPO's, which searches for settings take for a failed trial
    assert unchanged(model, before)


@given(st.floats(width=64), st.floats(-1e30, 1e30), st.booleans(), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_any_rewards_give_finite_parameters_or_an_error(reward, scale, normalize, learning_rate):
    env = RandomEnv(reward=reward, scale=scale)
    flags = dict(normalize_returns=normalize, use_popart=normalize, learning_rate=learning_rate)
    model = DistributionalPPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu", **flags)
    with contextlib.suppress(FloatingPointError):
        model.learn(96)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())


def test_a_non_finite_loss_is_undone_with_the_statistics_and_the_optimizer():
    model = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, **SHORT).learn(128)
    before = copy.deepcopy(model.get_parameters())
    calls = []

    def loss_that_fails(quantiles, targets, reduction, original=model._quantile_huber_loss):
        calls.append(1)
        return original(quantiles, targets, reduction) * (float("nan") if len(calls) == 3 else 1.0)

    model._quantile_huber_loss = loss_that_fails
    with pytest.raises(FloatingPointError, match=r"loss of minibatch 2 .*Check: learning_rate"):
        model.learn(64, reset_num_timesteps=False)
    assert unchanged(model, before)
    del model._quantile_huber_loss
    model.learn(64, reset_num_timesteps=False)


def test_parameters_blown_up_by_the_last_step_are_undone():
    class Exploding(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("inf"))

    kwargs = {**SHORT, "n_epochs": 1, "batch_size": 64}
    model = DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=dict(optimizer_class=Exploding), **kwargs)
    before = copy.deepcopy(model.get_parameters())
    with pytest.raises(FloatingPointError, match="the parameters"):
        model.learn(64)
    assert unchanged(model, before)


# ------------------------------------------------------------------------------------------------------------- scalars


EXPECTED = [
    "approx_kl",
    "clip_fraction",
    "clip_range",
    "entropy_loss",
    "explained_variance",
    "grad_norm",
    "learning_rate",
    "loss",
    "policy_gradient_loss",
    "quantile_calibration_error",
    "quantile_variance_mean",
    "quantile_variance_std",
    "value_loss",
    "value_loss_std",
    "variance_scaling_clamped",
    "variance_scaling_weight",
    "variance_scaling_weight_max",
    "variance_scaling_weight_min",
    "vf_coef_effective",
]


def test_a_thousand_steps_with_defaults_write_every_scalar(tmp_path, read_scalars):
    DistributionalPPO("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path)).learn(1000)
    scalars = read_scalars(tmp_path)
    assert {tag for tag in scalars if tag.startswith("train/")} == {f"train/{name}" for name in EXPECTED}
    assert all(np.isfinite(point.value) for points in scalars.values() for point in points)


def test_every_update_is_written_once_at_the_step_of_its_rollout(tmp_path, read_scalars):
    model = DistributionalPPO(ApartPolicy, "Pendulum-v1", tensorboard_log=str(tmp_path), **SHORT)
    model.learn(256)
    scalars = read_scalars(tmp_path)
    assert [point.step for point in scalars["train/value_loss"]] == [64, 128, 192, 256]
    assert {"train/std"} | {f"train/{name}" for name in EXPECTED} <= scalars.keys()
    weights = [point.value for point in scalars["train/variance_scaling_weight"]]
    variances = [point.value for point in scalars["train/quantile_variance_mean"]]
    assert all(0.1 <= weight <= 10.0 for weight in weights)
    assert weights[0] == pytest.approx(variances[0])  # not clamped
    effective = [point.value for point in scalars["train/vf_coef_effective"]]
    assert effective == pytest.approx([model.vf_coef * weight for weight in weights])


def test_log_interval_and_dump_logs_work_as_in_ppo(tmp_path):
    model = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(5 * 64, log_interval=2)
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    updates = [row.split(",")[rows[0].split(",").index("train/n_updates")] for row in rows[1:]]
    assert updates == ["4", "8", "10"]  # iterations 2 and 4, and the last one
    assert model.logger.name_to_value["train/n_updates"] == model._n_updates == 10
    model.dump_logs()  # as callbacks do
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 1 + 4


def test_callbacks_read_the_last_update_and_their_dumps_do_not_write_it_again(tmp_path, read_scalars):
    seen = []

    class Reader(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            seen.append("train/loss" in self.logger.name_to_value)
            self.logger.record("eval/marker", 1.0)
            self.logger.dump(self.num_timesteps)

        def _on_training_end(self):
            seen.append("train/loss" in self.logger.name_to_value)

    DistributionalPPO("MlpPolicy", RandomEnv(), tensorboard_log=str(tmp_path), **SHORT).learn(128, Reader())
    scalars = read_scalars(tmp_path)
    assert [point.step for point in scalars["train/loss"]] == [64, 128]
    assert [point.step for point in scalars["eval/marker"]] == [64, 128]
    assert seen[-1]


def test_scalars_that_are_undefined_are_left_out():
    class Silent(RandomEnv):
        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, 0.0, terminated, truncated, info

    model = DistributionalPPO("MlpPolicy", Silent(), normalize_returns=True, **SHORT).learn(64)
    scalars = model.logger.name_to_value
    assert "train/explained_variance" not in scalars
    assert all(np.isfinite(value) for value in scalars.values())


# ------------------------------------------------------------------------------------------------------------ learning


def test_it_learns_cartpole():
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = DistributionalPPO("MlpPolicy", env, 1e-3, 32, 256, 20, 0.98, 0.8, seed=0, device="cpu")
    model.learn(25_000)
    mean, _ = evaluate_policy(model, DummyVecEnv([lambda: gym.make("CartPole-v1")]), n_eval_episodes=10, warn=False)
    assert mean >= 195  # solved, by the definition of CartPole-v0
