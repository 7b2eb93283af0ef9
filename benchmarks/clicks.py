"""Real clicks: how many more than chance the choices of each policy bring, on headline tests that it has not seen.

    python benchmarks/clicks.py --only ridge zero-shot     the baseline, the reference and the bare model: minutes
    timeout -s KILL 3000 python benchmarks/clicks.py       all, again and again until it exits with 0: hours on a CPU
    python benchmarks/clicks.py --only soft --folds 0 1    one policy, some folds
    python benchmarks/clicks.py --test FOLDER              learns from all of --data, is judged on another file's tests

Upworthy Research Archive: every test showed the headlines of a story to readers at random, and clicks were counted.
Five folds by test; tests that share a headline are in one fold. Policies choose one headline a test, by text alone, and

    lift = mean over tests of the chosen headline's click rate / mean over tests of the mean rate of its headlines - 1,

so that every test counts once, by its clicks. Intervals are 95 %, by a bootstrap over tests, in which numerator,
denominator and baseline are drawn together. Nothing in it is simulated, and what chooses never sees the fold's clicks.

What is killed goes on: scores and adapters are kept in runs/clicks/fold-N. Results, of the folds that are there:
results/clicks.json.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from artlib import files, fingerprint
from artlib.data import Log
from artlib.lm import embedded, encoder, machine
from artlib.ope import intervals
from artlib.policies import rates
from artlib.policies.finetuned import finetuned_on_targets
from artlib.policies.llm import llm_scores
from artlib.posttrain.settings import Settings
from artlib.posttrain.train import post_train
from artlib.running import run_folder
from artlib.worlds import upworthy

ROOT = Path(__file__).resolve().parents[1]
FOLDS = 5
# What a headline's own clicks have to outweigh, in showings at its test's rate: about 14 clicks. True rates of a test's
# headlines differ by a quarter, as many clicks do by chance.
PRIOR = 1000.0
SETTINGS = {
    "method": "soft",
    "prompt": "appeal",
    "max_examples": 100_000,  # all
    "max_validation": 2000,  # likewise
    "epochs": 1,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "micro_batch": 4,
    "temperature": 4.0,
}
POLICIES = {
    "ridge": "ridge regression of log click rates on a sentence encoder's embeddings",
    "encoder": "the same encoder, post-trained end to end with a linear head that begins as a ridge regression",
    "zero-shot": "the bare language model: would you click?",
    "soft": "the same, post-trained on the clicks of all headlines of the other folds' tests",
}
BASELINE, REFERENCE = "ridge", "half of the clicks"
TOGETHER = {
    "soft + ridge": ("soft", "ridge"),
    "soft + encoder": ("soft", "encoder"),
    "encoder + ridge": ("encoder", "ridge"),
}
DERIVED = {
    **dict.fromkeys(TOGETHER, "the mean of what both expect, in log click rate"),
    REFERENCE: "no reader: chooses by a random half of the tests' own showings, judged on the other half",
}
N_SPLITS, N_BOOTSTRAP = 50, 2000


@dataclasses.dataclass(frozen=True)
class Tests:
    """Headline tests and their folds.

    Attributes:
        packages: rows of `upworthy.tests`.
        fold: (A,) in which each is judged; -1 for those that are only learnt from.
        test: (A,) code of its test.
    """

    packages: pd.DataFrame
    fold: np.ndarray
    test: np.ndarray
    source: dict

    @classmethod
    def read(cls, data: str, unseen: str | None) -> "Tests":
        """Args: `unseen`: folder of tests to judge on, whose headlines nobody may learn from; None for five folds."""
        packages, used, counts = upworthy.tests(data)
        source = {"files": used, "counts": counts}
        fold = upworthy.folds(packages, FOLDS) if unseen is None else np.full(len(packages), -1)
        if unseen is not None:
            others, used, counts = upworthy.tests(unseen)
            source["unseen"] = {"files": used, "counts": counts}
            both = pd.concat([packages[~packages["test"].isin(others["test"])], others], ignore_index=True)
            judged = both["test"].isin(others["test"]).to_numpy()
            group = upworthy.linked(both)
            kept = judged | ~np.isin(group, group[judged])
            packages, fold = both[kept].reset_index(drop=True), np.where(judged, 0, -1)[kept]
        texts = packages[["test", "caption", "impressions", "clicks"]].to_csv()
        source["sha256"] = hashlib.sha256(texts.encode()).hexdigest()
        return cls(packages, fold, pd.factorize(packages["test"])[0], source)

    @functools.cached_property
    def clicks(self) -> np.ndarray:
        return self.packages["clicks"].to_numpy()

    @functools.cached_property
    def shown(self) -> np.ndarray:
        return self.packages["impressions"].to_numpy()

    def log(self, fold: int) -> Log:
        """A fold to judge; of the other tests a tenth for the validation loss, the rest to learn from."""
        split = np.full(len(self.packages), "test", dtype=object)
        others = np.flatnonzero(self.fold != fold)
        tenth = upworthy.folds(self.packages.iloc[others], 10)
        split[others] = np.where(tenth == 0, "validation", "train")
        return upworthy.whole(self.packages, split.astype(str))

    def targets(self, part: Log) -> np.ndarray:
        """(n, K) which headline of its test a click is on, were all shown equally often, as far as clicks tell."""
        rate, arrays = np.exp(rates.log_rates(self.clicks, self.shown, self.test, PRIOR)), part.arrays()
        offered = np.where(arrays.mask, rate[np.maximum(arrays.candidates, 0)], 0)
        return offered / offered.sum(axis=1, keepdims=True)

    def values(self, scores: np.ndarray) -> np.ndarray:
        """(T,) the click rate of each test's headline with the highest score; ties share; NaN where there are none."""
        best = scores == pd.Series(scores).groupby(self.test).transform("max").to_numpy()
        rate, n = self.clicks / self.shown, self.test.max() + 1
        with np.errstate(invalid="ignore"):
            return np.bincount(self.test, best * rate, n) / np.bincount(self.test, best, n)

    @property
    def uniform(self) -> np.ndarray:
        """(T,) the mean click rate of each test's headlines."""
        return self.values(np.zeros(len(self.test)))

    @property
    def judged(self) -> np.ndarray:
        """(T,) the fold of each test."""
        return self.fold[np.unique(self.test, return_index=True)[1]]


def half_of_the_clicks(tests: Tests, n_splits: int = N_SPLITS, seed: int = 0) -> np.ndarray:
    """(T,) the click rate of the headline that half of the clicks prefer, by the other half, averaged over splits.

    A split deals each headline's showings in two at random, which makes the clicks of a half hypergeometric. Choosing
    and judging then share no noise, which choosing the best observed rate would be rewarded for.
    """
    rng, total = np.random.default_rng(seed), np.zeros(tests.test.max() + 1)
    clicks, shown = tests.clicks.astype(int), tests.shown.astype(int)
    first = shown // 2
    for _ in range(n_splits):
        drawn = rng.hypergeometric(clicks, shown - clicks, first)
        judging = dataclasses.replace(
            tests, packages=tests.packages.assign(clicks=clicks - drawn, impressions=shown - first)
        )
        total += judging.values(np.log((drawn + 0.5) / (first + 1)))
    return total / n_splits


def lift(values: np.ndarray, than: np.ndarray) -> dict:
    """The relative difference of two policies' mean values (T,), with its interval over tests."""
    sums = intervals.replicate_sums(np.column_stack([values, than]), N_BOOTSTRAP, seed=0)
    lower, upper = intervals.percentile_interval(sums[:, 0] / sums[:, 1] - 1, 0.05)
    return {"mean": float(values.mean() / than.mean() - 1), "lower": lower, "upper": upper}


class Session:
    """What is asked of one set of tests, and the answers that are kept in a folder."""

    def __init__(self, tests: Tests, folder: Path, base: str, encoder_name: str):
        self.tests, self.folder, self.encoder_name = tests, folder, encoder_name
        self.settings = Settings(base=base, **SETTINGS)
        self.commit = run_folder.commit(ROOT, but="results")  # of the code that runs, whatever is changed meanwhile

    def question(self, policy: str) -> dict:
        own = self.encoder_name if policy in ("ridge", "encoder") else {"base": self.settings.base, **SETTINGS}
        return {"tests": self.tests.source["sha256"], "prior": PRIOR, "by": own}

    def kept(self, policy: str, fold: int) -> dict | None:
        """Scores of a fold that were computed before for the same question, by whatever code: its commit is said."""
        found = files.read_json(self.folder / f"fold-{fold}" / f"{policy}.json")
        return None if found is None or fingerprint.changed(found, self.question(policy), "dtype") else found

    def ask(self, policy: str, fold: int) -> None:
        """Score the headlines of a fold, and keep the scores."""
        started = time.perf_counter()
        by = {"ridge": self._ridge, "encoder": self._encoder}.get(
            policy, functools.partial(self._language_model, policy)
        )
        scores, told = by(fold)
        of_fold = np.flatnonzero(self.tests.fold == fold)
        answer = {
            "scores": dict(zip(map(str, of_fold.tolist()), scores[of_fold].tolist(), strict=True)),
            "seconds": round(time.perf_counter() - started, 1),
            "commit": self.commit,
            "date": time.strftime("%Y-%m-%d"),
            "machine": {**machine.described(), "dtype": machine.resolve(self.settings.dtype)},
        }
        files.write_json(self.folder / f"fold-{fold}" / f"{policy}.json", self.question(policy) | answer | told)

    @functools.cached_property
    def embeddings(self) -> np.ndarray:
        """(A, d) of captions by the sentence encoder, made once."""
        texts = self.tests.packages["caption"].tolist()
        name = fingerprint.digest([self.encoder_name, texts])[:16]
        path = self.folder / f"embeddings-{name}.npz"
        if not path.exists():
            vectors = encoder.load(self.encoder_name).embed(texts)
            with files.replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, vectors=vectors)
        return np.load(path)["vectors"]

    @functools.cached_property
    def reference(self) -> np.ndarray:
        return half_of_the_clicks(self.tests)

    def _ridge(self, fold: int) -> tuple[np.ndarray, dict]:
        """Log click rates up to a constant of the test; penalties are chosen among the tests that are learnt from."""
        tests, known = self.tests, self.tests.fold != fold
        learnt = (part[known] for part in (self.embeddings, tests.clicks, tests.shown, tests.test))
        told = {"learnt_from": len(np.unique(tests.test[known]))}
        return self.embeddings @ rates.fit(*learnt, prior=PRIOR), told

    def _encoder(self, fold: int) -> tuple[np.ndarray, dict]:
        """The same by the encoder itself, post-trained: it learns from what the language model learns from."""
        log = self._log(fold)
        learnt, validation = (log.split(split) for split in ("train", "validation"))
        arrays, texts = learnt.arrays(), self.tests.packages["caption"].tolist()
        known = np.unique(arrays.candidates[arrays.mask])
        given = (part[known] for part in (self.embeddings, self.tests.clicks, self.tests.shown))
        head = rates.fit(*given, pd.factorize(self.tests.test[known])[0], prior=PRIOR)
        model = encoder.load(self.encoder_name)
        return finetuned_on_targets(model, head, texts, learnt, validation, self.tests.targets), self._learnt_from(log)

    def _log(self, fold: int) -> Log:
        folder = self.folder / f"fold-{fold}" / "log"
        if not (folder / "manifest.json").exists():
            self.tests.log(fold).save(folder)
        return Log.load(folder, validate=False)

    @staticmethod
    def _learnt_from(log: Log) -> dict:
        titles = {split: len(np.unique(log.split(split).arrays().title)) for split in ("train", "validation")}
        return {"learnt_from": titles["train"], "validated_on": titles["validation"]}

    def _language_model(self, policy: str, fold: int) -> tuple[np.ndarray, dict]:
        """The same by the language model: its log-odds by the temperature of training."""
        log, adapter, told = self._log(fold), None, {}
        if policy == "soft":
            adapter = self.folder / f"fold-{fold}" / "soft"
            training = post_train(log, adapter, self.settings, self.tests.targets)
            told = self._learnt_from(log)
            told |= {name: training[name] for name in ("curve", "tokens_per_second", "resumed")}
        test = log.split("test")
        arrays, found = test.arrays(), llm_scores(log, test, self.settings, adapter)
        scores = np.full(len(self.tests.test), np.nan)
        scores[arrays.candidates[arrays.mask]] = found[arrays.mask] / self.settings.temperature
        return scores, told

    def answers(self) -> dict[str, tuple[np.ndarray, list[dict]]]:
        """By policy: (A,) scores, NaN in folds that are not there yet, and what is told of each fold."""
        found = {}
        for policy in POLICIES:
            scores, told = np.full(len(self.tests.test), np.nan), []
            for fold in np.unique(self.tests.fold[self.tests.fold >= 0]).tolist():
                if answer := self.kept(policy, fold):
                    scores[[int(row) for row in answer["scores"]]] = list(answer["scores"].values())
                    told.append({"fold": fold} | answer)
            if told:
                found[policy] = scores, told
        for name, both in TOGETHER.items():  # log rates, of which the mean of a test says nothing
            if found.keys() >= set(both):
                rates_ = [pd.Series(found[policy][0]) for policy in both]
                centred = [own - own.groupby(self.tests.test).transform("mean") for own in rates_]
                found[name] = ((centred[0] + centred[1]) / 2).to_numpy(), found[both[0]][1]
        return found

    def rows(self) -> list[dict]:
        """What each policy is worth on the folds that it was asked about."""
        uniform, answers = self.tests.uniform, self.answers()
        values = {policy: self.tests.values(scores) for policy, (scores, _) in answers.items()}
        values[REFERENCE] = np.where(self.tests.judged >= 0, self.reference, np.nan)
        rows = []
        for policy, own in values.items():
            there = np.isfinite(own)
            told = answers[policy][1] if policy in answers else []
            beside = there & np.isfinite(values[BASELINE]) if BASELINE in values else np.zeros_like(there)
            compared = policy not in (BASELINE, REFERENCE) and beside.any()
            rows.append(
                {
                    "policy": policy,
                    "meaning": (POLICIES | DERIVED)[policy],
                    "n": int(there.sum()),
                    "folds": [fold["fold"] for fold in told],
                    "value": float(own[there].mean()),
                    "lift": lift(own[there], uniform[there]),
                    "baseline_lift": lift(values[BASELINE][beside], uniform[beside]) if compared else None,
                    "over_baseline": lift(own[beside], values[BASELINE][beside]) if compared else None,
                    "told": [_without_scores(fold) for fold in told] if policy in POLICIES else [],
                }
            )
        return rows


def _without_scores(answer: dict) -> dict:
    return {name: value for name, value in answer.items() if name not in ("scores", "tests", "prior")}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Ask what was not asked yet.

    Args:
        arguments: of the command line.
        root: where runs/ and results/ are.

    Returns:
        The results, as written to results/.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="folder of the archive's tests; default: ARTLIB_DATA")
    parser.add_argument("--test", help="folder of other tests to judge on; results get the name clicks-unseen")
    parser.add_argument("--base", default=embedded.EMBEDDED, help="the model; results of another get its name")
    parser.add_argument("--encoder", default=encoder.EMBEDDED, help="the sentence encoder of the baseline")
    parser.add_argument("--folds", type=int, nargs="+", help="default: all")
    parser.add_argument("--only", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    given = parser.parse_args(arguments)
    tests = Tests.read(given.data, given.test)
    there = np.unique(tests.fold[tests.fold >= 0]).tolist()
    if unknown := set(given.folds or []) - set(there):
        parser.error(f"--folds: {min(unknown)} is none of {', '.join(map(str, there))}")
    name = "clicks" + ("-unseen" if given.test else "")
    name += "" if given.base == embedded.EMBEDDED else "-" + given.base.rpartition("/")[2]
    session, results = Session(tests, root / "runs" / name, given.base, given.encoder), {}
    asked = [(policy, fold) for policy in given.only for fold in given.folds or there]
    for policy, fold in [*asked, (None, None)]:  # what was kept is reported, too
        if policy is not None:
            if session.kept(policy, fold):
                continue
            print(f"== {policy}, fold {fold} of {', '.join(map(str, there))}", flush=True)
            session.ask(policy, fold)
        results = {
            "command": "python benchmarks/clicks.py" + (" --test FOLDER" if given.test else ""),
            "source": tests.source,
            "tests": int(len(tests.judged)),
            "rows": session.rows(),
        }
        files.write_json(root / "results" / f"{name}.json", results)
    for row in results["rows"]:
        print(json.dumps({key: row[key] for key in ("policy", "n", "lift", "over_baseline")}), flush=True)
    return results


if __name__ == "__main__":
    main()
