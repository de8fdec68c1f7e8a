"""`minidl init`: look at a table, and write a config that trains on it at once."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from minidl.atomic import replace_file
from minidl.commands.arguments import Parser, again, refuse_existing
from minidl.config import default_name, quoted
from minidl.data.formats import Format
from minidl.data.inspection import Inspection, inspect
from minidl.data.targets import Task
from minidl.shipped import shipped_configs
from minidl.terminal import say, warn

MOST_COLUMNS = 300  # that are written one by one; a config has at most 64 KiB
TRAINED = 0.7  # of the rows, beside the validation and the test part


def init(arguments: Sequence[str]) -> int:
    """Write a config for a table."""
    parser = Parser(
        "init",
        "Look at a CSV, TSV, Parquet or Arrow file, and write a commented config that trains on "
        "it: how the file is written, what each column is, and what to look at.",
    )
    parser.add_argument("data", metavar="FILE", help="the table")
    parser.add_argument("--target", metavar="NAME", required=True, help="the column to predict")
    parser.add_argument("--task", choices=get_args(Task), default="auto", help="default: auto")
    parser.add_argument("--out", metavar="CONFIG", help="default: the file's name with .yaml")
    parser.add_argument("--force", action="store_true", help="replace a config that exists")
    options = parser.parse_args(arguments)
    name = default_name(Path(re.sub(r"\.gz$", "", options.data)))
    out = Path(options.out or f"{name}.yaml")
    refuse_existing(out, force=options.force)
    found = inspect(options.data, options.target, options.task)
    text = config_text(found, name, _relative(options.data, out), options.target)
    replace_file(out, lambda file: file.write(text.encode()))
    for warning in found.warnings:
        warn(warning)
    say(f"{out}: {_task(found)}; train it by\n  {again('train', str(out))}")
    return 0


def config_text(found: Inspection, name: str, path: str, target: str) -> str:
    """The config for what was found: the data section, and the rest of the shipped recipe."""
    classes = found.target.classes
    task = "regression" if classes is None else "classification"
    kind = "TabularRegressor" if classes is None else "TabularClassifier"
    lines = [
        f"# {found.n_rows} rows, {len(found.columns)} columns beside the target. {_task(found)}.",
        f"# This trains one net of those that `minidl.tabular.{kind}` trains without each of five",
        "# folds of the rows.",
    ]
    if found.warnings:
        lines += ["#", "# Please look at these:"]
        lines += [f"# - {_line(each)}" for each in found.warnings]
    lines += [f"name: {name}", "seed: 0", "", "data:", f"  path: {quoted(path)}"]
    lines += [f"  target: {quoted(target)}", f"  task: {task}"]
    plain = Format("\t" if re.search(r"\.(tsv|tab)(\.gz)?$", path.lower()) else ",")
    for key in ("delimiter", "encoding", "header", "decimal"):
        value = getattr(found.form, key)
        if value != getattr(plain, key):
            lines.append(f"  {key}: {str(value).lower() if key == 'header' else quoted(value)}")
    if found.form.missing:
        words = ", ".join(map(quoted, found.form.missing))
        lines.append(f"  missing: [{words}]  # beside '', NA, ?")
    if len(found.target.rows) < found.n_rows:
        lines.append("  drop_missing_target: true  # rows without a target are left out")
    shown = list(found.columns.items())
    if len(shown) > MOST_COLUMNS:
        shown = [each for each in shown if each[1][0] != "number"][:MOST_COLUMNS]
        lines.append("  # What columns are that are not named here is told from their cells.")
    if shown:
        lines.append("  columns:  # number, category, date or ignore; training holds to it")
        width = min(40, max(len(quoted(key)) + len(kind) for key, (kind, _) in shown) + 2)
        for key, (kind, reason) in shown:
            entry = f"{quoted(key)}: {quoted(kind)}"
            lines.append(f"    {entry:<{width}}  # {_line(reason)}")
    return "\n".join(lines) + "\n" + _recipe(task, len(found.target.rows))


def _recipe(task: str, n_rows: int) -> str:
    """Preprocessing, model, loss and training of the shipped recipe, for this number of rows."""
    from minidl.tabular.members import length_for

    text = shipped_configs()[f"tabular_{task}"].read_text(encoding="utf-8")
    text = text[text.index("\n  preprocessing:") + 1 :]
    batch_rows, epochs, patience = length_for(max(1, int(TRAINED * n_rows)))
    settings: dict[str, object] = {"epochs": epochs, "batch_size": batch_rows}
    settings["early_stopping"] = f"{{patience: {patience}}}"
    for key, value in settings.items():
        text = re.sub(rf"(\n  {key}:) .*", rf"\1 {value}", text)
    return text


def _task(found: Inspection) -> str:
    classes = found.target.classes
    if classes is None:
        return "Regression: the target holds numbers"
    names = _line(", ".join(map(str, classes[:5]))) + (", ..." if len(classes) > 5 else "")
    return f"Classification: the target holds {len(classes)} classes, {names}"


def _line(text: str) -> str:
    """A text as a comment: on one line, and nothing that a terminal obeys."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _relative(path: str, out: Path) -> str:
    try:
        return os.path.relpath(path, out.parent).replace(os.sep, "/")
    except ValueError:  # on another drive of Windows
        return os.path.abspath(path)
