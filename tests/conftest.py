"""
What every test needs.

One thread for each worker and each process that a test starts, since two workers share the cores. No drawing where
nobody looks, no waiting for the disk. Fixtures that tests of several folders ask for; builders stand in builders.py.
"""

import os
import shutil

# One thread in this process and in those that tests start. The libraries below read it when they are imported.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import pytest
import torch
from builders import RUN_OF_PRICES, cells_here, drawing
from matplotlib.figure import Figure
from selenium import webdriver

from market_regimes.run.log import read_events, scalars_of
from train_model_multi_patch import main

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_drawn():
    """Pictures stay blank and tear sheets are left out: they take half the time of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", lambda figure, renderer: None)
        patch.setattr("market_regimes.evaluate.evaluation.tear_sheet", lambda *args: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk():
    """Files are written and renamed as ever; only a loss of power would show that they are not synchronised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # a closed file is refused, too
        yield


@pytest.fixture(scope="module")
def pictures():
    """For modules that look at them."""
    with drawing():
        yield


@pytest.fixture
def here():
    """Cells of this test run in this process."""
    with cells_here():
        yield


@pytest.fixture(scope="session")
def read_scalars():
    """A function from a run folder to {tag: scalar events} in the order of their writing, over all its event files."""

    def read(folder):
        (folder,) = {path.parent for path in folder.glob("**/events*")}
        return scalars_of(read_events(folder))

    return read


@pytest.fixture(scope="session")
def run_of_prices(tmp_path_factory, make_prices):
    """A run folder of the command line, trained on one symbol, and its file. Tests may evaluate it, not train it on."""
    folder = tmp_path_factory.mktemp("prices")
    make_prices(600).to_csv(folder / "prices.csv", index=False)
    main([*RUN_OF_PRICES, f"--market.data={folder / 'prices.csv'}", f"--run.out={folder}", "--run.name=x"])
    return folder / "x", folder / "prices.csv"


@pytest.fixture(scope="session")
def make_prices():
    """A function that makes up bars of one symbol: calm stretches of 1 % a day, every fourth of them 3 %."""

    def make(bars=600, seed=0, start="2000-01-03", frequency="B"):
        rng = np.random.default_rng(seed)
        sigma = np.where(np.arange(bars) // 60 % 4 == 3, 0.03, 0.01)
        close = 100 * np.exp(np.cumsum(rng.normal(0.0003, sigma)))
        opens = close * np.exp(rng.normal(0, 0.003, bars))
        high = np.maximum(opens, close) * 1.002
        low = np.minimum(opens, close) * 0.998
        dates = pd.date_range(start, periods=bars, freq=frequency)
        return pd.DataFrame(dict(date=dates, open=opens, high=high, low=low, close=close, volume=1000))

    return make


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium, whose console can be read."""
    chromium = shutil.which("chromium")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for switch in [
        *f"{switches} disable-component-update disable-sync".split(),
        f"user-data-dir={tmp_path / 'profile'}",
    ]:
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=driver))
    yield driver
    driver.quit()
