"""``benchmarks/processes.py``: its figure, not its size."""

import os
from types import SimpleNamespace

import pytest

from benchmarks import processes


@pytest.fixture
def affinity():
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def test_a_process_answers_until_it_is_told_to_end(monkeypatch, affinity):
    asked, sent = iter([True, True, False]), []
    connection = SimpleNamespace(recv=lambda: next(asked), send=sent.append)
    monkeypatch.setattr(processes, "N_STEPS", 8)
    processes.work(connection, rank=0, n_processes=1, port=0, net_arch=[8])
    assert sent == ["ready", "done", "done"]
    assert len(os.sched_getaffinity(0)) == 1


@pytest.mark.parametrize("n_processes", [1, 2])
def test_environments_and_minibatches_are_as_large_in_all(n_processes, monkeypatch, affinity):
    made = []

    class Model:
        def __init__(self, policy, env, n_steps, batch_size, **flags):
            made.append((env.num_envs, n_steps, batch_size))

        def learn(self, total_timesteps): ...

    met = []
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda *args, **kwargs: met.append(kwargs["world_size"])
    )
    monkeypatch.setattr("distributional_ppo.DistributionalPPO", Model)
    connection = SimpleNamespace(recv=lambda: False, send=lambda answer: None)
    processes.work(connection, rank=0, n_processes=n_processes, port=0, net_arch=[8])
    assert made == [(8 // n_processes, 512, 4096 // n_processes)]
    assert met == ([2] if n_processes == 2 else [])


def test_the_ratio_is_the_time_of_one_process_over_that_of_two_round_by_round(monkeypatch):
    ended = []

    class Asked:
        def send(self, goes_on):
            ended.append(goes_on)

    monkeypatch.setattr(processes, "started", lambda n, net_arch: [Asked() for _ in range(n)])
    times = iter([(1, 6.0), (2, 3.0), (1, 8.0), (2, 5.0)])

    def seconds(training):
        n, time = next(times)
        assert len(training) == n
        return time

    monkeypatch.setattr(processes, "seconds", seconds)
    assert processes.ratios(2, [8]) == [2.0, 1.6]
    assert ended == [False] * 3
