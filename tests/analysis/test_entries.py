"""Anyone's policy beside the built-in ones, from the command line."""

import json
import re
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from artlib import __main__ as cli
from artlib.analysis import entries, evaluation
from artlib.data import Log, LogError
from artlib.policies import answers, baselines, given
from artlib.running import report
from artlib.worlds import registry


@pytest.fixture(scope="module")
def folders(small_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    small_log.save(folder / "log")
    test = small_log.split("test")
    for name in ("random", "mine"):  # as a run's folder, in which built-in policies lie, too
        answers.save(folder / "policies", name, test, baselines.oracle(test))
    return folder


def test_a_policy_stands_beside_the_built_in_ones(folders, capsys):
    arguments = ["evaluate", str(folders / "log"), "--policy", str(folders / "policies"), "--bootstrap", "100"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in lines[1:]}
    assert names == {"random", "popular", "production", "oracle", "mine"}
    values = {line.split()[0]: line.split()[3] for line in lines[1:] if " truth " in line}
    assert values["mine"] == values["oracle"] > values["production"] > values["random"]


def test_lifts_can_be_over_any_of_the_policies(folders, small_log, tmp_path, capsys):
    arguments = ["evaluate", str(folders / "log"), "--policy", str(folders / "policies"), "--bootstrap", "100"]
    over = [*arguments, "--baseline", "mine"]
    assert cli.main([*over, "--out", str(tmp_path / "over.csv")]) == 0
    everything = pd.read_csv(tmp_path / "over.csv").query("slice == 'all'")
    own = everything[everything["policy"] == "mine"]
    assert set(own["estimator"]) == {"ips", "snips", "dr", "truth"} and (own["lift"] == 0).all()
    table = everything[everything["estimator"] == "truth"].set_index("policy")
    assert table.loc["mine", "lift"] == 0 and table.loc["production", "lift_upper"] < 0
    expected = evaluation.paired_lift(
        small_log.split("test"), baselines.untrained(small_log, small_log.split("test")), "oracle", ["random"], 100
    )
    found = table.loc["random", ["lift", "lift_lower", "lift_upper"]]  # "mine" is the oracle here
    np.testing.assert_allclose(found.astype(float), expected.iloc[0][found.index].astype(float), rtol=1e-6)
    assert "lift over mine" in capsys.readouterr().out and set(table["baseline"]) == {"mine"}
    assert cli.main([*arguments, "--baseline", "theirs"]) == 1
    assert "--baseline 'theirs' is none of the policies: mine, oracle, popular" in capsys.readouterr().err
    assert cli.main([*over, "--out", str(tmp_path / "over.json")]) == 1
    assert "an entry's lifts are over production, not mine" in capsys.readouterr().err


def test_what_dr_says_of_a_policy_hangs_on_no_other(small_log, tmp_path):
    test = small_log.split("test")
    answers.save(tmp_path, "text", test, baselines.oracle(test))
    alone = entries.judge(small_log, n_bootstrap=50).query("policy == 'popular' and slice == 'all'")
    beside = entries.judge(small_log, [tmp_path], n_bootstrap=50)
    beside = beside.query("policy == 'popular' and slice == 'all'")
    pd.testing.assert_series_equal(alone.set_index("estimator")["value"], beside.set_index("estimator")["value"])


def test_the_documented_policy_can_be_judged(folders, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].replace("LOG", str(folders / "log")), {})
    assert cli.main(["evaluate", str(folders / "log"), "--policy", "mine.parquet", "--bootstrap", "100"]) == 0
    values = {line.split()[0]: line.split()[3] for line in capsys.readouterr().out.splitlines() if " truth " in line}
    assert values["mine"] == values["random"]


def test_policies_are_judged_one_by_one_and_some_rows_at_a_time_with_the_same_estimates(
    folders, small_log, monkeypatch
):
    judged = {"log": small_log, "policies": [folders / "policies"], "n_bootstrap": 100}
    together = entries.judge(**judged)
    monkeypatch.setattr(evaluation, "ROWS", 7)
    kept, most, make = [], [], baselines.OnDemand.__getitem__

    def watched(policies, name):
        kept.append(weakref.ref(policy := make(policies, name).copy()))
        most.append(sum(one() is not None for one in kept))
        return policy

    monkeypatch.setattr(baselines.OnDemand, "__getitem__", watched)
    pd.testing.assert_frame_equal(entries.judge(**judged), together, rtol=1e-9)
    assert len(kept) == 5 and max(most) == 2  # the next, when the one before has not gone yet


def test_a_parameter_that_all_rows_decide_is_decided_by_all(small_log, monkeypatch):
    test = small_log.split("test")
    judged = small_log, test, dict(baselines.untrained(small_log, test)), ["sgips", "snips"], 50
    together = evaluation.evaluate(*judged)
    monkeypatch.setattr(evaluation, "ROWS", 7)
    pd.testing.assert_frame_equal(evaluation.evaluate(*judged), together, rtol=1e-9)


def test_the_page_names_every_frozen_log_with_its_digest():
    page = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text()
    frozen = {name: log.digest for world in registry.known().values() for name, log in world.frozen.items()}
    assert len(frozen) == 4
    for name, digest in frozen.items():
        assert re.search(rf"\| `{name}` \|.*\| {digest[:16]} \|", page) and f"## {name}\n" in page


def test_an_entry_holds_the_logs_digest_and_every_estimate(folders, small_log, tmp_path):
    policy, out = folders / "policies" / "mine.parquet", tmp_path / "mine.json"
    arguments = ["evaluate", str(folders / "log"), "--policy", str(policy), "--bootstrap", "100", "--out", str(out)]
    assert cli.main(arguments) == 0
    entry = json.loads(out.read_text())
    assert entry["log"] == {"name": None, "digest": small_log.digest()} and entry["split"] == "test"
    found = pd.DataFrame(entry["rows"]).set_index(["policy", "estimator"])
    truth = small_log.split("test").expected_reward().max(axis=1).mean()
    assert found.loc[("mine", "truth"), "value"] == pytest.approx(truth)
    assert set(found.index.get_level_values(1)) == {"ips", "snips", "dr", "truth"}


def test_all_estimates_can_be_kept_as_a_table(folders, small_log, tmp_path):
    table = entries.judge(small_log, n_bootstrap=100)
    entries.save(tmp_path / "all.parquet", small_log, table)
    entries.save(tmp_path / "all.csv", small_log, table)
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == len(pd.read_csv(tmp_path / "all.csv")) == len(table)
    with pytest.raises(LogError, match=r"must end in .parquet, .csv or .json"):
        entries.save(tmp_path / "all.xlsx", small_log, table)


def test_a_folder_without_a_policy_is_named(small_log, tmp_path):
    with pytest.raises(LogError, match="holds no policy"):
        entries.judge(small_log, [tmp_path])


def test_the_name_of_the_result_is_checked_before_anything_is_judged(folders, monkeypatch, capsys):
    monkeypatch.setattr(entries, "judge", lambda *_: pytest.fail("it was judged"))
    assert cli.main(["evaluate", str(folders / "log"), "--out", "all.txt"]) == 1
    assert "must end in" in capsys.readouterr().err


def entry(folder, name: str, **changed) -> None:
    row = {"policy": name, "estimator": "truth", "n": 5, "value": 0.2, "lower": 0.1, "upper": 0.3}
    row |= {"lift": 0.1, "lift_lower": 0.0, "lift_upper": 0.2}
    content = {"log": {"digest": "a"}, "split": "test", "rows": [row, {**row, "policy": "production"}]} | changed
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_a_table_has_the_entries_of_one_log_and_of_test_alone(tmp_path):
    entry(tmp_path, "mine")
    entry(tmp_path, "theirs")
    assert report.benchmark(tmp_path).count("\n|") == 4  # two of a head, production once
    for changed, said in (
        ({"log": {"digest": "b"}}, "theirs.json is of another log"),
        ({"split": "validation"}, "theirs.json is of the validation split"),
        ({"rows": json.loads((tmp_path / "mine.json").read_text())["rows"]}, "both have a policy 'mine'"),
    ):
        entry(tmp_path, "theirs", **changed)
        with pytest.raises(report.ReportError, match=said):
            report.benchmark(tmp_path)
    (tmp_path / "theirs.json").write_text('{"log":')
    with pytest.raises(report.ReportError, match=r"theirs.json is no entry"):
        report.benchmark(tmp_path)


def test_a_policy_named_as_a_built_in_one_is_refused(folders, capsys):
    arguments = ["evaluate", str(folders / "log"), "--policy", str(folders / "policies" / "random.parquet")]
    assert cli.main(arguments) == 1
    assert "there is a policy 'random' already" in capsys.readouterr().err


def test_a_split_without_impressions_is_named(small_log):
    with pytest.raises(LogError, match="no impressions in its test split"):
        entries.judge(small_log.split("train"))


# The frozen logs


def test_the_frozen_log_of_the_default_world_is_the_published_one(tmp_path, capsys):
    assert cli.main(["build", "fiction-1", str(tmp_path / "log")]) == 0
    manifest = json.loads((tmp_path / "log" / "manifest.json").read_text())
    published = json.loads((Path(__file__).parents[2] / "results" / "methods-fiction.json").read_text())
    assert manifest["benchmark"] == "fiction-1" and manifest["parameters"]["n_titles"] == 200
    rows = {name: entry["rows"] for name, entry in manifest["files"].items()}
    assert rows == {name: entry["rows"] for name, entry in published["log"].items()}
    folder = Path(__file__).parents[2] / "results" / "benchmark" / "fiction-1"
    entry = pd.DataFrame(json.loads((folder / "artlib.json").read_text())["rows"])
    said = entry.query("estimator == 'truth'").set_index("policy")["value"]
    part = Log.load(tmp_path / "log").split("test")
    for path in (folder / "policies").glob("*.parquet"):  # what others may compare theirs with
        value = (given.read(path, part, part) * part.expected_reward()).sum(axis=1).mean()
        assert value == pytest.approx(said[path.stem], abs=1e-9), path


@pytest.mark.slow
def test_the_frozen_logs_of_all_worlds_are_the_published_ones(data_folder):
    for world in registry.known().values():
        for name in world.frozen:
            registry.build_frozen(name, str(data_folder))


def test_a_log_that_became_another_is_not_taken_for_the_frozen_one(small_log, monkeypatch):
    world = registry.World("toy", lambda: small_log, frozen={"toy-1": registry.Frozen({}, "0" * 64)})
    monkeypatch.setitem(registry._REGISTERED, "toy", world)
    with pytest.raises(LogError, match=f"toy-1: what is built has the digest {small_log.digest()}"):
        registry.build_frozen("toy-1")
    with pytest.raises(LogError, match="there are .*fiction-1"):
        registry.build_frozen("toy-2")


def test_a_digest_sees_every_value_and_no_rounding(small_log):
    import dataclasses

    import pyarrow as pa

    def but(column: str, change) -> str:
        table = small_log.impressions
        place, values = table.schema.get_field_index(column), table[column].to_pylist()
        changed = table.set_column(
            place, table.schema.field(place), pa.array(change(values), table.schema.field(place).type)
        )
        return dataclasses.replace(small_log, impressions=changed).digest()

    same = small_log.digest()
    assert but("propensity", lambda values: [value + 1e-9 * np.sign(0.5 - value) for value in values]) == same
    assert but("propensity", lambda values: [values[0] - 0.002 * np.sign(values[0] - 0.5), *values[1:]]) != same
    assert but("reward", lambda values: [1 - values[0], *values[1:]]) != same
    assert but("user_id", lambda values: ["someone", *values[1:]]) != same
    assert but("candidates", lambda values: [values[0][::-1], *values[1:]]) != same
    assert but("shown", lambda values: [values[0] + 1, *values[1:]]) != same
