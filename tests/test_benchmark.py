import json
import sys

import numpy as np
import pytest

from minidl.benchmark import children, measurements, processes, tables
from minidl.benchmark.cells import GRID, Cell
from minidl.benchmark.children import Child, Contender, chosen_contenders
from minidl.benchmark.measurements import take_turns
from minidl.benchmark.results import benchmark, chosen_cells
from minidl.cli import main
from minidl.errors import ConfigError, DataError

TINY = Cell("T", (6, 5, 3), 8, 3)
NAMES = ("minidl", "minidl NumPy only", "GEMMs 1 thread", "GEMMs all cores")


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(measurements, "REST", 0.0)


def test_cells_are_data_and_weights_of_the_sizes_that_they_say():
    X, labels = TINY.samples()
    assert X.shape == (24, 6) and X.dtype == np.float32
    assert labels.shape == (24,) and set(labels) == {0, 1, 2}
    assert [W.shape for W in TINY.weights()] == [(6, 5), (5, 3)]
    assert [name for name, cell in GRID.items() if cell.name == name] == list("ABCDEFG")


def test_contenders_take_turns_in_another_order_each_time():
    calls = []
    times = take_turns(["a", "b", "c"], 20, lambda name: calls.append(name) or len(calls))
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6  # so that each follows each of the others
    assert all(calls[time - 1] == name for name in times for time in times[name])


def test_steps_are_written_with_settings_machine_and_one_figure_a_repeat(tmp_path):
    text = benchmark(
        tmp_path, parts=["steps"], cells=[TINY], contenders=NAMES, repeats=2, announce=str
    )
    assert (tmp_path / "benchmark.md").read_text() == text
    assert "| T 6-5-3, 8 |" in text and "| geometric mean |" in text
    written = json.loads((tmp_path / "steps.json").read_text())
    assert written["machine"]["cores"] and written["versions"]["numpy"] == np.__version__
    assert abs(written["cores_busy_elsewhere"]) < 1 + written["machine"]["cores"]
    cell = written["results"]["T"]
    assert cell["cell"]["sizes"] == [6, 5, 3]
    assert cell["settings"]["minidl NumPy only"]["kernels"] == "numpy"
    assert set(cell["seconds"]) == set(NAMES)
    assert all(len(times) == 2 and min(times) > 0 for times in cell["seconds"].values())


def test_a_later_part_joins_the_tables_of_the_folder(tmp_path):
    options = {"cells": [TINY], "contenders": NAMES[:1], "repeats": 1, "announce": str}
    benchmark(tmp_path, parts=["size"], **options)
    text = benchmark(tmp_path, parts=["imports"], **options)
    assert "Installed size" in text and "Import time" in text
    written = json.loads((tmp_path / "size.json").read_text())["results"]["minidl"]
    assert written["minidl"] > 100_000 and written["numpy"] > 10_000_000


def test_beside_a_busy_process_and_alone():
    results = measurements.steps(chosen_contenders(NAMES[:1]), [TINY], 1, busy=True)["T"]
    assert set(results["seconds"]) == set(results["busy_seconds"]) == {"minidl"}
    assert "beside one busy process" in tables.markdown({"busy": _part({"T": results})})


def test_predictions_and_memory():
    chosen = chosen_contenders(["minidl", "GEMMs all cores"])
    results = measurements.predictions(chosen, TINY, 1, n_rows=(1, 20))
    assert set(results) == {"1", "20"}
    assert "bare NumPy" in tables.markdown({"prediction": _part(results)})
    memory = measurements.peak_memory(chosen[:1], TINY, 1)
    assert 10_000_000 < memory["minidl"][0] < 1_000_000_000


def test_scikit_learn_trains_and_predicts_the_same_cell():
    (contender,) = chosen_contenders(["scikit-learn"])
    with Child(contender) as child:
        child.prepare(TINY)
        assert child.train(n_batches=3, warm_up=1) > 0
        assert child.predict(n_rows=4, n_in=6) > 0


def test_a_race_ends_when_the_accuracy_is_reached(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 1000).astype(np.uint8)
    x = (rng.integers(0, 256, (10, 28, 28))[y]).astype(np.uint8)  # one picture a class
    file = tmp_path / "mnist.npz"
    np.savez(file, x_train=x[:800], y_train=y[:800], x_test=x[800:], y_test=y[800:])
    chosen = chosen_contenders(["minidl", "scikit-learn"])
    results = processes.mnist_races(chosen, str(file), 0.98, 1)
    assert set(results["seconds"]) == {"minidl", "scikit-learn"}
    for name in results["seconds"]:
        assert results["epochs"][name][0] <= 2 and results["accuracy"][name][0] >= 0.98
    assert "98%" in tables.markdown({"mnist": _part(results)})


def test_ratios_are_medians_of_those_in_each_repeat():
    assert tables.ratio([1.0, 9.0, 2.0], [2.0, 3.0, 4.0]) == 0.5
    entry = {
        "cell": {"name": "T", "sizes": [6, 3], "batch_size": 8},
        "seconds": {
            "minidl": [3e-6, 3e-6],
            "scikit-learn": [6e-6, 6e-6],
            "JAX jit": [4e-6, 4e-6],
            "JAX scan": [1e-6, 1e-6],  # shown, but no rival
            "GEMMs 1 thread": [2e-6, 2e-6],
            "GEMMs all cores": [2.5e-3, 2.5e-3],
        },
    }
    text = tables.markdown({"steps": _part({"T": entry})})
    assert "| T 6-3, 8 | 3 | 6 | 4 | 1 | 2 | 2,500 |" in text
    assert "| net, batch | the best rival | scikit-learn | JAX jit | the GEMMs |" in text
    assert "| T 6-3, 8 | 0.75 | 0.50 | 0.75 | 1.50 |" in text


def test_what_a_package_needs_is_followed_without_extras():
    needed = processes._needed("scikit-learn")
    assert {"scikit-learn", "numpy", "scipy", "joblib", "threadpoolctl"} <= needed
    assert not needed & {"pytest", "matplotlib", "pandas"}


def test_a_child_that_fails_says_why():
    broken = Contender("broken", "other", "numpy", ("own",), {"PYTHONPATH": "/nowhere"})
    with pytest.raises(RuntimeError, match=r"^broken ended in 'prepare': .*at least 1"):
        with Child(broken) as child:
            child.prepare(Cell("T", (0, 3), 8, 3))


def test_contenders_that_are_not_installed_are_left_out(monkeypatch):
    ghost = Contender("ghost", "rival", "no-such-distribution", ("own",))
    monkeypatch.setattr(children, "CONTENDERS", (*children.CONTENDERS[:1], ghost))
    assert [one.name for one in chosen_contenders()] == ["minidl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["speed"]}, "'speed' is no part; these are: steps,"),
        ({"contenders": ["keras"]}, "'keras' is no contender; these are: minidl,"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        benchmark(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_wrong_cells_are_named():
    assert [cell.name for cell in chosen_cells(["C", "A"])] == ["C", "A"]
    with pytest.raises(ConfigError, match=r"^'H' is no cell; these are: A, B,"):
        chosen_cells(["A", "H"])


def test_a_missing_mnist_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"mnist\.npz: no such file; set MINIDL_DATA_DIR"):
        benchmark(tmp_path / "out", parts=["size", "mnist"], announce=str)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_tables(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["bench", "--only", "size", "--contenders", "minidl", "--out", out]) == 0
    assert capsys.readouterr().out.startswith("### Installed size")
    assert main(["bench", "--only", "speed", "--out", out]) == 2


def _part(results):
    machine = {"processor": "P", "cores": 2, "python": sys.version.split()[0]}
    return {
        "machine": machine,
        "versions": {"numpy": "2"},
        "repeats": 1,
        "cores_busy_elsewhere": 0.125,
        "results": results,
    }
