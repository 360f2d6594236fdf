"""
Several processes in one training, as ``torchrun`` starts them.

Each process steps its own environments, and all make the same update. ``torch.distributed`` does the work. Before
``init_process_group`` there is one process. A training synchronises in this order:

1. ``begin_together``, when a model is built: checks equal settings and copies the first process's parameters.
2. ``learning_together``, around ``learn``: checks equal parameters and turns a signal to end into an error.
3. ``collect_together`` and ``ending_together``, around code that one process may stop or fail in: all of them end.
4. ``stepping_together``, around reading a rollout and its minibatches: an error in one process ends all.
5. ``CommonNoise``, around an optimizer's step: all draw the same random numbers.
6. ``agree_after_update``: averages buffers, and raises an error if parameters drift apart.

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
    """Two processes of a training have different parameters."""


# -------------------------------------------------------------------------------------------------- who takes part


def n_processes() -> int:
    """:return: number of processes in the training, at least 1"""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def rank() -> int:
    """:return: index of this process, from 0. The first one logs and saves"""
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
    Exchange a value. Every process must call this.

    :param value: this process's value, anything that pickles
    :return: values of all processes, in rank order
    :raises ProcessLostError: if another process has ended, or stopped with an error (``ending_together``)
    """
    return _exchange(value, error=None)


def _exchange(
    value: Any,
    error: Exception | None,
) -> list[Any]:
    """
    Exchange objects between processes. All exchanges use this, so a failure reaches processes in any other call.

    :param value: this process's value
    :param error: error that ends this process, None: it continues
    :return: values of all processes, in rank order
    :raises ProcessLostError: if another process has ended or fails
    """
    if n_processes() == 1:
        return [value]

    # Some errors do not pickle. Their texts do.
    message = None
    if error is not None:
        message = f"{type(error).__name__}: {error}"

    gathered: list[Any] = [None] * n_processes()
    with translating_lost_peers():
        dist.all_gather_object(gathered, (value, message))

    # A failed process ends all.
    for process, (_, failure) in enumerate(gathered):
        if failure is not None and process != rank():
            raise ProcessLostError(f"process {process} of this training has stopped: {failure}")
    return [gathered_value for gathered_value, _ in gathered]


def broadcast(value: Any) -> Any:
    """
    Send the first process's value to all. Every process must call this.

    :param value: value to send in the first process, ignored elsewhere
    :return: the first process's value, in every process
    :raises ProcessLostError: if another process has ended
    """
    sent = value if rank() == 0 else None
    return all_objects(sent)[0]


def gather(value: Any) -> list[Any]:
    """
    Collect each process's value in the first one. Every process must call this.

    :param value: this process's value
    :return: values of all in rank order in the first process, empty elsewhere
    :raises ProcessLostError: if another process has ended
    """
    values = all_objects(value)
    return values if rank() == 0 else []


def ending_together(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    """
    Call a function that may fail in one process only, while the others would wait for it.

    :param function: function that every process calls
    :param args: its positional arguments
    :param kwargs: its keyword arguments
    :return: results of all processes, in rank order
    :raises Exception: if the function raised it in this process
    :raises ProcessLostError: if it raised in another process
    """
    try:
        result = function(*args, **kwargs)
    except ProcessLostError:
        raise
    except Exception as error:
        # This process's error explains more than another's.
        with suppress(ProcessLostError):
            _exchange(None, error)
        raise
    return all_objects(result)


# ------------------------------------------------------------------------------------------------ tensors of all


def of_all(rows: Tensor) -> Tensor:
    """
    :param rows: this process's rows, shape (B, ...), with the same B in every process
    :return: rows of all, shape (R * B, ...), without gradient, in rank order; a single process gets its rows unchanged
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
    :param rows: array of rows, as for ``of_all``
    :param device: device through which they are exchanged
    :return: rows of all, as from ``of_all``; a single process gets the array unchanged
    """
    if n_processes() == 1:
        return rows
    return of_all(torch.as_tensor(rows, device=device)).cpu().numpy()


def average_over_processes(
    values: Tensor,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """
    Average the gradients in place, as if each process had the samples of all.

    :param values: further numbers to average, shape (n,)
    :param parameters: parameters whose gradients, if any, are averaged; the same in all processes
    :return: averages of the values, shape (n,)
    :raises ProcessLostError: if another process has ended or fails
    :raises ProcessesDifferError: if another process has no further minibatch
    """
    agree_to_go_on(values.device)

    # Send a single message.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([values, *(gradient.flatten() for gradient in gradients)])
    with translating_lost_peers():
        dist.all_reduce(flat)
    flat /= n_processes()

    # Copy each part back to its gradient.
    averages, *parts = torch.split(flat, [len(values), *(gradient.numel() for gradient in gradients)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return averages


# ------------------------------------------------------------------------------------------- the start of a training

# Settings of a model that change its update.
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

# Schedules of a model, compared by their values at these shares of remaining progress.
SHARED_SCHEDULES = {"learning_rate": "lr_schedule", "clip_range": "clip_range", "clip_range_vf": "clip_range_vf"}
PROGRESS = (1.0, 0.5, 0.0)


def shared_settings(model: Any) -> dict[str, Any]:
    """
    :param model: algorithm with its policy and schedules
    :return: values that must be equal in all processes, by name: settings, schedules, shapes of tensors, optimizer
    """
    settings = {name: getattr(model, name, None) for name in SHARED_SETTINGS}

    # Compare functions by their values.
    for name, attribute in SHARED_SCHEDULES.items():
        schedule = getattr(model, attribute)
        settings[name] = schedule
        if callable(schedule):
            settings[name] = [float(schedule(progress)) for progress in PROGRESS]

    # Another network has gradients of other shapes.
    for name, tensor in (*model.policy.named_parameters(), *model.policy.named_buffers()):
        settings[f"shape of {name}"] = tuple(tensor.shape)

    # Another optimizer makes other steps from the same gradients.
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
    Copy the first process's parameters and statistics to all.

    :param policy: this process's policy
    :param settings: values that must be equal in all processes (``shared_settings``)
    :raises ValueError: if a setting differs in another process
    :raises ProcessLostError: if another process has ended
    """
    check_same_settings(settings)
    for tensor in (*policy.parameters(), *policy.buffers()):
        # Make transposed and channels-last tensors contiguous for the message.
        shared = tensor.data.contiguous()
        with translating_lost_peers():
            dist.broadcast(shared, src=0)
        tensor.data.copy_(shared)


def check_same_settings(settings: dict[str, Any]) -> None:
    """
    :param settings: this process's settings by name
    :raises ValueError: if a setting differs in another process; the message names it
    :raises ProcessLostError: if another process has ended
    """
    # Each process compares with all others, so all raise.
    for peer_settings in all_objects(settings):
        for name in {**settings, **peer_settings}:
            value = settings.get(name)
            peer_value = peer_settings.get(name)
            if peer_value != value:
                raise ValueError(f"all processes need the same {name}: it is {value} here and {peer_value} elsewhere")


def check_takes_part(model: Any) -> None:
    """
    :param model: algorithm to train, with ``n_processes`` from its construction
    :raises RuntimeError: if it was built for another number of processes, such as one
    :raises ValueError: if its VecNormalize has separate moments in each process
    """
    if model.n_processes != n_processes():
        raise RuntimeError(
            f"this model was built for {model.n_processes} process(es), and {n_processes()} take part now: build or "
            "load it after torch.distributed.init_process_group, so that all begin with the same parameters"
        )

    # One policy needs one scale of its inputs.
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
    Surround ``learn``: check that all processes start equal, and explain an end by the launcher.

    When a process dies, ``torchrun`` sends SIGTERM to the others, which would end them without a message.

    :param model: algorithm with ``n_processes`` from its construction
    :raises RuntimeError: if the model was built for another number of processes
    :raises ValueError: if VecNormalize has separate moments, or a setting differs in another process
    :raises ProcessesDifferError: if parameters differ between processes
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1 and model.n_processes == 1:
        yield
        return

    # Three things may have changed since construction: the group, the settings, and loaded parameters.
    ending_together(check_takes_part, model)
    check_same_settings(shared_settings(model))
    check_equal_tensors(model.policy, "before learn")

    with naming_termination():
        yield


@contextmanager
def naming_termination() -> Iterator[None]:
    """
    Raise ``ProcessLostError`` on SIGTERM. A handler of the user stays.

    :raises ProcessLostError: if SIGTERM arrives or another process has ended
    """
    # Python delivers signals only to the main thread.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    signal.signal(signal.SIGTERM, _raise_on_termination)
    try:
        yield
    except ProcessLostError:
        # The launcher's signal may arrive while the error is printed.
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
    Handle the first SIGTERM. A second one ends the process.

    :param number: number of the signal
    :param frame: interrupted frame
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
    Ignore one SIGTERM in a process that is about to end. A second one ends it at once.

    :param number: number of the signal
    :param frame: interrupted frame
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


# ------------------------------------------------------------------------------------------------------ every update


def collect_together(model: Any, collect: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
    """
    Collect a rollout in every process, and count the steps of all.

    :param model: algorithm; ``collect`` adds this process's steps to its ``num_timesteps``
    :param collect: SB3's function, which returns whether training continues
    :param args: positional arguments of ``collect``
    :param kwargs: keyword arguments of ``collect``
    :return: whether training continues: a callback that stops one process stops all
    :raises ProcessLostError: if another process has ended or fails
    """
    steps_before = model.num_timesteps

    def collected() -> tuple[bool, int]:
        goes_on = collect(*args, **kwargs)
        return goes_on, model.num_timesteps - steps_before

    # A stopped rollout counts the steps that it made.
    outcomes = ending_together(collected)
    model.num_timesteps = steps_before + sum(steps for _, steps in outcomes)
    return all(goes_on for goes_on, _ in outcomes)


@contextmanager
def stepping_together(device: torch.device) -> Iterator[None]:
    """
    Surround the reading of a rollout, or its minibatches: an error in one process ends all.

    ``of_all`` and ``average_over_processes`` call ``agree_to_go_on`` first. Code inside must not exchange objects.

    :param device: device on which the processes exchange tensors
    :raises ProcessLostError: if another process has ended or fails
    :raises ProcessesDifferError: if another process has further minibatches
    """
    try:
        yield
    except (ProcessLostError, ProcessesDifferError):
        raise
    except Exception as error:
        # This process's error explains more than another's.
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
    Ask all processes whether one failed, before they average. Otherwise the rest would wait forever.

    :param device: device on which the processes exchange tensors
    :param error: error that ends this process, None: it continues
    :param has_finished: whether this process has no further minibatch
    :raises ProcessLostError: if another process has ended or fails
    :raises ProcessesDifferError: if only some processes have further minibatches
    """
    if n_processes() == 1:
        return

    # Count failed processes and finished ones.
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
    Random numbers of torch that are equal in all processes, during an optimizer's step.

    UPGD adds noise to the parameters. Noise from each process's generator would make them differ. Other draws of a
    process continue as if the step had drawn nothing. With one process nothing changes.

    No state needs saving: the same step and seed give the same numbers, also after a resume.

    :param seed: the model's seed, None: the first process draws one
    :param num_timesteps: the model's steps so far, which distinguish updates
    :param device: device of the parameters
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

        # Use the first process's numbers, whatever seeds the others have.
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

        # Restore the process's generators afterwards.
        with torch.random.fork_rng(devices=self.devices):
            self._restore()
            try:
                yield
            finally:
                self.states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.devices)]

    def _restore(self) -> None:
        """Set torch's generators to the state that the last step left."""
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
    Average buffers that each process updates from its samples, such as batch norm's, and check all tensors.

    :param policy: this process's policy
    :param n_updates: number of updates so far, for the error
    :raises ProcessesDifferError: if parameters or buffers differ
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1:
        return
    average_buffers(policy)
    check_equal_tensors(policy, f"after update {n_updates}")


def average_buffers(policy: nn.Module) -> None:
    """
    Average floating point buffers in place where they differ. Equal buffers stay exactly the same.

    :param policy: this process's policy, whose buffers have the same shapes in all processes
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

    :param module: this process's module
    :param when: time of the check, for the error
    :raises ProcessesDifferError: if a tensor differs; every process raises it
    :raises ProcessLostError: if another process has ended
    """
    if n_processes() == 1:
        return
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}

    # Every process compares the same pairs, so all raise the same error.
    first, *later = all_objects(digests)
    for process, process_digests in enumerate(later, start=1):
        different = [name for name in first if process_digests.get(name) != first[name]]
        if different:
            raise ProcessesDifferError(
                f"processes 0 and {process} hold different parameters {when}, {different[0]} first: something changes "
                "them in each process on its own, such as a callback, an optimizer that draws from a generator of its "
                "own, or archives that differ"
            )


def _digest(tensor: Tensor) -> bytes:
    """
    :param tensor: a parameter or buffer
    :return: 16 bytes that identify all of its bits
    """
    # Ignore the order of elements in memory.
    values = tensor.detach().contiguous().reshape(-1).cpu()
    return hashlib.blake2b(values.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
