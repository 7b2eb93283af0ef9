"""Post-training methods beside each other on one log: value, lifts, share of the gap closed, cost.

    python benchmarks/methods.py                             every entry of the grid on the log of `make run`, seed 0
    python benchmarks/methods.py --seeds 0 1 2 --only sft kto
    python benchmarks/methods.py --world shuffled            the control: plays are of any candidate
    python benchmarks/methods.py --world broad-110k          who reads best, from as many impressions as the paper has
    python benchmarks/methods.py --world movielens --data FOLDER
    timeout -s KILL 570 python benchmarks/methods.py --world paper      again and again, until it exits with 0

The last is the paper's scale, 110,000 training and 5,000 test impressions, for one GPU. Whatever is killed goes on:
adapters and their checkpoints are kept in runs/methods/WORLD, finished entries in the results. Methods learn from the
train split, one pass over equally many impressions; choices between methods may be made by validation; test is
reported, in true value and as the log's own estimates see it. Results: results/methods-WORLD.json, which notebook
05_compare_methods reads.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from artlib import data, files, ope
from artlib.analysis import evaluation
from artlib.analysis.comparison import PLUS, Lift, Row, Worth
from artlib.data import Log, shuffled_plays
from artlib.lm import embedded, encoder, machine
from artlib.lm.calibration import fit_temperature, pooled, probabilities
from artlib.policies import answers, baselines
from artlib.policies.encoder import Scores, fusion
from artlib.policies.llm import llm_scores
from artlib.policies.text import Choice, Readers
from artlib.posttrain.settings import METHODS, Settings
from artlib.posttrain.train import post_train
from artlib.running import run_folder
from artlib.worlds import fiction, movielens

ROOT = Path(__file__).resolve().parents[1]
CAPTION = {"prompt": "caption", "learning_rate": 5e-4, "batch_size": 8, "micro_batch": 4, "temperature": 8.0}
LABEL = {"prompt": "label", "learning_rate": 5e-4, "batch_size": 8, "micro_batch": 4}
MEMBER = {**LABEL, "prompt": "member-likelihood", "micro_batch": 8}
# All that is told is read in every step.
TOPICS = {"prompt": "clause-topics", "learning_rate": 1e-3, "batch_size": 8, "micro_batch": 8, "epochs": 2}
GENRES = {"prompt": "genre-likelihood", "learning_rate": 2e-3, "batch_size": 4, "micro_batch": 2, "epochs": 1}
REASONED = {**LABEL, "method": "sft-reasoning", "prompt": "reasoned", "samples": 2, "max_new_tokens": 60}
DISTIL = {**LABEL, "method": "distil", "prompt": "reasoned", "learning_rate": 1e-3, "n_genres": 4, "samples": 1}
DISTIL |= {"max_new_tokens": 250}
# Where a title has one or two plays, a step over few titles follows their noise.
FEW_PLAYS = {"batch_size": 32, "learning_rate": 1e-3, "max_validation": 200}
DEFAULT = Settings().prompt
REFINE = {"learning_rate": 5e-4}
DPO = {"method": "dpo", "beta": 1.0, **REFINE}
COUNTERFACTUAL = {"method": "counterfactual", **REFINE}


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is trained: a method with as many examples as `size`, and the settings that are not the defaults.

    Attributes:
        beside: what it is put together with. "text": the text baseline, see `calibration.pooled`; of "text" itself,
            another of another seed: what a second encoder brings. "production": its preference and the play rates of
            the earlier period, see `encoder.fusion`, which the text baseline may have, too.
    """

    method: str
    size: int  # ALL: whatever the log has
    settings: dict = dataclasses.field(default_factory=dict)
    beside: str = ""

    @property
    def kind(self) -> str:
        return self.method + (PLUS + self.beside if self.beside else "")

    @property
    def name(self) -> str:
        return f"{self.kind} {self.size}" if self.size not in (0, ALL) else self.kind


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared on one world.

    Attributes:
        build: makes the log, given the folder of the data that it needs, if any.
        plays: that the text baseline learns from.
        entries: what is trained, in this order.
        common: settings that all entries have that do not say otherwise, the bare model among them.
        few: test impressions for prompts that take long (one pass a rotation, or written answers); 0 for all.
        checked: validation plays for those prompts.
        validated: validation impressions on which choices are valued; 0 for all.
    """

    build: Callable[[str], Log]
    plays: int
    entries: tuple[Entry, ...]
    common: dict = dataclasses.field(default_factory=dict)
    few: int = 0
    checked: int = 500
    validated: int = 0

    @property
    def baselines(self) -> tuple[Entry, ...]:
        """What the others are compared with, and asked before them."""
        return Entry("zero-shot", 0), Entry("text", self.plays)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def settings(self, entry: Entry, seed: int, base: str) -> Settings:
        size = self.plays if entry in self.baselines else entry.size
        chosen = self.common | entry.settings
        other = entry.settings.get("prompt", DEFAULT) != DEFAULT
        checked = {"max_validation": self.checked} if other else {}
        return Settings(base=base, seed=seed, **({"max_examples": size} | checked | chosen))

    def start(self, entry: Entry, settings: Settings) -> Entry:
        """The entry that a refining method begins from, the last one with the prompt of that; else itself."""
        first = METHODS[settings.method].refines
        if not first:
            return entry
        form = METHODS[settings.method].reads or settings.prompt
        wanted = first if form in (DEFAULT, METHODS[first].prompt) else f"{form} {first}"
        return [other for other in self.entries if other.method == wanted and not other.beside][-1]


def _fiction(**parameters) -> Callable[[str], Log]:
    return lambda data: fiction.build(**parameters)


ALL = 100_000  # plays: more than any log has that it is used for
WITH_OTHERS = (
    Entry("sft", ALL),
    Entry("sft", ALL, beside="production"),
    Entry("sft", ALL, beside="text"),
    Entry("zero-shot", ALL, beside="production"),
    Entry("zero-shot", ALL, beside="text"),
    Entry("text", ALL, beside="text"),
)
EVERY_METHOD = (
    *(Entry(method, size) for size in (250, 500, 1000, 2000) for method in ("text", "sft")),
    *WITH_OTHERS,
    Entry("sft-ips", ALL, {"method": "sft-ips"}),
    Entry("sft-logq", ALL, {"method": "sft-logq"}),
    Entry("awsft", ALL, {"method": "awsft"}),
    Entry("dpo", ALL, DPO),
    Entry("softmax-dpo", ALL, {**DPO, "method": "softmax-dpo"}),
    Entry("kto", ALL, {"method": "kto", **REFINE}),
    Entry("counterfactual", ALL, COUNTERFACTUAL),
    Entry("counterfactual-dr", ALL, {"value_estimator": "dr", **COUNTERFACTUAL}),
    Entry("policy-gradient", ALL, {"method": "policy-gradient", **REFINE}),
)
PUBLISHED = {"n_users": 2000, "n_titles": 200, "n_train": 20_000, "n_validation": 2000, "n_test": 2000}
SCALED = PUBLISHED | {"n_train": 110_000, "n_test": 10_000}  # as many impressions to learn from as in the paper
OVER = (  # name of a lift, over which baseline, clustered by what
    ("over_zero_shot", "zero-shot", "user"),
    ("over_text", "text", "user"),
    ("over_text_by_title", "text", "title"),
)
UNSEEN = 7  # seed of a catalogue, members and plays on which nothing was ever chosen or looked at

WORLDS = {
    "tiny": Comparison(  # to try the comparison out
        _fiction(n_users=100, n_titles=60, n_train=600, n_validation=200, n_test=200),
        plays=40,
        few=8,
        checked=6,
        entries=(
            Entry("text", 20),
            Entry("sft", 40),
            Entry("sft", 40, beside="text"),
            Entry("sft", 40, beside="production"),
            Entry("zero-shot", 40, beside="text"),
            Entry("text", 40, beside="text"),
            Entry("counterfactual", 80, COUNTERFACTUAL),
            Entry("counterfactual", 80, COUNTERFACTUAL, beside="text"),
            Entry("label sft", 8, LABEL),
        ),
    ),
    "fiction": Comparison(  # the log of `make run`
        _fiction(**PUBLISHED),
        plays=ALL,
        few=300,
        checked=40,
        entries=(
            *EVERY_METHOD,
            Entry("member-likelihood sft", 500, MEMBER),
            Entry("label sft", 500, LABEL),
            Entry("caption sft", 500, CAPTION),
            Entry("sft-reasoning", 300, REASONED),
            Entry("distil", 800, DISTIL),
        ),
    ),
    "broad": Comparison(
        _fiction(**PUBLISHED, genres="broad"),
        plays=ALL,
        common=TOPICS,
        entries=(*WITH_OTHERS, Entry("genre-likelihood sft", ALL, GENRES)),
    ),
    "broad-110k": Comparison(
        _fiction(**SCALED, genres="broad"),
        plays=ALL,
        common=TOPICS | {"learning_rate": 2e-3},
        entries=WITH_OTHERS,
    ),
    "broad-110k-other": Comparison(  # the same with another catalogue, other members and plays: is it the log?
        _fiction(**SCALED, genres="broad", seed=UNSEEN),
        plays=ALL,
        common=TOPICS | {"learning_rate": 2e-3},
        entries=WITH_OTHERS,
    ),
    "shuffled": Comparison(
        lambda data: shuffled_plays(fiction.build(**PUBLISHED)),
        plays=ALL,
        entries=(Entry("sft", ALL), Entry("softmax-dpo", ALL, {**DPO, "method": "softmax-dpo"})),
    ),
    "movielens": Comparison(
        lambda data: movielens.build(data, n_train=20_000, n_validation=3000, n_test=2000),
        plays=3000,
        few=300,
        checked=120,
        validated=500,
        entries=(
            Entry("sft", 3000, FEW_PLAYS),  # not last: others go on from sft on 800
            Entry("sft", 3000, FEW_PLAYS, beside="text"),
            Entry("zero-shot", 3000, beside="text"),
            Entry("text", 3000, beside="text"),
            Entry("sft", 3000, FEW_PLAYS, beside="production"),
            Entry("zero-shot", 3000, beside="production"),
            Entry("text", 800),
            Entry("sft", 800, FEW_PLAYS),
            Entry("sft-ips", 800, {**FEW_PLAYS, "method": "sft-ips"}),
            Entry("dpo", 800, {**FEW_PLAYS, **DPO}),
            Entry("softmax-dpo", 800, {**FEW_PLAYS, **DPO, "method": "softmax-dpo"}),
            Entry("counterfactual", 2_400, {**FEW_PLAYS, **COUNTERFACTUAL}),
            Entry("label sft", 200, LABEL),
            Entry("sft-reasoning", 200, REASONED),
            Entry("caption sft", 800, CAPTION),
        ),
    ),
    "paper": Comparison(
        _fiction(n_users=20_000, n_titles=3000, n_train=110_000, n_validation=5000, n_test=5000),
        plays=110_000,
        entries=(
            Entry("text", 800),
            Entry("text", 5000),
            Entry("sft", 110_000),
            Entry("clause-topics sft", 110_000, TOPICS),
            Entry("label sft", 110_000, LABEL),
            Entry("caption sft", 110_000, CAPTION),
            Entry("sft-reasoning", 110_000, REASONED),
            Entry("dpo", 110_000, DPO),
            Entry("counterfactual", 110_000, COUNTERFACTUAL),
        ),
    ),
}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Run what is missing of a comparison.

    Args:
        arguments: of the command line.
        root: where runs/ and results/ are.

    Returns:
        The results, as written to results/.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=list(WORLDS), default="fiction")
    parser.add_argument("--data", default="", help="folder of the data that the world needs; default: ARTLIB_DATA")
    parser.add_argument("--base", default=embedded.EMBEDDED, help="the model; results of another get its name")
    parser.add_argument("--encoder", default=encoder.EMBEDDED, help="the text baseline's; results of another, too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="entries of the grid; default: all")
    given = parser.parse_args(arguments)
    comparison = WORLDS[given.world]
    only = given.only or comparison.names
    if unknown := set(only) - set(comparison.names):
        parser.error(f"--only: {min(unknown)!r} is none of {', '.join(comparison.names)}")
    others = [(given.base, embedded.EMBEDDED), (given.encoder, encoder.EMBEDDED)]
    name = "-".join([given.world, *(model.rpartition("/")[2] for model, usual in others if model != usual)])
    folder, record = root / "runs" / "methods" / name, root / "results" / f"methods-{name}.json"
    if not (folder / "log" / "manifest.json").exists():
        comparison.build(given.data).save(folder / "log")
    log = Log.load(folder / "log", validate=False)
    results = files.read_json(record) or {"rows": []}
    if results["rows"] and results["log"] != log.manifest["files"]:
        raise SystemExit(f"{record} is of another log than {folder / 'log'}: move one of them away")
    session = _Session(log, folder, comparison, given.base, given.encoder)
    for seed in given.seeds:
        for entry in (*comparison.baselines, *(entry for entry in comparison.entries if entry.name in only)):
            if session.is_done(entry, seed, results["rows"]):
                continue
            print(f"== {entry.name}, seed {seed}", flush=True)
            row = dataclasses.asdict(session.row(entry, seed))
            others = [r for r in results["rows"] if (r["entry"], r["seed"]) != (entry.name, seed)]
            results |= {
                "command": f"python benchmarks/methods.py --world {given.world}",
                "log": log.manifest["files"],
                "rows": [*others, row],
            }
            files.write_json(record, results)
            print(json.dumps({key: value for key, value in row.items() if key != "settings"}), flush=True)
    return results


class _Session:
    """One comparison: its log, its adapters and choices in a folder, and the base model."""

    def __init__(self, log: Log, folder: Path, comparison: Comparison, base: str, encoder_name: str):
        self.log, self.folder, self.comparison, self.base = log, folder, comparison, base
        self.readers = Readers(log, np.arange(len(log.artworks)), encoder_name)
        self._texts: dict[tuple[int, int], Choice] = {}

    def is_done(self, entry: Entry, seed: int, rows: list[dict]) -> bool:
        """Whether a row has this entry, with these settings; nothing in zero-shot is random: one seed does for all."""
        folder = self._kept(seed).get(entry.name)
        if folder and not (folder / f"{entry.method}.parquet").exists():
            return False  # lifts over the baselines need their choices, which are kept in runs/ only
        if entry.name == "zero-shot":
            return any(row["entry"] == entry.name for row in rows)
        asked = entry.name, seed, self.comparison.common | entry.settings
        return any((row["entry"], row["seed"], row["settings"]) == asked for row in rows)

    def row(self, entry: Entry, seed: int) -> Row:
        """Train if there is something to train, choose the best candidate on both splits, and value the choices."""
        started = time.perf_counter()
        settings = self.comparison.settings(entry, seed, self.base)
        scores, told = self._reader(entry, settings)
        if entry.beside:
            beside = {"text": self._beside_text, "production": self._beside_production}
            scores = beside[entry.beside](scores, seed)
        parts = self._parts()
        if settings.prompt != DEFAULT and self.comparison.few:
            parts = {"test": _some(parts["test"], self.comparison.few)}
        worth = {split: self._worth(part, baselines.greedy(scores(part)), entry, seed) for split, part in parts.items()}
        return Row(
            entry=entry.name,
            method=entry.kind,
            seed=seed,
            settings=self.comparison.common | entry.settings,
            test=worth["test"],
            validation=worth.get("validation"),
            seconds_in_all=round(time.perf_counter() - started, 1),
            commit=run_folder.commit(ROOT, but="results"),
            date=time.strftime("%Y-%m-%d"),
            machine={**machine.described(), "dtype": machine.resolve(settings.dtype)},
            **told,
        )

    def _reader(self, entry: Entry, settings: Settings) -> tuple[Scores, dict]:
        """What scores candidates, trained if there is something to train; and what training says."""
        ask = functools.partial(llm_scores, self.log, settings=settings)
        if entry == self.comparison.baselines[0]:
            return functools.partial(ask, adapter=None), {}
        learnt = {"examples": len(self._plays(entry.size, settings.seed).impressions), "learns_from": "plays"}
        if entry.method == "zero-shot":
            return functools.partial(ask, adapter=None), learnt
        if entry.method == "text":
            choice = self._text(entry.size, settings.seed + (entry.beside == "text"))  # another one then
            return choice.scores, learnt | {"reader": choice.name}
        alone = dataclasses.replace(entry, beside="")
        start, started = self.comparison.start(alone, settings), None
        folder = self.folder / f"seed-{settings.seed}" / start.name
        if start != alone:  # it has settings of its own
            started = post_train(self.log, folder / "sft", self.comparison.settings(start, settings.seed, self.base))
        training = post_train(self.log, folder / settings.method, settings)
        kept = ("examples", "seconds", "tokens_per_second", "order_sensitivity", "teacher", "valid_answers")
        return functools.partial(ask, adapter=folder / settings.method), {
            **{name: training[name] for name in kept},
            "learns_from": "impressions" if settings.all_impressions else "plays",
            "start_seconds": started["seconds"] if started else 0.0,
            "resumed": training["resumed"] or bool(started and started["resumed"]),
            "validation_loss": [point["eval_loss"] for point in training["curve"] if "eval_loss" in point],
        }

    def _beside_text(self, scores: Scores, seed: int) -> Scores:
        """Those of a reader pooled with the text baseline, each at the temperature that suits the validation plays."""
        check, text = self._checked(seed), self._text(self.comparison.plays, seed).scores
        arrays = check.arrays()
        both = [(one, fit_temperature(one(check), arrays.shown, arrays.reward)) for one in (scores, text)]

        def together(part: Log) -> np.ndarray:
            shares = pooled([probabilities(one(part), temperature) for one, temperature in both])
            return np.where(part.arrays().mask, shares, -np.inf)

        return together

    def _beside_production(self, scores: Scores, seed: int) -> Scores:
        """Those of a reader with what the text baseline may use besides captions, learnt from the same plays."""
        return fusion(self.log, [scores], self._plays(self.comparison.plays, seed), self._checked(seed))

    def _text(self, size: int, seed: int) -> Choice:
        """The strongest reader of captions by so many plays, learnt once for a seed."""
        if (size, seed) not in self._texts:
            self._texts[size, seed] = self.readers.strongest(self._plays(size, seed), self._checked(seed), seed)
        return self._texts[size, seed]

    def _plays(self, size: int, seed: int) -> Log:
        return data.plays(self.log, "train", size, seed)

    def _checked(self, seed: int) -> Log:
        """The validation plays by which readers are chosen."""
        return data.plays(self.log, "validation", Settings().max_validation, seed)

    def _parts(self) -> dict[str, Log]:
        parts = {split: self.log.split(split) for split in ("validation", "test")}
        if self.comparison.validated:
            parts["validation"] = _some(parts["validation"], self.comparison.validated)
        return parts

    def _kept(self, seed: int) -> dict[str, Path]:
        """Where the choices lie of the baselines that others are compared with: the bare model's, and text's."""
        zero_shot, text = self.comparison.baselines
        return {zero_shot.name: self.folder / "policies", text.name: self.folder / f"seed-{seed}" / "policies"}

    def _worth(self, part: Log, chosen: np.ndarray, entry: Entry, seed: int) -> Worth:
        """True value; paired lifts over production, true and as IPS, SNIPS and DR see them, and over the baselines,
        which were asked first; 95 % intervals; the share of the gap from production to the oracle."""
        arrays, truth = part.arrays(), part.expected_reward()
        policies = {"production": arrays.production, "policy": chosen}
        shown = chosen, arrays.production, baselines.oracle(part)
        value, production, best = (float((probability * truth).sum(axis=1).mean()) for probability in shown)
        over, estimates = {}, {}
        if part.impressions["split"][0].as_py() == "test":
            q_hat = evaluation.reward_model(self.log, part)
            feedbacks = evaluation.feedbacks(part, policies, q_hat)
            table = ope.compare(feedbacks, "production", list(evaluation.ESTIMATORS))
            own = table[table["policy"] == "policy"]
            estimates = {row["estimator"]: Lift.of(row, verdict=True) for _, row in own.iterrows()}
            kept = self._kept(seed)
            if entry.name in kept:
                answers.save(kept[entry.name], entry.method, part, chosen)
            elif entry not in self.comparison.baselines:
                zero_shot, text = (answers.read(where, part) for where in kept.values())
                compared = {"policy": chosen, **zero_shot, **text}
                for name, baseline, cluster in OVER:
                    lift = evaluation.paired_lift(part, compared, baseline, ["policy"], cluster=cluster).iloc[0]
                    over[name] = Lift.of(lift)
        return Worth(
            n=len(arrays),
            value=value,
            production=production,
            oracle=best,
            gap_closed=(value - production) / (best - production),
            lift=Lift.of(evaluation.paired_lift(part, policies, "production", ["policy"]).iloc[0]),
            estimates=estimates,
            **over,
        )


def _some(part: Log, most: int) -> Log:
    return part.take(np.random.default_rng(0).permutation(len(part.impressions))[:most])


if __name__ == "__main__":
    main()
