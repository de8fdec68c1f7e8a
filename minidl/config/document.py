"""The text of a YAML file as plain values with their positions.

PyYAML parses the text. What a config never needs and what hides mistakes is refused: anchors, tags,
duplicate keys, several documents, deep nesting. Unquoted scalars follow the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2, section 10.3), not PyYAML's YAML 1.1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import yaml

from minidl.data.formats import open_data
from minidl.errors import ConfigError, DataError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_NODES = 8192
MAX_DIGITS = 40
MAX_ERRORS = 40

Source = TypeVar("Source")
Made = TypeVar("Made")
Scalar: TypeAlias = bool | int | float | str | None

_OVERRIDE = "override "  # before the text of an override, in place of the name of a file
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(slots=True)
class Node:
    """One value of the document.

    where: "file:line:column", or "override '...'" for a value from the command line.
    key_where: the same for the key in front of the value.
    """

    value: Scalar | list[Node] | dict[str, Node]
    where: str
    key_where: str = ""

    def plain(self) -> Any:
        """The value without positions: nested dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def walk(self, steps: Sequence[str | int]) -> tuple[Node, list[str]]:
        """Follow the steps that exist here and skip the others; return the node and its key path.

        pydantic's path names more than the file does: the chosen branch of a union, or an option
        that a short notation leaves out.
        """
        node, path = self, []
        for step in steps:
            if isinstance(node.value, dict) and isinstance(step, str) and step in node.value:
                node = node.value[step]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
            else:
                continue
            path.append(str(step))
        return node, path

    def overrides(self) -> list[str]:
        """The overrides that set this value, or a part of it."""
        if self.where.startswith(_OVERRIDE):
            return [self.where]
        parts = self.value if isinstance(self.value, list) else []
        if isinstance(self.value, dict):
            parts = list(self.value.values())
        return [where for part in parts for where in part.overrides()]


def place(where: str, *nodes: Node) -> str:
    """A place, and the overrides that set the nodes, which have a part in the error."""
    found = [override for node in nodes for override in node.overrides()]
    return ", with ".join(dict.fromkeys([where, *found]))


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar: `1e-3` is a number, `on`, `010_000` and `1:30` are text."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else text


def brief(value: object) -> str:
    """A value as an error message shows it: short, and on one line."""
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:46]}...{text[-1]}"


def refuse(errors: Iterable[str]) -> None:
    """Raise one ConfigError for all errors, one on each line; do nothing where there is none."""
    lines = list(dict.fromkeys(errors))
    if len(lines) > MAX_ERRORS:
        lines[MAX_ERRORS:] = [f"... and {len(lines) - MAX_ERRORS} more errors"]
    if lines:
        raise ConfigError("\n".join(lines))


def all_or_errors(make: Callable[[Source], Made], sources: Iterable[Source]) -> list[Made]:
    """Make something of each source, or raise one ConfigError with the errors of all."""
    made, errors = [], []
    for source in sources:
        try:
            made.append(make(source))
        except ConfigError as error:
            errors += str(error).splitlines()
    refuse(errors)
    return made


class _Builder:
    """Builds the nodes of one text from PyYAML's events.

    errors: what is refused and can be passed over, so that all of it is reported.
    """

    def __init__(self, text: str, name: str) -> None:
        self.events: Iterator[Any] = yaml.parse(text, yaml.SafeLoader)
        self.name, self.n_nodes = name, 0
        self.errors: list[str] = []

    def where(self, line: int, column: int) -> str:
        """A place in the file; the name alone for an override, which has no lines."""
        is_override = self.name.startswith(_OVERRIDE)
        return self.name if is_override else f"{self.name}:{line + 1}:{column + 1}"

    def document(self) -> Node:
        """The one document of the text; null where there is none."""
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Node(None, self.where(0, 0))
        node = self._node(next(self.events), 0)
        next(self.events)  # the end of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._refuse(after, "a second document begins here; a config is one document")
        return node

    def _node(self, event: Any, depth: int) -> Node:
        self.n_nodes += 1
        problem = ""
        if self.n_nodes > MAX_NODES:
            problem = f"more than {MAX_NODES} values; this is no config"
        elif depth >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            problem = f"nested more than {MAX_DEPTH} deep"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if event.anchor is not None:  # also that of an alias
            self._refuse(event, "anchors and aliases (& and *) are not allowed; write it out")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, "tags (!) are not allowed; quote the text if it begins with !")
        where = self.where(event.start_mark.line, event.start_mark.column)
        if isinstance(event, yaml.SequenceStartEvent):
            items = self._until(yaml.SequenceEndEvent)
            return Node([self._node(item, depth + 1) for item in items], where)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._entries(depth + 1), where)
        text = getattr(event, "value", "")
        try:
            if re.search("[\ud800-\udfff]", text):
                raise ValueError("an escape that is half a character (\\ud800 to \\udfff)")
            return Node(text if getattr(event, "style", None) else resolve(text), where)
        except ValueError as error:
            self._refuse(event, str(error))
            return Node(None, where)

    def _entries(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for event in self._until(yaml.MappingEndEvent):
            key, item = self._node(event, depth), self._node(next(self.events), depth)
            if isinstance(key.value, dict | list):
                self._refuse(event, f"a key must be a plain word, not {brief(key.value)}")
                continue
            name = getattr(event, "value", "")
            if name in entries:
                self._refuse(event, f"{brief(name)} occurs twice in this map")
            item.key_where = key.where
            entries[name] = item
        return entries

    def _until(self, end: type[yaml.Event]) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event

    def _refuse(self, event: Any, problem: str) -> None:
        mark = event.start_mark
        self.errors.append(f"{self.where(mark.line, mark.column)}: {problem}")


def parse(text: str, name: str) -> Node:
    """The one YAML document of the text, null where it is empty. Raises ConfigError.

    name: of the file, or "override '...'".
    """
    builder = _Builder(text, name)
    where = builder.where
    try:
        node = builder.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        assert mark is not None  # PyYAML always sets one of them
        problem = error.problem or error.context or "cannot be read"
        if "\\t" in problem:
            problem += " (indent with spaces, not with tabs)"
        kind = "" if type(error) is yaml.MarkedYAMLError else "not valid YAML: "
        raise ConfigError(f"{where(mark.line, mark.column)}: {kind}{problem}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        here = where(before.count("\n"), error.position - before.rfind("\n") - 1)
        raise ConfigError(f"{here}: not valid YAML: an unprintable character") from None
    except (ValueError, OverflowError):  # raised by PyYAML for "\UFFFFFFFF" and %YAML 1.99...9
        raise ConfigError(f"{where(0, 0)}: not valid YAML: a number is out of range") from None
    refuse(builder.errors)
    return node


def read(path: str | PathLike[str]) -> Node:
    """The document of a config file, a map; "-" is standard input.  Raises ConfigError."""
    name = str(Path(path))
    if name == "-":
        name, content = "standard input", standard_input()
    else:
        try:
            with open_data(name) as file:
                content = file.read(MAX_BYTES + 1)
        except (DataError, OSError) as error:
            raise ConfigError(str(error)) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name}: a config has at most {MAX_BYTES} bytes (64 KiB)")
    return from_bytes(content, name)


@cache
def standard_input() -> bytes:
    """What standard input holds; it can be read only once."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_BYTES + 1)


def from_bytes(content: bytes, name: str) -> Node:
    """The document, a map, in the bytes of the file called `name`. Raises ConfigError."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 text (byte {error.start}); is it a config?") from None
    if "\0" in text:
        raise ConfigError(f"{name}: a binary file, not a config")
    root = parse(text, name)
    if root.value is None:
        raise ConfigError(f"{name}: empty; a config needs at least data and model")
    if not isinstance(root.value, dict):
        raise ConfigError(f"{root.where}: expected a map of sections, got {brief(root.value)}")
    return root


def override(root: Node, text: str, first_option: Mapping[str, str]) -> None:
    """Set one value of the document, as `key.path=value`; list entries are counted from 0.

    A choice in short notation on the way is written out: `optimizer: sgd` becomes `{name: sgd}`,
    and `linear: 256` becomes `linear: {n_out: 256}`.  Raises ConfigError.
    first_option: the option that `name: value` sets, for each name.
    """
    where = f"{_OVERRIDE}{brief(text)}"
    keys, equals, value_text = text.partition("=")
    steps = keys.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(f"{where}: write key.path=value, for example train.epochs=3")
    if len(steps) > MAX_DEPTH:
        raise ConfigError(f"{where}: nested more than {MAX_DEPTH} deep")
    new = parse(value_text, where)
    new.key_where = where
    node, before = root, ""
    for i, step in enumerate(steps):
        if node.value is None or node.value == step:  # nothing yet, or a bare name: `- batch_norm`
            node.value = {}
        elif not isinstance(node.value, dict | list):
            node.value = {first_option.get(before, "name"): Node(node.value, node.where)}
        holder: Any = node.value
        key: str | int = step
        if isinstance(holder, list):
            if step not in map(str, range(len(holder))):
                path = ".".join(steps[:i])
                raise ConfigError(
                    f"{where}: {brief(step)} is no entry of {path}, which has {len(holder)} "
                    "(count from 0)"
                )
            key = int(step)
        else:
            holder.setdefault(step, Node(None, where, where))
        node, before = holder[key], step
    holder[key] = new
