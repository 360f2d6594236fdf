"""Files, folders and compressed files; names that tell no format are refused."""

import gzip
import io
import zipfile

import pandas as pd
import pytest
from exports import equals, made_up, same_bars

from market_regimes.prices import read_prices

DAYS = pd.bdate_range("2019-01-02", "2020-12-31")


def test_paths_that_are_no_data_are_refused(tmp_path):
    for entry, expected in (
        ("nowhere.csv", "no file"),
        ("sp5000", "does not end in"),
        (str(tmp_path), "holds no file"),
    ):
        with pytest.raises(ValueError, match=expected):
            read_prices([entry])


def test_compressed_files_and_folders(daily, write, tmp_path):
    text = daily.to_csv().encode()
    archive = io.BytesIO()

    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.csv", text)

    write(gzip.compress(text), "a.csv.gz")
    write(archive.getvalue(), "b.zip")
    write(text, "c.TXT")
    write("notes", "readme.md")
    bars = read_prices([str(tmp_path)])

    assert [one.symbol for one in bars] == ["a", "b", "c"]
    assert all(equals(one, daily) for one in bars)
    with pytest.raises(ValueError, match=r"the symbol a is in .*a\.csv and in .*a\.csv\.gz"):
        read_prices([str(tmp_path), write(text, "a.csv")])

    (tmp_path / "empty").mkdir()

    with pytest.raises(ValueError, match="holds no file that ends in"):
        read_prices([str(tmp_path / "empty")])


def test_a_compressed_file_whose_index_has_no_name(tmp_path):
    made_up(DAYS).to_csv(tmp_path / "unnamed.csv.gz")
    (bars,) = read_prices([str(tmp_path / "unnamed.csv.gz")])
    same_bars(bars, made_up(DAYS))

    assert bars.symbol == "unnamed"
