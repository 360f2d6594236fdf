"""What happens while a run trains: scalars by regime, evaluation, the best model, stopping, checkpoints."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat

from distributional_ppo import DistributionalPPO
from market_regimes.config import RunConfig
from market_regimes.files import write_file
from market_regimes.market.environment import Core
from market_regimes.run import checkpoint
from market_regimes.run.log import PAGE, ProgressCsv, cut_events, event_sizes, market_page
from market_regimes.run.probes import figures_by_regime_of_rollout
from market_regimes.run.resume import capture, restore_generators, with_others
from market_regimes.run.termination import Terminated
from quantile_critic.processes import broadcast, gather

Evaluation = tuple[dict[str, float | None], Any]  # scalars by name, and a picture or None


class StopRequest(threading.Event):
    """
    Set when the user wants to stop.

    :ivar kind: of the exception that ends the program, by the signal that asked
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind: type[KeyboardInterrupt] = KeyboardInterrupt


@contextmanager
def until_interrupted() -> Iterator[StopRequest]:
    """
    An event that Ctrl-C (or a request to terminate) sets, so that training ends where it can go on bit for bit. Asked a
    second time, it ends at once.
    """
    asked = StopRequest()

    def ask(number: int, frame: Any) -> None:
        asked.kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt

        # The second time it ends at once.
        if asked.is_set():
            raise asked.kind
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
            memory._check_counts()
            if memory.best_score is not None:
                memory.best_score = float(memory.best_score)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise checkpoint.CheckpointError(f"the checkpoint {path} does not fit this run: {error}") from error
        return memory

    def _check_counts(self) -> None:
        counts = [self.evaluation_due, self.checkpoint_due, self.evaluations_without_better, self.csv_rows]
        counts += [self.best_step or 0, *self.event_sizes.values()]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"expected counts, got {counts}")


class _Callback(BaseCallback):
    """What the callbacks of a run share."""

    @property
    def algorithm(self) -> DistributionalPPO:
        """The model, typed."""
        assert isinstance(self.model, DistributionalPPO)
        return self.model

    @property
    def step(self) -> int:
        """Environment steps of all processes; SB3's callbacks count only this one's since the last rollout."""
        return self.algorithm.num_timesteps


class RolloutBars(_Callback):
    """
    Notes where in the market the samples of a rollout lie.

    :param core: the environment's, None: another environment, nothing is noted
    """

    def __init__(self, core: Core | None):
        super().__init__()
        self.core = core
        self._noted: list[np.ndarray] = []

    @property
    def bars(self) -> np.ndarray:
        """Positions in the core's arrays, shape (T, E), at the end of a rollout; the last ones noted are the next's."""
        return np.stack(self._noted[:-1])

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

    :param run: the run around the algorithm
    :param folder: run folder
    :param core: the environment's, None: another environment, which has no regimes
    :param score: gives what an evaluation logs, and a picture or None
    :param score_name: the scalar by which the best model is chosen
    :param interrupted: set when the user wants to stop
    :param memory: what to go on from
    :param resumed: tensors and state of the checkpoint the run goes on from, None: a new run
    """

    def __init__(
        self,
        run: RunConfig,
        folder: Path,
        core: Core | None,
        score: Callable[[], Evaluation],
        score_name: str,
        interrupted: threading.Event,
        memory: Memory,
        resumed: tuple[checkpoint.Tensors, checkpoint.State] | None,
    ):
        super().__init__(core)
        self.run = run
        self.folder = folder
        self.score = score
        self.score_name = score_name
        self.interrupted = interrupted
        self.memory = memory
        self.resumed = resumed
        self.stopped: str | None = None

        # Files lose what was written after the checkpoint: the resumed run writes it again.
        self.progress = ProgressCsv(folder / "progress.csv", memory.csv_rows)
        cut_events(folder, memory.event_sizes)
        self._write_best()
        self.tensorboard = TensorBoardOutputFormat(str(folder))
        if not resumed:
            self.tensorboard.writer.add_custom_scalars(
                PAGE if core is None else market_page(core.markets[0].regimes.names)
            )
            self.tensorboard.writer.flush()

    def _on_rollout_start(self) -> None:
        if self.resumed:
            restore_generators(self.algorithm, *self.resumed)
            self.resumed = None

        # Evaluate where it is due.
        is_better = False
        if self.step >= self.memory.evaluation_due:
            self.memory.evaluation_due = self.step + self.run.eval_every
            is_better = self._evaluate()

        # Stop for want of a better model, or where the user asked.
        patience = self.run.patience
        if patience is not None and self.memory.evaluations_without_better >= patience:
            self.stopped = f"stopped early: no better evaluation in {patience}"
        elif self.interrupted.is_set():
            self.stopped = "interrupted"

        # Save where it is due, with the parts of all processes.
        saves = bool(is_better or self.stopped or self.step >= self.memory.checkpoint_due)
        broadcast((self.stopped, saves))  # to ``Following``
        if saves:
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
        by_regime = figures_by_regime_of_rollout(self.algorithm, core.regime[bars], core.markets[0].regimes.names)
        for name, value in by_regime.items():
            self.logger.record(f"train/{name}", value)

    def _on_training_end(self) -> None:
        if self.stopped is None:
            self._save()  # before the evaluation: a longer run goes on from here as if it had not ended
            self._evaluate()
            self._write_best()
        self.tensorboard.close()

    def _evaluate(self) -> bool:
        """Write ``eval/`` scalars; return whether the model is the best so far."""
        scores, figure = self.score()
        for name, value in scores.items():
            if value is not None:
                self.logger.record(f"eval/{name}", value)

        if figure is not None:
            self.logger.record("eval/predicted_returns", Figure(figure, close=True), exclude="csv")
        self.logger.dump(self.step)

        # A score that is no number is no best one: nothing would be greater than it.
        score = scores[self.score_name]
        best = self.memory.best_score
        is_better = score is not None and math.isfinite(score) and (best is None or score > best)
        if is_better:
            self.memory.evaluations_without_better = 0
            self.memory.best_step = self.step
            self.memory.best_score = score
        else:
            self.memory.evaluations_without_better += 1
        return is_better

    def _save(self) -> None:
        """Write a checkpoint of all processes."""
        self.memory.checkpoint_due = self.step + self.run.checkpoint_every
        self.memory.csv_rows = self.progress.rows
        self.memory.event_sizes = event_sizes(self.folder)

        others = gather(None)[1:]
        tensors, state = with_others(*capture(self.algorithm), others)
        checkpoint.write(self.folder, self.step, tensors, {**state, "training": asdict(self.memory)})
        self._write_best()
        checkpoint.prune(self.folder, self.memory.best_step)

    def _write_best(self) -> None:
        path = self.folder / "best.json"
        if self.memory.best_step is None:
            path.unlink(missing_ok=True)
            return
        best = {"step": self.memory.best_step, f"eval/{self.score_name}": self.memory.best_score}
        write_file(path, json.dumps(best))


class Following(_Callback):
    """
    The counterpart of ``Training`` in all processes but the first one: they stop where it stops, and give it their
    parts of its checkpoints.

    :param resumed: tensors and state of the checkpoint the run goes on from, None: a new run
    """

    def __init__(self, resumed: tuple[checkpoint.Tensors, checkpoint.State] | None):
        super().__init__()
        self.resumed = resumed
        self.stopped: str | None = None

    def _on_rollout_start(self) -> None:
        if self.resumed:
            restore_generators(self.algorithm, *self.resumed)
            self.resumed = None

        # The first process decides whether to stop, and to save.
        self.stopped, saves = broadcast(None)
        if saves:
            self._give()

    def _on_step(self) -> bool:
        return self.stopped is None

    def _on_training_end(self) -> None:
        if self.stopped is None:
            self._give()

    def _give(self) -> None:
        """This process's part of a checkpoint, without the parameters, which all share."""
        tensors, state = capture(self.algorithm)
        del tensors["parameters"]
        gather((tensors, state))
