"""Configuration trees: parsing, ranges, near misses, JSON and the hash."""

import dataclasses
import json
import math

import pytest

from hccp_jax.cascade.logs import SamplingConfig
from hccp_jax.cascade.world import WorldConfig
from hccp_jax.config import difference, digest, field, flatten, leaves, near_miss, override, to_json
from hccp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = field(0.1, "learning rate", above=0.0, at_most=1)
    sizes: tuple[int, ...] = field((64, 32), "layer widths", at_least=1)
    shares: tuple[float, ...] = field((), "shares", at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = field("adam", "optimizer", choices=("adam", "sgd"))
    steps: int = field(100, "steps", at_least=1, at_most=1000)
    verbose: bool = field(False, "talk")
    limit: float | None = field(None, "clip", at_least=0)
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_leaves_are_dotted_names_with_types_and_metadata():
    found = {name: (hint, item) for name, hint, item in leaves(Outer)}
    assert list(found) == ["name", "steps", "verbose", "limit", "inner.rate", "inner.sizes", "inner.shares"]
    hint, item = found["inner.rate"]
    assert hint is float
    assert item.default == 0.1
    assert item.metadata["help"] == "learning rate"
    assert (item.metadata["above"], item.metadata["at_least"], item.metadata["at_most"]) == (0.0, None, 1)
    assert found["name"][1].metadata["choices"] == ("adam", "sgd")
    assert flatten(Outer()) == {
        "name": "adam",
        "steps": 100,
        "verbose": False,
        "limit": None,
        "inner.rate": 0.1,
        "inner.sizes": (64, 32),
        "inner.shares": (),
    }


@pytest.mark.parametrize("config", [WorldConfig, SamplingConfig])
def test_every_field_of_the_package_has_help_and_a_default_in_range(config):
    for name, _, item in leaves(config):
        assert item.metadata["help"], name
    defaults = flatten(config())
    assert override(config(), defaults) == config()


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("name", "sgd", "sgd"),
        ("steps", "7", 7),
        ("steps", 7, 7),
        ("verbose", "true", True),
        ("verbose", "True", True),
        ("verbose", "1", True),
        ("verbose", True, True),
        ("verbose", "false", False),
        ("verbose", "0", False),
        ("verbose", False, False),
        ("limit", "2.5", 2.5),
        ("limit", "none", None),
        ("limit", "", None),
        ("limit", None, None),
        ("inner.rate", "1e-3", 1e-3),
        ("inner.rate", 1, 1.0),
        ("inner.sizes", "8", (8,)),
        ("inner.sizes", "8,4,2", (8, 4, 2)),
        ("inner.sizes", [8, 4], (8, 4)),
        ("inner.sizes", (8, 4), (8, 4)),
        ("inner.sizes", "", ()),
        ("inner.shares", "0.5,1", (0.5, 1.0)),
        ("inner.shares", "0.5,", (0.5,)),
    ],
)
def test_override_parses_text_and_values(name, value, parsed):
    got = flatten(override(Outer(), {name: value}))
    assert got[name] == parsed
    assert type(got[name]) is type(parsed)
    if isinstance(parsed, tuple):
        assert [type(x) for x in got[name]] == [type(x) for x in parsed]
    assert {key: x for key, x in got.items() if key != name} == {
        key: x for key, x in flatten(Outer()).items() if key != name
    }


def test_override_changes_several_leaves_of_a_copy():
    old = Outer()
    new = override(old, {"inner.rate": "0.5", "inner.sizes": "3", "steps": "2"})
    assert (new.inner.rate, new.inner.sizes, new.steps) == (0.5, (3,), 2)
    assert old == Outer()
    assert override(old, {}) == old


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stpes", "1", r"unknown field 'stpes'; did you mean steps\?"),
        ("inner.rat", "1", r"unknown field 'inner\.rat'; did you mean inner\.rate\?"),
        ("inner", "1", r"unknown field 'inner'; did you mean inner\."),
        ("zzz", "1", r"unknown field 'zzz'; known: inner\.rate, inner\.shares, .*verbose"),
        ("steps", "many", r"steps='many': expected int"),
        ("steps", "1.5", r"steps='1\.5': expected int"),
        ("steps", 1.5, r"steps=1\.5: expected int"),
        ("steps", "", r"steps='': expected int"),
        ("steps", None, r"steps=None: expected int"),
        ("verbose", "yes", r"verbose='yes': expected true or false"),
        ("inner.rate", "fast", r"inner\.rate='fast': expected float"),
        ("inner.sizes", "8,x", r"inner\.sizes='x': expected int"),
        ("inner.sizes", 8, r"inner\.sizes=8: expected values separated by commas"),
        ("limit", "high", r"limit='high': expected float"),
        ("name", "lion", r"name='lion': expected one of adam, sgd"),
        ("steps", "0", r"steps=0: expected a value at least 1"),
        ("steps", "1001", r"steps=1001: expected a value at most 1000"),
        ("inner.rate", "0", r"inner\.rate=0\.0: expected a value above 0\.0"),
        ("inner.rate", "1.01", r"inner\.rate=1\.01: expected a value at most 1"),
        ("inner.rate", "nan", r"inner\.rate=nan: expected a finite number"),
        ("inner.rate", "inf", r"inner\.rate=inf: expected a finite number"),
        ("limit", "inf", r"limit=inf: expected a finite number"),
        ("limit", "-1", r"limit=-1\.0: expected a value at least 0"),
        ("inner.sizes", "8,0", r"inner\.sizes=0: expected a value at least 1"),
        ("inner.shares", "0.5,nan", r"inner\.shares=nan: expected a finite number"),
        ("inner.shares", [0.5, 1.5], r"inner\.shares=1\.5: expected a value at most 1"),
    ],
)
def test_override_refuses_in_one_line_that_names_the_field(name, value, message):
    with pytest.raises(UserError, match="^" + message) as caught:
        override(Outer(), {name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("steps", "1"), ("steps", "1000"), ("inner.rate", "1"), ("limit", "0")])
def test_bounds_that_are_included_are_accepted(name, value):
    assert flatten(override(Outer(), {name: value}))[name] == float(value)


def test_near_miss_or_all_that_is_known():
    assert near_miss("marign", ["margin", "beta"]) == "did you mean margin?"
    assert near_miss("qqq", ["margin", "beta"]) == "known: beta, margin"


def test_json_goes_there_and_back():
    config = override(Outer(), {"inner.sizes": "5,6", "limit": "3", "verbose": "1"})
    written = json.loads(json.dumps(to_json(config)))
    assert written["inner"]["sizes"] == [5, 6]
    flat = {}
    for name in flatten(config):
        value = written
        for part in name.split("."):
            value = value[part]
        flat[name] = value
    assert override(Outer(), flat) == config


def test_the_digest_is_stable_and_sees_every_leaf():
    assert digest(Outer()) == digest(Outer()) == digest(to_json(Outer()))
    assert len(digest(Outer())) == 12
    assert digest(Outer()) == "cae978fbe2f5"
    changes = {
        "name": "sgd",
        "steps": 101,
        "verbose": True,
        "limit": 1.0,
        "inner.rate": math.nextafter(0.1, 1),
        "inner.sizes": (32, 64),
        "inner.shares": (0.0,),
    }
    digests = {digest(override(Outer(), {name: value})) for name, value in changes.items()} | {digest(Outer())}
    assert len(digests) == len(changes) + 1
    assert digest(Outer(), "row") != digest(Outer())
    assert digest("a", "b") != digest("b", "a")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_difference_names_what_changed_and_from_what():
    old, new = to_json(Outer()), to_json(override(Outer(), {"inner.rate": "0.2", "steps": "5"}))
    assert difference(old, new) == ["inner.rate: 0.1 -> 0.2", "steps: 100 -> 5"]
    assert difference(old, old) == []
    assert difference({"a": 1}, {"b": 2}) == ["a: 1 -> None", "b: None -> 2"]
