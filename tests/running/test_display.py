"""What is seen of a running notebook: lines at once, bars thinned out, and never nothing for long."""

import io
import re
import sys
import time

import pytest

from artlib.running import display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_shows_lines_at_once_and_the_end_of_bars(capsys):
    shown = display.Display(every=1000)
    for text in ["one\ntw", "o\n\n", *(f"\r{n}%" for n in range(100)), "\r100%\n", "\x1b[31mred\x1b[0m"]:
        shown.write(text)
    shown.close()
    assert capsys.readouterr().out.split("\n") == ["    one", "    two", "    100%", "    red", ""]


@pytest.mark.parametrize("said", ["", "\rtraining:  50%|##  | 1/2 [00:10<00:10, loss=1.4]"])
def test_a_log_gets_a_line_again_and_again_while_cells_say_nothing(capsys, said):
    shown = display.Display(expected=90, every=0.05)
    shown.write(said)
    time.sleep(0.4)
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3
    pattern = r"    \d+ s of about 1 min 30 s  (\.\.\.|training.*loss=1.4\])"
    assert all(re.fullmatch(pattern, line) for line in lines[:-1])
    assert (said.strip() or "...") in lines[0]


def test_a_terminal_draws_one_line_over_itself(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    shown = display.Display("[2/5] 02_train", expected=280, every=0.05)
    shown.write("\rtraining:  50%|##  | 15/30 [01:40<01:40,  6.91s/it, loss=1.551]")
    time.sleep(0.3)
    shown.write("\rtraining: 100%\nsaved\n")
    shown.close()
    drawn = terminal.getvalue().split("\r\x1b[K")
    assert drawn[0] == "" and drawn[-1] == ""
    assert "[2/5] 0 s training:  50% 15/30 [01:40<01:40,  6.91s/it, loss=1.551]" in drawn  # 80 columns
    assert [line for line in drawn if line.endswith("\n")] == ["    training: 100%\n", "    saved\n"]


def test_durations_are_said_as_people_say_them():
    said = [display.duration(seconds) for seconds in (0.4, 59.4, 61, 3599.6, 7260)]
    assert said == ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "2 h 1 min"]
