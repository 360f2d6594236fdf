"""What only tests of comparisons need: a browser for the report, and a model that has learned a little."""

import shutil

import pytest
from comparisons import cell_of_sp500
from selenium import webdriver

from market_regimes.config import RunConfig
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study


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


@pytest.fixture(scope="module")
def model():
    """A model without batch weights after 2,048 steps on the S&P 500."""
    cell = cell_of_sp500()
    algorithm = {**cell.algorithm, "use_variance_gradient_scaling": False}
    segments = segments_of(cell.market, ("train", "test"))

    study = Study(RunConfig(), cell.market, algorithm, segments)
    return study.model.learn(2048)
