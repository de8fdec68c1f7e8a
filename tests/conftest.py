"""What several test files use."""

import shlex
import sys
from pathlib import Path

import pytest

from minidl import cli


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    """Write no report.html, which takes seconds, but in the tests marked `report`."""
    if request.node.get_closest_marker("report") is None:
        monkeypatch.setattr("minidl.commands.train._write_report", lambda run: None)
        monkeypatch.setattr("minidl.commands.sweep._write_page", lambda swept: None)


@pytest.fixture
def minidl(request, tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder with the file's TEXT as config.yaml.

    Returns its exit code, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIDL_DATA_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/minidl"])
    Path("config.yaml").write_text(request.module.TEXT)

    def minidl(command):
        try:
            code = cli.main(shlex.split(command))
        except SystemExit as stop:  # argparse's own
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return minidl
