"""YAML 1.2 in which every value still knows its line.

ruamel.yaml's composer, not PyYAML: ``1e-5`` is a number, ``no`` is a word, and nodes have marks.
Construction is ours and small: JSON's types only, so neither a tag nor an alias can build anything
surprising; a duplicate key is an error that names both lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from harness.errors import InputError

_TAG = "tag:yaml.org,2002:"
Loc = Sequence[str | int]


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and where each part was written."""

    data: Any
    source: str
    root: Node

    def line(self, loc: Loc) -> int:
        """Line (from 1) of the deepest part of ``loc`` that is in the text.

        Steps that are not there are passed over, so that a location which also names a model (as
        pydantic's do for a union) or a field that is missing still leads to the nearest line.
        """
        node, line = self.root, self.root.start_mark.line
        for step in loc:
            if isinstance(node, MappingNode):
                for key, value in node.value:
                    if key.value == step:
                        node, line = value, key.start_mark.line
                        break
            elif isinstance(node, SequenceNode) and isinstance(step, int):
                if step < len(node.value):
                    node = node.value[step]
                    line = node.start_mark.line
            elif isinstance(node, ScalarNode):
                break
        return int(line) + 1


def load(text: str, source: str) -> Document:
    """Read one YAML document; ``source`` is the file's name for messages.

    Raises ``InputError`` with the line for anything that is not plain YAML 1.2.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InputError(
            str(error.problem or error.context),
            path=source,
            line=mark.line + 1 if mark else None,
            expected="YAML 1.2",
        ) from error
    except YAMLError as error:
        raise InputError(str(error).splitlines()[0], path=source, expected="YAML 1.2") from error
    if root is None:
        raise InputError("the file is empty", path=source)
    return Document(_construct(root, source, []), source, root)


def _construct(node: Node, source: str, parents: list[Node]) -> Any:
    """Plain data of a node; ``parents`` are the nodes it is inside of, to catch an alias loop."""
    line = node.start_mark.line + 1
    if any(node is parent for parent in parents):
        raise InputError("an alias refers to what it is inside of", path=source, line=line)
    inside = [*parents, node]
    if isinstance(node, ScalarNode):
        return _scalar(node, source, line)
    if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
        return [_construct(item, source, inside) for item in node.value]
    if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise InputError("a key must be a word", path=source, line=at)
            if key.tag == f"{_TAG}merge":
                raise InputError("`<<` is not part of YAML 1.2", path=source, line=at)
            name = str(key.value)
            if name in result:
                raise InputError(
                    f"duplicate key, first on line {first[name]}", path=source, line=at, field=name
                )
            first[name] = at
            result[name] = _construct(value, source, inside)
        return result
    raise InputError(f"tag {_short(str(node.tag))} is not supported", path=source, line=line)


def _scalar(node: ScalarNode, source: str, line: int) -> str | int | float | bool | None:
    text = str(node.value)
    kind = str(node.tag).removeprefix(_TAG)
    if kind in {"str", "timestamp"}:  # YAML 1.2's core schema has no dates: they are words
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    digits = text.replace("_", "")
    try:
        if kind == "int":
            decimal = re.fullmatch(r"[-+]?[0-9]+", digits)
            return int(digits) if decimal else int(digits, 0)
        if kind == "float":
            number = float(digits)
            if not math.isfinite(number):
                raise InputError(
                    f"{text} is not a number one can use", path=source, line=line, expected="finite"
                )
            return number
    except ValueError as error:
        message = f"{text!r} is not a number"
        raise InputError(message, path=source, line=line) from error
    raise InputError(f"tag {_short(str(node.tag))} is not supported", path=source, line=line)


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
