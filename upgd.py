"""
UPGD, utility-based perturbed gradient descent, with or without Adam's moments.

Steps and noise shrink where a weight has utility. The module needs only torch.

Symbols: w a weight, g its gradient, t the number of its tensor's updates, xi standard normal noise, beta_u
``beta_utility``. Every quantity is per element but eta, a single number for all tensors of all groups. In each step::

    u     = beta_u * u + (1 - beta_u) * (-g * w)         (utility: first-order loss increase if w were set to 0)
    u_hat = u / (1 - beta_u^t)
    eta   = max u_hat                                    (over the tensors that have a gradient)
    s     = sigmoid(u_hat / eta), and 1/2 where eta <= 0
    w     = w * (1 - lr * weight_decay) - lr * (d + sigma * xi) * (1 - s)

The direction d is g for ``UPGD`` and Adam's m_hat / (sqrt(v_hat) + eps) for ``AdaptiveUPGD``.

Sources:

- UPGD: Elsayed & Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning", ICLR 2024
  (arXiv 2404.00781), first-order utility with global scaling;
- the authors' code: github.com/mohmdelsayed/upgd, ``UPGD`` in README.md, ``AdaptiveUPGD`` in core/run/rl/adaupgd.py;
- Adam: Kingma & Ba 2015 (arXiv 1412.6980).

``variant="paper"`` follows the formulas above. ``variant="official"``, the authors' code, differs:

1. eta = max u, not u_hat. In step 1 with beta_u = 0.999 then u_hat / eta reaches 1000, not 1.
2. The last term of w is multiplied by 2, so that s = 1/2 gives the step of SGD. The decay is not.

Both variants differ from the authors' code:

3. eta <= 0 gives s = 1/2. The authors divide by it: a negative eta reverses the order of the utilities, and eta = 0
   gives NaN.
4. ``sigma=0`` draws no random numbers.

``AdaptiveUPGD`` differs from torch's Adam:

5. The step of "paper" is multiplied by 1 - s, within [0.26, 1] since s <= sigmoid(1). The step of "official" is
   multiplied by 2 * (1 - s), within [0, 2].
6. Noise is added to the weights. Its standard deviation is lr * sigma * (1 - s), and twice that for "official".
7. ``weight_decay`` is decoupled, as in AdamW; eps is 1e-5, not 1e-8; lr is 1e-5, not 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

__all__ = ["UPGD", "AdaptiveUPGD"]

Variant = Literal["paper", "official"]


class _Batch(NamedTuple):
    """Tensors of a group that are updated together. All lists have the order of ``params``."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    traces: dict[str, list[Tensor]]

    def bias_corrections(self, beta: float) -> list[Tensor]:
        """
        Compute the bias corrections of a trace.

        :param beta: decay of the trace
        :return: 1 - beta^t of each tensor, 0-dim, float64
        """
        # In float32, rounding 0.999 alone moves 1 - 0.999 by 1e-5 of its value.
        steps = [step.double() for step in self.steps]

        # Do not stack them: loaded steps may lie on another device than new ones.
        powers = torch._foreach_pow(beta, steps)
        return list(torch._foreach_add(torch._foreach_neg(powers), 1))


class _UtilityOptimizer(Optimizer):
    """
    UPGD except for the direction d.

    Noise comes from torch's default generator of the parameters' device. Each parameter with a gradient draws one
    ``torch.randn_like`` if its group's sigma > 0, group by group in the order of the parameters. Processes that step
    the same parameters need this generator in the same state during the step. ``DistributionalPPO`` takes care of it.

    :param params: tensors or groups of them, on one device
    :param defaults: options of the groups that set no value of their own
    :raises ValueError: if an option is out of its range; the message names it
    :raises TypeError: if a parameter is complex
    """

    _trace_names: ClassVar[tuple[str, ...]] = ("utility",)

    def __init__(self, params: ParamsT, defaults: dict[str, Any]):
        _check_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """
        Add a group of parameters.

        :param param_group: ``params`` and the options that differ from the defaults
        :raises ValueError: if an option is out of its range, or the variant differs from that of earlier groups
        :raises TypeError: if a parameter is complex
        """
        super().add_param_group(param_group)

        # A refused group leaves no trace.
        try:
            _check_options(param_group)
            # All groups share eta.
            if param_group["variant"] != self.param_groups[0]["variant"]:
                raise ValueError(f"variant must be the same in all groups, got {param_group['variant']!r}")
            if any(p.is_complex() for p in param_group["params"]):
                raise TypeError(f"{type(self).__name__} does not support complex parameters")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """
        Update the parameters that have a gradient. The host does not wait for the device.

        :param closure: function that computes the loss and its gradients, called once, before the update
        :return: value of ``closure``
        :raises RuntimeError: if a gradient is sparse
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # All groups' parameters that have a gradient.
        batches: list[_Batch] = []
        for group in self.param_groups:
            batches += self._batches(group)
        if not batches:
            return loss

        # All tensors share a scale of the utilities.
        maxima: list[Tensor] = []
        for batch in batches:
            maxima += self._update_utilities(batch)
        eta = torch.stack(maxima).max()

        # A scale <= 0 gives s = 1/2: u_hat / inf = 0 and sigmoid(0) = 1/2.
        eta = eta.masked_fill(eta <= 0, math.inf)

        for batch in batches:
            self._update_params(batch, eta)
        return loss

    def _batches(self, group: dict[str, Any]) -> list[_Batch]:
        """
        Split a group into batches: a single one with ``foreach``, else one per parameter.

        :param group: one of ``param_groups``
        :return: batches of the parameters that have a gradient
        :raises RuntimeError: if a gradient is sparse
        """
        # A tensor of 0 elements has no maximum and nothing to update.
        params = [p for p in group["params"] if p.grad is not None and p.numel() > 0]
        if any(p.grad.layout != torch.strided for p in params):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")

        # All of them together, or one by one.
        together = group["foreach"]
        if together is None:
            together = len(params) > 1
        size = 1
        if together:
            size = max(len(params), 1)
        return [self._batch(group, params[start : start + size]) for start in range(0, len(params), size)]

    def _batch(self, group: dict[str, Any], params: list[Tensor]) -> _Batch:
        """
        Collect parameters with their state, which starts at 0.

        :param group: one of ``param_groups``
        :param params: some of its parameters, all with a gradient
        :return: the parameters with their state
        """
        # Count steps on the CPU, as torch's optimizers do.
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
                state.update({name: torch.zeros_like(p) for name in self._trace_names})

        # One list per quantity, in the order of the parameters.
        grads = [p.grad for p in params if p.grad is not None]
        steps = [state["step"] for state in states]
        traces = {}
        for name in self._trace_names:
            traces[name] = [state[name] for state in states]
        return _Batch(group, params, grads, steps, traces)

    def _update_utilities(self, batch: _Batch) -> list[Tensor]:
        """
        Count the step and add -g * w to the utilities.

        :param batch: B tensors
        :return: each tensor's contribution to eta, B tensors of 0 dimensions
        """
        beta = batch.group["beta_utility"]
        utilities = batch.traces["utility"]

        # u = beta * u + (1 - beta) * (-g * w)
        torch._foreach_add_(batch.steps, 1)
        torch._foreach_mul_(utilities, beta)
        torch._foreach_addcmul_(utilities, batch.grads, batch.params, value=beta - 1)

        # max u / c is max (u / c): rounding keeps the order.
        maxima = list(torch._foreach_max(utilities))
        if batch.group["variant"] == "paper":
            torch._foreach_div_(maxima, batch.bias_corrections(beta))
        return maxima

    def _update_params(self, batch: _Batch, eta: Tensor) -> None:
        """
        Apply decay and step.

        :param batch: tensors with updated utilities
        :param eta: scale of the utilities, 0-dim, > 0, infinite for s = 1/2
        """
        group = batch.group

        # d + sigma * xi
        updates = self._directions(batch)
        if group["sigma"] > 0:
            noise = [torch.randn_like(p) for p in batch.params]
            updates = list(torch._foreach_add(updates, noise, alpha=group["sigma"]))

        # 1 - s: sigmoid(-x) is 1 - sigmoid(x) without the cancellation.
        factors = torch._foreach_div(batch.traces["utility"], batch.bias_corrections(group["beta_utility"]))
        torch._foreach_div_(factors, -eta)
        torch._foreach_sigmoid_(factors)
        torch._foreach_mul_(factors, updates)

        # The step is a factor: with `alpha`, the host would have to read an lr that is a tensor.
        sign = -1.0
        if group["variant"] == "official":
            sign = -2.0
        torch._foreach_mul_(factors, group["lr"] * sign)

        # w * (1 - lr * weight_decay) - step
        if group["weight_decay"] > 0:
            torch._foreach_mul_(batch.params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(batch.params, factors)

    def _directions(self, batch: _Batch) -> list[Tensor]:
        """
        Compute the directions.

        :param batch: B tensors
        :return: d of each, B tensors of their shapes, which the caller must not write to
        """
        raise NotImplementedError


class UPGD(_UtilityOptimizer):
    """
    SGD with utility-scaled steps and noise: d = g.

    :param params: tensors or groups of them, on one device; a group may set every option but ``variant``
    :param lr: learning rate, >= 0, a float or a 0-dim tensor
    :param weight_decay: share lr * weight_decay by which weights shrink, decoupled, >= 0
    :param beta_utility: decay of the utilities per step, within [0, 1)
    :param sigma: standard deviation of the noise, >= 0, in units of d
    :param variant: "paper" or "official"; see the module's docstring
    :param foreach: update a group's tensors together (True) or one by one (False), which needs less memory. The
        parameters are the same. None: together if more than one tensor of the group has a gradient
    :raises ValueError: if an option is out of its range; the message names it
    :raises TypeError: if a parameter is complex
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-5,
        weight_decay: float = 1e-3,
        beta_utility: float = 0.999,
        sigma: float = 1e-3,
        variant: Variant = "paper",
        foreach: bool | None = None,
    ):
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            beta_utility=beta_utility,
            sigma=sigma,
            variant=variant,
            foreach=foreach,
        )
        super().__init__(params, defaults)

    def _directions(self, batch: _Batch) -> list[Tensor]:
        return batch.grads


class AdaptiveUPGD(_UtilityOptimizer):
    """
    Adam with utility-scaled steps and noise: d = m_hat / (sqrt(v_hat) + eps).

    :param params: as for ``UPGD``
    :param lr: as for ``UPGD``
    :param weight_decay: as for ``UPGD``
    :param beta_utility: as for ``UPGD``
    :param sigma: as for ``UPGD``; d is about 1, whatever the size of the gradients
    :param betas: decay per step of m and v, the traces of g and g^2, both within [0, 1)
    :param eps: added to sqrt(v_hat), > 0, in units of g
    :param variant: as for ``UPGD``
    :param foreach: as for ``UPGD``
    :raises ValueError: if an option is out of its range; the message names it
    :raises TypeError: if a parameter is complex
    """

    _trace_names = ("utility", "exp_avg", "exp_avg_sq")

    def __init__(  # noqa: PLR0913  # the hyperparameters of UPGD and of Adam
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-5,
        weight_decay: float = 1e-3,
        beta_utility: float = 0.999,
        sigma: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
        variant: Variant = "paper",
        foreach: bool | None = None,
    ):
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            beta_utility=beta_utility,
            sigma=sigma,
            betas=betas,
            eps=eps,
            variant=variant,
            foreach=foreach,
        )
        super().__init__(params, defaults)

    def _directions(self, batch: _Batch) -> list[Tensor]:
        beta1, beta2 = batch.group["betas"]
        grads = batch.grads
        means = batch.traces["exp_avg"]
        squares = batch.traces["exp_avg_sq"]

        # m = beta1 * m + (1 - beta1) * g and v = beta2 * v + (1 - beta2) * g^2
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)

        # sqrt(v_hat) + eps
        roots = torch._foreach_div(squares, batch.bias_corrections(beta2))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, batch.group["eps"])

        # m_hat / (sqrt(v_hat) + eps)
        directions = list(torch._foreach_div(means, batch.bias_corrections(beta1)))
        torch._foreach_div_(directions, roots)
        return directions


def _check_options(options: dict[str, Any]) -> None:
    """
    Check the options of a group.

    :param options: options of a group
    :raises ValueError: unless every option is within its range. NaN never is
    """
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.dim() > 0:
        raise ValueError(f"lr must be a float or a 0-dim tensor, got shape {tuple(lr.shape)}")

    for name in ("lr", "weight_decay", "sigma"):
        if not 0 <= options[name] < math.inf:
            raise ValueError(f"{name} must be finite and >= 0, got {options[name]}")

    # Decays of traces, those of Adam among them.
    decays = {"beta_utility": options["beta_utility"]}
    for i, beta in enumerate(options.get("betas", ())):
        decays[f"betas[{i}]"] = beta
    for name, beta in decays.items():
        if not 0 <= beta < 1:
            raise ValueError(f"{name} must be within [0, 1), got {beta}")

    if not 0 < options.get("eps", 1.0) < math.inf:
        raise ValueError(f"eps must be finite and > 0, got {options['eps']}")
    if options["variant"] not in ("paper", "official"):
        raise ValueError(f"variant must be 'paper' or 'official', got {options['variant']!r}")
