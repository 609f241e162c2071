"""Held-out requests of the small world as an evaluation set."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny_hccp import tiny

from hccp_jax.cascade import logs
from hccp_jax.data import hashing
from hccp_jax.evaluation.octiles import OCTILES
from hccp_jax.evaluation.simulated import BLOCK, evaluation_set

REQUESTS = 70


@pytest.fixture(scope="module")
def case(small_world):
    made = tiny(small_world)
    world, config, _ = small_world
    data = evaluation_set(world, config, made.source.frequency, REQUESTS)
    # the same requests as they were logged
    held = jax.jit(lambda w: logs.held_out(w, config, logs.request_ids(1, 0, BLOCK)))(world)
    return SimpleNamespace(made=made, config=config, data=data, held=jax.tree.map(np.asarray, held), flat=flat(data))


def flat(data):
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), data)


def test_whole_blocks_of_requests(case):
    assert case.data.candidates.mask.shape == (2, BLOCK, case.config.candidates)
    assert case.flat.candidates.real.all()
    for name, leaf in case.data.requests.items.items():
        assert leaf.shape == case.data.candidates.mask.shape, name


def test_candidates_are_the_logged_ones_slot_by_slot(case):
    known, held = jax.tree.map(lambda leaf: leaf[:BLOCK], case.flat), case.held
    candidates = known.candidates
    np.testing.assert_array_equal(known.requests.items["id"], candidates.ids)
    np.testing.assert_array_equal(known.requests.mask, candidates.mask)
    np.testing.assert_array_equal(known.requests.user["request"], held.requests.user["request"])
    moved = {
        "exposed": (candidates.exposed, held.exposed),
        "clicked": (candidates.in_scenario["click"], held.clicked),
        "purchased": (candidates.in_scenario["purchase"], held.purchased),
        "truth": (candidates.truth, held.truth),
        "anywhere": (candidates.all_scenario["click"], held.clicked | held.clicked_elsewhere),
        "bought anywhere": (candidates.all_scenario["purchase"], held.purchased | held.purchased_elsewhere),
    }
    for row in range(BLOCK):
        here = np.argsort(candidates.ids[row], kind="stable")
        there = np.argsort(held.requests.items["id"][row], kind="stable")
        np.testing.assert_array_equal(candidates.ids[row][here], held.requests.items["id"][row][there])
        for name, (found, expected) in moved.items():
            np.testing.assert_array_equal(found[row][here], expected[row][there], err_msg=name)


def test_what_entered_the_ranker_is_what_was_logged_best(case):
    candidates, held = case.flat.candidates, case.held
    assert not (candidates.entered & ~candidates.mask).any()
    for row in range(BLOCK):
        entered = candidates.ids[row][candidates.entered[row]]
        assert set(entered) == set(held.requests.items["id"][row, : case.config.ranked]) - {0}
        assert set(candidates.ids[row][candidates.exposed[row]]) <= set(entered)


def test_rankers_order_is_a_permutation_of_the_real_candidates(case):
    candidates = case.flat.candidates
    for row, (rank, mask) in enumerate(zip(candidates.ranker_rank, candidates.mask, strict=True)):
        assert sorted(rank[mask]) == list(range(mask.sum())), row
        assert (rank[~mask] == case.config.candidates).all()


def test_rankers_order_follows_its_scores(case):
    candidates, held = case.flat.candidates, case.held
    for row in range(BLOCK):
        mask = candidates.mask[row]
        score = dict(zip(held.requests.items["id"][row], held.ranker_scores[row], strict=True))
        best_first = candidates.ids[row][mask][np.argsort(candidates.ranker_rank[row][mask])]
        assert (np.diff([score[item] for item in best_first]) < 1e-4).all()


def test_slots_are_in_a_keyed_order_that_knows_nothing_of_the_logging_one(case):
    candidates, requests = case.flat.candidates, case.flat.requests
    assert candidates.ties is None
    request = requests.user["request"][:, None]
    keys = np.asarray(hashing.hash_bits("tie", case.config.seed, request, candidates.ids)).astype(np.int64)
    for row, mask in enumerate(candidates.mask):
        assert (np.diff(keys[row]) >= 0)[mask[1:] & mask[:-1]].all()
    real = candidates.mask
    slot = np.argsort(np.argsort(np.where(real, keys, 2**32), axis=1), axis=1)
    for values in (candidates.truth, candidates.ids, candidates.ranker_rank, candidates.exposed):
        assert abs(np.corrcoef(slot[real], values[real])[0, 1]) < 0.05
    # the logged order is far from that
    order = np.broadcast_to(np.arange(case.config.candidates), case.held.truth.shape)
    assert np.corrcoef(order[case.held.requests.mask], case.held.truth[case.held.requests.mask])[0, 1] < -0.15


def test_octiles_share_the_true_mass(case):
    candidates = case.flat.candidates
    truth, octile, real = candidates.truth, candidates.octile, candidates.mask
    mass = np.bincount(octile[real], truth[real], minlength=OCTILES)
    largest = np.bincount(candidates.ids.ravel(), truth.ravel()).max()
    assert np.abs(mass - truth[real].sum() / OCTILES).max() <= largest
    # one item, one octile; and more frequent items come first
    frequency = case.made.source.frequency
    groups = {item: set(octile[candidates.ids == item]) for item in np.unique(candidates.ids[real])}
    assert all(len(found) == 1 for found in groups.values())
    means = [np.mean([frequency[i] for i, found in groups.items() if found == {group}]) for group in range(OCTILES)]
    assert (np.diff(means) <= 0).all()
    assert means[0] > means[-1]


def test_streams_have_no_request_in_common(case, small_world):
    world, config, _ = small_world
    validation = flat(evaluation_set(world, config, case.made.source.frequency, BLOCK, "validation"))
    training = np.asarray(case.made.log.user["request"])
    evaluation = case.flat.requests.user["request"]
    for other in (validation.requests.user["request"], training):
        assert not np.intersect1d(evaluation, other).size
    assert not np.intersect1d(validation.requests.user["request"], training).size
    assert (validation.candidates.ids != case.flat.candidates.ids[:BLOCK]).mean() > 0.5
    # a whole stream lies between two others
    last = np.asarray(logs.request_ids(logs.STREAMS["evaluation"], (1 << 25) - 1, 1))[0]
    assert evaluation[0] <= last < logs.request_ids(logs.STREAMS["bootstrap"], 0, 1)[0]
    assert len({*logs.STREAMS.values(), *(logs.training_stream(seed) for seed in range(20))}) == 26


def test_truth_is_the_chance_of_a_click_elsewhere(case):
    """Feedback agrees with the truth: clicks are as many as the chances of what was shown promise."""
    candidates = case.flat.candidates
    decay = 1 - case.config.position_decay * np.arange(case.config.exposed).mean()
    promised = decay * candidates.truth[candidates.exposed].sum()
    assert candidates.in_scenario["click"].sum() == pytest.approx(promised, abs=4 * promised**0.5)
    assert (candidates.exposed.sum(axis=1) == case.config.exposed).all()
    assert not (candidates.in_scenario["click"] & ~candidates.exposed).any()
    assert not (candidates.in_scenario["purchase"] & ~candidates.in_scenario["click"]).any()
