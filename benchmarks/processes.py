"""One training in one process, and shared out among several: how fast, and how far apart the adapters are.

    python benchmarks/processes.py                              the embedded model: one process of all cores, of one
                                                                core, and as many processes of one core as there are
    python benchmarks/processes.py --base tiny --examples 64    a try

Processes are started by `accelerate launch` on this machine, which must be quiet. Results: results/processes.json, by
model: tokens a second in training, what it is of one process on all cores, wall time with start-up, and the largest
difference of a weight from the adapter of the first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from artlib import files
from artlib.lm import embedded, machine
from artlib.running import run_folder
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Measure, and add what was found to `root`/results/processes.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=embedded.EMBEDDED)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args(arguments)
    ways = [(1, given.processes), (1, 1), (given.processes, 1)]
    settings = {"base": given.base, "dtype": "float32", "max_examples": given.examples, "max_validation": 16}
    settings |= {"batch_size": 4 * given.processes, "micro_batch": 2, "max_tokens": 8192}
    if given.base == embedded.TINY:
        settings["lora_layers"] = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fiction.build(n_users=400, n_titles=120, n_train=4000, n_validation=200, n_test=200).save(folder / "log")
        found = [_trained(folder, *way, settings) for way in ways]
    (first, weights), *_ = found
    for measured, others in found:
        measured["of_the_first"] = measured["tokens_per_second"] / first["tokens_per_second"]
        measured["weights_off_by"] = max(float(np.abs(others[name] - weights[name]).max()) for name in weights)
    command = ["python", "benchmarks/processes.py", *(sys.argv[1:] if arguments is None else arguments)]
    results = {"ways": [measured for measured, _ in found], "settings": settings, "machine": machine.described()}
    results |= {"command": " ".join(command), "date": time.strftime("%Y-%m-%d")}
    results |= {"commit": run_folder.commit(ROOT, but="results")}
    print(json.dumps(results, indent=2))
    record = root / "results" / "processes.json"
    files.write_json(record, (files.read_json(record) or {}) | {given.base: results})
    return results


def _trained(folder: Path, processes: int, threads: int, settings: dict) -> tuple[dict, dict[str, np.ndarray]]:
    """What one training took, and its adapter's weights."""
    from safetensors.numpy import load_file

    out, started = folder / f"{processes} of {threads}" / "sft", time.time()
    launch = [Path(sys.executable).parent / "accelerate", "launch", "--main_process_port", "0"]
    launch += ["--multi_gpu", "--num_processes", str(processes)] if processes > 1 else ["--num_processes", "1"]
    given = [f"{name}={value}" for name, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [*launch, "-m", "artlib", "train", folder / "log", out, "--set", *given]
    subprocess.run(command, env=environment, check=True)
    training = files.read_json(out / "training.json")
    measured = {"processes": training["machine"]["processes"], "threads": threads, "wall": time.time() - started}
    measured |= {name: training[name] for name in ("tokens_per_second", "seconds", "examples")}
    return measured, load_file(out / "adapter_model.safetensors")


if __name__ == "__main__":
    main()
