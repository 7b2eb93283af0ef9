"""The benchmarks, on the tiny world and model: that they run, go on, and report what they say."""

import dataclasses
import functools
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from artlib import data
from artlib.analysis import comparison, plots
from artlib.lm import calibration, embedded, forward, model, tree
from artlib.policies import baselines, encoder
from artlib.posttrain import examples
from artlib.posttrain.examples import Examples
from artlib.posttrain.settings import Settings
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
    assert list(rows) == ["zero-shot", "text 40", *grid.names]
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
        if name in grid.names:
            by_member, by_title = test["over_text"], test["over_text_by_title"]
            assert by_title["mean"] == pytest.approx(by_member["mean"], abs=1e-9)
            assert by_title["lower"] <= by_title["mean"] + 1e-9 and by_title["upper"] >= by_title["mean"] - 1e-9
            assert test["n"] < 200 or by_title["lower"] != pytest.approx(by_member["lower"], abs=1e-9)
    assert rows["counterfactual 80"]["start_seconds"] == rows["sft 40"]["seconds"]
    again = [("sft", "text"), ("sft", "production"), ("counterfactual", "text")]
    for name, beside in again:  # the same adapter, asked once more
        kinds = name, f"{name} + {beside}"
        alone, together = (next(row for row in rows.values() if row["method"] == kind) for kind in kinds)
        assert together["seconds"] == alone["seconds"] and together["start_seconds"] == alone["start_seconds"]
    path = root / "results" / "methods-tiny-tiny-tiny.json"
    told = comparison.coverage(path)
    assert list(told.index) == ["ips", "snips", "dr"] and (told["policies"] == len(rows)).all()
    by_hand = [row["test"]["estimates"]["dr"] for row in rows.values()]
    truths = [row["test"]["lift"]["mean"] for row in rows.values()]
    held = [one["lower"] <= truth <= one["upper"] for one, truth in zip(by_hand, truths, strict=True)]
    assert told.loc["dr", "covered"] == sum(held) and told.loc["dr", "half_width"] > 0
    assert told.loc["dr", "trusted"] == sum(one["verdict"] == "ok" for one in by_hand)
    table = comparison.read(path).set_index("entry")
    assert list(table.index) == list(rows)
    assert list(table["method"]) == [
        *("zero-shot", "text", "text", "sft", "sft + text", "sft + production", "zero-shot + text", "text + text"),
        *("counterfactual", "counterfactual + text", "label sft"),
    ]
    assert list(table["learns_from"].fillna("")) == ["", *["plays"] * 7, *["impressions"] * 2, "plays"]
    spent = rows["counterfactual 80"]["seconds"] + rows["sft 40"]["seconds"]
    assert table.loc["counterfactual 80", "minutes"] == pytest.approx(spent / 60)
    assert table["minutes"].isna().tolist() == [True] * 3 + [False] * 3 + [True] * 2 + [False] * 3
    np.testing.assert_array_equal(table["over_text"].notna(), [name in grid.names for name in rows])
    np.testing.assert_array_equal(table["order_after"].notna(), [name.startswith("label") for name in rows])
    picked = comparison.chosen_by_validation(table.reset_index())
    assert picked["of"] == 5  # sft and counterfactual, alone and with others
    assert picked["entry"].startswith(("sft", "counterfactual"))
    assert comparison.provenance({"tiny": comparison.read(path)}).loc["tiny", "trainings"] == 3
    figure = plots.methods(table.reset_index())
    by_plays, by_time, lifts = ([text.get_text() for text in axis.get_legend().texts] for axis in figure.axes)
    assert sorted(by_plays) == ["sft, seed 0", "text, seed 0", "zero-shot"]
    assert by_time == [
        "sft",
        "sft + text",
        "sft + production",
        "counterfactual",
        "counterfactual + text",
        "label sft",
        "zero-shot",
    ]
    assert lifts == ["seed 0, n = 8", "seed 0, n = 200"]
    assert {label.get_text() for label in figure.axes[2].get_yticklabels()} == set(rows)


@pytest.fixture
def drawing(methods, small_log, tmp_path):
    """A session whose text baseline draws its scores, by its seed; and how it does."""
    session = methods._Session(small_log, tmp_path, methods.WORLDS["tiny"], "tiny", "tiny")
    rng = np.random.default_rng(0)
    drawn = {seed: rng.normal(size=(10_000, 20)) for seed in range(3)}  # scores by artwork, of each seed's text

    def scores(part, seed):
        arrays = part.arrays()
        found = np.take_along_axis(drawn[seed][: len(arrays)], np.cumsum(arrays.mask, axis=1) - 1, axis=1)
        return np.where(arrays.mask, found, -np.inf)

    def strongest(plays, validation, seed):
        return methods.Choice(f"seed {seed}", functools.partial(scores, seed=seed), {})

    session.readers.strongest = strongest
    session._worth = lambda part, chosen, entry, seed: chosen
    return session, scores


def test_a_reader_is_pooled_with_text_by_what_both_expect_and_text_with_another(methods, small_log, drawing):
    session, scores = drawing
    settings = Settings(base="tiny", seed=1)
    found = [session._reader(methods.Entry("text", 40, beside=beside), settings) for beside in ("", "text")]
    assert [told["reader"] for _, told in found] == ["seed 1", "seed 2"]
    test, check = small_log.split("test"), data.plays(small_log, "validation", settings.max_validation, 1)
    shares = []
    for seed in (1, 2):
        temperature = calibration.fit_temperature(scores(check, seed), check.arrays().shown)
        shares.append(calibration.probabilities(scores(test, seed), temperature))
    row, both = session.row(methods.Entry("text", 40, beside="text"), 1), calibration.pooled(shares)
    np.testing.assert_array_equal(row.test, baselines.greedy(np.where(test.arrays().mask, both, -np.inf)))
    together = session._beside_text(found[1][0], 1)(test)
    mask = test.arrays().mask
    np.testing.assert_allclose(np.where(mask, together, 0), calibration.pooled(shares))
    assert np.isneginf(together[~mask]).all()


def test_a_reader_beside_production_learns_from_the_plays_that_text_has(methods, small_log, drawing, monkeypatch):
    session, scores = drawing
    asked = []

    def fusion(*given):
        asked.append(given)
        return encoder.fusion(*given)

    monkeypatch.setattr(methods, "fusion", fusion)
    row = session.row(methods.Entry("text", 20, beside="production"), 1)
    ((log, (reader,), *parts),) = asked
    most = Settings().max_validation
    expected = [data.plays(small_log, "train", 40, 1), data.plays(small_log, "validation", most, 1)]
    assert [part.impressions["impression_id"] for part in parts] == [
        part.impressions["impression_id"] for part in expected
    ]
    test = small_log.split("test")
    np.testing.assert_array_equal(reader(test), scores(test, 1))  # not the other one, which is pooled with
    fused = encoder.fusion(log, [reader], *expected)(test)
    np.testing.assert_array_equal(row.test, baselines.greedy(fused))
    assert row.method == "text + production"


@pytest.mark.parametrize("n", [1, 2])
def test_a_comparison_that_has_only_begun_can_be_looked_at(compared, tmp_path, n):
    root, results = compared
    path = tmp_path / "methods-tiny.json"
    path.write_text(json.dumps(results | {"rows": results["rows"][:n]}))
    table = comparison.read(path)
    assert len(table) == n and table["over_text"].isna().all() and table["minutes"].isna().all()
    assert len(plots.methods(table).axes[2].get_yticklabels()) == n


@pytest.mark.parametrize("world", ["fiction", "broad", "broad-110k", "broad-110k-other", "shuffled", "movielens"])
def test_every_record_can_be_drawn(world):
    """Among them means over seeds that are all alike, which rounding may put below the lowest."""
    assert plots.methods(comparison.read(ROOT / "results" / f"methods-{world}.json")).axes


@pytest.mark.parametrize("world", ["fiction", "broad", "broad-110k", "broad-110k-other", "movielens"])
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
    record = root / "results" / "methods-tiny-tiny-tiny.json"
    shortened = results | {"rows": results["rows"][:-1]}
    record.write_text(json.dumps(shortened))
    # Lifts over the baseline need its choices.
    (root / "runs" / "methods" / "tiny-tiny-tiny" / "seed-0" / "policies" / "text.parquet").unlink()
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
    assert [row["entry"] for row in more if row["seed"] == 1] == ["text 40", "sft 40"]


def test_entries_have_names_of_their_own(methods):
    for grid in methods.WORLDS.values():
        names = [entry.name for entry in (*grid.baselines, *grid.entries)]
        assert len(set(names)) == len(names)
    assert "label sft 110000" in methods.WORLDS["paper"].names and "kto" in methods.WORLDS["fiction"].names


def test_an_unknown_entry_is_named(methods, tmp_path, capsys):
    with pytest.raises(SystemExit):
        methods.main(["--world", "tiny", "--only", "sft 41"], tmp_path)
    assert (
        "'sft 41' is none of text 20, sft 40, sft + text 40, sft + production 40, zero-shot + text 40, text + text 40"
        in capsys.readouterr().err
    )


def test_results_of_another_log_are_not_continued(methods, compared, tmp_path):
    root, results = compared
    (tmp_path / "results").mkdir()
    other = results | {"log": {"impressions.parquet": {"rows": 1, "sha256": "0"}}}
    (tmp_path / "results" / "methods-tiny-tiny-tiny.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="is of another log"):
        methods.main(TINY, tmp_path)


@pytest.fixture(scope="module")
def speed():
    yield load("speed")
    del sys.modules["speed"]


@pytest.fixture(scope="module")
def peers():
    yield load("peers")
    del sys.modules["peers"]


@pytest.fixture(scope="module")
def tiny():
    return model.load(embedded.TINY, dtype="float32")


def asked(speed, log, tokenizer, prompt: str):
    """Two impressions, one of them twice, with short texts, some of a token: and the ways to ask them."""
    part = log.split("test").take(np.array([0, 1, 0]))
    questions = examples.reader_for(log, tokenizer, Settings(base="tiny", prompt=prompt, max_tokens=8192)).read(part)
    questions = [shortened(question) for question in questions]
    return questions, part.arrays(), [speed.requests(question) for question in questions]


def shortened(question):
    if question.form == "label":
        return dataclasses.replace(question, head=question.head[-20:], options=[o[-9:] for o in question.options])
    short = dataclasses.replace(question, posters=[poster[-9 - len(poster) % 3 :] for poster in question.posters])
    if question.form == "member-likelihood":
        return dataclasses.replace(short, member=question.member[:12])
    names = [genre[: 1 + i % 3] for i, genre in enumerate(question.genres[:6])]
    return dataclasses.replace(short, genres=names, average=question.average[:6], affinity=question.affinity[:6])


@pytest.mark.parametrize("prompt", ["genre-likelihood", "member-likelihood", "label"])
def test_peers_score_and_learn_what_we_do(speed, peers, small_log, tiny, prompt):
    language_model, tokenizer = tiny
    questions, arrays, made = asked(speed, small_log, tokenizer, prompt)
    expected = speed.ours(language_model, questions)
    transformers = peers.Transformers(embedded.locate("tiny"), "float32", rank=2, layers=[0, 1])
    pairs = [pair for each in made for pair in each.pairs]
    ends = np.cumsum([len(each.pairs) for each in made])[:-1]
    for way in ("harness", "generate") if prompt == "label" else ("harness",):
        found = np.split(np.array(getattr(transformers, way)(pairs)), ends)
        for own, each, part in zip(expected, made, found, strict=True):
            np.testing.assert_allclose(each.scores(part), own[np.isfinite(own)], rtol=0, atol=1e-4, err_msg=way)
    lessons = [speed.lesson(each, int(k)) for each, k in zip(made, arrays.shown, strict=True)]
    loss = speed._mean_loss(language_model, Examples(questions, arrays), len(questions))
    assert transformers.padded(lessons) == pytest.approx(loss, abs=1e-4)
    assert transformers.single(lessons) == pytest.approx(loss, abs=1e-4)
    before = [p.detach().clone() for p in transformers.model.parameters() if p.requires_grad]
    transformers.padded(lessons)
    after = (p for p in transformers.model.parameters() if p.requires_grad)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_what_goes_through_the_model_is_counted_without_padding(speed, tiny):
    language_model, _ = tiny
    trees = [tree.lay_out([5, 6, 7], [[8], [9, 10]], [[11, 12], [13]]), tree.lay_out([5, 6], [[8]], [[11, 12, 14]])]
    batch = tree.collate_trees(trees)
    assert batch["input_ids"].shape == (1, 16)  # both in one sequence
    forward.leaf_log_probabilities(language_model, batch)  # which checks the model first
    with speed.counted(language_model) as work:
        forward.leaf_log_probabilities(language_model, batch)
    # 3 + (1 + 1) + (2 + 1) and 2 + 1 + 2; each root predicts, and each leaf's token but the last; and one for padding.
    assert (work.tokens, work.heads) == (8 + 5, 4 + 3 + 1)
    with speed.counted(language_model) as work, torch.no_grad():
        language_model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.tensor([[1, 1, 0]]))
    assert work.tokens == 2


def test_flops_are_those_of_a_hand_count_and_of_torch(speed):
    language_model, _ = model.load(embedded.TINY, dtype="float32")
    hidden, inner, keys, vocabulary = 32, 64, 16, 285
    layer = hidden * (2 * hidden + 2 * keys) + 3 * hidden * inner
    work = speed.Work(tokens=24, heads=7)
    assert speed.scoring_flops(language_model, work) == 2 * (2 * layer * 24 + vocabulary * hidden * 7)
    rank = 4
    adapted = model.add_lora(language_model, rank, layers=1)
    a = rank * (6 * hidden + inner)  # of q, k, v, o, gate, up: `hidden` inputs; of down: `inner`
    b = rank * (3 * hidden + 2 * keys + 2 * inner)
    begins = hidden * (hidden + 2 * keys), 3 * rank * hidden  # q, k, v and their first factors
    passed = 2 * layer + 2 * (a + b) + (layer - begins[0]) + (a + b - begins[1])
    expected = 2 * (passed * 24 + 2 * vocabulary * hidden * 7)
    assert speed.training_flops(adapted, work) == expected

    adapted.train()
    batch = {"input_ids": torch.arange(24)[None] + 3}
    forward.logits_at(adapted, batch, torch.arange(7))  # which checks the model first
    with FlopCounterMode(display=False) as counter:
        forward.logits_at(adapted, batch, torch.arange(7)).log_softmax(dim=1)[:, 0].sum().backward()
    products = counter.get_flop_counts()["Global"]
    assert sum(products[op] for op in products if str(op) in ("aten.mm", "aten.addmm")) == expected


def test_beginnings_in_common_are_read_once(peers):
    rows = sorted([(1, 2, 3, 4), (1, 2, 3, 5, 6), (1, 2, 3), (1, 2, 8, 8, 8), (1, 9, 9, 9), (7,)])
    groups = peers.common_beginnings(rows, most=8)
    assert groups == [(3, rows[:3]), (5, [(1, 2, 8, 8, 8)]), (4, [(1, 9, 9, 9)]), (1, [(7,)])]  # half, or apart
    assert peers.common_beginnings(rows, most=2)[0] == (3, rows[:2])
    batches = list(peers.packed(groups, sequences=4, tokens=100))
    assert batches == [groups[:2], groups[2:]]
    assert list(peers.packed(groups, sequences=8, tokens=6)) == [groups[:1], groups[1:2], groups[2:]]


def test_ratios_are_of_the_same_round_and_per_impression(speed):
    said = speed.summary({"ours": [1.0, 2.0, 4.0], "slow": [2.0, 8.0, 4.0]}, {"ours": 10, "slow": 5})
    assert said["ours"] == {"impressions": 10, "per_second": 5.0}
    assert said["slow"] == {"impressions": 5, "per_second": 1.25, "ratio": 4.0, "lowest": 2.0, "highest": 8.0}


def test_a_peer_that_dies_says_why(speed, tmp_path):
    process = speed.Process("transformers", {"colour": "red"}, sys.executable, tmp_path)
    try:
        with pytest.raises(RuntimeError, match=r"(?s)transformers ended with code 1.*colour"):
            process.call("harness", [])
    finally:
        process.close()


SPEED = [
    ("genre-likelihood", ["harness"], ["padded", "single"]),
    ("member-likelihood", ["harness"], ["trl", "padded", "single"]),
    ("label", ["harness", "generate"], ["trl", "padded", "single"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "scorers", "learners"), SPEED)
def test_speed_is_recorded_beside_every_peer(speed, tmp_path, prompt, scorers, learners):
    given = ["--model", "tiny", "--prompt", prompt, "--titles", "2", "--per-title", "1", "--rounds", "1"]
    found = speed.main(given, tmp_path)
    name = f"tiny, {prompt}" + (", 1 a title" if prompt != "label" else "")  # which is its default
    assert json.loads((tmp_path / "results" / "speed.json").read_text()) == {name: found}
    assert list(found["scoring"]) == ["ours", *scorers] and list(found["training"]) == ["ours", *learners]
    assert {"machine", "command", "date", "commit", "load"} <= found.keys()
    assert found["impressions"] == 2 and found["impressions_per_title"] == 1
    for part in (found["scoring"], found["training"]):
        for name, row in part.items():
            assert row["per_second"] > 0
            if name == "ours":
                assert 0 < row["utilisation"] < 1 and row["heads"] <= row["tokens"]
            else:
                assert 0 < row["lowest"] <= row["ratio"] <= row["highest"]
                assert "trl" == name or row["difference"] < 1e-3
    table = report.speed(tmp_path / "results" / "speed.json")
    assert all(f"times {name}" in table for name in (*scorers, *learners))


@pytest.mark.slow
def test_trl_learns_the_answer_and_its_end(speed, peers, small_log, tiny, tmp_path):
    """Its loss is over the whole vocabulary, of the answer's tokens and the token that ends it."""
    language_model, tokenizer = tiny
    questions, arrays, _ = asked(speed, small_log, tokenizer, "label")
    texts = [speed.written(question, int(k), tokenizer) for question, k in zip(questions, arrays.shown, strict=True)]
    trl = peers.Trl(embedded.locate("tiny"), "float32", 2, 8192, str(tmp_path))
    losses = []
    for question, shown in zip(questions, arrays.shown, strict=True):
        answer = [question.labels[shown], tokenizer.eos_token_id]
        ids = torch.tensor([[*question.ids(np.arange(len(question.options))), *answer]])
        with torch.no_grad():
            log_p = language_model(input_ids=ids).logits[0, -3:-1].float().log_softmax(dim=1)
        losses += [-float(log_p[place, token]) for place, token in enumerate(answer)]
    assert trl.sft(texts) == pytest.approx(np.mean(losses), abs=2e-3)


@pytest.mark.slow
def test_one_process_several_and_actors_choose_alike(tmp_path):
    pytest.importorskip("ray.data", reason="needs ray: pip install -e .[ray]")
    found = load("scale").main(["--model", "tiny", "--requests", "120", "--titles", "20"], tmp_path)
    for name in ("processes", "ray"):
        assert found[name]["other_choices"] == 0 and found[name]["difference_of_probabilities"] < 1e-5
    assert min(found[name]["seconds"] for name in ("one process", "processes", "ray")) > 0
    assert json.loads((tmp_path / "results" / "scale.json").read_text()) == {"tiny, genre-likelihood": found}


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


@pytest.mark.slow
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
