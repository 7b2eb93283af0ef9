"""What a model has to know of the log that it was trained on, wherever it is asked."""

import dataclasses

import numpy as np

SAMPLE = 32  # captions by which a model's answers are calibrated
AVERAGED = 20_000  # impressions whose histories make the average member's


@dataclasses.dataclass(frozen=True)
class Background:
    """The catalogue's genres, its average member, and a few of its artworks.

    Attributes:
        genres: G names, in the order of a genre profile.
        average: (G,) the average member's genre profile over the training split (over all impressions, if there is
            none), > 0.
        captions: of artworks of the training split, `SAMPLE` at most: what a model says of these tells what it says of
            any.
        told: L clauses of synopses that were watched most often, and the average member's share of each, see `clauses`.
    """

    genres: list[str]
    average: np.ndarray
    captions: list[str]
    told: dict[str, float] = dataclasses.field(default_factory=dict)

    def described(self) -> dict:
        """As JSON holds it."""
        return {**dataclasses.asdict(self), "average": self.average.tolist()}

    @classmethod
    def read(cls, described: dict) -> "Background":
        """The inverse of `described`."""
        return cls(**{**described, "average": np.array(described["average"], dtype=float)})
