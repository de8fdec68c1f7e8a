"""What the README shows is what happens."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris

from minidl.config import load_config
from minidl.layers import LAYERS
from minidl.losses import LOSSES

TEXT = ""  # what the fixture `minidl` puts into config.yaml
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def blocks(language):
    return [text for kind, text in FENCES if kind == language]


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in FENCES} == {"sh", "console", "python", "yaml"}
    text = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert not [line for line in text.splitlines() if re.match(r"    |\t|~~~", line)]


def test_it_is_short():
    assert len(README.splitlines()) <= 150
    assert len(README.splitlines()[2].split()) <= 20


def test_the_python_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    printed = capsys.readouterr().out
    accuracies = re.findall(r"^\d+ [\d.]+ ([\d.]+)$", printed, flags=re.MULTILINE)
    assert len(accuracies) == 5 and float(accuracies[-1]) > 0.9
    assert "Sine" in printed
    assert "FAIL" not in printed
    assert np.isfinite(names["model"].params).all()


def test_the_yaml_of_the_readme_is_a_config(tmp_path):
    (block,) = blocks("yaml")
    (tmp_path / "digits.yaml").write_text(block)
    assert load_config(tmp_path / "digits.yaml").train.epochs == 20


def sessions():
    for block in blocks("console"):
        commands = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        yield [command.partition("\n")[::2] for command in commands]


def shape_of(text):
    """The text with every number replaced, times in seconds, and every run of spaces by one."""
    text = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)
    return re.sub(r" +", " ", text.replace("# ms", "# s"))


def write_iris():
    iris = load_iris()
    names = ["sepal length", "sepal width", "petal length", "petal width", "species"]
    species = iris.target_names[iris.target]
    rows = [",".join([*map(str, x), name]) for x, name in zip(iris.data, species, strict=True)]
    Path("iris.csv").write_text("\n".join([",".join(names), *rows]) + "\n")


def write_digits_as_mnist():
    X, y = load_digits(return_X_y=True)
    images = np.kron(15 * X.reshape(-1, 8, 8), np.ones((3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    train = {"x_train": np.tile(images, (3, 1, 1)), "y_train": np.tile(y, 3)}
    np.savez("mnist.npz", x_test=images, y_test=y, **train)


@pytest.mark.parametrize("session", list(sessions()), ids=lambda session: session[0][0])
def test_the_commands_of_the_readme_print_what_it_shows(session, minidl, monkeypatch):
    write_iris()
    write_digits_as_mnist()
    Path("minidl").touch(mode=0o755)  # commands to copy are shortened to programs on the PATH
    monkeypatch.setattr(sys, "argv", [os.path.abspath("minidl")])
    for variable in ("PATH", "MINIDL_DATA_DIR"):
        monkeypatch.setenv(variable, os.getcwd())
    for command, shown in session:
        command, _, lines = command.partition(" | head -n ")
        assert command.startswith("minidl ")
        code, out, err = minidl(command.removeprefix("minidl "))
        assert (code, err) == (0, "")
        assert shape_of("".join(out.splitlines(True)[: int(lines or 99)])) == shape_of(shown)


def test_the_names_of_layers_and_losses_are_listed():
    for title, registry in (("Layers", LAYERS), ("Losses", LOSSES)):
        (listed,) = re.findall(rf"\b{title}: (.*?)\.", README)
        assert re.findall(r"`(\w+)`", listed) == list(registry)


def test_the_two_commands_are_one_line_each():
    section = README.split("## Two commands")[1].split("\n## ")[0]
    (commands,) = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert [line.count(" && ") for line in commands.splitlines()] == [2, 2]
    assert blocks("sh") == [commands]
