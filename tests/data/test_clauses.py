"""What synopses tell, clause by clause, and how members weigh it."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from artlib.data import Background, clauses


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("In Lyon, a thief sings; meanwhile a dog sleeps. With A. B, Cy Dee.", 6),
        ("One thing, one thing", 2),
        ("no marks", 1),
        (" , ;", 0),
        ("", 0),
    ],
)
def test_a_text_falls_into_its_clauses(text, found):
    parts = clauses.clauses(text)
    assert len(parts) == found and all(part == part.strip() and part for part in parts)


def test_a_decimal_point_and_an_apostrophe_part_nothing():
    assert clauses.clauses("it's 3.5 km") == ["it's 3.5 km"]


def test_members_weigh_clauses_by_how_much_more_often_they_watched_them(small_log):
    part, known = small_log.split("test").take(np.arange(20)), small_log.background.told
    synopses = [clauses.clauses(text) for text in small_log.titles["synopsis"].to_pylist()]
    start, stop = small_log.history.spans(part.impressions)

    def shares(log) -> np.ndarray:
        first, last = log.history.spans(log.impressions)
        rows = []
        for a, b in zip(first, last, strict=True):
            watched = [synopses[title] for title in log.history.title[a:b]]
            rows.append([sum(clause in own for own in watched) / max(len(watched), 1) for clause in known])
        return np.array(rows)

    n = stop - start
    average = shares(small_log.split("train")).mean(axis=0)
    expected = (n / (n + 5))[:, None] * (shares(part) - average)
    told = clauses.told_by(small_log.titles, list(known))
    np.testing.assert_allclose(list(known.values()), average, atol=1e-12)
    found = clauses.excess(*clauses.shares(small_log.history, told, part.impressions), average)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (n > 3).any() and np.abs(expected).max() > 0.05


def test_what_is_watched_most_is_kept_where_there_are_too_many_clauses(small_log, monkeypatch):
    monkeypatch.setattr(clauses, "MOST_CLAUSES", 30)
    few = list(dataclasses.replace(small_log).background.told)
    assert 20 < len(few) <= 30
    most = np.bincount(small_log.history.title).argmax()
    assert set(clauses.clauses(small_log.titles["synopsis"][int(most)].as_py())) <= set(few)


def test_a_synopsis_too_long_to_keep_leaves_room_for_the_others(small_log, monkeypatch):
    most = int(np.bincount(small_log.history.title).argmax())
    synopses = small_log.titles["synopsis"].to_pylist()
    synopses[most] = ". ".join(f"part {number}" for number in range(40))
    at = small_log.titles.schema.get_field_index("synopsis")
    titles = small_log.titles.set_column(at, small_log.titles.schema.field(at), pa.array(synopses))
    monkeypatch.setattr(clauses, "MOST_CLAUSES", 30)
    found = dataclasses.replace(small_log, titles=titles).background.told
    assert len(found) > 20 and not any(clause.startswith("part") for clause in found)


def test_the_average_member_is_that_of_a_sample_of_a_large_log(small_log, monkeypatch):
    from artlib.data import log

    whole = np.array(list(small_log.background.told.values()))
    monkeypatch.setattr(log, "AVERAGED", 100)
    sampled = np.array(list(dataclasses.replace(small_log).background.told.values()))
    assert 0 < np.abs(sampled - whole).max() < 0.2


def test_a_background_is_read_as_it_was_described(small_log):
    known = small_log.background
    described = known.described()
    again = Background.read(described)
    assert again.told == known.told and again.genres == known.genres
    del described["told"]  # of an adapter that is older
    assert Background.read(described).told == {}
