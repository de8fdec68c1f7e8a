"""Random honest models: stacks of all layers, all preprocessings, losses and kinds of labels."""

from __future__ import annotations

import numpy as np

from minidl import Predictor, Sequential
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.data.schema import Schema
from minidl.layers import LAYERS
from minidl.layers.activations import ACTIVATIONS
from minidl.losses import LOSSES
from minidl.optimizers import OPTIMIZERS
from minidl.specs import build_layers, made_from

OPTIONS = {
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 0.7},
    "gelu": {"approximate": "tanh"},
    "dropout": {"p": 0.3},
    "gaussian_noise": {"std": 0.2},
    "batch_norm": {"momentum": 0.3, "eps": 1e-3},
    "layer_norm": {"eps": 1e-4},
    "rms_norm": {"eps": 1e-4},
}
TABULAR = ("smooth_clip", "quantile", "piecewise_linear", "table_features")


def layer_list(rng, depth=0, keeps_size=False):
    """A list as in a config's `model`, without the last linear layer."""
    specs = []
    for _ in range(rng.integers(1, 5)):
        name = str(rng.choice(list(LAYERS)))
        if name == "residual":
            if depth < 2:
                specs.append({"name": name, "layers": layer_list(rng, depth + 1, True)})
            continue
        spec = {"name": name}
        if name == "linear":
            if keeps_size:
                continue
            spec |= {"n_out": int(rng.integers(1, 12)), "bias": bool(rng.integers(2))}
        elif name == "parametric":
            spec["activation"] = str(rng.choice(list(ACTIVATIONS)))
        elif rng.integers(2):
            spec |= OPTIONS.get(name, {})
        specs.append(spec)
    return specs or [{"name": "tanh"}]


def model_list(rng):
    """A list whose last linear layer may be followed by layers that keep its size."""
    tail = layer_list(rng, keeps_size=True) if rng.integers(2) else []
    return [*layer_list(rng), {"name": "linear", "n_out": "auto"}, *tail]


DATA = {  # the data sets, and the losses that fit them
    "iris": ["softmax_cross_entropy"],
    "breast_cancer": ["softmax_cross_entropy", "sigmoid_cross_entropy"],
    "multilabel_classification": ["sigmoid_cross_entropy"],
    "linnerud": ["mse", "mae", "huber", "quantile", "poisson"],
}


def config(rng):
    """A random honest config, as a map."""
    data = str(rng.choice(list(DATA)))
    preprocessings = [name for name in PREPROCESSINGS if name != "table_features"]
    train = {"optimizer": str(rng.choice(list(OPTIMIZERS))), "epochs": 1, "batch_size": 16}
    train |= {"dtype": str(rng.choice(["float32", "float64"]))}
    train |= [{}, {"ema": 0.9}, {"shards": 2}, {"max_norm": 2.0}][rng.integers(4)]
    return {
        "seed": int(rng.integers(1000)),
        "data": {"name": data, "preprocessing": str(rng.choice(preprocessings))},
        "model": model_list(rng),
        "loss": {"name": str(rng.choice(DATA[data]))},
        "train": train,
    }


def rows(rng, n, n_features, tabular):
    """Rows, and for a table the labels of its columns of categories."""
    X = rng.normal(size=(n, n_features)) * rng.uniform(0.1, 10, n_features)
    if not tabular:
        return X, None
    categories = [() if rng.integers(2) else ("a", "b", "ü c") for _ in range(n_features)]
    for j, labels in enumerate(categories):
        if labels:
            X[:, j] = rng.integers(0, 3, n)
    X[rng.random(X.shape) < 0.1] = np.nan
    return X, categories


def predictor(rng, specs=None):
    """Return a random predictor, with statistics that are not those of the start, and raw rows."""
    name = str(rng.choice(list(PREPROCESSINGS)))
    n_features = int(rng.integers(1, 8))
    X, categories = rows(rng, 40, n_features, name in TABULAR)
    options = {}
    if name == "table_features" or categories is not None:
        names = [f"name {i}" for i in range(n_features)]
        options = {"schema": Schema.plain(names, categories)}
    fitted = PREPROCESSINGS[name](**options).fit(X)
    loss_name = str(rng.choice(list(LOSSES)))
    task, n_outputs, classes = LOSSES[loss_name].task, int(rng.integers(1, 5)), None
    if task == "multilabel":
        classes = [False, True] if n_outputs == 1 else list(range(n_outputs))
    elif task == "classification":
        classes = [
            ["ja", "nein", "vielleicht", "x" * 500, "é"],
            [3, 1, 4, 15, 9],
            [0.5, 2, 1.5, 7, -1],
            np.arange("2020-01-01", "2020-01-06", dtype="M8[D]").astype("M8[ns]"),
        ][rng.integers(4)][:n_outputs]
    loss = {"name": loss_name}
    if "center" in LOSSES[loss_name].__dataclass_fields__ and rng.integers(2):
        loss |= {"center": rng.normal(size=n_outputs).tolist(), "scale": [2.0] * n_outputs}
    layers = build_layers(
        model_list(rng) if specs is None else specs,
        fitted.n_out,
        n_outputs,
        init=np.random.default_rng(int(rng.integers(1000))),
        noise=np.random.default_rng(0),
        dtype=np.dtype(str(rng.choice(["float32", "float64"]))),
    )
    model = Sequential(layers)
    model.params += (0.1 * rng.normal(size=model.params.size)).astype(model.dtype)
    model.buffers[:] = rng.uniform(0.5, 2, model.buffers.size)
    names = [f" name {i}" for i in range(n_features)] if rng.integers(2) else None
    whole = Predictor(model, made_from(loss, LOSSES), fitted, n_features, classes, names)
    return whole, as_given(X, categories)


def as_given(X, categories):
    """Rows with labels in place of their codes."""
    if not categories or not any(categories):
        return X
    given = X.astype(object)
    for j, labels in enumerate(categories):
        if labels:
            given[:, j] = [None if x != x else labels[int(x)] for x in X[:, j]]
    return given
