"""Scores: a tree of captions in one pass gives what separate passes give, whatever the batch or the order."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_models import small_model, telling

from artlib.lm import calibration, embedded, forward, model, prompts
from artlib.lm import tree as packing
from artlib.lm.prompts import clause_topics, genre_likelihood, label, member_likelihood, reasoned
from artlib.lm.prompts.caption import BOTH, CaptionPrompt, tree
from artlib.lm.prompts.label import LabelPrompt
from artlib.lm.unsloth import ModelError


@pytest.fixture(scope="module")
def tiny():
    return model.load(embedded.TINY, dtype="float32", max_tokens=8192)


@pytest.fixture(scope="module")
def captions(small_log, tiny):
    return prompts.reader(small_log, tiny[1], "caption", max_tokens=8192).read(small_log.take(np.arange(12)))


@pytest.fixture(scope="module")
def posters(small_log, tiny):
    return prompts.reader(small_log, tiny[1], "genre-likelihood", max_tokens=8192).read(small_log.take(np.arange(12)))


@pytest.fixture(scope="module")
def members(small_log, tiny):
    """Ten impressions of three titles: some share a tree."""
    title = small_log.arrays().title
    often = np.argsort(-np.bincount(title))[:3]
    rows = np.concatenate([np.flatnonzero(title == t)[:n] for t, n in zip(often, (5, 1, 4), strict=True)])
    reader = prompts.reader(small_log, tiny[1], "member-likelihood", n_recent=2, max_tokens=8192)
    return reader.read(small_log.take(np.random.default_rng(0).permutation(rows)))


@pytest.fixture(scope="module")
def topics(small_log, tiny):
    return prompts.reader(small_log, tiny[1], "clause-topics", max_tokens=8192).read(small_log.take(np.arange(12)))


@pytest.fixture(scope="module")
def questions(small_log, tiny):
    return prompts.reader(small_log, tiny[1], "label", max_tokens=8192).read(small_log.take(np.arange(6)))


@pytest.fixture(scope="module")
def headlines(small_log, tiny):
    return prompts.reader(small_log, tiny[1], "appeal", max_tokens=8192).read(small_log.take(np.arange(12)))


def log_probability(language_model, prefix: list[int], caption: list[int]) -> float:
    """log p(caption | prefix) by one plain forward pass."""
    return log_probabilities(language_model, prefix, [caption])[0]


def log_probabilities(language_model, prefix: list[int], continuations: list[list[int]]) -> list[float]:
    """log p(continuation | prefix) of each, one sequence each in a plain batch, padded on the right."""
    import torch

    width = max(map(len, continuations))
    ids = torch.tensor([prefix + text + [0] * (width - len(text)) for text in continuations])
    with torch.inference_mode():
        logits = language_model(input_ids=ids).logits[:, len(prefix) - 1 :].log_softmax(-1)
    return [float(sum(row[i, t] for i, t in enumerate(text))) for row, text in zip(logits, continuations, strict=True)]


def test_tree_scores_equal_separate_full_forward_passes(tiny, captions):
    language_model = tiny[0]
    found = prompts.score(language_model, captions[:4])
    for row, prompt in enumerate(captions[:4]):
        for k, caption in enumerate(prompt.captions):
            member = log_probability(language_model, prompt.trunk + prompt.member, caption)
            general = log_probability(language_model, prompt.trunk + prompt.general, caption)
            assert found[row, k] == pytest.approx(member - general, abs=1e-4 * max(1, abs(member)) ** 0.5)


def test_member_likelihoods_equal_separate_full_forward_passes(tiny, members):
    """However members of a title are grouped, in deciding as in training."""
    import torch

    language_model = tiny[0]
    found = prompts.score(language_model, members)
    with torch.inference_mode():
        trained = prompts.form_of(members).candidate_scores(language_model, prompts.collate(members)).numpy()
    for row, prompt in enumerate(members):
        for k, poster in enumerate(prompt.posters):
            alone = log_probability(language_model, prompt.frame + poster, prompt.member)
            assert found[row, k] == pytest.approx(alone, rel=1e-4)
            assert trained[row, k] == pytest.approx(alone, rel=1e-4)
        assert (found[row, len(prompt.posters) :] == -np.inf).all()
        assert (trained[row, len(prompt.posters) :] == forward.MASKED_SCORE).all()


def test_members_share_a_trees_captions_up_to_its_size(members, monkeypatch):
    monkeypatch.setattr(member_likelihood, "PACKED", 2000)
    shared = member_likelihood.groups(members)
    assert sorted(row for rows in shared for row in rows) == list(range(len(members)))
    assert all(members[row].posters == members[rows[0]].posters for rows in shared for row in rows)
    assert any(len(rows) > 1 for rows in shared)
    longest = max(prompt.n_tokens for prompt in members)
    assert all(len(member_likelihood.tree([members[row] for row in rows]).ids) <= 2000 + longest for rows in shared)
    monkeypatch.setattr(member_likelihood, "PACKED", 1)
    assert sorted(member_likelihood.groups(members)) == [[row] for row in range(len(members))]


def test_topics_are_compared_as_separate_full_forward_passes_have_them(tiny, topics):
    """A caption's likeness to a clause is a soft maximum over its clauses of sum_v sqrt(p_v q_v)."""
    import torch

    language_model, few = telling(tiny[0]), topics[:3]

    def next_words(clauses: list[list[int]]) -> np.ndarray:
        with torch.inference_mode():
            ids = [torch.tensor([few[0].frame + clause]) for clause in clauses]
            found = [language_model(input_ids=text, use_cache=False).logits[0, -1].double() for text in ids]
        return torch.stack(found).softmax(dim=1).numpy()

    found, told = prompts.score(language_model, few), next_words(few[0].told)
    with torch.inference_mode():
        trained = prompts.form_of(few).candidate_scores(language_model, prompts.collate(few)).numpy()
    for row, prompt in enumerate(few):
        assert prompt.told is few[0].told and np.abs(prompt.weights).max() > 0.02
        for k, artwork in enumerate(prompt.artworks):
            assert len(artwork) > 1
            similar = np.sqrt(next_words(artwork)) @ np.sqrt(told).T
            blur = clause_topics.BLUR
            expected = prompt.weights @ np.log(np.exp(blur * similar).sum(axis=0)) / blur * clause_topics.SHARPNESS
            assert found[row, k] == pytest.approx(expected, abs=2e-5)
            assert trained[row, k] == pytest.approx(expected, abs=2e-5)
        assert (found[row, len(prompt.artworks) :] == -np.inf).all()
        assert (trained[row, len(prompt.artworks) :] == forward.MASKED_SCORE).all()
    assert np.ptp(found[np.isfinite(found)]) > 0.002
    np.testing.assert_allclose(prompts.score(language_model, few, batch_tokens=1), found, atol=2e-5)


def test_clauses_that_were_read_are_not_read_again(tiny, topics, monkeypatch):
    form = prompts.form_of(topics).remembering()
    found = prompts.score(tiny[0], topics, form=form)
    monkeypatch.setattr(clause_topics, "topics", None)
    np.testing.assert_array_equal(prompts.score(tiny[0], topics[::-1], form=form)[::-1], found)
    with pytest.raises(TypeError):
        prompts.score(tiny[0], topics)


def test_genre_likelihoods_equal_separate_full_forward_passes(tiny, posters):
    language_model = tiny[0]
    trained, decisive = prompts.score_both_ways(language_model, posters[:3])
    np.testing.assert_array_equal(trained, prompts.score_as_trained(language_model, posters[:3]))
    np.testing.assert_array_equal(decisive, prompts.score(language_model, posters[:3]))

    def answers(given: list) -> np.ndarray:
        frame, genres = posters[0].frame, posters[0].genres
        return np.array([log_probabilities(language_model, frame + ids, genres) for ids in given])

    usual = answers(posters[0].sample).mean(axis=0)
    assert np.ptp(usual) > 0.1
    about, scores = genre_likelihood.FORM.genres_and_scores(language_model, posters[:3])
    np.testing.assert_allclose(scores, decisive, atol=1e-4)
    for row, prompt in enumerate(posters[:3]):
        assert np.ptp(prompt.affinity) > 0.1
        for k, logs in enumerate(answers(prompt.posters)):
            assert about[row, k] == (logs - usual).argmax()
            assert trained[row, k] == pytest.approx(prompt.average * (prompt.affinity - 1) @ logs, abs=1e-3)
            p = np.exp(genre_likelihood.SHARPNESS * (logs - usual))
            assert decisive[row, k] == pytest.approx(np.log(p / p.sum() @ prompt.affinity), abs=1e-3)


def _cost(loads: list[float], shared: int) -> float:
    """What `packs` makes least: of a batch whose sequences have these tokens besides those shared."""
    width = packing.bucket(shared + math.floor(max(loads)))
    return len(loads) * width * (1 + width / packing.ATTENTION)


def _partitions(lengths: list[int]) -> Iterator[list[int]]:
    """Sums of the parts of every partition."""
    if not lengths:
        yield []
        return
    for rest in _partitions(lengths[1:]):
        yield [lengths[0], *rest]
        for i in range(len(rest)):
            yield [*rest[:i], lengths[0] + rest[i], *rest[i + 1 :]]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=7), st.integers(0, 40))
@settings(max_examples=60)
def test_packs_keep_grahams_bound(lengths, shared):
    """The longest sequence is at most 4/3 as long as in the best way with as many sequences (Graham 1969)."""
    found = packing.packs(lengths, shared)
    assert sorted(i for pack in found for i in pack) == list(range(len(lengths))) and all(found)
    bound = min(_cost([load * 4 / 3 for load in loads], shared) for loads in _partitions(lengths))
    assert _cost([sum(lengths[i] for i in pack) for pack in found], shared) <= bound


def test_packs_are_close_to_the_best_way_there_is():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(40):
        lengths, shared = rng.integers(1, 400, rng.integers(1, 8)).tolist(), int(rng.integers(0, 40))
        found = [sum(lengths[i] for i in pack) for pack in packing.packs(lengths, shared)]
        ratios.append(_cost(found, shared) / min(_cost(loads, shared) for loads in _partitions(lengths)))
    assert min(ratios) == 1 and np.mean(ratios) < 1.02, ratios


def test_a_batch_of_posters_is_hardly_padded(posters):
    seen = prompts.collate(posters)["attention_mask"][:, 0].sum(dim=2)  # padding sees itself alone
    assert (seen > 1).float().mean() > 0.9


CLASSES = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "smollm3": {},
    "olmo2": {},
    "gpt2": {},
    "gpt_neox": {},
    "phi": {},  # the last with a bias of the head
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25},
    "hyperclovax": {"logits_scaling": 8.0},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0},
    "gpt_oss": {"num_local_experts": 4},
}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_scores_as_its_own_forward_pass(kind):
    """Whatever it does after its head: captions and genres in a tree, letters in padded questions."""
    import torch

    language_model = small_model(kind, **CLASSES[kind])
    rng = np.random.default_rng(1)

    def ids(n: int) -> list[int]:
        return rng.integers(1, 300, n).tolist()

    caption = CaptionPrompt(ids(9), ids(3), ids(12), [ids(6), ids(1), ids(4)])
    with torch.inference_mode():
        found = forward.leaf_log_probabilities(language_model, prompts.collate([caption]))[0].numpy()
    for row, root in zip(found, (caption.general, caption.member), strict=True):
        expected = [log_probability(language_model, caption.trunk + root, leaf) for leaf in caption.captions]
        np.testing.assert_allclose(row, expected, atol=1e-4, rtol=1e-5)
    frame, posters, genres = ids(4), [ids(11), ids(7)], [ids(2), ids(1), ids(3)]
    table = genre_likelihood.genre_table(language_model, posters, frame, genres)
    expected = [[log_probability(language_model, frame + poster, genre) for genre in genres] for poster in posters]
    np.testing.assert_allclose(table, expected, atol=1e-4, rtol=1e-5)
    lines = [LabelPrompt(ids(n), [ids(4), ids(2)], [[7], [8]], ids(3), [11, 12]) for n in (20, 5)]
    with torch.inference_mode():
        labels = label.label_scores(language_model, prompts.collate(lines)).numpy()
        for row, line in zip(labels, lines, strict=True):
            plain = language_model(input_ids=torch.tensor([line.ids(np.arange(2))])).logits[0, -1]
            np.testing.assert_allclose(row, plain[[11, 12]].log_softmax(0).numpy(), atol=1e-4)
        for turns, line in zip(label.rotation_scores(language_model, lines), lines, strict=True):
            plain = language_model(input_ids=torch.tensor([line.ids(np.array([1, 0]))])).logits[0, -1]
            np.testing.assert_allclose(turns[1, [1, 0]], plain[[11, 12]].log_softmax(0).numpy(), atol=1e-4)


@pytest.mark.parametrize("kind, keeps", [("llama", True), ("gpt2", True), ("gpt_oss", False)])
def test_heads_are_computed_once_where_a_model_keeps_keys_and_values(kind, keeps):
    language_model = small_model(kind, **CLASSES[kind])
    assert forward.keeps_beginnings(language_model) is keeps  # gpt_oss looks back through a window
    read = []

    def count(_, __, named) -> None:
        read.append(int((named["input_ids"] == 5).sum()))

    language_model.register_forward_pre_hook(count, with_kwargs=True)
    label.rotation_scores(language_model, [LabelPrompt([5] * 30, [[7]] * 3, [[8]] * 3, [9], [11, 12, 13])])
    # Three rotations; the check that a model reads as it should has its own texts.
    assert max(read) == (30 if keeps else 90)


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids", "past_key_values"])
def test_heads_are_computed_anew_where_a_model_would_get_them_wrong(ignored):
    language_model = small_model("llama")
    kind = type(language_model)

    class Careless(kind):
        def forward(self, **inputs):
            return super().forward(**{name: value for name, value in inputs.items() if name != ignored})

    language_model.__class__ = Careless
    assert not forward.keeps_beginnings(language_model)


def test_a_class_scales_its_gradient_as_its_scores():
    """Training sees what scoring sees: log-probabilities by a scale of 8 have another gradient than raw ones."""
    import torch

    language_model = small_model("granite", logits_scaling=8.0)
    prompt = CaptionPrompt([5, 6, 7], [8], [9, 10], [[11, 12], [13]])
    forward.leaf_log_probabilities(language_model, prompts.collate([prompt]))[0, 1, 0].backward()
    found = language_model.lm_head.weight.grad.clone()
    language_model.zero_grad()
    logits = language_model(input_ids=torch.tensor([[5, 6, 7, 9, 10, 11, 12]])).logits[0].log_softmax(-1)
    (logits[4, 11] + logits[5, 12]).backward()
    torch.testing.assert_close(found, language_model.lm_head.weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_ignores_the_tree_is_refused_by_name(ignored):
    language_model = small_model("llama")

    class Careless(type(language_model)):
        def forward(self, **inputs):
            return super().forward(**{name: value for name, value in inputs.items() if name != ignored})

    language_model.__class__ = Careless
    prompt = CaptionPrompt([5, 6, 7], [8], [9, 10], [[11, 12], [13]])
    with pytest.raises(ModelError, match="Careless takes no tree of texts in one pass: .* use another base"):
        prompts.score(language_model, [prompt])


@pytest.mark.parametrize("kind", ["bloom", "mpt"])
def test_a_class_that_reads_no_trees_is_refused_by_name(kind):
    language_model = small_model(kind)
    with pytest.raises(ModelError, match=f"{type(language_model).__name__} (cannot be scored|takes no tree)"):
        genre_likelihood.genre_table(language_model, [[6, 7]], [5], [[8], [9]])


def test_a_text_longer_than_the_models_window_is_refused():
    language_model = small_model("gemma2", head_dim=8, sliding_window=32)
    assert np.isfinite(genre_likelihood.genre_table(language_model, [[5] * 20], [5], [[8], [9]])).all()
    with pytest.raises(ModelError, match="Gemma2ForCausalLM looks back 32 tokens, and a text has more"):
        genre_likelihood.genre_table(language_model, [[5] * 40], [5], [[8], [9]])


def test_what_the_model_says_of_every_poster_does_not_count():
    rng = np.random.default_rng(0)
    genres, affinity = rng.normal(size=(5, 4)), rng.lognormal(size=(3, 4))
    poster = rng.integers(0, 5, (3, 2))
    found = genre_likelihood.mixture_scores(genres, genres.mean(axis=0), poster, affinity)
    habit = rng.normal(size=4)  # genres whose names are likely words
    again = genre_likelihood.mixture_scores(genres + habit, (genres + habit).mean(axis=0), poster, affinity)
    np.testing.assert_allclose(again, found)
    sure = np.full((1, 4), -50.0)
    sure[0, 2] = 50.0
    np.testing.assert_allclose(
        genre_likelihood.mixture_scores(sure, np.zeros(4), np.zeros((3, 1), int), affinity)[:, 0],
        np.log(affinity[:, 2]),
    )


def test_appeal_is_the_log_odds_of_yes_after_the_caption_alone(tiny, headlines):
    found = prompts.score(tiny[0], headlines[:3])
    assert np.ptp(found[0][np.isfinite(found[0])]) > 1e-3
    for row, prompt in enumerate(headlines[:3]):
        for k, caption in enumerate(prompt.posters):
            yes, no = log_probabilities(tiny[0], prompt.frame + caption, prompt.answers)
            assert found[row, k] == pytest.approx(yes - no, abs=1e-3)


@pytest.mark.parametrize("kind", ["captions", "posters", "headlines"])
def test_the_training_batch_scores_as_the_shared_scoring_does(tiny, kind, request):
    import torch

    rows = request.getfixturevalue(kind)
    with torch.inference_mode():
        batch = prompts.form_of(rows).candidate_scores(tiny[0], prompts.collate(rows)).numpy()
    shared = prompts.score_as_trained(tiny[0], rows)
    real = np.isfinite(shared)
    np.testing.assert_allclose(batch[real], shared[real], atol=2e-3)
    assert (batch[~real] == forward.MASKED_SCORE).all()


@pytest.mark.parametrize("kind", ["captions", "posters", "questions", "topics"])
def test_the_same_batch_gives_the_same_gradient_to_the_last_bit(small_log, kind, request):
    """Impressions share posters, so that gradients add up; were the order left to threads, no two runs would agree."""
    import torch

    methods = {"captions": "caption", "posters": "genre-likelihood", "questions": "label", "topics": "clause-topics"}
    method = methods[kind]
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(2)
    language_model, tokenizer = model.load(embedded.TINY, dtype="float32", max_tokens=8192)
    rows = small_log.split("train").take(np.arange(100 if kind in ("posters", "topics") else 8))
    form = prompts.find(method)
    batch = form.collate(form.reader(small_log, tokenizer, max_tokens=8192).read(rows))
    shown = torch.tensor(rows.arrays().shown)
    language_model = model.add_lora(language_model, 4)
    found = []
    for _ in range(4):
        language_model.zero_grad()
        torch.nn.functional.cross_entropy(form.candidate_scores(language_model, batch), shown).backward()
        found.append(torch.cat([p.grad.flatten() for p in language_model.parameters() if p.requires_grad]))
    assert found[0].abs().max() > 0 and all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("kind", ["captions", "posters", "headlines", "questions"])
def test_batch_size_and_padding_change_nothing(tiny, kind, request):
    rows = request.getfixturevalue(kind)
    alone, together = (prompts.score(tiny[0], rows, batch_tokens=size) for size in (1, 100_000))
    np.testing.assert_allclose(alone, together, atol=2e-3)


def test_permuting_candidates_permutes_caption_scores(tiny, captions):
    rng = np.random.default_rng(0)
    prompt = captions[0]
    order = rng.permutation(len(prompt.captions))
    moved = dataclasses.replace(prompt, captions=[prompt.captions[k] for k in order])
    np.testing.assert_allclose(
        prompts.score(tiny[0], [moved])[0], prompts.score(tiny[0], [prompt])[0][order], atol=1e-3
    )


def test_captions_that_join_to_the_same_text_are_told_apart(tiny):
    first = CaptionPrompt([5, 6], [7], [8, 9], [[10, 11, 12], [13]])
    second = CaptionPrompt([5, 6], [7], [8, 9], [[10], [11, 12, 13]])
    together = prompts.score(tiny[0], [first, second])
    np.testing.assert_allclose(together[1], prompts.score(tiny[0], [second])[0], atol=1e-4)


def test_cyclic_rotation_of_the_options_permutes_label_scores(tiny, questions):
    prompt = questions[0]
    order = np.roll(np.arange(len(prompt.options)), 1)
    moved = dataclasses.replace(prompt, options=[prompt.options[k] for k in order])
    np.testing.assert_allclose(
        prompts.score(tiny[0], [moved])[0], prompts.score(tiny[0], [prompt])[0][order], atol=1e-3
    )


def test_label_scores_equal_a_plain_pass_for_each_rotation(tiny, questions):
    import torch

    prompt = questions[0]
    n = len(prompt.options)
    total = np.zeros(n)
    for turn in range(n):
        order = np.roll(np.arange(n), turn)
        with torch.inference_mode():
            logits = tiny[0](input_ids=torch.tensor([prompt.ids(order)])).logits[0, -1]
        total[order] += logits[prompt.labels].log_softmax(0).numpy()
    np.testing.assert_allclose(prompts.score(tiny[0], [prompt])[0], total / n, atol=1e-3)


def test_order_sensitivity_is_zero_without_and_large_with_position_bias(tiny, questions):
    turns = label.rotation_scores(tiny[0], questions)
    counts = [len(prompt.options) for prompt in questions]
    assert [int((~np.isnan(row[:, 0])).sum()) for row in turns] == counts
    real = np.isfinite(turns)
    np.testing.assert_allclose(np.exp(turns[real]).sum(), sum(counts), rtol=1e-5)
    assert label.order_sensitivity(turns) > 0
    same = np.log([[[0.2, 0.8], [0.2, 0.8]]])
    always_first = np.log([[[0.999, 0.001], [0.001, 0.999]]])
    assert label.order_sensitivity(same) == 0
    assert label.order_sensitivity(always_first) == pytest.approx(0.499)


def test_a_caption_sees_its_prefix_and_not_its_neighbours(captions):
    prompt = captions[0]
    laid_out = tree(prompt)
    k = len(prompt.captions)
    assert laid_out.visible[1:, 0].all() and laid_out.visible[0].sum() == 1
    assert laid_out.visible[2 : 2 + k, 1].all()  # captions after `general`
    assert laid_out.visible[3 + k :, 2 + k].all() and not laid_out.visible[3 + k :, 1].any()  # those after `member`
    assert (laid_out.visible.sum(axis=1)[[2, -1]] == 3).all()
    assert laid_out.target.tolist() == [t for _ in BOTH for c in prompt.captions for t in c]
    inside = len(prompt.trunk) + len(prompt.general) + len(prompt.member) + 2 * sum(len(c) - 1 for c in prompt.captions)
    assert len(laid_out.ids) == inside  # a caption's last token is predicted, not read


def test_probabilities_are_a_softmax_and_zero_where_padded():
    p = calibration.probabilities(np.array([[0.0, np.log(3), -np.inf]]))
    np.testing.assert_allclose(p, [[0.25, 0.75, 0]])
    np.testing.assert_allclose(calibration.probabilities(np.array([[0.0, np.log(9)]]), temperature=2), [[0.25, 0.75]])


def test_readers_are_pooled_by_the_geometric_mean_of_what_they_expect():
    one, two = np.array([[0.8, 0.2, 0.0], [0.5, 0.5, 0.0]]), np.array([[0.2, 0.8, 0.0], [0.1, 0.9, 0.0]])
    np.testing.assert_allclose(calibration.pooled([one, two]), [[0.5, 0.5, 0], [0.25, 0.75, 0]])
    np.testing.assert_allclose(calibration.pooled([one, one, one]), one)
    sure = np.eye(3)[:, None, :]  # what a low temperature makes of scores far apart
    np.testing.assert_allclose(calibration.pooled(sure[:2]), [[0.5, 0.5, 0]])
    np.testing.assert_allclose(
        calibration.pooled([one, one, two])[1], [1 / (1 + 9 ** (1 / 3)), 1 / (1 + 9 ** (-1 / 3)), 0]
    )


def test_votes_reach_the_candidate_whose_letter_was_given_and_no_other(small_log, tiny):
    tokenizer = tiny[1]
    rows = prompts.reader(small_log, tokenizer, "reasoned", max_tokens=8192).read(small_log.take(np.arange(5)))
    favourite = np.array([len(prompt.options) - 1 for prompt in rows])
    texts = [tokenizer.decode(prompt.options[k]) for prompt, k in zip(rows, favourite, strict=True)]
    assert len(set(texts)) == len(rows)  # so that a writer can tell them
    asked = []

    def write(ids: list[list[int]], max_new_tokens: int, temperature: float) -> list[str]:
        """Gives the letter before its favourite's text; every third answer is none."""
        answers = []
        for text in map(tokenizer.decode, ids):
            (caption,) = [caption for caption in texts if caption in text]
            letter = text[: text.index(caption)].rstrip()[-2]
            asked.append((caption, letter))
            answers.append(f"So be it.\nAnswer: {letter}" if len(asked) % 3 else f"Answer: {letter}, or another")
        return answers

    votes, valid = reasoned.vote(write, rows, samples=6, batch=4)
    assert valid == pytest.approx(2 / 3)
    assert votes.sum() == 20 == votes[np.arange(5), favourite].sum()
    letters = [{letter for c, letter in asked if c == caption} for caption in texts]
    assert [len(found) for found in letters] == [min(6, len(prompt.options)) for prompt in rows]
    p = calibration.probabilities(reasoned.vote_scores(votes, rows))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == favourite).all() and (p[:, : favourite.min()] > 0).all()


def test_several_answers_are_drawn_and_a_single_one_is_greedy(tiny, small_log):
    questions = prompts.reader(small_log, tiny[1], "reasoned", max_tokens=8192).read(small_log.take(np.arange(3)))
    asked = []

    def write(ids, max_new_tokens, temperature):
        asked.append((len(ids), max_new_tokens, temperature))
        return ["So.\nAnswer: B"] * len(ids)

    scores, valid = reasoned.self_consistency_scores(write, questions, samples=1, max_new_tokens=9, seed=0)
    assert valid == 1 and scores.argmax(axis=1).tolist() == [1, 1, 1]
    reasoned.self_consistency_scores(write, questions, samples=2, max_new_tokens=9, seed=0)
    assert asked == [(3, 9, 0.0), (6, 9, reasoned.TEMPERATURE)]
