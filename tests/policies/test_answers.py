"""Policies: probabilities over the candidates that an impression has, written whole and read back."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artlib import data, files
from artlib.analysis import evaluation
from artlib.data import LogError, columns
from artlib.lm import calibration, embedded
from artlib.policies import answers, baselines, llm
from artlib.posttrain import train
from artlib.posttrain.settings import Settings

SETTINGS = Settings(base=embedded.TINY, dtype="float32", max_examples=60, max_validation=20, max_tokens=8192)


@pytest.fixture(scope="module")
def answered(small_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "policies"
    test = answers.ask(small_log, folder, SETTINGS, {}, most=60, report=lambda _: None, encoder="tiny")
    return test, folder, answers.read(folder, test)


def test_every_policy_is_a_distribution_over_the_candidates(answered):
    test, _, policies = answered
    mask = test.arrays().mask
    learned = {"text", "text-whole-log", "llm-zero-shot", "llm-zero-shot+text", "encoder-zero-shot"}
    assert set(policies) == learned | {"random", "production", "popular", "oracle"}
    for probabilities in policies.values():
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        assert (probabilities[~mask] == 0).all() and (probabilities >= 0).all()


def test_which_reader_text_is_can_be_read(answered):
    _, folder, policies = answered
    table = answers.readers(folder)
    assert [name.partition(" (")[0] for name in table.columns] == ["text", "text-whole-log"]
    assert table.iloc[:, 0].is_monotonic_increasing and len(table) == 8 and np.isfinite(table).all(axis=None)
    chosen = files.read_json(folder / "readers.json")["text"]
    assert table.index[0] == chosen["chosen"] and chosen["plays"] == 60


def test_the_oracle_is_worth_most_and_its_value_is_the_mean_best(answered):
    test, _, policies = answered
    q = test.expected_reward()
    values = {name: (p * q).sum(axis=1).mean() for name, p in policies.items()}
    assert max(values, key=values.get) == "oracle"
    assert values["oracle"] == pytest.approx(q.max(axis=1).mean())


def test_files_hold_a_list_per_impression_without_padding(answered):
    test, folder, policies = answered
    table = pq.read_table(folder / "random.parquet")
    assert table["impression_id"].to_pylist() == test.impressions["impression_id"].to_pylist()
    lengths = [len(row) for row in table["probabilities"].to_pylist()]
    assert lengths == [len(row) for row in test.impressions["candidates"].to_pylist()]


def test_answers_are_kept_for_the_same_question_only(small_log, answered):
    _, folder, _ = answered
    path = folder / "llm-zero-shot.parquet"
    before = path.stat().st_mtime_ns
    answers.ask(small_log, folder, SETTINGS, {}, most=60, report=lambda _: None, encoder="tiny")
    assert path.stat().st_mtime_ns == before


def test_answers_about_another_log_or_by_an_earlier_adapter_are_refused(small_log, answered, tmp_path):
    """In JupyterLab, 04 may be opened after 01 or 02 was run again, and 03 was not."""
    folder = shutil.copytree(answered[1], tmp_path / "policies")
    training = tmp_path / "adapters" / "sft" / "training.json"
    files.write_json(training, {"seed": 0})
    asked = files.read_json(folder / "fingerprint.json")
    asked["llm-sft"] = asked["llm-zero-shot"] | {"adapter": files.sha256(training)}
    files.write_json(folder / "fingerprint.json", asked)
    shutil.copy(folder / "llm-zero-shot.parquet", folder / "llm-sft.parquet")
    test = answered[0]
    assert answers.read(folder, test).keys() == answered[2].keys() | {"llm-sft"}
    another = dataclasses.replace(test, manifest=test.manifest | {"files": {"impressions": "0" * 64}})
    with pytest.raises(LogError, match="is about another log; run 03_evaluate again"):
        answers.read(folder, another)
    files.write_json(training, {"seed": 1})
    with pytest.raises(LogError, match="llm-sft.parquet is by an earlier adapter than .*sft; run"):
        answers.read(folder, test)


def test_a_test_split_of_one_member_is_refused(small_log, answered):
    """Nobody else's impressions could teach the reward model."""
    test = answered[0]
    user = test.arrays().user
    rows = np.flatnonzero(user == np.bincount(user).argmax())
    with pytest.raises(ValueError, match="cluster has 1 users but folds is 2"):
        evaluation.reward_model(small_log, test.take(rows))


def test_a_test_split_of_one_member_is_judged_without_a_reward_model(small_log, answered, capsys):
    test = answered[0]
    user = test.arrays().user
    own = test.take(np.flatnonzero(user == np.bincount(user).argmax()))
    policies = dict(baselines.untrained(small_log, own))
    table = evaluation.evaluate(small_log, own, policies, ["snips", "dm", "dr"], 50)
    assert set(table["estimator"]) == {"snips", "truth"} and "no DR or DM" in capsys.readouterr().out


def test_a_log_that_cannot_say_how_many_impressions_it_takes_says_why(small_log, answered, monkeypatch):
    """As one in which nothing that production shows was played."""
    test, _, policies = answered

    def refuse(*_, **__):
        raise ValueError("the baseline's value is 0.0: a relative lift needs a positive one")

    monkeypatch.setattr(evaluation.ope, "power", refuse)
    table = evaluation.power(small_log, test, policies, "text", 0.03, 5000)
    assert table.empty and "the baseline's value is 0.0" in evaluation.power_in_words(table, 0.03, 5000)


def test_the_oracle_of_an_earlier_log_is_no_policy_of_one_without_truth(small_log, answered, tmp_path):
    folder = shutil.copytree(answered[1], tmp_path / "policies")
    answers.ask(
        dataclasses.replace(small_log, truth=None), folder, SETTINGS, {}, most=60, report=lambda _: None, encoder="tiny"
    )
    assert not (folder / "oracle.parquet").exists() and (folder / "popular.parquet").exists()


def test_lifts_may_be_clustered_by_title(answered):
    """All impressions of a title are one observation then: the interval is that of the titles' sums."""
    test, _, policies = answered
    by = {
        cluster: evaluation.paired_lift(test, policies, "random", ["oracle"], cluster=cluster).iloc[0]
        for cluster in ("user", "title")
    }
    assert by["user"]["lift"] == pytest.approx(by["title"]["lift"], rel=1e-12)
    title = test.arrays().title
    feedbacks = evaluation.feedbacks(test, policies, test.expected_reward(), cluster="title")
    assert all((feedback.cluster == title).all() for feedback in feedbacks.values())
    assert by["title"]["lift_upper"] != by["user"]["lift_upper"]


def test_of_a_log_that_lost_its_genres_no_reader_by_genres_stays(small_log, answered, tmp_path):
    _, folder, _ = answered
    shutil.copytree(folder, tmp_path / "policies")
    assert (tmp_path / "policies" / "encoder-zero-shot.parquet").exists()
    genres = pa.array([[]] * len(small_log.titles), pa.list_(pa.string()))
    log = dataclasses.replace(small_log, titles=columns.replaced(small_log.titles, {"genres": genres}), manifest={})
    caption = dataclasses.replace(SETTINGS, prompt="caption", max_validation=4)
    test = answers.ask(log, tmp_path / "policies", caption, {}, most=6, report=lambda _: None, encoder="tiny")
    assert "text" in answers.read(tmp_path / "policies", test)
    assert not (tmp_path / "policies" / "encoder-zero-shot.parquet").exists()


def test_a_text_baseline_that_would_be_the_same_twice_is_left_out(small_log, answered, tmp_path):
    _, folder, _ = answered
    shutil.copytree(folder, tmp_path / "policies")
    answers.ask(
        small_log,
        tmp_path / "policies",
        dataclasses.replace(SETTINGS, max_examples=10_000),
        {},
        most=60,
        report=lambda _: None,
        encoder="tiny",
    )
    assert (tmp_path / "policies" / "text.parquet").exists()
    assert not (tmp_path / "policies" / "text-whole-log.parquet").exists()


def test_popular_follows_the_inverse_propensity_weighted_play_rate(small_log):
    scores = baselines.popular_scores(small_log, small_log.split("train"))
    arrays = small_log.split("train").arrays()
    assert (np.isfinite(scores) == arrays.mask).all()
    parts = [arrays, small_log.arrays("earlier")]
    weight = np.concatenate([1 / (p.propensity * p.mask.sum(axis=1)) for p in parts])
    artwork = np.concatenate([p.shown_artwork for p in parts])
    reward = np.concatenate([p.reward for p in parts])
    one = arrays.candidates[0, 0]
    of_one = artwork == one
    average = (weight * reward).sum() / weight.sum()
    expected = ((weight * reward)[of_one].sum() + 20 * average) / (weight[of_one].sum() + 20)
    assert scores[0, 0] == pytest.approx(expected)


def test_an_adapter_is_asked_in_this_machines_type_with_a_warning(small_log, tmp_path, monkeypatch):
    few = dataclasses.replace(SETTINGS, max_examples=4, max_validation=4, batch_size=2)
    train.post_train(small_log, tmp_path / "adapters" / "sft", few)
    said = []
    for dtype in ("float32", "bfloat16"):
        own = dataclasses.replace(few, dtype=dtype)
        monkeypatch.setattr(answers.machine, "resolve", lambda _, dtype=dtype: dtype)
        adapters = {"llm-sft": tmp_path / "adapters" / "sft"}
        answers.ask(small_log, tmp_path / "policies", own, adapters, most=4, report=said.append, encoder="tiny")
    warnings = [line for line in said if line.startswith("llm-sft was trained in float32 and is asked in bfloat16")]
    assert len(warnings) == 1 and said.count("llm-sft ...") == 2


def test_an_adapter_is_pooled_with_text_and_forgotten_with_it(small_log, tmp_path):
    few = dataclasses.replace(SETTINGS, max_examples=4, max_validation=4, batch_size=2)
    train.post_train(small_log, tmp_path / "adapters" / "sft", few)
    folder, adapters = tmp_path / "policies", {"llm-sft": tmp_path / "adapters" / "sft"}
    for most, deterministic in ((3, True), (5, True), (5, False)):  # which are other questions
        test = answers.ask(small_log, folder, few, adapters, most, deterministic, "tiny", lambda _: None)
        policies, choices = (answers.read(folder, test, column) for column in ("probabilities", "choice"))
        for name in ("llm-zero-shot", "llm-sft"):
            product = np.sqrt(choices[name] * choices["text"])
            together = product / product.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(choices[f"{name}+text"], together, atol=1e-12)
            best = together == together.max(axis=1, keepdims=True)
            np.testing.assert_allclose(policies[f"{name}+text"], best if deterministic else together, atol=1e-12)
    answers.ask(small_log, folder, few, {}, 5, False, "tiny", lambda _: None)
    assert not (folder / "llm-sft+text.parquet").exists() and (folder / "llm-zero-shot.parquet").exists()


def test_the_bare_models_temperature_is_the_one_that_training_began_with(small_log, tmp_path, monkeypatch):
    few = dataclasses.replace(SETTINGS, max_examples=4, max_validation=4, batch_size=2)
    training = train.post_train(small_log, tmp_path / "adapters" / "sft", few)
    asked = []
    scores = llm.llm_scores
    monkeypatch.setattr(
        answers, "llm_scores", lambda log, part, **rest: asked.append(part) or scores(log, part, **rest)
    )
    adapters = {"llm-sft": tmp_path / "adapters" / "sft"}
    test = answers.ask(small_log, tmp_path / "policies", few, adapters, most=4, encoder="tiny")
    assert [len(part.impressions) for part in asked] == [4, 4]  # the test split, by either model; validation is known
    validation = data.plays(small_log, "validation", 4, few.seed)
    fitted = calibration.fit_temperature(scores(small_log, validation, few, None), validation.arrays().shown)
    assert training["zero_shot_temperature"] == pytest.approx(fitted, rel=1e-4)
    choice = answers.read(tmp_path / "policies", test, "choice")["llm-zero-shot"]
    expected = answers.probabilities(scores(small_log, test, few, None), fitted)
    np.testing.assert_allclose(choice, expected, atol=1e-4)


def test_the_first_impressions_in_time_are_asked_about_however_rows_are_sorted(small_log, tmp_path):
    test = small_log.split("test")
    mixed = test.take(np.random.default_rng(0).permutation(len(test.impressions)))
    times = np.array(mixed.impressions["timestamp"].to_pylist())
    first = answers.first_in_time(mixed, 10)
    assert sorted(first.impressions["timestamp"].to_pylist()) == sorted(times)[:10]
    assert len(answers.first_in_time(mixed).impressions) == len(times)
    answers.save(tmp_path, "random", first, baselines.uniform(first))
    again = answers.asked_about(tmp_path / "random.parquet", mixed)
    assert again.impressions["impression_id"].to_pylist() == first.impressions["impression_id"].to_pylist()
    with pytest.raises(LogError, match="no impressions in its test split: there is nothing to ask policies about"):
        answers.first_in_time(test.take(np.array([], dtype=int)))


def test_greedy_shares_ties():
    np.testing.assert_allclose(baselines.greedy(np.array([[1.0, 1.0, 0.0, -np.inf]])), [[0.5, 0.5, 0, 0]])


def test_evaluation_recomputes_by_hand(small_log, answered):
    test, _, policies = answered
    table = evaluation.evaluate(small_log, test, policies, n_bootstrap=50)
    assert list(table.columns) == evaluation.COLUMNS
    arrays, q = test.arrays(), test.expected_reward()
    whole = table[table["slice"] == "all"].set_index(["policy", "estimator"])
    for name, p in policies.items():
        weight = p[np.arange(len(arrays)), arrays.shown] / arrays.propensity
        assert whole.loc[(name, "ips"), "value"] == pytest.approx((weight * arrays.reward).mean())
        if weight.sum() > 0:
            snips = (weight * arrays.reward).sum() / weight.sum()
            assert whole.loc[(name, "snips"), "value"] == pytest.approx(snips)
        value = (p * q).sum(axis=1).mean()
        assert whole.loc[(name, "truth"), "value"] == pytest.approx(value)
        assert (whole.loc[name]["true_value"] - value).abs().max() < 1e-12
        base = (policies["production"] * q).sum(axis=1).mean()
        assert whole.loc[(name, "truth"), "lift"] == pytest.approx(value / base - 1)


def test_slices_cover_the_test_split(small_log):
    test = small_log.split("test")
    parts = evaluation.slices(small_log, test)
    assert (parts["warm titles"] ^ parts["cold titles"]).all()
    assert (parts["short histories"] ^ parts["long histories"]).all()
    cold = dict(zip(small_log.impressions["impression_id"].to_pylist(), small_log.cold(), strict=True))
    assert parts["cold titles"].tolist() == [cold[name] for name in test.impressions["impression_id"].to_pylist()]


def test_a_model_that_writes_nonsense_is_undecided(small_log):
    settings = Settings(
        base=embedded.TINY,
        dtype="float32",
        method="sft-reasoning",
        prompt="reasoned",
        samples=2,
        max_new_tokens=4,
        max_tokens=8192,
    )
    part = small_log.take(np.arange(3))
    p = calibration.probabilities(llm.llm_scores(small_log, part, settings, None))
    np.testing.assert_allclose(p, baselines.uniform(part))
