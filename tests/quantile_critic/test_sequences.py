"""Sequences of a minibatch: their layout by hand, the LSTM against a plain loop in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quantile_critic.sequences import (
    CELLS_PER_CALL,
    can_step_by_hand,
    group_sizes,
    lay_out,
    run_sequences,
    run_step,
)


def loop(lstm, features, states):
    """The LSTM of Hochreiter & Schmidhuber in torch's convention (gates i, f, g, o), step by step."""
    outputs = []
    states = [[state[layer].copy() for layer in range(lstm.num_layers)] for state in states]

    for x in features:
        for layer in range(lstm.num_layers):
            w_x, w_h, b_x, b_h = (w.detach().double().numpy() for w in lstm.all_weights[layer])
            i, f, g, o = np.split(w_x @ x + b_x + w_h @ states[0][layer] + b_h, 4)
            states[1][layer] = states[1][layer] / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            x = states[0][layer] = np.tanh(states[1][layer]) / (1 + np.exp(-o))

        outputs.append(x)

    return np.array(outputs), states


def test_layout_by_hand():
    # Sequences of 3, 1 and 2 steps; the longest first: rows 0-2, rows 4-5, row 3. One group of 3 steps and 3 sequences,
    # step by step: cells 0 1 2 | 3 4 5 | 6 7 8.
    begins = np.array([1, 0, 0, 1, 1, 0], dtype=bool)
    starts = np.array([0, 0, 0, 1, 0, 0], dtype=bool)
    layout, first_rows = lay_out(begins, starts)

    assert layout.groups == [(3, 3)]
    assert first_rows.tolist() == [0, 4, 3]
    assert layout.places.tolist() == [0, 3, 6, 2, 1, 4]
    assert layout.single_group_places.tolist() == [0, 1, 2, 6, 3, 4]
    assert layout.episode_starts.tolist() == [0, 0, 0, 1, 0, 0]


def test_groups_by_hand():
    assert group_sizes(np.array([7])) == [(7, 1)]
    assert group_sizes(np.array([200] + [5] * 100)) == [
        (200, 1),
        (5, 100),
    ]  # saves (200 - 5) * 100 - 2 * 5 cells
    assert group_sizes(np.array([90] * 3 + [40] * 20 + [3] * 40)) == [
        (90, 3),
        (40, 20),
        (3, 40),
    ]
    # A cut after the first saves (L - 10) * 1 - 2 * 10 cells: 128 where L is 158, which another call costs.
    assert CELLS_PER_CALL == 128
    assert group_sizes(np.array([158, 10])) == [(158, 2)]
    assert group_sizes(np.array([159, 10])) == [(159, 1), (10, 1)]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_groups_hold_all_sequences_with_no_more_padding_than_one_group(lengths):
    lengths = np.sort(lengths)[::-1]
    groups = group_sizes(lengths)
    ends = np.cumsum([size for _, size in groups])

    assert ends[-1] == len(lengths)
    assert [steps for steps, _ in groups] == [lengths[end - size] for end, (_, size) in zip(ends, groups, strict=True)]

    cells = sum(steps * size for steps, size in groups)
    assert cells + CELLS_PER_CALL * (len(groups) - 1) <= lengths[0] * len(lengths)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [[5], [3, 1, 2], [170, 4, 3, 4, 4, 1, 2], [1] * 9])
def test_outputs_and_gradients_are_those_of_a_plain_loop(lengths, layers):
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, num_layers=layers)
    begins = np.concatenate([np.arange(length) == 0 for length in lengths])
    features = torch.randn(len(begins), 3, requires_grad=True)
    layout, first_rows = lay_out(begins, np.zeros(len(begins), dtype=bool))
    ours = [torch.randn(layers, len(lengths), 4) for _ in range(2)]  # in the order of the rows
    order = [np.flatnonzero(begins).tolist().index(row) for row in first_rows]
    output = run_sequences(lstm, features, tuple(state[:, order] for state in ours), layout)

    parts = np.split(features.detach().double().numpy(), np.cumsum(lengths)[:-1])
    states = [[state[:, i].double().numpy() for state in ours] for i in range(len(lengths))]
    expected = np.concatenate([loop(lstm, part, state)[0] for part, state in zip(parts, states, strict=True)])

    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=0, atol=3e-6)

    weights = torch.randn_like(output)
    gradient = torch.autograd.grad((output * weights).sum(), [features, *lstm.parameters()])
    sequences = zip(
        features.split(lengths),
        weights.split(lengths),
        *(s.split(1, dim=1) for s in ours),
        strict=True,
    )
    loss = sum((lstm(x[:, None], (h.contiguous(), c.contiguous()))[0][:, 0] * w).sum() for x, w, h, c in sequences)
    for actual, alone in zip(
        gradient,
        torch.autograd.grad(loss, [features, *lstm.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(actual, alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_is_one_of_the_lstm(layers, bias):
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, num_layers=layers, bias=bias)
    features = torch.randn(5, 3)
    states = (torch.randn(layers, 5, 4), torch.randn(layers, 5, 4))
    output, after = run_step(lstm, features, states)
    theirs, theirs_after = lstm(features[None], states)

    torch.testing.assert_close(output, theirs[0])
    torch.testing.assert_close(after, theirs_after)


def test_an_lstm_with_hooks_dropout_or_projections_is_not_stepped_by_hand():
    assert can_step_by_hand(nn.LSTM(3, 4, num_layers=2))

    dropout = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    assert not can_step_by_hand(dropout)
    assert can_step_by_hand(dropout.eval())
    assert not can_step_by_hand(nn.LSTM(3, 4, proj_size=2))
    assert not can_step_by_hand(nn.LSTM(3, 4, bidirectional=True))
    assert not can_step_by_hand(type("Own", (nn.LSTM,), {})(3, 4))

    hooked = nn.LSTM(3, 4)
    hooked.register_forward_hook(lambda *args: None)
    assert not can_step_by_hand(hooked)
