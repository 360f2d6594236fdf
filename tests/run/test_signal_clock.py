"""
What a signal says of bars that are open, in the future or missing, and by which clock. Days and changes of clocks are
read off a calendar: 2026-11-25 is a Wednesday, New York is 4 hours behind UTC until 2026-11-01 and 5 after it.
"""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from market_regimes import Agent, MarketConfig, RunConfig, Study
from market_regimes.run.clock import clock_of
from market_regimes.run.signal import warnings_of_time
from train_model_multi_patch import main

OPEN, FUTURE, MISSING = "is still open", "lies in the future", "has closed since"


def market_in(zone, dates, ago=None):
    """Bars whose instants are known; ``ago`` keeps those up to a time."""
    dates = dates if ago is None else dates[dates <= np.datetime64(ago)]
    series = pd.Series(dates)
    instants = dates
    if zone is not None:
        instants = series.dt.tz_localize(zone).dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("M8[s]")
    return SimpleNamespace(source="a.csv", zone=zone, dates=dates, instants=instants)


def times_of(*args, **kwargs):
    return pd.date_range(*args, **kwargs).to_numpy().astype("M8[s]")


DAYS = times_of("2026-06-01", "2026-11-26", freq="B")
HOURS = times_of("2026-11-02", "2026-11-25 23:00", freq="h")


@pytest.mark.parametrize(
    ("zone", "dates", "last", "utc", "expected"),
    [
        # Today's daily bar of New York at 10:30 there, which is 15:30 in UTC; at midnight there it is 05:00.
        ("America/New_York", DAYS, "2026-11-25", "2026-11-25 15:30", OPEN),
        ("America/New_York", DAYS, "2026-11-25", "2026-11-26 04:59", OPEN),
        ("America/New_York", DAYS, "2026-11-25", "2026-11-26 05:00", None),
        ("America/New_York", DAYS, "2026-11-26", "2026-11-25 15:30", FUTURE),  # dated tomorrow
        ("America/New_York", DAYS, "2026-11-24", "2026-11-26 04:59", None),
        ("America/New_York", DAYS, "2026-11-24", "2026-11-26 05:00", MISSING),
        # In Tokyo the day begins at 15:00 of UTC's day before.
        ("Asia/Tokyo", DAYS, "2026-11-25", "2026-11-24 15:01", OPEN),
        ("Asia/Tokyo", DAYS, "2026-11-25", "2026-11-25 15:00", None),
        ("Asia/Tokyo", DAYS, "2026-11-25", "2026-11-24 14:59", FUTURE),
        (None, DAYS, "2026-11-25", "2026-11-25 15:30", OPEN),
        (None, DAYS, "2026-11-25", "2026-11-26 00:00", None),
        # An hourly bar 20 minutes in.
        ("UTC", HOURS, "2026-11-25 15:00", "2026-11-25 15:20", OPEN),
        ("UTC", HOURS, "2026-11-25 15:00", "2026-11-25 16:00", None),
        ("UTC", HOURS, "2026-11-25 15:00", "2026-11-25 14:50", FUTURE),
        ("UTC", HOURS, "2026-11-25 08:00", "2026-11-25 16:00", MISSING),  # seven hours are missing
        ("America/New_York", HOURS, "2026-11-25 10:00", "2026-11-25 15:20", OPEN),
        ("America/New_York", HOURS, "2026-11-25 10:00", "2026-11-25 16:00", None),
        ("America/New_York", HOURS, "2026-11-25 03:00", "2026-11-25 16:00", MISSING),
    ],
)
def test_open_future_and_missing_bars_are_told_by_the_files_clock(zone, dates, last, utc, expected):
    market = market_in(zone, dates, last)
    sentences = warnings_of_time(market, clock_of(market, datetime.fromisoformat(utc).replace(tzinfo=UTC)))
    assert len(sentences) == (expected is not None)
    assert all(expected in sentence for sentence in sentences)


def test_a_clock_that_was_put_back_moves_no_bar():
    """The last bar is that of 01:00 summer time, 05:00 UTC; the clock shows 01:20 twice, at 05:20 and at 06:20 UTC."""
    dates = times_of("2026-10-01", "2026-11-01 01:00", freq="h")
    market = SimpleNamespace(
        source="a.csv", zone="America/New_York", dates=dates, instants=dates + np.timedelta64(4, "h")
    )
    for utc, expected in (("05:20", OPEN), ("06:20", None)):
        now = datetime.fromisoformat(f"2026-11-01 {utc}").replace(tzinfo=UTC)
        sentences = warnings_of_time(market, clock_of(market, now))
        assert [OPEN in sentence for sentence in sentences] == ([True] if expected else [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_prices):
    place = tmp_path_factory.mktemp("clock")
    make_prices(400, frequency="D").to_csv(place / "prices.csv", index=False)
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(place), name="run", progress_bar=False)
    return Study(run, MarketConfig(str(place / "prices.csv")), dict(n_steps=16, batch_size=32, n_epochs=1)).start()


def daily_until(make_prices, day, zone=None):
    """Daily bars, the last of which is of this day."""
    prices = make_prices(300)
    dates = pd.date_range(end=pd.Timestamp(day), periods=300, freq="D")
    return prices.assign(date=dates if zone is None else dates.tz_localize(zone).astype(str))


@pytest.mark.parametrize("computer", ["America/Los_Angeles", "Asia/Tokyo", "UTC"])
def test_the_command_line_warns_by_the_files_clock_wherever_it_runs(
    folder, tmp_path, make_prices, computer, capsys, monkeypatch
):
    """Today's bar by UTC is open, whatever the computer's day is; a file without a zone is told to be taken for UTC."""
    monkeypatch.setenv("TZ", computer)
    time.tzset()
    today = datetime.now(UTC).date()
    texts = []
    for zone in (None, "UTC"):
        for days, expected in ((0, OPEN), (1, FUTURE), (-1, None)):
            day = today + timedelta(days=days)
            daily_until(make_prices, day, zone).to_csv(tmp_path / "prices.csv", index=False)
            capsys.readouterr()
            main(["signal", str(folder), "--data", str(tmp_path / "prices.csv"), "--json"])
            (entry,) = json.loads(capsys.readouterr().out)
            about = [sentence for sentence in entry["warnings"] if OPEN in sentence or FUTURE in sentence]
            assert [expected in sentence for sentence in about] == ([] if expected is None else [True])
            assumed = [sentence for sentence in entry["warnings"] if "is taken for UTC" in sentence]
            assert len(assumed) == (zone is None)
            main(["signal", str(folder), "--data", str(tmp_path / "prices.csv")])
            shown = capsys.readouterr().out
            for sentence in [*about, *assumed]:
                until_the_minute = sentence.rsplit(" ", 1)[0]  # a minute may pass between both calls
                assert f"warning: prices: {until_the_minute}" in shown
            texts.append(entry["warnings"])
    monkeypatch.undo()
    time.tzset()
    assert os.environ.get("TZ") != computer or computer == "UTC"


def test_a_stated_zone_is_heeded_and_wrong_ones_are_refused(folder, tmp_path, make_prices, capsys):
    prices = daily_until(make_prices, "2026-11-25")
    agent = Agent.load(folder)
    now = datetime(2026, 11, 26, 2, 0, tzinfo=UTC)  # 21:00 of the 25th in New York
    by_zone = {zone: agent.signal(prices, now=now, zone=zone)[0].warnings for zone in (None, "America/New_York")}
    assert [len([s for s in said if OPEN in s]) for said in by_zone.values()] == [0, 1]
    assert [len([s for s in said if "taken for UTC" in s]) for said in by_zone.values()] == [1, 0]
    prices.to_csv(tmp_path / "a.csv", index=False)
    main(["signal", str(folder), "--data", str(tmp_path / "a.csv"), "--zone", "Asia/Tokyo"])
    assert "taken for UTC" not in capsys.readouterr().out
    for data, zone, sentence in (
        (prices, "Mars", "--zone=Mars is no zone like America/New_York"),
        (
            daily_until(make_prices, "2026-11-25", "UTC"),
            "Asia/Tokyo",
            f"--zone=Asia/Tokyo: {tmp_path / 'a.csv'} states",
        ),
    ):
        data.to_csv(tmp_path / "a.csv", index=False)
        with pytest.raises(SystemExit):
            main(["signal", str(folder), "--data", str(tmp_path / "a.csv"), "--zone", zone])
        assert sentence in capsys.readouterr().err


def test_frames_with_a_zone_have_their_clock(folder, make_prices):
    prices = daily_until(make_prices, "2026-11-25")
    prices["date"] = prices["date"].dt.tz_localize("America/New_York")
    agent = Agent.load(folder)
    for hour, expected in ((15, 1), (29, 0)):
        now = datetime(2026, 11, 25, tzinfo=UTC) + timedelta(hours=hour)
        warnings = agent.signal(prices, now=now)[0].warnings
        assert len([sentence for sentence in warnings if OPEN in sentence]) == expected
        assert not [sentence for sentence in warnings if "taken for UTC" in sentence]
