"""Run folders of other versions."""

import json

import pytest
from markets import load_shipped

from market_regimes.compare.comparison import Comparison
from market_regimes.market.segment import Segment
from market_regimes.run.provenance import check_provenance, provenance


@pytest.fixture
def made(tmp_path):
    """A run folder's provenance, and what it was trained on."""
    segments = {"train": [Segment.scaled_by(load_shipped("sp500"), range(100, 400), range(100, 400))]}
    return tmp_path, provenance(0, segments), segments


@pytest.mark.parametrize(("found", "order"), [(None, "before"), (1, "before"), (3, "after")])
def test_runs_of_another_data_version_are_refused_in_one_sentence_with_their_version(made, found, order):
    folder, content, segments = made
    content |= {"distributional_ppo": "0.1.7", "data_version": found}
    if found is None:
        del content["data_version"]
    (folder / "run.json").write_text(json.dumps(content))

    for attempt in (lambda: check_provenance(folder, segments), lambda: Comparison(folder, [], content["data"])):
        with pytest.raises(ValueError, match=rf"made by version 0\.1\.7 of this program, {order} a change") as refusal:
            attempt()
        assert "\n" not in str(refusal.value)


def test_runs_of_this_data_version_and_those_without_data_are_taken(made):
    folder, content, segments = made
    (folder / "run.json").write_text(json.dumps(content))
    check_provenance(folder, segments)
    del content["data_version"]
    (folder / "run.json").write_text(json.dumps(content | {"data": {}}))
    check_provenance(folder, {})


@pytest.mark.parametrize("months", [None, "torn"])
def test_a_run_without_its_months_is_torn(made, months):
    folder, content, segments = made
    content["data"]["S&P 500"]["months"] = months
    (folder / "run.json").write_text(json.dumps(content))

    with pytest.raises(ValueError, match="torn"):
        check_provenance(folder, segments)
