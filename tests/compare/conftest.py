"""What only tests of comparisons need: a model that has learned a little."""

import pytest
from comparisons import cell_of_sp500

from market_regimes.config import RunConfig
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study


@pytest.fixture(scope="module")
def model():
    """A model without batch weights after 2,048 steps on the S&P 500."""
    cell = cell_of_sp500()
    algorithm = {**cell.algorithm, "use_variance_gradient_scaling": False}
    segments = segments_of(cell.market, ("train", "test"))

    study = Study(RunConfig(), cell.market, algorithm, segments)
    return study.model.learn(2048)
