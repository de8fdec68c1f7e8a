import json
from dataclasses import asdict

import benchmark as script
import numpy as np
import pytest
from bench import measurements, results, scaling, users
from bench.cells import GRID, Cell, Problem, he_normal
from bench.child import quarter
from bench.contenders import CONTENDERS, Contender
from bench.measurements import Plan, take_turns
from bench.results import benchmark

from minidl import OneCycle

TINY = Cell("T", (6, 5, 3), 8, 3)
NAMES = ("minidl", "minidl NumPy only", "GEMMs 1 thread", "GEMMs all cores")
MINIDL = [CONTENDERS["minidl"]]


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(measurements, "REST", 0.0)


def test_cells_are_data_and_weights_of_the_sizes_that_they_say():
    problem = TINY.problem()
    assert problem.X.shape == (24, 6) and problem.X.dtype == np.float32
    assert problem.y.shape == (24,) and set(problem.y) == {0, 1, 2}
    assert [W.shape for W in problem.weights] == [(6, 5), (5, 3)]
    assert problem.steps_per_epoch == 3 and problem.rates(7, 2) == [1e-3, 1e-3]
    assert [name for name, cell in GRID.items() if cell.name == name] == list("ABCDEFG")


def test_the_learning_rates_of_the_race_are_those_of_a_cycle():
    X, y = np.zeros((40, 6), np.float32), np.zeros(40, np.int64)
    problem = Problem(X, y, he_normal((6, 5, 3)), 4, learning_rate=0.1, epochs=3)
    factors = [OneCycle(peak=0.2).factor(step, 30, 10) for step in range(30)]
    rates = problem.rates(0, 10) + problem.rates(10, 20)
    assert rates == pytest.approx([0.1 * factor for factor in factors])


def test_contenders_take_turns_in_another_order_each_time():
    calls = []
    turns = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    times = take_turns(turns, 20)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6  # so that each follows each of the others
    assert all(calls[time - 1] == name for name in times for time in times[name])


def test_steps_are_written_and_a_later_part_joins_their_tables(tmp_path):
    plan = Plan([CONTENDERS[name] for name in NAMES], [TINY], 2)
    assert "One training step" in benchmark(tmp_path, plan, ["steps"], str)
    text = benchmark(tmp_path, Plan(MINIDL, [TINY], 1), ["imports"], str)
    assert (tmp_path / "benchmark.md").read_text() == text
    assert "| T 6-5-3, 8 |" in text and "Import time" in text
    written = json.loads((tmp_path / "steps.json").read_text())
    assert written["machine"]["cores"] and written["versions"]["numpy"] == np.__version__
    assert abs(written["cores_busy_elsewhere"]) < 1 + written["machine"]["cores"]
    settings = written["notes"]
    assert settings["minidl NumPy only"]["kernels"] == "numpy"
    assert settings["minidl"]["blas"] in text  # name, version and kernel
    (seconds,) = written["results"].values()
    assert set(seconds) == set(NAMES)
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())


def test_beside_a_busy_process_and_alone():
    found, _ = measurements.busy(Plan([*MINIDL, CONTENDERS["GEMMs 1 thread"]], [TINY], 2))
    assert found["T 6-5-3, 8"].keys() == {"minidl"}
    assert all(0 < ratio < 1000 for ratio in found["T 6-5-3, 8"]["minidl"])


def test_growth_of_time_and_memory():
    found, _ = measurements.growth(Plan(MINIDL, repeats=1), [TINY])
    assert 10 < found["T 6-5-3, 8"]["peak memory, MB"][0] < 1000
    assert "| T 6-5-3, 8 |" in results.markdown({"growth": _part(found)})


def test_predictions_take_turns_in_one_process(monkeypatch):
    monkeypatch.setattr(users, "SHORTEST", 0.0)
    cases = users.predictions([(6, 5, 3)], [1, 20])
    found, _ = users.measure(lambda: cases, Plan([], repeats=2))
    assert list(found) == ["6-5-3, 1 rows", "6-5-3, 20 rows"]
    for times in found.values():
        assert {"minidl", "minidl's estimator", "scikit-learn"} <= set(times)
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())
    assert "| geometric mean |" in results.markdown({"prediction": _part(found)})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_are_the_same_work_for_each_contender():
    case, calls = next(users.fits())
    ours, theirs = calls["minidl"](), calls["scikit-learn"]()
    assert case == "iris, adam, float64" and ours.n_iter_ == theirs.n_iter_ == 100
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=0.1)


def test_an_input_of_the_race_is_the_sum_of_four_pixels():
    images = np.random.default_rng(0).integers(0, 256, (1001, 28, 28)).astype(np.uint8)
    sums = images.reshape(-1, 14, 2, 14, 2).sum(axis=(2, 4))
    assert np.array_equal(quarter(images), sums.reshape(-1, 196))


def test_a_race_ends_when_the_accuracy_is_reached(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 1000).astype(np.uint8)
    x = (rng.integers(0, 256, (10, 28, 28))[y]).astype(np.uint8)  # one picture a class
    file = tmp_path / "mnist.npz"
    np.savez(file, x_train=x[:800], y_train=y[:800], x_test=x[800:], y_test=y[800:])
    chosen = [*MINIDL, CONTENDERS["scikit-learn"]]
    found, ends = measurements.races(Plan(chosen, repeats=1, mnist=file))
    (seconds,) = found.values()
    assert seconds.keys() == ends.keys() == {"minidl", "scikit-learn"}
    assert all(end["accuracy"] >= 0.98 for end in ends.values())
    assert ends["minidl"]["epochs"] == 4 <= ends["scikit-learn"]["epochs"] < 15
    assert "98 %" in results.markdown({"mnist": _part(found, ends)})


def test_ratios_are_medians_of_those_in_each_repeat():
    times = {
        "minidl": [3e-6, 3e-6, 9e-6],
        "scikit-learn": [6e-6, 6e-6, 3e-6],
        "JAX jit": [4e-6, 4e-6, 4e-6],
        "JAX scan": [1e-6, 1e-6, 1e-6],
        "GEMMs all cores": [2.5e-3, 2.5e-3, 2.5e-3],
    }
    settings = {"minidl": {"blas": "openblas 0.3 Zen"}, "JAX jit": {"blas": "Eigen"}}
    part = _part({"T 6-3, 8": times, "U 6-3, 8": times}, settings)
    text = results.markdown({"steps": part})
    assert "| GEMMs all cores | minidl by the best rival | without JAX scan |" in text
    assert "| T 6-3, 8 | 3 | 6 | 4 | 1 | 2,500 | 3.00 | 0.75 |" in text
    assert "| geometric mean |  |  |  |  |  | 3.00 | 0.75 |" in text
    assert "- minidl: {'blas': 'openblas 0.3 Zen'}\n- JAX jit: {'blas': 'Eigen'}" in text
    assert "Set in the environment: OPENBLAS_CORETYPE=Haswell." in text
    assert "NumPy's BLAS runs the code for SkylakeX." in text


def test_a_child_that_fails_says_why(capfd):
    with pytest.raises(RuntimeError, match=r"^minidl ended; its error stands above$"):
        with CONTENDERS["minidl"].at_work() as ask:
            ask(asdict(Cell("T", (0, 3), 8, 3)))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_contenders_that_cannot_run_have_no_version():
    assert Contender("ghost", "no-such-distribution", ("own",)).version is None
    assert Contender("toolless", "numpy", ("own",), tool="no-such-compiler").version is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "speed"], "invalid choice: 'speed' (choose from"),
        (["--cells", "A", "H"], "invalid choice: 'H' (choose from"),
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


def test_the_script_prints_the_tables_and_names_a_blas_kernel_that_was_set(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setattr("shutil.which", lambda name: None)
    command = "--contenders minidl torch.compile --only imports --repeats 1 --out".split()
    assert script.main([*command, str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("### Import time") and "left out: torch.compile" in err
    assert "OPENBLAS_CORETYPE=Haswell is set" in err


def test_disk_and_memory_take_turns(monkeypatch):
    monkeypatch.setattr(scaling, "DISK_STEPS", 2)
    monkeypatch.setattr(scaling, "DISK_SIZES", [(6, 3)])
    found, _ = scaling.disk(Plan([], repeats=2))
    assert all(len(each) == 2 and min(each) > 0 for each in found["6-3"].values())
    assert "| 6-3 |" in results.markdown({"disk": _part(found)})


def _part(found, notes=None):
    machine = {"processor": "P", "cores": 2, "python": "3", "blas_core": "SkylakeX"}
    return {
        "machine": machine,
        "environment": {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": None},
        "versions": {"numpy": "2"},
        "repeats": 1,
        "cores_busy_elsewhere": 0.125,
        "results": found,
        "notes": notes or {},
    }
