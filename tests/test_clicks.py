"""benchmarks/clicks.py: what it calls lift and reference, that nobody learns from a fold, that it goes on."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from artlib import files
from artlib.lm import embedded, encoder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def clicks():
    spec = importlib.util.spec_from_file_location("clicks", ROOT / "benchmarks" / "clicks.py")
    module = sys.modules["clicks"] = importlib.util.module_from_spec(spec)  # where a dataclass looks for itself
    spec.loader.exec_module(module)
    yield module
    del sys.modules["clicks"]


def archive(n_tests: int, seed: int = 0, name: str = "t") -> pd.DataFrame:
    """Tests in which headlines about puppies have a third more clicks."""
    rng, rows = np.random.default_rng(seed), []
    for test in range(n_tests):
        rate = 0.02 * np.exp(rng.normal(0, 0.3))
        for k in range(3):
            shown, subject = int(rng.integers(3000, 5000)), ("puppies", "taxes")[k % 2]
            rows.append(
                {
                    "clickability_test_id": f"{name}{test:03}",
                    "headline": f"Number {rng.integers(10**6)} about {subject} in place {test}",
                    "test_week": 201410 + test % 30,
                    "impressions": shown,
                    "clicks": rng.binomial(shown, rate * (1.35 if subject == "puppies" else 1)),
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data")
    archive(30).to_csv(path / "packages.csv", index=False)
    return path


def of(clicks, rates: list[list[float]], shown: int = 10**6):
    """Tests with these click rates."""
    rows = [(f"t{t}", r) for t, own in enumerate(rates) for r in own]
    packages = pd.DataFrame(
        {"test": [t for t, _ in rows], "impressions": shown, "clicks": [r * shown for _, r in rows]}
    )
    return clicks.Tests(packages, np.zeros(len(rows), int), pd.factorize(packages["test"])[0], {"sha256": ""})


def test_lift_is_the_ratio_of_means_over_tests(clicks):
    tests = of(clicks, [[0.01, 0.03], [0.02, 0.04, 0.06]])
    np.testing.assert_allclose(tests.uniform, [0.02, 0.04])
    chosen = tests.values(np.array([1.0, 2.0, 5.0, 5.0, 1.0]))
    np.testing.assert_allclose(chosen, [0.03, 0.03])  # a tie is shared
    assert clicks.lift(chosen, tests.uniform)["mean"] == pytest.approx(0.06 / 0.06 - 1)
    some = tests.values(np.array([1.0, 2.0, np.nan, np.nan, np.nan]))
    assert some[0] == pytest.approx(0.03) and np.isnan(some[1])


def test_intervals_are_those_of_other_tests_and_paired(clicks):
    rng = np.random.default_rng(0)
    uniform = rng.lognormal(size=400)
    own = uniform * (1.1 + 0.01 * rng.normal(size=400))
    found = clicks.lift(own, uniform)
    assert found["lower"] < found["mean"] < found["upper"] and found["mean"] == pytest.approx(0.1, abs=0.005)
    assert found["upper"] - found["lower"] < 0.01  # tests differ by far more in their rates, which both share


def test_half_of_the_clicks_finds_differences_and_is_not_rewarded_for_noise(clicks):
    rng = np.random.default_rng(0)
    alike = of(clicks, rng.binomial(2000, 0.02, (300, 4)) / 2000, 2000)
    best = alike.values(alike.clicks / alike.shown)
    assert clicks.lift(best, alike.uniform)["mean"] > 0.1  # the best observed rate flatters
    half = clicks.half_of_the_clicks(alike, n_splits=20)
    assert abs(clicks.lift(half, alike.uniform)["mean"]) < 0.02
    different = of(clicks, [[0.01, 0.03]] * 20, 10_000)
    np.testing.assert_allclose(
        clicks.lift(clicks.half_of_the_clicks(different), different.uniform)["mean"], 0.5, atol=0.01
    )


def test_targets_are_click_rates_as_far_as_clicks_tell(clicks, folder):
    tests = clicks.Tests.read(str(folder), None)
    part = tests.log(0).split("train")
    arrays, found = part.arrays(), tests.targets(part)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    row = arrays.candidates[0][arrays.mask[0]]
    own, shown = tests.clicks[row], tests.shown[row]
    smoothed = (own + clicks.PRIOR * own.sum() / shown.sum()) / (shown + clicks.PRIOR)
    np.testing.assert_allclose(found[0][arrays.mask[0]], smoothed / smoothed.sum())


@pytest.fixture(scope="module")
def asked(clicks, folder, tmp_path_factory):
    """All policies on two of five folds, by tiny models."""
    root, before = tmp_path_factory.mktemp("root"), dict(clicks.SETTINGS)
    clicks.SETTINGS.update(epochs=1, micro_batch=8, lora_layers=0, dtype="float32")
    given = ["--data", str(folder), "--base", embedded.TINY, "--encoder", encoder.TINY, "--folds", "0"]
    clicks.main([*given, "--only", "ridge"], root)
    results = clicks.main(given, root)
    yield root, given, results
    clicks.SETTINGS.update(before)


def test_every_policy_is_judged_beside_the_baseline(clicks, asked):
    root, _, results = asked
    rows = {row["policy"]: row for row in results["rows"]}
    assert list(rows) == [*clicks.POLICIES, *clicks.TOGETHER, clicks.REFERENCE]
    assert results == files.read_json(root / "results" / "clicks-tiny.json")
    for name, row in rows.items():
        assert row["n"] == (30 if name == clicks.REFERENCE else 6)
        assert row["lift"]["lower"] <= row["lift"]["mean"] <= row["lift"]["upper"]
        assert (row["over_baseline"] is not None) == (name not in (clicks.BASELINE, clicks.REFERENCE))
        if row["over_baseline"]:
            product = (1 + row["over_baseline"]["mean"]) * (1 + row["baseline_lift"]["mean"])
            assert product == pytest.approx(1 + row["lift"]["mean"])
    assert rows["ridge"]["told"][0]["learnt_from"] == 24
    assert rows["soft"]["told"][0]["learnt_from"] + rows["soft"]["told"][0]["validated_on"] == 24
    assert rows["encoder"]["told"][0]["learnt_from"] == rows["soft"]["told"][0]["learnt_from"]
    assert all(fold["commit"] and fold["machine"]["device"] for fold in rows["soft"]["told"])


def test_nobody_learns_from_the_fold_that_is_judged(clicks, folder, asked):
    """Other clicks in a fold change no score there."""
    root, given, _ = asked
    tests = clicks.Tests.read(str(folder), None)
    changed = tests.packages.assign(clicks=np.where(tests.fold == 0, 1.0, tests.clicks))
    other = clicks.Tests(changed, tests.fold, tests.test, tests.source)
    one, same = (clicks.Session(t, root / "runs" / "clicks-tiny", embedded.TINY, encoder.TINY) for t in (tests, other))
    own = tests.fold == 0
    np.testing.assert_array_equal(one._ridge(0)[0][own], same._ridge(0)[0][own])
    assert not np.array_equal(one._ridge(1)[0], same._ridge(1)[0])
    np.testing.assert_array_equal(one._encoder(0)[0][own], same._encoder(0)[0][own])
    learnt = [t.log(0).split("train") for t in (tests, other)]
    np.testing.assert_array_equal(tests.targets(learnt[0]), other.targets(learnt[1]))


def test_what_was_answered_is_not_asked_again_and_the_rest_is(clicks, asked, monkeypatch):
    root, given, results = asked
    asking = []
    monkeypatch.setattr(clicks.Session, "ask", lambda self, policy, fold: asking.append((policy, fold)))
    assert clicks.main(given, root) == results and asking == []
    (root / "runs" / "clicks-tiny" / "fold-0" / "soft.json").unlink()
    clicks.main(given, root)
    assert asking == [("soft", 0)]


def test_unseen_tests_are_judged_without_learning_from_their_headlines(clicks, folder, tmp_path):
    others = archive(8, seed=1, name="new")
    shared = pd.concat([others, archive(30).query("clickability_test_id == 't003'")])  # one that was seen, too
    known = archive(30).query("clickability_test_id == 't005'")["headline"].iloc[0]
    shared.loc[shared["clickability_test_id"] == "new002", "headline"] = [known.upper(), "B", "C"]
    shared.to_csv(tmp_path / "own.csv", index=False)
    tests = clicks.Tests.read(str(folder), str(tmp_path))
    of_fold = dict(zip(tests.packages["test"], tests.fold, strict=True))
    assert {test for test, fold in of_fold.items() if fold == 0} == {*others["clickability_test_id"], "t003"}
    assert "t005" not in of_fold and len(of_fold) == 30 - 1 + 8
    log = tests.log(0)
    log.validate()
    assert set(log.split("test").impressions["title_id"].to_pylist()) == {f"w{t}" for t, f in of_fold.items() if f == 0}


def test_an_unknown_fold_is_named(clicks, folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        clicks.main(["--data", str(folder), "--folds", "7"], tmp_path)
    assert "7 is none of 0, 1, 2, 3, 4" in capsys.readouterr().err
