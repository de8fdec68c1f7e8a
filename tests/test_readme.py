"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

import minidl
from minidl.config import load_config
from minidl.layers import LAYERS
from minidl.losses import LOSSES

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def blocks(language):
    return [text for kind, text in FENCES if kind == language]


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in FENCES} == {"sh", "console", "python", "yaml"}
    text = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert not [line for line in text.splitlines() if re.match(r"    |\t|~~~", line)]


def test_it_is_short():
    assert len(README.splitlines()) <= 235
    assert len(README.splitlines()[2].split()) <= 20


def test_the_python_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    printed = capsys.readouterr().out
    accuracies = re.findall(r"^\d+ [\d.]+ ([\d.]+)$", printed, flags=re.MULTILINE)
    assert len(accuracies) == 10 and float(accuracies[-1]) > 0.9
    assert "[0 1 2]" in printed
    assert "Power" in printed
    assert "FAIL" not in printed
    assert np.isfinite(names["model"].params).all()


def test_the_yaml_of_the_readme_is_a_config(tmp_path):
    (block,) = blocks("yaml")
    (tmp_path / "digits.yaml").write_text(block)
    assert load_config(tmp_path / "digits.yaml").name == "digits"


def sessions():
    for block in blocks("console"):
        commands = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        yield [command.partition("\n")[::2] for command in commands]


def shape_of(text):
    """The text with every number replaced, and every run of spaces by one."""
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text))


@pytest.mark.parametrize("session", list(sessions()), ids=lambda session: session[0][0])
def test_the_commands_of_the_readme_print_what_it_shows(session, tmp_path):
    if "mnist" in session[0][0] and not os.environ.get("MINIDL_DATA_DIR"):
        pytest.skip("needs MNIST: set MINIDL_DATA_DIR to the folder of mnist.npz")
    iris = load_iris()
    names = ["sepal length", "sepal width", "petal length", "petal width", "species"]
    rows = [
        ",".join([*map(str, x), str(iris.target_names[y])])
        for x, y in zip(iris.data, iris.target, strict=True)
    ]
    (tmp_path / "iris.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    program = tmp_path / "bin" / "minidl"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom minidl.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    package = str(Path(minidl.__file__).parents[1])
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(program.parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
    for command, shown in session:
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert shape_of(done.stdout) == shape_of(shown), done.stdout


def test_the_names_of_layers_and_losses_are_listed():
    for title, registry in (("Layers", LAYERS), ("Losses", LOSSES)):
        (listed,) = re.findall(rf"\b{title}: (.*?)\.", README)
        assert re.findall(r"`(\w+)`", listed) == list(registry)


def test_the_two_commands_are_one_line_each():
    section = README.split("## Two commands")[1].split("\n## ")[0]
    commands = re.findall(r"```\w*\n(.*?)```", section, flags=re.DOTALL)
    assert [command.count("\n") for command in commands] == [1, 1]
    assert len(blocks("sh")) == 2
