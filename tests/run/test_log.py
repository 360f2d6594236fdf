"""What a run logs: ``progress.csv``, the pages of TensorBoard, and event files cut and read. Oracles: pandas, bytes."""

import numpy as np
import pandas as pd
import pytest
from tensorboard.plugins.custom_scalar import layout_pb2

from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.run.log import ProgressCsv, cut_events, event_sizes, read_events
from market_regimes.run.study import Study


def small_study(out, env_id="market", **run):
    defaults = dict(total_timesteps=512, n_envs=2, eval_every=128, name="run", progress_bar=False)
    algorithm = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=64, batch_size=32, n_epochs=1)
    return Study(RunConfig(env_id, out=str(out), **{**defaults, **run}), MarketConfig(), algorithm)


def test_progress_rows_are_read_back_with_late_columns(tmp_path):
    progress = ProgressCsv(tmp_path / "progress.csv", rows=0)
    written = [{"b": 1.5}, {"a": np.float32(0.1), "b": 2}, {"c": 3, "figure": object()}, {"a": 1e-9}]

    for row in written:
        progress.write(row, dict.fromkeys(row, ()))

    frame = pd.read_csv(tmp_path / "progress.csv")

    assert list(frame) == ["b", "a", "c"]
    assert frame["a"].tolist()[1::2] == [0.1, 1e-9]
    assert frame["c"].tolist()[2] == 3
    assert progress.rows == len(frame) == 4


def test_progress_goes_on_after_a_given_row(tmp_path):
    path = tmp_path / "progress.csv"
    path.write_text("a,late\n1,\n2,\n3,7\n4,tor")  # the last row as a kill leaves it
    progress = ProgressCsv(path, rows=2)

    assert path.read_text().split() == ["a", "1", "2"]

    progress.write({"b": 5, "a": 6}, {"a": (), "b": ()})

    assert path.read_text().split() == ["a,b", "1,", "2,", "6,5"]


def test_events_are_cut_to_what_the_checkpoint_knew(tmp_path):
    old, later = tmp_path / "events.out.tfevents.1", tmp_path / "events.out.tfevents.2"
    old.write_bytes(b"known")
    sizes = event_sizes(tmp_path)
    old.write_bytes(b"known and more")
    later.write_bytes(b"of a killed process")
    cut_events(tmp_path, sizes)

    assert old.read_bytes() == b"known"
    assert not later.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    study = small_study(tmp_path_factory.mktemp("runs"), n_envs=8, total_timesteps=1536, eval_every=512)
    return study, study.start("seed: 0\n")


def test_the_page_of_custom_scalars_shows_scalars_that_exist(trained):
    _, folder = trained
    events = read_events(folder)
    summary = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(summary)

    assert [category.title for category in layout.category] == ["Variance gradient scaling", "Trading rules", "Regimes"]

    charts = {chart.title: chart for category in layout.category for chart in category.chart}
    known = events.Tags()["scalars"]
    titles = [chart.title for chart in layout.category[0].chart]

    assert titles[0].startswith("weight")
    assert titles[-1] == "volatility index of the rollout"  # under the others

    lines = [chart.multiline.tag for chart in charts.values() if chart.multiline.tag]
    bands = [(band.value, band.lower, band.upper) for chart in charts.values() for band in chart.margin.series]

    assert all(len(tags) == 1 for tags in lines)  # TensorBoard gives all lines of a chart one colour
    assert bands == [tuple(f"train/variance_scaling_weight{end}" for end in ("", "_min", "_max"))]
    assert len(charts) == len(lines) + len(bands) == 36

    tags = {tag.rstrip("$") for tags in (*lines, *bands) for tag in tags}
    scalars = ("train/value_error", "train/value_grad_norm")
    rare = {f"{name}_{regime}" for name in scalars for regime in DEFAULT_REGIMES.names[2:]}
    rare |= {f"eval/sharpe_{regime}" for regime in DEFAULT_REGIMES.names}
    rare |= {"eval/sharpe_own_rule"}  # the user's own
    rare |= {"eval/sharpe_equal_weights"}  # there is one symbol
    rare |= {"eval/sharpe_informed_rule", "eval/share_of_attainable"}  # nobody knows the law of the S&P 500
    rare |= {f"eval/growth_{rule}" for rule in ("own_rule", "equal_weights", "informed_rule")}  # likewise
    rare |= {"eval/share_of_attainable_growth"}

    assert tags - set(known) <= rare
    assert "train/value_error_calm" in tags & set(known)
    assert "rollout/volatility_index" in known
    assert "eval/sharpe_normal" in known
    assert {f"eval/sharpe_{rule}" for rule in ("buy_and_hold", "volatility_target", "fitted_rule")} <= set(known)
    assert {f"eval/growth_{rule}" for rule in ("buy_and_hold", "volatility_target", "fitted_rule")} <= set(known)
    assert "eval/growth_per_year" in tags & set(known)
    assert "train/value_error_normal" in known
    assert events.Tags()["images"] == ["eval/predicted_returns"]


def test_environments_without_a_market_have_their_own_page(tmp_path, read_scalars):
    folder = small_study(tmp_path, "CartPole-v1", normalize_observations=True).start("")
    scalars = read_scalars(folder)

    assert "eval/mean_reward" in scalars
    assert not [name for name in scalars if "calm" in name or "volatility" in name]

    events = read_events(folder)
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])

    assert len(layout.category) == 1
