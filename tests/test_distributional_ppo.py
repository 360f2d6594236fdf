"""``DistributionalPPO`` itself. The main oracle is SB3's PPO on the same seed."""

import copy
import inspect
import itertools
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from builders import (
    AS_PPO,
    CLIP_MODES,
    HUGE_KAPPA,
    NORMALISED,
    SHORT,
    UNEVEN,
    NormalisingExtractor,
    RandomEnv,
    same_parameters,
)
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import distributional_ppo
from distributional_ppo import DistributionalPPO


class AwkwardExtractor(BaseFeaturesExtractor):
    """Gradients whose strides are not their parameters', that share their storage, that repeat one number."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.conv = nn.Conv2d(2, 3, 3)
        self.weight = nn.Parameter(torch.randn(4, 48) / 7)
        self.change = nn.Parameter(torch.zeros(4, 48))
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
        self.kls = []
        self.norms = []
        get = self.model.rollout_buffer.get
        evaluate = self.model.policy.evaluate_actions
        clip = nn.utils.clip_grad_norm_

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

        self.model.rollout_buffer.get = noting_get
        self.model.policy.evaluate_actions = noting_evaluate
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
        (
            "CartPole-v1",
            dict(n_steps=50, target_kl=0.003),
        ),  # a short last minibatch, an update ended by the KL
        ("CartPole-v1", dict(n_steps=33)),  # of one sample
        (
            "CartPole-v1",
            dict(learning_rate=lambda progress: 1e-2 * progress**2 + 1e-4),
        ),
        (
            "CartPole-v1",
            dict(clip_range=lambda progress: 0.001 + 0.01 * progress**2),
        ),
        (
            "CartPole-v1",
            dict(clip_range_vf=lambda progress: 200.0 + 100 * progress**2),
        ),  # which holds nothing back
        ("Pendulum-v1", dict(ent_coef=0.01, normalize_advantage=False)),
        ("Pendulum-v1", dict(use_sde=True, sde_sample_freq=4)),
        (
            "Pendulum-v1",
            dict(use_sde=True, ent_coef=0.1, policy_kwargs=dict(squash_output=True)),
        ),  # no exact entropy
        (RandomEnv(action_space=spaces.MultiDiscrete([2, 3])), {}),
        (
            RandomEnv(action_space=spaces.MultiBinary(3)),
            dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD)),
        ),
        (
            RandomEnv(),
            dict(policy_kwargs=dict(ortho_init=False, share_features_extractor=False)),
        ),
        (
            RandomEnv(),
            dict(policy_kwargs=dict(features_extractor_class=NormalisingExtractor, net_arch=[8])),
        ),
        (
            RandomEnv(),
            dict(policy_kwargs=dict(optimizer_class=torch.optim.Adagrad)),
        ),
        (RandomEnv(), dict(gamma=0.7, gae_lambda=0.3)),
        (
            RandomEnv(spaces.Box(-1, 1, (6, 6, 2))),
            dict(
                max_grad_norm=0.1,
                policy_kwargs=dict(features_extractor_class=AwkwardExtractor),
            ),
        ),
        ("CartPole-v1", dict(policy=MaskingPolicy)),
        ("Pendulum-v1", dict(policy=CalmPolicy)),
        *[
            (
                "CartPole-v1",
                dict(n_epochs=6, learning_rate=3e-3, target_kl=0.001 * 2**i),
            )
            for i in range(5)
        ],
    ],
)
def test_one_quantile_at_huge_kappa_is_ppo_bit_for_bit(env, kwargs):
    kwargs = {**SHORT, "policy": "MlpPolicy", "env": env, **kwargs}
    their_updates = ByHand()
    our_updates = Scalars()
    theirs = sb3_ppo(**copy.deepcopy(kwargs)).learn(256, their_updates)
    policy_kwargs = {**kwargs.pop("policy_kwargs", {}), "n_quantiles": 1}
    ours = DistributionalPPO(policy_kwargs=policy_kwargs, **kwargs, **AS_PPO).learn(256, our_updates)
    for first, second in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(first, second)

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
    for first, second in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(first, second)


def test_frozen_parameters_stay_and_parameters_of_the_optimizer_alone_move():
    """Oracle: SB3's PPO, whose `zero_grad` and `backward` serve all that the optimizer steps."""
    moved = []

    for make, flags in (
        (sb3_ppo, {}),
        (DistributionalPPO, dict(AS_PPO, policy_kwargs=dict(n_quantiles=1))),
    ):
        model = make(BiasedPolicy, RandomEnv(), **SHORT, **flags).learn(64)
        model.policy.mlp_extractor.policy_net.requires_grad_(False)
        frozen = copy.deepcopy(model.policy.mlp_extractor.policy_net.state_dict())
        model.learn(64)
        for (
            name,
            value,
        ) in model.policy.mlp_extractor.policy_net.state_dict().items():
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


def test_equal_clamps_of_one_are_scaling_off_bit_for_bit():
    off = DistributionalPPO("MlpPolicy", "CartPole-v1", use_variance_gradient_scaling=False, **SHORT).learn(200)
    ones = DistributionalPPO(
        "MlpPolicy",
        "CartPole-v1",
        variance_scaling_clip_min=1.0,
        variance_scaling_clip_max=1.0,
        **SHORT,
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


def test_critic_learns_the_value_of_an_endless_environment():
    """Reward 1 for ever is worth 1 / (1 - gamma): SB3's own check of its GAE, here of the critic in raw units."""

    class Endless(gym.Env):
        observation_space = spaces.Box(-1, 1, (1,))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 1.0, False, False, {}

    model = DistributionalPPO(
        "MlpPolicy",
        Endless(),
        normalize_returns=True,
        gamma=0.5,
        learning_rate=1e-2,
        n_steps=64,
        seed=0,
    ).learn(3_000)

    assert model.policy.predict_values(torch.zeros(1, 1)).item() == pytest.approx(2.0, abs=0.05)


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
    model.learn(
        200,
        callback=lambda local, _: steps.append(local["self"].num_timesteps) or True,
    )

    assert Counting.gets == model.n_epochs * 3
    assert steps[-1] == 288
    assert model.logger.name_to_value["train/learning_rate"] < 1e-3


def test_observations_may_have_gaps_that_the_policy_fills():
    class Filling(NormalisingExtractor):
        def forward(self, observations):
            return super().forward(torch.nan_to_num(observations))

    env = RandomEnv(observation=float("nan"))
    model = DistributionalPPO(
        "MlpPolicy",
        env,
        policy_kwargs=dict(features_extractor_class=Filling),
        **SHORT,
    ).learn(64)

    assert np.isnan(model.rollout_buffer.observations).any()
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_batch_norm_statistics_move_only_in_training():
    policy_kwargs = dict(features_extractor_class=NormalisingExtractor)
    ours = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        policy_kwargs={**policy_kwargs, "n_quantiles": 1},
        **SHORT,
        **AS_PPO,
    ).learn(64)
    theirs = sb3_ppo("MlpPolicy", RandomEnv(), policy_kwargs=policy_kwargs, **SHORT).learn(64)
    ours_norm = ours.policy.features_extractor.net[1]
    their_norm = theirs.policy.features_extractor.net[1]

    assert ours_norm.num_batches_tracked == their_norm.num_batches_tracked > 0
    assert torch.equal(ours_norm.running_mean, their_norm.running_mean)


def test_defaults_are_those_of_the_design_and_disable_needs_no_clip_range():
    parameters = inspect.signature(DistributionalPPO).parameters
    expected = dict(
        quantile_huber_kappa=1.0,
        value_target="gae",
        normalize_returns=False,
        return_stats_rate=0.1,
    )
    expected |= dict(
        use_popart=False,
        distributional_vf_clip_mode=None,
        distributional_vf_clip_variance_factor=2.0,
    )
    expected |= dict(
        clip_range_vf_units="raw",
        use_twin_critics=False,
        use_variance_gradient_scaling=True,
    )
    expected |= dict(
        variance_scaling_clip_min=0.1,
        variance_scaling_clip_max=10.0,
        variance_scaling_mode="batch",
    )
    expected |= dict(
        quantile_huber_kappa_units=None,
        critic_loss="quantile_huber",
        gradient_clipping="joint",
    )

    assert {name: parameters[name].default for name in expected} == expected

    DistributionalPPO("MlpPolicy", RandomEnv(), distributional_vf_clip_mode="disable", **SHORT)


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
    second = DistributionalPPO("MlpPolicy", RandomEnv(), normalize_returns=True, **{**SHORT, "seed": 1})
    second.set_parameters(tmp_path / "model.zip")

    assert same_parameters(model, second)
    assert second.policy.value_net.ret_updates == 2

    loaded = DistributionalPPO.load(tmp_path / "model", custom_objects={"learning_rate": 0.5})
    assert loaded.lr_schedule(1.0) == 0.5


def test_it_learns_cartpole():
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = DistributionalPPO("MlpPolicy", env, 1e-3, 32, 256, 20, 0.98, 0.8, seed=0, device="cpu")
    model.learn(25_000)
    mean, _ = evaluate_policy(
        model,
        DummyVecEnv([lambda: gym.make("CartPole-v1")]),
        n_eval_episodes=10,
        warn=False,
    )

    assert mean >= 195  # solved, by the definition of CartPole-v0


def test_the_weight_of_the_first_critic_is_that_of_a_call_without_its_number():
    """Variances 1 and 4: at first the mean deviation is 1.5, and 2.25 / 1.1 and 2.25 / 4.1 are the weights."""
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        normalize_returns=True,
        variance_scaling_mode="dsac_t",
        device="cpu",
        n_steps=16,
        batch_size=16,
    )

    assert model.variance_weight(torch.tensor([1.0, 4.0])).tolist() == pytest.approx([2.045455, 0.548780], rel=1e-5)


FACTORS = {
    "normalised": [
        {},
        dict(normalize_returns=True),
        NORMALISED,
        dict(NORMALISED, return_stats_rate=None),
    ],
    "target": [dict(value_target=name) for name in ("gae", "sr_lambda")],
    "clip": [
        {},
        *(dict(clip_range_vf=0.2, distributional_vf_clip_mode=mode) for mode in (*CLIP_MODES, "disable")),
    ],
    "units": [dict(clip_range_vf_units=name) for name in ("raw", "std")],
    "twin": [dict(use_twin_critics=flag) for flag in (False, True)],
    "scaling": [
        dict(use_variance_gradient_scaling=False),
        {},
        dict(variance_scaling_mode="dsac_t"),
    ],
    "kappa": [dict(quantile_huber_kappa=kappa) for kappa in (0.1, 1.0)],
    "policy": [dict(policy_kwargs=dict(n_quantiles=n, share_features_extractor=s)) for n, s in ((3, True), (8, False))],
    "noise": [dict(use_sde=flag) for flag in (False, True)],
    "end": [{}, dict(target_kl=0.01)],
    "loss": [
        {},
        dict(critic_loss="mean_and_spread"),
        dict(quantile_huber_kappa_units="std"),
    ],
    "norms": [{}, dict(gradient_clipping="apart")],
}


def allowed(case):
    clips = "clip_range_vf" in case and case.get("distributional_vf_clip_mode") != "disable"
    if case.get("clip_range_vf_units") == "std" and ("clip_range_vf" not in case or not case.get("normalize_returns")):
        return False
    return not (clips and case.get("normalize_returns") and not case.get("use_popart"))


def covering():
    """Cases such that every allowed pair of two factors' values is in one: greedily, from random ones."""
    rng = np.random.default_rng(0)
    sizes = [len(values) for values in FACTORS.values()]
    keys = list(FACTORS)

    def case(choice):
        return {k: v for i, key in enumerate(keys) for k, v in FACTORS[key][choice[i]].items()}

    pool = [c for c in (tuple(rng.integers(sizes)) for _ in range(4000)) if allowed(case(c))]
    missing = {(i, a, j, b) for c in pool for (i, a), (j, b) in itertools.combinations(enumerate(c), 2)}
    chosen = []

    while missing:
        pairs = [{(i, a, j, b) for (i, a), (j, b) in itertools.combinations(enumerate(c), 2)} & missing for c in pool]
        best = max(range(len(pool)), key=lambda n: len(pairs[n]))
        chosen.append(case(pool[best]))
        missing -= pairs[best]

    return chosen


@pytest.mark.parametrize("case", covering(), ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning:distributional_ppo")
def test_every_pair_of_flags_trains_saves_and_goes_on(case, tmp_path):
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = DistributionalPPO("MlpPolicy", env, **UNEVEN, **case).learn(128)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())

    model.save(tmp_path / "model")
    loaded = DistributionalPPO.load(tmp_path / "model", env=env)

    for name, value in case.items():
        if name not in ("clip_range_vf", "policy_kwargs"):
            assert getattr(loaded, name) == value

    assert same_parameters(model, loaded)

    loaded.learn(64)
