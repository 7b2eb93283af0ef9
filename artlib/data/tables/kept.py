"""Answers about pictures, which were paid for, kept when the log beside which they lie is imported anew.

`artlib caption` writes them beside the log, and a log is replaced whole. So they are copied out of its folder first and
moved into the new one last: whenever the process is killed, the next import finds them.
"""

from pathlib import Path

from artlib import files
from artlib.data.contract import LogError

ANSWERS = "captions.jsonl"
LOCK = f".{ANSWERS}.lock"


def there(out: Path) -> bool:
    """Whether any are kept for the log in the folder."""
    return (out / ANSWERS).exists() or _aside(out).exists()


def put_aside(out: Path) -> None:
    """Copy them out of the folder, if there are any.

    Raises:
        LogError: another process is adding to them.
    """
    if not there(out):
        return
    _refuse_if_busy(out)
    lines: dict[bytes, None] = {}  # of both, where an import was killed after it wrote the log
    for file in (_aside(out), out / ANSWERS):
        if file.exists():
            lines |= dict.fromkeys(file.read_bytes().split(b"\n"))
    lines.pop(b"", None)
    with files.replacing(_aside(out)) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in lines))


def put_back(out: Path) -> None:
    """Move them into the folder, if any were put aside."""
    if _aside(out).exists():
        _aside(out).replace(out / ANSWERS)


def _aside(out: Path) -> Path:
    out = out.absolute()
    return out.with_name(f".{out.name}.{ANSWERS}")


def _refuse_if_busy(out: Path) -> None:
    lock = out / LOCK
    if not lock.exists():
        return
    import filelock  # there, since `artlib caption` has it

    try:
        with filelock.FileLock(lock, timeout=0):
            pass
    except filelock.Timeout:
        raise LogError(f"{out} is being captioned by another process; let it end first") from None
