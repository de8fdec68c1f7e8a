"""Steps that are recorded once and then repeated in C: the same bits, or not at all."""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
from scipy.sparse import csr_array

from minidl import (
    SGD,
    Adam,
    BatchNorm,
    Dropout,
    Linear,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Tanh,
    kernels,
)
from minidl.errors import DivergenceError
from minidl.layers import ELU, Sigmoid, SiLU
from minidl.losses import MSE, SigmoidCrossEntropy
from minidl.training import Training

pytestmark = pytest.mark.skipif(
    kernels.name() != "compiled", reason="the C extension was not built: no C compiler"
)


def net(*sizes, dtype=np.float32, bias=True):
    layers = []
    for i in range(len(sizes) - 1):
        layers += [Linear(*sizes[i : i + 2], rng=i, dtype=dtype, bias=bias), ReLU()]
    return layers[:-1]


def training(layers, loss=None, optimizer=None, X=None, y=None, weight=(), **settings):
    model, rng = Sequential(copy.deepcopy(layers)), np.random.default_rng(3)
    if X is None:
        X = rng.standard_normal((203, model.input_size)).astype(model.dtype)
    if y is None:
        y = rng.integers(0, model.output_size(X.shape[1]), 203)
    settings = {"epochs": 3, "batch_size": 32, "rng": 0, "blas_threads": 1, **settings}
    loss, optimizer = loss or SoftmaxCrossEntropy(), optimizer or SGD(0.05, 0.9)
    return Training(model, loss, optimizer, (X, y, *weight), **settings)


@pytest.fixture
def replays(monkeypatch):
    """Count the steps that are repeated, by how many there are in all."""
    counts = []
    record = kernels.record

    def counting(step, x, labels):
        loss, replay = record(step, x, labels)
        if replay is None:
            return loss, None

        def counted(*batch):
            loss = replay(*batch)
            counts.append(loss is not None)
            return loss

        return loss, counted

    monkeypatch.setattr(kernels, "record", counting)
    return counts


def outcome(run):
    """All that a training leaves: its figures, parameters and averages, or how it failed."""
    figures = []
    try:
        for epoch in run.steps():
            if epoch is not None:
                figures.append((epoch.train, epoch.validation))
    except (DivergenceError, ValueError) as error:
        figures.append(f"{type(error).__name__}: {error}")
    averages = [value.tobytes() for value in run.optimizer.averages.values()]
    return figures, run.model.params.tobytes(), run.model.grads.tobytes(), averages


def outcomes(monkeypatch, make):
    """What a training gives, and what it gives without recordings."""
    found = outcome(make())
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "record", lambda step, x, labels: (step(), None))
        return found, outcome(make())


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "sizes", [(7, 5), (8, 1, 3), (64, 32, 10), (30, 300, 200, 3), (9, 2, 9, 2, 9, 4)]
)
def test_repeated_steps_have_the_bits_of_ordinary_ones(
    sizes, dtype, n_threads, replays, monkeypatch
):
    layers = net(*sizes, dtype=dtype, bias=sizes[0] != 9)
    found, expected = outcomes(monkeypatch, lambda: training(layers, blas_threads=n_threads))
    assert found == expected
    # Of seven steps the second is recorded, and the last, with fewer rows, in the second epoch.
    assert replays == [True] * (4 + 6 + 7)


def yes_and_no(layers, dtype, columns=(1,), **settings):
    """A training of SigmoidCrossEntropy, whose targets are of the type of the inputs."""
    y = np.random.default_rng(1).random((203, *columns)) ** 4
    y = np.where(y < 0.2, np.round(y), y).astype(dtype)  # also probabilities
    return training(layers, SigmoidCrossEntropy(), y=y, **settings)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("sizes", "columns"),
    [
        ((7, 1), [1]),
        ((1, 1), []),
        ((64, 32, 1), []),
        ((30, 300, 200, 1), [1]),
        ((9, 2, 9, 1, 9, 1), [1]),
        ((8, 16, 3), [3]),
    ],
)
def test_steps_of_yes_and_no_are_repeated(sizes, columns, dtype, n_threads, replays, monkeypatch):
    def make():
        return yes_and_no(layers, dtype, columns, blas_threads=n_threads)

    layers = net(*sizes, dtype=dtype, bias=sizes[0] != 9)
    found, expected = outcomes(monkeypatch, make)
    assert found == expected
    assert replays == [True] * (4 + 6 + 7)


def test_steps_of_large_products_with_one_column_are_repeated(replays, monkeypatch):
    X = np.random.default_rng(0).standard_normal((203, 4000)).astype(np.float32)
    found, expected = outcomes(
        monkeypatch,
        lambda: yes_and_no(net(4000, 1), np.float32, X=X, batch_size=100, blas_threads=2),
    )
    assert found == expected
    assert replays == [True] * 5


def test_targets_that_are_the_inputs_are_not_taken_for_them(replays, monkeypatch):
    X = np.random.default_rng(0).random((203, 6)).astype(np.float32)

    def make():
        return training(net(6, 4, 6), SigmoidCrossEntropy(), X=X, y=X)

    found, expected = outcomes(monkeypatch, make)
    assert found == expected
    assert replays == [True] * (4 + 6 + 7)  # the batches are copies


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.astype(np.float64),
        lambda y: y.astype(np.int64),
        lambda y: y.view(np.int32),
        lambda y: y.reshape(-1),
        lambda y: np.repeat(y, 2, axis=0)[::2],
        lambda y: np.full_like(y, np.nan),
    ],
)
def test_targets_of_yes_and_no_that_differ_are_an_ordinary_step(change, replays, monkeypatch):
    def late(rows, step):
        return rows if step % 7 < 3 else rows._replace(y=change(rows.y))

    found, expected = outcomes(monkeypatch, lambda: yes_and_no(net(8, 16, 1), np.float32, mix=late))
    assert found == expected
    assert replays[0]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [Tanh, Sigmoid, SiLU])
def test_steps_with_other_activations_are_repeated(
    activation, dtype, n_threads, replays, monkeypatch
):
    layers = net(30, 300, 20, 3, dtype=dtype)
    layers = [activation() if type(layer) is ReLU else layer for layer in layers]
    found, expected = outcomes(monkeypatch, lambda: training(layers, blas_threads=n_threads))
    assert found == expected
    assert replays == [True] * (4 + 6 + 7)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": SoftmaxCrossEntropy(label_smoothing=0.1), "l2": 0.01},
        {"optimizer": Adam(0.01, clip_grad_norm=0.5, weight_decay=0.1)},
        {"optimizer": SGD(0.1, clip_grad_value=0.01), "ema": 0.9},
        {"optimizer": SGD(1e9)},  # diverges in the fourth step
        {"batch_size": 202},
        {"batch_size": 7, "train_metrics": True},
    ],
)
def test_what_surrounds_a_repeated_step_stays_as_it_is(settings, replays, monkeypatch):
    def make():
        return training(net(8, 16, 3), **copy.deepcopy(settings))

    found, expected = outcomes(monkeypatch, make)
    assert found == expected
    assert any(replays)


class MyLinear(Linear):
    def forward(self, x, train=True):
        return super().forward(x, train)


@pytest.mark.parametrize(
    ("layers", "settings"),
    [
        ([MyLinear(8, 3, rng=0)], {}),
        ([Linear(8, 3, rng=0), ELU(), Linear(3, 3, rng=1)], {}),
        ([Linear(8, 3, rng=0), BatchNorm(3), Linear(3, 3, rng=1)], {}),
        ([Dropout(0.5, rng=0), Linear(8, 3, rng=1)], {}),
        (net(8, 3), {"weight": [np.linspace(0.5, 1, 203)]}),
        (net(8, 3), {"shards": 2}),
        (net(8, 3), {"loss": SoftmaxCrossEntropy(class_weight=[1.0, 2.0, 3.0])}),
        (net(8, 1), {"loss": MSE()}),
        (net(8, 3), {"X": csr_array(np.eye(203, 8, dtype=np.float32))}),
        (net(*[4] * 30), {}),  # more kernels than a recording holds
    ],
)
def test_other_steps_are_never_repeated(layers, settings, replays):
    assert len(outcome(training(layers, **settings))[0]) == 3
    assert replays == []


def test_a_layer_whose_forward_was_replaced_is_called_in_each_step(replays):
    run, calls = training(net(8, 16, 3)), []
    forward = run.model.layers[0].forward
    run.model.layers[0].forward = lambda x, train=True: calls.append(train) or forward(x, train)
    outcome(run)
    assert replays == [] and calls == [True] * 21


def mixes():
    """Batches that are not like the recorded one, from the fourth step of an epoch on."""
    yield "labels below 0", lambda rows: rows._replace(y=rows.y - 3)
    yield "labels too large", lambda rows: rows._replace(y=rows.y + 3)
    yield "labels of 32 bits", lambda rows: rows._replace(y=rows.y.astype(np.int32))
    yield "soft", lambda rows: rows._replace(y=np.eye(3, dtype=np.float32)[rows.y])
    yield "fewer rows", lambda rows: rows.select(slice(5))
    yield "more rows", lambda rows: rows.select(np.arange(40) % len(rows.y))
    yield "other type", lambda rows: rows._replace(X=rows.X.astype(np.float64))
    yield "by columns", lambda rows: rows._replace(X=np.asfortranarray(rows.X))
    yield "a weight", lambda rows: rows._replace(sample_weight=np.linspace(0, 1, len(rows.y)))
    yield "more labels", lambda rows: rows._replace(y=np.repeat(rows.y, 2))


@pytest.mark.parametrize(("name", "mix"), list(mixes()), ids=[name for name, _ in mixes()])
def test_a_batch_that_differs_is_an_ordinary_step(name, mix, replays, monkeypatch):
    def make():
        late = lambda rows, step: rows if step % 7 < 3 else mix(rows)  # noqa: E731
        return training(net(8, 16, 3), mix=late)

    found, expected = outcomes(monkeypatch, make)
    assert found == expected
    assert replays[0]


def test_a_training_goes_on_in_the_middle_of_an_epoch(replays):
    run = training(net(8, 16, 3))
    for _ in range(4):
        run.step()
    state, other = copy.deepcopy(run.state()), training(net(8, 16, 3))
    other.restore(state)
    assert outcome(other)[1:] == outcome(run)[1:]
    assert any(replays)


def test_models_and_trainings_are_copied_as_ever():
    run = training(net(8, 16, 3))
    for _ in range(3):
        run.step()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(run.model)))
    assert twin.params.tobytes() == run.model.params.tobytes()
    while run.step() is None:
        pass
    other = copy.deepcopy(run)  # between two epochs
    assert outcome(other)[1:] == outcome(run)[1:]


def test_the_model_may_be_used_between_two_steps(replays, monkeypatch):
    def make():
        def use(rows, step):
            dy = np.ones((len(rows.y), 3), np.float32)
            with pytest.raises(RuntimeError, match="needs a forward"):
                run.model.backward(dy)
            run.model.forward(rows.X[:, ::-1].copy())
            run.model.backward(dy)
            if step == 4:
                run.model.leave_loop()
            if step == 9:
                run.model.place_gradients(np.zeros_like(run.model.grads))
            return rows

        run = training(net(8, 16, 3), mix=use)
        return run

    found, expected = outcomes(monkeypatch, make)
    assert found == expected
    assert any(replays)


# ---- recordings themselves ----


def arrays():
    rng = np.random.default_rng(0)
    x, W = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (4, 3)))
    return x, W, np.empty((6, 3), np.float32), np.empty((6, 3), np.float32), np.arange(6) % 3


def step_of(x, W, z, dz, labels):
    def step():
        kernels.matmul(x, W, z)
        return (kernels._compiled.softmax(z, labels, dz, 0.5, 0.0) or 0.0) * 0.5

    return step


def test_a_recording_reads_the_batch_that_it_is_given():
    x, W, z, dz, labels = arrays()
    loss, replay = kernels.record(step_of(x, W, z, dz, labels), x, labels)
    assert replay(x, labels) == loss
    other, sorted_labels = x[::-1].copy(), np.sort(labels)
    found, gradient = replay(other, sorted_labels), dz.copy()
    assert found == step_of(other, W, z, dz, sorted_labels)() != loss
    assert np.array_equal(gradient, dz)
    W *= 2  # what is held may change, but not move
    assert replay(x, labels) == step_of(x, W, z, dz, labels)()
    with pytest.raises(ValueError, match="resize"):
        W.resize(100)
    before = sys.getrefcount(W)
    del replay
    assert sys.getrefcount(W) < before


def test_what_is_no_whole_step_of_the_batch_is_not_recorded():
    x, W, z, dz, labels = arrays()
    step = step_of(x, W, z, dz, labels)

    def twice():
        return step() + step()

    def with_numpy():
        kernels.elementwise("relu", x.T, np.empty((4, 6), np.float32))  # not contiguous
        return step()

    cases = [
        (step, x.copy(), labels),  # another x
        (step, x, labels.copy()),
        (step, z, labels),  # an x that is written
        (step, csr_array(x), labels),
        (step, x, labels.astype(np.int32)),
        (step_of(x, W, z, dz, labels + 9), x, labels),
        (twice, x, labels),
        (with_numpy, x, labels),
        (lambda: 0.0, x, labels),
    ]
    for i, (each, given, targets) in enumerate(cases):
        assert kernels.record(each, given, targets)[1] is None, i
    assert kernels.record(step, x, labels)[1] is not None


def test_a_recording_refuses_other_batches():
    x, W, z, dz, labels = arrays()
    _, replay = kernels.record(step_of(x, W, z, dz, labels), x, labels)
    wide = np.zeros((12, 4), np.float32)
    for wrong in (wide, wide[::2], wide[:5], x.astype(np.float64), x.T, x[None], None):
        assert replay(wrong, labels) is None
    for wrong in (labels - 1, labels + 1, labels[:5], labels[:, None], labels.astype("f"), None):
        assert replay(x, wrong) is None
    for name, arguments in (("replay", [x]), ("recorded", [x]), ("record", [x])):
        with pytest.raises(TypeError):
            getattr(kernels._compiled, name)(*arguments)
    with pytest.raises(ValueError):
        kernels._compiled.replay(None, x, labels)
    assert kernels._compiled.recorded(x, labels) is None  # nothing was begun


def test_a_recording_refuses_targets_that_are_not_like_its_own():
    x, W, z, dz, _ = arrays()
    t = np.linspace(0, 1, 18, dtype=np.float32).reshape(6, 3)

    def step():
        kernels.matmul(x, W, z)
        return kernels._compiled.sigmoid_loss(z, t, dz, 0.5) * 0.5

    loss, replay = kernels.record(step, x, t)
    assert replay(x, t) == loss
    assert replay(x, 1 - t) != loss
    others = [t.view(np.int32), t.astype(np.float64), t.ravel(), t[:5], t.T, t.view("V4"), None]
    for wrong in (*others, np.empty((6, 3), "V0"), np.empty((6, 3), "O")):
        assert replay(x, wrong) is None
    assert kernels.record(step, x, np.empty((6, 3), "V0"))[1] is None


def test_a_step_whose_targets_share_memory_with_its_inputs_is_not_recorded():
    x, z, dz = np.ones((6, 3), np.float32), *np.empty((2, 6, 3), np.float32)

    def step():
        kernels.matmul(x, np.eye(3, dtype=np.float32), z)
        return kernels._compiled.sigmoid_loss(z, x, dz, 1.0)

    assert kernels.record(step, x, x)[1] is None


def test_a_view_of_more_rows_than_the_batch_is_not_the_batch():
    wide = np.ones((12, 4), np.float32)
    x, W, _, dz, labels = wide[:6], *arrays()[1:]
    z = np.empty((12, 3), np.float32)

    def step():
        kernels.matmul(wide, W, z)
        return kernels._compiled.softmax(z[:6], labels, dz, 1.0, 0.0)

    assert kernels.record(step, x, labels)[1] is None


def test_a_step_that_fails_ends_its_recording():
    x, W, z, dz, labels = arrays()
    with pytest.raises(ZeroDivisionError):
        kernels.record(lambda: 1 / 0, x, labels)
    step_of(x, W, z, dz, labels)()
    assert kernels._compiled.recorded(x, labels) is None
    kernels._compiled.record()
    kernels._compiled.record()  # the first is forgotten
    step_of(x, W, z, dz, labels)()
    assert kernels._compiled.recorded(x, labels) is not None


def test_threads_record_and_repeat_for_themselves():
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((300, 200)), rng.standard_normal((200, 50))
    z, dz, labels = np.empty((300, 50)), np.empty((300, 50)), np.arange(300) % 50
    loss, replay = kernels.record(step_of(x, W, z, dz, labels), x, labels)
    found = []

    def work():
        mine = [np.empty_like(z), np.empty_like(dz)]
        own, again = kernels.record(step_of(x, W, *mine, labels), x, labels)
        for _ in range(50):
            found.append(replay(x, labels) in (loss, None) and again(x, labels) == own == loss)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 150 and all(found)


@pytest.mark.parametrize(
    ("batch_size", "n_repeated"), [(203, 1), (202, 1), (70, 4 + 1), (60, 7 + 1)]
)
def test_a_step_is_recorded_when_it_comes_again(batch_size, n_repeated, replays):
    outcome(training(net(6, 5, 3), batch_size=batch_size))
    assert replays == [True] * n_repeated


class Doubled(Linear):
    def forward(self, x, train=True):
        return 2 * super().forward(x, train)


class DoubledModel(Sequential):
    def forward(self, x, train=True):
        return 2 * super().forward(x, train)


def have_another_array(model):
    model.layers[0].W = model.layers[0].W * 2  # no longer a view: the optimizer does not change it


def have_a_layer_of_another_class(model):
    model.layers[0].__class__ = Doubled


def be_of_another_class(model):
    model.__class__ = DoubledModel


@pytest.mark.parametrize(
    "change", [have_another_array, have_a_layer_of_another_class, be_of_another_class]
)
@pytest.mark.parametrize("sizes", [(6, 3), (6, 5, 3)])
def test_a_recording_ends_where_the_parts_change(change, sizes, replays, monkeypatch):
    def make():
        run = training(net(*sizes), batch_size=203)
        step = run.step

        def steps():
            for i in range(3):
                if i == 2:
                    change(run.model)
                yield step()

        run.steps = steps
        return run

    found, expected = outcomes(monkeypatch, make)
    assert found == expected
    assert replays == []
