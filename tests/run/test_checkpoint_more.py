"""What writing a file leaves behind, and what of a checkpoint must be whole; oracle: the operating system."""

import os

import pytest
import torch

from distributional_ppo import DistributionalPPO
from market_regimes.files import write_file
from market_regimes.run.checkpoint import CheckpointError, load_agent
from market_regimes.run.resume import capture


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_a_file_written_leaves_nothing_open_and_nothing_beside_it(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        write_file(tmp_path / "file", "text")
    assert len(os.listdir("/proc/self/fd")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def model(seed=0):
    return DistributionalPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, seed=seed, device="cpu")


def test_a_single_number_that_is_not_finite_is_refused(tmp_path):
    tensors, _ = capture(model())
    next(iter(tensors["parameters"]["policy"].values())).view(-1)[-1] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        load_agent(model(1), tensors, tmp_path)


def test_a_checkpoint_that_lacks_a_parameter_does_not_fit(tmp_path):
    tensors, _ = capture(model())
    load_agent(model(1), tensors, tmp_path)
    tensors["parameters"]["policy"].pop("action_net.bias")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_agent(model(1), tensors, tmp_path)
