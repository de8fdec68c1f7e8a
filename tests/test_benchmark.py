import json
import os
import subprocess
import sys

import benchmark as script
import numpy as np
import pytest
from bench import contenders, measurements, processes, tables, users
from bench.cells import GRID, Cell, Problem, he_normal
from bench.contenders import Child, Contender, installed
from bench.measurements import take_turns
from bench.results import benchmark
from sklearn.naive_bayes import GaussianNB

from minidl.schedules import OneCycle

TINY = Cell("T", (6, 5, 3), 8, 3)
NAMES = ("minidl", "minidl NumPy only", "GEMMs 1 thread", "GEMMs all cores")


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(measurements, "REST", 0.0)


def test_cells_are_data_and_weights_of_the_sizes_that_they_say():
    problem = TINY.problem()
    assert problem.X.shape == (24, 6) and problem.X.dtype == np.float32
    assert problem.y.shape == (24,) and set(problem.y) == {0, 1, 2}
    assert [W.shape for W in problem.weights] == [(6, 5), (5, 3)] and problem.sizes == (6, 5, 3)
    assert problem.steps_per_epoch == 3 and problem.rates(7, 2) == [1e-3, 1e-3]
    assert [name for name, cell in GRID.items() if cell.name == name] == list("ABCDEFG")


def test_the_learning_rates_of_the_race_are_those_of_one_cycle():
    X, y = np.zeros((40, 6), np.float32), np.zeros(40, np.int64)
    problem = Problem(X, y, he_normal((6, 5, 3)), 4, learning_rate=0.1, epochs=3)
    schedule = OneCycle(peak=problem.peak)
    expected = [0.1 * schedule.factor(step, 30, 10) for step in range(30)]
    np.testing.assert_allclose(problem.rates(0, 10) + problem.rates(10, 20), expected, rtol=1e-12)


def test_contenders_take_turns_in_another_order_each_time():
    calls = []
    times = take_turns(["a", "b", "c"], 20, lambda name: calls.append(name) or len(calls))
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6  # so that each follows each of the others
    assert all(calls[time - 1] == name for name in times for time in times[name])


def test_steps_are_written_with_settings_machine_and_one_figure_a_repeat(tmp_path):
    options = {"parts": ["steps"], "cells": [TINY], "repeats": 2, "announce": str}
    text = benchmark(tmp_path, installed(NAMES), **options)
    assert (tmp_path / "benchmark.md").read_text() == text
    assert "| T 6-5-3, 8 |" in text and "| geometric mean |" in text
    written = json.loads((tmp_path / "steps.json").read_text())
    assert written["machine"]["cores"] and written["versions"]["numpy"] == np.__version__
    assert abs(written["cores_busy_elsewhere"]) < 1 + written["machine"]["cores"]
    cell = written["results"]["T"]
    assert cell["cell"]["sizes"] == [6, 5, 3]
    assert cell["settings"]["minidl NumPy only"]["kernels"] == "numpy"
    assert cell["settings"]["minidl"]["blas"] in text  # name, version and kernel
    assert set(cell["seconds"]) == set(NAMES)
    assert all(len(times) == 2 and min(times) > 0 for times in cell["seconds"].values())


def test_a_later_part_joins_the_tables_of_the_folder(tmp_path):
    options = {"cells": [TINY], "repeats": 1, "announce": str}
    benchmark(tmp_path, installed(NAMES[:1]), parts=["imports"], **options)
    text = benchmark(tmp_path, installed(NAMES[:1]), parts=["steps"], **options)
    assert "One training step" in text and "Import time" in text


def test_beside_a_busy_process_and_alone():
    results = measurements.steps(installed(NAMES[:1]), [TINY], 1, busy=True)["T"]
    assert set(results["seconds"]) == set(results["busy_seconds"]) == {"minidl"}
    assert "beside one busy process" in tables.markdown({"busy": _part({"T": results})})


def test_growth_of_time_and_memory():
    results = measurements.growth(installed(["minidl"])[0], [TINY], 1)
    assert 10_000_000 < results["T"]["bytes"]["minidl"][0] < 1_000_000_000
    assert "| T 6-5-3, 8 |" in tables.markdown({"growth": _part(results)})


def test_predictions_take_turns_in_one_process(monkeypatch):
    monkeypatch.setattr(users, "SHORTEST", 0.0)
    results = users.measure(users.predictions([(6, 5, 3)], [1, 20]), 2)
    assert list(results) == ["6-5-3, 1 rows", "6-5-3, 20 rows"]
    for times in results.values():
        assert {"minidl", "minidl's estimator", "scikit-learn"} <= set(times)
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())
    assert "| geometric mean |" in tables.markdown({"prediction": _part(results)})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_are_the_same_work_for_each_contender():
    case, calls = next(users.fits())
    ours, theirs = calls["minidl"](), calls["scikit-learn"]()
    assert case == "iris, adam, float64" and ours.n_iter_ == theirs.n_iter_ == 100
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=0.1)


def test_tables_are_fitted_by_what_is_installed(monkeypatch):
    monkeypatch.setattr(users, "CatBoostClassifier", GaussianNB)
    monkeypatch.setattr(users, "RealMLP_TD_Classifier", None)
    names = ["minidl", "HistGradientBoosting", "CatBoost"]
    assert [list(calls) for _, calls in users.tables()] == [names] * 3


def test_scikit_learn_trains_the_same_cell():
    (contender,) = installed(["scikit-learn"])
    with Child(contender) as child:
        child.prepare(TINY)
        assert child.train(n_batches=3, warm_up=1) > 0


def test_a_race_ends_when_the_accuracy_is_reached(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 1000).astype(np.uint8)
    x = (rng.integers(0, 256, (10, 28, 28))[y]).astype(np.uint8)  # one picture a class
    file = tmp_path / "mnist.npz"
    np.savez(file, x_train=x[:800], y_train=y[:800], x_test=x[800:], y_test=y[800:])
    chosen = installed(["minidl", "scikit-learn"])
    results = processes.mnist_races(chosen, str(file), 0.98, 1)
    assert set(results["seconds"]) == {"minidl", "scikit-learn"}
    for name in results["seconds"]:
        assert results["epochs"][name][0] <= 2 and results["accuracy"][name][0] >= 0.98
    assert "98%" in tables.markdown({"mnist": _part(results)})


def test_ratios_are_medians_of_those_in_each_repeat():
    assert tables.ratio([1.0, 9.0, 2.0], [2.0, 3.0, 4.0]) == 0.5
    entry = {
        "settings": {"minidl": {"blas": "openblas 0.3 Zen"}, "JAX jit": {"blas": "Eigen"}},
        "cell": {"name": "T", "sizes": [6, 3], "batch_size": 8},
        "seconds": {
            "minidl": [3e-6, 3e-6],
            "scikit-learn": [6e-6, 6e-6],
            "JAX jit": [4e-6, 4e-6],
            "JAX scan": [1e-6, 1e-6],
            "GEMMs 1 thread": [2e-6, 2e-6],
            "GEMMs all cores": [2.5e-3, 2.5e-3],
        },
    }
    text = tables.markdown({"steps": _part({"T": entry})})
    assert "| T 6-3, 8 | 3 | 6 | 4 | 1 | 2 | 2,500 |" in text
    assert "| the best rival | the best without scan | scikit-learn | JAX jit | JAX scan |" in text
    assert "| T 6-3, 8 | 3.00 | 0.75 | 0.50 | 0.75 | 3.00 | 1.50 |" in text
    assert "Matrix products: minidl: openblas 0.3 Zen; JAX jit: Eigen." in text
    assert "Set in the environment: OPENBLAS_CORETYPE=Haswell." in text
    assert "NumPy's BLAS runs the code for SkylakeX." in text


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"^minidl ended in 'prepare': ZeroDivisionError"):
        with Child(contenders.NAMES["minidl"]) as child:
            child.prepare(Cell("T", (0, 3), 8, 3))


def test_contenders_that_cannot_run_are_left_out(monkeypatch):
    ghost = Contender("ghost", "rival", "no-such-distribution", ("own",))
    toolless = Contender("toolless", "rival", "numpy", ("own",), tool="no-such-compiler")
    monkeypatch.setattr(contenders, "NAMES", {"ghost": ghost, "toolless": toolless})
    assert installed(["ghost", "toolless"]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "speed"], "no 'speed'; there are steps,"),
        (["--contenders", "keras"], "no 'keras'; there are minidl,"),
        (["--cells", "A,H"], "no 'H'; there are A, B,"),
        (["--repeats", "0", "--only", "steps"], "--repeats must be at least 1, got 0"),
        (["--only", "mnist"], "mnist.npz: no such file; set MINIDL_DATA_DIR"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.setenv("MINIDL_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        script.main(["--out", str(tmp_path / "out"), *options])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_script_prints_the_tables_and_names_a_blas_kernel_that_was_set(tmp_path):
    command = [sys.executable, script.__file__, "--contenders", "minidl,torch.compile"]
    command += ["--only", "imports", "--repeats", "1", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Haswell"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### Import time")
    assert "OPENBLAS_CORETYPE=Haswell is set" in done.stderr


def _part(results):
    machine = {"processor": "P", "cores": 2, "python": "3", "blas_core": "SkylakeX"}
    return {
        "machine": machine,
        "environment": {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": None},
        "versions": {"numpy": "2"},
        "repeats": 1,
        "cores_busy_elsewhere": 0.125,
        "results": results,
    }
