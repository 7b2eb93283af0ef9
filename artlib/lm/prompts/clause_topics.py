"""The form `clause-topics`: what is each clause about, in a word? Of captions, and of the synopses of what the member
watched.

Words that a caption and a synopsis use for the same thing need have nothing in common: "a cutman swabbing a split
eyebrow", "a deaf flyweight learns to feel the bell". What a language model would call either in a word has. A few
demonstrations (Brown et al. 2020) make it answer with a topic; the answer is not sampled, but taken whole, as the
distribution of the next word, and two clauses are as similar as these distributions.

A artworks, C clauses of one at most, L clauses that are told, n impressions with K candidates at most, V tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from artlib.data.clauses import clauses, excess, told_by
from artlib.lm.forward import MASKED_SCORE, batched, logits_at, to_device_of
from artlib.lm.prompts.text import PromptForm, Reader, leading_ids
from artlib.lm.tree import Tree, collate_trees, lay_out, packs

DEMONSTRATIONS = (  # of topics that no world of this repository has
    ("Two old men stare at a board in the park, one about to move his queen", "chess"),
    ("A woman kneels between rows of tomatoes with a trowel in her hand", "gardening"),
    ("A senator counts the votes that he has bought before the convention opens", "politics"),
    ("A nun hides a bell from the soldiers in the crypt", "religion"),
    ("A boy is caught copying in the final exam by the headmistress", "school"),
)
BLUR = 20.0  # how sharply the most similar clause of a caption speaks for the whole
SHARPNESS = 15.0  # of scores, so that a training temperature of 1 suits the bare model
PACKED = 64  # clauses of about one length among which those of a sequence are found
MOST_KNOWN = 200_000  # clauses of which similarities are kept
TOLD = "told"  # among them, the topics of what is told


@dataclasses.dataclass(frozen=True)
class TopicPrompt:
    """One impression.

    Attributes:
        frame: token ids of the demonstrations, which stand before every clause.
        artworks: of each candidate, token ids of its caption's clauses, each with the question what it is about; the
            same list for the same artwork wherever it comes up.
        told: likewise, of L clauses of synopses of what members watch; the same list for all impressions.
        weights: (L,) how much more often this member watched what tells each clause than the average one.
    """

    form: ClassVar[str] = "clause-topics"
    frame: list[int]
    artworks: list[list[list[int]]]
    told: list[list[int]]
    weights: np.ndarray

    @property
    def n_tokens(self) -> int:
        """The length of the longest candidate's tree."""
        return len(self.frame) + max(sum(map(len, artwork)) for artwork in self.artworks)


class TopicReader(Reader):
    """Takes all that was watched, and no summary of it: no budget for one is needed."""

    def __init__(self, log, *arguments, **options):
        super().__init__(log, *arguments, **options)
        known = log.background.told
        if not known:
            raise ValueError("no title that members watched has a synopsis to read: use prompt=genre-likelihood")
        shown = "".join(f" {scene}. Topic: {topic}\nScene:" for scene, topic in DEMONSTRATIONS)
        self._frame = [*leading_ids(self._tokenizer), *self._pieces.first(f"Scene:{shown}")]
        self._question = self._special(". Topic:")
        self._told = [self._clause(clause) for clause in known]
        self._average = np.array(list(known.values()))
        matrix = told_by(log.titles, list(known))
        self._tells = np.split(matrix.indices, matrix.indptr[1:-1])

    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray) -> TopicPrompt:
        tells = np.concatenate([np.array([], dtype=int), *(self._tells[t] for t in watched)])
        share = np.bincount(tells, minlength=len(self._told)) / max(len(watched), 1)
        weights = excess(share, np.array(len(watched)), self._average).astype(np.float32)
        return TopicPrompt(self._frame, [self._artwork(k) for k in artworks], self._told, weights)

    def _clause(self, text: str) -> list[int]:
        return self._encode(f" {text[:1].upper()}{text[1:]}") + self._question

    def _encode_artwork(self, caption: str) -> list[list[int]]:
        return [self._clause(clause) for clause in clauses(caption)] or [self._question]


def clause_tree(frame: list[int], texts: Sequence[Sequence[int]]) -> Tree:
    """Clauses as roots; the one leaf of each, a token that is not looked at, is there to ask what comes next."""
    return lay_out(frame, texts, [[0]])


def unique_clauses(prompts: Sequence[TopicPrompt]) -> tuple[list[tuple], np.ndarray, np.ndarray, np.ndarray]:
    """Each different clause of captions once; (A, C) which of them an artwork's are, -1 where padded; (n, K) which
    artwork each candidate is; (n, K) mask."""
    numbers: dict[tuple, int] = {}
    known: dict[tuple, int] = {}
    mask = np.arange(max(len(p.artworks) for p in prompts)) < np.array([[len(p.artworks)] for p in prompts])
    artwork = np.zeros(mask.shape, dtype=np.int64)
    read = [tuple(map(tuple, own)) for p in prompts for own in p.artworks]
    artwork[mask] = [known.setdefault(own, len(known)) for own in read]
    clause = np.full((len(known), max(map(len, known))), -1)
    for own, row in known.items():
        clause[row, : len(own)] = [numbers.setdefault(ids, len(numbers)) for ids in own]
    return list(numbers), clause, artwork, mask


def packed_clauses(frame: list[int], texts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
    """Which clauses go into one tree each, and the trees' lengths."""
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable")
    chunks = np.split(order, range(PACKED, len(order), PACKED))
    packed = [chunk[pack].tolist() for chunk in chunks for pack in packs(lengths[chunk].tolist(), len(frame))]
    return packed, [len(frame) + int(lengths[pack].sum()) for pack in packed]


def collate_clauses(frame: list[int], texts: Sequence[Sequence[int]], packed: list[list[int]]) -> dict:
    """A batch of `collate_trees`, of some trees of clauses."""
    return collate_trees([clause_tree(frame, [texts[i] for i in pack]) for pack in packed])


def topics(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(U, V) the square root of the probability of each next word after each clause, tree by tree.

    These are unit vectors, whose products are Bhattacharyya coefficients, sum_v sqrt(p_v q_v) (Bhattacharyya 1943).
    """
    log_p = logits_at(model, batch, batch["source"]).float().log_softmax(dim=1)
    return (log_p / 2).exp().index_select(0, batch["row"])


def caption_similarity(similar: torch.Tensor, clause: torch.Tensor) -> torch.Tensor:
    """(A, L) how much of each clause that is told is in an artwork's caption: a soft maximum over its clauses.

    Args:
        similar: (U, L) of the clauses of captions.
        clause: (A, C) rows of it, -1 where padded.
    """
    own = similar.index_select(0, clause.clamp(min=0).flatten()).view(*clause.shape, -1)
    return (BLUR * own).masked_fill((clause < 0)[:, :, None], MASKED_SCORE).logsumexp(dim=1) / BLUR


class ClauseTopics(PromptForm):
    """score(c) = sharpness * sum_j w_j s_cj: w_j how much more often than the average member this one watched what
    tells clause j; s_cj how similar, in what they are about, clause j is to the clause of caption c most similar."""

    name = "clause-topics"
    meaning = (
        "the model says in a word what each clause of captions and of what was watched is about; the most alike wins"
    )
    reader = TopicReader
    summarised = False
    by_title = True

    def decode(self, prompt: TopicPrompt, tokenizer) -> str:
        most = np.argsort(-prompt.weights, kind="stable")[:3]
        asked = "\nScene:".join(tokenizer.decode(text) for text in prompt.artworks[0])
        told = "".join(f"\n({prompt.weights[j]:+.2f}){tokenizer.decode(prompt.told[j])}" for j in most)
        return f"{tokenizer.decode(prompt.frame)}{asked}\n\nWatched more often than by others:{told}"

    def tree(self, prompt: TopicPrompt) -> Tree:
        """Two of its captions, as they are packed."""
        return clause_tree(prompt.frame, [text for artwork in prompt.artworks[:2] for text in artwork])

    def collate(self, prompts: Sequence[TopicPrompt], orders=None) -> dict[str, torch.Tensor]:
        own, clause, artwork, mask = unique_clauses(prompts)
        texts, frame = [*own, *prompts[0].told], prompts[0].frame
        packed, _ = packed_clauses(frame, texts)
        batch = collate_clauses(frame, texts, packed)
        place = np.argsort(np.concatenate(packed))
        return batch | {
            "clause": torch.from_numpy(np.where(clause < 0, -1, place[clause])),
            "told": torch.from_numpy(place[len(own) :]),
            "artwork": torch.from_numpy(artwork),
            "weights": torch.from_numpy(np.stack([p.weights for p in prompts]).astype(np.float32)),
            "mask": torch.from_numpy(mask),
        }

    def candidate_scores(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        found = topics(model, batch)
        similar = caption_similarity(found @ found.index_select(0, batch["told"]).T, batch["clause"])
        each = similar.index_select(0, batch["artwork"].flatten()).view(*batch["artwork"].shape, -1)
        scores = SHARPNESS * torch.einsum("nkl,nl->nk", each, batch["weights"])
        return scores.masked_fill(~batch["mask"], MASKED_SCORE)

    def score(self, model, prompts: Sequence[TopicPrompt], batch_tokens: int) -> np.ndarray:
        texts, clause, artwork, mask = unique_clauses(prompts)
        similar = self._similarities(model, texts, prompts[0], batch_tokens)
        table = caption_similarity(torch.from_numpy(similar), torch.from_numpy(clause)).numpy()
        scores = np.stack([table[own] @ p.weights for own, p in zip(artwork, prompts, strict=True)])
        return np.where(mask, SHARPNESS * scores, -np.inf)

    def _similarities(self, model, texts: list[tuple], prompt: TopicPrompt, batch_tokens: int) -> np.ndarray:
        """(U, L) of clauses of captions to those that are told."""
        known = {} if self.known is None else self.known
        if len(known) > MOST_KNOWN:
            known.clear()
        if new := [text for text in texts if text not in known]:
            if TOLD not in known:
                known[TOLD] = torch.from_numpy(_table(model, prompt.frame, prompt.told, batch_tokens)).float()
            known.update(zip(new, _table(model, prompt.frame, new, batch_tokens, known[TOLD]), strict=True))
        return np.stack([known[text] for text in texts])


def _table(model, frame: list[int], texts: Sequence, batch_tokens: int, told: torch.Tensor | None = None) -> np.ndarray:
    """(U, V) topics of clauses; or, given those of L others, (U, L) how similar they are to these."""
    packed, lengths = packed_clauses(frame, texts)
    most = max(map(len, packed))
    width = model.get_output_embeddings().weight.shape[0] if told is None else len(told)

    def forward(rows: list[int]) -> torch.Tensor:
        parts = [packed[row] for row in rows]
        found = topics(model, to_device_of(model, collate_clauses(frame, texts, parts)))
        found = found if told is None else found @ told.to(found.device).T
        table = found.new_zeros(len(rows), most, width)
        for row, own in enumerate(found.split([len(part) for part in parts])):
            table[row, : len(own)] = own
        return table

    table = batched(forward, lengths, (most, width), batch_tokens, "clauses")
    found = np.empty((len(texts), width), dtype=np.float32)
    for row, pack in enumerate(packed):
        found[pack] = table[row, : len(pack)]
    return found


FORM = ClauseTopics()
