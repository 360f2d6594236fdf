"""
``compile=True``: the minibatch update and the policy's step in a rollout as graphs of ``torch.compile``.

The guards of torch.compile take a third of an update's time. Code of this package, Stable-Baselines3 and torch runs
without guards. A key of everything it reads replaces them, and a changed key compiles again. Foreign code, such as an
overridden loss method or a features extractor, keeps its guards.
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

# torch.compile has the same limit.
MAX_BUILDS = 8

# Compilations within an update. Guards of foreign code may fail with every minibatch.
MAX_BUILDS_PER_UPDATE = 3

# Tensors that define torch's distributions, by class.
PARAMETERS = {Categorical: ("logits",), Bernoulli: ("logits",), Normal: ("loc", "scale")}
MAKERS: dict[type, Callable[..., Any]] = {
    Categorical: categorical_of,
    Bernoulli: functools.partial(Bernoulli, None, validate_args=False),
    Normal: normal_of,
}


@functools.cache
def _compiles_ahead() -> bool:
    """Return whether this torch compiles before the first call. The check takes a millisecond."""
    return hasattr(torch.compile(lambda: 0), "aot_compile")


def reason_to_stay_eager(policy: nn.Module) -> str | None:
    """:return: something that a graph would omit, None: nothing"""
    # A graph runs no hooks.
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in policy.modules() for name in names):
        return "a module of the policy has a hook"
    if any(getattr(torch_modules, f"_global{name}") for name in names):
        return "all modules have a hook"

    # Modes of torch, or features that it lacks.
    if torch.is_anomaly_enabled():
        return "torch.autograd looks for anomalies"
    if not (hasattr(torch._dynamo.config, "trace_autograd_ops") and _compiles_ahead()):
        return f"torch {torch.__version__} lacks what compiles a whole update; torch 2.13 has it"
    return None


class StaysEagerError(Exception):
    """A guarded function could not be compiled. It has not run."""


class CompiledFunction:
    """
    A function as a single graph, for tensors of fixed shapes.

    :param function: function to compile; may call ``torch.autograd.grad``
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.name = function.__name__.strip("_")
        self.call: Callable[..., Any] | None = None
        self.key: dict[str, Any] = {}
        self.builds = 0
        self.builds_of_update = 0
        self.has_warned = False
        self.error: str | None = None  # reason why it is not compiled
        self._failed_guards: list[str] = []  # since the last build, newest graph first
        self._changed = ""  # reason of the last build of guarded code

    def prepare(
        self,
        key: dict[str, Any],
        args: tuple[Any, ...],
        policy: Any,
        foreign: str | None = None,
        warn: bool = True,
    ) -> bool:
        """
        Compile the function unless a graph for this key exists.

        :param key: everything the function reads beside the tensors of its arguments
        :param args: example arguments, in the shapes of all later calls
        :param policy: policy with the observation space and the device
        :param foreign: foreign code in the function, which torch guards; None: all code is ours
        :param warn: whether to warn once if compiling fails
        :return: whether ``call`` is ready
        """
        self.builds_of_update = 0

        # Use the existing graph, or stop at the limit of builds.
        if self.call is not None and key == self.key:
            return True
        if self.builds >= MAX_BUILDS:
            self.call = None
            return False

        # Announce the wait and its reason.
        changed = ""
        if self.key:
            changed = difference(key, self.key)
        if self.builds == MAX_BUILDS - 1:
            warnings.warn(f"compile=True: {self.name} is compiled for the last time, for changed {changed}")
        self._announce(changed)

        # Our code compiles here. Guarded code compiles on its first call.
        try:
            if foreign is None:
                self.builds += 1
                self.call = _compile(self.function, args, policy)
            else:
                self.call = self._guarded(policy, warn)
            self.key = key
        except Exception as error:  # torch.compile passes on any error that foreign code raises
            self._give_up(error, warn)

        return self.call is not None

    def stay_eager(
        self,
        message: str,
        warn: bool = True,
    ) -> None:
        """Warn once why the function is not used."""
        if warn and not self.has_warned:
            warnings.warn(f"compile=True: {message}")
        self.has_warned |= warn

    def _announce(self, changed: str) -> None:
        """Announce the compilation on stderr."""
        if changed:
            print(f"Compiling {self.name}: {changed}", file=sys.stderr)
        else:
            print(f"Compiling {self.name}; this may take half a minute, and less the next time.", file=sys.stderr)

    def _give_up(
        self,
        error: Exception,
        warn: bool,
    ) -> None:
        """Stop compiling the function for good."""
        reason = str(error).strip().partition("\n")[0][:200]
        self.error = f"{type(error).__name__}: {reason}"

        # Some errors do not name a remedy.
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
        """:return: a function that compiles on its first call and when one of torch's guards fails"""
        inductor = _backend(policy)

        # torch calls this for each graph. The first belongs to the first call.
        def counting(
            graph: Any,
            inputs: list[Any],
        ) -> Any:
            self.builds += 1
            self.builds_of_update += 1

            # Each later graph replaces one whose guard failed.
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
            except Exception as error:  # any kind, as above
                self._give_up(error, warn)
                raise StaysEagerError from error

            # Code that compiles with every minibatch runs faster uncompiled.
            if self.builds_of_update > MAX_BUILDS_PER_UPDATE:
                self.call = None
                self.builds = MAX_BUILDS
                self.stay_eager(f"{self.name} stays eager, as it was compiled again and again: {self._changed}")

            return results

        return call

    def _note_failed_guard(self, failure: Any) -> None:
        # Drop torch's graph number and the line of its source.
        reason = re.sub(r"^\d+/\d+: ", "", str(failure.reason)).partition("#")[0]
        self._failed_guards.append(" ".join(reason.split()) or "what your code reads")


@contextlib.contextmanager
def _plain_sizes(space: Any) -> Iterator[None]:
    """Replace numpy sizes of discrete observations by Python's, since torch.compile treats numpy's as tensors."""
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
def _constant_image_spaces() -> Iterator[None]:
    """Mark SB3's numpy check of image spaces as constant, since torch.compile would trace its arrays as tensors."""
    is_image_space: Any = preprocessing.is_image_space
    torch.compiler.assume_constant_result(is_image_space)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del is_image_space._dynamo_marked_constant


@contextlib.contextmanager
def _bare_distribution(dist: Any) -> Iterator[None]:
    """Hide the state of the last observations in an action distribution from guards."""
    state = {}
    for name in ("distribution", "_latent_sde"):
        if name in vars(dist):
            state[name] = vars(dist).pop(name)

    try:
        yield
    finally:
        vars(dist).update(state)


@contextlib.contextmanager
def _tracing(
    policy: Any,
    specialize_float: bool,
) -> Iterator[None]:
    """Set the options under which torch.compile reads code."""
    config = torch._dynamo.config.patch(
        trace_autograd_ops=True,
        specialize_float=specialize_float,
        use_numpy_random_stream=True,  # graphs exclude numpy's generator: code that draws from it stays eager
    )
    with config, _plain_sizes(policy.observation_space), _constant_image_spaces():
        yield


def _backend(policy: Any) -> Callable[..., Any]:
    """:return: compiler from a graph to machine code"""
    patches: dict[str, Any] = {"compile_threads": 1}
    if policy.device.type == "cpu":
        # The key has the sizes. Checks in the code would build error messages first, 70 per update.
        patches |= {"cpp_wrapper": True, "cpp.use_decompose_tanh": True, "size_asserts": False}

    def inductor(
        graph: Any,
        inputs: list[Any],
    ) -> Any:
        from torch._inductor.compile_fx import compile_fx

        graph._backend_id = None  # torch draws it per process and adds it to the key of its disk cache
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
    """Compute loss and gradients; return names and values of the metrics."""
    with torch.enable_grad():
        loss, metrics = update.loss(samples.at(rows), coefficients)
        gradients = torch.autograd.grad(loss, update.parameters, allow_unused=True)

    # Copy into the tensors that the graph refers to.
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
    """Compute gradients, clip and step; also return the gradients' norms before clipping."""
    names, values = _gradients(update, samples, rows, coefficients)

    # As `clip_gradients` does, parameter by parameter.
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
    ``EagerUpdate`` as a graph.

    An update compiles for its first minibatch. Minibatches of other sizes, such as a short last one, stay eager.
    """

    optimizer: Any
    optimizer_step: Callable[..., Any]  # without torch's hooks and graph breaks around it

    def __init__(self) -> None:
        super().__init__()
        self.whole = CompiledFunction(_update)
        self.gradients_only = CompiledFunction(_gradients)
        self.gradients: list[Tensor] = []  # one per parameter, allocated once
        self.parameter_ids: list[int] = []  # ids of these parameters
        self.state: dict[nn.Parameter, dict[str, Any]] = {}  # optimizer state by parameter
        self.rates: list[Tensor] = []  # learning rates, one per group of the optimizer
        self.stepped: list[int] = []  # ids of the parameters of the last eager update
        self.tensors: Coefficients | None = None  # coefficients as tensors
        self._settings: LossSettings | None = None
        self._foreign: str | None = None
        self._function: CompiledFunction | None = None  # runs the minibatches of this update
        self._minibatch: Any = None  # layout of the minibatches it is compiled for
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
        """Prepare as ``EagerUpdate`` does. Nothing compiles before the first minibatch."""
        super().prepare(loss, settings, coefficients, policy, largest_kl, common_noise)
        self.optimizer = policy.optimizer
        self.optimizer_step = inspect.unwrap(type(self.optimizer).step)
        self._settings = settings
        self._function = None
        self._minibatch = None
        self._may_compile = self._can_compile()
        if not self._may_compile:
            return

        # Coefficients may change, so they are arguments of the graph, as tensors.
        self._foreign = foreign_code(policy, loss)
        tensors: list[Any] = []
        for coefficient in coefficients:
            if coefficient is None:
                tensors.append(None)
            else:
                tensors.append(torch.tensor(float(coefficient), device=policy.device))
        self.tensors = Coefficients._make(tensors)

    def _can_compile(self) -> bool:
        """Return whether this update can be compiled. A lasting obstacle causes one warning."""
        reason = reason_to_stay_eager(self.policy) or self._reason_of_gradients()

        # The optimizer's first step creates its state, which must stay outside a graph.
        ids = list(map(id, self.parameters))
        has_state = all(parameter in self.optimizer.state for parameter in self.parameters)
        if not has_state and self.stepped != ids:
            self.stepped = ids
            return False

        # Adam's traced step divides by the rate: 0 / 0 for parameters that never had a gradient.
        if not all(group["lr"] for group in self.optimizer.param_groups):
            return False

        if reason is not None:
            self.gradients_only.stay_eager(f"the update stays eager: {reason}")
        return reason is None

    def _reason_of_gradients(self) -> str | None:
        """:return: reason why gradients need ``backward`` or ``zero_grad``, None: they do not"""
        if n_processes() > 1:
            return "several processes average their gradients"

        # Compiled gradients bypass `backward` and reach only the policy's parameters.
        ids = {id(parameter) for parameter in self.policy.parameters()}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                hooks = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
                if hooks or id(parameter) not in ids:
                    return "a parameter has a hook or is not the policy's"

        # They also bypass `zero_grad`.
        zero_grad = inspect.getattr_static(self.optimizer, "zero_grad")
        if zero_grad is not torch_optimizers.Optimizer.zero_grad:
            return f"{type(self.optimizer).__name__} has a zero_grad of its own"
        return None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Set the optimizer's options for the update. With compiled code, the first minibatch chooses them."""
        with contextlib.ExitStack() as self._options:
            if not self._may_compile:
                self._options.enter_context(super().running())
            yield

    def __call__(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> bool:
        """Run a minibatch as ``EagerUpdate`` does."""
        if not self._may_compile:
            return super().__call__(samples, rows)

        # The first minibatch fixes the size. Other sizes stay eager.
        self._part_parameters(samples, rows)
        if self._minibatch is None:
            self._choose_function(samples, rows)
        if self._function is None or self._minibatch != _layout_of(samples, rows):
            return self._eager_call(samples, rows)

        # Code that cannot be compiled raises on its first call, before it runs.
        function = self._function
        assert function.call is not None
        try:
            results = function.call(self, samples, rows, self.tensors)
        except StaysEagerError:
            self._choose_function(samples, rows)
            return self(samples, rows)
        if function.call is None:
            self._use(None)

        # Leave the metrics on the device.
        self._names = results[0]
        self._values.append(results[1])
        self._warn_once()

        # The graph of the whole update has already clipped and stepped.
        if function is self.whole:
            self._norms.append(results[2])
            return True
        return self._step_unless_too_far()

    def _eager_call(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> bool:
        """Run an eager minibatch between compiled ones, whose gradients keep their tensors."""
        goes_on = super().__call__(samples, rows)
        if self._function is not None:
            self._allocate_gradients()
        return goes_on

    # ----------------------------------------------------------------------------------- before the first minibatch

    def _choose_function(
        self,
        samples: Samples,
        rows: Tensor | None,
    ) -> None:
        """Compile the whole update if possible, else the gradients, for minibatches like this one."""
        assert self.tensors is not None
        self._minibatch = _layout_of(samples, rows)
        example = (samples, rows, self.tensors)
        self._allocate_gradients()
        self._reuse_state()

        # Try the whole update, unless the KL divergence is checked between the gradients and the step.
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

        # Else compile the gradients alone. The optimizer steps outside the graph.
        key = self._key(example)
        if not self.gradients_only.prepare(key, (self, *example), self.policy, self._foreign):
            self._use(None)
            return
        self._reason_of_eager_step = reason_of_step
        self._use(self.gradients_only)

    def _use(self, function: CompiledFunction | None) -> None:
        """Run the following minibatches by this function, None: by eager code."""
        self._function = function
        options = self.policy.fast_optimizer()
        if function is self.whole:
            options = self._traced_optimizer()

        self._options.close()
        self._options.enter_context(options)

    def _reason_of_step(self) -> str | None:
        """:return: something that a graph of the optimizer's step would omit, None: nothing"""
        optimizer = self.optimizer
        hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        global_hooks = torch_optimizers._global_optimizer_pre_hooks or torch_optimizers._global_optimizer_post_hooks
        is_torchs = f"{type(optimizer).__module__}.".startswith("torch.optim.")
        if hooks or global_hooks or not is_torchs:
            # The steps of foreign optimizers may do more than arithmetic.
            return "it has hooks or is not of torch.optim"

        if "step" in vars(optimizer) or foreign_class(type(optimizer)) is not None:
            return "somebody has replaced it"
        return None

    def _key(self, example: tuple[Any, ...]) -> dict[str, Any]:
        """Return everything that the compiled code reads beside its example."""
        # Flags that the loss reads.
        assert self._settings is not None
        parts: dict[str, Any] = self._settings.by_name()
        parts["clip_range_vf is None"] = self.coefficients.clip_range_vf is None

        # Parameters that are clipped together, by position.
        places = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        for name, part in self.parts.items():
            parts[f"parameters of {name}"] = [places[id(parameter)] for parameter in part]

        # Settings that the step reads.
        parts["optimizer"] = type(self.optimizer)
        for i, group in enumerate(self.optimizer.param_groups):
            # ``lr`` is a tensor here, if the step reads it.
            constants = {k: repr(v) for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
            parts |= {f"optimizer group {i} {name}": value for name, value in constants.items()}
        parts["tensors of gradients and optimizer"] = self._ids()

        # Foreign code in the loss or the policy.
        parts["code of somebody else"] = self._foreign
        key = key_of(self.policy, example, **parts)
        if self._foreign is not None:
            key |= contents_of_classes(self.policy, self.loss)
        return key

    def _allocate_gradients(self) -> None:
        """Give each parameter a persistent gradient. Compiled code removes those that the loss does not reach."""
        # Clear all gradients first: a frozen parameter needs None.
        for parameter in self.policy.parameters():
            parameter.grad = None

        # Reuse the tensors in every update.
        ids = list(map(id, self.parameters))
        if self.parameter_ids != ids:
            self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
            self.parameter_ids = ids
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def _reuse_state(self) -> None:
        """Copy loaded optimizer state into the tensors that compiled code refers to."""
        for parameter, stored in self.state.items():
            for name, value in self.optimizer.state.get(parameter, {}).items():
                old = stored.get(name)
                if old is value or not (isinstance(old, Tensor) and isinstance(value, Tensor)):
                    continue
                if old.shape == value.shape:
                    self.optimizer.state[parameter][name] = old.copy_(value)
        self.state = {parameter: dict(state) for parameter, state in self.optimizer.state.items()}

    def _ids(self) -> list[Any]:
        """
        List ids and layouts of tensors that compiled code expects to be the same objects in every call.

        All of them stay referenced, so no other object can take their ids.
        """
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        tensors = (*self.parameters, *self.gradients, *self.rates, *state)
        return [(id(tensor), layout(tensor)) for tensor in tensors if isinstance(tensor, Tensor)]

    @contextlib.contextmanager
    def _traced_optimizer(self) -> Iterator[None]:
        """Make learning rates tensors and numpy's numbers Python's, and use the plain form of the step."""
        groups = self.optimizer.param_groups
        saved_groups = [dict(group) for group in groups]
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
            for group, old in zip(groups, saved_groups, strict=True):
                group.update(old)

    # ----------------------------------------------------------------------------------- after the first minibatch

    def _warn_once(self) -> None:
        """Warn why the step stays eager though gradients are compiled, and which parameters the loss misses."""
        if self._reason_of_eager_step is not None:
            name = type(self.optimizer).__name__
            self.whole.stay_eager(f"the step of {name} is not compiled, as {self._reason_of_eager_step}")
            self._reason_of_eager_step = None

        # After the first minibatch, each parameter that the loss reaches has a gradient.
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
    """Return the layout that compiled code requires of a minibatch."""
    if rows is None:
        return layouts(samples)
    return layout(rows)


# ------------------------------------------------------------------------------------------------ the policy's step


def _policy_step(
    policy: QuantileActorCriticPolicy,
    *args: Any,
) -> tuple[Any, ...]:
    """:return: the results of ``forward``, and the tensors that define the action distribution"""
    with policy.kept_distribution():
        results = policy.forward_unchecked(*args)

        # A graph returns only tensors.
        dist = policy.action_dist
        parts = dist.distribution
        if not isinstance(parts, list):
            parts = [parts]
        made_of = [[getattr(part, name) for name in PARAMETERS[type(part)]] for part in parts]
        return *results, (made_of, getattr(dist, "_latent_sde", None))


class CompiledStep:
    """The policy's step. Call ``prepare`` before a rollout, then the object in place of ``forward_unchecked``."""

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
        :param policy: policy in evaluation mode
        :param args: arguments of its ``forward``: observations of all environments
        :return: this object, None: the step stays eager
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
        """Act as the policy's ``forward_unchecked`` does. ``action_dist`` gets the distribution of these actions."""
        if self.function.call is None or layouts(args) != self.layouts:
            return policy.forward_unchecked(*args)

        try:
            *results, (made_of, latent_sde) = self.function.call(policy, *args)
        except StaysEagerError:
            return policy.forward_unchecked(*args)

        # Find the kind of distribution: two tensors define a normal one.
        dist: Any = policy.action_dist
        kind: type = Categorical
        if isinstance(dist, BernoulliDistribution):
            kind = Bernoulli
        elif len(made_of[0]) == 2:
            kind = Normal

        # Restore the distribution that `forward` would leave.
        parts = [MAKERS[kind](*part) for part in made_of]
        dist.distribution = parts
        if not isinstance(dist, MultiCategoricalDistribution):
            dist.distribution = parts[0]
        if latent_sde is not None:
            dist._latent_sde = latent_sde
        return tuple(results)
