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
    new = Categorical.__new__(Categorical)
    new.logits = new._param = logits
    new._num_events = logits.shape[-1]
    TorchDistribution.__init__(new, logits.shape[:-1], validate_args=False)
    return new


def normal_of(loc: Tensor, scale: Tensor) -> Normal:
    """torch's, of parameters of one shape, likewise."""
    new = Normal.__new__(Normal)
    new.loc, new.scale = loc, scale
    TorchDistribution.__init__(new, loc.shape, validate_args=False)
    return new


class LeanCategoricalDistribution(CategoricalDistribution):
    """SB3's, without a look at every number of every batch; the policy looks for NaN once."""

    def proba_distribution(self, action_logits: Tensor) -> LeanCategoricalDistribution:
        self.distribution = categorical_of(action_logits - action_logits.logsumexp(dim=-1, keepdim=True))
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        own = self.distribution
        if type(own) is not Categorical or actions.shape != own.logits.shape[:-1]:
            return super().log_prob(actions)
        return own.logits.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def sample(self) -> Tensor:
        if type(self.distribution) is not Categorical:  # a policy has put another one in its place
            return super().sample()
        probs = torch.softmax(self.distribution.logits, dim=-1)
        if not torch.compiler.is_compiling():
            return torch.multinomial(probs, 1, replacement=True).squeeze(-1)
        # Multinomial is no part of a graph.
        below = probs.cumsum(-1) <= torch.rand_like(probs[..., :1])
        return below.sum(-1).clamp(max=probs.shape[-1] - 1)


class LeanDiagGaussianDistribution(DiagGaussianDistribution):
    """SB3's, likewise."""

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> LeanDiagGaussianDistribution:
        self.distribution = normal_of(mean_actions, torch.ones_like(mean_actions) * log_std.exp())
        return self

    def sample(self) -> Tensor:
        own = self.distribution
        return own.loc + torch.randn_like(own.loc) * own.scale if type(own) is Normal else super().sample()


LEAN: dict[type[Distribution], type[Any]] = {
    CategoricalDistribution: LeanCategoricalDistribution,
    DiagGaussianDistribution: LeanDiagGaussianDistribution,
}
