"""SDCL: both networks in NumPy, the loss against Eq 2-8 written out, what parameters and gradients must not reach."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_tower import float64
from tiny_hccp import SIZE, assert_trees_close, assert_trees_equal, drawn, featurised, tiny

from hccp_jax.data.requests import Stage
from hccp_jax.errors import UserError
from hccp_jax.losses.contrastive import info_nce
from hccp_jax.methods.base import inputs
from hccp_jax.methods.sdcl import ROWS, HyperConfig, sdcl
from hccp_jax.models.sdcl import Sdcl, SdclConfig

KEY = jax.random.key(3)
TASKS = ("click", "purchase")
SMALL = SdclConfig(
    id_width=4,
    category_width=3,
    gate_hidden=5,
    blocks=2,
    width=6,
    tower=4,
    ranker=(7,),
    groups=2,
    days=3,
    gate_scale=1.5,
)
# the pre-ranking net does without these, so that their tables and layers are the ranking net's alone
CONFIG = dataclasses.replace(SMALL, pruned=("user_id", "history_1", "cross_2"))
OTHER = dataclasses.replace(SMALL, routing="aver", learned_pruning=True, gated_similarity=False, weight_gradient=True)
# far from the defaults, so that each number shows; every term has a weight
HYPER = HyperConfig(
    rank=0.9,
    distill=0.7,
    contrast=0.4,
    rank_click=1.1,
    rank_conversion=0.6,
    distill_click=0.8,
    distill_conversion=1.3,
    contrast_click=0.5,
    contrast_conversion=1.7,
    ranker=0.35,
    sampled=0.45,
    adaptive=0.6,
    delta=0.8,
    temperature=1.4,
    similarity_temperature=0.3,
    l0=0.05,
    fields=0.02,
)
UNEXPOSED = (Stage.RANKED, Stage.PRERANKED, Stage.POOL)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def dense(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0)


def looked_up(p, kind, features, *index):
    found = {f"{kind}_id": p["embeddings"][f"{kind}_id"][f"{kind}_rows"][features["id"][index]]}
    for c, value in enumerate(features["categorical"][index] if "categorical" in features else ()):
        found[f"{kind}_category_{c}"] = p["embeddings"][f"{kind}_category"]["embedding"][value]
    return found | ({f"{kind}_dense": features["dense"][index]} if "dense" in features else {})


def past(p, batch, u):
    """The pooled fields of one history."""
    fields = {}
    for group in range(batch["history"]["groups"].shape[-1]):
        total, weight = 0.0, 0.0
        for slot in np.flatnonzero(batch["history_mask"][u]):
            share = batch["history"]["groups"][u, slot, group]
            kept = {name: batch["history"][name] for name in ("id", "categorical")}
            total = total + share * np.concatenate(list(looked_up(p, "item", kept, u, slot).values()))
            weight += share
        fields[f"history_{group}"] = total / max(weight, 1)
    return fields


def pruned(p, config, side, fields):
    """Eq 4, with the median of each learned gate."""
    kept = {name: x for name, x in fields.items() if name not in config.pruned}
    if config.learned_pruning:
        logits = p[f"pruners_{side}"]
        kept = {name: sigmoid(logits[name] / config.pruning_temperature) * x for name, x in kept.items()}
    return np.concatenate(list(kept.values()))


def routed(p, config, x):
    """SNR as served: [T, width]."""
    h = relu(dense(p["first"], x)).reshape(config.blocks, config.width)

    def joined(connections):
        z = np.clip(1.2 * sigmoid(connections["log_alpha"]) - 0.1, 0, 1)
        if config.routing == "aver":
            return np.stack([sum(z[i, j] * h[i] for i in range(len(h))) for j in range(z.shape[1])])
        kernel = connections["kernel"]
        return np.stack([sum(z[i, j] * h[i] @ kernel[i, :, j] for i in range(len(h))) for j in range(z.shape[1])])

    for layer in range(1, config.layers):
        h = joined(p[f"connections_{layer}"])
        if config.routing == "aver":
            blocks = p[f"blocks_{layer}"]
            h = relu(np.stack([h[j] @ blocks["kernel"][j] + blocks["bias"][j] for j in range(len(h))]))
        else:
            h = relu(h + p[f"bias_{layer}"])
    return joined(p["connections_tasks"])


def forward(p, config, batch, exposed):
    """Logits [U, T, K], compared vectors [U, K, D] and teacher logits [U, T, E], pair by pair, gates as served."""
    p, batch = float64(p), {name: float64(leaf) for name, leaf in vars(batch).items()}
    requests, slots = batch["items"]["id"].shape
    logits, compared, teacher = np.zeros((requests, 2, slots)), [], np.zeros((requests, 2, exposed))
    for u in range(requests):
        user = looked_up(p, "user", batch["user"], u) | past(p, batch, u)
        for k in range(slots):
            item = looked_up(p, "item", batch["items"], u, k)
            crossed = {f"cross_{f}": value[None] for f, value in enumerate(batch["cross"][u, k])}
            sides = {"user": user, "item": item, "cross": crossed}
            parts = [pruned(p, config, side, fields) for side, fields in sides.items()]
            x = np.concatenate(parts)
            hidden = relu(sum(dense(p["gate"][f"first_{part}"], value) for part, value in enumerate(parts)))
            g = x * config.gate_scale * sigmoid(dense(p["gate"]["second"], hidden))  # Eq 6
            compared.append(g if config.gated_similarity else x)
            towers = routed(p["routing"], config, g)
            for t in range(2):
                hidden, out = p["tower_hidden"], p["tower_logits"]
                tower = relu(towers[t] @ hidden["kernel"][t] + hidden["bias"][t])
                logits[u, t, k] = (tower @ out["kernel"][t] + out["bias"][t])[0]
            if k < exposed:
                whole = np.concatenate([*user.values(), *item.values(), *crossed.values()])
                for layer in range(len(config.ranker)):
                    whole = relu(dense(p["ranking_net"][f"hidden_{layer}"], whole))
                teacher[u, :, k] = dense(p["ranking_net"]["logits"], whole)
    return logits, np.reshape(compared, (requests, slots, -1)), teacher


def cross_entropy(z, y):
    return np.logaddexp(0, z) - y * z


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def literal(outputs, hyper, batch, open_gates, price=0.0):
    """Eq 2-8, request by request, from the outputs of both networks."""
    logits, compared, teacher = outputs
    terms, weights = {}, {}

    def add(where, name, value):
        where.setdefault(name, []).append(value)

    kept = {Stage.RANKED: hyper.ranked, Stage.PRERANKED: hyper.preranked, Stage.POOL: hyper.pool}
    for u, stages in enumerate(np.asarray(batch.stage)):
        shown = np.flatnonzero(stages == Stage.EXPOSED)
        negatives = [k for k in range(len(stages)) if kept.get(stages[k], 0) > 0]
        for t, task in enumerate(TASKS):
            z, label = logits[u, t], np.asarray(batch.labels[task][u])
            own = sum(cross_entropy(z[k], label[k]) for k in shown)  # Eq 3
            drawn = sum(cross_entropy(z[k], 0) for k in negatives)
            if len(shown) or (negatives and hyper.sampled):
                add(terms, f"preranking/{task}", own + hyper.sampled * drawn)
            if len(shown):
                add(terms, f"ranking/{task}", sum(cross_entropy(teacher[u, t, k], label[k]) for k in shown))
                add(
                    terms,
                    f"distillation/{task}",
                    sum(cross_entropy(z[k], sigmoid(teacher[u, t, k])) for k in shown),  # Eq 5
                )
            positives = [k for k in shown if label[k] > 0]
            total = 0.0
            for i in positives:
                similar = np.exp(
                    [cosine(compared[u, i], compared[u, j]) / hyper.similarity_temperature for j in negatives]
                )
                w = hyper.delta * (similar / similar.sum() + sigmoid(z[negatives]))  # Eq 8
                for j, value in zip(negatives, w, strict=True):
                    group = int(batch.user["group"][u])
                    add(weights, f"weight_{Stage(stages[j]).name.lower()}/{task}", value)
                    add(weights, f"weight_{Stage(stages[j]).name.lower()}_group_{group}/{task}", value)
                    add(weights, f"weight_{Stage(stages[j]).name.lower()}_day_{batch.user['day'][u]}/{task}", value)
                    add(weights, f"all/{task}", value)
                used = hyper.adaptive * w + 1 - hyper.adaptive
                others = sum(used * np.exp(z[negatives] / hyper.temperature))
                top = np.exp(z[i] / hyper.temperature)
                total -= np.log(top / (top + others))  # Eq 7
            if positives:
                add(terms, f"contrast/{task}", total)
    means = {name: np.mean(values) for name, values in (terms | weights).items()}
    loss = hyper.l0 * open_gates + hyper.fields * price
    for name, kind in (("click", "click"), ("purchase", "conversion")):
        rank = hyper.rank * getattr(hyper, f"rank_{kind}")
        loss += rank * (means[f"preranking/{name}"] + hyper.ranker * means[f"ranking/{name}"])
        loss += hyper.distill * getattr(hyper, f"distill_{kind}") * means[f"distillation/{name}"]
        loss += hyper.contrast * getattr(hyper, f"contrast_{kind}") * means.get(f"contrast/{name}", 0.0)
        means[f"weight_spread/{name}"] = np.std(weights[f"all/{name}"])
    return loss, means


def decided(parameters):
    """Gates that no draw can move: log alpha and field logits of +-60; each task is reached."""
    p = jax.tree.map(lambda leaf: leaf, parameters)
    inner = p["routing"]["connections_1"]
    inner["log_alpha"] = jnp.array([[60.0, -60.0], [60.0, 60.0]])
    p["routing"]["connections_tasks"]["log_alpha"] = jnp.array([[60.0, 60.0], [-60.0, 60.0]])
    for side in ("user", "item", "cross"):
        for number, name in enumerate(sorted(p.get(f"pruners_{side}", ()))):
            p[f"pruners_{side}"][name] = jnp.float32(60.0 if number else -60.0)
    return p


def batch_of(made, rows):
    batch = featurised(made.source, made.log, rows)
    numbers = jnp.arange(len(rows), dtype=jnp.int32)
    return batch.replace(user=batch.user | {"group": numbers % 2, "day": numbers % 3})


def compiled(method):
    traces = []

    def counted(parameters, hyper, batch, key):
        traces.append(1)
        return jax.value_and_grad(lambda p: method.loss(p, hyper, batch, key, jnp.float32(0.5), None), has_aux=True)(
            parameters
        )

    run = jax.jit(counted)

    def evaluate(hyper, parameters, batch, key=KEY):
        (loss, terms), gradients = run(parameters, jax.tree.map(jnp.float32, hyper), batch, key)
        return loss, terms, gradients

    return evaluate, traces


@pytest.fixture(scope="module")
def case(small_world):
    made = tiny(small_world)
    exposed = made.layout.exposed
    method = sdcl(made.spec, CONFIG, exposed)
    batch = batch_of(made, range(SIZE))
    parameters = drawn(method, batch)
    run, traces = compiled(method)

    def evaluate(hyper=HYPER, parameters=parameters, batch=batch, key=KEY):
        return run(hyper, parameters, batch, key)

    return SimpleNamespace(
        made=made,
        exposed=exposed,
        method=method,
        batch=batch,
        parameters=parameters,
        evaluate=evaluate,
        traces=traces,
        heads=jax.jit(method.heads),
        outputs=forward(decided(parameters), CONFIG, batch, exposed),
    )


def row(name):
    return dataclasses.replace(HYPER, **ROWS[name])


def moved(case, stages, seed=0):
    """The batch with other dense and cross features on all slots of some stages."""
    rng = np.random.default_rng(seed)
    where = np.isin(np.asarray(case.batch.stage), stages)
    dense_features, cross = np.array(case.batch.items["dense"]), np.array(case.batch.cross)
    dense_features[where] += rng.normal(size=dense_features[where].shape)
    cross[where] += rng.normal(size=cross[where].shape)
    items = case.batch.items | {"dense": jnp.asarray(dense_features)}
    return case.batch.replace(items=items, cross=jnp.asarray(cross))


def everything(config, case, parameters, batch):
    model = Sdcl(config, case.made.spec)
    run = jax.jit(
        lambda p, batch: model.apply({"params": p}, *inputs(batch), case.exposed, method=Sdcl.everything)._replace(
            fields={}
        )
    )
    return run(parameters, batch)


@pytest.mark.parametrize("config", [pytest.param(CONFIG, marks=pytest.mark.slow), OTHER], ids=["pruned", "learned"])
def test_both_networks_are_their_definition(case, config):
    method = sdcl(case.made.spec, config, case.exposed)
    batch = jax.tree.map(lambda leaf: leaf[:3], case.batch)
    parameters = drawn(method, batch, seed=1)
    found = everything(config, case, parameters, batch)
    expected = forward(parameters, config, batch, case.exposed)
    for name, a, b in zip(("logits", "compared", "teacher"), found, expected, strict=False):
        assert a.shape == b.shape
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)
    half = everything(dataclasses.replace(config, dtype="bfloat16"), case, parameters, batch)
    for name in ("logits", "teacher"):
        a, b = getattr(found, name), getattr(half, name)
        assert b.dtype == jnp.float32
        assert 0 < np.abs(a - b).max() < 0.06 * np.abs(a).max(), name


def test_loss_is_the_equations(case):
    parameters = decided(case.parameters)
    loss, terms, _ = case.evaluate(HYPER, parameters)
    expected, means = literal(case.outputs, HYPER, case.batch, open_gates=6)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert {
        f"weight_{kind}_group_{g}/click" for kind in ("ranked", "preranked", "pool") for g in (0, 1)
    } <= means.keys()
    assert {"weight_pool_day_0/click", "weight_pool_day_1/click"} <= means.keys()
    missing = terms.keys() - means.keys() - {"open_gates"}  # groups and days without a positive
    assert all(("_group_" in name or "_day_" in name) and terms[name] == 0 for name in missing)
    for name in means.keys() & terms.keys():
        np.testing.assert_allclose(terms[name], means[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_the_equations_and_share_one_trace(case, name):
    loss, _, _ = case.evaluate(row(name), decided(case.parameters))
    np.testing.assert_allclose(loss, literal(case.outputs, row(name), case.batch, open_gates=6)[0], rtol=1e-5)
    assert len(case.traces) == 1


@pytest.mark.parametrize("kept", ["ranked", "preranked", "pool"])
def test_one_kind_of_negatives(case, kept):
    """Table 6 of the paper."""
    kinds = {kind: float(kind == kept) for kind in ("ranked", "preranked", "pool")}
    hyper = dataclasses.replace(HYPER, **kinds)
    loss, _, _ = case.evaluate(hyper, decided(case.parameters))
    np.testing.assert_allclose(loss, literal(case.outputs, hyper, case.batch, open_gates=6)[0], rtol=1e-5)
    dropped = [stage for stage in UNEXPOSED if stage.name.lower() != kept]
    assert case.evaluate(hyper)[0] == case.evaluate(hyper, batch=moved(case, dropped))[0]


def test_rows_differ_from_each_other(case):
    assert len({float(case.evaluate(row(name))[0]) for name in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_impressions_only_where_a_row_says_so(case, name):
    before, after = case.evaluate(row(name)), case.evaluate(row(name), batch=moved(case, UNEXPOSED))
    alone = name in ("snr", "snr_mtd")
    assert (before[0] == after[0]) == alone
    if alone:
        assert_trees_equal(before[2], after[2])


def test_weights_of_one_are_info_nce(case):
    logits = jnp.asarray(case.outputs[0], jnp.float32) / HYPER.temperature
    _, terms, _ = case.evaluate(row("snr_mtd_fixed"), decided(case.parameters))
    for t, task in enumerate(TASKS):
        positive = (case.batch.labels[task] > 0) & case.batch.exposed
        assert positive.any()
        negative = case.batch.mask & ~case.batch.exposed
        expected = info_nce(logits[:, t], logits[:, t], positive_where=positive, negative_where=negative)
        np.testing.assert_allclose(terms[f"contrast/{task}"], expected, rtol=1e-5)


def largest(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


ONLY_DISTILL = dataclasses.replace(HYPER, rank=0.0, contrast=0.0, l0=0.0)


def test_the_teacher_learns_nothing_from_distillation(case):
    """Neither its layers nor, through them, the tables: that of user ids is seen by the ranking net alone."""
    *_, gradients = case.evaluate(ONLY_DISTILL)
    assert largest(gradients["ranking_net"]) == 0
    assert largest(gradients["embeddings"]["user_id"]) == 0
    assert largest(gradients["embeddings"]["item_id"]) > 1e-6
    assert min(largest(gradients[name]) for name in ("gate", "routing", "tower_hidden", "tower_logits")) > 1e-6


def test_the_ranking_net_and_the_tables_it_shares_learn_from_its_own_labels(case):
    *_, alone = case.evaluate(row("snr"))
    assert largest(alone["ranking_net"]) == 0
    assert largest(alone["embeddings"]["user_id"]) == 0
    *_, joint = case.evaluate(dataclasses.replace(row("snr"), ranker=1.0))
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(joint["ranking_net"])) > 0
    assert largest(joint["embeddings"]["user_id"]) > 1e-6
    assert (
        np.abs(joint["embeddings"]["item_id"]["item_rows"] - alone["embeddings"]["item_id"]["item_rows"]).max() > 1e-6
    )
    for name in ("gate", "routing", "tower_hidden", "tower_logits"):
        assert_trees_equal(joint[name], alone[name])


def test_the_ranking_net_is_gone_when_serving(case):
    """A served score needs none of its parameters, and the values of those it has do not matter."""
    heads = case.heads(case.parameters, case.batch)
    other = {**case.parameters, "ranking_net": jax.tree.map(lambda leaf: leaf + 1.0, case.parameters["ranking_net"])}
    assert_trees_equal(heads, case.heads(other, case.batch))
    bare = {name: leaf for name, leaf in case.parameters.items() if name != "ranking_net"}
    assert_trees_equal(heads, case.heads(bare, case.batch))
    assert "ranking_net" in case.parameters


def test_gates_are_drawn_in_training_and_not_in_serving(case):
    first, again, other = (case.evaluate(key=key) for key in (KEY, KEY, jax.random.key(4)))
    assert first[0] == again[0]
    assert first[0] != other[0]
    gradients = [first[2]["routing"][name]["log_alpha"] for name in ("connections_1", "connections_tasks")]
    assert min(np.abs(leaf).max() for leaf in gradients) > 1e-6
    # all gates open is what the network must not amount to
    opened = jax.tree.map(lambda leaf: leaf, case.parameters)
    for name in ("connections_1", "connections_tasks"):
        opened["routing"][name]["log_alpha"] = jnp.full((2, 2), 60.0, jnp.float32)
    assert abs(case.evaluate(row("snr"), opened)[0] - case.evaluate(row("snr"))[0]) > 1e-3


def test_item_sides_of_a_whole_catalogue_serve_every_request(case):
    """The full forward pass, sides computed ahead for [items], and candidates that all users share."""
    spec, method, p = case.made.spec, case.method, case.parameters
    tables = case.made.source.catalogue.items
    catalogue = {"id": jnp.arange(spec.items, dtype=jnp.int32), **{name: tables[name] for name in tables}}
    heads = case.heads(p, case.batch)

    @jax.jit
    def ahead(p, batch, catalogue):
        users, sides = method.user_side(p, batch), method.item_side(p, catalogue)
        taken = jax.tree.map(lambda leaf: leaf[batch.items["id"]], sides)
        shared = jax.tree.map(lambda leaf: leaf[batch.items["id"][0]], sides)
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(batch.mask), *leaf.shape)), shared)
        return (
            method.pair_scores(p, users, taken, batch.cross),
            method.pair_scores(p, users, shared, None),
            method.pair_scores(p, users, same, jnp.zeros_like(batch.cross)),
        )

    own, shared, zeros = ahead(p, case.batch, catalogue)
    for task in TASKS:
        np.testing.assert_allclose(own[task], heads[task], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(shared[task], zeros[task], rtol=1e-6, atol=1e-6)
        assert np.ptp(shared[task]) > 1e-3


def test_padding_changes_nothing(case):
    """Slots and whole requests of padding may hold anything."""
    slots, rows = np.array([9, 34, 49, 59]), np.array([1, 6])
    gone = np.zeros(case.batch.mask.shape, bool)
    gone[:, slots] = gone[rows] = True
    batch = case.batch.replace(
        stage=jnp.where(gone, Stage.PADDING, case.batch.stage).astype(jnp.int8),
        mask=case.batch.mask & ~gone,
        labels={task: jnp.where(gone, 0.0, label) for task, label in case.batch.labels.items()},
    )
    rng = np.random.default_rng(0)
    noise = jnp.asarray(np.where(gone[..., None], rng.normal(size=batch.items["dense"].shape), 0), jnp.float32)
    other = batch.replace(
        items=batch.items
        | {"dense": batch.items["dense"] + noise, "id": jnp.where(gone, 1 + batch.items["id"] % 7, batch.items["id"])},
        labels={task: jnp.where(gone, 1.0, label) for task, label in batch.labels.items()},
    )
    first, second = case.evaluate(batch=batch), case.evaluate(batch=other)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-6)
    assert_trees_close(first[2], second[2], 1e-5)
    found = case.evaluate(HYPER, decided(case.parameters), batch)[0]
    np.testing.assert_allclose(found, literal(case.outputs, HYPER, batch, open_gates=6)[0], rtol=1e-5)
    real, heads = case.heads(case.parameters, batch), case.heads(case.parameters, other)
    for task in TASKS:
        np.testing.assert_array_equal(real[task][~gone], heads[task][~gone])
        assert (real[task][gone] != heads[task][gone]).any()


def test_without_impressions_or_positives_nothing_breaks(case):
    empty = case.batch.replace(labels={task: jnp.zeros_like(x) for task, x in case.batch.labels.items()})
    loss, terms, gradients = case.evaluate(batch=empty)
    assert terms["contrast/click"] == terms["weight_pool/click"] == 0
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_two_devices_are_one(case):
    def loss(p, batch, axis):
        return case.method.loss(p, jax.tree.map(jnp.float32, HYPER), batch, KEY, jnp.float32(0.5), axis)

    @jax.jit
    def both(p, batch):
        halves = jax.tree.map(lambda leaf: leaf.reshape(2, SIZE // 2, *leaf.shape[1:]), batch)
        run = jax.value_and_grad(lambda p, batch: loss(p, batch, "data"), has_aux=True)
        found, gradients = jax.vmap(run, in_axes=(None, 0), axis_name="data")(p, halves)
        return found, jax.tree.map(lambda leaf: leaf.mean(0), gradients)

    # unequal halves: impressions and clicks of one request are gone
    batch = case.batch.replace(stage=case.batch.stage.at[0].set(Stage.PADDING), mask=case.batch.mask.at[0].set(False))
    (values, terms), gradients = both(case.parameters, batch)
    one = case.evaluate(batch=batch)
    np.testing.assert_allclose(values, one[0], rtol=1e-5)
    for name, value in terms.items():
        np.testing.assert_allclose(value, one[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert_trees_close(gradients, one[2], 1e-4)


@pytest.fixture(scope="module")
def learned(case):
    method = sdcl(case.made.spec, OTHER, case.exposed)
    parameters = drawn(method, case.batch, seed=2)
    run, _ = compiled(method)
    return SimpleNamespace(
        parameters=parameters,
        outputs=forward(decided(parameters), OTHER, case.batch, case.exposed),
        evaluate=lambda p, hyper=HYPER, key=KEY: run(hyper, p, case.batch, key),
    )


def test_learned_fields_pay_their_complexity(case, learned):
    """FSCD: 0.4, 1.5 or 3 for a user, item or cross field, and 0.01 for each number in it, where its gate is open."""
    p = decided(learned.parameters)
    user = {"history_1": 7, "user_dense": case.batch.user["dense"].shape[-1], "user_id": 4}  # history_0 is closed
    item = {"item_dense": case.batch.items["dense"].shape[-1], "item_id": 4}  # item_category_0 is closed
    price = sum(0.4 + 0.01 * w for w in user.values()) + sum(1.5 + 0.01 * w for w in item.values())
    price += (case.made.spec.cross - 1) * 3.01
    loss, terms, _ = learned.evaluate(p)
    np.testing.assert_allclose(terms["field_price"], price, rtol=1e-5)
    expected, _ = literal(learned.outputs, HYPER, case.batch, open_gates=6, price=price)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_field_gates_learn_and_their_probabilities_are_logged(learned):
    _, terms, gradients = learned.evaluate(learned.parameters)
    logits = {}
    for side in ("user", "item", "cross"):
        assert largest(gradients[f"pruners_{side}"]) > 0
        logits |= learned.parameters[f"pruners_{side}"]
    found = {name.removeprefix("keep/"): value for name, value in terms.items() if name.startswith("keep/")}
    assert found.keys() == logits.keys()
    assert len(found) == 4 + 3 + 4
    for name, value in found.items():
        assert value == pytest.approx(sigmoid(float(logits[name])), rel=1e-5)
    assert learned.evaluate(learned.parameters, key=jax.random.key(9))[0] != learned.evaluate(learned.parameters)[0]


def test_weights_have_no_gradient_unless_asked_for(case, learned):
    """A constant on all logits of a task changes Eq 7 through its weights only."""
    hyper = dataclasses.replace(HYPER, rank=0.0, distill=0.0, l0=0.0, fields=0.0)
    *_, stopped = case.evaluate(hyper)
    np.testing.assert_allclose(stopped["tower_logits"]["bias"], 0, atol=1e-6)
    assert largest(stopped["tower_logits"]["kernel"]) > 1e-3
    *_, through = learned.evaluate(decided(learned.parameters), hyper)
    logits, *rest = learned.outputs
    for t in range(2):
        way = np.arange(2)[:, None] == t
        up, down = (literal((logits + step * way, *rest), hyper, case.batch, 0)[0] for step in (1e-4, -1e-4))
        np.testing.assert_allclose(through["tower_logits"]["bias"][t], (up - down) / 2e-4, rtol=1e-3)
        assert abs(up - down) / 2e-4 > 1e-3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("crosss_1",), "pruned=crosss_1: did you mean cross"),
        (("cross_9",), "pruned=cross_9: did you mean cross_"),
        (("item_name",), "pruned=item_name: did you mean item_"),
        (("item_id", "item_dense", "item_category_0"), "no item field is left"),
    ],
)
def test_pruning_what_is_not_there_is_refused(case, names, message):
    method = sdcl(case.made.spec, dataclasses.replace(SMALL, pruned=names), case.exposed)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(method.init, KEY, case.batch)


def test_served_score_is_the_sum_of_probabilities(case):
    served = case.method.served
    heads = {"click": jnp.array([[0.5, 40.0, 60.0]]), "purchase": jnp.array([[1.0, -2.0, 0.0]])}
    np.testing.assert_array_equal(served(heads, HyperConfig()), heads["click"])  # sigmoid would tie the last two
    np.testing.assert_array_equal(served(heads, HyperConfig(serve_click=0.0, serve_conversion=1.0)), heads["purchase"])
    both = served(heads, HyperConfig(serve_click=0.5, serve_conversion=2.0))
    np.testing.assert_allclose(both, 0.5 * sigmoid(heads["click"]) + 2.0 * sigmoid(heads["purchase"]), rtol=1e-6)


def test_needs_and_terms(case):
    assert case.method.needs == {"ranked", "preranked", "pool"}
    bare = case.batch.replace(user={name: x for name, x in case.batch.user.items() if name not in ("group", "day")})
    hyper = jax.tree.map(jnp.float32, HYPER)
    _, terms = jax.eval_shape(
        lambda p, b: case.method.loss(p, hyper, b, KEY, jnp.float32(0.5), None), case.parameters, bare
    )
    assert not [name for name in terms if "group" in name or "day" in name]
    assert all(leaf.shape == () for leaf in jax.tree.leaves(terms))
    assert HyperConfig(**ROWS["sdcl"]) == HyperConfig()


@pytest.mark.slow
def test_it_learns_32_requests(case):
    slots = np.r_[0:20, 35:40, 50:55]
    batch = featurised(case.made.source, case.made.log, range(32))

    def fewer(leaf):
        return leaf[:, slots] if leaf.shape[:2] == batch.mask.shape else leaf

    batch = jax.tree.map(fewer, batch)
    config = dataclasses.replace(SMALL, id_width=8, gate_hidden=16, width=12, tower=8, ranker=(16,))
    method = sdcl(case.made.spec, config, case.exposed)
    hyper = jax.tree.map(jnp.float32, HyperConfig())
    adam = optax.adam(0.01)

    @jax.jit
    def train(parameters, batch):
        def step(state, key):
            parameters, moments = state
            (loss, terms), gradients = jax.value_and_grad(
                lambda p: method.loss(p, hyper, batch, key, jnp.float32(0.5), None), has_aux=True
            )(parameters)
            updates, moments = adam.update(gradients, moments)
            return (optax.apply_updates(parameters, updates), moments), (loss, terms["ranking/click"])

        keys = jax.random.split(KEY, 150)
        (parameters, _), losses = jax.lax.scan(step, (parameters, adam.init(parameters)), keys)
        return losses, method.served(method.heads(parameters, batch), hyper)

    (losses, ranking), scores = train(drawn(method, batch), batch)
    assert losses[-10:].mean() < 0.5 * losses[0]
    assert ranking[-10:].mean() < ranking[0]
    click = np.asarray((batch.labels["click"] > 0) & batch.exposed)
    scores = np.where(batch.mask, scores, -np.inf)
    order = np.argsort(-scores, axis=1)
    leading = np.mean([click[u, order[u, : click[u].sum()]].mean() for u in range(32) if click[u].any()])
    chance = np.mean(click.sum(1) / np.asarray(batch.mask).sum(1))
    assert leading > 0.7 > 3 * chance
