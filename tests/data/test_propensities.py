"""Propensities that nobody logged: estimated near the truth where nothing else decided, always labelled; or refused."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from artlib import ope
from artlib.analysis import errors, evaluation
from artlib.data import Log, LogError, from_frames, shuffled_plays
from artlib.data.tables import propensities
from artlib.policies import baselines

KIND = ("Drama", "Comedy")


def simulated(n: int, by_genre: bool, seed: int = 0) -> tuple[Log, np.ndarray, np.ndarray]:
    """A log without propensities; (n, 3) the true logging policy, which looks at the member's genre or not, and the
    true play probabilities, which do look at it."""
    rng = np.random.default_rng(seed)
    members, kind = np.arange(n // 5), rng.integers(0, 2, n // 5)
    films = pd.DataFrame({"title_id": range(6), "name": "F", "year": 2000, "synopsis": "s"})
    films["genres"] = [[KIND[f % 2]] for f in films["title_id"]]
    artworks = pd.DataFrame(
        {"artwork_id": range(18), "title_id": np.repeat(range(6), 3), "caption": "c", "image": None}
    )
    user, title = rng.integers(0, len(members), n), rng.integers(0, 6, n)
    likes = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]]) if by_genre else np.array([[0.5, 0.3, 0.2]] * 2)
    logging = likes[kind[user]]
    logging[title == 0] = [0.8, 0.1, 0.1]
    shown = (rng.random(n)[:, None] > logging.cumsum(axis=1)).sum(axis=1)
    truth = np.array([[0.4, 0.2, 0.1], [0.1, 0.2, 0.4]])[kind[user]]
    impressions = pd.DataFrame({"impression_id": range(n), "user_id": user, "title_id": title, "shown": shown})
    impressions["timestamp"] = 1_700_000_000 + np.arange(n)
    impressions["candidates"] = [[3 * t, 3 * t + 1, 3 * t + 2] for t in title]
    impressions["reward"] = (rng.random(n) < truth[np.arange(n), shown]).astype(float)
    impressions["split"] = np.array(["train", "validation", "test"])[np.searchsorted([2, 3], user % 10, side="right")]
    watched = np.repeat(members, 6)
    histories = pd.DataFrame({"user_id": watched, "timestamp": 1_600_000_000, "weight": 1.0})
    loyal = rng.random(len(watched)) < 0.9
    histories["title_id"] = 2 * rng.integers(0, 3, len(watched)) + np.where(loyal, kind[watched], 1 - kind[watched])
    log = from_frames(films, artworks, impressions, histories, report=lambda _: None)
    return log, logging, truth


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


@pytest.fixture(scope="module")
def unknown():
    return simulated(6000, by_genre=True)


@pytest.fixture(scope="module")
def estimated(unknown) -> Log:
    tables = {name: table for name, table in unknown[0].tables().items()}
    tables["impressions"] = tables["impressions"].drop_columns(["propensity", "production"])
    return from_frames(**tables, report=lambda _: None, propensities="estimate")


def test_a_policy_that_looks_at_title_alone_is_found_by_frequencies():
    log, logging, _ = simulated(6000, by_genre=False)
    found = propensities.estimate(log)
    assert found.probabilities.sum(axis=1) == pytest.approx(1) and found.probabilities.min() > 0
    assert np.abs(found.probabilities - logging).mean() < 0.02
    assert "log loss" in found.how and "equal choice" in found.how


def test_a_policy_that_looks_at_what_members_watched_is_found_by_their_genres(unknown):
    log, logging, _ = unknown
    found = propensities.estimate(log)
    assert found.how.startswith("a logistic regression on the members' genres")
    assert np.abs(found.probabilities - logging).mean() < 0.05
    coarse = np.abs(np.array([0.35, 0.3, 0.35]) - logging).mean()
    assert np.abs(found.probabilities - logging).mean() < coarse / 3, "frequencies alone are far off"


def test_estimates_do_not_depend_on_the_order_of_candidates(unknown):
    log = unknown[0].take(np.arange(400))
    rows = log.impressions.to_pydict()
    turned = with_column(log.impressions, "candidates", [row[::-1] for row in rows["candidates"]])
    turned = with_column(turned, "shown", [2 - shown for shown in rows["shown"]])
    other = propensities.estimate(dataclasses.replace(log, impressions=turned)).probabilities
    assert other[:, ::-1] == pytest.approx(propensities.estimate(log).probabilities)


def test_candidates_never_shown_and_members_of_one_have_a_probability_above_0():
    log = simulated(60, by_genre=False)[0]
    one = log.take(np.flatnonzero(log.arrays().user == log.arrays().user[0]))
    for each in (log, one, log.take(np.arange(1))):
        found = propensities.estimate(each).probabilities
        assert found.min() > 0 and found.sum(axis=1) == pytest.approx(1)


def test_ips_by_estimated_propensities_is_near_the_truth_and_every_verdict_says_estimated(unknown, estimated):
    _, _, truth = unknown
    judged = estimated.impressions["split"].to_numpy() == "test"
    test = estimated.split("test")
    best = baselines.greedy(truth)[judged]
    policies = {"production": test.arrays().production, "best": best, "random": baselines.uniform(test)}
    table = evaluation.evaluate(estimated, test, policies, n_bootstrap=200)
    assert table["verdict"].str.startswith("estimated propensities: ").all()
    assert (evaluation.values(table, "snips")["estimator"] == "snips (estimated propensities)").all()
    whole = table[table["slice"] == "all"].set_index(["policy", "estimator"])
    for name in ("best", "random"):
        value = (truth[judged] * policies[name]).sum(axis=1).mean()
        for estimator in ("ips", "snips", "dr"):
            assert whole.loc[(name, estimator), "value"] == pytest.approx(value, rel=0.1)
            assert whole.loc[(name, estimator), "lower"] < value < whole.loc[(name, estimator), "upper"]
    power = evaluation.power(estimated, test, policies, "best", lift=0.03, n=5000)
    assert power["estimator"].tolist() == [f"{name} (estimated propensities)" for name in evaluation.ESTIMATORS]


def test_estimated_propensities_are_labelled_in_the_log_its_warnings_and_its_card(estimated, tmp_path):
    estimated.save(tmp_path / "log")
    with pytest.warns(UserWarning, match="no unobserved confounding.*overlap"):
        again = Log.load(tmp_path / "log")
    assert again.manifest["propensities"] == again.split("test").propensities == "estimated"
    assert "**estimated**" in (tmp_path / "log" / "README.md").read_text()
    assert any("ESTIMATED" in line for line in again.manifest["import"]["derived"])


def test_feedback_of_estimated_propensities_is_never_simply_ok():
    log = pd.DataFrame({"action": [0, 1] * 500, "propensity": 0.5, "reward": 1.0, "target": [[0.5, 0.5]] * 1000})
    logged, by_model = (ope.Feedback.from_frame(log, propensities=kind) for kind in ("logged", "estimated"))
    assert ope.estimate(logged).trusted and not ope.estimate(by_model).trusted
    assert ope.estimate(by_model).verdict == "estimated propensities: ok"
    with pytest.raises(ValueError, match="propensities is 'guessed': it must be"):
        ope.Feedback.from_frame(log, propensities="guessed")


# None at all


def test_a_log_without_propensities_refuses_what_divides_by_them_with_one_reason(unknown):
    log = unknown[0]
    assert log.propensities == "none" and np.isnan(log.arrays().propensity).all()
    test = log.split("test")
    policies = {"production": test.arrays().production, "popular": baselines.uniform(test)}
    reason = "divides by the probability .* has none .*--estimate-propensities"
    with pytest.raises(LogError, match=f"^ips, snips, dr {reason}"):
        evaluation.evaluate(log, test, policies)
    with pytest.raises(LogError, match=reason):
        errors.describe(log, test, policies["popular"], policies["production"])
    assert evaluation.power(log, test, policies, "popular", 0.03, 100).attrs["reason"] == "it has no propensities"
    with pytest.raises(ValueError, match="propensity is None"):
        ope.estimate(evaluation.feedbacks(test, policies, None)["popular"], "ips")


def test_post_training_without_propensities_refuses_the_methods_that_divide_by_them(unknown, tmp_path):
    pytest.importorskip("torch")
    from artlib.posttrain import train
    from artlib.posttrain.settings import METHODS, Settings

    for method in [name for name, method in METHODS.items() if method.needs_propensities]:
        prompt = METHODS[method].prompt or "genre-likelihood"
        with pytest.raises(LogError, match=f"^method={method} divides by the probability"):
            train.post_train(unknown[0], tmp_path / "adapter", Settings(method=method, prompt=prompt))


def test_the_direct_method_needs_no_propensities_and_says_what_it_cannot_tell(unknown):
    log = unknown[0]
    test = log.split("test")
    popular = baselines.greedy(baselines.popular_scores(log, test))
    policies = {"production": test.arrays().production, "popular": popular}
    table = evaluation.evaluate(log, test, policies, estimators=["dm"], n_bootstrap=50)
    assert table["value"].notna().all() and table[["ess", "mean_weight"]].isna().all(axis=None)
    assert table["verdict"].str.startswith("lifts over a random choice: do not trust: ").all()
    assert table["verdict"].str.contains("which a log without propensities cannot tell").all()


def bare(log: Log) -> Log:
    """The same log without propensities."""
    tables = {name: getattr(log, name) for name in ("impressions", "earlier")}
    tables = {name: with_column(table, "propensity", [None] * len(table)) for name, table in tables.items()}
    return dataclasses.replace(log, manifest=log.manifest | {"propensities": "none"}, **tables)


def test_the_truth_needs_no_propensities(small_log):
    log = bare(small_log)
    log.validate()
    assert "there are none" in log.warnings()[0]
    test = log.split("test")
    policies = {"production": test.arrays().production, "oracle": baselines.oracle(test)}
    table = evaluation.evaluate(log, test, policies, estimators=[], n_bootstrap=50)
    with_them = evaluation.evaluate(small_log, small_log.split("test"), policies, n_bootstrap=50)
    expected = with_them[with_them["estimator"] == "truth"].reset_index(drop=True)
    columns = ["policy", "slice", "estimator", "value", "lift", "lift_lower", "verdict"]
    pd.testing.assert_frame_equal(table[columns], expected[columns])


@pytest.mark.filterwarnings("ignore")
def test_pictures_of_a_log_without_propensities_are_drawn(small_log):
    pytest.importorskip("matplotlib")
    from artlib.analysis import plots

    log = bare(small_log)
    test = log.split("test")
    for figure in (plots.overview(log), plots.calibration(test, {"oracle": baselines.oracle(test)})):
        figure.canvas.draw()


def test_the_control_of_a_log_without_propensities_has_none_either(unknown):
    shuffled_plays(unknown[0]).validate()


def test_the_manifest_and_the_column_must_agree(small_log):
    none = dataclasses.replace(small_log, manifest={"propensities": "none"})
    with pytest.raises(LogError, match="propensity: 0.* is there, and manifest.json says that there are none"):
        none.validate()
    with pytest.raises(LogError, match="propensities: 'guessed' is not one of logged, estimated, none"):
        dataclasses.replace(small_log, manifest={"propensities": "guessed"}).validate()
    empty = bare(small_log).impressions
    with pytest.raises(LogError, match='column propensity: None is null .*"propensities": "none"'):
        dataclasses.replace(small_log, impressions=empty).validate()
