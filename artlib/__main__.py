"""The command line: run the notebooks, make or check a log, put a model into service, judge policies."""

import argparse
import os
import signal
import sys

from artlib import ArtlibError
from artlib.commands import logs, models, notebooks


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 the work failed, 2 the request is wrong."""
    # As Ctrl-C does, so that a stopped run takes its kernel along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    try:
        code = options.command(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ArtlibError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    print(f"artlib: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m artlib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for part in (notebooks, logs, models):
        part.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
