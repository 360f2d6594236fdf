"""What all tests of the reader share: half a year of daily bars, and a folder to write them to."""

from functools import partial

import pytest
from exports import BARS, make_bars, write_to


@pytest.fixture(scope="session")
def daily(make_prices):
    """Half a year of daily bars, as programs name their columns."""
    return make_bars(make_prices, BARS)


@pytest.fixture
def write(tmp_path):
    """A function that writes text or bytes to a file and gives its path."""
    return partial(write_to, tmp_path)
