from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pandas
import pytest
import threadpoolctl
from scipy.sparse import csr_matrix

from minidl import (
    SGD,
    EarlyStopping,
    Epoch,
    Linear,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Training,
    evaluate,
    fit,
)
from minidl.data.augmentation import Mixup
from minidl.data.batches import Rows, transformed
from minidl.data.preprocessing.scaling import Standard, Unit
from minidl.errors import DivergenceError
from minidl.evaluation import predict_outputs
from minidl.layers import BatchNorm, Dropout, Tanh
from minidl.losses import MSE, Poisson
from minidl.optimizers import Adam
from minidl.schedules import OneCycle

N, BATCH = 53, 12  # five steps an epoch, the last of 5 rows


# The loop around a step is what silences NumPy.
overflows = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def problem(n=N, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    return X, np.argmax(X[:, :3] + rng.normal(0, 1, (n, 3)), axis=1)


def build(noisy=False, dtype=np.float32):
    rng = np.random.default_rng(0)
    inside = [BatchNorm(8, dtype=dtype), Dropout(0.3, rng=rng)] if noisy else []
    first, last = Linear(4, 8, rng=rng, dtype=dtype), Linear(8, 3, rng=rng, dtype=dtype)
    return Sequential([first, *inside, ReLU(), last])


def make(model=None, optimizer=None, train=None, validation=None, **options):
    settings = {"epochs": 3, "batch_size": BATCH, "rng": np.random.default_rng(7), **options}
    return Training(
        build() if model is None else model,
        SoftmaxCrossEntropy(),
        optimizer or SGD(0.1, momentum=0.9),
        train or problem(),
        validation,
        **settings,
    )


def run(training):
    epochs = []
    while not training.finished:
        if (epoch := training.step()) is not None:
            epochs.append(epoch)
    return epochs


def figures(epochs):
    """The records of the epochs, all but the time."""
    return [(e.epoch, e.step, e.learning_rate, e.train, e.validation, e.improved) for e in epochs]


WAYS = {
    "plain": lambda: make(),
    "adam, one cycle": lambda: make(optimizer=Adam(0.01), schedule=OneCycle()),
    "average": lambda: make(ema=0.9, validation=problem(20, 1)),
    "early stopping": lambda: make(
        optimizer=SGD(0.5), validation=problem(20, 1), early_stopping=EarlyStopping(1)
    ),
    "noise": lambda: make(build(noisy=True), validation=problem(20, 1)),
    "average of noise": lambda: make(build(noisy=True), ema=0.9),
    "two shards": lambda: make(build(noisy=True), shards=2),
    "two shards, clipped": lambda: make(shards=2, optimizer=SGD(0.1, clip_grad_norm=0.1)),
    "mixup": lambda: make(mix=Mixup(0.4, 3, rng=np.random.default_rng(1))),
    "sample weights": lambda: make(train=(*problem(), np.linspace(0, 1, N))),
    "l2": lambda: make(l2=0.1, join_single_row=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_resumed_after_any_step_is_the_uninterrupted_run(way):
    whole = WAYS[way]()
    states, epochs = [copy.deepcopy(whole.state())], []
    while not whole.finished:
        epochs.append(whole.step())
        states.append(copy.deepcopy(whole.state()))
    whole.use_best()
    for k, state in enumerate(states):
        before = copy.deepcopy(state)
        resumed = WAYS[way]()
        resumed.restore(state)
        rest = run(resumed)
        resumed.use_best()
        assert np.array_equal(resumed.model.params, whole.model.params)
        assert np.array_equal(resumed.model.buffers, whole.model.buffers)
        assert figures(rest) == figures(epoch for epoch in epochs[k:] if epoch is not None)
        assert resumed.optimizer.n_steps == whole.optimizer.n_steps
        assert np.array_equal(state["params"], before["params"])  # what was restored is a copy


def test_equal_runs_have_equal_bits_and_other_seeds_do_not():
    a, b, c = make(), make(), make(rng=np.random.default_rng(8))
    run(a), run(b), run(c)
    assert np.array_equal(a.model.params, b.model.params)
    assert not np.array_equal(a.model.params, c.model.params)


def test_the_step_is_the_four_lines_of_the_readme():
    training, model = make(), build()
    optimizer, loss_function = SGD(0.1, momentum=0.9), SoftmaxCrossEntropy()
    X, y = problem()
    order, losses = np.random.default_rng(7).permutation(N), []
    for start in range(0, N, BATCH):
        rows = order[start : start + BATCH]
        logits = model.forward(X[rows])
        loss, dlogits = loss_function(logits, y[rows])
        model.backward(dlogits)
        optimizer.step(model.params, model.grads)
        losses.append(loss * len(rows))
    epoch = next(epoch for _ in losses if (epoch := training.step()) is not None)
    assert np.array_equal(training.model.params, model.params)
    assert epoch.train == {"loss": pytest.approx(sum(losses) / N, rel=1e-12)}
    assert (epoch.epoch, epoch.step, epoch.learning_rate) == (1, 5, 0.1)
    assert epoch.validation == {} and epoch.improved and epoch.seconds > 0


def test_a_single_row_left_over_joins_the_last_batch():
    sizes = []

    def note(x):
        sizes.append(len(x))
        return x

    wide = np.zeros((25, 30_000), np.float32)  # each batch a chunk of its own
    model = Sequential([Linear(30_000, 2, rng=np.random.default_rng(0))])
    for join, expected in ((True, [12, 13]), (False, [12, 12, 1])):
        training = make(
            model, SGD(0.1), (wide, np.arange(25) % 2), transform=note, augment=same, epochs=1,
            join_single_row=join,
        )  # fmt: skip
        assert training.steps_per_epoch == len(expected)
        sizes.clear()
        run(training)
        assert sizes == expected


def overfitted(**options):
    """A validation set with other labels: it gets worse with every epoch but the first few."""
    X, y = problem(20, 1)
    return make(
        optimizer=SGD(0.05), validation=(X, (y + 1) % 3), epochs=8, **options
    )  # fmt: skip


def test_the_best_weights_are_kept_where_something_is_validated():
    training = overfitted()
    snapshots, epochs = [], []
    while not training.finished:
        if (epoch := training.step()) is not None:
            epochs.append(epoch)
            snapshots.append(training.model.params.copy())
    losses = [epoch.validation["loss"] for epoch in epochs]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1
    assert [e.improved for e in epochs] == [x < min([*losses[:i], 9]) for i, x in enumerate(losses)]
    training.use_best()
    assert np.array_equal(training.model.params, snapshots[best])
    assert training.progress["best_epoch"] == best + 1


def test_the_last_weights_are_kept_where_nothing_is_validated():
    training = make()
    run(training)
    before = training.model.params.copy()
    training.use_best()
    assert np.array_equal(training.model.params, before)


def test_statistics_belong_to_the_best_weights():
    training = overfitted(model=build(noisy=True))
    kept = []
    while not training.finished:
        if (epoch := training.step()) is not None and epoch.improved:
            kept = training.model.params.copy(), training.model.buffers.copy()
    assert not np.array_equal(kept[1], training.model.buffers)
    training.use_best()
    assert np.array_equal(kept[0], training.model.params)
    assert np.array_equal(kept[1], training.model.buffers)


def test_training_can_go_on_from_the_best_weights():
    """The shards' own statistics are those of the weights that were put back."""
    training = overfitted(model=build(noisy=True), shards=2)
    for _ in range(7 * training.steps_per_epoch):
        training.step()
    training.use_best()
    twin = overfitted(model=copy.deepcopy(training.model), shards=2)
    state = training.state() | {k: twin.state()[k] for k in ("params", "buffers")}
    twin.restore(copy.deepcopy(state))
    training.step(), twin.step()
    assert np.array_equal(training.model.buffers, twin.model.buffers)


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_counts_epochs_without_improvement(patience):
    training = overfitted(early_stopping=EarlyStopping(patience))
    training.epochs = 100
    epochs = run(training)
    best = training.progress["best_epoch"]
    assert len(epochs) == best + patience < 100
    assert not any(epoch.improved for epoch in epochs[best:])


def test_an_improvement_below_min_delta_does_not_count_but_is_kept():
    training = make(
        optimizer=SGD(1e-4), validation=problem(20, 1), epochs=9,
        early_stopping=EarlyStopping(2, min_delta=0.5),
    )  # fmt: skip
    epochs = run(training)
    assert len(epochs) == 3 and all(epoch.improved for epoch in epochs)
    assert training.progress["best_epoch"] == 3


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_the_monitored_figure_decides(monitor):
    training = overfitted(monitor=monitor)
    values = [epoch.validation[monitor] for epoch in run(training)]
    choose = np.argmin if monitor == "loss" else np.argmax
    assert training.progress["best_epoch"] == choose(values) + 1


@pytest.mark.parametrize(
    ("loss_function", "monitor", "choose"),
    [
        (MSE(), "rmse", np.argmin),
        (MSE(), "mae", np.argmin),
        (MSE(), "r2", np.argmax),
        (Poisson(), "deviance", np.argmin),
    ],
)
def test_errors_are_to_be_small_and_scores_large(loss_function, monitor, choose):
    X, y = problem(40)
    model = Sequential([Linear(4, 1, rng=np.random.default_rng(0))])
    training = Training(
        model, loss_function, SGD(0.02), (X, y.astype(float)), (X[::2], 2.0 - y[::2]), epochs=8,
        batch_size=8, rng=np.random.default_rng(0), monitor=monitor,
    )  # fmt: skip
    values = [epoch.validation[monitor] for epoch in run(training)]
    assert len({*values}) == 8
    assert training.progress["best_epoch"] == choose(values) + 1


def test_a_figure_that_is_no_number_is_worse_than_any():
    values = [math.nan, math.nan, 0.2, math.nan, 0.3]

    class Odd(SoftmaxCrossEntropy):
        metric_names = ("odd",)

        def metrics(self, *given):
            return {"odd": values.pop(0)}

    training = Training(
        build(), Odd(), SGD(0.1), problem(), problem(20, 1), epochs=5, batch_size=BATCH,
        rng=np.random.default_rng(0), monitor="odd",
    )  # fmt: skip
    epochs = []
    while not training.finished:
        epochs.append(training.step())
        training.restore(copy.deepcopy(training.state()))
    assert [e.improved for e in epochs if e] == [True, True, True, False, True]
    assert training.progress["best_epoch"] == 5


@pytest.mark.parametrize("monitor", ["acuracy", "r2"])
def test_an_unknown_figure_is_refused_before_anything_is_trained(monitor):
    with pytest.raises(ValueError, match=f"^monitor must be one of loss, .*, got '{monitor}"):
        make(validation=problem(20, 1), monitor=monitor)


X, Y = problem()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"shards": 0}, "shards must be a whole number, at least 1, got 0"),
        ({"shards": 10**6, "batch_size": 10**7}, "shards must be at most 53, the training rows"),
        ({"epochs": 2.5}, "epochs must be a whole number, at least 1, got 2.5"),
        ({"ema": 1.0}, r"ema must be in \(0, 1\), got 1.0"),
        ({"early_stopping": EarlyStopping()}, "early_stopping needs validation data"),
        ({"train": (X[:0], Y[:0])}, r"train needs X with rows and columns, got shape \(0, 4\)"),
        ({"train": (X[0], Y)}, r"train needs X with rows and columns, got shape \(4,\)"),
        ({"train": (X, Y[:-1])}, "train has 53 rows but 52 targets"),
        ({"train": (X, Y, np.ones(54))}, "train has 53 rows but 54 sample weights"),
        ({"train": (X.tolist(), Y)}, "train needs X as an array, got list"),
        ({"validation": (X, None)}, "validation needs targets as an array, got NoneType"),
        ({"train": (X, Y, np.zeros(53))}, "train needs sample weights that are finite, >= 0"),
        ({"validation": (X, Y, np.ones(53) * -1)}, "validation needs sample weights that are"),
        ({"train": (X[:, :3], Y)}, "train has 3 features, the model takes 4"),
        ({"train": (X, Y + 1)}, "train: targets must be a class from 0 to 2"),
        ({"train": (X, Y - 1)}, "train: targets must be a class from 0 to 2"),
        ({"validation": (X[:3], Y[:2])}, "validation has 3 rows but 2 targets"),
        ({"validation": (X[:0], Y[:0])}, "validation needs X with rows and columns"),
        ({"validation": (X, Y + 0.5)}, "validation: targets must be integers"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_trained(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**options)


@pytest.mark.parametrize(("patience", "min_delta"), [(0, 0), (1, -0.1), (1, math.nan)])
def test_settings_of_early_stopping_are_checked(patience, min_delta):
    name = "patience" if patience < 1 else "min_delta"
    with pytest.raises(ValueError, match=f"^{name} must be at least"):
        EarlyStopping(patience, min_delta)


def test_a_weight_of_k_is_a_row_k_times():
    counts = np.arange(24) % 3
    X, y = problem(24)
    repeated = np.repeat(X, counts, 0), np.repeat(y, counts)
    runs = []
    for *train, rows in ((X, y, counts, 24), (*repeated, counts.sum())):
        training = make(
            build(dtype=np.float64), SGD(0.1), train, batch_size=100, epochs=10,
            order=lambda epoch, n=rows: np.arange(n),
        )  # fmt: skip
        run(training)
        runs.append(training.model.params)
    assert np.allclose(runs[0], runs[1], rtol=1e-12, atol=1e-13)


def test_an_l2_penalty_is_in_the_loss_and_in_the_gradient():
    """Against its own gradient written out; strength l2 / (2 * total weight) * sum(W**2)."""
    rows, weights = problem(10), np.linspace(1, 2, 10)
    for shards in (1, 2):
        model = build(dtype=np.float64)
        plain = model.replica()
        loss, dlogits = SoftmaxCrossEntropy()(plain.forward(rows[0]), rows[1], weights)
        plain.backward(dlogits)
        part = model.groups[0].slice
        W = model.params[part].copy()
        expected = model.params - 0.1 * plain.grads
        expected[part] -= 0.1 * 0.7 / weights.sum() * W
        training = make(
            model, SGD(0.1), (*rows, weights), l2=0.7, epochs=1, shards=shards
        )  # fmt: skip
        (epoch,) = run(training)
        assert np.allclose(model.params, expected, rtol=1e-12)
        penalty = 0.35 / weights.sum() * (W @ W)
        assert epoch.train["loss"] == pytest.approx(loss + penalty, rel=1e-12)


def test_the_averaged_weights_are_validated_and_kept():
    training = make(ema=0.9, validation=problem(20, 1), epochs=1)
    (epoch,) = run(training)
    last, average = training.model.params.copy(), training.state()["average"]["params"]
    assert not np.array_equal(last, average)
    training.use_best()
    assert np.array_equal(training.model.params, average)
    measured = evaluate(training.model, training.loss_function, *problem(20, 1))
    assert epoch.validation == {name: measured[name] for name in epoch.validation}


def test_the_averaged_weights_are_kept_where_nothing_is_validated():
    training = make(ema=0.9)
    run(training)
    average = training.state()["average"]["params"].copy()
    training.use_best()
    assert np.array_equal(training.model.params, average)


def test_metrics_of_the_training_rows_where_asked():
    training = make(train_metrics=True)
    epochs = run(training)
    figures = evaluate(training.model, training.loss_function, *problem())
    assert epochs[-1].train["accuracy"] == figures["accuracy"]
    assert epochs[-1].train["loss"] != figures["loss"]


def test_evaluation_does_not_depend_on_how_the_rows_are_cut():
    X, y = problem(2500)
    model = build(noisy=True)
    outputs = predict_outputs(model, X)
    assert np.allclose(outputs, model.forward(X, train=False), rtol=1e-5, atol=1e-6)
    assert predict_outputs(model, X[:0]).shape == (0, 3)
    weights = np.where(np.arange(2500) < 100, 1.0, 0.0)
    weighted, cut = evaluate(model, SoftmaxCrossEntropy(), X, y, weights), (X[:100], y[:100])
    assert weighted == pytest.approx(evaluate(model, SoftmaxCrossEntropy(), *cut), rel=1e-6)
    for wrong in (y - 1, y + 1, y[:, None], y[1:], y[:0]):
        with pytest.raises(ValueError, match="targets"):
            evaluate(model, SoftmaxCrossEntropy(), X, wrong)
    with pytest.raises(ValueError, match="the data needs X with rows"):
        evaluate(model, SoftmaxCrossEntropy(), X[:0], y[:0])
    doubled = evaluate(model, SoftmaxCrossEntropy(), X / 2, y, transform=lambda x: 2 * x)
    assert doubled == pytest.approx(evaluate(model, SoftmaxCrossEntropy(), X, y), rel=1e-6)


def test_rows_are_transformed_once_and_to_the_same_bits(monkeypatch):
    scaling = Standard().fit(problem()[0])
    n_calls = 0

    def transform(x):
        nonlocal n_calls
        n_calls += 1
        return scaling.transform(x)

    def trained(**options):
        training = make(
            build(noisy=True), transform=transform, validation=problem(20, 1), ema=0.9,
            train_metrics=True, **options,
        )  # fmt: skip
        before = n_calls
        return figures(run(training)), training.model.params.tobytes(), n_calls - before

    once = trained()
    assert once[2] == 0
    distorted = trained(augment=same)
    monkeypatch.setattr("minidl.data.batches.MOST_TRANSFORMED_BYTES", N * 4 * 4 - 1)
    too_large = trained()
    assert distorted[2] >= 6 and too_large[2] >= 6
    assert once[:2] == distorted[:2] == too_large[:2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_rows_are_transformed_once_and_stay_sparse(dtype):
    X, y = problem()
    rows = Rows(csr_matrix(np.maximum(X, 0).astype(np.float64)), y)
    scaling = Unit().fit(rows.X)
    found = transformed(rows, scaling.transform, dtype)
    assert found.X.format == "csr" and found.X.dtype == dtype and found.y is y
    part = scaling.transform(rows.X[5:9]).astype(dtype).toarray()
    assert np.array_equal(found.X[5:9].toarray(), part)


def test_outside_of_a_step_the_model_gives_arrays_of_its_own():
    """Inside, each step writes over the results of the one before, and a ReLU's work is shared."""
    X, _ = problem()
    training = make(validation=problem(20, 1))
    model = training.model
    for epoch in training.steps():
        if epoch is not None:
            a = model.forward(X[:5])
            copy_of_a = a.copy()
            model.forward(X[5:10])
            assert np.array_equal(a, copy_of_a)
            inside = model.layers[0].forward(X[:5])
            assert (inside < 0).any()
    next(make(model).steps())  # left in the middle of an epoch
    training.use_best()
    assert (model.layers[0].forward(X[:5]) < 0).any()


@overflows
def test_a_negative_infinity_in_front_of_a_relu_is_found_where_it_began():
    """The fused layer would make it 0."""
    model = Sequential([Linear(4, 8, rng=np.random.default_rng(0)), ReLU()])
    model.layers[0].W[:] = -3e38
    training = make(model, train=(np.full((N, 4), 2, np.float32), problem()[1]))
    model.layers[0].b[0] = 0
    differentiation = training._step.differentiation
    differentiation.loss_function = lambda outputs, *_: (math.inf, np.zeros_like(outputs))
    with pytest.raises(DivergenceError, match=r"output of layer 0 \(Linear\)"):
        training.step()


# Epoch


def test_epochs_are_rows_of_a_table():
    epochs = list(fit_overfitted(build(), epochs=2))
    table = pandas.DataFrame(epochs)
    assert list(epochs[0]) == [
        "epoch", "step", "learning_rate", "train_loss", "validation_loss", "validation_accuracy",
        "validation_balanced_accuracy", "validation_macro_f1", "seconds", "improved",
    ]  # fmt: skip
    assert set(table) == set(epochs[0])  # pandas 2 puts the columns in alphabetical order
    assert table["validation_loss"].tolist() == [e.validation["loss"] for e in epochs]
    assert dict(epochs[1])["step"] == 10 and epochs[0]["train_loss"] == epochs[0].train["loss"]


def test_an_epoch_is_readable():
    epoch = Epoch(3, 15, 0.1, {"loss": 0.123456789}, {"accuracy": 0.5}, 1.5, True)
    assert repr(epoch) == (
        "Epoch(epoch=3, step=15, learning_rate=0.1, train_loss=0.123457, validation_accuracy=0.5, "
        "seconds=1.5, improved=True)"
    )
    assert copy.deepcopy(epoch) == epoch and pickle.loads(pickle.dumps(epoch)).train == epoch.train


# fit


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="epoch"):
        fit(build(), SoftmaxCrossEntropy(), SGD(0.1), problem(), epoch=1, batch_size=8, rng=0)


def test_a_seed_may_stand_for_its_generator():
    runs = [run(make(rng=rng))[-1].train for rng in (7, np.random.default_rng(7))]
    assert runs[0] == runs[1]


def fit_overfitted(model, **options):
    X, y = problem(20, 1)
    return fit(
        model, SoftmaxCrossEntropy(), SGD(0.05), problem(), (X, (y + 1) % 3), batch_size=BATCH,
        rng=np.random.default_rng(7), **{"epochs": 8, **options},
    )  # fmt: skip


@pytest.mark.parametrize("end", ["all epochs", "break", "error", "interrupt"])
def test_fit_leaves_the_best_weights_however_it_ends(end):
    calls = 0

    def transform(x):
        nonlocal calls
        calls += 1
        if end == "interrupt" and calls == 40:
            raise KeyboardInterrupt
        return x

    model, kept = build(), []
    try:
        for epoch in fit_overfitted(model, transform=transform, augment=same):
            if epoch.improved:
                kept.append(model.params.copy())
            if epoch.epoch == 6 and end == "break":
                break
            if epoch.epoch == 6 and end == "error":
                raise OSError
    except (OSError, KeyboardInterrupt) as stop:
        error = stop  # the frame of the loop, and with it the generator, may live on
        assert end in ("error", "interrupt"), error
    assert kept
    assert np.array_equal(model.params, kept[-1])


def test_fit_yields_the_records_of_training():
    training = overfitted()
    assert figures(run(training)) == figures(fit_overfitted(build()))


def same(x, step, first_row):
    """No distortion; but with one, rows are transformed batch by batch."""
    return x


def blas_threads():
    """Of NumPy's own BLAS: SciPy's may be loaded at any time, and no step uses it."""
    pools = threadpoolctl.threadpool_info()
    return {
        pool["num_threads"]
        for pool in pools
        if pool["user_api"] == "blas" and "scipy.libs" not in pool["filepath"]
    }


def test_blas_threads_are_given_back_at_every_yield_and_exit():
    seen = []

    def transform(x):
        seen.append(blas_threads())
        return x

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        outside = blas_threads()
        assert outside != {1}
        model = build()
        for epoch in fit_overfitted(
            model, transform=transform, blas_threads=1, shards=2, epochs=3, augment=same
        ):
            assert blas_threads() == outside
            seen.append(epoch)
        assert blas_threads() == outside
        during = [threads for threads in seen[4:] if isinstance(threads, set)]
        assert {1} in during

        def fail(x):
            if blas_threads() == {1}:
                raise KeyboardInterrupt
            return x

        with pytest.raises(KeyboardInterrupt):
            next(fit_overfitted(model, transform=fail, blas_threads=1, shards=2, augment=same))
        assert blas_threads() == outside


# Divergence


@overflows
def test_divergence_names_epoch_step_rate_and_layer():
    with pytest.raises(DivergenceError) as caught:
        run(make(optimizer=SGD(1e20)))
    message = str(caught.value)
    assert "epoch 1, step " in message and "learning rate 1e+20" in message
    assert "layer " in message and "(Linear)" in message
    assert "try a smaller learning_rate" in message
    assert "\n" not in message


@pytest.mark.parametrize("shards", [1, 2])
def test_nothing_changes_when_the_loss_is_not_finite(shards):
    X, y = problem()
    X = X.copy()
    X[-1] = np.inf
    model = build(noisy=True)
    training = make(
        model, SGD(0.1, momentum=0.9), (X[:, :], y), ema=0.9, shards=shards,
        order=lambda epoch: np.arange(N),
    )  # fmt: skip
    for _ in range(4):
        training.step()
    before = copy.deepcopy(training.state())
    expected = r"epoch 1, step 5 .* inputs .* are not finite; look for NaN .* in the data [a-z ]*$"
    with pytest.raises(DivergenceError, match=expected), np.errstate(all="ignore"):
        training.step()
    after = training.state()
    assert np.array_equal(after["params"], before["params"])
    assert np.array_equal(after["buffers"], before["buffers"])
    assert np.array_equal(after["optimizer"]["velocity"], before["optimizer"]["velocity"])
    assert np.array_equal(after["average"]["params"], before["average"]["params"])
    assert after["optimizer"]["n_steps"] == 4


@overflows
@pytest.mark.parametrize("shards", [1, 2])
def test_divergence_names_the_layer_in_which_it_began(shards):
    rng = np.random.default_rng(0)
    model = Sequential([Linear(4, 4, rng=rng), ReLU(), Tanh(), Linear(4, 3, rng=rng), ReLU()])
    model.layers[0].b[:], model.layers[3].W[:] = 9, 2e38
    with pytest.raises(DivergenceError, match=r"output of layer 3 \(Linear\)"):
        make(model, shards=shards).step()


@overflows
def test_parameters_that_are_not_finite_after_the_update_are_named():
    X, y = problem()
    with pytest.raises(DivergenceError, match=r"epoch 1, step 1 .* 2\.W in layer 2 \(Linear\)"):
        make(optimizer=SGD(3e38), train=(100 * X, y)).step()


@overflows
@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("validation", [None, problem(20, 1)])
def test_without_a_finite_epoch_there_are_no_weights_to_keep(validation, ema):
    training = make(optimizer=SGD(1e20), validation=validation, ema=ema)
    with pytest.raises(DivergenceError):
        run(training)
    with pytest.raises(DivergenceError, match="no epoch before it left weights to keep"):
        training.use_best()


@overflows
def test_after_a_divergence_the_best_weights_are_those_of_a_finite_epoch():
    training = make(validation=problem(20, 1))
    while training.step() is None:
        pass
    kept = training.model.params.copy()
    training.optimizer.learning_rate = 1e30
    with pytest.raises(DivergenceError):
        run(training)
    training.use_best()
    assert np.array_equal(training.model.params, kept)


def test_a_metric_that_takes_long_is_measured_where_it_is_monitored():
    for monitor in ("loss", "roc_auc", "brier"):
        training = make(validation=problem(20, 1), monitor=monitor, epochs=3)
        epochs = run(training)
        assert all((monitor in epoch.validation) for epoch in epochs)
        assert all(("roc_auc" in e.validation) == (monitor == "roc_auc") for e in epochs)
        scores = [epoch.validation[monitor] for epoch in epochs]
        best = max(scores) if monitor == "roc_auc" else min(scores)
        assert training.progress["best_epoch"] == 1 + scores.index(best)
