"""``VarianceGradientScalingMixin`` on hosts as they are found; the oracle is the host, times numpy's variance."""

import logging

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from torch import nn

from distributional_ppo import DistributionalPPO, VarianceGradientScalingMixin, variance_scaling_weight


class ScalarHost:
    """A trainer whose loss is a scalar, with the signature the mixin names."""

    def __init__(self, seed=0, **kwargs):
        assert not kwargs
        self.seed = seed
        torch.manual_seed(seed)
        self.net = nn.Linear(3, 8)

    def _quantile_huber_loss(self, predicted_quantiles, targets):
        return ((predicted_quantiles - targets.reshape(-1, 1)) ** 2).mean()

    def value_loss(self, obs, targets):
        return self._quantile_huber_loss(predicted_quantiles=self.net(obs), targets=targets)


class PerSampleHost(ScalarHost):
    """A trainer that takes per-sample losses, with names of its own and a reduction; it resets its attributes."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.use_variance_gradient_scaling = False
        self.variance_scaling_clip_max = None

    def _quantile_huber_loss(self, quantiles, returns, kappa=1.0, reduction="mean"):
        loss = nn.functional.huber_loss(quantiles, returns.reshape(-1, 1).expand_as(quantiles), reduction="none")
        return loss.mean(dim=1) if reduction == "none" else loss.mean()

    def value_loss(self, obs, targets):
        return self._quantile_huber_loss(self.net(obs), targets, 1.0, reduction="none")


HOSTS = [ScalarHost, PerSampleHost]
OBS, TARGETS = torch.linspace(-3, 3, 12).reshape(4, 3), torch.arange(4.0)


def patched(host, **flags):
    return type("Patched", (VarianceGradientScalingMixin, host), {})(**flags)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("clips", [(0.0, 100.0), (0.1, 0.2), (3.0, 3.0)])
def test_loss_and_gradient_are_the_hosts_times_the_weight(host, clips):
    plain, trainer = host(), patched(host, variance_scaling_clip_min=clips[0], variance_scaling_clip_max=clips[1])
    weight = np.clip(np.var(plain.net(OBS).detach().numpy(), axis=1).mean(), *clips)
    expected, loss = plain.value_loss(OBS, TARGETS), trainer.value_loss(OBS, TARGETS)
    assert loss.shape == expected.shape
    assert torch.allclose(loss, weight * expected)
    expected.sum().backward()
    loss.sum().backward()
    assert torch.allclose(trainer.net.weight.grad, weight * plain.net.weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("host", HOSTS)
def test_off_returns_the_hosts_result_as_it_is(host):
    trainer = patched(host, use_variance_gradient_scaling=False, seed=3)
    assert trainer.seed == 3
    marker = torch.tensor(1.0)
    host_result = type("Marked", (host,), {"_quantile_huber_loss": lambda self, *args, **kwargs: marker})
    assert patched(host_result, use_variance_gradient_scaling=False)._quantile_huber_loss(OBS, TARGETS) is marker


def test_every_call_is_weighed_by_its_own_quantiles_without_touching_the_random_numbers():
    trainer = patched(PerSampleHost)
    clipped = trainer.net(OBS).detach() * 0.5
    state = torch.get_rng_state()
    with torch.no_grad():
        losses = [trainer._quantile_huber_loss(q, TARGETS, reduction="none") for q in (trainer.net(OBS), clipped)]
        plain = [
            PerSampleHost._quantile_huber_loss(trainer, q, TARGETS, reduction="none")
            for q in (trainer.net(OBS), clipped)
        ]
        weights = [variance_scaling_weight(q, 0.1, 10.0) for q in (trainer.net(OBS), clipped)]
    assert weights[0] != weights[1]
    for loss, expected, weight in zip(losses, plain, weights, strict=True):
        assert torch.equal(loss, weight * expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_logs_the_mean_of_its_calls_once_there_is_a_logger():
    trainer = patched(ScalarHost)
    trainer.value_loss(OBS, TARGETS)  # before learn(): no logger
    trainer._logger = Logger(folder=None, output_formats=[])
    weights = [variance_scaling_weight(trainer.net(obs), 0.1, 10.0).item() for obs in (OBS, 2 * OBS)]
    for obs in (OBS, 2 * OBS):
        trainer.value_loss(obs, TARGETS)
    logged = trainer._logger.name_to_value
    assert logged["train/variance_scaling_weight"] == pytest.approx(np.mean(weights))
    assert logged["train/quantile_variance_mean"] == pytest.approx(np.mean(weights))  # none of them clamped


def test_wrong_clamps_and_a_host_that_scales_already_are_refused():
    with pytest.raises(ValueError, match="variance_scaling_clip_min"):
        patched(ScalarHost, variance_scaling_clip_min=2.0, variance_scaling_clip_max=1.0)
    with pytest.raises(TypeError, match="already"):
        patched(DistributionalPPO, policy="MlpPolicy", env="CartPole-v1")
    with pytest.raises(TypeError, match="_quantile_huber_loss"):
        patched(PPO, policy="MlpPolicy", env="CartPole-v1")


def test_a_logger_of_another_kind_is_left_alone():
    trainer = patched(ScalarHost)
    trainer._logger = logging.getLogger("host")
    assert trainer.value_loss(OBS, TARGETS).shape == ()


class Sb3Host(PPO):
    """A PPO whose own `train` computes its critic's loss through the hook."""

    def _quantile_huber_loss(self, predicted_quantiles, targets):
        return (predicted_quantiles - targets[:, None]).abs().mean()

    def train(self):
        for data in self.rollout_buffer.get(self.batch_size):
            spread = torch.linspace(-1, 1, 8)
            loss = self._quantile_huber_loss(self.policy.predict_values(data.observations) + spread, data.returns)
            self.policy.optimizer.zero_grad()
            loss.backward()
            self.policy.optimizer.step()


class PatchedSb3Host(VarianceGradientScalingMixin, Sb3Host):
    pass


def test_a_host_of_sb3_trains_logs_saves_and_loads_with_other_flags(tmp_path):
    model = PatchedSb3Host("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, variance_scaling_clip_max=5.0)
    model.learn(32)
    expected = np.var(np.linspace(-1, 1, 8))
    assert model.logger.name_to_value["train/variance_scaling_weight"] == pytest.approx(expected, rel=1e-5)
    model.save(tmp_path / "model")
    same = PatchedSb3Host.load(tmp_path / "model")
    assert (same.use_variance_gradient_scaling, same.variance_scaling_clip_max) == (True, 5.0)
    same._quantile_huber_loss(torch.zeros(2, 8), torch.zeros(2))  # after load there is no logger
    rolled_back = PatchedSb3Host.load(tmp_path / "model", use_variance_gradient_scaling=False)
    assert rolled_back.use_variance_gradient_scaling is False
    wrong = PatchedSb3Host.load(tmp_path / "model", variance_scaling_clip_min=9.0)
    with pytest.raises(ValueError, match="variance_scaling_clip_min"):
        wrong._quantile_huber_loss(torch.zeros(2, 8), torch.zeros(2))
