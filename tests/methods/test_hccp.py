"""HCCP against a literal float64 transcription of Eq 1, 3, 4, 5, 6 and of 4.1.4, and what each row leaves out."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpy_tower
import pytest
from tiny_hccp import (
    MODEL,
    NEGATIVES,
    SIZE,
    assert_trees_close,
    assert_trees_equal,
    drawn,
    featurised,
    tiny,
)

from hccp_jax import config
from hccp_jax.data import sampling
from hccp_jax.data.requests import Stage
from hccp_jax.methods.hccp import ROWS, HyperConfig, NegativesConfig, hccp, traced

KEY = jax.random.key(3)
TASKS = ("click", "purchase")
# far from the defaults, so that each number shows; every term has a weight
HYPER = HyperConfig(
    click=0.9,
    conversion=0.4,
    consistency=0.15,
    local=0.3,
    listnet=0.2,
    negatives=0.6,
    final_share=0.35,
    margin=0.7,
    temperature=0.4,
    final_temperature=1.3,
    anneal=0.4,
    log_q=0.8,
)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def list_mle(scores):
    return -sum(log_softmax(scores[j:])[0] for j in range(len(scores)))


def info_nce(positives, negatives):
    return sum(-log_softmax([p, *negatives])[0] for p in positives)


def opened(batch):
    """Impressions of a category that no better-ranked impression of the request shows."""
    label = np.zeros(batch.mask.shape)
    for u, stages in enumerate(batch.stage):
        seen = set()
        for k in sorted(np.flatnonzero(stages == Stage.EXPOSED), key=lambda k, u=u: batch.rank[u, k]):
            label[u, k] = batch.items["categorical"][u, k, 0] not in seen
            seen.add(batch.items["categorical"][u, k, 0])
    return label


def literal(parameters, hyper, batch, progress, columns, exposed_slots, sequence_slots, model=MODEL):
    """The loss, request by request; `columns`: row -> in-batch columns (row, slot) drawn for it."""
    batch = jax.tree.map(np.asarray, batch)
    tasks = (*TASKS, "diversity") if model.diversity else TASKS
    users, items, dots, finals = numpy_tower.forward(parameters, model, len(tasks) + 1, batch)
    ids, stage, labels = batch.items["id"], batch.stage, batch.labels | {"diversity": opened(batch)}
    margin = hyper.margin / (1 + 9999 ** (1 - progress / hyper.anneal)) if hyper.anneal else hyper.margin
    terms = {}

    def add(name, value):
        terms.setdefault(name, []).append(value)

    for u in range(len(ids)):
        shown = [k for k in range(exposed_slots) if stage[u, k] == Stage.EXPOSED]
        ranked = [k for k in range(sequence_slots) if stage[u, k] in (Stage.EXPOSED, Stage.RANKED)]
        hard = [k for k in np.flatnonzero(np.isin(stage[u], (Stage.RANKED, Stage.PRERANKED))) if hyper.hard]
        pool = [k for k in np.flatnonzero(stage[u] == Stage.POOL) if hyper.easy]
        if ranked:
            add("consistency", list_mle(finals[u, len(tasks), ranked]))  # Eq 3
        own = {ids[u, k] for k in shown for task in tasks if labels[task][u, k] > 0}
        others = [
            (v, k)
            for v, k in (columns(u) if hyper.easy else ())
            if v != u and stage[v, k] == Stage.EXPOSED and ids[v, k] not in own
        ]
        for t, task in enumerate(tasks):
            label = labels[task][u]
            positive = [k for k in shown if label[k] > 0]
            z = finals[u, t]
            if shown:
                add(f"calibration/{task}", sum(np.logaddexp(0, z[k]) - label[k] * z[k] for k in shown))  # Eq 1
                clicked_first = sorted(shown, key=lambda k: (label[k] == 0, batch.rank[u, k]))
                add(f"local/{task}", list_mle(z[clicked_first]))  # Eq 4
            if positive:
                share = [label[k] / sum(label[j] for j in positive) for k in shown]
                add(f"net/{task}", -np.dot(share, log_softmax(z[shown])))
                tau = hyper.final_temperature
                add(f"infonce_final/{task}", info_nce(z[positive] / tau, z[hard] / tau))  # 4.1.4
                # Eq 5 with v_k in the last sum
                v = np.linalg.norm(users[u, t]) * np.linalg.norm(items[u], axis=-1)
                cos = dots[u, t] / v
                tau = hyper.temperature
                moved, plain = v * (cos - margin) / tau, v * cos / tau
                frequency = batch.items["log_frequency"]
                easy = [users[u, t] @ items[w, k] / tau - hyper.log_q * frequency[w, k] for w, k in others]
                add(f"infonce_dot/{task}", info_nce(moved[positive], [*moved[hard], *plain[pool], *easy]))
    means = {name: np.mean(values) for name, values in terms.items()}
    total = hyper.consistency * means["consistency"]
    for task, weight in zip(tasks, (hyper.click, hyper.conversion, hyper.diversity), strict=False):
        final, dot = (means.get(f"infonce_{kind}/{task}", 0.0) for kind in ("final", "dot"))
        contrast = hyper.final_share * final + (1 - hyper.final_share) * dot
        total += weight * (
            means[f"calibration/{task}"]
            + hyper.local * means[f"local/{task}"]
            + hyper.listnet * means.get(f"net/{task}", 0.0)
            + hyper.negatives * contrast
        )
    return total, means


def sampled_columns(negatives, exposed_slots):
    """Row -> [(row, slot)] of the in-batch sample that the key gives."""
    bits, total = jax.random.bits(KEY), SIZE * exposed_slots
    if negatives.in_batch == "shared":
        kept = np.broadcast_to(np.isin(np.arange(total), sampling.shared_columns(total, 0.2, bits)), (SIZE, total))
    else:
        kept = np.asarray(sampling.independent_columns(jnp.arange(SIZE)[:, None], jnp.arange(total)[None], 0.2, bits))
    return lambda row: [divmod(int(c), exposed_slots) for c in np.flatnonzero(kept[row])]


@pytest.fixture(scope="module")
def case(small_world):
    """A batch with clicks and purchases in some requests only, and its loss and gradients as one compiled function."""
    made = tiny(small_world)
    clicks = (made.log.labels["click"] > 0).any(axis=1)
    bought = (made.log.labels["purchase"] > 0).any(axis=1)
    rows = [*np.flatnonzero(bought)[:4], *np.flatnonzero(clicks & ~bought)[:6], *np.flatnonzero(~clicks)[:6]]
    batch = featurised(made.source, made.log, rows)
    # an impression that is a positive elsewhere, so that the mask of the own positives matters
    first = int(np.argmax(np.asarray(batch.labels["click"])[0] > 0))
    ids = batch.items["id"].at[5:9, 9].set(batch.items["id"][0, first])
    items = {name: table[ids] for name, table in made.source.catalogue.items.items()} | {"id": ids}
    batch = batch.replace(items=items)
    traces = []

    def counted(*arguments):
        traces.append(1)
        return jax.value_and_grad(made.method.loss, has_aux=True)(*arguments, None)

    compiled = jax.jit(counted)

    def evaluate(hyper, batch=batch, parameters=made.parameters, progress=0.5):
        (loss, terms), gradients = compiled(parameters, traced(hyper), batch, KEY, jnp.float32(progress))
        return loss, terms, gradients

    columns = sampled_columns(NEGATIVES, made.layout.exposed)
    return SimpleNamespace(made=made, batch=batch, evaluate=evaluate, traces=traces, columns=columns)


def by_hand(case, hyper, batch=None, parameters=None, progress=0.5, columns=None, model=MODEL):
    made = case.made
    return literal(
        made.parameters if parameters is None else parameters,
        hyper,
        case.batch if batch is None else batch,
        progress,
        case.columns if columns is None else columns,
        made.layout.exposed,
        made.layout.sequence,
        model,
    )


def row(name, **changes):
    settings = dataclasses.make_dataclass("Settings", [("hyper", HyperConfig, HyperConfig())], frozen=True)
    found = config.override(settings(), ROWS[name]).hyper
    return dataclasses.replace(found, **changes)


def moved(case, stages, seed=0):
    """The batch with other dense features and cross features on all slots of some stages."""
    rng = np.random.default_rng(seed)
    where = np.isin(np.asarray(case.batch.stage), stages)
    assert where.any()
    dense = np.array(case.batch.items["dense"])
    cross = np.array(case.batch.cross)
    dense[where] += rng.normal(size=dense[where].shape)
    cross[where] += rng.normal(size=cross[where].shape)
    items = case.batch.items | {"dense": jnp.asarray(dense)}
    return case.batch.replace(items=items, cross=jnp.asarray(cross))


UNEXPOSED = (Stage.RANKED, Stage.PRERANKED, Stage.POOL)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_loss_is_the_equations(case, progress):
    loss, terms, _ = case.evaluate(HYPER, progress=progress)
    expected, means = by_hand(case, HYPER, progress=progress)
    for name in means.keys() & terms.keys():
        np.testing.assert_allclose(terms[name], means[name], rtol=1e-5, err_msg=name)
    assert means.keys() - terms.keys() == {"net/click", "net/purchase"}
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_the_equations(case, name):
    loss, _, _ = case.evaluate(row(name, log_q=0.5))
    np.testing.assert_allclose(loss, by_hand(case, row(name, log_q=0.5))[0], rtol=1e-5)


def test_gradient_is_that_of_the_equations(case):
    """The slope along random directions, against central differences of the float64 transcription."""
    *_, gradients = case.evaluate(HYPER)
    leaves, tree = jax.tree.flatten(case.made.parameters)
    leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
    for seed in range(2):
        rng = np.random.default_rng(seed)
        direction = [rng.normal(size=leaf.shape) for leaf in leaves]
        step = 1e-5

        def at(scale, direction=direction):
            moved = [leaf + scale * way for leaf, way in zip(leaves, direction, strict=True)]
            return by_hand(case, HYPER, parameters=jax.tree.unflatten(tree, moved))[0]

        slope = sum(np.vdot(g, way) for g, way in zip(jax.tree.leaves(gradients), direction, strict=True))
        np.testing.assert_allclose(slope, (at(step) - at(-step)) / (2 * step), rtol=2e-4)


def test_static_options_are_the_equations(case):
    """All at once: v = 1 in Eq 5, another in-batch sample for each request, a third task."""
    made, negatives = case.made, NegativesConfig(in_batch_rate=0.2, in_batch="independent")
    model = dataclasses.replace(MODEL, normalize=True, diversity=True)
    method = hccp(made.spec, model, negatives, made.layout)
    parameters = drawn(method, case.batch, seed=1)
    hyper = dataclasses.replace(HYPER, diversity=0.7)
    loss = jax.jit(lambda p, h, b: method.loss(p, h, b, KEY, jnp.float32(0.5), None))
    found, terms = loss(parameters, traced(hyper), case.batch)
    columns = sampled_columns(negatives, made.layout.exposed)
    assert len({tuple(columns(u)) for u in range(SIZE)}) == SIZE
    expected, means = by_hand(case, hyper, parameters=parameters, columns=columns, model=model)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in ("calibration/diversity", "infonce_dot/diversity", "consistency"):
        np.testing.assert_allclose(terms[name], means[name], rtol=1e-5, err_msg=name)
    shared, _ = by_hand(case, hyper, parameters=parameters, model=model)
    assert abs(found - shared) > 1e-4


def test_rows_share_one_trace(case):
    for name in ROWS:
        case.evaluate(row(name))
    case.evaluate(HYPER, progress=0.1)
    assert len(case.traces) == 1


def test_rows_differ_from_each_other(case):
    losses = {name: float(case.evaluate(row(name))[0]) for name in ROWS}
    assert len(set(losses.values())) == len(ROWS)


# row -> stages that must not matter to it
IRRELEVANT = {
    "base": UNEXPOSED,
    "base_listnet": UNEXPOSED,
    "base_listmle": UNEXPOSED,
    "without_up": (Stage.PRERANKED, Stage.POOL),
    "without_neg": (Stage.POOL,),
    "without_prc": (Stage.PRERANKED,),
}


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_a_row_drops_has_no_influence(case, name):
    before, after = case.evaluate(row(name)), case.evaluate(row(name), moved(case, IRRELEVANT[name]))
    assert before[0] == after[0]
    assert_trees_equal(before[2], after[2])


@pytest.mark.parametrize(
    ("name", "stage"), [(name, stage) for name in ROWS for stage in UNEXPOSED if stage not in IRRELEVANT.get(name, ())]
)
def test_what_a_row_keeps_has_influence(case, name, stage):
    assert case.evaluate(row(name))[0] != case.evaluate(row(name), moved(case, (stage,)))[0]


def test_without_prc_ranked_items_reach_the_consistency_term_only(case):
    alone = row("without_prc", consistency=0.0)
    before, after = case.evaluate(alone), case.evaluate(alone, moved(case, (Stage.RANKED, Stage.PRERANKED)))
    assert before[0] == after[0]
    assert_trees_equal(before[2], after[2])


def test_pool_items_need_no_cross_features(case):
    stage = np.asarray(case.batch.stage)
    np.testing.assert_array_equal(np.asarray(case.batch.cross)[stage == Stage.POOL], 0)
    assert (np.asarray(case.batch.cross)[stage == Stage.PRERANKED] != 0).any()
    cross = jnp.where((case.batch.stage == Stage.POOL)[..., None], 7.0, case.batch.cross)
    before, after = case.evaluate(HYPER), case.evaluate(HYPER, case.batch.replace(cross=cross))
    assert before[0] == after[0]
    assert_trees_equal(before[2], after[2])


def head_gradients(gradients, head):
    """What belongs to one head alone."""
    experts = MODEL.experts
    return [
        gradients["user_output"][head],
        gradients["dot_weight"][head],
        gradients["cross_weight"][head],
        gradients["user_offset"][head],
        gradients["bias"][head],
        gradients["cross_output"]["kernel"][:, head],
        gradients["cross_output"]["bias"][head],
        gradients["mixture"]["gates"]["kernel"][:, head * experts : (head + 1) * experts],
        gradients["mixture"]["gates"]["bias"][head * experts : (head + 1) * experts],
    ]


@pytest.mark.parametrize("name", ROWS)
def test_the_consistency_head_learns_only_where_it_has_a_term(case, name):
    trained = name not in ("base", "base_listnet", "base_listmle")
    *_, gradients = case.evaluate(row(name))
    # a constant on a whole list changes no order, so the offset and the two biases have no gradient; all else has
    found = [np.abs(leaf).max() for leaf in head_gradients(gradients, 2)]
    assert [value > 1e-7 for i, value in enumerate(found) if i not in (3, 4, 6)] == [trained] * 6
    if not trained:
        assert max(found) == 0
    assert min(np.abs(leaf).max() for leaf in head_gradients(gradients, 0)) > 0


def test_a_task_without_weight_has_no_gradient(case):
    *_, gradients = case.evaluate(dataclasses.replace(HYPER, conversion=0.0))
    assert max(np.abs(leaf).max() for leaf in head_gradients(gradients, 1)) == 0


def test_a_weight_of_zero_removes_a_term_that_is_not_finite(case):
    broken = {"temperature": float("nan")}
    assert not np.isfinite(case.evaluate(row("hccp", **broken))[0])
    assert case.evaluate(row("without_up", **broken))[0] == case.evaluate(row("without_up"))[0]


def test_margin_is_annealed(case):
    def margin(progress, **changes):
        return float(case.evaluate(row("hccp", **changes), progress=progress)[1]["margin"])

    assert margin(0.0) == pytest.approx(0.9 / 10000, rel=1e-4)
    assert margin(1 / 3) == pytest.approx(0.45, rel=1e-5)
    assert margin(1.0) == pytest.approx(0.9, rel=1e-4)
    assert margin(0.25, anneal=0.25, margin=0.3) == pytest.approx(0.15, rel=1e-5)
    assert [margin(p) for p in (0.0, 0.1, 0.3, 0.6)] == sorted(margin(p) for p in (0.0, 0.1, 0.3, 0.6))
    assert margin(0.0, anneal=0.0) == pytest.approx(0.9, rel=1e-6)  # on at once


def test_without_margin_is_hccp_with_margin_zero(case):
    bare = case.evaluate(row("without_margin"))
    assert_trees_equal(bare[2], case.evaluate(row("hccp", margin=0.0))[2])
    full = case.evaluate(row("hccp"), progress=0.9)
    assert full[0] > bare[0] + 0.01
    # before it has grown the margin changes next to nothing
    np.testing.assert_allclose(case.evaluate(row("hccp"), progress=0.0)[0], bare[0], rtol=1e-4)


def finite(loss, gradients):
    return np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("missing", [("purchase",), ("click", "purchase")])
def test_batches_without_positives(case, missing):
    labels = {t: jnp.where(t in missing, 0.0, label) for t, label in case.batch.labels.items()}
    batch = case.batch.replace(labels=labels)
    loss, terms, gradients = case.evaluate(HYPER, batch)
    assert finite(loss, gradients)
    for task in missing:
        assert terms[f"infonce_final/{task}"] == terms[f"infonce_dot/{task}"] == 0
    np.testing.assert_allclose(loss, by_hand(case, HYPER, batch)[0], rtol=1e-5)


def with_padding(case, rows, seed):
    """Some requests turned into padding whose slots hold arbitrary features, ids and history."""
    rng = np.random.default_rng(seed)

    def arbitrary(leaf):
        leaf = np.array(leaf)
        shape = leaf[rows].shape
        leaf[rows] = rng.normal(size=shape) if leaf.dtype.kind == "f" else rng.integers(0, 2, shape)
        return jnp.asarray(leaf)

    batch = case.batch
    return batch.replace(
        user=jax.tree.map(arbitrary, batch.user),
        history=jax.tree.map(arbitrary, batch.history),
        items=jax.tree.map(arbitrary, batch.items),
        cross=arbitrary(batch.cross),
        rank=batch.rank.at[rows].set(-1),
        stage=batch.stage.at[rows].set(Stage.PADDING),
        labels={task: label.at[rows].set(0.0) for task, label in batch.labels.items()},
        mask=batch.mask.at[rows].set(False),
    )


def test_padding_requests_do_not_count(case):
    rows = np.array([1, 6, 12])
    first, second = (case.evaluate(HYPER, with_padding(case, rows, seed)) for seed in (0, 1))
    assert finite(first[0], first[2])
    assert first[0] == second[0]
    assert_trees_close(first[2], second[2], 1e-6)
    for name in set(first[1]) - {"norm/user"}:
        assert first[1][name] == second[1][name], name
    np.testing.assert_allclose(first[0], by_hand(case, HYPER, with_padding(case, rows, 0))[0], rtol=1e-5)
    nothing = case.evaluate(HYPER, with_padding(case, np.arange(SIZE), 0))
    assert nothing[0] == 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(nothing[2]))


def test_padding_slots_do_not_count(case):
    """The last slots of every stage dropped, with features left as they are, or changed."""
    slots = np.array([9, 34, 49, 59])
    batch = case.batch.replace(
        stage=case.batch.stage.at[:, slots].set(Stage.PADDING),
        mask=case.batch.mask.at[:, slots].set(False),
        labels={task: label.at[:, slots].set(0.0) for task, label in case.batch.labels.items()},
    )
    first = case.evaluate(HYPER, batch)
    other = batch.replace(items=batch.items | {"dense": batch.items["dense"].at[:, slots].add(3.0)})
    assert first[0] == case.evaluate(HYPER, other)[0]
    np.testing.assert_allclose(first[0], by_hand(case, HYPER, batch)[0], rtol=1e-5)


def test_served_score_is_the_weighted_sum_of_heads(case):
    method = case.made.method
    rng = np.random.default_rng(0)
    heads = {name: jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for name in (*TASKS, "consistency")}
    np.testing.assert_array_equal(method.served(heads, HyperConfig()), heads["click"])
    hyper = HyperConfig(serve_click=0.5, serve_conversion=2.0, serve_consistency=-1.0)
    expected = 0.5 * heads["click"] + 2.0 * heads["purchase"] - heads["consistency"]
    np.testing.assert_allclose(method.served(heads, hyper), expected, rtol=1e-6)


def test_heads_are_the_logits_and_can_be_had_from_parts(case):
    made, batch = case.made, jax.tree.map(lambda leaf: leaf[:4], case.batch)
    heads = jax.jit(made.method.heads)(made.parameters, batch)
    expected = numpy_tower.forward(made.parameters, MODEL, 3, batch)[3]
    for index, name in enumerate((*TASKS, "consistency")):
        np.testing.assert_allclose(heads[name], expected[:, index], rtol=1e-5, atol=1e-5)

    @jax.jit
    def parts(parameters, batch):
        vectors = made.method.item_side(parameters, batch.items)
        return made.method.pair_scores(parameters, made.method.user_side(parameters, batch), vectors, batch.cross)

    for name, scores in parts(made.parameters, batch).items():
        np.testing.assert_allclose(scores, heads[name], rtol=1e-6, atol=1e-6)


def test_hyper_config_is_a_tree_of_its_fields():
    names = [item.name for item in dataclasses.fields(HyperConfig)]
    paths = [path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(HYPER)]
    assert paths == names
    assert jax.tree.leaves(HYPER) == [getattr(HYPER, name) for name in names]
    numbers = traced(HYPER)
    assert isinstance(numbers, HyperConfig)
    assert all(leaf.dtype == jnp.float32 and not leaf.weak_type for leaf in jax.tree.leaves(numbers))


def test_every_row_is_an_override_of_the_defaults():
    assert row("hccp") == HyperConfig()
    assert row("base").negatives == row("base").consistency == row("base").local == 0
    assert row("base_listnet") == dataclasses.replace(row("base"), listnet=0.05)
    assert row("base_listmle") == dataclasses.replace(row("base"), local=HyperConfig().local)
    assert row("without_up") == dataclasses.replace(row("base_listmle"), consistency=HyperConfig().consistency)
