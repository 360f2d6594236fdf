"""SB3's action distributions to the last bit, in less time."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution, Distribution
from torch import Tensor
from torch.distributions import Categorical, Normal
from torch.distributions import Distribution as TorchDistribution


def categorical_of(logits: Tensor) -> Categorical:
    """torch's, of logits that are normalised; put together as its own ``expand`` does, a sixth of its constructor."""
    categorical = Categorical.__new__(Categorical)
    categorical.logits = logits
    categorical._param = logits
    categorical._num_events = logits.shape[-1]
    TorchDistribution.__init__(categorical, logits.shape[:-1], validate_args=False)
    return categorical


def normal_of(loc: Tensor, scale: Tensor) -> Normal:
    """torch's, of parameters of one shape, likewise."""
    normal = Normal.__new__(Normal)
    normal.loc = loc
    normal.scale = scale
    TorchDistribution.__init__(normal, loc.shape, validate_args=False)
    return normal


class LeanCategoricalDistribution(CategoricalDistribution):
    """SB3's, without a look at every number of every batch; the policy looks for NaN once."""

    def proba_distribution(self, action_logits: Tensor) -> LeanCategoricalDistribution:
        self.distribution = categorical_of(action_logits - action_logits.logsumexp(dim=-1, keepdim=True))
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        distribution = self.distribution
        if type(distribution) is not Categorical or actions.shape != distribution.logits.shape[:-1]:
            return super().log_prob(actions)
        columns = actions.long().unsqueeze(-1)
        return distribution.logits.gather(-1, columns).squeeze(-1)

    def sample(self) -> Tensor:
        if type(self.distribution) is not Categorical:  # a policy has put another one in its place
            return super().sample()
        probs = torch.softmax(self.distribution.logits, dim=-1)

        if not torch.compiler.is_compiling():
            return torch.multinomial(probs, 1, replacement=True).squeeze(-1)

        # Multinomial is no part of a graph: count the cumulated probabilities below a uniform number.
        below = probs.cumsum(-1) <= torch.rand_like(probs[..., :1])
        return below.sum(-1).clamp(max=probs.shape[-1] - 1)


class LeanDiagGaussianDistribution(DiagGaussianDistribution):
    """SB3's, likewise."""

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> LeanDiagGaussianDistribution:
        self.distribution = normal_of(mean_actions, torch.ones_like(mean_actions) * log_std.exp())
        return self

    def sample(self) -> Tensor:
        distribution = self.distribution
        if type(distribution) is not Normal:  # likewise
            return super().sample()
        return distribution.loc + torch.randn_like(distribution.loc) * distribution.scale


LEAN: dict[type[Distribution], type[Any]] = {
    CategoricalDistribution: LeanCategoricalDistribution,
    DiagGaussianDistribution: LeanDiagGaussianDistribution,
}
