from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from minidl import SGD, Linear, ReLU, Sequential, SoftmaxCrossEntropy
from minidl.data.preprocessing import PREPROCESSINGS
from minidl.layers import BatchNorm, Dropout, LayerNorm, ParametricMix, Residual, Scale, Tanh
from minidl.model import GROUP_NAMES, walk
from minidl.predictor import Predictor, load


def build(dtype=np.float32, seed=0):
    """Weights, biases, scales, running statistics and noise, also within other layers."""
    rng = np.random.default_rng(seed)
    model = Sequential(
        [
            Linear(4, 6, rng=rng, dtype=dtype),
            BatchNorm(6, dtype=dtype),
            ReLU(),
            Residual(
                [
                    Linear(6, 5, rng=rng, bias=False, dtype=dtype),
                    ParametricMix(5, "tanh", dtype=dtype),
                    Residual([LayerNorm(5, dtype=dtype), Dropout(0.3, rng=rng)]),
                    Linear(5, 6, rng=rng, dtype=dtype),
                ]
            ),
            Scale(6, dtype=dtype),
            Linear(6, 3, rng=rng, dtype=dtype),
        ]
    )
    model.params[:] += rng.normal(0, 0.1, model.params.size)  # nothing stays 0 or 1
    return model


def step(model, optimizer=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, 4)).astype(model.dtype)
    _, dlogits = SoftmaxCrossEntropy()(model.forward(x), rng.integers(0, 3, 8))
    model.backward(dlogits)
    (optimizer or SGD(0.1)).step(model.params, model.grads)
    return model


def loaded(model, folder):
    fitted = PREPROCESSINGS["none"]().fit(np.zeros((1, 4)))
    Predictor(model, SoftmaxCrossEntropy(), fitted, 4, "abc").save(folder / "model.npz")
    return load(folder / "model.npz").model


LIVES = {
    "after init": lambda model, folder: model,
    "after a step": lambda model, folder: step(model),
    "deep copy": lambda model, folder: copy.deepcopy(model),
    "shallow copy": lambda model, folder: copy.copy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "pickle of a deep copy": lambda m, folder: pickle.loads(pickle.dumps(copy.deepcopy(m))),
    "replica": lambda model, folder: model.replica(),
    "replica of a replica": lambda model, folder: step(step(model).replica()).replica(),
    "pickle of a replica": lambda model, folder: pickle.loads(pickle.dumps(model.replica())),
    "load": loaded,
}


def assert_views(model):
    """What is written to a vector is read from the layers: every entry of it, once."""
    layers = list(walk(model.layers))
    for vector, prefix, names in (
        (model.params, "", "param_names"),
        (model.grads, "d", "param_names"),
        (model.buffers, "", "buffer_names"),
    ):
        assert vector.ndim == 1 and vector.flags.c_contiguous and vector.dtype == model.dtype
        before = vector.copy()
        vector[:] = np.arange(vector.size)
        views = [getattr(one, prefix + name) for one in layers for name in getattr(one, names)]
        seen = np.concatenate([view.ravel() for view in views])
        assert np.array_equal(np.sort(seen), np.arange(vector.size))
        for view in views:
            view[:] = -1
        assert np.all(vector == -1)
        vector[:] = before


@pytest.mark.parametrize("life", LIVES)
def test_layers_are_views_of_the_vectors(life, tmp_path):
    model = build()
    other = LIVES[life](model, tmp_path)
    assert_views(other)
    assert_views(model)
    assert_views(step(other))


@pytest.mark.parametrize("life", ["deep copy", "shallow copy", "pickle"])
def test_a_copy_trains_as_the_original_and_leaves_it_alone(life, tmp_path):
    model = step(build())
    twin = LIVES[life](model, tmp_path)
    before = model.params.copy(), model.buffers.copy()
    step(twin)
    assert np.array_equal(model.params, before[0]) and np.array_equal(model.buffers, before[1])
    step(model)
    assert not np.array_equal(model.params, before[0])
    assert np.array_equal(model.params, twin.params)
    assert np.array_equal(model.buffers, twin.buffers)


def test_a_loaded_model_has_the_parameters_and_the_statistics(tmp_path):
    model = step(build())
    twin = loaded(model, tmp_path)
    assert np.array_equal(twin.params, model.params)
    assert np.array_equal(twin.buffers, model.buffers)


def test_a_replica_shares_parameters_and_nothing_else():
    model = build()
    twin = model.replica()
    assert twin.params is model.params
    assert not np.shares_memory(twin.grads, model.grads)
    assert not np.shares_memory(twin.buffers, model.buffers)
    assert not {id(layer) for layer in walk(twin.layers)} & {id(x) for x in walk(model.layers)}
    params, buffers, grads = model.params.copy(), model.buffers.copy(), model.grads.copy()
    rng = np.random.default_rng(1)
    twin.forward(rng.normal(size=(8, 4)))
    with pytest.raises(RuntimeError, match="needs a forward"):
        model.backward(np.ones((8, 3), np.float32))  # what the replica saved is its own
    twin.backward(np.ones((8, 3), np.float32))
    assert np.array_equal(model.params, params)
    assert np.array_equal(model.buffers, buffers) and np.array_equal(model.grads, grads)
    assert np.any(twin.grads != grads) and np.any(twin.buffers != buffers)


def test_a_replica_keeps_what_is_in_the_vector():
    model = build()
    before = model.params.copy(), model.buffers.copy()
    twin = model.replica()
    assert np.array_equal(model.params, before[0])
    assert np.array_equal(twin.buffers, before[1])


def test_groups_tile_the_vector_weights_first():
    model = build()
    assert [group.name for group in model.groups] == list(GROUP_NAMES)
    ends = [0]
    for group in model.groups:
        assert group.slice.start == ends[-1]
        ends.append(group.slice.stop)
    assert ends[-1] == model.params.size
    assert [group.decays for group in model.groups] == [True, False, False]
    model.params[:] = np.repeat([0, 1, 2], np.diff(ends))
    for name, view in model.named_parameters():
        kind = 0 if name.endswith("W") else 1 if name.endswith(("b", "beta")) else 2
        assert np.all(view == kind), name


def test_parameters_are_named_by_the_path_to_their_layer():
    model = build()
    named = dict(model.named_parameters())
    expected = ["0.W", "0.b", "1.gamma", "1.beta", "3.0.W", "3.1.a", "3.2.0.gamma", "3.2.0.beta"]
    assert list(named) == [*expected, "3.3.W", "3.3.b", "4.gamma", "5.W", "5.b"]
    assert sum(view.size for view in named.values()) == model.params.size
    assert named["3.0.W"] is model.layers[3].layers[0].W


def test_group_settings_reach_their_group():
    groups = build().parameter_groups({"biases": 2.0}, max_norm=3.0)
    assert [group.learning_rate_multiplier for group in groups] == [1, 2, 1]
    assert [group.max_norm for group in groups] == [3, None, None]
    with pytest.raises(ValueError, match=r"^learning_rate_multipliers names \['bias'\]"):
        build().parameter_groups({"bias": 2.0})


def test_the_values_of_the_layers_are_kept_when_they_are_adopted():
    rng = np.random.default_rng(0)
    layers = [Linear(3, 4, rng=rng), Tanh(), Linear(4, 2, rng=rng)]
    layers[0].b[:] = 7
    W, b = layers[0].W.copy(), layers[0].b.copy()
    model = Sequential(layers)
    assert np.array_equal(model.layers[0].W, W) and np.array_equal(model.layers[0].b, b)
    assert model.layers[0] is layers[0]


def test_forward_and_backward_are_those_of_the_layers_in_turn():
    rng = np.random.default_rng(0)
    a, b = Linear(3, 4, rng=rng, dtype=np.float64), Linear(4, 2, rng=rng, dtype=np.float64)
    x, dy = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    W, V = a.W.copy(), b.W.copy()
    model = Sequential([a, Tanh(), b])
    y = model.forward(x)
    h = np.tanh(x @ W)
    assert np.allclose(y, h @ V, rtol=1e-13)
    dx = model.backward(dy, need_dx=True)
    dh = dy @ V.T * (1 - h**2)
    assert np.allclose(dx, dh @ W.T, rtol=1e-12)
    assert np.allclose(a.dW, x.T @ dh, rtol=1e-12) and np.allclose(b.dW, h.T @ dy, rtol=1e-12)
    grads = model.grads.copy()
    model.forward(x)
    assert model.backward(dy) is None
    assert np.array_equal(model.grads, grads)  # overwritten, not added to


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inputs_of_any_dtype_give_outputs_of_the_models(dtype):
    model = build(dtype)
    for x in (np.arange(8, dtype=np.uint8).reshape(2, 4), np.ones((2, 4)), np.ones((2, 4), "f4")):
        assert model.forward(x, train=False).dtype == dtype
    assert model.dtype == dtype and model.input_size == 4


def test_an_l2_penalty_is_on_weights_only():
    model = build(np.float64)
    model.grads[:] = 0
    penalty = model.add_l2(0.3)
    weights = model.groups[0].slice
    assert penalty == pytest.approx(0.15 * np.sum(model.params[weights] ** 2), rel=1e-13)
    assert np.array_equal(model.grads[weights], 0.3 * model.params[weights])
    assert not model.grads[weights.stop :].any()


def test_a_layer_belongs_to_one_model():
    shared = linear(3, 3)
    first = Sequential([shared, ReLU()])
    with pytest.raises(ValueError, match=r"layer 1.0 \(Linear\) belongs to another model"):
        Sequential([ReLU(), Residual([shared])])
    assert Sequential([copy.deepcopy(shared)]).params.size == first.params.size
    pickle.loads(pickle.dumps(first))
    del first
    Sequential([shared])


@pytest.mark.parametrize("shape", [(3,), (2, 3, 1)])
def test_rows_are_two_dimensional(shape):
    with pytest.raises(ValueError, match=r"x must be an array \(n_samples, n_in\), got shape"):
        Sequential([linear(3, 3)]).forward(np.zeros(shape, np.float32))


def linear(n_in, n_out, dtype=np.float32):
    return Linear(n_in, n_out, rng=np.random.default_rng(0), dtype=dtype)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [], "layers must not be empty"),
        (lambda: [linear(3, 3)] * 2, "layers must be different objects: one is used twice"),
        (
            lambda: [shared := linear(3, 3), Residual([Residual([shared])])],
            "layers must be different objects: one is used twice",
        ),
        (
            lambda: [linear(4, 6), ReLU(), linear(5, 3)],
            r"layer 2 \(Linear\): takes 5 features, but is given 6",
        ),
        (
            lambda: [linear(4, 6), Residual([linear(5, 5)])],
            r"layer 1 \(Residual\): takes 5 features, but is given 6",
        ),
        (
            lambda: [ReLU(), linear(4, 6), BatchNorm(7)],
            r"layer 2 \(BatchNorm\): takes 7 features, but is given 6",
        ),
        (
            lambda: [linear(4, 6), linear(6, 2, np.float64)],
            r"layers must have one dtype, got \['float32', 'float64'\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(layers, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Sequential(layers())


def test_the_summary_counts_parameters_and_products():
    summary = build().summary()
    assert summary.splitlines()[1].split() == ["0", "Linear", "(n,", "6)", "30", "24"]
    inside = 6 * 5 + 5 + 5 * 2 + 5 * 6 + 6
    assert summary.splitlines()[4].split() == ["3", "Residual", "(n,", "6)", str(inside), "60"]
    assert summary.splitlines()[-1].split() == ["total", str(build().params.size), "102"]


def test_a_model_of_activations_alone_takes_any_size():
    model = Sequential([ReLU(), Tanh()])
    assert model.params.size == 0 and model.input_size is None
    assert model.forward(np.ones((2, 9), np.float32)).shape == (2, 9)
    assert "(n, any)" in model.summary()
