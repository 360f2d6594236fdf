"""SIGTERM ends a run as Ctrl-C does."""

import pytest

from market_regimes.run.termination import Terminated


def test_who_catches_ctrl_c_catches_a_termination_too():
    with pytest.raises(KeyboardInterrupt):
        raise Terminated("runs/x")


def test_nobody_who_catches_errors_catches_a_termination():
    assert not issubclass(Terminated, Exception)
