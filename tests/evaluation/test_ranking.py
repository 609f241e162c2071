import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_requests import SEEDS, SHAPES, best_first, draw_candidates, draw_scores
from hypothesis import given, settings
from jax.sharding import Mesh, PartitionSpec

from hccp_jax.evaluation.candidates import in_tie_order, permute
from hccp_jax.evaluation.ranking import count_not_finite, order, ranks_of, tie_order

jit_order, jit_ranks_of = jax.jit(order), jax.jit(ranks_of)
quick = settings(max_examples=40, deadline=None, database=None)


@quick
@given(SEEDS, SHAPES)
def test_order_is_the_definition(seed, shape):
    requests, scores = draw_candidates(seed, shape), draw_scores(seed, shape, finite=False)
    slots = np.asarray(jit_order(scores, requests.mask, requests.ties))
    assert slots.dtype == np.int32
    for row in range(shape[0]):
        expected = best_first(scores, requests, row)
        assert slots[row, : len(expected)].tolist() == expected
        assert sorted(slots[row]) == list(range(shape[1]))  # a permutation, masked slots last


@quick
@given(SEEDS, SHAPES)
def test_counted_ranks_are_the_places_in_the_order(seed, shape):
    requests, scores = draw_candidates(seed, shape), draw_scores(seed, shape, finite=False)
    rng = np.random.default_rng(seed)
    asked = rng.integers(0, shape[1], (shape[0], 4)).astype(np.int32)
    where = rng.random(asked.shape) < 0.8
    ranks = np.asarray(jit_ranks_of(scores, requests.mask, requests.ties, asked, where))
    for row in range(shape[0]):
        expected = best_first(scores, requests, row)
        for slot, real, rank in zip(asked[row], where[row], ranks[row], strict=True):
            assert rank == (expected.index(slot) if real and slot in expected else shape[1])


@quick
@given(SEEDS, SHAPES)
def test_tie_order_makes_the_key_superfluous(seed, shape):
    requests, scores = draw_candidates(seed, shape), draw_scores(seed, shape)
    slots = tie_order(requests.ties)
    arranged = in_tie_order(requests)
    assert arranged.ties is None
    assert in_tie_order(arranged) is arranged
    moved = permute(scores, slots)
    ranked = jit_order(moved, arranged.mask, None)
    expected = permute(scores, jit_order(scores, requests.mask, requests.ties))
    np.testing.assert_array_equal(permute(moved, ranked), expected)
    ids, expected_ids = (
        permute(arranged.ids, ranked),
        permute(requests.ids, order(scores, requests.mask, requests.ties)),
    )
    np.testing.assert_array_equal(ids, expected_ids)
    everywhere = jnp.ones(shape, bool)
    by_count = jit_ranks_of(moved, arranged.mask, None, ranked, everywhere)
    length = np.asarray(requests.mask.sum(axis=1))
    for row in range(shape[0]):
        assert by_count[row, : length[row]].tolist() == list(range(length[row]))


@pytest.fixture(scope="module")
def drawn():
    shape = (4, 33)
    requests, scores = draw_candidates(3, shape), draw_scores(3, shape, finite=False)
    arguments = scores, requests.mask, requests.ties
    return arguments, np.asarray(order(*arguments))


def test_order_within_map_and_vmap(drawn):
    arguments, expected = drawn

    def one(row):
        return order(*(x[None] for x in row))[0]

    for transformed in (jax.jit(lambda rows: jax.lax.map(one, rows)), jax.jit(jax.vmap(one))):
        found = transformed(arguments)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == jnp.int32


def test_order_within_shard_map(drawn):
    arguments, expected = drawn
    devices = jax.devices()
    mesh = Mesh(np.array(devices[: 2 if len(devices) > 1 else 1]), ("data",))
    split = PartitionSpec("data")
    found = jax.jit(jax.shard_map(order, mesh=mesh, in_specs=split, out_specs=split, check_vma=True))(*arguments)
    np.testing.assert_array_equal(found, expected)


def test_the_form_for_accelerators_gives_the_same_order(drawn, monkeypatch):
    arguments, expected = drawn
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(jax.jit(lambda *x: order(*x))(*arguments), expected)  # a new function: traced anew


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_scores_rank_as_their_float32_values(dtype):
    scores = jnp.asarray([[0.5, -1.0, 3.0, 0.0]], dtype)
    assert order(scores, jnp.ones((1, 4), bool)).tolist() == [[2, 0, 3, 1]]


def test_scores_that_are_not_finite_are_counted_where_real():
    scores = jnp.asarray([[np.nan, np.inf, -np.inf, np.nan, 1.0]])
    mask = jnp.asarray([[True, True, True, False, True]])
    assert int(count_not_finite(scores, mask)) == 3
    assert order(scores, mask).tolist() == [[1, 4, 2, 0, 3]]
