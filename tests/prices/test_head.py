"""Headers of two rows."""

import pandas as pd
import pytest
from exports import made_up, same_bars

from market_regimes.prices import read_frame, read_prices

DAYS = pd.bdate_range("2019-01-02", "2020-12-31")


LETTERS = [
    "C",
    "F",
    "T",
    "V",
]  # Citigroup, Ford, AT&T and Visa; c, t and v also stand for close, time and volume


@pytest.mark.parametrize("tickers", [LETTERS, ["C"], ["V", "C"], ["O", "H", "L", "C"], ["SPY", "V"]])
@pytest.mark.parametrize("level", ["tickers above", "fields above"])
@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_a_ticker_of_one_letter_is_no_field(tmp_path, tickers, level, form):
    """Two levels of names, in either order: what is read is each ticker's own table."""
    tables = {ticker: made_up(DAYS, seed) for seed, ticker in enumerate(tickers)}
    both = pd.concat(tables, axis=1).rename_axis("Date")

    if level == "fields above":
        both = both.swaplevel(axis=1)

    if form == "csv":
        both.to_csv(tmp_path / "p.csv")
    elif form == "parquet":
        both.to_parquet(tmp_path / "p.parquet")

    found = read_frame(both, None) if form == "frame" else read_prices([str(tmp_path / f"p.{form}")])

    assert sorted(bars.symbol for bars in found) == sorted(tickers)

    for bars in found:
        same_bars(bars, tables[bars.symbol])
