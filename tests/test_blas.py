"""How many threads NumPy's BLAS has: while several ask for a number, after Ctrl-C, after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import threadpoolctl

from minidl import (
    SGD,
    Linear,
    Sequential,
    SoftmaxCrossEntropy,
    Training,
    blas,
    evaluate,
    kernels,
)
from minidl.evaluation import predict_outputs
from minidl.layers import Identity
from minidl.lbfgs import fit_lbfgs

openblas = pytest.mark.skipif(blas.NUMPY is None, reason="NumPy's BLAS is no OpenBLAS")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def numpys_threads() -> int:
    """What threadpoolctl says of the library that NumPy calls."""
    counts = {
        each["num_threads"]
        for each in threadpoolctl.threadpool_info()
        if each["user_api"] == "blas" and "scipy.libs" not in each["filepath"]
    }
    assert len(counts) == 1
    return counts.pop()


class Spy(Identity):
    """Notes how many threads NumPy's BLAS has while a model computes."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def forward(self, x, train=True):
        self.counts.append(numpys_threads())
        return super().forward(x, train)


@openblas
def test_the_smallest_number_wins_and_users_may_leave_in_any_order():
    before = numpys_threads()
    first, second, third = (blas.limited_to(n, blas.NUMPY) for n in (3, 1, 2))
    first.__enter__()
    assert numpys_threads() == 3
    second.__enter__()
    third.__enter__()
    first.__exit__(None, None, None)
    assert numpys_threads() == 1
    second.__exit__(None, None, None)
    assert numpys_threads() == 2
    third.__exit__(None, None, None)
    assert numpys_threads() == before


def test_a_blas_that_is_no_openblas_is_left_to_threadpoolctl():
    before = [each["num_threads"] for each in threadpoolctl.threadpool_info()]
    with blas.limited_to(1, None):
        info = threadpoolctl.threadpool_info()
        assert {each["num_threads"] for each in info if each["user_api"] == "blas"} == {1}
    assert [each["num_threads"] for each in threadpoolctl.threadpool_info()] == before


@openblas
def test_ctrl_c_at_any_moment_gives_the_threads_back():
    """Python looks for signals at calls: here each of them in turn brings a KeyboardInterrupt."""
    before = numpys_threads(), kernels.threads_are_set()
    here = threading.get_ident()
    calls = 0

    def use() -> None:
        with kernels.threads(2):
            pass

    def interrupt(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        if threading.get_ident() == here and event in ("call", "c_return"):
            calls += 1
            if calls == place:
                raise KeyboardInterrupt

    for place in range(1, 1000):
        calls = 0
        try:
            sys.setprofile(interrupt)
            use()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert (numpys_threads(), kernels.threads_are_set()) == before, f"at call {place}"
        if calls < place:
            break
    assert place > 20


@openblas
def test_a_number_that_somebody_else_changes_is_set_again():
    if not kernels.has_crew():
        pytest.skip("the C extension was not built")
    code = """
import numpy as np
import threadpoolctl
from minidl import kernels

a = np.random.default_rng(0).standard_normal((300, 300), np.float32)
out = np.empty_like(a)
with kernels.threads(1):
    with threadpoolctl.threadpool_limits(2):
        kernels.matmul(a, a, out)
        found = {x["num_threads"] for x in threadpoolctl.threadpool_info()
                 if "numpy" in x["filepath"]}
assert found == {1}, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@openblas
@pytest.mark.parametrize("numpy_only", [False, True])
def test_each_step_has_the_threads_that_were_asked_for_whoever_changes_them(
    monkeypatch, numpy_only
):
    if numpy_only:
        monkeypatch.setattr(kernels, "_compiled", kernels.NUMPY_ALONE)

    class Meddler(Spy):
        def forward(self, x, train=True):
            y = super().forward(x, train)
            threadpoolctl.threadpool_limits(3, user_api="blas")
            return y

    rng, spy = np.random.default_rng(0), Meddler()
    X, y = rng.standard_normal((90, 5), np.float32), rng.integers(0, 3, 90)
    model = Sequential([spy, Linear(5, 3, rng=rng)])
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        training = Training(model, SoftmaxCrossEntropy(), SGD(0.1), (X, y), epochs=2,
                            batch_size=30, rng=0, blas_threads=1)  # fmt: skip
        spy.counts.clear()
        list(training.steps())
    assert spy.counts == [1] * 6


def test_a_changed_number_of_another_blas_is_said():
    with pytest.warns(UserWarning, match="changed the number of BLAS threads"):
        with blas.limited_to(1, None):
            limit = threadpoolctl.threadpool_limits(2, user_api="blas")
    limit.restore_original_limits()


FORKING = """
import os, sys, threading, time
import numpy as np
from minidl import Linear, ReLU, SGD, Sequential, SoftmaxCrossEntropy, blas, fit, kernels

n_forks, stopped = int(sys.argv[1]), False

def train(n, epochs):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((256, 40), np.float32), rng.integers(0, 4, 256)
    model = Sequential([Linear(40, 128, rng=rng), ReLU(), Linear(128, 4, rng=rng)])
    for _ in fit(model, SoftmaxCrossEntropy(), SGD(0.1), (X, y), epochs=epochs, batch_size=64,
                 rng=rng, blas_threads=n):
        pass
    return model.params

def keep_training():  # many short trainings: each enters and leaves `kernels.threads`
    while not stopped:
        train(2, 1)

expected = train(2, 3).tobytes()
before = blas.NUMPY.threads() if blas.NUMPY else 0
workers = [threading.Thread(target=keep_training) for _ in range(2)]
for worker in workers:
    worker.start()
hanging = wrong = 0
for i in range(n_forks):
    child = os.fork()
    if child == 0:
        held = blas.NUMPY.threads() if blas.NUMPY else 0
        os._exit(0 if held == before and train(2, 3).tobytes() == expected else 1)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.001)
    if done == (0, 0):
        hanging += 1
        os.kill(child, 9)
        os.waitpid(child, 0)
    else:
        wrong += done[1] != 0
stopped = True
for worker in workers:
    worker.join()
print(f"hanging {hanging} wrong {wrong}")
"""


@forks
@pytest.mark.parametrize("n_forks", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_children_forked_beside_training_threads_train_to_the_same_bits(n_forks):
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(n_forks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert done.stdout == "hanging 0 wrong 0\n", done.stderr


@forks
def test_a_child_that_is_forked_within_a_block_has_a_crew_of_its_own():
    code = """
import os
import numpy as np
from minidl import kernels

a = np.random.default_rng(0).standard_normal((300, 300), np.float32)
out, alone, again = np.empty((3, 300, 300), np.float32)
with kernels.threads(2):
    kernels.matmul(a, a, out)
    child = os.fork()
    if child == 0:
        kernels.matmul(a, a, alone)
        with kernels.threads(2):
            kernels.matmul(a, a, again)
        n_threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc") else 2
        right = (out == alone).all() and (out == again).all()
        os._exit(0 if right and (n_threads > 1 or not kernels.has_crew()) else 1)
    _, status = os.waitpid(child, 0)
    kernels.matmul(a, a, again)
raise SystemExit(status or not (out == again).all())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=False)
    assert done.returncode == 0


@openblas
@pytest.mark.skipif(not kernels.has_crew(), reason="the C extension was not built")
def test_predictions_do_not_use_the_threads_of_the_blas():
    """One row alone is multiplied in C without a BLAS, so that nothing is held for it."""
    before = all_threads()
    rng, spy = np.random.default_rng(0), Spy()
    X, y = rng.standard_normal((1000, 300)), rng.integers(0, 3, 1000)
    model = Sequential([Linear(300, 50, rng=rng, dtype=np.float64), spy,
                        Linear(50, 3, rng=rng, dtype=np.float64)])  # fmt: skip
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        predict_outputs(model, X)
        predict_outputs(model, X[:2])
        evaluate(model, SoftmaxCrossEntropy(), X, y)
        assert spy.counts == [1, 1, 2, 1]  # `evaluate` looks at one row first
        assert numpys_threads() == 2
    assert all_threads() == before


def all_threads() -> list[tuple[str, int]]:
    info = threadpoolctl.threadpool_info()
    return sorted((each["filepath"], each["num_threads"]) for each in info)


@openblas
def test_lbfgs_holds_every_blas_that_it_uses():
    rng, found = np.random.default_rng(0), []
    X, y = rng.standard_normal((100, 5)), rng.integers(0, 3, 100)
    model = Sequential([Linear(5, 3, rng=rng, dtype=np.float64)])

    def look(*_: object) -> None:
        info = threadpoolctl.threadpool_info()
        found.append({each["num_threads"] for each in info if each["user_api"] == "blas"})

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = all_threads()
        fit_lbfgs(model, SoftmaxCrossEntropy(), (X, y), callback=look)
        assert found and all(each == {1} for each in found)
        assert all_threads() == before
