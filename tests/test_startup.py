"""The command line from its first moment: Ctrl-C, closed streams, the ways to start it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from minidl import startup

ROOT = Path(__file__).parent.parent
# Without scikit-learn and matplotlib, whose imports take most of the time of a short run.
TEXT = """\
data: {name: digits}
model: [linear: 8, relu, linear: auto]
train: {epochs: 2, batch_size: 32, checkpoint_every: {seconds: 9999}}
output: {report: false}
"""
# A library whose import waits: it says so, and then reads what never comes.
WAITING = "import sys; sys.stdout.write('importing\\n'); sys.stdout.flush(); sys.stdin.read()\n"
PROGRAM = "import sys\nfrom minidl.cli import main\nsys.exit(main())\n"


def usual_interrupt():
    """A shell starts background jobs with SIGINT ignored; the tests may be one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def begin(tmp_path):
    """Start a process in an empty folder with config.yaml; SIGINT has its usual effect there."""
    (tmp_path / "config.yaml").write_text(TEXT)
    (tmp_path / "minidl").write_text(PROGRAM)

    def begin(command, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options = pipes | {"preexec_fn": usual_interrupt} | options
        path = os.pathsep.join([*map(str, options.pop("path", [])), str(ROOT)])
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            **options,
        )

    return begin


def minidl(*arguments):
    return [sys.executable, "-m", "minidl", *arguments]


STARTED_AS = {
    "module": minidl("train", "config.yaml"),
    "cli": [sys.executable, "-m", "minidl.cli", "train", "config.yaml"],
    "program": [sys.executable, "minidl", "train", "config.yaml"],
    "script": [sys.executable, str(ROOT / "scripts/train.py"), "config.yaml"],
}


@pytest.mark.parametrize(
    "command, library",
    [
        *((command, "numpy") for command in STARTED_AS.values()),
        (STARTED_AS["module"], "pydantic"),
        ([*STARTED_AS["module"], "data.name=iris"], "sklearn"),
    ],
)
def test_ctrl_c_during_the_imports_is_quiet(begin, tmp_path, command, library):
    if command is STARTED_AS["script"] and startup.SCRIPT != command[1]:
        pytest.skip("the script belongs to another copy of the package")
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / f"{library}.py").write_text(WAITING)
    with begin(command, path=[tmp_path / "waiting"], stdin=subprocess.PIPE) as running:
        assert running.stdout.readline() == "importing\n"
        running.send_signal(signal.SIGINT)
        running.wait()
        assert (running.returncode, running.stdout.read(), running.stderr.read()) == (130, "", "")


@pytest.mark.parametrize("command", STARTED_AS.values(), ids=STARTED_AS)
def test_every_way_to_start_it_trains(begin, tmp_path, command):
    with begin([*command, "--out", "run"]) as done:
        out, err = done.communicate()
    assert (done.returncode, err) == (0, "") and "run folder: run" in out
    assert (tmp_path / "run/model.npz").exists()


def test_a_program_that_imports_the_library_keeps_its_ctrl_c(begin):
    code = "import signal, minidl; print(signal.getsignal(signal.SIGINT) is %s)"
    with begin([sys.executable, "-c", code % "signal.default_int_handler"]) as done:
        assert done.communicate() == ("True\n", "")


def is_stopped_with_a_checkpoint(run):
    status = json.loads((run / "run.json").read_text())["status"]
    return status == "interrupted" and (run / "checkpoints/last.npz").exists()


ENDLESS = ("train", "config.yaml", "train.epochs=1000000", "--out", "run")


def lead_session():
    """Make standard input the controlling terminal of a new session."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("times", [0, 2])
def test_a_terminal_that_is_closed_leaves_a_checkpoint(tmp_path, begin, times):
    """The kernel sends SIGHUP, a shell may send another, and nothing can be written any more."""
    outer, inner = os.openpty()
    with begin(
        minidl(*ENDLESS), stdin=inner, stdout=inner, stderr=inner, preexec_fn=lead_session
    ) as running:
        os.close(inner)
        written = b""
        while b"epoch 2/" not in written:
            written += os.read(outer, 4096)
        os.close(outer)
        for _ in range(times):
            running.send_signal(signal.SIGHUP)
    assert running.returncode == 129
    assert is_stopped_with_a_checkpoint(tmp_path / "run")


def test_a_full_output_leaves_a_checkpoint_and_says_why(begin, tmp_path):
    with open("/dev/full", "w") as full, begin(minidl(*ENDLESS), stdout=full) as running:
        _, err = running.communicate()
    assert running.returncode == 5
    first, second = err.splitlines()
    assert first.startswith("standard output cannot be written: No space left on device; go on")
    assert second == "  python -m minidl train --resume run" or second.endswith("--resume run")
    assert is_stopped_with_a_checkpoint(tmp_path / "run")


def test_a_reader_that_leaves_finds_a_checkpoint(begin, tmp_path):
    with begin(minidl(*ENDLESS)) as running:
        running.stdout.readline()
        running.stdout.close()
        err = running.stderr.read()
    assert (running.returncode, err) == (141, "")
    assert is_stopped_with_a_checkpoint(tmp_path / "run")


def test_an_output_that_is_full_at_the_end_loses_no_result(begin, tmp_path):
    command = minidl("train", "config.yaml", "train.epochs=1", "--out", "run")
    with open("/dev/full", "w") as full, begin(command, stdout=full) as running:
        _, err = running.communicate()
    assert running.returncode == 5
    assert err == "standard output cannot be written: No space left on device\n"
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
    assert (tmp_path / "run/model.npz").exists()


@pytest.mark.parametrize(
    "closed, config, code",
    [
        ("2>&-", "config.yaml", 0),
        ("<&- >&- 2>&-", "config.yaml", 0),
        ("2>&-", "gone.yaml", 2),
        (">&-", "gone.yaml", 2),
        ("2>/dev/full", "gone.yaml", 2),
    ],
)
def test_closed_streams_change_no_status(begin, tmp_path, closed, config, code):
    command = " ".join([*minidl("train", config, "--out", "run"), closed])
    with begin(["sh", "-c", command]) as done:
        out, err = done.communicate()
    assert done.returncode == code
    assert ("run folder: run" in out) == (code == 0 and not closed.startswith((">", "<")))
    assert err == "" or (code == 2 and closed == ">&-")
    assert (tmp_path / "run/model.npz").exists() == (code == 0)


def test_a_help_that_nobody_reads_is_no_failure_of_python(begin):
    with begin(["sh", "-c", f"{' '.join(minidl('train', '--print-schema'))} | true"]) as done:
        assert done.communicate() == ("", "")


FIRST_STEP = """
import os, sys
from minidl.cli import main
from minidl.training import Training

def first(self):
    step(self)
    print(*{name.split(".")[0] for name in sys.modules}, flush=True)
    os._exit(0)

step, Training.step = Training.step, first
main(["train", "digits", "--quiet", "--out", sys.argv[1]])
"""


def test_the_first_step_of_digits_waits_for_no_slow_import(tmp_path):
    run = [sys.executable, "-c", FIRST_STEP, str(tmp_path / "run")]
    imported = set(subprocess.check_output(run, text=True).split())
    assert "minidl" in imported and not imported & {"sklearn", "scipy", "pandas", "matplotlib"}


@pytest.mark.parametrize("arguments", [["--version"], ["configs"], ["predict", "--help"]])
def test_short_commands_wait_for_no_import_that_they_do_not_use(arguments):
    program = f"import sys; from minidl import cli; cli.main({arguments}); print(*sys.modules)"
    out = subprocess.check_output([sys.executable, "-c", program], text=True)
    imported = {name.split(".")[0] for name in out.splitlines()[-1].split()}
    assert "minidl" in imported and not imported & {"tqdm", "pydantic", "sklearn", "scipy"}
