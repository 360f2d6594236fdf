"""Tables and files that the tests of several modules of ``market_regimes.market`` read."""

import numpy as np
import pytest
from builders import PERIODS

from market_regimes.config import MarketConfig


@pytest.fixture
def config_of(tmp_path):
    """A function that writes a table and gives the configuration that reads it."""

    def config_of(table, **keys):
        table.to_csv(tmp_path / "own.csv", index=False)
        return MarketConfig(str(tmp_path / "own.csv"), **PERIODS, **keys)

    return config_of


@pytest.fixture
def table(make_prices):
    """600 bars with an indicator that begins at bar 14, a monthly number and a traded volume."""
    rng = np.random.default_rng(3)
    prices = make_prices(600)
    rsi = np.where(np.arange(600) < 14, np.nan, rng.uniform(20, 80, 600))

    return prices.assign(rsi=rsi, macro=rng.normal(3, 1, 600), note="x", volume=rng.integers(1000, 9000, 600))


@pytest.fixture
def write(tmp_path, make_prices):
    """A function that writes a table, by default made-up prices, and gives its path."""

    def write(table=None, name="prices.csv", **columns):
        table = (make_prices() if table is None else table).assign(**columns)
        path = tmp_path / name
        table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)

        return str(path)

    return write


@pytest.fixture
def write_days(tmp_path, make_prices):
    """A function that writes made-up business days and gives the file's path."""

    def write_days(name, bars=600, start="2000-01-03", **columns):
        path = tmp_path / f"{name}.csv"
        make_prices(bars, start=start).assign(**columns).to_csv(path, index=False)
        return str(path)

    return write_days
