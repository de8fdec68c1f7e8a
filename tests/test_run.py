"""Runs stopped anywhere go on to the same bits, and say truly how they stand."""

import csv
import json
import os
import signal
import warnings

import numpy as np
import pytest

from minidl import checkpoint, kernels, load
from minidl.config import load_config
from minidl.errors import CheckpointError, ConfigError, DataError, DivergenceError
from minidl.runs.experiment import Experiment
from minidl.runs.folder import RunFolder
from minidl.runs.run import Run

PLAIN = """
data: {name: blobs, n_samples: 120, n_classes: 3}
model: [linear: 8, relu, linear: auto]
train:
  epochs: 4
  batch_size: 16
  optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.9}
  checkpoint_every: {epochs: 1}
"""
RICH = """
data: {name: digits, preprocessing: global_standard, augmentation: [shift: 1]}
model: [linear: 8, batch_norm, relu, dropout: 0.2, linear: auto]
train:
  epochs: 3
  batch_size: 256
  optimizer: {name: adamw, learning_rate: 0.01}
  schedule: {name: cosine, warmup: 0.5}
  ema: 0.9
  mixup: 0.3
  early_stopping: {patience: 2}
  monitor: accuracy
"""


@pytest.fixture
def begin(tmp_path):
    """Make a run from config text and overrides, in a folder of the given name."""
    folders = []

    def begin(text, *overrides, out="run"):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        experiment = Experiment(load_config(path, overrides))
        started = (tmp_path / out / "config.yaml").exists()
        folder = (
            RunFolder.open(tmp_path / out)
            if started
            else RunFolder.create("", "", str(tmp_path / out))
        )
        folders.append(folder)
        return Run(experiment, folder)

    yield begin
    for folder in folders:
        folder.__exit__()


def end(run, warn=pytest.fail):
    """Let the run go on to its end, and give back its lock."""
    with run.folder, run:
        run.resume(warn)
        for _ in run.steps():
            pass
        run.finish()


def stop_after(run, n_steps, warn=pytest.fail):
    """A signal arrives during step n of those that this process makes."""
    with run.folder, run:
        run.resume(warn)
        for i, _ in enumerate(run.steps(), 1):
            if i == n_steps:
                os.kill(os.getpid(), signal.SIGTERM)


def records(run):
    rows = run.folder.metrics.path.read_text().splitlines()
    return run.folder.model.read_bytes(), [row.rsplit(",", 1)[0] for row in rows]


def status(run):
    return json.loads(run.folder.run.read_text())["status"]


@pytest.mark.parametrize("text", [PLAIN, RICH], ids=["plain", "rich"])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(begin, text):
    whole = begin(text, out="whole")
    end(whole)
    for n_steps in (1, 6, 10):
        out = f"stopped-{n_steps}"
        stopped = begin(text, out=out)
        stop_after(stopped, n_steps)
        assert stopped.stopped_by == signal.SIGTERM
        assert status(stopped) == "interrupted"
        resumed = begin(text, out=out)
        end(resumed)
        assert records(resumed) == records(whole)
        assert status(resumed) == "finished"


def test_a_run_stopped_again_and_again_ends_the_same(begin):
    end(whole := begin(PLAIN, out="whole"))
    for _ in range(40):
        stop_after(run := begin(PLAIN), 1)
        if run.stopped_by is None:
            break
    end(run := begin(PLAIN))
    assert records(run) == records(whole)


def test_training_from_the_resolved_config_repeats_the_run(begin):
    end(first := begin(RICH, out="first"))
    end(second := begin(first.folder.config.read_text(), out="second"))
    assert records(second) == records(first)
    assert second.folder.config.read_text() == first.folder.config.read_text()


def test_without_a_checkpoint_the_run_starts_over_in_its_folder(begin):
    end(whole := begin(PLAIN, out="whole"))
    killed = begin(PLAIN)
    with killed.folder:
        steps = killed.steps()
        for _ in range(7):
            next(steps)
    for file in killed.folder.checkpoints.iterdir():
        file.unlink()
    again = begin(PLAIN)
    assert not again.resume(pytest.fail)
    end(again)
    assert records(again) == records(whole)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(begin):
    end(whole := begin(PLAIN, out="whole"))
    stop_after(run := begin(PLAIN), 15)
    last, previous = checkpoint.paths(run.folder.checkpoints)
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    said = []
    end(run := begin(PLAIN), said.append)
    assert len(said) == 1 and str(last) in said[0] and f"going on from {previous}" in said[0]
    assert records(run) == records(whole)


def test_where_no_checkpoint_is_good_nothing_is_trained(begin):
    stop_after(run := begin(PLAIN), 15)
    for path in checkpoint.paths(run.folder.checkpoints):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)last\.npz.*to train from the start, remove"):
        begin(PLAIN).resume(pytest.fail)


@pytest.mark.parametrize(
    "change, line",
    [
        ("train.optimizer.learning_rate=0.2", "train.optimizer.learning_rate: 0.1 when the run"),
        ("model.0.linear=9", "model.0.linear.n_out: 8 when the run was begun, 9 now"),
        ("seed=1", "seed: 0 when the run was begun, 1 now"),
        ("train.ema=0.9", "train.ema: not set when the run was begun, 0.9 now"),
        ("train.epochs=3", "train.epochs: can be raised, not lowered from 4 to 3"),
    ],
)
def test_another_config_is_refused_with_the_difference(begin, change, line):
    stop_after(stopped := begin(PLAIN), 9)
    before = stopped.folder.run.read_text()
    run = begin(PLAIN, change)
    with pytest.raises(ConfigError) as error, run:
        run.resume(pytest.fail)
    assert line in str(error.value) and "last.npz" in str(error.value)
    assert stopped.folder.run.read_text() == before


@pytest.mark.parametrize(
    "change",
    [
        *("name=other", "train.checkpoint_every={steps: 3}", "output.directory=x"),
        "train.workers=2",  # of earlier versions
    ],
)
def test_what_changes_no_bit_may_differ(begin, change):
    end(whole := begin(PLAIN, out="whole"))
    stop_after(begin(PLAIN), 9)
    end(run := begin(PLAIN, change))
    assert records(run) == records(whole)


def test_a_run_of_an_earlier_version_goes_on(begin):
    """Its resolved config holds `workers`, of which nothing depended but the time."""
    end(whole := begin(PLAIN, out="whole"))
    stop_after(stopped := begin(PLAIN), 9)
    path = stopped.folder.checkpoints / "last.npz"
    state, about = checkpoint.load(path)
    config = about["config"].replace("  blas_threads:", "  workers: 1\n  blas_threads:")
    assert "workers" in config
    about = {**about, "config": config}
    checkpoint.save(stopped.folder.checkpoints, state, about)
    end(run := begin(PLAIN))
    assert records(run) == records(whole)


def test_other_data_are_refused(begin, monkeypatch):
    stop_after(begin(PLAIN), 9)
    monkeypatch.setattr("minidl.runs.run.fingerprint", lambda dataset: "0" * 64)
    with pytest.raises(DataError, match=r"the data differs: SHA-256 [0-9a-f]{16}.* 0{16}"):
        begin(PLAIN).resume(pytest.fail)


def test_renamed_classes_are_refused(begin, tmp_path):
    text = PLAIN.replace("{name: blobs, n_samples: 120, n_classes: 3}", "{path: t.csv, target: y}")
    rows = "x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(rows)
    stop_after(begin(text), 4)
    (tmp_path / "t.csv").write_text(rows.replace("b", "c"))
    with pytest.raises(DataError, match="its class labels, categories or column names are not"):
        begin(text).resume(pytest.fail)


def test_a_checkpoint_whose_fingerprint_covers_the_arrays_alone_is_used(begin):
    run = begin(PLAIN)
    with run.folder, run:
        for i, _ in enumerate(run.steps(), 1):
            if i == 9:
                run._fingerprint = run._fingerprint.split(".")[0]
                os.kill(os.getpid(), signal.SIGTERM)
    assert begin(PLAIN).resume(pytest.fail)


def test_another_numpy_is_warned_of(begin, monkeypatch):
    stop_after(begin(PLAIN), 9)
    monkeypatch.setattr("minidl.runs.machine.np.__version__", "1.0")
    said = []
    begin(PLAIN).resume(said.append)
    assert len(said) == 1 and said[0].startswith(f"numpy was {np.__version__}") is False
    assert "numpy was" in said[0] and "is 1.0 now" in said[0]


def test_epochs_may_be_raised_where_the_rates_do_not_depend_on_them(begin):
    end(longer := begin(PLAIN, "train.epochs=6", out="longer"))
    end(begin(PLAIN))
    run = begin(PLAIN, "train.epochs=6")
    run.resume(pytest.fail)
    assert not run.training.finished
    end(run)
    assert records(run) == records(longer)
    assert "epochs: 6" in run.folder.config.read_text()


def test_a_finished_run_has_a_checkpoint_of_its_last_step(begin):
    rarely = "train.checkpoint_every={seconds: 99}"
    end(longer := begin(PLAIN, rarely, "train.epochs=6", out="longer"))
    end(begin(PLAIN, rarely))
    run = begin(PLAIN, rarely, "train.epochs=6")
    assert run.resume(pytest.fail) and run.training.progress["epoch"] == 4
    end(run)
    assert records(run) == records(longer)


def test_the_model_is_that_of_the_best_epoch(begin):
    end(run := begin(PLAIN, "seed=2", "train.optimizer.learning_rate=0.5"))
    with open(run.folder.metrics.path) as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    best = json.loads(run.folder.results.read_text())["best_epoch"]
    assert best == 1 + int(np.argmin(losses)) < len(losses)
    validation, model = run.experiment.validation, load(run.folder.model)
    p = model.predict_proba(validation.X)[np.arange(len(validation.y)), validation.y]
    np.testing.assert_allclose(-np.log(p).mean(), min(losses), rtol=1e-4)


def test_epochs_are_not_raised_where_the_rates_depend_on_them(begin):
    cosine = ("train.schedule=cosine",)
    end(begin(PLAIN, *cosine))
    with pytest.raises(ConfigError, match="cannot be raised from 4 to 6: the learning rates of"):
        begin(PLAIN, *cosine, "train.epochs=6").resume(pytest.fail)


def test_a_finished_run_is_known_as_such(begin):
    end(begin(PLAIN))
    run = begin(PLAIN)
    assert run.resume(pytest.fail) and run.training.finished


def test_killed_after_the_last_step_the_model_is_still_written(begin):
    end(whole := begin(PLAIN, out="whole"))
    killed = begin(PLAIN)
    with killed.folder:
        for _ in killed.steps():
            pass
    end(run := begin(PLAIN))
    assert records(run) == records(whole)


@pytest.mark.parametrize(
    "every, steps",
    [
        ("{steps: 3}", [3, 6, 9, 12, 15, 18, 21, 24]),
        ("{epochs: 2}", [12, 24]),
        ("{seconds: 9}", []),
    ],
)
def test_checkpoints_are_written_as_often_as_asked(begin, every, steps, monkeypatch):
    run = begin(PLAIN, f"train.checkpoint_every={every}")
    saved = []
    monkeypatch.setattr(run, "save", lambda: saved.append(run.training.progress["step"]))
    with run.folder, run:
        for _ in run.steps():
            pass
    assert saved == steps


def test_checkpoints_by_time_never_cost_much_of_it(begin, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("minidl.runs.run.time.perf_counter", lambda: now[0])
    run = begin(PLAIN, "train.checkpoint_every={seconds: 2}")
    saved = []

    def slow_save():
        saved.append(now[0])
        now[0] += 0.3

    monkeypatch.setattr(run, "save", slow_save)
    with run.folder, run:
        for _ in run.steps():
            now[0] += 1.0
    assert np.diff(saved).min() > 0.3 / 0.03


def test_a_divergence_leaves_the_last_good_checkpoint_and_nothing_else(begin):
    run = begin(PLAIN, "train.checkpoint_every={steps: 3}")
    with pytest.raises(DivergenceError, match=r"epoch 2, step 11 \(.*layer 2 \(Linear\)"):
        with warnings.catch_warnings(), run.folder, run:
            warnings.simplefilter("error")
            for i, _ in enumerate(run.steps(), 1):
                if i == 10:
                    run.training.model.params[-1] = np.inf
    assert status(run) == "diverged"
    state, _ = checkpoint.load(checkpoint.paths(run.folder.checkpoints)[0])
    assert state["progress"]["step"] == 9
    assert not run.folder.model.exists()
    assert len(run.folder.metrics.path.read_text().splitlines()) == 2


def test_a_disk_without_room_for_the_config_leaves_a_folder_that_can_be_used(begin, monkeypatch):
    def full(*_):
        raise CheckpointError("full")

    run = begin(PLAIN)
    with monkeypatch.context() as patch, run.folder, pytest.raises(CheckpointError), run:
        patch.setattr(run.folder, "write_text", full)
        next(run.steps())
    assert os.listdir(run.folder.path) == ["lock"]
    end(begin(PLAIN))


def test_a_signal_after_the_last_step_lets_the_run_be_finished(begin):
    run = begin(PLAIN)
    with run.folder, run:
        for _ in run.steps():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        run.finish()
    assert run.stopped_by == signal.SIGTERM and status(run) == "finished"


def test_a_signal_before_the_first_step_is_not_lost(begin):
    run = begin(PLAIN)
    with run.folder, run:
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(list(run.steps())) == 1
    assert run.stopped_by == signal.SIGTERM and status(run) == "interrupted"


def test_any_other_failure_is_a_failed_run(begin):
    run = begin(PLAIN)
    with pytest.raises(KeyError), run.folder, run:
        for _ in run.steps():
            raise KeyError
    assert status(run) == "failed"


def test_a_loop_that_is_left_is_an_interrupted_run(begin):
    run = begin(PLAIN)
    with run.folder, run:
        for _ in run.steps():
            break
    assert status(run) == "interrupted"


def forged(state, about, path, value):
    """The state and what is said about it, with another value at a dotted path; None removes it."""
    *parents, key = path.split(".")
    tree = {"state": dict(state), "about": dict(about)}
    branch = tree
    for parent in parents:
        branch[parent] = dict(branch[parent])
        branch = branch[parent]
    if value is None:
        del branch[key]
    else:
        branch[key] = value
    return tree["state"], tree["about"]


@pytest.mark.parametrize(
    "path, value",
    [
        ("state.params", np.zeros(1, np.float32)),
        ("state.params", None),
        ("state.buffers", np.zeros(3, np.float32)),
        ("state.params", "text"),
        ("state.optimizer.velocity", np.zeros(1, np.float32)),
        ("state.optimizer.n_steps", None),
        ("state.best.params", np.zeros(1)),
        ("state.best", 7),
        ("state.rng", {"bit_generator": "MT19937"}),
        ("state.rng", 3),
        ("state.progress", []),
        ("state.progress.step", -1),
        ("state.progress.batch", 6),
        ("state.progress.batch", 1.5),
        ("state.progress.epoch", True),
        ("state.progress.best_score", "high"),
        ("state.progress.surprise", 1),
        ("about.config", "seed: [1"),
        ("about.config", 5),
        ("about.config", None),
        ("about.machine", []),
        ("about.train_seconds", "long"),
    ],
)
def test_a_forged_state_is_refused(begin, path, value):
    stop_after(run := begin(PLAIN), 9)
    folder = run.folder.checkpoints
    last, previous = checkpoint.paths(folder)
    found = checkpoint.load(last)
    previous.unlink()
    last.unlink()
    checkpoint.save(folder, *forged(*found, path, value))
    with pytest.raises(CheckpointError, match=r"last\.npz"):
        begin(PLAIN).resume(pytest.fail)


def test_the_results_tell_what_was_trained(begin):
    end(run := begin(PLAIN))
    results = json.loads(run.folder.results.read_text())
    assert results["dataset"] == "blobs" and results["epochs"] == 4
    assert results["n_train"] + results["n_validation"] + results["n_test"] == 120
    assert np.sum(results["confusion_matrix"]) == results["n_test"]
    assert np.trace(results["confusion_matrix"]) / results["n_test"] == results["test_accuracy"]


def test_the_test_part_is_measured_with_the_moves_that_the_model_keeps(begin):
    end(run := begin(RICH, "evaluation.shifts=1"))
    results = json.loads(run.folder.results.read_text())
    test = run.experiment.test
    found = load(run.folder.model)
    assert results["test_accuracy"] == np.mean(found.predict(test.X) == test.y)
    end(plain := begin(RICH, out="plain"))
    without = json.loads(plain.folder.results.read_text())
    assert results["test_loss"] != without["test_loss"]


def test_results_are_measured_with_the_threads_of_the_training(begin, monkeypatch):
    with begin(PLAIN, "train.blas_threads=2") as run:
        for _ in run.steps():
            pass
        asked, outputs = [], run.experiment.outputs
        original = kernels.threads
        monkeypatch.setattr(kernels, "threads", lambda n: asked.append(n) or original(n))
        monkeypatch.setattr(
            type(run.experiment), "outputs", lambda self, X: asked.append("outputs") or outputs(X)
        )
        run.finish()
    assert asked[:2] == [2, "outputs"]
