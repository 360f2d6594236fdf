"""The quantile head, its return statistics with PopArt, and the two networks of twin critics."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from quantile_critic.losses import quantile_midpoints
from quantile_critic.targets import next_statistics


class QuantileHead(nn.Module):
    """
    The ``value_net`` of C quantile critics, 1 or 2, whose outputs stand side by side.

    The buffers hold the return statistics, so that they are saved and moved with the policy. Mean 0 and std 1 mean
    that returns are not normalised; std 0 that no statistics exist yet (or all returns were equal). ``std_average`` is
    the moving average of mode "dsac_t" and ``std_average_filled`` how far it is filled (``next_std_average``), one per
    critic, 0 before the first minibatch.

    :param value_net: a critic's head, whose last linear layer has one output and is widened to N equal ones
    :param n_quantiles: N
    :param second: the head of the second critic, which takes the second half of the latents; None: there is one critic
    :raises ValueError: if ``value_net`` does not end in a linear layer of one output
    """

    ret_mean: Tensor
    ret_std: Tensor
    ret_updates: Tensor
    std_average: Tensor
    std_average_filled: Tensor
    tau: Tensor

    def __init__(self, value_net: nn.Module, n_quantiles: int, second: nn.Module | None = None):
        super().__init__()
        self.net = value_net
        self.n_critics = 1 if second is None else 2
        if second is not None:
            self.second = second
        self.register_buffer("ret_mean", torch.zeros(()))
        self.register_buffer("ret_std", torch.ones(()))
        self.register_buffer("ret_updates", torch.zeros(()))
        self.register_buffer("std_average", torch.zeros(self.n_critics))
        self.register_buffer("std_average_filled", torch.zeros(self.n_critics))
        self.register_buffer("tau", quantile_midpoints(n_quantiles, like=self.ret_mean), persistent=False)
        named = [(name, m) for name, m in value_net.named_modules() if isinstance(m, nn.Linear)]
        if not named or named[-1][1].out_features != 1:
            raise ValueError(
                f"value_net must end in an nn.Linear of one output to become a quantile critic, got {value_net}"
            )
        self.last_layer_name, last = named[-1]
        if nn.utils.parametrize.is_parametrized(last) or not isinstance(last.weight, nn.Parameter):
            raise ValueError(f"value_net's last layer cannot be widened to {n_quantiles} quantiles: it is parametrized")
        for layer in self.last_layers:
            layer.out_features = n_quantiles
            for parameter in layer.parameters():  # the optimizer has these objects
                parameter.data = parameter.data.repeat_interleave(n_quantiles, dim=0)

    @property
    def last_layers(self) -> list[nn.Linear]:
        """The layers that give the quantiles, one per critic."""
        nets = [self.net, self.second] if self.n_critics > 1 else [self.net]
        return [cast(nn.Linear, net.get_submodule(self.last_layer_name)) for net in nets]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a policy's own code may ask its value_net for `weight`, as it could before
            return getattr(super().__getattr__("net"), name)

    def forward(self, latent_vf: Tensor) -> Tensor:
        """
        :param latent_vf: output of the value network, shape (B, features), of the critics side by side
        :return: quantiles in the units of the loss, shape (B, C * N)
        """
        if self.n_critics == 1:
            return cast(Tensor, self.net(latent_vf))
        first, second = latent_vf.chunk(2, dim=1)
        return torch.cat([self.net(first), self.second(second)], dim=1)

    def value(self, quantiles: Tensor) -> Tensor:
        """The smallest mean of a critic's quantiles, from units of the loss, (B, C * N), to raw units, (B, 1)."""
        return self.to_raw(self.of_smaller_mean(quantiles).mean(dim=1, keepdim=True))

    def of_smaller_mean(self, quantiles: Tensor) -> Tensor:
        """For every sample those of the critic with the smaller mean: from shape (B, C * N) to (B, N)."""
        if self.n_critics == 1:
            return quantiles
        first, second = quantiles.chunk(2, dim=1)
        smaller = first.mean(dim=1, keepdim=True) <= second.mean(dim=1, keepdim=True)
        return torch.where(smaller, first, second)

    def split(self, quantiles: Tensor) -> tuple[Tensor, ...]:
        """Those of each critic, shape (B, N)."""
        return (quantiles,) if self.n_critics == 1 else tuple(quantiles.chunk(2, dim=1))

    def to_raw(self, normalized: Tensor) -> Tensor:
        """From units of the loss to raw units."""
        return normalized * self.ret_std + self.ret_mean

    def to_normalized(self, raw: Tensor) -> Tensor:
        """From raw units to units of the loss. Where all returns were equal (std 0) the result is their deviation."""
        return (raw - self.ret_mean) / torch.where(self.ret_std > 0, self.ret_std, 1.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Archives from before "dsac_t" have no average; those of 0.1 and 0.2 one that is taken as it is.
        average = state_dict.setdefault(f"{prefix}std_average", torch.zeros_like(self.std_average))
        state_dict.setdefault(f"{prefix}std_average_filled", (average > 0).to(average.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def observe_returns(self, returns: np.ndarray, rate: float | None, popart: bool) -> None:
        """
        Take one rollout's returns into the statistics (``next_statistics``).

        :param returns: raw returns of the rollout, any shape, finite
        :param rate: weight of the newest rollout; None weighs all rollouts alike
        :param popart: keep the raw predictions as they were by rescaling the last layer
        """
        self.ret_updates += 1
        updates = int(self.ret_updates)
        mean, std = next_statistics(self.ret_mean.item(), self.ret_std.item(), updates, returns, rate)
        self.set_statistics(mean, std, popart=popart)

    @torch.no_grad()
    def set_statistics(self, mean: float, std: float, popart: bool) -> None:
        """
        :param mean: new mean of the raw returns
        :param std: new standard deviation of the raw returns, >= 0
        :param popart: rescale the last layer so that raw predictions stay as they are (van Hasselt et al. 2016, eq. 9);
            skipped where a std is 0
        """
        old_mean, old_std = self.ret_mean.item(), self.ret_std.item()
        self.ret_mean.fill_(mean)
        self.ret_std.fill_(std)
        mean, std = self.ret_mean.item(), self.ret_std.item()  # as rounded to the buffer: the layer must match that
        if not (popart and old_std > 0 and std > 0):
            return
        self.std_average.mul_(old_std / std)
        for last in self.last_layers:
            if last.bias is not None:
                last.weight.mul_(old_std / std)
                last.bias.mul_(old_std / std).add_((old_mean - mean) / std)


class TwinNet(nn.Module):
    """
    Two networks in place of one, their outputs side by side.

    :param first: the one
    :param second: the other
    :param split: whether each gets its half of the input, not all of it
    """

    def __init__(self, first: nn.Module, second: nn.Module, split: bool):
        super().__init__()
        self.first, self.second, self.split = first, second, split

    def forward(self, inputs: Any) -> Tensor:
        """:return: shape (B, twice the features of one)"""
        halves = inputs.chunk(2, dim=1) if self.split else (inputs, inputs)
        return torch.cat([self.first(halves[0]), self.second(halves[1])], dim=1)
