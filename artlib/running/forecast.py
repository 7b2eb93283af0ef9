"""How long a run will take here, from how long it took elsewhere."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from artlib import files
from artlib.running.display import duration

# How long the notebooks of published profiles took, and at which rate of a matrix product.
DURATIONS = "results/durations.json"


@dataclasses.dataclass
class Forecast:
    """How long notebooks will take, from how long they took elsewhere.

    Attributes:
        seconds: by notebook, what it took when its profile was last published; empty if it never was.
        factor: how many times as long it takes here: at first by the rates of a matrix product on both machines, then
            by the notebooks that have run.
    """

    seconds: dict[str, float]
    factor: float = 1.0
    expected: float = 0.0
    took: float = 0.0

    @classmethod
    def of(cls, profile: str, notebooks: Path) -> "Forecast":
        """The forecast for a profile's own settings on this machine, whose rate is measured now."""
        known = (files.read_json(notebooks.parent / DURATIONS) or {}).get(profile)
        if not known:
            return cls({})
        from artlib.lm import machine

        dtype = machine.best_type()
        rate = machine.rate(dtype)
        forecast = cls(known["seconds"], known["flops"] / rate)
        print(
            f"about {duration(forecast.to_go(known['seconds']))} on this machine, with the profile's own settings: "
            f"{machine.described()['device']}, {rate / 1e9:,.0f} GFLOP/s in {dtype}, measured just now",
            flush=True,
        )
        return forecast

    def to_go(self, names: Iterable[str]) -> float:
        """Seconds that these notebooks will take together; 0 if unknown."""
        return sum(self.factor * self.seconds.get(name, 0) for name in names)

    def learn(self, name: str, took: float) -> None:
        """Correct the factor by what a notebook took."""
        if name in self.seconds:
            self.expected, self.took = self.expected + self.seconds[name], self.took + took
            self.factor = self.took / self.expected


def record(path: Path, profile: str, steps: dict) -> None:
    """Add to a record how long the notebooks of a profile took, and at which rate this machine multiplies.

    Args:
        path: of the record, by profile.
        steps: of the run's `run.json`.
    """
    from artlib.lm import machine

    dtype = machine.best_type()
    own = {
        "flops": machine.rate(dtype, seconds=1.0),
        "machine": {**machine.described(), "dtype": dtype},
        "seconds": {name: step["seconds"] for name, step in steps.items()},
    }
    files.write_json(path, (files.read_json(path) or {}) | {profile: own})
