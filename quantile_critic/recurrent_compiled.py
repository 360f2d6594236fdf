"""``compile=True`` for a recurrent policy, whose rollout step is compiled."""

from __future__ import annotations

from typing import Any

import torch

from quantile_critic.compiled import CompiledStep
from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.rollout import arrays_of


class RecurrentStep(CompiledStep):
    """The policy's rollout step: one observation per environment, the LSTMs' states, episode starts."""

    def prepare(self, policy: QuantileActorCriticPolicy, *args: Any) -> CompiledStep | None:
        """
        :param policy: recurrent policy in evaluation mode
        :param args: observations of all environments
        :return: this object, None: the step stays eager
        """
        recurrent: Any = policy
        n_envs = len(arrays_of(args[0])[0])

        # A single step of an LSTM uses only operations that compile.
        with torch._dynamo.config.patch(allow_rnn=True):
            return super().prepare(
                policy, args[0], recurrent.initial_states(n_envs), torch.zeros(n_envs, device=policy.device)
            )
