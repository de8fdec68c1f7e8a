"""What the README shows is what happens."""

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_of_the_readme_runs(capsys):
    names = {}
    for block in BLOCKS:
        exec(block, names)
    printed = capsys.readouterr().out
    accuracies = re.findall(r"^\d+ [\d.]+ ([\d.]+)$", printed, flags=re.MULTILINE)
    assert float(accuracies[-1]) > 0.9
    assert "Power" in printed
    assert "FAIL" not in printed
    assert np.isfinite(names["model"].params).all()


def test_the_two_commands_are_one_line_each():
    section = README.split("## Two commands")[1].split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert [command.count("\n") for command in commands] == [1, 1]
