"""Variance gradient scaling for a trainer that exists already. Needs ``losses.py`` only."""

from __future__ import annotations

import weakref
from typing import Any, Literal

import torch
from torch import Tensor

from quantile_critic.losses import (
    batch_weight,
    check_clip_range,
    has_lower_clamp,
    next_std_average,
    quantile_variance,
    sample_weights,
    squared_errors,
    weight_before_spread,
)


class VarianceGradientScalingMixin:
    """
    Variance gradient scaling for a trainer that has a quantile critic already::

        class Patched(VarianceGradientScalingMixin, TheirPPO): ...

    ``TheirPPO`` must compute its value loss through ``self._quantile_huber_loss(predicted_quantiles, targets, ...)``,
    with quantiles of shape (B, N) and a result of shape () or (B,). The result is multiplied by the weight of the
    quantiles (``variance_scaling_weight``), computed in float32 or more, and keeps its dtype. With the flag off the
    host's result is returned as it is.

    A host that clips calls twice for a minibatch: with its predictions, then with the clipped ones and the same
    targets. Both calls get the weight of the first, so that the maximum of the losses is taken as without the weight
    (``FirstCall`` says which calls belong together).

    In mode "dsac_t" the weights are one per sample, so the host's result must have shape (B,), one loss per sample.
    When the host has an SB3 logger, it logs what the class logs, each as the mean over the minibatches between two
    dumps: ``train/variance_scaling_weight``, ``train/variance_scaling_clamped`` (the share of minibatches at a clamp,
    in mode "dsac_t" of samples), ``train/quantile_variance_mean`` and ``train/quantile_variance_std`` (over the samples
    of a minibatch, correction 0).

    :param args: passed to the host
    :param use_variance_gradient_scaling: whether to scale
    :param variance_scaling_clip_min: smallest weight, >= 0; below 1e-6 ``weight_before_spread`` holds
    :param variance_scaling_clip_max: largest weight, may equal the smallest
    :param variance_scaling_mode: "batch" or "dsac_t", as in ``DistributionalPPO``
    :param kwargs: passed to the host
    :raises ValueError: if the clamps are no range or the mode is unknown; in mode "dsac_t" from the first loss that is
        a scalar
    :raises TypeError: if a clamp is no number, or the host is a ``DistributionalPPO``, which scales by itself, or has
        no loss to scale
    """

    use_variance_gradient_scaling: bool
    variance_scaling_clip_min: float
    variance_scaling_clip_max: float
    variance_scaling_mode: Literal["batch", "dsac_t"]

    # Mode "dsac_t": the moving average and how far it is filled (``next_std_average``). Archives of version 0.2 have an
    # average without a filling; it goes on as they computed it.
    _std_average: Tensor | None
    _std_average_filled: Tensor | None = None
    _first_calls: FirstCalls | None = None

    def __init__(
        self,
        *args: Any,
        use_variance_gradient_scaling: bool = True,
        variance_scaling_clip_min: float = 0.1,
        variance_scaling_clip_max: float = 10.0,
        variance_scaling_mode: Literal["batch", "dsac_t"] = "batch",
        **kwargs: Any,
    ):
        # Hosts that the weight does not fit.
        if getattr(self, "scales_value_loss", False):
            raise TypeError("DistributionalPPO scales its value loss already: use its flags instead of the mixin")
        if not hasattr(super(), "_quantile_huber_loss"):
            raise TypeError("the mixin must stand before a host that has a _quantile_huber_loss method to scale")

        # Flags that are no weight.
        check_clip_range(variance_scaling_clip_min, variance_scaling_clip_max)
        if variance_scaling_mode not in ("batch", "dsac_t"):
            raise ValueError(f"variance_scaling_mode must be 'batch' or 'dsac_t', got {variance_scaling_mode!r}")

        flags = {
            "use_variance_gradient_scaling": use_variance_gradient_scaling,
            "variance_scaling_clip_min": variance_scaling_clip_min,
            "variance_scaling_clip_max": variance_scaling_clip_max,
            "variance_scaling_mode": variance_scaling_mode,
            "_std_average": None,
            "_std_average_filled": None,
            "_first_calls": None,
        }
        # Before, for a host whose constructor computes a loss; after, for one whose constructor resets attributes.
        self.__dict__.update(flags)
        super().__init__(*args, **kwargs)
        self.__dict__.update(flags)

    def _quantile_huber_loss(
        self,
        predicted_quantiles: Tensor,
        targets: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        # The host's loss, as it is with the flag off.
        loss: Tensor = super()._quantile_huber_loss(predicted_quantiles, targets, *args, **kwargs)  # type: ignore[misc]
        if not self.use_variance_gradient_scaling:
            return loss

        # Weights per sample need losses per sample.
        if self.variance_scaling_mode == "dsac_t" and loss.shape != predicted_quantiles.shape[:1]:
            raise ValueError(f"mode 'dsac_t' weights samples: the loss must have shape (B,), got {tuple(loss.shape)}")

        # Clipped quantiles take the weight of the unclipped ones.
        if self._first_calls is None:
            self._first_calls = FirstCalls()
        first_call = self._first_calls.of_minibatch(predicted_quantiles, targets)
        if first_call is not None:
            return (first_call.weight * loss).to(loss.dtype)

        # A new minibatch, or another critic: its own weight, in the host's dtype.
        weight = self._weight(predicted_quantiles, targets)
        scaled = (weight * loss).to(loss.dtype)
        self._first_calls.remember(predicted_quantiles, targets, weight, scaled)
        return scaled

    def _weight(
        self,
        quantiles: Tensor,
        targets: Tensor,
    ) -> Tensor:
        """
        Weight of a minibatch; moves the average of "dsac_t" and logs.

        :param quantiles: unclipped predictions, shape (B, N)
        :param targets: shape (B,), (B, 1) or (B, M)
        :return: scalar in mode "batch", shape (B,) in mode "dsac_t"; float32 for half precision
        """
        variance = quantile_variance(quantiles)
        clip_min = self.variance_scaling_clip_min
        clip_max = self.variance_scaling_clip_max

        # One number for the minibatch, or one per sample.
        if self.variance_scaling_mode == "batch":
            weight = batch_weight(variance, clip_min, clip_max)
            spread = variance.mean()
        else:
            average = self._next_std_average(variance, squared_errors(quantiles, targets).mean())
            weight = sample_weights(variance, average, clip_min, clip_max)
            spread = average**2

        # Without a lower clamp equal quantiles would never part.
        if not has_lower_clamp(clip_min):
            weight = weight_before_spread(weight, spread, squared_errors(quantiles, targets).mean(), clip_max)

        self._record_weight(weight, variance)
        return weight

    def _next_std_average(
        self,
        variance: Tensor,
        squared_error: Tensor,
    ) -> Tensor:
        """
        Take a minibatch into the moving average of mode "dsac_t".

        :param variance: of each sample's quantiles, shape (B,)
        :param squared_error: mean over the samples, scalar
        :return: the average, scalar
        """
        average = self._std_average
        filled = self._std_average_filled

        # Before the first minibatch; an archive of version 0.2 has no filling.
        if average is None:
            average = variance.new_zeros(())
            filled = variance.new_zeros(())
        elif filled is None:
            filled = torch.ones_like(average)

        self._std_average, self._std_average_filled = next_std_average(average, filled, variance, squared_error)
        return self._std_average

    def _record_weight(
        self,
        weight: Tensor,
        variance: Tensor,
    ) -> None:
        """
        Log a minibatch, where the host has a logger of SB3's.

        :param weight: scalar or shape (B,)
        :param variance: of each sample's quantiles, shape (B,)
        """
        # SB3 sets its logger in learn() and drops it in save(); a host's own logger may be of another kind.
        record_mean = getattr(getattr(self, "_logger", None), "record_mean", None)
        if record_mean is None:
            return

        # The names of the class's scalars.
        is_clamped = (weight <= self.variance_scaling_clip_min) | (weight >= self.variance_scaling_clip_max)
        record_mean("train/variance_scaling_weight", weight.mean().item())
        record_mean("train/variance_scaling_clamped", is_clamped.float().mean().item())
        record_mean("train/quantile_variance_mean", variance.mean().item())
        record_mean("train/quantile_variance_std", variance.std(correction=0).item())


# ------------------------------------------------------------------------------------ which calls belong together


class FirstCall:
    """
    The first call of a minibatch, whose weight the calls with clipped quantiles share.

    Another call belongs to it if it has the same targets (the tensor or a view of it, unwritten since) and quantiles of
    the same critic (from the same parameters), and no gradient of the first loss was computed in between. Targets that
    a host computes anew for each call, with equal values, count as the same where the quantiles are computed from the
    first call's. Without gradients the targets decide, as long as the first call's quantiles exist.

    It keeps the targets, whose memory no other tensor can then take, and the autograd graph until its gradient is
    computed.

    :param quantiles: unclipped predictions, shape (B, N)
    :param targets: shape (B,), (B, 1) or (B, M)
    :param weight: of the call, scalar or shape (B,)
    :param loss: what the call returned
    """

    def __init__(
        self,
        quantiles: Tensor,
        targets: Tensor,
        weight: Tensor,
        loss: Tensor,
    ):
        # The memory of the targets and their values: a host may write to it later.
        self.targets = targets.detach()
        self.values = self.targets.clone()
        self.version = _version(self.targets)
        self.weight = weight

        # Of a view the tensor behind it: a host makes views for the time of a call.
        self.quantiles = weakref.ref(quantiles if quantiles._base is None else quantiles._base)
        self.loss = weakref.ref(loss)

        # Where the loss has a gradient, computing it ends the minibatch.
        self.is_over = False
        self.node = None
        if loss.requires_grad and quantiles.requires_grad:
            self.node = torch.autograd.graph.get_gradient_edge(quantiles).node
            loss.register_hook(self._end)  # type: ignore[no-untyped-call]

    def _end(self, gradient: Tensor) -> None:
        """
        End the minibatch: its loss is being differentiated.

        :param gradient: of the loss, unused
        """
        self.is_over = True
        self.node = None

    def is_alive(self) -> bool:
        """:return: whether another call of this minibatch may come"""
        if self.is_over:
            return False

        # A host that clips holds its quantiles, or the first loss, until it has the second.
        if self.quantiles() is not None:
            return True
        return self.node is not None and self.loss() is not None

    def has_targets(self, targets: Tensor) -> bool:
        """
        :param targets: of another call
        :return: whether they are the first call's, or a view of them, unwritten since
        """
        # The same cells of the same memory, without a write through torch.
        if targets.untyped_storage()._cdata != self.targets.untyped_storage()._cdata:
            return False
        if _places(targets) != _places(self.targets) or _version(self.targets) != self.version:
            return False

        # Memory that numpy writes to counts no versions.
        return torch.equal(self.targets, self.values)

    def is_same_minibatch(
        self,
        quantiles: Tensor,
        targets: Tensor,
    ) -> bool:
        """
        :param quantiles: of another call, shape (B, N)
        :param targets: of another call
        :return: whether it belongs to this call
        """
        if not self.is_alive():
            return False

        # Without gradients nothing tells which critic the quantiles are of.
        if self.node is None or not quantiles.requires_grad:
            return self.has_targets(targets)

        # With them, the graph does.
        nodes = _graph(torch.autograd.graph.get_gradient_edge(quantiles).node)
        is_derived = self.node in nodes
        if self.has_targets(targets):
            return is_derived or _parameters(nodes) == _parameters(_graph(self.node))
        return is_derived and targets.shape == self.values.shape and torch.equal(targets.detach(), self.values)


class FirstCalls:
    """
    The first calls of the current minibatch, one per critic. Copies and pickles are empty.

    Targets that are no tensors belong to no minibatch: every call then has a weight of its own.
    """

    def __init__(self) -> None:
        self.calls: list[FirstCall] = []

    def of_minibatch(
        self,
        quantiles: Tensor,
        targets: Tensor,
    ) -> FirstCall | None:
        """
        :param quantiles: of a call, shape (B, N)
        :param targets: of a call
        :return: the first call of its minibatch and critic; None: it is the first
        """
        if not isinstance(targets, Tensor):
            return None

        self.calls = [call for call in self.calls if call.is_alive()]
        for call in self.calls:
            if call.is_same_minibatch(quantiles, targets):
                return call
        return None

    def remember(
        self,
        quantiles: Tensor,
        targets: Tensor,
        weight: Tensor,
        loss: Tensor,
    ) -> None:
        """
        :param quantiles: of a first call, shape (B, N)
        :param targets: of it
        :param weight: of it
        :param loss: what it returned
        """
        if not isinstance(targets, Tensor):
            return

        # Another critic's call of the same minibatch stays; other minibatches are over.
        self.calls = [call for call in self.calls if call.has_targets(targets)]
        self.calls.append(FirstCall(quantiles, targets, weight, loss))

    def __reduce__(self) -> tuple[Any, ...]:
        return FirstCalls, ()


def _places(tensor: Tensor) -> tuple[Any, ...]:
    """
    :param tensor: any
    :return: which cells of its storage it shows, apart from dimensions of one element and repeated ones
    """
    dimensions = zip(tensor.shape, tensor.stride(), strict=True)
    shown = [(size, stride) for size, stride in dimensions if size != 1 and stride != 0]
    return tensor.storage_offset(), tensor.dtype, shown


def _version(tensor: Tensor) -> int:
    """
    :param tensor: any
    :return: how often it or a view of it was written to; tensors of inference mode do not count
    """
    if tensor.is_inference():
        return 0
    return tensor._version


def _graph(node: Any) -> set[Any]:
    """
    :param node: of an autograd graph
    :return: itself and all nodes that its gradient reaches
    """
    # Depth first, without recursion: graphs of recurrent networks are deep.
    nodes = {node}
    unvisited = [node]
    while unvisited:
        for parent, _ in unvisited.pop().next_functions:
            if parent is not None and parent not in nodes:
                nodes.add(parent)
                unvisited.append(parent)
    return nodes


def _parameters(nodes: set[Any]) -> set[Tensor]:
    """
    :param nodes: of an autograd graph
    :return: the leaves that get a gradient; a set tells tensors apart by identity
    """
    return {node.variable for node in nodes if hasattr(node, "variable")}
