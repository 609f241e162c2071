"""Both streamed reductions as one function, inputs for it, and what it gives by loops over pairs in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.data.sampling import independent_columns
from hccp_jax.losses.pairs import Pairs
from hccp_jax.losses.recall import kernel_function
from hccp_jax.losses.reduction import NEGATIVE
from hccp_jax.losses.streaming import row_gap_sums, row_log_sum_exp

from .cases.recall import PHI, SLOPE

D, MARGIN, RATE = 4, 0.5, 0.5
KINDS = ("softplus", "hinge")
PHIS = tuple(kernel_function(kind, MARGIN) for kind in KINDS)
FIELDS = ("where", "owner", "ids", "sample")


def draw(seed, rows, columns, fields=FIELDS):
    """Rows, columns, biases and shifts, and pairs; columns that do not count are NaN."""
    rng = np.random.default_rng(seed)
    shapes = [(rows, D), (columns, D), (columns,), (rows,)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    pairs = Pairs()
    if "where" in fields:
        pairs = pairs._replace(column_where=rng.random(columns) < 0.8)
        arrays[1][~pairs.column_where], arrays[2][~pairs.column_where] = np.nan, np.nan
    if "owner" in fields:
        pairs = pairs._replace(own_rows=rng.integers(-1, rows + 2, (columns, 2)))
    if "ids" in fields:
        pairs = pairs._replace(row_ids=rng.integers(-1, 6, (rows, 2)), column_ids=rng.integers(0, 6, columns))
    if "sample" in fields:
        pairs = pairs._replace(sample_bits=np.uint32(rng.integers(2**32)), row_number=100 + np.arange(rows))
    return jax.tree.map(jnp.asarray, (arrays, pairs))


def reductions(rows, columns, bias, shift, pairs, block, rate=RATE, phis=PHIS):
    """[R, 1 + phis]: both reductions, the sums first."""
    sums = row_gap_sums(phis, rows, columns, shift, bias=bias, pairs=pairs, rate=rate, block=block)
    return jnp.stack([*sums, row_log_sum_exp(rows, columns, bias=bias, pairs=pairs, rate=rate, block=block)], axis=-1)


def weighted(rows, columns, bias, shift, pairs, weights, block):
    """A number whose gradients weigh every row and reduction differently; rows without a column add nothing."""
    values = reductions(rows, columns, bias, shift, pairs, block)
    return jnp.sum(jnp.where(values == NEGATIVE, 0.0, values) * weights), values


sample = jax.jit(independent_columns, static_argnums=2)
slopes = jax.jit(jax.grad(weighted, argnums=(0, 1, 2, 3), has_aux=True), static_argnames="block")


def counts_of(pairs, rows, columns, rate=RATE):
    """[R, N] by a loop over pairs."""
    kept = np.ones((rows, columns), bool)
    if pairs.sample_bits is not None:
        kept = np.array(sample(pairs.row_number[:, None], jnp.arange(columns)[None], rate, pairs.sample_bits))
    pairs = jax.tree.map(np.asarray, pairs)
    for r in range(rows):
        for c in range(columns):
            kept[r, c] &= pairs.column_where is None or pairs.column_where[c]
            kept[r, c] &= pairs.own_rows is None or r not in pairs.own_rows[c]
            kept[r, c] &= pairs.row_ids is None or pairs.column_ids[c] not in pairs.row_ids[r]
    return kept


def oracle(rows, columns, bias, shift, weights, kept):
    """Values and gradients of `weighted`, pair by pair."""
    rows, columns, bias, shift, weights = (np.asarray(x, np.float64) for x in (rows, columns, bias, shift, weights))
    values, grads = np.zeros_like(weights), [np.zeros_like(x) for x in (rows, columns, bias, shift)]
    for r in range(len(rows)):
        score = {c: float(rows[r] @ columns[c] + bias[c]) for c in np.flatnonzero(kept[r])}
        values[r, -1] = np.logaddexp.reduce(list(score.values())) if score else NEGATIVE
        for c, s in score.items():
            values[r, :-1] += [PHI[kind](s - shift[r], MARGIN) for kind in KINDS]
            of_gap = sum(w * SLOPE[kind](s - shift[r], MARGIN) for w, kind in zip(weights[r], KINDS, strict=False))
            slope = of_gap + weights[r, -1] * np.exp(s - values[r, -1])
            for grad, step in zip(grads, (slope * columns[c], slope * rows[r], slope, -of_gap), strict=True):
                grad[c if grad is grads[1] or grad is grads[2] else r] += step
    return tuple(grads), values


def close(found, exact, rtol=5e-6):
    """Relative to the largest number of an array."""

    def check(a, b):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(initial=1e-30))

    jax.tree.map(check, found, exact)
