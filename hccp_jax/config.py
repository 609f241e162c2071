"""Configuration as frozen dataclass trees: one declaration gives types, defaults, help, flags, JSON and a hash."""

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hccp_jax.errors import UserError


def field(
    default: Any,
    help: str,  # noqa: A002 - the word that --help prints
    *,
    choices: tuple[str, ...] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> Any:
    """A documented configuration field with its range; the bounds hold for each element of a tuple."""
    metadata = {"help": help, "choices": choices, "at_least": at_least, "at_most": at_most, "above": above}
    return dataclasses.field(default=default, metadata=metadata)


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """Yield (dotted name, type, dataclass field) of every leaf of a configuration class."""
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from leaves(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", hints[item.name], item


def flatten(config: Any) -> dict[str, Any]:
    """Dotted name -> value of every leaf of a configuration instance."""
    return {name: _get(config, name) for name, _, _ in leaves(type(config))}


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def near_miss(name: str, known: typing.Iterable[str]) -> str:
    """' Did you mean X?' for a name close to a known one, else the known names themselves."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of `config` with dotted names replaced; text values are parsed to the field's type.

    Raises:
        UserError: on an unknown name (with the near miss), an unparsable value or one out of range.

    """
    known = {name: (hint, item) for name, hint, item in leaves(type(config))}
    for name, value in changes.items():
        if name not in known:
            raise UserError(f"unknown field {name!r}; {near_miss(name, known)}")
        hint, item = known[name]
        config = _replace(config, name.split("."), _check_range(name, parse(name, hint, value), item.metadata))
    return config


def _replace(config: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replace(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: value})


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def parse(name: str, hint: Any, value: Any) -> Any:
    """Turn a text (or JSON) value into the type of a field: bool, int, float, str or a tuple of one of these."""
    if isinstance(hint, types.UnionType):  # X | None
        if value in (None, "none", ""):
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if typing.get_origin(hint) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise UserError(f"{name}={value!r}: expected values separated by commas")
        return tuple(parse(name, typing.get_args(hint)[0], part) for part in parts if part != "")
    try:
        if hint is bool:
            return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
        if hint is int and isinstance(value, float):
            raise ValueError
        return hint(value)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{name}={value!r}: expected {'true or false' if hint is bool else hint.__name__}") from None


def named(arguments: Sequence[str]) -> dict[str, str]:
    """The words of a command, each --name=value, or --help.

    Raises:
        UserError: for any other word.

    >>> named(["--source=kuairand", "--help"])
    {'source': 'kuairand', 'help': ''}

    """
    found: dict[str, str] = {}
    for word in arguments:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or name == "help"):
            raise UserError(f"{word}: expected --name=value")
        found[name] = value
    return found


def _check_range(name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    for element in value if isinstance(value, tuple) else (value,):
        if metadata.get("choices") and element not in metadata["choices"]:
            raise UserError(f"{name}={element!r}: expected one of {', '.join(metadata['choices'])}")
        if isinstance(element, float) and not math.isfinite(element):
            raise UserError(f"{name}={element}: expected a finite number")
        tests: dict[str, Callable[[Any, Any], bool]] = {
            "at_least": lambda x, bound: x >= bound,
            "at_most": lambda x, bound: x <= bound,
            "above": lambda x, bound: x > bound,
        }
        for word, holds in tests.items():
            bound = metadata.get(word)
            if bound is not None and element is not None and not holds(element, bound):
                raise UserError(f"{name}={element}: expected a value {word.replace('_', ' ')} {bound}")
    return value


def to_json(config: Any) -> dict[str, Any]:
    """The configuration as nested dictionaries that `json` writes and `override` reads back leaf by leaf."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def digest(*parts: Any) -> str:
    """12 hexadecimal digits that name a configuration (or any JSON-able parts) by its content."""
    text = json.dumps(parts, sort_keys=True, default=lambda x: to_json(x) if dataclasses.is_dataclass(x) else str(x))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """'name: old -> new' of every leaf in which two nested dictionaries differ."""
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += [f"{name}.{line}" for line in difference(before, after)]
        elif before != after:
            lines.append(f"{name}: {before} -> {after}")
    return lines
