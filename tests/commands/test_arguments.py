"""Configuration files that a command line names, before anything is parsed."""

import pytest
from builders import refused


@pytest.fixture
def files(tmp_path, make_prices):
    """a.csv has opening prices, b.csv has closes only."""
    make_prices(400).to_csv(tmp_path / "a.csv", index=False)
    make_prices(400, seed=1).drop(columns="open").to_csv(tmp_path / "b.csv", index=False)
    return tmp_path


def test_the_home_of_the_user_is_found_in_the_place_of_a_configuration(files, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(files))
    (files / "c.yaml").write_text("market: {data: nowhere.csv}")
    for flags in (["--config", "~/c.yaml"], ["--config=~/c.yaml"]):
        assert "there is no file nowhere.csv" in refused(capsys, "train", *flags)
    assert "nothing.yaml" in refused(capsys, "train", "--config=~/nothing.yaml")
