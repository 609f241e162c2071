"""Streamed reductions in a population and on several devices; the sample of pairs; the memory of a block."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.collectives import all_gather, first_row, psum
from hccp_jax.losses.pairs import Pairs, row_counts
from hccp_jax.losses.recall import kernel_function
from hccp_jax.losses.streaming import row_gap_sums, row_log_sum_exp

from .streamed import PHIS, RATE, D, close, counts_of, draw, sample, slopes, weighted

SIGMOID = kernel_function("sigmoid")


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def linear(gap):
    return gap, jnp.ones_like(gap)


@pytest.mark.slow
def test_sampled_pairs_are_the_same_in_each_pass_and_for_each_block():
    rows, columns, rate = 6, 40, 0.3
    number = jnp.arange(rows) * 7 + 3

    @partial(jax.jit, static_argnames="block")
    def masks(bits, pairs, block):
        def sums(bias):
            zeros = jnp.zeros((rows, D)), jnp.zeros((columns, D)), jnp.zeros(rows)
            rest = {"bias": bias, "pairs": pairs._replace(sample_bits=bits), "rate": rate, "block": block}
            return row_gap_sums((linear,), *zeros, **rest)[0], row_log_sum_exp(*zeros[:2], **rest)

        forward = jax.vmap(lambda one: sums(one)[0])(jnp.eye(columns)).T
        backward, share = jax.jacrev(sums)(jnp.zeros(columns))
        return forward, backward, share, sums(jnp.zeros(columns))[1]

    seen = []
    for bits in np.uint32([5, 2**32 - 1]):
        exact = np.asarray(sample(number[:, None], jnp.arange(columns)[None], rate, bits))
        seen.append(exact)
        for pairs in (Pairs(row_number=number), Pairs(row_number=number, own_rows=jnp.full((columns, 1), rows))):
            for block in (0, 7, 40):
                forward, backward, share, value = masks(bits, pairs, block)
                np.testing.assert_array_equal(forward, exact)
                np.testing.assert_array_equal(backward, exact)
                np.testing.assert_allclose(share, exact / exact.sum(1, keepdims=True), rtol=1e-6)
                np.testing.assert_allclose(value, np.log(exact.sum(1)), rtol=1e-6)
    assert (seen[0] != seen[1]).any()


def test_rate_of_the_sample():
    rows, columns, rate = 400, 2000, 0.05
    pairs = Pairs(sample_bits=jnp.uint32(11), row_number=jnp.arange(rows))

    @jax.jit
    def counts(pairs):
        """Of each row, and of each column: the slope in its bias."""

        def total(bias):
            zeros = jnp.zeros((rows, 1)), jnp.zeros((columns, 1)), jnp.zeros(rows)
            return jnp.sum(row_gap_sums((linear,), *zeros, bias=bias, pairs=pairs, rate=rate, block=128)[0])

        return row_counts(rows, columns, pairs, rate), jax.grad(total)(jnp.zeros(columns))

    for count, of in zip(counts(pairs), (columns, rows), strict=True):
        spread = np.sqrt(of * rate * (1 - rate))
        assert np.abs(np.asarray(count) - of * rate).max() < 5 * spread
        assert 0.85 * spread < np.std(count) < 1.15 * spread
        assert np.abs(np.sum(count) / (rows * columns * rate) - 1) < 5 / np.sqrt(rows * columns * rate)


@pytest.mark.parametrize("block", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_population_is_a_vmap(block):
    (rows, columns, bias, shift), pairs = draw(8, 3, 13)
    members = [jnp.stack([x, -2 * x]) for x in (rows, columns)]
    weights = jnp.arange(9.0).reshape(3, 3)

    def one(r, c):
        return slopes(r, c, bias, shift, pairs, weights, block=block)

    together = jax.jit(jax.vmap(one))(*members)
    for i in range(2):
        close(jax.tree.map(lambda x, i=i: x[i], together), one(*(x[i] for x in members)), rtol=2e-6)


def of_devices(weights, block, arrays, pairs, axis, gather):
    """The number of `weighted` when each device holds some of the rows, and of the columns if they are gathered."""
    rows, columns, bias, shift = arrays
    if gather:
        columns, bias = all_gather((columns, bias), axis)
        of_columns = ("column_where", "own_rows", "column_ids")
        pairs = pairs._replace(**{name: all_gather(getattr(pairs, name), axis) for name in of_columns})
    return psum(weighted(rows, columns, bias, shift, of_device(pairs, len(rows), axis), weights, block)[0], axis)


def of_device(pairs, rows, axis):
    """Own rows counted from the device's first."""
    own = pairs.own_rows - first_row(rows, axis)
    return pairs._replace(own_rows=jnp.where((own >= 0) & (own < rows), own, -1))


@pytest.mark.parametrize("block", [pytest.param(0, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("gather", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_rows_of_eight_devices(block, gather):
    """The columns are gathered from the devices, or every device holds them all."""
    size, columns = 8, 24
    arrays, pairs = draw(9, size, columns)
    weights = jnp.asarray(np.random.default_rng(9).normal(size=(size, 3)), jnp.float32)
    alone = slopes(*arrays, pairs, weights, block=block)[0]
    split, shared = P("devices"), P("devices") if gather else P()
    in_arrays = [split, shared, shared, split]
    in_pairs = Pairs(shared, shared, split, shared, P(), split)
    mesh = jax.make_mesh((8,), ("devices",))

    def step(weights, arrays, pairs):
        return jax.grad(of_devices, argnums=2)(weights, block, arrays, pairs, "devices", gather)

    specs = {"in_specs": (split, in_arrays, in_pairs), "out_specs": in_arrays}
    mapped = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=True, **specs))
    place = partial(jax.tree.map, lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)))
    close(mapped(*place((weights, arrays, pairs), (split, in_arrays, in_pairs))), [*alone])

    def counts(pairs):
        return row_counts(1, columns, of_device(pairs, 1, "devices"), RATE)

    if not gather:
        mapped = jax.jit(jax.shard_map(counts, mesh=mesh, in_specs=(in_pairs,), out_specs=split, check_vma=True))
        np.testing.assert_array_equal(mapped(place(pairs, in_pairs)), counts_of(pairs, size, columns).sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("block", [0, 5])
def test_on_emulated_devices(block):
    arrays, pairs = draw(10, 4, 12)
    weights = jnp.asarray(np.random.default_rng(10).normal(size=(4, 3)), jnp.float32)
    alone = slopes(*arrays, pairs, weights, block=block)[0]
    bits = pairs.sample_bits
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), (weights, arrays, pairs._replace(sample_bits=None)))

    def step(weights, arrays, pairs):
        pairs = pairs._replace(sample_bits=bits)
        return jax.grad(of_devices, argnums=2)(weights, block, arrays, pairs, "devices", True)

    found = jax.jit(jax.vmap(step, axis_name="devices"))(*halves)
    # the sum over the devices is the loss of each of the two
    close([x.reshape(-1, *x.shape[2:]) / 2 for x in found], [*alone])


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
def test_memory_is_of_a_block():
    def temporary(loss, columns, block):
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(256, 32), (columns, 32), (256,)]]
        step = jax.jit(jax.grad(partial(loss, block=block), argnums=(0, 1, 2)))
        return step.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    def gaps(rows, columns, shift, block):
        return sum(x.sum() for x in row_gap_sums(PHIS[:1], rows, columns, shift, constants=(SIGMOID,), block=block))

    def log_sums(rows, columns, shift, block):
        return jnp.sum(row_log_sum_exp(rows, columns, block=block) * shift)

    for loss in (gaps, log_sums):
        assert temporary(loss, 8192, 0) >= 256 * 8192 * 4  # so the measure sees the scores
        for block in (512, None):
            small = temporary(loss, 8192, block)
            assert small < 256 * 8192 * 4 / 3
            # at most a gradient in rows more
            assert temporary(loss, 16384, block) - small <= 8192 * 32 * 4 + 4096
