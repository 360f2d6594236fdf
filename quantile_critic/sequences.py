"""
Complete sequences of a minibatch through ``nn.LSTM``, with little padding.

A minibatch has B steps of S sequences, one sequence after another. Sequences are sorted by length and cut into groups.
Each group is padded to its longest sequence and is one call of the LSTM. Other code works on B rows without padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

CELLS_PER_CALL = 128  # cost of another LSTM call in padded cells, measured on a CPU with 64 and 256 units
CELLS_PER_STEP = 2  # cost of another step in time, whatever the number of sequences, measured likewise


class Layout(NamedTuple):
    """Positions of a minibatch's B rows in its padded groups. Sequences are counted from the longest."""

    groups: list[tuple[int, int]]  # steps and sequences of each group
    places: Tensor  # cell of each row among the cells of all groups, step by step within a group, shape (B,)
    single_group_places: Tensor  # cell of each row in a single group, sequence by sequence, shape (B,)
    episode_starts: Tensor  # 1.0 for rows where an episode starts, shape (B,)


class Sequences(NamedTuple):
    """Observations of B steps of S sequences, and a recurrent policy's further input."""

    observations: Any  # (B, ...), a dict of such, sequence by sequence
    states: Any  # ``RNNStates`` before the first step of each sequence, each tensor (n_layers, S, H), longest first
    starts: Tensor | Layout  # whether an episode starts, (B,); with a layout, states at these starts are already zero


def lay_out(
    begins: np.ndarray,
    episode_starts: np.ndarray,
) -> tuple[Layout, np.ndarray]:
    """
    :param begins: whether a sequence begins at a row, shape (B,). One begins at the first row
    :param episode_starts: whether an episode starts at a row, shape (B,). A sequence begins there too
    :return: layout, and the first row of each sequence, shape (S,), longest first
    """
    # Sort the sequences by length and group them.
    first_rows = np.flatnonzero(begins)
    lengths = np.diff(first_rows, append=len(begins))
    by_length = np.argsort(-lengths, kind="stable")
    groups = group_sizes(lengths[by_length])

    # Find the rank of each sequence in its group, and the first cell of each group.
    rank_of = np.empty_like(by_length)
    rank_of[by_length] = np.arange(len(by_length))
    sizes = np.array([size for _, size in groups])
    offsets = np.cumsum([0, *(steps * size for steps, size in groups)])[:-1]
    group_of = np.repeat(np.arange(len(groups)), sizes)[rank_of]  # by sequence
    rank_in_group = rank_of - (np.cumsum(sizes) - sizes)[group_of]

    # Find the cell of each row.
    sequence = np.cumsum(begins) - 1  # by row
    step = np.arange(len(begins)) - first_rows[sequence]
    first_place = offsets[group_of] + rank_in_group  # by sequence
    stride = sizes[group_of]  # cells from one step of a sequence to the next
    places = first_place[sequence] + step * stride[sequence]
    single_group_places = rank_of[sequence] * int(lengths.max()) + step

    layout = Layout(
        groups=groups,
        places=torch.from_numpy(places),
        single_group_places=torch.from_numpy(single_group_places),
        episode_starts=torch.from_numpy(episode_starts.astype(np.float32)),
    )
    return layout, first_rows[by_length]


def group_sizes(lengths: np.ndarray) -> list[tuple[int, int]]:
    """
    Cut sequences into groups if that saves more padding than another call costs.

    :param lengths: lengths in descending order, shape (S,)
    :return: steps and sequences of each group
    """
    longest = int(lengths[0])
    size = len(lengths)
    if size == 1:
        return [(longest, size)]

    # Count the cells that each cut saves: later sequences are padded only to the first of them.
    cuts = np.arange(1, size)
    saved = (longest - lengths[1:]) * (size - cuts) - CELLS_PER_STEP * lengths[1:]
    if saved.max() <= CELLS_PER_CALL:
        return [(longest, size)]

    cut = 1 + int(saved.argmax())
    return group_sizes(lengths[:cut]) + group_sizes(lengths[cut:])


def run_sequences(
    lstm: nn.LSTM,
    features: Tensor,
    states: tuple[Tensor, Tensor],
    layout: Layout,
) -> Tensor:
    """
    :param lstm: LSTM with H units
    :param features: shape (B, features)
    :param states: states before the first step of each sequence, (n_layers, S, H) each
    :param layout: layout of these rows
    :return: the LSTM's output for each row, shape (B, H)
    """
    # Put the rows into the cells of all groups.
    n_cells = sum(steps * size for steps, size in layout.groups)
    cells = features.new_zeros(n_cells, features.shape[1])
    cells = cells.index_copy(0, layout.places, features)

    # Run each group as one batch of padded sequences.
    outputs = []
    first_cell = 0
    first_sequence = 0
    for steps, size in layout.groups:
        group = cells[first_cell : first_cell + steps * size].view(steps, size, -1)
        rows = slice(first_sequence, first_sequence + size)
        states_of_group = tuple(state[:, rows].contiguous() for state in states)
        output, _ = lstm(group, states_of_group)  # (steps, size, H)
        outputs.append(output.reshape(steps * size, -1))
        first_cell += steps * size
        first_sequence += size

    # Take the rows out of the cells.
    return torch.cat(outputs).index_select(0, layout.places)


def run_step(
    lstm: nn.LSTM,
    features: Tensor,
    states: tuple[Tensor, Tensor],
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """
    Run one step of each sequence, in a quarter of the time of an LSTM call.

    :param lstm: LSTM that passes ``can_step_by_hand``
    :param features: shape (S, features)
    :param states: (n_layers, S, H) each
    :return: output, shape (S, H), and the states after the step
    """
    hidden = []
    cells = []
    for layer, weights in enumerate(lstm.all_weights):
        before = [states[0][layer], states[1][layer]]

        # A layer's hidden state is the next layer's input.
        features, cell = torch.lstm_cell(features, before, *weights)
        hidden.append(features)
        cells.append(cell)

    return features, (torch.stack(hidden), torch.stack(cells))


def can_step_by_hand(lstm: nn.LSTM) -> bool:
    """Return whether ``run_step`` equals calling the LSTM (no hooks, dropout, projections)."""
    if type(lstm) is not nn.LSTM:
        return False
    if lstm.proj_size or lstm.bidirectional or lstm.batch_first:
        return False
    if lstm.training and lstm.dropout:
        return False

    # Hooks act only on calls.
    hooks = (
        lstm._forward_hooks,
        lstm._forward_pre_hooks,
        lstm._backward_hooks,
        lstm._backward_pre_hooks,
    )
    return not any(hooks)
