from __future__ import annotations

import io
import json
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

import minidl
from minidl.config import Config, document, dump, json_schema, load_config, schema_text
from minidl.config import settings as sections
from minidl.config.choices import Choice, Family
from minidl.config.text import validate
from minidl.errors import ConfigError
from minidl.layers import LAYERS, Layer
from minidl.schedules import SCHEDULES

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCHEMA_FILE = Path(minidl.__file__).parent / "config.schema.json"

BASE = """\
data: digits
model:
  - linear: 256
  - relu
  - linear: auto
"""


@pytest.fixture
def load(tmp_path):
    """Write a config file, load it with overrides."""

    def write_and_load(text: str | bytes, *overrides: str, name: str = "c.yaml") -> Config:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides)

    return write_and_load


@pytest.fixture
def errors(load, tmp_path):
    """The error lines of a config, the folder of the file cut off."""

    def lines(text: str | bytes, *overrides: str, name: str = "c.yaml") -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load(text, *overrides, name=name)
        return str(raised.value).replace(f"{tmp_path}{os.sep}", "").split("\n")

    return lines


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("-.inf", -np.inf),
        ("nan", "nan"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ('"caf\\u00e9"', "café"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    node = document.from_bytes(f"key: {text}".encode(), "f").plain()["key"]
    assert node == value and type(node) is type(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "c.yaml: is empty"),
        ("# nothing\n---\n", "c.yaml: empty; a config needs at least data and model"),
        ("- relu", "c.yaml:1:1: expected a map of sections, got a list"),
        ("just words", "c.yaml:1:1: expected a map of sections, got 'just words'"),
        ("a: [1, 2", "c.yaml:1:9: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (
            "a:\n\t- 1",
            "c.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token "
            "(indent with spaces, not with tabs)",
        ),
        ("a: 1\nb: 2\na: 3", "c.yaml:3:1: 'a' occurs twice in this map"),
        ("a: 1\n---\nb: 2", "c.yaml:2:1: a second document begins here; a config is one document"),
        ("a: !!python/name:os.system x", "c.yaml:1:4: tags (!) are not allowed;"),
        ("a: &x 1", "c.yaml:1:4: anchors and aliases (& and *) are not allowed; write it out"),
        ("[a]: 1", "c.yaml:1:1: a key must be a plain word, not a list"),
        ("a: " + "[" * 1000, "c.yaml:1:35: nested more than 32 deep"),
        ("a: " + "1" * 41, "c.yaml:1:4: a number of more than 40 digits"),
        ("a: [" + "1," * 9000, "c.yaml:1:16383: more than 8192 values; this is no config"),
        ('a: "\\ud800"', "c.yaml:1:4: an escape that is half a character"),
        ('a: "\\UFFFFFFFF"', "c.yaml:1:1: not valid YAML: a number is out of range"),
        ("a:\n  b: \x07", "c.yaml:2:6: not valid YAML: an unprintable character"),
        (b"\xff\xfea\x00", "c.yaml: not UTF-8 text (byte 0); is it a config?"),
        (b"PK\x03\x04\x00\x00", "c.yaml: a binary file, not a config"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_plain_line(errors, text, line):
    (found,) = errors(text)
    assert found.startswith(line)


def test_all_structural_errors_come_at_once(errors):
    assert len(errors("a: 1\na: 2\nb: *x\nc: !t 1")) == 3


def test_a_byte_order_mark_is_no_part_of_the_text(load):
    assert load(b"\xef\xbb\xbf" + BASE.encode()).seed == 0


def test_more_than_64_kib_are_refused(tmp_path):
    path = tmp_path / "big.yaml"
    with path.open("wb") as stream:
        stream.truncate(10**12)  # there is no memory for all of it
    with pytest.raises(ConfigError, match=r"big\.yaml: a config has at most 65536 bytes"):
        load_config(path)


def test_a_path_that_is_no_file_is_refused(tmp_path):
    for path, message in [
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path / ("x" * 300), "File name too long"),
        ("a\0b", "null byte"),
        (os.devnull, "is not a file"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(path)


# --- values --------------------------------------------------------------------------------------


def test_defaults_are_filled_in(load):
    config = load(BASE, name="my run.yaml")
    assert (config.name, config.seed, config.data.validation) == ("my-run", 0, 0.1)
    assert config.data.dataset.name == "digits"
    assert config.data.preprocessing.name == "standard"
    assert [layer.name for layer in config.model] == ["linear", "relu", "linear"]
    assert config.model[0].options["n_out"] == 256
    assert config.model[2].options["n_out"] == "auto"
    assert config.loss.name == "softmax_cross_entropy"
    assert config.train.optimizer.name == "sgd"
    assert config.train.optimizer.options["momentum"] == 0.0
    assert config.train.checkpoint_every.seconds == 30
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1


BAD_VALUES = """\
name: ../escape
sed: 1
data:
  name: moons
  n_samples: "100"
  nois: 0.1
  validaton: 0.2
  test: 1.5
model:
  - linear: 0
  - linear: {n_out: 3.5, biass: true}
  - reluu
  - relu: 3
  - {name: linear, optn: he_norm, n_out: 3}
  - linear
  - 7
loss: {name: softmax_cross_entropy, label_smoothing: 1}
train:
  epochs: 0
  batch_size: true
  optimizer: {name: sgd, learning_rate: -0.1, momentun: 0.9}
  schedule: {gamma: 0.5}
  clip_grad_norm: .nan
  clip_grad_value: .inf
  ema: 1
  early_stopping: {patince: 3}
  checkpoint_every: {steps: 3, epochs: 1}
  learning_rate_multipliers: {biases: -1}
  shards: many
  monitor: accurracy
output: {directory: ""}
"""


def test_every_wrong_value_is_reported_at_once_with_its_place_and_path(errors):
    assert errors(BAD_VALUES) == [
        "c.yaml:1:7: name: expected letters, digits, '.', '_' and '-' only, got '../escape'",
        "c.yaml:5:14: data.n_samples: expected a whole number, got '100'",
        "c.yaml:6:3: data.nois: unknown key; did you mean 'noise'?",
        "c.yaml:7:3: data.validaton: unknown key; did you mean 'validation'?",
        "c.yaml:8:9: data.test: expected 0, a fraction in (0, 1) or a whole number of rows",
        "c.yaml:10:13: model.0.linear: n_out must be at least 1, got 0",
        "c.yaml:11:21: model.1.linear.n_out: expected a whole number or 'auto', got 3.5",
        "c.yaml:11:26: model.1.linear.biass: unknown key; did you mean 'bias'?",
        "c.yaml:12:5: model.2: unknown layer 'reluu'; did you mean 'relu'?",
        "c.yaml:13:5: model.3: relu takes no options",
        "c.yaml:14:20: model.4.optn: unknown key",
        "c.yaml:15:5: model.5.n_out: missing, and it has no default",
        "c.yaml:16:5: model.6: expected a layer, got 7",
        "c.yaml:17:54: loss.label_smoothing: must be in [0, 1), got 1.0",
        "c.yaml:19:11: train.epochs: expected a number >= 1, got 0",
        "c.yaml:20:15: train.batch_size: expected a whole number, got true",
        "c.yaml:21:47: train.optimizer.momentun: unknown key; did you mean 'momentum'?",
        "c.yaml:22:13: train.schedule: unknown schedule 'gamma'; known: " + ", ".join(SCHEDULES),
        "c.yaml:23:19: train.clip_grad_norm: expected a finite number, got nan",
        "c.yaml:24:20: train.clip_grad_value: expected a finite number, got inf",
        "c.yaml:28:39: train.learning_rate_multipliers.biases: expected a number >= 0, got -1",
        "c.yaml:25:8: train.ema: expected a number < 1, got 1",
        "c.yaml:26:20: train.early_stopping.patince: unknown key; did you mean 'patience'?",
        "c.yaml:30:12: train.monitor: expected 'loss', 'accuracy', 'balanced_accuracy', "
        "'macro_f1', 'roc_auc', 'log_loss', 'brier', 'f1', 'r2', 'rmse', 'mae' or 'deviance', "
        "got 'accurracy'; did you mean 'accuracy'?",
        "c.yaml:29:11: train.shards: expected a whole number or 'auto', got 'many'",
        "c.yaml:27:21: train.checkpoint_every: give one of seconds, steps and epochs",
        "c.yaml:31:21: output.directory: not a file name",
        "c.yaml:2:1: sed: unknown key; did you mean 'seed'?",
    ]


def test_sections_of_the_wrong_kind_or_missing(errors):
    assert errors("data: [digits]\ntrain: 3\nloss:\n") == [
        "c.yaml:1:7: data: expected a map, got a list",
        "c.yaml:1:1: model: missing, and it has no default",
        "c.yaml:3:6: loss: expected a loss, got null",
        "c.yaml:2:8: train: expected a map, got 3",
    ]
    (first, second) = errors(BASE.replace("data: digits", "data: {nmae: digits}"))
    assert first.startswith("c.yaml:1:7: data: the data set has no name; known: mnist, file,")
    assert second == "c.yaml:1:8: data.nmae: unknown key; did you mean 'name'?"
    keys = "omega alpha zeta beta kappa gamma".split()
    found = errors(BASE.replace("data: digits", f"data: {dict.fromkeys(keys, 1)}"))
    assert [line.split(": ")[1] for line in found[1:]] == [f"data.{key}" for key in keys]


def test_a_flood_of_errors_is_cut(errors):
    found = errors("data: digits\nmodel:\n" + "  - reluu\n" * 1000)
    assert len(found) == 41 and found[-1] == "... and 960 more errors"


@pytest.mark.parametrize(
    ("text", "overrides", "line"),
    [
        (BASE, ["model.0.linear=auto"], "model.0.linear: auto is for the last linear layer only"),
        (
            "data: digits\nmodel: [relu]",
            [],
            "c.yaml:2:8: model: has no linear layer; end it with 'linear: auto'",
        ),
        (
            BASE,
            ["train.early_stopping.patience=3", "data.validation=0"],
            "train.early_stopping: needs a validation part to watch, and data.validation is 0",
        ),
        (
            BASE,
            ["train.monitor=rmse"],
            "train.monitor: softmax_cross_entropy gives loss, accuracy, balanced_accuracy, "
            "macro_f1, roc_auc, log_loss, brier; not rmse",
        ),
        (
            BASE,
            ["train.schedule={name: cosine, warmup: 20}"],
            "train.schedule.warmup: warmup must be shorter than the 20 epochs of the run",
        ),
        (
            BASE,
            ["train.shards=65"],
            "train.shards: at most one for each row of a batch, 64, got 65",
        ),
    ],
)
def test_settings_that_contradict_each_other(errors, text, overrides, line):
    (found,) = errors(text, *overrides)
    assert found.endswith(line)


def test_an_error_found_later_is_located_too(load, tmp_path):
    config = load(BASE, "train.epochs=3")
    where = f"{tmp_path / 'c.yaml'}:4:5"
    assert str(config.error("model.1", "does not fit")) == f"{where}: model.1: does not fit"
    assert str(config.error("train.epochs", "no")) == "override 'train.epochs=3': train.epochs: no"


def test_paths_are_relative_to_the_config_file(load, tmp_path):
    text = BASE.replace("digits", "{name: mnist, path: ../m.npz, fallback: f.yaml}")
    config = load(text)
    assert config.data.dataset.options["path"] == str(tmp_path.parent / "m.npz")
    assert config.data.fallback == str(tmp_path / "f.yaml")
    assert config.output.directory == "runs"


def test_paths_on_the_command_line_are_relative_to_where_it_is_typed(load, tmp_path, monkeypatch):
    text = BASE.replace("digits", "{name: mnist, path: ../m.npz}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load(text, "data.path=own.npz", "data.fallback=../g.yaml")
    assert config.data.dataset.options["path"] == str(elsewhere / "own.npz")
    assert config.data.fallback == str(tmp_path / "g.yaml")
    assert load(BASE, "data={name: mnist, path: own.npz}").data.dataset.path == str(
        elsewhere / "own.npz"
    )


# --- choices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["554", "'554'"])
def test_a_data_set_of_openml_by_number(load, number):
    config = load(BASE.replace("digits", "{name: openml, id: " + number + "}"))
    assert config.data.dataset.name == "openml"
    assert config.data.dataset.options["id"] == "554"


@pytest.mark.parametrize(
    "text", ["linear: 8", "linear: {n_out: 8}", "{name: linear, n_out: 8}", "'linear': 8"]
)
def test_the_notations_of_a_choice_mean_the_same(load, text):
    config = load(f"data: digits\nmodel:\n  - {text}\n")
    assert config.model == (sections.LAYER.model("linear")(name="linear", n_out=8),)


def test_options_without_a_name_are_those_of_the_default(load):
    config = load(BASE + "train: {optimizer: {momentum: 0.5}}")
    assert config.train.optimizer.name == "sgd"
    assert config.train.optimizer.options["momentum"] == 0.5


@dataclass(frozen=True)
class Wobble:
    """Shake the features.

    More about it.
    """

    strength: float
    mode: Literal["soft", "hard"] = "soft"
    knots: Sequence[int] | None = None
    groups: object = None

    def __post_init__(self):
        if self.strength > 1:
            raise ValueError(f"strength must be at most 1, got {self.strength}")


def wave(n_in: int, n_out: int, *, rng: np.random.Generator, scale: Mapping[str, float] = {}):
    """Draw a wave."""
    assert n_in == 2 and n_out <= 2, "the trial must not take memory"
    return rng.random((n_in, n_out))


def test_the_options_of_a_choice_are_read_off_the_signature():
    family = Family("toy", {"wobble": Wobble, "wave": wave})
    assert family.first_options == {"wobble": "strength", "wave": "n_out"}
    field = TypeAdapter(sections.Annotated[Choice, family])
    choice = field.validate_python({"wobble": 1})
    assert choice.options == {"strength": 1.0, "mode": "soft", "knots": None}
    assert choice.build(groups="g", rng="not taken") == Wobble(1.0, groups="g")
    assert field.validate_python({"wave": {"n_out": 10**9, "scale": {"a": 2}}}).options == {
        "n_out": 10**9,
        "scale": {"a": 2.0},
    }
    for value, message in [
        ({"wobble": 2}, "strength must be at most 1, got 2.0"),
        ({"wobble": {"strength": 0.5, "knots": [1.5]}}, "valid integer"),
        ({"wobble": {"strength": 0.5, "groups": 1}}, "Extra inputs"),
        ("wobble", "Field required"),
    ]:
        with pytest.raises(ValidationError, match=message):
            field.validate_python(value)


def test_an_annotation_that_no_yaml_value_has_is_a_fault_of_the_program():
    def bad(*, callback: np.random.Generator = None): ...

    with pytest.raises(PydanticSchemaGenerationError):
        Family("toy", {"bad": bad}).model("bad")


def test_sequences_are_lists_kept_as_tuples():
    quantile = sections.LOSS.model("quantile")
    assert quantile(quantile=[0.25, 0.5]).options["quantile"] == (0.25, 0.5)
    assert quantile(quantile=0.5).options["quantile"] == 0.5
    with pytest.raises(ValidationError, match="valid number"):
        quantile(quantile=["x"])


def test_every_entry_of_every_registry_is_a_choice():
    assert set(sections.LAYER.registry) == set(LAYERS)
    for family in sections.FAMILIES:
        for name, model in ((name, family.model(name)) for name in family.registry):
            assert model.__doc__, name
            if family.default is not None:
                assert family.default in family.registry


class Around(Layer):
    """Add what the layers within make of the input to the input."""

    def __init__(self, layers: Sequence[Layer], *, scale: float = 1.0): ...


@pytest.fixture
def nesting(monkeypatch):
    """A registry that has a layer of layers."""
    family = Family("layer", {**LAYERS, "around": Around})
    for name in ("registry", "model", "validator"):
        monkeypatch.setattr(sections.LAYER, name, getattr(family, name))


NESTED = """\
data: digits
model:
  - linear: 8
  - around: [{linear: 4}, relu, {around: [linear: 4]}, {linear: 8}]
  - around: {layers: [relu], scale: 0.5}
  - linear: auto
"""


def test_layers_hold_layers(nesting, load):
    config = load(NESTED, "model.1.around.0.linear=5", "model.1.around.2=relu")
    inner = config.model[1].options["layers"]
    assert [layer.name for layer in inner] == ["linear", "relu", "relu", "linear"]
    assert inner[0].options["n_out"] == 5
    assert config.model[2].options["scale"] == 0.5
    assert load(dump(config)) == config


def test_errors_within_layers_of_layers_are_located(nesting, errors):
    assert errors(NESTED, "model.1.around.3.linear=auto", "model.1.around.1=reluu") == [
        "override 'model.1.around.1=reluu': model.1.around.1: unknown layer 'reluu'; "
        "did you mean 'relu'?"
    ]
    assert errors(NESTED, "model.1.around.3.linear=auto") == [
        "override 'model.1.around.3.linear=auto': model.1.around.3.linear: "
        "auto is for the last linear layer only"
    ]
    assert errors("data: digits\nmodel: [residual: [], linear: auto]") == [
        "c.yaml:2:19: model.0.residual: layers must not be empty"
    ]


def test_augmentations_are_a_list_of_choices(load, errors):
    config = load(BASE, "data.augmentation=[shift, {shift: 2}]")
    assert [change.options for change in config.data.augmentation] == [{"pixels": 1}, {"pixels": 2}]
    (found,) = errors(BASE, "data.augmentation=[{shift: -1}]")
    assert ": data.augmentation.0.shift: pixels must be" in found


# --- overrides -----------------------------------------------------------------------------------


def test_overrides_reach_maps_lists_defaults_and_short_notations(load):
    config = load(
        BASE + "train: {optimizer: adam, early_stopping: null}",
        "seed=7",
        "name='1'",
        "data.n_samples=50",
        "data.name=moons",
        "model.0.linear=8",
        "model.1=batch_norm",
        "model.1.batch_norm.momentum=0.2",
        "model.2.linear.bias=false",
        "train.optimizer.learning_rate=1e-3",
        "train.schedule.warmup=2",
        "train.early_stopping.patience=3",
        "train.checkpoint_every={steps: 5}",
        "loss=softmax_cross_entropy",
        "train.clip_grad_norm=1",
        "train.clip_grad_norm=",
    )
    assert (config.seed, config.name) == (7, "1")
    assert config.data.dataset.options["n_samples"] == 50
    assert config.model[0].options["n_out"] == 8
    assert config.model[1].options["momentum"] == 0.2
    assert config.model[2].options["n_out"] == "auto"
    assert config.model[2].options["bias"] is False
    assert config.train.optimizer.name == "adam"
    assert config.train.optimizer.options["learning_rate"] == 0.001
    assert config.train.schedule.options["warmup"] == 2
    assert config.train.early_stopping.patience == 3
    assert config.train.checkpoint_every.steps == 5
    assert config.train.clip_grad_norm is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train.epochs=x", "train.epochs: expected a whole number, got 'x'"),
        ("train.epohcs=3", "train.epohcs: unknown key; did you mean 'epochs'?"),
        ("train.epochs.x=3", "train.epochs: expected a whole number, got a map"),
        ("model.0.linear=0", "model.0.linear: n_out must be at least 1, got 0"),
        ("train.optimizer.learning_rate=0", "train.optimizer.learning_rate: must be positive"),
        ("model.3=relu", "'3' is no entry of model, which has 3 (count from 0)"),
        ("model.x=relu", "'x' is no entry of model, which has 3 (count from 0)"),
        ("model.-1=relu", "'-1' is no entry of model, which has 3 (count from 0)"),
        ("model.0.linear={n_out: 3, init: he}", "model.0.linear.init: expected 'he_normal', 'he_"),
        ("epochs", "write key.path=value, for example train.epochs=3"),
        ("train..epochs=3", "write key.path=value, for example train.epochs=3"),
        ("a.b=*x", "anchors and aliases (& and *) are not allowed; write it out"),
        ("a.b=[", "not valid YAML: expected the node content, but found '<stream end>'"),
        (".".join("a" * 40) + "=1", "nested more than 32 deep"),
    ],
)
def test_a_wrong_override_is_named(errors, text, line):
    (found,) = errors(BASE, text)
    assert found.startswith(f"override {document.brief(text)}: {line}")


def test_all_wrong_overrides_come_at_once(errors):
    assert len(errors(BASE, "x", "y", "model.9=1")) == 3


# --- writing and the schema ----------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_come_back_equal_from_what_is_printed(path, load):
    config = load_config(path)
    assert config.name == path.stem
    assert config.data.fallback is None or Path(config.data.fallback) in CONFIGS
    printed = dump(config)
    assert load(printed) == config
    assert dump(load(printed)) == printed
    assert load(printed, "seed=12345") != config


def test_what_is_printed_reads_well(load):
    model = BASE.replace("relu", "relu\n  - dropout: 0.2")
    text = dump(load(model, "train.optimizer.momentum=0.9", name="digits.yaml"))
    assert text.startswith(
        "name: digits\nseed: 0\n\ndata:\n  name: digits\n  n_class: 10\n  validation: 0.1\n"
    )
    assert "\n  - linear: {n_out: 256, init: he_normal, " in text
    assert "\n  - relu\n  - dropout: 0.2\n" in text
    assert "\n  optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.9, " in text
    assert "\n  checkpoint_every: {seconds: 30.0}\n" in text


TEXTS = ["1e-3", "on", "null", "1" * 50, "'", '"', "a: b", "- x", " ", "\x85", "é", "#", "{", "<<"]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(TEXTS)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
)
def test_any_text_survives_printing(text):
    root = document.from_bytes(BASE.encode(), "f")
    root.value["output"] = document.Node({"directory": document.Node(text, "")}, "")
    config = validate(root, Path("f"))
    again = validate(document.from_bytes(dump(config).encode(), "g"), Path("f"))
    assert again.output.directory == text


def test_the_shipped_schema_is_current():
    shipped = SCHEMA_FILE.read_text(encoding="utf-8")
    assert json.loads(shipped) == json_schema(), "write it anew by minidl train --print-schema"
    assert shipped == schema_text() + "\n"
    assert len(shipped.splitlines()) < 1600


def test_the_schema_takes_the_shipped_configs_and_what_is_printed_of_them():
    checker = jsonschema.Draft202012Validator(json_schema())
    checker.check_schema(json_schema())
    for path in CONFIGS:
        assert path.read_text().startswith(
            "# yaml-language-server: $schema=../minidl/config.schema.json\n"
        )
        for text in (path.read_text(), dump(load_config(path))):
            checker.validate(document.from_bytes(text.encode(), path.name).plain())


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (BASE, True),
        (BASE + "loss: huber", True),
        (BASE + "train: {optimizer: {name: adam, beta1: 0.8}}", True),
        ("data: {name: openml, id: '554'}\nmodel: [{name: linear, n_out: auto}]", True),
        (BASE.replace("digits", "{openml: '554', test: 0.1}"), False),
        (BASE + "loss: {label_smoothing: 0.1}", True),
        (BASE + "loss: {huber: {delta: 2}}", True),
        (BASE + "loss: {huber: 2}", True),
        (BASE + "train: {schedule: {cosine: }}", True),
        (BASE.replace("digits", "{name: moons, noise: 0.1, test: 0.3}"), True),
        (BASE.replace("digits", "{moons: , test: 0.3}"), False),
        (BASE.replace("digits", "moons"), True),
        (BASE.replace("digits", "{path: a.csv, target: y}"), True),
        (BASE.replace("digits", "{name: moons, nois: 0.1}"), False),
        (BASE.replace("digits", "{name: moons, noise: 0.1, path: x}"), False),
        (BASE.replace("digits", "{name: moons, noise: little}"), False),
        (BASE.replace("digits", "{name: csv, path: a.csv, target: y, test: 0.3}"), True),
        (BASE.replace("digits", "{name: moons, iris: }"), False),
        (BASE.replace("digits", "{name: csv, target: y}"), False),
        (BASE.replace("digits", "openml"), False),
        (BASE.replace("digits", "100"), False),
        (BASE + "loss: 0.1", False),
        (BASE + "loss: {huber: [2]}", False),
        (BASE.replace("digits", "{test: 0.1}"), False),
        (BASE + "loss: {huber: {delt: 2}}", False),
        (BASE + "loss: {huber: {delta: 2}, mse: }", False),
        (BASE + "loss: {name: huber, label_smoothing: 0.1}", False),
        (BASE + "loss: hubert", False),
        (BASE + "train: {epohcs: 3}", False),
        (BASE + "train: {optimizer: {name: sgd, beta1: 0.8}}", False),
        (BASE.replace("256", "wide"), False),
        (BASE.replace("digits", "{name: moons, n_sample: 3}"), False),
    ],
)
def test_the_schema_and_the_loader_agree(load, text, right):
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid(document.from_bytes(text.encode(), "f").plain()) == right
    if right:
        load(text)
    else:
        with pytest.raises(ConfigError):
            load(text)


def test_the_schema_describes_names_defaults_and_choices():
    schema = json_schema()
    named = {"$ref": "#/$defs/optimizer.sgd", "type": "object", "required": ["name"]}
    assert named in schema["$defs"]["optimizer"]["anyOf"]
    sgd = schema["$defs"]["optimizer.sgd"]
    assert sgd["description"] and sgd["properties"]["name"] == {"const": "sgd"}
    assert sgd["properties"]["learning_rate"] == {"default": 0.1, "type": "number"}
    assert sgd["properties"].keys().isdisjoint({"groups", "clip_grad_norm"})
    assert schema["$defs"]["Train"]["properties"]["ema"]["description"]


# --- anything else: accepted, or refused with our own error --------------------------------------

SEEDS = [path.read_bytes() for path in CONFIGS]
FRAGMENTS = [
    *(b"[", b"]", b"{", b"}", b": ", b"- ", b"\n", b"&a ", b"*a", b"!!", b"'", b'"', b"|", b">"),
    *(b"\xff", b"\x00", b"\t", b"#", b"%", b"---\n", b"1e999", b".nan", b"null", b'"\\ud800"'),
    *(b'"\\UFFFFFFFF"', b"9" * 50, b"auto", b"-1", b"? ", b"<<: ", b"residual: ", b"- relu\n  "),
]
MODELS = [model for family in sections.FAMILIES for model in map(family.model, family.registry)]
WORDS = sorted(
    {"auto", "patience", "seconds", "weights"}
    | {name for family in sections.FAMILIES for name in family.registry}
    | {key for model in MODELS for key in model.model_fields}
    | {key for model in (Config, sections.Data, sections.Train) for key in model.model_fields}
)


@st.composite
def damaged_files(draw):
    """A shipped config after a few cuts, insertions, copies and flipped bits."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content)))
        change = draw(st.sampled_from(["insert", "cut", "flip", "copy"]))
        if change == "insert":
            piece = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=8))
            content[at:at] = piece * draw(st.sampled_from([1, 1, 1, 40, 2000]))
        elif change == "cut":
            del content[at : at + draw(st.integers(1, 60))]
        elif change == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "copy":
            start = draw(st.integers(0, len(content)))
            content[at:at] = content[start : start + draw(st.integers(1, 80))]
    return bytes(content)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 300)
    | st.floats()
    | st.floats(0, 1)
    | st.sampled_from(WORDS)
    | st.text(max_size=6)
)
keys = st.sampled_from(WORDS) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
dotted = st.lists(st.sampled_from(WORDS) | st.integers(0, 3).map(str), min_size=1, max_size=4)
override_texts = st.tuples(
    dotted.map(".".join), scalars.map(str) | st.text(string.printable, max_size=5)
).map("=".join)


@st.composite
def rearranged_files(draw):
    """A shipped config with other values, of any kind, in a few places."""
    tree = yaml.safe_load(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 5))):
        place = tree
        while place:
            if isinstance(place, dict):
                key = draw(st.sampled_from(sorted(place)) | st.sampled_from(WORDS))
                inner = place.get(key)
            else:
                key = draw(st.integers(0, len(place) - 1))
                inner = place[key]
            if not isinstance(inner, dict | list) or draw(st.booleans()):
                place[key] = draw(values)
                break
            place = inner
    text = yaml.safe_dump(tree, default_flow_style=draw(st.booleans()))
    return text.encode("utf-8", "replace")


def accepted_or_refused(content, overrides=()):
    try:
        root = document.from_bytes(content, "fuzz.yaml")
        for text in overrides:
            document.override(root, text, {"linear": "n_out"})
        config = validate(root, Path("fuzz.yaml"))
    except ConfigError as error:
        assert str(error)
    else:
        again = validate(document.from_bytes(dump(config).encode(), "again"), Path("again"))
        assert again == config


def fuzzing(n):
    return settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))


@fuzzing(50)
@given(damaged_files())
def test_damaged_files_are_accepted_or_refused(content):
    accepted_or_refused(content)


@fuzzing(50)
@given(rearranged_files(), st.lists(override_texts, max_size=3))
def test_rearranged_files_are_accepted_or_refused(content, overrides):
    accepted_or_refused(content, overrides)


# --- overrides and other sources -----------------------------------------------------------------

WITH_OPTIONS = """\
data: {name: moons, noise: 0.1}
model:
  - linear: 8
  - linear: auto
loss: {name: softmax_cross_entropy, label_smoothing: 0.1}
train: {early_stopping: {patience: 3}, shards: 4, optimizer: {name: sgd, momentum: 0.9}}
"""


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data.validation=0", "c.yaml:6:25, with override 'data.validation=0': train.early_stop"),
        ("train.batch_size=2", "c.yaml:6:48, with override 'train.batch_size=2': train.shards"),
        ("data.name=iris", "c.yaml:1:21, with override 'data.name=iris': data.noise: unknown key"),
        ("loss.name=mse", "c.yaml:5:37, with override 'loss.name=mse': loss.label_smoothing: unk"),
        (
            "train.optimizer.name=adam",
            "c.yaml:6:74, with override 'train.optimizer.name=adam': train.optimizer.momentum: unk",
        ),
        ("data.name=openml", "c.yaml:1:7, with override 'data.name=openml': data.id: missing"),
        (
            "train.early_stopping.patience=0",
            "override 'train.early_stopping.patience=0': train.early_stopping.patience: expected",
        ),
        ("loss.label_smoothing=2", "override 'loss.label_smoothing=2': loss.label_smoothing: must"),
        ("model.0.linear=0", "override 'model.0.linear=0': model.0.linear: n_out must be at"),
        ("model.1=reluu", "override 'model.1=reluu': model.1: unknown layer"),
    ],
)
def test_an_error_names_the_override_that_caused_it(errors, override, line):
    assert any(found.startswith(line) for found in errors(WITH_OPTIONS, override))


def test_an_error_without_a_part_of_an_override_does_not_name_it(errors):
    (found,) = errors(WITH_OPTIONS.replace("8", "0"), "train.epochs=3", "model.1.linear=2")
    assert found.startswith("c.yaml:3:13: model.0.linear: n_out must be")


def test_a_misspelt_key_beside_an_unknown_data_set_is_reported_with_it(errors):
    found = errors(BASE.replace("digits", "{name: mnits, validaton: 0.2, n_samples: 3, test: 0.1}"))
    assert len(found) == 2
    assert "data: unknown data set 'mnits'; did you mean 'mnist'?" in found[0]
    assert found[1] == "c.yaml:1:21: data.validaton: unknown key; did you mean 'validation'?"


def test_a_config_from_standard_input(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def piped(content: bytes) -> Config:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        document.standard_input.cache_clear()
        return load_config("-")

    config = piped(BASE.replace("digits", "{name: mnist, path: m.npz}").encode())
    assert config.name == "run"
    assert config.data.dataset.options["path"] == str(tmp_path / "m.npz")
    with pytest.raises(ConfigError, match=r"^standard input:3:5: model.0: unknown layer"):
        piped(BASE.replace("linear: 256", "linera: 256").encode())
    with pytest.raises(ConfigError, match=r"^standard input: a config has at most 65536 bytes"):
        piped(b"#" * 100_000)
