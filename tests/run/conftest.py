"""A market of two symbols that the tests of recurrent agents train on."""

import pytest
from builders import PERIODS_OF_600_BARS

from market_regimes.config import MarketConfig
from market_regimes.market.segments import segments_of


@pytest.fixture(scope="session")
def segments(tmp_path_factory, make_prices):
    data = tmp_path_factory.mktemp("data")
    for i, name in enumerate("AB"):
        make_prices(600, seed=i).to_csv(data / f"{name}.csv", index=False)

    return segments_of(MarketConfig(data=[str(data / "A.csv"), str(data / "B.csv")], **PERIODS_OF_600_BARS))
