"""A config becomes all that a run trains, or a located error; one seed fixes all of it."""

import json
import os

import numpy as np
import pytest
import random_models
import sklearn.datasets

from minidl import load
from minidl.config import dump, load_config
from minidl.errors import ConfigError, DataError
from minidl.layers import Linear
from minidl.memory import memory_bytes
from minidl.runs.experiment import Experiment, build_or_fall_back, random_streams

TEXT = """\
seed: 3
data:
  name: iris
model:
  - linear: 8
  - relu
  - linear: auto
loss: softmax_cross_entropy
train:
  epochs: 2
  batch_size: 32
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """The experiment of a text with overrides, its file named config.yaml."""
    monkeypatch.chdir(tmp_path)

    def build(text=TEXT, *overrides):
        (tmp_path / "config.yaml").write_text(text)
        return Experiment(load_config("config.yaml", overrides))

    return build


def test_the_streams_of_a_seed_are_independent_and_repeat():
    draws = {name: rng.random(4).tolist() for name, rng in random_streams(7).items()}
    again = {name: rng.random(4).tolist() for name, rng in random_streams(7).items()}
    assert draws == again
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert random_streams(8)["init"].random(4).tolist() != draws["init"]


def test_equal_seeds_give_equal_experiments_and_others_do_not(build):
    one, two, other = build(), build(), build(TEXT, "seed=4")
    np.testing.assert_array_equal(one.model.params, two.model.params)
    np.testing.assert_array_equal(one.train.X, two.train.X)
    assert not np.array_equal(one.model.params, other.model.params)
    assert not np.array_equal(one.train.X, other.train.X)


def test_automatic_choices_are_numbers_afterwards(build):
    config = build().config
    assert config.model[-1].options["n_out"] == 3
    train = config.train
    assert all(isinstance(n, int) for n in (train.shards, train.blas_threads))
    assert "auto" not in dump(config)


def test_preprocessing_is_fitted_on_the_training_part_alone(build):
    experiment = build()
    inputs = experiment.transform(experiment.train.X)
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-5)
    assert abs(experiment.transform(experiment.test.X).mean()) > 1e-3


def mnist_file(folder, n=40):
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(n, dtype=np.uint8) % 10
    np.savez(folder / "mnist.npz", **arrays)
    return folder / "mnist.npz"


@pytest.mark.parametrize("found_by", ["path", "environment", "cache"])
def test_the_resolved_config_names_the_file_that_was_read(build, tmp_path, monkeypatch, found_by):
    monkeypatch.delenv("MINIDL_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    overrides = ["data.name=mnist"]
    if found_by == "cache":
        (tmp_path / "cache/minidl").mkdir(parents=True)
        file = mnist_file(tmp_path / "cache/minidl")
    else:
        file = mnist_file(tmp_path)
        if found_by == "path":
            overrides.append("data.path=mnist.npz")
        else:
            monkeypatch.setenv("MINIDL_DATA_DIR", ".")
    config = build(TEXT, *overrides, "data.fallback=other.yaml").config
    assert config.data.dataset.options["path"] == str(file)
    assert config.data.fallback is None


def test_what_cannot_be_had_gives_way_to_the_fallback(build, tmp_path, monkeypatch):
    def fetch(*what):
        raise DataError("openml.org cannot be reached")

    monkeypatch.setattr("minidl.data.downloads.fetch", fetch)
    monkeypatch.setenv("MINIDL_DATA_DIR", str(tmp_path / "gone"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "gone"))
    (tmp_path / "other.yaml").write_text(TEXT.replace("iris", "wine"))
    (tmp_path / "config.yaml").write_text(TEXT)
    missing = ["data=mnist", "seed=9", "output.directory=elsewhere"]
    config = load_config("config.yaml", [*missing, "data.fallback=other.yaml"])
    said = []
    experiment = build_or_fall_back(config, said.append)
    assert experiment.dataset.name == "wine"
    assert (experiment.config.seed, experiment.config.output.directory) == (9, "elsewhere")
    assert "mnist is not available" in said[0] and "cannot be reached" in said[0]
    assert "on wine" in said[0]
    with pytest.raises(DataError, match="cannot be reached"):
        build_or_fall_back(load_config("config.yaml", missing), said.append)
    missing[0] = "data={name: mnist, path: gone.npz}"  # what is asked for is not replaced
    with pytest.raises(DataError, match=r"gone\.npz: no such file"):
        build_or_fall_back(
            load_config("config.yaml", [*missing, "data.fallback=other.yaml"]), print
        )


def assert_config_saves(build, tmp_path, seed):
    experiment = build(json.dumps(random_models.config(np.random.default_rng(seed))))
    for _ in experiment.training().steps():
        break
    whole = experiment.predictor()
    whole.save(tmp_path / "model.npz")
    X = experiment.train.X[:5]
    assert load(tmp_path / "model.npz").outputs(X).tobytes() == whole.outputs(X).tobytes()


def test_random_configs_are_built_saved_and_loaded(build, tmp_path):
    for seed in range(60):
        assert_config_saves(build, tmp_path, seed)


@pytest.mark.slow
def test_5000_random_configs_are_built_saved_and_loaded(build, tmp_path):
    for seed in range(1000, 6000):
        assert_config_saves(build, tmp_path, seed)


@pytest.mark.parametrize(
    "overrides, line",
    [
        (["model.2.linear=4"], "model.2: the model has 4 outputs, but iris with "),
        (["model.1={residual: [{linear: 4}, relu]}"],
         "override 'model.1={residual: [{linear: 4}, relu]}': model.1: layers must lead back to 8"),
        (["model.1={residual: [linear: 8, residual: [linear: 9]]}"],
         "model.1.residual.1: layers must lead back to 8 features, not to 9"),
        (["loss=mse"], "loss: mse does not fit iris, a classification"),
        (["loss=sigmoid_cross_entropy"], "is for two classes, iris has 3"),
        (["data.name=diabetes"], "softmax_cross_entropy does not fit diabetes, a regression"),
        (["model.0.linear=100000000000"], "model: 7e+11 parameters, "),
        (["model.0.linear=2000000000000"], "model: linear cannot have n_out=2000000000000"),
        ([f"model=[{'relu, ' * 1000}linear: auto]"], "model: layers must be at most 1000"),
        (["data.augmentation=[shift: 1]"], "data.augmentation: the rows of iris are no images"),
        (["data.name=breast_cancer", "loss=sigmoid_cross_entropy", "train.mixup=0.2"],
         "train.mixup: does not go with sigmoid_cross_entropy"),
        (["loss={name: quantile, quantile: [0.1, 0.9]}", "data.name=linnerud"],
         "loss.quantile: quantile must be one number for 3 targets"),
        (["evaluation.shifts=1"], "evaluation.shifts: the rows of iris are no images"),
        (["data.name=digits", "evaluation.shifts=5"],
         "evaluation.shifts: pixels must be in 1 to 4, got 5"),
        (["loss={class_weight: [1, 2]}"], "loss.class_weight"),
        (["train.batch_size=1", "model.1=batch_norm"],
         "train.batch_size: a normalization over the batch needs at least 2 rows, got 1"),
        (["data.validation=200"], "iris: nothing is left for training: 150 rows, 200 for"),
        (["data={name: classification, n_informative: 50}"], "data.n_informative: "),
        (["data={name: moons, n_samples: 10000000000000}"], "data.n_samples: n_samples must be"),
        (["data={name: blobs, n_features: 10000000000000}"], "GiB of memory"),
        (["data={name: blobs, n_classes: 100, n_samples: 99}"], "data.n_samples: n_samples must"),
        (["data.preprocessing={name: piecewise_linear, n_bins: 30000000}"],
         "data.preprocessing.n_bins: must be in 1 to 10000, got 30000000"),
        (["data.preprocessing={name: quantile, n_quantiles: 30000000}"],
         "data.preprocessing.n_quantiles: must be in 2 to 100000, got 30000000"),
        (["train.shards=200", "train.batch_size=1000"],
         "train.shards: shards must be at most 105, the training rows, got 200"),
        (["train.shards=1000000", "train.batch_size=1000000"],
         "train.shards: expected a number <= 1024"),
        (["train.blas_threads=1000000"], "train.blas_threads: expected a number <= 1024"),
        (["train.epochs=" + "9" * 30], "train.epochs: expected a number <= 1000000000"),
        (["train.batch_size=" + "9" * 30], "train.batch_size: expected a number <= 1000000000"),
        (["loss={name: mse, center: [1.0, 2.0]}", "data.name=diabetes"],
         "loss.center: center has 2 numbers for 1 targets"),
        (["loss={name: mse, scale: [1.0, 2.0]}", "data.name=diabetes"],
         "loss.scale: scale has 2 numbers for 1 targets"),
        (["loss={name: mse, center: []}", "data.name=diabetes"],
         "loss.center: must be a finite number, or one for each target, got ()"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused_at_its_place(build, overrides, line):
    with pytest.raises((ConfigError, DataError)) as error:
        build(TEXT, *overrides).training()
    message = str(error.value)
    assert line in message and len(message.splitlines()) == 1


def test_layers_that_fit_one_by_one_and_not_together_are_refused(build, monkeypatch):
    monkeypatch.setattr("minidl.memory.memory_bytes", lambda: 100 * 2**20)
    wide = TEXT.replace("  - relu\n", "  - linear: 1000\n" * 30)
    with pytest.raises(
        ConfigError, match=r"^config\.yaml:5:3: model: 2.\de\+07 parameters, .* GiB"
    ):
        build(wide)
    monkeypatch.setattr("minidl.memory.memory_bytes", lambda: 2**20)
    build()
    with pytest.raises(ConfigError, match="activations of a batch of 5000 rows need"):
        build(TEXT.replace("8", "2000"), "train.batch_size=5000")


def test_a_machine_that_does_not_tell_its_memory_builds(build, monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr("minidl.memory.LIMITS", ())
    assert memory_bytes() is None
    build()


def test_an_error_that_only_the_data_shows_is_located_in_the_file(build):
    with pytest.raises(ConfigError, match=r"^config\.yaml:7:"):
        build(TEXT.replace("linear: auto", "linear: 4"))


def changed_iris(**arrays):
    bunch = sklearn.datasets.load_iris()
    for name, array in arrays.items():
        bunch[name] = array(bunch[name]) if callable(array) else array
    return lambda: bunch


@pytest.mark.parametrize(
    "arrays, line",
    [
        ({"data": lambda X: np.where(X == X[0, 0], np.nan, X)}, "iris"),
        ({"target": lambda y: np.zeros_like(y)}, "class"),
        ({"data": lambda X: X[:2], "target": np.array([0, 1])}, "iris"),
        ({"data": lambda X: X[:0], "target": np.array([], int)}, "iris"),
    ],
    ids=["nan", "one class", "two rows", "no rows"],
)
def test_data_that_cannot_be_learned_from_are_refused(build, monkeypatch, arrays, line):
    monkeypatch.setattr(sklearn.datasets, "load_iris", changed_iris(**arrays))
    with pytest.raises(DataError, match=line) as error:
        build()
    assert len(str(error.value).splitlines()) == 1


def test_fewer_rows_than_a_batch_are_one_batch(build):
    training = build(TEXT, "train.batch_size=1000").training()
    assert training.steps_per_epoch == 1
    training.step()


def test_augmentation_and_mixup_reach_the_training(build):
    text = TEXT.replace("iris", "digits")
    plain, shifted, mixed = (
        build(text, *overrides).training()
        for overrides in ([], ["data.augmentation=[shift: 2]"], ["train.mixup=1.0"])
    )
    for training in (plain, shifted, mixed):
        training.step()
    assert not np.array_equal(plain.model.params, shifted.model.params)
    assert not np.array_equal(plain.model.params, mixed.model.params)


@pytest.mark.parametrize(
    "override",
    ["train.clip_grad_norm=0.01", "train.clip_grad_value=0.001", "train.max_norm=0.1",
     "train.learning_rate_multipliers.biases=3", "train.ema=0.5", "train.dtype=float64",
     "train.schedule={name: exponential, gamma: 0.5}", "loss.label_smoothing=0.3",
     "data.preprocessing=minmax", "train.optimizer.weight_decay=0.5",
     "model.0={linear: {n_out: 8, init: orthogonal}}"],
)  # fmt: skip
def test_no_option_is_silently_ignored(build, override):
    outcomes = []
    for overrides in ([], [override]):
        training = build(TEXT, *overrides).training()
        while not training.finished:
            training.step()
        training.use_best()
        outcomes.append(training.model.params)
    assert not np.array_equal(*outcomes)


def test_the_check_finds_a_wrong_gradient(build, monkeypatch):
    assert build().check().passed
    backward = Linear.backward

    def wrong(self, dy, need_dx=True):
        dx = backward(self, dy, need_dx)
        self.db += 1e-3
        return dx

    monkeypatch.setattr(Linear, "backward", wrong)
    report = build().check()
    assert not report.passed
    assert {row.name for row in report.rows if not row.passed} == {"b", "params"}


def test_an_error_of_the_data_names_the_override_that_chose_them(build):
    with pytest.raises(
        ConfigError, match=r"^config.yaml:8:7, with override 'data.name=diabetes': l"
    ):
        build(TEXT, "data.name=diabetes")


def test_targets_that_float32_cannot_hold_are_refused(build, tmp_path):
    rows = "".join(f"{i},{i + 0.5}e40\n" for i in range(60))
    (tmp_path / "a.csv").write_text("x,y\n" + rows)
    text = TEXT.replace("name: iris", "path: a.csv\n  target: y")
    text = text.replace("softmax_cross_entropy", "{name: mse, scale_targets: true}")
    said = r"train: dtype float32 is too small for the target, which holds 5\.95e\+41; divide"
    with pytest.raises(ConfigError, match=said):
        build(text)
    assert np.isfinite(build(text, "train.dtype=float64").loss_function.scale).all()
