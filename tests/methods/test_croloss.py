"""CROLoss against its definition pair by pair in float64, and its special cases against theirs."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_hccp import SIZE, assert_trees_close, assert_trees_equal, drawn, featurised, tiny

from hccp_jax import config
from hccp_jax.data.requests import Stage
from hccp_jax.errors import UserError
from hccp_jax.methods.croloss import ROWS, HyperConfig, KernelConfig, croloss_system
from hccp_jax.models.mean_history import MeanHistoryConfig

MODEL = MeanHistoryConfig(vector=8)
HYPER = HyperConfig(alpha=0.7, scale=4.0)
LAMBDA = KernelConfig()  # sigmoid and softplus
PHI = {
    "hinge": lambda g: np.maximum(g + 5, 0),
    "sigmoid": lambda g: 1 / (1 + np.exp(-g)),
    "exponential": np.exp,
    "softplus": lambda g: np.log(1 + np.exp(g)),
    "unit_step": lambda g: (g >= 0).astype(float),
}


def numbers(hyper):
    return jax.tree.map(jnp.float32, hyper)


@pytest.fixture(scope="module")
def case(small_world):
    """A batch with several clicks in some requests and none in others; clicked items are among the random ones."""
    made = tiny(small_world)
    clicks = (made.log.labels["click"] > 0).sum(axis=1)
    chosen = [*np.flatnonzero(clicks > 1)[:5], *np.flatnonzero(clicks == 1)[:6], *np.flatnonzero(clicks == 0)[:5]]
    batch = featurised(made.source, made.log, chosen)
    stage, label = np.asarray(batch.stage), np.asarray(batch.labels["click"])
    ids = np.array(batch.items["id"])
    pool = np.flatnonzero(stage[0] == Stage.POOL)
    for u in range(5):  # two positives of a request as random items of the same request and of another
        first, second = np.flatnonzero(label[u] > 0)[:2]
        ids[u, pool[0]], ids[(u + 7) % SIZE, pool[1]] = ids[u, first], ids[u, second]
    batch = batch.replace(items=batch.items | {"id": jnp.asarray(ids)})
    compiled = {}

    def method(kernels):
        return croloss_system(made.spec, MODEL, kernels, made.layout.exposed)

    parameters = drawn(method(LAMBDA), batch)

    def evaluate(kernels, hyper, batch=batch):
        if kernels not in compiled:
            compiled[kernels] = jax.jit(jax.value_and_grad(partial(method(kernels).loss, axis=None), has_aux=True))
        found = compiled[kernels](parameters, numbers(hyper), batch, key=jax.random.key(0), progress=0.0)
        return (*found[0], found[1])

    return SimpleNamespace(made=made, batch=batch, method=method, parameters=parameters, evaluate=evaluate)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def gaps_of_pairs(case, hyper, batch=None, count=10):
    """One array of S_i - S_pos a pair (user, clicked item), over all random items that the user has not clicked."""
    batch = jax.tree.map(np.asarray, case.batch if batch is None else batch)
    table = np.asarray(case.parameters["item_id"]["item_rows"], np.float64)
    layer = {name: np.asarray(leaf, np.float64) for name, leaf in case.parameters["user_output"].items()}
    ids, past = batch.items["id"], batch.history["id"]
    pools = [np.flatnonzero(stage == Stage.POOL)[:count] for stage in batch.stage]
    random = np.concatenate([row[pool] for row, pool in zip(ids, pools, strict=True)])
    gaps, cosines = [], []
    for u in range(SIZE):
        rows = table[past[u][batch.history_mask[u]]]
        user = unit((rows.mean(axis=0) if len(rows) else np.zeros(MODEL.vector)) @ layer["kernel"] + layer["bias"])
        clicked = [k for k in np.flatnonzero(batch.labels["click"][u] > 0) if batch.stage[u, k] == Stage.EXPOSED]
        others = np.array([i for i in random if i not in ids[u, clicked]])
        for k in clicked:
            cosine = user @ unit(table[ids[u, k]])
            cosines.append(cosine)
            gaps.append(hyper.scale * (unit(table[others]) @ user - cosine))
    return gaps, np.mean(cosines)


def literal(gaps, kernels, hyper, items):
    """Eq 13, 16, 23 and 24, pair by pair."""
    alpha, whole = hyper.alpha, np.log(items + 1) if kernels.weight_scale == "log" else 1.0

    def rank(kernel, gap):
        share, total = items / len(gap), PHI[kernel](gap).sum()
        return share * (1 + total) if kernels.rank == "scaled" else 1 + share * total

    def weighted(gap):
        r = rank(kernels.kernel, gap)
        if kernels.weight_kernel != "none":
            constant = np.log(items + 1) if alpha == 1 else ((items + 1.0) ** (1 - alpha) - 1) / (1 - alpha)
            return rank(kernels.weight_kernel, gap) ** -alpha / constant * r  # w_alpha(x) = x^-alpha / Z
        if alpha == 1:
            return np.log(r) / np.log(items + 1)
        return (1 - r ** (1 - alpha)) / (1 - (items + 1.0) ** (1 - alpha))

    return np.mean([whole * weighted(gap) for gap in gaps])


@pytest.mark.parametrize(
    "kernels",
    [
        LAMBDA,
        KernelConfig(kernel="sigmoid", weight_kernel="none", rank="unbiased", weight_scale="none"),
        KernelConfig(kernel="hinge", weight_kernel="unit_step", negatives=4),
    ],
    ids=["lambda", "sigmoid", "hinge"],
)
@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.4])
def test_loss_is_the_definition(case, kernels, alpha):
    hyper, items = dataclasses.replace(HYPER, alpha=alpha), case.made.spec.items - 1
    loss, terms, _ = case.evaluate(kernels, hyper)
    gaps, cosine = gaps_of_pairs(case, hyper, count=kernels.negatives)
    assert len(gaps) > 12
    assert len({len(gap) for gap in gaps}) > 1  # own positives are no negatives
    np.testing.assert_allclose(loss, literal(gaps, kernels, hyper, items), rtol=2e-5)
    np.testing.assert_allclose(terms["cosine/positive"], cosine, rtol=1e-5)


def of_row(name):
    found = ROWS[name]
    return dataclasses.replace(LAMBDA, **found["config"]), dataclasses.replace(HYPER, **found["hyper"])


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_the_losses_they_are_named_for(case, name):
    kernels, hyper = of_row(name)
    loss, _, gradients = case.evaluate(kernels, hyper)
    gaps, _ = gaps_of_pairs(case, hyper)
    items = case.made.spec.items - 1
    share = np.array([items / len(gap) for gap in gaps])
    # the loss of the name, up to the factor and the constant that Eq 24 and the normalisation of W bring
    known = {
        "cross_entropy": [np.log(np.exp(gap).sum() + 1) + np.log(s) for gap, s in zip(gaps, share, strict=True)],
        "triplet": [np.maximum(gap + 5, 0).sum() for gap in gaps],
        "bpr": [-np.log(1 / (1 + np.exp(gap))).sum() for gap in gaps],
    }
    if name == "cross_entropy":
        expected = np.mean(known[name])
    elif name in known:
        expected = np.mean(share * (1 + np.array(known[name])) - 1) * np.log(items + 1) / items
    else:
        expected = literal(gaps, kernels, hyper, items)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_rows_are_configurations(case):
    for found in ROWS.values():
        config.override(LAMBDA, found["config"])
        config.override(HYPER, found["hyper"])
    assert of_row("croloss_lambda") == (LAMBDA, dataclasses.replace(HYPER, alpha=1.0))
    for changes in ({"kernel": "unit_step"}, {"kernel": "relu"}, {"weight_kernel": "softmax"}, {"rank": "exact"}):
        with pytest.raises(UserError, match="expected one of"):
            config.override(LAMBDA, changes)
    for changes in ({"alpha": -0.1}, {"scale": 0.0}, {"learning_rate": 0.0}):
        with pytest.raises(UserError, match="expected a value"):
            config.override(HYPER, changes)


def test_two_devices_make_the_loss_of_one(case):
    """The random items of each serve the positives of both."""
    split = jax.tree.map(lambda leaf: leaf.reshape(2, SIZE // 2, *leaf.shape[1:]), case.batch)

    @partial(jax.vmap, in_axes=(None, None, 0), axis_name="data")
    def both(parameters, hyper, batch):
        loss = partial(case.method(LAMBDA).loss, key=jax.random.key(0), progress=0.0, axis="data")
        (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, hyper, batch)
        return value, jax.lax.pmean(gradients, "data")

    values, gradients = jax.jit(both)(case.parameters, numbers(HYPER), split)
    loss, _, expected = case.evaluate(LAMBDA, HYPER)
    np.testing.assert_allclose(values, [loss, loss], rtol=1e-6)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], gradients), expected, 1e-5)


def test_only_clicks_and_random_items_count(case):
    stage, label = np.asarray(case.batch.stage), np.asarray(case.batch.labels["click"])
    other = (stage != Stage.POOL) & ~(label > 0)
    ids = np.where(other, np.random.default_rng(0).permuted(np.asarray(case.batch.items["id"])), case.batch.items["id"])
    changed = case.batch.replace(items=case.batch.items | {"id": jnp.asarray(ids)})
    before, after = case.evaluate(LAMBDA, HYPER), case.evaluate(LAMBDA, HYPER, changed)
    assert before[0] == after[0]
    assert_trees_equal(before[2], after[2])


def test_fewer_random_items_than_asked_for(case):
    """The missing ones are no negatives, and the rank is scaled by those there are."""
    pool = np.asarray(case.batch.stage) == Stage.POOL
    gone = pool & (np.cumsum(pool, axis=1) > 3)
    stage = jnp.where(gone, Stage.PADDING, case.batch.stage).astype(jnp.int8)
    batch = case.batch.replace(stage=stage, mask=case.batch.mask & ~gone)
    found = case.evaluate(LAMBDA, HYPER, batch)[0]
    gaps, _ = gaps_of_pairs(case, HYPER, batch)
    assert max(map(len, gaps)) == 3 * SIZE
    np.testing.assert_allclose(found, literal(gaps, LAMBDA, HYPER, case.made.spec.items - 1), rtol=2e-5)


def test_a_batch_without_clicks_teaches_nothing(case):
    labels = {task: jnp.zeros_like(label) for task, label in case.batch.labels.items()}
    loss, terms, gradients = case.evaluate(LAMBDA, HYPER, case.batch.replace(labels=labels))
    assert loss == terms["croloss"] == terms["cosine/positive"] == 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradients))


def test_one_score_serves_each_task(case):
    method = case.method(LAMBDA)
    assert method.needs == {"history", "pool"}
    heads = jax.jit(method.heads)(case.parameters, case.batch)
    assert tuple(heads) == case.made.spec.tasks
    np.testing.assert_array_equal(heads["click"], heads["purchase"])
    assert np.abs(heads["click"]).max() <= 1 + 1e-6
    np.testing.assert_array_equal(method.served(heads, HYPER), 4.0 * heads["click"])
    positive = np.asarray((case.batch.labels["click"] > 0) & case.batch.exposed)
    np.testing.assert_allclose(np.asarray(heads["click"])[positive].mean(), gaps_of_pairs(case, HYPER)[1], rtol=1e-5)


@pytest.mark.slow
def test_training_puts_clicks_before_random_items(case):
    made, method, steps = case.made, case.method(LAMBDA), 150
    clicked = np.flatnonzero((made.log.labels["click"] > 0).any(axis=1))[:32]
    batch = featurised(made.source, made.log, clicked)
    hyper, optimizer = numbers(HyperConfig()), optax.adam(0.02)

    @jax.jit
    def train(parameters, batch):
        def one(state, _):
            parameters, moments = state
            loss, gradients = jax.value_and_grad(
                lambda p: method.loss(p, hyper, batch, jax.random.key(0), jnp.float32(0), None)[0]
            )(parameters)
            updates, moments = optimizer.update(gradients, moments)
            return (optax.apply_updates(parameters, updates), moments), loss

        (parameters, _), losses = jax.lax.scan(one, (parameters, optimizer.init(parameters)), length=steps)
        return method.heads(parameters, batch)["click"], losses

    scores, losses = train(case.parameters, batch)
    assert losses[-1] < 0.5 * losses[0]
    positive = np.asarray((batch.labels["click"] > 0) & batch.exposed)
    pool = np.asarray(batch.stage) == Stage.POOL
    ahead = [(scores[u][positive[u]][:, None] > scores[u][pool[u]]).mean() for u in range(32)]
    assert np.mean(ahead) > 0.9
