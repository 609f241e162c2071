"""Streamed reductions against loops over pairs, at once and in blocks, and the losses that are built on them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from hccp_jax.losses import column_blocks
from hccp_jax.losses.contrastive import info_nce
from hccp_jax.losses.pairs import Pairs, row_counts
from hccp_jax.losses.pairwise import bpr, triplet
from hccp_jax.losses.recall import kernel_function
from hccp_jax.losses.reduction import NEGATIVE
from hccp_jax.losses.softmax import softmax_cross_entropy
from hccp_jax.losses.streaming import row_gap_sums, row_log_sum_exp

from .streamed import FIELDS, MARGIN, PHIS, RATE, D, close, counts_of, draw, oracle, reductions, slopes, weighted

SIGMOID, EXPONENTIAL = kernel_function("sigmoid"), kernel_function("exponential")


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    size=st.sampled_from([(1, 1), (3, 5), (5, 13)]),
    block=st.sampled_from([0, None, 1, 4, 5, 50]),
    fields=st.sets(st.sampled_from(FIELDS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_loops_over_pairs(size, block, fields, seed):
    arrays, pairs = draw(seed, *size, fields)
    weights = np.random.default_rng(seed).normal(size=(size[0], 3)).astype(np.float32)
    kept = counts_of(pairs, *size)
    grads, values = oracle(*arrays, weights, kept)
    found = slopes(*arrays, pairs, weights, block=block)
    close(found[1][..., :2], values[..., :2])
    close(jnp.where(kept.any(1), found[1][..., 2], 0), np.where(kept.any(1), values[..., 2], 0))
    np.testing.assert_array_equal(found[1][~kept.any(1), 2], np.float32(NEGATIVE))
    close(found[0], grads)
    np.testing.assert_array_equal(found[0][1][~kept.any(0)], 0)
    np.testing.assert_array_equal(row_counts(*size, pairs, RATE), kept.sum(1))


@pytest.mark.parametrize(("limit", "columns"), [(6 << 20, 300), (0, 300), (0, 257)])  # at once; 100 a block; a rest
def test_size_decides_between_one_block_and_several(monkeypatch, limit, columns):
    monkeypatch.setattr(column_blocks, "MATERIALIZE_BYTES", limit)
    monkeypatch.setattr(column_blocks, "BLOCK_SCORES", 1)
    arrays, pairs = draw(1, 4, columns)
    weights, kept = np.ones((4, 3), np.float32), counts_of(pairs, 4, columns)
    found = jax.jit(jax.grad(partial(weighted, block=None), argnums=(0, 1, 2, 3), has_aux=True))
    close(found(*arrays, pairs, weights), oracle(*arrays, weights, kept))
    np.testing.assert_array_equal(jax.jit(lambda p: row_counts(4, columns, p, RATE))(pairs), kept.sum(1))


@pytest.mark.parametrize("block", [0, 5])
def test_gradient_is_the_slope(block):
    with jax.enable_x64(True):
        arrays, pairs = draw(2, 3, 13, ("where", "owner"))
        wide = [jnp.nan_to_num(x).astype(jnp.float64) for x in arrays]
        total = jax.jit(lambda *x: weighted(*x, pairs, jnp.arange(9.0).reshape(3, 3) - 4, block)[0])
        check_grads(total, wide, order=1, modes=("rev",), atol=1e-8, rtol=1e-8, eps=1e-5)


@pytest.mark.parametrize("block", [0, 4])
def test_rows_without_a_column(block):
    """Row 0 counts the last column only, row 1 none, row 2 the first only."""
    (rows, columns, bias, shift), _ = draw(3, 3, 13, ())
    only = {0: 12, 2: 0}
    ids = jnp.array([[c for c in range(13) if c != only.get(r)] + [-1] * (r in only) for r in range(3)])
    pairs = Pairs(row_ids=ids, column_ids=jnp.arange(13))
    grads, values = slopes(rows, columns, bias, shift, pairs, jnp.ones((3, 3)), block=block)
    for r, c in only.items():
        np.testing.assert_allclose(values[r, 2], rows[r] @ columns[c] + bias[c], rtol=1e-6)
    np.testing.assert_array_equal(values[1], [0, 0, np.float32(NEGATIVE)])
    # Also where the row's value is used as it is.
    found = jax.jit(jax.grad(lambda *x: jnp.sum(reductions(*x, pairs, block)), argnums=(0, 1, 2, 3)))
    for some in (grads, found(rows, columns, bias, shift)):
        np.testing.assert_array_equal(some[0][1], 0)
        np.testing.assert_array_equal(some[1][1:12], 0)
        np.testing.assert_array_equal(some[2][1:12], 0)
        assert jnp.all(jnp.any(some[0][jnp.array([0, 2])] != 0, axis=1))
    np.testing.assert_array_equal(row_counts(3, 13, pairs), [1, 0, 1])


def test_no_columns_at_all():
    arrays, pairs = draw(4, 3, 0)
    grads, values = slopes(*arrays, pairs, jnp.ones((3, 3)), block=None)
    np.testing.assert_array_equal(values, np.float32([[0, 0, NEGATIVE]] * 3))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), grads)
    np.testing.assert_array_equal(row_counts(3, 0, pairs), 0)


@pytest.mark.parametrize("block", [0, 4])
def test_bfloat16_vectors(block):
    """Only the vectors are rounded: biases and shifts count in full, and sums are in float32."""
    (rows, columns, bias, shift), pairs = draw(5, 3, 13)
    half = [rows.astype(jnp.bfloat16), columns.astype(jnp.bfloat16)]
    weights = np.random.default_rng(5).normal(size=(3, 3)).astype(np.float32)
    args = [*half, 10 * bias, 10 * shift]
    grads, values = slopes(*args, pairs, weights, block=block)
    exact = oracle(*args, weights, counts_of(pairs, 3, 13))
    assert values.dtype == jnp.float32
    close(values, exact[1])
    assert [x.dtype for x in grads] == [jnp.bfloat16] * 2 + [jnp.float32] * 2
    close([x.astype(jnp.float32) for x in grads], [*exact[0]], rtol=1e-2)
    narrow = slopes(*half, *(x.astype(jnp.bfloat16) for x in (bias, shift)), pairs, weights, block=block)
    assert {x.dtype for x in narrow[0]} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("block", [0, 2])
def test_large_scores(block):
    columns, rows = jnp.array([[1.0], [-1.0], [0.5], [-1.0], [1.0]]), jnp.array([[1e4], [-1e4]])
    arrays = rows, columns, jnp.zeros(5), jnp.zeros(2)
    grads, values = slopes(*arrays, Pairs(), jnp.ones((2, 3)), block=block)
    np.testing.assert_allclose(values[:, 0], [2.5e4, 2e4], rtol=1e-6)
    np.testing.assert_allclose(values[:, 2], 1e4 + np.log(2), rtol=1e-6)
    slope = np.array([[2.5, 0, 2, 0, 2.5], [0, 2.5, 0, 2.5, 0]])
    np.testing.assert_allclose(grads[0], slope @ columns, rtol=1e-6)
    np.testing.assert_allclose(grads[1], slope.T @ rows, rtol=1e-6)
    np.testing.assert_allclose(grads[3], [-6, -4], rtol=1e-6)


@pytest.mark.parametrize("block", [0, 4])
def test_a_nan_that_counts_stays_visible(block):
    (rows, columns, bias, shift), pairs = draw(6, 3, 13, ("owner",))
    for spoiled in ((rows, columns.at[7].set(jnp.nan), bias), (rows, columns, bias.at[7].set(jnp.nan))):
        values = slopes(*spoiled, shift, pairs, jnp.ones((3, 3)), block=block)[1]
        counts = ~np.isin(np.arange(3), pairs.own_rows[7])
        assert counts.any()
        np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(counts[:, None], (3, 3)))
    values = slopes(rows.at[1].set(jnp.nan), columns, bias, shift, pairs, jnp.ones((3, 3)), block=block)[1]
    np.testing.assert_array_equal(np.isnan(values), np.broadcast_to([[False], [True], [False]], (3, 3)))


@pytest.mark.parametrize("block", [0, 2])
def test_infinite_phi_of_a_pair_that_does_not_count(block):
    rows, columns, pairs = jnp.eye(2) * 200, jnp.eye(2), Pairs(own_rows=jnp.arange(2)[:, None])
    total = jax.jit(lambda r, c: row_gap_sums((EXPONENTIAL,), r, c, jnp.zeros(2), pairs=pairs, block=block)[0].sum())
    assert total(rows, columns) == 2
    for grad, exact in zip(jax.grad(total, (0, 1))(rows, columns), (1 - np.eye(2), 200 * (1 - np.eye(2))), strict=True):
        np.testing.assert_allclose(grad, exact)


@pytest.mark.parametrize("block", [0, 4])
def test_constants_get_no_gradient(block):
    arrays, pairs = draw(7, 3, 13)
    sums = partial(row_gap_sums, pairs=pairs, rate=RATE, block=block)

    def of(phis, constants):
        def total(rows, columns, bias, shift):
            values = sums(phis, rows, columns, shift, constants=constants, bias=bias)
            return jnp.sum(sum(values)), values

        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))(*arrays)

    alone, sigmoid, both = of(PHIS[:1], ()), of((SIGMOID,), ()), of(PHIS[:1], (SIGMOID,))
    close(both, (alone[0], (*alone[1], *sigmoid[1])))
    constant = of((), (SIGMOID,))
    close(constant[1], sigmoid[1])
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), constant[0])
    assert jnp.any(sigmoid[0][0] != 0)


@pytest.mark.parametrize("block", [0, 5])
def test_what_is_built_on_them(block):
    """InfoNCE, softmax, BPR and triplet of in-batch negatives are those of the lists that they stand for."""
    users, own, scores_of = 4, 3, lambda u, v: u @ v.reshape(-1, D).T / 0.5
    rng = np.random.default_rng(12)
    u, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in [(users, D), (users, own, D)])
    owner, foreign = jnp.repeat(jnp.arange(users), own), ~jnp.repeat(jnp.eye(users, dtype=bool), own, axis=1)
    pairs = Pairs(own_rows=owner[:, None])
    rest = {"pairs": pairs, "block": block}

    def positives(u, v):
        return jnp.einsum("ud,ukd->uk", u, v) / 0.5

    def lists(loss, **rest):
        return lambda u, v: loss(positives(u, v), scores_of(u, v), negative_where=foreign, **rest)

    def sums(phi):
        def total(u, v):
            shifts = positives(u, v)
            return sum(row_gap_sums((phi,), u / 0.5, v.reshape(-1, D), shifts[:, k], **rest)[0].sum() for k in range(3))

        return lambda u, v: total(u, v) / users

    def streamed_info_nce(u, v):
        total = row_log_sum_exp(u / 0.5, v.reshape(-1, D), **rest)
        return jnp.sum(jax.nn.softplus(total[:, None] - positives(u, v))) / users

    def streamed_softmax(u, v):
        return jnp.mean(row_log_sum_exp(u / 0.5, v[:, 0], block=block) - positives(u, v)[:, 0])

    for streamed, listed in [
        (streamed_info_nce, lists(info_nce)),
        (sums(PHIS[0]), lists(bpr)),
        (sums(PHIS[1]), lists(triplet, margin=MARGIN)),
        (streamed_softmax, lambda u, v: softmax_cross_entropy(scores_of(u, v[:, 0]), jnp.eye(users))),
    ]:
        close(*(jax.jit(jax.value_and_grad(loss, (0, 1)))(u, v) for loss in (streamed, listed)))
