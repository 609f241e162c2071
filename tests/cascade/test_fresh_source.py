"""Fresh requests as a source: independent of chunks and devices; and a log of them that is reused."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from hccp_jax.cascade import logs, source
from hccp_jax.cascade.source import fresh_source, impressions, logged_source
from hccp_jax.data.order import rows_at
from hccp_jax.data.requests import Stage, validate


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def chunk(fresh):
    """Steps 0 and 1 of seeds 0 and 1."""
    return fresh.chunk([0, 1], 0, 2)


def row(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def test_a_chunk_is_numpy_with_leading_seeds_and_steps(chunk):
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(chunk))
    assert chunk.mask.shape == (2, 2, 32, 60)
    for seed in range(2):
        for step in range(2):
            validate(row(chunk, seed, step), {"items.id": 601, "user.id": 81, "history.id": 601})


def test_batches_do_not_depend_on_the_chunk_they_come_in(fresh, chunk):
    shifted = fresh.chunk([0, 1], 1, 2)
    same(row(shifted, slice(None), 0), row(chunk, slice(None), 1))
    long = fresh.chunk([1], 0, 4)
    same(row(long, 0, slice(2)), row(chunk, 1))
    same(row(long, 0, 2), row(shifted, 1, 1))
    seeds = fresh.chunk([3, 1, 0, 2], 1, 1)
    same(row(seeds, 1, 0), row(chunk, 1, 1))
    same(row(seeds, 2, 0), row(chunk, 0, 1))


def test_no_request_is_seen_twice_and_none_is_held_out(fresh, chunk):
    requests = np.concatenate([chunk.user["request"], fresh.chunk([0, 1], 2, 2).user["request"]], axis=None)
    assert len(np.unique(requests)) == len(requests)
    assert requests.min() >= 8 << 25


def test_two_devices_make_the_batches_of_one(fresh, small_world, chunk):
    pairs = [(logs.training_stream(seed), step) for seed in range(2) for step in range(2)]
    spread = source._batches(*small_world, pairs, 32, 2)
    same(jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), spread), chunk)
    odd = source._batches(*small_world, pairs[:3], 32, 2)  # the last pair fills the second device and is dropped
    assert odd.mask.shape[0] == 3
    same(odd, row(spread, slice(3)))


def test_the_frequency_counts_the_impressions_of_its_own_stream(fresh, small_world):
    config = small_world[1]
    pairs = [(logs.STREAMS["frequency"], step) for step in range(4)]  # 128 requests
    batch = source._batches(*small_world, pairs, 32, 1)
    want = np.zeros(601)
    for item in batch.items["id"][batch.stage == Stage.EXPOSED]:
        want[item] += 1
    np.testing.assert_array_equal(fresh.frequency, want)
    assert fresh.frequency.sum() == 128 * config.exposed
    assert fresh.frequency[0] == 0
    assert np.corrcoef(np.arange(600), fresh.frequency[1:])[0, 1] < 0  # popular items are shown more
    assert "log_frequency" in fresh.catalogue.items
    assert fresh.epochs(10**6) == 1.0


def test_impressions_of_any_leading_axes(chunk):
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), chunk)
    np.testing.assert_array_equal(impressions(chunk, 601), impressions(flat, 601))
    assert impressions(chunk, 601).sum() == 2 * 2 * 32 * 10


def test_more_requests_than_a_chunk_still_count(monkeypatch, small_world, chunk):
    world, config, samples = small_world
    asked = []

    def batches(world, config, samples, pairs, size, devices, part=(0, 1)):
        asked.extend(pairs)
        return row(chunk, 0)

    monkeypatch.setattr(source, "_batches", batches)
    made = fresh_source(world, dataclasses.replace(config, frequency_requests=150), samples, 32, 1, 2)
    assert [step for _, step in asked] == list(range(6))  # 150 requests are five steps, asked for in whole chunks
    assert {stream for stream, _ in asked} == {logs.STREAMS["frequency"]}
    assert made.frequency.sum() == 150 * 10  # and not a request more


def test_the_frequency_does_not_depend_on_who_else_trains(small_world, fresh):
    """A tail that changes with the number of seeds in a process would make a number differ tomorrow."""
    for seeds, steps in ((1, 1), (3, 2), (5, 4)):
        made = fresh_source(*small_world, 32, seeds, steps)
        np.testing.assert_array_equal(made.frequency, fresh.frequency)


def test_a_logged_source_reuses_its_requests_once_an_epoch(fresh, chunk):
    """Logs of 50 requests from steps of 32, in batches of 32: epochs straddle batches; every seed has its own."""
    asked = []

    def two_steps(seeds, first, count):
        asked.append((list(seeds), first, count))
        place = [0, 7].index(seeds[0])
        return row(chunk, slice(place, place + 1), slice(first, first + 1))

    log = logged_source(32, 50, dataclasses.replace(fresh, chunk=two_steps), [0, 7])
    assert asked == [([0], 0, 1), ([0], 1, 1), ([7], 0, 1), ([7], 1, 1)]
    assert log.epoch_steps == 50 / 32
    assert log.epochs(25) == 16
    requests = chunk.user["request"]
    stored = [np.concatenate([requests[place, 0], requests[place, 1]])[:50] for place in range(2)]
    got = log.chunk([0, 7], 0, 25).user["request"].reshape(2, 16, 50)
    for place in range(2):
        np.testing.assert_array_equal(np.sort(got[place]), np.broadcast_to(np.sort(stored[place]), (16, 50)))
    np.testing.assert_array_equal(log.chunk([7], 3, 1).user["request"][0, 0], stored[1][rows_at(7, 3, 32, 50)])
    assert log.spec == fresh.spec
    assert log.catalogue is fresh.catalogue
    assert log.frequency is fresh.frequency


def test_seeds_do_not_share_a_reused_log(fresh):
    shown = logged_source(32, 50, fresh, [0, 1]).chunk([0, 1], 0, 2).items["id"]
    assert not np.array_equal(np.sort(shown[0], axis=None), np.sort(shown[1], axis=None))


@pytest.mark.parametrize("clicked_only", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_parts_of_a_step_are_the_step(small_world, clicked_only):
    world, config, samples = small_world
    samples = dataclasses.replace(samples, clicked_only=clicked_only)
    batch = partial(logs.training_batch, world, config, samples, 7, 3, 8)
    parts = [jax.jit(partial(batch, part=(index, 2)))() for index in range(2)]
    same(jax.tree.map(lambda *x: np.concatenate(x), *parts), jax.jit(batch)())


def test_a_log_on_disk_is_the_log_in_memory(tmp_path, fresh):
    folder, seeds = tmp_path / "log", [0, 7]
    inside, outside = logged_source(32, 50, fresh, seeds), logged_source(32, 50, fresh, seeds, folder)
    same(outside.chunk([0, 7], 2, 3), inside.chunk([0, 7], 2, 3))
    unasked = dataclasses.replace(fresh, chunk=None)  # what is on disk is not made again
    same(logged_source(32, 50, unasked, [7], folder).chunk([7], 0, 1), inside.chunk([7], 0, 1))
