"""The benchmarks, on the tiny world and model: that they run, go on, and report what they say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


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
    return root, methods.main(["--world", "tiny", "--base", "tiny"], root)


def test_a_comparison_has_every_entry_with_its_evidence(methods, compared):
    root, results = compared
    rows = {row["name"]: row for row in results["rows"]}
    comparison = methods.WORLDS["tiny"]
    assert list(rows) == ["zero-shot", *(f"text {size}" for size in comparison.sizes), *comparison.grid]
    assert rows["sft 40"]["examples"] == rows["text 40"]["examples"] == 40
    for name, row in rows.items():
        test = row["test"]
        assert test["n"] == (comparison.few if name.startswith("label") else 200)
        assert test["lift_lower"] <= test["lift"] <= test["lift_upper"]
        assert test["lift"] == pytest.approx(test["value"] / test["production"] - 1)
        assert test["value"] <= test["oracle"] + 1e-12
        assert {"ips", "snips", "dr"} <= test.keys()
        # The baseline is not compared with itself; who comes before it cannot be compared with it yet.
        assert ("over_text" in test) == (name in comparison.grid)
    assert (root / "figures" / "methods-tiny-tiny.png").stat().st_size > 10_000


def test_a_comparison_goes_on_where_it_stopped(methods, compared):
    root, results = compared
    record = root / "figures" / "methods-tiny-tiny.json"
    shortened = results | {"rows": results["rows"][:-1]}
    record.write_text(json.dumps(shortened))
    again = methods.main(["--world", "tiny", "--base", "tiny"], root)
    assert again["rows"][:-1] == results["rows"][:-1]
    last, repeated = results["rows"][-1], again["rows"][-1]
    assert repeated["seconds"] == last["seconds"]  # its adapter was there
    assert np.isclose(repeated["test"]["value"], last["test"]["value"])


def test_an_unknown_entry_is_named(methods, tmp_path, capsys):
    with pytest.raises(SystemExit):
        methods.main(["--world", "tiny", "--only", "sft 41"], tmp_path)
    assert "'sft 41' is none of sft 40, counterfactual 80" in capsys.readouterr().err


def test_results_of_another_log_are_not_continued(methods, compared, tmp_path):
    root, results = compared
    (tmp_path / "figures").mkdir()
    other = results | {"log": {"impressions.parquet": {"rows": 1, "sha256": "0"}}}
    (tmp_path / "figures" / "methods-tiny-tiny.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="is of another log"):
        methods.main(["--world", "tiny", "--base", "tiny"], tmp_path)


def test_speed_is_measured_beside_both_alternatives(tmp_path):
    found = load("speed").main(["--model", "tiny", "--impressions", "3", "--rounds", "1"], tmp_path)
    assert found["difference_of_scores"] < 1e-3  # what is compared computes the same
    ratios = "scoring_ratio_to_plain", "training_ratio_to_plain", "training_ratio_to_trl"
    assert min(found[name] for name in (*ratios, "hours_for_110000")) > 0
    assert json.loads((tmp_path / "figures" / "speed.json").read_text()) == {"tiny, audience": found}
