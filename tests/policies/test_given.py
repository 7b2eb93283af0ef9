"""Somebody else's probabilities: taken for the impressions and candidates that they are for, and for no others."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from artlib.data import LogError
from artlib.policies import baselines, given


@pytest.fixture
def frame(small_log) -> pd.DataFrame:
    test = small_log.split("test")
    arrays = test.arrays()
    p = baselines.uniform(test) * (1 + 0.5 * (np.arange(arrays.mask.shape[1]) % 2))
    p = np.where(arrays.mask, p, 0)
    p /= p.sum(axis=1, keepdims=True)
    lists = [row[mask].tolist() for row, mask in zip(p, arrays.mask, strict=True)]
    ids = test.impressions["impression_id"].to_pylist()
    return pd.DataFrame({"impression_id": ids, "probabilities": lists})


def read(frame: pd.DataFrame, log, folder) -> np.ndarray:
    frame.to_parquet(folder / "mine.parquet")
    return given.read(folder / "mine.parquet", log, log.split("test"))


def test_rows_in_any_order_land_at_their_impressions(small_log, frame, tmp_path):
    expected = read(frame, small_log, tmp_path)
    mixed = frame.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(read(mixed, small_log, tmp_path), expected)
    row, mask = frame["probabilities"][3], small_log.split("test").arrays().mask[3]
    np.testing.assert_allclose(expected[3][mask], row)
    assert (expected[3][~mask] == 0).all()


def test_answers_to_more_impressions_of_the_log_do_no_harm(small_log, frame, tmp_path):
    train = small_log.split("train")
    lists = [[1.0] + [0.0] * (len(row) - 1) for row in train.impressions["candidates"].to_pylist()]
    more = pd.DataFrame({"impression_id": train.impressions["impression_id"].to_pylist(), "probabilities": lists})
    np.testing.assert_array_equal(read(pd.concat([more, frame]), small_log, tmp_path), read(frame, small_log, tmp_path))


def test_candidates_in_another_order_are_put_into_the_logs(small_log, frame, tmp_path):
    candidates = small_log.split("test").impressions["candidates"].to_pylist()
    turned = frame.assign(
        candidates=[row[::-1] for row in candidates], probabilities=[row[::-1] for row in frame["probabilities"]]
    )
    np.testing.assert_array_equal(read(turned, small_log, tmp_path), read(frame, small_log, tmp_path))


def test_candidates_may_be_numbers_as_the_logs_ids_may(small_log, frame, tmp_path):
    number = {a: str(i) for i, a in enumerate(small_log.artworks["artwork_id"].to_pylist())}
    candidates = [[number[a] for a in row] for row in small_log.impressions["candidates"].to_pylist()]
    impressions = small_log.impressions.set_column(
        small_log.impressions.column_names.index("candidates"), "candidates", pa.array(candidates)
    )
    artworks = small_log.artworks.set_column(0, "artwork_id", pa.array(number.values()))
    log = dataclasses.replace(small_log, impressions=impressions, artworks=artworks)
    asked = log.split("test").impressions["candidates"].to_pylist()
    turned = frame.assign(
        candidates=[[int(a) for a in row[::-1]] for row in asked],
        probabilities=[row[::-1] for row in frame["probabilities"]],
    )
    np.testing.assert_array_equal(read(turned, log, tmp_path), read(frame, log, tmp_path))


def test_a_sum_rounded_to_three_decimals_is_made_1(small_log, frame, tmp_path):
    rounded = frame.assign(probabilities=[np.round(row, 4).tolist() for row in frame["probabilities"]])
    np.testing.assert_allclose(read(rounded, small_log, tmp_path).sum(axis=1), 1, atol=1e-12)


def change(frame: pd.DataFrame, row: int, column: str, value) -> pd.DataFrame:
    changed = frame.copy()
    changed.at[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda f: change(f, 4, "impression_id", "i-of-another-log"),
            "row 4, column impression_id: 'i-of-another-log'",
        ),
        (
            lambda f: f.drop(index=[2, 3]),
            r"impression .* is missing \(and 1 more\); answer all 150 impressions",
        ),
        (lambda f: pd.concat([f, f.iloc[:1]]), "is there twice"),
        (lambda f: change(f, 4, "probabilities", [1.0]), "row 4, column probabilities: .*not as long as"),
        (lambda f: change(f, 4, "probabilities", [-1.0, *f["probabilities"][4][1:]]), "row 4.*holds what is no"),
        (
            lambda f: change(f, 4, "probabilities", [float("inf"), *f["probabilities"][4][1:]]),
            "row 4.*holds what is no",
        ),
        (lambda f: change(f, 4, "probabilities", [2.0, *f["probabilities"][4][1:]]), "row 4.*does not sum to 1"),
        (lambda f: f.drop(columns="probabilities"), "column probabilities is missing"),
        (lambda f: f.assign(probabilities="0.5"), "cannot be read as list"),
        (lambda f: change(f, 4, "probabilities", None), "row 4, column probabilities: .*is null"),
        (lambda f: f.assign(candidates=[["x"] * len(row) for row in f["probabilities"]]), "other candidates than"),
    ],
)
def test_what_is_not_an_answer_to_the_log_is_refused(small_log, frame, tmp_path, wrong, said):
    with pytest.raises(LogError, match=said):
        read(wrong(frame), small_log, tmp_path)


def test_a_file_that_is_not_there_is_named(small_log, tmp_path):
    with pytest.raises(LogError, match=r"mine.parquet does not exist"):
        given.read(tmp_path / "mine.parquet", small_log, small_log.split("test"))


def test_a_file_that_is_no_parquet_is_named(small_log, tmp_path):
    (tmp_path / "mine.parquet").write_text("impression_id,probabilities")
    with pytest.raises(LogError, match=r"mine.parquet cannot be read as Parquet"):
        given.read(tmp_path / "mine.parquet", small_log, small_log.split("test"))
