"""Variance gradient scaling for an existing trainer. Needs only ``losses.py``."""

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
    Variance gradient scaling for a trainer that already has a quantile critic::

        class Patched(VarianceGradientScalingMixin, TheirPPO): ...

    ``TheirPPO`` must compute its value loss through ``self._quantile_huber_loss(predicted_quantiles, targets, ...)``.
    The quantiles have shape (B, N), the result has shape () or (B,). The result is multiplied by the weight of the
    quantiles (``variance_scaling_weight``). The weight is computed in float32 or more; the result keeps its dtype. With
    the flag off the host's result stays unchanged.

    A host that clips calls twice per minibatch: with its predictions, then with the clipped ones and the same targets.
    Both calls get the weight of the first. So the weight does not change which of the two losses is larger.
    (``FirstCall`` defines which calls belong together.)

    Mode "dsac_t" has one weight per sample, so the host's result must have shape (B,), one loss per sample.

    A host with an SB3 logger logs four scalars, each the mean over the minibatches between two dumps:

    - ``train/variance_scaling_weight``;
    - ``train/variance_scaling_clamped``: share of minibatches at a clamp, of samples in mode "dsac_t";
    - ``train/quantile_variance_mean``;
    - ``train/quantile_variance_std``: over the samples of a minibatch, correction 0.

    :param args: positional arguments of the host
    :param use_variance_gradient_scaling: whether to scale
    :param variance_scaling_clip_min: smallest weight, >= 0; below 1e-6 ``weight_before_spread`` applies
    :param variance_scaling_clip_max: largest weight, may equal the smallest
    :param variance_scaling_mode: "batch" or "dsac_t", as in ``DistributionalPPO``
    :param kwargs: keyword arguments of the host
    :raises ValueError: if the clamps are not a range or the mode is unknown; in mode "dsac_t" at the first loss that is
        a scalar
    :raises TypeError: if a clamp is not a number, or the host has no loss to scale or is a ``DistributionalPPO``, which
        already scales
    """

    use_variance_gradient_scaling: bool
    variance_scaling_clip_min: float
    variance_scaling_clip_max: float
    variance_scaling_mode: Literal["batch", "dsac_t"]

    # Mode "dsac_t": the moving average and the share of it that is filled (``next_std_average``). Archives of version
    # 0.2 have an average without this share. It continues as that version computed it.
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
        # Refuse hosts that the weight does not fit.
        if getattr(self, "scales_value_loss", False):
            raise TypeError("DistributionalPPO scales its value loss already: use its flags instead of the mixin")
        if not hasattr(super(), "_quantile_huber_loss"):
            raise TypeError("the mixin must stand before a host that has a _quantile_huber_loss method to scale")

        # Refuse clamps that are not a range.
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
        # Set the flags before, for a host whose constructor computes a loss, and after, for one that resets attributes.
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
        # Compute the host's loss. With the flag off it stays unchanged.
        loss: Tensor = super()._quantile_huber_loss(predicted_quantiles, targets, *args, **kwargs)  # type: ignore[misc]
        if not self.use_variance_gradient_scaling:
            return loss

        # Weights per sample need losses per sample.
        if self.variance_scaling_mode == "dsac_t" and loss.shape != predicted_quantiles.shape[:1]:
            raise ValueError(f"mode 'dsac_t' weights samples: the loss must have shape (B,), got {tuple(loss.shape)}")

        # Clipped quantiles share the weight of the unclipped ones.
        if self._first_calls is None:
            self._first_calls = FirstCalls()
        first_call = self._first_calls.of_minibatch(predicted_quantiles, targets)
        if first_call is not None:
            return (first_call.weight * loss).to(loss.dtype)

        # A new minibatch or another critic gets a new weight, in the host's dtype.
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
        Compute the weight of a minibatch, update the average of "dsac_t" and log.

        :param quantiles: unclipped predictions, shape (B, N)
        :param targets: shape (B,), (B, 1) or (B, M)
        :return: scalar in mode "batch", shape (B,) in mode "dsac_t"; float32 for half precision
        """
        variance = quantile_variance(quantiles)
        clip_min = self.variance_scaling_clip_min
        clip_max = self.variance_scaling_clip_max

        # One weight for the minibatch, or one per sample.
        if self.variance_scaling_mode == "batch":
            weight = batch_weight(variance, clip_min, clip_max)
            spread = variance.mean()
        else:
            average = self._next_std_average(variance, squared_errors(quantiles, targets).mean())
            weight = sample_weights(variance, average, clip_min, clip_max)
            spread = average**2

        # Without a lower clamp equal quantiles would never spread.
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
        Add a minibatch to the moving average of mode "dsac_t".

        :param variance: variance of each sample's quantiles, shape (B,)
        :param squared_error: mean over the samples, scalar
        :return: the average, scalar
        """
        average = self._std_average
        filled = self._std_average_filled

        # No minibatch came before, or the archive of version 0.2 has no filling.
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
        Log a minibatch if the host has an SB3 logger.

        :param weight: scalar or shape (B,)
        :param variance: variance of each sample's quantiles, shape (B,)
        """
        # SB3 sets its logger in learn() and drops it in save(); a host's own logger may be of another kind.
        record_mean = getattr(getattr(self, "_logger", None), "record_mean", None)
        if record_mean is None:
            return

        # Use the names of the class's scalars.
        is_clamped = (weight <= self.variance_scaling_clip_min) | (weight >= self.variance_scaling_clip_max)
        record_mean("train/variance_scaling_weight", weight.mean().item())
        record_mean("train/variance_scaling_clamped", is_clamped.float().mean().item())
        record_mean("train/quantile_variance_mean", variance.mean().item())
        record_mean("train/quantile_variance_std", variance.std(correction=0).item())


# ------------------------------------------------------------------------------------ which calls belong together


class FirstCall:
    """
    The first call of a minibatch. Calls with its clipped quantiles share its weight.

    Another call belongs to it under three conditions:

    - it has the same targets: the tensor or a view of it, unwritten since;
    - it has quantiles of the same critic, from the same parameters;
    - no gradient of the first loss was computed in between.

    A host may compute targets of equal values anew for each call. They count as the same if the quantiles are computed
    from the first call's. Without gradients the targets decide, as long as the first call's quantiles exist.

    The object refers to the targets, so that no other tensor can take their memory. It also keeps the autograd graph
    until the gradient is computed.

    :param quantiles: unclipped predictions, shape (B, N)
    :param targets: shape (B,), (B, 1) or (B, M)
    :param weight: weight of the call, scalar or shape (B,)
    :param loss: result of the call
    """

    def __init__(
        self,
        quantiles: Tensor,
        targets: Tensor,
        weight: Tensor,
        loss: Tensor,
    ):
        # Keep the targets' memory and a copy of their values: a host may write to the memory later.
        self.targets = targets.detach()
        self.values = self.targets.clone()
        self.version = _version(self.targets)
        self.weight = weight

        # For a view take the base tensor: a host's views exist only during a call.
        self.quantiles = weakref.ref(quantiles if quantiles._base is None else quantiles._base)
        self.loss = weakref.ref(loss)

        # Computing the loss's gradient ends the minibatch.
        self.is_over = False
        self.node = None
        if loss.requires_grad and quantiles.requires_grad:
            self.node = torch.autograd.graph.get_gradient_edge(quantiles).node
            loss.register_hook(self._end)  # type: ignore[no-untyped-call]

    def _end(self, gradient: Tensor) -> None:
        """
        End the minibatch when its loss is differentiated.

        :param gradient: gradient of the loss, unused
        """
        self.is_over = True
        self.node = None

    def is_alive(self) -> bool:
        """:return: whether another call of this minibatch may follow"""
        if self.is_over:
            return False

        # A host that clips keeps its quantiles, or the first loss, until it has the second.
        if self.quantiles() is not None:
            return True
        return self.node is not None and self.loss() is not None

    def has_targets(self, targets: Tensor) -> bool:
        """
        :param targets: targets of another call
        :return: whether they are the first call's, or a view of them, unwritten since
        """
        # Compare memory and cells, then torch's count of writes.
        if targets.untyped_storage()._cdata != self.targets.untyped_storage()._cdata:
            return False
        if _places(targets) != _places(self.targets) or _version(self.targets) != self.version:
            return False

        # torch does not count numpy's writes, so compare values too.
        return torch.equal(self.targets, self.values)

    def is_same_minibatch(
        self,
        quantiles: Tensor,
        targets: Tensor,
    ) -> bool:
        """
        :param quantiles: quantiles of another call, shape (B, N)
        :param targets: targets of another call
        :return: whether the calls belong together
        """
        if not self.is_alive():
            return False

        # Without gradients the critic of the quantiles is unknown.
        if self.node is None or not quantiles.requires_grad:
            return self.has_targets(targets)

        # With gradients the graph shows it.
        nodes = _graph(torch.autograd.graph.get_gradient_edge(quantiles).node)
        is_derived = self.node in nodes
        if self.has_targets(targets):
            return is_derived or _parameters(nodes) == _parameters(_graph(self.node))
        return is_derived and targets.shape == self.values.shape and torch.equal(targets.detach(), self.values)


class FirstCalls:
    """
    First calls of the current minibatch, one per critic. Copies and pickles are empty.

    Targets that are not tensors belong to no minibatch: each of their calls gets its own weight.
    """

    def __init__(self) -> None:
        self.calls: list[FirstCall] = []

    def of_minibatch(
        self,
        quantiles: Tensor,
        targets: Tensor,
    ) -> FirstCall | None:
        """
        :param quantiles: quantiles of a call, shape (B, N)
        :param targets: targets of the call
        :return: first call of its minibatch and critic, None: this call is the first
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
        :param quantiles: quantiles of a first call, shape (B, N)
        :param targets: its targets
        :param weight: its weight
        :param loss: its result
        """
        if not isinstance(targets, Tensor):
            return

        # Keep calls of other critics for the same minibatch. Other minibatches are over.
        self.calls = [call for call in self.calls if call.has_targets(targets)]
        self.calls.append(FirstCall(quantiles, targets, weight, loss))

    def __reduce__(self) -> tuple[Any, ...]:
        return FirstCalls, ()


def _places(tensor: Tensor) -> tuple[Any, ...]:
    """
    :param tensor: any tensor
    :return: cells of its storage that it shows, without dimensions of one element and repeated dimensions
    """
    dimensions = zip(tensor.shape, tensor.stride(), strict=True)
    shown = [(size, stride) for size, stride in dimensions if size != 1 and stride != 0]
    return tensor.storage_offset(), tensor.dtype, shown


def _version(tensor: Tensor) -> int:
    """
    :param tensor: any tensor
    :return: number of writes to it or a view of it, 0 for tensors of inference mode
    """
    if tensor.is_inference():
        return 0
    return tensor._version


def _graph(node: Any) -> set[Any]:
    """
    :param node: node of an autograd graph
    :return: the node and all nodes that its gradient reaches
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
    :param nodes: nodes of an autograd graph
    :return: leaves that get a gradient. A set distinguishes tensors by identity
    """
    return {node.variable for node in nodes if hasattr(node, "variable")}
