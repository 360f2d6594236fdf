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

With ``critic_loss="mean_and_spread"``, and m_b = mean_i q_bi::

    loss   = policy_loss + ent_coef * entropy_loss + vf_coef * (mean_b (m_b - y_b)^2 + w * 4 kappa * mean_b loss_b)

in which loss_b is that of the quantiles q_bi - m_b + [m_b], where [m_b] has no gradient: it moves the spread alone.

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
   always. PPO writes them one rollout later, and those of the last update never. They stay in the logger until the
   next update, as in PPO, unless a writer that is not SB3's would write them twice.
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
10. All quantiles begin as one, PPO's value of the same seed. Drawn one by one, their mean has weights of 1 / sqrt(N)
   the norm of PPO's, and the layers before the head learn the slower for it.
11. Discrete actions have the start and the dtype of their space in the environment and from ``predict``. PPO's count
   from 0. A warning names a Box that is neither float32 nor float64: a rollout keeps its actions rounded.
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
    metrics_of_both,
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
    PPO with a quantile critic, whose value loss can be scaled by the variance of the predicted quantiles. Takes every
    parameter of ``stable_baselines3.PPO``, in its order and with its defaults; ``policy_kwargs=dict(n_quantiles=32)``
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
    :param clip_range_vf: how far the critic's predictions may usefully move in an update; None: any
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
    :param quantile_huber_kappa: where the quantile-Huber loss turns from quadratic to linear, in the units of the loss;
        far above the errors the quantiles become expectiles, which are too narrow
    :param quantile_huber_kappa_units: "loss": kappa in the units of the loss; "std": in standard deviations of the
        returns, as ``return_stats_rate`` averages them, with or without ``normalize_returns``. None: "loss" with
        "quantile_huber", "std" with "mean_and_spread"
    :param critic_loss: "quantile_huber": every quantile by its quantile-Huber loss, times the variance weight;
        "mean_and_spread": the mean of the quantiles by its squared error, as PPO's value, and the quantiles around
        their mean by 4 kappa times their quantile-Huber loss, which alone has the variance weight
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
        deviation to the old one; as all quantiles begin as one, it also limits how soon they part
    :param clip_range_vf_units: "raw": ``clip_range_vf`` in units of return; "std": in standard deviations of the
        returns, needs ``normalize_returns``
    :param use_twin_critics: two critics, each with its loss and weight; the value is the smaller mean, per state
    :param use_variance_gradient_scaling: multiply the value loss by the clamped mean variance of the quantiles
    :param variance_scaling_clip_min: smallest weight, >= 0; below 1e-6: none, and 1 before the quantiles part
    :param variance_scaling_clip_max: largest weight, may equal the smallest
    :param variance_scaling_mode: "batch": one weight per minibatch, the mean variance; "dsac_t": one per sample,
        smaller where the variance is larger; it belongs with ``normalize_returns``
    :param gradient_clipping: "joint": one norm of all gradients is held to ``max_grad_norm``, as in PPO; "apart": that
        of what only the actor's loss reaches, that of what only the critic's does, that of what both do, each by itself
    :param compile: run the minibatch update and the policy's step in the rollout as compiled graphs; the same numbers
        up to rounding, other random actions. A program compiles before its second update, for some 20 seconds
    :raises ValueError: from the constructor and ``load`` if a value is out of its range
    :raises TypeError: likewise if a flag is not a bool or the policy no ``ActorCriticPolicy``
    :raises FloatingPointError: from ``learn`` if a NaN or an infinity turns up; the update is undone
    """

    scales_value_loss: ClassVar[bool] = True  # so that the mixin does not scale it again
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": QuantileActorCriticPolicy,
        "CnnPolicy": QuantileActorCriticCnnPolicy,
        "MultiInputPolicy": QuantileMultiInputActorCriticPolicy,
    }
    policy_base: ClassVar[type[QuantileActorCriticPolicy]] = QuantileActorCriticPolicy  # for a user's own policy
    policy: QuantileActorCriticPolicy
    _settings_of_update: LossSettings | None = None  # held within an update; None: the flags count as they are

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

        # What PPO does not take: the critic and its target.
        self.quantile_huber_kappa = quantile_huber_kappa
        self.quantile_huber_kappa_units = quantile_huber_kappa_units
        self.critic_loss = critic_loss
        self.value_target = value_target
        self.normalize_returns = normalize_returns
        self.return_stats_rate = return_stats_rate
        self.use_popart = use_popart

        # How far predictions may move.
        self.distributional_vf_clip_mode = distributional_vf_clip_mode
        self.distributional_vf_clip_variance_factor = distributional_vf_clip_variance_factor
        self.clip_range_vf_units = clip_range_vf_units

        # Twin critics, and the weight of the value loss.
        self.use_twin_critics = use_twin_critics
        self.use_variance_gradient_scaling = use_variance_gradient_scaling
        self.variance_scaling_clip_min = variance_scaling_clip_min
        self.variance_scaling_clip_max = variance_scaling_clip_max
        self.variance_scaling_mode = variance_scaling_mode

        # How the step is made.
        self.gradient_clipping = gradient_clipping
        self.compile = compile

        # What follows from rollouts and updates.
        self._update = EagerUpdate()
        self._policy_step: CompiledStep | None = None  # with ``compile``
        self._truncated: list[tuple[int, int, Any]] = []  # step, environment and last observation of truncated episodes
        self._waiting_dump: int | None = None  # iteration whose log waits for its update
        self._has_unwritten_update = False

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        # Checked here, so that ``load`` checks them, too.
        check_flags(self)
        check_action_space(self.action_space)
        self.policy_class = quantile_policy(self.policy_class, self.policy_base)  # type: ignore[arg-type]

        # The policy learns of twin critics by a keyword that ``policy_kwargs``, as saved and compared by load, lacks.
        policy_kwargs = self.policy_kwargs
        if self.use_twin_critics:
            self.policy_kwargs = {**policy_kwargs, "n_critics": 2}
        super()._setup_model()
        self.policy_kwargs = policy_kwargs

        if self.compile:
            self._compile()

        # There are no statistics of the returns yet.
        if self.normalize_returns:
            self.policy.value_net.ret_std.zero_()
        if self.use_popart and self.policy.value_net.last_layers[0].bias is None:
            raise ValueError("use_popart moves the bias of value_net's last layer, and this policy's has none")

        # All processes begin with the same parameters. Each steps other environments, with other actions.
        self.n_processes = n_processes()
        if self.n_processes > 1:
            begin_together(self.policy, shared_settings(self))
            if self.seed is not None:
                self.set_random_seed(self.seed + rank() * self.n_envs)

        # Settings that are allowed and probably not meant.
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
        """Take the compiled forms of the update and of the policy's step in the rollout."""
        from quantile_critic.compiled import CompiledStep, CompiledUpdate

        self._update = CompiledUpdate()
        self._policy_step = CompiledStep()

    def _maybe_recommend_cpu(self, mlp_class_name: str = "QuantileActorCriticPolicy") -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    # ------------------------------------------------------------------------------------------------ the update

    def train(self) -> None:
        """One update of policy and critic from the rollout that ``collect_rollouts`` has made."""
        when = f"before update {self._n_updates} at step {self.num_timesteps}"
        ending_together(check_rollout, self.rollout_buffer, when)
        before = copy.deepcopy(self.get_parameters())

        # Read flags and schedules; then the rollout, as the policy that collected it sees it: old quantiles, targets.
        self.policy.set_training_mode(False)
        coefficients = self._coefficients()
        with stepping_together(self.device):
            rollout = self._read_rollout(coefficients)

        # Take its returns into the statistics. Targets and old quantiles follow into the new units of the loss.
        self._update_return_statistics()
        rollout.to_loss_units(scale_advantages=self.normalize_returns and self.normalize_advantage)

        # Make several passes over the rollout in minibatches, until the policy has moved too far.
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        update = self._prepare_update(coefficients)
        with (
            self._held_settings(),
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

        # Check that all processes hold the same parameters, and log.
        agree_after_update(self.policy, self._n_updates)
        self._log_update(update.metrics(), rollout, coefficients)

    def _minibatch_loss(
        self,
        minibatch: Samples,
        coefficients: Coefficients,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        PPO's loss (Schulman et al. 2017, eq. 9).

        :param minibatch: B samples
        :param coefficients: of this update
        :return: what to minimise, and the metrics to log
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
        PPO's clipped surrogate (Schulman et al. 2017, eq. 7).

        :param log_prob: of the minibatch's actions, shape (B,)
        :param minibatch: B samples
        :param clip_range: of the ratio
        :return: what to minimise, and the metrics to log
        """
        # Advantages, normalised over the minibatches of all processes; a single one has no deviation.
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
        Clip, loss of each sample, maximum, weight, mean: for each critic; then the sum over the critics.

        :param quantiles: predictions in the units of the loss, shape (B, C * N)
        :param targets: returns, shape (B,), or atoms, (B, N), same units
        :param old: predictions of the policy that collected the rollout, shape (B, C * N), or None: no clipping
        :param clip_range_vf: how far predictions may move from these, in the units of ``clip_range_vf_units``
        :return: what to minimise, and what is logged: means over the critics, with two also of each
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

            # The loss of each sample, shape (B,), and the squared error of its mean where that is a part of it.
            loss, squared_error_of_mean = self._sample_losses(predicted, targets)

            # With clipping, the larger of this loss and that of the clipped predictions, sample by sample.
            predicted_old = old_of_critics[critic]
            if predicted_old is not None and clip_range_vf is not None:
                clipped = self._clipped(predicted, predicted_old, clip_range_vf)
                loss_of_clipped, squared_error_of_clipped = self._sample_losses(clipped, targets)
                loss = torch.max(loss, loss_of_clipped)
                if squared_error_of_mean is not None and squared_error_of_clipped is not None:
                    squared_error_of_mean = torch.max(squared_error_of_mean, squared_error_of_clipped)
                metrics["clip_fraction_vf"] = (clipped != predicted).float().mean()

            # The weight, from the variance of the unclipped predictions, multiplies last.
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

                # One weight of the minibatch, or one of each sample.
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
        return torch.stack(losses).sum(), metrics_of_both(logged)

    def _sample_losses(
        self,
        quantiles: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """
        :param quantiles: of a critic, in the units of the loss, shape (B, N)
        :param targets: shape (B,), or atoms, (B, M), same units
        :return: what the variance weight multiplies, shape (B,): the quantile-Huber loss, with "mean_and_spread" that
            of the quantiles around their mean, in squared units; then also the squared error of the mean, shape (B,)
        """
        if self.loss_settings.critic_loss == "quantile_huber":
            return self._quantile_huber_loss(quantiles, targets, reduction="none"), None

        # The mean learns by its squared error, as PPO's value does.
        mean = quantiles.mean(dim=1, keepdim=True)  # (B, 1)
        squared_error = (mean - targets.reshape(len(mean), -1)).square().mean(dim=1)

        # The quantiles around it pass no gradient to the mean. As ``apart`` adds up its parts by itself, that of one
        # quantile is 0 to the last bit. A factor of 4 kappa makes u^2 of a median's error u below kappa.
        apart = quantiles.view_as(quantiles)
        around_mean = apart - apart.mean(dim=1, keepdim=True) + mean.detach()
        spread_loss = self._quantile_huber_loss(around_mean, targets, reduction="none")
        kappa: Any = self.loss_settings.kappa
        if self.loss_settings.kappa_in_stds:
            kappa = kappa * self.policy.value_net.kappa_unit
        return 4 * kappa * spread_loss, squared_error

    def _clipped(
        self,
        quantiles: Tensor,
        old: Tensor,
        clip_range_vf: float,
    ) -> Tensor:
        """
        Hold a critic's predictions near the old ones.

        :param quantiles: in the units of the loss, shape (B, N)
        :param old: those of the policy that collected the rollout, same shape and units
        :param clip_range_vf: how far they may move, in the units of ``clip_range_vf_units``
        :return: shape (B, N), same units
        """
        # A caller may clip where the flags do not.
        clipping = self.loss_settings.clipping or self._clipping()

        # Raw units become those of the loss.
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
        ``variance_weight``, after the average of "dsac_t" has moved; without a lower clamp 1 until there is a spread.

        :param critic: which critic
        :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
        :param all_variances: likewise, of all processes
        :param squared_error: mean over all processes, scalar, likewise; None: nothing is compared with it
        :return: what the loss is multiplied by: a scalar in mode "batch", shape (B,) in mode "dsac_t"
        """
        scaling = self.loss_settings.scaling or self._scaling()
        if scaling.mode == "batch":
            weight = self.variance_weight(all_variances, critic)
        else:
            # The average takes the minibatch in before it is used.
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

        # Without it the quantiles must part first.
        spread = all_variances.mean()
        if scaling.mode == "dsac_t":
            spread = self.policy.value_net.std_average[critic].square()
        return weight_before_spread(weight, spread, squared_error, scaling.clip_max)

    def _weight_metrics(self, weight: Tensor) -> dict[str, Tensor]:
        """
        :param weight: of a critic's loss, shape () or (B,)
        :return: its mean; its extremes and the share at a clamp where ``_log_update`` cannot tell them from the means
        """
        metrics = {"variance_scaling_weight": weight.mean()}
        if weight.ndim > 0 or self.policy.value_net.n_critics > 1:
            scaling = self.loss_settings.scaling or self._scaling()
            at_clamp = (weight <= scaling.clip_min) | (weight >= scaling.clip_max)

            # One weight per minibatch is that of all processes already.
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
        :param variance: variance of each sample's quantiles, shape (B,), in squared units of the loss
        :param critic: which critic
        :return: what its loss is multiplied by: a scalar in mode "batch", shape (B,) in mode "dsac_t"
        """
        scaling = self.loss_settings.scaling or self._scaling()
        if scaling.mode == "batch":
            return batch_weight(variance, scaling.clip_min, scaling.clip_max)

        # There is no average before the first update.
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
        ``quantile_huber_loss`` at ``quantile_huber_kappa``, in its units.

        :param predicted_quantiles: shape (B, N)
        :param targets: shape (B,) or (B, 1), or (B, M) of M atoms each, in the units of the predictions
        :param reduction: over the samples; the loss of a sample is always the mean over its quantiles
        :return: shape (B,) for "none", else a scalar
        :raises ValueError: on another reduction
        """
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")

        # The head's midpoints are those of N quantiles. Those of another number are computed.
        tau: Tensor | None = self.policy.value_net.tau
        if self.policy.value_net.tau.shape[0] != predicted_quantiles.shape[1]:
            tau = None

        # The unit in which kappa counts: huber of u at kappa * s is s^2 times that of u / s at kappa.
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
        The settings of the loss. An update holds those of its start, which compiled code takes for constants;
        elsewhere they follow the flags.
        """
        if self._settings_of_update is not None:
            return self._settings_of_update
        return self._settings_of_flags()

    @contextlib.contextmanager
    def _held_settings(self) -> Iterator[None]:
        """Hold ``loss_settings`` for the time of an update."""
        self._settings_of_update = self._settings_of_flags()
        try:
            yield
        finally:
            self._settings_of_update = None

    def _settings_of_flags(self) -> LossSettings:
        """The settings by the flags as they are now, in Python's numbers."""
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
        """How the value loss is weighted, where it is."""
        return Scaling(
            mode=self.variance_scaling_mode,
            clip_min=float(self.variance_scaling_clip_min),
            clip_max=float(self.variance_scaling_clip_max),
        )

    def _clipping(self) -> Clipping:
        """How predictions are held near the old ones, where they are."""
        return Clipping(
            mode=self.distributional_vf_clip_mode or "per_quantile",
            variance_factor=float(self.distributional_vf_clip_variance_factor),
            units=self.clip_range_vf_units,
        )

    def _counts_kappa_in_stds(self) -> bool:
        """Whether kappa counts in standard deviations of the returns; with ``normalize_returns`` the loss does so."""
        units = self.quantile_huber_kappa_units
        if units is None and self.critic_loss == "mean_and_spread":
            units = "std"
        return units == "std" and not self.normalize_returns

    def _clips_values(self) -> bool:
        return self.clip_range_vf is not None and self.distributional_vf_clip_mode != "disable"

    def _coefficients(self) -> Coefficients:
        """The numbers of this update's loss and step, by the schedules."""
        progress = self._current_progress_remaining

        # Nothing is clipped before the first statistics of the returns: there are no older predictions to stay near.
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
        """The update of a minibatch, ready for this rollout."""
        largest_kl = None
        if self.target_kl is not None:
            largest_kl = 1.5 * self.target_kl

        noise = CommonNoise(self.seed, self.num_timesteps, self.device)
        self._update.prepare(self._minibatch_loss, self.loss_settings, coefficients, self.policy, largest_kl, noise)
        return self._update

    @torch.no_grad()
    def _read_rollout(self, coefficients: Coefficients) -> Rollout:
        """Old quantiles, calibration and sampled targets of the rollout, by the policy that collected it."""
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
        :param clips: whether old quantiles are wanted
        :param sampled: makes sampled targets of quantiles; None: the targets are the returns
        """
        return Rollout(self.rollout_buffer, self.policy, self.batch_size, clips, sampled)

    def _sampled_targets(self, quantiles: Tensor) -> Tensor:
        """Atoms, shape (M, N), from quantiles, (M, C * N), both raw: the targets of "sr_lambda"."""
        # Quantiles of the rollout's states, of those after it, and of those with which truncated episodes ended.
        buffer = self.rollout_buffer
        of_states = self.policy.value_net.of_smaller_mean(quantiles)
        after_rollout = self._quantiles_after(self._last_obs)
        terminal = []
        for step, env, obs in self._truncated:
            terminal.append((step, env, self._quantiles_after(obs, step, env)[0]))

        # An episode has ended where the next step starts one.
        starts = np.concatenate([buffer.episode_starts, np.asarray(self._last_episode_starts)[None]]).astype(bool)
        dones = starts[1:]

        # A generator of its own, without state to save: the same step of the same seed draws the same.
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
        """Raw quantiles after the rollout, (E, N), or of what a truncated episode ended with, after a step, (1, N)."""
        return self.policy.predict_quantiles(observation)

    def _update_return_statistics(self) -> None:
        """Take in the rollout's raw returns; dissolve what an earlier run with other flags left."""
        head = self.policy.value_net
        if self._counts_kappa_in_stds():
            head.observe_kappa_unit(array_of_all(self.rollout_buffer.returns, self.device), self.return_stats_rate)
        else:
            head.kappa_statistics.zero_()

        if self.normalize_returns:
            returns = array_of_all(self.rollout_buffer.returns, self.device)
            head.observe_returns(returns, self.return_stats_rate, self.use_popart)
            return

        # Predictions in raw units stay as they are where a loaded model had statistics.
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
        Undo the update made within it if a NaN or an infinity turned up.

        :param update: whose metrics are looked at once, at the end, since each look makes the device wait
        :param before: parameters and state of the optimizer to go back to
        :raises NonFiniteError: if it was undone
        """
        error: ValueError | None = None
        try:
            yield
        except ValueError as refused:  # torch's distributions refuse a NaN before the numbers are looked at
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
        """Record the scalars of an update and write them if ``learn`` asked for it. Undefined scalars are left out."""
        record = self.logger.record

        # A single weight per minibatch is its smallest and largest, too.
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

        # How the value loss spread over them, and its coefficient with the weight.
        record("train/value_loss_std", b_metrics["value_loss"].std(dtype=np.float64))
        record("train/vf_coef_effective", self.vf_coef * mean_weight)

        # How the critic predicted this rollout before the update; NaN where all returns are equal.
        if rollout.calibration_error is not None:
            record("train/quantile_calibration_error", rollout.calibration_error)
        values = array_of_all(rollout.values, self.device)
        returns = array_of_all(rollout.returns, self.device)
        explained_var = explained_variance(values, returns)
        if np.isfinite(explained_var):
            record("train/explained_variance", explained_var)

        # The policy, and the numbers of this update.
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", coefficients.clip_range)
        if coefficients.clip_range_vf is not None:
            record("train/clip_range_vf", coefficients.clip_range_vf)

        self._has_unwritten_update = True
        self._write_what_waits()

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
        """As ``PPO.learn``; every ``log_interval``-th update is written, and the last one in any case."""
        self._waiting_dump = None
        self._has_unwritten_update = False

        # The first process writes.
        if rank() > 0:
            self.set_logger(logger.Logger(None, []))

        with learning_together(self):
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        self._write_what_waits(last=log_interval is not None)
        return self

    def collect_rollouts(
        self,
        env: VecEnv,
        *args: Any,
        **kwargs: Any,
    ) -> bool:
        """As PPO's, but observations that are not finite are named, where torch would blame the action distribution."""
        # Discrete spaces may begin elsewhere than at 0.
        if not counts_from_zero(self.action_space):
            env = MovedActions(env)

        # A subclass's own ``train`` may not have written its log.
        self._write_what_waits()

        # The compiled step serves this rollout only.
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
        """As PPO's; keeps the last observations of truncated episodes, which PPO sees only as a mean in the reward."""
        if self.value_target == "sr_lambda" and self.rollout_buffer.pos == 0:
            self._truncated = []

        # Infos are empty where nothing has ended.
        if not any(infos):
            return
        super()._update_info_buffer(infos, dones)

        if self.value_target == "sr_lambda":
            for i, info in enumerate(infos):
                if info.get("TimeLimit.truncated", False) and info.get("terminal_observation") is not None:
                    self._truncated.append((self.rollout_buffer.pos, i, info["terminal_observation"]))

    # ------------------------------------------------------------------------------------------ states of a policy

    def carried_states(self) -> Any:
        """:return: states that the policy carries from rollout to rollout, tensors in tuples; here there are none"""
        return ()

    def restore_states(self, states: Any) -> None:
        """
        :param states: from ``carried_states``
        """

    def critic_states_of_rollout(self) -> dict[str, np.ndarray]:
        """:return: by name what the critic has carried to each step of the rollout, (T * E, ...); here nothing"""
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
        As ``PPO.set_parameters``. The statistics of the returns come with the parameters. Of a plain PPO,
        ``exact_match=False`` takes what fits: the actor and the critic's hidden layers, not its head and the optimizer.

        The optimizer's moments and options come with the parameters, also between the default optimizer, which has two
        groups of parameters, and one with ``optimizer_kwargs``, which has one. A warning names changed options. The
        state of an optimizer of another class is not taken, and a warning says so.

        :raises ValueError: if ``exact_match`` and the parameters are those of a plain PPO, which has no quantiles, or
            the optimizer's groups are a user's own and differ
        """
        params: Any = load_path_or_dict
        if not isinstance(params, dict):
            _, params, _ = load_from_zip_file(params, device=device, load_data=False)
        params = checked_parameters(params, self.use_twin_critics, exact_match)
        # Copied, as torch's optimizers would go on with the tensors they are given.
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
        As ``PPO.load``; keywords change the flags of the saved model and are checked like the constructor's.

        :raises TypeError: on a keyword that neither ``PPO.load`` nor the constructor takes
        :raises ValueError: on an archive of a plain PPO, or a value out of its range
        """
        check_keywords(cls, kwargs)
        # SB3 keeps it under another name.
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
        return super().load(path, *args, **kwargs)


def __getattr__(name: str) -> Any:
    """``RecurrentDistributionalPPO``, imported when it is asked for, since it needs sb3-contrib."""
    if name != "RecurrentDistributionalPPO":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from recurrent_distributional_ppo import RecurrentDistributionalPPO
    except ImportError as error:
        raise ImportError(f'{name} needs sb3-contrib: pip install "distributional-ppo[recurrent]"') from error
    return RecurrentDistributionalPPO
