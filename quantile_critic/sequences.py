"""
Whole sequences of a minibatch through ``nn.LSTM``, with little padding.

A minibatch holds B steps of S sequences, one after another. The sequences are sorted by length and cut into groups;
each group is padded to its longest sequence and is one call of the LSTM. Everything else sees B rows and no padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

CELLS_PER_CALL = 128  # what another call of the LSTM costs, in padded cells; measured on a CPU with 64 and 256 units
CELLS_PER_STEP = 2  # what another step in time costs whatever the number of sequences, likewise


class Layout(NamedTuple):
    """Where the B rows of a minibatch lie in its padded groups. Sequences are counted from the longest."""

    groups: list[tuple[int, int]]  # steps and sequences of each group
    places: Tensor  # of each row among the cells of all groups, a group's step by step, shape (B,)
    places_of_one: Tensor  # of each row were there one group, counted sequence by sequence, shape (B,)
    episode_starts: Tensor  # of each row 1.0 where an episode starts, shape (B,)


class Sequences(NamedTuple):
    """The observations of B steps of S sequences, and what a recurrent policy needs beside them."""

    observations: Any  # (B, ...), a dict of such, sequence by sequence
    states: Any  # ``RNNStates`` before the first step of each sequence, each tensor (n_layers, S, H), the longest first
    starts: Tensor | Layout  # whether an episode starts, (B,); a layout: states of episodes that start are zero already


def lay_out(begins: np.ndarray, episode_starts: np.ndarray) -> tuple[Layout, np.ndarray]:
    """
    :param begins: whether a sequence begins at a row, shape (B,); it does at the first
    :param episode_starts: whether an episode starts at a row, shape (B,); there a sequence begins, too
    :return: the layout, and the first row of each sequence, shape (S,), that of the longest first
    """
    first_rows = np.flatnonzero(begins)
    lengths = np.diff(first_rows, append=len(begins))
    by_length = np.argsort(-lengths, kind="stable")
    groups = group_sizes(lengths[by_length])
    rank_of = np.empty_like(by_length)
    rank_of[by_length] = np.arange(len(by_length))

    sizes = np.array([size for _, size in groups])
    offsets = np.cumsum([0, *(steps * size for steps, size in groups)])[:-1]
    group_of = np.repeat(np.arange(len(groups)), sizes)[rank_of]  # of each sequence
    rank_in_group = rank_of - (np.cumsum(sizes) - sizes)[group_of]
    sequence = np.cumsum(begins) - 1  # of each row
    step = np.arange(len(begins)) - first_rows[sequence]
    places = (offsets[group_of] + rank_in_group)[sequence] + step * sizes[group_of][sequence]
    places_of_one = rank_of[sequence] * int(lengths.max()) + step
    tensors = map(torch.from_numpy, (places, places_of_one, episode_starts.astype(np.float32)))
    return Layout(groups, *tensors), first_rows[by_length]


def group_sizes(lengths: np.ndarray) -> list[tuple[int, int]]:
    """
    Cut sequences into groups where that saves more padding than another call costs.

    :param lengths: in descending order, shape (S,)
    :return: steps and sequences of each group
    """
    longest, size = int(lengths[0]), len(lengths)
    cuts = np.arange(1, size)
    # What stays is as long; what is cut off becomes as long as its own first.
    saved = (longest - lengths[1:]) * (size - cuts) - CELLS_PER_STEP * lengths[1:]
    if size == 1 or saved.max() <= CELLS_PER_CALL:
        return [(longest, size)]
    cut = 1 + int(saved.argmax())
    return group_sizes(lengths[:cut]) + group_sizes(lengths[cut:])


def run_sequences(lstm: nn.LSTM, features: Tensor, states: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
    """
    :param lstm: with H units
    :param features: shape (B, features)
    :param states: before the first step of each sequence, (n_layers, S, H) each
    :param layout: of these rows
    :return: the LSTM's output of each row, shape (B, H)
    """
    cells = features.new_zeros(sum(steps * size for steps, size in layout.groups), features.shape[1])
    cells = cells.index_copy(0, layout.places, features)
    outputs, cell, sequence = [], 0, 0
    for steps, size in layout.groups:
        own = tuple(state[:, sequence : sequence + size].contiguous() for state in states)
        output, _ = lstm(cells[cell : cell + steps * size].view(steps, size, -1), own)
        outputs.append(output.reshape(steps * size, -1))
        cell, sequence = cell + steps * size, sequence + size
    every = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return every.index_select(0, layout.places)


def run_step(lstm: nn.LSTM, features: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """
    One step of each sequence, in a quarter of the time that the LSTM takes for it.

    :param lstm: for which ``steps_alone`` is true
    :param features: shape (S, features)
    :param states: (n_layers, S, H) each
    :return: output, shape (S, H), and the states after the step
    """
    hidden, cell = [], []
    for layer, weights in enumerate(lstm.all_weights):
        features, after = torch.lstm_cell(features, [states[0][layer], states[1][layer]], *weights)
        hidden.append(features)
        cell.append(after)
    return features, (torch.stack(hidden), torch.stack(cell))


def steps_alone(lstm: nn.LSTM) -> bool:
    """Whether ``run_step`` does all that a call of this module would."""
    plain = type(lstm) is nn.LSTM and not (lstm.proj_size or lstm.bidirectional or lstm.batch_first)
    hooks = (lstm._forward_hooks, lstm._forward_pre_hooks, lstm._backward_hooks, lstm._backward_pre_hooks)
    return plain and not (lstm.training and lstm.dropout) and not any(hooks)
