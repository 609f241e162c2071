import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_batch import (
    SPEC,
    H,
    K,
    U,
    apply,
    draw_batch,
    draw_parameters,
    expect,
    expect_half_precision,
    expect_padding_to_change_nothing,
    expect_precomputed_items_to_serve,
    fields,
    inputs,
    layer,
    pooled,
)
from numpy_tower import float64
from tiny_hccp import assert_trees_close

from hccp_jax.models import din
from hccp_jax.models.din import Din, DinConfig

CONFIG = DinConfig(id_width=4, category_width=3, attention=6, attention_second=5, hidden=7, second=6)
MODEL = Din(CONFIG, SPEC)
PAPER = Din(dataclasses.replace(CONFIG, pooled_history=False), SPEC)


@pytest.fixture(scope="module")
def made():
    batch = draw_batch()
    return MODEL, draw_parameters(MODEL, batch), batch


def prelu(x, slope):
    return np.where(x > 0, x, slope * x)


def attention(p, batch, row, slot):
    """a_t and e_t of the real past items, from the joined [e_t, e_a, e_t - e_a, e_t * e_a]."""
    p, found = p | p["weights"], []
    target = {name: batch.items[name] for name in ("id", "categorical")}
    a = np.concatenate(fields(p, "item", target, row, slot))
    for past in np.flatnonzero(batch.history_mask[row]):
        e = np.concatenate(fields(p, "item", batch.history, row, past))
        x = prelu(np.concatenate([e, a, e - a, e * a]) @ p["kernel"] + p["bias"], p["slope"])
        x = prelu(x @ p["second_kernel"] + p["second_bias"], p["second_slope"])
        found.append((past, (x @ p["output_kernel"] + p["output_bias"])[0], e))
    return found


def definition(p, batch, row, slot, with_means=True):
    width = CONFIG.id_width + 2 * CONFIG.category_width
    interest = sum((a * e for _, a, e in attention(p, batch, row, slot)), np.zeros(width))
    user = [*fields(p, "user", batch.user, row), *(pooled(p, batch, row) if with_means else [])]
    joined = np.concatenate([*user, *fields(p, "item", batch.items, row, slot), interest, batch.cross[row, slot]])
    kernel = np.concatenate([p[f"{part}_first"]["kernel"] for part in ("user", "item", "interest", "cross")])
    x = prelu(joined @ kernel + p["user_first"]["bias"], p["first_slope"]["negative_slope"])
    return layer(p["output"], prelu(layer(p["second"], x), p["second_slope"]["negative_slope"]))


def test_forward_pass_is_the_definition(made):
    expect(definition, *made, heads=len(SPEC.tasks))


def test_the_papers_inputs_have_no_means_of_the_history(made):
    _, _, batch = made
    parameters = draw_parameters(PAPER, batch)
    expect(lambda *args: definition(*args, with_means=False), PAPER, parameters, batch, heads=2)


def attention_of(model, parameters, batch):
    """a_t [U, H, K], and gradients of the mean of its sines; a new program each time."""

    def weights(model, *args):
        return model.attention(model.user_side(*args[:3]), model.item_side(args[3]))

    def loss(p):
        found = model.apply({"params": p}, *inputs(batch), method=weights)
        return jnp.mean(jnp.sin(found)), found

    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(parameters)
    return np.asarray(found), {name: gradient[name] for name in ("weights", "embeddings")}


def test_attention_is_not_normalised_and_zero_on_padding(made):
    model, parameters, batch = made
    found, _ = attention_of(model, parameters, batch)
    expected = np.zeros((U, H, K))
    for row in range(U):
        for slot in range(K):
            for past, weight, _ in attention(float64(parameters), batch, row, slot):
                expected[row, past, slot] = weight
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(found[~batch.history_mask], 0)
    sums = found[1:].sum(axis=1)
    assert np.abs(sums - 1).min() > 1e-3  # no softmax
    assert (found < 0).any()


def test_blocks_of_past_items_change_nothing(made, monkeypatch):
    """Three of the four past items, then the last: attention and gradients are those of all at once."""
    whole, gradient = attention_of(*made)
    monkeypatch.setattr(din, "BLOCK", 3 * U * K * CONFIG.attention)
    found, in_blocks = attention_of(*made)
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=2e-6)
    assert_trees_close(in_blocks, gradient, 1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in gradient["weights"].values())


def test_no_array_holds_candidates_times_history_times_features():
    """At 64 requests of 2,000 candidates and 50 past items, forward and backward; shapes only, nothing runs."""
    users, slots, past = 64, 2000, 50
    model = Din(DinConfig(), SPEC)

    def stretched(tree, *lead):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[len(lead) :]), x.dtype), tree)

    user, history, mask, items, cross = inputs(draw_batch())
    args = (
        stretched(user, users),
        *(stretched(x, users, past) for x in (history, mask)),
        *(stretched(x, users, slots) for x in (items, cross)),
    )
    parameters = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    program = jax.make_jaxpr(jax.grad(lambda p, *args: model.apply({"params": p}, *args).sum()))(parameters, *args)
    found = set(sizes(program.jaxpr))
    # blocks of the first attention layer are the largest, 3 past items each
    assert 3 * users * slots * DinConfig().attention in found
    assert max(found) <= din.BLOCK < users * slots * past * DinConfig().attention


def sizes(jaxpr):
    """Elements of every array of a program, its loops included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_every_task_has_its_own_logit(made):
    model, parameters, batch = made
    logits = apply(model, parameters, *inputs(batch))
    assert np.abs(logits[:, 0] - logits[:, 1]).min() > 1e-4


def test_padding_does_not_change_a_real_score(made):
    expect_padding_to_change_nothing(*made)


def test_precomputed_items_serve_every_request(made):
    expect_precomputed_items_to_serve(*made)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(made):
    expect_half_precision(*made)
