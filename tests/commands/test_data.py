"""The command ``data``: it prints what it reads, and trains nothing."""

import json

from builders import refused

from train_model_multi_patch import main


def test_data_says_what_it_read_and_trains_nothing(tmp_path, make_prices, capsys):
    make_prices(600)[::-1].to_csv(tmp_path / "own.csv", index=False)
    main(["data", str(tmp_path / "own.csv"), "sp500", "--market.bars_per_year=252"])
    printed = capsys.readouterr().out

    assert "own (" in printed
    assert "assumed    newest first: sorted" in printed
    assert "5,031 from 1999-01-04 (close 1,228.1) to 2018-12-31 (close 2,506.85); 252 a year" in printed

    main(["data", "--json", str(tmp_path / "own.csv")])
    (found,) = json.loads(capsys.readouterr().out)
    keys = [
        "symbol",
        "bars",
        "first",
        "last",
        "first_close",
        "last_close",
        "bars_per_year",
        "volatility_index",
        "fill",
        "unused_columns",
    ]

    assert {*keys, "assumptions", "periods"} <= found.keys()
    assert list(tmp_path.iterdir()) == [tmp_path / "own.csv"]
    assert "no file" in refused(capsys, "data", "nowhere.csv")
    assert "market.date_format" in refused(capsys, "data", "sp500", "--market.date_format=days")

    (tmp_path / "few.csv").write_text("date,close\n2000-01-03,1\n")

    assert "at least 60 are needed" in refused(capsys, "data", str(tmp_path / "few.csv"))
