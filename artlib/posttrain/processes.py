"""One training in several processes, as `accelerate launch` or torchrun start them: who does what, who waits for whom.

Every process has the whole model and asks the validation; each step's micro-batches are shared out, and gradients
averaged (torch's DistributedDataParallel), so that the adapter is that of one process. The main one alone writes.
"""

import contextlib
import datetime
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch.utils.data import Sampler

from artlib import ArtlibError
from artlib.posttrain.settings import Settings

# With a process that lives and does not answer; a dead one is noticed at once.
PATIENCE = datetime.timedelta(minutes=30)
Made = TypeVar("Made")


class ProcessError(ArtlibError, RuntimeError):
    """Several processes cannot do what one could, or one of them has ended."""


def count() -> int:
    """How many there are: 1, unless a launcher says otherwise."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return int(os.environ.get("RANK", 0)) == 0


def _join() -> None:
    """Meet the other processes, which was done before but for the first time: on GPUs, one each, by NCCL, else by
    gloo."""
    from accelerate import PartialState

    if not is_main():
        os.environ["TQDM_DISABLE"] = "1"
        warnings.simplefilter("ignore")  # the main one says the same
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # torchrun does not say so
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    if on_cpu:
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # by itself it says cpu:0, to which torch loads no checkpoint
    PartialState(cpu=on_cpu, timeout=PATIENCE)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Say in one line that another process has ended, where this one finds that it cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if count() == 1 or not lost or isinstance(error, ArtlibError):
            raise
        raise ProcessError(
            f"another process has ended or cannot be reached ({str(error).splitlines()[0]}); if it said why, that is "
            "above or on its machine; give the same command again, and training goes on from its last checkpoint"
        ) from error


def on_main(make: Callable[..., Made], *arguments, **named) -> Made:
    """What the main process makes, in all of them; where it fails, all end, with its message once."""
    if count() == 1:
        return make(*arguments, **named)
    from accelerate.utils import broadcast_object_list

    _join()
    made, failed = None, None
    if is_main():
        try:
            made = make(*arguments, **named)
        except Exception as error:
            failed = error
    made, ended = broadcast_object_list([made, failed is not None])
    if failed:
        raise failed
    if ended:
        raise SystemExit(1)
    return made


def main_first(make: Callable[..., Made], *arguments) -> Made:
    """What every process makes, the main one before the others, so that it alone finds what is amiss."""
    made: list[Made] = []
    on_main(lambda: made.append(make(*arguments)))
    return made[0] if made else make(*arguments)


def accumulation(settings: Settings) -> int:
    """The micro-batches of a step that each process has.

    Raises:
        ProcessError: they cannot be shared out evenly.
    """
    batch, micro, n = settings.batch_size, settings.micro_batch, count()
    if batch % (micro * n) == 0:
        return batch // micro // n
    fitting = [size for size in range(1, micro) if batch % (size * n) == 0]
    remedy = (
        f"set micro_batch={fitting[-1]}" if fitting else f"set batch_size to a multiple of {n}, such as {micro * n}"
    )
    raise ProcessError(
        f"a step of batch_size={batch} has {batch // micro} micro-batches of micro_batch={micro}, which {n} processes "
        f"cannot share evenly; {remedy}, or start fewer processes"
    )


class Filled(Sampler[int]):
    """The indices of n items in another sampler's order, then n itself, which means nothing, as often as it takes to
    give every process as many whole micro-batches. (accelerate would repeat items, which changes what is learnt.)

    Args:
        sampler: of the n items; has an order for each epoch.
        multiple: items in a micro-batch of all processes.
    """

    def __init__(self, sampler, multiple: int):
        self.sampler, self.multiple = sampler, multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [len(self.sampler)] * (len(self) - len(self.sampler))

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)


def through(model: torch.nn.Module, compute: Callable[..., torch.Tensor], batch: dict) -> torch.Tensor:
    """compute(the language model, batch), which does not call the model as a whole: in several processes by way of the
    wrapper that averages gradients, which it does only of its own forward pass."""
    inner = getattr(model, "module", None) if isinstance(model, torch.nn.parallel.DistributedDataParallel) else None
    if inner is None:
        return compute(model, batch)
    inner.forward = lambda batch: compute(inner, batch)
    try:
        return model(batch)
    finally:
        del inner.forward  # which stood before the class's own
