"""Ways to turn what the model says of a poster into a choice, on the validation split of a finished run.

    python benchmarks/forms.py --run quick     the adapter of sft of `make run`; without --run, of `make demo`

The model is asked once for zero-shot and once with its adapter; every form uses the same answers. Results:
results/forms.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from artlib import files
from artlib.data import Log
from artlib.lm import calibration, machine, model
from artlib.lm.prompts import genre_likelihood
from artlib.policies import baselines
from artlib.posttrain import adapters, examples
from artlib.running import run_folder

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="demo")
    run = run_folder.of(parser.parse_args().run, needs=["log", "adapters"])
    adapter = run / "adapters" / "sft"
    settings = adapters.settings_of(adapter)
    log = Log.load(run / "log", validate=False)
    part = log.split("validation")
    usual, rows = {}, []
    for name, folder in (("zero-shot", None), ("sft", adapter)):
        language_model, tokenizer = model.load(settings.base, folder, settings.dtype, max_tokens=settings.max_tokens)
        questions = examples.reader_for(log, tokenizer, settings, adapters.frame_of(adapter)).read(part)
        posters, poster, mask = genre_likelihood.unique_posters(questions)
        genres, usual[name] = (
            genre_likelihood.genre_table(language_model.eval(), asked, questions[0].frame, questions[0].genres)
            for asked in (posters, questions[0].sample)
        )
        usual[name] = usual[name].mean(axis=0)
        affinity = np.stack([question.affinity for question in questions])
        forms = {"linear": np.einsum("nkg,ng->nk", genres[poster], genre_likelihood.centred_profile(questions))}
        levels = {"not calibrated": np.zeros_like(usual[name]), "bare model": usual["zero-shot"], "itself": usual[name]}
        for level, average in levels.items():
            forms[f"mixture, {level}"] = genre_likelihood.mixture_scores(genres, average, poster, affinity)
        for form, scores in forms.items():
            rows.append({"model": name, "form": form} | _judged(part, np.where(mask, scores, -np.inf)))
            print(json.dumps(rows[-1]), flush=True)
    files.write_json(
        ROOT / "results" / "forms.json",
        {
            "command": "python benchmarks/forms.py",
            "commit": run_folder.commit(ROOT, but="results"),
            "date": time.strftime("%Y-%m-%d"),
            "machine": {**machine.described(), "dtype": machine.resolve(settings.dtype)},
            "sharpness": genre_likelihood.SHARPNESS,
            "rows": rows,
        },
    )


def _judged(part: Log, scores: np.ndarray) -> dict:
    """The gap closed by the best candidates, and the cross-entropy of the plays at the temperature that suits them."""
    arrays, truth = part.arrays(), part.expected_reward()
    plays = np.flatnonzero(arrays.reward > 0)
    temperature = calibration.fit_temperature(scores[plays], arrays.shown[plays])
    chosen = calibration.probabilities(scores[plays], temperature)[np.arange(len(plays)), arrays.shown[plays]]
    shown = baselines.greedy(scores), arrays.production, baselines.oracle(part)
    value, production, best = (float((p * truth).sum(axis=1).mean()) for p in shown)
    return {
        "impressions": len(arrays),
        "plays": len(plays),
        "gap_closed": (value - production) / (best - production),
        "loss": float(-np.log(chosen).mean()),
        "temperature": temperature,
    }


if __name__ == "__main__":
    main()
