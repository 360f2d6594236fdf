"""
Several processes on one training, as ``torchrun`` starts them: each steps environments of its own, and all make the
same update. ``torch.distributed`` does the work; before ``init_process_group`` there is one process.

What keeps the processes together, in the order of a training:

1. ``begin_together`` when a model is built: equal settings, the first process's parameters.
2. ``learning_together`` around ``learn``: parameters are equal, and a signal to end becomes a sentence.
3. ``collect_together`` and ``ending_together`` around whatever can stop or fail in one process: then all of them end.
4. ``stepping_together`` around reading a rollout and its minibatches: an error in one process ends all.
5. ``CommonNoise`` around an optimizer's step: all draw the same random numbers.
6. ``agree_after_update``: equal buffers, and an error where parameters drift apart.

R processes, B rows of each.
"""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn


class ProcessLostError(RuntimeError):
    """Another process has ended."""


class ProcessesDifferError(RuntimeError):
    """Two processes of a training no longer hold the same parameters."""


# -------------------------------------------------------------------------------------------------- who takes part


def n_processes() -> int:
    """:return: how many processes take part, at least 1"""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def rank() -> int:
    """:return: which one this is, from 0; the first one logs and saves"""
    if n_processes() > 1:
        return dist.get_rank()
    return 0


@contextmanager
def translating_lost_peers() -> Iterator[None]:
    """
    Raise ``ProcessLostError`` for connection errors of gloo and NCCL.

    :raises ProcessLostError: if another process has ended
    """
    try:
        yield
    except ProcessLostError:
        raise
    except RuntimeError as error:
        words = ("connection", "peer", "nccl", "gloo")
        if n_processes() > 1 and any(word in str(error).lower() for word in words):
            raise ProcessLostError("another process of this training has ended") from error
        raise


# ------------------------------------------------------------------------------------------------ objects of all


def all_objects(value: Any) -> list[Any]:
    """
    Exchange a value; every process must call.

    :param value: of this process, anything that pickles
    :return: those of all, in rank order
    :raises ProcessLostError: if another process has ended, or stopped with an error (``ending_together``)
    """
    return _exchange(value, error=None)


def _exchange(
    value: Any,
    error: Exception | None,
) -> list[Any]:
    """
    The one way in which processes exchange objects, so that one that fails can tell those that wait in another call.

    :param value: of this process
    :param error: that ends this process; None: it goes on
    :return: values of all, in rank order
    :raises ProcessLostError: if another process has ended or fails
    """
    if n_processes() == 1:
        return [value]

    # Errors do not all pickle; their words do.
    message = None
    if error is not None:
        message = f"{type(error).__name__}: {error}"

    gathered: list[Any] = [None] * n_processes()
    with translating_lost_peers():
        dist.all_gather_object(gathered, (value, message))

    # One that fails ends all.
    for other, (_, other_message) in enumerate(gathered):
        if other_message is not None and other != rank():
            raise ProcessLostError(f"process {other} of this training has stopped: {other_message}")
    return [other_value for other_value, _ in gathered]


def broadcast(value: Any) -> Any:
    """
    Hand the first process's value to all; every process must call.

    :param value: there what it hands out; elsewhere anything
    :return: the first process's value, in every process
    :raises ProcessLostError: if another process has ended
    """
    sent = value if rank() == 0 else None
    return all_objects(sent)[0]


def gather(value: Any) -> list[Any]:
    """
    Collect a value of each process in the first one; every process must call.

    :param value: of this process
    :return: in the first process those of all, in rank order; elsewhere nothing
    :raises ProcessLostError: if another process has ended
    """
    values = all_objects(value)
    return values if rank() == 0 else []


def ending_together(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    """
    Call a function that may fail in one process alone, where the others would wait for it.

    :param function: what every process calls
    :param args: of the function
    :param kwargs: of the function
    :return: what it returned in each process, in rank order
    :raises Exception: what it raised here
    :raises ProcessLostError: if it raised in another process
    """
    try:
        result = function(*args, **kwargs)
    except ProcessLostError:
        raise
    except Exception as error:
        # The error of this process says more than another one's.
        with suppress(ProcessLostError):
            _exchange(None, error)
        raise
    return all_objects(result)


# ------------------------------------------------------------------------------------------------ tensors of all


def of_all(rows: Tensor) -> Tensor:
    """
    :param rows: of this process, shape (B, ...), as many as every other one has
    :return: those of all, shape (R * B, ...), without gradient, in rank order; of one process the rows themselves
    :raises ProcessLostError: if another process has ended or fails
    :raises ProcessesDifferError: if another process has no further rows
    """
    if n_processes() == 1:
        return rows

    agree_to_go_on(rows.device)
    rows = rows.detach().contiguous()
    all_rows = [torch.empty_like(rows) for _ in range(n_processes())]
    with translating_lost_peers():
        dist.all_gather(all_rows, rows)
    return torch.cat(all_rows)


def array_of_all(
    rows: np.ndarray,
    device: torch.device,
) -> np.ndarray:
    """
    :param rows: as for ``of_all``, an array
    :param device: by way of which it goes
    :return: as of ``of_all``; in one process the array itself
    """
    if n_processes() == 1:
        return rows
    return of_all(torch.as_tensor(rows, device=device)).cpu().numpy()


def average_over_processes(
    values: Tensor,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """
    Average the gradients, in place, so that they are those of the samples of all processes.

    :param values: shape (n,), likewise
    :param parameters: whose gradients, where there are any; the same in all processes
    :return: the averages of the values, shape (n,)
    :raises ProcessLostError: if another process has ended or fails
    :raises ProcessesDifferError: if another process has no further minibatch
    """
    agree_to_go_on(values.device)

    # One message for all.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([values, *(gradient.flatten() for gradient in gradients)])
    with translating_lost_peers():
        dist.all_reduce(flat)
    flat /= n_processes()

    # Back to where each part came from.
    averages, *parts = torch.split(flat, [len(values), *(gradient.numel() for gradient in gradients)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return averages


# ------------------------------------------------------------------------------------------- the start of a training

# Settings of a model that its update depends on.
SHARED_SETTINGS = (
    "n_envs",
    "n_steps",
    "batch_size",
    "n_epochs",
    "gamma",
    "gae_lambda",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "normalize_advantage",
    "target_kl",
    "quantile_huber_kappa",
    "quantile_huber_kappa_units",
    "critic_loss",
    "value_target",
    "normalize_returns",
    "return_stats_rate",
    "use_popart",
    "distributional_vf_clip_mode",
    "distributional_vf_clip_variance_factor",
    "clip_range_vf_units",
    "use_twin_critics",
    "use_variance_gradient_scaling",
    "variance_scaling_clip_min",
    "variance_scaling_clip_max",
    "variance_scaling_mode",
    "gradient_clipping",
    "sequence_length",
)

# Schedules of a model, as floats at these shares of remaining progress.
SHARED_SCHEDULES = {"learning_rate": "lr_schedule", "clip_range": "clip_range", "clip_range_vf": "clip_range_vf"}
PROGRESS = (1.0, 0.5, 0.0)


def shared_settings(model: Any) -> dict[str, Any]:
    """
    :param model: an algorithm with its policy and schedules
    :return: by name what must be the same in all processes: settings, schedules, shapes of all tensors, the optimizer
    """
    settings = {name: getattr(model, name, None) for name in SHARED_SETTINGS}

    # Functions do not compare; their values do.
    for name, attribute in SHARED_SCHEDULES.items():
        schedule = getattr(model, attribute)
        settings[name] = schedule
        if callable(schedule):
            settings[name] = [float(schedule(progress)) for progress in PROGRESS]

    # Another network would average gradients of other shapes.
    for name, tensor in (*model.policy.named_parameters(), *model.policy.named_buffers()):
        settings[f"shape of {name}"] = tuple(tensor.shape)

    # Another optimizer would make other steps of the same gradients.
    optimizer = model.policy.optimizer
    settings["optimizer"] = type(optimizer).__name__
    for name, value in optimizer.defaults.items():
        settings[f"option {name} of the optimizer"] = str(value)
    return settings


def begin_together(
    policy: nn.Module,
    settings: dict[str, Any],
) -> None:
    """
    Give all processes the first one's parameters and statistics.

    :param policy: of this process
    :param settings: what must be the same in all of them (``shared_settings``)
    :raises ValueError: if a setting is another one elsewhere
    :raises ProcessLostError: if another process has ended
    """
    check_same_settings(settings)
    for tensor in (*policy.parameters(), *policy.buffers()):
        # A transposed or channels-last tensor is no message.
        shared = tensor.data.contiguous()
        with translating_lost_peers():
            dist.broadcast(shared, src=0)
        tensor.data.copy_(shared)


def check_same_settings(settings: dict[str, Any]) -> None:
    """
    :param settings: of this process, by name
    :raises ValueError: if a setting is another one elsewhere, naming it
    :raises ProcessLostError: if another process has ended
    """
    # Every process looks at every other one, so that all raise.
    for other in all_objects(settings):
        for name in {**settings, **other}:
            here = settings.get(name)
            elsewhere = other.get(name)
            if elsewhere != here:
                raise ValueError(f"all processes need the same {name}: it is {here} here and {elsewhere} elsewhere")


def check_takes_part(model: Any) -> None:
    """
    :param model: an algorithm that is to learn, with ``n_processes`` as it was built for
    :raises RuntimeError: if it was built for another number of processes, for one above all
    :raises ValueError: if its VecNormalize keeps moments of its own in each process
    """
    if model.n_processes != n_processes():
        raise RuntimeError(
            f"this model was built for {model.n_processes} process(es), and {n_processes()} take part now: build or "
            "load it after torch.distributed.init_process_group, so that all begin with the same parameters"
        )

    # One policy, one scale of its inputs.
    normalizer = model.get_vec_normalize_env()
    if isinstance(normalizer, VecNormalize) and normalizer.training and n_processes() > 1:
        raise ValueError(
            "VecNormalize keeps moments of its own in each process, so that one policy would see different inputs: use "
            "normalize_returns=True for rewards, scale observations in the environment, or load equal moments into all "
            "processes and set training=False"
        )


@contextmanager
def learning_together(model: Any) -> Iterator[None]:
    """
    Surround ``learn``: check that all processes begin alike; name the reason where the launcher ends this one.

    ``torchrun`` answers the death of a process with SIGTERM to the others, which would end them without a word.

    :param model: an algorithm with ``n_processes`` as it was built for
    :raises RuntimeError: if the model was built for another number of processes
    :raises ValueError: on VecNormalize with moments of its own, or another setting elsewhere
    :raises ProcessesDifferError: if the parameters are not the same everywhere
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1 and model.n_processes == 1:
        yield
        return

    # What may differ since the model was built: the group, settings, and parameters that were loaded.
    ending_together(check_takes_part, model)
    check_same_settings(shared_settings(model))
    check_equal_tensors(model.policy, "before learn")

    with naming_termination():
        yield


@contextmanager
def naming_termination() -> Iterator[None]:
    """
    Raise ``ProcessLostError`` on SIGTERM. A handler of the user's own stays.

    :raises ProcessLostError: on SIGTERM, and if another process has ended
    """
    # Python takes signals in the main thread only.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    signal.signal(signal.SIGTERM, _raise_on_termination)
    try:
        yield
    except ProcessLostError:
        # The launcher's signal may come while the error is printed.
        if signal.getsignal(signal.SIGTERM) is _raise_on_termination:
            signal.signal(signal.SIGTERM, _ignore_once)
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is _raise_on_termination:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_on_termination(
    number: int,
    frame: Any,
) -> None:
    """
    Handle SIGTERM; another one ends the process.

    :param number: of the signal
    :param frame: that it has interrupted
    :raises ProcessLostError: always
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise ProcessLostError(
        "the launcher has ended this process (SIGTERM): another process of this training has ended, or the job was "
        "cancelled"
    )


def _ignore_once(
    number: int,
    frame: Any,
) -> None:
    """
    Handle a SIGTERM to a process that is about to end; another one ends it at once.

    :param number: of the signal
    :param frame: that it has interrupted
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


# ------------------------------------------------------------------------------------------------------ every update


def collect_together(model: Any, collect: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
    """
    Collect a rollout in every process, and count the steps of all.

    :param model: an algorithm, whose ``num_timesteps`` ``collect`` moves by this process's steps
    :param collect: of SB3, which returns whether the training goes on
    :param args: of ``collect``
    :param kwargs: of ``collect``
    :return: whether the training goes on: a callback's stop in one process stops all
    :raises ProcessLostError: if another process has ended or fails
    """
    steps_before = model.num_timesteps

    def collected() -> tuple[bool, int]:
        goes_on = collect(*args, **kwargs)
        return goes_on, model.num_timesteps - steps_before

    # A stopped rollout counts the steps it made.
    outcomes = ending_together(collected)
    model.num_timesteps = steps_before + sum(steps for _, steps in outcomes)
    return all(goes_on for goes_on, _ in outcomes)


@contextmanager
def stepping_together(device: torch.device) -> Iterator[None]:
    """
    Surround the reading of a rollout, or its minibatches: an error in one process ends all, since ``of_all`` and
    ``average_over_processes`` ask ``agree_to_go_on`` first. Nothing within it may exchange objects.

    :param device: on which the processes exchange tensors
    :raises ProcessLostError: if another process has ended or fails
    :raises ProcessesDifferError: if another process has further minibatches
    """
    try:
        yield
    except (ProcessLostError, ProcessesDifferError):
        raise
    except Exception as error:
        # The error of this process says more than another one's.
        with suppress(ProcessLostError, ProcessesDifferError):
            agree_to_go_on(device, error=error)
        raise
    agree_to_go_on(device, has_finished=True)


def agree_to_go_on(
    device: torch.device,
    error: Exception | None = None,
    has_finished: bool = False,
) -> None:
    """
    Ask all processes whether one fails, before they average: whoever waited there would wait for ever.

    :param device: on which the processes exchange tensors
    :param error: that ends this process; None: it goes on
    :param has_finished: whether this process has no further minibatch
    :raises ProcessLostError: if another process has ended or fails
    :raises ProcessesDifferError: if some have further minibatches and some have not
    """
    if n_processes() == 1:
        return

    # How many fail, how many have finished.
    counts = torch.tensor([float(error is not None), float(has_finished)], device=device)
    with translating_lost_peers():
        dist.all_reduce(counts)
    failing, finished = counts.tolist()

    if failing > 0:
        _exchange(None, error)
    elif 0 < finished < n_processes():
        raise ProcessesDifferError(
            f"{finished:.0f} of {n_processes()} processes have no further minibatch in this update: all need as many"
        )


class CommonNoise:
    """
    Random numbers of torch that all processes draw alike, for the time of an optimizer's step.

    UPGD adds noise to the parameters: drawn from each process's generator it would make them differ. What else a
    process draws goes on as if no step had drawn anything. In one process nothing changes.

    There is no state to save: the same step of the same seed draws the same numbers, after a resume, too.

    :param seed: of the model, None: the first process draws one
    :param num_timesteps: of the model, which tells updates apart
    :param device: of the parameters
    :raises ProcessLostError: if another process has ended
    """

    def __init__(
        self,
        seed: int | None,
        num_timesteps: int,
        device: torch.device,
    ):
        self.is_active = n_processes() > 1
        self.devices = [device] if device.type == "cuda" else []
        if not self.is_active:
            return

        # The first process's numbers, whatever the seeds of the others.
        numbers = [seed, num_timesteps]
        if seed is None:
            numbers = [int(torch.randint(2**31, ()).item()), num_timesteps]
        entropy = broadcast(numbers)
        self.seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
        self.states: list[Tensor] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw from the common generator."""
        if not self.is_active:
            yield
            return

        # The process's own generators are put back afterwards.
        with torch.random.fork_rng(devices=self.devices):
            self._restore()
            try:
                yield
            finally:
                self.states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.devices)]

    def _restore(self) -> None:
        """Put torch's generators where the last step left the common ones."""
        if self.states is None:
            torch.manual_seed(self.seed)
            return

        torch.set_rng_state(self.states[0])
        for device, state in zip(self.devices, self.states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)


def agree_after_update(
    policy: nn.Module,
    n_updates: int,
) -> None:
    """
    Average the buffers that each process moves by its own samples, such as those of batch norm, and check the rest.

    :param policy: of this process
    :param n_updates: how many updates were made, for the error
    :raises ProcessesDifferError: if parameters or buffers differ
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1:
        return
    average_buffers(policy)
    check_equal_tensors(policy, f"after update {n_updates}")


def average_buffers(policy: nn.Module) -> None:
    """
    Average buffers of floating point numbers, in place, where they differ; what is equal stays to the last bit.

    :param policy: of this process, whose buffers have the same shapes in all
    :raises ProcessLostError: if another process has ended
    """
    for buffer in policy.buffers():
        if not buffer.is_floating_point() or buffer.numel() == 0:
            continue

        # Copies of all processes, (R, ...).
        copies = of_all(buffer[None])
        differs = (copies != copies[0]).any(dim=0)
        buffer.copy_(torch.where(differs, copies.mean(dim=0), buffer))


def check_equal_tensors(
    module: nn.Module,
    when: str,
) -> None:
    """
    Compare the bits of all parameters and buffers.

    :param module: of this process
    :param when: for the error
    :raises ProcessesDifferError: if a tensor is another one elsewhere, in all processes alike
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1:
        return
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}

    # All look at the same pairs, so that all raise the same.
    first, *others = all_objects(digests)
    for other, theirs in enumerate(others, start=1):
        different = [name for name in first if theirs.get(name) != first[name]]
        if different:
            raise ProcessesDifferError(
                f"processes 0 and {other} hold different parameters {when}, {different[0]} first: something changes "
                "them in each process on its own, such as a callback, an optimizer that draws from a generator of its "
                "own, or archives that differ"
            )


def _digest(tensor: Tensor) -> bytes:
    """
    :param tensor: a parameter or buffer
    :return: 16 bytes that stand for all of its bits
    """
    # The order of elements in memory does not count.
    values = tensor.detach().contiguous().reshape(-1).cpu()
    return hashlib.blake2b(values.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
