"""HCCP trained through the fast kernels is HCCP trained through plain ones: 50 steps, to 1e-5."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_hccp import MODEL, SIZE, assert_trees_close, featurised, tiny

from hccp_jax.data import sampling
from hccp_jax.losses import streaming
from hccp_jax.losses.reduction import NEGATIVE, mean_valid
from hccp_jax.methods import hccp as module
from hccp_jax.methods.hccp import NegativesConfig, hccp, traced

STEPS = 50


def plain_list_mle(scores, rank=None, *, where=None, reduce_fn=mean_valid):
    """Eq 3 over all pairs of positions, by autodiff."""
    if rank is not None:
        order = jnp.argsort(jnp.where(where, rank, 2**30), axis=-1, stable=True)
        scores, where = (jnp.take_along_axis(x, order, axis=-1) for x in (scores, where))
    size = scores.shape[-1]
    later = (jnp.arange(size)[:, None] <= jnp.arange(size)[None, :]) & where[..., None, :]
    masked = jnp.where(later, scores[..., None, :], -1e9)
    terms = jnp.where(where, jax.nn.logsumexp(masked, axis=-1) - scores, 0.0)
    return reduce_fn(terms.sum(-1), where.any(-1))


def plain_log_sum_exp(rows, columns, *, bias=None, pairs, rate):
    """All scores in one matrix, by autodiff."""
    del rate
    scores = rows @ columns.T + (0.0 if bias is None else bias[None])
    where = pairs.column_where[None] & (jnp.arange(len(rows))[None, :, None] != pairs.own_rows.T[:, None]).all(0)
    where &= ~(pairs.row_ids[:, :, None] == pairs.column_ids[None, None]).any(1)
    if pairs.sample_bits is not None:
        number = jnp.arange(len(columns))
        where &= sampling.independent_columns(pairs.row_number[:, None], number[None], 0.2, pairs.sample_bits)
    value = jax.nn.logsumexp(jnp.where(where, scores, -1e9), axis=-1)
    return jnp.where(where.any(-1), value, NEGATIVE)


def trained(case, in_batch):
    """Losses of 50 steps, and the parameters after them."""
    method = hccp(case.spec, MODEL, NegativesConfig(in_batch_rate=0.2, in_batch=in_batch), case.layout)
    hyper, optimizer = (
        traced(module.HyperConfig(log_q=1.0)),
        optax.sgd(3e-2),
    )  # Adam would enlarge what rounding leaves of a zero gradient
    starts = range(0, len(case.log.mask), SIZE)
    batches = [featurised(case.source, case.log, range(start, start + SIZE)) for start in starts]

    @jax.jit
    def step(parameters, state, batch, key, progress):
        loss = lambda p: method.loss(p, hyper, batch, key, progress, None)[0]  # noqa: E731
        value, slope = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(parameters, updates), state, value

    parameters, losses = case.parameters, []
    state = optimizer.init(parameters)
    for i in range(STEPS):
        batch = batches[i % len(batches)]
        parameters, state, value = step(parameters, state, batch, jax.random.key(i), i / STEPS)
        losses.append(float(value))
    return np.array(losses), parameters


@pytest.mark.parametrize(
    ("in_batch", "streamed"), [("shared", False), pytest.param("independent", True, marks=pytest.mark.slow)]
)
def test_training_is_unchanged(small_world, monkeypatch, in_batch, streamed):
    case = tiny(small_world)
    with monkeypatch.context() as plain:
        plain.setattr(module, "list_mle", plain_list_mle)
        plain.setattr(module, "row_log_sum_exp", plain_log_sum_exp)
        expected, expected_parameters = trained(case, in_batch)
    assert expected[-8:].mean() < 0.95 * expected[:8].mean()
    if streamed:  # 8 columns at a time
        monkeypatch.setattr(streaming, "block_size", lambda *_: 8)
    losses, parameters = trained(case, in_batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_trees_close(parameters, expected_parameters, 1e-5)
