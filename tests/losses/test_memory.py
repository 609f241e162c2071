"""The memory of item vectors against a deque, the logQ correction against the full softmax, and the frequencies."""

from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.losses.contrastive import info_nce
from hccp_jax.losses.memory import (
    empty_frequency,
    empty_memory,
    log_frequency,
    log_q_corrected,
    memory_columns,
    remember,
    update_frequency,
)

SIZE, DIM, BATCH = 5, 2, 4
enqueue = jax.jit(remember)


def item(number):
    return np.full(DIM, number, np.float32), number, -0.5 * number


def held(memory):
    """The valid items, oldest first: the slot to be written next holds the oldest."""
    order = (np.arange(SIZE) + int(memory.next_slot)) % SIZE
    vectors, ids, log_q, valid = (np.asarray(column)[order] for column in memory_columns(memory))
    return [(list(v), int(i), float(q)) for v, i, q in zip(vectors[valid], ids[valid], log_q[valid], strict=True)]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(batches=st.lists(st.lists(st.booleans(), min_size=BATCH, max_size=BATCH), max_size=6))
def test_it_is_a_ring_of_the_last_items(batches):
    memory, queue, number = empty_memory(SIZE, DIM), deque(maxlen=SIZE), 0
    for chosen in batches:
        rows = [item(number + i) for i in range(BATCH)]
        vectors, ids, log_q = (np.array(column) for column in zip(*rows, strict=True))
        memory = enqueue(memory, vectors, ids, log_q.astype(np.float32), np.array(chosen))
        queue.extend((list(v), i, q) for (v, i, q), keep in zip(rows, chosen, strict=True) if keep)
        number += BATCH
        assert held(memory) == list(queue)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(chosen=st.lists(st.booleans(), min_size=12, max_size=12), before=st.integers(0, 3))
def test_of_a_batch_longer_than_the_memory_the_end_remains(chosen, before):
    memory = enqueue(empty_memory(SIZE, DIM), np.zeros((3, DIM)), np.arange(100, 103), None, np.arange(3) < before)
    memory = enqueue(memory, np.zeros((12, DIM)), np.arange(12), None, np.array(chosen))
    expected = [*range(100, 100 + before), *np.flatnonzero(chosen)][-SIZE:]
    assert [i for _, i, _ in held(memory)] == expected


def test_leading_axes_types_and_nothing_to_remember():
    memory = remember(empty_memory(SIZE, DIM, jnp.bfloat16), jnp.ones((2, 2, DIM)), jnp.arange(4).reshape(2, 2))
    assert memory.vectors.dtype == jnp.bfloat16
    assert [i for _, i, _ in held(memory)] == [0, 1, 2, 3]
    same = remember(memory, jnp.zeros((0, DIM)), jnp.zeros(0, int))
    jax.tree.map(np.testing.assert_array_equal, memory, same)
    assert remember(empty_memory(0, DIM), jnp.ones((1, DIM)), jnp.ones(1, int)).ids.shape == (0,)


def test_no_gradient_enters_or_leaves_the_memory():
    def through(vectors, log_q):
        columns = memory_columns(remember(empty_memory(3, DIM), vectors, jnp.arange(2), log_q))
        return columns[0].sum() + columns[2].sum() + vectors.sum()

    grads = jax.grad(through, argnums=(0, 1))(jnp.ones((2, DIM)), jnp.ones(2))
    np.testing.assert_array_equal(grads[0], 1)
    np.testing.assert_array_equal(grads[1], 0)
    stored = remember(empty_memory(3, DIM), jnp.ones((2, DIM)), jnp.arange(2))
    slope = jax.grad(lambda m: memory_columns(m)[0].sum(), allow_int=True)(stored)
    np.testing.assert_array_equal(slope.vectors, 0)


def test_it_is_carried_by_a_scan():
    steps = jnp.arange(20.0).reshape(10, 2, 1)

    def step(memory, x):
        return remember(memory, x, x[:, 0].astype(int)), memory.valid.sum()

    memory, counts = jax.jit(partial(jax.lax.scan, step))(empty_memory(3, 1), steps)
    assert counts.tolist() == [0, 2] + [3] * 8
    assert sorted(memory.ids.tolist()) == [17, 18, 19]


def test_the_correction_makes_a_biased_sample_a_full_softmax():
    """Negatives drawn in proportion to q, here exactly so: the corrected sum is that over all items, once each."""
    rng = np.random.default_rng(0)
    counts = np.array([1, 2, 5, 12])
    logits, positive = rng.normal(size=4).astype(np.float32), jnp.array([[0.3]])
    q = counts / counts.sum()
    drawn = np.repeat(np.arange(4), counts)
    sample = log_q_corrected(logits[drawn][None], np.log(q)[drawn].astype(np.float32))
    mean = jnp.log(counts.sum())  # a sample of n has a sum n times that of one draw, whose mean is the full sum
    full = info_nce(positive, logits[None])
    np.testing.assert_allclose(info_nce(positive, sample - mean), full, rtol=1e-6)
    assert abs(info_nce(positive, logits[drawn][None] - mean) - full) > 0.1


def test_strength_and_constants():
    logits, log_q = jnp.arange(6.0).reshape(2, 3), jnp.log(jnp.array([0.1, 0.2, 0.7]))
    with jax.numpy_rank_promotion("raise"):
        np.testing.assert_allclose(log_q_corrected(logits, log_q, 0.5), logits - 0.5 * log_q[None], rtol=1e-6)
        np.testing.assert_array_equal(log_q_corrected(logits, log_q, 0.0), logits)
    assert not jax.grad(lambda q: log_q_corrected(logits, q).sum())(log_q).any()
    constant = log_q_corrected(logits, jnp.full(3, -4.0))
    np.testing.assert_allclose(info_nce(constant, constant), info_nce(logits, logits), rtol=1e-6)


def frequency_by_hand(steps, buckets, gap, rate):
    last, gaps = np.zeros(buckets), np.full(buckets, gap)
    for t, ids in enumerate(steps, start=1):
        for h in {i % buckets for i in ids}:
            gaps[h] = (1 - rate) * gaps[h] + rate * (t - last[h])
            last[h] = t
    return last, gaps


take = jax.jit(update_frequency)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(steps=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_frequencies_are_those_of_the_stream(steps, seed):
    estimate = empty_frequency(7, 20.0)
    for t, ids in enumerate(steps, start=1):
        batch = np.random.default_rng(seed).permutation(np.resize([*ids, -1], 5) if ids else np.full(5, -1))
        estimate = take(estimate, np.maximum(batch, 0), t, rate=0.3, where=batch >= 0)
    last, gaps = frequency_by_hand(steps, 7, 20.0, 0.3)
    np.testing.assert_array_equal(estimate.last, last)
    np.testing.assert_allclose(estimate.gap, gaps, rtol=1e-5)
    np.testing.assert_allclose(log_frequency(estimate, jnp.arange(14)), -np.log(np.tile(gaps, 2)), rtol=1e-4, atol=1e-6)


def test_an_item_met_every_third_step_has_probability_one_third():
    def step(estimate, t):
        return update_frequency(estimate, jnp.array([0, 4]), t, rate=0.1, where=t % jnp.array([3, 1]) == 0), None

    estimate, _ = jax.jit(partial(jax.lax.scan, step))(empty_frequency(8, 50.0), jnp.arange(1, 301))
    np.testing.assert_allclose(jnp.exp(log_frequency(estimate, jnp.array([0, 4, 7]))), [1 / 3, 1, 1 / 50], rtol=2e-3)
