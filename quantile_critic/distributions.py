"""SB3's action distributions to the last bit, in less time."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution, Distribution
from torch import Tensor
from torch.distributions import Categorical, Normal


class LeanCategoricalDistribution(CategoricalDistribution):
    """SB3's, without a look at every number of every batch; the policy looks for NaN once."""

    def proba_distribution(self, action_logits: Tensor) -> LeanCategoricalDistribution:
        self.distribution = Categorical(logits=action_logits, validate_args=False)
        return self

    def sample(self) -> Tensor:
        if type(self.distribution) is not Categorical:  # a policy has put another one in its place
            return super().sample()
        probs = self.distribution.probs
        if not torch.compiler.is_compiling():
            return torch.multinomial(probs, 1, replacement=True).squeeze(-1)
        # Multinomial is no part of a graph.
        below = probs.cumsum(-1) <= torch.rand_like(probs[..., :1])
        return below.sum(-1).clamp(max=probs.shape[-1] - 1)


class LeanDiagGaussianDistribution(DiagGaussianDistribution):
    """SB3's, likewise."""

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> LeanDiagGaussianDistribution:
        self.distribution = Normal(mean_actions, torch.ones_like(mean_actions) * log_std.exp(), validate_args=False)
        return self

    def sample(self) -> Tensor:
        own = self.distribution
        return own.loc + torch.randn_like(own.loc) * own.scale if type(own) is Normal else super().sample()


LEAN: dict[type[Distribution], type[Any]] = {
    CategoricalDistribution: LeanCategoricalDistribution,
    DiagGaussianDistribution: LeanDiagGaussianDistribution,
}
