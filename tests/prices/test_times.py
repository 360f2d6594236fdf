"""Times of rows from one column and from several."""

import pandas as pd
import pytest
from exports import csv_of, equals, made_up, make_bars, same_bars, texts

from market_regimes.prices import ReadOptions, read_prices


def test_hours_from_two_columns(make_prices, write, tmp_path):
    hours = pd.date_range("2020-01-01", periods=400, freq="h")
    table = make_bars(make_prices, 400).set_index(hours.rename("Date"))

    for date, time, zone in (
        ("%Y-%m-%d", "%H:%M", None),
        ("%d.%m.%Y", "%H:%M:%S", None),
        ("%Y%m%d", "%H%M%S", None),
        ("%m/%d/%Y", "%I:%M %p", None),
        ("%Y-%m-%d", "%H:%M+02:00", "+02:00"),
    ):
        (bars,) = read_prices([write(csv_of(texts(table, date).assign(Time=hours.strftime(time))))])
        assert equals(bars, table)
        assert bars.zone == zone

    frame = table.reset_index(drop=True).assign(date=hours.normalize(), time=hours.time)
    frame.to_parquet(tmp_path / "prices.parquet")

    assert equals(read_prices([str(tmp_path / "prices.parquet")])[0], table)
    with pytest.raises(ValueError, match=r"row 3 .*the time is not one of a day.*it is '25:00'"):
        read_prices([write(csv_of(texts(table).assign(time=["10:00"] * 2 + ["25:00"] + ["11:00"] * 397)))])

    (bars,) = read_prices(
        [write(csv_of(texts(table).assign(Date=hours.strftime("%y-%d-%m"), Time=hours.strftime("%Hh%M"))))],
        ReadOptions(columns={"time": "Time"}, date_format="%y-%d-%m %Hh%M"),
    )

    assert equals(bars, table)


def test_a_name_may_state_the_zone(daily, write):
    (bars,) = read_prices([write(csv_of(texts(daily).rename(columns={"Date": "Gmt time"})))])

    assert equals(bars, daily)
    assert bars.zone == "UTC"


def test_hours_whose_date_and_time_stand_apart(tmp_path):
    hours = pd.date_range("2020-01-01", "2020-03-31", freq="h")
    table = made_up(hours)
    written = table.copy()
    written.insert(0, "Date", hours.strftime("%Y-%m-%d"))
    written.insert(1, "Time", hours.strftime("%H:%M"))
    written.to_csv(tmp_path / "date_and_time.csv", index=False)
    (bars,) = read_prices([str(tmp_path / "date_and_time.csv")])
    same_bars(bars, table)
