"""The HAP-style losses against a float64 transcription from the logits, and the routing against sorting by hand."""

import dataclasses
import math
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
from hccp_jax.methods.hap import GROUPS, OBJECTIVES, ROWS, HyperConfig, hap, hap_objectives, routed_scores
from hccp_jax.models.light_heavy import HapConfig, TowerConfig
from hccp_jax.training.gradients import cagrad, gradient_cosines, gradient_norms, group_gradients, pcgrad

MODEL = HapConfig(
    light=TowerConfig(vector=4, hidden=6, width=6, layers=1),
    heavy=TowerConfig(vector=6, hidden=8, width=8, layers=2),
    id_width=4,
    category_width=4,
)
# far from the defaults, so that each number shows
HYPER = HyperConfig(
    exposed=0.7,
    ranked=1.3,
    preranked=0.4,
    pool=0.6,
    temperature=1.7,
    cross_entropy=0.8,
    unexposed=0.3,
    heavy=0.9,
)
KEY = jax.random.key(0)
STAGES = {"exposed": 1, "ranked": 2, "preranked": 3, "pool": 4}


def numbers(hyper):
    return jax.tree.map(jnp.float32, hyper)


def row(name):
    return dataclasses.replace(HyperConfig(), **ROWS[name])


@pytest.fixture(scope="module")
def case(small_world):
    """A batch of requests with and without clicks, and the loss and its gradients as one compiled function."""
    made = tiny(small_world)
    clicked = (made.log.labels["click"] > 0).any(axis=1)
    batch = featurised(made.source, made.log, [*np.flatnonzero(clicked)[:11], *np.flatnonzero(~clicked)[:5]])
    exposed = made.layout.exposed
    method, objectives = hap(made.spec, MODEL, exposed), hap(made.spec, MODEL, exposed, "pcgrad").objectives
    parameters = drawn(method, batch)
    traces = []

    @jax.jit
    def compiled(parameters, hyper, batch):
        traces.append(1)
        return jax.value_and_grad(method.loss, has_aux=True)(parameters, hyper, batch, KEY, jnp.float32(0), None)

    def evaluate(hyper, batch=batch):
        (loss, terms), gradients = compiled(parameters, numbers(hyper), batch)
        return loss, terms, gradients

    scores = jax.jit(method.heads)(parameters, batch)
    return SimpleNamespace(
        made=made,
        batch=batch,
        method=method,
        objectives=objectives,
        parameters=parameters,
        evaluate=evaluate,
        scores=scores,
        traces=traces,
    )


def info_nce(z, positives, others):
    """Mean over positives of -log of its share of itself and the others."""
    return np.mean([np.log(np.exp(z[p]) + np.exp(z[others]).sum()) - z[p] for p in positives])


def literal(scores, batch, hyper):
    """The loss, the light model's [4] weighted group losses and the means by name, request by request."""
    z = {name: np.asarray(scores[name], np.float64) for name in ("light", "heavy")}
    batch = jax.tree.map(np.asarray, batch)
    found, weights = {}, {name: getattr(hyper, name) for name in GROUPS}

    def add(name, value):
        found.setdefault(name, []).append(value)

    for u, stage in enumerate(batch.stage):
        label = batch.labels["click"][u]
        shown = np.flatnonzero(stage == Stage.EXPOSED)
        unexposed = np.flatnonzero(stage > Stage.EXPOSED)
        clicked = [k for k in shown if label[k] > 0]
        groups = {name: [k for k in np.flatnonzero(stage == s) if k not in clicked] for name, s in STAGES.items()}
        heavy = {name: groups[name] for name in GROUPS[:2]}
        if hyper.on_policy:
            real = np.flatnonzero(stage > 0)
            best = real[np.argsort(-z["light"][u, real], kind="stable")][: math.ceil(hyper.routed * len(real))]
            reached = {name: [k for k in slots if k in best] for name, slots in groups.items()}
            heavy = {"exposed": reached["exposed"], "ranked": [k for name in GROUPS[1:] for k in reached[name]]}
        add("cross_entropy/unexposed", sum(np.logaddexp(0, z["light"][u, k]) for k in unexposed))
        for model, negatives in (("light", groups), ("heavy", heavy)):
            x = z[model][u]
            add(f"cross_entropy/{model}", sum(np.logaddexp(0, x[k]) - label[k] * x[k] for k in shown))
            for name in GROUPS:
                found.setdefault(f"logit/{model}/{name}", []).extend(x[groups[name]])
            if clicked:
                tau = hyper.temperature
                for name, slots in negatives.items():
                    add(f"infonce/{model}/{name}", info_nce(x / tau, clicked, slots))
                everything = [k for name, slots in negatives.items() if weights[name] for k in slots]
                add(f"mixed/{model}", info_nce(x / tau, clicked, everything))
    means = {name: np.mean(values) for name, values in found.items()}

    def contrast(model, names):
        if hyper.grouped:
            return sum(weights[name] * means[f"infonce/{model}/{name}"] for name in names)
        used = [weights[name] for name in names if weights[name]]
        return np.mean(used) * means[f"mixed/{model}"] if used else 0.0

    light = hyper.cross_entropy * means["cross_entropy/light"] + hyper.unexposed * means["cross_entropy/unexposed"]
    heavy = hyper.cross_entropy * means["cross_entropy/heavy"] + contrast("heavy", GROUPS[:2])
    rest = light + hyper.heavy * heavy
    groups = np.array([weights[name] * means[f"infonce/light/{name}"] for name in GROUPS])
    return rest + contrast("light", GROUPS), np.append(groups, rest), means


@pytest.mark.parametrize(("grouped", "on_policy"), [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_loss_is_the_definition(case, grouped, on_policy):
    hyper = dataclasses.replace(HYPER, grouped=grouped, on_policy=on_policy)
    loss, terms, _ = case.evaluate(hyper)
    expected, _, means = literal(case.scores, case.batch, hyper)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, term in terms.items():
        np.testing.assert_allclose(term, means[name], rtol=1e-5, err_msg=name)


def test_rows_are_the_definition_and_share_one_trace(case):
    losses = {}
    for name in ROWS:
        loss, _, _ = case.evaluate(row(name))
        np.testing.assert_allclose(loss, literal(case.scores, case.batch, row(name))[0], rtol=1e-5)
        losses[name] = float(loss)
    # these differ in serving alone
    assert losses["light_only"] == losses["heavy_only"] == losses["hap"]
    assert len(set(losses.values())) == len(ROWS) - 2
    assert len(case.traces) == 1


def test_two_devices_make_the_loss_of_one(case):
    split = jax.tree.map(lambda leaf: leaf.reshape(2, SIZE // 2, *leaf.shape[1:]), case.batch)

    @partial(jax.vmap, in_axes=(None, None, 0), axis_name="data")
    def both(parameters, hyper, batch):
        loss = partial(case.method.loss, key=KEY, progress=jnp.float32(0), axis="data")
        (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, hyper, batch)
        return value, jax.lax.pmean(gradients, "data")

    values, gradients = jax.jit(both)(case.parameters, numbers(HYPER), split)
    loss, _, expected = case.evaluate(HYPER)
    np.testing.assert_allclose(values, [loss, loss], rtol=1e-6)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], gradients), expected, 1e-5)


def moved(case, stages):
    where = np.isin(np.asarray(case.batch.stage), stages)
    noise = np.random.default_rng(0).normal(size=case.batch.items["dense"].shape)
    dense = case.batch.items["dense"] + jnp.asarray(where[..., None] * noise, jnp.float32)
    return case.batch.replace(items=case.batch.items | {"dense": dense})


def test_the_heavy_model_learns_from_exposed_and_ranked_items_alone(case):
    easy, hard = moved(case, (Stage.PRERANKED, Stage.POOL)), moved(case, (Stage.RANKED,))
    before, other, different = (case.evaluate(HYPER, batch) for batch in (case.batch, easy, hard))
    for part in ("heavy", "keys", "values"):
        assert_trees_equal(before[2][part], other[2][part])
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(before[2][part])) > 0
    assert before[1]["infonce/heavy/ranked"] == other[1]["infonce/heavy/ranked"]
    assert before[1]["infonce/heavy/ranked"] != different[1]["infonce/heavy/ranked"]
    assert before[1]["infonce/light/pool"] != other[1]["infonce/light/pool"]


@pytest.mark.parametrize("grouped", [1.0, 0.0])
def test_a_group_without_weight_has_no_influence(case, grouped):
    hyper = dataclasses.replace(HYPER, pool=0.0, unexposed=0.0, grouped=grouped)
    before, after = case.evaluate(hyper), case.evaluate(hyper, moved(case, (Stage.POOL,)))
    assert before[0] == after[0]
    assert_trees_close(before[2], after[2], 1e-6)


def test_a_batch_without_clicks_learns_from_cross_entropy_alone(case):
    labels = {task: jnp.zeros_like(label) for task, label in case.batch.labels.items()}
    loss, terms, gradients = case.evaluate(HYPER, case.batch.replace(labels=labels))
    assert all(terms[name] == 0 for name in terms if name.startswith("infonce"))
    expected = 0.8 * terms["cross_entropy/light"] + 0.3 * terms["cross_entropy/unexposed"]
    np.testing.assert_allclose(loss, expected + 0.9 * 0.8 * terms["cross_entropy/heavy"], rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_objectives_are_the_groups_and_make_up_the_loss(case):
    """Their gradients, norms and angles, and the combiners."""

    @jax.jit
    def measure(parameters, hyper, batch):
        def losses(parameters):
            return case.objectives(parameters, hyper, batch, KEY, jnp.float32(0), None)

        stack = group_gradients(losses, parameters)
        light = {"light": stack["light"], "embeddings": stack["embeddings"]}
        combined = pcgrad(stack, KEY), cagrad(stack)
        return losses(parameters), stack, gradient_norms(light), gradient_cosines(light), combined

    values, stack, norms, cosines, combined = measure(case.parameters, numbers(HYPER), case.batch)
    assert values.shape == (len(OBJECTIVES),)
    np.testing.assert_allclose(values, literal(case.scores, case.batch, HYPER)[1], rtol=1e-5)
    loss, _, gradients = case.evaluate(HYPER)
    np.testing.assert_allclose(values.sum(), loss, rtol=1e-6)
    assert_trees_close(jax.tree.map(lambda leaf: leaf.sum(axis=0), stack), gradients, 1e-5)
    for leaf in jax.tree.leaves([stack[part] for part in ("heavy", "keys", "values")]):
        assert np.abs(leaf[: len(GROUPS)]).max() == 0
        assert np.abs(leaf[-1]).max() > 0
    flat = np.concatenate(
        [np.asarray(leaf).reshape(5, -1) for leaf in jax.tree.leaves([stack["light"], stack["embeddings"]])], axis=1
    )
    lengths = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(norms, lengths, rtol=1e-5)
    np.testing.assert_allclose(cosines, flat @ flat.T / np.outer(lengths, lengths), atol=1e-5)
    assert lengths.min() > 0
    for gradient in combined:
        assert jax.tree.structure(gradient) == jax.tree.structure(case.parameters)
        length = 5 * optax.tree.norm(gradient)  # a mean
        assert 0.2 < length / optax.tree.norm(gradients) < 5
        assert optax.tree.vdot(gradient, gradients) > 0


def final_order(light, heavy, routed, where):
    """Slots from best to worst: the ones let through by the heavy score, then the others by the light one."""
    real = sorted(np.flatnonzero(where), key=lambda k: -light[k])
    through, rest = np.split(real, [int(np.ceil(routed * len(real) - 1e-9))])
    return [*sorted(through, key=lambda k: -heavy[k]), *rest]


route = jax.jit(routed_scores)


@pytest.mark.parametrize("routed", [0.01, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("size", [1, 7, 250])
def test_routing_is_two_sorts(routed, size):
    rng = np.random.default_rng(size)
    light, heavy = rng.normal(size=(2, 6, size)).astype(np.float32)
    light[0] = np.round(light[0])  # ties
    light[1] = 1.0 + 1e-7 * np.arange(size)[::-1].round(-1)  # neighbours in float32
    heavy[2] += 50
    heavy[3] -= 50
    where = rng.random((6, size)) < 0.8
    where[:, 0] = True
    where[5] = False
    light, heavy = np.where(where, light, 1e9), np.where(where, heavy, -1e9)
    found = np.asarray(route(light, heavy, routed, where))
    assert np.isfinite(found).all()
    for u in range(6):
        expected = final_order(light[u], heavy[u], routed, where[u])
        order = np.argsort(-found[u], kind="stable")
        assert order[: len(expected)].tolist() == expected
        assert len(set(found[u, expected])) == len(expected)
        through = expected[: int(np.ceil(routed * len(expected) - 1e-9))]
        np.testing.assert_array_equal(found[u, through], heavy[u, through])


def test_a_share_that_is_whole_routes_no_candidate_more():
    counts = np.arange(1, 301)
    where = np.arange(300) < counts[:, None]
    light, heavy = np.zeros((300, 300), np.float32), np.ones((300, 300), np.float32)
    for percent in (7, 10, 28, 30, 55, 70):
        through = (np.asarray(route(light, heavy, percent / 100, where)) == 1).sum(axis=1)
        np.testing.assert_array_equal(through, -(-percent * counts // 100))


def test_heads_and_routes(case):
    made, method, batch = case.made, case.method, case.batch
    assert set(case.scores) == {*made.spec.tasks, "light", "heavy"}
    hyper = HyperConfig()
    for task in made.spec.tasks:
        np.testing.assert_array_equal(case.scores[task], case.scores["heavy"])

    def served(hyper):
        heads = method.route(case.scores, hyper, batch.mask)
        for task in made.spec.tasks:
            np.testing.assert_array_equal(method.served(heads, hyper), heads[task])
        return np.asarray(method.served(heads, hyper))

    mask = np.asarray(batch.mask)
    expected = routed_scores(case.scores["light"], case.scores["heavy"], 0.3, batch.mask)
    np.testing.assert_array_equal(served(hyper), expected)
    np.testing.assert_array_equal(served(row("light_only")), case.scores["light"])
    np.testing.assert_array_equal(served(row("heavy_only"))[mask], np.asarray(case.scores["heavy"])[mask])
    for leaf in (served(hyper), served(row("heavy_only"))):
        assert np.isfinite(leaf).all()

    @jax.jit
    def parts(parameters, batch):
        sides = method.item_side(parameters, batch.items)
        return method.pair_scores(parameters, method.user_side(parameters, batch), sides, batch.cross)

    found = parts(case.parameters, batch)
    assert_trees_close(found, case.scores, 1e-6)


def test_needs_and_refusals(case):
    spec = case.made.spec
    assert case.method.needs == {"history", "ranked", "preranked", "pool"}
    assert "cross" in hap(spec, dataclasses.replace(MODEL, cross=True), 10).needs
    flat = dataclasses.replace(MODEL, heavy=TowerConfig(layers=1))
    for build in (hap, hap_objectives):
        with pytest.raises(UserError, match=r"^model\.heavy\.layers=1: expected more than model\.light\.layers=1$"):
            build(spec, flat, 10)
    assert case.method.objectives is None
    assert (case.method.combine, hap(spec, MODEL, 10, combine="cagrad").combine) == ("sum", "cagrad")
    with pytest.raises(UserError, match=r"^combine='mean': expected one of sum, pcgrad, cagrad$"):
        hap(spec, MODEL, 10, combine="mean")
    for name, value in (("routed", 0.0), ("routed", 1.1), ("temperature", 0.0), ("pool", -1.0)):
        with pytest.raises(UserError, match=name):
            config.override(HyperConfig(), {name: value})


@pytest.mark.slow
def test_training_puts_clicks_first(case):
    """32 requests by heart: both models lead their lists with the clicks, and so does the routed order."""
    made, steps = case.made, 150
    clicked = np.flatnonzero((made.log.labels["click"] > 0).any(axis=1))[:32]
    batch = featurised(made.source, made.log, clicked)
    hyper, adam = numbers(HyperConfig(learning_rate=0.02)), optax.adam(0.02)

    @jax.jit
    def train(parameters, batch):
        def one(state, _):
            parameters, moments = state
            loss, gradients = jax.value_and_grad(
                lambda p: case.method.loss(p, hyper, batch, KEY, jnp.float32(0), None)[0]
            )(parameters)
            updates, moments = adam.update(gradients, moments)
            return (optax.apply_updates(parameters, updates), moments), loss

        (parameters, _), losses = jax.lax.scan(one, (parameters, adam.init(parameters)), length=steps)
        return case.method.route(case.method.heads(parameters, batch), hyper, batch.mask), losses

    heads, losses = train(case.parameters, batch)
    assert losses[-1] < 0.3 * losses[0]
    positive = np.asarray((batch.labels["click"] > 0) & batch.exposed)
    for name in ("light", "heavy", "click"):
        best = np.where(np.asarray(batch.mask), heads[name], -np.inf).argmax(axis=1)
        assert positive[np.arange(32), best].mean() > 0.8, name
