"""Every kernel tells its cost and an example, and stands in the table of kernels."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import hccp_jax.losses

MACHINERY = {"column_blocks", "softsort_terms"}  # parts of `streaming` and `softsort`, which have the examples
NAMES = [module.name for module in pkgutil.iter_modules(hccp_jax.losses.__path__) if module.name not in MACHINERY]
TABLE = (Path(hccp_jax.losses.__path__[0]) / "README.md").read_text()


def public(name):
    module = importlib.import_module(f"hccp_jax.losses.{name}")
    functions = inspect.getmembers(module, inspect.isfunction)
    return [(f, x) for f, x in functions if x.__module__ == module.__name__ and not f.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_functions_have_an_example(name):
    for function, value in public(name):
        assert ">>>" in (value.__doc__ or ""), function


@pytest.mark.parametrize("name", NAMES)
def test_kernels_tell_their_cost_and_stand_in_the_table(name):
    for function, value in public(name):
        reduction = inspect.signature(value).parameters.get("reduce_fn")
        if reduction is not None and reduction.default is not inspect.Parameter.empty:
            assert re.search(r"[Tt]ime (and memory )?O\(", value.__doc__), function
            assert f"`{name}.{function}`" in TABLE, function


def test_the_table_names_what_exists():
    for name, function in re.findall(r"`(\w+)\.(\w+)`", TABLE):
        assert hasattr(importlib.import_module(f"hccp_jax.losses.{name}"), function), (name, function)
