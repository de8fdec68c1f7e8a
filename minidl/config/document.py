"""From the bytes of a YAML file to plain values that know where they stand.

One pass over PyYAML's parse events, without recursion, refuses what a config never needs and what
hides mistakes: anchors, tags, equal keys, several documents, deep nesting. Scalars follow the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2, section 10.3), not PyYAML's YAML 1.1.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import yaml

from minidl.errors import ConfigError

STANDARD_INPUT = "-"
MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_NODES = 8192
MAX_DIGITS = 40
MAX_ERRORS = 40

Scalar: TypeAlias = bool | int | float | str | None
Place: TypeAlias = Callable[[int, int], str]  # line and column, from 0, in words

_OVERRIDE = "override "  # before the text of one, where a place in the file would stand
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NAMED: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{
        sign + "." + word: float(sign + word)
        for sign in ("", "-", "+")
        for word in ("inf", "Inf", "INF")
    },
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(slots=True)
class Node:
    """One value of the document and where it, and the key in front of it, begin."""

    value: Scalar | list[Node] | dict[str, Node]
    where: str
    key_where: str = ""

    @property
    def is_override(self) -> bool:
        """Whether the command line has put it here."""
        return self.where.startswith(_OVERRIDE)

    def plain(self) -> object:
        """The value without positions: nested dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def walk(self, steps: Sequence[str | int]) -> tuple[Node, list[str]]:
        """Follow the steps that exist here and pass over the others; the end and its key path.

        A validator's path names more than the file does (the chosen branch of a union, the option
        that a short notation leaves out); what the file does not hold is passed over.
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


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar: `1e-3` is a number, `on`, `010_000` and `1:30` are text."""
    if text in _NAMED:
        return _NAMED[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def brief(value: object) -> str:
    """A value as an error message shows it: short, and on one line."""
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:46]}...{text[-1]}"


def fail(errors: Sequence[str]) -> ConfigError:
    """The one exception that carries all errors, one a line."""
    shown = list(errors[:MAX_ERRORS])
    if len(errors) > MAX_ERRORS:
        shown.append(f"... and {len(errors) - MAX_ERRORS} more errors")
    return ConfigError("\n".join(shown))


def parse(text: str, place: Place) -> Node | None:
    """One YAML document as nodes, None where it is empty. Raises ConfigError."""
    errors: list[str] = []
    try:
        node = _build(yaml.parse(text, Loader=yaml.SafeLoader), place, errors)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        assert mark is not None  # one of them is always set
        where = place(mark.line, mark.column)
        problem = error.problem or error.context or "cannot be read"
        if "\\t" in problem:
            problem += " (indent with spaces, not with tabs)"
        raise ConfigError(f"{where}: not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = place(before.count("\n"), error.position - before.rfind("\n") - 1)
        raise ConfigError(f"{where}: not valid YAML: an unprintable character") from None
    except (ValueError, OverflowError):  # PyYAML's own slips: "\UFFFFFFFF", %YAML 1.99...9
        raise ConfigError(f"{place(0, 0)}: not valid YAML: a number is out of range") from None
    if errors:
        raise fail(errors)
    return node


def _build(events: Iterator[yaml.Event], place: Place, errors: list[str]) -> Node | None:
    """Turn the events into nodes with an explicit stack; None for an empty document."""
    root: Node | None = None
    stack: list[tuple[Node, str | None, str]] = []  # an open collection, its pending key, where
    n_nodes = n_documents = 0
    for event in events:
        mark = event.start_mark
        assert mark is not None  # the parser always sets it
        where = place(mark.line, mark.column)
        if isinstance(event, yaml.DocumentStartEvent):
            n_documents += 1
            if n_documents > 1:
                errors.append(f"{where}: a second document begins here; a config is one document")
                return root
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        n_nodes += 1
        if n_nodes > MAX_NODES:
            errors.append(f"{where}: more than {MAX_NODES} values; this is no config")
            return root
        value = _value(event, where, errors)
        node = Node(value, where)
        if not stack:
            if isinstance(event, yaml.ScalarEvent) and event.value == "" and event.implicit[0]:
                return None
            root = node
        else:
            parent, key, key_where = stack[-1]
            if isinstance(parent.value, list):
                parent.value.append(node)
            elif isinstance(parent.value, dict) and key is None:
                name = event.value if isinstance(event, yaml.ScalarEvent) else ""
                if not isinstance(event, yaml.ScalarEvent):
                    errors.append(f"{where}: a key must be a plain word, not {brief(value)}")
                elif name in parent.value:
                    errors.append(f"{where}: {brief(name)} stands here twice")
                stack[-1] = (parent, name, where)
            elif isinstance(parent.value, dict) and key is not None:
                node.key_where = key_where
                parent.value[key] = node
                stack[-1] = (parent, None, "")
        if isinstance(event, yaml.CollectionStartEvent):
            if len(stack) == MAX_DEPTH:
                errors.append(f"{where}: nested more than {MAX_DEPTH} deep")
                return root
            stack.append((node, None, ""))
    return root


def _value(
    event: yaml.NodeEvent, where: str, errors: list[str]
) -> Scalar | list[Node] | dict[str, Node]:
    """The (still empty) value of one event; what no config may hold goes into `errors`."""
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        errors.append(f"{where}: anchors and aliases (& and *) are not allowed; write it out")
    if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent | yaml.ScalarEvent):
        if event.tag is not None:
            errors.append(f"{where}: tags (!) are not allowed; quote the text if it begins with !")
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if not isinstance(event, yaml.ScalarEvent):
        return None
    if any("\ud800" <= character <= "\udfff" for character in event.value):
        errors.append(f"{where}: an escape that is half a character (\\ud800 to \\udfff)")
        return None
    try:
        return resolve(event.value) if event.style is None else str(event.value)
    except ValueError as error:
        errors.append(f"{where}: {error}")
        return None


def read(path: str | PathLike[str]) -> Node:
    """The document of a config file, a map; nothing is read before its size is known.

    The path "-" stands for standard input.
    """
    file = Path(path)
    if str(file) == STANDARD_INPUT:
        return from_bytes(standard_input(), "standard input")
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{file}: is a directory; name the YAML file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{file}: is not a regular file")
        if status.st_size > MAX_BYTES:
            raise ConfigError(
                f"{file}: {status.st_size} bytes; a config has at most {MAX_BYTES} (64 KiB)"
            )
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)[:MAX_BYTES]
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{str(file)!r}: not a file name") from None
    return from_bytes(content, str(file))


@cache
def standard_input() -> bytes:
    """What standard input holds; it can be read only once."""
    content = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"standard input: a config has at most {MAX_BYTES} bytes (64 KiB)")
    return content


def from_bytes(content: bytes, name: str) -> Node:
    """The document in the bytes of the file called `name`."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 text (byte {error.start}); is it a config?") from None
    if "\0" in text:
        raise ConfigError(f"{name}: a binary file, not a config")
    root = parse(text, lambda line, column: f"{name}:{line + 1}:{column + 1}")
    if root is None:
        raise ConfigError(f"{name}: empty; a config needs at least data and model")
    if not isinstance(root.value, dict):
        raise ConfigError(f"{root.where}: expected a map of sections, got {brief(root.value)}")
    return root


def override(root: Node, text: str, first_option: Mapping[str, str]) -> None:
    """Set one value of the document, as `key.path=value`; list entries are counted from 0.

    A choice on the way that is written in short is written out: `optimizer: sgd` becomes
    `{name: sgd}`, and `linear: 256` becomes `linear: {n_out: 256}` for the `first_option` of
    linear. Raises ConfigError.
    """
    where = f"{_OVERRIDE}{brief(text)}"
    keys, equals, value_text = text.partition("=")
    steps = keys.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(f"{where}: write key.path=value, for example train.epochs=3")
    if len(steps) > MAX_DEPTH:
        raise ConfigError(f"{where}: nested more than {MAX_DEPTH} deep")
    new = parse(value_text, lambda line, column: where) or Node(None, where)
    new.key_where = where
    node, before = root, ""
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if node.value is None or node.value == step:  # nothing yet, or a bare name: `- batch_norm`
            node.value = {}
        elif not isinstance(node.value, dict | list):
            node.value = {first_option.get(before, "name"): Node(node.value, node.where)}
        if isinstance(node.value, list):
            if step not in map(str, range(len(node.value))):
                path = ".".join(steps[:i])
                raise ConfigError(
                    f"{where}: {brief(step)} is no entry of {path}, which has "
                    f"{len(node.value)} (count from 0)"
                )
            if last:
                node.value[int(step)] = new
            node = node.value[int(step)]
        else:
            if last:
                node.value[step] = new
            node = node.value.setdefault(step, Node(None, where, where))
        before = step
