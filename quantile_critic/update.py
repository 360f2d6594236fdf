"""
The update of a minibatch: gradients of the loss, their average over processes, clipping and the optimizer's step.

``EagerUpdate`` runs it as written here. ``compiled.CompiledUpdate`` runs it as graphs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantile_critic.gradients import NORM, Parts, all_norms, clip_gradients, names_of_norms, parts_by_loss
from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.processes import CommonNoise, average_over_processes, n_processes
from quantile_critic.rollout import Samples
from quantile_critic.settings import Coefficients, LossSettings

# Returns the loss of B samples and its metrics by name, all scalars.
Loss = Callable[[Samples, Coefficients], tuple[Tensor, dict[str, Tensor]]]


class EagerUpdate:
    """
    Call ``prepare`` before the epochs over a rollout, then the object once per minibatch, within ``running``.

    Metrics of the minibatches stay on the device until ``metrics`` is called, since each read makes the host wait.
    """

    loss: Loss
    policy: QuantileActorCriticPolicy
    coefficients: Coefficients
    largest_kl: float | None
    common_noise: CommonNoise

    def __init__(self) -> None:
        self.parameters: list[nn.Parameter] = []
        self.approx_kl: float | None = None  # of the minibatch that ended the update early
        self._names: tuple[str, ...] = ()
        self._values: list[Tensor] = []  # metrics of each minibatch, shape (n_metrics,)
        self.parts: Parts = {}  # parameters clipped together; empty before the first minibatch
        self._norms: list[Tensor] = []  # each step's gradient norms before clipping, shape (n_norms,)
        self._metrics: dict[str, np.ndarray] | None = None  # metrics once read

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copied or saved model starts without the state of an update

    def prepare(
        self,
        loss: Loss,
        settings: LossSettings,
        coefficients: Coefficients,
        policy: QuantileActorCriticPolicy,
        largest_kl: float | None,
        common_noise: CommonNoise,
    ) -> None:
        """
        :param loss: loss of a minibatch
        :param settings: settings that the loss reads
        :param coefficients: coefficients of this update
        :param policy: policy whose optimizer steps its parameters
        :param largest_kl: approximate KL divergence beyond which steps stop, None: no limit
        :param common_noise: random numbers that are equal in the optimizers of all processes
        """
        # Input of the update.
        self.loss = loss
        self.coefficients = coefficients
        self.policy = policy
        self.largest_kl = largest_kl
        self.common_noise = common_noise
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]

        # Clip all parameters together, or let the first minibatch split them.
        self.parts = {}
        if settings.gradient_clipping == "joint":
            self.parts = {NORM: self.parameters}

        # Results of the update.
        self.approx_kl = None
        self._names = ()
        self._values = []
        self._norms = []
        self._metrics = None

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Set the optimizer's options for an update."""
        return self.policy.fast_optimizer()

    def __call__(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> bool:
        """
        :param samples: samples of the rollout, or of the minibatch
        :param rows: rows of the minibatch in them, shape (B,), None: all
        :return: whether a step was made. False: the policy has moved too far
        """
        self._part_parameters(samples, rows)
        self._eager_gradients(samples, rows)
        return self._step_unless_too_far()

    def metrics(self) -> dict[str, np.ndarray]:
        """:return: values of all minibatches by name, shape (n_minibatches,), and the norms of all steps"""
        if self._metrics is not None:
            return self._metrics

        # Transfer all metrics at once, then all norms.
        b_metrics: dict[str, np.ndarray] = {}
        if self._values:
            # (n_metrics, n_minibatches)
            columns = torch.stack(self._values).cpu().numpy().T
            b_metrics.update(zip(self._names, columns, strict=True))
        if self._norms:
            # (n_norms, n_steps)
            columns = torch.stack(self._norms).float().cpu().numpy().T
            b_metrics.update(zip(names_of_norms(self.parts), columns, strict=True))

        self._metrics = b_metrics
        return b_metrics

    def _part_parameters(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> None:
        """Determine from the first minibatch which loss reaches which parameter."""
        if not self.parts:
            self.parts = parts_by_loss(self.policy, self.parameters, samples.at(rows))

    def _eager_gradients(
        self,
        samples: Samples,
        rows: Tensor | None,
        set_to_none: bool = True,
    ) -> None:
        """Compute the gradients of a minibatch's loss, averaged over the processes."""
        loss, mb_metrics = self.loss(samples.at(rows), self.coefficients)
        values = torch.stack(list(mb_metrics.values()))

        self.policy.optimizer.zero_grad(set_to_none=set_to_none)
        loss.backward()  # type: ignore[no-untyped-call]

        # Average the metrics in the same message as the gradients.
        if n_processes() > 1:
            values = average_over_processes(values, self.parameters)
        self._names = tuple(mb_metrics)
        self._values.append(values)

    def _step_unless_too_far(self) -> bool:
        """Clip and step unless the last minibatch's KL divergence is too large. Return whether a step was made."""
        if self.largest_kl is not None:
            approx_kl = self._values[-1][self._names.index("approx_kl")]
            if bool(approx_kl > self.largest_kl):
                self.approx_kl = float(approx_kl)
                return False

        self._clip()
        with self.common_noise():
            self.policy.optimizer.step()
        return True

    def _clip(self) -> None:
        """Clip each part by its norm."""
        norms = [clip_gradients(part, self.coefficients.max_grad_norm) for part in self.parts.values()]
        self._norms.append(all_norms(norms))
