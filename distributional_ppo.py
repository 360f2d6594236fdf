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
    w      = r * w + (1 - r)                             (with clip_min < 1e-6: r = 1 once the quantiles have a spread)
    loss   = policy_loss + ent_coef * entropy_loss + vf_coef * w * mean_b loss_b

With ``critic_loss="mean_and_spread"`` and m_b = mean_i q_bi the loss is::

    loss   = policy_loss + ent_coef * entropy_loss + vf_coef * (mean_b (m_b - y_b)^2 + w * 4 k * mean_b loss_b)

Here k is kappa, but at least one of its units. This loss_b uses the quantiles q_bi - m_b + [m_b], where [m_b] has no
gradient. It therefore moves only the spread.

With ``value_target="sr_lambda"`` the target is a sample Z of N atoms, and loss_b is the mean over them. Backwards in
time, Z_t = r_t + gamma * (1 - d_t) * Z', where Z' is Z_t+1 with probability lambda. Otherwise Z' holds the critic's
quantiles at s_t+1.

Twin critics each have a loss and a weight. The value is the smaller of their means.

With ``normalize_returns`` the critic, its loss and v_b work on (return - ret_mean) / ret_std. ``predict_values`` and
``predict_quantiles`` always answer in raw units.

Sources:

- quantile regression: Dabney et al. 2017 (arXiv 1710.10044);
- the division by kappa: Dabney et al. 2018 (IQN, arXiv 1806.06923, eq. 3);
- sample replacement: Nam et al. 2021 (GMAC, arXiv 2105.11366);
- weights of "dsac_t": Duan et al. 2023 (DSAC-T, arXiv 2310.05858), as in its authors' code;
- twin critics: Fujimoto et al. 2018 (arXiv 1802.09477);
- PopArt: van Hasselt et al. 2016 (arXiv 1602.07714, eq. 6-9);
- PPO: Schulman et al. 2017 (arXiv 1707.06347), as Stable-Baselines3 implements it.

Beside the critic and its loss, this differs from Stable-Baselines3's PPO:

1. ``train/value_loss`` is the mean quantile-Huber loss BEFORE the weight, so that runs can be compared.
2. ``train/approx_kl`` is the mean over all epochs; PPO reports the last epoch only.
3. Scalars are written after the update they describe, at the step that ended its rollout. Those of the last update are
   always written. PPO writes them one rollout later, and never those of the last update. The scalars stay in the logger
   until the next update, as in PPO, unless a writer not from SB3 would write them twice.
4. An update that meets a NaN or an infinity is undone and raises ``NonFiniteError``. The error is a
   ``FloatingPointError`` and a ``ValueError``, the type that torch raises in PPO.
5. ``load`` refuses keywords that name no attribute of the model. PPO sets a new attribute.
6. The constructor refuses ``n_epochs`` and ``batch_size`` below 1. A run's TensorBoard folder is called
   ``DistributionalPPO_1``, not ``PPO_1``.
7. Optimizers of torch use their fused form on the CPU, unless ``optimizer_kwargs`` set ``fused`` or ``foreach``. Fused
   Adam rounds differently.
8. ``clip_range_vf`` takes the larger of each sample's unclipped and clipped loss, as OpenAI's baselines do. SB3's PPO
   takes the clipped loss. The first update with ``normalize_returns`` does not clip, since no older predictions exist.
9. Adam's eps is 1e-8 for parameters that only the critic uses, and PPO's 1e-5 elsewhere. ``optimizer_kwargs`` or N = 1
   turn this off. The mean over N quantiles and a weight of 0.1 make the critic's gradients smaller than PPO's. With 32
   quantiles those of the head are 1000 times smaller. Beside them 1e-5 is not small: it slowed the critic on Acrobot,
   Hopper and HalfCheetah.
10. All quantiles start equal, at PPO's value of the same seed. Independent draws would give their mean weights of
   1 / sqrt(N) the norm of PPO's, and the layers before the head would learn more slowly.
11. Discrete actions keep the start and the dtype of their space, in the environment and from ``predict``. PPO's count
   from 0. A Box that is neither float32 nor float64 causes a warning: the rollout stores rounded actions.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common import logger
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from quantile_critic.actions import MovedActions, check_action_space, counts_from_zero
from quantile_critic.checks import check_flags, check_keywords, checked_parameters
from quantile_critic.finite import NonFiniteError, check_rollout, first_not_finite, raise_if_not_finite
from quantile_critic.log import DeferredLog, reduced
from quantile_critic.losses import (
    VfClipMode,
    batch_weight,
    clip_quantiles,
    has_lower_clamp,
    metrics_of_critics,
    next_std_average,
    quantile_huber_loss,
    quantile_midpoints,
    quantile_variance,
    sample_weights,
    squared_errors,
    variance_scaling_weight,
    weight_before_spread,
)
from quantile_critic.optimizers import fitting_optimizer
from quantile_critic.patch import VarianceGradientScalingMixin
from quantile_critic.policies import (
    QuantileActorCriticCnnPolicy,
    QuantileActorCriticPolicy,
    QuantileMultiInputActorCriticPolicy,
    quantile_policy,
)
from quantile_critic.policies import blank_quantile_policy as _blank_quantile_policy  # noqa: F401  # archives name it
from quantile_critic.processes import (
    CommonNoise,
    agree_after_update,
    array_of_all,
    begin_together,
    collect_together,
    ending_together,
    learning_together,
    n_processes,
    of_all,
    rank,
    shared_settings,
    stepping_together,
)
from quantile_critic.rollout import Rollout, Samples
from quantile_critic.settings import Clipping, Coefficients, LossSettings, Scaling
from quantile_critic.targets import sampled_targets
from quantile_critic.update import EagerUpdate
from quantile_critic.version import __version__ as __version__  # mypy: users import it from here

if TYPE_CHECKING:
    from quantile_critic.compiled import CompiledStep

__all__ = [
    "DistributionalPPO",
    "NonFiniteError",
    "QuantileActorCriticCnnPolicy",
    "QuantileActorCriticPolicy",
    "QuantileMultiInputActorCriticPolicy",
    "VarianceGradientScalingMixin",
    "clip_quantiles",
    "quantile_huber_loss",
    "quantile_midpoints",
    "quantile_policy",
    "quantile_variance",
    "variance_scaling_weight",
]

SelfDistributionalPPO = TypeVar("SelfDistributionalPPO", bound="DistributionalPPO")


class DistributionalPPO(DeferredLog, PPO):
    """
    PPO with a quantile critic. The variance of the predicted quantiles can scale the value loss.

    Every parameter of ``stable_baselines3.PPO`` keeps its place and default. ``policy_kwargs=dict(n_quantiles=32)``
    sets the number of quantiles. The module's docstring has the formulas.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of ``ActorCriticPolicy``, whose
        ``value_net`` becomes the quantile head
    :param env: the environment to learn from (if registered in Gymnasium, can be str)
    :param learning_rate: learning rate, may be a function of the remaining progress (from 1 to 0), as clip ranges may
    :param n_steps: steps per environment and rollout; n_steps * n_envs must exceed 1
    :param batch_size: minibatch size
    :param n_epochs: passes over each rollout
    :param gamma: discount factor
    :param gae_lambda: trade-off of bias against variance in the advantage and in the critic's target
    :param clip_range: clip range of the policy ratio
    :param clip_range_vf: largest useful move of the critic's predictions in an update, None: no limit
    :param normalize_advantage: whether to normalise the advantages of each minibatch
    :param ent_coef: weight of the entropy loss
    :param vf_coef: weight of the value loss, before the variance weight
    :param max_grad_norm: gradients are clipped to this norm, see ``gradient_clipping``
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
    :param quantile_huber_kappa: error at which the quantile-Huber loss turns from quadratic to linear, in the units of
        the loss. A kappa far above the errors makes the quantiles expectiles, which are too narrow
    :param quantile_huber_kappa_units: unit of kappa. "loss": that of the loss. "std": one standard deviation of the
        returns, averaged by ``return_stats_rate``, with or without ``normalize_returns``. None: "loss" with
        "quantile_huber", "std" with "mean_and_spread"
    :param critic_loss: "quantile_huber": the quantile-Huber loss of every quantile, times the variance weight.
        "mean_and_spread": the squared error of the quantiles' mean, as PPO's value loss, plus a loss of the quantiles
        around it. That second loss is 4 kappa, or 4 of its units if that is more, times their quantile-Huber loss.
        Only it has the variance weight
    :param value_target: "gae": every quantile learns the GAE(lambda) return, as in PPO. "sr_lambda": the quantiles
        learn a sampled distribution of lambda-returns (sample replacement) and its spread
    :param normalize_returns: let the critic predict (return - mean) / std of past returns. Set it where the scale of
        rewards is unknown: the variance weight is in squared units of the loss
    :param return_stats_rate: weight in (0, 1] of the newest rollout in those statistics, None: all rollouts alike
    :param use_popart: rescale the critic's last layer when the statistics move, so that raw predictions stay. Needs
        ``normalize_returns``
    :param distributional_vf_clip_mode: quantity that ``clip_range_vf`` limits: "per_quantile" (also None),
        "mean_only" or "mean_and_variance". "disable" ignores ``clip_range_vf``
    :param distributional_vf_clip_variance_factor: largest ratio of the quantiles' new standard deviation to the old
        one, with "mean_and_variance". All quantiles start equal, so it also limits how fast they spread
    :param clip_range_vf_units: "raw": ``clip_range_vf`` in units of return; "std": in standard deviations of the
        returns, needs ``normalize_returns``
    :param use_twin_critics: two critics, each with its loss and weight; the value is the smaller mean, per state
    :param use_variance_gradient_scaling: multiply the value loss by the clamped mean variance of the quantiles
    :param variance_scaling_clip_min: smallest weight, >= 0. Below 1e-6 there is none, and the weight is 1 until the
        quantiles spread
    :param variance_scaling_clip_max: largest weight, may equal the smallest
    :param variance_scaling_mode: "batch": one weight per minibatch, the mean variance. "dsac_t": one weight per
        sample, smaller where the variance is larger. Use "dsac_t" with ``normalize_returns``
    :param gradient_clipping: "joint": ``max_grad_norm`` limits one norm of all gradients, as in PPO. "apart": it
        limits three norms: parameters of the actor's loss only, of the critic's only, and of both
    :param compile: run the minibatch update and the policy's step in the rollout as compiled graphs. The numbers are
        the same up to rounding, but the random actions differ. Compiling takes some 20 seconds before the second update
    :raises ValueError: from the constructor and ``load`` if a value is out of its range
    :raises TypeError: likewise if a flag is not a bool or the policy is not an ``ActorCriticPolicy``
    :raises FloatingPointError: from ``learn`` if a NaN or an infinity occurs. The update is undone
    """

    scales_value_loss: ClassVar[bool] = True  # so that the mixin does not scale it again
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": QuantileActorCriticPolicy,
        "CnnPolicy": QuantileActorCriticCnnPolicy,
        "MultiInputPolicy": QuantileMultiInputActorCriticPolicy,
    }
    policy_base: ClassVar[type[QuantileActorCriticPolicy]] = QuantileActorCriticPolicy  # base of a user's policy
    policy: QuantileActorCriticPolicy
    _settings_of_update: LossSettings | None = None  # fixed during an update; None: the flags apply

    def __init__(  # noqa: PLR0913  # every parameter of PPO, and ours
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
        quantile_huber_kappa_units: Literal["loss", "std"] | None = None,
        critic_loss: Literal["quantile_huber", "mean_and_spread"] = "quantile_huber",
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
        gradient_clipping: Literal["joint", "apart"] = "joint",
        compile: bool = False,
    ):
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )

        # Parameters that PPO lacks: the critic and its target.
        self.quantile_huber_kappa = quantile_huber_kappa
        self.quantile_huber_kappa_units = quantile_huber_kappa_units
        self.critic_loss = critic_loss
        self.value_target = value_target
        self.normalize_returns = normalize_returns
        self.return_stats_rate = return_stats_rate
        self.use_popart = use_popart

        # Limits on the move of predictions.
        self.distributional_vf_clip_mode = distributional_vf_clip_mode
        self.distributional_vf_clip_variance_factor = distributional_vf_clip_variance_factor
        self.clip_range_vf_units = clip_range_vf_units

        # Twin critics, and the weight of the value loss.
        self.use_twin_critics = use_twin_critics
        self.use_variance_gradient_scaling = use_variance_gradient_scaling
        self.variance_scaling_clip_min = variance_scaling_clip_min
        self.variance_scaling_clip_max = variance_scaling_clip_max
        self.variance_scaling_mode = variance_scaling_mode

        # Clipping and compilation of the step.
        self.gradient_clipping = gradient_clipping
        self.compile = compile

        # State that rollouts and updates change.
        self._update = EagerUpdate()
        self._policy_step: CompiledStep | None = None  # with ``compile``
        self._truncated: list[tuple[int, int, Any]] = []  # step, environment and last observation of truncated episodes
        self._waiting_dump: int | None = None  # iteration whose log waits for its update
        self._has_unwritten_update = False

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        # Checked here so that ``load`` checks them too.
        check_flags(self)
        check_action_space(self.action_space)
        self.policy_class = quantile_policy(self.policy_class, self.policy_base)  # type: ignore[arg-type]

        # Pass twin critics to the policy by a keyword that the saved ``policy_kwargs`` lack: ``load`` compares those.
        policy_kwargs = self.policy_kwargs
        if self.use_twin_critics:
            self.policy_kwargs = {**policy_kwargs, "n_critics": 2}
        super()._setup_model()
        self.policy_kwargs = policy_kwargs

        if self.compile:
            self._compile()

        # No statistics of the returns exist yet.
        if self.normalize_returns:
            self.policy.value_net.ret_std.zero_()
        if self.use_popart and self.policy.value_net.last_layers[0].bias is None:
            raise ValueError("use_popart moves the bias of value_net's last layer, and this policy's has none")

        # All processes start with the same parameters. Each steps other environments with other actions.
        self.n_processes = n_processes()
        if self.n_processes > 1:
            begin_together(self.policy, shared_settings(self))
            if self.seed is not None:
                self.set_random_seed(self.seed + rank() * self.n_envs)

        # Allowed settings that are probably a mistake.
        if self.use_variance_gradient_scaling and self.policy.n_quantiles == 1:
            weight = min(1.0, self.variance_scaling_clip_max)
            if has_lower_clamp(self.variance_scaling_clip_min):
                weight = self.variance_scaling_clip_min
            warnings.warn(
                "use_variance_gradient_scaling with n_quantiles=1: a single quantile has variance 0, so the weight "
                f"is {weight} throughout (variance_scaling_clip_min={self.variance_scaling_clip_min})"
            )
        scales_samples = self.use_variance_gradient_scaling and self.variance_scaling_mode == "dsac_t"
        if scales_samples and not self.normalize_returns:
            warnings.warn(
                "variance_scaling_mode='dsac_t' adds an absolute 0.1 to the variance: without normalize_returns=True "
                "the weights may sit at a clamp throughout"
            )

    def _compile(self) -> None:
        """Build the compiled update and the compiled policy step of the rollout."""
        from quantile_critic.compiled import CompiledStep, CompiledUpdate

        self._update = CompiledUpdate()
        self._policy_step = CompiledStep()

    def _maybe_recommend_cpu(self, mlp_class_name: str = "QuantileActorCriticPolicy") -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    # ------------------------------------------------------------------------------------------------ the update

    def train(self) -> None:
        """Update policy and critic once from the rollout of ``collect_rollouts``."""
        when = f"before update {self._n_updates} at step {self.num_timesteps}"
        ending_together(check_rollout, self.rollout_buffer, when)
        before = copy.deepcopy(self.get_parameters())

        # Read flags, schedules and the rollout: old quantiles and targets, from the policy that collected it.
        self.policy.set_training_mode(False)
        coefficients = self._coefficients()
        with stepping_together(self.device):
            rollout = self._read_rollout(coefficients)

        # Add its returns to the statistics. Targets and old quantiles follow into the new units of the loss.
        self._update_return_statistics()
        rollout.to_loss_units(scale_advantages=self.normalize_returns and self.normalize_advantage)

        # Make several passes over the rollout in minibatches, until the policy has moved too far.
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        update = self._prepare_update(coefficients)
        with (
            self._fixed_settings(),
            self._undone_if_not_finite(update, before),
            update.running(),
            stepping_together(self.device),
        ):
            for epoch in range(self.n_epochs):
                self._n_updates += 1
                for samples, rows in rollout.minibatches(self.batch_size):
                    if not update(samples, rows):
                        break
                if update.approx_kl is not None:
                    if self.verbose >= 1:
                        print(f"Early stopping at epoch {epoch}: approx_kl is {update.approx_kl:.2f}")
                    break

        # Check that all processes have equal parameters, and log.
        agree_after_update(self.policy, self._n_updates)
        self._log_update(update.metrics(), rollout, coefficients)

    def _minibatch_loss(
        self,
        minibatch: Samples,
        coefficients: Coefficients,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Compute PPO's loss (Schulman et al. 2017, eq. 9).

        :param minibatch: B samples
        :param coefficients: clip ranges and weights of this update
        :return: loss to minimise, and metrics to log
        """
        quantiles, log_prob, entropy = self.policy.evaluate_quantiles(minibatch.observations, minibatch.actions)

        policy_loss, metrics = self._policy_loss(log_prob, minibatch, coefficients.clip_range)
        value_loss, value_metrics = self._value_loss(
            quantiles, minibatch.targets, minibatch.old_quantiles, coefficients.clip_range_vf
        )
        # Without a closed form the entropy is estimated by -log_prob.
        entropy_loss = -torch.mean(-log_prob if entropy is None else entropy)

        loss = policy_loss
        if self.loss_settings.has_entropy:
            loss = loss + coefficients.ent_coef * entropy_loss
        loss = loss + coefficients.vf_coef * value_loss

        metrics["entropy_loss"] = entropy_loss.detach()
        metrics["loss"] = loss.detach()
        return loss, {**metrics, **value_metrics}

    def _policy_loss(
        self,
        log_prob: Tensor,
        minibatch: Samples,
        clip_range: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Compute PPO's clipped surrogate (Schulman et al. 2017, eq. 7).

        :param log_prob: log-probabilities of the minibatch's actions, shape (B,)
        :param minibatch: B samples
        :param clip_range: clip range of the ratio
        :return: loss to minimise, and metrics to log
        """
        # Normalise advantages over the minibatches of all processes. A single advantage has no deviation.
        advantages = minibatch.advantages
        if self.loss_settings.normalize_advantage:
            all_advantages = of_all(advantages)
            if len(all_advantages) > 1:
                advantages = (advantages - all_advantages.mean()) / (all_advantages.std() + 1e-8)

        # Ratio between the new and the old policy, clipped.
        log_ratio = log_prob - minibatch.old_log_prob
        ratio = torch.exp(log_ratio)
        clipped = advantages * torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, clipped).mean()

        with torch.no_grad():
            approx_kl = torch.mean((ratio - 1) - log_ratio)  # http://joschu.net/blog/kl-approx.html
            clip_fraction = torch.mean((torch.abs(ratio - 1) > clip_range).float())
        return policy_loss, {
            "policy_gradient_loss": policy_loss.detach(),
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
        }

    def _value_loss(
        self,
        quantiles: Tensor,
        targets: Tensor,
        old: Tensor | None = None,
        clip_range_vf: float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Sum the value losses of the critics: clip, take each sample's maximum, weight, average.

        :param quantiles: predictions in the units of the loss, shape (B, C * N)
        :param targets: returns, shape (B,), or atoms, (B, N), same units
        :param old: predictions of the policy that collected the rollout, shape (B, C * N), None: no clipping
        :param clip_range_vf: largest useful move from ``old``, in the units of ``clip_range_vf_units``
        :return: loss to minimise, and metrics: means over the critics, and with two critics also each one's
        """
        scaling = self.loss_settings.scaling
        head = self.policy.value_net
        old_of_critics: tuple[Tensor | None, ...] = (None,) * head.n_critics
        if old is not None:
            old_of_critics = head.split(old)

        losses = []
        logged = []
        for critic, predicted in enumerate(head.split(quantiles)):
            metrics = {}

            # Each sample's loss, shape (B,), and its mean's squared error with "mean_and_spread".
            loss, squared_error_of_mean = self._sample_losses(predicted, targets)

            # With clipping, each sample takes the larger of this loss and that of the clipped predictions.
            predicted_old = old_of_critics[critic]
            if predicted_old is not None and clip_range_vf is not None:
                clipped = self._clipped(predicted, predicted_old, clip_range_vf)
                loss_of_clipped, squared_error_of_clipped = self._sample_losses(clipped, targets)
                loss = torch.max(loss, loss_of_clipped)
                if squared_error_of_mean is not None and squared_error_of_clipped is not None:
                    squared_error_of_mean = torch.max(squared_error_of_mean, squared_error_of_clipped)
                metrics["clip_fraction_vf"] = (clipped != predicted).float().mean()

            # Multiply by the weight last. It comes from the variance of the unclipped predictions.
            variance = quantile_variance(predicted)  # (B,)
            all_variances = of_all(variance)
            unscaled = loss.mean()
            scaled = unscaled
            if scaling is not None:
                squared_error = None
                if scaling.compares_spread:
                    squared_error = of_all(squared_errors(predicted, targets)).mean()
                weight = self._weight(critic, variance, all_variances, squared_error)
                metrics |= self._weight_metrics(weight)

                # One weight for the minibatch, or one per sample.
                scaled = weight * unscaled if scaling.mode == "batch" else (weight * loss).mean()

            # The squared error has no weight.
            if squared_error_of_mean is not None:
                of_mean = squared_error_of_mean.mean()
                metrics["value_loss_of_mean"] = of_mean.detach()
                metrics["value_loss_of_spread"] = unscaled.detach()
                scaled = of_mean + scaled
                unscaled = of_mean + unscaled

            metrics["value_loss"] = unscaled.detach()
            metrics["quantile_variance_mean"] = all_variances.mean()
            metrics["quantile_variance_std"] = all_variances.std(correction=0)
            losses.append(scaled)
            logged.append(metrics)

        if len(losses) == 1:
            return losses[0], logged[0]
        return torch.stack(losses).sum(), metrics_of_critics(logged)

    def _sample_losses(
        self,
        quantiles: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Compute each sample's loss of one critic.

        :param quantiles: one critic's predictions in the units of the loss, shape (B, N)
        :param targets: shape (B,), or atoms, (B, M), same units
        :return: loss that the variance weight multiplies, shape (B,), and the mean's squared error, (B,) or None. The
            first is the quantile-Huber loss. With "mean_and_spread" it covers the quantiles around their mean, in
            squared units
        """
        if self.loss_settings.critic_loss == "quantile_huber":
            return self._quantile_huber_loss(quantiles, targets, reduction="none"), None

        # The mean learns from its squared error, as PPO's value does.
        mean = quantiles.mean(dim=1, keepdim=True)  # (B, 1)
        squared_error = (mean - targets.reshape(len(mean), -1)).square().mean(dim=1)

        # The quantiles around the mean pass it no gradient. The view sums its gradients separately, so a single
        # quantile's is exactly 0.
        spread_quantiles = quantiles.view_as(quantiles)
        around_mean = spread_quantiles - spread_quantiles.mean(dim=1, keepdim=True) + mean.detach()
        spread_loss = self._quantile_huber_loss(around_mean, targets, reduction="none")

        # A factor of 4 kappa turns a median's error u below kappa into u^2. A kappa below its unit has the unit's
        # factor. Its own would leave the spread next to nothing beside the mean's gradient.
        factor: Any = 4 * max(self.loss_settings.kappa, 1.0)
        if self.loss_settings.kappa_in_stds:
            factor = factor * self.policy.value_net.kappa_unit
        return factor * spread_loss, squared_error

    def _clipped(
        self,
        quantiles: Tensor,
        old: Tensor,
        clip_range_vf: float,
    ) -> Tensor:
        """
        Clip a critic's predictions near the old ones.

        :param quantiles: predictions in the units of the loss, shape (B, N)
        :param old: predictions of the policy that collected the rollout, same shape and units
        :param clip_range_vf: largest move, in the units of ``clip_range_vf_units``
        :return: clipped quantiles, shape (B, N), same units
        """
        # A caller may clip although the flags do not.
        clipping = self.loss_settings.clipping or self._clipping()

        # Convert raw units to those of the loss.
        eps: Any = clip_range_vf
        if clipping.units == "raw":
            eps = clip_range_vf / self.policy.value_net.ret_std
        return clip_quantiles(quantiles, old, eps, clipping.mode, clipping.variance_factor)

    def _weight(
        self,
        critic: int,
        variance: Tensor,
        all_variances: Tensor,
        squared_error: Tensor | None,
    ) -> Tensor:
        """
        Update the average of "dsac_t", then return ``variance_weight``.

        Without a lower clamp the weight is 1 until the quantiles spread.

        :param critic: index of the critic
        :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
        :param all_variances: the same over all processes
        :param squared_error: mean over all processes, scalar, in the same units; None: no comparison with the spread
        :return: factor of the loss: a scalar in mode "batch", shape (B,) in mode "dsac_t"
        """
        scaling = self.loss_settings.scaling or self._scaling()
        if scaling.mode == "batch":
            weight = self.variance_weight(all_variances, critic)
        else:
            # The average includes the minibatch before its use.
            head = self.policy.value_net
            assert squared_error is not None
            average, filled = next_std_average(
                head.std_average[critic], head.std_average_filled[critic], all_variances, squared_error
            )
            head.std_average[critic] = average
            head.std_average_filled[critic] = filled
            weight = self.variance_weight(variance, critic)

        # A lower clamp keeps every weight above 0.
        if squared_error is None or has_lower_clamp(scaling.clip_min):
            return weight

        # Without one, the quantiles must spread first.
        spread = all_variances.mean()
        if scaling.mode == "dsac_t":
            spread = self.policy.value_net.std_average[critic].square()
        return weight_before_spread(weight, spread, squared_error, scaling.clip_max)

    def _weight_metrics(self, weight: Tensor) -> dict[str, Tensor]:
        """
        Summarise a weight for the log.

        Its extremes and the clamped share appear only where ``_log_update`` cannot compute them from the means.

        :param weight: weight of a critic's loss, shape () or (B,)
        :return: mean, extremes and clamped share
        """
        metrics = {"variance_scaling_weight": weight.mean()}
        if weight.ndim > 0 or self.policy.value_net.n_critics > 1:
            scaling = self.loss_settings.scaling or self._scaling()
            at_clamp = (weight <= scaling.clip_min) | (weight >= scaling.clip_max)

            # A weight per minibatch already covers all processes.
            all_weights = weight
            if weight.ndim > 0:
                all_weights = of_all(weight)
            smallest, largest = all_weights.aminmax()
            metrics["variance_scaling_weight_min"] = smallest
            metrics["variance_scaling_weight_max"] = largest
            metrics["variance_scaling_clamped"] = at_clamp.float().mean()
        return metrics

    def variance_weight(
        self,
        variance: Tensor,
        critic: int = 0,
    ) -> Tensor:
        """
        Compute a critic's variance weight.

        :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
        :param critic: index of the critic
        :return: factor of its loss: a scalar in mode "batch", shape (B,) in mode "dsac_t"
        """
        scaling = self.loss_settings.scaling or self._scaling()
        if scaling.mode == "batch":
            return batch_weight(variance, scaling.clip_min, scaling.clip_max)

        # No average exists before the first update.
        average = self.policy.value_net.std_average[critic]
        average = torch.where(average > 0, average, variance.sqrt().mean())
        return sample_weights(variance, average, scaling.clip_min, scaling.clip_max)

    def _quantile_huber_loss(
        self,
        predicted_quantiles: Tensor,
        targets: Tensor,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ) -> Tensor:
        """
        Compute ``quantile_huber_loss`` at ``quantile_huber_kappa``, in its units.

        :param predicted_quantiles: shape (B, N)
        :param targets: shape (B,) or (B, 1), or (B, M) of M atoms each, in the units of the predictions
        :param reduction: reduction over the samples; a sample's loss is always the mean over its quantiles
        :return: shape (B,) for "none", else a scalar
        :raises ValueError: if the reduction is another
        """
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")

        # The head stores midpoints of N quantiles. Compute them for any other number.
        tau: Tensor | None = self.policy.value_net.tau
        if self.policy.value_net.tau.shape[0] != predicted_quantiles.shape[1]:
            tau = None

        # kappa counts in units of s: the Huber loss of u at kappa * s is s^2 times that of u / s at kappa.
        kappa = self.loss_settings.kappa
        if self.loss_settings.kappa_in_stds:
            unit = self.policy.value_net.kappa_unit
            loss = unit * quantile_huber_loss(predicted_quantiles / unit, targets / unit, kappa, tau)
        else:
            loss = quantile_huber_loss(predicted_quantiles, targets, kappa, tau)

        if reduction == "none":
            return loss
        if reduction == "sum":
            return loss.sum()
        return loss.mean()

    @property
    def loss_settings(self) -> LossSettings:
        """
        Settings of the loss. They stay fixed during an update, since compiled code treats them as constants. Elsewhere
        they follow the flags.
        """
        if self._settings_of_update is not None:
            return self._settings_of_update
        return self._settings_of_flags()

    @contextlib.contextmanager
    def _fixed_settings(self) -> Iterator[None]:
        """Fix ``loss_settings`` during an update."""
        self._settings_of_update = self._settings_of_flags()
        try:
            yield
        finally:
            self._settings_of_update = None

    def _settings_of_flags(self) -> LossSettings:
        """Build the settings from the current flags, in Python's numbers."""
        scaling = None
        if self.use_variance_gradient_scaling:
            scaling = self._scaling()

        clipping = None
        if self._clips_values():
            clipping = self._clipping()

        return LossSettings(
            kappa=float(self.quantile_huber_kappa),
            kappa_in_stds=self._counts_kappa_in_stds(),
            critic_loss=self.critic_loss,
            normalize_advantage=bool(self.normalize_advantage),
            scaling=scaling,
            clipping=clipping,
            has_entropy=bool(self.ent_coef),
            target=self.value_target,
            gradient_clipping=self.gradient_clipping,
        )

    def _scaling(self) -> Scaling:
        """Build the settings of the variance weight."""
        return Scaling(
            mode=self.variance_scaling_mode,
            clip_min=float(self.variance_scaling_clip_min),
            clip_max=float(self.variance_scaling_clip_max),
        )

    def _clipping(self) -> Clipping:
        """Build the settings of clipping predictions near the old ones."""
        return Clipping(
            mode=self.distributional_vf_clip_mode or "per_quantile",
            variance_factor=float(self.distributional_vf_clip_variance_factor),
            units=self.clip_range_vf_units,
        )

    def _counts_kappa_in_stds(self) -> bool:
        """
        Return whether kappa counts in standard deviations of the returns and the loss does not.

        With ``normalize_returns`` the loss itself is in standard deviations.
        """
        units = self.quantile_huber_kappa_units
        if units is None and self.critic_loss == "mean_and_spread":
            units = "std"
        return units == "std" and not self.normalize_returns

    def _clips_values(self) -> bool:
        return self.clip_range_vf is not None and self.distributional_vf_clip_mode != "disable"

    def _coefficients(self) -> Coefficients:
        """Evaluate the schedules and weights of this update."""
        progress = self._current_progress_remaining

        # Clip nothing before the first statistics of the returns: no older predictions exist.
        clip_range_vf = None
        if self._clips_values() and bool(self.policy.value_net.ret_std > 0):
            clip_range_vf = self.clip_range_vf(progress)  # type: ignore[misc, operator]

        return Coefficients(
            clip_range=self.clip_range(progress),  # type: ignore[operator]
            clip_range_vf=clip_range_vf,
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
            max_grad_norm=self.max_grad_norm,
        )

    def _prepare_update(self, coefficients: Coefficients) -> EagerUpdate:
        """Prepare the minibatch update for this rollout."""
        largest_kl = None
        if self.target_kl is not None:
            largest_kl = 1.5 * self.target_kl

        noise = CommonNoise(self.seed, self.num_timesteps, self.device)
        self._update.prepare(self._minibatch_loss, self.loss_settings, coefficients, self.policy, largest_kl, noise)
        return self._update

    @torch.no_grad()
    def _read_rollout(self, coefficients: Coefficients) -> Rollout:
        """Read old quantiles, calibration and sampled targets, with the policy that collected the rollout."""
        sampled = None
        if self.value_target == "sr_lambda":
            sampled = self._sampled_targets
        return self._rollout(clips=coefficients.clip_range_vf is not None, sampled=sampled)

    def _rollout(
        self,
        clips: bool,
        sampled: Callable[[Tensor], Tensor] | None,
    ) -> Rollout:
        """
        Build the rollout that an update reads.

        :param clips: whether old quantiles are needed
        :param sampled: function from quantiles to sampled targets, None: the targets are the returns
        """
        return Rollout(self.rollout_buffer, self.policy, self.batch_size, clips, sampled)

    def _sampled_targets(self, quantiles: Tensor) -> Tensor:
        """Sample atoms, shape (M, N), from quantiles, (M, C * N), both raw: the targets of "sr_lambda"."""
        # Quantiles of the rollout's states, of the states after it, and of the last states of truncated episodes.
        buffer = self.rollout_buffer
        of_states = self.policy.value_net.of_smaller_mean(quantiles)
        after_rollout = self._quantiles_after(self._last_obs)
        terminal = []
        for step, env, obs in self._truncated:
            terminal.append((step, env, self._quantiles_after(obs, step, env)[0]))

        # An episode ended where the next step starts one.
        starts = np.concatenate([buffer.episode_starts, np.asarray(self._last_episode_starts)[None]]).astype(bool)
        dones = starts[1:]

        # A separate generator without saved state: the same step and seed give the same draws.
        seed = self.seed
        if seed is None:
            seed = np.random.randint(2**31)  # noqa: NPY002  # SB3's generator
        rng = np.random.default_rng([seed + rank() * self.n_envs, self.num_timesteps])
        keeps = rng.random(buffer.rewards.shape) < self.gae_lambda
        return sampled_targets(buffer.rewards, dones, keeps, of_states, after_rollout, terminal, self.gamma)

    def _quantiles_after(
        self,
        observation: Any,
        step: int | None = None,
        env: int = 0,
    ) -> Tensor:
        """
        Predict raw quantiles after the rollout, or of a truncated episode's last observation.

        :param observation: observations after the rollout, or one last observation
        :param step: step of the rollout that ended the episode, None: after the rollout
        :param env: environment of the episode
        :return: (E, N) after the rollout, (1, N) for an episode
        """
        return self.policy.predict_quantiles(observation)

    def _update_return_statistics(self) -> None:
        """Add the rollout's raw returns to the statistics, and reset statistics that the flags no longer use."""
        head = self.policy.value_net
        if self._counts_kappa_in_stds():
            head.observe_kappa_unit(array_of_all(self.rollout_buffer.returns, self.device), self.return_stats_rate)
        else:
            head.kappa_statistics.zero_()

        if self.normalize_returns:
            returns = array_of_all(self.rollout_buffer.returns, self.device)
            head.observe_returns(returns, self.return_stats_rate, self.use_popart)
            return

        # Raw predictions stay the same where a loaded model had statistics.
        if head.ret_mean != 0 or head.ret_std != 1:
            if head.last_layers[0].bias is None:
                raise ValueError(
                    "normalize_returns cannot end where value_net's last layer has no bias to take the mean"
                )
            head.ret_updates.zero_()
            head.set_statistics(0.0, 1.0, popart=True)

    # --------------------------------------------------------------------------------------- after the update

    @contextlib.contextmanager
    def _undone_if_not_finite(
        self,
        update: EagerUpdate,
        before: dict[str, dict[str, Any]],
    ) -> Iterator[None]:
        """
        Undo the update made inside if a NaN or an infinity occurred.

        :param update: update whose metrics are read once, at the end, since each read makes the host wait
        :param before: parameters and optimizer state to restore
        :raises NonFiniteError: if the update was undone
        """
        error: ValueError | None = None
        try:
            yield
        except ValueError as refused:  # torch's distributions refuse a NaN before the metrics are read
            error = refused

        where = first_not_finite(update.metrics(), self.policy.parameters())
        if where is not None:
            self.set_parameters(before)
            raise NonFiniteError(
                f"non-finite number in {where} of the update at step {self.num_timesteps}. Parameters and optimizer "
                "were put back to where they were before it. Check: learning_rate, max_grad_norm and the scale of the "
                "rewards (normalize_returns=True takes any)."
            ) from error
        if error is not None:
            raise error

    def _log_update(
        self,
        b_metrics: dict[str, np.ndarray],
        rollout: Rollout,
        coefficients: Coefficients,
    ) -> None:
        """Record an update's scalars and write them if ``learn`` asked for it. Undefined scalars are omitted."""
        record = self.logger.record

        # A single weight per minibatch is also its smallest and its largest.
        weights = b_metrics.get("variance_scaling_weight")
        mean_weight = 1.0
        if weights is not None:
            mean_weight = float(weights.mean())
            smallest = np.float32(self.variance_scaling_clip_min)
            largest = np.float32(self.variance_scaling_clip_max)
            from_weights = {
                "variance_scaling_weight_min": weights,
                "variance_scaling_weight_max": weights,
                "variance_scaling_clamped": ((weights <= smallest) | (weights >= largest)).astype(np.float32),
            }
            b_metrics = {**from_weights, **b_metrics}

        # Metrics of the minibatches.
        for name, values in b_metrics.items():
            record(f"train/{name}", reduced(name, values))

        # Spread of the value loss over minibatches, and its coefficient with the weight.
        record("train/value_loss_std", b_metrics["value_loss"].std(dtype=np.float64))
        record("train/vf_coef_effective", self.vf_coef * mean_weight)

        # The critic's fit to this rollout before the update. It is NaN where all returns are equal.
        if rollout.calibration_error is not None:
            record("train/quantile_calibration_error", rollout.calibration_error)
        values = array_of_all(rollout.values, self.device)
        returns = array_of_all(rollout.returns, self.device)
        explained_var = explained_variance(values, returns)
        if np.isfinite(explained_var):
            record("train/explained_variance", explained_var)

        # The policy, and the settings of this update.
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", coefficients.clip_range)
        if coefficients.clip_range_vf is not None:
            record("train/clip_range_vf", coefficients.clip_range_vf)

        self._has_unwritten_update = True
        self._write_deferred()

    # ------------------------------------------------------------------------------------ rollouts and the log

    def learn(
        self: SelfDistributionalPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "DistributionalPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDistributionalPPO:
        """Train as ``PPO.learn`` does. Every ``log_interval``-th update and the last one are written."""
        self._waiting_dump = None
        self._has_unwritten_update = False

        # Only the first process writes.
        if rank() > 0:
            self.set_logger(logger.Logger(None, []))

        with learning_together(self):
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        self._write_deferred(last=log_interval is not None)
        return self

    def collect_rollouts(
        self,
        env: VecEnv,
        *args: Any,
        **kwargs: Any,
    ) -> bool:
        """Collect as PPO does. Non-finite observations raise an error that names them, not the action distribution."""
        # Discrete spaces may start elsewhere than at 0.
        if not counts_from_zero(self.action_space):
            env = MovedActions(env)

        # A subclass's ``train`` may have left its log unwritten.
        self._write_deferred()

        # The compiled step serves only this rollout.
        if self._policy_step is not None:
            self.policy.set_training_mode(False)
            obs = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
            self.policy.compiled_step = self._policy_step.prepare(self.policy, obs)

        try:
            return collect_together(self, super().collect_rollouts, env, *args, **kwargs)
        except (ValueError, RuntimeError) as error:
            when = f"before update {self._n_updates} at step {self.num_timesteps}"
            raise_if_not_finite("observations", self._last_obs, when, "environment or VecNormalize", error)
            raise
        finally:
            self.policy.compiled_step = None

    def _update_info_buffer(
        self,
        infos: list[dict[str, Any]],
        dones: np.ndarray | None = None,
    ) -> None:
        """Update as PPO does, and keep the last observations of truncated episodes for "sr_lambda"."""
        if self.value_target == "sr_lambda" and self.rollout_buffer.pos == 0:
            self._truncated = []

        # Infos are empty where no episode ended.
        if not any(infos):
            return
        super()._update_info_buffer(infos, dones)

        if self.value_target == "sr_lambda":
            for i, info in enumerate(infos):
                if info.get("TimeLimit.truncated", False) and info.get("terminal_observation") is not None:
                    self._truncated.append((self.rollout_buffer.pos, i, info["terminal_observation"]))

    # ------------------------------------------------------------------------------------------ states of a policy

    def carried_states(self) -> Any:
        """:return: states that the policy carries from rollout to rollout, tensors in tuples; empty here"""
        return ()

    def restore_states(self, states: Any) -> None:
        """
        :param states: return value of ``carried_states``
        """

    def critic_states_of_rollout(self) -> dict[str, np.ndarray]:
        """:return: the critic's carried states before each step by name, (T * E, ...); empty here"""
        return {}

    # ---------------------------------------------------------------------------------------- saving and loading

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_truncated", "_update", "_policy_step"]

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """
        Set parameters as ``PPO.set_parameters`` does. They include the statistics of the returns.

        A plain PPO needs ``exact_match=False``: the actor and the critic's hidden layers are taken, its head and
        optimizer are not.

        The optimizer's moments and options come along. This also holds between the default optimizer's two parameter
        groups and the single group of ``optimizer_kwargs``. A warning names changed options. The state of an optimizer
        of another class is ignored with a warning.

        :raises ValueError: if ``exact_match`` and the parameters come from a plain PPO, which has no quantiles, or if
            a user's optimizer groups differ
        """
        params: Any = load_path_or_dict
        if not isinstance(params, dict):
            _, params, _ = load_from_zip_file(params, device=device, load_data=False)
        params = checked_parameters(params, self.use_twin_critics, exact_match)
        # A copy, since torch's optimizers keep using the tensors they receive.
        params = copy.deepcopy(params)

        optimizer_state = params.get("policy.optimizer")
        if optimizer_state is None:
            super().set_parameters(params, exact_match, device)
            return
        with fitting_optimizer(self.policy, optimizer_state, exact_match) as fitting_state:
            params["policy.optimizer"] = fitting_state
            super().set_parameters(params, exact_match, device)

    @classmethod
    def load(
        cls: type[SelfDistributionalPPO],
        path: Any,
        *args: Any,
        **kwargs: Any,
    ) -> SelfDistributionalPPO:
        """
        Load as ``PPO.load`` does. Keywords change the flags of the saved model and are checked as in the constructor.

        :raises TypeError: if neither ``PPO.load`` nor the constructor takes a keyword
        :raises ValueError: if the archive holds a plain PPO, or a value is out of its range
        """
        check_keywords(cls, kwargs)
        # SB3 stores it under another name.
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
        return super().load(path, *args, **kwargs)


def __getattr__(name: str) -> Any:
    """Import ``RecurrentDistributionalPPO`` on first access, since it needs sb3-contrib."""
    if name != "RecurrentDistributionalPPO":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from recurrent_distributional_ppo import RecurrentDistributionalPPO
    except ImportError as error:
        raise ImportError(f'{name} needs sb3-contrib: pip install "distributional-ppo[recurrent]"') from error
    return RecurrentDistributionalPPO
