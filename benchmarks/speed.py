"""Scoring and training speed against what a user would write instead, and against the machine's limit.

    python benchmarks/speed.py                              the embedded model on this machine
    python benchmarks/speed.py --model tiny --impressions 8 a try in seconds
    python benchmarks/speed.py --shape llama-8b             random weights in the shape of Llama 3.1 8B: needs a GPU

There are two alternatives. Plain transformers and PEFT: what is asked as separate padded sequences, without shared
prefixes, once for every impression. For `label`, whose question is one sequence anyway, also Unsloth and TRL as they
come: SFTTrainer with its own defaults and Unsloth's, adapters in all layers on both sides. All see the same impressions
in one run, alternating; medians of the rounds. Results: results/speed.json, by model and prompt.

With `genre-likelihood`, a poster is read once for all impressions of its title: how many impressions that makes a
second hangs on how many a title has, which `impressions_per_title` says.
"""

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from artlib import files
from artlib.data import Log
from artlib.lm import embedded, machine, model, prompts
from artlib.lm.prompts import label
from artlib.lm.unsloth import import_unsloth, quiet
from artlib.posttrain import examples
from artlib.posttrain.examples import Examples
from artlib.posttrain.settings import Settings
from artlib.running import run_folder
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {  # of configurations, by their published numbers
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
    "llama-3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Measure, and add what was found to `root`/results/speed.json.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=embedded.EMBEDDED)
    parser.add_argument("--shape", choices=list(SHAPES), help="instead: random weights in this shape")
    parser.add_argument("--prompt", choices=("genre-likelihood", "caption", "label"), default="genre-likelihood")
    parser.add_argument("--impressions", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        name = _random_model(given.shape, folder) if given.shape else given.model
        settings = Settings(base=name, prompt=given.prompt, max_tokens=8192)
        if given.shape or given.prompt == "label":
            settings = dataclasses.replace(settings, lora_layers=0)
        if name == embedded.TINY:
            settings = dataclasses.replace(settings, dtype="float32")
        results = measure(settings, given.impressions, given.rounds)
    command = ["python", "benchmarks/speed.py", *(sys.argv[1:] if arguments is None else arguments)]
    results |= {"command": " ".join(command), "date": time.strftime("%Y-%m-%d")}
    results |= {"commit": run_folder.commit(ROOT, but="results")}
    print(json.dumps(results, indent=2))
    record = root / "results" / "speed.json"
    key = f"{given.shape or given.model}, {given.prompt}"
    files.write_json(record, (files.read_json(record) or {}) | {key: results})
    return results


def measure(settings: Settings, n: int, rounds: int) -> dict:
    """Speed of scoring n impressions and of a training pass over them, and how many times the alternatives' it is."""
    import torch

    log = fiction.build(n_users=400, n_titles=60, n_train=1000, n_validation=100, n_test=400)
    language_model, tokenizer = model.load(settings.base, dtype=settings.dtype, max_tokens=settings.max_tokens)
    reader = examples.reader_for(log, tokenizer, settings)
    # Impressions of a few titles, as they come together in training and in a log's scoring.
    arrays = log.split("train").arrays()
    part = log.split("train").take(np.argsort(arrays.title, kind="stable")[:n])
    questions, shown = reader.read(part), torch.tensor(part.arrays().shown)
    together = Examples(questions, part.arrays()).items()
    form = prompts.find(settings.prompt)
    if not form.by_title:
        together = [np.concatenate(together[i : i + 8]) for i in range(0, n, 8)]
    sequences = [_plain(p) for p in questions]
    asked = sequences
    if settings.prompt == "label":  # scoring averages over the rotations of the options
        asked = [_plain(p, turn) for p in questions for turn in range(len(p.options))]
    device = next(language_model.parameters()).device

    def timed(function) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def learn_ours() -> None:
        for rows in together:
            batch = {k: v.to(device) for k, v in form.collate([questions[row] for row in rows]).items()}
            scores = form.candidate_scores(language_model, batch)
            torch.nn.functional.cross_entropy(scores, shown[rows].to(device)).backward()
            step()

    def learn_plain() -> None:
        for i in range(n):
            scores = _plain_score(language_model, sequences[i], device)
            torch.nn.functional.cross_entropy(scores[None], shown[i : i + 1].to(device)).backward()
            if i % 8 == 7 or i == n - 1:
                step()

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    found: dict[str, list] = {name: [] for name in ("score", "score_plain", "train", "train_plain", "train_trl")}
    ours = prompts.score_as_trained(language_model, questions)
    with torch.no_grad():
        theirs = _plain_score(language_model, sequences[0], device).float().cpu().numpy()
    if settings.prompt == "label":  # ours are averaged over rotations
        ours = label.rotation_scores(language_model, questions[:1])[:, 0]
    difference = float(np.abs(ours[0][np.isfinite(ours[0])] - theirs).max())
    for _ in range(rounds):
        found["score"].append(timed(lambda: prompts.score(language_model, questions)))
        with torch.inference_mode():
            found["score_plain"].append(timed(lambda: [_plain_score(language_model, s, device) for s in asked]))
    language_model = model.add_lora(language_model, settings.lora_rank, settings.lora_layers)
    language_model.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    optimizer = torch.optim.AdamW([p for p in language_model.parameters() if p.requires_grad], lr=1e-5)
    learn_ours()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    with tempfile.TemporaryDirectory() as folder:
        trl = _trl_trainer(log, part, settings, folder) if settings.prompt == "label" else None
        if trl:
            trl.train()
        for _ in range(rounds):
            found["train"].append(timed(learn_ours))
            found["train_plain"].append(timed(learn_plain))
            if trl:
                with quiet():
                    found["train_trl"].append(timed(trl.train))
    median = {key: float(np.median(values)) for key, values in found.items() if values}
    tokens = sum(form.collate([questions[row] for row in rows])["input_ids"].numel() for rows in together)
    size = 8192 if device.type == "cuda" else 2048
    dtype = machine.resolve(settings.dtype)
    rate = machine.rate(dtype, (size, size, size))
    ends = "lora_", "embed", "lm_head"  # the head reads few tokens: left out, so that utilisation is a lower bound
    own = (p.numel() for name, p in language_model.named_parameters() if not any(end in name for end in ends))
    depth = language_model.config.num_hidden_layers
    adapted = (settings.lora_layers or depth) / depth
    # Forward through all layers, backward through the adapted ones (activations only: the weights are frozen).
    flops = 2 * sum(own) * tokens * (1 + min(adapted, 1))
    return {
        "machine": {**machine.described(), "dtype": dtype},
        "impressions": n,
        "impressions_per_title": round(n / len(np.unique(part.arrays().title)), 1),
        "difference_of_scores": difference,
        "scored_per_second": round(n / median["score"], 2),
        "scoring_ratio_to_plain": round(float(np.median(np.divide(found["score_plain"], found["score"]))), 1),
        "trained_per_second": round(n / median["train"], 2),
        "training_ratio_to_plain": round(float(np.median(np.divide(found["train_plain"], found["train"]))), 1),
        "training_ratio_to_trl": round(float(np.median(np.divide(found["train_trl"], found["train"]))), 2)
        if trl
        else None,
        "hours_for_110000": round(110_000 * median["train"] / n / 3600, 2),
        "training_tokens_per_second": round(tokens / median["train"]),
        "matrix_teraflops": round(rate / 1e12, 2),
        "training_utilisation": round(flops / median["train"] / rate, 3),
        "peak_gib": round(peak / 2**30, 2),
    }


def _plain(prompt, turn: int = 0) -> list[tuple[list[int], list[int], float, int]]:
    """(prefix, continuation, weight, candidate) of every sequence that a candidate's score is a weighted sum of; of
    `label`, the one question with its options rotated, and the letter of each candidate."""
    if hasattr(prompt, "posters"):
        return [
            (prompt.frame + poster, genre, float(w), k)
            for k, poster in enumerate(prompt.posters)
            for genre, w in zip(prompt.genres, prompt.average * (prompt.affinity - 1), strict=True)
        ]
    if hasattr(prompt, "captions"):
        roots = ((prompt.trunk + prompt.member, 1.0), (prompt.trunk + prompt.general, -1.0))
        return [(root, caption, w, k) for root, w in roots for k, caption in enumerate(prompt.captions)]
    order = np.roll(np.arange(len(prompt.options)), turn)
    return [(prompt.ids(order), [prompt.labels[place] for place in np.argsort(order)], 1.0, 0)]


def _plain_score(language_model, sequences: list, device, batch: int = 32):
    """(K,) scores of one impression: padded batches of whole sequences through the model's ordinary forward pass."""
    import torch

    if len(sequences) == 1:
        question, letters = sequences[0][:2]
        logits = language_model(input_ids=torch.tensor([question], device=device)).logits[0, -1].float()
        return logits[letters].log_softmax(dim=0)
    scores = torch.zeros(1 + max(k for *_, k in sequences), device=device)
    for start in range(0, len(sequences), batch):
        part = sequences[start : start + batch]
        rows = [prefix + continuation for prefix, continuation, *_ in part]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        targets = [[-100] * len(p) + c + [-100] * (width - len(p) - len(c)) for p, c, *_ in part]
        labels = torch.tensor(targets, device=device)
        logits = language_model(input_ids=ids, attention_mask=real).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none").sum(dim=1)
        weight = torch.tensor([w for *_, w, _ in part], device=device)
        scores = scores.index_add(0, torch.tensor([k for *_, k in part], device=device), -losses * weight)
    return scores


def _trl_trainer(log: Log, part: Log, settings: Settings, folder: str):
    """Unsloth's and TRL's defaults on text: the multiple-choice question, and the letter of what was shown."""
    unsloth = import_unsloth()
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    language_model, tokenizer = model.load(settings.base, dtype=settings.dtype, max_tokens=settings.max_tokens)
    reader = examples.reader_for(log, tokenizer, dataclasses.replace(settings, prompt="label"))
    questions = reader.read(part)
    letters = [[question.labels[shown]] for question, shown in zip(questions, part.arrays().shown, strict=True)]
    text = {
        "prompt": [tokenizer.decode(question.ids(np.arange(len(question.options)))) for question in questions],
        "completion": [tokenizer.decode(letter) for letter in letters],
    }
    with quiet():
        return SFTTrainer(
            model=unsloth.FastLanguageModel.get_peft_model(language_model, r=settings.lora_rank),
            processing_class=tokenizer,
            args=SFTConfig(
                folder,
                num_train_epochs=1,
                max_length=settings.max_tokens,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(text),
        )


def _random_model(shape: str, folder: str) -> str:
    """A model of the shape with random weights and the embedded model's tokenizer, saved for `model.load`."""
    import torch

    import_unsloth()
    from transformers import LlamaConfig, LlamaForCausalLM

    _, tokenizer = model.load(embedded.EMBEDDED)
    config = LlamaConfig(vocab_size=128_256, max_position_embeddings=8192, **SHAPES[shape])
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
