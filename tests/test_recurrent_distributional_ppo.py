"""RecurrentDistributionalPPO beside sb3-contrib's RecurrentPPO: parameters, minibatches, gradients."""

import inspect
import pickle
import subprocess
import sys
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from quantile_critic import recurrent
from quantile_critic.sequences import lay_out

HUGE_KAPPA = 2.0**20  # a power of two, so that dividing by it is exact
AS_PPO = dict(quantile_huber_kappa=HUGE_KAPPA, vf_coef=0.5 * 4 * HUGE_KAPPA, use_variance_gradient_scaling=False)
SHORT = dict(n_steps=32, batch_size=40, n_epochs=2, seed=0, device="cpu")
SMALL = dict(lstm_hidden_size=8, net_arch=[8])
SHARED = dict(shared_lstm=True, enable_critic_lstm=False)


class Episodes(gym.Env):
    """Random observations, reward 1, episodes of 5 to 24 steps, every other of which is truncated."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))
        self.action_space = action_space or spaces.Discrete(2)
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left, self.episode = self.np_random.integers(5, 25), self.episode + 1
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        ends, truncates = self.left == 0, self.episode % 2 == 0
        return self.observation_space.sample(), 1.0, bool(ends and not truncates), bool(ends and truncates), {}


IMAGE = spaces.Box(0, 255, (36, 36, 1), dtype=np.uint8)
DICT = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(3)})
CASES = {
    "discrete": {},
    "box": dict(action_space=spaces.Box(-1, 1, (2,))),
    "gSDE": dict(action_space=spaces.Box(-1, 1, (2,)), use_sde=True, sde_sample_freq=4),
    "multi-discrete": dict(action_space=spaces.MultiDiscrete([2, 3])),
    "shared LSTM": dict(policy_kwargs=SHARED),
    "actor's LSTM only": dict(policy_kwargs=dict(enable_critic_lstm=False)),
    "2 layers": dict(policy_kwargs=dict(n_lstm_layers=2)),
    "unshared extractor": dict(policy_kwargs=dict(share_features_extractor=False)),
    "dict": dict(observation_space=DICT, policy="MultiInputLstmPolicy"),
    "image": dict(
        observation_space=IMAGE,
        policy="CnnLstmPolicy",
        policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=16)),
    ),
    "one minibatch": dict(batch_size=None),
    "entropy and target_kl": dict(ent_coef=0.1, target_kl=0.02),
    "raw advantages": dict(normalize_advantage=False),
}


def make(
    cls=RecurrentDistributionalPPO,
    policy="MlpLstmPolicy",
    observation_space=None,
    action_space=None,
    policy_kwargs=None,
    n_envs=3,
    **settings,
):
    env = DummyVecEnv([lambda: Episodes(observation_space, action_space) for _ in range(n_envs)])
    if cls is not RecurrentPPO:
        policy_kwargs = {"n_quantiles": 1 if "quantile_huber_kappa" in settings else 4, **(policy_kwargs or {})}
    return cls(policy, env, policy_kwargs={**SMALL, **(policy_kwargs or {})}, **{**SHORT, **settings})


def plain_state(model):
    """Parameters under the names that RecurrentPPO has for them."""
    return {name.replace("value_net.net.", "value_net."): p.detach() for name, p in model.policy.named_parameters()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_with_one_quantile_five_updates_end_where_those_of_recurrent_ppo_end(case):
    theirs = plain_state(make(RecurrentPPO, **case).learn(5 * 96))
    ours = plain_state(make(**case, **AS_PPO).learn(5 * 96))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        # 1e-8 is a 30,000th of a step of Adam's, for biases that are still near 0.
        assert (ours[name] - expected).norm() <= 1e-5 * expected.norm() + 1e-8, name


def test_binary_actions():
    """sb3-contrib 2.9.2 cannot train on these: its log probability of int8 actions raises."""
    model = make(action_space=spaces.MultiBinary(3)).learn(96)
    assert model.predict(np.zeros((3, 3), dtype=np.float32))[0].shape == (3, 3)


def test_signature_is_recurrent_ppos_then_the_flags():
    theirs = list(inspect.signature(RecurrentPPO.__init__).parameters.values())
    ours = list(inspect.signature(RecurrentDistributionalPPO.__init__).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    for parameter in inspect.signature(RecurrentDistributionalPPO).parameters:
        assert f":param {parameter}:" in RecurrentDistributionalPPO.__doc__
    flags = [p for p in inspect.signature(DistributionalPPO).parameters.values() if p.kind is p.KEYWORD_ONLY]
    model = make()
    assert all(getattr(model, flag.name) == flag.default for flag in flags)
    assert issubclass(RecurrentDistributionalPPO, RecurrentPPO)
    with pytest.raises(TypeError, match="no_flag"):
        make(no_flag=1)


def test_sb3_contrib_is_imported_on_demand():
    code = """
import sys
import distributional_ppo
assert "sb3_contrib" not in sys.modules
sys.modules["sb3_contrib"] = None
try:
    from distributional_ppo import RecurrentDistributionalPPO
except ImportError as error:
    print(error)
del sys.modules["sb3_contrib"]
from distributional_ppo import RecurrentDistributionalPPO as R
print(R.__module__, R.__qualname__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    without, found = done.stdout.splitlines()
    assert 'needs sb3-contrib: pip install "distributional-ppo[recurrent]"' in without
    assert found.split() == ["recurrent_distributional_ppo", "RecurrentDistributionalPPO"], done.stderr


def test_other_names_are_no_attribute():
    with pytest.raises(ImportError, match="RecurentDistributionalPPO"):
        from distributional_ppo import RecurentDistributionalPPO  # noqa: F401


def rollout_of(model, **settings):
    """The rollout that an update of this model would read, ready for its minibatches."""
    model.train = lambda: None
    model.learn(96)
    with torch.no_grad():
        rollout = model._rollout(True, None)
    rollout.to_loss_units(False)
    return rollout


@pytest.mark.parametrize("case", ["discrete", "dict", "image"])
@pytest.mark.parametrize("batch_size", [40, 96, None])
def test_minibatches_are_those_of_sb3_contribs_buffer_without_padding(case, batch_size):
    model = make(**CASES[case])
    rollout = rollout_of(model)
    set_random_seed(1)
    ours = [part.at(rows) for part, rows in rollout.minibatches(batch_size)]
    set_random_seed(1)
    theirs = list(model.rollout_buffer.get(batch_size))
    assert len(ours) == len(theirs) == (1 if batch_size in (96, None) else 3)
    for mine, padded in zip(ours, theirs, strict=True):
        real = padded.mask > 0
        torch.testing.assert_close(mine.actions, padded.actions[real].long().flatten(), rtol=0, atol=0)
        for name, expected in (("advantages", "advantages"), ("old_log_prob", "old_log_prob"), ("targets", "returns")):
            torch.testing.assert_close(getattr(mine, name), getattr(padded, expected)[real], rtol=0, atol=0)
        means = mine.old_quantiles.mean(dim=1)
        torch.testing.assert_close(means, padded.old_values[real], rtol=1e-5, atol=1e-6)
        observations, layout = mine.observations.observations, mine.observations.starts
        torch.testing.assert_close(layout.episode_starts, padded.episode_starts[real], rtol=0, atol=0)
        for key in padded.observations if case == "dict" else [None]:
            own, other = (o if key is None else o[key] for o in (observations, padded.observations))
            torch.testing.assert_close(own.to(other.dtype), other[real], rtol=0, atol=0)


@pytest.mark.parametrize("kwargs", [{}, SHARED, dict(enable_critic_lstm=False), dict(n_lstm_layers=2)])
def test_gradients_of_a_minibatch_are_sb3_contribs(kwargs):
    """The loss as RecurrentPPO's documentation has it: PPO's terms as means over what is no padding."""
    model = make(policy_kwargs=kwargs, **AS_PPO)
    host = make(RecurrentPPO, policy_kwargs=kwargs).policy
    host.load_state_dict(plain_state(model))
    rollout = rollout_of(model)
    with torch.no_grad():  # away from where ratios are 1
        for policy in (model.policy, host):
            policy.lstm_actor.weight_ih_l0.mul_(1.1)
            policy.action_net.weight.mul_(3)
    set_random_seed(1)
    ours = [model._minibatch_loss(part.at(rows), model._coefficients())[0] for part, rows in rollout.minibatches(40)]
    set_random_seed(1)
    for loss, data in zip(ours, model.rollout_buffer.get(40), strict=True):
        real = data.mask > 0
        actions = data.actions.long().flatten()
        values, log_prob, _ = host.evaluate_actions(data.observations, actions, data.lstm_states, data.episode_starts)
        advantages, ratio = data.advantages[real], torch.exp(log_prob - data.old_log_prob)[real]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
        expected = policy_loss + 0.5 * ((data.returns - values.flatten())[real] ** 2).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        mine = torch.autograd.grad(loss, list(model.policy.parameters()), allow_unused=True)
        other = torch.autograd.grad(expected, list(host.parameters()), allow_unused=True)
        for gradient, theirs in zip(mine, other, strict=True):
            assert (gradient is None) == (theirs is None)
            if gradient is not None:
                assert (gradient - theirs).norm() <= 2e-6 * theirs.norm() + 1e-8


@pytest.mark.parametrize("length", [1, 4, 7, None])
def test_sequences_are_no_longer_than_asked_and_begin_where_the_rollouts_policy_was(length):
    model = make(sequence_length=length)
    rollout = rollout_of(model)
    longest = 0
    for part, _ in rollout.minibatches(40):
        quantiles, log_prob, _ = model.policy.evaluate_quantiles(part.observations, part.actions)
        torch.testing.assert_close(log_prob, part.old_log_prob, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(quantiles, part.old_quantiles, rtol=1e-4, atol=1e-5)
        longest = max(longest, part.observations.starts.groups[0][0])
    assert longest == (length or longest) > (0 if length else 7)


@pytest.mark.parametrize(
    ("length", "begins", "chunks"),
    [
        # A second sequence begins at row 3; its chunks of 4 steps begin at 3 and 3 + 4.
        (4, [0, 3], [0, 3, 7]),
        # Sequences of 1, 5 and 4 steps, chunks of 2.
        (2, [0, 1, 6], [0, 1, 3, 5, 6, 8]),
        # The first row continues an earlier sequence: its chunks are counted from there.
        (3, [5], [0, 3, 5, 8]),
        (None, [0, 3], [0, 3]),
    ],
)
def test_chunks_are_counted_from_the_first_step_of_their_sequence(length, begins, chunks, monkeypatch):
    rollout = rollout_of(make(sequence_length=length))
    given = []

    def recorded(begins, episode_starts):
        given.extend(np.flatnonzero(begins))
        return lay_out(begins, episode_starts)

    monkeypatch.setattr(recurrent, "lay_out", recorded)
    rollout._sequences(np.arange(10), np.isin(np.arange(10), begins))
    assert given == chunks


def test_chunks_cut_gradients_and_long_chunks_are_none():
    whole, same, cut = (
        plain_state(make(sequence_length=length, **AS_PPO).learn(96))["lstm_actor.weight_hh_l0"]
        for length in (None, 40, 2)
    )
    assert torch.equal(whole, same)
    assert not torch.allclose(whole, cut, rtol=1e-4)


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "8"])
def test_sequence_length_is_checked(length, tmp_path):
    with pytest.raises(ValueError, match="sequence_length"):
        make(sequence_length=length)
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match="sequence_length"):
        RecurrentDistributionalPPO.load(tmp_path / "model", sequence_length=length)


class OwnSequences(RecurrentActorCriticPolicy):
    """A user's policy that runs its sequences itself, as sb3-contrib pads them."""

    rows: ClassVar[list[int]] = []

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        OwnSequences.rows.append(len(features))
        return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)


class OwnEvaluation(RecurrentActorCriticPolicy):
    starts: ClassVar[list[int]] = []

    def evaluate_actions(self, obs, actions, lstm_states, episode_starts):
        assert torch.is_tensor(episode_starts)
        assert len(obs) == len(episode_starts) == len(actions)
        OwnEvaluation.starts.append(int(episode_starts.sum()))
        values, log_prob, entropy = super().evaluate_actions(obs, actions, lstm_states, episode_starts)
        return values, log_prob, 2 * entropy


@pytest.mark.parametrize("policy", [OwnSequences, OwnEvaluation])
def test_a_users_own_policy_is_asked_for_what_it_knows(policy):
    OwnSequences.rows, OwnEvaluation.starts = [], []
    case = dict(policy=policy, ent_coef=0.1)
    theirs = plain_state(make(RecurrentPPO, **case).learn(2 * 96))
    asked, OwnSequences.rows = OwnSequences.rows, []
    starts, OwnEvaluation.starts = OwnEvaluation.starts, []
    ours = plain_state(make(**case, **AS_PPO).learn(2 * 96))
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= 1e-5 * expected.norm() + 1e-8, name
    if policy is OwnSequences:
        assert set(asked) <= set(OwnSequences.rows)
    assert OwnEvaluation.starts == starts


def test_episodes_that_start_within_a_sequence():
    """Which sb3-contrib's buffer never gives, and its ``evaluate_actions`` takes."""
    ours, host = make(**AS_PPO), make(RecurrentPPO).policy
    host.load_state_dict(plain_state(ours))
    states = ours.policy.initial_states(2)
    for state in (*states.pi, *states.vf):
        state.normal_()
    obs, actions, starts = torch.randn(10, 3), torch.randint(2, (10,)), torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1, 1, 0])
    mine = ours.policy.evaluate_actions(obs, actions, states, starts)
    torch.testing.assert_close(mine, host.evaluate_actions(obs, actions, states, starts), rtol=1e-5, atol=1e-6)


def test_policies_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="subclass of RecurrentActorCriticPolicy, got ActorCriticPolicy"):
        make(policy=RecurrentActorCriticPolicy.__mro__[1])
    with pytest.raises(TypeError, match="OwnEvaluation is recurrent: it needs RecurrentDistributionalPPO"):
        DistributionalPPO(OwnEvaluation, make_vec_env("CartPole-v1"))


def test_the_class_is_a_statement_that_inspect_finds_and_earlier_pickles_name_it_where_it_was():
    import distributional_ppo

    assert inspect.getsource(RecurrentDistributionalPPO).startswith("class RecurrentDistributionalPPO(")
    assert pickle.loads(b"cdistributional_ppo\nRecurrentDistributionalPPO\n.") is RecurrentDistributionalPPO
    assert distributional_ppo.RecurrentDistributionalPPO is RecurrentDistributionalPPO
