"""The quantile head with its return statistics and PopArt, and the paired networks of twin critics."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from quantile_critic.losses import quantile_midpoints
from quantile_critic.targets import next_statistics


class QuantileHead(nn.Module):
    """
    The ``value_net`` of C quantile critics, 1 or 2, with their outputs side by side.

    Buffers hold the return statistics, so the policy saves and moves them. Mean 0 and std 1 mean that returns are not
    normalised. Std 0 means that no statistics exist yet, or that all returns were equal.

    Mode "dsac_t" uses one ``std_average`` per critic, a moving average that is 0 before the first spread.
    ``std_average_filled`` is the share of it that is filled (``next_std_average``).

    ``kappa_statistics`` are the raw returns' mean and std and the number of rollouts in them. They change no unit, and
    are 0 unless kappa counts in this std.

    Attribute access falls back to the first critic: a policy's code may read ``value_net.weight``, which plain value
    networks have.

    :param value_net: a critic's head. Its last linear layer has one output and is widened to N equal outputs
    :param n_quantiles: N
    :param second: head of the second critic, which takes the second half of the latents; None: one critic
    :raises ValueError: if ``value_net`` does not end in a linear layer of one output, or that layer is parametrized
    """

    ret_mean: Tensor
    ret_std: Tensor
    ret_updates: Tensor
    std_average: Tensor
    std_average_filled: Tensor
    kappa_statistics: Tensor
    tau: Tensor

    def __init__(
        self,
        value_net: nn.Module,
        n_quantiles: int,
        second: nn.Module | None = None,
    ):
        super().__init__()
        # Networks of one critic or two.
        self.net = value_net
        self.n_critics = 1
        if second is not None:
            self.second = second
            self.n_critics = 2

        # Return statistics, the average of "dsac_t", the std that kappa counts in, midpoints.
        self.register_buffer("ret_mean", torch.zeros(()))
        self.register_buffer("ret_std", torch.ones(()))
        self.register_buffer("ret_updates", torch.zeros(()))
        self.register_buffer("std_average", torch.zeros(self.n_critics))
        self.register_buffer("std_average_filled", torch.zeros(self.n_critics))
        self.register_buffer("kappa_statistics", torch.zeros(3))
        self.register_buffer("tau", quantile_midpoints(n_quantiles, like=self.ret_mean), persistent=False)

        # Find the layer to widen to N outputs.
        linear_layers = [(name, module) for name, module in value_net.named_modules() if isinstance(module, nn.Linear)]
        if not linear_layers or linear_layers[-1][1].out_features != 1:
            raise ValueError(
                f"value_net must end in an nn.Linear of one output to become a quantile critic, got {value_net}"
            )
        self.last_layer_name, last = linear_layers[-1]
        if nn.utils.parametrize.is_parametrized(last) or not isinstance(last.weight, nn.Parameter):
            raise ValueError(f"value_net's last layer cannot be widened to {n_quantiles} quantiles: it is parametrized")

        # Widen in place, since the optimizer refers to these parameters.
        for layer in self.last_layers:
            layer.out_features = n_quantiles
            for parameter in layer.parameters():
                parameter.data = parameter.data.repeat_interleave(n_quantiles, dim=0)

    @property
    def last_layers(self) -> list[nn.Linear]:
        """Last layers, which output the quantiles, one per critic."""
        # The second critic has the same structure.
        nets = [self.net]
        if self.n_critics > 1:
            nets.append(self.second)
        return [cast(nn.Linear, net.get_submodule(self.last_layer_name)) for net in nets]

    def __getattr__(self, name: str) -> Any:
        """
        :param name: name of an attribute that is no instance variable: a parameter, buffer or module, else an attribute
            of the first critic
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, latent_vf: Tensor) -> Tensor:
        """
        :param latent_vf: output of the value network, shape (B, features), critics side by side
        :return: quantiles in the units of the loss, shape (B, C * N)
        """
        if self.n_critics == 1:
            return cast(Tensor, self.net(latent_vf))

        # Split the latents between the critics.
        first, second = latent_vf.chunk(2, dim=1)
        return torch.cat([self.net(first), self.second(second)], dim=1)

    def value(self, quantiles: Tensor) -> Tensor:
        """
        Compute the value: the smallest mean of a critic's quantiles.

        :param quantiles: predictions in units of the loss, shape (B, C * N)
        :return: raw units, shape (B, 1)
        """
        chosen = self.of_smaller_mean(quantiles)
        return self.to_raw(chosen.mean(dim=1, keepdim=True))

    def of_smaller_mean(self, quantiles: Tensor) -> Tensor:
        """
        Select the quantiles of the critic with the smaller mean, per sample.

        :param quantiles: predictions of all critics, shape (B, C * N)
        :return: shape (B, N), same units
        """
        if self.n_critics == 1:
            return quantiles

        # Equal means select the first critic.
        first, second = quantiles.chunk(2, dim=1)
        is_smaller = first.mean(dim=1, keepdim=True) <= second.mean(dim=1, keepdim=True)
        return torch.where(is_smaller, first, second)

    def split(self, quantiles: Tensor) -> tuple[Tensor, ...]:
        """
        :param quantiles: predictions of all critics, shape (B, C * N)
        :return: predictions of each critic, C tensors of shape (B, N)
        """
        if self.n_critics == 1:
            return (quantiles,)
        return tuple(quantiles.chunk(2, dim=1))

    def to_raw(self, normalized: Tensor) -> Tensor:
        """
        :param normalized: quantiles or values in units of the loss, any shape
        :return: raw units, same shape
        """
        return normalized * self.ret_std + self.ret_mean

    def to_normalized(self, raw: Tensor) -> Tensor:
        """
        :param raw: returns in raw units, any shape
        :return: units of the loss, same shape. Where all returns were equal (std 0), deviations in raw units
        """
        # Deviations stay raw without a standard deviation.
        scale = torch.where(self.ret_std > 0, self.ret_std, 1.0)
        return (raw - self.ret_mean) / scale

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *args: Any,
    ) -> None:
        """
        Load as torch does. Archives of earlier versions lack the newer buffers.

        :param state_dict: state of the policy
        :param prefix: prefix of this module's names in it
        :param args: further arguments of torch's method
        """
        # Archives from before "dsac_t" have no average. Those of 0.1 and 0.2 have one that needs no change.
        average = state_dict.setdefault(f"{prefix}std_average", torch.zeros_like(self.std_average))
        state_dict.setdefault(f"{prefix}std_average_filled", (average > 0).to(average.dtype))
        state_dict.setdefault(f"{prefix}kappa_statistics", torch.zeros_like(self.kappa_statistics))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def observe_returns(
        self,
        returns: np.ndarray,
        rate: float | None,
        popart: bool,
    ) -> None:
        """
        Add one rollout's returns to the statistics (``next_statistics``).

        :param returns: raw returns of the rollout, any shape, finite
        :param rate: weight of the newest rollout, None: all rollouts alike
        :param popart: rescale the last layer so that raw predictions stay
        """
        # Count this rollout first.
        self.ret_updates += 1
        updates = int(self.ret_updates)
        mean, std = next_statistics(self.ret_mean.item(), self.ret_std.item(), updates, returns, rate)
        self.set_statistics(mean, std, popart=popart)

    @property
    def kappa_unit(self) -> Tensor:
        """Std of the raw returns, scalar. It is 1 before statistics exist and where all returns were equal."""
        std = self.kappa_statistics[1]
        return torch.where(std > 0, std, 1.0)

    def observe_kappa_unit(
        self,
        returns: np.ndarray,
        rate: float | None,
    ) -> None:
        """
        Add one rollout's returns to ``kappa_statistics``, as ``observe_returns`` does for the units of the loss.

        :param returns: raw returns of the rollout, any shape, finite
        :param rate: weight of the newest rollout, None: all rollouts alike
        """
        mean, std, updates = self.kappa_statistics.tolist()
        new_mean, new_std = next_statistics(mean, std, int(updates) + 1, returns, rate)
        self.kappa_statistics.copy_(torch.tensor([new_mean, new_std, updates + 1]))

    @torch.no_grad()
    def set_statistics(
        self,
        mean: float,
        std: float,
        popart: bool,
    ) -> None:
        """
        Set the units of the loss.

        :param mean: new mean of the raw returns
        :param std: new standard deviation of the raw returns, >= 0
        :param popart: rescale the last layer so that raw predictions stay (van Hasselt et al. 2016, eq. 9); skipped
            where a std is 0
        """
        # Units of the layer so far.
        old_mean = self.ret_mean.item()
        old_std = self.ret_std.item()
        self.ret_mean.fill_(mean)
        self.ret_std.fill_(std)

        # The layer must match the numbers as rounded in the buffers.
        mean = self.ret_mean.item()
        std = self.ret_std.item()
        if not (popart and old_std > 0 and std > 0):
            return

        # Rescale the weights, then the bias, which also absorbs the shift of the mean.
        scale = old_std / std
        self.std_average.mul_(scale)
        for last in self.last_layers:
            if last.bias is not None:
                last.weight.mul_(scale)
                last.bias.mul_(scale).add_((old_mean - mean) / std)


class TwinNet(nn.Module):
    """
    Two networks in place of one, with their outputs side by side.

    :param first: network of the first critic
    :param second: network of the second critic
    :param split: give each network half of the input, not all of it
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        split: bool,
    ):
        super().__init__()
        self.first = first
        self.second = second
        self.split = split

    def forward(self, inputs: Any) -> Tensor:
        """
        :param inputs: shape (B, features), or any input of the networks
        :return: shape (B, twice the features of one network)
        """
        if not self.split:
            return torch.cat([self.first(inputs), self.second(inputs)], dim=1)

        # The halves lie side by side, one per network.
        first, second = inputs.chunk(2, dim=1)
        return torch.cat([self.first(first), self.second(second)], dim=1)
