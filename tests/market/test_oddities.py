"""Prices that are unusual but usable."""

import pytest
from markets import load_markets, load_shipped

from market_regimes.market.oddities import oddities


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


@pytest.fixture
def write(tmp_path, make_prices):
    """A function that writes a table, by default made-up prices, and gives its path."""

    def write(table=None, name="prices.csv", **columns):
        table = (make_prices() if table is None else table).assign(**columns)
        path = tmp_path / name
        table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
        return str(path)

    return write


def test_jumps_and_gaps_are_told(write, make_prices, market):
    assert oddities(market) == []
    table = make_prices()
    table.loc[300:, ["open", "high", "low", "close"]] /= 4
    table = table.drop(index=range(100, 130))
    jump, gap = (oddity.text for oddity in oddities(load_markets([write(table)])[0]))
    assert "close of prices moves by -7" in jump
    assert str(table["date"][300].date()) in jump
    assert f"no bar for 45 days from {table['date'][99].date()}" in gap
