"""The layers of the package: imports point downwards, and no file is a drawer for everything."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = {"errors", "config", "numerics", "collectives", "__version__"}
# What each layer may import besides itself; a layer that is missing here fails the test below.
ALLOWED = {
    **{name: {"errors"} for name in BASE},
    "errors": set(),
    "data": BASE,
    "cascade": BASE | {"data"},
    "models": BASE | {"data"},
    "losses": BASE | {"data", "models"},
    "methods": BASE | {"data", "models", "losses"},
    "training": BASE | {"data", "models", "losses", "methods"},
    "evaluation": BASE | {"data", "models", "losses", "methods", "training", "cascade"},
}
PACKAGE = sorted((ROOT / "hccp_jax").rglob("*.py"))
SOURCES = [*PACKAGE, *sorted((ROOT / "experiments").rglob("*.py")), ROOT / "launch.py"]


def imported(path, source=None):
    """Dotted names of all that a file imports, at any depth of its code."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def layer(dotted):
    return dotted.split(".")[1] if "." in dotted else ""


def back_edges(path, source=None):
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    names = [name for name in imported(path, source) if name.split(".")[0] == "hccp_jax"]
    return [name for name in names if layer(name) != own and layer(name) not in ALLOWED[own]]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    if path == ROOT / "hccp_jax" / "__init__.py":
        assert not [name for name in imported(path) if name.startswith("hccp_jax")]
        return
    assert back_edges(path) == []


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_package_knows_no_experiment_and_no_command(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"experiments", "launch", "tests"}


def test_there_are_no_circles_between_layers():
    for name, below in ALLOWED.items():
        for other in below:
            assert name not in ALLOWED[other], (name, other)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/x.py", "from hccp_jax.methods.base import Method"),
        ("data/x.py", "from hccp_jax import training"),
        ("data/x.py", "def f():\n    import hccp_jax.cascade.logs"),
        ("models/x.py", "from ..losses import listwise"),
        ("losses/x.py", "from .. import evaluation"),
        ("training/x.py", "from hccp_jax.cascade import logs"),
        ("cascade/x.py", "if True:\n    from hccp_jax.models import mmoe"),
        ("config.py", "from hccp_jax.data import requests"),
    ],
)
def test_a_back_edge_would_be_seen(file, source):
    assert back_edges(ROOT / "hccp_jax" / file, source)


def test_downward_and_sideways_imports_are_allowed():
    path = ROOT / "hccp_jax" / "methods" / "x.py"
    assert back_edges(path, "from hccp_jax.data import sampling\nfrom .base import Method\nimport numpy") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_named_for_what_they_hold_and_fit_a_reading(path):
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}
    assert len(path.read_text().splitlines()) <= 400
