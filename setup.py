"""The wheel carries the shipped configs as minidl/configs; the rest is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copy configs/*.yaml into the package, but not for an editable installation."""

    def run(self):
        """Build the package, then copy."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "minidl", "configs")
            folder.mkdir(exist_ok=True)
            for file in sorted(Path("configs").glob("*.yaml")):
                text = file.read_text("utf-8").replace("../minidl/config", "../config", 1)
                (folder / file.name).write_text(text, "utf-8")


setup(cmdclass={"build_py": BuildWithConfigs})
