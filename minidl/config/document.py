"""From the text of a YAML file to plain values that know where they stand.

PyYAML composes the nodes.  On the way a config is refused what it never needs and what hides
mistakes: anchors, tags, duplicate keys, several documents, deep nesting.  Unquoted scalars follow
the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2, section 10.3), not PyYAML's YAML 1.1.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from minidl.errors import ConfigError

STANDARD_INPUT = "-"
MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_NODES = 8192
MAX_DIGITS = 40
MAX_ERRORS = 40

Scalar: TypeAlias = bool | int | float | str | None

_OVERRIDE = "override "  # in front of its text, where the name of a file would stand
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, Scalar] = {
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
    """One value of the document.

    where: "file:line:column", or "override '...'" for a value from the command line.
    key_where: the same for the key in front of the value.
    """

    value: Scalar | list[Node] | dict[str, Node]
    where: str
    key_where: str = ""

    @property
    def is_override(self) -> bool:
        """Whether the value comes from the command line."""
        return self.where.startswith(_OVERRIDE)

    def plain(self) -> object:
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

    def overrides(self) -> Iterator[str]:
        """The overrides that set this value, or a part of it."""
        if self.is_override:
            yield self.where
        elif isinstance(self.value, dict):
            for node in self.value.values():
                yield from node.overrides()
        elif isinstance(self.value, list):
            for node in self.value:
                yield from node.overrides()


def place(node: Node, *others: Node) -> str:
    """Where an error at `node` comes from: its place, and the overrides that have a part in it."""
    found = [where for each in (node, *others) for where in each.overrides()]
    return ", with ".join(dict.fromkeys([node.where, *found]))


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar: `1e-3` is a number, `on`, `010_000` and `1:30` are text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
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
    """One exception for all errors, one on each line."""
    shown = list(errors[:MAX_ERRORS])
    if len(errors) > MAX_ERRORS:
        shown.append(f"... and {len(errors) - MAX_ERRORS} more errors")
    return ConfigError("\n".join(shown))


class _Composer(yaml.SafeLoader):
    """PyYAML's composer with limits.

    `problems` collects what is refused and can be passed over, so that all of it is reported.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[tuple[yaml.Mark, str]] = []
        self._depth = self._n_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_NODES} values; this is no config", problem_mark=mark
            )
        if self._depth >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark
            )
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            problem = "anchors and aliases (& and *) are not allowed; write it out"
            self.problems.append((mark, problem))
            event.anchor = None
        if getattr(event, "tag", None) is not None:
            problem = "tags (!) are not allowed; quote the text if it begins with !"
            self.problems.append((mark, problem))
            event.tag = None
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode("", "", mark, mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_one(self) -> yaml.Node | None:
        """The one document of the text; None where there is none."""
        node = self.get_node() if self.check_node() else None
        if self.check_node():
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            mark = event.start_mark
            self.problems.append((mark, "a second document begins here; a config is one document"))
        return node


def parse(text: str, name: str) -> Node:
    """The one YAML document of the text, null where it is empty. Raises ConfigError.

    name: the file, or an override, which has no lines.
    """

    def where(line: int, column: int) -> str:
        return name if name.startswith(_OVERRIDE) else f"{name}:{line + 1}:{column + 1}"

    def convert(node: yaml.Node) -> Node:
        here = where(node.start_mark.line, node.start_mark.column)
        if isinstance(node, yaml.SequenceNode):
            return Node([convert(item) for item in node.value], here)
        if isinstance(node, yaml.MappingNode):
            return Node(convert_map(node), here)
        assert isinstance(node, yaml.ScalarNode)
        try:
            if re.search("[\ud800-\udfff]", node.value):
                raise ValueError("an escape that is half a character (\\ud800 to \\udfff)")
            return Node(resolve(node.value) if node.style is None else node.value, here)
        except ValueError as error:
            errors.append(f"{here}: {error}")
            return Node(None, here)

    def convert_map(node: yaml.MappingNode) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key, item in node.value:
            key_where = where(key.start_mark.line, key.start_mark.column)
            if not isinstance(key, yaml.ScalarNode):
                kind = "a list" if isinstance(key, yaml.SequenceNode) else "a map"
                errors.append(f"{key_where}: a key must be a plain word, not {kind}")
                continue
            if key.value in entries:
                errors.append(f"{key_where}: {brief(key.value)} stands here twice")
            entries[key.value] = convert(item)
            entries[key.value].key_where = key_where
        return entries

    errors: list[str] = []
    try:
        composer = _Composer(text)
        composed = composer.compose_one()
        errors = [f"{where(mark.line, mark.column)}: {what}" for mark, what in composer.problems]
        node = Node(None, where(0, 0)) if composed is None else convert(composed)
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
    if errors:
        raise fail(errors)
    return node


def read(path: str | PathLike[str]) -> Node:
    """The document of a config file, a map; "-" is standard input.

    The size is checked before anything is read.  Raises ConfigError.
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
            content = stream.read(MAX_BYTES)
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
