"""LLM -> a score per candidate: the log-odds, up to a constant, with which the model would choose it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from artlib.prompts import CaptionPrompt, LabelPrompt

NOTHING = -1e9  # score of a padded candidate: its probability is exactly 0, its gradient finite
# Lengths are padded to multiples of this: on a CPU, oneDNN compiles its kernels anew for every new shape, which takes
# longer than the work itself; on a GPU, matrix units like multiples of 64.
BUCKET = 64
BOTH = ("general", "member")


@dataclasses.dataclass(frozen=True)
class Tree:
    """A `CaptionPrompt` laid out as one sequence of n tokens with S segments, of which m tokens are in captions.

    Attributes:
        ids, position, segment: (n,) token, its position counted along its own branch, its segment.
        visible: (S, S) True where segment i may look at segment j: itself and its ancestors.
        source: (m,) the token whose output predicts each caption token.
        target: (m,) the caption token.
        leaf: (m,) which caption it belongs to: 0 .. K-1 after the first root, K .. 2K-1 after the second.
    """

    ids: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    visible: np.ndarray
    source: np.ndarray
    target: np.ndarray
    leaf: np.ndarray


def tree(prompt: CaptionPrompt, roots: Sequence[str] = BOTH) -> Tree:
    """Lay a prompt out so that one forward pass scores every caption, once a root, sharing what they have in common.

    Args:
        roots: "general", "member" or both.
    """
    segments, parents = [prompt.title], [-1]
    for root in (getattr(prompt, name) for name in roots):
        parents += [0] + [len(segments)] * len(prompt.captions)
        segments += [root, *prompt.captions]
    n_segments = len(segments)
    lengths = np.array([len(segment) for segment in segments])
    begin = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    depth = np.zeros(n_segments, dtype=int)  # position of a segment's first token
    visible = np.eye(n_segments, dtype=bool)
    for s in range(1, n_segments):
        depth[s] = depth[parents[s]] + lengths[parents[s]]
        visible[s] |= visible[parents[s]]
    segment = np.repeat(np.arange(n_segments), lengths)
    within = np.arange(len(segment)) - begin[segment]
    parent = np.array(parents)[segment]
    in_caption = parent > 0
    before = np.where(within > 0, np.arange(len(segment)) - 1, begin[parent] + lengths[parent] - 1)
    ids = np.concatenate([np.asarray(segment, dtype=np.int64) for segment in segments])
    captions = np.cumsum(np.array(parents) > 0) - 1
    return Tree(
        ids, depth[segment] + within, segment, visible,
        source=before[in_caption], target=ids[in_caption], leaf=captions[segment[in_caption]],
    )  # fmt: skip


def collate_trees(prompts: Sequence[CaptionPrompt], roots: Sequence[str] = BOTH) -> dict[str, torch.Tensor]:
    """A batch of B trees with R roots each, padded to T tokens.

    Returns:
        input_ids, position_ids: (B, T).
        attention_mask: (B, 1, T, T) True where a token may look: at earlier tokens of its own branch. A padding
            token sees itself, since a softmax over nothing is NaN.
        source, target, leaf: (M,) as in `Tree`, `source` into the flattened (B * T), `leaf` into (B * R * K);
            where M is padded, `leaf` is B * R * K, one past the last.
        candidates: (B, K) True where there is a candidate, K the largest number in the batch.
    """
    trees = [tree(prompt, roots) for prompt in prompts]
    counts = np.array([len(prompt.captions) for prompt in prompts])
    width, most = _bucket(max(len(t.ids) for t in trees)), counts.max()
    ids, position = np.zeros((2, len(trees), width), dtype=np.int64)
    mask = np.zeros((len(trees), 1, width, width), dtype=bool)
    mask[:, 0] = np.eye(width, dtype=bool)
    causal = np.tri(width, dtype=bool)
    for b, t in enumerate(trees):
        n = len(t.ids)
        ids[b, :n], position[b, :n] = t.ids, t.position
        mask[b, 0, :n, :n] = t.visible[np.ix_(t.segment, t.segment)] & causal[:n, :n]
    # Captions after root r get columns r K .. r K + K-1, with K the batch's largest number of candidates.
    leaf = [
        (len(roots) * b + t.leaf // k) * most + t.leaf % k
        for b, (t, k) in enumerate(zip(trees, counts, strict=True))
    ]
    batch = {
        "input_ids": ids,
        "position_ids": position,
        "attention_mask": mask,
        "source": _padded(np.concatenate([b * width + t.source for b, t in enumerate(trees)]), 0),
        "target": _padded(np.concatenate([t.target for t in trees]), 0),
        "leaf": _padded(np.concatenate(leaf), len(roots) * most * len(trees)),
        "candidates": np.arange(most) < counts[:, None],
    }
    return {key: torch.from_numpy(value) for key, value in batch.items()}


def _bucket(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _padded(values: np.ndarray, fill: int) -> np.ndarray:
    # Four times as coarse: the LM head is one matrix product, and padding it is cheap beside compiling it.
    return np.pad(values, (0, -len(values) % (4 * BUCKET)), constant_values=fill)


def caption_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """score(c) = log p(c | film, member) - log p(c | film), in nats, summed over the caption's tokens.

    The difference is the pointwise mutual information of caption and member: a caption that is likely for everybody,
    because it is short or plain, gains nothing by it.

    Args:
        model: a causal LM, with or without adapters.
        batch: from `collate_trees`.

    Returns:
        (B, K) scores in float32; `NOTHING` where padded.
    """
    captions = caption_log_probabilities(model, batch, len(BOTH))
    return (captions[:, 1] - captions[:, 0]).masked_fill(~batch["candidates"], NOTHING)


def caption_log_probabilities(model, batch: dict[str, torch.Tensor], n_roots: int) -> torch.Tensor:
    """(B, R, K) log p(caption | what stands before it), summed over its tokens, after each of R roots; 0 if padded."""
    log_p = _token_log_probabilities(model, batch)
    n, most = batch["candidates"].shape
    captions = torch.zeros(n * n_roots * most + 1, device=log_p.device).index_add(0, batch["leaf"], log_p)
    return captions[:-1].view(n, n_roots, most)


def _token_log_probabilities(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(M,) log p of each target token. The LM head, a fifth of the work, runs on these only."""
    hidden = _hidden_states(model, batch)
    head = base_model(model).get_output_embeddings()
    logits = head(hidden.flatten(0, 1)[batch["source"]])
    # In bf16 a log-softmax over 49,152 tokens would round away what captions differ by.
    return -torch.nn.functional.cross_entropy(logits.float(), batch["target"], reduction="none")


def _hidden_states(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "attention_mask") if key in batch}
    return base_model(model).model(**inputs, use_cache=False).last_hidden_state


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
    width, most = _bucket(max(map(len, rows))), max(map(len, orders))
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
    hidden = _hidden_states(model, batch)
    hidden = hidden[torch.arange(len(hidden), device=hidden.device), batch["last"]]
    logits = base_model(model).get_output_embeddings()(hidden).float().gather(1, batch["labels"])
    return logits.masked_fill(~batch["candidates"], NOTHING).log_softmax(dim=1)


def score(model, prompts: Sequence[CaptionPrompt | LabelPrompt], batch_tokens: int = 2048) -> np.ndarray:
    """Score the candidates of many impressions.

    `caption` prompts give `caption_scores`. `label` prompts are asked once per cyclic rotation of the options, and
    the log-probabilities are averaged, so that no candidate gains by its place.

    Args:
        model: a causal LM; put into evaluation mode.
        prompts: of n impressions, all of one method.
        batch_tokens: at most so many tokens, padding included, in a forward pass (a longer prompt goes alone).

    Returns:
        (n, K) float64 scores; -inf where padded.
    """
    model.eval()
    if isinstance(prompts[0], CaptionPrompt):
        # What a caption says to anybody is the same for all members who are asked about a title: once a title will do.
        titles: dict = {}
        which = [titles.setdefault((*p.title, *sum(p.captions, [])), len(titles)) for p in prompts]
        one_each = [prompts[which.index(number)] for number in range(len(titles))]
        general = _batched(model, one_each, [(i, "general") for i in range(len(titles))], batch_tokens, "captions")
        member = _batched(model, prompts, [(i, "member") for i in range(len(prompts))], batch_tokens, "members")
        total = member - general[which][:, : member.shape[1]]
    else:
        tasks = [(i, turn) for i, prompt in enumerate(prompts) for turn in range(len(prompt.options))]
        total = _batched(model, prompts, tasks, batch_tokens, "questions")
    counts = np.array([len(_candidates(prompt)) for prompt in prompts])
    if isinstance(prompts[0], LabelPrompt):
        total /= counts[:, None]
    return np.where(np.arange(total.shape[1]) < counts[:, None], total, -np.inf)


def _batched(model, prompts: Sequence, tasks: list[tuple[int, str | int]], batch_tokens: int, what: str) -> np.ndarray:
    """(n, K) sums over tasks (which prompt; which root or rotation of it) of the candidates' log-probabilities."""
    device = next(model.parameters()).device
    total = np.zeros((len(prompts), max(len(_candidates(prompt)) for prompt in prompts)))
    tasks = sorted(tasks, key=lambda task: -_length(prompts[task[0]], task[1]))
    lengths = [_length(prompts[i], way) for i, way in tasks]
    with tqdm(total=len(tasks), desc=f"scoring {what}", mininterval=2) as progress:
        for part in _batches(tasks, lengths, batch_tokens):
            rows, ways = zip(*part, strict=True)
            batch_prompts = [prompts[i] for i in rows]
            with torch.inference_mode():
                if isinstance(ways[0], str):
                    batch = collate_trees(batch_prompts, ways[:1])
                    batch = {key: value.to(device) for key, value in batch.items()}
                    scores = caption_log_probabilities(model, batch, 1)[:, 0]
                else:
                    orders = [np.roll(np.arange(len(p.options)), w) for p, w in zip(batch_prompts, ways, strict=True)]
                    batch = {key: value.to(device) for key, value in collate_labels(batch_prompts, orders).items()}
                    scores = label_scores(model, batch)
            np.add.at(total, (list(rows), slice(0, scores.shape[1])), scores.double().cpu().numpy())
            progress.update(len(part))
    return total


def _length(prompt: CaptionPrompt | LabelPrompt, way: str | int) -> int:
    if isinstance(way, int):
        return prompt.n_tokens
    return len(prompt.title) + len(getattr(prompt, way)) + sum(map(len, prompt.captions))


def _candidates(prompt: CaptionPrompt | LabelPrompt) -> list:
    return prompt.options if isinstance(prompt, LabelPrompt) else prompt.captions


def _batches(tasks: list, lengths: list[int], batch_tokens: int) -> list[list]:
    """Cut tasks, longest first, into batches whose padded size is at most `batch_tokens`."""
    batches, width = [], 0
    for task, length in zip(tasks, lengths, strict=True):
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            width = length
        batches[-1].append(task)
    return batches


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
