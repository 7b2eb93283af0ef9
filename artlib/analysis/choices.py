"""What a language model makes of a few plays: its scores, its choice, its loss beside chance."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from artlib.data import Log
from artlib.lm import prompts
from artlib.lm.calibration import probabilities
from artlib.lm.tree import Tree


@dataclasses.dataclass(frozen=True)
class Choices:
    """n plays, as a model is trained on them.

    Attributes:
        plays: a log of played impressions.
        scores: (n, K) as training works with; -inf where padded.
        temperature: of the softmax over them.
    """

    plays: Log
    scores: np.ndarray
    temperature: float = 1.0

    @classmethod
    def ask(cls, language_model, questions: Sequence, plays: Log, temperature: float = 1.0) -> "Choices":
        """Ask a model; `questions` are the prompts of `plays`."""
        return cls(plays, prompts.score_as_trained(language_model, questions), temperature)

    @property
    def probabilities(self) -> np.ndarray:
        """(n, K) with which the model chooses each candidate."""
        return probabilities(self.scores, self.temperature)

    @property
    def loss(self) -> float:
        """The mean cross-entropy of what was played, in nats: what training minimises."""
        shown = self.plays.arrays().shown
        return float(-np.log(self.probabilities[np.arange(len(shown)), shown]).mean())

    @property
    def chance(self) -> float:
        """The loss of whoever chooses at random: the mean of ln K over the plays."""
        return float(np.log(self.plays.arrays().mask.sum(axis=1)).mean())

    def table(self, row: int = 0) -> pd.DataFrame:
        """One choice: a row a candidate, with its caption, score, probability, and which was played."""
        arrays = self.plays.arrays()
        mask = arrays.mask[row]
        captions = [self.plays.artworks["caption"][int(artwork)].as_py() for artwork in arrays.candidates[row][mask]]
        played = ["played" if place == arrays.shown[row] else "" for place in range(len(captions))]
        return pd.DataFrame(
            {
                "caption": captions,
                "score": self.scores[row][mask].round(3),
                "probability": self.probabilities[row][mask].round(3),
                "": played,
            }
        )


def beside(before: Choices, after: Choices, row: int = 0) -> pd.DataFrame:
    """One choice of two models, for the eye: captions, both probabilities, and which was played."""
    table = after.table(row).rename(columns={"probability": "after"})
    table.insert(1, "before", before.table(row)["probability"])
    return table.drop(columns="score")


def member(plays: Log, row: int = 0) -> str:
    """Who chose: the title, and what the member mostly watched before."""
    part = plays.take(np.array([row]))
    title = plays.titles["name"][int(part.arrays().title[0])].as_py()
    watched = plays.history.favourites(part.impressions)[0]
    return f"**{title}**, for a member who mostly watched {', '.join(watched) or 'nothing yet'}"


def decoded(tree: Tree, tokenizer, rows: int = 14) -> pd.DataFrame:
    """Tokens of a tree around the first that predicts something: position, segment, and what each has to predict."""
    predicts = pd.Series(map(tokenizer.decode, tree.target)).groupby(tree.source).agg(" |".join)
    table = pd.DataFrame(
        {
            "token": map(tokenizer.decode, tree.ids),
            "position": tree.position,
            "segment": tree.segment,
        }
    )
    return table.join(predicts.rename("predicts")).fillna("").loc[predicts.index[0] - 4 :].head(rows)
