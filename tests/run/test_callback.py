"""What happens while a run trains. Oracle: the rollout's own observations, signals of the operating system."""

import os
import signal
import threading

import pytest
from builders import rollout_of_indices

from market_regimes.run.callback import Terminated, until_interrupted


@pytest.fixture(scope="module")
def rollout():
    return rollout_of_indices()


def test_bars_noted_are_those_of_the_observations(rollout):
    model, core, bars = rollout
    assert model.rollout_buffer.observations[:, :, 21] == pytest.approx(core.index[bars] / 20, rel=1e-6)


def test_one_signal_asks_and_the_second_ends():
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with until_interrupted() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(1)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(1)

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (signal.SIGTERM, signal.SIGTERM, Terminated),
        (signal.SIGINT, signal.SIGTERM, Terminated),
        (signal.SIGTERM, signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_the_second_signal_says_how_the_program_ends(first, second, kind):
    with until_interrupted():
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt) as end:  # noqa: PT012
            os.kill(os.getpid(), second)
            threading.Event().wait(1)
    assert type(end.value) is kind
