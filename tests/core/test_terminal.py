"""What others wrote is shown by the terminal, and never obeyed."""

import io
import random
import re
import sys
from pathlib import Path

import pytest

import distill
from distill import __main__
from distill.core.progress import Progress
from distill.core.terminal import Guard, guarded, printable, raw
from distill.errors import DataError, Stopped

PACKAGE = Path(distill.__file__).parent
# a title, a colour, a link, the clipboard, a cleared screen, C1, backspaces, an override
HOSTILE = (
    "\x1b]0;title\x07 \x1b[31mred \x1b]8;;http://x\x1b\\\\ \x1b]52;c;YQ==\x07 \x1b[2J"
    " \x9b31m \x85 \x7f\x08\x08 \x00 \r\u202eevil\u2066"
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_text_of_every_script_stays_as_it_is():
    text = "Habari\tyako?\n今天天气很好。 नमस्ते क्\u200dष آپ\u200cکا \u200fשלום 👩\u200d👧 é 𝓍 \\x1b"
    assert printable(text) == text


@pytest.mark.parametrize("seed", range(30))
def test_nothing_that_a_terminal_obeys_passes(seed):
    place = random.Random(seed)
    text = "".join(
        place.choice([chr(place.randrange(0xA0)), chr(place.randrange(0x2000, 0x2070)), "a"])
        for _ in range(300)
    )
    shown = printable(text)
    assert not OBEYED.search(shown)
    back = re.sub(r"\\x(..)|\\u(....)", lambda m: chr(int(m[1] or m[2], 16)), shown)
    assert back == text or "\\" in text


def test_what_is_printed_or_raised_is_guarded(capsys):
    with guarded():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        sys.stdout.writelines([HOSTILE])
        sys.excepthook(ValueError, ValueError(HOSTILE), None)
    said = capsys.readouterr()
    assert "\\x1b[31mred" in said.out and said.err.count("\\x1b[31mred") == 2
    assert not OBEYED.search(said.out + said.err)
    assert not isinstance(sys.stdout, Guard)


@pytest.mark.parametrize(
    "error",
    [DataError(HOSTILE), Stopped(HOSTILE), ValueError(HOSTILE)],
    ids=["ours", "stop", "fault"],
)
def test_no_command_lets_its_error_reach_the_terminal(monkeypatch, capsys, error):
    def fail(_options):
        print(HOSTILE)
        raise error

    monkeypatch.setattr(__main__, "_command", fail)
    try:
        assert __main__.main(["explain"]) in (2, 130)
    except ValueError:
        assert not isinstance(error, (DataError, Stopped))
        sys.excepthook(*sys.exc_info())  # as Python does at the end, when `main` is left
        sys.stdout, sys.stderr = raw(sys.stdout), raw(sys.stderr)
    said = capsys.readouterr()
    assert not OBEYED.search(said.out + said.err) and "\\x1b[31mred" in said.out


def test_a_bar_shows_news_and_what_is_printed_beside_it(monkeypatch):
    """rich puts streams of its own in the place of ours, and reads notes as markup."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    with guarded(), Progress("generate", 3, "answers") as bar:
        bar.say("\x1b]0;title\x07[/not a tag]")
        bar.advance(1, note=f"{HOSTILE}[bold]")
        print(HOSTILE)
        bar.advance(2)
    assert "\\x1b[31mred" in screen.getvalue()
    for hostile in ("\x1b]0;", "\x1b]52", "\x1b[31mred", "\x9b", "\u202e", "\x1b[2J"):
        assert hostile not in screen.getvalue()


def test_bars_of_other_packages_still_go_back_to_the_line_they_began():
    screen = io.StringIO()
    guard = Guard(screen)
    for text in ("\rLoading: 50%", "\rLoading: 99%\r", "\x1b[A", "\x1b[A\x1b[31m"):
        guard.write(text)
    assert screen.getvalue() == ("\rLoading: 50%\rLoading: 99%\\x0d\x1b[A\\x1b[A\\x1b[31m")
    assert raw(guard) is screen and raw(screen) is screen


def test_nothing_is_written_past_the_guard_but_what_we_style_ourselves():
    past = re.compile(
        r"terminal\.raw\(|Console\(|sys\.__std|\.std(out|err)\.buffer|os\.write\([12]"
    )
    found = {
        path.name for path in PACKAGE.rglob("*.py") if past.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"progress.py", "terminal.py", "data.py", "chat.py"}
    for name in ("core/progress.py", "reporting/data.py", "deploy/chat.py"):
        assert "terminal.printable(" in (PACKAGE / name).read_text(encoding="utf-8")
