"""The observations of agents at a close: the numbers of ``features`` from several markets, scaled, as float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from market_regimes.market.features import HIDDEN, WINDOW, features_of, observation_size
from market_regimes.market.market import Market
from market_regimes.market.scaling import Scaling, log_returns


class Observations:
    """
    The observations of several markets, whose bars stand one after the other.

    :param markets: markets that have the same user's columns
    :param scalings: the scaling of each market
    """

    def __init__(self, markets: Sequence[Market], scalings: Sequence[Scaling]):
        returns = [np.zeros(WINDOW - 1, dtype=np.float32)]
        features = []
        is_hidden = []
        for market, scaling in zip(markets, scalings, strict=True):
            returns.append(_scaled_returns(market, scaling))
            features.append(_scaled_features(market, scaling))
            is_hidden.append(np.full(len(market.close), market.last_return_only))

        # The zeros before the first return let window t end at bar t.
        padded = np.concatenate(returns)
        self._windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
        self._features = np.concatenate(features)
        self._size = observation_size(len(markets[0].features))

        # The markets whose past an agent must remember.
        self._is_hidden = np.concatenate(is_hidden)
        self._any_hidden = bool(self._is_hidden.any())

    def at(self, bars: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """
        :param bars: bars of n agents, counted over all markets, shape (n,)
        :param positions: shares of equity that are invested, shape (n,)
        :return: float32, shape (n, ``observation_size``); where the market is ``last_return_only``, 0 for all but that
            return and the user's columns
        """
        observations = np.empty((len(bars), self._size), dtype=np.float32)

        # Log returns, then features, then the position.
        observations[:, :WINDOW] = self._windows[bars]
        observations[:, WINDOW:-1] = self._features.take(bars, axis=0)
        observations[:, -1] = positions

        # Nothing but the last return tells of the past where it is hidden.
        if self._any_hidden:
            agents = np.flatnonzero(self._is_hidden[bars])
            observations[agents[:, None], HIDDEN] = 0
        return observations


def rows_of_account(
    observations: np.ndarray,
    available: np.ndarray,
) -> np.ndarray:
    """
    Observations of an agent that trades one of several symbols of an account: the layout of its numbers, everywhere.

    :param observations: observations of each symbol, its weight in the account last, shape (..., K, F)
    :param available: whether each symbol can be traded, shape (..., K)
    :return: of each symbol its observation, the mean over the symbols that can be traded (0 where there are none), and
        1 where it can be traded itself, else 0; float32, shape (..., K, 2 F + 1)
    """
    own = observations.astype(np.float32)
    mask = available[..., None].astype(np.float32)

    # The mean over the symbols that can be traded.
    counted = np.where(available[..., None], own, np.float32(0))
    count = np.maximum(mask.sum(axis=-2, keepdims=True), 1.0)
    mean = counted.sum(axis=-2, keepdims=True) / count

    rows: np.ndarray = np.concatenate([own, np.broadcast_to(mean, own.shape), mask], axis=-1)
    return rows


def _scaled_returns(market: Market, scaling: Scaling) -> np.ndarray:
    """Scaled log returns, float32, shape (T,)."""
    returns = log_returns(market.close)
    scaled = (returns - scaling.return_mean) / scaling.return_std
    return scaled.astype(np.float32)


def _scaled_features(market: Market, scaling: Scaling) -> np.ndarray:
    """The F scaled features, float32, shape (T, F)."""
    columns = []
    for feature in features_of(market.features):
        values = feature.values(market)
        training = feature.scaling(scaling)
        columns.append((values - training.mean) / training.std)

    # One column each.
    return np.stack(columns, axis=1).astype(np.float32)
