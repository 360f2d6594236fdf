"""A log that is written after the update it describes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from stable_baselines3.common import logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

SB3_WRITERS = logger.HumanOutputFormat, logger.JSONOutputFormat, logger.CSVOutputFormat, logger.TensorBoardOutputFormat

# Reductions of an update's minibatches to one scalar, where that is not the mean. Scalars of each twin critic, NAME_1
# and NAME_2, use the reduction of NAME.
REDUCTIONS: dict[str, Literal["min", "max", "last"]] = {
    "loss": "last",  # as in PPO
    "variance_scaling_weight_min": "min",
    "variance_scaling_weight_max": "max",
}


def reduced(
    name: str,
    values: np.ndarray,
) -> float:
    """
    :param name: name of a metric
    :param values: values of the minibatches, shape (n_minibatches,)
    :return: scalar to log
    """
    # Reduce by name, else by the mean.
    reduction = REDUCTIONS.get(name.removesuffix("_1").removesuffix("_2"), "mean")
    if reduction == "min":
        return float(values.min())
    if reduction == "max":
        return float(values.max())
    if reduction == "last":
        return float(values[-1])
    return float(values.mean(dtype=np.float64))


class DeferredLog(OnPolicyAlgorithm):
    """Defer the log until after the update. ``learn`` requests it between rollout and update."""

    _waiting_dump: int | None = None  # iteration whose log waits
    _has_unwritten_update = False

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the log, or defer it until after the update.

        ``learn`` requests it between rollout and update, with the iteration's number. Deferring keeps the
        update's scalars together with those of its rollout.
        """
        if iteration > 0:
            self._waiting_dump = iteration
        else:
            super().dump_logs()

    def _write_deferred(self, last: bool = False) -> None:
        """
        Write the log that ``dump_logs`` deferred.

        If all writers are SB3's, the update's scalars stay readable, as in PPO. Other writers would write them again at
        the next dump.

        :param last: also write an update without a request
        """
        # The dump clears them.
        scalars = {}
        for name, value in self.logger.name_to_value.items():
            if name.startswith("train/"):
                scalars[name] = value

        if self._waiting_dump is not None:
            super().dump_logs(self._waiting_dump)
        elif last and self._has_unwritten_update:
            self.logger.dump(self.num_timesteps)
        else:
            return
        self._waiting_dump = None
        self._has_unwritten_update = False

        # SB3's writers skip excluded scalars.
        if all(isinstance(writer, SB3_WRITERS) for writer in self.logger.output_formats):
            for name, value in scalars.items():
                self.logger.record(name, value, exclude=("stdout", "log", "json", "csv", "tensorboard"))
