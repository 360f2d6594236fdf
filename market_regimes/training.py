"""What happens while a run trains: scalars by regime, evaluation, the best model, stopping, checkpoints, log files."""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, KVWriter, TensorBoardOutputFormat, filter_excluded_keys
from torch import Tensor

from distributional_ppo import DistributionalPPO, quantile_variance
from market_regimes import checkpoint
from market_regimes.data import MIN_REGIME_DAYS, REGIMES

if TYPE_CHECKING:
    from market_regimes.env import MarketCore
    from market_regimes.study import Study

GRADIENT_SAMPLES = 256  # per regime: evenly spaced over the rollout
WEIGHT = "train/variance_scaling_weight"
# TensorBoard's page of custom scalars: what belongs together, with the market's volatility under it.
PAGE: dict[str, Any] = {
    "Variance gradient scaling": {
        "weight: mean, min and max of an update": ["Multiline", [f"{WEIGHT}$", f"{WEIGHT}_min", f"{WEIGHT}_max"]],
        "share of minibatches at a clamp": ["Multiline", ["train/variance_scaling_clamped"]],
        "variance of the quantiles": ["Multiline", ["train/quantile_variance_mean", "train/quantile_variance_std"]],
        "value loss before the weight": ["Multiline", ["train/value_loss$", "train/value_loss_std"]],
        "explained variance": ["Multiline", ["train/explained_variance"]],
    }
}
MARKET_PAGE: dict[str, Any] = {
    "Variance gradient scaling": {
        **PAGE["Variance gradient scaling"],
        "volatility index of the rollout": ["Multiline", ["rollout/volatility_index"]],
    },
    "Regimes": {
        "value error / std of the returns": ["Multiline", [f"train/value_error_{name}" for name in REGIMES]],
        "gradient norm of the value loss": ["Multiline", [f"train/value_grad_norm_{name}" for name in REGIMES]],
        "validation: Sharpe ratio": ["Multiline", [f"eval/sharpe_{name}" for name in REGIMES]],
    },
}


class ProgressCsv(KVWriter):
    """
    ``progress.csv``, a row per dump. Unlike SB3's writer it can go on after a given row, and a new column replaces the
    file as a whole, so that a kill leaves all rows but the last one intact.

    :param path: the file
    :param rows: number of rows to keep of what is there
    """

    def __init__(self, path: Path, rows: int):
        self.path = path
        self.names: list[str] = []
        self.rows: int = 0
        old = self._read()[:rows]
        self._replace([name for name in self.names if any(row.get(name) for row in old)], old)
        self.rows = len(old)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        try:
            with open(self.path, newline="") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                self.names = list(reader.fieldnames or [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} is torn beyond its last row: move it away to go on without it") from error
        return rows

    def _replace(self, names: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        checkpoint.write_file(self.path, text.getvalue())
        self.names = names

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write one row; what is no number is left out."""
        shown = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {name: str(value) for name, value in shown.items() if isinstance(value, int | float | np.number)}
        new = sorted(row.keys() - set(self.names))
        if new:
            self._replace([*self.names, *new], self._read())
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.names).writerow(row)
        self.rows += 1

    def close(self) -> None:
        """Nothing is open between two rows."""


def event_sizes(folder: Path) -> dict[str, int]:
    """Sizes of the TensorBoard files, for ``cut_events``."""
    return {path.name: path.stat().st_size for path in folder.glob("events.out.tfevents.*")}


def cut_events(folder: Path, sizes: dict[str, int]) -> None:
    """Take from the TensorBoard files what was written after ``sizes``: the resumed run writes it again."""
    for path in folder.glob("events.out.tfevents.*"):
        if path.name not in sizes:
            path.unlink()
        elif sizes[path.name] < path.stat().st_size:
            with open(path, "r+b") as file:
                file.truncate(sizes[path.name])


@contextmanager
def until_interrupted() -> Iterator[threading.Event]:
    """
    An event that Ctrl-C (or a request to terminate) sets, so that training ends where it can go on bit for bit. Asked a
    second time, it ends at once.
    """
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("\nstopping after this update; once more to stop at once", flush=True)

    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Memory:
    """
    What a resumed run must know besides the model.

    :param evaluation_due: step from which on the next evaluation falls
    :param checkpoint_due: the same of the next checkpoint
    :param evaluations_without_better: evaluations since the best one
    :param best_step: step of the best model
    :param best_score: its score
    :param csv_rows: rows of ``progress.csv``
    :param event_sizes: sizes of the TensorBoard files, by name
    """

    evaluation_due: int
    checkpoint_due: int = 0
    evaluations_without_better: int = 0
    best_step: int | None = None
    best_score: float | None = None
    csv_rows: int = 0
    event_sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, state: checkpoint.State, path: Path) -> Memory:
        """
        :param state: of a checkpoint
        :param path: where it comes from, for the error
        :raises CheckpointError: if it holds no memory
        """
        try:
            memory = cls(**state["training"])
            numbers = [memory.evaluation_due, memory.checkpoint_due, memory.evaluations_without_better, memory.csv_rows]
            numbers += [memory.best_step or 0, *memory.event_sizes.values()]
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError(f"expected counts, got {numbers}")
            memory.best_score = None if memory.best_score is None else float(memory.best_score)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise checkpoint.CheckpointError(f"the checkpoint {path} does not fit this run: {error}") from error
        return memory


class RolloutBars(BaseCallback):
    """
    Notes where in the market the samples of a rollout lie.

    :param core: the environment's, None: another environment, nothing is noted
    """

    def __init__(self, core: MarketCore | None):
        super().__init__()
        self.core = core
        self._noted: list[np.ndarray] = []

    @property
    def bars(self) -> np.ndarray:
        """Positions in the core's arrays, shape (T, E), at the end of a rollout; the last ones noted are the next's."""
        return np.stack(self._noted[:-1])

    @property
    def algorithm(self) -> DistributionalPPO:
        """The model, typed."""
        assert isinstance(self.model, DistributionalPPO)
        return self.model

    def _on_rollout_start(self) -> None:
        self._noted = []
        self._note()

    def _on_step(self) -> bool:
        self._note()
        return True

    def _note(self) -> None:
        if self.core is not None:
            self._noted.append(self.core.bar.copy())


class Training(RolloutBars):
    """
    At the start of a rollout, where a run can be resumed: evaluation on the validation period when it is due, the best
    model, patience, checkpoints. At its end: scalars by regime.

    :param study: the run
    :param folder: run folder
    :param interrupted: set when the user wants to stop
    :param memory: what to go on from
    :param resumed: tensors and state of the checkpoint the run goes on from, None: a new run
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        interrupted: threading.Event,
        memory: Memory,
        resumed: tuple[checkpoint.Tensors, checkpoint.State] | None,
    ):
        super().__init__(study.core)
        self.study, self.folder, self.interrupted = study, folder, interrupted
        self.memory, self.resumed = memory, resumed
        self.progress = ProgressCsv(folder / "progress.csv", memory.csv_rows)
        self.stopped: str | None = None
        cut_events(folder, memory.event_sizes)
        self._write_best()
        self.tensorboard = TensorBoardOutputFormat(str(folder))
        if not resumed:
            self.tensorboard.writer.add_custom_scalars(PAGE if study.core is None else MARKET_PAGE)
            self.tensorboard.writer.flush()

    def _on_rollout_start(self) -> None:
        if self.resumed:
            checkpoint.restore_generators(self.algorithm, *self.resumed)
            self.resumed = None
        better = False
        if self.num_timesteps >= self.memory.evaluation_due:
            self.memory.evaluation_due = self.num_timesteps + self.study.run.eval_every
            better = self._evaluate()
        patience = self.study.run.patience
        if patience is not None and self.memory.evaluations_without_better >= patience:
            self.stopped = f"stopped early: no better evaluation in {patience}"
        elif self.interrupted.is_set():
            self.stopped = "interrupted"
        if better or self.stopped or self.num_timesteps >= self.memory.checkpoint_due:
            self._save()
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        return super()._on_step() and self.stopped is None

    def _on_rollout_end(self) -> None:
        core = self.core
        if core is None:
            return
        bars = self.bars
        self.logger.record("rollout/volatility_index", float(core.index[bars].mean()))
        for name, value in figures_by_regime_of_rollout(self.algorithm, core.regime[bars]).items():
            self.logger.record(f"train/{name}", value)

    def _on_training_end(self) -> None:
        if self.stopped is None:
            self._save()  # before the evaluation: a longer run goes on from here as if it had not ended
            self._evaluate()
            self._write_best()
        self.tensorboard.close()

    def _evaluate(self) -> bool:
        """Write ``eval/`` scalars; return whether the model is the best so far."""
        scores, figure = self.study.score()
        for name, value in scores.items():
            if value is not None:
                self.logger.record(f"eval/{name}", value)
        if figure is not None:
            self.logger.record("eval/predicted_returns", Figure(figure, close=True), exclude="csv")
        self.logger.dump(self.num_timesteps)
        score, memory = scores[self.study.score_name], self.memory
        best = memory.best_score
        # A score that is no number is no best one: nothing would be greater than it.
        better = score is not None and math.isfinite(score) and (best is None or score > best)
        memory.evaluations_without_better = 0 if better else memory.evaluations_without_better + 1
        if better:
            memory.best_step, memory.best_score = self.num_timesteps, score
        return better

    def _save(self) -> None:
        self.memory.checkpoint_due = self.num_timesteps + self.study.run.checkpoint_every
        self.memory.csv_rows, self.memory.event_sizes = self.progress.rows, event_sizes(self.folder)
        tensors, state = checkpoint.capture(self.algorithm)
        checkpoint.write(self.folder, self.num_timesteps, tensors, {**state, "training": asdict(self.memory)})
        self._write_best()
        checkpoint.prune(self.folder, self.memory.best_step)

    def _write_best(self) -> None:
        if self.memory.best_step is not None:
            best = {"step": self.memory.best_step, f"eval/{self.study.score_name}": self.memory.best_score}
            checkpoint.write_file(self.folder / "best.json", json.dumps(best))
        else:
            (self.folder / "best.json").unlink(missing_ok=True)


def figures_by_regime_of_rollout(model: DistributionalPPO, regime: np.ndarray) -> dict[str, float]:
    """
    How well the critic fits each regime, and how hard it is pulled there, before the update. Regimes with under
    ``MIN_REGIME_DAYS`` samples, or whose returns are all equal, are left out.

    :param model: after a rollout of T steps by E environments
    :param regime: of every sample, shape (T, E)
    :return: ``value_error_REGIME``: root mean square of value minus return, in units of that regime's return std;
        ``value_grad_norm_REGIME``: norm of the gradient of the value loss (before ``vf_coef``, on GAE
        returns, not clipped) on up to ``GRADIENT_SAMPLES`` of its samples, times the weight of as many from all regimes
    """
    buffer = model.rollout_buffer
    figures: dict[str, float] = {}
    every = np.stack(np.unravel_index(np.arange(regime.size), regime.shape), axis=1)
    mixed = weights_of(model, quantiles_of_loss(model, _evenly_spaced(buffer.observations, every)))
    for position, name in enumerate(REGIMES):
        samples = np.argwhere(regime == position)
        returns = buffer.returns[regime == position].astype(np.float64)
        if len(samples) < MIN_REGIME_DAYS or not returns.std() > 0:
            continue
        error = buffer.values[regime == position] - returns
        figures[f"value_error_{name}"] = float(np.sqrt(np.mean(error**2)) / returns.std())
        if model.policy.value_net.ret_std > 0:
            figures[f"value_grad_norm_{name}"] = value_gradient_norm(
                model, _evenly_spaced(buffer.observations, samples), _evenly_spaced(buffer.returns, samples), mixed
            )
    return figures


def _evenly_spaced(array: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """``GRADIENT_SAMPLES`` of the samples (step, environment) of a rollout's array."""
    count = min(GRADIENT_SAMPLES, len(samples))
    rows = tuple(samples[np.linspace(0, len(samples) - 1, count).astype(int)].T)
    chosen: np.ndarray = array[rows]
    return chosen


def quantiles_of_loss(model: DistributionalPPO, observations: np.ndarray) -> Tensor:
    """
    :param observations: shape (B, ...)
    :return: predictions of all C critics in units of the loss, with their gradient, shape (B, C * N)
    """
    return model.policy.quantiles_of_loss(torch.as_tensor(observations, device=model.device))


def weights_of(model: DistributionalPPO, quantiles: Tensor) -> list[Tensor]:
    """
    :param quantiles: from ``quantiles_of_loss``
    :return: what each critic's loss on these samples is multiplied by: a scalar, or a weight per sample
    """
    if not model.use_variance_gradient_scaling:
        return [quantiles.new_ones(())] * model.policy.n_critics
    critics = quantiles.chunk(model.policy.n_critics, dim=1)
    return [model.variance_weight(quantile_variance(own), i) for i, own in enumerate(critics)]


def value_gradient_norm(
    model: DistributionalPPO, observations: np.ndarray, returns: np.ndarray, mixed: list[Tensor]
) -> float:
    """
    Norm of the gradient of the weighted value loss, before ``vf_coef``, over all parameters it depends on.

    :param observations: of B samples
    :param returns: theirs, raw, shape (B,)
    :param mixed: weights of a minibatch of all regimes, as training has them; those per sample are the samples' own
    """
    quantiles = quantiles_of_loss(model, observations)
    targets = model.policy.value_net.to_normalized(torch.as_tensor(returns, device=model.device))
    weights = [own if own.dim() else shared for own, shared in zip(weights_of(model, quantiles), mixed, strict=True)]
    losses = [model._quantile_huber_loss(own, targets, "none") for own in quantiles.chunk(len(mixed), dim=1)]
    total = torch.stack([(weight * loss).mean() for weight, loss in zip(weights, losses, strict=True)]).sum()
    parameters = [parameter for parameter in model.policy.parameters() if parameter.requires_grad]
    gradients = [g for g in torch.autograd.grad(total, parameters, allow_unused=True) if g is not None]
    return float(torch.stack([g.norm() for g in gradients]).norm())
