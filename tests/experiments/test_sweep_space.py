"""The algebra of sweeps against products, zips and chains made by hand, and what is refused."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.sweep_space import Range, drawn, listed, parse
from hccp_jax.errors import UserError

VALUES = st.lists(st.sampled_from(["0", "1e-3", "-2", "true", "auto", "0.25"]), min_size=1, max_size=4, unique=True)


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_a_product_is_every_combination_in_order(columns):
    names = [f"part.field_{index}" for index in range(len(columns))]
    text = " x ".join(f"{name}={','.join(values)}" for name, values in zip(names, columns, strict=True))
    assert parse(text) == [dict(zip(names, values, strict=True)) for values in itertools.product(*columns)]


@given(VALUES)
def test_a_zip_goes_side_by_side_and_binds_closer_than_a_product(values):
    joined = ",".join(values)
    text = f"a={joined} & b={joined} x c=1,2"
    assert parse(text) == [{"a": v, "b": v, "c": c} for v in values for c in "12"]
    assert parse(f"c=1,2 x a={joined}&b={joined}") == [{"c": c, "a": v, "b": v} for c in "12" for v in values]


@given(VALUES, VALUES)
def test_a_chain_is_one_after_the_other(first, second):
    text = f"a={','.join(first)} + b={','.join(second)}"
    assert parse(text) == [{"a": v} for v in first] + [{"b": v} for v in second]
    assert parse(f"({text}) x c=1") == [{**point, "c": "1"} for point in parse(text)]


def test_lists_stand_in_brackets():
    assert parse("cutoffs=[10,100],[20] x k=1") == [{"cutoffs": "10,100", "k": "1"}, {"cutoffs": "20", "k": "1"}]


def test_equal_points_are_tried_once():
    assert listed(parse("a=1,2 + a=2,3")) == [{"a": "1"}, {"a": "2"}, {"a": "3"}]


RANGES = parse("a=uniform(0,1) x b=log(1e-4,1e-2) x c=int(1,3) x d=p,q")


@given(st.integers(0, 1000), st.integers(1, 30))
def test_draws_lie_in_their_ranges_and_more_of_them_begin_alike(seed, number):
    points = drawn(RANGES, number, seed)
    assert len(points) == number
    assert points == drawn(RANGES, number + 7, seed)[:number]
    for point in points:
        assert 0 <= float(point["a"]) < 1
        assert 1e-4 <= float(point["b"]) <= 1e-2
        assert point["c"] in ("1", "2", "3")
        assert point["d"] in ("p", "q")
    assert len({tuple(point.items()) for point in points}) == number


def test_draws_fill_their_ranges():
    points = drawn(RANGES, 400, 0)
    assert 0.4 < sum(float(point["a"]) for point in points) / 400 < 0.6
    assert 0.4 < sum(float(point["b"]) < 1e-3 for point in points) / 400 < 0.6
    assert {point["c"] for point in points} == {"1", "2", "3"}
    assert sum(point["d"] == "p" for point in points) == 200


def test_draws_from_a_list_end_with_it():
    assert sorted(drawn(parse("a=1,2,3"), 10, 0), key=str) == [{"a": "1"}, {"a": "2"}, {"a": "3"}]
    assert len(drawn(parse("a=int(1,2)"), 10, 0)) == 2


def test_a_range_is_not_listed():
    with pytest.raises(UserError, match="a is a range: give the number of draws by --sweep_draws"):
        listed(parse("a=uniform(0,1)"))


def test_ranges():
    assert Range("uniform", 2, 4).at(0.5) == "3"
    assert float(Range("log", 1e-4, 1e-2).at(0.5)) == pytest.approx(1e-3)
    assert [Range("int", 1, 3).at(share) for share in (0.0, 0.34, 0.99)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected field=value,value"),
        ("a", "expected field=value,value at 'a'"),
        ("a=1 b=2", "expected x, & or + at 'b=2'"),
        ("a=1 & b=1,2", "a zip of 1 and 2 values"),
        ("a=1 x a=2", "a is set twice"),
        ("(a=1", "expected a closing )"),
        ("a=1)", "expected x, & or +"),
        ("a=1 x", "expected field=value,value"),
        ("a=,1", "expected field=value,value"),
        ("a=log(0,1)", "expected two rising numbers, above 0"),
        ("a=uniform(1)", "expected two numbers"),
        ("a=uniform(2,1)", "expected two rising numbers"),
        ("a=normal(0,1)", "expected uniform, log or int"),
    ],
)
def test_what_is_no_sweep_is_one_line(text, problem):
    with pytest.raises(UserError, match=re.escape(problem)) as found:
        parse(text)
    assert "\n" not in str(found.value)
