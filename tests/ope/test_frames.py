"""From a data frame to a Feedback: the same as by hand, and faults named in the frame's own terms."""

import doctest

import numpy as np
import pandas as pd
import pytest

from artlib import ope
from artlib.ope import feedback as feedback_module

FIELDS = ("reward", "action", "propensity", "target", "q_hat", "mask", "cluster", "logging")


def ragged() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "reward": [1.0, 0.0, 0.5],
            "action": [1, 0, 2],
            "propensity": [0.5, 1.0, 0.2],
            "target": [[0.5, 0.5], [1.0], np.array([0.2, 0.2, 0.6])],
            "q_hat": [[0.1, 0.2], (0.3,), [0.1, 0.2, 0.3]],
            "cluster": ["ann", "ann", "bob"],
            "logging": [[0.5, 0.5], [1.0], [0.4, 0.4, 0.2]],
            "ids": [["a", "b"], ["c"], ["d", "e", "f"]],
        },
        index=[17, 23, 42],
    )


BY_HAND = ope.Feedback(
    reward=[1.0, 0.0, 0.5],
    action=[1, 0, 2],
    propensity=[0.5, 1.0, 0.2],
    target=[[0.5, 0.5, 0], [1, 0, 0], [0.2, 0.2, 0.6]],
    q_hat=[[0.1, 0.2, 0], [0.3, 0, 0], [0.1, 0.2, 0.3]],
    mask=[[True, True, False], [True, False, False], [True, True, True]],
    cluster=["ann", "ann", "bob"],
    logging=[[0.5, 0.5, 0], [1, 0, 0], [0.4, 0.4, 0.2]],
)


def assert_same(found: ope.Feedback, expected: ope.Feedback = BY_HAND, fields=FIELDS) -> None:
    for name in fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_a_frame_of_lists_is_padded_and_masked_as_by_hand():
    assert_same(ope.Feedback.from_frame(ragged()))


def test_columns_may_have_any_names_and_ids_are_found_among_candidates():
    frame = ragged().assign(action=["b", "c", "f"])
    frame = frame.rename(columns={name: f"my {name}" for name in frame})
    named = {name: f"my {name}" for name in FIELDS if name != "mask"}
    assert_same(ope.Feedback.from_frame(frame, **named, candidates="my ids"))


def test_a_column_per_candidate_is_empty_where_there_is_none():
    frame = ragged()
    for name in ("target", "q_hat", "logging"):
        wide = pd.DataFrame(frame.pop(name).map(list).tolist(), index=frame.index)
        frame[[f"{name} 0", f"{name} 1", f"{name} 2"]] = wide
    names = {name: [f"{name} {i}" for i in range(3)] for name in ("target", "q_hat", "logging")}
    assert_same(ope.Feedback.from_frame(frame, **names))
    frame = frame.assign(action=["b", "c", "f"])
    assert_same(ope.Feedback.from_frame(frame, **names, candidates="ids"))


def test_what_is_not_there_or_not_wanted_is_left_out():
    bare = ope.Feedback.from_frame(ragged().drop(columns=["q_hat", "cluster", "logging"]))
    unwanted = ope.Feedback.from_frame(ragged(), q_hat=None, cluster=None, logging=None)
    for found in (bare, unwanted):
        assert found.q_hat is None and found.cluster is None and found.logging is None
        assert_same(found, fields=("reward", "action", "propensity", "target", "mask"))


def test_nullable_and_parquet_columns_are_read(tmp_path):
    frame = ragged().astype({"reward": "Float64", "action": "Int64", "cluster": "category"})
    assert_same(ope.Feedback.from_frame(frame))
    ragged().to_parquet(tmp_path / "log.parquet")
    assert_same(ope.Feedback.from_frame(pd.read_parquet(tmp_path / "log.parquet")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [1.0, np.nan, 0]}, r"reward at row 1 is nan: .* \(column 'reward' of the frame, index label 23\)"),
        ({"reward": [1.0, "x", 0]}, r"reward cannot be read as numbers: row 1 has 'x'.* \(column 'reward' .* 23\)"),
        ({"reward": pd.array([1, 0, None], "Int64")}, r"reward at row 2 is nan: .* \(column 'reward' .* 42\)"),
        (
            {"propensity": [0.5, 1, 0]},
            r"propensity at row 2 is 0\.0: must be in .* \(column 'propensity' .* label 42\)",
        ),
        ({"action": [1, 1, 2]}, r"action at row 1 is 1: is a padded cell; .* \(column 'action' .* index label 23\)"),
        (
            {"target": [[0.5, 0.4], [1], [0.2, 0.2, 0.6]]},
            r"sum of target at row 0 is 0\.9: .* \(column 'target' .* 17\)",
        ),
        ({"target": [[0.5, 0.5], [], [0, 0, 1]]}, r"target at row 1 is empty: an impression needs .* index label 23\)"),
        ({"target": [[0.5, 0.5], None, [0, 0, 1]]}, r"target at row 1 is None: must be a list of numbers, .* 23\)"),
        ({"target": ["[0.5, 0.5]", [1.0], [0, 0, 1]]}, r"target at row 0 is '\[0\.5, 0\.5\]': .* json\.loads .* 17\)"),
        ({"target": [[0.5, "x"], [1.0], [0, 0, 1]]}, r"target at row 0 is \[0\.5, 'x'\]: must be a list of numbers"),
        ({"q_hat": [[0.1, 0.2], [0.3], [0.1]]}, r"q_hat at row 2 has 1 candidates but target has 3: .* label 42\)"),
        ({"logging": [[0.5, 0.3, 0.2], [1.0], [0.4, 0.4, 0.2]]}, r"logging at row 0 has 3 candidates but target has 2"),
        (
            {"cluster": ["ann", None, "bob"]},
            r"cluster at row 1 is .*: must not be missing; .* \(column 'cluster' .* 23\)",
        ),
    ],
)
def test_a_fault_names_the_frames_column_and_row(change, message):
    with pytest.raises(ValueError, match=message):
        ope.Feedback.from_frame(ragged().assign(**change))


@pytest.mark.parametrize(
    ("action", "ids", "message"),
    [
        (
            ["b", "x", "f"],
            None,
            r"action at row 1 is 'x': must be one of its candidates, .* they are 'c' \(column 'act",
        ),
        ([2, 3, 6], [["1", "2"], ["3"], list("456")], r"action at row 0 is 2: .* they are '1', '2' \(column 'action'"),
        (["b", "c", "f"], [["b", "b"], ["c"], list("def")], r"action at row 0 is 'b': .* and there once; .* 'b', 'b'"),
        (
            ["b", "c", "f"],
            [["a", "b"], "c", list("def")],
            r"candidates at row 1 is 'c' but target has 1: .* 'ids'.* 23",
        ),
        (["b", "c", "f"], [["b"], ["c"], list("def")], r"candidates at row 0 is 1 ids but target has 2: must be"),
    ],
)
def test_a_shown_id_must_be_one_of_the_candidates(action, ids, message):
    frame = ragged().assign(action=action)
    if ids is not None:
        frame = frame.assign(ids=ids)
    with pytest.raises(ValueError, match=message):
        ope.Feedback.from_frame(frame, candidates="ids")


def test_a_missing_id_of_a_nullable_column_is_named():
    frame = ragged()
    frame = frame.assign(action=pd.array([None, *frame["ids"].map(lambda ids: ids[0])[1:]], dtype="string"))
    with pytest.raises(ValueError, match=r"action at row 0 is .*: must be one of its candidates"):
        ope.Feedback.from_frame(frame, candidates="ids")


def test_a_column_per_candidate_is_named_in_its_fault():
    frame = (
        ragged().drop(columns=["q_hat", "logging"]).assign(a=[0.5, 1.5, 0.0], b=[0.5, np.nan, 0.5], c=[0, np.nan, 0.5])
    )
    with pytest.raises(ValueError, match=r"target at row 1, column 0 is 1\.5: .* \(column 'a' of the frame, .* 23\)"):
        ope.Feedback.from_frame(frame, target=["a", "b", "c"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"reward": "played"},
            r"the frame has no column 'played' for reward: give the name of one, reward=\.\.\.; its col",
        ),
        ({"cluster": "user"}, r"the frame has no column 'user' for cluster"),
        ({"target": ["p0", "p1"]}, r"the frame has no column 'p0' for target"),
        ({"candidates": "items"}, r"the frame has no column 'items' for candidates"),
        ({"reward": None}, r"the frame has no column None for reward"),
        ({"reward": ["reward", "action"]}, r"reward is \['reward', 'action'\]: it must be one column"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(arguments, message):
    with pytest.raises(ValueError, match=message):
        ope.Feedback.from_frame(ragged(), **arguments)


def test_frames_without_rows_or_with_twin_columns_and_other_tables_are_refused():
    frame = ragged()
    with pytest.raises(ValueError, match=r"reward has no rows"):
        ope.Feedback.from_frame(frame.iloc[:0])
    with pytest.raises(ValueError, match=r"the frame has 2 columns 'reward' for reward"):
        ope.Feedback.from_frame(pd.concat([frame, frame[["reward"]]], axis=1))
    with pytest.raises(ValueError, match=r"frame is a dict: it must be a pandas DataFrame"):
        ope.Feedback.from_frame(frame.to_dict())


def test_the_documented_example_runs():
    found = doctest.testmod(feedback_module)
    assert found.attempted >= 3 and found.failed == 0
