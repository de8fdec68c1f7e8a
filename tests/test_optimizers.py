from __future__ import annotations

import copy
import functools
import math
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from minidl import LayerNorm, Linear, ReLU, Sequential, SoftmaxCrossEntropy, fit
from minidl.best import BestWeights
from minidl.groups import ParameterGroup
from minidl.layers import Sigmoid, Tanh
from minidl.optimizers import OPTIMIZERS, SGD, Adam, AdamW, RMSprop

N = 150_003  # several blocks, and a last one that is not full
N_WEIGHTS = 100_001
SEEN = [*range(0, N, 5003), 65535, 65536, N_WEIGHTS - 1, N_WEIGHTS, N - 1]
STEPS = 20


# The rules in the textbook's own words: one number, one step; `a` holds the running averages.


def sgd(p, g, a, t, rate, decay, o):
    d = g + decay * p
    v = a["v"] = o.momentum * a.get("v", 0.0) + d
    return p - rate * (d + o.momentum * v if o.nesterov else v)


def adam(p, g, a, t, rate, decay, o):
    return p - rate * adam_direction(g + decay * p, a, t, o)


def adamw(p, g, a, t, rate, decay, o):
    return p - rate * decay * p - rate * adam_direction(g, a, t, o)


def adam_direction(d, a, t, o):
    m = a["m"] = o.beta1 * a.get("m", 0.0) + (1 - o.beta1) * d
    v = a["v"] = o.beta2 * a.get("v", 0.0) + (1 - o.beta2) * d * d
    return math.sqrt(1 - o.beta2**t) / (1 - o.beta1**t) * m / (math.sqrt(v) + o.eps)


def rmsprop(p, g, a, t, rate, decay, o):
    d = g + decay * p
    v = a["v"] = o.decay * a.get("v", 0.0) + (1 - o.decay) * d * d
    return p - rate * d / (math.sqrt(v) + o.eps)


RULES = {
    "sgd": (SGD, sgd, {}),
    "momentum": (SGD, sgd, {"momentum": 0.9}),
    "nesterov": (SGD, sgd, {"momentum": 0.9, "nesterov": True}),
    "adam": (Adam, adam, {"beta2": 0.95}),
    "adamw": (AdamW, adamw, {}),
    "rmsprop": (RMSprop, rmsprop, {}),
}
SETTINGS = {
    "bare": {},
    "decay": {"weight_decay": 0.1},
    "clip norm": {"clip_grad_norm": 30.0},
    "clip value": {"clip_grad_value": 0.1},
    "all": {"weight_decay": 0.1, "clip_grad_norm": 30.0, "clip_grad_value": 0.1},
}


@functools.cache
def gradients(t, size=N):
    return np.random.default_rng(t).normal(0, 0.3, size)


def textbook(rule, optimizer, start, groups):
    """What becomes of the entries SEEN of `start` in STEPS steps."""
    p, averages = [float(start[i]) for i in SEEN], [{} for _ in SEEN]
    for t in range(1, STEPS + 1):
        g = gradients(t)
        norm, bound = math.sqrt(np.sum(g * g)), optimizer.clip_grad_norm
        scale = 1.0 if bound is None else min(1.0, bound / norm)
        for k, i in enumerate(SEEN):
            group = next(group for group in groups if group.slice.start <= i < group.slice.stop)
            d = float(g[i]) * scale
            if (most := optimizer.clip_grad_value) is not None:
                d = min(max(d, -most), most)
            rate = 0.01 * t * group.learning_rate_multiplier
            decay = optimizer.weight_decay if group.decays else 0.0
            p[k] = rule(p[k], d, averages[k], t, rate, decay, optimizer)
    return np.array(p)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_textbook(rule, settings, dtype, tolerance):
    kind, written_out, options = RULES[rule]
    groups = (
        ParameterGroup("weights", slice(0, N_WEIGHTS)),
        ParameterGroup("biases", slice(N_WEIGHTS, N), decays=False, learning_rate_multiplier=0.5),
    )
    optimizer = kind(**options, **SETTINGS[settings], groups=groups)
    start = np.random.default_rng(0).normal(size=N)
    params, grads = start.astype(dtype), np.empty(N, dtype)
    for t in range(1, STEPS + 1):
        grads[:] = given = gradients(t).astype(dtype)
        optimizer.step(params, grads, 0.01 * t)
        assert np.array_equal(grads, given)  # left as they were
    expected = textbook(written_out, optimizer, start, groups)
    assert params.dtype == dtype
    assert np.allclose(params[SEEN], expected, rtol=tolerance, atol=tolerance)
    assert not np.allclose(params[SEEN], start[SEEN], rtol=0.01)


def everything(n):
    return [ParameterGroup("all", slice(0, n))]


@pytest.mark.parametrize("rule", RULES)
def test_one_group_for_everything_and_the_rate_is_the_optimizers(rule):
    kind, written_out, options = RULES[rule]
    optimizer = kind(learning_rate=0.03, weight_decay=0.2, groups=everything(2), **options)
    params = np.array([1.0, -2.0])
    optimizer.step(params, np.array([0.5, 0.1]))
    expected = [
        written_out(p, g, {}, 1, 0.03, 0.2, optimizer) for p, g in ((1.0, 0.5), (-2.0, 0.1))
    ]
    assert np.allclose(params, expected, rtol=1e-14)


@pytest.mark.parametrize("rule", RULES)
def test_going_on_from_a_state_gives_the_same_bits(rule):
    kind, _, options = RULES[rule]
    whole, first, second = (kind(groups=everything(1000), **options) for _ in range(3))
    a = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    b, grads = a.copy(), np.empty_like(a)
    second.restore(first.state())  # of an optimizer that has made no step
    for t in range(10):
        grads[:] = gradients(t, 1000)
        whole.step(a, grads)
        stage = first if t < 5 else second
        stage.step(b, grads)
        if t == 4:
            state = first.state()
            second.restore(state)
            for array in state.values():  # what was restored is a copy
                if isinstance(array, np.ndarray):
                    array[:] = np.nan
    assert np.array_equal(a, b)
    assert second.n_steps == 10


def test_averages_of_another_model_are_refused():
    optimizer = SGD(momentum=0.9)
    optimizer.step(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match=r"params must be of the shape of the velocity so far"):
        optimizer.step(np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="params and grads must be 1-D and of equal shape"):
        SGD().step(np.ones(3), np.ones(2))


def two_layers(max_norm=None, **multipliers):
    rng = np.random.default_rng(0)
    model = Sequential([Linear(5, 4, rng=rng), ReLU(), Linear(4, 3, rng=rng)])
    model.params[:] = rng.normal(size=model.params.size)
    return model, model.parameter_groups(multipliers, max_norm)


COPIES = {
    "as it is": lambda pair: pair,
    "deep copy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
}


@pytest.mark.parametrize("how", COPIES)
def test_max_norm_bounds_the_incoming_weights_of_each_unit(how):
    model, groups = two_layers(max_norm=2.2)
    model, optimizer = COPIES[how]((model, SGD(0.1, groups=groups)))
    model.grads[:] = gradients(0, model.grads.size)
    free, (_, biases, _) = model.params - 0.1 * model.grads, model.groups
    optimizer.step(model.params, model.grads)
    start, seen = 0, set()
    for layer in (model.layers[0], model.layers[2]):
        W = free[start : start + layer.W.size].reshape(layer.W.shape)
        start += W.size
        norms = np.linalg.norm(W, axis=0)
        assert np.allclose(layer.W, W * np.minimum(1, 2.2 / norms), rtol=1e-6)
        short = norms < 2.2
        seen.update(short.tolist())
        assert np.array_equal(layer.W[:, short], W[:, short].astype(np.float32))
    assert seen == {True, False}
    assert np.allclose(model.params[biases.slice], free[biases.slice], rtol=1e-6)


def test_a_multiplier_of_zero_leaves_a_group_as_it_is():
    model, groups = two_layers(weights=0.0)
    before = model.params.copy()
    model.grads[:] = 1
    Adam(weight_decay=0.1, groups=groups).step(model.params, model.grads)
    weights = model.groups[0].slice
    assert np.array_equal(model.params[weights], before[weights])
    assert np.all(model.params[weights.stop :] != before[weights.stop :])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clipping_by_norm_takes_the_whole_gradient_and_only_shortens(optimizer):
    params, grads = np.zeros(4), np.array([3.0, 0.0, 4.0, 0.0])
    if optimizer == "sgd":
        SGD(1.0, clip_grad_norm=1.0).step(params, grads)
        assert np.allclose(params, [-0.6, 0, -0.8, 0])
    a, b = (
        OPTIMIZERS[optimizer](clip_grad_norm=bound, groups=everything(4)) for bound in (5.1, None)
    )
    p, q = np.ones(4), np.ones(4)
    a.step(p, grads)
    b.step(q, grads)
    assert np.array_equal(p, q)
    a.step(p, 0 * grads)  # no division by the norm of nothing
    assert np.isfinite(p).all()


def test_a_norm_whose_square_overflows_is_clipped_all_the_same():
    params, grads = np.zeros(4, np.float32), np.full(4, 1e20, np.float32)
    SGD(1.0, clip_grad_norm=1.0).step(params, grads)
    assert np.allclose(params, -0.5)


def test_decay_does_not_depend_on_the_size_of_the_batch():
    """A batch twice over has the same mean loss, so it makes the same step."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(6, 5)), rng.integers(0, 3, 6)
    ends = []
    for repeats in (1, 4):
        model = Sequential([Linear(5, 3, rng=np.random.default_rng(1), dtype=np.float64)])
        optimizer = SGD(0.1, weight_decay=0.5, groups=model.groups)
        outputs = model.forward(np.tile(x, (repeats, 1)))
        model.backward(SoftmaxCrossEntropy()(outputs, np.tile(labels, repeats))[1])
        optimizer.step(model.params, model.grads)
        ends.append(model.params)
    assert np.allclose(ends[0], ends[1], rtol=1e-13, atol=1e-14)


def test_weights_decay_and_nothing_else_does():
    model, groups = two_layers()
    model.grads[:] = 0
    before = model.params.copy()
    SGD(0.1, weight_decay=0.5, groups=groups).step(model.params, model.grads)
    weights = model.groups[0].slice
    assert np.allclose(model.params[weights], 0.95 * before[weights], rtol=1e-6)
    assert np.array_equal(model.params[weights.stop :], before[weights.stop :])


ORACLES = {
    "sgd": (lambda: SGD(0.1), {"solver": "sgd", "momentum": 0.0}),
    "momentum": (lambda: SGD(0.1, 0.9), {"solver": "sgd", "nesterovs_momentum": False}),
    "nesterov": (lambda: SGD(0.1, 0.9, True), {"solver": "sgd"}),
    "adam": (lambda: Adam(0.1), {"solver": "adam"}),
}


@pytest.mark.parametrize(
    ("activation", "layer"), [("relu", ReLU), ("tanh", Tanh), ("logistic", Sigmoid)]
)
@pytest.mark.parametrize("name", ORACLES)
def test_ten_steps_equal_those_of_scikit_learn(name, activation, layer):
    make, options = ORACLES[name]
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(16, 7)), rng.permutation(np.arange(16) % 3)) for _ in range(10)]

    def oracle(rate):
        return MLPClassifier(
            (9, 5), activation, alpha=0, learning_rate_init=rate, shuffle=False, random_state=3,
            **options,
        )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = oracle(1e-300).partial_fit(*batches[0], classes=[0, 1, 2])  # its first weights
        theirs = oracle(0.1)
        for x, labels in batches:
            theirs.partial_fit(x, labels, classes=[0, 1, 2])

    linears = []
    for W, b in zip(start.coefs_, start.intercepts_, strict=True):
        linears.append(Linear(*W.shape, rng=rng, dtype=np.float64))
        linears[-1].W[:], linears[-1].b[:] = W, b
    model = Sequential([linears[0], layer(), linears[1], layer(), linears[2]])
    loss_function, optimizer = SoftmaxCrossEntropy(), make()
    for x, labels in batches:
        loss, dlogits = loss_function(model.forward(x), labels)
        model.backward(dlogits)
        optimizer.step(model.params, model.grads)
    for linear, W, b, old in zip(
        linears, theirs.coefs_, theirs.intercepts_, start.coefs_, strict=True
    ):
        assert np.abs(linear.W - W).max() < 1e-12 and np.abs(linear.b - b).max() < 1e-12
        assert np.abs(W - old).max() > 1e-3
    assert loss == pytest.approx(theirs.loss_, abs=1e-12)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_of_weights_is_its_recurrence(decay):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(STEPS + 1, 70_000)), rng.normal(size=(STEPS + 1, 3))
    model = SimpleNamespace(params=vectors[0][0].copy(), buffers=vectors[1][0].copy())
    best = BestWeights(model, SoftmaxCrossEntropy(), "loss", None, decay)
    expected = [vector[0].copy() for vector in vectors]
    for t in range(STEPS):
        model.params[:], model.buffers[:] = vectors[0][t + 1], vectors[1][t + 1]
        best.after_step()
        d = min(decay, (1 + t) / (10 + t))
        expected = [
            d * e + (1 - d) * vector[t + 1] for e, vector in zip(expected, vectors, strict=True)
        ]
    best.use()
    for own, right in zip((model.params, model.buffers), expected, strict=True):
        assert np.allclose(own, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.0), "learning_rate must be positive, got 0.0"),
        (lambda: SGD(math.nan), "learning_rate must be positive, got nan"),
        (lambda: Adam(math.inf), "learning_rate must be positive, got inf"),
        (lambda: SGD(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: SGD(nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: SGD(weight_decay=-1e-3), "weight_decay must be at least 0, got -0.001"),
        (lambda: SGD(clip_grad_norm=0.0), "clip_grad_norm must be positive, got 0.0"),
        (lambda: SGD(clip_grad_value=-1.0), "clip_grad_value must be positive, got -1.0"),
        (lambda: Adam(beta1=1.0), r"beta1 must be in \[0, 1\), got 1.0"),
        (lambda: AdamW(beta2=-0.1), r"beta2 must be in \[0, 1\), got -0.1"),
        (lambda: Adam(eps=0.0), "eps must be positive, got 0.0"),
        (lambda: RMSprop(decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: RMSprop(eps=math.inf), "eps must be positive, got inf"),
        (lambda: two_layers(max_norm=0.0), "max_norm must be positive, got 0.0"),
        (lambda: two_layers(weights=-1.0), "learning_rate_multiplier must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_weight_decay_means_the_same_however_an_optimizer_is_used():
    """A bare step, `fit`, and a config: weights decay, biases and scales do not."""

    def build():
        rng = np.random.default_rng(0)
        layers = [Linear(3, 4, rng=rng, dtype=np.float64), LayerNorm(4, dtype=np.float64)]
        model = Sequential([*layers, Linear(4, 2, rng=rng, dtype=np.float64)])
        model.params[:] = 1 + np.arange(model.params.size) / 10
        return model

    X, y = np.random.default_rng(1).normal(size=(8, 3)), np.arange(8) % 2
    for kind in (SGD, Adam, AdamW, RMSprop):
        by_hand, fitted = build(), build()
        optimizer = kind(0.1, weight_decay=0.5)
        with pytest.raises(ValueError, match=r"call step\(model\), or give model\.groups"):
            optimizer.step(by_hand.params, by_hand.grads)
        order = np.random.default_rng(2).permutation(8)
        _, dlogits = SoftmaxCrossEntropy()(by_hand.forward(X[order]), y[order])
        by_hand.backward(dlogits)
        optimizer.step(by_hand)
        loop = fit(fitted, SoftmaxCrossEntropy(), kind(0.1, weight_decay=0.5), (X, y), epochs=1,
                   batch_size=8, rng=2)  # fmt: skip
        assert len(list(loop)) == 1
        np.testing.assert_allclose(by_hand.params, fitted.params, rtol=1e-12)


def test_adam_is_pytorchs_with_a_corrected_eps():
    p, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    ours, optimizer = p.copy(), Adam(0.01, eps=1e-2)
    for t, g in enumerate(np.random.default_rng(0).normal(size=(5, 2)), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        eps = 1e-2 / np.sqrt(1 - 0.999**t)  # PyTorch adds it after the bias correction
        p = p - 0.01 / (1 - 0.9**t) * m / (np.sqrt(v / (1 - 0.999**t)) + eps)
        grads = g.copy()
        optimizer.step(ours, grads)
        optimizer.restore(optimizer.state())
    np.testing.assert_allclose(ours, p, rtol=1e-12)
