"""Ways of post-training compared on one log: the row that benchmarks/methods.py writes and notebook 05 reads."""

import dataclasses
import os

import pandas as pd

from artlib import files

LIFTS = ("lift", "over_text", "over_zero_shot")
INTERVALS = (*LIFTS, "over_text_by_title")
BASELINES = ("zero-shot", "text")
ESTIMATORS = ("ips", "snips", "dr")  # by which rows are judged, in this order
PLUS = " + "  # in the names of what is put together with the text baseline or with production's preference
COLUMNS = [
    "entry",
    "method",
    "seed",
    "examples",
    "learns_from",
    "n",
    "value",
    "lift",
    "lift_lower",
    "lift_upper",
    "over_text",
    "over_text_lower",
    "over_text_upper",
    "over_text_by_title",
    "over_text_by_title_lower",
    "over_text_by_title_upper",
    "over_zero_shot",
    "over_zero_shot_lower",
    "over_zero_shot_upper",
    "gap_closed",
    "gap_on_validation",
    "minutes",
    "order_before",
    "order_after",
    "valid_answers",
    "reader",
    "commit",
]


@dataclasses.dataclass(frozen=True)
class Lift:
    """A relative difference in value with its 95 % interval, and where it is estimated, whether to believe it."""

    mean: float
    lower: float
    upper: float
    verdict: str | None = None

    @classmethod
    def of(cls, row: pd.Series, verdict: bool = False) -> "Lift":
        """From a row of `ope.compare`."""
        mean, lower, upper = (float(row[name]) for name in ("lift", "lift_lower", "lift_upper"))
        return cls(mean, lower, upper, row["verdict"] if verdict else None)


@dataclasses.dataclass(frozen=True)
class Worth:
    """What an entry's choices are worth on one split, by the truth.

    Attributes:
        n: impressions.
        value, production, oracle: mean true values.
        gap_closed: the share of the way from production to the oracle.
        lift: over production; its interval, as the others', is clustered by member: for other members, these titles.
        over_text: over the text baseline with the most plays; None for baselines.
        over_text_by_title: the same, clustered by title: for other titles, these members; None in older rows, too.
        over_zero_shot: over the bare model; None for baselines, and in rows that are older than this.
        estimates: the lift over production as the log alone has it, by estimator; empty where it was not asked.
    """

    n: int
    value: float
    production: float
    oracle: float
    gap_closed: float
    lift: Lift
    over_text: Lift | None = None
    over_text_by_title: Lift | None = None
    over_zero_shot: Lift | None = None
    estimates: dict[str, Lift] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, content: dict) -> "Worth":
        lifts = {name: Lift(**content[name]) for name in INTERVALS if content.get(name)}
        estimates = {name: Lift(**lift) for name, lift in content["estimates"].items()}
        return cls(**{**content, **lifts, "estimates": estimates})


@dataclasses.dataclass(frozen=True)
class Row:
    """One entry of a comparison with one seed.

    Attributes:
        entry: its name: method and size.
        method: what is compared: "zero-shot", "text", "sft", "sft + text", "label dpo" ...
        settings: those that are not the defaults.
        examples, learns_from: of the last stage: "plays", or "impressions" played or not. None: nothing is learnt.
        seconds, start_seconds: of the training, validation included, and of the one that it began from.
        reader: of "text": the one that validation chose.
        resumed: whether a training was interrupted, so that the seconds are not all that it took.
        order_sensitivity: before and after training; None but for `label`.
        validation: None for entries that were asked about the test split alone.
    """

    entry: str
    method: str
    seed: int
    settings: dict
    test: Worth
    validation: Worth | None
    seconds_in_all: float
    commit: str | None
    date: str
    machine: dict | None
    examples: int | None = None
    learns_from: str | None = None
    reader: str | None = None
    seconds: float | None = None
    start_seconds: float = 0.0
    resumed: bool = False
    tokens_per_second: float | None = None
    order_sensitivity: list[float] | None = None
    teacher: dict | None = None
    valid_answers: float | None = None
    validation_loss: list[float] | None = None

    @classmethod
    def from_json(cls, content: dict) -> "Row":
        """The inverse of `dataclasses.asdict`."""
        splits = {name: Worth.from_json(content[name]) for name in ("test", "validation") if content[name]}
        return cls(**{**content, **splits})

    @property
    def minutes(self) -> float | None:
        """All that it takes from the bare model on; None where nothing was trained, or a training was interrupted."""
        return None if self.seconds is None or self.resumed else (self.seconds + self.start_seconds) / 60

    def flat(self) -> dict:
        """`COLUMNS`."""
        flat = {name: getattr(self, name) for name in ("entry", "method", "seed", "examples", "minutes", "commit")}
        flat |= {name: getattr(self, name) for name in ("learns_from", "valid_answers", "reader")}
        flat |= {name: getattr(self.test, name) for name in ("n", "value", "gap_closed")}
        for name in INTERVALS:
            if lift := getattr(self.test, name):
                flat |= {name: lift.mean, f"{name}_lower": lift.lower, f"{name}_upper": lift.upper}
        flat["gap_on_validation"] = self.validation.gap_closed if self.validation else None
        flat["order_before"], flat["order_after"] = self.order_sensitivity or (None, None)
        return flat


def read(path: str | os.PathLike) -> pd.DataFrame:
    """What benchmarks/methods.py measured on one log.

    Args:
        path: its record, results/methods-WORLD.json.

    Returns:
        `COLUMNS`, a row per entry and seed; intervals are `_lower` and `_upper`, 95 %; the file's SHA-256 is in
        `attrs`.

    Raises:
        FileNotFoundError: nothing was measured; says how to.
    """
    record = files.read_json(path)
    if not record:
        raise FileNotFoundError(f"{path} is missing or no JSON: python benchmarks/methods.py --world WORLD writes it")
    table = pd.DataFrame([Row.from_json(row).flat() for row in record["rows"]]).reindex(columns=COLUMNS)
    numbers = [name for name in COLUMNS if name not in ("entry", "method", "learns_from", "reader", "commit")]
    table[numbers] = table[numbers].astype(float)
    table.attrs["sha256"] = files.sha256(path)
    return table.astype({"seed": int, "n": int})


def beside_each_other(table: pd.DataFrame) -> pd.DataFrame:
    """A row an entry, in percent: lifts of the first seed with their intervals, then means over the seeds."""
    first = table.sort_values("seed").drop_duplicates("entry").set_index("entry")
    shown = first[["n", "examples", "learns_from"]].copy()
    for name in LIFTS:
        numbers = 100 * first[[name, f"{name}_lower", f"{name}_upper"]].to_numpy()
        shown[name] = [f"{m:+.1f} ({low:+.1f}, {high:+.1f})" if m == m else "" for m, low, high in numbers]
    means = table.groupby("entry")[[*LIFTS, "gap_closed", "gap_on_validation", "minutes"]].mean()
    means[means.columns.drop("minutes")] *= 100
    means = means.rename(columns={name: f"{name}, mean" for name in LIFTS}).round(1)
    shown = shown.join(table.groupby("entry").size().rename("seeds")).join(means)
    return shown.sort_values(["n", "lift, mean"], ascending=False).astype(object).fillna("")


def chosen_by_validation(table: pd.DataFrame) -> pd.Series | None:
    """The trained language model, alone or with others, that is worth most on the validation split, and what it is
    worth on test, in percent.

    All compete by their first seed, those asked about the whole of both splits. None where there are none.
    """
    trained = ~table["method"].str.partition(PLUS)[0].isin(BASELINES)
    whole = trained & table["gap_on_validation"].notna()
    candidates = table[whole & (table["seed"] == table["seed"].min())]
    if candidates.empty:
        return None
    best = candidates.loc[candidates["gap_on_validation"].idxmax()]
    percent = [name for name in COLUMNS if name.startswith(("lift", "over", "gap"))]
    said = {"entry": best["entry"], "of": len(candidates)}
    return pd.Series(said | (100 * best[percent].astype(float)).round(1).to_dict())


def coverage(path: str | os.PathLike) -> pd.DataFrame:
    """Whether the log's own 95 % intervals hold the true lift over production, of all policies that were measured.

    They are judged by the same impressions, so that where one interval misses others do: this is no estimate of how
    often intervals miss.

    Args:
        path: of a record, as of `read`.

    Returns:
        A row an estimator: policies (entries and seeds), covered (intervals that hold the truth), trusted (policies
        whose verdict is "ok"), half_width (the median interval's, in lift).
    """
    rows = [Row.from_json(row).test for row in files.read_json(path)["rows"]]
    judged = [(name, test.lift.mean, lift) for test in rows for name, lift in test.estimates.items()]
    table = pd.DataFrame(
        {
            "estimator": [name for name, _, _ in judged],
            "covered": [lift.lower <= truth <= lift.upper for _, truth, lift in judged],
            "trusted": [lift.verdict == "ok" for _, _, lift in judged],
            "half_width": [(lift.upper - lift.lower) / 2 for _, _, lift in judged],
        }
    )
    groups = table.groupby("estimator", sort=False)
    found = groups[["covered", "trusted"]].sum().assign(half_width=groups["half_width"].median())
    found.insert(0, "policies", groups.size())
    return found.reindex([name for name in ESTIMATORS if name in found.index])


def provenance(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """By world: the command, how much was measured, at which commits, and the record's SHA-256."""
    rows = {}
    for name, table in tables.items():
        commits = sorted({f"{commit}"[:7] + f"{commit}"[40:] for commit in table["commit"]})
        rows[name] = {
            "command": f"python benchmarks/methods.py --world {name}",
            "entries": table["entry"].nunique(),
            "trainings": int(
                (~(table["method"].isin(BASELINES) | table["method"].str.contains(PLUS, regex=False))).sum()
            ),
            "test impressions": table["n"].max(),
            "commits": ", ".join(commits),
            "record's sha256": table.attrs["sha256"][:16],
        }
    return pd.DataFrame(rows).T


def orders_and_answers(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Entries with multiple choice: whether the order of the options matters, whether written answers are valid."""
    columns = [
        "entry",
        "n",
        "order_before",
        "order_after",
        "valid_answers",
        "over_text",
        "over_text_lower",
        "over_text_upper",
    ]
    parts = [
        table.loc[table[["order_before", "valid_answers"]].notna().any(axis=1), columns].assign(world=name)
        for name, table in tables.items()
    ]
    return pd.concat(parts or [pd.DataFrame()]).round(3)
