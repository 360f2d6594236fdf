"""``benchmarks/processes.py``: its figure, not its size."""

from benchmarks import processes


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
