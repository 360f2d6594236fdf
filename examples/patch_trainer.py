"""
Variance gradient scaling for a trainer that exists: one base class in front of it, not a line of it changed.

    python examples/patch_trainer.py    a few seconds
"""

from __future__ import annotations

import sys

import torch
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from torch import Tensor, nn

from distributional_ppo import VarianceGradientScalingMixin


class TheirTrainer:
    """
    Stands for your trainer. It learns 16 quantiles of a return, calm or stormy by the observation. The mixin needs one
    thing of it: the value loss goes through ``self._quantile_huber_loss(predicted_quantiles, targets)``.

    :param learning_rate: of Adam
    """

    def __init__(self, learning_rate: float = 3e-3):
        self._logger = Logger(None, [HumanOutputFormat(sys.stdout)])  # an SB3 logger gets the scalars; none is needed
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 16))
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=learning_rate)
        self.tau = (torch.arange(16) + 0.5) / 16

    def _quantile_huber_loss(self, predicted_quantiles: Tensor, targets: Tensor) -> Tensor:
        error = targets[:, None] - predicted_quantiles
        huber = torch.where(error.abs() <= 1, error**2 / 2, error.abs() - 0.5)
        return ((self.tau - (error < 0).float()).abs() * huber).mean()

    def update(self, observations: Tensor, returns: Tensor) -> float:
        """One step of the optimizer; the loss before it."""
        loss = self._quantile_huber_loss(self.critic(observations), returns)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()


class Patched(VarianceGradientScalingMixin, TheirTrainer):
    """The patch."""


def main() -> None:
    """Train the host and the patched host on the same samples."""
    for trainer_class in (TheirTrainer, Patched):
        torch.manual_seed(0)
        trainer = trainer_class(learning_rate=3e-3)
        for _ in range(500):
            stormy = torch.rand(256) < 0.5
            observations = nn.functional.one_hot(stormy.long(), 2).float()
            trainer.update(observations, torch.where(stormy, 1.4, 0.2) * torch.randn(256))
        spread = trainer.critic(torch.eye(2)).std(dim=1, correction=0)
        print(f"{trainer_class.__name__}: predicted std {spread[0]:.2f} calm, {spread[1]:.2f} stormy")
        if trainer._logger.name_to_value:  # the host alone logs nothing
            trainer._logger.dump(step=500)


if __name__ == "__main__":
    main()
