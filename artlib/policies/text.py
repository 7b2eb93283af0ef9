"""The policy `text`: the strongest reader of captions, on validation, without a language model's pass per decision."""

import dataclasses
import functools

import numpy as np

from artlib.data import Log
from artlib.lm import encoder as encoders
from artlib.lm.embeddings import Inputs
from artlib.policies import encoder
from artlib.policies.encoder import Scores
from artlib.policies.finetuned import finetuned
from artlib.policies.readings import Clauses, Genres, Reading


@dataclasses.dataclass(frozen=True)
class Choice:
    """A reader, and the validation losses that it was chosen by.

    Attributes:
        name: of the chosen one.
        scores: (n, K) of any part of the log.
        losses: by reader, see `encoder.loss`.
    """

    name: str
    scores: Scores
    losses: dict[str, float]


class Readers:
    """All readers of a log's captions.

    Args:
        artworks: (M,) rows in `artworks` that will be asked about, those of all plays among them.
        encoder_name: see `lm.encoder.load`.
    """

    def __init__(self, log: Log, artworks: np.ndarray, encoder_name: str):
        self.log, self.artworks, self.encoder_name = log, artworks, encoder_name

    @functools.cached_property
    def encoder(self) -> encoders.Encoder:
        return encoders.load(self.encoder_name)

    @functools.cached_property
    def inputs(self) -> Inputs:
        return Inputs.read(self.log, self.encoder, self.artworks)

    @functools.cached_property
    def readings(self) -> dict[str, tuple[Reading, np.ndarray]]:
        """How captions can be read with what is in the log, and the untrained encoder's table of each."""
        found: dict[str, tuple[Reading, np.ndarray]] = {}
        if len(self.inputs.genres):
            found["genres"] = Genres(self.inputs), self.inputs.similarity()
        by_clauses = Clauses(self.log)
        if by_clauses.labels:
            found["clauses"] = by_clauses, by_clauses.table(self.encoder, self.artworks)
        return found

    def untrained(self) -> dict[str, Scores]:
        """Those that learn nothing from plays."""
        found = {
            f"encoder, {name}": functools.partial(reading.scores, table)
            for name, (reading, table) in self.readings.items()
        }
        return found | {"encoder, history": encoder.by_history(self.inputs)}

    def zero_shot(self, validation: Log) -> Scores:
        """The reading that suits the validation plays best as the encoder comes. At least one must be possible."""
        reading, table = self.readings[self._best(validation)]
        return functools.partial(reading.scores, table)

    def _best(self, validation: Log) -> str | None:
        losses = {
            name: encoder.loss(reading.scores(table, validation), validation)
            for name, (reading, table) in self.readings.items()
        }
        return min(losses, key=lambda name: losses[name], default=None)

    def strongest(self, plays: Log, validation: Log, seed: int = 0) -> Choice:
        """The reader with the lowest loss on validation, given some plays to learn from. The encoder is post-trained
        once, from the reading that is the best before; the fusion takes it and all that learn nothing.

        Args:
            seed: of the post-training.
        """
        found = self.untrained()
        if name := self._best(validation):
            reading, table = self.readings[name]
            found[f"encoder, {name}, post-trained"] = finetuned(
                reading, table, self.artworks, self.encoder, plays, validation, seed
            )
        fused = list(found.values())
        if len(self.inputs.genres):
            found["encoder, genres, learnt"] = encoder.learnt_by_genres(self.inputs, plays, validation)
        found |= {
            "encoder, history, learnt": encoder.learnt_by_history(self.inputs, plays, validation),
            "encoder, play rates": encoder.learnt_by_rates(self.inputs, plays),
            "encoder, fusion": encoder.fusion(self.log, fused, plays, validation),
        }
        losses = {name: encoder.loss(scores(validation), validation) for name, scores in found.items()}
        best = min(losses, key=lambda name: losses[name])
        return Choice(best, found[best], losses)
