"""
``compile=True``: a minibatch's update and the policy's step in a rollout, as graphs of ``torch.compile``.

Compiled code is called without torch.compile's guards, which take a third of an update's time. In their place stands a
key of all that the code reads beside the tensors of its arguments; another key compiles anew.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import preprocessing
from stable_baselines3.common.distributions import BernoulliDistribution, MultiCategoricalDistribution
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

from quantile_critic.distributions import categorical_of, normal_of
from quantile_critic.keys import key_of, layout, layouts, plain_attributes
from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.processes import n_processes
from quantile_critic.rollout import Coefficients, Rollout, Samples

MAX_BUILDS = 8  # as torch.compile's own limit
Loss = Callable[[Samples, Coefficients], tuple[Tensor, dict[str, Tensor]]]
PARAMETERS = {Categorical: ("logits",), Bernoulli: ("logits",), Normal: ("loc", "scale")}  # of torch's distributions
MAKERS: dict[type, Callable[..., Any]] = {
    Categorical: categorical_of,
    Bernoulli: functools.partial(Bernoulli, None, validate_args=False),
    Normal: normal_of,
}


@functools.cache
def _compiles_ahead() -> bool:
    """Whether this torch compiles before the first call. To ask takes a millisecond."""
    return hasattr(torch.compile(lambda: 0), "aot_compile")


def reason_to_stay_eager(policy: nn.Module) -> str | None:
    """:return: what a graph would leave out, None: nothing"""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in policy.modules() for name in hooks):
        return "a module of the policy has a hook"
    if not (hasattr(torch._dynamo.config, "trace_autograd_ops") and _compiles_ahead()):
        return f"torch {torch.__version__} lacks what compiles a whole update; torch 2.13 has it"
    return None


class CompiledFunction:
    """
    One function as one graph, for tensors of fixed shapes.

    :param function: what is compiled; may call ``torch.autograd.grad``
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.name = function.__name__.strip("_")
        self.call: Callable[..., Any] | None = None
        self.key: dict[str, Any] = {}
        self.builds = 0
        self.has_warned = False

    def prepare(self, key: dict[str, Any], args: tuple[Any, ...], policy: nn.Module, warn: bool = True) -> bool:
        """
        :param key: what the function reads beside the tensors of its arguments
        :param args: an example, in the shapes of all calls to come
        :param policy: for its observation space and its device
        :param warn: whether to warn, once, where it cannot be compiled
        :return: whether ``call`` is there; compiled anew if the key is another one
        """
        if self.call is not None and key == self.key:
            return True
        if self.builds >= MAX_BUILDS:
            self.call = None
            return False
        self.builds += 1
        if self.builds == MAX_BUILDS and self.call is not None:
            changed = ", ".join(name for name in key if key[name] != self.key.get(name))
            warnings.warn(f"compile=True: {self.name} is compiled for the last time, for changed {changed}")
        print(f"Compiling {self.name}; this may take half a minute, and less the next time.", file=sys.stderr)
        try:
            self.call, self.key = _compile(self.function, args, policy), key
        except Exception as error:  # of any kind: torch.compile passes on what the user's own code raises
            reason = str(error).strip().partition("\n")[0][:200]
            hint = ". Install g++ or clang" if "Cxx" in type(error).__name__ + reason else ""
            self.call, self.builds = None, MAX_BUILDS
            self.stay_eager(f"{self.name} is not compiled: {type(error).__name__}: {reason}{hint}", warn)
        return self.call is not None

    def stay_eager(self, message: str, warn: bool = True) -> None:
        """Say once why the function is not used."""
        if warn and not self.has_warned:
            warnings.warn(f"compile=True: {message}")
        self.has_warned |= warn


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


def _compile(function: Callable[..., Any], args: tuple[Any, ...], policy: Any) -> Callable[..., Any]:
    """:return: the compiled function"""
    patches: dict[str, Any] = {"compile_threads": 1}
    if policy.device.type == "cpu":
        # The key has the sizes; code that looks at them makes a stream for its error message first, 70 in an update.
        patches |= {"cpp_wrapper": True, "cpp.use_decompose_tanh": True, "size_asserts": False}

    def inductor(graph: Any, inputs: list[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        graph._backend_id = None  # torch draws it anew in each process and takes it into the key of its disk cache
        return compile_fx(graph, inputs, config_patches=patches)

    # It looks at a space in numpy, which torch.compile would take for tensors.
    torch.compiler.assume_constant_result(preprocessing.is_image_space)  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    config = torch._dynamo.config.patch(trace_autograd_ops=True, specialize_float=True)
    with config, _plain_sizes(policy.observation_space):
        compiled: Any = torch.compile(function, fullgraph=True, dynamic=False, backend=inductor, options=options)
        call = compiled.aot_compile((args, {}))
    call.disable_guard_check()
    return call  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------------------- the update


def _gradients(
    update: CompiledUpdate, samples: Samples, rows: Tensor | None, coefficients: Coefficients
) -> tuple[tuple[str, ...], Tensor]:
    """Loss and gradients; returns names and values of the metrics."""
    with torch.enable_grad():
        loss, metrics = update.loss(samples.at(rows), coefficients)
        gradients = torch.autograd.grad(loss, update.parameters, allow_unused=True)
    for parameter, gradient in zip(update.parameters, gradients, strict=True):
        if parameter.grad is not None and gradient is not None:
            parameter.grad.copy_(gradient)
        else:
            parameter.grad = gradient
    with torch.no_grad():
        return tuple(metrics), torch.stack(list(metrics.values()))


def _update(
    update: CompiledUpdate, samples: Samples, rows: Tensor | None, coefficients: Coefficients
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """The same, clipping and the optimizer's step; returns the gradient's norm before clipping, too."""
    names, values = _gradients(update, samples, rows, coefficients)
    gradients = [parameter.grad for parameter in update.parameters if parameter.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients]))
    torch._foreach_mul_(gradients, (coefficients.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
    with torch.no_grad():
        update.optimizer_step(update.optimizer)
    return names, values, norm


def _example_of(rollout: Rollout, batch_size: int) -> tuple[Samples, Tensor | None]:
    """A minibatch; numpy's generator, which draws their order, is left as it was."""
    generator = np.random.get_state()  # noqa: NPY002
    minibatch = next(rollout.minibatches(batch_size))
    np.random.set_state(generator)  # noqa: NPY002
    return minibatch


class CompiledUpdate:
    """The update of a minibatch: ``prepare`` before a rollout's epochs, then a call per minibatch."""

    loss: Loss
    policy: QuantileActorCriticPolicy
    optimizer: Any
    optimizer_step: Callable[..., Any]  # without the hooks and graph breaks that torch puts around it

    def __init__(self) -> None:
        self.whole, self.gradients_only = CompiledFunction(_update), CompiledFunction(_gradients)
        self.parameters: list[nn.Parameter] = []
        self.gradients: list[Tensor | None] = []  # one per parameter, None: it has none
        self.holders: list[int] = []  # ids of these parameters
        self.state: dict[nn.Parameter, dict[str, Any]] = {}  # of the optimizer, by parameter
        self.rates: list[Tensor] = []  # of learning, one per group of the optimizer
        self.stepped: list[int] = []  # ids of the parameters of the last update that was not compiled
        self.minibatch: Any = None  # what ``takes`` asks of those that are compiled for

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledUpdate, ()  # compiled code can be neither copied nor pickled

    def prepare(
        self,
        loss: Loss,
        rollout: Rollout,
        coefficients: Coefficients,
        parameters: list[nn.Parameter],
        attributes: dict[str, Any],
    ) -> tuple[CompiledUpdate | None, Coefficients | None]:
        """
        :param loss: of a minibatch
        :param rollout: whose policy's optimizer steps
        :param coefficients: of this update's loss
        :param parameters: which the loss is differentiated by
        :param attributes: of the object that the loss is a method of: it may read those that are plain
        :return: this and the coefficients as tensors; (None, None) where the update stays eager
        """
        self.loss, self.policy, self.parameters = loss, rollout.policy, parameters
        self.optimizer, ids = self.policy.optimizer, list(map(id, parameters))
        self.optimizer_step = inspect.unwrap(type(self.optimizer).step)
        if not (all(parameter in self.optimizer.state for parameter in parameters) or self.stepped == ids):
            self.stepped = ids  # the optimizer's first step makes its state, which no graph should do
            return None, None
        if not all(group["lr"] for group in self.optimizer.param_groups):
            return None, None  # Adam's traced step divides by the rate: 0 / 0 where there never was a gradient
        reason = "a parameter has a hook or is not the policy's" if self._has_own_gradients() else None
        reason = reason or reason_to_stay_eager(self.policy)
        reason = "several processes average their gradients" if n_processes() > 1 else reason
        if reason is not None:
            self.gradients_only.stay_eager(f"the update stays eager: {reason}")
            return None, None
        samples, rows = _example_of(rollout, attributes["batch_size"])
        device, numbers = self.policy.device, [c if c is None else float(c) for c in coefficients]
        tensors = Coefficients(*(c if c is None else torch.tensor(c, device=device) for c in numbers))  # type: ignore[arg-type]
        self._hold_gradients((samples, rows, tensors), ids)
        self._hold_state()
        reads = {k: v for k, v in plain_attributes("", attributes).items() if k not in COUNTERS}
        reads |= {**dict.fromkeys(Coefficients._fields), "has_entropy": bool(coefficients.ent_coef)}
        if not self._prepare_functions((samples, rows, tensors), reads, attributes["target_kl"] is not None):
            return None, None
        self.minibatch = layouts(samples) if rows is None else layout(rows)
        return self, tensors

    def _prepare_functions(
        self, example: tuple[Samples, Tensor | None, Coefficients], reads: dict[str, Any], stops: bool
    ) -> bool:
        """Compile as much as can be; return whether that is anything."""
        # Of other optimizers nobody knows what a step does beside arithmetic.
        hooks = self.optimizer._optimizer_step_pre_hooks or self.optimizer._optimizer_step_post_hooks
        traceable = type(self.optimizer).__module__.startswith("torch.optim.") and not hooks
        groups = enumerate(self.optimizer.param_groups)
        own = {f"optimizer {i}, {k}": str(v) for i, g in groups for k, v in g.items() if k not in GROUP_DATA}
        with self._traced_optimizer():
            key = key_of(self.policy, example, **reads, **own, ids=self._ids())
            if traceable and not stops and self.whole.prepare(key, (self, *example), self.policy, warn=False):
                return True
        self.whole.call = None
        if not traceable:
            name = type(self.optimizer).__name__
            self.whole.stay_eager(f"the step of {name} is not compiled, as it has hooks or is not of torch.optim")
        return self.gradients_only.prepare({**key, "ids": self._ids()}, (self, *example), self.policy)

    def takes(self, samples: Samples, rows: Tensor | None) -> bool:
        """Whether the minibatch is of the size compiled for; a short last one is not worth a compilation of its own."""
        return bool(self.minibatch == (layouts(samples) if rows is None else layout(rows)))

    def __call__(
        self, samples: Samples, rows: Tensor | None, coefficients: Coefficients
    ) -> tuple[tuple[str, ...], Tensor, Tensor | None]:
        """
        :param samples: the rollout's, or those of the minibatch
        :param rows: which of them, shape (B,); None: all
        :param coefficients: as tensors
        :return: names and values of the metrics, (n_metrics,), and the gradient's norm; None: the step is to be made
        """
        if self.whole.call is not None:
            return self.whole.call(self, samples, rows, coefficients)  # type: ignore[no-any-return]
        assert self.gradients_only.call is not None
        return *self.gradients_only.call(self, samples, rows, coefficients), None

    def _has_own_gradients(self) -> bool:
        """Whether only ``backward`` serves all that the optimizer steps."""
        own = {id(parameter) for parameter in self.policy.parameters()}
        steps = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return any(id(parameter) not in own or parameter._post_accumulate_grad_hooks for parameter in steps)

    def _hold_gradients(self, example: tuple[Samples, Tensor | None, Coefficients], ids: list[int]) -> None:
        """Give the parameters gradients that stay where they are, but to those that the loss does not reach."""
        for parameter in self.policy.parameters():
            parameter.grad = None  # of one that is frozen by now, too
        if self.holders != ids:
            samples, rows, coefficients = example
            buffers = copy.deepcopy(dict(self.policy.named_buffers()))  # such as those of batch norm
            with torch.random.fork_rng(devices=[self.policy.device] if self.policy.device.type == "cuda" else []):
                loss, _ = self.loss(samples.at(rows), coefficients)
                gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            self.policy.load_state_dict(buffers, strict=False)
            pairs = zip(self.parameters, gradients, strict=True)  # a gradient's strides may be others
            self.gradients = [
                None if gradient is None else torch.zeros_like(parameter) for parameter, gradient in pairs
            ]
            self.holders = ids
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def _hold_state(self) -> None:
        """Put the optimizer's state, where it was loaded, into the tensors that compiled code knows."""
        for parameter, held in self.state.items():
            for name, value in self.optimizer.state.get(parameter, {}).items():
                old = held.get(name)
                if isinstance(old, Tensor) and isinstance(value, Tensor) and old.shape == value.shape:
                    self.optimizer.state[parameter][name] = old if old is value else old.copy_(value)
        self.state = {parameter: dict(state) for parameter, state in self.optimizer.state.items()}

    def _ids(self) -> list[Any]:
        """Of the tensors that compiled code takes to be the same in every call, with their layouts."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        tensors = (*self.parameters, *self.gradients, *self.rates, *state)
        return [(id(tensor), layout(tensor)) for tensor in tensors if isinstance(tensor, Tensor)]

    def options(self) -> contextlib.AbstractContextManager[None]:
        """The forms of the optimizer's options for the time of an update."""
        return self.policy.fast_optimizer() if self.whole.call is None else self._traced_optimizer()

    @contextlib.contextmanager
    def _traced_optimizer(self) -> Iterator[None]:
        """Learning rates as tensors, and the plain form of the step."""
        groups = self.optimizer.param_groups
        kept = [{name: group[name] for name in ("foreach", "lr") if name in group} for group in groups]
        if len(self.rates) != len(groups):
            self.rates = [torch.tensor(0.0, device=self.policy.device) for _ in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            if group.get("foreach", True) is None and group.get("fused") is None:
                group["foreach"] = False
            group["lr"] = rate.fill_(group["lr"])
        try:
            yield
        finally:
            for group, old in zip(groups, kept, strict=True):
                group.update(old)


# Of the algorithm's attributes, what each rollout changes and no loss reads.
COUNTERS = {"num_timesteps", "_n_updates", "_current_progress_remaining", "_episode_num", "_num_timesteps_at_start"}
COUNTERS |= {"_total_timesteps", "start_time", "_waiting_dump", "_has_unwritten_update", "target_kl", "_truncated"}
GROUP_DATA = ("params", "lr", "initial_lr")  # of an optimizer's group, what is no constant of its step


# ------------------------------------------------------------------------------------------------ the policy's step


def _policy_step(policy: QuantileActorCriticPolicy, *args: Any) -> tuple[Any, ...]:
    """:return: what ``forward`` returns, and what the action distribution is made of"""
    with policy.kept_distribution():
        results = policy.forward_unchecked(*args)
        own = policy.action_dist
        parts = own.distribution if isinstance(own.distribution, list) else [own.distribution]
        made_of = [[getattr(part, name) for name in PARAMETERS[type(part)]] for part in parts]
        return *results, (made_of, getattr(own, "_latent_sde", None))


class CompiledStep:
    """The policy's step: ``prepare`` before a rollout, then a call in place of ``forward_unchecked``."""

    def __init__(self) -> None:
        self.function = CompiledFunction(_policy_step)
        self.layouts: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledStep, ()

    def prepare(self, policy: QuantileActorCriticPolicy, *args: Any) -> CompiledStep | None:
        """
        :param policy: in evaluation mode
        :param args: of its ``forward``: the observations of all environments
        :return: this; None where the step stays eager
        """
        reason = reason_to_stay_eager(policy)
        if reason is not None:
            self.function.stay_eager(f"the policy's step in the rollout stays eager: {reason}")
            return None
        with torch.no_grad():
            self.layouts = layouts(args)
            return self if self.function.prepare(key_of(policy, args), (policy, *args), policy) else None

    def __call__(self, policy: QuantileActorCriticPolicy, *args: Any) -> tuple[Any, ...]:
        """As the policy's ``forward_unchecked``; ``action_dist`` becomes the distribution of these actions."""
        if self.function.call is None or layouts(args) != self.layouts:
            return policy.forward_unchecked(*args)
        *results, (made_of, latent_sde) = self.function.call(policy, *args)
        own: Any = policy.action_dist
        kind = Bernoulli if isinstance(own, BernoulliDistribution) else Categorical if len(made_of[0]) == 1 else Normal
        parts = [MAKERS[kind](*part) for part in made_of]
        own.distribution = parts if isinstance(own, MultiCategoricalDistribution) else parts[0]
        if latent_sde is not None:
            own._latent_sde = latent_sde
        return tuple(results)
