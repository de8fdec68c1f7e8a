"""Sweeps: what is trained, how it is compared, and what a second command finds done."""

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from minidl.commands.sweep import outcome_line
from minidl.commands.train import train
from minidl.config import load_config
from minidl.errors import ConfigError, DataError, MinidlError
from minidl.runs import sweep as sweep_room
from minidl.runs.comparison import SweepRun, best_first, csv_text, spreads, table, unfinished
from minidl.runs.folder import RunFolder
from minidl.runs.sweep import plan, split_values

TEXT = """\
data: {name: iris, validation: 0.2}
model: [linear: 8, relu, linear: auto]
train:
  epochs: 2
  batch_size: 32
  optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.9}
"""


def here_and_now(folder):
    """Do in this process what the process of a run would do."""
    try:
        return train(["--quiet", "--resume", str(folder.path)]), []
    except MinidlError as error:
        return error.exit_code, str(error).splitlines()


@pytest.fixture
def here(monkeypatch):
    """No processes; gives the names of the runs that were begun."""
    started = []

    def begin(folder, stop):
        started.append(folder.path.name)
        return here_and_now(folder)

    monkeypatch.setattr(sweep_room, "train_in_process", begin)
    monkeypatch.setattr(sweep_room, "PAUSE", 0.001)
    return started


def rows_of(text):
    """The table as lists of cells, without the header."""
    return [re.split(r"  +", line) for line in text.splitlines()[1:]]


# --- from arguments to runs


@pytest.mark.parametrize(
    "text, values",
    [
        ("3", ["3"]),
        ("0.1, 0.3,1e-3", ["0.1", "0.3", "1e-3"]),
        ("", [""]),
        (",1.0", [",1.0"]),
        ("[a,b],[c]", ["[a,b]", "[c]"]),
        ("{name: sgd, learning_rate: 0.1}, adam", ["{name: sgd, learning_rate: 0.1}", "adam"]),
        ("[{a: [1,2]},3],{b: 4}", ["[{a: [1,2]},3]", "{b: 4}"]),
        ("'a,b',\"c,]\",d", ["'a,b'", '"c,]"', "d"]),
        ("{a: 'x},'},b", ["{a: 'x},'}", "b"]),
        ("it's,that's", ["it's", "that's"]),
        ("a],b", ["a],b"]),
        ("[a,b", ["[a,b"]),
    ],
)
def test_values_are_split_at_commas_outside_brackets_and_quotes(text, values):
    assert split_values(text) == values


@pytest.fixture
def planned(tmp_path):
    (tmp_path / "config.yaml").write_text(TEXT)

    def planned(*arguments, n_seeds=1, text=TEXT):
        (tmp_path / "config.yaml").write_text(text)
        return plan(tmp_path / "config.yaml", arguments, n_seeds=n_seeds)

    return planned


def test_runs_are_every_combination_with_every_seed(planned):
    sweep = planned("model.1=relu,tanh", "train.epochs=1", "train.batch_size=8,16", n_seeds=2)
    found = [
        (run.config.model[1].name, run.config.train.batch_size, run.config.seed)
        for run in sweep.runs
    ]
    assert found == [
        *[("relu", 8, 0), ("relu", 16, 0), ("tanh", 8, 0), ("tanh", 16, 0)],
        *[("relu", 8, 1), ("relu", 16, 1), ("tanh", 8, 1), ("tanh", 16, 1)],
    ]
    assert {run.config.train.epochs for run in sweep.runs} == {1}
    assert sweep.runs[1].title() == "model.1=relu train.batch_size=16 seed=0"
    assert sweep.runs[1].folder == "model.1-relu_train.batch_size-16_seed-0"
    assert [run.config.seed for run in sweep.settings[2]] == [0, 1]


def test_seeds_begin_with_the_configs_own(planned):
    assert [run.config.seed for run in planned("seed=7", n_seeds=3).runs] == [7, 8, 9]
    assert [run.folder for run in planned(n_seeds=2).runs] == ["seed-0", "seed-1"]


def test_every_run_has_one_thread_and_all_automatic_choices_made(planned):
    (run,) = planned(text=TEXT + "  blas_threads: 4\n").runs
    train = run.config.train
    assert (train.blas_threads, train.shards) == (1, 1)
    assert run.config.model[-1].n_out == 3


def test_a_folders_name_can_be_written_anywhere_and_is_no_other_runs(planned):
    values = ["{name: sgd,learning_rate: 0.1}", "{name: sgd, learning_rate: 0.1}"]
    sweep = planned(f"train.optimizer={','.join(values)}")
    names = [run.folder for run in sweep.runs]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name) for name in names)
    layers = ["[linear: 9" + ", relu" * n + ", linear: auto]" for n in (50, 51)]
    names = [run.folder for run in planned(f"model={','.join(layers)}").runs]
    assert len(set(names)) == 2 and max(map(len, names)) < 200


def test_a_folders_name_depends_on_no_other_setting(planned):
    some, more = (
        {run.folder for run in planned(f"train.batch_size={values}").runs}
        for values in ("8,16", "4,16,8")
    )
    assert some < more


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train.epoch=1"], ["did you mean 'epochs'?"]),
        (["train.epochs=1,x", "model.1=tahn,relu"], ["did you mean 'tanh'?", "got 'x'"]),
        (["train.epochs=1,0", "train.batch_size=1,2"], ["expected a number >= 1"]),
        (["model=[linear: 4],[linear: 5]"], ["has 4 outputs", "has 5 outputs"]),
        (["train.epochs=1", "train.epochs=2"], ["train.epochs is set twice"]),
        (["train.epochs=1,1"], ["a value is given twice"]),
        (["seed=1,2"], ["give the first seed, and how many by --seeds"]),
        (["train.blas_threads=2"], ["each run of a sweep has one thread; use --jobs"]),
        (["data.validation=0.2,0"], ["data.validation: settings are chosen on validation data"]),
    ],
)
def test_all_that_is_wrong_is_said_once_and_before_anything_is_trained(planned, arguments, said):
    with pytest.raises(ConfigError) as caught:
        planned(*arguments, n_seeds=3)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


def test_more_runs_than_anybody_waits_for_are_refused_at_once(planned):
    many = ",".join(map(str, range(1, 101)))
    with pytest.raises(ConfigError, match=r"these are 20000000000 runs; .* at most 10000"):
        keys = ("train.epochs", "train.batch_size", "model.0.linear", "train.clip_grad_norm")
        planned(*(f"{key}={many}" for key in keys), n_seeds=200)


def test_a_finished_run_without_its_best_epoch_is_told(minidl, here):
    minidl("sweep config.yaml --seeds 1 --out o")
    Path("o/seed-0/metrics.csv").unlink()
    code, _, err = minidl("sweep config.yaml --seeds 1 --out o")
    assert code == 5 and "failed: o/seed-0: its results cannot be read: " in err


def test_other_data_are_never_taken_instead(planned):
    text = TEXT.replace("iris", "mnist, path: gone.npz, fallback: config.yaml")
    with pytest.raises(DataError, match=r"gone\.npz: no such file"):
        planned(text=text)


def test_settings_that_no_figure_compares_are_refused(planned):
    with pytest.raises(ConfigError, match=r"differ in train.monitor, by which they are compared"):
        planned("train.monitor=loss,accuracy")
    differing = "loss.label_smoothing=0,0.1"
    with pytest.raises(ConfigError, match=r"differ in the loss.*; set train.monitor to accuracy"):
        planned(differing)
    assert planned(differing, "train.monitor=accuracy").config.train.monitor == "accuracy"


# --- the comparison


def done(loss, accuracy=0.5, seconds=1.0, test=0.0):
    figures = {"validation_loss": loss, "validation_accuracy": accuracy}
    return 0, "", (), figures | {"test_loss": test, "train_seconds": seconds}


DIVERGED = 4, "training diverged in epoch 1"


def compared(by, *outcomes):
    settings = [
        [SweepRun({"k": str(i)}, None, *outcome) for outcome in each]
        for i, each in enumerate(outcomes)
    ]
    return best_first(settings, by)


def order(settings):
    return [setting[0].values["k"] for setting in settings]


def test_the_best_stands_first():
    outcomes = [[done(0.3, 0.8), done(0.5, 0.9)], [done(0.2, 0.7), done(0.4, 0.6)]]
    assert order(compared("loss", *outcomes)) == ["1", "0"]
    assert order(compared("accuracy", *outcomes)) == ["0", "1"]


def test_the_test_figures_have_no_part_in_the_order():
    settings = compared("loss", [done(0.2, test=9.0)], [done(0.3, test=0.1)])
    assert order(settings) == ["0", "1"]
    text = table(settings) + csv_text(settings)
    assert "9.0" not in text and "test" not in text
    assert "test_loss" not in spreads(settings[0])


def test_what_did_not_finish_stands_last_with_its_reason():
    nan = float("nan")
    settings = compared(
        "loss", [DIVERGED, DIVERGED], [done(0.1), DIVERGED], [done(nan), done(0)], [done(0.9)] * 2
    )
    assert order(settings) == ["3", "2", "1", "0"]
    assert unfinished(settings[2]) == "1 diverged: training diverged in epoch 1"
    assert spreads(settings[2])["validation_loss"] == (0.1, None)
    assert spreads(settings[3]) == {}
    assert unfinished(settings[0]) == ""


def test_every_end_has_its_word():
    codes = {0: "finished", 4: "diverged", 2: "failed", 5: "failed", 1: "failed", 137: "failed"}
    codes |= {130: "interrupted", 143: "interrupted", None: "not trained"}
    assert {code: SweepRun({}, None, code).status for code in codes} == codes
    (setting,) = compared("loss", [[None], [143, "stopped by SIGTERM"], [None]])
    assert unfinished(setting) == "2 not trained, 1 interrupted: stopped by SIGTERM"


def test_the_table_holds_means_and_sample_deviations():
    rows = compared("loss", [done(1.0, 0.25, 2.0), done(3.0, 0.75, 4.0)], [DIVERGED] * 2)
    assert table(rows) == (
        "k  runs  validation loss   validation accuracy  seconds\n"
        "0  2/2   2.0000 +- 1.4142  0.5000 +- 0.3536     3.0000 +- 1.4142\n"
        "1  0/2   -                 -                    -"
        "                 2 diverged: training diverged in epoch 1\n"
    )
    first, second = csv.DictReader(csv_text(rows).splitlines())
    assert (first["k"], first["runs"], first["finished"]) == ("0", "2", "2")
    assert float(first["validation_loss_std"]) == 2**0.5
    assert float(first["train_seconds_mean"]) == 3.0
    assert second["validation_loss_mean"] == "" and second["finished"] == "0"
    assert second["unfinished"] == "2 diverged: training diverged in epoch 1"


def test_lines_and_the_table_fit_the_terminal():
    key = "train.optimizer.learning_rate"
    figures = {"validation_loss": 0.12345, "validation_accuracy": 0.9, "train_seconds": 1.5}
    run = SweepRun({key: "0.1"}, SimpleNamespace(seed=3), 0, "", (), figures)
    whole = f"1/2  {key}=0.1 seed=3  validation loss 0.1235 accuracy 0.9000  1.5 s"
    assert outcome_line("1/2", run, None) == outcome_line("1/2", run, 100) == whole
    assert (
        outcome_line("1/2", run, 60) == "1/2  learning_rate=0.1 seed=3  loss 0.1235 accuracy 0.9000"
    )
    assert outcome_line("1/2", run, 50) == "1/2  learning_rate=0.1 seed=3  loss 0.1235"
    assert outcome_line("1/2", run, 40) == "1/2  learning_rate=0.1 seed=3"
    assert table([[run]], 99).split()[:4] == ["learning_rate", "runs", "validation", "loss"]
    for width in (80, 60, 40):
        assert max(map(len, table([[run]], width).splitlines())) < width


# --- the command


def test_a_sweep_leaves_run_folders_and_a_table(minidl, here):
    code, out, err = minidl("sweep config.yaml train.batch_size=8,64 --seeds 2 --jobs 1 --out o")
    assert code == 0
    assert out.splitlines()[-1] == "sweep folder: o" and "test" not in out
    assert [row[:2] for row in rows_of(out)[:2]] == [["8", "2/2"], ["64", "2/2"]]
    lines = err.splitlines()
    assert [line.split()[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert re.fullmatch(
        r"2/4  train.batch_size=64 seed=0  validation loss \S+ accuracy \S+  \S+ m?s", lines[1]
    )
    assert {path.name for path in Path("o").iterdir()} == {"lock", "sweep.csv", *here}
    with open("o/sweep.csv", newline="") as file:
        first, _ = csv.DictReader(file)
    run = Path("o/train.batch_size-8_seed-1")
    results = json.loads((run / "results.json").read_text())
    assert results["test_accuracy"] > 0
    with open(run / "metrics.csv", newline="") as file:
        losses = [float(epoch["validation_loss"]) for epoch in csv.DictReader(file)]
    line = next(line for line in lines if "size=8 seed=1" in line)
    assert f"loss {losses[results['best_epoch'] - 1]:.4f}" in line
    mean, deviation = (float(first[f"validation_loss_{part}"]) for part in ("mean", "std"))
    assert f"  {mean:.4f} +- {deviation:.4f}  " in out.splitlines()[1]


def test_a_run_of_a_sweep_is_an_ordinary_run(minidl, here):
    minidl("sweep config.yaml seed=3 --seeds 1 --out o")
    minidl("train config.yaml seed=3 train.blas_threads=1 output.report=false --out run --quiet")
    for name in ("model.npz", "config.yaml"):
        assert Path("o/seed-3", name).read_bytes() == Path("run", name).read_bytes()


def test_the_default_folder_is_beside_the_runs_and_is_not_the_latest_run(minidl, here):
    code, out, _ = minidl("sweep config.yaml --seeds 1")
    (folder,) = Path("runs/config-sweep").iterdir()
    assert code == 0 and f"sweep folder: {folder}\n" in out
    assert "no run to resume in runs" in minidl("train --resume latest")[2]


def test_what_is_finished_is_not_trained_again(minidl, here):
    command = "sweep config.yaml train.batch_size=8,64 --jobs 1 --out o"
    assert minidl(f"{command} --seeds 1")[0] == 0
    models = {path: path.read_bytes() for path in Path("o").glob("*/model.npz")}
    assert len(models) == 2
    here.clear()
    code, out, _ = minidl(f"{command} --seeds 2")
    assert here == ["train.batch_size-8_seed-1", "train.batch_size-64_seed-1"]
    assert code == 0 and {row[1] for row in rows_of(out)[:2]} == {"2/2"}
    assert all(path.read_bytes() == content for path, content in models.items())


def test_a_run_that_diverges_stops_no_other(minidl, here):
    code, out, err = minidl(
        "sweep config.yaml train.optimizer.learning_rate=1e30,0.1 --seeds 1 --out o"
    )
    good, bad = rows_of(out)[:2]
    assert code == 4
    assert (good[:2], bad[:2]) == (["0.1", "1/1"], ["1e30", "0/1"])
    assert bad[-1].startswith("1 diverged: training diverged in epoch 1, step")
    assert "learning_rate=1e30 seed=0  diverged: training diverged" in err
    assert "training diverged" in Path("o/sweep.csv").read_text()


@pytest.mark.parametrize(
    "status, lines, word",
    [
        (1, ["Traceback:", "  line", "KeyError: 'x'"], "failed: KeyError: 'x'"),
        (5, ["cannot write o: full", "then go on"], "failed: cannot write o: full"),
        (1, [], "failed: exit status 1"),
        (-signal.SIGKILL, [], "failed: stopped by SIGKILL"),
        (-signal.SIGTERM, [], "interrupted: stopped by SIGTERM"),
    ],
)
def test_a_process_that_fails_says_why(minidl, monkeypatch, status, lines, word):
    monkeypatch.setattr(sweep_room, "train_in_process", lambda folder, stop: (status, lines))
    code, out, err = minidl("sweep config.yaml --seeds 1 --out o")
    assert code == (status if status > 0 else 128 - status)
    assert err == f"1/1  seed=0  {word}\n"
    assert rows_of(out)[0] == ["0/1", "-", f"1 {word}"]


def test_a_finished_run_whose_results_are_damaged_is_told(minidl, here):
    minidl("sweep config.yaml --seeds 1 --out o")
    Path("o/seed-0/results.json").write_text("{")
    code, _, err = minidl("sweep config.yaml --seeds 1 --out o")
    assert code == 5 and "failed: o/seed-0/results.json: cannot be read: " in err


def test_what_is_wrong_is_told_as_by_train_and_nothing_is_written(minidl, here):
    wrong = "trian.epochs=3"
    code, out, err = minidl(f"sweep config.yaml model.1=relu,tanh {wrong}")
    assert (code, out, err) == minidl(f"train config.yaml {wrong}") and code == 2
    Path("gone.yaml").write_text(TEXT.replace("iris", "mnist, path: gone.npz"))
    assert minidl("sweep gone.yaml")[0] == 3
    for options in ("--seeds 0", "--seeds x", "--jobs 0"):
        code, _, err = minidl(f"sweep config.yaml {options}")
        assert code == 2 and "expected a whole number >= 1" in err
    assert here == [] and {path.name for path in Path().iterdir()} == {"config.yaml", "gone.yaml"}


def test_a_folder_that_holds_something_else_is_refused(minidl, here):
    minidl("train config.yaml --quiet --out run")
    code, _, err = minidl("sweep config.yaml --out run")
    assert code == 2 and "the output folder is not empty" in err
    minidl("sweep config.yaml --seeds 1 --out o")
    here.clear()
    code, _, err = minidl("sweep config.yaml train.epochs=3 --seeds 2 --out o")
    assert code == 2 and here == []
    assert err.splitlines() == [
        "o holds runs of other settings; choose another folder:",
        "o/seed-0: train.epochs was 2 and is 3 now",
    ]
    assert not Path("o/seed-1").exists()


@pytest.mark.parametrize(
    "settings, said",
    [
        ("train.batch_size=8,16", "o/model.1-tanh_seed-0: model.1 was tanh and is relu now"),
        ("model.1=relu,tanh seed=3 train.epochs=1", "train.epochs was 2 and is 1 now"),
    ],
)
def test_a_sweep_of_other_settings_keeps_off_the_table(minidl, here, settings, said):
    assert minidl("sweep config.yaml model.1=relu,tanh --seeds 1 --out o")[0] == 0
    before = Path("o/sweep.csv").read_bytes()
    code, _, err = minidl(f"sweep config.yaml {settings} --seeds 1 --out o")
    assert code == 2 and "o holds runs of other settings" in err and said in err
    assert Path("o/sweep.csv").read_bytes() == before
    assert minidl("sweep config.yaml model.1=relu,elu --seeds 1 --out o")[0] == 0


def test_a_terminal_shows_a_bar_with_the_time_left(minidl, here, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, _, err = minidl("sweep config.yaml train.batch_size=8,64 --seeds 1 --jobs 1 --out o")
    assert re.search(r" 0%\|.*\| 0/2 runs \[00:00<\?\]", err)
    assert re.search(r" 50%\|.*\| 1/2 runs \[\d+:\d+<\d+:\d+\]", err)


def test_two_sweeps_never_share_a_folder(minidl, here):
    minidl("sweep config.yaml --seeds 1 --out o")
    with RunFolder.open(Path("o")):
        code, _, err = minidl("sweep config.yaml --seeds 1 --out o")
    assert code == 2 and f"process {os.getpid()} is training in this folder" in err


# --- as processes

# Asks the sweep to stop after five steps, and goes on only when it is asked to stop itself.
ASKING = """
import os, signal, sys
from minidl.cli import main
from minidl.runs.run import Run

steps = Run.steps

def asking(run):
    for i, epoch in enumerate(steps(run), 1):
        yield epoch
        if i == 5:
            os.kill(os.getppid(), signal.SIGTERM)
            while run._interrupts.received is None:
                pass

Run.steps = asking
sys.exit(main())
"""


@pytest.mark.slow
def test_a_signal_stops_the_runs_with_checkpoints_and_the_sweep_goes_on(minidl, monkeypatch):
    command = "sweep config.yaml train.epochs=3,4 --seeds 1 --jobs 1 --out"
    with monkeypatch.context() as patch:
        popen = subprocess.Popen

        def asking(command, **options):
            return popen([command[0], "-c", ASKING, *command[3:]], **options)

        patch.setattr(subprocess, "Popen", asking)
        code, out, err = minidl(f"{command} o")
    assert (code, out) == (143, "")
    assert err.splitlines() == [
        "1/2  train.epochs=3 seed=0  interrupted: stopped by SIGTERM",
        "stopped by SIGTERM; go on with the sweep by",
        f"  /usr/bin/minidl {command} o",
    ]
    status = json.loads(Path("o/train.epochs-3_seed-0/run.json").read_text())["status"]
    assert status == "interrupted"
    assert sorted(os.listdir("o")) == ["lock", "sweep.csv", "train.epochs-3_seed-0"]
    assert Path("o/train.epochs-3_seed-0/checkpoints/last.npz").exists()
    assert minidl(f"{command} o --jobs 2")[0] == 0
    monkeypatch.setattr(sweep_room, "train_in_process", lambda folder, stop: here_and_now(folder))
    assert minidl(f"{command} whole")[0] == 0
    for name in ("train.epochs-3_seed-0", "train.epochs-4_seed-0"):
        o, whole = (Path(out, name, "model.npz").read_bytes() for out in ("o", "whole"))
        assert o == whole
        epochs = Path(f"o/{name}/metrics.csv").read_text().splitlines()
        assert len(epochs) == 1 + load_config(f"o/{name}/config.yaml").train.epochs


def an_endless_sweep(folder, **options):
    """A process whose first run ends and whose second does not."""
    (folder / "config.yaml").write_text(TEXT)
    program = "import sys; from minidl.cli import main; sys.exit(main())"
    arguments = ["sweep", "config.yaml", "train.epochs=1,1000000", "--seeds", "1", "--jobs", "2"]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--out", "o"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_the_sweep_and_its_processes(tmp_path):
    with an_endless_sweep(
        tmp_path,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        first = running.stderr.readline()
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate()
    assert first.startswith("1/2  train.epochs=1 seed=0  validation loss")
    assert (running.returncode, out) == (130, "")
    lines = err.splitlines()
    assert lines[0] == "2/2  train.epochs=1000000 seed=0  interrupted: stopped by SIGTERM"
    assert lines[1] == "stopped by SIGINT; go on with the sweep by"
    for run in (tmp_path / "o").glob("train*"):
        with RunFolder.open(run):  # nobody holds the lock
            pass


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_behind(tmp_path):
    with an_endless_sweep(
        tmp_path,
        stdout=subprocess.DEVNULL,
    ) as running:
        running.stderr.readline()  # one run has finished
        running.kill()
    folder = tmp_path / "o" / "train.epochs-1000000_seed-0"
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the process of the other to end
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert (folder / "checkpoints" / "last.npz").exists()
