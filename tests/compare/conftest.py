"""What only tests of comparisons need: a browser for the report."""

import shutil

import pytest
from selenium import webdriver


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
