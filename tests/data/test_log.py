"""The data contract: what is written is read again by anybody, and what breaks the contract is named to the cell."""

import dataclasses
import datetime
import hashlib
import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artlib import data
from artlib.data import SCHEMAS, History, Log, LogError, LogWarning, columns, contract
from artlib.data.history import genre_matrix
from artlib.worlds import fiction

FILES = ["titles", "artworks", "histories", "impressions", "earlier", "truth"]


@pytest.fixture(scope="module")
def written(small_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("log") / "log"
    small_log.save(folder)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    """A copy without manifest, as somebody's own log would be."""
    folder = shutil.copytree(written, tmp_path / "own")
    (folder / "manifest.json").unlink()
    return folder


def change(folder, file: str, rows: dict[int, dict]) -> None:
    """Overwrite cells of a Parquet file, as somebody without artlib would."""
    path = folder / f"{file}.parquet"
    table = pq.read_table(path)
    content = table.to_pylist()
    for row, cells in rows.items():
        content[row].update(cells)
    nullable = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(pa.Table.from_pylist(content, schema=nullable), path)


def cell(folder, file: str, column: str, row: int):
    return pq.read_table(folder / f"{file}.parquet")[column][row].as_py()


def last_impression(folder, user: str) -> datetime.datetime:
    rows = pq.read_table(folder / "impressions.parquet").to_pylist()
    return max(row["timestamp"] for row in rows if row["user_id"] == user)


# Round trip


def test_saved_log_loads_with_equal_tables(small_log, written):
    loaded = Log.load(written)
    assert list(loaded.tables()) == FILES
    for name, table in small_log.tables().items():
        assert loaded.tables()[name].to_pylist() == table.to_pylist()
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(written / f"{name}.parquet").equals(schema)


def test_manifest_counts_rows_and_carries_checksums(small_log, written):
    manifest = json.loads((written / "manifest.json").read_text())
    assert {name: entry["rows"] for name, entry in manifest["files"].items()} == {
        f"{name}.parquet": table.num_rows for name, table in small_log.tables().items()
    }
    assert all(len(entry["sha256"]) == 64 for entry in manifest["files"].values())
    assert manifest["world"] == "fiction" and manifest["reward"]


def test_saving_replaces_an_older_log_whole_and_leaves_nothing_else(small_log, tmp_path):
    folder = tmp_path / "log"
    small_log.save(folder)
    dataclasses.replace(small_log, earlier=None).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "manifest.json", *(f"{name}.parquet" for name in FILES if name != "earlier")]
    )
    assert list(tmp_path.iterdir()) == [folder]


def test_datasets_and_pandas_read_every_file(small_log, written, tmp_path):
    datasets = pytest.importorskip("datasets")
    for name, table in small_log.tables().items():
        path = str(written / f"{name}.parquet")
        read = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path))
        assert read.num_rows == table.num_rows and read.column_names == table.column_names
        assert read[0] == table.slice(0, 1).to_pylist()[0]
        frame = pd.read_parquet(path)
        assert list(frame) == table.column_names and len(frame) == table.num_rows
    assert str(pd.read_parquet(written / "impressions.parquet")["timestamp"].dt.tz) == "UTC"


def test_log_written_by_pandas_is_accepted(written, copy):
    """Other list, string, integer and time types than artlib's own."""
    for name in FILES:
        frame = pd.read_parquet(copy / f"{name}.parquet")
        if "timestamp" in frame:
            frame["timestamp"] = frame["timestamp"].astype("datetime64[ns, Europe/Paris]")
        if "shown" in frame:
            frame["shown"] = frame["shown"].astype("int64")
        frame.to_parquet(copy / f"{name}.parquet")
    own, log = Log.load(copy), Log.load(written)
    assert own.manifest == {"world": "own"}
    for name in FILES:
        assert own.tables()[name].to_pylist() == log.tables()[name].to_pylist()


# Views


def test_arrays_are_the_rows_padded(small_log):
    arrays = small_log.arrays()
    artwork_ids = small_log.artworks["artwork_id"].to_pylist()
    for i, row in enumerate(small_log.impressions.to_pylist()):
        k = len(row["candidates"])
        assert arrays.mask[i].tolist() == [True] * k + [False] * (arrays.mask.shape[1] - k)
        assert [artwork_ids[a] for a in arrays.candidates[i, :k]] == row["candidates"]
        assert (arrays.candidates[i, k:] == -1).all() and (arrays.production[i, k:] == 0).all()
        assert arrays.production[i, :k].tolist() == row["production"]
        assert artwork_ids[arrays.shown_artwork[i]] == row["candidates"][row["shown"]]
    assert arrays.propensity.tolist() == small_log.impressions["propensity"].to_pylist()
    assert small_log.arrays("earlier").production is None


def test_split_keeps_truth_beside_its_impression(small_log):
    parts = [small_log.split(name) for name in contract.SPLITS]
    assert sum(len(part.impressions) for part in parts) == len(small_log.impressions)
    truth = {row["impression_id"]: row["expected_reward"] for row in small_log.truth.to_pylist()}
    for part in parts:
        padded = part.expected_reward()
        for row, values in zip(part.impressions.to_pylist(), padded, strict=True):
            assert values[: len(row["candidates"])].tolist() == truth[row["impression_id"]]


def test_logs_are_told_apart_by_files_or_by_what_they_say_and_parts_are_their_logs(small_log, written):
    bare = dataclasses.replace(small_log, manifest={})
    assert bare.identity == bare.split("test").take(np.arange(3)).identity == bare.digest()
    captions = [f"{caption} At night." for caption in bare.artworks["caption"].to_pylist()]
    other = dataclasses.replace(bare, artworks=columns.replaced(bare.artworks, {"caption": captions}))
    assert other.identity != bare.identity == dataclasses.replace(bare).identity
    loaded = Log.load(written)
    assert loaded.identity == loaded.split("train").identity == loaded.manifest["files"]


def test_unknown_split_is_refused(small_log):
    with pytest.raises(LogError, match="split 'dev' is not one of train, validation, test"):
        small_log.split("dev")


def test_expected_reward_follows_ids_and_not_the_order_of_rows(small_log):
    mixed = np.random.default_rng(0).permutation(len(small_log.truth))
    shuffled = dataclasses.replace(small_log, truth=small_log.truth.take(pa.array(mixed)))
    np.testing.assert_array_equal(shuffled.expected_reward(), small_log.expected_reward())
    with pytest.raises(LogError, match="no truth.parquet"):
        dataclasses.replace(small_log, truth=None).expected_reward()


def test_cold_titles_are_those_of_neither_the_earlier_period_nor_training(small_log):
    rows = small_log.impressions.to_pylist()
    seen = set(small_log.earlier["title_id"].to_pylist()) | {r["title_id"] for r in rows if r["split"] == "train"}
    assert small_log.cold().tolist() == [row["title_id"] not in seen for row in rows]
    assert 0 < small_log.cold().sum() < len(rows)


# History


def times(seconds) -> pa.Array:
    return pa.array([int(s) * 1_000_000 for s in seconds], pa.timestamp("us", tz="UTC"))


events = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 6), st.floats(0, 1)), max_size=25)


@settings(max_examples=60)
@given(watched=events, asked=st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 8)), min_size=1, max_size=10))
def test_history_is_what_the_user_watched_strictly_before(watched, asked):
    """Against a reading row by row; times collide on purpose, some users never watched anything."""
    genres = [["a"], ["b", "a"], [], ["c"], ["a", "b", "c"]]
    titles = data.table(
        "titles",
        {
            "title_id": [f"t{i}" for i in range(5)],
            "name": ["x"] * 5,
            "year": pa.nulls(5, pa.int32()),
            "genres": pa.array(genres, pa.list_(pa.string())),
            "synopsis": [""] * 5,
        },
    )
    histories = data.table(
        "histories",
        {
            "user_id": pa.array([f"u{u}" for u, *_ in watched], pa.string()),
            "title_id": pa.array([f"t{t}" for _, t, *_ in watched], pa.string()),
            "timestamp": times([s for _, _, s, _ in watched]),
            "weight": pa.array([w for *_, w in watched], pa.float64()),
        },
    )
    impressions = pa.table({"user_id": [f"u{u}" for u, _ in asked], "timestamp": times([s for _, s in asked])})
    history = History(titles, histories)
    start, stop = history.spans(impressions)
    profile = history.genre_profile(impressions)
    for i, (user, at) in enumerate(asked):
        before = sorted((s, n) for n, (u, _, s, _) in enumerate(watched) if u == user and s < at)
        assert history.title[start[i] : stop[i]].tolist() == [watched[n][1] for _, n in before]
        assert history.weight[start[i] : stop[i]].tolist() == [watched[n][3] for _, n in before]
        expected = np.zeros(3)
        for _, n in before:
            for genre in genres[watched[n][1]]:
                expected["abc".index(genre)] += watched[n][3] / len(genres[watched[n][1]])
        if expected.sum() > 1e-6:
            np.testing.assert_allclose(profile[i], expected / expected.sum(), atol=1e-6)


def test_genre_profile_does_not_depend_on_the_order_of_rows(small_log):
    mixed = np.random.default_rng(1).permutation(len(small_log.histories))
    other = History(small_log.titles, small_log.histories.take(pa.array(mixed)))
    expected = History(small_log.titles, small_log.histories).genre_profile(small_log.impressions)
    np.testing.assert_allclose(other.genre_profile(small_log.impressions), expected, atol=1e-9)
    sums = expected.sum(axis=1)
    assert np.all((np.abs(sums - 1) < 1e-9) | (sums == 0)) and (sums > 0).mean() > 0.5


def test_a_genre_that_a_title_has_twice_weighs_once(small_log):
    genres = small_log.titles["genres"].to_pylist()
    twice = small_log.titles.set_column(
        small_log.titles.column_names.index("genres"), "genres", pa.array([[*own, own[0]] for own in genres])
    )
    for name, titles in (("once", small_log.titles), ("twice", twice)):
        matrix = genre_matrix(titles)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, err_msg=name)
    np.testing.assert_array_equal(matrix, genre_matrix(small_log.titles))


def test_the_average_member_is_that_of_members_who_watched_anything(small_log):
    users = small_log.histories["user_id"]
    half = small_log.histories.filter(pc.is_in(users, pc.unique(users)[::2]))
    log = dataclasses.replace(small_log, histories=half)
    train = log.split("train")
    profile = log.history.genre_profile(train.impressions)
    watched = profile.sum(axis=1) > 0
    assert 0.3 < watched.mean() < 0.7
    assert log.background.average.sum() == pytest.approx(1)
    expected = 0.99 * profile[watched].mean(axis=0) + 0.01 / profile.shape[1]
    np.testing.assert_allclose(log.background.average, expected)
    known = log.take(np.flatnonzero(log.impressions["split"].to_numpy() == "train")[watched])
    assert log.background.told == pytest.approx(known.background.told) and log.background.told


# Padding

lists = st.lists(st.lists(st.floats(allow_nan=False), max_size=5), max_size=12)


@given(rows=lists, chunk=st.integers(1, 5))
def test_unpad_is_the_inverse_of_pad(rows, chunk):
    chunks = [pa.array(rows[i : i + chunk], pa.list_(pa.float64())) for i in range(0, len(rows), chunk)]
    column = pa.chunked_array(chunks, pa.list_(pa.float64()))
    array, mask = columns.pad(column, fill=-7.0)
    assert array.shape == mask.shape == (len(rows), max(map(len, rows), default=0))
    assert mask.sum(axis=1).tolist() == [len(row) for row in rows] and (array[~mask] == -7.0).all()
    assert columns.unpad(array, mask).to_pylist() == rows


@given(rows=lists.filter(len), data=st.data())
def test_pad_of_a_slice_holds_only_the_slice(rows, data):
    first = data.draw(st.integers(0, len(rows) - 1))
    column = pa.chunked_array([pa.array(rows, pa.list_(pa.float64()))]).slice(first)
    array, mask = columns.pad(column)
    assert [row[m].tolist() for row, m in zip(array, mask, strict=True)] == rows[first:]


@given(ids=st.lists(st.text(max_size=3), unique=True, min_size=1), data=st.data())
def test_codes_are_rows_and_minus_one_where_unknown(ids, data):
    values = data.draw(st.lists(st.sampled_from(ids) | st.text(max_size=3), max_size=8))
    found = columns.codes(pa.chunked_array([pa.array(ids)]), pa.chunked_array([pa.array(values, pa.string())]))
    assert found.tolist() == [ids.index(value) if value in ids else -1 for value in values]


# Faults: (file, column, row, new value, words of the message). The new value may ask for the folder.

NAN, LATE = float("nan"), datetime.datetime(2035, 1, 1, tzinfo=datetime.UTC)
FAULTS = [
    ("titles", "title_id", 5, lambda f: cell(f, "titles", "title_id", 2), "is there twice"),
    ("titles", "name", 4, "  ", "is empty"),
    ("titles", "name", 4, None, "is null"),
    ("titles", "genres", 3, ["a", None], "has a null in it"),
    ("titles", "genres", 3, None, "is null"),
    ("titles", "synopsis", 0, None, "is null"),
    ("artworks", "artwork_id", 9, lambda f: cell(f, "artworks", "artwork_id", 1), "is there twice"),
    ("artworks", "title_id", 8, "nowhere", "is not in titles.parquet"),
    ("artworks", "caption", 7, "\n", "is empty"),
    ("artworks", "caption", 7, None, "is null"),
    ("histories", "title_id", 11, "nowhere", "is not in titles.parquet"),
    ("histories", "weight", 12, 1.5, "is outside [0, 1]"),
    ("histories", "weight", 12, -0.1, "is outside [0, 1]"),
    ("histories", "weight", 12, NAN, "is outside [0, 1]"),
    ("histories", "user_id", 12, None, "is null"),
    ("histories", "timestamp", 13, LATE, "at or after the user's last impression"),
    (
        "histories",
        "timestamp",
        13,
        lambda f: last_impression(f, cell(f, "histories", "user_id", 13)),
        "at or after the user's last impression",
    ),
    *[
        fault
        for file in ("impressions", "earlier")
        for fault in [
            (file, "impression_id", 21, lambda f, file=file: cell(f, file, "impression_id", 20), "is there twice"),
            (file, "title_id", 22, "nowhere", "is not in titles.parquet"),
            (file, "user_id", 22, None, "is null"),
            (file, "timestamp", 22, None, "is null"),
            (file, "candidates", 23, [], "has no candidate"),
            (file, "candidates", 23, None, "is null"),
            (file, "candidates", 23, ["a000000", None], "has a null in it"),
            (
                file,
                "candidates",
                23,
                lambda f, file=file: [*cell(f, file, "candidates", 23)[:-1], "nothing"],
                "names an artwork not in artworks.parquet",
            ),
            (
                file,
                "candidates",
                23,
                lambda f, file=file: cell(f, file, "candidates", 23)[:1] * 3,
                "names an artwork twice",
            ),
            (
                file,
                "candidates",
                23,
                lambda f, file=file: next(
                    list(c)
                    for c in pq.read_table(f / f"{file}.parquet")["candidates"].to_pylist()
                    if c != cell(f, file, "candidates", 23)
                ),
                "names an artwork of another title",
            ),
            (file, "shown", 24, -1, "is not an index into candidates"),
            (file, "shown", 24, 8, "is not an index into candidates"),
            (file, "propensity", 25, 0.0, "is outside (0, 1]"),
            (file, "propensity", 25, 1.01, "is outside (0, 1]"),
            (file, "propensity", 25, NAN, "is outside (0, 1]"),
            (file, "reward", 26, -1.0, "is not a finite number of at least 0"),
            (file, "reward", 26, NAN, "is not a finite number of at least 0"),
            (file, "reward", 26, float("inf"), "is not a finite number of at least 0"),
        ]
    ],
    ("impressions", "production", 27, [1.0], "is not as long as candidates"),
    (
        "impressions",
        "production",
        27,
        lambda f: [1.5, -0.5, *cell(f, "impressions", "production", 27)[2:]],
        "holds a value outside [0, 1]",
    ),
    (
        "impressions",
        "production",
        27,
        lambda f: [NAN] + cell(f, "impressions", "production", 27)[1:],
        "holds a value outside [0, 1]",
    ),
    (
        "impressions",
        "production",
        27,
        lambda f: [0.9 * p for p in cell(f, "impressions", "production", 27)],
        "does not sum to 1",
    ),
    ("impressions", "split", 28, "dev", "is not one of train, validation, test"),
    ("truth", "impression_id", 31, lambda f: cell(f, "truth", "impression_id", 30), "is there twice"),
    ("truth", "impression_id", 31, "nowhere", "is not in impressions.parquet"),
    ("truth", "expected_reward", 32, [0.5], "is not as long as the impression's candidates"),
    (
        "truth",
        "expected_reward",
        32,
        lambda f: [-0.5] + cell(f, "truth", "expected_reward", 32)[1:],
        "is not a finite number of at least 0",
    ),
]


@pytest.mark.parametrize("piece", [1, 7, 149])
def test_digest_does_not_depend_on_how_many_texts_are_hashed_at_once(small_log, piece, monkeypatch):
    found, names = hashlib.sha256(), small_log.titles["name"].to_pylist()
    data.log._update(found, small_log.titles["name"])
    assert found.hexdigest() == hashlib.sha256("\0".join(names).encode()).hexdigest()
    whole = small_log.digest()
    monkeypatch.setattr(data.log, "PIECE", piece)
    assert small_log.digest() == whole


@pytest.mark.parametrize("rows", [[3, 4, 5], [5], [4, 3], [2, 2, 3], []])
def test_rows_that_follow_each_other_or_not_are_taken_alike(small_log, rows):
    rows = np.array(rows, dtype=int)
    found = columns.take(small_log.impressions, rows)
    assert found.to_pylist() == [small_log.impressions.slice(row, 1).to_pylist()[0] for row in rows]


@pytest.mark.parametrize(
    "file, column, row, value, words", FAULTS, ids=[f"{f}-{c}-{w.replace(' ', '_')}" for f, c, _, _, w in FAULTS]
)
def test_fault_is_named_by_file_row_column_and_value(copy, file, column, row, value, words):
    value = value(copy) if callable(value) else value
    change(copy, file, {row: {column: value}})
    with pytest.raises(LogError) as caught:
        Log.load(copy)
    place = f"- {file}.parquet row {row}, column {column}: "
    lines = [line for line in str(caught.value).splitlines() if line.startswith(place) and words in line]
    assert len(lines) == 1, caught.value
    said = lines[0].removeprefix(place)
    expected = str(value) if isinstance(value, datetime.datetime) else repr(value)
    assert said.startswith(expected[:60]), said
    assert "; " in said, "no remedy"
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("before", ["train", "validation"])
def test_test_pair_in_an_earlier_split_is_named(copy, before):
    frame = pd.read_parquet(copy / "impressions.parquet")
    test, train = (frame.index[frame["split"] == name][3] for name in ("test", before))
    take = ["user_id", "title_id", "candidates", "production", "shown"]
    rows = pq.read_table(copy / "impressions.parquet").select(take).to_pylist()
    change(copy, "impressions", {int(test): rows[train]})
    with pytest.raises(LogError) as caught:
        Log.load(copy, validate=True)
    pair = (frame["user_id"][train], frame["title_id"][train])
    said = f"impressions.parquet row {test}, column split: {pair!r} (user, title) of a test impression is in {before}"
    assert said in str(caught.value)


def test_an_earlier_impression_that_is_none_is_named(copy):
    first = pd.read_parquet(copy / "impressions.parquet")["timestamp"].min().to_pydatetime()
    change(copy, "earlier", {5: {"timestamp": first}})
    with pytest.raises(LogError, match="earlier.parquet row 5, column timestamp: .* is not before the first"):
        Log.load(copy)


def test_impression_without_truth_is_named(copy):
    frame = pd.read_parquet(copy / "truth.parquet")
    missing = frame["impression_id"].iloc[40]
    frame.drop(index=40).to_parquet(copy / "truth.parquet")
    with pytest.raises(LogError, match=f"impressions.parquet row 40, column impression_id: '{missing}' is not in tr"):
        Log.load(copy)


def test_first_row_of_each_fault_is_named_and_the_others_counted(copy):
    change(copy, "impressions", {row: {"reward": -2.0} for row in (33, 44, 55)})
    change(copy, "artworks", {3: {"caption": ""}})
    with pytest.raises(LogError) as caught:
        Log.load(copy)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3  # the heading, and a line for each fault
    assert any("impressions.parquet row 33, column reward: -2.0" in s and "and 2 more rows" in s for s in lines)


def test_earlier_and_truth_are_optional_and_so_are_year_and_image(copy):
    for name in ("earlier", "truth"):
        (copy / f"{name}.parquet").unlink()
    change(copy, "titles", {1: {"year": None}})
    log = Log.load(copy)
    assert log.earlier is None and log.truth is None and log.artworks["image"].null_count == len(log.artworks)


def test_histories_may_be_empty_and_impressions_may_not(copy):
    for name in ("histories", "impressions"):
        path = copy / f"{name}.parquet"
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 0), path)
        if name == "histories":
            log = Log.load(copy)
            assert not History(log.titles, log.histories).genre_profile(log.impressions).any()
            start, stop = History(log.titles, log.histories).spans(log.impressions)
            assert (start == stop).all()
    with pytest.raises(LogError, match="impressions.parquet has no rows"):
        Log.load(copy)


# Faults of files


@pytest.mark.parametrize("file", ["titles", "artworks", "histories", "impressions"])
def test_missing_file_is_named(copy, file):
    (copy / f"{file}.parquet").unlink()
    with pytest.raises(LogError, match=rf"{file}.parquet is missing; a log needs titles, artworks, histories, impres"):
        Log.load(copy)


def test_optional_file_that_the_manifest_lists_is_missed(written, tmp_path):
    folder = shutil.copytree(written, tmp_path / "log")
    (folder / "truth.parquet").unlink()
    with pytest.raises(LogError, match="truth.parquet is missing"):
        Log.load(folder)


@pytest.mark.parametrize(
    "file, column", [("titles", "genres"), ("impressions", "propensity"), ("truth", "expected_reward")]
)
def test_missing_column_is_named(copy, file, column):
    path = copy / f"{file}.parquet"
    pd.read_parquet(path).drop(columns=column).to_parquet(path)
    with pytest.raises(LogError, match=rf"{file}.parquet: column {column} is missing; its columns must be"):
        Log.load(copy)


@pytest.mark.parametrize(
    "file, column, values, remedy",
    [
        ("impressions", "propensity", lambda n: ["half"] * n, "store it as double"),
        ("impressions", "shown", lambda n: [0.5] * n, "store it as int32"),
        ("impressions", "candidates", lambda n: ["a000001"] * n, "store it as list"),
        ("titles", "year", lambda n: ["MCMXC"] * n, "store it as int32"),
        ("histories", "timestamp", lambda n: ["2025-01-01"] * n, "store UTC timestamps"),
    ],
)
def test_column_of_another_type_is_named(copy, file, column, values, remedy):
    path = copy / f"{file}.parquet"
    frame = pd.read_parquet(path)
    frame[column] = values(len(frame))
    frame.to_parquet(path)
    with pytest.raises(LogError, match=rf"(?s){file}.parquet, column {column}: type .*{remedy}"):
        Log.load(copy)


@pytest.mark.parametrize("file", ["histories", "impressions"])
def test_time_without_zone_is_refused(copy, file):
    path = copy / f"{file}.parquet"
    frame = pd.read_parquet(path)
    frame["timestamp"] = frame["timestamp"].dt.tz_localize(None)
    frame.to_parquet(path)
    with pytest.raises(LogError, match=rf"{file}.parquet, column timestamp: type timestamp.* has no time zone; store"):
        Log.load(copy)


def test_truncated_parquet_is_named(copy):
    path = copy / "impressions.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LogError, match="impressions.parquet cannot be read as Parquet"):
        Log.load(copy)


def test_changed_file_is_told_by_its_checksum(written, tmp_path):
    folder = shutil.copytree(written, tmp_path / "log")
    change(folder, "impressions", {0: {"reward": 1 - cell(folder, "impressions", "reward", 0)}})
    with pytest.raises(LogError, match="impressions.parquet: its sha256 is not the one in manifest.json"):
        Log.load(folder)
    (folder / "manifest.json").unlink()
    Log.load(folder)


def test_damaged_manifest_and_missing_folder_are_named(copy):
    with pytest.raises(LogError, match="nowhere is not a folder"):
        Log.load(copy / "nowhere")
    others = ("[]", '{"files": ["a.parquet"]}', '{"files": {"titles.parquet": "9f86d0"}}')
    for text, words in (("{", "is not JSON"), *((text, "is not a log's manifest, but another") for text in others)):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(LogError, match=f"manifest.json {words}"):
            Log.load(copy)


def test_validation_of_a_log_in_memory_names_its_table(small_log):
    bad = small_log.impressions.set_column(7, "reward", pc.multiply(pc.add(small_log.impressions["reward"], 1.0), -1.0))
    with pytest.raises(LogError, match="impressions.parquet row 0, column reward"):
        dataclasses.replace(small_log, impressions=bad).validate()


# Ids that match nobody


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("histories", "user_id"),
        ("impressions", "title_id"),
        ("artworks", "artwork_id"),
        ("impressions", "candidates"),
    ],
)
def test_ids_that_are_floats_are_refused(copy, file, column):
    path = copy / f"{file}.parquet"
    table = pq.read_table(path)
    n = len(table)
    values = [[2e10 + i] for i in range(n)] if column == "candidates" else np.arange(n) + 2e10
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    pq.write_table(table, path)
    with pytest.raises(LogError, match=rf"{file}.parquet, column {column}: type .*double.*20000000000.*integers"):
        Log.load(copy)


def respelt(copy, spell) -> None:
    """Spell the users of the histories otherwise."""
    path = copy / "histories.parquet"
    frame = pd.read_parquet(path)
    frame["user_id"] = [spell(user) for user in frame["user_id"]]
    frame.to_parquet(path)


@pytest.mark.parametrize(
    ("spell", "difference"),
    [
        (lambda user: f" {user}", "spaces around them"),
        (str.upper, "capital and small letters"),
        (lambda user: f"{user}.0", "a trailing .0"),
        (lambda user: user.replace("u", "user-"), "what stands around their digits"),
        (lambda user: str(int(user[1:])), "what stands around their digits"),
    ],
)
def test_a_log_whose_users_nobody_knows_is_refused_with_both_spellings(copy, spell, difference):
    respelt(copy, spell)
    first = cell(copy, "impressions", "user_id", 0)
    message = rf"user_id: {first!r} is, as every other user .* not in histories.parquet .*{difference}\)"
    with pytest.raises(LogError, match=message):
        Log.load(copy)


def test_a_log_that_knows_hardly_anybody_is_warned_of(copy):
    users = sorted(set(pd.read_parquet(copy / "impressions.parquet")["user_id"]))
    known = pd.read_parquet(copy / "histories.parquet")["user_id"].iloc[0]
    respelt(copy, lambda user: user if user == known else f"{user}.0")
    with pytest.warns(LogWarning, match=r"only \d+ of [\d,]+ users are .*a trailing .0.*count as new"):
        log = Log.load(copy)
    assert len(users) > 100 and len(log.impressions)


def test_a_log_without_histories_is_valid(small_log):
    bare = dataclasses.replace(small_log, histories=small_log.histories.slice(0, 0))
    bare.validate()
    assert any("histories.parquet has no rows" in line for line in bare.warnings())


def test_an_ordinary_log_is_not_warned_of(small_log):
    assert small_log.warnings() == []


def test_unknown_artworks_that_are_spelt_otherwise_are_told(copy):
    path = copy / "artworks.parquet"
    frame = pd.read_parquet(path)
    frame["title_id"] = frame["title_id"].str.upper()
    frame.to_parquet(path)
    with pytest.raises(LogError, match="artworks.parquet row 0, column title_id.*differ in capital and small letters"):
        Log.load(copy)


# Valid, but odd


def with_column(log: Log, name: str, values) -> Log:
    table = log.impressions
    place = table.column_names.index(name)
    column = pa.array(list(values), table.schema.field(place).type)
    return dataclasses.replace(log, impressions=table.set_column(place, table.schema.field(place), column))


def test_production_in_another_order_than_candidates_is_warned_of(small_log):
    rows, shown = small_log.impressions["production"].to_pylist(), small_log.arrays().shown
    ordered = with_column(small_log, "production", [sorted(row, reverse=True) for row in rows])
    chosen_first = [[row[k], *row[:k], *row[k + 1 :]] for row, k in zip(rows, shown, strict=True)]
    first = with_column(small_log, "production", chosen_first)
    for log, reason in ((ordered, "in another order (sorted?)"), (first, "have the artwork that was shown first")):
        log.validate()
        (line,) = log.warnings()
        assert "column propensity" in line and f"of {len(rows):,} rows" in line
        assert reason in line


def test_a_log_by_another_policy_than_production_is_warned_of_without_blame(small_log):
    uniform = 1 / small_log.arrays().mask.sum(axis=1)
    (line,) = with_column(small_log, "propensity", uniform).warnings()
    assert "but that of a random choice: production is then estimated like any other policy" in line
    other = np.random.default_rng(0).uniform(0.1, 0.9, len(uniform))
    (line,) = with_column(small_log, "propensity", other).warnings()
    assert "if another policy than production logged these rows, this is as it should be" in line


def test_rounded_probabilities_are_taken_as_they_are_meant_and_said(small_log):
    rounded = [[round(p, 4) for p in row] for row in small_log.impressions["production"].to_pylist()]
    log = with_column(small_log, "production", rounded)
    log = with_column(log, "propensity", [row[k] for row, k in zip(rounded, log.arrays().shown, strict=True)])
    log.validate()
    (line,) = log.warnings()
    assert "rows are rounded (sums or values off by up to" in line
    np.testing.assert_allclose(log.arrays().production.sum(axis=1), 1, atol=1e-12)
    single = with_column(small_log, "propensity", [1.0000001] * len(rounded))  # float32
    assert not any(line.startswith("impressions") and "rounded" in line for line in single.warnings())
    assert (single.arrays().propensity == 1).all()


def test_the_contract_and_the_estimators_tolerate_the_same():
    pass
    from artlib.ope import validation

    ours = contract.TOLERANCE, contract.TOLERANCE / 2, contract.MOST_OFF, contract.ROUNDING
    assert ours == (validation.TOLERANCE, validation.HALF_DECIMAL, validation.COARSEST, validation.ROUNDING)
    assert (contract.SMALLEST, contract.LARGEST) == (validation.SMALLEST, validation.LARGEST)


@pytest.mark.parametrize("row", [[0.3333, 0.3333, 0.3333], [0.25005, 0.25005, 0.25, 0.25], [0.99995, 0.00005, 0.0001]])
def test_a_row_at_the_edge_of_what_four_decimals_round_is_taken_by_contract_and_estimators(row):
    from artlib import ope

    table = pa.table({"candidates": [["a"] * len(row)], "production": [row]})
    assert list(contract._production(table)) == []
    with pytest.warns(UserWarning, match="target"):
        feedback = ope.Feedback([1.0], [0], [row[0]], [row])
    assert feedback.target.sum() == pytest.approx(1, abs=1e-12)
    far = pa.table({"candidates": [["a"] * len(row)], "production": [[p * 0.999 for p in row]]})
    assert "does not sum to 1" in next(contract._production(far))


@pytest.mark.parametrize(("column", "value"), [("propensity", "2e-308"), ("reward", "1e+200")])
def test_what_the_estimators_cannot_compute_with_is_refused_before_training(copy, column, value):
    change(copy, "impressions", {2: {column: float(value)}})
    with pytest.raises(LogError, match=rf"impressions.parquet row 2, column {column}: {re.escape(value)}"):
        Log.load(copy)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_rows_or_rewards_is_warned_of(small_log, split):
    names = small_log.impressions["split"].to_numpy()
    without = small_log.take(np.flatnonzero(names != split))
    assert any(f"no row is '{split}'; nothing can be" in line for line in without.warnings())
    reward = np.where(names == split, 0.0, small_log.impressions["reward"].to_numpy())
    (line,) = with_column(small_log, "reward", reward).warnings()
    assert f"no row of {split} has a reward above 0 (yet); nothing can be" in line


def test_what_cannot_be_judged_is_warned_of(small_log):
    one = with_column(small_log, "user_id", ["u000001"] * len(small_log.impressions))
    one = dataclasses.replace(one, histories=one.histories.slice(0, 0))
    assert any("all test rows are of one user, 'u000001'; intervals" in line for line in one.warnings())
    titles = small_log.split("test").arrays().title
    _, first = np.unique(titles, return_index=True)
    test = np.flatnonzero(small_log.impressions["split"].to_numpy() == "test")
    others = np.setdiff1d(np.arange(len(small_log.impressions)), test)
    few = small_log.take(np.concatenate([others, test[first]]))
    assert any("no title has 4 test rows; 04_analyze_errors" in line for line in few.warnings())
    shown = small_log.arrays().shown
    rows = small_log.impressions["candidates"].to_pylist()
    single = with_column(small_log, "candidates", [[row[k]] for row, k in zip(rows, shown, strict=True)])
    for name, value in (("shown", 0), ("propensity", 1.0), ("production", [1.0])):
        single = with_column(single, name, [value] * len(rows))
    single = dataclasses.replace(single, truth=None)
    single.validate()
    assert any("all test rows have one candidate" in line for line in single.warnings())


# What a model reads


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\u00ad", "\x00", "\u200d", "\u202e \u2060"])
@pytest.mark.parametrize(("file", "column"), [("artworks", "caption"), ("titles", "name")])
def test_text_that_nobody_sees_is_as_good_as_empty(copy, file, column, text):
    change(copy, file, {1: {column: text}})
    with pytest.raises(LogError, match=rf"{file}.parquet row 1, column {column}: .* (is empty|shows nothing to read)"):
        Log.load(copy)


@pytest.mark.parametrize("caption", [None, " \u200b"])
def test_a_missing_caption_is_to_be_written_by_hand_or_from_the_picture(copy, caption):
    change(copy, "artworks", {2: {"caption": caption, "image": "a.png"}, 5: {"caption": caption}})
    with pytest.raises(LogError) as caught:
        Log.load(copy)
    pictured, bare = str(caught.value).splitlines()[1:3]
    assert "artworks.parquet row 2, column caption" in pictured
    assert pictured.endswith("or have its picture described: python -m artlib caption FOLDER")
    assert "artworks.parquet row 5, column caption" in bare and bare.endswith("; describe the artwork in words")


def test_text_is_read_on_one_line_and_spelt_as_it_was():
    pass

    assert contract.one_line(" a\n\tb \x00 c ") == "a b c"
    assert contract.one_line("super\u00adhero \ufeffz\u200bone \u202eabc") == "superhero zone abc"
    for spelt in ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469\u200d\U0001f467"):
        assert contract.one_line(spelt) == spelt


@given(st.text())
def test_one_line_is_visible_and_stays_as_it_is(text):
    pass

    line = contract.one_line(text)
    assert all(char.isprintable() or char in contract._JOINERS for char in line)
    assert contract.one_line(line) == line and line == line.strip() and "  " not in line
    assert "".join(filter(str.isalnum, line)) == "".join(filter(str.isalnum, text))


@pytest.mark.slow
def test_log_of_the_papers_size_builds_in_two_minutes_and_validates_in_ten_seconds():
    start = time.perf_counter()
    log = fiction.build(n_train=110_000, n_validation=5000, n_test=5000)
    built = time.perf_counter()
    log.validate()
    validated = time.perf_counter()
    print(f"\nbuilt in {built - start:.1f} s, validated in {validated - built:.1f} s")
    assert built - start < 120 and validated - built < 10
