"""Observations with the columns of a user. Oracles: numpy on the rows of the file, and a loop over closes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markets import load_shipped

from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig
from market_regimes.market.segments import segments_of
from market_regimes.prices import ReadOptions, read_frame
from market_regimes.run.trained import Trained, segments_as_trained, trained_on


def market_of(config):
    return segments_of(config)["train"][0].market


def test_a_run_keeps_its_features_and_reads_what_earlier_runs_kept(config_of, table):
    (known,) = trained_on(segments_of(config_of(table, features=["macro", "rsi"]))).values()
    content = json.loads(json.dumps(known.to_json()))

    assert Trained.from_json(content) == known
    assert list(content["scaling"]["features"]) == ["macro", "rsi"]

    observed = table["macro"][20:325]

    assert content["scaling"]["features"]["macro"]["seen"] == [
        observed.min(),
        observed.max(),
    ]

    (plain,) = trained_on(segments_of(config_of(table))).values()
    earlier = plain.to_json()
    del earlier["scaling"]["features"]

    assert Trained.from_json(earlier) == plain


def test_only_the_last_bar_is_needed_for_a_signal(config_of, table):
    config = config_of(table, features=["macro"], feature_lag=1)
    known = trained_on(segments_of(config))

    for bars, needed in (([598], True), ([*range(598), 599], False)):
        holed = table.assign(macro=table["macro"].where(~table.index.isin(bars)))
        read = read_frame(holed, "own", ReadOptions(own=config.own_columns))
        if needed:
            with pytest.raises(ValueError, match=r"row 599 after the header .*: macro of own is missing"):
                segments_as_trained(read, known, config, last_bar=True)
        else:
            (segment,) = segments_as_trained(read, known, config, last_bar=True)
            assert segment.market.features["macro"][-1] == table["macro"][598]


def test_the_fingerprint_covers_the_features_and_no_other_column(config_of, table):
    config = config_of(table, features=["macro"])
    before = market_of(config).fingerprint()

    assert market_of(config_of(table.assign(rsi=1.0, volume=5), features=["macro"])).fingerprint() == before

    moved = table.assign(macro=table["macro"].where(table["date"] != "2001-02-14", 0.0))
    after = market_of(config_of(moved, features=["macro"])).fingerprint()

    assert [month for month in before if before[month] != after[month]] == ["2001-02"]

    plain = market_of(config_of(table)).fingerprint()

    assert plain == market_of(config_of(moved)).fingerprint()
    assert plain.keys() == before.keys()
    assert plain != before

    compare = CompareConfig(first_test="2001-09-03")
    prints = [
        folds_of(
            compare,
            replace(config_of(one, features=features), train=None, validation=None, test=None),
        )[0]
        for one, features in (
            (table, ["macro"]),
            (moved, ["macro"]),
            (table, []),
            (moved, []),
        )
    ]

    assert len({fold.fingerprint for fold in prints}) == 3
    assert prints[2].fingerprint == prints[3].fingerprint


ROW = """
    Feature(
        "momentum_60",
        "log growth",
        "momentum",
        lambda market: np.log(market.close / np.concatenate([np.full(60, np.nan), market.close[:-60]])),
        history=60,
    ),
)
# Bars before"""
USED = """
import json
import numpy as np
from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.market.environment import MarketCore
from market_regimes.market.segments import segments_of
from market_regimes.run.export import layout_of
from market_regimes.run.trained import trained_on

segments = segments_of(MarketConfig("sp500", features=["volume"]))
(segment,) = segments["train"]
core = MarketCore([segment], 1, episode_bars=None)
observed = [float(core.observations()[0, 22])]
for _ in range(9):
    core.step(np.zeros(1))
    observed.append(float(core.observations()[0, 22]))
layout = layout_of(trained_on(segments), TradingCosts())
print(json.dumps([segment.first, observed, layout]))
"""


def test_a_feature_is_added_by_one_row_of_one_file(tmp_path):
    """A copy of the program with one more row; its oracle is a loop over closes of the S&P 500."""
    root = Path(__file__).parents[2]

    for name in ("market_regimes", "quantile_critic"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    shutil.copy(root / "distributional_ppo.py", tmp_path)
    file = tmp_path / "market_regimes" / "market" / "features.py"
    text = file.read_text("utf-8")
    file.write_text(text.replace("\n)\n# Bars before", ROW), "utf-8")

    result = subprocess.run(
        [sys.executable, "-c", USED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
    )

    assert result.returncode == 0, result.stderr.decode()

    first, observed, layout = json.loads(result.stdout)

    # Bar 60 is the first with a momentum; the bars of training from there on scale it.
    close = load_shipped("sp500").close
    days = (load_shipped("sp500").dates < np.datetime64("2009-01-01")).sum()
    momentum = [np.log(close[bar] / close[bar - 60]) for bar in range(60, days)]
    mean = sum(momentum) / len(momentum)
    std = np.sqrt(sum((value - mean) ** 2 for value in momentum) / len(momentum))

    assert first == 60
    assert observed == pytest.approx([(value - mean) / std for value in momentum[:10]], rel=1e-5)

    # The layout of the export names it behind the index and before the user's column.
    names = [number["name"] for number in layout["observation"]["numbers"]]

    assert names[20:] == [
        "ewma_volatility",
        "volatility_index",
        "momentum_60",
        "feature_volume",
        "position",
    ]
    assert layout["scaling"]["S&P 500"]["momentum_60"]["std"] == pytest.approx(std)
