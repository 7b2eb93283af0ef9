"""An adapter and its base model as one model, for other programs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from artlib import files
from artlib.lm.model import load
from artlib.lm.unsloth import ModelError, quiet


def export(
    name: str,
    adapter: str | os.PathLike,
    path: str | os.PathLike,
    form: str = "merged",
    dtype: str = "auto",
    llama_cpp: str | os.PathLike | None = None,
    max_tokens: int = 2048,
) -> None:
    """Write a model with its adapter's weights added in; it appears whole or not at all.

    Args:
        name: of the base model, see `load`.
        path: what to write; nothing may be there.
        form: "merged": a folder of safetensors that `load` and transformers read, in 16 bits unless `dtype` is float32;
            "gguf": one file in 8 bits (Q8_0), which llama.cpp and Ollama read.
        llama_cpp: the folder of llama.cpp's sources, whose converter writes the GGUF.
        max_tokens: that the adapter was trained with, see `load`.

    Raises:
        ModelError: there is something at `path`, no converter in `llama_cpp`, or it cannot convert the model.
    """
    if os.path.lexists(path):
        raise ModelError(f"{path} is there already; remove it or name another")
    converter = Path(llama_cpp or "llama.cpp") / "convert_hf_to_gguf.py"
    if form == "gguf" and not converter.is_file():
        raise ModelError(f"{converter} is missing: give the folder of llama.cpp's sources, --llama-cpp or LLAMA_CPP")
    model, tokenizer = load(name, adapter, "bfloat16" if dtype == "auto" else dtype, max_tokens=max_tokens)
    with files.replacing(path) as temporary:
        if form == "merged":
            _save_merged(model, tokenizer, temporary)
            return
        with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=".merged.") as merged:
            _save_merged(model, tokenizer, merged)
            options = ("--outfile", temporary, "--outtype", "q8_0", "--model-name", Path(name).name)
            done = subprocess.run([sys.executable, converter, merged, *options], capture_output=True, text=True)
        if done.returncode:
            raise ModelError(f"{converter} failed: {done.stderr.strip().rpartition(chr(10))[2]}")


def _save_merged(model, tokenizer, folder: str | os.PathLike) -> None:
    with quiet():
        model.merge_and_unload().save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
