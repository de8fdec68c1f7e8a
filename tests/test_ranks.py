"""Ranks: in threads behind a communicator of our own, and as real MPI jobs (slow)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from minidl import SGD, BatchNorm, Dropout, Linear, ReLU, Sequential, SoftmaxCrossEntropy, Training
from minidl import ranks as ranks_module
from minidl.data.augmentation import ImageAugmentation, Mixup, Shift
from minidl.errors import ConfigError
from minidl.evaluation import predict_outputs
from minidl.ranks import Ranks, block_size

ROOT = Path(__file__).parents[1]


class Comm:
    """What `Ranks` uses of an MPI communicator, between threads of one process."""

    def __init__(self, rank, size, board, barrier):
        self.rank, self.size, self.board, self.barrier = rank, size, board, barrier

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def allgather(self, thing):
        self.board[self.rank] = thing
        self.barrier.wait(60)
        found = list(self.board)
        self.barrier.wait(60)
        return found

    def Barrier(self):
        self.barrier.wait(60)

    def bcast(self, thing):
        return self.allgather(thing)[0]

    def Allgather(self, sent, received):
        for row, array in zip(received, self.allgather(sent.copy()), strict=True):
            row[...] = array


class Window(np.ndarray):
    """What `Ranks` uses of a window of MPI: here it is the memory itself."""

    def Fence(self):
        self.comm.Barrier()

    def Get(self, received, rank, first):
        received[...] = self.all[rank].view(received.dtype)[first : first + received.size]


def open_window(comm, n_bytes):
    window = np.empty(n_bytes, np.uint8).view(Window)
    window.comm, window.all = comm, comm.allgather(np.asarray(window))
    return window


def on_ranks(size, task):
    """Call `task(ranks)` on each of `size` ranks; return what they return."""
    board, barrier, results = [None] * size, threading.Barrier(size), [None] * size

    def run(rank):
        try:
            comm = Comm(rank, size, board, barrier)
            results[rank] = task(Ranks(comm, lambda n_bytes, unit: open_window(comm, n_bytes)))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize(
    ("n_shards", "n_ranks", "size"),
    [(1, 1, 1), (4, 1, 4), (4, 2, 2), (4, 3, 2), (4, 4, 1), (6, 2, 4), (6, 3, 2), (5, 4, 2)],
)
def test_a_rank_holds_an_aligned_block_of_shards(n_shards, n_ranks, size):
    assert block_size(n_shards, n_ranks) == size


def trained(ranks, *, shards=4, mixup=False, batch_size=30, sample_weight=False, augment=True):
    """A net with all that could depend on who computes a shard; 203 rows, so uneven batches."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, (203, 16)).astype(np.uint8)
    y = X[:, 0].astype(np.int64) // 86
    weights = rng.uniform(0, 2, 203) if sample_weight else None
    rows = (X, y) if weights is None else (X, y, weights)
    first, last = Linear(16, 12, rng=rng), Linear(12, 3, rng=rng)
    model = Sequential([first, BatchNorm(12), ReLU(), Dropout(0.3, rng=rng), last])
    augmentation = ImageAugmentation([Shift(1)], (4, 4, 1), rng=rng) if augment else None
    training = Training(
        model, SoftmaxCrossEntropy(0.05), SGD(0.1, 0.9, clip_grad_norm=0.3, groups=model.groups),
        rows, (X[:50], y[:50]), epochs=2, batch_size=batch_size, rng=1, shards=shards,
        transform=lambda x: x.astype(np.float32) / 255, augment=augmentation, blas_threads=1,
        mix=Mixup(0.3, 3, rng=rng) if mixup else None, ema=0.9, ranks=ranks,
        train_metrics=True,
    )  # fmt: skip
    epochs = [epoch for epoch in training.steps() if epoch is not None]
    training.use_best()
    figures = [(epoch.train, epoch.validation, epoch.improved) for epoch in epochs]
    return model.params.tobytes(), model.buffers.tobytes(), figures


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mixup": True},
        {"shards": 6, "sample_weight": True},
        {"shards": 5, "augment": False},
        {"batch_size": 5},  # two shards at most, and none for some ranks
    ],
)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_make_the_bits_of_one_process(size, options):
    alone = trained(None, **options)
    assert on_ranks(size, lambda ranks: trained(ranks, **options)) == [alone] * size


def test_more_ranks_than_shards_are_refused():
    def task(ranks):
        with pytest.raises(ValueError, match="shards must be at least 3, one for each rank, got 2"):
            trained(ranks, shards=2)
        return True

    assert on_ranks(3, task) == [True] * 3


@pytest.mark.parametrize("n_rows", [1, 1000, 1025, 5000])
def test_outputs_are_computed_in_parts_to_the_same_bits(n_rows):
    rng = np.random.default_rng(0)
    model = Sequential([Linear(5, 3, rng=rng)])
    X = rng.normal(size=(n_rows, 5)).astype(np.float32)
    expected = predict_outputs(model, X)
    for found in on_ranks(3, lambda ranks: ranks.predict_outputs(model.replica(), X)):
        assert found.tobytes() == expected.tobytes()


def test_all_ranks_learn_who_asks_to_stop_in_the_same_step():
    def task(ranks):
        ranks.asks_to_stop = lambda: 15 * (ranks.rank == 1)
        gradient, scalars = ranks.lend(np.empty(7, np.float32)), np.full(2, 1.0)
        gradient[:] = ranks.rank
        ranks.add_up(gradient, scalars, 2)
        return ranks.stop, gradient.tolist(), scalars.tolist()

    assert on_ranks(3, task) == [(15, [1.0] * 7, [2.0, 2.0])] * 3


def test_ranks_that_differ_are_refused_with_the_difference():
    def task(ranks):
        with pytest.raises(ConfigError, match=r"the ranks differ: numpy is .* on rank"):
            ranks.compare({"data": "abc", "numpy": f"2.{ranks.rank}"})
        return True

    assert on_ranks(2, task) == [True, True]


def test_a_process_that_was_started_alone_imports_no_mpi(monkeypatch):
    for name in ranks_module.SIZE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert Ranks.of_this_job() is None
    assert "mpi4py" not in sys.modules


def test_too_small_a_shared_memory_is_named_before_mpi_starts(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setattr(ranks_module, "SHARED_BYTES", 1 << 60)
    with pytest.raises(ConfigError, match="--shm-size"):
        Ranks.of_this_job()


def test_mpi4py_that_is_missing_is_named_with_the_extra(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ConfigError, match=r'pip install "minidl\[mpi\]"'):
        Ranks.of_this_job()


# Real jobs

MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
CONFIG = """
data: {path: digits.npz, preprocessing: global_standard, augmentation: [shift: 1, affine, erasing]}
model: [linear: 64, batch_norm, relu, dropout: 0.2, linear: 32, relu, linear: auto]
train:
  epochs: 3
  batch_size: 100
  optimizer: {name: adamw, learning_rate: 0.01}
  schedule: one_cycle
  clip_grad_norm: 0.5
  ema: 0.9
  mixup: 0.3
  monitor: accuracy
  shards: 4
  blas_threads: 1
  checkpoint_every: {steps: 7}
output: {report: false}
"""


def real(test):
    """A test that starts jobs, where there is an mpiexec."""
    reason = 'needs mpiexec: pip install "minidl[mpi]"'
    return pytest.mark.slow(pytest.mark.skipif(MPIEXEC is None, reason=reason)(test))


FAILING = """
import os, sys
from minidl import cli
from minidl.parallel import BatchStep
call = BatchStep.__call__
def failing(self, batch, rate, step):
    if step == STEP and os.environ.get("PMI_RANK", "0") == "THIS":
        WHAT
    return call(self, batch, rate, step)
BatchStep.__call__ = failing
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


def failing(step, rank, what):
    """A script that trains, and does `what` at the start of a step on one rank."""
    script = FAILING.replace("STEP", str(step)).replace("THIS", str(rank))
    return script.replace("WHAT", what)


@pytest.fixture
def job(tmp_path):
    """Start a job of n ranks in a folder with the config, or one process for n = 1."""
    (tmp_path / "net.yaml").write_text(CONFIG)
    digits = load_digits()  # in a file that is read without scikit-learn: jobs start sooner
    np.savez(tmp_path / "digits.npz", X=digits.images.astype(np.uint8), y=digits.target)

    started = []

    def start(n, *arguments, script=str(ROOT / "scripts" / "train.py"), runner=("-m", "mpi4py")):
        mpi = [MPIEXEC, "-n", str(n), sys.executable, *runner] if n > 1 else [sys.executable]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*mpi, str(script), *arguments], cwd=tmp_path, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    start.folder = tmp_path
    yield start
    for process in started:
        with process:  # closes its pipes, and waits
            process.kill()


def finished(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (process.returncode, out, err)
    return out, err


def processes_in(folder):
    """The ranks of the job that runs in a folder, in their order."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            values = dict(
                each.split("=", 1) for each in entry.read_text().split("\0") if "=" in each
            )
            command = (entry.parent / "cmdline").read_text()
        except OSError:
            continue
        if "net.yaml" in command and "PMI_RANK" in values and "mpiexec" not in command:
            if os.readlink(entry.parent / "cwd") == str(folder):
                found[int(values["PMI_RANK"])] = int(entry.parent.name)
    return [found[rank] for rank in sorted(found)]


def training_has_begun(folder, process):
    """Wait, without a fixed time, until there is a checkpoint."""
    while not (folder / "run" / "checkpoints" / "last.npz").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@real
def test_equal_models_in_one_process_and_on_ranks(job):
    ways = {
        "one": (1, ()), "two threads": (1, ("train.blas_threads=2",)),
        "two ranks": (2, ()), "four ranks": (4, ()), "three ranks": (3, ()),
    }  # fmt: skip
    models = {}
    for name, (n, overrides) in ways.items():
        finished(job(n, "net.yaml", "--out", name, "--quiet", *overrides))
        models[name] = (job.folder / name / "model.npz").read_bytes()
    assert len(set(models.values())) == 1
    del ways["two threads"]  # which change the last bits of a measured loss
    results = [json.loads((job.folder / name / "results.json").read_text()) for name in ways]
    assert len({result["test_loss"] for result in results}) == 1


@real
def test_killed_jobs_go_on_with_another_number_of_ranks_to_the_same_bits(job):
    """20 kills of any rank, in any step after the second checkpoint, and so also while one is made.

    Nothing is written for a rank that dies: the others are ended by mpiexec wherever they are.
    """
    finished(job(1, "net.yaml", "--out", "whole", "--quiet"))
    whole = (job.folder / "whole" / "model.npz").read_bytes()
    rng = np.random.default_rng(0)
    last = json.loads((job.folder / "whole" / "results.json").read_text())["epochs"] * 15
    for number in range(20):
        before, after = ((2, 1), (1, 2), (2, 4), (4, 2))[number % 4]
        step = int(rng.choice([15, 22, 29, 36, rng.integers(15, last)]))
        script = job.folder / "killed.py"
        what = "os.kill(os.getpid(), 9)"
        script.write_text(failing(step, int(rng.integers(before)), what))
        shutil.rmtree(job.folder / "run", ignore_errors=True)
        process = job(before, "net.yaml", "--out", "run", "--quiet", script=script)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert not (job.folder / "run" / "model.npz").exists()
        finished(job(after, "--resume", "run", "--quiet"))
        assert (job.folder / "run" / "model.npz").read_bytes() == whole, (before, after, step)


@real
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_job(job, rank):
    process = job(2, "net.yaml", "--out", "run", "--quiet", "train.epochs=1000000")
    training_has_begun(job.folder, process)
    os.kill(processes_in(job.folder)[rank], signal.SIGKILL)
    process.communicate(timeout=5)
    assert process.returncode != 0


@real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_rank_stops_all_after_the_same_step(job, rank, number):
    process = job(2, "net.yaml", "--out", "run", "train.epochs=1000000")
    training_has_begun(job.folder, process)
    os.kill(processes_in(job.folder)[rank], number)
    _, err = finished(process, 128 + number)
    assert err.count("stopped by") == 1 and "--resume run" in err
    status = json.loads((job.folder / "run" / "run.json").read_text())
    assert status["status"] == "interrupted"


@real
@pytest.mark.parametrize("runner", [("-m", "mpi4py"), ()])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_any_rank_ends_the_job_and_is_said_once(job, rank, runner):
    script = job.folder / "failing.py"
    what = 'print("now", flush=True); raise RuntimeError("it broke")'
    script.write_text(failing(7, rank, what))
    process = job(2, "net.yaml", "--out", "run", "--quiet", script=script, runner=runner)
    assert process.stdout.readline() == "now\n"
    _, err = process.communicate(timeout=2)
    assert process.returncode == 1
    assert err.count("it broke") == 1 and f"rank {rank}: RuntimeError: it broke" in err


@real
@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("train.epohcs=3", 2, "did you mean 'epochs'?"),
        ("train.shards=1", 2, "at least 2, one for each rank"),
        ("train.optimizer.learning_rate=1e38", 4, "training diverged in epoch 1"),
        ("data={name: mnist, path: no.npz}", 3, "no.npz"),
    ],
)
def test_errors_are_said_once_and_keep_their_exit_code(job, override, code, said):
    overrides = [override, *(["train.clip_grad_norm="] if code == 4 else [])]
    _, err = finished(job(2, "net.yaml", "--out", "run", "--quiet", *overrides), code)
    assert err.count(said) == 1 and "Traceback" not in err


@real
def test_an_mpiexec_of_another_mpi_is_named(job, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    _, err = finished(job(1, "net.yaml", "--out", "run"), 2)
    assert "mpiexec started 2 processes, and each is alone" in err
