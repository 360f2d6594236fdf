"""
Distributional PPO: Stable-Baselines3's PPO with a quantile critic and variance gradient scaling.

Symbols: B samples of a minibatch, N quantiles, T steps of a rollout, E environments.

The critic predicts N quantiles q_1..q_N of the return at the midpoints tau_i = (i + 0.5) / N, i = 0..N-1.
For a minibatch with targets y_b (the GAE(lambda) returns) the value loss is::

    u_bi   = y_b - q_bi
    huber  = u^2 / 2 where |u| <= kappa, kappa * (|u| - kappa / 2) elsewhere
    loss_b = mean_i |tau_i - 1{u_bi < 0}| * huber(u_bi) / kappa
    loss_b = max(loss_b, the same of the clipped quantiles)              (with clip_range_vf)
    v_b    = var_i q_bi                                  (population variance, no gradient)
    w      = clamp(mean_b v_b, clip_min, clip_max)       (mode "batch": one number for the minibatch)
    w_b    = clamp(m^2 / (v_b + 0.1), clip_min, clip_max)         (mode "dsac_t": m averages mean_b sqrt(v_b))
    loss   = policy_loss + ent_coef * entropy_loss + vf_coef * w * mean_b loss_b

With ``value_target="sr_lambda"`` the target is a sample Z of N atoms, and loss_b the mean over them: backwards in time
Z_t = r_t + gamma * (1 - d_t) * (Z_t+1 with probability lambda, else the critic's quantiles at s_t+1).
Twin critics have such a loss and weight each; the value is the smaller of their means.

With ``normalize_returns`` the critic works on (return - ret_mean) / ret_std, and so do the loss and v_b;
``predict_values`` and ``predict_quantiles`` always answer in raw units.

Sources: quantile regression, Dabney et al. 2017 (arXiv 1710.10044); the division by kappa, Dabney et al. 2018
(IQN, arXiv 1806.06923, eq. 3); sample replacement, Nam et al. 2021 (GMAC, arXiv 2105.11366); weights of "dsac_t",
Duan et al. 2023 (DSAC-T, arXiv 2310.05858, in its authors' code); twin critics, Fujimoto et al. 2018 (arXiv
1802.09477); PopArt, van Hasselt et al. 2016 (arXiv 1602.07714, eq. 6-9); PPO, Schulman et al.
2017 (arXiv 1707.06347), in the implementation of Stable-Baselines3.

Where this differs from Stable-Baselines3's PPO, other than by the critic and its loss:

1. ``train/value_loss`` is the mean quantile-Huber loss BEFORE the weight, so that runs can be compared.
2. ``train/approx_kl`` is the mean over all epochs; PPO reports the last epoch only.
3. Scalars are written after the update they describe, at the step that ended its rollout, those of the last update
   always. PPO writes them one rollout later, and those of the last update never.
4. An update that meets a NaN or an infinity is undone and raises ``FloatingPointError``, of a kind that is also a
   ``ValueError``, as torch raises it in PPO.
5. ``load`` refuses keywords that are no attribute of the model; PPO makes them one.
6. ``n_epochs`` and ``batch_size`` below 1 are refused by the constructor; the TensorBoard folder of a run is called
   ``DistributionalPPO_1``, not ``PPO_1``.
7. Optimizers of torch that have a fused form take it on the CPU, unless ``optimizer_kwargs`` say ``fused`` or
   ``foreach``: fused Adam rounds differently.
8. ``clip_range_vf`` takes the larger of the unclipped and the clipped loss of each sample, as OpenAI's baselines do;
   SB3's PPO takes the clipped one. It is not applied in the first update with ``normalize_returns``, which has no
   older predictions to stay near.
9. Adam's eps, unless ``optimizer_kwargs`` are given or N is 1, is 1e-8 for what only the critic uses, else PPO's 1e-5.
   The mean over N quantiles and a weight of 0.1 make the critic's gradients smaller than PPO's, the head's 1000 times
   with 32 quantiles; 1e-5 is not small beside them, and slowed the critic on Acrobot, Hopper and HalfCheetah.
10. All quantiles begin as one, PPO's value of the same seed, unless ``equal_init`` is False. Drawn one by one, their
   mean has weights of 1 / sqrt(N) the norm of PPO's, and the layers before the head learn the slower for it.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common import preprocessing
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    sum_independent_dims,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, RolloutBufferSamples, Schedule
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

__version__ = "0.1.0"
__all__ = [
    "DistributionalPPO",
    "QuantileActorCriticCnnPolicy",
    "QuantileActorCriticPolicy",
    "QuantileMultiInputActorCriticPolicy",
    "VarianceGradientScalingMixin",
    "quantile_huber_loss",
    "quantile_midpoints",
    "variance_scaling_weight",
]

VfClipMode = Literal["per_quantile", "mean_only", "mean_and_variance", "disable"]
PPO_ADAM_EPS = 1e-5  # what SB3's policy gives to Adam
CRITIC_ADAM_EPS = 1e-8  # torch's own
DSAC_T_BIAS = 0.1  # DSAC-T, its authors' code: keeps the weight finite where the variance is 0
DSAC_T_RATE = 0.005  # likewise: of the moving average of the standard deviation
CHOICES: dict[str, tuple[str | None, ...]] = {
    "value_target": ("gae", "sr_lambda"),
    "distributional_vf_clip_mode": (None, "per_quantile", "mean_only", "mean_and_variance", "disable"),
    "clip_range_vf_units": ("raw", "std"),
    "variance_scaling_mode": ("batch", "dsac_t"),
}

SelfDistributionalPPO = TypeVar("SelfDistributionalPPO", bound="DistributionalPPO")


# --------------------------------------------------------------------------------------------- the quantile maths


def quantile_midpoints(n_quantiles: int, like: Tensor) -> Tensor:
    """
    Midpoints tau_i = (i + 0.5) / N of N equal shares of probability (Dabney et al. 2017, lemma 2).

    :param n_quantiles: N
    :param like: tensor whose dtype and device the result takes
    :return: shape (N,), increasing, symmetric around 0.5
    """
    return (torch.arange(n_quantiles, dtype=like.dtype, device=like.device) + 0.5) / n_quantiles


def quantile_huber_loss(quantiles: Tensor, targets: Tensor, kappa: float, tau: Tensor | None = None) -> Tensor:
    """
    Quantile-Huber loss of each sample, the mean over its quantiles (IQN, eq. 3, with one target per sample).

    For kappa far above the errors it is expectile regression, u^2 / 2 weighted by sign; towards 0, quantile regression.

    :param quantiles: predictions, shape (B, N)
    :param targets: one return per sample in the units of the predictions, shape (B,) or (B, 1), or M atoms each, (B, M)
    :param kappa: where the loss turns from quadratic to linear, > 0, in the units of the predictions
    :param tau: the midpoints, shape (N,), for those who have them at hand
    :return: shape (B,); the mean over the atoms
    """
    tau = quantile_midpoints(quantiles.shape[1], like=quantiles) if tau is None else tau
    if targets.dim() == 2 and targets.shape[1] > 1:
        atoms = targets.shape[1]
        pairs = quantile_huber_loss(quantiles.repeat_interleave(atoms, dim=0), targets.reshape(-1), kappa, tau)
        return pairs.reshape(-1, atoms).mean(dim=1)
    targets = targets.reshape(-1, 1)
    share = (tau - (targets < quantiles.detach()).to(tau.dtype)).abs()
    huber = F.huber_loss(quantiles, targets.expand_as(quantiles), reduction="none", delta=kappa)
    return (share * huber / kappa).mean(dim=1)


def quantile_variance(quantiles: Tensor) -> Tensor:
    """
    Variance of each sample's quantiles around their mean, without gradient.

    :param quantiles: shape (..., N)
    :return: population variance (divided by N), shape (...), in squared units of the quantiles
    :raises ValueError: on quantiles without a batch dimension
    """
    if quantiles.dim() < 2:
        raise ValueError(f"quantiles must have shape (B, N), got {tuple(quantiles.shape)}")
    return quantiles.detach().var(dim=-1, unbiased=False)


def clip_quantiles(
    quantiles: Tensor, old: Tensor, eps: float | Tensor, mode: VfClipMode, variance_factor: float
) -> Tensor:
    """
    Predictions held near those of the rollout.

    :param quantiles: predictions, shape (B, N)
    :param old: those of the policy that collected the rollout, shape (B, N), same units
    :param eps: how far they may move, > 0, same units
    :param mode: "per_quantile": every quantile by at most eps; "mean_only": all are shifted so that their mean moves by
        at most eps; "mean_and_variance": and then drawn to their mean until their standard deviation is at most
        ``variance_factor`` times the old one, unless they were all equal
    :param variance_factor: for "mean_and_variance", > 0
    :return: shape (B, N); to the last bit the predictions themselves where nothing is held back
    """
    eps = torch.as_tensor(eps, dtype=old.dtype, device=old.device)
    if mode == "per_quantile":
        moved = quantiles - old
        return torch.where(moved.abs() > eps, old + moved.clamp(-eps, eps), quantiles)
    mean, old_mean = quantiles.mean(dim=1, keepdim=True), old.mean(dim=1, keepdim=True)
    moved = mean - old_mean
    shifted = quantiles + (moved.clamp(-eps, eps) - moved)
    if mode == "mean_only":
        return shifted
    center = old_mean + moved.clamp(-eps, eps)
    # Clamped, since the gradient of a root at 0 is infinite.
    std = (quantiles - mean).square().mean(dim=1, keepdim=True).clamp(min=1e-12).sqrt()
    old_std = old.std(dim=1, keepdim=True, unbiased=False)
    scale = variance_factor * old_std / std
    # Quantiles begin as one, up to rounding: no spread that the first update could be held to.
    has_spread = old_std > 1e-6 * old.abs().amax(dim=1, keepdim=True)
    return torch.where((scale < 1.0) & has_spread, center + (quantiles - mean) * scale, shifted)


def variance_scaling_weight(quantiles: Tensor, clip_min: float, clip_max: float) -> Tensor:
    """
    Weight of a minibatch's value loss: the mean variance of its predicted quantiles, clamped. One line in a trainer::

        value_loss = variance_scaling_weight(quantiles, 0.1, 10.0) * value_loss

    :param quantiles: predicted quantiles in the units of the loss, shape (B, N) (any leading shape is accepted)
    :param clip_min: lower clamp, >= 0
    :param clip_max: upper clamp, >= clip_min
    :return: scalar tensor without gradient, within [clip_min, clip_max]
    :raises ValueError: on quantiles without a batch dimension or clamps that are no range
    """
    return batch_weight(quantile_variance(quantiles), clip_min, clip_max)


def batch_weight(variance: Tensor, clip_min: float, clip_max: float) -> Tensor:
    """
    :param variance: variance of each sample's quantiles, shape (B,)
    :param clip_min: lower clamp
    :param clip_max: upper clamp
    :return: their mean, clamped; scalar tensor
    :raises ValueError: on clamps that are no range
    """
    _check_clip_range(clip_min, clip_max)
    return variance.mean().clamp(clip_min, clip_max)


def sample_weights(variance: Tensor, std_average: Tensor, clip_min: float, clip_max: float) -> Tensor:
    """
    Weights of DSAC-T (arXiv 2310.05858, in its authors' code): small where the distribution is wide.

    :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
    :param std_average: moving average m of their mean standard deviation, scalar
    :param clip_min: lower clamp
    :param clip_max: upper clamp
    :return: clamp(m^2 / (v_b + 0.1)), shape (B,). The 0.1 is absolute: it asks for normalised returns
    """
    return (std_average**2 / (variance + DSAC_T_BIAS)).clamp(clip_min, clip_max)


def next_std_average(average: Tensor | None, variance: Tensor) -> Tensor:
    """
    :param average: moving average of the minibatches' mean standard deviation, scalar; None or 0: there was none
    :param variance: variance of each sample's quantiles, shape (B,)
    :return: with this minibatch taken in at ``DSAC_T_RATE``; the first as it is
    """
    std = variance.sqrt().mean()
    return std if average is None else torch.where(average > 0, average + DSAC_T_RATE * (std - average), std)


def _check_clip_range(clip_min: float, clip_max: float) -> None:
    """Raise unless 0 <= clip_min <= clip_max, both finite and clip_max > 0."""
    if not (0.0 <= clip_min <= clip_max < math.inf and clip_max > 0.0):
        raise ValueError(
            "variance_scaling_clip_min and variance_scaling_clip_max must be finite with 0 <= min <= max and max > 0, "
            f"got {clip_min} and {clip_max}"
        )


# ------------------------------------------------------------------------------------ the quantile head, the policy


class QuantileHead(nn.Module):
    """
    The ``value_net`` of C quantile critics, 1 or 2. SB3's policies call it like their own: ``forward`` gives the value,
    shape (B, 1), in raw units. Inside ``emit_quantiles()`` it gives the quantiles in the units of the loss, (B, C * N),
    one critic's after the other's.

    The buffers hold the return statistics, so that they are saved and moved with the policy. Mean 0 and std 1 mean
    that returns are not normalised; std 0 that no statistics exist yet (or all returns were equal). ``std_average`` is
    the moving average of mode "dsac_t", one per critic, 0 before its first value.

    :param value_net: SB3's value head; its last linear layer, of one output, is widened to N
    :param n_quantiles: N
    :param n_critics: C; the second critic has a copy of the head, initialised anew, and the second half of the latents
    :raises ValueError: if ``value_net`` does not end in a linear layer of one output
    """

    ret_mean: Tensor
    ret_std: Tensor
    ret_updates: Tensor
    std_average: Tensor
    tau: Tensor
    is_to_be_equalized = False  # as soon as all parameters are drawn

    def __init__(self, value_net: nn.Module, n_quantiles: int, n_critics: int = 1, equal_init: bool = True):
        super().__init__()
        self.net = value_net
        self.n_critics = n_critics
        self.is_to_be_equalized = equal_init
        self._emits_quantiles = False
        self.register_buffer("ret_mean", torch.zeros(()))
        self.register_buffer("ret_std", torch.ones(()))
        self.register_buffer("ret_updates", torch.zeros(()))
        self.register_buffer("std_average", torch.zeros(n_critics))
        self.register_buffer("tau", quantile_midpoints(n_quantiles, like=self.ret_mean), persistent=False)
        named = [(name, m) for name, m in value_net.named_modules() if isinstance(m, nn.Linear)]
        if not named or named[-1][1].out_features != 1:
            raise ValueError(
                f"value_net must end in an nn.Linear of one output to become a quantile critic, got {value_net}"
            )
        self.last_layer_name, last = named[-1]
        if nn.utils.parametrize.is_parametrized(last) or not isinstance(last.weight, nn.Parameter):
            raise ValueError(f"value_net's last layer cannot be widened to {n_quantiles} quantiles: it is parametrized")
        if n_quantiles > 1:  # for N = 1 the layer stays as it is: the reduction to PPO is exact to the random numbers
            last.out_features = n_quantiles
            last.weight = nn.Parameter(last.weight.detach().expand(n_quantiles, -1).clone())
            if last.bias is not None:
                last.bias = nn.Parameter(last.bias.detach().expand(n_quantiles).clone())
            if not equal_init:
                last.reset_parameters()
        if n_critics > 1:
            self.second = _another(value_net)

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """
        As ``Module.apply``. Where all quantiles begin as one, what initialises the last layer meets that one, and takes
        as many random numbers as for PPO's value.
        """
        narrow = [p for last in self.last_layers for p in last.parameters()] if self.is_to_be_equalized else []
        for parameter in narrow:
            parameter.data = parameter.data[:1]
        super().apply(fn)
        for parameter in narrow:
            parameter.data = parameter.data.repeat_interleave(len(self.tau), dim=0)
        return self

    @torch.no_grad()
    def equalize(self) -> None:
        """Let all quantiles of a critic be its first one, whatever has initialised them since they were made."""
        for last in self.last_layers:
            for parameter in last.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter))
        self.is_to_be_equalized = False

    @property
    def last_layers(self) -> list[nn.Linear]:
        """The layers that give the quantiles, one per critic."""
        nets = [self.net, self.second] if self.n_critics > 1 else [self.net]
        return [cast(nn.Linear, net.get_submodule(self.last_layer_name)) for net in nets]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a policy's own code may ask its value_net for `weight`, as it could before
            return getattr(super().__getattr__("net"), name)

    def forward(self, latent_vf: Tensor) -> Tensor:
        """
        :param latent_vf: output of the value network, shape (B, features), of the critics side by side
        :return: smallest mean of a critic's quantiles in raw units, shape (B, 1); inside ``emit_quantiles()`` the
            quantiles, (B, C * N)
        """
        if self.n_critics == 1:
            quantiles = self.net(latent_vf)
            return quantiles if self._emits_quantiles else self.to_raw(quantiles.mean(dim=1, keepdim=True))
        first, second = latent_vf.chunk(2, dim=1)
        quantiles = torch.cat([self.net(first), self.second(second)], dim=1)
        if self._emits_quantiles:
            return quantiles
        return self.to_raw(self.of_smaller_mean(quantiles).mean(dim=1, keepdim=True))

    def of_smaller_mean(self, quantiles: Tensor) -> Tensor:
        """
        :param quantiles: of all critics, shape (B, C * N)
        :return: for every sample those of the critic with the smaller mean, shape (B, N)
        """
        if self.n_critics == 1:
            return quantiles
        first, second = quantiles.chunk(2, dim=1)
        smaller = first.mean(dim=1, keepdim=True) <= second.mean(dim=1, keepdim=True)
        return torch.where(smaller, first, second)

    @contextlib.contextmanager
    def emit_quantiles(self) -> Iterator[None]:
        """Let ``forward`` give quantiles, so that any policy's own ``evaluate_actions`` returns them as its values."""
        self._emits_quantiles = True
        try:
            yield
        finally:
            self._emits_quantiles = False

    def to_raw(self, normalized: Tensor) -> Tensor:
        """From units of the loss to raw units."""
        return normalized * self.ret_std + self.ret_mean

    def to_normalized(self, raw: Tensor) -> Tensor:
        """From raw units to units of the loss. Where all returns were equal (std 0) the result is their deviation."""
        return (raw - self.ret_mean) / torch.where(self.ret_std > 0, self.ret_std, 1.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}std_average", torch.zeros_like(self.std_average))  # archives without "dsac_t"
        super()._load_from_state_dict(state_dict, prefix, *args)

    def observe_returns(self, returns: np.ndarray, rate: float | None, popart: bool) -> None:
        """
        Take one rollout's returns into the statistics: a debiased exponential average of their mean and mean square.

        :param returns: raw returns of the rollout, any shape, finite
        :param rate: weight of the newest rollout; None weighs all rollouts alike
        :param popart: keep the raw predictions as they were by rescaling the last layer
        """
        self.ret_updates += 1
        n = self.ret_updates.item()
        rate = 1 / n if rate is None else min(1.0, rate / (1 - (1 - rate) ** n))  # rounding can exceed 1
        old_mean, old_std = self.ret_mean.item(), self.ret_std.item()
        # Averaging E[x] and E[x^2], written around the means: E[x^2] - E[x]^2 would cancel when |mean| >> std.
        batch_mean, batch_var = returns.mean(dtype=np.float64), returns.var(dtype=np.float64)
        mean = old_mean + rate * (batch_mean - old_mean)
        variance = (1 - rate) * (old_std**2 + (old_mean - mean) ** 2) + rate * (batch_var + (batch_mean - mean) ** 2)
        self.set_statistics(mean, math.sqrt(variance), popart=popart)

    @torch.no_grad()
    def set_statistics(self, mean: float, std: float, popart: bool) -> None:
        """
        :param mean: new mean of the raw returns
        :param std: new standard deviation of the raw returns, >= 0
        :param popart: rescale the last layer so that raw predictions stay as they are; skipped where a std is 0
        """
        old_mean, old_std = self.ret_mean.item(), self.ret_std.item()
        self.ret_mean.fill_(mean)
        self.ret_std.fill_(std)
        mean, std = self.ret_mean.item(), self.ret_std.item()  # as rounded to the buffer: the layer must match that
        if not (popart and old_std > 0 and std > 0):
            return
        self.std_average.mul_(old_std / std)
        for last in self.last_layers:
            if last.bias is not None:
                last.weight.mul_(old_std / std)
                last.bias.mul_(old_std / std).add_((old_mean - mean) / std)


def _another(module: nn.Module) -> nn.Module:
    """A copy of a module with parameters drawn anew."""
    other = copy.deepcopy(module)
    parts: Any = other.modules()
    for part in parts:
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return other


class TwinNet(nn.Module):
    """
    Two networks in place of one, their outputs side by side.

    :param first: the one
    :param second: the other
    :param split: whether each gets its half of the input, not all of it
    """

    def __init__(self, first: nn.Module, second: nn.Module, split: bool):
        super().__init__()
        self.first, self.second, self.split = first, second, split

    def forward(self, inputs: Any) -> Tensor:
        """:return: shape (B, twice the features of one)"""
        halves = inputs.chunk(2, dim=1) if self.split else (inputs, inputs)
        return torch.cat([self.first(halves[0]), self.second(halves[1])], dim=1)


def _unless_shown(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method of a lean distribution, in whose place SB3's answers once the object it asks has been shown."""

    @functools.wraps(method)
    def chosen(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.shown is None:
            return method(self, *args, **kwargs)
        return getattr(super(type(self), self), method.__name__)(*args, **kwargs)

    return chosen


class LeanDistribution:
    """
    SB3's distribution, to the last bit, without an object of ``torch.distributions`` for every batch. Whoever asks for
    that object gets it, and may change it or put another in its place: it is then the distribution of this batch.
    """

    shown: Any = None  # what was asked for

    def torch_distribution(self) -> Any:
        """:return: a new object of ``torch.distributions``"""
        raise NotImplementedError

    @property
    def distribution(self) -> Any:
        """As SB3's attribute."""
        if self.shown is None:
            self.shown = self.torch_distribution()
        return self.shown

    @distribution.setter
    def distribution(self, distribution: Any) -> None:
        self.shown = distribution


class LeanCategoricalDistribution(LeanDistribution, CategoricalDistribution):
    """For discrete actions."""

    logits: Tensor

    def proba_distribution(self, action_logits: Tensor) -> LeanCategoricalDistribution:
        self.logits, self.shown = action_logits - action_logits.logsumexp(dim=-1, keepdim=True), None
        return self

    def torch_distribution(self) -> Categorical:
        return Categorical(logits=self.logits)

    @_unless_shown
    def log_prob(self, actions: Tensor) -> Tensor:
        places, logits = torch.broadcast_tensors(actions.long().unsqueeze(-1), self.logits)  # type: ignore[no-untyped-call]
        log_prob: Tensor = logits.gather(-1, places[..., :1]).squeeze(-1)
        return log_prob

    @_unless_shown
    def entropy(self) -> Tensor:
        logits = self.logits.clamp(min=torch.finfo(self.logits.dtype).min)  # impossible actions: 0 * -inf is NaN
        return -(logits * F.softmax(self.logits, dim=-1)).sum(-1)

    @_unless_shown
    def sample(self) -> Tensor:
        probs = F.softmax(self.logits, dim=-1)
        if torch.compiler.is_compiling():  # multinomial is no part of a graph
            below = probs.cumsum(-1) <= torch.rand_like(probs[..., :1])
            return below.sum(-1).clamp(max=probs.shape[-1] - 1)
        return torch.multinomial(probs, 1, replacement=True).squeeze(-1)

    @_unless_shown
    def mode(self) -> Tensor:
        return F.softmax(self.logits, dim=-1).argmax(dim=1)


class LeanDiagGaussianDistribution(LeanDistribution, DiagGaussianDistribution):
    """For continuous actions."""

    mean: Tensor
    std: Tensor

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> LeanDiagGaussianDistribution:
        self.mean, self.std, self.shown = mean_actions, torch.ones_like(mean_actions) * log_std.exp(), None
        return self

    def torch_distribution(self) -> Normal:
        return Normal(self.mean, self.std)

    @_unless_shown
    def log_prob(self, actions: Tensor) -> Tensor:
        squares = -((actions - self.mean) ** 2) / (2 * self.std**2)
        return sum_independent_dims(squares - self.std.log() - math.log(math.sqrt(2 * math.pi)))

    @_unless_shown
    def entropy(self) -> Tensor:
        return sum_independent_dims(0.5 + 0.5 * math.log(2 * math.pi) + self.std.log())

    @_unless_shown
    def sample(self) -> Tensor:
        return self.mean + torch.randn_like(self.mean) * self.std

    @_unless_shown
    def mode(self) -> Tensor:
        return self.mean


LEAN_DISTRIBUTIONS: dict[type[Distribution], type[Any]] = {
    CategoricalDistribution: LeanCategoricalDistribution,
    DiagGaussianDistribution: LeanDiagGaussianDistribution,
}


class QuantileActorCriticPolicy(ActorCriticPolicy):
    """
    Any actor-critic policy with a critic of N quantiles. Takes what ``ActorCriticPolicy`` takes, and:

    :param n_quantiles: number of quantiles N of the critic, at least 1
    :param n_critics: 1 or 2 (``DistributionalPPO`` sets it from ``use_twin_critics``): value network and head, and
        the features extractor where it is not shared with the actor
    :param equal_init: let all quantiles begin as the value that SB3's policy has with the same seed; False: each with
        weights drawn for itself
    :raises TypeError: if ``equal_init`` is not a bool
    :raises ValueError: if ``n_quantiles`` is not a positive integer, or two critics are asked of a policy whose
        ``mlp_extractor`` has no ``value_net``
    """

    value_net: QuantileHead  # type: ignore[assignment]
    compiled_forward: Callable[..., Any] | None = None  # for the time of a rollout
    compiled_shapes: Any = None  # of the observations it takes

    def __init__(self, *args: Any, n_quantiles: int = 32, n_critics: int = 1, equal_init: bool = True, **kwargs: Any):
        if not isinstance(equal_init, bool):
            raise TypeError(f"equal_init must be True or False, got {equal_init!r}")
        self.equal_init = equal_init
        if n_critics not in (1, 2):
            raise ValueError(f"n_critics must be 1 or 2, got {n_critics!r}")
        self.n_critics = n_critics
        if not isinstance(n_quantiles, int | np.integer) or isinstance(n_quantiles, bool) or n_quantiles < 1:
            raise ValueError(f"n_quantiles must be an integer of at least 1, got {n_quantiles!r}")
        self.n_quantiles = int(n_quantiles)
        default = kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam
        self.has_default_optimizer = default and kwargs.get("optimizer_kwargs") is None
        super().__init__(*args, **kwargs)
        if n_critics > 1:
            self._is_twin(getattr(self, "mlp_extractor", None))

    def __setattr__(self, name: str, value: Any) -> None:
        # SB3 writes `value_net` with one output into `_build`. Widening it at the assignment comes before
        # initialisation and optimizer, so both see the quantile head, whatever `_build` a subclass brings.
        if name == "value_net" and not isinstance(value, QuantileHead):
            value = QuantileHead(value, self.n_quantiles, self.n_critics, self.equal_init)
        elif name == "vf_features_extractor" and self.n_critics > 1 and not isinstance(value, TwinNet):
            if not self.share_features_extractor:
                value = TwinNet(value, self.make_features_extractor(), split=False)
        elif name == "mlp_extractor" and self.n_critics > 1 and not self._is_twin(value):
            value.value_net = TwinNet(value.value_net, _another(value.value_net), not self.share_features_extractor)
        elif name == "action_dist" and type(value) in LEAN_DISTRIBUTIONS:
            value = LEAN_DISTRIBUTIONS[type(value)](value.action_dim)
        elif name == "action_dist" and isinstance(value, MultiCategoricalDistribution):
            value.action_dims = [int(n) for n in value.action_dims]  # numpy's would be variables of a compiled graph
        elif name == "optimizer" and self.n_quantiles > 1:  # the last that SB3's `_build` makes: all is drawn
            if self.value_net.is_to_be_equalized:
                self.value_net.equalize()
            if self.has_default_optimizer:
                self._set_critic_eps(value)
        super().__setattr__(name, value)

    def _set_critic_eps(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the parameters of the critic alone a group of their own, unless the policy's own optimizer differs."""
        default = type(optimizer) is torch.optim.Adam and optimizer.param_groups[0]["eps"] == PPO_ADAM_EPS
        if not default or len(optimizer.param_groups) > 1:
            return
        names = ("value_net.", "mlp_extractor.value_net.", "vf_features_extractor.")
        critic = {id(parameter) for name, parameter in self.named_parameters() if name.startswith(names)}
        (group,) = optimizer.param_groups
        own = [parameter for parameter in group["params"] if id(parameter) in critic]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in critic]
        optimizer.add_param_group({"params": own, "eps": CRITIC_ADAM_EPS})

    @staticmethod
    def _is_twin(mlp_extractor: Any) -> bool:
        """Whether it holds two value networks already; raise if it cannot."""
        if not hasattr(mlp_extractor, "value_net"):
            raise ValueError("use_twin_critics needs an mlp_extractor with a value_net, as SB3's MlpExtractor has")
        return isinstance(mlp_extractor.value_net, TwinNet)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own: dict[str, Any] = {name: getattr(self, name) for name in ("n_quantiles", "n_critics", "equal_init")}
        if self.has_default_optimizer:
            own["optimizer_kwargs"] = None
        return {**super()._get_constructor_parameters(), **own}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "compiled_forward": None}  # which can be neither copied nor pickled

    def forward(self, obs: PyTorchObs, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """
        As ``ActorCriticPolicy.forward``.

        :raises ValueError: if a log probability is NaN
        """
        compiled = None if args or kwargs or torch.is_grad_enabled() else self.compiled_forward
        if compiled is not None and Compiler.shapes(obs) == self.compiled_shapes:
            actions, values, log_prob = compiled(self, obs)
        else:
            actions, values, log_prob = super().forward(obs, *args, **kwargs)  # type: ignore[arg-type]
        if not torch.compiler.is_compiling() and math.isnan(log_prob.sum().item()):
            raise ValueError("the policy's log probabilities are NaN")
        return actions, values, log_prob

    def sample_actions(self, obs: PyTorchObs) -> tuple[Tensor, Tensor, Tensor]:
        """What ``forward`` compiles: the class's own ``forward``, which leaves no tensor behind in ``action_dist``."""
        with self._kept_distribution():
            return super().forward(obs)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _kept_distribution(self) -> Iterator[None]:
        """
        Put ``action_dist`` back as it is: its tensors would keep the graph of a loss alive, and a compiled graph would
        have to give them out.
        """
        kept = dict(self.action_dist.__dict__)
        try:
            yield
        finally:
            for name in list(self.action_dist.__dict__):
                if name in kept:
                    setattr(self.action_dist, name, kept[name])
                else:
                    delattr(self.action_dist, name)

    def evaluate_quantiles(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        ``evaluate_actions`` with the quantiles in place of the value.

        :param obs: observations, B of them
        :param actions: actions, B of them
        :return: quantiles in the units of the loss, shape (B, N), of two critics side by side (B, 2 * N); log
            probability, (B,); entropy, (B,) or None
        """
        with self.value_net.emit_quantiles(), self._kept_distribution():
            quantiles, log_prob, entropy = self.evaluate_actions(obs, actions)
        shape = (len(log_prob), self.n_critics * self.n_quantiles)
        if quantiles.numel() != shape[0] * shape[1]:
            raise ValueError(
                f"the values of evaluate_actions have shape {tuple(quantiles.shape)} where value_net gave {shape}: a "
                "policy's own evaluate_actions must return what its value_net gives"
            )
        return quantiles.reshape(shape), log_prob, entropy

    def predict_quantiles(self, obs: Any) -> Tensor:
        """
        Quantiles of the return, whose mean is ``predict_values(obs)``.

        :param obs: observations, as tensors on the policy's device or as numpy arrays, B of them
        :return: shape (B, N), raw units, of the critic with the smaller mean; in the order of the midpoints, though
            nothing keeps them from crossing
        """
        if isinstance(obs, np.ndarray) or (isinstance(obs, dict) and isinstance(next(iter(obs.values())), np.ndarray)):
            obs = self.obs_to_tensor(obs)[0]
        with self.value_net.emit_quantiles():
            quantiles = self.predict_values(obs)
        return self.value_net.to_raw(self.value_net.of_smaller_mean(quantiles))

    def predict_cvar(self, obs: Any, alpha: float) -> Tensor:
        """
        Conditional value at risk: the mean of the worst share ``alpha`` of the predicted returns.

        :param obs: as in ``predict_quantiles``
        :param alpha: within (0, 1]; 1 gives the mean
        :return: shape (B,), raw units
        :raises ValueError: if ``alpha`` is outside
        """
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be within (0, 1], got {alpha}")
        quantiles = self.predict_quantiles(obs).sort(dim=1).values
        edges = torch.linspace(0, 1, self.n_quantiles + 1, dtype=quantiles.dtype, device=quantiles.device)
        shares = edges.clamp(max=alpha).diff() / alpha
        return (quantiles * shares).sum(dim=1)


class QuantileActorCriticCnnPolicy(QuantileActorCriticPolicy, ActorCriticCnnPolicy):
    """``ActorCriticCnnPolicy`` with a critic of N quantiles (``n_quantiles``)."""


class QuantileMultiInputActorCriticPolicy(QuantileActorCriticPolicy, MultiInputActorCriticPolicy):
    """``MultiInputActorCriticPolicy`` with a critic of N quantiles (``n_quantiles``)."""


@functools.cache
def _quantile_policy_class(policy_class: type[ActorCriticPolicy]) -> type[QuantileActorCriticPolicy]:
    """A user's own policy class with the quantile critic; its instances pickle through the user's class."""
    if issubclass(policy_class, QuantileActorCriticPolicy):
        return policy_class
    if not issubclass(policy_class, ActorCriticPolicy):
        raise TypeError(f"policy must be a subclass of ActorCriticPolicy, got {policy_class.__name__}")

    def __reduce__(self: QuantileActorCriticPolicy) -> tuple[Any, ...]:
        return _blank_quantile_policy, (policy_class,), self.__dict__

    name = f"Quantile{policy_class.__name__}"
    attributes = {"__doc__": policy_class.__doc__, "__reduce__": __reduce__, "__module__": policy_class.__module__}
    return type(name, (QuantileActorCriticPolicy, policy_class), attributes)


def _blank_quantile_policy(policy_class: type[ActorCriticPolicy]) -> QuantileActorCriticPolicy:
    """An instance without state, for ``pickle`` to fill."""
    quantile_class = _quantile_policy_class(policy_class)
    return quantile_class.__new__(quantile_class)


# -------------------------------------------------------------------------------- the mixin, for existing trainers


class VarianceGradientScalingMixin:
    """
    Variance gradient scaling for a trainer that has a quantile critic already::

        class Patched(VarianceGradientScalingMixin, TheirPPO): ...

    ``TheirPPO`` must compute its value loss through ``self._quantile_huber_loss(predicted_quantiles, targets, ...)``,
    with quantiles of shape (B, N) and a result of shape () or (B,). Every call is multiplied by the weight of its own
    quantiles (``variance_scaling_weight``). With the flag off the host's result is returned as it is.

    In mode "dsac_t" the weights are one per sample, so the host's result must have shape (B,), one loss per sample.
    When the host has an SB3 logger, it logs what the class logs, each as the mean over the calls between two dumps:
    ``train/variance_scaling_weight``, ``train/variance_scaling_clamped`` (the share of calls at a clamp, in mode
    "dsac_t" of samples), ``train/quantile_variance_mean`` and ``train/quantile_variance_std`` (over the samples of a
    call, correction 0).

    :param args: passed to the host
    :param use_variance_gradient_scaling: whether to scale
    :param variance_scaling_clip_min: smallest weight
    :param variance_scaling_clip_max: largest weight, may equal the smallest
    :param variance_scaling_mode: "batch" or "dsac_t", as in ``DistributionalPPO``
    :param kwargs: passed to the host
    :raises ValueError: if the clamps are no range or the mode is none; in mode "dsac_t" from the first loss that is a
        scalar
    :raises TypeError: if the host is a ``DistributionalPPO``, which scales by itself, or has no loss to scale
    """

    use_variance_gradient_scaling: bool
    variance_scaling_clip_min: float
    variance_scaling_clip_max: float
    variance_scaling_mode: Literal["batch", "dsac_t"]
    _std_average: Tensor | None

    def __init__(
        self,
        *args: Any,
        use_variance_gradient_scaling: bool = True,
        variance_scaling_clip_min: float = 0.1,
        variance_scaling_clip_max: float = 10.0,
        variance_scaling_mode: Literal["batch", "dsac_t"] = "batch",
        **kwargs: Any,
    ):
        if isinstance(self, DistributionalPPO):
            raise TypeError("DistributionalPPO scales its value loss already: use its flags instead of the mixin")
        if not hasattr(super(), "_quantile_huber_loss"):
            raise TypeError("the mixin must stand before a host that has a _quantile_huber_loss method to scale")
        _check_clip_range(variance_scaling_clip_min, variance_scaling_clip_max)
        if variance_scaling_mode not in CHOICES["variance_scaling_mode"]:
            raise ValueError(f"variance_scaling_mode must be 'batch' or 'dsac_t', got {variance_scaling_mode!r}")
        flags = {
            "use_variance_gradient_scaling": use_variance_gradient_scaling,
            "variance_scaling_clip_min": variance_scaling_clip_min,
            "variance_scaling_clip_max": variance_scaling_clip_max,
            "variance_scaling_mode": variance_scaling_mode,
            "_std_average": None,
        }
        self.__dict__.update(flags)  # before, for a host whose constructor computes a loss
        super().__init__(*args, **kwargs)
        self.__dict__.update(flags)  # after, for a host whose constructor resets attributes

    def _quantile_huber_loss(self, predicted_quantiles: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super()._quantile_huber_loss(predicted_quantiles, targets, *args, **kwargs)  # type: ignore[misc]
        if not self.use_variance_gradient_scaling:
            return loss
        variance = quantile_variance(predicted_quantiles)
        low, high = self.variance_scaling_clip_min, self.variance_scaling_clip_max
        if self.variance_scaling_mode == "batch":
            weight = batch_weight(variance, low, high)
        elif loss.shape != variance.shape:
            raise ValueError(f"mode 'dsac_t' weights samples: the loss must have shape (B,), got {tuple(loss.shape)}")
        else:
            self._std_average = next_std_average(self._std_average, variance)
            weight = sample_weights(variance, self._std_average, low, high)
        # SB3 sets its logger in learn() and drops it in save(); a host's own logger may be of another kind.
        record_mean = getattr(getattr(self, "_logger", None), "record_mean", None)
        if record_mean is not None:
            record_mean("train/variance_scaling_weight", weight.mean().item())
            record_mean("train/variance_scaling_clamped", ((weight <= low) | (weight >= high)).float().mean().item())
            record_mean("train/quantile_variance_mean", variance.mean().item())
            record_mean("train/quantile_variance_std", variance.std(correction=0).item())
        return weight * loss


# ------------------------------------------------------------------------------------------------- the algorithm


class NonFiniteError(FloatingPointError, ValueError):
    """A NaN or an infinity. A ``ValueError`` too, as what torch's distributions raise in PPO."""


class Rollout(NamedTuple):
    """What the old critic says of a rollout, before its returns enter the statistics; M = T * E rows, step by step."""

    clip_range: float
    clip_range_vf: float | None  # None: not clipped
    values: np.ndarray  # of the policy that collected it, (M,), raw
    returns: np.ndarray  # (M,), raw
    old_quantiles: Tensor | None  # (M, C * N), raw
    atoms: Tensor | None  # targets of "sr_lambda", (M, N), raw
    calibration_error: float | None


def _rows_of(observations: Any, rows: Any) -> Any:
    """Some of the observations, an array or tensor or a dict of them."""
    if isinstance(observations, dict):
        return {key: values[rows] for key, values in observations.items()}
    return observations[rows]


class Samples(NamedTuple):
    """What the loss is made of: the B samples of a minibatch, or all of a rollout."""

    observations: Any
    actions: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    targets: Tensor  # (B,), or atoms, (B, N), in the units of the loss
    old_quantiles: Tensor | None  # (B, C * N), likewise
    clip_range: float | Tensor
    clip_range_vf: float | Tensor | None

    def at(self, rows: Tensor | None) -> Samples:
        """
        :param rows: numbers of samples, shape (B,); None: all
        :return: these
        """
        if rows is None:
            return self
        return self._replace(
            observations=_rows_of(self.observations, rows),
            actions=self.actions[rows],
            old_log_prob=self.old_log_prob[rows],
            advantages=self.advantages[rows],
            targets=self.targets[rows],
            old_quantiles=None if self.old_quantiles is None else self.old_quantiles[rows],
        )


class UpdateMetrics:
    """The metrics of an update's minibatches, kept on the device until all are there."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.values: list[Tensor] = []
        self.norms: list[Tensor] = []

    def add(self, names: tuple[str, ...], values: Tensor, norm: Tensor | None = None) -> None:
        """
        :param names: of the metrics
        :param values: shape (n_metrics,)
        :param norm: of the gradient; None: there was no step
        """
        self.names = names
        self.values.append(values)
        if norm is not None:
            self.norms.append(norm)

    def arrays(self) -> dict[str, np.ndarray]:
        """:return: by name the values of all minibatches"""
        columns = torch.stack(self.values).cpu().numpy().T if self.values else ()
        arrays = dict(zip(self.names, columns, strict=True))
        if self.norms:
            arrays["grad_norm"] = torch.stack(self.norms).float().cpu().numpy()
        return arrays


class UpdateFunctions(NamedTuple):
    """The compiled parts of an update, for minibatches of one size; None: as they are."""

    size: int | None = None
    update: Callable[..., Any] | None = None  # both parts in one
    gradients: Callable[..., Any] | None = None
    step: Callable[..., Any] | None = None


class Code(NamedTuple):
    """A compiled function and what it depends on beside its arguments' tensors."""

    call: Callable[..., Any]
    shapes: list[Any]  # of the example's tensors
    reads: dict[str, Any]  # numbers, strings and flags, by the expression that gives them
    constants: list[Tensor]  # tensors that may not be exchanged for others


class Compiler:
    """
    Functions compiled into one graph each, for tensors of fixed shapes. Calls go without torch.compile's guards, which
    take a third of the time of an update: what the guards would compare is compared once per rollout, by ``prepare``.
    """

    def __init__(self) -> None:
        self.codes: dict[str, Code] = {}
        self.builds: dict[str, int] = defaultdict(int)
        self.stepped: list[int] = []  # ids of the parameters of the last update that was not compiled
        self.rates: list[Tensor] = []  # of learning, one per group of the optimizer
        self.gradients: list[Tensor | None] = []  # one per parameter, None: it has none
        self.holders: list[nn.Parameter] = []  # these parameters
        self.step: Callable[..., Any] | None = None  # of the optimizer, without the wrappers

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiler, ()  # compiled code can be neither copied nor pickled

    @staticmethod
    def shapes(args: Any) -> list[Any]:
        """Shape and type of each tensor; compiled code takes no others."""
        return [(getattr(leaf, "shape", None), getattr(leaf, "dtype", None)) for leaf in tree_leaves(args)]

    def prepare(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        constants: Callable[[], list[Tensor]],
        warn: bool = True,
    ) -> Callable[..., Any] | None:
        """
        :param function: to be compiled, or used as it was if nothing that it reads has changed
        :param args: an example, in the shapes of all calls to come
        :param constants: gives the tensors that the function may take to be always the same
        :param warn: whether to warn, once, where it cannot be compiled
        :return: the compiled function; None where it cannot be compiled
        """
        name = function.__name__
        code, scope = self.codes.get(name), dict(zip(inspect.signature(function).parameters, args, strict=True))
        shapes = self.shapes(args[1:])
        changed: list[str] = []
        if code is not None:
            old, now = code.constants, constants()
            if shapes != code.shapes or [id(tensor) for tensor in old] != [id(tensor) for tensor in now]:
                changed = ["tensors"]
            changed += [
                expression for expression, value in code.reads.items() if _evaluate(expression, scope) != [value]
            ]
            if not changed:
                return code.call
        if self.builds[name] >= MAX_BUILDS:
            return None
        self.builds[name] += 1
        if self.builds[name] == MAX_BUILDS and code is not None:
            warnings.warn(f"compile=True: {name} is compiled for the last time, for changed {', '.join(changed)}")
        print(f"Compiling {name}; this may take half a minute, and less the next time.", file=sys.stderr)
        try:
            call, reads = _compile(function, args, scope)
        except Exception as error:  # of any kind: torch.compile passes on what the user's own code raises
            reason = str(error).strip().partition("\n")[0][:200]
            hint = ". Install g++ or clang" if "Cxx" in type(error).__name__ + reason else ""
            self.refuse(name, f"{name} is not compiled: {type(error).__name__}: {reason}{hint}", warn)
            return None
        self.codes[name] = Code(call, shapes, reads, constants())
        return call

    def refuse(self, name: str, message: str, warn: bool = True) -> None:
        """
        Leave a function as it is from now on.

        :param name: of the function
        :param message: why
        :param warn: whether to warn, if this is the first time
        """
        if warn and self.builds[name] < MAX_BUILDS:
            warnings.warn(f"compile=True: {message}")
        self.builds[name] = MAX_BUILDS


MAX_BUILDS = 8  # as torch.compile's own limit


def _evaluate(expression: str, scope: dict[str, Any]) -> list[Any]:
    """The plain value of a guard's expression, such as ``self.ent_coef``, in a list that is empty where it has none."""
    try:
        value = eval(expression, {}, scope)
    except Exception:
        return []
    value = value.item() if isinstance(value, np.generic) else value
    return [value] if isinstance(value, int | float | str | None) else []


@contextlib.contextmanager
def _plain_sizes(space: Any) -> Iterator[None]:
    """Let the sizes of discrete observations be Python's numbers, as torch.compile takes numpy's for tensors."""
    with contextlib.ExitStack() as stack:
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else [space]:
            for name in ("n", "nvec"):
                if isinstance(size := getattr(part, name, None), np.ndarray | np.generic):
                    stack.callback(setattr, part, name, size)
                    setattr(part, name, size.tolist())
        yield


def _compile(
    function: Callable[..., Any], args: tuple[Any, ...], scope: dict[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """
    :param function: becomes one graph; may call ``torch.autograd.grad``
    :param args: an example
    :param scope: the same by name
    :return: the compiled function, and the plain values that it has read, by their expressions
    """
    reads: dict[str, Any] = {}

    def note(guards: Any) -> list[bool]:
        plain = {g.name: g.value for g in guards if g.has_value and isinstance(g.value, int | float | str | None)}
        reads.update({name: value for name, value in plain.items() if _evaluate(name, scope) == [value]})
        return [False] * len(guards)

    options: dict[str, Any] = {"guard_filter_fn": note, "compile_threads": 1}
    owner = next(iter(scope.values()))
    if owner.device.type == "cpu":
        options |= {"cpp_wrapper": True, "cpp.use_decompose_tanh": True}
    # It looks at a space in numpy, which torch.compile would take for tensors.
    torch.compiler.assume_constant_result(preprocessing.is_image_space)  # type: ignore[no-untyped-call]
    config = torch._dynamo.config.patch(trace_autograd_ops=True, specialize_float=True)
    with config, _plain_sizes(getattr(owner, "policy", owner).observation_space):
        compiled: Any = torch.compile(function, fullgraph=True, dynamic=False, options=options)
        call = compiled.aot_compile((args, {}))
    call.disable_guard_check()
    return call, reads


class DistributionalPPO(PPO):
    """
    PPO with a quantile critic, whose value loss can be scaled by the variance of the predicted quantiles. Takes every
    parameter of ``stable_baselines3.PPO``, in its order and with its defaults; ``policy_kwargs=dict(n_quantiles=32)``
    sets the number of quantiles. The module's docstring has the formulas.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of ``ActorCriticPolicy``, whose
        ``value_net`` becomes the quantile head
    :param env: the environment to learn from (if registered in Gymnasium, can be str)
    :param learning_rate: learning rate, may be a function of the remaining progress (from 1 to 0)
    :param n_steps: steps per environment and rollout; n_steps * n_envs must exceed 1
    :param batch_size: minibatch size
    :param n_epochs: passes over each rollout
    :param gamma: discount factor
    :param gae_lambda: trade-off of bias against variance in the advantage and in the critic's target
    :param clip_range: clip range of the policy ratio, may be a function of the remaining progress
    :param clip_range_vf: how far the critic's predictions may move in an update before the loss stops rewarding it, may
        be a function of the remaining progress; None: as far as they like
    :param normalize_advantage: whether to normalise the advantages of each minibatch
    :param ent_coef: weight of the entropy loss
    :param vf_coef: weight of the value loss, before the variance weight
    :param max_grad_norm: gradients are clipped to this norm
    :param use_sde: whether to explore with generalised state-dependent exploration (gSDE)
    :param sde_sample_freq: steps between new gSDE noise, -1: once per rollout
    :param rollout_buffer_class: rollout buffer to use, None: chosen by the observation space
    :param rollout_buffer_kwargs: keyword arguments of the rollout buffer
    :param target_kl: stop an update when the approximate KL divergence exceeds 1.5 times this, None: never
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder of the TensorBoard log, None: no log
    :param policy_kwargs: keyword arguments of the policy, ``n_quantiles`` (default 32) among them
    :param verbose: 0: silent, 1: info, 2: debug
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "cuda", ...
    :param _init_setup_model: whether to build the network with the instance
    :param quantile_huber_kappa: where the quantile-Huber loss turns from quadratic to linear, in the units of the loss;
        far above the errors the quantiles become expectiles, which are too narrow
    :param value_target: "gae": every quantile learns the GAE(lambda) return, as in PPO; "sr_lambda": a sampled
        distribution of lambda-returns (sample replacement), whose spread the quantiles then learn
    :param normalize_returns: let the critic predict (return - mean) / std of the returns seen; needed where the scale
        of rewards is unknown, since the variance weight is in squared units of the loss
    :param return_stats_rate: weight in (0, 1] of the newest rollout in those statistics; None weighs all alike
    :param use_popart: rescale the critic's last layer whenever the statistics move, so that its predictions in raw
        units do not; needs ``normalize_returns``
    :param distributional_vf_clip_mode: what ``clip_range_vf`` holds back: "per_quantile" (also None), "mean_only",
        "mean_and_variance"; "disable" ignores it
    :param distributional_vf_clip_variance_factor: in "mean_and_variance" the largest ratio of the quantiles' standard
        deviation to the old one; as all quantiles begin as one (``equal_init``), it also limits how soon they part
    :param clip_range_vf_units: "raw": ``clip_range_vf`` in units of return; "std": in standard deviations of the
        returns, needs ``normalize_returns``
    :param use_twin_critics: two critics, each with its loss and weight; the value is the smaller mean, per state
    :param use_variance_gradient_scaling: multiply the value loss by the clamped mean variance of the quantiles
    :param variance_scaling_clip_min: smallest weight, >= 0
    :param variance_scaling_clip_max: largest weight, may equal the smallest
    :param variance_scaling_mode: "batch": one weight per minibatch, the mean variance; "dsac_t": one per sample,
        smaller where the variance is larger; it belongs with ``normalize_returns``
    :param compile: run the minibatch update and the policy's step in the rollout as compiled graphs; the same numbers
        up to rounding, other random actions. A program compiles before its second update, for some 20 seconds
    :raises ValueError: from the constructor and ``load`` if a value is out of its range
    :raises TypeError: likewise if a flag is not a bool or the policy no ``ActorCriticPolicy``
    :raises FloatingPointError: from ``learn`` if a NaN or an infinity turns up; the update is undone
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": QuantileActorCriticPolicy,
        "CnnPolicy": QuantileActorCriticCnnPolicy,
        "MultiInputPolicy": QuantileMultiInputActorCriticPolicy,
    }
    policy: QuantileActorCriticPolicy

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        quantile_huber_kappa: float = 1.0,
        value_target: Literal["gae", "sr_lambda"] = "gae",
        normalize_returns: bool = False,
        return_stats_rate: float | None = 0.1,
        use_popart: bool = False,
        distributional_vf_clip_mode: VfClipMode | None = None,
        distributional_vf_clip_variance_factor: float = 2.0,
        clip_range_vf_units: Literal["raw", "std"] = "raw",
        use_twin_critics: bool = False,
        use_variance_gradient_scaling: bool = True,
        variance_scaling_clip_min: float = 0.1,
        variance_scaling_clip_max: float = 10.0,
        variance_scaling_mode: Literal["batch", "dsac_t"] = "batch",
        compile: bool = False,
    ):
        given = dict(locals())
        of_ppo = inspect.signature(PPO.__init__).parameters.keys() & given.keys() - {"self", "_init_setup_model"}
        super().__init__(**{name: given[name] for name in of_ppo}, _init_setup_model=False)
        self.quantile_huber_kappa = quantile_huber_kappa
        self.value_target = value_target
        self.normalize_returns = normalize_returns
        self.return_stats_rate = return_stats_rate
        self.use_popart = use_popart
        self.distributional_vf_clip_mode = distributional_vf_clip_mode
        self.distributional_vf_clip_variance_factor = distributional_vf_clip_variance_factor
        self.clip_range_vf_units = clip_range_vf_units
        self.use_twin_critics = use_twin_critics
        self.use_variance_gradient_scaling = use_variance_gradient_scaling
        self.variance_scaling_clip_min = variance_scaling_clip_min
        self.variance_scaling_clip_max = variance_scaling_clip_max
        self.variance_scaling_mode = variance_scaling_mode
        self.compile = compile
        self._compiler = Compiler()
        self._parameters: list[nn.Parameter] = []
        self._truncated: list[tuple[int, int, Any]] = []  # step, environment and last observation of truncated episodes
        self._deferred_dump: int | None = None
        self._update_is_written = True
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._check_flags()
        self.policy_class = _quantile_policy_class(self.policy_class)
        given = self.policy_kwargs
        if "n_critics" in given:
            raise ValueError("policy_kwargs has n_critics: set use_twin_critics instead")
        self.policy_kwargs = {**given, "n_critics": 2} if self.use_twin_critics else given
        super()._setup_model()
        self.policy_kwargs = given  # as saved and compared by load
        if self.normalize_returns:
            self.policy.value_net.ret_std.zero_()  # no statistics yet
        if self.use_popart and self.policy.value_net.last_layers[0].bias is None:
            raise ValueError("use_popart moves the bias of value_net's last layer, and this policy's has none")
        if self.use_variance_gradient_scaling and self.policy.n_quantiles == 1:
            warnings.warn(
                "use_variance_gradient_scaling with n_quantiles=1: a single quantile has variance 0, so the weight "
                f"is variance_scaling_clip_min={self.variance_scaling_clip_min} throughout"
            )
        if self.variance_scaling_mode == "dsac_t" and not self.normalize_returns:
            warnings.warn(
                "variance_scaling_mode='dsac_t' adds an absolute 0.1 to the variance: without normalize_returns=True "
                "the weights may sit at a clamp throughout"
            )

    def _maybe_recommend_cpu(self, mlp_class_name: str = "QuantileActorCriticPolicy") -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    def _check_flags(self) -> None:
        """Raise on a value that the constructor, or a keyword of ``load``, must not have."""
        flags = ("normalize_returns", "use_popart", "use_variance_gradient_scaling", "use_twin_critics", "compile")
        for name in flags:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}")
        for name in ("batch_size", "n_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.quantile_huber_kappa < math.inf:
            raise ValueError(f"quantile_huber_kappa must be positive and finite, got {self.quantile_huber_kappa}")
        if self.return_stats_rate is not None and not 0 < self.return_stats_rate <= 1:
            raise ValueError(f"return_stats_rate must be None or within (0, 1], got {self.return_stats_rate}")
        if self.use_popart and not self.normalize_returns:
            raise ValueError("use_popart keeps normalised predictions steady: it needs normalize_returns=True")
        _check_clip_range(self.variance_scaling_clip_min, self.variance_scaling_clip_max)
        self._check_vf_clipping()

    def _check_vf_clipping(self) -> None:
        """The part of ``_check_flags`` about ``clip_range_vf``."""
        factor = self.distributional_vf_clip_variance_factor
        if not 0 < factor < math.inf:
            raise ValueError(f"distributional_vf_clip_variance_factor must be positive and finite, got {factor}")
        if self.clip_range_vf is None:
            mode, units = self.distributional_vf_clip_mode, self.clip_range_vf_units
            if mode not in (None, "disable"):
                raise ValueError(f"distributional_vf_clip_mode={mode!r} clips by clip_range_vf, which is None")
            if units != "raw":
                raise ValueError(f"clip_range_vf_units={units!r} without clip_range_vf has no effect")
        elif self.distributional_vf_clip_mode != "disable":
            if self.clip_range_vf_units == "std" and not self.normalize_returns:
                raise ValueError("clip_range_vf_units='std' counts in stds of the returns: set normalize_returns=True")
            if self.normalize_returns and not self.use_popart:
                raise ValueError(
                    "clip_range_vf with normalize_returns=True needs use_popart=True: without it every change of the "
                    "statistics moves the predictions further than the clip range"
                )

    def learn(
        self: SelfDistributionalPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "DistributionalPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDistributionalPPO:
        """As ``PPO.learn``; every ``log_interval``-th update is written, and the last one in any case."""
        self._deferred_dump = None
        self._update_is_written = True
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        self._dump_what_waits()
        if log_interval is not None and not self._update_is_written:
            self._write_update(functools.partial(self.logger.dump, self.num_timesteps))
        return self

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the log. ``learn`` asks for it between rollout and update, with the iteration's number: that request waits
        for the update, so that its scalars are written with the rollout they come from.
        """
        if iteration > 0:
            self._deferred_dump = iteration
        else:
            super().dump_logs()

    def _dump_what_waits(self) -> None:
        """Write the log of a rollout whose ``train``, a subclass's, has not come here."""
        if self._deferred_dump is not None:
            super().dump_logs(self._deferred_dump)
            self._deferred_dump = None

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As PPO's, but observations that are not finite are named, where torch would blame the action distribution."""
        self._dump_what_waits()
        policy = self.policy
        if self.compile:
            policy.set_training_mode(False)
            with torch.no_grad():
                example = (policy, obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
                policy.compiled_forward = self._compiler.prepare(type(policy).sample_actions, example, list)
                policy.compiled_shapes = self._compiler.shapes(example[1])
        try:
            return super().collect_rollouts(*args, **kwargs)
        except (ValueError, RuntimeError) as error:
            self._raise_if_not_finite("observations", self._last_obs, "environment or VecNormalize", error)
            raise
        finally:
            policy.compiled_forward = None

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """As PPO's; keeps the last observations of truncated episodes, which PPO sees only as a mean in the reward."""
        super()._update_info_buffer(infos, dones)
        if self.value_target == "sr_lambda":
            if self.rollout_buffer.pos == 0:
                self._truncated = []
            for i, info in enumerate(infos):
                if info.get("TimeLimit.truncated", False) and info.get("terminal_observation") is not None:
                    self._truncated.append((self.rollout_buffer.pos, i, info["terminal_observation"]))

    def train(self) -> None:
        """
        One update: what the old critic says of the rollout, the statistics of the returns, then ``n_epochs`` passes
        over the rollout in minibatches.
        """
        self._check_rollout()
        before = copy.deepcopy(self.get_parameters())
        rollout = self._look_at_rollout()
        self._update_return_statistics()
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)

        metrics = UpdateMetrics()
        error: ValueError | None = None
        try:
            self._train_epochs(rollout, metrics)
        except ValueError as refused:  # torch's distributions refuse NaN before the numbers are looked at below
            error = refused
        finally:
            self.rollout_buffer.values = rollout.values.reshape(self.rollout_buffer.values.shape)
        b_metrics = metrics.arrays()
        self._undo_if_not_finite(b_metrics, before, error)
        if error is not None:
            raise error
        self._log_update(b_metrics, rollout)

    @torch.no_grad()
    def _look_at_rollout(self) -> Rollout:
        """
        What the update needs of the policy that collected the rollout, from one pass over it in evaluation mode.

        A buffer class of the user's own shuffles by itself. For the passes over its minibatches its values give way to
        the numbers of their rows, by which a minibatch finds its old quantiles and atoms.
        """
        head, buffer = self.policy.value_net, self.rollout_buffer
        progress = self._current_progress_remaining
        clip_range_vf = None
        if self.clip_range_vf is not None and self.distributional_vf_clip_mode != "disable":
            clip_range_vf = self.clip_range_vf(progress)  # type: ignore[operator]
        self.policy.set_training_mode(False)
        quantiles = self._predict_rollout()
        if quantiles is None and (clip_range_vf is not None or self.value_target == "sr_lambda"):
            raise ValueError("clip_range_vf and value_target='sr_lambda' need a rollout buffer with its observations")
        has_statistics = bool(head.ret_std > 0)
        rollout = Rollout(
            clip_range=self.clip_range(progress),  # type: ignore[operator]
            clip_range_vf=clip_range_vf if has_statistics else None,
            values=self._by_step(buffer.values).flatten(),
            returns=self._by_step(buffer.returns).flatten(),
            old_quantiles=quantiles if clip_range_vf is not None and has_statistics else None,
            atoms=self._sample_replacement(quantiles) if self.value_target == "sr_lambda" else None,
            calibration_error=self._calibration_error(quantiles) if has_statistics else None,
        )
        if self._has_own_minibatches and (rollout.old_quantiles is not None or rollout.atoms is not None):
            rows = np.arange(buffer.returns.size).reshape(buffer.rewards.shape)
            buffer.values = rows.T.reshape(-1, 1) if buffer.generator_ready else rows
        return rollout

    @property
    def _has_own_minibatches(self) -> bool:
        """Whether the rollout buffer is of a class whose ``get()`` may do anything."""
        return type(self.rollout_buffer) not in (RolloutBuffer, DictRolloutBuffer)

    def _by_step(self, array: np.ndarray) -> np.ndarray:
        """
        :param array: of the rollout buffer, shape (T, E, ...), or (T * E, ...) once it has given minibatches, which
            puts all steps of the first environment before those of the next
        :return: shape (T * E, ...), all environments of the first step before those of the next
        """
        steps, envs = self.rollout_buffer.rewards.shape
        if self.rollout_buffer.generator_ready:
            array = array.reshape(envs, steps, *array.shape[1:]).swapaxes(0, 1)
        return array.reshape(steps * envs, *array.shape[2:])

    def _observations_by_step(self) -> Any:
        """:return: as ``_by_step``, one array or a dict of them; None if the buffer keeps them elsewhere"""
        observations = getattr(self.rollout_buffer, "observations", None)
        if isinstance(observations, dict):
            return {key: self._by_step(array) for key, array in observations.items()}
        return self._by_step(observations) if isinstance(observations, np.ndarray) else None

    def _predict_rollout(self) -> Tensor | None:
        """:return: raw quantiles, shape (T * E, C * N); None if the buffer keeps its observations elsewhere"""
        observations = self._observations_by_step()
        if observations is None:
            return None
        parts = []
        arrays = observations.values() if isinstance(observations, dict) else [observations]
        numbers = sum(math.prod(array.shape[1:]) for array in arrays)
        size = max(self.batch_size, 2**16 // numbers)  # no more memory than training
        with self.policy.value_net.emit_quantiles():
            for start in range(0, self.rollout_buffer.returns.size, size):
                part = _rows_of(observations, slice(start, start + size))
                parts.append(self.policy.predict_values(obs_as_tensor(part, self.device)))
        return self.policy.value_net.to_raw(torch.cat(parts))

    def _calibration_error(self, quantiles: Tensor | None) -> float | None:
        """
        Mean over tau of |share of the rollout's returns below the quantile - tau|, of the policy that collected it.

        :param quantiles: raw, shape (T * E, C * N)
        """
        if quantiles is None:
            return None
        quantiles = self.policy.value_net.of_smaller_mean(quantiles)
        returns = torch.as_tensor(self._by_step(self.rollout_buffer.returns), device=self.device).reshape(-1, 1)
        tau = quantile_midpoints(quantiles.shape[1], like=quantiles)
        return float(((returns < quantiles).to(tau.dtype).mean(dim=0) - tau).abs().mean())

    def _sample_replacement(self, quantiles: Tensor | None) -> Tensor:
        """
        Targets of "sr_lambda" (Nam et al. 2021): backwards in time, Z_t = r_t + gamma * (1 - d_t) * Zn with Zn = Z_t+1
        with probability lambda, else the critic's quantiles at s_t+1; at a truncation those of the last observation.

        :param quantiles: raw, shape (T * E, C * N)
        :return: atoms in raw units, shape (T * E, N), in the same order
        """
        assert quantiles is not None
        head, buffer = self.policy.value_net, self.rollout_buffer
        steps, envs = buffer.rewards.shape
        own = head.of_smaller_mean(quantiles).reshape(steps, envs, -1)
        last = self.policy.predict_quantiles(self._last_obs)
        following = torch.cat([own[1:], last[None]])
        dones = np.concatenate([buffer.episode_starts[1:], np.asarray(self._last_episode_starts)[None]]).astype(bool)
        rewards = torch.as_tensor(buffer.rewards, device=self.device).clone()
        goes_on = torch.as_tensor(~dones, device=self.device).to(rewards.dtype)
        for step, env, observation in self._truncated:
            terminal = self.policy.predict_quantiles(self.policy.obs_to_tensor(observation)[0])[0]
            rewards[step, env] -= self.gamma * terminal.mean()  # which SB3 has put there
            following[step, env] = terminal
            goes_on[step, env] = 1.0

        # A generator of its own, without state to save: the same step of the same seed draws the same.
        seed = np.random.randint(2**31) if self.seed is None else self.seed  # noqa: NPY002
        draws = np.random.default_rng([seed, self.num_timesteps]).random((steps, envs))
        keeps = torch.as_tensor((draws < self.gae_lambda) & ~dones, device=self.device)
        atoms = torch.empty_like(own)
        z = last
        for t in reversed(range(steps)):
            z = torch.where(keeps[t, :, None], z, following[t])
            z = rewards[t, :, None] + self.gamma * goes_on[t, :, None] * z
            atoms[t] = z
        return atoms.reshape(steps * envs, -1)

    def _update_return_statistics(self) -> None:
        """Take in the rollout's raw returns; without ``normalize_returns`` dissolve what an earlier run left."""
        head = self.policy.value_net
        if self.normalize_returns:
            head.observe_returns(self.rollout_buffer.returns, self.return_stats_rate, self.use_popart)
        elif head.ret_mean != 0 or head.ret_std != 1:
            if head.last_layers[0].bias is None:
                raise ValueError(
                    "normalize_returns cannot end where value_net's last layer has no bias to take the mean"
                )
            head.ret_updates.zero_()
            head.set_statistics(0.0, 1.0, popart=True)

    def _train_epochs(self, rollout: Rollout, metrics: UpdateMetrics) -> None:
        """
        ``n_epochs`` passes over the rollout, or fewer where ``target_kl`` ends them.

        :param rollout: from ``_look_at_rollout``
        :param metrics: receives those of each minibatch
        """
        self._parameters = [p for p in self.policy.parameters() if p.requires_grad]
        for parameter in self.policy.parameters():
            if not parameter.requires_grad:  # frozen since the last update, whose gradient it may have
                parameter.grad = None
        samples = self._samples(rollout)
        functions = self._update_functions(rollout, samples)
        has_compiled_step = functions.update is not None or functions.step is not None
        with self._optimizer_options(tensor_rates=has_compiled_step):
            for epoch in range(self.n_epochs):
                self._n_updates += 1
                for minibatch, rows in self._minibatches(rollout, samples):
                    names, values, norm = self._run_update(functions, minibatch, rows)
                    metrics.add(names, values, norm)
                    if norm is None:
                        if self.verbose >= 1:
                            approx_kl = float(values[names.index("approx_kl")])
                            print(f"Early stopping at epoch {epoch}: approx_kl is {approx_kl:.2f}")
                        return

    def _samples(self, rollout: Rollout) -> Samples | None:
        """
        :param rollout: from ``_look_at_rollout``
        :return: all samples as tensors, step by step; None with a rollout buffer of another class than SB3's
        """
        if self._has_own_minibatches:
            return None
        buffer = self.rollout_buffer
        everything = RolloutBufferSamples(
            observations=obs_as_tensor(self._observations_by_step(), self.device),  # type: ignore[arg-type]
            actions=self._tensor(self._by_step(buffer.actions).astype(np.float32, copy=False)),
            old_values=self._tensor(rollout.values),
            old_log_prob=self._tensor(self._by_step(buffer.log_probs)).flatten(),
            advantages=self._tensor(self._by_step(buffer.advantages)).flatten(),
            returns=self._tensor(rollout.returns),
        )
        return self._samples_of(everything, rollout, slice(None))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device)

    def _number(self, value: float) -> float | Tensor:
        """A number that changes from update to update, which compiled code must not take for a constant."""
        return torch.tensor(value, device=self.device) if self.compile else value

    def _minibatches(self, rollout: Rollout, samples: Samples | None) -> Iterator[tuple[Samples, Tensor | None]]:
        """
        One pass over the rollout, in an order drawn anew, as SB3's buffer draws it.

        :param rollout: from ``_look_at_rollout``
        :param samples: from ``_samples``
        :return: for each minibatch the samples from which it is taken and its rows there
        """
        buffer = self.rollout_buffer
        if samples is None:
            for data in buffer.get(self.batch_size):
                yield self._samples_of(data, rollout, data.old_values.long()), None
            return
        steps, envs = buffer.rewards.shape
        order = np.random.permutation(steps * envs)  # noqa: NPY002  # SB3 counts environment by environment
        rows = self._tensor(order % steps * envs + order // steps)
        for start in range(0, len(rows), self.batch_size):
            yield samples, rows[start : start + self.batch_size]

    def _samples_of(self, data: RolloutBufferSamples, rollout: Rollout, rows: Any) -> Samples:
        """
        :param data: of the buffer
        :param rollout: from ``_look_at_rollout``
        :param rows: index into the rollout's rows: which of them ``data`` has
        """
        head, old, advantages = self.policy.value_net, rollout.old_quantiles, data.advantages
        if self.normalize_returns and self.normalize_advantage:
            # By a power of 2, so that no bit is lost: what is added to their std for stability then weighs the same at
            # any scale of the rewards.
            advantages = torch.ldexp(advantages, -torch.frexp(head.ret_std).exponent)
        targets = data.returns if rollout.atoms is None else rollout.atoms[rows]
        return Samples(
            observations=data.observations,
            actions=data.actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else data.actions,
            old_log_prob=data.old_log_prob,
            advantages=advantages,
            targets=head.to_normalized(targets),
            old_quantiles=None if old is None else head.to_normalized(old[rows]),
            clip_range=self._number(rollout.clip_range),
            clip_range_vf=None if rollout.clip_range_vf is None else self._number(rollout.clip_range_vf),
        )

    def _update_functions(self, rollout: Rollout, samples: Samples | None) -> UpdateFunctions:
        """
        :param rollout: from ``_look_at_rollout``
        :param samples: from ``_samples``
        :return: the parts of an update, compiled where that is asked for and possible
        """
        own = type(self)
        optimizer, compiler = self.policy.optimizer, self._compiler
        if not self.compile:
            return UpdateFunctions()
        parameters = list(map(id, self._parameters))
        has_state = all(parameter in optimizer.state for parameter in self._parameters)
        if not (has_state or compiler.stepped == parameters):
            compiler.stepped = parameters  # the optimizer's first step makes its state, which no graph should do
            return UpdateFunctions()
        if samples is None:
            generator = np.random.get_state()  # noqa: NPY002  # from which the buffer draws its order
            example, rows = next(self._minibatches(rollout, samples))
            np.random.set_state(generator)  # noqa: NPY002
            size = len(example.advantages)
        else:
            size = min(self.batch_size, len(samples.advantages))
            example, rows = samples, torch.arange(size, device=self.device)
        if self._has_own_gradients():
            compiler.refuse("_gradients", "_gradients is not compiled: a parameter has a hook or is not the policy's")
            return UpdateFunctions()
        self._hold_gradients(example.at(rows))
        compiler.step = inspect.unwrap(type(optimizer).step)
        # Of other optimizers nobody knows what a step does beside arithmetic.
        traceable = type(optimizer).__module__.startswith("torch.optim.")
        traceable &= not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
        with self._optimizer_options(tensor_rates=True):
            if self.target_kl is None and traceable:
                update = compiler.prepare(own._update, (self, example, rows), self._held, warn=False)
                if update is not None:
                    return UpdateFunctions(size, update)
            gradients = compiler.prepare(own._gradients, (self, example, rows), self._held)
            if gradients is None:
                return UpdateFunctions()
            step = compiler.prepare(own._step, (self,), self._held) if traceable else None
        if not traceable:
            optimizer_name = type(optimizer).__name__
            message = f"the step of {optimizer_name} is not compiled, as it has hooks or is not of torch.optim"
            compiler.refuse("_step", message)
        return UpdateFunctions(size, None, gradients, step)

    def _has_own_gradients(self) -> bool:
        """Whether only ``backward`` serves all that the optimizer steps."""
        own = {id(parameter) for parameter in self.policy.parameters()}
        steps = [parameter for group in self.policy.optimizer.param_groups for parameter in group["params"]]
        return any(id(parameter) not in own or parameter._post_accumulate_grad_hooks for parameter in steps)

    def _hold_gradients(self, minibatch: Samples) -> None:
        """Give the parameters gradients that stay where they are, but to those that the loss does not reach."""
        held = self._compiler.gradients
        if list(map(id, self._compiler.holders)) != list(map(id, self._parameters)):
            buffers = copy.deepcopy(dict(self.policy.named_buffers()))  # such as those of batch norm
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                loss, _ = self._minibatch_loss(minibatch)
                gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            self.policy.load_state_dict(buffers, strict=False)
            pairs = zip(self._parameters, gradients, strict=True)  # a gradient's strides may be others
            held[:] = [None if gradient is None else torch.zeros_like(parameter) for parameter, gradient in pairs]
            self._compiler.holders = self._parameters
        for parameter, gradient in zip(self._parameters, held, strict=True):
            parameter.grad = gradient

    def _held(self) -> list[Tensor]:
        """What compiled code takes to be the same tensors in every call."""
        state = [value for values in self.policy.optimizer.state.values() for value in values.values()]
        tensors = [*self._parameters, *self._compiler.gradients, *self._compiler.rates, *state]
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]

    def _run_update(
        self, functions: UpdateFunctions, samples: Samples, rows: Tensor | None
    ) -> tuple[tuple[str, ...], Tensor, Tensor | None]:
        """
        :param functions: from ``_update_functions``
        :param samples: the rollout's, or those of the minibatch
        :param rows: which of them, shape (B,); None: all
        :return: names and values of the metrics, (n_metrics,), and the gradient's norm; None: no step
        """
        size = len(samples.advantages if rows is None else rows)
        if functions.size not in (None, size):  # a short last minibatch is not worth a compilation of its own
            with self._optimizer_options(tensor_rates=False):
                return self._run_update(UpdateFunctions(), samples, rows)
        if functions.update is not None:
            update: tuple[tuple[str, ...], Tensor, Tensor] = functions.update(self, samples, rows)
            return update
        names, values = (functions.gradients or type(self)._gradients)(self, samples, rows)
        if self.target_kl is not None and values[names.index("approx_kl")] > 1.5 * self.target_kl:
            return names, values, None
        return names, values, (functions.step or type(self)._step)(self)

    def _update(self, samples: Samples, rows: Tensor | None) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """Both parts of an update, to be compiled into one graph."""
        return *self._gradients(samples, rows), self._step()

    def _gradients(self, samples: Samples, rows: Tensor | None) -> tuple[tuple[str, ...], Tensor]:
        """
        The first part of an update.

        :param samples: the rollout's, or those of the minibatch
        :param rows: which of them, shape (B,); None: all
        :return: names and values of the metrics, (n_metrics,)
        """
        with torch.enable_grad():
            loss, metrics = self._minibatch_loss(samples.at(rows))
            if not torch.compiler.is_compiling():
                self.policy.optimizer.zero_grad(set_to_none=not self.compile)  # compiled code knows where they are
                loss.backward()  # type: ignore[no-untyped-call]
            else:  # backward is no part of a graph
                gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    if parameter.grad is not None and gradient is not None:
                        parameter.grad.copy_(gradient)
                    else:
                        parameter.grad = gradient
        with torch.no_grad():
            return tuple(metrics), torch.stack(list(metrics.values()))

    def _step(self) -> Tensor:
        """
        The second part of an update: clipping and the optimizer's step.

        :return: norm of the gradient before clipping
        """
        compiling = torch.compiler.is_compiling()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norms = [gradient.norm() for gradient in gradients] if compiling else torch._foreach_norm(gradients)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        torch._foreach_mul_(gradients, (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        if compiling:  # without the hooks and graph breaks that torch puts around it
            with torch.no_grad():
                cast(Any, self._compiler.step)(self.policy.optimizer)
        else:
            self.policy.optimizer.step()
        return norm

    @contextlib.contextmanager
    def _optimizer_options(self, tensor_rates: bool) -> Iterator[None]:
        """
        The forms of options that are fast, for the time of an update.

        :param tensor_rates: learning rates as tensors, for a compiled step; else all parameters in one call, "fused" on
            the CPU, where the optimizer has that, or "foreach", unless the user has said which
        """
        groups, rates = self.policy.optimizer.param_groups, self._compiler.rates
        kept = [dict(group) for group in groups]
        if tensor_rates and len(rates) != len(groups):
            rates[:] = [torch.tensor(0.0, device=self.device) for _ in groups]
        for i, group in enumerate(groups):
            if group.get("foreach", True) is None and group.get("fused") is None:
                fused = "fused" in group and self.device.type == "cpu"
                group["fused" if fused and not tensor_rates else "foreach"] = not tensor_rates
            if tensor_rates:
                group["lr"] = rates[i].fill_(group["lr"])
        try:
            yield
        finally:
            for group, old in zip(groups, kept, strict=True):
                group.update({name: old[name] for name in ("fused", "foreach", "lr") if name in old})

    def _minibatch_loss(self, minibatch: Samples) -> tuple[Tensor, dict[str, Tensor]]:
        """
        :param minibatch: B samples
        :return: the loss to minimise and what is logged of it
        """
        quantiles, log_prob, entropy = self.policy.evaluate_quantiles(minibatch.observations, minibatch.actions)
        policy_loss, metrics = self._policy_loss(log_prob, minibatch)
        value_loss, value_metrics = self._value_loss(
            quantiles, minibatch.targets, minibatch.old_quantiles, minibatch.clip_range_vf
        )
        entropy_loss = -torch.mean(-log_prob if entropy is None else entropy)
        loss = policy_loss
        if self.ent_coef:  # a product with 0 would still cost its gradient
            loss = loss + self.ent_coef * entropy_loss
        loss = loss + self.vf_coef * value_loss
        return loss, {**metrics, "entropy_loss": entropy_loss, "loss": loss, **value_metrics}

    def _policy_loss(self, log_prob: Tensor, minibatch: Samples) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO's clipped surrogate (Schulman et al. 2017, eq. 7); log_prob has shape (B,)."""
        advantages, clip_range = minibatch.advantages, cast(Any, minibatch.clip_range)
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - minibatch.old_log_prob
        ratio = torch.exp(log_ratio)
        clipped = advantages * torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, clipped).mean()
        with torch.no_grad():
            approx_kl = torch.mean((ratio - 1) - log_ratio)  # http://joschu.net/blog/kl-approx.html
            clip_fraction = torch.mean((torch.abs(ratio - 1) > clip_range).float())
        return policy_loss, {
            "policy_gradient_loss": policy_loss,
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
        }

    def _value_loss(
        self, quantiles: Tensor, targets: Tensor, old: Tensor | None = None, clip_range_vf: float | Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        The sum over the critics of their losses, all in the units of the loss.

        :param quantiles: predictions, shape (B, C * N)
        :param targets: returns, shape (B,), or atoms, (B, N)
        :param old: predictions of the policy that collected the rollout, shape (B, C * N), None: no clipping
        :param clip_range_vf: how far predictions may move from these, in the units of ``clip_range_vf_units``
        :return: what to minimise, and what is logged: means over the critics, with two also of each
        """
        critics = self.policy.n_critics
        if critics == 1:
            return self._critic_loss(quantiles, targets, old, clip_range_vf, 0)
        olds = [None] * critics if old is None else old.chunk(critics, dim=1)
        parts = [
            self._critic_loss(own, targets, olds[i], clip_range_vf, i)
            for i, own in enumerate(quantiles.chunk(critics, dim=1))
        ]
        logged = {}
        for name in parts[0][1]:
            values = torch.stack([metrics[name] for _, metrics in parts])
            extreme = {"variance_scaling_weight_min": values.min(), "variance_scaling_weight_max": values.max()}
            logged[name] = extreme.get(name, values.mean())
        logged |= {f"{name}_{i + 1}": value for i, (_, metrics) in enumerate(parts) for name, value in metrics.items()}
        return torch.stack([loss for loss, _ in parts]).sum(), logged

    def _critic_loss(
        self, quantiles: Tensor, targets: Tensor, old: Tensor | None, clip_range_vf: float | Tensor | None, critic: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        One critic's clipping, per-sample quantile-Huber loss, and last its weight.

        :param quantiles: predictions, shape (B, N); the other arguments as in ``_value_loss``
        :param critic: which critic
        """
        loss = self._quantile_huber_loss(quantiles, targets, reduction="none")
        metrics = {}
        if old is not None and clip_range_vf is not None:
            eps = clip_range_vf / (self.policy.value_net.ret_std if self.clip_range_vf_units == "raw" else 1.0)
            mode = self.distributional_vf_clip_mode or "per_quantile"
            clipped = clip_quantiles(quantiles, old, eps, mode, self.distributional_vf_clip_variance_factor)
            loss = torch.max(loss, self._quantile_huber_loss(clipped, targets, reduction="none"))
            metrics["clip_fraction_vf"] = (clipped != quantiles).float().mean()
        variance = quantile_variance(quantiles)
        unscaled = loss.mean()
        metrics |= {
            "value_loss": unscaled.detach(),
            "quantile_variance_mean": variance.mean(),
            "quantile_variance_std": variance.std(correction=0),
        }
        if not self.use_variance_gradient_scaling:
            return unscaled, metrics
        if self.variance_scaling_mode == "dsac_t":
            average = self.policy.value_net.std_average
            average[critic] = next_std_average(average[critic], variance)
        weight = self.variance_weight(variance, critic)
        metrics["variance_scaling_weight"] = weight.mean()
        if weight.dim() == 0 and self.policy.n_critics == 1:  # the rest follows from it
            return weight * unscaled, metrics
        low, high = self.variance_scaling_clip_min, self.variance_scaling_clip_max
        metrics["variance_scaling_weight_min"], metrics["variance_scaling_weight_max"] = weight.aminmax()
        metrics["variance_scaling_clamped"] = ((weight <= low) | (weight >= high)).float().mean()
        return (weight * unscaled if weight.dim() == 0 else (weight * loss).mean()), metrics

    def variance_weight(self, variance: Tensor, critic: int = 0) -> Tensor:
        """
        :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
        :param critic: which critic
        :return: what its loss is multiplied by: a scalar in mode "batch", shape (B,) in mode "dsac_t"
        """
        low, high = self.variance_scaling_clip_min, self.variance_scaling_clip_max
        if self.variance_scaling_mode == "batch":
            return batch_weight(variance, low, high)
        average = self.policy.value_net.std_average[critic]
        average = torch.where(average > 0, average, variance.sqrt().mean())  # there is none before the first update
        return sample_weights(variance, average, low, high)

    def _quantile_huber_loss(
        self,
        predicted_quantiles: Tensor,
        targets: Tensor,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ) -> Tensor:
        """
        ``quantile_huber_loss`` at ``quantile_huber_kappa``.

        :param predicted_quantiles: shape (B, N)
        :param targets: shape (B,) or (B, 1), or (B, M) of M atoms each, in the units of the predictions
        :param reduction: over the samples; the loss of a sample is always the mean over its quantiles
        :return: shape (B,) for "none", else a scalar
        :raises ValueError: on another reduction
        """
        tau = self.policy.value_net.tau
        own = len(tau) == predicted_quantiles.shape[1]
        loss = quantile_huber_loss(predicted_quantiles, targets, self.quantile_huber_kappa, tau if own else None)
        if reduction == "mean":
            return loss.mean()
        if reduction == "sum":
            return loss.sum()
        if reduction == "none":
            return loss
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")

    def _check_rollout(self) -> None:
        """Raise if the rollout holds a NaN or an infinity, before it can reach statistics or parameters."""
        names = ("rewards", "values", "log_probs", "advantages", "returns")
        arrays = [getattr(self.rollout_buffer, name, None) for name in names]  # a custom buffer may lack some
        if all(array is None or np.isfinite(array).all() for array in arrays):
            return  # of its observations a policy may make what it likes
        for name in ("observations", *names):
            array = getattr(self.rollout_buffer, name, None)
            source = (
                "environment or VecNormalize" if name in ("observations", "rewards") else "rewards and learning rate"
            )
            self._raise_if_not_finite(name, array, source)

    def _raise_if_not_finite(self, name: str, array: Any, source: str, cause: Exception | None = None) -> None:
        """
        :param name: what the array is called in the error
        :param array: numpy array, tensor, a dict of them or None
        :param source: what the error tells the user to check
        :param cause: the error that this one explains
        """
        for key, values in array.items() if isinstance(array, dict) else ((None, array),):
            if values is None or bool(torch.isfinite(torch.as_tensor(values)).all()):
                continue
            label = name if key is None else f"{name}[{key!r}]"
            bad = (~torch.isfinite(torch.as_tensor(values))).nonzero()
            raise NonFiniteError(
                f"{len(bad)} non-finite number(s) in the rollout's {label}, the first at index {bad[0].tolist()}, "
                f"before update {self._n_updates} at step {self.num_timesteps}. Nothing was changed. Check: {source}."
            ) from cause

    def _undo_if_not_finite(
        self, b_metrics: dict[str, np.ndarray], before: dict[str, dict[str, Any]], cause: Exception | None
    ) -> None:
        """
        Put the parameters back and raise if the update met a NaN or an infinity. Looked at once per update, since each
        look makes the device wait.

        :param b_metrics: per name the values of all minibatches
        :param before: parameters and optimizer state from before the update
        :param cause: the error that this one would explain
        """
        suspects = {name: values for name, values in b_metrics.items() if not np.isfinite(values).all()}
        first = {name: int(np.argmin(np.isfinite(values))) for name, values in suspects.items()}
        parameters = nn.utils.parameters_to_vector(self.policy.parameters())
        if not suspects and bool(torch.isfinite(parameters).all()):
            return
        self.set_parameters(before)
        earliest = min(first, key=first.__getitem__, default=None)
        where = "the parameters" if earliest is None else f"{earliest} of minibatch {first[earliest]}"
        raise NonFiniteError(
            f"non-finite number in {where} of the update at step {self.num_timesteps}. Parameters and optimizer were "
            "put back to where they were before it. Check: learning_rate, max_grad_norm and the scale of the rewards "
            "(normalize_returns=True takes any)."
        ) from cause

    def _log_update(self, b_metrics: dict[str, np.ndarray], rollout: Rollout) -> None:
        """Record the scalars of an update and write them if ``learn`` asked for it. What is undefined is left out."""
        for name, values in b_metrics.items():
            if "weight_min" in name or "weight_max" in name:
                value = values.min() if "weight_min" in name else values.max()
            else:
                value = values[-1] if name == "loss" else values.mean(dtype=np.float64)
            self.logger.record(f"train/{name}", float(value))
        self.logger.record("train/value_loss_std", b_metrics["value_loss"].std(dtype=np.float64))
        weights = b_metrics.get("variance_scaling_weight")
        mean_weight = 1.0 if weights is None else float(weights.mean())
        self.logger.record("train/vf_coef_effective", self.vf_coef * mean_weight)
        if weights is not None:
            low, high = np.float32(self.variance_scaling_clip_min), np.float32(self.variance_scaling_clip_max)
            for name, pick in (("variance_scaling_weight_min", np.min), ("variance_scaling_weight_max", np.max)):
                self.logger.record(f"train/{name}", float(pick(b_metrics.get(name, weights))))
            clamped = b_metrics.get("variance_scaling_clamped", (weights <= low) | (weights >= high))
            self.logger.record("train/variance_scaling_clamped", np.mean(clamped))
        if rollout.calibration_error is not None:
            self.logger.record("train/quantile_calibration_error", rollout.calibration_error)
        explained_var = explained_variance(rollout.values, rollout.returns)
        if np.isfinite(explained_var):  # NaN where all returns are equal
            self.logger.record("train/explained_variance", explained_var)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", rollout.clip_range)
        if rollout.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", rollout.clip_range_vf)
        self._update_is_written = False
        if self._deferred_dump is not None:
            self._write_update(functools.partial(super().dump_logs, self._deferred_dump))

    def _write_update(self, dump: Callable[[], None]) -> None:
        """
        Write what is recorded and leave the update's scalars readable, as PPO does; no later dump writes them again,
        unless to a format that is not SB3's.

        :param dump: writes and forgets all that is recorded
        """
        scalars = {name: value for name, value in self.logger.name_to_value.items() if name.startswith("train/")}
        dump()
        for name, value in scalars.items():
            self.logger.record(name, value, exclude=("stdout", "log", "json", "csv", "tensorboard"))
        self._deferred_dump = None
        self._update_is_written = True

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_truncated", "_compiler", "_parameters"]

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """
        As ``PPO.set_parameters``. The statistics of the returns come with the parameters. Of a plain PPO,
        ``exact_match=False`` takes what fits: the actor and the critic's hidden layers, not its head and the optimizer.

        :raises ValueError: if ``exact_match`` and the parameters are those of a plain PPO, which has no quantiles
        """
        params: Any = load_path_or_dict
        if not isinstance(params, dict):
            _, params, _ = load_from_zip_file(params, device=device, load_data=False)
        critic_keys = [key for key in params.get("policy", {}) if key.startswith("value_net.")]
        twin = any(key.startswith("value_net.second.") for key in critic_keys)
        if critic_keys and exact_match and twin != self.use_twin_critics:
            raise ValueError(f"these are the parameters of a model with use_twin_critics={twin}: they do not fit")
        if critic_keys and "value_net.ret_std" not in critic_keys:
            if exact_match:
                raise ValueError(
                    "these are the parameters of a plain PPO, whose critic has one value and no quantiles: they do not "
                    "fit. set_parameters(..., exact_match=False) takes what does, the actor above all"
                )
            params = {name: value for name, value in params.items() if name != "policy.optimizer"}
        optimizer = self.policy.optimizer
        held = {parameter: dict(state) for parameter, state in optimizer.state.items()}
        super().set_parameters(params, exact_match, device)
        for parameter, state in held.items():  # compiled code knows the optimizer's tensors by where they are
            for name, value in optimizer.state.get(parameter, {}).items():
                old = state.get(name)
                if isinstance(old, Tensor) and isinstance(value, Tensor) and old.shape == value.shape:
                    optimizer.state[parameter][name] = old.copy_(value)

    @classmethod
    def load(cls: type[SelfDistributionalPPO], path: Any, *args: Any, **kwargs: Any) -> SelfDistributionalPPO:
        """
        As ``PPO.load``; keywords change the flags of the saved model and are checked like the constructor's.

        :raises TypeError: on a keyword that neither ``PPO.load`` nor the constructor takes
        :raises ValueError: on an archive of a plain PPO, or a value out of its range
        """
        known = set(inspect.signature(PPO.load).parameters) - {"path", "kwargs"}
        known |= set(vars(cls(policy="MlpPolicy", env=None, _init_setup_model=False)))  # type: ignore[arg-type]
        for base in cls.__mro__:
            known |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
        for name in kwargs.keys() - (known - {"self", "policy", "args", "kwargs"}):
            nearest = difflib.get_close_matches(name, known, n=1)
            raise TypeError(
                f"load() got an unknown keyword {name!r}" + (f": did you mean {nearest[0]!r}?" if nearest else "")
            )
        return super().load(path, *args, **kwargs)
