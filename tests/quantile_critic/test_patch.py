"""``VarianceGradientScalingMixin`` on hosts as they are found; the oracle is the host, times numpy's variance."""

import logging

import numpy as np
import pytest
import torch
from builders import RECURRENT_SHORT, SMALL_LSTM, ApartPolicy, Episodes
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from distributional_ppo import (
    DistributionalPPO,
    RecurrentDistributionalPPO,
    VarianceGradientScalingMixin,
)
from quantile_critic.losses import (
    quantile_huber_loss,
    variance_scaling_weight,
)


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
OBS = torch.linspace(-3, 3, 12).reshape(4, 3)
TARGETS = torch.arange(4.0)


def patched(host, **flags):
    return type("Patched", (VarianceGradientScalingMixin, host), {})(**flags)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("clips", [(0.0, 100.0), (0.1, 0.2), (3.0, 3.0)])
def test_loss_and_gradient_are_the_hosts_times_the_weight(host, clips):
    plain = host()
    trainer = patched(host, variance_scaling_clip_min=clips[0], variance_scaling_clip_max=clips[1])
    weight = np.clip(np.var(plain.net(OBS).detach().numpy(), axis=1).mean(), *clips)
    expected = plain.value_loss(OBS, TARGETS)
    loss = trainer.value_loss(OBS, TARGETS)

    assert loss.shape == expected.shape
    assert torch.allclose(loss, weight * expected)

    expected.sum().backward()
    loss.sum().backward()
    assert torch.allclose(
        trainer.net.weight.grad,
        weight * plain.net.weight.grad,
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("host", HOSTS)
def test_off_returns_the_hosts_result_as_it_is(host):
    trainer = patched(host, use_variance_gradient_scaling=False, seed=3)
    assert trainer.seed == 3

    marker = torch.tensor(1.0)
    host_result = type(
        "Marked",
        (host,),
        {"_quantile_huber_loss": lambda self, *args, **kwargs: marker},
    )

    assert patched(host_result, use_variance_gradient_scaling=False)._quantile_huber_loss(OBS, TARGETS) is marker


def test_every_minibatch_is_weighed_by_its_own_quantiles_without_touching_the_random_numbers():
    trainer = patched(PerSampleHost)
    quantiles = [trainer.net(OBS).detach(), trainer.net(OBS).detach() * 0.5]
    state = torch.get_rng_state()
    losses = [trainer._quantile_huber_loss(q, TARGETS.clone(), reduction="none") for q in quantiles]
    plain = [PerSampleHost._quantile_huber_loss(trainer, q, TARGETS, reduction="none") for q in quantiles]
    weights = [variance_scaling_weight(q, 0.1, 10.0) for q in quantiles]

    assert weights[0] != weights[1]

    for loss, expected, weight in zip(losses, plain, weights, strict=True):
        assert torch.equal(loss, weight * expected)

    assert torch.equal(torch.get_rng_state(), state)


def quantiles_of_variance(*variances):
    """One row for each, in which the quantiles lie one standard deviation above and below 0 by turns."""
    signs = torch.tensor([1.0, -1.0]).repeat(4)
    return torch.stack([variance**0.5 * signs for variance in variances])


@pytest.mark.parametrize("host", HOSTS)
def test_it_logs_in_mode_batch_the_mean_of_its_calls(host):
    trainer = patched(host, variance_scaling_clip_min=0.5, variance_scaling_clip_max=4.0)
    trainer.net = nn.Identity()
    targets = torch.zeros(2)
    trainer.value_loss(quantiles_of_variance(9.0, 9.0), targets)  # before learn(): no logger
    trainer._logger = Logger(folder=None, output_formats=[])
    for variances in [(1.0, 3.0), (0.1, 0.3), (5.0, 11.0), (2.0, 2.0)]:
        trainer.value_loss(quantiles_of_variance(*variances), targets)

    assert trainer._logger.name_to_value == pytest.approx(
        {
            "train/variance_scaling_weight": (2.0 + 0.5 + 4.0 + 2.0) / 4,
            "train/variance_scaling_clamped": 2 / 4,
            "train/quantile_variance_mean": (2.0 + 0.2 + 8.0 + 2.0) / 4,
            "train/quantile_variance_std": (1.0 + 0.1 + 3.0 + 0.0) / 4,
        }
    )


def test_it_logs_in_mode_dsac_t_the_mean_over_samples_and_calls():
    """
    The first call's standard deviations are 1 and 3, their average 2: weights 4 / (1 + 0.1) and 4 / (9 + 0.1).
    The second's are 2 and 0, and the debiased average becomes (0.995 * 2 + 1) / 1.995 = m: m^2 / 4.1, m^2 / 0.1.
    """
    m = 2.99 / 1.995
    flags = dict(
        variance_scaling_clip_min=0.5,
        variance_scaling_clip_max=5.0,
        variance_scaling_mode="dsac_t",
    )
    trainer = patched(PerSampleHost, **flags)
    trainer.net = nn.Identity()
    trainer._logger = Logger(folder=None, output_formats=[])
    for variances in [(1.0, 9.0), (4.0, 0.0)]:
        trainer.value_loss(quantiles_of_variance(*variances), torch.zeros(2))

    assert trainer._logger.name_to_value == pytest.approx(
        {
            "train/variance_scaling_weight": ((4 / 1.1 + 0.5) / 2 + (m**2 / 4.1 + 5.0) / 2) / 2,
            "train/variance_scaling_clamped": 2 / 4,
            "train/quantile_variance_mean": (5.0 + 2.0) / 2,
            "train/quantile_variance_std": (4.0 + 2.0) / 2,
        }
    )


@pytest.mark.parametrize(("mode", "clip_min"), [("batch", 0.03), ("dsac_t", 0.12)])
def test_its_scalars_have_the_names_and_values_of_the_class(mode, clip_min):
    """A trainer with the mixin is shown every minibatch of the class."""
    clips = dict(variance_scaling_mode=mode, variance_scaling_clip_min=clip_min)
    shown = patched(PerSampleHost, **clips)
    shown._logger = Logger(folder=None, output_formats=[])

    class Showing(DistributionalPPO):
        def _quantile_huber_loss(self, predicted_quantiles, targets, *args, **kwargs):
            shown._quantile_huber_loss(predicted_quantiles, targets, reduction="none")
            return super()._quantile_huber_loss(predicted_quantiles, targets, *args, **kwargs)

    steps = dict(n_steps=64, batch_size=16, n_epochs=3, seed=0, device="cpu")
    apart = dict(n_quantiles=8)
    model = Showing(
        ApartPolicy,
        "CartPole-v1",
        normalize_returns=True,
        policy_kwargs=apart,
        **steps,
        **clips,
    ).learn(64)
    logged = shown._logger.name_to_value
    names = ("scaling_weight", "scaling_clamped", "mean", "std")

    assert set(logged) == {f"train/{'variance' if 'scal' in name else 'quantile_variance'}_{name}" for name in names}
    assert 0 < logged["train/variance_scaling_clamped"] < 1

    for name, value in logged.items():
        assert model.logger.name_to_value[name] == pytest.approx(value, rel=1e-5), name


def test_weights_per_sample_ask_for_losses_per_sample():
    with pytest.raises(ValueError, match=r"shape \(B,\), got \(\)"):
        patched(ScalarHost, variance_scaling_mode="dsac_t").value_loss(OBS, TARGETS)

    with pytest.raises(ValueError, match="variance_scaling_mode"):
        patched(ScalarHost, variance_scaling_mode="both")


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
    model = PatchedSb3Host(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=32,
        batch_size=32,
        variance_scaling_clip_max=5.0,
    )
    model.learn(32)
    expected = np.var(np.linspace(-1, 1, 8))

    assert model.logger.name_to_value["train/variance_scaling_weight"] == pytest.approx(expected, rel=1e-5)

    model.save(tmp_path / "model")
    same = PatchedSb3Host.load(tmp_path / "model")
    assert (same.use_variance_gradient_scaling, same.variance_scaling_clip_max) == (
        True,
        5.0,
    )

    same._quantile_huber_loss(torch.zeros(2, 8), torch.zeros(2))  # after load there is no logger
    rolled_back = PatchedSb3Host.load(tmp_path / "model", use_variance_gradient_scaling=False)
    assert rolled_back.use_variance_gradient_scaling is False

    wrong = PatchedSb3Host.load(tmp_path / "model", variance_scaling_clip_min=9.0)
    with pytest.raises(ValueError, match="variance_scaling_clip_min"):
        wrong._quantile_huber_loss(torch.zeros(2, 8), torch.zeros(2))


class LearningHost:
    """A trainer of a critic, whose quantiles begin as one, on x -> 2 x + noise."""

    def __init__(self):
        torch.manual_seed(0)
        last = nn.Linear(16, 8)
        last.weight.data[:] = last.weight.data[:1]
        last.bias.data[:] = 0
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), last)

    def _quantile_huber_loss(self, quantiles, targets):
        return quantile_huber_loss(quantiles, targets, 1.0)

    def learn(self, steps):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=3e-3)
        for _ in range(steps):
            x = torch.rand(64, 1) * 2 - 1
            loss = self._quantile_huber_loss(self.net(x), 2 * x[:, 0] + 0.1 * torch.randn(64)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class PatchedLearningHost(VarianceGradientScalingMixin, LearningHost):
    pass


@pytest.mark.parametrize("mode", ["batch", "dsac_t"])
def test_a_trainer_with_the_mixin_and_no_lower_clamp_learns(mode):
    """The variance of 2 x, x uniform on [-1, 1], is 4 / 3."""
    trainer = PatchedLearningHost(variance_scaling_clip_min=0, variance_scaling_mode=mode)
    trainer.learn(300)
    x = torch.linspace(-1, 1, 101)[:, None]
    with torch.no_grad():
        error = (trainer.net(x).mean(dim=1) - 2 * x[:, 0]).square().mean()

    assert error < 0.2 * 4 / 3


class RecurrentHost(RecurrentPPO):
    """A recurrent trainer with a quantile loss of its own, one sequence of whole episodes per minibatch."""

    def _quantile_huber_loss(self, predicted_quantiles, targets, reduction="none"):
        return quantile_huber_loss(predicted_quantiles, targets, 1.0)

    def train(self):
        super().train()
        data = next(self.rollout_buffer.get(None))
        real = data.mask > 0
        values, _, _ = self.policy.evaluate_actions(
            data.observations,
            data.actions.long().flatten(),
            data.lstm_states,
            data.episode_starts,
        )
        self.loss = self._quantile_huber_loss(values[real] + torch.arange(4.0), data.returns[real]).mean()


def test_the_mixin_on_a_recurrent_host():
    patched = type("Patched", (VarianceGradientScalingMixin, RecurrentHost), {})
    losses = {}

    for cls, flags in (
        (RecurrentHost, {}),
        (patched, dict(variance_scaling_clip_max=0.5)),
    ):
        env = DummyVecEnv([Episodes] * 3)
        losses[cls] = (
            cls(
                "MlpLstmPolicy",
                env,
                policy_kwargs=SMALL_LSTM,
                **RECURRENT_SHORT,
                **flags,
            )
            .learn(96)
            .loss.item()
        )

    # The variance of 0, 1, 2, 3 is 1.25, above the clamp.
    assert losses[patched] == pytest.approx(0.5 * losses[RecurrentHost], rel=1e-6)
    with pytest.raises(TypeError, match="scales its value loss already"):
        type("Twice", (VarianceGradientScalingMixin, RecurrentDistributionalPPO), {})("MlpLstmPolicy", "CartPole-v1")
