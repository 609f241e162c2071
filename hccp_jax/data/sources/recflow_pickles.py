"""Pickles of dictionaries of NumPy arrays, read without running anything that they ask for.

A pickle is a program. Here the only names that it can reach are a few containers of Python and stand-ins of this
module for what NumPy's own pickles call: no function of NumPy sees a state that the file made up.
"""

import pickle
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hccp_jax.errors import UserError

_NUMBERS = re.compile(r"[<>=|]?[biuf][1248]?")


class PickledType:
    """Stands for `numpy.dtype`: a type of numbers and nothing else."""

    def __init__(self, kind: str, *_: Any) -> None:
        if not (isinstance(kind, str) and _NUMBERS.fullmatch(kind)):
            raise pickle.UnpicklingError(f"an array of type {kind!r}, expected numbers")
        self.value = np.dtype(kind)

    def __setstate__(self, state: tuple) -> None:
        """Take the byte order; NumPy has the rest for types with fields, of which there are none."""
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class PickledArray:
    """Stands for `numpy.ndarray`.

    Attributes:
        value: the array, read-only, on the bytes of the file.
    """

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        """(version, shape, type, whether in Fortran's order, bytes), as NumPy writes it."""
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


def _array(data: bytes, kind: PickledType, shape: tuple[int, ...], order: Any) -> np.ndarray:
    return np.frombuffer(bytes(data), kind.value).reshape(shape, order=order)


def _reconstruct(*_: Any) -> PickledArray:
    """What NumPy begins an array with; its state follows."""
    return PickledArray()


def _frombuffer(data: bytes, kind: PickledType, shape: tuple[int, ...], order: str, *_: Any) -> PickledArray:
    """The same, of the fifth version of pickles."""
    found = PickledArray()
    found.value = _array(data, kind, shape, order)
    return found


def _scalar(kind: PickledType, data: bytes) -> int | float:
    """A number of NumPy's."""
    return np.frombuffer(data, kind.value)[0].item()


def _bytes(text: str, encoding: str) -> bytes:
    """Bytes as the second version of pickles writes them, for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r}, expected bytes as latin1")
    return text.encode(encoding)


def defaultdict_tuple() -> defaultdict:
    """What RecFlow's pickles find in `utils`: the factory of what is not there."""
    return defaultdict(tuple)


def defaultdict_str() -> defaultdict:
    """Likewise."""
    return defaultdict(str)


_CORES = ("numpy.core", "numpy._core")  # its name before NumPy 2, and since
_BUILTINS = ("builtins", "__builtin__")  # likewise
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "defaultdict"): defaultdict,
    ("utils", "defaultdict_tuple"): defaultdict_tuple,
    ("utils", "defaultdict_str"): defaultdict_str,
    ("_codecs", "encode"): _bytes,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledType,
    **{(module, kind.__name__): kind for module in _BUILTINS for kind in (dict, list, tuple, str, int, bytes)},
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in _CORES},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file)
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the file stands for."""
        if (module, name) not in _ALLOWED:
            raise UserError(f"{self.name}: the pickle asks for {module}.{name}, which is not let through")
        return _ALLOWED[module, name]


def unpickled(path: Path, name: str) -> dict:
    """The dictionary in a pickle; arrays in it are `PickledArray`.

    Args:
        path: the file.
        name: how errors call it.

    Raises:
        UserError: if the file asks for anything that is not let through, is cut off or is no pickle of a dictionary.
    """
    try:
        with path.open("rb") as file:
            found = _Unpickler(file, name).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        why = "empty" if path.stat().st_size == 0 else (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: not a whole pickle of arrays ({why})") from None
    if not isinstance(found, dict):
        raise UserError(f"{name}: a pickle of {type(found).__name__}, expected a dictionary")
    return found
