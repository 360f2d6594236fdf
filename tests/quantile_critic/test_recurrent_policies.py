"""RecurrentDistributionalPPO: the flags, the LSTMs' states in predictions and targets, saving and loading."""

import copy
import pickle

import cloudpickle
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv
from test_recurrent_distributional_ppo import AS_PPO, CASES, DICT, SHARED, SHORT, SMALL, Episodes, OwnEvaluation, make, plain_state

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO, VarianceGradientScalingMixin
from quantile_critic.losses import quantile_huber_loss
from quantile_critic.recurrent_policies import QuantileRecurrentActorCriticPolicy
from upgd import UPGD

FLAGS = {
    "sr_lambda": dict(value_target="sr_lambda"),
    "PopArt": dict(normalize_returns=True, use_popart=True, clip_range_vf=0.2, clip_range_vf_units="std"),
    "mean_only": dict(clip_range_vf=0.2, distributional_vf_clip_mode="mean_only"),
    "mean_and_variance": dict(clip_range_vf=0.2, distributional_vf_clip_mode="mean_and_variance"),
    "per_quantile": dict(clip_range_vf=0.2, distributional_vf_clip_mode="per_quantile"),
    "disable": dict(clip_range_vf=0.2, distributional_vf_clip_mode="disable"),
    "dsac_t": dict(variance_scaling_mode="dsac_t", normalize_returns=True),
    "twins": dict(use_twin_critics=True, value_target="sr_lambda", clip_range_vf=0.2),
    "twins, shared LSTM": dict(use_twin_critics=True, policy_kwargs=SHARED),
    "twins, unshared extractor": dict(use_twin_critics=True, policy_kwargs=dict(share_features_extractor=False)),
    "UPGD": dict(policy_kwargs=dict(optimizer_class=UPGD)),
    "scaling off": dict(use_variance_gradient_scaling=False),
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_flags_train_are_saved_and_go_on(flags, tmp_path):
    model = make(**flags)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    before = {name: value.clone() for name, value in plain_state(model).items()}
    model.learn(2 * 96)
    scalars = model.logger.name_to_value
    assert all(np.isfinite(value) for name, value in scalars.items() if name.startswith("train/"))
    assert 0 <= scalars["train/quantile_calibration_error"] <= 1
    clips = flags.get("distributional_vf_clip_mode") != "disable" and "clip_range_vf" in flags
    assert ("train/clip_fraction_vf" in scalars) == clips
    assert ("train/value_loss_2" in scalars) == ("use_twin_critics" in flags)
    assert ("train/variance_scaling_weight" in scalars) == flags.get("use_variance_gradient_scaling", True)
    changed = [name for name, value in plain_state(model).items() if not torch.equal(value, before[name])]
    assert {name.split(".")[0] for name in changed} >= {"lstm_actor", "value_net", "mlp_extractor", "action_net"}

    model.save(tmp_path / "model")
    again = RecurrentDistributionalPPO.load(tmp_path / "model", env=model.get_env(), vf_coef=0.25)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], value), name
    assert again.vf_coef == 0.25
    again.learn(96, reset_num_timesteps=False)
    assert again.num_timesteps == 3 * 96


def test_critic_of_twins_are_two_behind_one_lstm():
    model = make(use_twin_critics=True, policy_kwargs=dict(share_features_extractor=False)).learn(96)
    obs = obs_as_tensor(model._last_obs, model.device)
    states, starts = model._last_lstm_states, torch.zeros(3)
    with torch.no_grad():
        both = model.policy.quantiles_of_loss(obs, states.vf, starts)
        value = model.policy.predict_values(obs, states.vf, starts)
    first, second = both.chunk(2, dim=1)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(value[:, 0], torch.min(first.mean(dim=1), second.mean(dim=1)))


@pytest.mark.parametrize("kwargs", [{}, SHARED, dict(enable_critic_lstm=False), dict(n_lstm_layers=2)])
def test_values_of_the_rollout_come_again_in_one_pass(kwargs):
    """What clipping and calibration read: from the states that the rollout's policy had at each step."""
    model = make(policy_kwargs=kwargs, batch_size=7, normalize_returns=True)
    model.learn(96)
    model.train = lambda: None
    model.learn(96, reset_num_timesteps=False)
    with torch.no_grad():
        rollout = model._rollout(clips=True, sampled=None)
    means = rollout.old_quantiles.mean(dim=1).reshape(32, 3)
    np.testing.assert_allclose(means, model.rollout_buffer.values, rtol=1e-5, atol=1e-6)


def test_predictions_with_states_and_starts():
    model = make().learn(96)
    policy, states = model.policy, model._last_lstm_states
    obs = model._last_obs
    tensors = obs_as_tensor(obs, model.device)
    with torch.no_grad():
        for starts in ([0, 0, 0], [1, 0, 1]):
            flags = torch.tensor(starts, dtype=torch.float32)
            quantiles = policy.predict_quantiles(obs, states, np.array(starts, dtype=bool))
            assert quantiles.shape == (3, 4)
            value = policy.predict_values(tensors, states.vf, flags)
            torch.testing.assert_close(quantiles.mean(dim=1, keepdim=True), value)
            as_numpy = tuple(state.numpy() for state in states.vf)
            assert torch.equal(policy.predict_quantiles(tensors, as_numpy, starts), quantiles)
            torch.testing.assert_close(
                policy.predict_cvar(obs, 1.0, lstm_states=states, episode_starts=starts), quantiles.mean(dim=1)
            )
        fresh = policy.predict_quantiles(obs)
        assert torch.equal(policy.predict_quantiles(obs, states, np.ones(3)), fresh)
        assert not torch.allclose(policy.predict_quantiles(obs, states), fresh)
        assert policy.predict_quantiles(obs[0]).shape == (1, 4)


def test_predict_carries_states_as_recurrent_ppo_does():
    ours, theirs = make(**CASES["box"], **AS_PPO), make(RecurrentPPO, **CASES["box"])
    theirs.policy.load_state_dict(plain_state(ours))
    rng, states = np.random.default_rng(0), [None, None]
    for start in ([True] * 3, [False] * 3, [False, True, False], [False] * 3):
        obs = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        results = [
            model.predict(obs, state=state, episode_start=np.array(start), deterministic=True)
            for model, state in zip((ours, theirs), states, strict=True)
        ]
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
        states = [state for _, state in results]
        np.testing.assert_allclose(states[0], states[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [None, DICT])
def test_sampled_targets_of_a_step_that_is_truncated(space):
    """Every reward is 1, so that at gae_lambda 0 the target is 1 + gamma * the quantiles that follow, if any do."""
    model = make(
        value_target="sr_lambda",
        gae_lambda=0.0,
        observation_space=space,
        policy="MlpLstmPolicy" if space is None else "MultiInputLstmPolicy",
    )
    model.train = lambda: None
    torch.nn.init.orthogonal_(model.policy.value_net.last_layers[0].weight)  # all quantiles begin as one
    asked = {}
    host, infos = model.policy.predict_values, model._update_info_buffer

    def predict_values(obs, lstm_states, episode_starts):  # sb3-contrib asks for those of each truncated step
        with torch.no_grad():
            asked.setdefault("last", []).append(model.policy.predict_quantiles(obs, lstm_states, episode_starts))
        return host(obs, lstm_states, episode_starts)

    def update_info_buffer(entries, dones):
        done = [i for i, info in enumerate(entries) if info.get("TimeLimit.truncated")]
        asked.setdefault("places", []).extend((model.rollout_buffer.pos, i) for i in done)
        infos(entries, dones)

    model.policy.predict_values, model._update_info_buffer = predict_values, update_info_buffer
    model.learn(96)
    del model.policy.predict_values
    with torch.no_grad():
        rollout = model._rollout(False, model._sampled_targets)
    atoms = rollout.atoms.reshape(32, 3, 4)
    assert len(asked["places"]) == len(asked["last"]) - 1 > 1  # the last one is asked after the rollout
    for (step, env), quantiles in zip(asked["places"], asked["last"], strict=False):
        torch.testing.assert_close(atoms[step, env], 1 + 0.99 * quantiles[0], rtol=1e-5, atol=1e-5)
    dones = np.concatenate([model.rollout_buffer.episode_starts[1:], model._last_episode_starts[None]]).astype(bool)
    truncated = np.zeros_like(dones)
    truncated[tuple(np.array(asked["places"]).T)] = True
    assert (atoms[dones & ~truncated] == 1).all()
    torch.testing.assert_close(atoms[-1][~dones[-1]], (1 + 0.99 * asked["last"][-1])[~dones[-1]])


def test_parameters_of_a_recurrent_ppo():
    ours, theirs = make(), make(RecurrentPPO, seed=5)
    with pytest.raises(ValueError, match="plain PPO"):
        ours.set_parameters(theirs.get_parameters())
    ours.set_parameters(theirs.get_parameters(), exact_match=False)
    assert torch.equal(ours.policy.lstm_actor.weight_hh_l0, theirs.policy.lstm_actor.weight_hh_l0)
    ours.set_parameters(make(seed=6).get_parameters())


def test_a_recurrent_ppos_archive_is_refused(tmp_path):
    make(RecurrentPPO).save(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain PPO"):
        RecurrentDistributionalPPO.load(tmp_path / "plain")
    make().save(tmp_path / "model")
    with pytest.raises(TypeError, match="is recurrent: it needs RecurrentDistributionalPPO"):
        DistributionalPPO.load(tmp_path / "model")
    with pytest.raises(TypeError, match="did you mean 'sequence_length'"):
        RecurrentDistributionalPPO.load(tmp_path / "model", sequence_lenght=4)
    again = RecurrentDistributionalPPO.load(tmp_path / "model", sequence_length=4, use_variance_gradient_scaling=False)
    assert (again.sequence_length, again.use_variance_gradient_scaling) == (4, False)


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", OwnEvaluation])
@pytest.mark.parametrize("by", [pickle, cloudpickle, copy])
def test_policies_are_pickled_copied_and_saved_alone(policy, by, tmp_path):
    model = make(policy=policy, policy_kwargs=dict(n_lstm_layers=2))
    obs = model.observation_space.sample()
    expected = model.policy.predict_quantiles(obs)
    other = by.deepcopy(model.policy) if by is copy else by.loads(by.dumps(model.policy))
    assert torch.equal(other.predict_quantiles(obs), expected)
    model.policy.save(tmp_path / "policy.pt")
    again = type(model.policy).load(tmp_path / "policy.pt")
    assert torch.equal(again.predict_quantiles(obs), expected)
    model.save(tmp_path / "model")
    loaded = RecurrentDistributionalPPO.load(tmp_path / "model", env=model.get_env()).learn(96)
    assert type(loaded.policy).__name__ == type(model.policy).__name__


def test_class_and_policy_names_lead_back():
    assert pickle.loads(pickle.dumps(RecurrentDistributionalPPO)) is RecurrentDistributionalPPO
    assert type(make().policy) is QuantileRecurrentActorCriticPolicy
    assert isinstance(make(), DistributionalPPO)


def test_states_stay_reachable_and_the_last_ones_decide_what_follows():
    """What a run that goes on exactly must keep: with them, and the random generators, a copy does the same."""
    model = make()
    model.learn(96)
    kept = model._last_lstm_states, model._last_episode_starts
    assert isinstance(kept[0], RNNStates)
    assert kept[0].vf[0].shape == (1, 3, 8)
    assert kept[1].shape == (3,)
    assert not torch.equal(kept[0].vf[0], torch.zeros(1, 3, 8))


def test_a_buffer_of_ones_own_is_refused():
    model = make()
    kind = type(model.rollout_buffer)
    model.rollout_buffer.__class__ = type(
        "Own", (kind,), {"get": lambda self, batch_size=None: kind.get(self, batch_size)}
    )
    with pytest.raises(TypeError, match=r"Own has a get\(\) of its own"):
        model.learn(96)


class RecurrentHost(RecurrentPPO):
    """A recurrent trainer with a quantile loss of its own, one sequence of whole episodes per minibatch."""

    def _quantile_huber_loss(self, predicted_quantiles, targets, reduction="none"):
        return quantile_huber_loss(predicted_quantiles, targets, 1.0)

    def train(self):
        super().train()
        data = next(self.rollout_buffer.get(None))
        real = data.mask > 0
        values, _, _ = self.policy.evaluate_actions(
            data.observations, data.actions.long().flatten(), data.lstm_states, data.episode_starts
        )
        self.loss = self._quantile_huber_loss(values[real] + torch.arange(4.0), data.returns[real]).mean()


def test_the_mixin_on_a_recurrent_host():
    patched = type("Patched", (VarianceGradientScalingMixin, RecurrentHost), {})
    losses = {}
    for cls, flags in ((RecurrentHost, {}), (patched, dict(variance_scaling_clip_max=0.5))):
        env = DummyVecEnv([Episodes] * 3)
        losses[cls] = cls("MlpLstmPolicy", env, policy_kwargs=SMALL, **SHORT, **flags).learn(96).loss.item()
    # The variance of 0, 1, 2, 3 is 1.25, above the clamp.
    assert losses[patched] == pytest.approx(0.5 * losses[RecurrentHost], rel=1e-6)
    with pytest.raises(TypeError, match="scales its value loss already"):
        type("Twice", (VarianceGradientScalingMixin, RecurrentDistributionalPPO), {})("MlpLstmPolicy", "CartPole-v1")


@pytest.mark.parametrize("space", [None, DICT])
def test_a_rollout_reads_the_same_after_the_buffer_has_given_minibatches(space):
    model = make(observation_space=space, policy="MlpLstmPolicy" if space is None else "MultiInputLstmPolicy")
    model.train = lambda: None
    model.learn(96)
    with torch.no_grad():
        first = model._rollout(True, None)
        next(model.rollout_buffer.get(10))
        second = model._rollout(True, None)
    assert torch.equal(first.old_quantiles, second.old_quantiles)
    rows = np.array([0, 50, 95])
    for one, other in zip(first.states.at(rows, model.device), second.states.at(rows, model.device), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("kwargs", [{}, SHARED, dict(enable_critic_lstm=False), dict(share_features_extractor=False)])
def test_adams_eps_is_the_critics_for_what_only_the_critic_uses(kwargs):
    policy = make(policy_kwargs=kwargs).policy
    eps = {id(p): group["eps"] for group in policy.optimizer.param_groups for p in group["params"]}
    critics = ("value_net", "mlp_extractor.value_net", "vf_features_extractor", "lstm_critic", "critic")
    for name, parameter in policy.named_parameters():
        assert eps[id(parameter)] == (1e-8 if name.startswith(tuple(f"{c}." for c in critics)) else 1e-5), name


def test_numbers_that_are_not_finite_are_named_and_undone():
    model = make(**CASES["box"])
    with torch.no_grad():
        model.policy.lstm_actor.weight_hh_l0.fill_(float("nan"))
    with pytest.raises(ValueError, match="log probabilities are NaN"):
        model.learn(96)
    model = make(learning_rate=1e30)
    before = {name: value.clone() for name, value in plain_state(model).items()}
    with pytest.raises(FloatingPointError, match="put back"):
        model.learn(96)
    assert all(torch.equal(value, before[name]) for name, value in plain_state(model).items())
