"""The ``parameters`` cell of a notebook, read without running it, and the strict check of what is passed to it.

papermill lets an unknown name through with a warning; a run with a mistyped parameter then silently uses the default.
Here unknown and ill-typed parameters are refused before a kernel starts, and the message lists what exists.
"""

from __future__ import annotations

import ast
import contextlib
import io
import math
import tokenize
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Union

from .files import load_notebook, text_table

_TYPES: dict[str, Any] = {
    "Any": Any,
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "set": set,
    "None": None,
    "List": list,
    "Tuple": tuple,
    "Dict": dict,
    "Set": set,
    "Optional": Optional,
    "Union": Union,
    "Literal": Literal,
}
_TRUE, _FALSE, _NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null")
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}  # as JSON and YAML write them
_OPENING = ("[", "(", "{")
_SHOWN = 120  # letters of a value that a message repeats


class ParameterError(ValueError):
    """Parameters that the notebook does not have, or values it cannot take."""


class _UnreadableError(ValueError):
    """Text that begins like a list, dict or quoted text and is none; says where it breaks."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``temperature: float = 4.0  # softens both distributions``."""

    name: str
    type: Any
    type_name: str
    default: Any
    help: str = ""

    def check(self, value: Any) -> Any:
        """``value`` in the declared type (an int where a float is declared becomes one).

        Raises:
            ParameterError: another type; names the parameter, what came and what is expected.
        """
        try:
            checked = _coerce(value, self.type)
            literal(checked)
        except RecursionError:
            raise ParameterError(
                f"{self.name} must be {self.type_name}, got a value that is nested too deeply."
            ) from None
        except (TypeError, ValueError, OverflowError) as error:
            why = f": {error}" if isinstance(error, _UnreadableError) else ""
            raise ParameterError(
                f"{self.name} must be {self.type_name}, got {_short(repr(value))} ({type(value).__name__}){why}."
            ) from None
        return checked

    def parse(self, text: str) -> Any:
        """The value that command-line text stands for.

        E.g. ``"1e-3"``, ``"true"``, ``"none"``, ``"1,2,4"``, ``"[1, 2]"``, ``"{'lr': 0.1}"``, ``'{"warm": true}'``:
        lists and dicts are read as Python literals or JSON, nothing is executed.

        Raises:
            ParameterError: the text does not stand for a value of the declared type; says where it breaks.
        """
        try:
            return _from_text(text, self.type)
        except (TypeError, ValueError, OverflowError) as error:
            why = f": {error}" if isinstance(error, _UnreadableError) else ""
            raise ParameterError(f"{self.name} must be {self.type_name}, got {_short(repr(text))}{why}.") from None


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} letters)"


def literal(value: Any) -> str:
    """A value as Python source that gives it back: what a run writes into the notebook.

    Raises:
        TypeError: it is not made of ``None``, bool, int, float, str, list, tuple, dict and set.
    """
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else f"float('{float.__repr__(value)}')"
    if isinstance(value, str):
        return str.__repr__(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(literal, value)))}}}" if value else "set()"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(literal, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    raise _UnreadableError(
        f"a parameter is made of None, bool, int, float, str, list, tuple, dict and set, not of {type(value).__name__}"
    )


def read_value(text: str) -> Any:
    """The value that text stands for where no type is declared: a literal, ``true``, ``none``, else the text itself.

    Raises:
        ValueError: it begins like a list, dict or quoted text and is none (``"[1, 2"``); says where it breaks.
    """
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return _literal_of(text)
    except _UnreadableError:
        if text.lstrip().startswith((*_OPENING, "'", '"')):
            raise
        return text


def _literal_of(text: str) -> Any:
    """A Python literal in which ``true``, ``false``, ``null`` may stand as in JSON."""
    try:
        tree = _Words().visit(ast.parse(text.strip(), mode="eval"))
        names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        if names:
            raise _UnreadableError(f"text inside must be quoted, {names[0]} is not")
        value = ast.literal_eval(tree)
    except SyntaxError as error:
        raise _UnreadableError(error.msg.partition(". Perhaps")[0]) from None
    except (RecursionError, MemoryError):
        raise _UnreadableError("it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise _UnreadableError(str(error) if isinstance(error, _UnreadableError) else "it is no literal") from None
    _finite(value)
    literal(value)
    return value


class _Words(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(_WORDS[node.id]), node) if node.id in _WORDS else node


def _finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _UnreadableError(f"numbers must be finite, {value} is not")
    inside = [*value, *value.values()] if isinstance(value, Mapping) else value
    if isinstance(inside, list | tuple | set):
        for part in inside:
            _finite(part)


def read_parameters(notebook: Any) -> dict[str, Parameter]:
    """Parameters of a notebook by name, in the order of the cell.

    Args:
        notebook: path of an ``.ipynb`` or percent ``.py`` file, or a notebook node.

    Raises:
        ParameterError: a line of the cell is not ``name: type = literal  # help``.
        NotebookError: the file is no notebook.
    """
    cell = _parameters_cell(notebook)
    return {} if cell is None else parse_cell(cell)


def _parameters_cell(notebook: Any) -> str | None:
    if isinstance(notebook, str | Path):
        path = Path(notebook)
        if path.suffix == ".py":
            import jupytext

            notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
        else:
            notebook = load_notebook(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "parameters" in cell["metadata"].get("tags", []):
            source = cell["source"]
            return source if isinstance(source, str) else "".join(source)
    return None


def parse_cell(source: str) -> dict[str, Parameter]:
    """Parameters of the cell's source text; see :func:`read_parameters`."""
    try:
        nodes = ast.parse(source).body
        comments = {
            token.start[0]: token.string.lstrip("# ").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except SyntaxError as error:
        raise ParameterError(f"line {error.lineno} of the parameters cell cannot be read: {error.msg}.") from None
    except (ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ParameterError(f"the parameters cell cannot be read: {error}.") from None
    found: dict[str, Parameter] = {}
    for node in nodes:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, annotation, value = node.target.id, node.annotation, node.value
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, annotation, value = node.targets[0].id, None, node.value
        else:
            raise ParameterError(
                f"line {node.lineno} of the parameters cell must be 'name: type = literal  # help', "
                f"got {ast.unparse(node)!r}."
            )
        try:
            default = ast.literal_eval(value)
        except (TypeError, ValueError, RecursionError, MemoryError):
            raise ParameterError(
                f"the default of parameter {name} must be a literal, got {ast.unparse(value)!r}."
            ) from None
        kind = _type_of(annotation, name) if annotation is not None else _infer(default)
        text = ast.unparse(annotation) if annotation is not None else "any literal" if kind is Any else kind.__name__
        found[name] = Parameter(name, kind, text, default, comments.get(node.end_lineno or node.lineno, ""))
        found[name].check(default)
    return found


def _infer(default: Any) -> Any:
    return Any if default is None else type(default)


def _type_of(annotation: ast.expr, name: str) -> Any:
    """The typing object an annotation stands for, out of a closed vocabulary."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        with contextlib.suppress(SyntaxError, ValueError):  # of text that is no annotation: refused below
            return _type_of(ast.parse(annotation.value.strip(), mode="eval").body, name)
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return None
    if isinstance(annotation, ast.Name) and annotation.id in _TYPES:
        return _TYPES[annotation.id]
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return Union[_type_of(annotation.left, name), _type_of(annotation.right, name)]  # noqa: UP007
    if (
        isinstance(annotation, ast.Subscript)
        and isinstance(annotation.value, ast.Name)
        and annotation.value.id in _TYPES
    ):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        with contextlib.suppress(TypeError, ValueError):  # int[str], dict[str], Literal[f()]: refused below
            if annotation.value.id == "Literal":
                return Literal[tuple(ast.literal_eval(e) for e in inner)]
            inside = tuple(... if isinstance(e, ast.Constant) and e.value is ... else _type_of(e, name) for e in inner)
            if _TYPES[annotation.value.id] is not dict or len(inside) == 2:
                return _TYPES[annotation.value.id][inside if len(inside) > 1 else inside[0]]
    raise ParameterError(
        f"the type of parameter {name} must be made of bool, int, float, str, None, list[...], tuple[...], "
        f"dict[..., ...], set[...], Any and Literal[...], got {ast.unparse(annotation)!r}."
    )


def _coerce(value: Any, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if kind is None or kind is type(None):
        if value is None:
            return None
    elif origin in (Union, types.UnionType):
        return _first(lambda k: _coerce(value, k), sorted(inner, key=lambda k: type(value) is not k))
    elif origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in inner):
            return value
    elif kind in (list, tuple) or origin in (list, tuple):
        if isinstance(value, list | tuple):
            return (origin or kind)(_coerce(v, k) for v, k in zip(value, _inner(inner, len(value)), strict=True))
    elif kind is dict or origin is dict:
        if isinstance(value, Mapping):
            key, item = inner or (Any, Any)
            return {_coerce(k, key): _coerce(v, item) for k, v in value.items()}
    elif kind is set or origin is set:
        if isinstance(value, set | frozenset):
            return {_coerce(v, inner[0] if inner else Any) for v in value}
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, kind):
        return value
    raise TypeError(f"{value!r} is not {kind}")


def _inner(inner: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    """Element types of ``list[T]``, ``tuple[T, ...]`` and ``tuple[A, B]`` for a value of this length."""
    if not inner:
        return (Any,) * length
    if len(inner) == 1 or (len(inner) == 2 and inner[1] is ...):
        return (inner[0],) * length
    return inner


def _from_text(text: str, kind: Any) -> Any:
    origin, inner, word = typing.get_origin(kind), typing.get_args(kind), text.strip().lower()
    if kind is Any:
        return read_value(text)
    if kind is None or kind is type(None):
        if word in _NONE:
            return None
    elif origin in (Union, types.UnionType):
        return _first(lambda k: _from_text(text, k), sorted(inner, key=_breadth))
    elif origin is Literal:
        return _first(lambda allowed: _equal(_from_text(text, type(allowed)), allowed), inner)
    elif kind in (list, tuple) or origin in (list, tuple):
        if word.startswith(_OPENING):
            return _coerce(_literal_of(text), kind)
        parts = [p.strip() for p in text.split(",") if p.strip()]
        return (origin or kind)(_from_text(p, k) for p, k in zip(parts, _inner(inner, len(parts)), strict=True))
    elif kind in (dict, set) or origin in (dict, set):
        return _coerce(_literal_of(text), kind)
    elif kind is bool:
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    elif kind is int:
        return int(text)
    elif kind is float:
        number = float(text)
        if math.isfinite(number):
            return number
    elif kind is str:
        return text
    raise ValueError(f"{text!r} is not {kind}")


def _breadth(kind: Any) -> int:
    """The narrowest reading of a text wins, text itself comes last."""
    order = (type(None), bool, int, float)
    return order.index(kind) if kind in order else len(order) + (kind is str) + 2 * (kind is Any)


def _first(convert: Any, kinds: Any) -> Any:
    why: ValueError = ValueError("no alternative fits")
    for kind in kinds:
        try:
            return convert(kind)
        except _UnreadableError as error:
            why = error
        except (TypeError, ValueError, OverflowError):
            continue
    raise why


def _equal(value: Any, allowed: Any) -> Any:
    if value != allowed:
        raise ValueError(f"{value!r} is not {allowed!r}")
    return value


def check_parameters(
    known: Mapping[str, Parameter], given: Mapping[str, Any], *, text: bool = False, notebook: str = "the notebook"
) -> dict[str, Any]:
    """The given parameters in their declared types.

    Args:
        known: what :func:`read_parameters` found.
        given: values by name; with ``text`` command-line text, otherwise Python values.
        notebook: its name, for the message.

    Raises:
        ParameterError: unknown names or ill-typed values, all of them in one message, with the list of what exists.
    """
    problems, values = [], {}
    for name, value in given.items():
        if name not in known:
            from kdcore.functional.checks import closest  # imports torch, so only where it is needed

            problems.append(f"there is no parameter {name!r}.{closest(name, known)}")
            continue
        try:
            values[name] = known[name].parse(value) if text else known[name].check(value)
        except ParameterError as error:
            problems.append(str(error))
    if problems:
        raise ParameterError(f"{notebook}: " + "\n".join(problems) + "\n\n" + describe_parameters(known))
    return values


def describe_parameters(known: Mapping[str, Parameter]) -> str:
    """Name, type, default and help of every parameter as a text table."""
    if not known:
        return "It has no parameters (no cell tagged 'parameters')."
    return text_table(
        ((p.name, p.type_name, repr(p.default), p.help) for p in known.values()),
        ("parameter", "type", "default", "meaning"),
    )
