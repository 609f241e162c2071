"""What HCCP offers for rare items: the gate and the dropout of ids, and logit adjustment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hccp import MODEL, NEGATIVES, assert_trees_equal, featurised, tiny

from hccp_jax.data.catalogue import every_item
from hccp_jax.methods.hccp import HyperConfig, hccp, traced

KEY = jax.random.key(5)
HYPER = HyperConfig(log_q=0.0)


def made(small_world, **changes):
    given = tiny(small_world)
    return given, hccp(given.spec, dataclasses.replace(MODEL, **changes), NEGATIVES, given.layout)


def shaken(parameters):
    """The same parameters with other item id embeddings."""
    paths, tree = jax.tree.flatten_with_path(parameters)
    hit = ["item_id" in jax.tree_util.keystr(path) for path, _ in paths]
    assert sum(hit) == 1
    return tree.unflatten([leaf + 1.0 if own else leaf for (_, leaf), own in zip(paths, hit, strict=True)])


def test_the_gate_hides_the_ids_of_rare_items_only(small_world):
    given, method = made(small_world, id_gate=1.0)
    items = every_item(given.source.catalogue)
    before, after = (method.item_side(p, items) for p in (given.parameters, shaken(given.parameters)))
    moved = np.any(np.asarray(before != after), axis=-1)
    frequent = np.asarray(items["log_frequency"]) >= 0.0
    assert 0 < frequent.sum() < len(frequent)
    np.testing.assert_array_equal(moved, frequent)


def test_dropout_is_of_training_alone(small_world):
    given, method = made(small_world, id_dropout=0.5)
    plain = made(small_world)[1]
    batch = featurised(given.source, given.log, range(16))
    assert_trees_equal(method.heads(given.parameters, batch), plain.heads(given.parameters, batch))
    zero = jnp.float32(0.0)
    losses = {
        key: float(method.loss(given.parameters, traced(HYPER), batch, jax.random.key(key), zero, None)[0])
        for key in (0, 1)
    }
    assert losses[0] != losses[1]
    assert losses[0] == float(method.loss(given.parameters, traced(HYPER), batch, jax.random.key(0), zero, None)[0])


@pytest.mark.slow
def test_all_ids_dropped_are_ids_unseen(small_world):
    given, method = made(small_world, id_dropout=0.9)
    batch = featurised(given.source, given.log, range(16))
    half = jnp.float32(0.5)

    def gradient(parameters):
        return jax.grad(lambda p: method.loss(p, traced(HYPER), batch, KEY, half, None)[0])(parameters)

    plain = made(small_world)[1]
    full = jax.grad(lambda p: plain.loss(p, traced(HYPER), batch, KEY, half, None)[0])(given.parameters)
    table = [leaf for path, leaf in jax.tree.leaves_with_path(gradient(given.parameters)) if "item_id" in str(path)]
    whole = [leaf for path, leaf in jax.tree.leaves_with_path(full) if "item_id" in str(path)]
    rows, all_rows = (int(np.any(np.asarray(x[0]) != 0, axis=-1).sum()) for x in (table, whole))
    assert 0 < rows < all_rows


def test_logit_adjustment_adds_the_prior_while_training(small_world):
    """With one weight a row of items, adjusting is the same as serving logits with the prior in them."""
    given, method = made(small_world)
    batch = featurised(given.source, given.log, range(16))
    zero = jnp.float32(0.0)
    terms = {
        strength: method.loss(
            given.parameters, traced(dataclasses.replace(HYPER, adjustment=strength)), batch, KEY, zero, None
        )[1]
        for strength in (0.0, 0.7)
    }
    changed = {name for name in terms[0.0] if float(terms[0.0][name]) != float(terms[0.7][name])}
    assert changed == {f"{kind}/{task}" for kind in ("infonce_final", "infonce_dot") for task in ("click", "purchase")}
    # a frequency that all items share is no prior: it cancels in a softmax
    flat = dataclasses.replace(
        batch, items=batch.items | {"log_frequency": jnp.full_like(batch.items["log_frequency"], 1.7)}
    )
    same = [
        method.loss(given.parameters, traced(dataclasses.replace(HYPER, adjustment=a)), flat, KEY, zero, None)[0]
        for a in (0.0, 0.7)
    ]
    assert float(same[0]) == pytest.approx(float(same[1]), rel=1e-5)
