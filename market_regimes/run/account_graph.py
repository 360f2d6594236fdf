"""
The account of an exported agent, in torch: the policy is asked for each symbol, and limits turn targets into weights.

``ExportedLimits`` gives the weights of ``market_regimes.market.allocation``, in float64 and for any number of symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.market.allocation import TOLERANCE, Bounds


class ExportedAccount(nn.Module):
    """
    One step of a policy for the symbols of accounts, and the weights that the limits leave of its targets.

    :param step: of the policy, as ``ExportedStep`` takes and gives it; its ``states`` name those that it carries
    :param limits: of the account
    :param rows: whether the policy was trained on rows of the account, which ``rows_of`` makes
    """

    def __init__(self, step: nn.Module, limits: ExportedLimits, rows: bool = False):
        super().__init__()
        self.step = step
        self.limits = limits
        self.rows = rows

    def forward(
        self,
        observation: Tensor,
        tradable: Tensor,
        held: Tensor,
        due: Tensor | None = None,
        group: Tensor | None = None,
        covariance: Tensor | None = None,
        episode_start: Tensor | None = None,
        states: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        """
        :param observation: of each symbol, as the environment makes it, float32, shape (B, K, F)
        :param tradable: whether an order for a symbol can be filled, bool, shape (B, K)
        :param held: weights at the fill, as shares of equity, float64, shape (B, K)
        :param due: as ``ExportedLimits`` takes it, and so ``group`` and ``covariance``
        :param group: as ``ExportedLimits`` takes it
        :param covariance: as ``ExportedLimits`` takes it
        :param episode_start: of recurrent policies: whether an episode of the account starts, bool, shape (B,)
        :param states: of recurrent policies, before the step, shape (n_layers, B, K, H) each
        :return: targets, float64, shape (B, K); quantiles, (B, K, N); weights within the limits, float64, (B, K);
            states after the step
        """
        batch, symbols = tradable.shape
        if self.rows:
            observation = rows_of(observation, tradable)
        arguments: list[Tensor | list[Tensor]] = [observation.flatten(0, 1)]  # (B * K, numbers)

        # A symbol of an account is an agent of the policy.
        if episode_start is not None:
            starts = episode_start[:, None].expand(batch, symbols)
            of_agents = [state.flatten(1, 2) for state in states]
            arguments += [starts.flatten(), of_agents]
        position, quantiles, *after = self.step(*arguments)

        target = position.unflatten(0, (batch, symbols))
        weight = self.limits(target, tradable, held, due, group, covariance)
        of_symbols = [state.unflatten(1, (batch, symbols)) for state in after]
        return target, quantiles.unflatten(0, (batch, symbols)), weight, *of_symbols


def rows_of(observation: Tensor, tradable: Tensor) -> Tensor:
    """
    :param observation: of each symbol, shape (B, K, F)
    :param tradable: which symbols can be traded, bool, shape (B, K)
    :return: a row per symbol: its numbers, their mean over the symbols that can be traded (0 where there are none), and
        whether it can be traded, 0 or 1, shape (B, K, 2 F + 1)
    """
    mask = tradable[..., None]
    counted = torch.where(mask, observation, 0.0)
    number = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = counted.sum(dim=1, keepdim=True) / number  # (B, 1, F)

    of_account = mean.expand_as(observation)
    return torch.cat([observation, of_account, mask.to(observation.dtype)], dim=2)


class ExportedLimits(nn.Module):
    """
    From targets to weights, as ``Allocation.desired``, ``outside_band`` and ``project`` give them.

    :param portfolio: limits and allocator
    :param trading: what may be held, where the limits say nothing
    """

    low: Tensor
    high: Tensor
    gross: Tensor
    net: Tensor
    band: Tensor
    volatility: Tensor
    caps: Tensor

    def __init__(self, portfolio: PortfolioConfig, trading: TradingCosts):
        super().__init__()
        self.portfolio = portfolio
        self.bounds = Bounds.of(portfolio, trading)

        # Of a plain number the exporter makes a float32.
        limits: dict[str, Any] = asdict(self.bounds)
        limits["band"] = portfolio.no_trade_band
        limits["volatility"] = (portfolio.volatility_limit or np.inf) / 100
        limits["caps"] = list(portfolio.group_max.values())
        for name, value in limits.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs that the limits need beside the targets, in the order of ``forward``."""
        portfolio = self.portfolio
        names = ["tradable", "held"]
        if portfolio.rebalance_every > 1 or portfolio.minimum_holding > 1:
            names.append("due")
        if portfolio.group_max:
            names.append("group")
        if portfolio.volatility_limit is not None or portfolio.allocator == "equal_risk":
            names.append("covariance")
        return names

    def forward(
        self,
        target: Tensor,
        tradable: Tensor,
        held: Tensor,
        due: Tensor | None = None,
        group: Tensor | None = None,
        covariance: Tensor | None = None,
    ) -> Tensor:
        """
        :param target: of each symbol, float64, shape (B, K); those that cannot be traded count as no order
        :param tradable: whether an order is filled, bool, shape (B, K)
        :param held: weights at the fill, as shares of equity, float64, shape (B, K)
        :param due: with ``rebalance_every`` or ``minimum_holding``: whether an order may be given, bool, shape (B, K)
        :param group: with groups: place of a symbol's group in ``group_max``, -1: it has none, int64, shape (B, K)
        :param covariance: with a limit or an allocator by risk: annualised, of returns as shares, float64, (B, K, K)
        :return: weights, float64, shape (B, K)
        """
        # The weights that are wanted.
        portfolio = self.portfolio
        wanted = torch.where(tradable, target, 0.0)
        if portfolio.top_k is not None:
            wanted = self._largest(wanted, tradable, held)
        if portfolio.allocator == "equal_risk":
            assert covariance is not None
            wanted = self._by_risk(wanted, covariance)

        # The symbols that have an order.
        ordered = tradable
        if due is not None:
            ordered = ordered & due
        member = self._members(target, group)
        if portfolio.no_trade_band > 0:
            weights = self._project(wanted, ordered, tradable, held, member, covariance)
            is_small = (weights - held).abs() <= self.band
            ordered = ordered & ~(is_small & (wanted != 0))
        return self._project(wanted, ordered, tradable, held, member, covariance)

    def _members(self, target: Tensor, group: Tensor | None) -> Tensor:
        """Which symbol is in which group, 1 or 0, shape (B, K, G)."""
        if group is None:
            return target.new_zeros(*target.shape, 0)
        places = torch.arange(len(self.caps), device=target.device)
        return (group[..., None] == places).double()

    def _largest(self, target: Tensor, tradable: Tensor, held: Tensor) -> Tensor:
        """The largest targets, as many as ``top_k``; between equal ones the larger holding, then the first symbol."""
        assert self.portfolio.top_k is not None
        kept = ~tradable & (held != 0)
        places = self.portfolio.top_k - kept.sum(dim=1, keepdim=True)

        # Whether symbol j of the last dimension comes before symbol i, (B, K, K).
        size = target.abs()
        holding = held.abs()
        number = torch.arange(target.shape[1], device=target.device)
        larger = size[:, None, :] > size[:, :, None]
        as_large = size[:, None, :] == size[:, :, None]
        larger_holding = holding[:, None, :] > holding[:, :, None]
        as_large_holding = holding[:, None, :] == holding[:, :, None]
        is_earlier = number[None, :] < number[:, None]
        decided_by_holding = larger_holding | (as_large_holding & is_earlier)
        before = larger | (as_large & decided_by_holding)

        place = (before & tradable[:, None, :]).sum(dim=2)
        return torch.where(place < places, target, 0.0)

    def _by_risk(self, target: Tensor, covariance: Tensor) -> Tensor:
        """The sum of the targets, up to ``gross``, in inverse proportion to the volatilities."""
        volatility = covariance.diagonal(dim1=1, dim2=2).sqrt()
        is_usable = volatility > 0
        inverse = torch.where(is_usable, 1 / torch.where(is_usable, volatility, 1.0), 0.0)

        size = target.abs()
        budget = size.sum(dim=1, keepdim=True).clamp(max=self.gross)
        parts = size * inverse
        total = parts.sum(dim=1, keepdim=True)
        share = parts / torch.where(total > 0, total, 1.0)
        return target.sign() * share * budget

    def _project(
        self,
        wanted: Tensor,
        ordered: Tensor,
        tradable: Tensor,
        held: Tensor,
        member: Tensor,
        covariance: Tensor | None,
    ) -> Tensor:
        """Weights within the limits: orders make room first, then holdings without one, then both together."""
        amount = torch.where(ordered, wanted, held)
        clipped = amount.clamp(self.low, self.high)
        weights = torch.where(tradable, clipped, held)

        kept = tradable & ~ordered
        weights = self._within(weights, ordered, member, covariance)
        after_orders = weights
        weights = self._within(weights, kept, member, covariance)

        changed = (weights != after_orders).any(dim=1, keepdim=True)
        return self._within(weights, tradable & changed, member, covariance)

    def _within(self, weights: Tensor, movable: Tensor, member: Tensor, covariance: Tensor | None) -> Tensor:
        """Weights that are nearer to 0 where a limit of groups, net, gross or volatility asks for it."""
        if len(self.caps):
            weights = self._within_groups(weights, movable, member)

        # The larger side makes room for the net limit.
        if self.bounds.net < self.bounds.gross:
            net = weights.sum(dim=1, keepdim=True)
            on_side = movable & (weights * net > 0)
            weights = _cut(weights, on_side, net.abs() - self.net)

        gross = weights.abs().sum(dim=1, keepdim=True)
        weights = _cut(weights, movable, gross - self.gross)
        if self.portfolio.volatility_limit is not None:
            assert covariance is not None
            weights = self._within_volatility(weights, movable, covariance)
        return weights

    def _within_groups(self, weights: Tensor, movable: Tensor, member: Tensor) -> Tensor:
        """Weights that keep the sum of each group."""
        size = weights.abs()[..., None] * member  # (B, K, G)
        total = size.sum(dim=1)
        moving = (size * movable[..., None]).sum(dim=1)
        scale = _left(total - self.caps, moving)  # (B, G)

        # Each symbol is in one group or none.
        lost = ((1 - scale)[:, None, :] * member).sum(dim=2)
        return torch.where(movable, weights * (1 - lost), weights)

    def _within_volatility(self, weights: Tensor, movable: Tensor, covariance: Tensor) -> Tensor:
        """The movable weights times the largest factor s at which the volatility keeps its limit."""
        limit = self.volatility
        moving = torch.where(movable, weights, 0.0)
        resting = torch.where(movable, 0.0, weights)

        # The variance of s times the movable weights beside the rest is a s^2 + 2 b s + variance_of_rest, (B, 1).
        with_moving = (covariance @ moving[..., None]).squeeze(2)
        with_resting = (covariance @ resting[..., None]).squeeze(2)
        a = (moving * with_moving).sum(dim=1, keepdim=True)
        b = (moving * with_resting).sum(dim=1, keepdim=True)
        variance_of_rest = (resting * with_resting).sum(dim=1, keepdim=True)

        # Where no factor keeps the limit, the movable part goes.
        discriminant = b**2 - a * (variance_of_rest - limit**2)
        root = (discriminant.clamp(min=0).sqrt() - b) / torch.where(a > 0, a, 1.0)
        attainable = torch.where(discriminant >= 0, root.clamp(0, 1), 0.0)

        volatility = (a + 2 * b + variance_of_rest).clamp(min=0).sqrt()
        exceeds = volatility > limit * (1 + TOLERANCE)
        scale = torch.where(exceeds & (a > 0), attainable, 1.0)
        return torch.where(movable, weights * scale, weights)


def _cut(weights: Tensor, movable: Tensor, excess: Tensor) -> Tensor:
    """
    :param weights: shape (B, K)
    :param movable: which of them may be cut, shape (B, K)
    :param excess: what is to be cut of the sum of their sizes, shape (B, 1)
    :return: the weights cut, shape (B, K)
    """
    size = torch.where(movable, weights.abs(), 0.0)
    moving = size.sum(dim=1, keepdim=True)
    return torch.where(movable, weights * _left(excess, moving), weights)


def _left(excess: Tensor, moving: Tensor) -> Tensor:
    """Share of ``moving`` that remains once ``excess`` is taken from it, 1 where nothing moves or is in excess."""
    is_cut = (excess > TOLERANCE) & (moving > 0)
    taken = torch.where(is_cut, excess / torch.where(is_cut, moving, 1.0), 0.0)
    return (1 - taken).clamp(min=0)
