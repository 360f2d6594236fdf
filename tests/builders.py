"""What tests of several modules build."""

import copy

import numpy as np
import torch


def learn_alike(eager, compiled, updates=2):
    """
    Let both models learn from the rollouts of the first, since compiled policies draw other actions.

    :return: the largest difference between their parameters
    """
    for model in (eager, compiled):
        _, model.callback = model._setup_learn(10_000)

    for update in range(updates):
        eager.collect_rollouts(eager.env, eager.callback, eager.rollout_buffer, eager.n_steps)
        compiled.rollout_buffer = copy.deepcopy(eager.rollout_buffer)
        for name in ("_last_obs", "_last_episode_starts", "_truncated", "num_timesteps"):
            setattr(compiled, name, copy.deepcopy(getattr(eager, name)))

        for model in (eager, compiled):
            np.random.seed(update)  # noqa: NPY002
            torch.manual_seed(update)
            model.train()

    pairs = zip(eager.policy.state_dict().values(), compiled.policy.state_dict().values(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)
