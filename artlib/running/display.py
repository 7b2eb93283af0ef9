"""What a running notebook prints, as a terminal or a CI log shows it, and signs of life in between."""

import re
import shutil
import sys
import threading
import time

_DRAWN = re.compile(r"\|[^|]*\| ?")  # a bar's picture
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Display:
    """Passes on what cells print, and gives a sign of life while they print nothing.

    Lines appear at once. The state of a progress bar, and how long the notebook has been at it, is drawn over itself
    every second in a terminal; in a file or a CI log it is a line every so many seconds.

    Args:
        label: of the notebook.
        expected: seconds that it will take, about; None if unknown.
        every: seconds between two signs of life.
    """

    def __init__(self, label: str = "", expected: float | None = None, every: float | None = None):
        self._terminal = sys.stdout.isatty()
        self._label, self._expected, self._every = label, expected, every or (1.0 if self._terminal else 20.0)
        self._line, self._bar, self._begun = "", "", time.monotonic()
        self._last, self._lock, self._closed = self._begun, threading.RLock(), threading.Event()
        self._ticking = threading.Thread(target=self._tick, daemon=True)
        self._ticking.start()

    def write(self, text: str) -> None:
        with self._lock:
            *lines, rest = (self._line + without_colours(text)).split("\n")
            for line in lines:
                self._say(line)
            self._bar = _last_state(rest) or self._bar
            self._line = f"\r{_last_state(rest)}" if "\r" in rest else rest

    def flush(self) -> None:
        sys.stdout.flush()

    def close(self) -> None:
        self._closed.set()
        self._ticking.join()
        self.write("\n")
        self._print("")

    def _say(self, line: str) -> None:
        """A finished line, as it looks in the end. That of a bar says that the bar is done."""
        if state := _last_state(line):
            self._bar = ""
            self._last = time.monotonic()
            self._print(f"    {state}\n")

    def _tick(self) -> None:
        while not self._closed.wait(min(1.0, self._every)):
            with self._lock:
                if time.monotonic() - self._last >= self._every:
                    self._last = time.monotonic()
                    self._print(self._state() + ("" if self._terminal else "\n"))

    def _state(self) -> str:
        took = duration(time.monotonic() - self._begun)
        of = f" of about {duration(self._expected)}" if self._expected else ""
        if not self._terminal:
            return f"    {took}{of}  {self._bar or '...'}"
        width = shutil.get_terminal_size().columns - 1
        bar = _DRAWN.sub(" ", self._bar)  # figures before pictures, where there is not the room for both
        number = self._label.split(" ")[0]
        candidates = (f"{self._label} {took}{of}  {bar}", f"{number} {took}{of} {bar}", f"{number} {took} {bar}")
        return next((state for state in candidates if len(state) <= width), candidates[-1][:width]).rstrip()

    def _print(self, text: str) -> None:
        sys.stdout.write(f"\r\x1b[K{text}" if self._terminal else text)
        sys.stdout.flush()


def _last_state(line: str) -> str:
    """What a terminal would show of a line in which a progress bar was drawn over itself."""
    return next((part.rstrip() for part in reversed(line.split("\r")) if part.strip()), "")


def duration(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours and minutes, for a reader."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def without_colours(text: str) -> str:
    """Text without a terminal's control sequences."""
    return _ANSI.sub("", text)
