"""``compile=True`` of a recurrent policy: its step in the rollout is compiled."""

from __future__ import annotations

from typing import Any

import torch

from quantile_critic.compiled import CompiledStep
from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.rollout import arrays_of


class RecurrentStep(CompiledStep):
    """The policy's step in the rollout: an observation of each environment, the LSTMs' states, episode starts."""

    def prepare(self, policy: QuantileActorCriticPolicy, *args: Any) -> CompiledStep | None:
        """
        :param policy: recurrent, in evaluation mode
        :param args: the observations of all environments
        :return: this; None where the step stays eager
        """
        recurrent: Any = policy
        n_envs = len(arrays_of(args[0])[0])

        # A single step of an LSTM is made of what compiles.
        with torch._dynamo.config.patch(allow_rnn=True):
            return super().prepare(
                policy, args[0], recurrent.initial_states(n_envs), torch.zeros(n_envs, device=policy.device)
            )
