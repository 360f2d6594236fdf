"""What every test needs: one thread per worker, since two workers share the cores; and a reader of event files."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def read_scalars():
    """A function from a folder with one event file to {tag: scalar events}."""

    def read(folder):
        (events,) = folder.glob("**/events*")
        accumulator = EventAccumulator(str(events))
        accumulator.Reload()
        return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}

    return read
