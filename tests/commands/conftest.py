"""Files of prices that the tests of commands read."""

import pytest


@pytest.fixture
def files(tmp_path, make_prices):
    """a.csv has opening prices, b.csv has closes only."""
    make_prices(400).to_csv(tmp_path / "a.csv", index=False)
    make_prices(400, seed=1).drop(columns="open").to_csv(tmp_path / "b.csv", index=False)
    return tmp_path


@pytest.fixture
def home(tmp_path, make_prices, monkeypatch):
    """The working folder and the user's home, with a file and a folder of files."""
    make_prices(400).to_csv(tmp_path / "p.csv", index=False)
    (tmp_path / "both").mkdir()
    for i, name in enumerate("AB"):
        make_prices(400, seed=i).to_csv(tmp_path / "both" / f"{name}.csv", index=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
