"""Prompts laid out as trees: one sequence in which several continuations share what stands before them."""

import dataclasses
import heapq
import math
from collections.abc import Sequence

import numpy as np
import torch

# Tokens of a sequence at which looking at all of them costs as much as a layer's matrix products, in the embedded
# model; larger models have it later, and lose little by what suits this one.
ATTENTION = 3072


@dataclasses.dataclass(frozen=True)
class Tree:
    """A prompt laid out as one sequence: a trunk, R roots that grow from it, and L leaves on each root.

    Texts of the same trunk and root are computed once for all their leaves. A leaf's last token is predicted, never
    read, and so is not in the sequence. n tokens in S segments; m tokens to predict.

    Attributes:
        ids, position, segment: (n,) token, its position counted along its own branch, its segment.
        visible: (S, S) True where segment i may look at segment j: itself and its ancestors.
        source: (m,) the token whose output predicts each token of a leaf.
        target: (m,) the token to predict.
        leaf: (m,) which leaf it belongs to: 0 .. L-1 on the first root, L .. 2L-1 on the second.
        n_roots, n_leaves: R and L.
    """

    ids: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    visible: np.ndarray
    source: np.ndarray
    target: np.ndarray
    leaf: np.ndarray
    n_roots: int
    n_leaves: int


def lay_out(trunk: Sequence[int], roots: Sequence[Sequence[int]], leaves: Sequence[list[int]]) -> Tree:
    """A tree of token ids: after the trunk every root, and after every root every leaf."""
    segments, parents = [trunk], [-1]
    for root in roots:
        parents += [0] + [len(segments)] * len(leaves)
        segments += [root, *(leaf[:-1] for leaf in leaves)]
    lengths = np.array([len(segment) for segment in segments])
    begin = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    depth = np.zeros(len(segments), dtype=int)  # position of a segment's first token
    visible = np.eye(len(segments), dtype=bool)
    source, target = [], []
    for s in range(1, len(segments)):
        depth[s] = depth[parents[s]] + lengths[parents[s]]
        visible[s] |= visible[parents[s]]
        if parents[s] > 0:
            leaf = leaves[s - parents[s] - 1]
            end_of_root = begin[parents[s]] + lengths[parents[s]] - 1
            source += [end_of_root, *range(begin[s], begin[s] + len(leaf) - 1)]
            target += leaf
    segment = np.repeat(np.arange(len(segments)), lengths)
    number = np.repeat(np.arange(len(roots) * len(leaves)), [len(leaf) for leaf in leaves] * len(roots))
    return Tree(
        ids=np.array([token for segment in segments for token in segment]),
        position=depth[segment] + np.arange(len(segment)) - begin[segment],
        segment=segment,
        visible=visible,
        source=np.array(source),
        target=np.array(target),
        leaf=number,
        n_roots=len(roots),
        n_leaves=len(leaves),
    )


def collate_trees(trees: Sequence[Tree]) -> dict[str, torch.Tensor]:
    """A batch of B trees: S sequences of one tree or several, padded to T tokens; R roots and L leaves on each tree.

    Returns:
        input_ids, position_ids: (S, T).
        attention_mask: (S, 1, T, T) True where a token may look: at earlier tokens of its own branch. A padding
            token sees itself, since a softmax over nothing is NaN.
        source: (U,) different tokens of the flattened (S * T) that predict something, padded with 0.
        row, target, leaf: (M,) place in `source` and, as in `Tree`, token to predict and place in (B * R * L).
        roots: (B, R) True where there is a root; leaves: (B, L) True where there is a leaf.
    """
    lengths, counts = [len(t.ids) for t in trees], np.array([t.n_leaves for t in trees])
    packed = packs(lengths)
    width = bucket(max(sum(lengths[b] for b in pack) for pack in packed))
    ids, position = np.zeros((2, len(packed), width), dtype=np.int64)
    mask = np.zeros((len(packed), 1, width, width), dtype=bool)
    mask[:, 0] = np.eye(width, dtype=bool)
    causal = np.tri(width, dtype=bool)
    begin = np.zeros(len(trees), dtype=int)  # of each tree, in the flattened batch
    for line, pack in enumerate(packed):
        ends = np.cumsum([lengths[b] for b in pack])
        for b, end in zip(pack, ends, strict=True):
            t, n = trees[b], lengths[b]
            place = slice(end - n, end)
            begin[b] = line * width + end - n
            ids[line, place], position[line, place] = t.ids, t.position
            mask[line, 0, place, place] = t.visible[np.ix_(t.segment, t.segment)] & causal[:n, :n]
    most, n_roots = counts.max(), max(t.n_roots for t in trees)
    leaf = [(n_roots * b + t.leaf // t.n_leaves) * most + t.leaf % t.n_leaves for b, t in enumerate(trees)]
    # Leaves of a root begin after the same token: its output goes through the LM head once.
    source, row = np.unique(
        np.concatenate([start + t.source for start, t in zip(begin, trees, strict=True)]), return_inverse=True
    )
    batch = {
        "input_ids": ids,
        "position_ids": position,
        "attention_mask": mask,
        "source": np.pad(source, (0, bucket(len(source)) - len(source))),
        "row": row,
        "target": np.concatenate([t.target for t in trees]),
        "leaf": np.concatenate(leaf),
        "roots": np.arange(n_roots) < np.array([[t.n_roots] for t in trees]),
        "leaves": np.arange(most) < counts[:, None],
    }
    return {key: torch.from_numpy(value) for key, value in batch.items()}


def packs(lengths: Sequence[int], shared: int = 0) -> list[list[int]]:
    """Which texts go into one sequence each, so that a batch costs least.

    Few long sequences leave little padding, but their texts look at each other in vain. Every number of sequences is
    tried; each time the longest text goes first, to the sequence that is the shortest so far (Graham 1969).

    Args:
        lengths: tokens of each text.
        shared: tokens that every sequence has besides.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best, least = [], math.inf
    for n in range(1, len(lengths) + 1):
        found, loads = [[] for _ in range(n)], [(shared, row) for row in range(n)]
        for i in order:
            load, row = loads[0]
            heapq.heapreplace(loads, (load + lengths[i], row))
            found[row].append(i)
        width = bucket(max(loads)[0])
        if (cost := n * width * (1 + width / ATTENTION)) < least:
            best, least = found, cost
    return best


def padded(texts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """A batch of texts, padded on the right: input_ids, attention_mask (B, T)."""
    ids, attend = np.zeros((2, len(texts), bucket(max(map(len, texts)))), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], attend[row, : len(text)] = text, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attend)}


def bucket(length: int) -> int:
    """The length to pad to: the next multiple of 16, or from 512 tokens of 32.

    On a CPU, oneDNN compiles its kernels anew for every new shape: there should not be very many.
    """
    multiple = 16 if length < 512 else 32
    return -(-length // multiple) * multiple
