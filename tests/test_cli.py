"""The command line, as a user meets it: what it prints, what it leaves, with which exit code."""

import argparse
import ctypes
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import cli, load
from minidl.commands import train as train_command
from minidl.config import document
from minidl.errors import DataError
from minidl.layers import Linear

ROOT = Path(__file__).parent.parent
TEXT = """\
data: {name: iris}
model: [linear: 8, relu, linear: auto]
train:
  epochs: 3
  batch_size: 32
  optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.9}
  checkpoint_every: {steps: 2}
"""


def files():
    return sorted(str(path) for path in Path().rglob("*"))


def refused(result, code=2):
    """The message of an expected failure: a few plain lines on stderr, and nothing else."""
    found, out, err = result
    assert found == code, err
    assert out == "" and "Traceback" not in err
    assert 1 <= len(err.splitlines()) <= 6
    return err


# --- a run


def test_a_run_prints_an_epoch_a_line_and_leaves_its_folder(minidl):
    code, out, err = minidl("train config.yaml --out run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(
        r"epoch 1/3  train loss \S+ accuracy \S+  validation loss \S+ accuracy \S+  \S+ m?s",
        lines[0],
    )
    assert [line.split()[1] for line in lines[:3]] == ["1/3", "2/3", "3/3"]
    assert re.fullmatch(r"test loss 0\.\d{4} accuracy [01]\.\d{4}", lines[3])
    assert lines[4] == "run folder: run"
    assert sorted(os.listdir("run")) == [
        *("checkpoints", "config.yaml", "lock", "metrics.csv", "model.npz", "results.json"),
        "run.json",
    ]
    results = json.loads(Path("run/results.json").read_text())
    assert {"dataset", "n_parameters", "epochs", "best_epoch", "train_seconds"} <= set(results)
    assert json.loads(Path("run/run.json").read_text())["status"] == "finished"
    assert load("run/model.npz").predict(np.array([[5.1, 3.5, 1.4, 0.2]])).shape == (1,)


def test_the_default_folder_has_the_configs_name(minidl):
    assert minidl("train config.yaml --quiet") == (0, "", "")
    (folder,) = Path("runs/config").iterdir()
    assert (folder / "model.npz").exists()


def test_equal_runs_give_equal_models(minidl):
    for i in range(10):
        assert minidl(f"train config.yaml train.epochs=1 --quiet --out {i}")[0] == 0
    assert len({Path(f"{i}/model.npz").read_bytes() for i in range(10)}) == 1


@pytest.mark.parametrize(
    "command",
    [
        "train seed=5 config.yaml --out run train.epochs=1",
        "train --out run seed=5 train.epochs=1 config.yaml",
        "train config.yaml --quiet seed=5 --out run train.epochs=1",
    ],
)
def test_overrides_may_stand_anywhere(minidl, command):
    assert minidl(command)[0] == 0
    text = Path("run/config.yaml").read_text()
    assert "seed: 5" in text and "epochs: 1\n" in text


def test_nothing_is_said_of_a_test_part_that_is_not_there(minidl):
    code, out, _ = minidl("train config.yaml data.test=0 --out run")
    assert code == 0 and "no test part was set aside" in out


def test_a_path_with_an_equals_sign_is_no_override(minidl):
    Path("a=b").mkdir()
    Path("a=b/config.yaml").write_text(TEXT)
    Path("lr=0.1.yaml").write_text(TEXT)
    for i, config in enumerate(("a=b/config.yaml", "./a=b/config.yaml", "lr=0.1.yaml")):
        command = f"train {config} train.epochs=1 --quiet --out a=b/{i}"
        assert minidl(command) == (0, "", "")
    assert minidl("train --resume a=b/0")[1].startswith("the run in a=b/0 is finished")
    assert "override 'a.b=c'" in minidl("train config.yaml a.b=c")[2]


def test_a_config_comes_from_standard_input(minidl, monkeypatch, tmp_path):
    given = io.TextIOWrapper(io.BytesIO(TEXT.encode()))
    monkeypatch.setattr(sys, "stdin", given)
    document.standard_input.cache_clear()
    assert minidl("train - train.epochs=1 --quiet") == (0, "", "")
    assert minidl("train --out run --quiet -") == (0, "", "")
    (folder,) = Path("runs/run").iterdir()
    assert (folder / "model.npz").exists() and Path("run/model.npz").exists()
    for content, said in ((b"seed: [", "standard input:1:8"), (b"x" * 70_000, "at most 65536")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        document.standard_input.cache_clear()
        assert said in refused(minidl("train -"))
    document.standard_input.cache_clear()


def test_column_names_cannot_control_the_terminal(minidl):
    Path("t.csv").write_text("a\x1b]0;x\x07,y\n1,2\n")
    Path("config.yaml").write_text(
        "data: {name: csv, path: t.csv, target: z, task: regression}\nmodel: [linear: auto]\n"
    )
    code, out, err = minidl("train config.yaml")
    assert code in (2, 3) and out == "" and "\x1b" not in err and "\x07" not in err


@pytest.mark.parametrize("every, named", [(20, True), (2, False)])
def test_the_verdict_names_the_balanced_accuracy_of_uneven_classes(minidl, every, named):
    rows = "".join(f"{i},{i % 7},{'no' if i % every else 'yes'}\n" for i in range(200))
    Path("t.csv").write_text("a,b,y\n" + rows)
    Path("config.yaml").write_text(
        TEXT.replace("{name: iris}", "{name: csv, path: t.csv, target: y, columns: {a: number}}")
    )
    code, out, _ = minidl("train config.yaml data.preprocessing=smooth_clip --out run")
    (verdict,) = (line for line in out.splitlines() if line.startswith("test "))
    assert code == 0 and ("balanced_accuracy" in verdict) == named and " accuracy " in verdict
    results = json.loads(Path("run/results.json").read_text())
    recalls = [row[i] / sum(row) for i, row in enumerate(results["confusion_matrix"])]
    assert results["test_balanced_accuracy"] == pytest.approx(np.mean(recalls))


# --- instead of a run


def test_the_printed_config_trains_the_same_run(minidl):
    code, out, err = minidl("train config.yaml seed=4 --print-config")
    assert (code, err, files()) == (0, "", ["config.yaml"])
    Path("printed.yaml").write_text(out)
    for name in ("config.yaml seed=4 --out a", "printed.yaml --out b"):
        assert minidl(f"train {name}")[0] == 0
    assert Path("a/model.npz").read_bytes() == Path("b/model.npz").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        "seed=4 --print-config config.yaml",
        "--print-config seed=4 -- config.yaml",
        "config.yaml --out run --print-config -- seed=4",
    ],
)
def test_options_and_other_arguments_come_in_any_order(minidl, arguments):
    expected = minidl("train config.yaml seed=4 --print-config")
    assert expected[0] == 0 and minidl(f"train {arguments}") == expected


def test_the_schema_needs_no_config(minidl):
    code, out, _ = minidl("train --print-schema")
    assert code == 0 and json.loads(out) == json.loads(
        Path(cli.__file__).with_name("config.schema.json").read_text()
    )


def test_the_summary_is_a_table_of_the_layers(minidl):
    code, out, _ = minidl("train config.yaml --summary")
    assert code == 0 and files() == ["config.yaml"]
    assert re.search(r"0 Linear +\(n, 8\) +40 +32\n", out) and "total" in out


@pytest.mark.parametrize("command", ["train config.yaml --check", "gradcheck config.yaml"])
def test_the_check_builds_everything_and_trains_nothing(minidl, monkeypatch, command):
    code, out, err = minidl(command)
    assert (code, err, files()) == (0, "", ["config.yaml"])
    assert "0 Linear" in out and "pass" in out and "FAIL" not in out
    backward = Linear.backward

    def wrong(self, dy, need_dx=True):
        dx = backward(self, dy, need_dx)
        self.dW[0, 0] += 0.01
        return dx

    monkeypatch.setattr(Linear, "backward", wrong)
    code, out, err = minidl(command)
    assert code == 1 and "FAIL" in out and err == "the gradient check failed\n"


def test_the_version_is_told(minidl):
    code, out, _ = minidl("--version")
    assert code == 0
    assert re.fullmatch(
        r"minidl \d+\.\d+\.\d+ \(NumPy \S+, BLAS \S+ \S+, kernels: \w+, Python \S+\)\n", out
    )


def test_without_arguments_the_commands_are_listed(minidl):
    code, out, err = minidl("")
    assert (code, err) == (0, "") and minidl("--help")[1] == out
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", out, flags=re.MULTILINE)
    assert "exit codes:" in out and max(map(len, out.splitlines())) < 80


@pytest.mark.parametrize("command", ["--help", "train --help", "gradcheck --help"])
def test_there_is_help(minidl, command):
    code, out, _ = minidl(command)
    assert code == 0 and out.startswith("usage: minidl")


# --- bad input: exit code 2 or 3, a few clear lines, nothing written


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"a: [1", "config.yaml:1:6: not valid YAML"),
        (b"- 1\n- 2\n", "map"),
        (b"[" * 1000, "deep"),
        (b"x" * 10 * 2**20, "at most 65536"),
        (bytes(range(256)) * 10, "UTF-8"),
        (b"a: &x 1\nb: *x\n", "anchor"),
        (b"data: iris\ndata: wine\n", "data"),
        ("directory", "is a folder"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config(minidl, content, said):
    Path("config.yaml").unlink()
    if content == "directory":
        Path("config.yaml").mkdir()
    elif content is not None:
        Path("config.yaml").write_bytes(content)
    before = files()
    message = refused(minidl("train config.yaml"))
    assert said.lower() in message.lower() and "config.yaml" in message
    assert files() == before


@pytest.mark.parametrize(
    "override, said",
    [
        ("trian.epochs=3", "did you mean 'train'?"),
        ("train.optimizer.momentun=0.9", "did you mean 'momentum'?"),
        ("model.0.linear.sise=3", "model.0.linear.sise"),
        ("train.epochs=many", "train.epochs: expected a whole number, got 'many'"),
        ("train.epochs=0", "train.epochs: expected a number >= 1"),
        ("train.batch_size=0", "train.batch_size: expected a number >= 1"),
        ("train.optimizer.learning_rate=-1", "learning_rate: must be positive, got -1"),
        ("train.optimizer.learning_rate=.nan", "learning_rate: expected a finite number"),
        ("train.clip_grad_norm=.inf", "clip_grad_norm"),
        ("'model.1={dropout: 1}'", "must be in [0, 1), got 1"),
        ("'train.optimizer={name: adam, momentum: 0.9}'", "momentum: unknown key"),
        ("'model=[linear: 8, {residual: [linear: 5]}, linear: auto]'", "model.1"),
        ("'model=[linear: 8, relu, linear: 4]'", "the model has 4 outputs, but iris with"),
        ("data.name=irish", "did you mean 'iris'?"),
        ("data.validation=0.9", "nothing is left for training"),
        ("'data={name: mnist, path: nowhere.npz}'", "nowhere.npz: no such file"),
        ("'model=[linear: 100000000000, linear: auto]'", "this machine has"),
    ],
)
def test_settings_that_are_wrong(minidl, override, said):
    data = "nothing is left" in said or "no such file" in said
    message = refused(minidl(f"train config.yaml {override}"), code=3 if data else 2)
    assert said in message
    assert files() == ["config.yaml"]


def test_all_that_is_wrong_comes_at_once_each_with_its_place(minidl):
    Path("config.yaml").write_text(TEXT.replace("epochs: 3", "epochs: 0\n  sead: 1"))
    message = refused(minidl("train config.yaml"))
    assert "config.yaml:4:11: train.epochs" in message
    assert "config.yaml:5:3: train.sead: unknown key" in message


@pytest.mark.parametrize(
    "command, said",
    [
        ("train", "give one config file, got none"),
        ("train config.yaml other.yaml", "give one config file, got 2: config.yaml, other.yaml"),
        ("train config.yaml --fast", "unrecognized arguments"),
        ("trian config.yaml", "no command 'trian'; did you mean 'train'?"),
        ("dance", "no command 'dance'; the commands are init, convert"),
        ("train config.yaml --out", "--out: expected one argument; see minidl train --help"),
        ("train --resume nowhere", "nowhere: no such run folder"),
        ("train --resume latest", "no run to resume in runs"),
        ("train --resume latest config.yaml", "no run to resume in runs/config"),
        ("train --resume x --out y", "--out is for a new run"),
        ("train --resume x --check", "--check trains nothing"),
        ("train --resume x --print-config", "--print-config trains nothing"),
        ("train --resume x --summary", "give --summary the run's config.yaml instead"),
        ("train config.yaml --out config.yaml", "config.yaml: cannot be used as output folder"),
        ("train config.yaml --out .", "the output folder is not empty; choose another\n"),
        ("train config.yaml --out /proc/x", "/proc/x: cannot be used as output folder"),
    ],
)
def test_arguments_that_are_wrong(minidl, command, said):
    message = refused(minidl(command))
    assert said in message
    assert files() == ["config.yaml"]


def test_an_interrupt_while_arguments_are_read(minidl, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", interrupted)
    assert minidl("train config.yaml") == (128 + signal.SIGINT, "", "interrupted\n")


def test_memory_that_is_not_there(minidl, monkeypatch):
    def build(*_):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(train_command, "build_together", build)
    assert refused(minidl("train config.yaml")) == "not enough memory: Unable to allocate 3 TiB\n"


def test_the_fallback_is_announced_and_named_in_the_results(minidl, monkeypatch):
    def fetch(*asked):
        raise DataError("no answer")

    monkeypatch.setattr("minidl.data.downloads.fetch", fetch)
    for name in ("MINIDL_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, os.path.abspath("nowhere"))
    Path("mnist.yaml").write_text(TEXT.replace("iris", "mnist, fallback: config.yaml"))
    assert minidl("train mnist.yaml --out given data.path=gone.npz")[0] == 3
    code, _, err = minidl("train mnist.yaml --out run")
    assert code == 0 and "mnist is not available" in err and "on iris" in err
    assert json.loads(Path("run/results.json").read_text())["dataset"] == "iris"
    assert minidl("train run/config.yaml --out again --quiet") == (0, "", "")
    assert Path("again/model.npz").read_bytes() == Path("run/model.npz").read_bytes()


def set_effective_capabilities(change):
    """Replace this thread's effective capabilities of Linux by change(what they are)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, and their upper halves
    assert libc.capget(header, sets) == 0
    sets[0] = change(sets[0])
    assert libc.capset(header, sets) == 0


@pytest.fixture
def private():
    """A folder that this process cannot read."""
    Path("private").mkdir(mode=0)
    if os.getuid() != 0:
        yield
        return
    reads_everything = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of root
    set_effective_capabilities(lambda now: now & ~reads_everything)
    yield
    set_effective_capabilities(lambda now: now | reads_everything)


@pytest.mark.parametrize(
    "command, said",
    [
        ("train --resume private/run", "private/run: cannot be read: Permission denied"),
        ("train --resume private", "private: cannot be read: Permission denied"),
        ("train private/c.yaml", "private/c.yaml: Permission denied"),
        ("train config.yaml --out private/x", "private/x: cannot be used as output folder"),
        ("sweep config.yaml --out private/x", "private/x: cannot be"),
        ("sweep config.yaml --out private", "private: cannot be"),
        ("predict private/run", "cannot read private/run: Permission denied"),
        ("export private/run", "cannot read private/run: Permission denied"),
        ("report private/run", "private/run: cannot be read: Permission denied"),
        ("compare private/run", "private/run: not the folder of a finished run"),
        ("init private/t.csv --target y", "private/t.csv: Permission denied"),
        ("configs --copy iris --out private/x", "cannot write private/x: Permission denied"),
        (f"train --resume {'x' * 300}", "File name too long"),
        (f"train config.yaml --out {'x' * 300}", "File name too long"),
        (f"sweep config.yaml --out {'x' * 300}", "File name too long"),
    ],
)
def test_a_place_that_cannot_be_read_is_said_in_a_line(minidl, private, command, said):
    codes = {"predict": 5, "export": 5, "configs": 5, "init": 3}
    message = refused(minidl(command), codes.get(command.split()[0], 2))
    assert said in message and len(message.splitlines()) == 1


# --- stopped and gone on


@pytest.fixture
def stopped(minidl, monkeypatch):
    """A run stopped by SIGTERM in its fifth step, in the folder `run`; what it said."""
    step = train_command.Run.steps

    def steps(self):
        for i, epoch in enumerate(step(self), 1):
            if i == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield epoch

    monkeypatch.setattr(train_command.Run, "steps", steps)
    result = minidl("train config.yaml --out run")
    monkeypatch.setattr(train_command.Run, "steps", step)
    return result


def test_a_signal_ends_the_run_with_the_command_that_goes_on(minidl, stopped):
    code, _, err = stopped
    assert code == 143
    assert re.match(r"stopped by SIGTERM after step [56]; go on with the run by\n", err)
    assert err.splitlines()[-1] == "  /usr/bin/minidl train --resume run"
    assert json.loads(Path("run/run.json").read_text())["status"] == "interrupted"
    assert minidl("train config.yaml --out whole --quiet")[0] == 0
    code, out, err = minidl("train --resume run")
    assert code == 0 and err == ""
    assert out.startswith("epoch 2/3") and "run folder: run" in out
    assert Path("run/model.npz").read_bytes() == Path("whole/model.npz").read_bytes()


def test_a_signal_after_the_last_step_ends_the_command_and_not_the_run(minidl, monkeypatch):
    finish = train_command.Run.finish

    def signalled(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(self)

    monkeypatch.setattr(train_command.Run, "finish", signalled)
    code, _, err = minidl("train config.yaml --out run")
    assert code == 143
    assert err == "stopped by SIGTERM after the last step; the run in run is finished\n"
    assert json.loads(Path("run/run.json").read_text())["status"] == "finished"
    assert "is finished" in minidl("train --resume run")[1]


def test_ctrl_c_while_the_report_is_written_ends_the_command(minidl, monkeypatch):
    def report(run):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train_command, "_write_report", report)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code, out, err = minidl("train config.yaml --out run")
    assert (code, err) == (130, "interrupted\n") and "test loss" in out
    assert json.loads(Path("run/run.json").read_text())["status"] == "finished"


def test_a_finished_run_says_so(minidl):
    minidl("train config.yaml --out run")
    for command in ("train --resume run", "train --resume run config.yaml"):
        code, out, err = minidl(command)
        assert (code, err) == (0, "")
        assert out == "the run in run is finished; its model is run/model.npz\n"


@pytest.mark.parametrize("name", ["model.npz", "results.json"])
def test_what_a_finished_run_lost_is_made_again(minidl, name):
    minidl("train config.yaml --out run")
    lost = Path("run", name)

    def content():
        return re.sub(rb'"train_seconds": [\d.]+', b"", lost.read_bytes())

    before = content()
    lost.unlink()
    code, out, err = minidl("train --resume run")
    assert (code, err) == (0, "") and "run folder: run" in out and "epoch" not in out
    assert content() == before


def test_the_latest_run_is_gone_on_with(minidl):
    minidl("train config.yaml --quiet")
    (folder,) = Path("runs/config").iterdir()
    for command in ("train --resume latest", "train config.yaml --resume latest"):
        assert minidl(command)[1].startswith(f"the run in {folder} is finished")


def test_more_epochs_are_given_as_an_override(minidl):
    minidl("train config.yaml --out run")
    code, out, _ = minidl("train --resume run train.epochs=4")
    assert code == 0 and out.startswith("epoch 4/4")
    assert "train.epochs: can be raised, not lowered from 4 to 2" in refused(
        minidl("train --resume run train.epochs=2")
    )


def test_automatic_choices_stay_those_of_the_run(minidl):
    minidl("train config.yaml train.shards=2 --out run")
    assert "is finished" in minidl("train --resume run config.yaml")[1]
    assert "train.shards: 2 when the run was begun, 3 now" in refused(
        minidl("train --resume run config.yaml train.shards=3")
    )


def test_what_differs_is_shown(minidl, stopped):
    message = refused(minidl("train --resume run config.yaml seed=1 train.batch_size=8"))
    assert "seed: 0 when the run was begun, 1 now" in message
    assert "train.batch_size: 32 when the run was begun, 8 now" in message


def test_a_run_that_has_not_begun_starts_over(minidl):
    Path("run").mkdir()
    Path("run/lock").touch()
    message = refused(minidl("train --resume run"))
    assert message == "run holds no config.yaml yet: name the config to begin with\n"
    code, _, err = minidl("train --resume run config.yaml")
    assert code == 0 and err == "run has no checkpoint yet: starting it over\n"
    assert Path("run/model.npz").exists()


def test_damaged_checkpoints_are_told(minidl, stopped):
    last, previous = Path("run/checkpoints/last.npz"), Path("run/checkpoints/previous.npz")
    last.write_bytes(last.read_bytes()[:-100])
    before = previous.read_bytes()
    previous.write_bytes(b"")
    assert str(last) in refused(minidl("train --resume run"), code=5)
    previous.write_bytes(before)
    code, _, err = minidl("train --resume run")
    assert code == 0 and str(last) in err and "going on from" in err


def test_divergence_is_told_in_a_line(minidl):
    message = refused_after_start(
        minidl("train config.yaml train.optimizer.learning_rate=1e30 --out run")
    )
    assert re.match(
        r"training diverged in epoch 1, step \d+ \(learning rate 1e\+30, loss \S+\): it began in "
        r".*layer \d \(\w+\); try a smaller learning_rate, a warmup, or clip_grad_norm\n$",
        message,
    )
    assert json.loads(Path("run/run.json").read_text())["status"] == "diverged"
    assert not Path("run/model.npz").exists()


def refused_after_start(result):
    code, _, err = result
    assert code == 4 and len(err.splitlines()) == 1
    return err


# --- as a process


def process(*arguments, **options):
    command = [sys.executable, str(ROOT / "scripts/train.py"), *arguments]
    return piped(command, **options)


def piped(command, **options):
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_the_script_trains_and_stops_at_a_signal_with_a_command_that_works(tmp_path):
    text = TEXT.replace("epochs: 3", "epochs: 100000").replace("iris", "digits")
    (tmp_path / "config.yaml").write_text(text)
    with process("config.yaml", "--out", "a run", cwd=tmp_path) as running:
        assert running.stdout.readline().startswith("epoch 1/100000")
        with process("--resume", "a run", cwd=tmp_path) as second:
            _, err = second.communicate()
        assert second.returncode == 2
        assert f"process {running.pid} is training in this folder" in err
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate()
    assert running.returncode == 143, err
    command = err.splitlines()[-1].strip()
    assert command.endswith("train.py --resume 'a run'")
    with piped(shlex.split(command), cwd=tmp_path) as again:
        line = again.stdout.readline()
        again.kill()
    assert line.startswith("epoch ") and not line.startswith("epoch 1/")


def test_an_expected_failure_of_the_script_has_no_traceback(tmp_path):
    with process("missing.yaml", cwd=tmp_path) as failed:
        out, err = failed.communicate()
    assert (failed.returncode, out) == (2, "")
    assert err.startswith("missing.yaml: ") and len(err.splitlines()) == 1
