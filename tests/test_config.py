"""What a configuration refuses by itself."""

import pytest

from market_regimes import MarketConfig


def test_the_volume_is_no_target_position():
    with pytest.raises(ValueError, match="benchmark_positions=volume: the volume of a bar is no target position"):
        MarketConfig(benchmark_positions="volume")
