"""Choices by one process, by several over partitions, and by Ray's actors: decisions a second, memory, same choices.

    python benchmarks/scale.py                                    the embedded model, 20,000 requests, two workers
    python benchmarks/scale.py --prompt label --requests 128      a prompt of which every decision costs a pass
    python benchmarks/scale.py --model tiny --requests 200        a try

All answer the same requests, in partitions, sorted by title. The adapter is a new one, untrained: weights decide no
rate. A worker's clock begins with its first batch, when its model is loaded. `known`: the same requests again, when
nothing is new of their artworks. Without Ray (`pip install -e .[ray]`) its row is left out. Results:
results/scale.json, by model and prompt.
"""

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import threadpoolctl

from artlib import files
from artlib.data import Log
from artlib.lm import embedded, machine, model
from artlib.lm.prompts import text
from artlib.policies import requests
from artlib.policies.chooser import Chooser, Exploration, answer_folder
from artlib.posttrain import adapters
from artlib.posttrain.settings import Settings
from artlib.running import run_folder
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]
EXPLORATION = Exploration("epsilon", epsilon=0.1)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Measure, and add what was found to `root`/results/scale.json.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=embedded.EMBEDDED)
    parser.add_argument(
        "--prompt", choices=("genre-likelihood", "label", "member-likelihood"), default="genre-likelihood"
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--titles", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    settings = Settings(base=given.model, prompt=given.prompt, max_tokens=8192)
    if given.model == embedded.TINY:
        settings = dataclasses.replace(settings, dtype="float32")
    sizes = {"n_users": 1000, "n_titles": given.titles, "n_train": 1000, "n_validation": 100, "n_test": given.requests}
    log = fiction.build(**sizes)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(log, new_adapter(log, settings, Path(folder)), given.workers, Path(folder))
    command = ["python", "benchmarks/scale.py", *(sys.argv[1:] if arguments is None else arguments)]
    results |= {"command": " ".join(command), "date": time.strftime("%Y-%m-%d")}
    results |= {"commit": run_folder.commit(ROOT, but="results")}
    print(json.dumps(results, indent=2))
    record = root / "results" / "scale.json"
    files.write_json(record, (files.read_json(record) or {}) | {f"{given.model}, {given.prompt}": results})
    return results


def new_adapter(log: Log, settings: Settings, folder: Path) -> Path:
    """An adapter as `post_train` leaves one, before the first step."""
    language_model, tokenizer = model.load(settings.base, None, settings.dtype, False, settings.max_tokens)
    made = model.add_lora(language_model, settings.lora_rank, settings.lora_layers)
    made.save_pretrained(str(folder / "adapter"))
    known = {"code": adapters.code(settings), "background": log.background.described(), "temperature": 1.0}
    known |= {"settings": dataclasses.asdict(settings), "frame": text.chat_frame(tokenizer)}
    adapters.finish(folder / "adapter", known)
    return folder / "adapter"


def measure(log: Log, adapter: Path, workers: int, folder: Path) -> dict:
    """What one process with all threads, and so many processes and actors with their share of them, make of a log's
    test impressions."""
    test = log.split("test")
    asked = requests.from_log(test.take(np.argsort(test.arrays().title, kind="stable")))
    n, parts, threads = len(asked), 4 * workers, os.cpu_count() or 1
    share = max(1, threads // workers)
    (folder / "requests").mkdir()
    for number in range(parts):
        start, stop = number * n // parts, (number + 1) * n // parts
        pq.write_table(asked[start:stop], folder / "requests" / f"{number:03}.parquet")
    found = {
        "one process": by_processes(adapter, folder, "one process", 1, threads),
        "processes": by_processes(adapter, folder, "processes", workers, share),
    }
    if importlib.util.find_spec("ray"):
        found["ray"] = by_ray(adapter, folder, workers, share)
    else:
        print("without Ray: pip install -e .[ray]")
    first, *others = (pq.read_table(folder / name).sort_by("request_id") for name in found)
    for name, other in zip(list(found)[1:], others, strict=True):
        assert other["request_id"].equals(first["request_id"]), f"{name}: not every request has one choice"
        difference = np.subtract(*(pc.list_flatten(table["choice"]).to_numpy() for table in (first, other)))
        found[name]["other_choices"] = pc.sum(pc.not_equal(first["shown"], other["shown"])).as_py()
        found[name]["difference_of_probabilities"] = float(np.abs(difference).max())
    artworks = len(pc.unique(pc.list_flatten(test.impressions["candidates"])))
    alone = found["one process"]
    read = alone["seconds"] - n / alone["known_per_second"]
    settings = adapters.settings_of(adapter)
    return {
        "machine": {**machine.described(), "dtype": machine.resolve(settings.dtype)},
        "requests": n,
        "artworks": artworks,
        "artworks_per_second": round(artworks / max(read, 0.01), 2),
        "workers": workers,
        **found,
        "arithmetic_per_second": round(arithmetic(len(log.background.genres))),
    }


def by_processes(adapter: Path, folder: Path, name: str, workers: int, threads: int) -> dict:
    """Processes that share the partitions out among themselves."""
    given = adapter, folder / "requests", folder / name, threads
    with futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return _summary([job.result() for job in [pool.submit(_worker, *given) for _ in range(workers)]])


def _worker(adapter: Path, source: Path, out: Path, threads: int) -> dict:
    import torch

    torch.set_num_threads(threads)
    chooser = Chooser(adapter, EXPLORATION)
    start = time.time()
    answer_folder(chooser, source, out)
    stop = time.time()
    rows = pq.read_table(source)
    for _ in range(2):  # anew, since another process may have read some of the artworks
        again = time.time()
        for batch in rows.to_batches(1024):
            chooser(batch)
        known = len(rows) / (time.time() - again)
    return {"start": start, "stop": stop, "known": known, "peak": _peak()}


def by_ray(adapter: Path, folder: Path, workers: int, threads: int) -> dict:
    """Ray's actors."""
    import ray

    notes = folder / "notes"

    class Noting(Chooser):  # made here, and so sent to the workers as it is, wherever this file is
        def __call__(self, rows):
            start = time.time()
            found = self.choose_many(rows)
            with files.json_lines(notes / f"{os.getpid()}.jsonl") as add:
                add({"start": start, "stop": time.time(), "peak": _peak()})
            return found

    # Reading and writing take processors of Ray's, too: were all given to actors, the job would stand still.
    ray.init("local", num_cpus=workers * threads + 2, include_dashboard=False, log_to_driver=False)
    try:
        asked = ray.data.read_parquet(str(folder / "requests")).repartition(4 * workers)
        asked.map_batches(
            Noting,
            fn_constructor_args=(adapter, EXPLORATION),
            batch_format="pyarrow",
            batch_size=1024,
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(size=workers),
        ).write_parquet(str(folder / "ray"))
    finally:
        ray.shutdown()
    return _summary([row for path in notes.glob("*.jsonl") for row in files.read_json_lines(path)])


def arithmetic(n_genres: int, members: int = 20_000, titles: int = 20, candidates: int = 5) -> float:
    """Decisions a second of the default prompt's rule alone, argmax_c sum_g p(g | c) a_g, on arrays, on one thread."""
    rng = np.random.default_rng(0)
    likes = rng.random((members, n_genres), dtype=np.float32)
    says = rng.random((n_genres, titles * candidates), dtype=np.float32)
    with threadpoolctl.threadpool_limits(1):
        start = time.perf_counter()
        np.dot(likes, says).reshape(members, titles, candidates).argmax(axis=2)
        return members * titles / (time.perf_counter() - start)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30


def _summary(notes: list[dict]) -> dict:
    seconds = max(note["stop"] for note in notes) - min(note["start"] for note in notes)
    return {"seconds": round(seconds, 2), "peak_gib_each": round(max(note["peak"] for note in notes), 2)} | (
        {"known_per_second": round(sum(note["known"] for note in notes), 1)} if "known" in notes[0] else {}
    )


if __name__ == "__main__":
    main()
