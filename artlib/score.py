"""LLM -> a score per candidate: the log-odds, up to a constant, with which the model would choose it.

A batch is a dictionary of tensors from `collate`; `score` goes through many impressions, asking once what they share.
"""

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import scipy.special
import torch
from tqdm import tqdm

from artlib import layout
from artlib.layout import collate_trees, poster_tree, tree
from artlib.model import ModelError
from artlib.prompts import LABELS, AudiencePrompt, CaptionPrompt, LabelPrompt, Prompt, ReasonedPrompt, parse

SHARPNESS = 0.5  # of a model's answers, which are too sure of themselves; chosen on the demo's validation plays
NOTHING = -1e9  # score of a padded candidate: its probability is exactly 0, its gradient finite


def collate(prompts: Sequence[Prompt], orders: Sequence[np.ndarray] | None = None) -> dict[str, torch.Tensor]:
    """A batch of n impressions of one method, for `candidate_scores`.

    Args:
        orders: for `label`, see `collate_labels`; the log's own without it.
    """
    if isinstance(prompts[0], CaptionPrompt):
        return collate_trees([tree(prompt) for prompt in prompts])
    if isinstance(prompts[0], LabelPrompt):
        return collate_labels(prompts, orders or [np.arange(len(prompt.options)) for prompt in prompts])
    posters, poster, mask = different_posters(prompts)
    frame, genres = prompts[0].frame, prompts[0].genres
    packs = layout.packs(posters, frame, genres)
    batch = collate_trees([poster_tree(frame, [posters[i] for i in pack], genres) for pack in packs])
    most = max(map(len, packs))
    place = np.array([row * most + i - pack.start for row, pack in enumerate(packs) for i in pack])
    more = {"poster": place[poster], "surplus": surplus(prompts).astype(np.float32), "candidates": mask}
    return batch | {key: torch.from_numpy(value) for key, value in more.items()}


def different_posters(prompts: Sequence[AudiencePrompt]) -> tuple[list, np.ndarray, np.ndarray]:
    """Each different poster once; (n, K) which of them each candidate is; (n, K) mask."""
    numbers: dict[tuple, int] = {}
    mask = np.arange(max(len(p.posters) for p in prompts)) < np.array([[len(p.posters)] for p in prompts])
    poster = np.zeros(mask.shape, dtype=np.int64)
    poster[mask] = [numbers.setdefault(tuple(ids), len(numbers)) for p in prompts for ids in p.posters]
    return list(numbers), poster, mask


def surplus(prompts: Sequence[AudiencePrompt]) -> np.ndarray:
    """(n, G) the share of each genre in what the member watched, less its share for the average member."""
    return np.stack([p.average * (p.affinity - 1) for p in prompts])


def candidate_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(n, K) scores in float32 of a batch from `collate`, as training needs them; `NOTHING` where padded."""
    if "poster" in batch:
        return audience_scores(model, batch)
    return label_scores(model, batch) if "labels" in batch else caption_scores(model, batch)


def caption_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """score(c) = log p(c | member) - log p(c), in nats, summed over the caption's tokens.

    The difference is the pointwise mutual information of caption and member: a caption that is likely for everybody,
    because it is short or plain, gains nothing by it.

    Args:
        model: a causal LM, with or without adapters.
        batch: from `collate_trees`, both roots.

    Returns:
        (B, K) scores in float32; `NOTHING` where padded.
    """
    captions = leaf_log_probabilities(model, batch)
    return (captions[:, 1] - captions[:, 0]).masked_fill(~batch["leaves"], NOTHING)


def audience_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """score(c) = sum_g (w_g - average_g) log p(g | c): what training maximises for the artwork that was played.

    w_g is the share of genre g in what the member watched, shrunk as in `AudiencePrompt`. This is query likelihood
    (Ponte and Croft 1998), with the history for a query and the poster for a document, relative to an average history.
    Decisions are taken by `expected_affinity`; but its gradient hardly reaches a genre that the model holds for
    unlikely, while this one reaches all alike.

    What the model says of a poster does not depend on the member, so that one forward pass of a poster does for all.

    Args:
        model: a causal LM, with or without adapters.
        batch: from `collate`.

    Returns:
        (n, K) scores in float32; `NOTHING` where padded.
    """
    genres = leaf_log_probabilities(model, batch).flatten(0, 1)
    # Not genres[poster]: on a CPU its gradient is summed up in whatever order the threads come, and no two runs agree.
    genres = genres.index_select(0, batch["poster"].flatten()).view(*batch["poster"].shape, -1)
    scores = torch.einsum("nkg,ng->nk", genres, batch["surplus"])
    return scores.masked_fill(~batch["candidates"], NOTHING)


def expected_affinity(genres: np.ndarray, usual: np.ndarray, poster: np.ndarray, affinity: np.ndarray) -> np.ndarray:
    """score(c) = log sum_g p(g | c) a_g: the member's affinity to the genre that a picture appeals to, expected.

    p(g | c) is the softmax over genres of SHARPNESS (log p(g | poster c) - usual_g). Taking off what the model says on
    average is the batch calibration of Zhou et al. (2024): without it the genres whose names are likely words win
    everywhere.

    Args:
        genres: (P, G) log-probability of each genre's name after each poster.
        usual: (G,) the same, averaged over a sample of posters.
        poster: (n, K) which poster each candidate is.
        affinity: (n, G) how many times as much of each genre the member watched as the average member.

    Returns:
        (n, K) scores.
    """
    p = scipy.special.softmax(SHARPNESS * (genres - usual), axis=1)
    return np.log(np.einsum("nkg,ng->nk", p[poster], affinity))


def leaf_log_probabilities(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, R, L) log p(leaf | trunk, root), summed over its tokens; 0 where padded."""
    log_p = _token_log_probabilities(model, batch)
    shape = *batch["roots"].shape, batch["leaves"].shape[1]
    leaves = torch.zeros(math.prod(shape), device=log_p.device).index_add(0, batch["leaf"], log_p)
    return leaves.view(shape)


def _token_log_probabilities(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(M,) log p of each target token."""
    # In bf16 a log-softmax over 49,152 tokens would round away what captions differ by.
    log_p = _logits(model, batch, batch["source"]).float().log_softmax(dim=1)
    place = batch["row"] * log_p.shape[1] + batch["target"]
    return log_p.flatten().gather(0, place)  # not log_p[row, target]: see `audience_scores`


def _logits(model, batch: dict[str, torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """(U, V) the model's own logits at tokens `at` of the flattened (B * T).

    Raises:
        ModelError: the model does not read trees as it reads plain text, see `require_faithful`.
    """
    causal_lm = base_model(model)
    if causal_lm not in _FAITHFUL:
        require_faithful(causal_lm)
        _FAITHFUL.add(causal_lm)
    return _forward(model, batch, at)


_FAITHFUL = weakref.WeakSet()  # models that were seen to be


def require_faithful(causal_lm) -> None:
    """Make sure that `_forward` gives what plain forward passes of each branch alone give, on a few tokens.

    A model may take no mask of trees or no positions, look back through a window, keep a state, or have its head
    elsewhere; its scores would be wrong in silence.

    Raises:
        ModelError: names the model's class.
    """
    name = type(causal_lm).__name__
    rng, size = np.random.default_rng(0), causal_lm.config.get_text_config().vocab_size
    texts = [rng.integers(0, size, n).tolist() for n in (5, 2, 3, 3, 4)]
    trunk, general, member, *captions = texts
    trees = [tree(CaptionPrompt(trunk, general, member, captions[:n])) for n in (2, 1)]  # the second is padded
    training = causal_lm.training
    causal_lm.eval()
    try:
        with torch.no_grad():
            batch = _to(causal_lm, collate_trees(trees))
            found = _forward(causal_lm, batch, batch["source"]).float().log_softmax(dim=1)[batch["row"]]
            plain = []
            for root, leaf in [(r, c) for n in (2, 1) for r in (general, member) for c in captions[:n]]:
                ids = torch.tensor([[*trunk, *root, *leaf]], device=found.device)
                plain.append(causal_lm(input_ids=ids, use_cache=False).logits[0, -len(leaf) - 1 : -1])
            plain = torch.cat(plain).float().log_softmax(dim=1)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name} cannot be scored ({type(error).__name__}: {error}); use another base") from error
    finally:
        causal_lm.train(training)
    off = float(((found - plain).square().mean(dim=1).sqrt() / plain.std(dim=1)).max())
    # In 16 bits the embedded model is off by 5 %; a model that does not heed the tree, by far more than 20 %.
    exact = causal_lm.dtype == torch.float32
    if not off <= (0.001 if exact and found.device.type == "cpu" else 0.01 if exact else 0.2):  # a GPU has TF32
        raise ModelError(
            f"{name} takes no tree of texts in one pass: its log-probabilities are off by {off:.0%} of their spread; "
            "use another base"
        )


def _forward(model, batch: dict[str, torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """(U, V) logits by the model's own forward pass, so that whatever it does after its head (scales, soft caps) is
    done. The head, a fifth of the work, is given the tokens `at` only. Adapters, kept in float32, compute in the base
    model's type: casting every layer's input to theirs would take a fifth of a step."""
    from peft.helpers import disable_input_dtype_casting

    causal_lm = base_model(model)
    name, head, config = type(causal_lm).__name__, causal_lm.get_output_embeddings(), causal_lm.config
    if head is None:
        raise ModelError(f"{name} has no head that predicts tokens; give a causal language model as base")
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "attention_mask") if key in batch}
    if "position_ids" in inputs:
        window = getattr(config.get_text_config(), "sliding_window", None)
        if window and int(inputs["position_ids"].max()) >= window:  # which a tree's mask would take the place of
            raise ModelError(f"{name} looks back {window} tokens, and a text has more; use another base")
        if config._attn_implementation == "eager":  # adds what others take as true or false
            lowest = torch.finfo(causal_lm.dtype).min
            inputs["attention_mask"] = (~inputs["attention_mask"]).to(causal_lm.dtype) * lowest
    half = causal_lm.dtype == torch.bfloat16
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0].flatten(0, 1)[at][None],))
    try:
        with torch.autocast(at.device.type, torch.bfloat16, enabled=half):
            with disable_input_dtype_casting(model) if half else contextlib.nullcontext():
                logits = causal_lm(**inputs, use_cache=False).logits
    finally:
        hook.remove()
    if logits.shape[:2] != (1, len(at)):
        raise ModelError(f"{name} does not predict tokens by the head it names; use another base")
    return logits[0]


def base_model(model):
    """The causal LM inside an adapter's wrapper; its layers keep the adapter's weights."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def collate_labels(prompts: Sequence[LabelPrompt], orders: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """A batch of B multiple-choice questions, padded on the right to T tokens.

    Args:
        prompts: B questions.
        orders: for each, the candidate under each letter.

    Returns:
        input_ids, attention_mask: (B, T).
        last: (B,) index of the token after which the label is expected.
        labels: (B, K) label token of each *candidate* under its order; 0 where padded.
        candidates: (B, K) True where there is a candidate.
    """
    rows = [prompt.ids(order) for prompt, order in zip(prompts, orders, strict=True)]
    width, most = layout.bucket(max(map(len, rows))), max(map(len, orders))
    ids, attend = np.zeros((2, len(rows), width), dtype=np.int64)
    labels, candidates = np.zeros((len(rows), most), dtype=np.int64), np.zeros((len(rows), most), dtype=bool)
    for b, (prompt, order) in enumerate(zip(prompts, orders, strict=True)):
        ids[b, : len(rows[b])], attend[b, : len(rows[b])] = rows[b], 1
        labels[b, order] = prompt.labels
        candidates[b, : len(order)] = True
    last = np.array([len(row) - 1 for row in rows])
    batch = {"input_ids": ids, "attention_mask": attend, "last": last, "labels": labels, "candidates": candidates}
    return {key: torch.from_numpy(value) for key, value in batch.items()}


def label_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(label of c | question) among the labels offered: (B, K) in float32, `NOTHING` where padded."""
    rows, width = batch["input_ids"].shape
    last = torch.arange(rows, device=batch["last"].device) * width + batch["last"]
    logits = _logits(model, batch, last).float().gather(1, batch["labels"])
    return logits.masked_fill(~batch["candidates"], NOTHING).log_softmax(dim=1)


def score(model, prompts: Sequence[Prompt], batch_tokens: int = 2048) -> np.ndarray:
    """Score the candidates of many impressions, to decide by.

    `label` prompts are asked once per cyclic rotation of the options, and the log-probabilities are averaged, so
    that no candidate gains by its place. What `audience` says of a poster and `caption` of a caption in general is
    asked once, however many impressions have it.

    Args:
        model: a causal LM; put into evaluation mode.
        prompts: of n impressions, all of one form.
        batch_tokens: at most so many tokens, padding included, in a forward pass (a longer prompt goes alone).

    Returns:
        (n, K) float64 scores; -inf where padded.
    """
    model.eval()
    if isinstance(prompts[0], LabelPrompt):
        return np.nanmean(rotation_scores(model, prompts, batch_tokens), axis=1)
    if isinstance(prompts[0], AudiencePrompt):
        return _audience_decisions(model, prompts, *_audience_answers(model, prompts, batch_tokens), batch_tokens)
    return _caption_decisions(model, prompts, batch_tokens)


def score_as_trained(
    model, prompts: Sequence[Prompt], orders: Sequence[np.ndarray] | None = None, batch_tokens: int = 2048
) -> np.ndarray:
    """The scores of `candidate_scores` for many impressions, as `score` gives those that decide: for `audience` another
    form of the same answers, for `label` those of one order of the options, `orders` as in `collate`."""
    model.eval()
    if isinstance(prompts[0], LabelPrompt):
        return _question_table(model, prompts, orders, batch_tokens)
    if isinstance(prompts[0], AudiencePrompt):
        return _audience_as_trained(prompts, *_audience_answers(model, prompts, batch_tokens))
    return _caption_decisions(model, prompts, batch_tokens)


def score_both_ways(
    model, prompts: Sequence[Prompt], orders: Sequence[np.ndarray] | None = None, batch_tokens: int = 2048
) -> tuple[np.ndarray, np.ndarray]:
    """`score_as_trained` and `score`, from the same answers where they can be had from the same."""
    model.eval()
    if isinstance(prompts[0], AudiencePrompt):
        answers = _audience_answers(model, prompts, batch_tokens)
        return _audience_as_trained(prompts, *answers), _audience_decisions(model, prompts, *answers, batch_tokens)
    deciding = score(model, prompts, batch_tokens)
    if isinstance(prompts[0], CaptionPrompt):
        return deciding, deciding
    return score_as_trained(model, prompts, orders, batch_tokens), deciding


def _audience_answers(
    model, prompts: Sequence[AudiencePrompt], batch_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the model says of each poster, once: (P, G); (n, K) which poster each candidate is; (n, K) mask."""
    posters, poster, mask = different_posters(prompts)
    return genre_table(model, posters, prompts[0].frame, prompts[0].genres, batch_tokens), poster, mask


def _audience_as_trained(prompts: Sequence[AudiencePrompt], genres, poster, mask) -> np.ndarray:
    return np.where(mask, np.einsum("nkg,ng->nk", genres[poster], surplus(prompts)), -np.inf)


def _audience_decisions(model, prompts: Sequence[AudiencePrompt], genres, poster, mask, batch_tokens) -> np.ndarray:
    first, affinity = prompts[0], np.stack([p.affinity for p in prompts])
    usual = genre_table(model, first.sample, first.frame, first.genres, batch_tokens).mean(axis=0)
    return np.where(mask, expected_affinity(genres, usual, poster, affinity), -np.inf)


def _caption_decisions(model, prompts: Sequence[CaptionPrompt], batch_tokens: int) -> np.ndarray:
    sets: dict = {}
    which = [sets.setdefault((*p.trunk, *sum(p.captions, [])), len(sets)) for p in prompts]
    one_each = [prompts[which.index(number)] for number in range(len(sets))]
    most = max(len(p.captions) for p in prompts)
    general, member = (
        _leaf_table(
            model,
            [functools.partial(tree, p, (root,)) for p in part],
            [len(p.trunk) + len(getattr(p, root)) + sum(map(len, p.captions)) for p in part],
            (1, most),
            batch_tokens,
            what,
        )[:, 0]
        for part, root, what in ((one_each, "general", "captions"), (prompts, "member", "members"))
    )
    counts = np.array([len(p.captions) for p in prompts])
    total = member - general[which]
    return np.where(np.arange(most) < counts[:, None], total, -np.inf)


def rotation_scores(model, prompts: Sequence[LabelPrompt], batch_tokens: int = 2048) -> np.ndarray:
    """(n, R, K) log-probabilities of the candidates, in the log's order, under each cyclic rotation of the options.

    R = K is the largest number of candidates; NaN for rotations that an impression with fewer does not have; -inf
    where padded.
    """
    counts = np.array([len(prompt.options) for prompt in prompts])
    rows, places = np.array([(i, turn) for i, k in enumerate(counts) for turn in range(k)]).T
    orders = [np.roll(np.arange(counts[i]), turn) for i, turn in zip(rows, places, strict=True)]
    turns = np.full((len(prompts), counts.max(), counts.max()), np.nan)
    turns[rows, places] = _question_table(model, [prompts[i] for i in rows], orders, batch_tokens)
    return turns


def _question_table(model, prompts: Sequence[LabelPrompt], orders, batch_tokens: int) -> np.ndarray:
    """(n, K) log-probabilities of the candidates, each question asked in one order; -inf where padded."""

    def forward(rows: list[int]) -> torch.Tensor:
        part = [prompts[row] for row in rows]
        return label_scores(model, _to(model, collate(part, orders and [orders[row] for row in rows])))

    counts = np.array([len(prompt.options) for prompt in prompts])
    flat = _batched(forward, [prompt.n_tokens for prompt in prompts], (counts.max(),), batch_tokens, "questions")
    return np.where(np.arange(flat.shape[1]) < counts[:, None], flat, -np.inf)


def order_sensitivity(turns: np.ndarray) -> float:
    """How far a choice depends on the order of the options: 0 not at all, towards 1 entirely.

    Args:
        turns: (n, R, K) from `rotation_scores`.

    Returns:
        The mean total variation distance of the choice under one rotation from the average over all.
    """
    p = np.exp(turns)
    return float(np.nanmean(np.abs(p - np.nanmean(p, axis=1, keepdims=True)).sum(axis=2) / 2))


def vote(
    write: Callable[[list[list[int]], int, float], list[str]], prompts: Sequence[ReasonedPrompt], samples: int = 8,
    temperature: float = 0.7, max_new_tokens: int = 96, batch: int = 32, seed: int = 0,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Have reasoned answers written and count their votes. Each sample sees the options in another cyclic rotation.

    Args:
        write: (token ids of prompts, max_new_tokens, temperature) -> answers, as `model.generate` and `model.writer`.
        samples: answers an impression.
        temperature: of the sampling; 0 for the likeliest answer.

    Returns:
        (n, K) votes, and the ratio of valid answers: those that end as asked for, with a letter that was on offer.
    """
    torch.manual_seed(seed)
    votes = np.zeros((len(prompts), max(len(prompt.options) for prompt in prompts)))
    tasks = sorted(((i, turn) for i in range(len(prompts)) for turn in range(samples)),
                   key=lambda task: -prompts[task[0]].n_tokens)  # fmt: skip
    for start in tqdm(range(0, len(tasks), batch), desc="answers", mininterval=2):
        part = tasks[start : start + batch]
        orders = [np.roll(np.arange(len(prompts[i].options)), turn % len(prompts[i].options)) for i, turn in part]
        ids = [prompts[i].ids(order) for (i, _), order in zip(part, orders, strict=True)]
        answers = write(ids, max_new_tokens, temperature)
        for (i, _), order, answer in zip(part, orders, answers, strict=True):
            letter = parse(answer)
            place = LABELS.index(letter) if letter else len(order)
            if place < len(order):
                votes[i, order[place]] += 1
    return votes, float(votes.sum() / len(tasks))


def vote_scores(votes: np.ndarray, prompts: Sequence[ReasonedPrompt]) -> np.ndarray:
    """(n, K) log of the share of the votes, half a vote given to each candidate beforehand; -inf where padded."""
    counts = np.array([[len(prompt.options)] for prompt in prompts])
    share = (votes + 0.5) / (votes.sum(axis=1, keepdims=True) + 0.5 * counts)
    return np.where(np.arange(votes.shape[1]) < counts, np.log(share), -np.inf)


def genre_table(
    model, posters: Sequence[Sequence[int]], frame: list[int], genres: list[list[int]], batch_tokens: int = 2048
) -> np.ndarray:
    """(P, G) log-probability of each genre's name after each poster, several posters a sequence.

    Args:
        posters, frame, genres: as in `AudiencePrompt`.
    """
    order = np.argsort([-len(poster) for poster in posters], kind="stable")  # so that sequences are of one length
    packs = layout.packs([posters[i] for i in order], frame, genres)
    members = [[posters[order[i]] for i in pack] for pack in packs]
    leaves = sum(len(genre) - 1 for genre in genres)
    table = _leaf_table(
        model,
        [functools.partial(poster_tree, frame, pack, genres) for pack in members],
        [len(frame) + sum(len(poster) + leaves for poster in pack) for pack in members],
        (max(map(len, packs)), len(genres)),
        batch_tokens,
        "posters",
    )
    found = np.empty((len(posters), len(genres)))
    found[order] = np.concatenate([table[row, : len(pack)] for row, pack in enumerate(packs)])
    return found


def _leaf_table(
    model, trees: list, lengths: list[int], shape: tuple[int, int], batch_tokens: int, what: str
) -> np.ndarray:
    """(n, R, L) log-probabilities of the leaves of n trees; 0 where padded.

    Args:
        trees: n functions that make a tree, so that only those of one batch are in memory.
        shape: the most roots R of a tree, and the most leaves L of a root.
    """

    def forward(rows: list[int]) -> torch.Tensor:
        return leaf_log_probabilities(model, _to(model, collate_trees([trees[i]() for i in rows])))

    return _batched(forward, lengths, shape, batch_tokens, what)


def _batched(
    forward: Callable[[list[int]], torch.Tensor], lengths: list[int], shape: tuple, batch_tokens: int, what: str
) -> np.ndarray:
    """(n, *shape) float64: `forward(rows)` over all rows, the longest first; 0 in cells that a batch lacks."""
    order = np.argsort(-np.array(lengths), kind="stable")
    # Made beforehand: small results left between the large blocks of a forward pass would fragment the heap.
    total = np.zeros((len(lengths), *shape))
    with tqdm(total=len(lengths), desc=f"scoring {what}", mininterval=2) as progress:
        for rows in _batches(order.tolist(), lengths, batch_tokens):
            with torch.inference_mode():
                values = forward(rows).double().cpu().numpy()
            total[np.ix_(rows, *map(range, values.shape[1:]))] = values
            progress.update(len(rows))
    return total


def _batches(order: list[int], lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Cut rows, longest first, into batches whose padded size is at most `batch_tokens`."""
    batches, width = [], 0
    for row in order:
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            width = lengths[row]
        batches[-1].append(row)
    return batches


def _to(model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in batch.items()}


def probabilities(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax(scores / temperature) over each impression's candidates.

    Args:
        scores: (n, K), -inf where padded.

    Returns:
        (n, K) probabilities, 0 where padded.
    """
    z = scores / temperature
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)
