"""A comparison reads every file once, and its cells carry what was read."""

import pytest

from market_regimes.compare.comparison import cells_of
from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig, MarketConfig, RunConfig
from market_regimes.market import segments


def test_a_file_is_read_once_for_all_folds_and_seeds(tmp_path, make_prices, monkeypatch):
    make_prices(1500).to_csv(tmp_path / "A.csv", index=False)
    read, reads = segments.read_files, []
    monkeypatch.setattr(
        segments, "read_files", lambda entries, options: reads.extend(entries) or read(entries, options)
    )
    compare = CompareConfig(test_years=1, seeds="0-2", first_test="2002-01-01")
    folds = folds_of(compare, MarketConfig(data=str(tmp_path / "A.csv")))
    used = [fold for fold in folds if fold.missing is None]
    assert len(used) > 1
    cells = cells_of(compare, RunConfig(), {"baseline": {}}, {"baseline": {}}, folds)
    assert len(cells) == 3 * len(used)
    for cell in cells:
        train, test = (cell.segments[name][0] for name in ("train", "test"))
        assert train.market is test.market
        assert train.period.stop <= test.period.start
        assert str(train.market.dates[train.period[0]])[:10] >= cell.market.train[0]
    assert reads == [str(tmp_path / "A.csv")]
    with pytest.raises(ValueError, match="names no data"):
        MarketConfig(data=[])
