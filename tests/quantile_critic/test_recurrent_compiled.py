"""The compiled step of a recurrent policy. Oracle: eager code, of whole sequences."""

import warnings

import numpy as np
import pytest
import torch
from builders import RECURRENT_CASES, make_recurrent, needs_compiler


@needs_compiler
@pytest.mark.parametrize("case", ["gSDE", "2 layers"])
def test_a_recurrent_policys_step_is_compiled_and_its_update_warns_that_it_is_not(case):
    with pytest.warns(
        UserWarning,
        match="the update stays eager, as each minibatch has sequences of other lengths",
    ):
        model = make_recurrent(compile=True, **RECURRENT_CASES[case]).learn(96)
    assert model._policy_step.function.call is not None

    model.train = lambda: None

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(96, reset_num_timesteps=False)

    with torch.no_grad():  # the rollout's numbers are those of eager code, of whole sequences
        rollout = model._rollout(True, None)
        rollout.to_loss_units(False)
        np.testing.assert_allclose(rollout.old_quantiles.mean(dim=1), rollout.values, rtol=1e-4, atol=1e-5)

        for part, _ in rollout.minibatches(40):
            _, log_prob, _ = model.policy.evaluate_quantiles(part.observations, part.actions)
            torch.testing.assert_close(log_prob, part.old_log_prob, rtol=1e-4, atol=1e-5)
