"""What is told of outputs that were given a scale."""

import pytest

from caffeinit.methods.telling import loose_notes


@pytest.mark.parametrize(
    ("held", "spread", "words"),
    [
        (0.7, 0.01, "differ from their mean by up to a factor of 2.01 with outputs that deviate by 1"),
        (0.7, 0.9, "tied to their size. "),  # the search did not keep what it promised
        (0.01, 0.01, "far along the curves"),
    ],
)
def test_outputs_of_another_size_are_told_with_what_was_won(held, spread, words):
    (note,) = loose_notes(held, (3.0, spread))
    assert note.startswith("the net's outputs do not deviate by 1: ")
    assert words in note
    assert note.endswith("`--no-balance` leaves them at 1")


def test_outputs_that_were_given_none_are_not_told():
    assert loose_notes(None, (3.0, 0.5)) == []
