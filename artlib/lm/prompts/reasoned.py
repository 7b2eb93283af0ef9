"""The form `reasoned`: the question of `label`, answered by a reason and then the letter; sampled answers vote."""

import re
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from tqdm import tqdm

from artlib.lm.prompts.label import ANSWER, LABELS, Label, LabelPrompt, LabelReader

TEMPERATURE = 0.7  # of answers that are drawn
QUOTED, LONGEST_QUOTE = 6, 60  # words of a caption with which a reading begins, and their characters at most
Write = Callable[[list[list[int]], int, float], list[str]]


class ReasonedPrompt(LabelPrompt):
    """The same question, to be answered by a reason and then, on a line of its own, "Answer: " and the letter."""

    form: ClassVar[str] = "reasoned"


class ReasonedReader(LabelReader):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._answer = self._pieces.after(self._after)

    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray) -> ReasonedPrompt:
        question = super()._prompt(title, profile, watched, artworks)
        tail = self._special(f"\nSay why, then answer with its letter.{self._after}")
        return ReasonedPrompt(question.head, question.options, question.letters, tail, question.labels)

    def completion(self, text: str) -> list[int]:
        """Token ids of a reasoned answer, with the end of the turn."""
        return [*self._answer(text), self._tokenizer.eos_token_id]

    def reading(
        self, artworks: np.ndarray, order: np.ndarray, about: np.ndarray, profile: np.ndarray, best: int
    ) -> str:
        """An answer that says what each option is about, and then which the viewer plays.

        Every step is within a small model's reach: an option is looked up by its letter and its first words are copied;
        after these comes the genre, as after a caption; and behind it the letter, so that the one in question
        follows the same genre when the viewer's is named. A bare letter, which says of no caption what it is about,
        is out of its reach.

        Args:
            artworks: (K,) rows in `artworks`, the candidates.
            order: the candidate under each letter.
            about: (K,) the genre of each candidate, columns of the profile.
            profile: (G,) the genre profile of a member with a history.
            best: the candidate to choose.
        """
        names = [self._genres[genre] for genre in about]
        lines = [
            f"{letter}. {self._quoted(artworks[k])}: {names[k]} ({letter})\n"
            for letter, k in zip(LABELS, order, strict=False)
        ]
        loved = ", ".join(self._genres[genre] for genre in self.favourites(profile))
        letter = LABELS[int(np.flatnonzero(order == best)[0])]
        return f"{''.join(lines)}The viewer loves {loved}, and plays {names[best]} ({letter}).\n{ANSWER} {letter}"

    def _quoted(self, artwork: int) -> str:
        return " ".join(self._captions[artwork].split()[:QUOTED])[:LONGEST_QUOTE].rstrip(".,;:!? ")


def parse(answer: str) -> str | None:
    """The letter of an answer whose last line is "Answer: X" and nothing else; None for any other."""
    match = re.fullmatch(rf"{ANSWER} ([{LABELS}])", answer.strip().rpartition("\n")[2].strip())
    return match.group(1) if match else None


def vote(
    write: Write,
    prompts: Sequence[ReasonedPrompt],
    samples: int = 5,
    temperature: float = TEMPERATURE,
    max_new_tokens: int = 96,
    batch: int = 32,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Have reasoned answers written and count their votes. Each sample sees the options in the next cyclic
    rotation; with more samples than options, the first ones come again.

    Args:
        write: (token ids of prompts, max_new_tokens, temperature) -> answers, as `generation.generate` and
            `generation.writer`.
        samples: answers an impression.
        temperature: of the sampling; 0 for the likeliest answer.
        batch: answers that are written at once.

    Returns:
        (n, K) votes, and the ratio of valid answers: those that end as asked for, with a letter that was on offer.
    """
    torch.manual_seed(seed)
    votes = np.zeros((len(prompts), max(len(prompt.options) for prompt in prompts)))
    tasks = [(i, turn) for i in range(len(prompts)) for turn in range(samples)]
    tasks.sort(key=lambda task: -prompts[task[0]].n_tokens)
    for start in tqdm(range(0, len(tasks), batch), desc="answers", mininterval=2, delay=2):
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


def self_consistency_scores(
    write: Write, prompts: Sequence[ReasonedPrompt], samples: int, max_new_tokens: int, seed: int, batch: int = 32
) -> tuple[np.ndarray, float]:
    """(n, K) scores by the votes of sampled answers (self-consistency, Wang et al. 2023), and the ratio of valid ones.
    A single answer is greedy, and sees the options in the log's own order.

    Args: see `vote`.
    """
    temperature = TEMPERATURE if samples > 1 else 0.0
    votes, valid = vote(write, prompts, samples, temperature, max_new_tokens, batch, seed)
    print(f"{valid:.1%} of {samples * len(prompts)} answers were valid")
    return vote_scores(votes, prompts), valid


class Reasoned(Label):
    name = "reasoned"
    meaning = "the same question, with a reason before the letter; several sampled answers vote"
    reader = ReasonedReader
    written = True

    def order_sensitivity(self, model, prompts) -> float | None:
        return None


FORM = Reasoned()
