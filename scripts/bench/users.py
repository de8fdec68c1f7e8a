"""What users of the estimators wait for: fits, and predictions of one row and of many.

Each case is a few calls that do the same work, which take turns in this process.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits, load_iris
from sklearn.neural_network import MLPClassifier as Theirs

from bench.measurements import Plan, Results, take_turns
from minidl import Linear, ReLU, Sequential, SoftmaxCrossEntropy, load, save
from minidl.estimators import MLPClassifier
from minidl.export import export_model

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

SHORTEST = 0.05  # seconds; a call is repeated for at least this long
Calls = dict[str, Callable[[], Any]]
NETS = ((20, 64, 2), (784, 256, 10))


def measure(cases: Callable[[], Iterator[tuple[str, Calls]]], plan: Plan) -> Results:
    """Return the seconds of each call, {case: {contender: [...]}}."""
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit of a few epochs has not converged
        for case, calls in cases():
            timed = {name: partial(_seconds, call) for name, call in calls.items()}
            results[case] = take_turns(timed, plan.repeats)
    return results, {}


def fits() -> Iterator[tuple[str, Calls]]:
    """Yield the same epochs of both MLPs; of L-BFGS the same number of iterations at most."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((100_000, 50))
    columns = rng.integers(0, 10_000, 5000 * 100)  # a hundred in each row, few of them twice
    values = rng.standard_normal(columns.size), columns, np.arange(0, columns.size + 1, 100)
    sparse = csr_matrix(values, (5000, 10_000))
    data = {
        "iris": (load_iris(return_X_y=True), 100),
        "digits": (load_digits(return_X_y=True), 10),
        "dense 100,000 x 50": ((dense, dense[:, 0] > 0), 2),
        "CSR 5,000 x 10,000": ((sparse, rng.integers(0, 2, 5000)), 2),
    }
    for name, dtype, solver in product(data, ("float64", "float32"), ("adam", "sgd", "lbfgs")):
        (X, y), epochs = data[name]
        options = {"solver": solver, "max_iter": epochs, "tol": 0.0, "random_state": 0}
        both = {"minidl": MLPClassifier, "scikit-learn": Theirs}
        rows = X.astype(dtype), y
        calls = {who: partial(_fit, make, options, *rows) for who, make in both.items()}
        yield f"{name}, {solver}, {dtype}", calls


def predictions(nets: Any = NETS, rows: Any = (1, 1000)) -> Iterator[tuple[str, Calls]]:
    """Yield `predict_proba` of what `load` returns, of the estimators, and onnxruntime's."""
    rng = np.random.default_rng(0)
    for n_in, n_hidden, n_classes in nets:
        X = rng.standard_normal((1000, n_in)).astype(np.float32)
        y = np.arange(1000) % n_classes
        options = {"hidden_layer_sizes": (n_hidden,), "max_iter": 1, "random_state": 0}
        estimator, theirs = MLPClassifier(**options).fit(X, y), Theirs(**options).fit(X, y)
        layers = [Linear(n_in, n_hidden, rng=0), ReLU(), Linear(n_hidden, n_classes, rng=0)]
        with tempfile.TemporaryDirectory() as folder:
            file, onnx = Path(folder, "model.npz"), Path(folder, "model.onnx")
            save(Sequential(layers), SoftmaxCrossEntropy(), file)
            loaded, session = load(file), None
            if onnxruntime is not None:
                export_model(loaded, onnx, "onnx")
                session = onnxruntime.InferenceSession(onnx)
        for n in rows:
            x = X[:n]
            calls = {
                "minidl": partial(loaded.predict_proba, x),
                "minidl's estimator": partial(estimator.predict_proba, x),
                "scikit-learn": partial(theirs.predict_proba, x),
            }
            if session is not None:
                names = [session.get_outputs()[-1].name], session.get_inputs()[0].name
                calls["onnxruntime"] = partial(session.run, names[0], {names[1]: x})
            yield f"{n_in}-{n_hidden}-{n_classes}, {n:,} rows", calls


def _fit(make: Any, options: dict[str, Any], X: Any, y: Any) -> Any:
    return make(**options).fit(X, y)


def _seconds(call: Callable[[], Any]) -> float:
    """Seconds a call; the first one counts only where it takes long."""
    started = time.perf_counter()
    call()
    if (elapsed := time.perf_counter() - started) > SHORTEST:
        return elapsed
    n_calls, elapsed, started = 0, 0.0, time.perf_counter()
    while elapsed < SHORTEST:
        call()
        n_calls += 1
        elapsed = time.perf_counter() - started
    return elapsed / n_calls
