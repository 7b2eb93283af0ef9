"""Unsloth, imported quietly: it must come before transformers and prints as it is, so every import of either is inside
a function."""

import contextlib
import ctypes
import logging
import os
import sys
import warnings

from artlib import ArtlibError
from artlib.lm import machine


class ModelError(ArtlibError, ValueError):
    """A model that is missing, damaged or of no use here."""


def import_unsloth():
    """Import Unsloth quietly, keeping its compiled cache out of the working directory."""
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(machine.cache_folder() / "unsloth_compiled_cache"))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _keep_freed_memory()
    with quiet():
        try:
            import unsloth
        except ImportError as error:
            raise ModelError(f"Unsloth cannot be imported ({error}); run `make setup`") from error
    return unsloth


def _keep_freed_memory() -> None:
    """Make glibc keep large freed blocks. It would map every activation anew, a quarter of a training step here."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing by mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back


@contextlib.contextmanager
def quiet():
    """Keep the libraries' banners and notices out of a notebook; errors still come through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    out, err = _Muted(sys.stdout), _Muted(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        out.muted = err.muted = False


class _Muted:
    """A stream that says nothing while it is muted. Unsloth keeps the one it meets, so it must go on working after."""

    def __init__(self, stream):
        self._stream, self.muted = stream, True

    def write(self, text: str) -> int:
        return len(text) if self.muted else self._stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
