"""``benchmarks/speed.py``: its figures, not their size."""

import csv
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.axes import Axes

from benchmarks import speed


def test_interval_of_three_ratios_by_hand():
    mean, low, high = speed.interval([1.0, math.e, math.e**2])  # logs 0, 1, 2: mean 1, std 1; t(0.975, 2) = 4.302653
    assert mean == pytest.approx(math.e)
    assert (low, high) == (
        pytest.approx(math.exp(1 - 4.302653 / 3**0.5)),
        pytest.approx(math.exp(1 + 4.302653 / 3**0.5)),
    )
    assert speed.interval([1.25]) == pytest.approx((1.25, 1.25, 1.25))


def test_ratios_are_taken_round_by_round():
    """In the first and the third of three rounds the machine is slow. Medians: 4 and 1, 500 and 4,000 steps."""
    answers = {
        "SB3 PPO": [(4.0, 500.0, 400.0), (2.0, 1000.0, 400.0), (4.0, 500.0, 400.0)],
        speed.JAX: [(math.nan, 4000.0, 300.0), (math.nan, 1000.0, 300.0), (math.nan, 1000.0, 300.0)],  # has no updates
        "compiled": [(1.0, 2000.0, 600.0), (0.25, 8000.0, 600.0), (1.0, 4000.0, 600.0)],
    }
    assert speed.table(speed.rows_of("a case", answers)).splitlines()[2:] == [
        "| a case | SB3 PPO | 4.000 | 500 | 1.00 | 1.00, 0.50 | 400 |",  # over JAX 0.125, 1, 0.5
        "| a case | JAX, one program | n/a | 1,000 | n/a | 2.00, 1.00 | 300 |",  # over SB3 8, 1, 2
        "| a case | compiled | 1.000 | 4,000 | 4.00 | 8.00, 4.00 | 600 |",  # 4, 8, 4; 4, 8, 8; over JAX 0.5, 8, 4
    ]


def test_an_update_is_per_minibatch_of_the_model(monkeypatch):
    """20 samples in minibatches of 8 are 3 of them, 2 epochs 6: the update moves the clock by 12 seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock.now)

    def take(seconds):
        clock.now += seconds

    model = SimpleNamespace(n_steps=10, n_envs=2, batch_size=8, n_epochs=2, train=lambda: take(12.0))
    model.learn = lambda total_timesteps, reset_num_timesteps=True: take(0.5)
    monkeypatch.setattr(speed, "make_model", lambda contender, case: model)
    monkeypatch.delattr(speed.os, "sched_setaffinity", raising=False)  # it would outlast the test
    asked, sent = iter(["go", None]), []
    speed.work(SimpleNamespace(recv=lambda: next(asked), send=sent.append), "eager", {}, threads=1)
    assert sent[0] == "ready"
    assert sent[1][:2] == (2000.0, 80.0)  # ms per minibatch; 40 steps in half a second


def test_the_picture_leaves_images_out(tmp_path, monkeypatch):
    rows = [row for case in ("images, 8 envs", "CartPole") for row in speed.rows_of(case, {"eager": [(1.0, 2.0, 3.0)]})]
    speed.write(tmp_path / "x.csv", 1, rows)
    drawn = []
    monkeypatch.setattr(speed, "picture", lambda rows, cases, peers, path: drawn.append(cases))
    speed.main(["--picture", str(tmp_path / "x.png"), "--output", str(tmp_path / "x.csv")])
    assert drawn == [["CartPole"]]


def test_one_program_takes_part_where_its_environment_is():
    if importlib.util.find_spec("optax"):
        assert speed.JAX in speed.contenders_of("x", dict(env="CartPole-v1"), list(speed.CONTENDERS))
    for env in ("market", "Pendulum-v1"):
        assert speed.JAX not in speed.contenders_of("x", dict(env=env), list(speed.CONTENDERS))
    assert speed.contenders_of("Pendulum, LSTM 64", dict(env="Pendulum-v1"), []) == ["RecurrentPPO", "recurrent"]
    assert speed.contenders_of("x", dict(env="images"), list(speed.CONTENDERS)) == ["SB3 PPO", "eager", "compiled"]


def test_the_growth_is_drawn_from_its_file(tmp_path, monkeypatch, capsys):
    """Nothing is measured here: each case answers with its own number, time 1 / number and memory number."""

    def measure(case, contenders, rounds, threads):
        number = next(float(name.split()[0]) for name, own in speed.GROWTH.items() if own is case)
        return {contender: [(1.0, 1e6 / number, number)] * rounds for contender in contenders}

    drawn = []
    monkeypatch.setattr(speed, "measure", measure)
    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda axes, x, y, *a, **k: drawn.append((list(x), list(y))) or plot(axes, x, y, *a, **k)
    )
    file, png = tmp_path / "growth.csv", tmp_path / "growth.png"
    speed.main(["--growth", str(png), "--rounds", "2", "--output", str(file)])
    assert png.exists()
    numbers = [(8, 32, 128, 512), (1, 8, 64, 512, 4096), (1, 20, 100, 500)]
    assert [x for x, _ in drawn] == [list(n) for n in numbers for _ in range(2) for _ in speed.GROWTH_CONTENDERS]
    assert all(y == pytest.approx(x, rel=1e-5) for x, y in drawn)  # 1e6 / (1e6 / number) microseconds
    assert len(file.read_text().splitlines()) == 2 + 13 * len(speed.GROWTH_CONTENDERS) * 5
    assert "| 4096 envs | compiled |" in capsys.readouterr().out


def test_rows_are_the_quartiles_of_their_contender_and_metric():
    answers = {"eager": [(4.0, 100.0, 7.0), (1.0, 300.0, 7.0), (2.0, 200.0, 8.0)], "compiled": [(5.0, 50.0, 9.0)]}
    rows = {(row["contender"], row["metric"]): row for row in speed.rows_of("a case", answers)}
    figures = {key: [float(row[name]) for name in ("median", "q25", "q75", "rounds")] for key, row in rows.items()}
    assert figures == {
        ("eager", "update_ms"): [2.0, 1.0, 4.0, 3],
        ("eager", "steps_per_s"): [200.0, 100.0, 300.0, 3],
        ("eager", "memory_mib"): [7.0, 7.0, 8.0, 3],
        ("compiled", "update_ms"): [5.0, 5.0, 5.0, 1],
        ("compiled", "steps_per_s"): [50.0, 50.0, 50.0, 1],
        ("compiled", "memory_mib"): [9.0, 9.0, 9.0, 1],
    }
    assert {row["case"] for row in rows.values()} == {"a case"}


def test_the_cost_of_scaling_is_update_time_with_it_over_that_without(monkeypatch):
    times = iter([2.0, 1.0, 4.5, 1.5, 3.0, 4.0])

    def measure(case, contenders, rounds, threads):
        assert (contenders[1], rounds, threads) == (f"{contenders[0]}, scaling off", 3, 1)
        return {
            name: [(time + shift, 1.0, 1.0) for shift in (9.0, 0.0, -0.5)]
            for name, time in zip(contenders, times, strict=False)
        }

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "CASES", {"CartPole, 8 envs, batch 64": {}})
    eager, compiled = speed.scaling_cost(1, 3, 1)
    assert [(row["contender"], float(row["median"]), row["rounds"]) for row in (eager, compiled)] == [
        ("eager", 2.0, 1),
        ("compiled", 3.0, 1),
    ]
    assert (
        speed.table([eager, compiled]).splitlines()[-1]
        == "cost of scaling, compiled: +200.0% (+200.0% to +200.0%, 1 pairs)"
    )


def test_an_unknown_case_is_refused_with_the_nearest():
    with pytest.raises(SystemExit, match="did you mean '512 quantiles'"):
        speed.select(["512 quantile"])


@pytest.mark.parametrize("case", speed.CASES.values(), ids=speed.CASES)
def test_every_case_can_be_built_and_trained(case):
    small = {**case, "n_envs": 2, "n_steps": 8, "batch_size": 8}
    for contender in ("SB3 PPO", "eager, scaling off"):
        assert speed.make_model(contender, small).learn(16).num_timesteps == 16
    assert not speed.make_model("compiled, scaling off", small).use_variance_gradient_scaling


def test_symbols_of_the_growth_are_all_traded():
    env = speed.market_env(4, n_symbols=3)
    assert len(env.unwrapped.core.markets) == 3
    assert {len(market.close) for market in env.unwrapped.core.markets} == {8000}


@pytest.mark.parametrize("case", speed.RECURRENT.values(), ids=speed.RECURRENT)
def test_every_recurrent_case_can_be_built_and_trained(case):
    small = {**case, "n_envs": 2, "n_steps": 8, "batch_size": 8}
    models = {name: speed.make_model(name, small).learn(16) for name in speed.RECURRENT_CONTENDERS}
    assert [type(model).__name__ for model in models.values()] == ["RecurrentPPO", "RecurrentDistributionalPPO"]
    assert {model.policy.lstm_actor.hidden_size for model in models.values()} == {case["lstm_hidden_size"]}
    answers = {name: [(2.0 / (i + 1), 100.0, 1.0)] for i, name in enumerate(models)}
    assert "| 1.000 | 100 | 2.00 | 1.00 |" in speed.table(speed.rows_of("a case", answers))


@pytest.mark.parametrize("name", ["speed.csv", "speed_recurrent.csv"])
def test_the_committed_table_is_that_of_the_readme(name):
    with speed.CSV.with_name(name).open() as file:
        machine = file.readline().lstrip("# ").strip()
        rows = list(csv.DictReader(file))
    readme = Path(speed.__file__).with_name("README.md").read_text()
    assert machine in readme
    for line in speed.table(rows).splitlines():
        assert line in readme
