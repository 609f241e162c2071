"""Sums over blocks of rows: the same number and the same slope whatever the block, and no square in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.losses import row_blocks
from hccp_jax.losses.row_blocks import sum_over_row_blocks

LISTS, SIZE, WIDTH = 3, 7, 2


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def term(rows, whole, constants):
    """Sum over rows r and columns c of mask_r w_c sin(x_r . v_c) + mask_r scale b_r^2, from a row's x and b."""
    (row_real,), (weights,) = constants
    columns, scale = whole
    products = jnp.einsum("brd,bcd->brc", rows["x"], columns)
    values = jnp.sum(weights[:, None, :] * jnp.sin(products), axis=-1) + scale[:, None] * jnp.square(rows["b"])
    return jnp.sum(jnp.where(row_real, values, 0.0), axis=-1)


def drawn(size=SIZE, lists=LISTS, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    rows = {"x": normal(lists, size, WIDTH), "b": normal(lists, size)}
    whole = normal(lists, size, WIDTH), normal(lists)
    return rows, whole, ((rng.random((lists, size)) < 0.8,), (normal(lists, size),)), normal(lists)


def by_loop(rows, whole, constants):
    """[B] values, and the slopes of each with respect to rows and whole, pair by pair in float64."""
    ((real,), (weights,)), (columns, scale) = constants, whole
    x, b = rows["x"].astype(float), rows["b"].astype(float)
    values, slopes = np.zeros(len(x)), [np.zeros(leaf.shape) for leaf in (x, b, columns, scale)]
    for i in range(len(x)):
        for r in np.flatnonzero(real[i]):
            values[i] += scale[i] * b[i, r] ** 2
            slopes[1][i, r] = 2 * scale[i] * b[i, r]
            slopes[3][i] += b[i, r] ** 2
            for c in range(x.shape[1]):
                product = x[i, r] @ columns[i, c]
                values[i] += weights[i, c] * np.sin(product)
                slopes[0][i, r] += weights[i, c] * np.cos(product) * columns[i, c]
                slopes[2][i, c] += weights[i, c] * np.cos(product) * x[i, r]
    return values, slopes


def streamed(block):
    def total(rows, whole, constants, factors):
        values = sum_over_row_blocks(term, rows, whole, constants, block=block)
        return jnp.sum(factors * jnp.sin(values)), values

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("block", [1, 2, 3, 4, 6, SIZE, SIZE + 1])
def test_any_block_gives_value_and_slope_of_the_loops(block):
    rows, whole, constants, factors = drawn()
    values, slopes = by_loop(rows, whole, constants)
    (_, got), (row_slopes, whole_slopes) = streamed(block)(rows, whole, constants, factors)
    np.testing.assert_allclose(got, values, rtol=2e-6, atol=2e-6)
    outer = factors * np.cos(values)  # one factor a list, and a different one for each
    got = row_slopes["x"], row_slopes["b"], *whole_slopes
    for one, exact in zip(got, slopes, strict=True):
        exact = exact * outer.reshape(-1, *[1] * (exact.ndim - 1))
        np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-6 * np.abs(exact).max())


def test_the_block_follows_from_the_bytes(monkeypatch):
    seen = []

    def recording(rows, whole, constants):
        seen.append(rows["x"].shape)
        return term(rows, whole, constants)

    rows, whole, constants, _ = drawn()
    for budget, longest in [(1, 1), (4 * LISTS * SIZE * 2, 2), (4 * LISTS * SIZE * 5, 4), (4 * LISTS * SIZE * 7, 7)]:
        monkeypatch.setattr(row_blocks, "BLOCK_BYTES", budget)
        seen.clear()
        jax.eval_shape(lambda *a: sum_over_row_blocks(recording, *a), rows, whole, constants)
        assert set(seen) == {(LISTS, longest, WIDTH)}


def test_vmap_scan_and_float64():
    stack = [drawn(seed=seed)[:3] for seed in range(3)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *stack)

    def slopes(*a):
        return jax.grad(lambda rows: sum_over_row_blocks(term, rows, *a[1:], block=3).sum())(a[0])

    mapped = jax.jit(jax.vmap(slopes))(*batch)
    scanned = jax.jit(lambda *a: jax.lax.scan(lambda c, now: (c, slopes(*now)), 0, a)[1])(*batch)
    for i, one in enumerate(stack):
        exact = by_loop(*one)[1]
        for got in (mapped, scanned):
            np.testing.assert_allclose(got["x"][i], exact[0], rtol=1e-5, atol=1e-5)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64 if x.dtype == np.float32 else bool), stack[0])
        got = jax.jit(slopes)(*wide)["x"]
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, by_loop(*stack[0])[1][0], rtol=1e-12, atol=1e-12)


def test_inside_shard_map():
    mesh = jax.make_mesh((1,), ("devices",))
    batch = drawn()

    def step(*a):
        (value, _), slopes = streamed(2)(*a)
        return jax.lax.psum(value, "devices"), slopes

    specs = {"in_specs": P("devices"), "out_specs": (P(), P("devices"))}
    step = jax.jit(jax.shard_map(step, mesh=mesh, **specs, check_vma=True))
    value, slopes = step(*jax.device_put(batch, NamedSharding(mesh, P("devices"))))
    (alone, _), expected = streamed(2)(*batch)
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), slopes, expected)


def test_constants_have_no_slope_and_forward_mode_is_refused():
    rows, whole, constants, _ = drawn()

    def loss(scale):
        weighted = (constants[0], (constants[1][0] * scale,))
        return sum_over_row_blocks(term, rows, whole, weighted, block=2).sum()

    assert jax.grad(loss)(1.0) == 0
    assert loss(2.0) != loss(1.0)

    def of_x(x):
        return sum_over_row_blocks(term, rows | {"x": x}, whole, constants, block=2)

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(of_x, (rows["x"],), (rows["x"],))


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
def test_no_square_in_memory():
    def temporary(size, block):
        return streamed(block).lower(*drawn(size)).compile().memory_analysis().temp_size_in_bytes

    square = 4 * LISTS * 1024**2
    assert temporary(1024, 1024) > square  # at once: at least one array of all pairs
    assert temporary(1024, 16) < square / 16
    # A block of a fixed number of rows: linear in the length.
    assert temporary(4096, 16) < 6 * temporary(1024, 16)
