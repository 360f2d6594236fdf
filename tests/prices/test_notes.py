"""Notes are collected in the order of the steps, and none is changed."""

from dataclasses import FrozenInstanceError

import pytest

from market_regimes.prices import Notes


def test_notes_follow_one_another():
    first = Notes(("newest first: sorted",), ("Volume",))
    second = Notes(("decimal commas",), ("RSI",), "UTC")

    assert first + second == Notes(("newest first: sorted", "decimal commas"), ("Volume", "RSI"), "UTC")


def test_a_further_sentence_leaves_the_notes_before_it_as_they_are():
    before = Notes(("decimal commas",), ("Volume",), "UTC")

    after = before.and_assumed("newest first: sorted")

    assert before.assumptions == ("decimal commas",)
    assert after == Notes(("decimal commas", "newest first: sorted"), ("Volume",), "UTC")
    with pytest.raises(FrozenInstanceError):
        after.assumptions = ()
