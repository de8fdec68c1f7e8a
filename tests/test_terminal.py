"""What is written: escaped, in words, within the width, and never the reason for a lost run."""

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest

from minidl import terminal
from minidl.bar import ProgressBar
from minidl.commands.train import epoch_line
from minidl.progress import Epoch
from minidl.terminal import aligned, duration, printable, say, warn, width_of

FIGURES = {"loss": 0.12345, "accuracy": 0.98765}
EPOCH = Epoch(7, 700, 0.1, FIGURES, FIGURES, 1.234, True)


@pytest.mark.parametrize("code", [*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xD800])
def test_no_character_that_controls_a_terminal_is_written(code, capsys):
    say(f"a{chr(code)}b")
    warn(f"a{chr(code)}b")
    expected = f"a{chr(code)}b" if chr(code) in "\n\t" else f"a{ascii(chr(code))[1:-1]}b"
    assert capsys.readouterr() == (expected + "\n", expected + "\n")


def test_a_cell_of_two_lines_leaves_a_table_aligned():
    assert aligned([("a\nb\x1b", "1"), ("c", "2")]) == "a\\nb\\x1b  1\nc         2\n"


def test_letters_of_all_languages_are_written_as_they_are():
    text = "Größe, 大きさ, حجم, 🙂, a\tb\n"
    assert printable(text) == text


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 ms"),
        (0.00042, "0.42 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.0996 s"),
        (9.994, "9.99 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_a_time_is_said_with_two_to_three_digits(seconds, words):
    assert duration(seconds) == words


def test_a_line_of_an_epoch_fits_and_says_as_much_as_it_can():
    whole = (
        "epoch 7/100  train loss 0.1235 accuracy 0.9877  validation loss 0.1235 accuracy 0.9877"
        "  1.23 s"
    )
    assert epoch_line(EPOCH, 100, None) == epoch_line(EPOCH, 100, 95) == whole
    assert epoch_line(EPOCH, 100, 80) == (
        "epoch 7/100  train loss 0.1235  validation loss 0.1235 accuracy 0.9877  1.23 s"
    )
    assert epoch_line(EPOCH, 100, 40) == "7/100  loss 0.1235 accuracy 0.9877"
    assert epoch_line(EPOCH, 100, 20) == "7/100  loss 0.1235"
    for width in range(1, 120):
        line = epoch_line(EPOCH, 100, width)
        assert len(line) <= width and (width < 19 or not re.search(r"\.\d{0,3}$", line))


def test_without_validation_the_training_figures_stay():
    only = Epoch(1, 1, 0.1, FIGURES, {}, 1.0, True)
    assert epoch_line(only, 2, 60) == "epoch 1/2  train loss 0.1235 accuracy 0.9877  1 s"
    assert epoch_line(only, 2, 30) == "epoch 1/2  train loss 0.1235"
    assert epoch_line(only, 2, 25) == "1/2  loss 0.1235"


def test_a_metric_that_is_monitored_is_shown():
    figures = {"loss": 0.5, "accuracy": 0.75, "balanced_accuracy": 0.5, "macro_f1": 0.25}
    epoch = Epoch(1, 1, 0.1, {"loss": 0.5}, figures, 1.0, True)
    assert "macro_f1" not in epoch_line(epoch, 2, None)
    line = epoch_line(epoch, 2, None, "macro_f1")
    assert line.endswith("validation loss 0.5000 accuracy 0.7500 macro_f1 0.2500  1 s")


def test_an_error_stream_that_is_full_stops_nothing(monkeypatch):
    full = open("/dev/full", "w")
    monkeypatch.setattr(sys, "stderr", full)
    warn("lost")
    full.flush()  # nothing is left to fail at exit
    full.close()


def test_a_full_output_is_an_error_and_a_reader_that_left_is_another(monkeypatch):
    with open("/dev/full", "w") as full, pytest.raises(terminal.OutputError) as caught:
        monkeypatch.setattr(sys, "stdout", full)
        say("lost")
    assert str(caught.value) == "standard output cannot be written: No space left on device"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, pytest.raises(terminal.OutputError) as caught:
        monkeypatch.setattr(sys, "stdout", pipe)
        say("lost")
    assert (str(caught.value), caught.value.exit_code) == ("", 141)


def test_a_bar_starts_no_thread():
    before = threading.active_count()
    with ProgressBar(total=3, file=io.StringIO()) as bar:
        bar.update()
    assert threading.active_count() == before


# --- in a terminal


def set_width(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def rows_shown(written):
    """Every row as it stood on the screen at some time, without what moves the cursor up."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9]*[A-Z]", "", written))


def read_to_the_end(outer):
    """All that was written to a pseudo-terminal, until nobody is left who could write."""
    written = b""
    while True:
        try:
            written += os.read(outer, 4096)
        except OSError:  # EIO: the other end is closed
            os.close(outer)
            return written.decode()


def in_terminal(columns, command, **options):
    """Run a command in a pseudo-terminal; its exit code and all it wrote there."""
    outer, inner = os.openpty()
    set_width(inner, columns)
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, **options) as process:
        os.close(inner)
        written = read_to_the_end(outer)
    return process.returncode, written


TEXT = """\
data: {name: digits}
model: [linear: 32, relu, linear: auto]
train: {epochs: 3}
output: {report: false}
"""


@pytest.mark.parametrize("columns", [80, 40, 24])
def test_nothing_is_wider_than_the_terminal(tmp_path, columns):
    (tmp_path / "c.yaml").write_text(TEXT)
    command = [sys.executable, "-m", "minidl", "train", "c.yaml", "--out", "r"]
    code, written = in_terminal(columns, command, cwd=tmp_path)
    rows = rows_shown(written)
    assert code == 0 and max(map(len, rows)) <= columns
    assert sum(re.match(r"(epoch )?[123]/3  ", row) is not None for row in rows) == 3
    assert any("%|" in row for row in rows)
    if columns == 80:
        assert any(re.match(r"loss \d+\.\d{4}: +\d+%\|", row) for row in rows)


def test_the_bar_follows_a_window_that_becomes_narrower():
    outer, inner = os.openpty()
    set_width(inner, 80)
    with os.fdopen(inner, "w") as file, ProgressBar(total=9, file=file, mininterval=0) as bar:
        assert width_of(file) == 80
        bar.set_description_str("loss 0.1234")
        file.write("narrower")
        set_width(inner, 30)
        bar.refresh()
    before, after = read_to_the_end(outer).split("narrower")
    assert 70 < max(map(len, rows_shown(before))) <= 80
    assert 20 < max(map(len, rows_shown(after))) <= 30


def test_the_bar_of_an_estimator_shows_the_loss(tmp_path):
    program = (
        "from minidl.estimators import MLPClassifier; from sklearn.datasets import load_iris\n"
        "MLPClassifier(max_iter=3, progress=True, tol=0).fit(*load_iris(return_X_y=True))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    code, written = in_terminal(60, command, cwd=tmp_path)
    rows = rows_shown(written)
    assert code == 0 and max(map(len, rows)) <= 60
    assert any(re.match(r"loss \d+\.\d+: 100%\|.*3/3 epochs", row) for row in rows)
