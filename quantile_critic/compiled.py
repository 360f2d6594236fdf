"""
``compile=True``: a minibatch's update and the policy's step in a rollout, as graphs of ``torch.compile``.

The guards of torch.compile take a third of an update's time. Code of this package, Stable-Baselines3 and torch goes
without them: a key of all that it reads stands in their place, and another key compiles anew. Code of anybody else,
such as an overridden method of the loss or a features extractor, keeps them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
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
from torch.nn.modules import module as torch_modules
from torch.optim import optimizer as torch_optimizers

from quantile_critic.distributions import categorical_of, normal_of
from quantile_critic.gradients import all_norms
from quantile_critic.keys import (
    contents_of_classes,
    difference,
    foreign_class,
    foreign_code,
    key_of,
    layout,
    layouts,
)
from quantile_critic.policies import QuantileActorCriticPolicy
from quantile_critic.processes import CommonNoise, n_processes
from quantile_critic.rollout import Samples
from quantile_critic.settings import Coefficients, LossSettings
from quantile_critic.update import EagerUpdate, Loss

# As many as torch.compile's own limit.
MAX_BUILDS = 8

# Compilations within an update. Guards of the user's code may fail with every minibatch.
MAX_BUILDS_PER_UPDATE = 3

# What torch's distributions are made of, and what makes them of it.
PARAMETERS = {Categorical: ("logits",), Bernoulli: ("logits",), Normal: ("loc", "scale")}
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
    # A graph runs no hook.
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in policy.modules() for name in names):
        return "a module of the policy has a hook"
    if any(getattr(torch_modules, f"_global{name}") for name in names):
        return "all modules have a hook"

    # What torch does or lacks.
    if torch.is_anomaly_enabled():
        return "torch.autograd looks for anomalies"
    if not (hasattr(torch._dynamo.config, "trace_autograd_ops") and _compiles_ahead()):
        return f"torch {torch.__version__} lacks what compiles a whole update; torch 2.13 has it"
    return None


class StaysEagerError(Exception):
    """A guarded function could not be compiled. It was not run either."""


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
        self.builds_of_update = 0
        self.has_warned = False
        self.error: str | None = None  # why it is not compiled
        self._failed_guards: list[str] = []  # since the last build, that of the newest graph first
        self._changed = ""  # what the last build of guarded code was for

    def prepare(
        self,
        key: dict[str, Any],
        args: tuple[Any, ...],
        policy: Any,
        foreign: str | None = None,
        warn: bool = True,
    ) -> bool:
        """
        :param key: what the function reads beside the tensors of its arguments
        :param args: an example, in the shapes of all calls to come
        :param policy: for its observation space and its device
        :param foreign: code of somebody else in it, which torch guards; None: there is none
        :param warn: whether to warn, once, where it cannot be compiled
        :return: whether ``call`` is there; compiled anew if the key is another one
        """
        self.builds_of_update = 0

        # What there is serves, or may not be built again.
        if self.call is not None and key == self.key:
            return True
        if self.builds >= MAX_BUILDS:
            self.call = None
            return False

        # Say what is waited for, and why.
        changed = ""
        if self.key:
            changed = difference(key, self.key)
        if self.builds == MAX_BUILDS - 1:
            warnings.warn(f"compile=True: {self.name} is compiled for the last time, for changed {changed}")
        self._announce(changed)

        # Code of ours compiles here, guarded code when it is called first.
        try:
            if foreign is None:
                self.builds += 1
                self.call = _compile(self.function, args, policy)
            else:
                self.call = self._guarded(policy, warn)
            self.key = key
        except Exception as error:  # of any kind: torch.compile passes on what the user's own code raises
            self._give_up(error, warn)

        return self.call is not None

    def stay_eager(
        self,
        message: str,
        warn: bool = True,
    ) -> None:
        """Say once why the function is not used."""
        if warn and not self.has_warned:
            warnings.warn(f"compile=True: {message}")
        self.has_warned |= warn

    def _announce(self, changed: str) -> None:
        """Say on stderr what is waited for."""
        if changed:
            print(f"Compiling {self.name}: {changed}", file=sys.stderr)
        else:
            print(f"Compiling {self.name}; this may take half a minute, and less the next time.", file=sys.stderr)

    def _give_up(
        self,
        error: Exception,
        warn: bool,
    ) -> None:
        """Never compile the function again."""
        reason = str(error).strip().partition("\n")[0][:200]
        self.error = f"{type(error).__name__}: {reason}"

        # Errors whose words do not say what to do.
        if "Cxx" in self.error:
            self.error += ". Install g++ or clang"
        if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
            self.error = f"it was compiled {self.builds} times, at last for {self._changed}"

        self.call = None
        self.builds = MAX_BUILDS
        self.stay_eager(f"{self.name} is not compiled: {self.error}", warn)

    # ---------------------------------------------------------------------------------- code that torch guards

    def _guarded(
        self,
        policy: Any,
        warn: bool,
    ) -> Callable[..., Any]:
        """:return: the function, which compiles when it is called and whenever torch's guards find a change"""
        inductor = _backend(policy)

        # torch calls this for each graph, first of all for that of the first call.
        def counting(
            graph: Any,
            inputs: list[Any],
        ) -> Any:
            self.builds += 1
            self.builds_of_update += 1

            # Each later graph has a guard that failed.
            if self._failed_guards:
                self._changed = self._failed_guards[0]
                self._failed_guards.clear()
                self._announce(self._changed)

            return inductor(graph, inputs)

        compiled = torch._dynamo.optimize(
            backend=counting,
            nopython=True,
            guard_fail_fn=self._note_failed_guard,
            recompile_limit=MAX_BUILDS,
            isolate_recompiles=True,
        )(self.function)

        def call(*args: Any) -> Any:
            try:
                with _tracing(policy, specialize_float=False), _bare_distribution(policy.action_dist):
                    results = compiled(*args)
            except Exception as error:  # of any kind, as above
                self._give_up(error, warn)
                raise StaysEagerError from error

            # Code that compiles with every minibatch is faster without.
            if self.builds_of_update > MAX_BUILDS_PER_UPDATE:
                self.call = None
                self.builds = MAX_BUILDS
                self.stay_eager(f"{self.name} stays eager, as it was compiled again and again: {self._changed}")

            return results

        return call

    def _note_failed_guard(self, failure: Any) -> None:
        # Without torch's number of the graph before it and the line of its own code behind.
        reason = re.sub(r"^\d+/\d+: ", "", str(failure.reason)).partition("#")[0]
        self._failed_guards.append(" ".join(reason.split()) or "what your code reads")


@contextlib.contextmanager
def _plain_sizes(space: Any) -> Iterator[None]:
    """Let the sizes of discrete observations be Python's numbers, as torch.compile takes numpy's for tensors."""
    parts = [space]
    if isinstance(space, spaces.Dict):
        parts = list(space.spaces.values())

    with contextlib.ExitStack() as stack:
        for part in parts:
            for name in ("n", "nvec"):
                size = getattr(part, name, None)
                if isinstance(size, np.ndarray | np.generic):
                    stack.callback(setattr, part, name, size)
                    setattr(part, name, size.tolist())

        yield


@contextlib.contextmanager
def _known_image_spaces() -> Iterator[None]:
    """Let torch.compile take SB3's look at a space in numpy, which it would take for tensors, for a constant."""
    is_image_space: Any = preprocessing.is_image_space
    torch.compiler.assume_constant_result(is_image_space)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del is_image_space._dynamo_marked_constant


@contextlib.contextmanager
def _bare_distribution(dist: Any) -> Iterator[None]:
    """Let guards see an action distribution as it is built, without what the last observations have made of it."""
    kept = {}
    for name in ("distribution", "_latent_sde"):
        if name in vars(dist):
            kept[name] = vars(dist).pop(name)

    try:
        yield
    finally:
        vars(dist).update(kept)


@contextlib.contextmanager
def _tracing(
    policy: Any,
    specialize_float: bool,
) -> Iterator[None]:
    """Settings of torch.compile while it may read code."""
    config = torch._dynamo.config.patch(
        trace_autograd_ops=True,
        specialize_float=specialize_float,
        use_numpy_random_stream=True,  # numpy's generator is no part of a graph: code that draws from it stays eager
    )
    with config, _plain_sizes(policy.observation_space), _known_image_spaces():
        yield


def _backend(policy: Any) -> Callable[..., Any]:
    """:return: what makes machine code of a graph"""
    patches: dict[str, Any] = {"compile_threads": 1}
    if policy.device.type == "cpu":
        # The key has the sizes. Code that looks at them builds error messages first, 70 in an update.
        patches |= {"cpp_wrapper": True, "cpp.use_decompose_tanh": True, "size_asserts": False}

    def inductor(
        graph: Any,
        inputs: list[Any],
    ) -> Any:
        from torch._inductor.compile_fx import compile_fx

        graph._backend_id = None  # torch draws it anew in each process and takes it into the key of its disk cache
        return compile_fx(graph, inputs, config_patches=patches)

    return inductor


def _compile(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    policy: Any,
) -> Callable[..., Any]:
    """:return: the compiled function, without guards"""
    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    with _tracing(policy, specialize_float=True):
        compiled: Any = torch.compile(
            function, fullgraph=True, dynamic=False, backend=_backend(policy), options=options
        )
        call = compiled.aot_compile((args, {}))
    call.disable_guard_check()
    return call  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------------------- the update


def _gradients(
    update: CompiledUpdate,
    samples: Samples,
    rows: Tensor | None,
    coefficients: Coefficients,
) -> tuple[tuple[str, ...], Tensor]:
    """Loss and gradients; returns names and values of the metrics."""
    with torch.enable_grad():
        loss, metrics = update.loss(samples.at(rows), coefficients)
        gradients = torch.autograd.grad(loss, update.parameters, allow_unused=True)

    # Into the tensors that the graph knows.
    for parameter, gradient in zip(update.parameters, gradients, strict=True):
        if parameter.grad is not None and gradient is not None:
            parameter.grad.copy_(gradient)
        else:
            parameter.grad = gradient

    with torch.no_grad():
        return tuple(metrics), torch.stack(list(metrics.values()))


def _update(
    update: CompiledUpdate,
    samples: Samples,
    rows: Tensor | None,
    coefficients: Coefficients,
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Gradients, clipping and the optimizer's step; returns the gradients' norms before clipping, too."""
    names, values = _gradients(update, samples, rows, coefficients)

    # As `clip_gradients`, parameter by parameter.
    norms = []
    for part in update.parts.values():
        gradients = [parameter.grad for parameter in part if parameter.grad is not None]
        norm = torch.zeros((), device=part[0].device)
        if gradients:
            norm = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients]))
            torch._foreach_mul_(gradients, (coefficients.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        norms.append(norm)

    with torch.no_grad():
        update.optimizer_step(update.optimizer)
    return names, values, all_norms(norms)


class CompiledUpdate(EagerUpdate):
    """
    ``EagerUpdate`` as a graph. The first minibatch of an update is the example for which it is compiled; minibatches of
    other sizes, such as a short last one, stay eager.
    """

    optimizer: Any
    optimizer_step: Callable[..., Any]  # without the hooks and graph breaks that torch puts around it

    def __init__(self) -> None:
        super().__init__()
        self.whole = CompiledFunction(_update)
        self.gradients_only = CompiledFunction(_gradients)
        self.gradients: list[Tensor] = []  # one per parameter, which stays where it is
        self.holders: list[int] = []  # ids of these parameters
        self.state: dict[nn.Parameter, dict[str, Any]] = {}  # of the optimizer, by parameter
        self.rates: list[Tensor] = []  # of learning, one per group of the optimizer
        self.stepped: list[int] = []  # ids of the parameters of the last update that was not compiled
        self.tensors: Coefficients | None = None  # the coefficients as tensors
        self._settings: LossSettings | None = None
        self._foreign: str | None = None
        self._function: CompiledFunction | None = None  # that runs the minibatches of this update
        self._minibatch: Any = None  # layout of those that are compiled for
        self._may_compile = False
        self._options = contextlib.ExitStack()
        self._has_warned = False
        self._reason_of_eager_step: str | None = None

    def prepare(
        self,
        loss: Loss,
        settings: LossSettings,
        coefficients: Coefficients,
        policy: QuantileActorCriticPolicy,
        largest_kl: float | None,
        common_noise: CommonNoise,
    ) -> None:
        """As ``EagerUpdate.prepare``; nothing is compiled before the first minibatch."""
        super().prepare(loss, settings, coefficients, policy, largest_kl, common_noise)
        self.optimizer = policy.optimizer
        self.optimizer_step = inspect.unwrap(type(self.optimizer).step)
        self._settings = settings
        self._function = None
        self._minibatch = None
        self._may_compile = self._can_compile()
        if not self._may_compile:
            return

        # Numbers that may move are arguments of the graph, so tensors.
        self._foreign = foreign_code(policy, loss)
        tensors: list[Any] = []
        for coefficient in coefficients:
            if coefficient is None:
                tensors.append(None)
            else:
                tensors.append(torch.tensor(float(coefficient), device=policy.device))
        self.tensors = Coefficients._make(tensors)

    def _can_compile(self) -> bool:
        """Whether this update may be compiled; a lasting reason against it is said once."""
        reason = reason_to_stay_eager(self.policy) or self._reason_of_gradients()

        # The optimizer's first step makes its state, which no graph should do.
        ids = list(map(id, self.parameters))
        has_state = all(parameter in self.optimizer.state for parameter in self.parameters)
        if not has_state and self.stepped != ids:
            self.stepped = ids
            return False

        # Adam's traced step divides by the rate: 0 / 0 where there never was a gradient.
        if not all(group["lr"] for group in self.optimizer.param_groups):
            return False

        if reason is not None:
            self.gradients_only.stay_eager(f"the update stays eager: {reason}")
        return reason is None

    def _reason_of_gradients(self) -> str | None:
        """:return: what only ``backward`` and ``zero_grad`` serve, None: nothing"""
        if n_processes() > 1:
            return "several processes average their gradients"

        # Compiled gradients come without `backward`, to the policy's parameters only.
        ids = {id(parameter) for parameter in self.policy.parameters()}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                hooks = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
                if hooks or id(parameter) not in ids:
                    return "a parameter has a hook or is not the policy's"

        # They need no `zero_grad` either.
        zero_grad = inspect.getattr_static(self.optimizer, "zero_grad")
        if zero_grad is not torch_optimizers.Optimizer.zero_grad:
            return f"{type(self.optimizer).__name__} has a zero_grad of its own"
        return None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The state of the optimizer's options; the first minibatch decides on them where something is compiled."""
        with contextlib.ExitStack() as self._options:
            if not self._may_compile:
                self._options.enter_context(super().running())
            yield

    def __call__(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> bool:
        """As ``EagerUpdate``."""
        if not self._may_compile:
            return super().__call__(samples, rows)

        # The first minibatch decides; those of another size stay eager.
        self._part_parameters(samples, rows)
        if self._minibatch is None:
            self._choose_function(samples, rows)
        if self._function is None or self._minibatch != _layout_of(samples, rows):
            return self._eager_call(samples, rows)

        # Code that cannot be compiled says so when it is called first. It has not run then.
        function = self._function
        assert function.call is not None
        try:
            results = function.call(self, samples, rows, self.tensors)
        except StaysEagerError:
            self._choose_function(samples, rows)
            return self(samples, rows)
        if function.call is None:
            self._use(None)

        # The metrics stay on the device.
        self._names = results[0]
        self._values.append(results[1])
        self._warn_once()

        # The whole update has clipped and stepped already.
        if function is self.whole:
            self._norms.append(results[2])
            return True
        return self._step_unless_too_far()

    def _eager_call(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> bool:
        """An eager minibatch between compiled ones, which keep their gradients where they are."""
        goes_on = super().__call__(samples, rows)
        if self._function is not None:
            self._hold_gradients()
        return goes_on

    # ----------------------------------------------------------------------------------- before the first minibatch

    def _choose_function(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> None:
        """Compile as much as can be for minibatches such as this one."""
        assert self.tensors is not None
        self._minibatch = _layout_of(samples, rows)
        example = (samples, rows, self.tensors)
        self._hold_gradients()
        self._hold_state()

        # The whole update, unless a look at the KL divergence comes between the gradients and the step.
        self._reason_of_eager_step = None
        reason_of_step = self._reason_of_step()
        if reason_of_step is None and self.largest_kl is None:
            with self._traced_optimizer():
                key = self._key(example)
                is_ready = self.whole.prepare(key, (self, *example), self.policy, self._foreign, warn=False)
            if is_ready:
                self._use(self.whole)
                return
            reason_of_step = self.whole.error
        self.whole.call = None

        # Gradients alone; the optimizer steps by itself.
        key = self._key(example)
        if not self.gradients_only.prepare(key, (self, *example), self.policy, self._foreign):
            self._use(None)
            return
        self._reason_of_eager_step = reason_of_step
        self._use(self.gradients_only)

    def _use(self, function: CompiledFunction | None) -> None:
        """Let a function run the minibatches from now on, None: eager code."""
        self._function = function
        options = self.policy.fast_optimizer()
        if function is self.whole:
            options = self._traced_optimizer()

        self._options.close()
        self._options.enter_context(options)

    def _reason_of_step(self) -> str | None:
        """:return: what a graph of the optimizer's step would leave out, None: nothing"""
        optimizer = self.optimizer
        hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        global_hooks = torch_optimizers._global_optimizer_pre_hooks or torch_optimizers._global_optimizer_post_hooks
        is_torchs = f"{type(optimizer).__module__}.".startswith("torch.optim.")
        if hooks or global_hooks or not is_torchs:
            # Of other optimizers nobody knows what a step does beside arithmetic.
            return "it has hooks or is not of torch.optim"

        if "step" in vars(optimizer) or foreign_class(type(optimizer)) is not None:
            return "somebody has replaced it"
        return None

    def _key(self, example: tuple[Any, ...]) -> dict[str, Any]:
        """What the compiled code reads beside its example."""
        # What the loss reads of the flags.
        assert self._settings is not None
        parts: dict[str, Any] = self._settings.by_name()
        parts["clip_range_vf is None"] = self.coefficients.clip_range_vf is None

        # What is clipped together, by places among the parameters.
        places = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        for name, part in self.parts.items():
            parts[f"parameters of {name}"] = [places[id(parameter)] for parameter in part]

        # What the step reads.
        parts["optimizer"] = type(self.optimizer)
        for i, group in enumerate(self.optimizer.param_groups):
            # ``lr`` is a tensor by now where it is read.
            constants = {k: repr(v) for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
            parts |= {f"optimizer group {i} {name}": value for name, value in constants.items()}
        parts["tensors of gradients and optimizer"] = self._ids()

        # Whose code it is.
        parts["code of somebody else"] = self._foreign
        key = key_of(self.policy, example, **parts)
        if self._foreign is not None:
            key |= contents_of_classes(self.policy, self.loss)
        return key

    def _hold_gradients(self) -> None:
        """Give each parameter a gradient that stays where it is; compiled code takes it from those without one."""
        # A parameter that is frozen by now has none.
        for parameter in self.policy.parameters():
            parameter.grad = None

        # The same tensors in every update.
        ids = list(map(id, self.parameters))
        if self.holders != ids:
            self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
            self.holders = ids
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def _hold_state(self) -> None:
        """Put the optimizer's state, where it was loaded, into the tensors that compiled code knows."""
        for parameter, held in self.state.items():
            for name, value in self.optimizer.state.get(parameter, {}).items():
                old = held.get(name)
                if old is value or not (isinstance(old, Tensor) and isinstance(value, Tensor)):
                    continue
                if old.shape == value.shape:
                    self.optimizer.state[parameter][name] = old.copy_(value)
        self.state = {parameter: dict(state) for parameter, state in self.optimizer.state.items()}

    def _ids(self) -> list[Any]:
        """
        Of the tensors that compiled code takes to be the same objects in every call, with their layouts.

        They are in use, or held here, so that no other object can have their id.
        """
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        tensors = (*self.parameters, *self.gradients, *self.rates, *state)
        return [(id(tensor), layout(tensor)) for tensor in tensors if isinstance(tensor, Tensor)]

    @contextlib.contextmanager
    def _traced_optimizer(self) -> Iterator[None]:
        """Learning rates as tensors, numpy's numbers as Python's, and the plain form of the step."""
        groups = self.optimizer.param_groups
        kept = [dict(group) for group in groups]
        if len(self.rates) != len(groups):
            self.rates = [torch.tensor(0.0, device=self.policy.device) for _ in groups]

        for group, rate in zip(groups, self.rates, strict=True):
            for name, value in group.items():
                if isinstance(value, np.generic):
                    group[name] = value.item()
            if group.get("foreach", True) is None and group.get("fused") is None:
                group["foreach"] = False
            group["lr"] = rate.fill_(group["lr"])

        try:
            yield
        finally:
            for group, old in zip(groups, kept, strict=True):
                group.update(old)

    # ----------------------------------------------------------------------------------- after the first minibatch

    def _warn_once(self) -> None:
        """Say why the step is not compiled, where the gradients are, and which parameters the loss does not reach."""
        if self._reason_of_eager_step is not None:
            name = type(self.optimizer).__name__
            self.whole.stay_eager(f"the step of {name} is not compiled, as {self._reason_of_eager_step}")
            self._reason_of_eager_step = None

        # By now each parameter that the loss reaches has a gradient.
        if self._has_warned:
            return
        self._has_warned = True
        parameters = {id(parameter): name for name, parameter in self.policy.named_parameters()}
        names = [parameters[id(parameter)] for parameter in self.parameters if parameter.grad is None]
        if names:
            shown = ", ".join(names[:3])
            if len(names) > 3:
                shown += ", ..."
            warnings.warn(f"compile=True: the loss does not reach {shown}; no step will move it")


def _layout_of(
    samples: Samples,
    rows: Tensor | None,
) -> Any:
    """What compiled code asks of a minibatch."""
    if rows is None:
        return layouts(samples)
    return layout(rows)


# ------------------------------------------------------------------------------------------------ the policy's step


def _policy_step(
    policy: QuantileActorCriticPolicy,
    *args: Any,
) -> tuple[Any, ...]:
    """:return: what ``forward`` returns, and what the action distribution is made of"""
    with policy.kept_distribution():
        results = policy.forward_unchecked(*args)

        # Tensors only, since a graph gives out nothing else.
        dist = policy.action_dist
        parts = dist.distribution
        if not isinstance(parts, list):
            parts = [parts]
        made_of = [[getattr(part, name) for name in PARAMETERS[type(part)]] for part in parts]
        return *results, (made_of, getattr(dist, "_latent_sde", None))


class CompiledStep:
    """The policy's step: ``prepare`` before a rollout, then a call in place of ``forward_unchecked``."""

    def __init__(self) -> None:
        self.function = CompiledFunction(_policy_step)
        self.layouts: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def prepare(
        self,
        policy: QuantileActorCriticPolicy,
        *args: Any,
    ) -> CompiledStep | None:
        """
        :param policy: in evaluation mode
        :param args: of its ``forward``: the observations of all environments
        :return: this; None where the step stays eager
        """
        reason = reason_to_stay_eager(policy)
        if reason is not None:
            self.function.stay_eager(f"the policy's step in the rollout stays eager: {reason}")
            return None

        foreign = foreign_code(policy)
        with torch.no_grad():
            self.layouts = layouts(args)
            key = key_of(policy, args, **{"code of somebody else": foreign})
            if foreign is not None:
                key |= contents_of_classes(policy)
            if not self.function.prepare(key, (policy, *args), policy, foreign):
                return None
        return self

    def __call__(
        self,
        policy: QuantileActorCriticPolicy,
        *args: Any,
    ) -> tuple[Any, ...]:
        """As the policy's ``forward_unchecked``; ``action_dist`` becomes the distribution of these actions."""
        if self.function.call is None or layouts(args) != self.layouts:
            return policy.forward_unchecked(*args)

        try:
            *results, (made_of, latent_sde) = self.function.call(policy, *args)
        except StaysEagerError:
            return policy.forward_unchecked(*args)

        # Of which kind the parts are: two tensors make a normal distribution.
        dist: Any = policy.action_dist
        kind: type = Categorical
        if isinstance(dist, BernoulliDistribution):
            kind = Bernoulli
        elif len(made_of[0]) == 2:
            kind = Normal

        # The distribution that `forward` would have left.
        parts = [MAKERS[kind](*part) for part in made_of]
        dist.distribution = parts
        if not isinstance(dist, MultiCategoricalDistribution):
            dist.distribution = parts[0]
        if latent_sde is not None:
            dist._latent_sde = latent_sde
        return tuple(results)
