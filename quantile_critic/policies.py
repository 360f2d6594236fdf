"""
SB3's policies, or a user's, with one or two critics of N quantiles.

SB3 builds the policy. Then the last layer of ``value_net`` is widened in place from 1 to N outputs, so the optimizer
keeps its parameters. From then on ``value_net`` returns quantiles in the units of the loss. ``forward``,
``evaluate_actions`` and ``predict_values`` reduce them to the value that SB3 expects: the mean in raw units.

A user's policy may define ``forward`` and ``evaluate_actions``. They get their value from ``value_net``, as SB3's do,
or from ``predict_values``. The first returns quantiles, the second a value. So ``predict_values`` records its
quantiles while such a method runs (``_recording``). The caller uses the recorded quantiles, if any.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn

from quantile_critic.actions import environment_actions
from quantile_critic.distributions import LEAN
from quantile_critic.head import QuantileHead, TwinNet
from quantile_critic.losses import lower_tail_mean

PPO_ADAM_EPS = 1e-5  # Adam's eps in SB3's policy
CRITIC_ADAM_EPS = 1e-8  # torch's default
# Host methods that read `value_net` directly.
READ_VALUE_NET = (ActorCriticPolicy.forward, ActorCriticPolicy.evaluate_actions)


class QuantileActorCriticPolicy(ActorCriticPolicy):
    """
    Any actor-critic policy with a critic of N quantiles. It takes the parameters of ``ActorCriticPolicy``, and:

    :param n_quantiles: number of quantiles N of the critic, at least 1. All start at the value that SB3's policy has
        with the same seed
    :param n_critics: 1 or 2; ``DistributionalPPO`` sets it from ``use_twin_critics``. A critic has a value network, a
        head, and a features extractor unless it shares the actor's
    :raises ValueError: if ``n_quantiles`` is not a positive integer, or ``n_critics`` is 2 and ``mlp_extractor`` has
        no ``value_net``
    :raises TypeError: if ``equal_init=False``, a flag of version 0.1.0
    """

    host: ClassVar[type[ActorCriticPolicy]] = ActorCriticPolicy  # required base of a user's policy
    carries_states: ClassVar[bool] = False  # whether a step depends on states of the step before
    critic_parts: ClassVar[tuple[str, ...]] = ("value_net.", "mlp_extractor.value_net.", "vf_features_extractor.")
    value_net: QuantileHead  # type: ignore[assignment]
    compiled_step: Callable[..., Any] | None = None  # set during a rollout
    recorded: list[Tensor] | None = None  # quantiles that `predict_values` records while a host method runs

    def __init__(
        self,
        *args: Any,
        n_quantiles: int = 32,
        n_critics: int = 1,
        **kwargs: Any,
    ):
        # Check our keywords.
        if n_critics not in (1, 2):
            raise ValueError(f"n_critics must be 1 or 2, got {n_critics!r}")
        if not isinstance(n_quantiles, int | np.integer) or isinstance(n_quantiles, bool) or n_quantiles < 1:
            raise ValueError(f"n_quantiles must be an integer of at least 1, got {n_quantiles!r}")
        if kwargs.pop("equal_init", True) is not True:
            raise TypeError("equal_init=False is gone: all quantiles begin as PPO's value. Version 0.1.0 has it")

        self.n_quantiles = int(n_quantiles)
        self.n_critics = n_critics

        # Check that SB3's default optimizer is in use.
        is_adam = kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam
        self.has_default_optimizer = is_adam and kwargs.get("optimizer_kwargs") is None

        # SB3, or the user's class, builds a policy with a single value.
        super().__init__(*args, **kwargs)
        self.compiled_step = None
        self.recorded = None

        # Widen the value to N quantiles, for one critic or two, and the optimizer's state with it.
        second: nn.Module | None = None
        if n_critics > 1:
            second, twins = self._add_second_critic()
            self._add_to_optimizer(twins)
        self.value_net = QuantileHead(cast(nn.Module, self.value_net), self.n_quantiles, second)
        self._widen_optimizer_state()
        self._set_critic_eps()
        # Keep the state for an optimizer that restarts. It is empty where the first step creates the state.
        self.first_optimizer_state = {
            parameter: copy.deepcopy(state) for parameter, state in self.optimizer.state.items() if state
        }

        # Use equal distributions that take less time.
        if type(self.action_dist) in LEAN:
            self.action_dist = LEAN[type(self.action_dist)](cast(Any, self.action_dist).action_dim)
        elif isinstance(self.action_dist, MultiCategoricalDistribution):
            # A compiled graph would treat numpy's numbers as variables.
            self.action_dist.action_dims = [int(n) for n in self.action_dist.action_dims]

    def _add_second_critic(self) -> tuple[nn.Module, dict[nn.Parameter, nn.Parameter]]:
        """Double the critic's networks. Return the second head, and the twin of each parameter."""
        if not hasattr(getattr(self, "mlp_extractor", None), "value_net"):
            raise ValueError("use_twin_critics needs an mlp_extractor with a value_net, as SB3's MlpExtractor has")

        # Draw a second head and value network with SB3's gains.
        extractor: Any = self.mlp_extractor
        head = self.value_net
        second_head = self._drawn_anew(head, 1.0)
        net = extractor.value_net
        second_net = self._drawn_anew(net, math.sqrt(2))
        pairs = [(head, second_head), (net, second_net)]

        # Two features extractors output two halves, one per network.
        doubles = self._doubles_extractor()
        extractor.value_net = TwinNet(net, second_net, split=doubles)
        if doubles:
            features = self.vf_features_extractor
            second_features = self._drawn_anew(features, math.sqrt(2))
            self.vf_features_extractor = TwinNet(features, second_features, split=False)  # type: ignore[assignment]
            pairs.append((features, second_features))

        # Match each parameter with its twin.
        twins: dict[nn.Parameter, nn.Parameter] = {}
        for first, second in pairs:
            twins.update(zip(first.parameters(), second.parameters(), strict=True))
        return second_head, twins

    def _doubles_extractor(self) -> bool:
        """Return whether each of two critics has its own features extractor."""
        return not self.share_features_extractor

    def _drawn_anew(
        self,
        module: nn.Module,
        gain: float,
    ) -> nn.Module:
        """Copy a module with new parameters, drawn as SB3 draws them."""
        duplicate = copy.deepcopy(module)

        # Draw torch's initial weights.
        parts: Any = duplicate.modules()
        for part in parts:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()

        # Draw SB3's initial weights.
        if self.ortho_init:
            duplicate.apply(partial(self.init_weights, gain=gain))
        return duplicate

    def _add_to_optimizer(self, twins: dict[nn.Parameter, nn.Parameter]) -> None:
        """Add each parameter's twin to the optimizer, in the same group and with a copy of its state."""
        # Follow the policy's order, in which parameters are saved.
        place = {id(parameter): i for i, parameter in enumerate(self.parameters())}
        for group in self.optimizer.param_groups:
            with_twins = list(group["params"])
            with_twins += [twins[parameter] for parameter in group["params"] if parameter in twins]
            group["params"] = sorted(with_twins, key=lambda parameter: place.get(id(parameter), len(place)))

        # Some optimizers create their state in the constructor.
        for first, second in twins.items():
            if first in self.optimizer.state:
                self.optimizer.state[second] = copy.deepcopy(self.optimizer.state[first])

    def _widen_optimizer_state(self) -> None:
        """Widen state that some optimizers, such as Adagrad, create in the constructor, as the last layers are."""
        for layer in self.value_net.last_layers:
            for parameter in layer.parameters():
                narrow_shape = (1, *parameter.shape[1:])
                if narrow_shape == parameter.shape:
                    continue

                # State of the parameter's shape belongs to its elements. Other state, such as a step, stays.
                state = self.optimizer.state.get(parameter, {})
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == narrow_shape:
                        state[name] = value.repeat_interleave(len(parameter), dim=0)

    def _set_critic_eps(self) -> None:
        """Set another eps for the critic (difference 9 from PPO), unless the user's code made the optimizer."""
        # Another optimizer or other groups are the user's choice. A single quantile is PPO's critic.
        group, *more_groups = self.optimizer.param_groups
        is_adam = type(self.optimizer) is torch.optim.Adam and group["eps"] == PPO_ADAM_EPS
        if more_groups or not is_adam or not self.has_default_optimizer or self.n_quantiles == 1:
            return

        # Move the critic's parameters into a separate group.
        ids = {id(parameter) for name, parameter in self.named_parameters() if name.startswith(self.critic_parts)}
        critic = [parameter for parameter in group["params"] if id(parameter) in ids]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
        self.optimizer.add_param_group({"params": critic, "eps": CRITIC_ADAM_EPS})

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        parameters["n_quantiles"] = self.n_quantiles
        parameters["n_critics"] = self.n_critics

        # SB3 writes its eps here. The loaded policy would mistake it for the user's choice.
        if self.has_default_optimizer:
            parameters["optimizer_kwargs"] = None
        return parameters

    def save(self, path: Any) -> None:
        """
        Save as ``BasePolicy.save`` does, with a plain policy of the same actions and values beside the quantiles.

        The class's ``load`` reads everything. The plain policy is for the ``load`` of the class that was given to
        ``DistributionalPPO``, and for SB3's ``MlpPolicy.load``. Twin critics have no equal plain policy.

        :param path: file name or file
        """
        saved = {"state_dict": self.state_dict(), "data": self._get_constructor_parameters()}

        # SB3 reads the plain policy. The quantiles are stored beside it.
        plain_state = self._plain_state()
        if plain_state is not None:
            plain_data = dict(saved["data"])
            data = {name: plain_data.pop(name) for name in ("n_quantiles", "n_critics")}
            quantiles = {"state_dict": saved["state_dict"], "data": data}
            saved = {"state_dict": plain_state, "data": plain_data, "quantiles": quantiles}
        torch.save(saved, path)

    def _plain_state(self) -> dict[str, Tensor] | None:
        """Return parameters of an SB3 policy with the same actions and values, None: no such policy exists."""
        # A linear layer cannot give the smaller of two means, nor a mean without a bias.
        head = self.value_net
        last = head.last_layers[0]
        if self.n_critics > 1 or (last.bias is None and head.ret_mean != 0):
            return None

        # Copy everything but the head, then the head's layers under the names of the plain policy.
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("value_net.")}
        for name, value in head.net.state_dict().items():
            state[f"value_net.{name}"] = value

        # The value is the mean of the quantiles, in raw units.
        prefix = ".".join(filter(None, ("value_net", head.last_layer_name)))
        state[f"{prefix}.weight"] = last.weight.detach().mean(dim=0, keepdim=True) * head.ret_std
        if last.bias is not None:
            state[f"{prefix}.bias"] = head.to_raw(last.bias.detach().mean(dim=0, keepdim=True))
        return state

    @classmethod
    def load(
        cls,
        path: Any,
        device: torch.device | str = "auto",
    ) -> Self:
        """
        Load as ``BasePolicy.load`` does. Like SB3's, it unpickles.

        :param path: file name or file from ``save``
        :param device: device of the policy
        """
        saved = torch.load(path, map_location=get_device(device), weights_only=False)

        # Without a plain policy beside it, SB3's entry holds everything.
        quantiles = saved.get("quantiles", {"state_dict": saved["state_dict"], "data": {}})
        policy = cls(**saved["data"], **quantiles["data"])
        policy.load_state_dict(quantiles["state_dict"])
        return policy.to(get_device(device))

    def __getstate__(self) -> dict[str, Any]:
        # Compiled code cannot be pickled.
        return {**super().__getstate__(), "compiled_step": None}  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def fast_optimizer(self) -> Iterator[None]:
        """Use the optimizer's fused (CPU) or foreach form during an update. A form the user chose stays."""
        changed: list[tuple[dict[str, Any], str]] = []
        for group in self.optimizer.param_groups:
            # None is torch's default for both options, if an optimizer has them.
            if group.get("foreach", True) is None and group.get("fused") is None:
                has_fused = "fused" in group and self.device.type == "cpu"
                form = "fused" if has_fused else "foreach"
                group[form] = True
                changed.append((group, form))

        try:
            yield
        finally:
            for group, form in changed:
                group[form] = None

    def set_training_mode(self, mode: bool) -> None:
        """Set the mode as ``BasePolicy`` does, if it changes: ``predict`` calls this at every step."""
        if any(module.training != mode for module in self.modules()):
            super().set_training_mode(mode)

    def predict(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Predict as the host policy does, with the start and the dtype of a discrete action space."""
        actions, states = super().predict(*args, **kwargs)
        return environment_actions(actions, self.action_space), states

    def forward(
        self,
        obs: PyTorchObs,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Act as ``ActorCriticPolicy.forward`` does. Discrete actions count from 0, whatever the space's start.

        :raises ValueError: if a log probability is NaN
        """
        # Only a rollout sets a compiled step.
        if self.compiled_step is not None and not (args or kwargs or torch.is_grad_enabled()):
            actions, values, log_prob = self.compiled_step(self, obs)
        else:
            actions, values, log_prob = self.forward_unchecked(obs, *args, **kwargs)

        # Check one sum. torch would check every number.
        if not torch.compiler.is_compiling() and math.isnan(log_prob.sum().item()):
            raise ValueError("the policy's log probabilities are NaN")
        return actions, values, log_prob

    def forward_unchecked(
        self,
        obs: PyTorchObs,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run ``forward`` without its check for NaN."""
        (actions, values, log_prob), recorded = self._recording(super().forward, obs, *args, **kwargs)
        if not recorded:
            values = self._value(values)
        return actions, values, log_prob

    def predict_values(
        self,
        obs: PyTorchObs,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Predict values as the host policy does: the mean of the quantiles, shape (B, 1), raw units."""
        quantiles = self.quantiles_of_loss(obs, *args, **kwargs)
        if self.recorded is not None:
            self.recorded.append(quantiles)
        return self._value(quantiles)

    def _value(self, quantiles: Tensor) -> Tensor:
        """Reduce quantiles to the value. While SB3 builds the policy, ``value_net`` still returns the value itself."""
        if not isinstance(self.value_net, QuantileHead):
            return quantiles
        return self.value_net.value(quantiles)

    def _recording(
        self,
        method: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, list[Tensor]]:
        """
        :param method: method of the host policy
        :return: its result, and the quantiles that ``predict_values`` recorded while it ran
        """
        # Record nothing if the host reads `value_net`, and nothing during an export.
        reads_value_net = isinstance(method, MethodType) and method.__func__ in READ_VALUE_NET
        if torch.compiler.is_exporting() or reads_value_net:
            return method(*args, **kwargs), []

        recorded: list[Tensor] = []
        self.recorded = recorded
        try:
            return method(*args, **kwargs), recorded
        finally:
            self.recorded = None

    def quantiles_of_loss(
        self,
        obs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """
        :param obs: observations as tensors, B of them
        :param args: further arguments of the host policy's ``predict_values``, like ``kwargs``
        :return: quantiles of all critics side by side, shape (B, C * N), in the units of the loss, with their gradient
        """
        return super().predict_values(obs, *args, **kwargs)

    def evaluate_actions(
        self,
        obs: PyTorchObs,
        actions: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate actions as the host policy does."""
        quantiles, log_prob, entropy = self.evaluate_quantiles(obs, actions, *args, **kwargs)
        return self._value(quantiles), log_prob, entropy

    def evaluate_quantiles(
        self,
        obs: Any,
        actions: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Evaluate actions as ``evaluate_actions`` does, with the quantiles in place of the value.

        :param obs: observations, B of them
        :param actions: actions, B of them
        :param args: further arguments of the host policy's ``evaluate_actions``, like ``kwargs``
        :return: quantiles in the units of the loss, (B, N), or (B, 2 * N) for two critics; log
            probability, (B,); entropy, (B,) or None
        :raises ValueError: if a policy's ``evaluate_actions`` returns other values than its ``value_net``
        """
        with self.kept_distribution():
            results, recorded = self._recording(super().evaluate_actions, obs, actions, *args, **kwargs)
        values, log_prob, entropy = results

        # The host's values are quantiles if it reads `value_net`. Otherwise the quantiles were recorded.
        quantiles = values
        if recorded:
            quantiles = recorded[-1]

        # Any other result is not a prediction of this critic.
        shape = (log_prob.shape[0], self.n_critics * self.n_quantiles)
        if quantiles.numel() != shape[0] * shape[1]:
            raise ValueError(
                f"the values of evaluate_actions have shape {tuple(values.shape)} where value_net gave {shape}: a "
                "policy's own evaluate_actions must return what its value_net or its predict_values gives"
            )
        return quantiles.reshape(shape), log_prob, entropy

    @contextlib.contextmanager
    def kept_distribution(self) -> Iterator[None]:
        """
        Restore ``action_dist`` at the end. Its tensors would keep the graph of a loss alive, and a compiled graph would
        have to return them.
        """
        attributes = dict(self.action_dist.__dict__)
        try:
            yield
        finally:
            for name in list(self.action_dist.__dict__):
                if name in attributes:
                    setattr(self.action_dist, name, attributes[name])
                else:
                    delattr(self.action_dist, name)

    @torch.no_grad()
    def predict_quantiles(self, obs: Any) -> Tensor:
        """
        Predict quantiles of the return without gradient; ``quantiles_of_loss`` has the gradient.

        Their mean is ``predict_values(obs)``.

        :param obs: input of ``predict``, one observation or B of them, or B of them as tensors on the policy's device
        :return: shape (B, N), raw units, from the critic with the smaller mean, in the order of the midpoints.
            Neighbours may cross
        """
        # Convert arrays to tensors with a row per observation, as `predict` does.
        parts = [obs]
        if isinstance(obs, dict):
            parts = list(obs.values())
        if not all(isinstance(part, Tensor) for part in parts):
            obs = self.obs_to_tensor(obs)[0]

        return self.value_net.to_raw(self.value_net.of_smaller_mean(self.quantiles_of_loss(obs)))

    def quantiles_of_episode(self, observations: Any) -> Tensor:
        """
        :param observations: observations of an episode from its first step on, shape (T, ...)
        :return: quantiles as from ``predict_quantiles``, shape (T, N)
        """
        return self.predict_quantiles(observations)

    def predict_cvar(
        self,
        obs: Any,
        alpha: float,
        **state: Any,
    ) -> Tensor:
        """
        Predict the conditional value at risk: the mean of the worst share ``alpha`` of the predicted returns.

        :param obs: as in ``predict_quantiles``
        :param alpha: within (0, 1]; 1 gives the mean
        :param state: further arguments of ``predict_quantiles``
        :return: shape (B,), raw units
        :raises ValueError: if ``alpha`` is out of its range
        """
        return lower_tail_mean(self.predict_quantiles(obs, **state), alpha)


class QuantileActorCriticCnnPolicy(QuantileActorCriticPolicy, ActorCriticCnnPolicy):
    """``ActorCriticCnnPolicy`` with a critic of N quantiles (``n_quantiles``)."""


class QuantileMultiInputActorCriticPolicy(QuantileActorCriticPolicy, MultiInputActorCriticPolicy):
    """``MultiInputActorCriticPolicy`` with a critic of N quantiles (``n_quantiles``)."""


def quantile_policy(
    policy_class: type[ActorCriticPolicy],
    base: type[QuantileActorCriticPolicy] = QuantileActorCriticPolicy,
) -> type[QuantileActorCriticPolicy]:
    """
    Add the quantile critic to a user's policy class. Instances pickle through the user's class.

    :param policy_class: the user's class, a subclass of ``base.host``
    :param base: class that adds the quantile critic
    :raises TypeError: if it is not a subclass of ``base.host``, or is a ``base`` that overrides a method which training
        does not call
    """
    return _quantile_policy(policy_class, base)


@functools.cache
def _quantile_policy(
    policy_class: type[ActorCriticPolicy],
    base: type[QuantileActorCriticPolicy],
) -> type[QuantileActorCriticPolicy]:
    if hasattr(policy_class, "_process_sequence") and not hasattr(base, "_process_sequence"):
        raise TypeError(f"{policy_class.__name__} is recurrent: it needs RecurrentDistributionalPPO")

    # The class already has the quantile critic. Training calls only the methods that return quantiles.
    if issubclass(policy_class, base):
        for name, instead in (("evaluate_actions", "evaluate_quantiles"), ("predict_values", "quantiles_of_loss")):
            if getattr(policy_class, name) is not getattr(base, name):
                raise TypeError(f"training does not call {policy_class.__name__}.{name}: override {instead}")
        return policy_class

    if not issubclass(policy_class, base.host):
        raise TypeError(f"policy must be a subclass of {base.host.__name__}, got {policy_class.__name__}")

    class QuantilePolicy(base, policy_class):  # type: ignore[misc, valid-type]
        """The class built for a user's class. No module names it, so instances pickle by the user's class and base."""

        def __reduce__(self) -> tuple[Any, ...]:
            return blank_quantile_policy, (policy_class, base), self.__getstate__()

    # Show the user's names.
    QuantilePolicy.__name__ = f"Quantile{policy_class.__name__}"
    QuantilePolicy.__qualname__ = QuantilePolicy.__name__
    QuantilePolicy.__module__ = policy_class.__module__
    QuantilePolicy.__doc__ = policy_class.__doc__

    # The user's `save` has precedence over the base's.
    if policy_class.save is not ActorCriticPolicy.save:
        QuantilePolicy.save = policy_class.save
    return QuantilePolicy


def blank_quantile_policy(
    policy_class: type[ActorCriticPolicy],
    base: type[QuantileActorCriticPolicy] = QuantileActorCriticPolicy,
) -> QuantileActorCriticPolicy:
    """Create an instance without state, for ``pickle`` to fill."""
    quantile_class = quantile_policy(policy_class, base)
    return quantile_class.__new__(quantile_class)
