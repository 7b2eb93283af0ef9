"""What this machine computes with: its processor, the number type that is the faster one here, and how fast it is."""

import functools
import os
import platform
import time
from pathlib import Path

import filelock

from artlib import files

TYPES = ("auto", "bfloat16", "float32")
_SHAPE = (512, 576, 1536)  # of a product as the embedded model has them: tokens, inputs, outputs


def best_type() -> str:
    """The number type in which a model runs fastest here without loss of range.

    bfloat16 on GPUs that have it, and on processors that multiply faster in it; else float32. Without instructions
    for bfloat16, processors imitate it, up to 70 times slower. Where only a measurement tells, it is made once and
    remembered, by processor, threads and torch's version: one machine gives one answer, however busy it is.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    path, key = cache_folder() / "types.json", ", ".join(map(str, described().values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        known = files.read_json(path) or {}
        if known.get(key) not in TYPES[1:]:
            known[key] = max(("float32", "bfloat16"), key=rate)
            files.write_json(path, known)
    return known[key]


def resolve(dtype: str) -> str:
    """The type that `dtype`, one of `TYPES`, means here."""
    if dtype not in TYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(TYPES)}")
    return best_type() if dtype == "auto" else dtype


def rate(dtype: str, shape: tuple[int, int, int] = _SHAPE, seconds: float = 0.2) -> float:
    """FLOP/s of the fastest of several products (tokens, inputs) x (inputs, outputs), for about so many seconds."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens, inputs, outputs = shape
    x = torch.randn(tokens, inputs, device=device).to(getattr(torch, dtype))
    weight = torch.randn(outputs, inputs, device=device).to(x.dtype)
    best, until = float("inf"), time.perf_counter() + seconds
    for repeat in range(1000):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        if device == "cuda":
            torch.cuda.synchronize()
        end = time.perf_counter()
        if repeat:  # the first one compiles
            best = min(best, end - start)
        if repeat and end > until:
            break
    return 2 * tokens * inputs * outputs / best


@functools.cache
def described() -> dict[str, str | int]:
    """The processor (or GPU) that models run on, its threads, and torch's version: what speed and rounding hang on."""
    import torch

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    name = f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def cache_folder() -> Path:
    """Where converted models and what is known of this machine are kept: ARTLIB_CACHE, else in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ARTLIB_CACHE") or Path(base) / "artlib")
