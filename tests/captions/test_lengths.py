"""What tells candidates apart that is not on their pictures."""

from artlib.captions import lengths

TITLES = ["t0", "t0", "t1", "t1", "t2"]


def test_captions_alike_are_only_said_to_be():
    said, warnings = lengths.audit(TITLES, ["a b", "c d", "a b", "c d e", "a"], {})
    assert said == (
        "lengths: the longest caption of a title has 1.25 times the words of its shortest (median of 2 titles), at "
        "most 1.50 times (title 't1': 2 to 3 words)"
    )
    assert warnings == []


def test_a_caption_over_twice_as_long_as_its_rival_is_warned_of():
    _, warnings = lengths.audit(TITLES, ["a b", "c d e f", "a b", "c d e f g", "a"], {})
    assert len(warnings) == 1 and warnings[0].startswith("1 titles (first 't1': 2 to 5 words)")


def test_several_writers_in_one_title_are_warned_of_and_in_several_titles_not():
    writers = {"a": "model", "b": "model", "c": "other model"}
    assert lengths.audit(TITLES, ["a", "b", "x", "y", "c"], writers)[1] == []
    assert "(first 't0': model; someone else)" in lengths.audit(TITLES, ["a", "x", "a", "b", ""], writers)[1][0]
    assert "(first 't1': model; other model)" in lengths.audit(TITLES, ["a", "b", "a", "c", ""], writers)[1][0]


def test_without_rivals_there_is_nothing_to_compare():
    assert lengths.audit(TITLES, ["a", "", "", "", "b"], {}) == ("lengths: no title has two captions yet", [])
