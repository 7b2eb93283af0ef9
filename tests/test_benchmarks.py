"""The benchmarks, on the tiny world and model: that they run, go on, and report what they say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from artlib.analysis import comparison, plots
from artlib.running import report

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--world", "tiny", "--base", "tiny", "--encoder", "tiny"]


@pytest.fixture(scope="module")
def methods():
    yield load("methods")
    del sys.modules["methods"]


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where a dataclass looks for itself
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compared(methods, tmp_path_factory):
    root = tmp_path_factory.mktemp("comparison")
    return root, methods.main(TINY, root)


def test_a_comparison_has_every_entry_with_its_evidence(methods, compared):
    root, results = compared
    rows = {row["entry"]: row for row in results["rows"]}
    grid = methods.WORLDS["tiny"]
    assert list(rows) == ["zero-shot", *(f"text {size}" for size in grid.sizes), *grid.names]
    assert rows["sft 40"]["examples"] == rows["text 40"]["examples"] == 40
    for name, row in rows.items():
        test = row["test"]
        assert test["n"] == (grid.few if name.startswith("label") else 200)
        assert test["lift"]["lower"] <= test["lift"]["mean"] <= test["lift"]["upper"]
        assert test["lift"]["mean"] == pytest.approx(test["value"] / test["production"] - 1)
        assert test["value"] <= test["oracle"] + 1e-12
        assert test["estimates"].keys() == {"ips", "snips", "dr"}
        # The baseline is not compared with itself; who comes before it cannot be compared with it yet.
        assert (test["over_text"] is not None) == (test["over_zero_shot"] is not None) == (name in grid.names)
    assert rows["counterfactual 80"]["start_seconds"] == rows["sft 40"]["seconds"]
    path = root / "results" / "methods-tiny-tiny.json"
    table = comparison.read(path).set_index("entry")
    assert list(table.index) == list(rows)
    assert list(table["method"]) == ["zero-shot", "text", "text", "sft", "counterfactual", "label sft"]
    assert list(table["learns_from"].fillna("")) == ["", "plays", "plays", "plays", "impressions", "plays"]
    spent = rows["counterfactual 80"]["seconds"] + rows["sft 40"]["seconds"]
    assert table.loc["counterfactual 80", "minutes"] == pytest.approx(spent / 60)
    assert table["minutes"].isna().tolist() == [True] * 3 + [False] * 3
    np.testing.assert_array_equal(table["over_text"].notna(), [name in grid.names for name in rows])
    np.testing.assert_array_equal(table["order_after"].notna(), [name.startswith("label") for name in rows])
    figure = plots.methods(table.reset_index())
    by_plays, by_time, lifts = ([text.get_text() for text in axis.get_legend().texts] for axis in figure.axes)
    assert sorted(by_plays) == ["sft, seed 0", "text, seed 0", "zero-shot"]
    assert by_time == ["sft", "counterfactual", "label sft", "zero-shot"]
    assert lifts == ["seed 0, n = 8", "seed 0, n = 200"]
    assert {label.get_text() for label in figure.axes[2].get_yticklabels()} == set(rows)


@pytest.mark.parametrize("n", [1, 3])
def test_a_comparison_that_has_only_begun_can_be_looked_at(compared, tmp_path, n):
    root, results = compared
    path = tmp_path / "methods-tiny.json"
    path.write_text(json.dumps(results | {"rows": results["rows"][:n]}))
    table = comparison.read(path)
    assert len(table) == n and table["over_text"].isna().all() and table["minutes"].isna().all()
    assert len(plots.methods(table).axes[2].get_yticklabels()) == n


@pytest.mark.parametrize("world", ["fiction", "broad", "shuffled", "fiction-300", "movielens"])
def test_every_record_can_be_drawn(world):
    """Among them means over seeds that are all alike, which rounding may put below the lowest."""
    assert plots.methods(comparison.read(ROOT / "results" / f"methods-{world}.json")).axes


@pytest.mark.parametrize("world", ["fiction", "broad", "fiction-300", "movielens"])
def test_published_lifts_agree_with_each_other(methods, world):
    table = comparison.read(ROOT / "results" / f"methods-{world}.json")
    grid = methods.WORLDS[world].names
    text = methods.WORLDS[world].baselines[-1].name
    for seed, part in table.groupby("seed"):
        baseline = part.loc[part["entry"] == text, "lift"].item()
        for row in part.itertuples():
            assert (row.entry in grid) == (row.over_text == row.over_text)
            if row.entry in grid and row.n == part["n"].max():
                assert (1 + row.lift) / (1 + baseline) - 1 == pytest.approx(row.over_text, abs=1e-9), (seed, row.entry)


def test_a_comparison_that_was_not_made_says_how_to(tmp_path):
    with pytest.raises(FileNotFoundError, match="python benchmarks/methods.py"):
        comparison.read(tmp_path / "methods-mars.json")


def test_a_comparison_goes_on_where_it_stopped(methods, compared):
    root, results = compared
    record = root / "results" / "methods-tiny-tiny.json"
    shortened = results | {"rows": results["rows"][:-1]}
    record.write_text(json.dumps(shortened))
    # Lifts over the baseline need its choices.
    (root / "runs" / "methods" / "tiny-tiny" / "seed-0" / "policies" / "text.parquet").unlink()
    again = {row["entry"]: row for row in methods.main(TINY, root)["rows"]}
    before = {row["entry"]: row for row in results["rows"]}
    *kept, last = (name for name in before if name != "text 40")
    assert again.keys() == before.keys()
    assert all(again[name] == before[name] for name in kept)
    assert again["text 40"]["test"] == before["text 40"]["test"]
    assert again[last]["seconds"] == before[last]["seconds"]  # its adapter was there
    assert again[last]["test"]["over_text"] == before[last]["test"]["over_text"]
    assert np.isclose(again[last]["test"]["value"], before[last]["test"]["value"])
    more = methods.main([*TINY, "--seeds", "1", "--only", "sft 40"], root)["rows"]
    assert [row["entry"] for row in more if row["seed"] == 1] == ["text 20", "text 40", "sft 40"]


def test_entries_have_names_of_their_own(methods):
    for grid in methods.WORLDS.values():
        names = [entry.name for entry in (*grid.baselines, *grid.entries)]
        assert len(set(names)) == len(names)
    assert "label sft 110000" in methods.WORLDS["paper"].names and "kto" in methods.WORLDS["fiction"].names


def test_an_unknown_entry_is_named(methods, tmp_path, capsys):
    with pytest.raises(SystemExit):
        methods.main(["--world", "tiny", "--only", "sft 41"], tmp_path)
    assert "'sft 41' is none of sft 40, counterfactual 80" in capsys.readouterr().err


def test_results_of_another_log_are_not_continued(methods, compared, tmp_path):
    root, results = compared
    (tmp_path / "results").mkdir()
    other = results | {"log": {"impressions.parquet": {"rows": 1, "sha256": "0"}}}
    (tmp_path / "results" / "methods-tiny-tiny.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="is of another log"):
        methods.main(TINY, tmp_path)


@pytest.mark.parametrize("prompt", ["genre-likelihood", "label"])
def test_speed_is_measured_beside_alternatives_that_compute_the_same(tmp_path, prompt):
    given = ["--model", "tiny", "--prompt", prompt, "--impressions", "3", "--rounds", "1"]
    found = load("speed").main(given, tmp_path)
    assert found["difference_of_scores"] < 1e-3
    ratios = ["scoring_ratio_to_plain", "training_ratio_to_plain"]
    ratios += ["training_ratio_to_trl"] if prompt == "label" else []
    assert min(found[name] for name in (*ratios, "hours_for_110000")) > 0
    assert json.loads((tmp_path / "results" / "speed.json").read_text()) == {f"tiny, {prompt}": found}


def test_what_knowing_is_worth_is_a_table_of_both_kinds(tmp_path):
    worth = load("worth")
    sizes = {"n_users": 120, "n_titles": 40, "n_train": 900, "n_validation": 60, "n_test": 200}
    record = worth.main(sizes, seeds=(0,), root=tmp_path)
    assert list(record["kinds"]) == ["broad", "fine"]
    rows = {row["what is known"]: row for row in record["kinds"]["broad"]}
    assert rows["production"]["everywhere"] == 0 < rows["themes"]["everywhere"] < rows["everything"]["everywhere"]
    assert rows["everything"]["tastes read off histories"] is None
    text = report.worth(tmp_path / "results" / "worth.json")
    assert f"| {rows['themes']['everywhere']:+.0%} |".replace("%", " %") in text and "With fine genres" in text


def test_the_cost_of_growing_is_measured_step_by_step_and_drawn(tmp_path):
    growth = load("growth")
    record = growth.main(["--sizes", "2000", "1000", "--most", "0"], tmp_path)
    assert [(row["impressions"], row["step"]) for row in record["rows"]] == [
        (n, step) for n in (1000, 2000) for step in ("build", "validate", "evaluate")
    ]
    assert all(row["seconds"] > 0 and row["peak_gib"] >= row["before_gib"] > 0.05 for row in record["rows"])
    assert json.loads((tmp_path / "results" / "growth.json").read_text()) == record
    assert (tmp_path / "figures" / "growth.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_cost_of_a_language_models_steps_is_measured_up_to_a_size(tmp_path):
    record = load("growth").main(["--sizes", "1000", "1100", "--most", "1000"], tmp_path)
    asked = [(row["impressions"], row["step"]) for row in record["rows"] if row["step"] in ("train", "score")]
    assert asked == [(1000, "train"), (1000, "score")]
    assert record["slopes"]["train"] == {"seconds": None, "memory": None}


def test_slopes_are_exponents_and_leave_out_sizes_at_which_fixed_costs_rule():
    def row(n: int) -> dict:
        return {
            "step": "x",
            "impressions": n,
            "seconds": 2 * n**1.5 if n > 1 else 9e9,
            "before_gib": 1,
            "peak_gib": 1 + n,
        }

    assert load("growth").slopes([row(n) for n in (1, 1000, 10_000, 100_000)]) == {"x": {"seconds": 1.5, "memory": 1.0}}
