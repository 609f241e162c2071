"""The batch contract: one broken rule at a time, and the message that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.data.requests import RequestBatch, Stage, validate
from hccp_jax.errors import UserError

VOCABULARY = {"items.id": 9, "user.id": 4, "history.id": 9, "items.categorical": 6}


@pytest.fixture
def batch():
    """Two requests of four slots: clicked, exposed, ranked, pool; and exposed, pre-ranked, two of padding."""
    return RequestBatch(
        user={"id": np.array([1, 3], np.int32), "dense": np.ones((2, 2), np.float32)},
        history={"id": np.array([[1, 2, 8], [0, 0, 4]], np.int32)},
        history_mask=np.array([[True, True, True], [False, False, True]]),
        items={
            "id": np.array([[5, 6, 7, 8], [1, 2, 0, 0]], np.int32),
            "categorical": np.full((2, 4, 2), 5, np.int32),
        },
        cross=np.zeros((2, 4, 3), np.float32),
        stage=np.array([[1, 1, 2, 4], [1, 3, 0, 0]], np.int8),
        rank=np.array([[0, 4, 2, -1], [0, -1, -1, -1]], np.int32),
        labels={
            "click": np.array([[1, 0, 0, 0], [0.5, 0, 0, 0]], np.float32),
            "purchase": np.zeros((2, 4), np.float32),
        },
        teacher={"click": np.full((2, 4), 0.2, np.float32)},
        mask=np.array([[True] * 4, [True, True, False, False]]),
    )


def test_accepts_a_good_batch_and_returns_numpy_leaves(batch):
    checked = validate(jax.tree.map(jnp.asarray, batch), VOCABULARY)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(checked))
    for got, want in zip(jax.tree.leaves(checked), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(got, want)


def test_optional_parts_may_be_missing(batch):
    validate(batch.replace(cross=None, teacher={}, labels={}, user={}))


def test_an_exposed_item_needs_no_rank(batch):
    batch.rank[0, 1] = -1
    validate(batch)


def test_exposed_is_the_stage(batch):
    np.testing.assert_array_equal(batch.exposed, [[True, True, False, False], [True, False, False, False]])
    assert [stage.name for stage in sorted(Stage)] == ["PADDING", "EXPOSED", "RANKED", "PRERANKED", "POOL"]


def put(field, where, value, key=None):
    """A change of one element of a field, or of one entry of a dictionary field."""

    def change(batch):
        array = getattr(batch, field)
        (array if key is None else array[key])[where] = value
        return batch

    return change


def cast(field, dtype, key=None):
    def change(batch):
        old = getattr(batch, field)
        return batch.replace(**{field: old.astype(dtype) if key is None else old | {key: old[key].astype(dtype)}})

    return change


def cut(field, key=None):
    """The field without its last slot (or without its last request where it has one axis)."""

    def change(batch):
        old = getattr(batch, field)
        array = old if key is None else old[key]
        shorter = array[:-1] if array.ndim == 1 else array[:, :-1]
        return batch.replace(**{field: shorter if key is None else old | {key: shorter}})

    return change


def without(field, key):
    def change(batch):
        return batch.replace(**{field: {name: x for name, x in getattr(batch, field).items() if name != key}})

    return change


def padding_with_id(batch):
    batch.items["id"][1, 3] = 2
    return batch


VIOLATIONS = {
    "item id too large": (
        put("items", (0, 2), 9, "id"),
        r"items\.id, first at request 0, slot 2: id outside \[0, 9\), found 9",
    ),
    "item id negative": (
        put("items", (1, 1), -1, "id"),
        r"items\.id, first at request 1, slot 1: id outside.* found -1",
    ),
    "user id too large": (put("user", 1, 4, "id"), r"user\.id, first at request 1: id outside \[0, 4\), found 4"),
    "history id too large": (put("history", (1, 2), 9, "id"), r"history\.id, first at request 1, slot 2: id outside"),
    "category too large": (
        put("items", (1, 0, 1), 6, "categorical"),
        r"items\.categorical, first at request 1, slot 0",
    ),
    "mask dtype": (cast("mask", np.int8), r"mask: dtype int8, expected bool"),
    "stage dtype": (cast("stage", np.int32), r"stage: dtype int32, expected int8"),
    "rank dtype": (cast("rank", np.int64), r"rank: dtype int64, expected int32"),
    "history mask dtype": (cast("history_mask", np.float32), r"history_mask: dtype float32, expected bool"),
    "id of 64 bits": (cast("items", np.int64, "id"), r"items\.id: dtype int64, expected int32"),
    "id of a float type": (cast("items", np.float32, "id"), r"items\.id: dtype float32, expected int32"),
    "user id of a float type": (cast("user", np.float32, "id"), r"user\.id: dtype float32, expected int32"),
    "dense of 64 bits": (cast("user", np.float64, "dense"), r"user\.dense: dtype float64, expected float32"),
    "cross dtype": (cast("cross", np.float16), r"cross: dtype float16, expected float32"),
    "label dtype": (cast("labels", np.int32, "click"), r"labels\.click: dtype int32, expected float32"),
    "teacher dtype": (cast("teacher", np.float64, "click"), r"teacher\.click: dtype float64"),
    "mask without slots": (lambda b: b.replace(mask=b.mask[0]), r"mask: shape \(4,\), expected \[requests, slots\]"),
    "stage shape": (cut("stage"), r"stage: shape \(2, 3\) does not begin with \(2, 4\)"),
    "rank shape": (cut("rank"), r"rank: shape \(2, 3\)"),
    "items shape": (cut("items", "categorical"), r"items\.categorical: shape \(2, 3, 2\)"),
    "user shape": (cut("user", "id"), r"user\.id: shape \(1,\) does not begin with \(2,\)"),
    "history shape": (cut("history", "id"), r"history\.id: shape \(2, 2\) does not begin with \(2, 3\)"),
    "label shape": (cut("labels", "click"), r"labels\.click: shape \(2, 3\)"),
    "teacher shape": (cut("teacher", "click"), r"teacher\.click: shape \(2, 3\)"),
    "cross shape": (cut("cross"), r"cross: shape \(2, 3, 3\)"),
    "NaN feature": (put("cross", (1, 1, 2), np.nan), r"cross, first at request 1, slot 1: not finite"),
    "infinite user feature": (put("user", (1, 0), np.inf, "dense"), r"user\.dense, first at request 1: not finite"),
    "NaN label": (put("labels", (0, 0), np.nan, "click"), r"labels\.click, first at request 0, slot 0: not finite"),
    "NaN teacher": (put("teacher", (0, 3), np.nan, "click"), r"teacher\.click, first at request 0, slot 3: not finite"),
    "no item id": (without("items", "id"), r"items\.id: missing"),
    "no history id": (without("history", "id"), r"history\.id: missing"),
    "unknown stage": (put("stage", (0, 3), 5), r"stage, first at request 0, slot 3: expected 0\.\.4, found 5"),
    "negative stage": (put("stage", (0, 3), -1), r"stage, first at request 0, slot 3: expected 0\.\.4, found -1"),
    "real slot of stage PADDING": (put("stage", (1, 1), 0), r"mask, first at request 1, slot 1: a slot is real"),
    "masked slot with a stage": (put("mask", (0, 3), False), r"mask, first at request 0, slot 3: a slot is real"),
    "real slot with id 0": (
        put("items", (0, 1), 0, "id"),
        r"items\.id, first at request 0, slot 1: real slot with id 0",
    ),
    "padding with an id": (padding_with_id, r"items\.id, first at request 1, slot 3: padding slot with a real id"),
    "exposure after an unexposed item": (put("stage", (0, 3), 1), r"stage, first at request 0, slot 3: exposed item"),
    "rank of a pre-ranked item": (put("rank", (1, 1), 7), r"rank, first at request 1, slot 1: .*not ranked.*found 7"),
    "rank of a pool item": (put("rank", (0, 3), 0), r"rank, first at request 0, slot 3: .*not ranked.*found 0"),
    "rank of padding": (put("rank", (1, 2), 3), r"rank, first at request 1, slot 2: .*not ranked.*found 3"),
    "ranked without a rank": (put("rank", (0, 2), -1), r"rank, first at request 0, slot 2: a ranked item needs"),
    "label without exposure": (
        put("labels", (0, 2), 1, "purchase"),
        r"labels\.purchase, first at request 0, slot 2: feedb",
    ),
    "label above one": (put("labels", (1, 0), 2, "click"), r"labels\.click, first at request 1, slot 0: .*found 2"),
    "label below zero": (
        put("labels", (0, 1), -0.5, "click"),
        r"labels\.click, first at request 0, slot 1: .*found -0\.5",
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_refuses(name, batch):
    change, message = VIOLATIONS[name]
    with pytest.raises(UserError, match="^requests: " + message) as caught:
        validate(change(batch), VOCABULARY)
    assert "\n" not in str(caught.value)


def test_names_the_first_of_several_violations(batch):
    batch.labels["click"][1, 0] = 3
    batch.labels["click"][0, 1] = 2
    with pytest.raises(UserError, match=r"request 0, slot 1: .*found 2"):
        validate(batch)


def test_ids_are_checked_against_the_vocabulary_only_where_it_names_them(batch):
    batch.items["id"][0, 2] = 1000
    validate(batch)
    validate(batch, {"user.id": 4})
