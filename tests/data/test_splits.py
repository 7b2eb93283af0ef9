"""What leaks from one split into another, and the control from which nothing can be learnt."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from artlib.data import Log, leakage, shuffled_plays


def replaced(log, table: str, column: str, values: list):
    old = getattr(log, table)
    at = old.schema.get_field_index(column)
    field = old.schema.field(column)
    return dataclasses.replace(log, **{table: old.set_column(at, field, pa.array(values, field.type))})


def test_fiction_leaks_nothing_but_members_who_return(small_log):
    found = leakage(small_log)
    assert (found.drop("the member") == 0).all(axis=None)
    assert (found.loc["the member"] > 0).all()


def test_each_leak_is_found_by_its_share(small_log):
    test, train = small_log.split("test").arrays(), small_log.split("train").arrays()
    known, shown = int(train.candidates[0, 0]), int(test.candidates[0, 0])
    captions = small_log.artworks["caption"].to_pylist()
    images: list = [None] * len(captions)
    captions[shown] = f"  {captions[known].upper()}\n"
    images[shown] = images[known] = "a.png"
    leaky = replaced(replaced(small_log, "artworks", "caption", captions), "artworks", "image", images)
    share = (test.candidates == shown).any(axis=1).mean()
    found = leakage(leaky)
    assert share > 0
    assert found.loc[["a caption", "a picture"], "train to test"].tolist() == pytest.approx([share, share])
    assert found.loc["the title", "train to test"] == 0


def test_a_split_by_chance_leaks_titles_and_the_future(small_log):
    n = len(small_log.impressions)
    names = np.random.default_rng(0).choice(["train", "test"], size=n).tolist()
    found = leakage(replaced(small_log, "impressions", "split", names))
    assert found.loc["the title", "train to test"] > 0.9
    assert found.loc["impressions of the future", "train to test"] > 0.9
    assert found["train to validation"].isna().all()


def test_shuffled_plays_are_of_any_candidate_and_leave_what_judges_alone(small_log):
    shuffled = shuffled_plays(small_log, seed=1)
    shuffled.validate()
    assert not shuffled.split("test").impressions.equals(shuffled.split("train").impressions)
    assert shuffled.split("test").impressions.equals(small_log.split("test").impressions)
    before, after = (log.split("train").arrays() for log in (small_log, shuffled))
    played = before.reward > 0
    assert np.array_equal(before.shown[~played], after.shown[~played])
    assert np.array_equal(before.reward, after.reward)
    moved = (before.shown != after.shown)[played].mean()
    k = before.mask.sum(axis=1)[played]
    assert moved == pytest.approx((1 - 1 / k).mean(), abs=0.15)
    uniform = (after.mask / after.mask.sum(axis=1, keepdims=True))[played]
    np.testing.assert_allclose(after.logging[played], uniform, rtol=1e-6)


def test_nothing_that_is_kept_of_a_log_is_taken_for_its_control(small_log, tmp_path):
    small_log.save(tmp_path / "log")
    log = Log.load(tmp_path / "log")
    shuffled = shuffled_plays(log)
    assert shuffled.split("train").identity == shuffled.identity != log.identity
    assert shuffled_plays(log.take(np.arange(len(log.impressions)))).identity == shuffled.identity


def test_shuffled_plays_are_equally_often_of_each_candidate(small_log):
    """Drawn again and again, each candidate of an impression is played as often as any other."""
    rows = np.flatnonzero(small_log.split("train").arrays().reward > 0)
    drawn = np.stack([shuffled_plays(small_log, seed).split("train").arrays().shown[rows] for seed in range(200)])
    k = small_log.split("train").arrays().mask.sum(axis=1)[rows]
    assert drawn.mean() == pytest.approx(((k - 1) / 2).mean(), rel=0.05)
    assert (drawn < k).all()
