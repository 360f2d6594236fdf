"""
The systems around the value loss: clipping, twin critics, weights per sample, sampled targets, calibration.

Oracles: worked arithmetic, numpy in float64, plain loops, sb3-contrib's loss, SB3's own GAE returns.
"""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.utils import quantile_huber_loss as contrib_loss
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from distributional_ppo import DistributionalPPO, clip_quantiles, quantile_huber_loss

CLIP_MODES = ("per_quantile", "mean_only", "mean_and_variance")
SHORT = dict(n_steps=32, batch_size=24, n_epochs=2, seed=0, device="cpu")  # 24: a short last minibatch
NORMALISED = dict(normalize_returns=True, use_popart=True)


class Episodes(gym.Env):
    """Episodes of 7 steps that end by termination and by truncation in turn; random observations and rewards."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, endless=False):
        self.endless, self.episodes = endless, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.episodes += 1
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        over = self.t == 7 and not self.endless
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        reward = float(self.np_random.normal(1.0, 2.0))
        return observation, reward, over and self.episodes % 2 == 0, over and self.episodes % 2 == 1, {}


def make(n_envs=3, env=None, **kwargs):
    env = env or DummyVecEnv([Episodes] * n_envs)
    return DistributionalPPO("MlpPolicy", env, **{**SHORT, **kwargs})


def frozen_policy(model):
    """A policy with the model's parameters as they are now."""
    policy = make(**NORMALISED).policy
    policy.load_state_dict(model.policy.state_dict())
    return policy


# ------------------------------------------------------------------------------------------------------- clipping

OLD = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
NEW = torch.tensor([[1.0, 2.1, 3.0, 4.0, 6.5]])


def test_clipping_by_hand():
    per_quantile = clip_quantiles(NEW, OLD, 0.2, "per_quantile", 2.0)
    assert per_quantile.tolist()[0] == pytest.approx([1, 2.1, 3, 4, 5.2])
    shifted = clip_quantiles(NEW, OLD, 0.2, "mean_only", 2.0)  # mean 3.32 may be 3.20: all by -0.12
    assert shifted.tolist()[0] == pytest.approx([0.88, 1.98, 2.88, 3.88, 6.38])
    drawn = clip_quantiles(NEW, OLD, 0.2, "mean_and_variance", 1.0).double().numpy()[0]
    assert drawn.mean() == pytest.approx(3.2)
    assert drawn.std() == pytest.approx(np.sqrt(2.0))  # that of 1..5
    expected = 3.2 + (NEW.numpy()[0] - 3.32) * np.sqrt(2.0) / NEW.double().numpy()[0].std()
    assert drawn == pytest.approx(expected, rel=1e-5)


# 0 1 2 3 4: mean 2, std sqrt(2). 2 -1 -4 5 8: mean 2, std sqrt((0 + 9 + 36 + 9 + 36) / 5) = 3 sqrt(2).
@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.5, [2.0, 1.5, 1.0, 2.5, 3.0]),  # 1/6 of -0 -3 -6 3 6 around 2
        (1.0, [2.0, 1.0, 0.0, 3.0, 4.0]),  # 1/3
        (2.0, [2.0, 0.0, -2.0, 4.0, 6.0]),  # 2/3; as a ratio of variances it would be sqrt(2) / 3
        (2.9, [2.0, -0.9, -3.8, 4.9, 7.8]),
        (3.1, [2.0, -1.0, -4.0, 5.0, 8.0]),
    ],
)
@pytest.mark.parametrize("moved", [0.0, 0.5, -7.0])
def test_the_variance_factor_is_a_ratio_of_standard_deviations(factor, expected, moved):
    old, new = torch.arange(5.0)[None].double(), torch.tensor([[2.0, -1.0, -4.0, 5.0, 8.0]]).double() + moved
    clipped = clip_quantiles(new, old, 1.0, "mean_and_variance", factor)
    assert clipped.tolist()[0] == pytest.approx([x + np.clip(moved, -1, 1) for x in expected])


def test_each_sample_is_clipped_for_itself():
    """Rows: moved too far, not moved, spread too far, of another sign. Oracle: each row alone."""
    old = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [-1.0, 0.0, 1.0], [-3.0, -2.0, -1.0]])
    new = torch.tensor([[9.0, 10.0, 11.0], [0.0, 1.0, 2.0], [-9.0, 0.0, 9.0], [3.0, 2.0, 1.0]])
    for mode in CLIP_MODES:
        alone = [clip_quantiles(new[i : i + 1], old[i : i + 1], 0.5, mode, 2.0) for i in range(4)]
        assert torch.equal(clip_quantiles(new, old, 0.5, mode, 2.0), torch.cat(alone))


@given(st.lists(st.floats(-100, 100), min_size=10, max_size=10), st.floats(0.01, 10), st.floats(0.5, 3))
@settings(max_examples=60, deadline=None)
def test_clipped_predictions_stay_near(values, eps, factor):
    """A spread of rounding's size, an old one of 0 above all, is not held to in "mean_and_variance"."""
    old, new = np.sort(np.array(values).reshape(2, 1, 5), axis=2)
    has_spread = old.std() > 1e-6 * np.abs(old).max()
    near = old + np.clip(new - old, -eps / 2, eps / 2)
    for mode in CLIP_MODES:

        def clip(quantiles, mode=mode):
            return clip_quantiles(torch.from_numpy(quantiles), torch.from_numpy(old), eps, mode, factor).numpy()

        clipped = clip(new)
        assert np.all(np.diff(clipped) >= -1e-9)  # sorted in, sorted out
        assert abs(clipped.mean() - old.mean()) <= eps + 1e-9
        if mode == "per_quantile":
            assert np.abs(clipped - old).max() <= eps + 1e-9
        if mode == "mean_and_variance" and has_spread:
            assert clipped.std() <= factor * old.std() + 1e-5
        if mode != "mean_and_variance" or not has_spread or near.std() < factor * old.std():
            assert clip(near) == pytest.approx(near, abs=1e-9)


@pytest.mark.parametrize("mode", CLIP_MODES)
def test_what_is_near_is_not_touched(mode):
    old, new = torch.randn(50, 8), torch.randn(50, 8)
    assert torch.equal(clip_quantiles(new, old, 1e6, mode, 1e6), new)  # so that the clip fraction counts no rounding


def test_a_mode_that_is_none_is_refused_and_disable_holds_nothing_back():
    assert torch.equal(clip_quantiles(NEW, OLD, 0.2, "disable", 2.0), NEW)
    with pytest.raises(ValueError, match=r"one of per_quantile, mean_only, mean_and_variance, disable, got .typo."):
        clip_quantiles(NEW, OLD, 0.2, "typo", 2.0)


def test_equal_quantiles_have_a_finite_gradient():
    quantiles = torch.ones(2, 5, requires_grad=True)
    clip_quantiles(quantiles, OLD.expand(2, 5), 0.1, "mean_and_variance", 2.0).sum().backward()
    assert torch.isfinite(quantiles.grad).all()


@settings(deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(0, 1e-7))
def test_quantiles_that_were_equal_may_spread(value, rounding):
    """By hand: they are shifted, by 0.1 at most, as in "mean_only"; a spread of rounding's size is none."""
    old = torch.full((1, 5), value) * (1 + rounding * torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0]))
    new = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]]) + value
    assert torch.equal(
        clip_quantiles(new, old, 0.1, "mean_and_variance", 2.0), clip_quantiles(new, old, 0.1, "mean_only", 2.0)
    )


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_scaled_rewards_with_clipping_in_std_leave_the_parameters():
    class Larger(gym.RewardWrapper):
        def reward(self, reward):
            return 1024.0 * reward

    flags = dict(clip_range_vf=0.2, clip_range_vf_units="std", **NORMALISED)
    one = make(**flags).learn(192).policy.state_dict()
    other = make(env=DummyVecEnv([lambda: Larger(Episodes())] * 3), **flags).learn(192).policy.state_dict()
    for name, value in one.items():
        if "ret_" not in name:
            assert torch.allclose(value, other[name], atol=1e-5), name


# ---------------------------------------------------------------------------------------------- weights per sample


def test_archives_from_before_the_average_load(tmp_path):
    model = make().learn(96)
    parameters = model.get_parameters()
    del parameters["policy"]["value_net.std_average"]
    other = make(seed=1)
    other.set_parameters(parameters)
    assert same(model.policy.state_dict(), other.policy.state_dict())


# --------------------------------------------------------------------------------------------------- twin critics


class UnsharedPolicy(ActorCriticPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "share_features_extractor": False})


@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("MlpPolicy", Episodes),
        (UnsharedPolicy, Episodes),
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=36, screen_width=36, n_channels=1)),
        ("MultiInputPolicy", lambda: SimpleMultiObsEnv(random_start=False)),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_twin_critics_train_save_and_take_the_smaller_mean(policy, env, shared, tmp_path):
    kwargs = dict(share_features_extractor=shared) if isinstance(policy, str) else {}
    model = DistributionalPPO(
        policy,
        DummyVecEnv([env]),
        use_twin_critics=True,
        clip_range_vf=0.5,
        value_target="sr_lambda",
        policy_kwargs=dict(n_quantiles=4, **kwargs),
        **SHORT,
    )
    model.learn(64)
    observations = model.policy.obs_to_tensor(model.get_env().reset())[0]
    with torch.no_grad():
        both = model.policy.value_net.to_raw(model.policy.quantiles_of_loss(observations)).reshape(-1, 2, 4)
    assert not torch.equal(both[:, 0], both[:, 1])
    with torch.no_grad():
        values, quantiles = model.policy.predict_values(observations), model.policy.predict_quantiles(observations)
    assert torch.allclose(values[:, 0], both.mean(dim=2).min(dim=1).values, atol=1e-6)
    assert torch.allclose(quantiles.mean(dim=1), values[:, 0], atol=1e-6)
    model.save(tmp_path / "model")
    loaded = DistributionalPPO.load(tmp_path / "model")
    assert loaded.use_twin_critics
    with torch.no_grad():
        assert torch.equal(loaded.policy.predict_quantiles(observations), quantiles)
    for name in ("value_loss", "variance_scaling_weight", "quantile_variance_mean"):
        each = [model.logger.name_to_value[f"train/{name}_{i}"] for i in (1, 2)]
        assert model.logger.name_to_value[f"train/{name}"] == pytest.approx(np.mean(each), rel=1e-5)


def test_the_critics_begin_differently_whatever_initialises_them():
    for ortho_init in (True, False):
        policy = make(use_twin_critics=True, policy_kwargs=dict(ortho_init=ortho_init)).policy
        for module in (policy.mlp_extractor.value_net.first, policy.value_net.net):
            other = (
                policy.mlp_extractor.value_net.second if module is not policy.value_net.net else policy.value_net.second
            )
            pairs = zip(module.parameters(), other.parameters(), strict=True)
            assert not any(torch.equal(p, q) for p, q in pairs if p.dim() > 1)


def test_twin_critics_of_a_policy_without_a_value_network_are_refused():
    class Bare(nn.Module):
        latent_dim_pi = latent_dim_vf = 3

        def forward(self, features):
            return features, features

    class BarePolicy(ActorCriticPolicy):
        def _build_mlp_extractor(self):
            self.mlp_extractor = Bare()

    class NonePolicy(ActorCriticPolicy):
        def _build(self, lr_schedule):
            self.value_net = nn.Linear(3, 1)

    for policy in (BarePolicy, NonePolicy):
        with pytest.raises(ValueError, match="use_twin_critics needs an mlp_extractor"):
            DistributionalPPO(policy, DummyVecEnv([Episodes]), use_twin_critics=True)


def test_an_mlp_extractor_assigned_twice_is_doubled_once():
    class AgainPolicy(ActorCriticPolicy):
        def _build_mlp_extractor(self):
            super()._build_mlp_extractor()
            self.mlp_extractor = self.mlp_extractor.to(self.device)

    DistributionalPPO(AgainPolicy, DummyVecEnv([Episodes]), use_twin_critics=True, **SHORT).learn(32)


def test_twin_critics_are_a_flag_of_the_algorithm(tmp_path):
    kwargs = dict(n_quantiles=4)
    twin, single = make(use_twin_critics=True, policy_kwargs=kwargs), make(policy_kwargs=kwargs)
    twin.save(tmp_path / "twin")
    assert DistributionalPPO.load(tmp_path / "twin", policy_kwargs=kwargs).policy.n_critics == 2
    with pytest.raises(ValueError, match="use_twin_critics=True: they do not fit"):
        single.set_parameters(twin.get_parameters())
    with pytest.raises(ValueError, match="use_twin_critics=True: they do not fit"):
        DistributionalPPO.load(tmp_path / "twin", use_twin_critics=False)
    with pytest.raises(ValueError, match="set use_twin_critics instead"):
        make(policy_kwargs=dict(n_critics=2))


class HalfBuffer(RolloutBuffer):
    """Keeps its observations under a name of its own."""

    def reset(self):
        super().reset()
        self.packed = self.observations.astype(np.float16)
        del self.observations

    def add(self, obs, *args):
        self.packed[self.pos] = obs
        self.observations = np.zeros((self.buffer_size, self.n_envs, *self.obs_shape), dtype=np.float32)
        super().add(obs, *args)
        del self.observations

    def get(self, batch_size=None):
        if not self.generator_ready:
            self.observations = self.packed.astype(np.float32)
        yield from super().get(batch_size)


def test_buffers_of_any_kind_and_updates_repeated():
    model = make(rollout_buffer_class=HalfBuffer).learn(96)
    assert "train/quantile_calibration_error" not in model.logger.name_to_value
    clipped = make(rollout_buffer_class=HalfBuffer, clip_range_vf=0.1).learn(96)
    assert clipped.logger.name_to_value["train/clip_fraction_vf"] >= 0  # by a frozen copy of the critic
    with pytest.raises(ValueError, match=r"HalfBuffer has a get\(\) of its own"):
        make(rollout_buffer_class=HalfBuffer, value_target="sr_lambda").learn(96)
    for flags in ({}, dict(clip_range_vf=0.1), dict(value_target="sr_lambda")):
        model = make(**flags).learn(96)
        values = model.rollout_buffer.values.copy()
        model.train()  # again on the same rollout, whose buffer is flat by now
        assert np.array_equal(model.rollout_buffer.values, values)
        assert values.dtype == np.float32


# ------------------------------------------------------------------------------------------------- sampled targets


def test_pairs_of_quantiles_and_atoms_with_sb3_contrib():
    torch.manual_seed(0)
    quantiles, atoms = torch.randn(6, 5), torch.randn(6, 3)
    expected = contrib_loss(quantiles, atoms, sum_over_quantiles=False)
    assert quantile_huber_loss(quantiles, atoms, 1.0).mean().item() == pytest.approx(expected.item(), rel=1e-6)
    one = quantile_huber_loss(quantiles, atoms[:, :1].expand(6, 4), 1.0)
    assert torch.allclose(one, quantile_huber_loss(quantiles, atoms[:, 0], 1.0))


# ------------------------------------------------------------------------------------------- calibration and risk


@pytest.mark.parametrize("flags", [NORMALISED, dict(normalize_returns=True)], ids=["PopArt", "normalised"])
def test_calibration_error_in_numpy(flags):
    model = make(**flags).learn(96)
    frozen = frozen_policy(model)

    class Oracle(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            quantiles = frozen.predict_quantiles(buffer.observations.reshape(-1, 3)).detach().numpy()
            tau = (np.arange(32) + 0.5) / 32
            below = (buffer.returns.reshape(-1, 1) < quantiles).mean(axis=0)
            self.expected = np.abs(below - tau).mean()

    oracle = Oracle()
    model.learn(96, oracle, reset_num_timesteps=False)
    assert model.logger.name_to_value["train/quantile_calibration_error"] == pytest.approx(oracle.expected, abs=1e-6)


def test_cvar_is_the_mean_of_the_worst_share(monkeypatch):
    policy = make(policy_kwargs=dict(n_quantiles=4)).policy
    monkeypatch.setattr(policy, "predict_quantiles", lambda obs: torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
    assert policy.predict_cvar(None, 1.0).tolist() == pytest.approx([2.5])
    assert policy.predict_cvar(None, 0.25).tolist() == pytest.approx([1.0])
    assert policy.predict_cvar(None, 0.1).tolist() == pytest.approx([1.0])
    assert policy.predict_cvar(None, 0.375).tolist() == pytest.approx([(0.25 * 1 + 0.125 * 2) / 0.375])
    for alpha in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="alpha"):
            policy.predict_cvar(None, alpha)


# -------------------------------------------------------------------------------------------------- together

FACTORS = {
    "normalised": [{}, dict(normalize_returns=True), NORMALISED, dict(NORMALISED, return_stats_rate=None)],
    "target": [dict(value_target=name) for name in ("gae", "sr_lambda")],
    "clip": [{}, *(dict(clip_range_vf=0.2, distributional_vf_clip_mode=mode) for mode in (*CLIP_MODES, "disable"))],
    "units": [dict(clip_range_vf_units=name) for name in ("raw", "std")],
    "twin": [dict(use_twin_critics=flag) for flag in (False, True)],
    "scaling": [dict(use_variance_gradient_scaling=False), {}, dict(variance_scaling_mode="dsac_t")],
    "kappa": [dict(quantile_huber_kappa=kappa) for kappa in (0.1, 1.0)],
    "policy": [dict(policy_kwargs=dict(n_quantiles=n, share_features_extractor=s)) for n, s in ((3, True), (8, False))],
    "noise": [dict(use_sde=flag) for flag in (False, True)],
    "end": [{}, dict(target_kl=0.01)],
    "loss": [{}, dict(critic_loss="mean_and_spread"), dict(quantile_huber_kappa_units="std")],
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
    model = DistributionalPPO("MlpPolicy", env, **SHORT, **case).learn(128)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())
    model.save(tmp_path / "model")
    loaded = DistributionalPPO.load(tmp_path / "model", env=env)
    for name, value in case.items():
        if name not in ("clip_range_vf", "policy_kwargs"):
            assert getattr(loaded, name) == value
    assert same(model.policy.state_dict(), loaded.policy.state_dict())
    loaded.learn(64)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (dict(value_target="td"), "value_target must be one of 'gae', 'sr_lambda'"),
        (dict(distributional_vf_clip_mode="all"), "distributional_vf_clip_mode must be one of"),
        (dict(distributional_vf_clip_mode="mean_only"), "clip_range_vf, which is None"),
        (dict(clip_range_vf_units="std"), "without clip_range_vf"),
        (dict(clip_range_vf=0.2, clip_range_vf_units="std"), "set normalize_returns=True"),
        (dict(clip_range_vf=0.2, clip_range_vf_units="percent"), "clip_range_vf_units must be one of"),
        (dict(clip_range_vf=0.2, normalize_returns=True), "needs use_popart=True"),
        (dict(clip_range_vf=-0.2), "clip_range_vf"),
        (dict(clip_range_vf=0.2, distributional_vf_clip_variance_factor=0.0), "variance_factor"),
        (dict(variance_scaling_mode="sample"), "variance_scaling_mode must be one of"),
    ],
)
def test_wrong_combinations_are_refused_with_a_reason(flags, match):
    with pytest.raises((ValueError, AssertionError), match=match):
        make(**flags)


def test_dsac_t_without_normalised_returns_warns():
    with pytest.warns(UserWarning, match="absolute 0.1"):
        make(variance_scaling_mode="dsac_t")
