"""Several processes learn what one does."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler

from artlib import __main__ as cli
from artlib import files
from artlib.data import Log
from artlib.lm import embedded
from artlib.posttrain import adapters, processes, train
from artlib.posttrain.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
# Plays of as many titles that the last step of an epoch is incomplete, and its last micro-batch, too.
SMALL = {
    "base": embedded.TINY,
    "dtype": "float32",
    "max_examples": 37,
    "max_validation": 8,
    "epochs": 2,
    "batch_size": 8,
    "micro_batch": 2,
    "save_steps": 1,
    "lora_layers": 0,
    "max_tokens": 8192,
    "learning_rate": 3e-3,
}
# The first with a start that is trained by the way, and a loss that a whole micro-batch has.
CASES = [
    {"prompt": "genre-likelihood", "method": "counterfactual", "variance": 0.1, "epochs": 1},
    {"prompt": "caption", "method": "sft-ips", "temperature": 8.0, "max_examples": 19, "epochs": 1},
]
SCRIPT = """
import json, sys
from pathlib import Path
from artlib.data import Log
from artlib.posttrain import adapters, train
from artlib.posttrain.settings import Settings

def finish(folder, training, finish=adapters.finish):
    kept = [json.loads(path.read_text())["global_step"] for path in folder.glob("checkpoints/*/trainer_state.json")]
    names = sorted(path.name for path in folder.glob("checkpoints/*"))
    return finish(folder, training | {"checkpoints": [names, sorted(kept)]})

adapters.finish = finish
log = Log.load(sys.argv[1])
for settings in json.loads(sys.argv[3]):
    train.post_train(log, Path(sys.argv[2]) / settings["prompt"] / settings["method"], Settings(**settings))
"""


def launch(n: int, *arguments: str | os.PathLike, **more) -> subprocess.Popen:
    """`accelerate launch` of so many processes, in a process group of their own."""
    command = [Path(sys.executable).parent / "accelerate", "launch", "--main_process_port", "0"]
    command += ["--multi_gpu", "--num_processes", str(n)] if n > 1 else ["--num_processes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *arguments], env=environment, start_new_session=True, **(pipes | more))


def trainer_of(log: Path, folder: Path, **settings) -> list:
    """The command that trains."""
    given = [f"{name}={value}" for name, value in settings.items()]
    return ["-m", "artlib", "train", log, folder, "--set", *given]


def kept(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors"), json.loads((folder / "training.json").read_text())


def assert_same_training(found: Path, expected: Path) -> None:
    """The same weights, which have moved, the same curve, and the same of all else but the machine and the time."""
    (weights, training), (others, whole) = kept(found), kept(expected)
    assert weights.keys() == others.keys()
    moved = [np.abs(value).max() for name, value in others.items() if "lora_B" in name]  # they begin at 0
    assert min(moved) > 1e-3
    for name, value in others.items():
        np.testing.assert_allclose(weights[name], value, atol=1e-5, err_msg=name)
    for name in ("loss", "eval_loss", "learning_rate", "grad_norm", "step"):
        curve = [[entry[name] for entry in one["curve"] if name in entry] for one in (training, whole)]
        assert curve[0] == pytest.approx(curve[1], rel=1e-4, abs=1e-5), name
    assert whole["temperature"] == pytest.approx(training["temperature"], rel=1e-2)
    other = {"curve", "temperature", "machine", "seconds", "tokens_per_second", "order_sensitivity", "reward_model"}
    other |= {"resumed", "start", "zero_shot_temperature"}
    assert {k: v for k, v in training.items() if k not in other} == {k: v for k, v in whole.items() if k not in other}


@pytest.mark.parametrize(
    ("n", "micro", "count", "accumulated"), [(37, 2, 2, 2), (5, 4, 3, 1), (8, 2, 2, 1), (1, 1, 4, 3)]
)
def test_every_step_sees_the_examples_of_one_process(n, micro, count, accumulated):
    """By accelerate's own way of sharing out, in each of two epochs; nothing is left out or read twice."""

    def epochs(processes_: int, process: int, accumulate: int) -> list[list[list[int]]]:
        order = processes.Filled(SeedableRandomSampler(range(n), data_seed=3), micro * processes_)
        batches = BatchSamplerShard(BatchSampler(order, micro, drop_last=False), processes_, process)
        steps = []
        for epoch in range(2):
            order.set_epoch(epoch)
            read = [[index for index in batch if index < n] for batch in batches]
            assert len(read) == len(batches)
            steps += [read[i : i + accumulate] for i in range(0, len(read), accumulate)]
        return steps

    whole = epochs(1, 0, accumulated * count)
    shares = [epochs(count, process, accumulated) for process in range(count)]
    assert len({len(share) for share in shares}) == 1 and len(whole) == len(shares[0])
    assert [len(step) for step in shares[0]] == [len(step) for step in shares[-1]]
    for step, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch for part in parts for batch in part if batch) == sorted(step)
    assert sorted(index for step in whole for batch in step for index in batch) == sorted([*range(n)] * 2)
    assert n < 3 or whole[0] != whole[len(whole) // 2]  # each epoch has its own order


@pytest.mark.parametrize(
    ("batch", "micro", "count", "found"),
    [
        (8, 2, 1, 4),
        (8, 2, 2, 2),
        (8, 8, 1, 1),
        (8, 8, 2, "8 has 1 micro-batches of micro_batch=8, which 2 processes cannot share evenly; set micro_batch=4"),
        (12, 4, 2, "set micro_batch=3"),
        (8, 2, 3, "set batch_size to a multiple of 3, such as 6"),
        (4, 1, 8, "set batch_size to a multiple of 8, such as 8"),
    ],
)
def test_a_step_is_shared_out_evenly_or_not_at_all(monkeypatch, batch, micro, count, found):
    monkeypatch.setenv("WORLD_SIZE", str(count))
    settings = Settings(batch_size=batch, micro_batch=micro)
    if isinstance(found, int):
        assert processes.accumulation(settings) == found
    else:
        with pytest.raises(processes.ProcessError, match=re.escape(found)):
            processes.accumulation(settings)
        size = re.search(r"set micro_batch=(\d+)|such as (\d+)", found)
        mended = {"micro_batch": int(size[1])} if size[1] else {"batch_size": int(size[2])}
        assert processes.accumulation(dataclasses.replace(settings, **mended)) >= 1


def test_train_command_refuses_what_run_would(tmp_path, capsys):
    for given, message in (
        ("metod=sft", "unknown parameter metod = 'sft' (--set), did you mean method?"),
        ("epochs=many", "parameter epochs: 'many' (--set) is not of type int"),
        ("epochs=0", "parameter epochs 0 is out of range"),
        ("prompt=reasoned", "method=sft-reasoning or grpo or distil and prompt=reasoned go together"),
        ("method", "--set method: must be key=value"),
        ("method=soft", "targets, which code gives"),
    ):
        assert cli.main(["train", str(tmp_path / "no log"), str(tmp_path / "out"), "--set", given]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_train_command_says_what_it_trained(small_log, tmp_path, capsys):
    small_log.save(tmp_path / "log")
    few = SMALL | {"max_examples": 8, "epochs": 1, "method": "sft"}
    arguments = [str(argument) for argument in trainer_of(tmp_path / "log", tmp_path / "sft", **few)[2:]]
    assert cli.main(arguments) == 0
    said, training = capsys.readouterr().out, files.read_json(tmp_path / "sft" / "training.json")
    assert training["settings"] == dataclasses.asdict(Settings(**few)) and training["machine"]["processes"] == 1
    losses = [entry["eval_loss"] for entry in training["curve"] if "eval_loss" in entry]
    assert "8 examples" in said and f"{losses[0]:.4f} before, {losses[1]:.4f} after" in said


@pytest.fixture(scope="module")
def trained(small_log, tmp_path_factory) -> dict[int, Path]:
    """All cases in one process and in two."""
    folder = tmp_path_factory.mktemp("trained")
    small_log.save(folder / "log")
    (folder / "script.py").write_text(SCRIPT)
    cases = json.dumps([SMALL | case for case in CASES])
    for n in (1, 2):
        process = launch(n, folder / "script.py", folder / "log", folder / str(n), cases)
        said, _ = process.communicate(timeout=540)
        assert process.returncode == 0, said
    return {n: folder / str(n) for n in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["genre-likelihood/sft", "genre-likelihood/counterfactual", "caption/sft-ips"])
def test_two_processes_learn_what_one_does(trained, case):
    assert_same_training(trained[2] / case, trained[1] / case)
    (_, two), (_, one) = kept(trained[2] / case), kept(trained[1] / case)
    assert [run["machine"]["processes"] for run in (one, two)] == [1, 2]
    names, steps = two["checkpoints"]
    assert len(steps) == 2 and names == [f"checkpoint-{step}" for step in steps]


def workers(folder: Path) -> dict[int, int]:
    """Rank -> process id of those that train into a folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            command = (path.parent / "cmdline").read_bytes().split(b"\0")
            environment = dict(entry.partition(b"=")[::2] for entry in path.read_bytes().split(b"\0"))
        except OSError:
            continue
        if str(folder).encode() in command and b"RANK" in environment:
            found[int(environment[b"RANK"])] = int(path.parent.name)
    return found


def left(group: int) -> list[str]:
    """Processes of a group, ended ones that nobody waited for left out."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True).stdout.splitlines()
    fields = [line.split(maxsplit=2) for line in listed]
    return [args for pgid, stat, args in fields if int(pgid) == group and not stat.startswith("Z")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_process_ends_the_others_and_one_or_two_go_on(small_log, tmp_path):
    """In the second epoch, whose order is its own."""
    small_log.save(tmp_path / "log")
    settings = SMALL | {"method": "sft", "epochs": 3, "max_examples": 64}
    train.post_train(Log.load(tmp_path / "log"), tmp_path / "whole" / "sft", Settings(**settings))
    steps = kept(tmp_path / "whole" / "sft")[1]["curve"][-1]["step"]
    folder = tmp_path / "killed" / "sft"
    with open(tmp_path / "said.txt", "w+") as said:
        process = launch(2, *trainer_of(tmp_path / "log", folder, **settings), stdout=said)
        while process.poll() is None:
            last = adapters.last_checkpoint(folder / "checkpoints")
            if last and int(last.rpartition("-")[2]) > steps // 3:
                break
            time.sleep(0.01)
        os.kill(workers(folder)[1], signal.SIGKILL)
        begun = time.monotonic()
        code = process.wait(timeout=120)
        said.seek(0)
        text = said.read()
    assert code != 0 and time.monotonic() - begun < 100, text
    assert left(process.pid) == [] and not (folder / "training.json").exists()
    assert re.search(r"Root Cause.*rank      : 1 .*exitcode  : -9", text, re.DOTALL) and "post_train" not in text
    at = int(adapters.last_checkpoint(folder / "checkpoints").rpartition("-")[2])
    assert steps // 3 < at < steps and at % (steps // 3), f"{at} of {steps}"
    shutil.copytree(folder, tmp_path / "one" / "sft")
    process = launch(2, *trainer_of(tmp_path / "log", folder, **settings))
    text, _ = process.communicate(timeout=540)
    assert process.returncode == 0, text
    one = train.post_train(Log.load(tmp_path / "log"), tmp_path / "one" / "sft", Settings(**settings))
    assert one["resumed"] and kept(folder)[1]["resumed"]
    for name in ("killed", "one"):
        assert_same_training(tmp_path / name / "sft", tmp_path / "whole" / "sft")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["log", "folder", "batch", "method"])
def test_what_is_amiss_ends_all_with_one_message(small_log, tmp_path, case):
    if case != "log":
        small_log.save(tmp_path / "log")
    settings = SMALL | {"method": "sft"}
    if case == "folder":
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft" / "notes.txt").write_text("precious")
    settings |= {"batch": {"micro_batch": 8}, "method": {"prompt": "label"}}.get(case, {})
    process = launch(2, *trainer_of(tmp_path / "log", tmp_path / "sft", **settings))
    said, _ = process.communicate(timeout=300)
    message = {
        "log": "is not a folder; a log is",
        "folder": "holds other files than an adapter's",
        "batch": "which 2 processes cannot share evenly; set micro_batch=4",
        "method": "trains in one process",
    }[case]
    assert process.returncode != 0 and said.count(message) == 1, said
    assert case != "folder" or (tmp_path / "sft" / "notes.txt").read_text() == "precious"
