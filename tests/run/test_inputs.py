"""What a critic reads at a step, of a recurrent policy its states, too. Oracle: the values of the rollout."""

import numpy as np
import pytest
import torch
from builders import RECURRENT_NETWORKS, train_recurrent

from market_regimes.run.inputs import inputs_of_rollout


@pytest.mark.parametrize("kwargs", RECURRENT_NETWORKS.values(), ids=RECURRENT_NETWORKS)
def test_inputs_of_a_rollout_give_the_values_it_had(segments, kwargs):
    """Those of the last rollout, from the parameters before its update."""
    model = train_recurrent(segments, kwargs=kwargs)
    model.train = lambda: None
    model.learn(64, reset_num_timesteps=False)
    inputs = inputs_of_rollout(model)
    assert inputs["hidden"].shape == (64, kwargs.get("n_lstm_layers", 1), 8)
    with torch.no_grad():
        states = [torch.as_tensor(inputs[name]).transpose(0, 1).contiguous() for name in ("hidden", "cell")]
        quantiles = model.policy.predict_quantiles(inputs["observations"], tuple(states))
    np.testing.assert_allclose(quantiles.mean(dim=1), model.rollout_buffer.values.reshape(-1), rtol=1e-4, atol=1e-5)
    starts = model.rollout_buffer.episode_starts.reshape(-1) > 0
    assert starts.any()
    assert (inputs["hidden"][starts] == 0).all()
