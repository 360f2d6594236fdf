"""Daily bars and a place for files."""

import pytest
from exports import BARS, make_bars


@pytest.fixture(scope="session")
def daily(make_prices):
    """Daily bars, Monday to Friday, with four decimals."""
    return make_bars(make_prices, BARS)


@pytest.fixture
def write(tmp_path):
    """A function that writes text or bytes and gives the path."""

    def write(content, name="prices.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write
