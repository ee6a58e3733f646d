"""What counts as the target."""

from __future__ import annotations

import math

import pytest

from memedit.metrics import bootstrap, contains, exact, normalise, starts_with


@pytest.mark.parametrize(
    ("text", "answers", "starts", "has", "same"),
    [
        (" Lyon.", ["Lyon"], True, True, True),
        ("the city of Lyon", ["Lyon"], False, True, False),
        ("Lyonnais food", ["Lyon"], False, False, False),
        ("A piano, of course", ["the piano"], True, True, False),
        ("Paris", ["Lyon", "paris"], True, True, True),
        ("", ["Lyon"], False, False, False),
        ("Lyon", [""], False, False, False),
        ("Côte d'Ivoire. Then more", ["côte d'ivoire"], True, True, True),
    ],
)
def test_success(text, answers, starts, has, same):
    assert (starts_with(text, answers), contains(text, answers), exact(text, answers)) == (starts, has, same)


def test_normalise_drops_case_articles_and_punctuation():
    assert normalise("  The  Heron-5, a PUMP! ") == "heron 5 pump"


def test_bootstrap_brackets_the_mean_and_repeats():
    values = [1, 0, 1, 1, 0, 1, 1, 1]
    mean, low, high = bootstrap(values)
    assert mean == 0.75
    assert low < mean < high
    assert bootstrap(values) == (mean, low, high)
    assert all(map(math.isnan, bootstrap([])))
