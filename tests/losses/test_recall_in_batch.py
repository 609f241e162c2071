"""CROLoss with shared negatives is that of lists: with masks and pairs, in bfloat16, on several devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from hccp_jax.collectives import global_mean
from hccp_jax.losses.pairs import Pairs
from hccp_jax.losses.recall import croloss, croloss_in_batch

from .cases.recall import ITEMS, METHODS, named
from .streamed import close

ROWS, COLUMNS, D = 5, 11, 4

STATIC = ("kernel", "weight_kernel", "rank", "scale")
in_batch = jax.jit(jax.value_and_grad(croloss_in_batch, argnums=(0, 1, 2)), static_argnames=(*STATIC, "block"))


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def rows_and_columns(seed=7):
    rng = np.random.default_rng(seed)
    arrays = [jnp.asarray(rng.normal(size=(size, D)), jnp.float32) for size in (ROWS, ROWS, COLUMNS)]
    ids, items = rng.integers(0, 5, ROWS), rng.integers(0, 5, COLUMNS)
    pairs = Pairs(jnp.asarray(rng.random(COLUMNS) < 0.8), row_ids=jnp.array(ids[:, None]), column_ids=jnp.array(items))
    return arrays, pairs, jnp.asarray(np.arange(ROWS) != 2)


def as_lists(users, positives, negatives, pairs, where, **rest):
    """`croloss` of the same rows."""
    counts = jnp.ones((ROWS, COLUMNS), bool)
    if pairs.column_ids is not None:
        counts = pairs.column_where[None] & (pairs.row_ids != pairs.column_ids[None])
    anchors = jnp.sum(users * positives, axis=-1, keepdims=True)
    return croloss(anchors, users @ negatives.T, positive_where=where[:, None], negative_where=counts, **rest)


from_lists = jax.jit(jax.value_and_grad(as_lists, argnums=(0, 1, 2)), static_argnames=STATIC)


@pytest.mark.parametrize(
    ("method", "block", "paired"),
    [
        pytest.param(method, 4, True, marks=[pytest.mark.slow] if place % 3 else [])
        for place, method in enumerate(METHODS)
    ]
    + [((None, "softplus"), 0, True), (("sigmoid", "exponential"), 0, True), (("sigmoid", "exponential"), 4, False)],
    ids=str,
)
def test_streamed_form_is_that_of_lists(method, block, paired):
    arrays, pairs, where = rows_and_columns()
    rest = {"items": ITEMS, "alpha": 0.8, "rank": "unbiased" if paired else "scaled", "hinge_margin": 0.5}
    rest |= {"where": where, "pairs": pairs if paired else Pairs(), **named(method)}
    close(in_batch(*arrays, block=block, **rest), from_lists(*arrays, **rest))


@pytest.mark.parametrize("block", [0, 4])
def test_masked_rows_and_columns_may_hold_anything(block):
    (users, positives, negatives), pairs, where = rows_and_columns(8)
    rest = {"items": ITEMS, "kernel": "softplus", "pairs": pairs, "where": where, "block": block}
    clean = in_batch(users, positives, negatives, **rest)
    dirty = [users.at[2].set(jnp.nan), positives.at[2].set(jnp.inf)]
    assert not pairs.column_where.all()
    dirty.append(jnp.where(pairs.column_where[:, None], negatives, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, in_batch(*dirty, **rest), clean)
    for grad, masked in zip(clean[1], (~where, ~where, ~pairs.column_where), strict=True):
        np.testing.assert_array_equal(grad[masked], 0)
    assert jnp.isnan(in_batch(users.at[1].set(jnp.nan), positives, negatives, **rest)[0])
    value, grads = in_batch(users, positives, negatives, **(rest | {"where": jnp.zeros(ROWS, bool)}))
    assert value == 0
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), grads)
    nothing = pairs._replace(column_where=jnp.zeros(COLUMNS, bool))
    for kernel in ("softplus", "exponential"):
        value, grads = in_batch(users, positives, negatives, **(rest | {"pairs": nothing, "kernel": kernel}))
        assert value == 0
        jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), grads)


def test_slope_of_the_streamed_form():
    arrays, pairs, where = rows_and_columns(9)
    with jax.enable_x64(True):
        wide = [*(x.astype(jnp.float64) for x in arrays), jnp.float64(0.8)]

        def loss(users, positives, negatives, alpha):
            return croloss_in_batch(
                users, positives, negatives, items=ITEMS, alpha=alpha, pairs=pairs, where=where, block=4
            )

        check_grads(jax.jit(loss), wide, order=1, modes=("rev",), atol=1e-8, rtol=1e-8, eps=1e-5)


def test_bfloat16_vectors():
    arrays, pairs, _ = rows_and_columns(10)
    half = [(3 * x).astype(jnp.bfloat16) for x in arrays]
    rest = {"items": ITEMS, "pairs": pairs, "kernel": "softplus", "weight_kernel": "sigmoid", "alpha": 1.2, "block": 4}
    value, grads = in_batch(*half, **rest)
    exact = in_batch(*(x.astype(jnp.float32) for x in half), **rest)
    assert value.dtype == jnp.float32
    assert {x.dtype for x in grads} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(value, exact[0], rtol=2e-6)
    for grad, other in zip(grads, exact[1], strict=True):
        np.testing.assert_allclose(grad.astype(jnp.float32), other, rtol=2e-2, atol=1e-2 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(("method", "block"), [(("sigmoid", "exponential"), 4), ((None, "softplus"), 0)], ids=str)
def test_rows_of_several_devices_share_the_negatives(method, block):
    (users, positives, negatives), pairs, where = rows_and_columns(11)
    rows, mesh = [x[:4] for x in (users, positives, where, pairs.row_ids)], jax.make_mesh((4,), ("devices",))
    rest = {"items": ITEMS, "alpha": 0.8, "block": block, **named(method)}

    def step(users, positives, negatives, where, ids, column_where, column_ids, **how):
        chosen = Pairs(column_where, row_ids=ids, column_ids=column_ids)
        find = jax.value_and_grad(croloss_in_batch, argnums=(0, 1, 2))
        return find(users, positives, negatives, where=where, pairs=chosen, **rest, **how)

    split, shared = P("devices"), P()
    specs = (split, split, shared, split, split, shared, shared)
    mapped = jax.shard_map(
        partial(step, reduce_fn=global_mean("devices")),
        mesh=mesh, in_specs=specs, out_specs=(shared, specs[:3]), check_vma=True,
    )  # fmt: skip
    arrays = rows[0], rows[1], negatives, rows[2], rows[3], pairs.column_where, pairs.column_ids
    placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs, strict=True)]
    close(jax.jit(mapped)(*placed), jax.jit(step)(*arrays))
