"""Targets of the critic. Oracles: numpy, the frozen policy, hand-made dictionaries of an environment."""

import numpy as np
import pytest
from builders import NORMALISED, make_random, make_walking
from stable_baselines3.common.callbacks import BaseCallback


def frozen_policy(model):
    """A policy with the model's parameters as they are now."""
    policy = make_walking(**NORMALISED).policy
    policy.load_state_dict(model.policy.state_dict())
    return policy


@pytest.mark.parametrize(
    "flags",
    [NORMALISED, dict(normalize_returns=True)],
    ids=["PopArt", "normalised"],
)
def test_calibration_error_in_numpy(flags):
    model = make_walking(**flags).learn(96)
    frozen = frozen_policy(model)

    class Oracle(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            quantiles = frozen.predict_quantiles(buffer.observations.reshape(-1, 3)).detach().numpy()
            tau = (np.arange(32) + 0.5) / 32
            below = (buffer.returns.reshape(-1, 1) < quantiles).mean(axis=0)
            self.expected = np.abs(below - tau).mean()

    oracle = Oracle()
    model.learn(96, oracle, reset_num_timesteps=False)

    assert model.logger.name_to_value["train/quantile_calibration_error"] == pytest.approx(oracle.expected, abs=1e-6)


def test_a_new_rollout_keeps_ended_episodes_and_forgets_truncated_steps():
    model = make_random(value_target="sr_lambda")
    model._setup_learn(1)
    episode = {"r": 1.0, "l": 2, "t": 0.0}
    last = np.ones(3)
    model.rollout_buffer.pos = 3
    model._update_info_buffer(
        [
            {},
            {
                "episode": episode,
                "terminal_observation": last,
                "TimeLimit.truncated": True,
            },
        ]
    )
    model._update_info_buffer([{}, {}])

    assert list(model.ep_info_buffer) == [episode]
    assert model._truncated == [(3, 1, last)]

    model.rollout_buffer.pos = 0
    model._update_info_buffer([{}, {}])
    assert model._truncated == []
