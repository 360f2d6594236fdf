"""Minibatches of sequences. Oracles: sb3-contrib's buffer, its policy, sequences counted by hand."""

import numpy as np
import pytest
import torch
from builders import (
    AS_PPO,
    DICT_SPACE,
    RECURRENT_CASES,
    SHARED_LSTM,
    make_recurrent,
    plain_state,
)
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.utils import set_random_seed

from quantile_critic import recurrent
from quantile_critic.sequences import lay_out


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
    model = make_recurrent(**RECURRENT_CASES[case])
    rollout = rollout_of(model)
    set_random_seed(1)
    ours = [part.at(rows) for part, rows in rollout.minibatches(batch_size)]
    set_random_seed(1)
    theirs = list(model.rollout_buffer.get(batch_size))

    assert len(ours) == len(theirs) == (1 if batch_size in (96, None) else 3)

    for mine, padded in zip(ours, theirs, strict=True):
        real = padded.mask > 0
        torch.testing.assert_close(
            mine.actions,
            padded.actions[real].long().flatten(),
            rtol=0,
            atol=0,
        )
        for name, expected in (
            ("advantages", "advantages"),
            ("old_log_prob", "old_log_prob"),
            ("targets", "returns"),
        ):
            torch.testing.assert_close(
                getattr(mine, name),
                getattr(padded, expected)[real],
                rtol=0,
                atol=0,
            )
        means = mine.old_quantiles.mean(dim=1)
        torch.testing.assert_close(means, padded.old_values[real], rtol=1e-5, atol=1e-6)
        observations = mine.observations.observations
        layout = mine.observations.starts
        torch.testing.assert_close(
            layout.episode_starts,
            padded.episode_starts[real],
            rtol=0,
            atol=0,
        )

        for key in padded.observations if case == "dict" else [None]:
            actual, second = (o if key is None else o[key] for o in (observations, padded.observations))
            torch.testing.assert_close(actual.to(second.dtype), second[real], rtol=0, atol=0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        SHARED_LSTM,
        dict(enable_critic_lstm=False),
        dict(n_lstm_layers=2),
    ],
)
def test_gradients_of_a_minibatch_are_sb3_contribs(kwargs):
    """The loss as RecurrentPPO's documentation has it: PPO's terms as means over what is no padding."""
    model = make_recurrent(policy_kwargs=kwargs, **AS_PPO)
    host = make_recurrent(RecurrentPPO, policy_kwargs=kwargs).policy
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
        values, log_prob, _ = host.evaluate_actions(
            data.observations,
            actions,
            data.lstm_states,
            data.episode_starts,
        )
        advantages = data.advantages[real]
        ratio = torch.exp(log_prob - data.old_log_prob)[real]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
        expected = policy_loss + 0.5 * ((data.returns - values.flatten())[real] ** 2).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        actual = torch.autograd.grad(loss, list(model.policy.parameters()), allow_unused=True)
        second = torch.autograd.grad(expected, list(host.parameters()), allow_unused=True)

        for gradient, theirs in zip(actual, second, strict=True):
            assert (gradient is None) == (theirs is None)
            if gradient is not None:
                assert (gradient - theirs).norm() <= 2e-6 * theirs.norm() + 1e-8


@pytest.mark.parametrize("length", [1, 4, 7, None])
def test_sequences_are_no_longer_than_asked_and_begin_where_the_rollouts_policy_was(length):
    model = make_recurrent(sequence_length=length)
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
    rollout = rollout_of(make_recurrent(sequence_length=length))
    given = []

    def recorded(begins, episode_starts):
        given.extend(np.flatnonzero(begins))
        return lay_out(begins, episode_starts)

    monkeypatch.setattr(recurrent, "lay_out", recorded)
    rollout._sequences(np.arange(10), np.isin(np.arange(10), begins))

    assert given == chunks


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        SHARED_LSTM,
        dict(enable_critic_lstm=False),
        dict(n_lstm_layers=2),
    ],
)
def test_values_of_the_rollout_come_again_in_one_pass(kwargs):
    """What clipping and calibration read: from the states that the rollout's policy had at each step."""
    model = make_recurrent(policy_kwargs=kwargs, batch_size=7, normalize_returns=True)
    model.learn(96)
    model.train = lambda: None
    model.learn(96, reset_num_timesteps=False)
    with torch.no_grad():
        rollout = model._rollout(clips=True, sampled=None)
    means = rollout.old_quantiles.mean(dim=1).reshape(32, 3)

    np.testing.assert_allclose(means, model.rollout_buffer.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [None, DICT_SPACE])
def test_a_rollout_reads_the_same_after_the_buffer_has_given_minibatches(space):
    model = make_recurrent(
        observation_space=space,
        policy="MlpLstmPolicy" if space is None else "MultiInputLstmPolicy",
    )
    model.train = lambda: None
    model.learn(96)

    with torch.no_grad():
        first = model._rollout(True, None)
        next(model.rollout_buffer.get(10))
        second = model._rollout(True, None)

    assert torch.equal(first.old_quantiles, second.old_quantiles)

    rows = np.array([0, 50, 95])

    for ours, theirs in zip(
        first.states.at(rows, model.device),
        second.states.at(rows, model.device),
        strict=True,
    ):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_custom_buffer_is_refused():
    model = make_recurrent()
    kind = type(model.rollout_buffer)
    model.rollout_buffer.__class__ = type(
        "Own",
        (kind,),
        {"get": lambda self, batch_size=None: kind.get(self, batch_size)},
    )

    with pytest.raises(TypeError, match=r"Own has a get\(\) of its own"):
        model.learn(96)


@pytest.mark.parametrize("space", [None, DICT_SPACE])
def test_sampled_targets_of_a_step_that_is_truncated(space):
    """Every reward is 1, so that at gae_lambda 0 the target is 1 + gamma * the quantiles that follow, if any do."""
    model = make_recurrent(
        value_target="sr_lambda",
        gae_lambda=0.0,
        observation_space=space,
        policy="MlpLstmPolicy" if space is None else "MultiInputLstmPolicy",
    )

    model.train = lambda: None
    torch.nn.init.orthogonal_(model.policy.value_net.last_layers[0].weight)  # all quantiles begin as one
    asked = {}
    host = model.policy.predict_values
    infos = model._update_info_buffer

    def predict_values(obs, lstm_states, episode_starts):  # sb3-contrib asks for those of each truncated step
        with torch.no_grad():
            asked.setdefault("last", []).append(model.policy.predict_quantiles(obs, lstm_states, episode_starts))
        return host(obs, lstm_states, episode_starts)

    def update_info_buffer(entries, dones):
        done = [i for i, info in enumerate(entries) if info.get("TimeLimit.truncated")]
        asked.setdefault("places", []).extend((model.rollout_buffer.pos, i) for i in done)
        infos(entries, dones)

    model.policy.predict_values = predict_values
    model._update_info_buffer = update_info_buffer
    model.learn(96)
    del model.policy.predict_values
    with torch.no_grad():
        rollout = model._rollout(False, model._sampled_targets)
    atoms = rollout.atoms.reshape(32, 3, 4)

    assert len(asked["places"]) == len(asked["last"]) - 1 > 1  # the last one is asked after the rollout

    for (step, env), quantiles in zip(asked["places"], asked["last"], strict=False):
        torch.testing.assert_close(atoms[step, env], 1 + 0.99 * quantiles[0], rtol=1e-5, atol=1e-5)
    dones = np.concatenate(
        [
            model.rollout_buffer.episode_starts[1:],
            model._last_episode_starts[None],
        ]
    ).astype(bool)
    truncated = np.zeros_like(dones)
    truncated[tuple(np.array(asked["places"]).T)] = True

    assert (atoms[dones & ~truncated] == 1).all()
    torch.testing.assert_close(atoms[-1][~dones[-1]], (1 + 0.99 * asked["last"][-1])[~dones[-1]])
