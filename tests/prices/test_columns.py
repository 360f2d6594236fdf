"""Names of columns that no list spells out."""

import numpy as np
import pytest
from exports import BARS, equals

from market_regimes.prices import ReadOptions, read_prices

ADJUSTED = [
    "adjClose",
    "adj",
    "AdjClosePrice",
    "adjclose",
    "Adj. Close",
    "Adjusted",
    "Adj Close",
    "adjusted_close",
    "Close Adj",
    "adj_close_price",
]


@pytest.mark.parametrize(
    "name",
    [
        *ADJUSTED,
        "5. adjusted close",
        "Adj Close**",
        "ADJ_CLOSE",
        "AdjustedClose",
        "adjusted",
    ],
)
def test_no_name_of_an_adjusted_close_is_overlooked(daily, write, name):
    adjusted = (daily["Close"] * np.linspace(0.5, 1, BARS)).round(4)
    (bars,) = read_prices([write(daily.assign(**{name: adjusted}).to_csv())])

    assert np.array_equal(bars.close, adjusted)
    assert bars.open == pytest.approx((daily["Open"] * adjusted / daily["Close"]).to_numpy(), rel=1e-12)
    assert bars.notes.unused_columns == ("Volume",)
    assert bars.notes.assumptions == ("the adjusted close is traded, and open is scaled as it is",)

    (raw,) = read_prices(
        [write(daily.assign(**{name: adjusted}).to_csv())],
        ReadOptions(columns={"adjusted_close": ""}),
    )

    assert equals(raw, daily)
    assert raw.notes.unused_columns == ("Volume", name)


@pytest.mark.parametrize(
    "name",
    [
        "vix",
        "VIX",
        "vix_close",
        "VIXCLS",
        "VIX Close",
        "^VIX",
        "volatility_index",
        "vixClose",
    ],
)
def test_no_name_of_a_volatility_index_is_overlooked(daily, write, name):
    (bars,) = read_prices([write(daily.assign(**{name: 33.0}).to_csv())])

    assert (bars.volatility_index == 33).all()
    with pytest.raises(ValueError, match=r"lacks the column\(s\) close: it has Date, .*VIX"):
        read_prices([write(daily[["Open"]].assign(VIX=20.0).to_csv())])
