"""Sums of a log read in pieces say what the log in memory says, and faults are named by file and row."""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import dataset

from artlib import ope
from artlib.ope import batches
from artlib.ope.synthetic import simulate

TARGETS = {"logging": "pi logging", "softmax": "pi softmax", "greedy": "pi greedy"}
FIELDS = ("reward", "action", "propensity", "target", "q_hat", "mask", "cluster", "logging")
FROM_ROWS = ("sgips", "sgdr")


def shuffled(users: int, clustered: bool = True, labels=str) -> dict[str, ope.Feedback]:
    """The same log under three targets, users' rows far apart; ragged, with a reward model and all propensities."""
    logs = {t: simulate(users, target=t, seed=3, exploration=0.3).feedback for t in TARGETS}
    order = np.random.default_rng(0).permutation(logs["logging"].n)
    found = {}
    for name, log in logs.items():
        fields = {field: getattr(log, field)[order] for field in FIELDS}
        fields["cluster"] = np.array([labels(each) for each in fields["cluster"]]) if clustered else None
        found[name] = ope.Feedback(**fields)
    return found


def framed(logs: dict[str, ope.Feedback]) -> pd.DataFrame:
    one = logs["logging"]

    def lists(array):
        return [row[cells].tolist() for row, cells in zip(array, one.mask, strict=True)]

    frame = pd.DataFrame({name: getattr(one, name) for name in ("reward", "action", "propensity")})
    frame = frame.assign(q_hat=lists(one.q_hat), logging=lists(one.logging))
    if one.cluster is not None:
        frame["user"] = one.cluster
    return frame.assign(**{TARGETS[name]: lists(log.target) for name, log in logs.items()})


def parted(frame: pd.DataFrame, folder, parts: int = 3) -> str:
    """Hive partitions in the order of the rows, two row groups each."""
    for day, rows in enumerate(np.array_split(np.arange(len(frame)), parts)):
        path = folder / f"day={day}"
        path.mkdir(parents=True)
        frame.iloc[rows].to_parquet(path / "part.parquet", row_group_size=len(rows) // 2 + 1, index=False)
    return str(folder)


def record_batches(frame: pd.DataFrame, rows: int) -> list[pa.RecordBatch]:
    return pa.Table.from_pandas(frame, preserve_index=False).to_batches(max_chunksize=rows)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(batches, "ROWS", 64)


@pytest.fixture(scope="module")
def logs() -> dict[str, ope.Feedback]:
    return shuffled(100)


def assert_same(sums: dict[str, ope.Sums], logs: dict[str, ope.Feedback], estimators, **arguments) -> None:
    for method in ("percentile", "bca", "normal", "asymptotic-sequence"):
        settings = {"method": method, "n_bootstrap": 200, "seed": 5}
        found = ope.compare(sums, "logging", estimators, **settings)
        expected = ope.compare(logs, "logging", estimators, **settings, **arguments)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("labels", [str, int, lambda user: user / 2])
def test_partitions_give_the_table_of_the_log_in_memory(labels, tmp_path):
    """All estimators, diagnostics and verdicts; users come back in every partition, under labels of any type."""
    logs = shuffled(60, labels=labels)
    sums = ope.read_sums(
        parted(framed(logs), tmp_path),
        TARGETS,
        (names := [name for name in ope.ESTIMATORS if name not in FROM_ROWS]),
        cluster="user",
    )
    assert sums["greedy"].n == logs["greedy"].n and sums["greedy"].n_clusters == logs["greedy"].n_clusters
    assert_same(sums, logs, names)


def test_every_row_is_its_own_cluster_where_there_is_no_column_of_clusters(tmp_path):
    logs = shuffled(60, clustered=False)
    sums = ope.read_sums(parted(framed(logs), tmp_path), TARGETS, ["ips", "sndr"])
    assert sums["softmax"].n_clusters == logs["softmax"].n
    assert_same(sums, logs, ["ips", "sndr"])


def test_every_source_gives_the_same_whatever_its_batches(logs, tmp_path):
    frame = framed(logs)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    encoded = table.set_column(
        table.schema.get_field_index("user"), "user", table["user"].dictionary_encode()
    )  # as pandas' categories, or a column that folders are named after
    expected = ope.compare(logs, "logging", "dr")
    for source in (
        dataset.dataset(parted(frame, tmp_path), partitioning="hive"),
        table,
        encoded,
        iter(record_batches(frame, 40)),
        record_batches(frame, len(frame)),
        pa.RecordBatchReader.from_batches(table.schema, record_batches(frame, 133)),
    ):
        found = ope.compare(ope.read_sums(source, TARGETS, "dr", cluster="user"), "logging", "dr")
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)


def test_a_policy_alone_is_estimated_and_diagnosed_as_in_memory(logs):
    sums = ope.read_sums(record_batches(framed(logs), 100), TARGETS, "switch-dr", parameter=3, cluster="user")
    for name, log in logs.items():
        found = ope.estimate(sums[name], "switch-dr").as_dict()
        expected = ope.estimate(log, "switch-dr", parameter=3).as_dict()
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if not isinstance(value, str):
                value = pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)
            assert found[key] == value, key
        assert ope.diagnose(sums[name]).ess == pytest.approx(ope.diagnose(log).ess)
    assert ope.estimate(sums["greedy"], "switch-dr").parameters == {"threshold": 3.0}


def test_every_verdict_says_that_propensities_are_estimated(logs):
    sums = ope.read_sums(record_batches(framed(logs), 100), TARGETS, propensities="estimated", cluster="user")
    assert ope.compare(sums, "logging").verdict.str.startswith("estimated propensities: ").all()


def test_a_user_has_one_cluster_wherever_the_rows_are(tmp_path):
    """By hand: two users in three files, SNIPS of 3 / 4 against the 1 / 2 of uniform logging."""
    frame = pd.DataFrame(
        {
            "reward": [1.0, 0.0, 1.0, 0.0],
            "action": [0, 1, 0, 1],
            "propensity": 0.5,
            "user": ["ann", "bob", "bob", "ann"],
            "mine": [[0.75, 0.25]] * 4,
        }
    )
    sums = ope.read_sums(parted(frame, tmp_path, 4), ["mine"], cluster="user")["mine"]
    assert sums.sizes.tolist() == [2, 2]
    assert sums.block("snips").tolist() == [[1.5, 2.0], [1.5, 2.0]]
    assert ope.estimate(sums).value == 0.75


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("pi softmax", [0.5, 0.6], r"sum of target at row 13 is 1\.1.*column 'pi softmax' of .*day=1.*, row 64 of it"),
        ("pi logging", [-0.5, 1.5], r"target at row 13, column 0 is -0\.5.*column 'pi logging' of .*day=1.*, row 64"),
        (
            "pi greedy",
            [1.0],
            r"target at row 13 has 1 candidates but column 'pi logging' has 2.*'pi greedy' of .*row 64",
        ),
        ("pi greedy", None, r"target at row 13 is .*: must be a list of numbers.*column 'pi greedy' of .*row 64 of it"),
        (
            "propensity",
            0.0,
            r"propensity at row 13 is 0\.0.*column 'propensity' of .*day=1.*part\.parquet, row 64 of it",
        ),
        ("user", None, r"cluster at row 13 is <NA>: must not be missing.*column 'user' of .*day=1.*, row 64 of it"),
        ("action", 9, r"action at row 13 is 9.*column 'action' of .*day=1.*row 64 of it"),
    ],
)
def test_a_fault_is_named_by_file_and_row(column, value, message, tmp_path):
    frame = pd.DataFrame({"reward": 1.0, "action": 0, "propensity": 0.5, "user": ["ann", "bob"] * 100})
    frame = frame.assign(**dict.fromkeys(TARGETS.values(), [[0.5, 0.5]] * 200))
    frame[column] = [*frame[column][:164], value, *frame[column][165:]]
    folder = parted(frame, tmp_path, 2)
    with pytest.raises(ValueError, match=message):
        ope.read_sums(folder, TARGETS, cluster="user")


def test_rounding_is_corrected_as_in_memory_and_said_once(logs):
    frame = framed(logs)
    for name in TARGETS.values():
        frame[name] = frame[name].map(lambda row: np.round(row, 4).tolist())
    with pytest.warns(
        UserWarning, match=r"target does not sum to 1 in .*in the batches.*times more in other"
    ) as caught:
        sums = ope.read_sums(record_batches(frame, 100), TARGETS, cluster="user")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rounded = {
            name: ope.Feedback.from_frame(frame, target=column, cluster="user") for name, column in TARGETS.items()
        }
    assert_same(sums, rounded, "snips")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "sgips"}, r"the lam of sgips would be chosen from all rows, which are not kept; give a number"),
        ({"estimator": "dros", "parameter": "slope"}, r"parameter is 'slope': the shrinkage of dros would be chosen"),
        ({"estimator": "ips", "parameter": 3.0}, r"parameter is 3\.0 but ips has none"),
        ({"estimator": "magic"}, r"estimator is 'magic': it must be one of"),
        ({"targets": "mine"}, r"targets is 'mine': it must be a list of columns"),
        ({"targets": []}, r"targets is \[\]: it must be a list"),
        ({"targets": ["theirs"]}, r"no column 'theirs' for target"),
        ({"cluster": "member"}, r"no column 'member' for cluster"),
        ({"log": []}, r"log has no rows"),
        ({"log": ["a.parquet"]}, r"log yields a str: it must be a folder of Parquet files, a pyarrow Dataset"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(logs, arguments, message):
    given = {"log": record_batches(framed(logs).iloc[:50], 20), "targets": TARGETS, "cluster": "user"} | arguments
    with pytest.raises(ValueError, match=message):
        ope.read_sums(**given)


def test_batches_must_have_the_same_columns(logs):
    frame = framed(logs)
    source = record_batches(frame.iloc[:30], 30) + record_batches(frame.iloc[30:].drop(columns="q_hat"), 30)
    with pytest.raises(ValueError, match=r"the batch from row 30 has columns .*, those before had .*q_hat"):
        ope.read_sums(source, TARGETS, cluster="user")


def test_sums_answer_only_what_they_were_read_for(logs):
    source = record_batches(framed(logs), 100)
    sums = ope.read_sums(source, TARGETS, "clipped-ips", parameter=5, cluster="user")
    again = ope.read_sums(source, TARGETS, "clipped-ips", parameter=5, cluster="user")
    with pytest.raises(ValueError, match=r"estimator is 'dr', but the log was read for clipped-ips"):
        ope.compare(sums, "logging", "dr")
    with pytest.raises(ValueError, match=r"parameter is 7, but the log was read with clip 5 for clipped-ips"):
        ope.estimate(sums["greedy"], "clipped-ips", parameter=7)
    assert ope.estimate(sums["greedy"], "clipped-ips", parameter=5).rule == "given"
    with pytest.raises(ValueError, match=r"method is 'bernstein', which needs the rows"):
        ope.estimate(sums["greedy"], "clipped-ips", method="bernstein")
    with pytest.raises(ValueError, match=r"policy 'greedy' was read apart"):
        ope.compare(sums | {"greedy": again["greedy"]}, "logging", "clipped-ips")
    with pytest.raises(ValueError, match=r"one is a Feedback, one Sums"):
        ope.compare(sums | {"greedy": logs["greedy"]}, "logging", "clipped-ips")


def test_arrow_lists_of_any_kind_are_read_as_pandas_lists_are():
    """Offsets that do not start at 0, large and fixed-size lists, integers, a column of NaN."""
    rows = [[0.5, 0.5], [1.0], [0.25, 0.25, 0.5], [1.0]]
    frame = pd.DataFrame({"reward": 1.0, "action": 0, "propensity": 0.5, "target": rows})
    expected = ope.Feedback.from_frame(frame.iloc[1:]).target
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float32())):
        table = pa.table(frame.to_dict("list")).set_column(3, "target", pa.array(rows, kind))
        arrow = table.slice(1).to_pandas(types_mapper=pd.ArrowDtype)
        np.testing.assert_array_equal(ope.Feedback.from_frame(arrow).target, expected)
    fixed = pa.array([[0, 1], [1, 0]], pa.list_(pa.int8(), 2))
    table = pa.table({"reward": [1.0, 0.0], "action": [0, 0], "propensity": [0.5, 0.5], "target": fixed})
    arrow = table.slice(1).to_pandas(types_mapper=pd.ArrowDtype)
    assert ope.Feedback.from_frame(arrow).target.tolist() == [[1.0, 0.0]]


def test_independent_rows_in_random_groups_have_the_standard_error_of_rows():
    """Of documentation: sums over 4,096 groups drawn at random in place of 40,000 rows, within three times 1.1 %."""
    log = simulate(40_000, seed=2, exploration=0.3).feedback
    rows = np.unique(log.cluster, return_index=True)[1]  # one of each user, hence independent
    fields = {name: getattr(log, name)[rows] for name in ("reward", "action", "propensity", "target", "mask")}
    alone = ope.estimate(ope.Feedback(**fields), method="bca")
    groups = np.random.default_rng(0).integers(2**12, size=len(rows))
    grouped = ope.estimate(ope.Feedback(**fields, cluster=groups), method="bca")
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.std_error == pytest.approx(alone.std_error, rel=3 / np.sqrt(2 * 2**12))
    assert grouped.upper - grouped.lower == pytest.approx(alone.upper - alone.lower, rel=0.1)


def test_a_policy_that_matches_in_one_batch_only_has_a_value_and_one_that_never_does_has_none():
    frame = pd.DataFrame({"reward": [1.0, 0.0] * 50, "action": 0, "propensity": 0.5})
    once, never = [[0.5, 0.5]] + [[0.0, 1.0]] * 99, [[0.0, 1.0]] * 100
    sums = ope.read_sums(record_batches(frame.assign(once=once, never=never), 10), ["once", "never"])
    assert ope.estimate(sums["once"]).value == 1.0
    with pytest.warns(ope.EvaluationWarning, match="the target never chooses what was shown"):
        assert np.isnan(ope.estimate(sums["never"]).value)
