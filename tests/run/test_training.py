"""What happens while a run trains. Oracles: pandas, the rollout's own observations, sb3-contrib's loss."""

import json
import os
import signal
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from markets import load_shipped
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3.common.callbacks import BaseCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from distributional_ppo import DistributionalPPO
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.periods import period_of
from market_regimes.market.regimes import REGIMES
from market_regimes.market.segments import Segment
from market_regimes.run.callback import Terminated, Training, until_interrupted
from market_regimes.run.checkpoint import newest_first
from market_regimes.run.log import ProgressCsv, cut_events, event_sizes
from market_regimes.run.probes import figures_by_regime_of_rollout
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


class KeepRollout(BaseCallback):
    """The first full rollout's observations and bars, gathered without the code under test."""

    def __init__(self, core):
        super().__init__()
        self.core, self.bars = core, []

    def _on_rollout_start(self):
        self.bars.append(self.core.bar.copy())

    def _on_step(self):
        self.bars.append(self.core.bar.copy())
        return True


@pytest.fixture(scope="module")
def rollout():
    """A model after an update and another rollout on both indices, and the bars of the second rollout's samples."""
    segments = [
        Segment.scaled_by(m, period_of(m, "1999-01-01", "2008-12-31"), range(2500))
        for m in map(load_shipped, ("sp500", "nasdaq"))
    ]
    core = MarketCore(segments, 8)
    model = DistributionalPPO(
        "MlpPolicy", MarketVecEnv(core), n_steps=256, batch_size=256, seed=0, normalize_returns=True, use_popart=True
    )
    model.learn(2048)
    keep = KeepRollout(core)
    keep.init_callback(model)
    model.collect_rollouts(model.env, keep, model.rollout_buffer, 256)
    return model, core, np.stack(keep.bars[:-1])


def test_bars_noted_are_those_of_the_observations(rollout):
    model, core, bars = rollout
    assert model.rollout_buffer.observations[:, :, 21] == pytest.approx(core.index[bars] / 20, rel=1e-6)


def test_value_error_by_regime_in_numpy(rollout):
    model, core, bars = rollout
    regime = core.regime[bars]
    figures = figures_by_regime_of_rollout(model, regime)
    values, returns = (a.astype(np.float64) for a in (model.rollout_buffer.values, model.rollout_buffer.returns))
    for i, name in enumerate(REGIMES):
        mine = regime == i
        if mine.sum() < 20:
            assert f"value_error_{name}" not in figures
            continue
        expected = np.sqrt(np.mean((values[mine] - returns[mine]) ** 2)) / np.std(returns[mine])
        assert figures[f"value_error_{name}"] == pytest.approx(expected, rel=1e-5)
    assert {"value_error_calm", "value_error_normal", "value_error_volatile"} <= figures.keys()


def test_gradient_norm_by_regime_with_the_loss_of_sb3_contrib(rollout):
    model, core, bars = rollout
    regime = core.regime[bars]
    figures = figures_by_regime_of_rollout(model, regime)
    head, buffer = model.policy.value_net, model.rollout_buffer
    steps, envs = np.unravel_index(np.linspace(0, 2047, 256).astype(int), (256, 8))
    with torch.no_grad():
        raw = model.policy.predict_quantiles(buffer.observations[steps, envs])
    weight = float((raw / head.ret_std).var(dim=1, unbiased=False).mean().clamp(0.1, 10.0))
    for i in (0, 1):
        steps, envs = np.argwhere(regime == i).T
        chosen = np.linspace(0, len(steps) - 1, 256).astype(int)
        observations = torch.as_tensor(buffer.observations[steps[chosen], envs[chosen]])
        quantiles = head.to_raw(model.policy.quantiles_of_loss(observations))
        targets = torch.as_tensor(buffer.returns[steps[chosen], envs[chosen]])[:, None]
        model.policy.zero_grad()
        quantile_huber_loss(
            (quantiles - head.ret_mean) / head.ret_std,
            (targets - head.ret_mean) / head.ret_std,
            sum_over_quantiles=False,
        ).backward()
        norm = np.sqrt(sum(float((p.grad**2).sum()) for p in model.policy.parameters() if p.grad is not None))
        assert figures[f"value_grad_norm_{REGIMES[i]}"] == pytest.approx(weight * norm, rel=1e-4)
    model.policy.zero_grad()


def test_looking_changes_nothing(rollout):
    model, core, bars = rollout
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.policy.parameters()]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    figures_by_regime_of_rollout(model, core.regime[bars])
    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    for gradient, parameter in zip(gradients, model.policy.parameters(), strict=True):
        assert parameter.grad is gradient or torch.equal(parameter.grad, gradient)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])  # noqa: NPY002


def test_regimes_whose_returns_are_all_equal_are_left_out(rollout):
    model, _, bars = rollout
    returns = model.rollout_buffer.returns
    model.rollout_buffer.returns = np.ones_like(returns)
    try:
        assert figures_by_regime_of_rollout(model, np.zeros_like(bars)) == {}
    finally:
        model.rollout_buffer.returns = returns


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    study = small_study(tmp_path_factory.mktemp("runs"), n_envs=8, total_timesteps=1536, eval_every=512)
    return study, study.start("seed: 0\n")


def test_the_page_of_custom_scalars_shows_scalars_that_exist(trained):
    _, folder = trained
    events = EventAccumulator(str(folder)).Reload()
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
    assert len(charts) == len(lines) + len(bands) == 28
    tags = {tag.rstrip("$") for tags in (*lines, *bands) for tag in tags}
    rare = {f"{name}_{regime}" for name in ("train/value_error", "train/value_grad_norm") for regime in REGIMES[2:]}
    rare |= {f"eval/sharpe_{regime}" for regime in REGIMES}
    rare |= {"eval/sharpe_own_rule"}  # the user's own
    rare |= {"eval/sharpe_equal_weights"}  # there is one symbol
    rare |= {"eval/sharpe_informed_rule", "eval/share_of_attainable"}  # nobody knows the law of the S&P 500
    assert tags - set(known) <= rare
    assert "train/value_error_calm" in tags & set(known)
    assert "rollout/volatility_index" in known
    assert "eval/sharpe_normal" in known
    assert {f"eval/sharpe_{rule}" for rule in ("buy_and_hold", "volatility_target", "fitted_rule")} <= set(known)
    assert "train/value_error_normal" in known
    assert events.Tags()["images"] == ["eval/predicted_returns"]


def test_scalars_by_regime_are_logged_of_every_rollout_before_its_update(tmp_path, read_scalars, monkeypatch):
    """Of the values and returns that the rollout holds, on the regimes of the observations' own index."""
    study = small_study(tmp_path, total_timesteps=1536, n_envs=8, eval_every=10_000)
    train, expected = DistributionalPPO.train, []

    def note_and_train(model):
        buffer = model.rollout_buffer
        index = 20 * buffer.observations[:, :, 21].astype(np.float64)
        expected.append({"rollout/volatility_index": index.mean()})
        for i, name in enumerate(REGIMES):
            mine = np.digitize(index, [15, 25, 40]) == i
            values, returns = (a[mine].astype(np.float64) for a in (buffer.values, buffer.returns))
            if mine.sum() >= 20:
                expected[-1][f"train/value_error_{name}"] = np.sqrt(np.mean((values - returns) ** 2)) / np.std(returns)
        train(model)

    monkeypatch.setattr(DistributionalPPO, "train", note_and_train)
    study.score = lambda: ({study.score_name: None}, None)
    scalars = read_scalars(study.start(""))
    assert len(expected) == 3  # rollouts of 512 steps
    for tag in ("rollout/volatility_index", *(f"train/value_error_{name}" for name in REGIMES)):
        logged = {point.step: point.value for point in scalars.get(tag, [])}
        wanted = {512 * (i + 1): row[tag] for i, row in enumerate(expected) if tag in row}
        assert logged == pytest.approx(wanted, rel=1e-4), tag
    assert {"train/value_grad_norm_calm", "train/value_grad_norm_normal"} <= scalars.keys()


def scored(study, scores):
    """Let the study's evaluations find these scores, one after the other."""
    queue = iter(scores)
    study.score = lambda: ({study.score_name: next(queue)}, None)
    return study


def test_the_best_model_is_kept_and_loaded(tmp_path):
    study = scored(small_study(tmp_path), [0.1, 0.9, None, 0.3])
    kept = {}
    save = Training._save

    def spy(self):
        kept[self.num_timesteps] = {k: v.clone() for k, v in self.model.policy.state_dict().items()}
        save(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_save", spy)
        folder = study.start("")
    assert json.loads((folder / "best.json").read_text()) == {"step": 256, "eval/sharpe_ratio": 0.9}
    assert [int(p.name) for p in newest_first(folder)][-1] == 256
    for which, step in (("best", 256), ("last", 512)):
        study.load(folder, which)
        assert all(torch.equal(v, kept[step][k]) for k, v in study.model.policy.state_dict().items())
    exported = DistributionalPPO.load(folder / "model.zip", device="cpu").policy.state_dict()
    assert all(torch.equal(v, kept[256][k]) for k, v in exported.items())


def test_a_longer_run_finds_the_best_model_the_shorter_one_replaced(tmp_path):
    """The short run ends off the grid of evaluations, and its last model is its best; at once it never was one."""
    long = dict(total_timesteps=1024, eval_every=256)
    scores = {256: 0.9, 512: 0.1, 640: 1.5, 768: 0.2, 1024: 0.3}

    def by_step(study):
        study.score = lambda: ({study.score_name: scores[study.model.num_timesteps]}, None)
        return study

    at_once = by_step(small_study(tmp_path / "at once", **long)).start("")
    halves = by_step(small_study(tmp_path / "halves", **{**long, "total_timesteps": 640})).start("")
    assert json.loads((halves / "best.json").read_text())["step"] == 640
    by_step(small_study(tmp_path / "halves", **long)).resume(halves, "")
    assert (halves / "best.json").read_text() == (at_once / "best.json").read_text()
    models = [DistributionalPPO.load(folder / "model.zip").policy.state_dict() for folder in (at_once, halves)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_run_that_stops_early_says_so(tmp_path, capsys):
    scored(small_study(tmp_path, patience=2, total_timesteps=10_000), [0.5, 0.4, 0.3]).start("")
    assert "stopped early: no better evaluation in 2" in capsys.readouterr().out


def test_environments_without_a_market_have_their_own_page(tmp_path, read_scalars):
    folder = small_study(tmp_path, "CartPole-v1", normalize_observations=True).start("")
    scalars = read_scalars(folder)
    assert "eval/mean_reward" in scalars
    assert not [name for name in scalars if "calm" in name or "volatility" in name]
    events = EventAccumulator(str(folder)).Reload()
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert len(layout.category) == 1


def test_one_signal_asks_and_the_second_ends():
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with until_interrupted() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(1)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (signal.SIGTERM, signal.SIGTERM, Terminated),
        (signal.SIGINT, signal.SIGTERM, Terminated),
        (signal.SIGTERM, signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_the_second_signal_says_how_the_program_ends(first, second, kind):
    with until_interrupted():
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt) as end:  # noqa: PT012
            os.kill(os.getpid(), second)
            threading.Event().wait(1)
    assert type(end.value) is kind


def test_a_request_to_terminate_names_the_folder_too(tmp_path):
    study = small_study(tmp_path)
    score = study.score

    def score_and_ask():
        os.kill(os.getpid(), signal.SIGTERM)
        return score()

    study.score = score_and_ask
    with pytest.raises(Terminated) as stop:
        study.start("")
    assert stop.value.args == (tmp_path / "run",)


def test_asked_to_stop_the_run_is_saved_and_says_where(tmp_path):
    study = small_study(tmp_path)

    score = study.score

    def score_and_ask():
        os.kill(os.getpid(), signal.SIGINT)
        return score()

    study.score = score_and_ask
    with pytest.raises(KeyboardInterrupt) as stop:
        study.start("")
    assert stop.value.args == (tmp_path / "run",)
    assert int(newest_first(tmp_path / "run")[0].name) == 128


def test_asked_during_the_last_evaluation_the_run_does_not_go_on(tmp_path):
    study = small_study(tmp_path, eval_every=10_000)

    def score_and_ask():
        os.kill(os.getpid(), signal.SIGINT)
        return {study.score_name: 0.5}, None

    study.score = score_and_ask
    with pytest.raises(KeyboardInterrupt):
        study.start("")
    assert json.loads((tmp_path / "run" / "best.json").read_text())["step"] == 512
