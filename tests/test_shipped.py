"""The shipped configs are found by name, from a checkout and from an installed package."""

from pathlib import Path

import pytest

from minidl import shipped
from minidl.config import load_config
from minidl.errors import ConfigError
from minidl.shipped import (
    PACKAGE,
    copy_of,
    description,
    find_config,
    find_fallback,
    shipped_configs,
)

ROOT = Path(__file__).parent.parent
TEXT = "data: {name: iris}\nmodel: [linear: auto]\n"
NAMES = sorted(file.stem for file in (ROOT / "configs").glob("*.yaml"))


def test_every_config_has_a_name_and_a_sentence():
    configs = shipped_configs()
    assert list(configs) == NAMES and "mnist" in NAMES
    for file in configs.values():
        assert 10 < len(description(file)) < 160 and "\n" not in description(file)
    assert description(configs["iris"]) == "Iris: 150 flowers of 3 species, 4 measures"


def test_an_installed_package_holds_them_itself(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("x")
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path, ROOT / "configs"))
    assert shipped_configs() == {"mine": tmp_path / "mine.yaml"}
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path / "gone",))
    assert shipped_configs() == {}


def test_a_file_comes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = shipped_configs()["iris"]
    for name in ("iris", "configs/iris.yaml"):
        assert find_config(name) == found
    for name in ("iris.yaml", "other/iris.yaml", "-"):  # a file that may be missing
        assert find_config(name) == Path(name)
    Path("iris").write_text(TEXT)
    assert find_config("iris") == Path("iris")


def test_a_name_that_is_nothing_gets_the_nearest():
    with pytest.raises(
        ConfigError, match=r"mnits: no such file, and no shipped config 'mnits'; .* 'mnist'"
    ):
        find_config("mnits")


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_the_same_config(tmp_path, name):
    file, copied = shipped_configs()[name], tmp_path / f"{name}.yaml"
    copied.write_text(copy_of(file))
    assert copied.read_text().splitlines()[1:] == file.read_text().splitlines()[1:]
    assert (PACKAGE / "config.schema.json").as_posix() in copied.read_text().splitlines()[0]
    before, after = load_config(file), load_config(copied)
    assert before.model_dump(exclude={"data"}) == after.model_dump(exclude={"data"})


def test_the_commands(minidl):
    code, out, err = minidl("configs")
    assert (code, err) == (0, "") and "iris  " in out and "minidl configs --copy NAME" in out
    assert minidl("train iris train.epochs=1 --quiet --out run") == (0, "", "")
    assert minidl("train configs/iris.yaml --print-config")[0] == 0
    assert minidl("configs --copy iris")[:2] == (
        0,
        "iris.yaml written; train it by\n  minidl train iris.yaml\n",
    )
    before = Path("iris.yaml").read_text()
    code, _, err = minidl("configs --copy iris")
    assert code == 2 and "iris.yaml: exists and is kept" in err
    assert minidl("configs --copy wine --out iris.yaml --force")[0] == 0
    assert Path("iris.yaml").read_text() != before
    assert "did you mean 'wine'?" in minidl("configs --copy win")[2]
    assert minidl("configs --copy wine --out gone/x.yaml")[0] == 5


def test_the_fallback_of_a_copied_config_is_found(minidl):
    minidl("configs --copy mnist")

    assert find_fallback(str(Path("digits.yaml").absolute())) == shipped_configs()["digits"]
