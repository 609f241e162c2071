"""The order of a reused log: bijective, keyed, near uniform, and O(1) in every step."""

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hccp_jax.data import order
from hccp_jax.data.order import permuted, rows_at


@settings(deadline=None, max_examples=60, derandomize=True)
@given(total=st.integers(1, 1000), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 2**31 - 1))
@example(total=1, seed=0, epoch=0)
@example(total=2, seed=0, epoch=1)
@example(total=3, seed=0, epoch=0)
@example(total=5, seed=1, epoch=0)
@example(total=64, seed=0, epoch=0)
@example(total=100, seed=0, epoch=0)
@example(total=1000, seed=0, epoch=0)
def test_permuted_is_a_bijection(total, seed, epoch):
    got = permuted(np.arange(total), total, seed, np.asarray(epoch))
    assert got.dtype == np.int64
    np.testing.assert_array_equal(np.sort(got), np.arange(total))


def test_any_shape_of_index_gives_the_same_rows():
    want = permuted(np.arange(60), 60, 3, 1)
    np.testing.assert_array_equal(permuted(np.arange(60).reshape(3, 4, 5), 60, 3, 1), want.reshape(3, 4, 5))
    assert [int(permuted(np.int64(i), 60, 3, 1)) for i in range(60)] == want.tolist()
    np.testing.assert_array_equal(permuted(np.arange(60), 60, 3, np.repeat([1, 1, 1], 20)), want)


def test_the_order_differs_by_seed_and_epoch():
    orders = [permuted(np.arange(100), 100, seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 16
    for one in range(16):
        for other in range(one):
            assert np.mean(orders[one] == orders[other]) < 0.1  # 1 in 100 by chance
            assert abs(np.corrcoef(orders[one], orders[other])[0, 1]) < 0.45


@pytest.mark.parametrize("key", ["epoch", "seed"])
@pytest.mark.parametrize("total", [7, pytest.param(20, marks=pytest.mark.slow)])
def test_every_place_is_equally_likely(total, key):
    draws = 3000
    if key == "epoch":
        orders = permuted(np.tile(np.arange(total), (draws, 1)), total, 0, np.arange(draws)[:, None])
    else:
        orders = np.stack([permuted(np.arange(total), total, seed, 0) for seed in range(draws)])
    for place in range(total):
        counts = np.bincount(orders[:, place], minlength=total)
        # four rounds on halves of a few bits are not perfectly uniform
        assert np.abs(counts / (draws / total) - 1).max() < 0.4


def test_an_order_has_no_runs():
    order = permuted(np.arange(10_000), 10_000, 0, 0)
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.002


@pytest.mark.parametrize(("total", "size"), [(10, 4), (12, 4), (7, 3), (5, 8), (1, 2)])
def test_every_request_once_an_epoch_also_where_batches_straddle_two(total, size):
    epochs = 6
    steps = -(-epochs * total // size)
    rows = np.concatenate([rows_at(9, step, size, total) for step in range(steps)])
    assert rows.shape == (steps * size,)
    seen = rows[: epochs * total].reshape(epochs, total)
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(total), (epochs, 1)))
    if total > 4:
        assert len(np.unique(seen, axis=0)) == epochs


def test_steps_are_parts_of_one_sequence_whatever_their_size():
    np.testing.assert_array_equal(
        np.concatenate([rows_at(2, step, 4, 30) for step in range(6)]),
        np.concatenate([rows_at(2, step, 8, 30) for step in range(3)]),
    )


def test_a_late_step_of_a_long_log_costs_no_more_than_the_first():
    begin = time.perf_counter()
    rows = rows_at(0, 10**6, 512, 10**9)
    assert time.perf_counter() - begin < 1.0
    assert len(np.unique(rows)) == 512
    assert rows.min() >= 0
    assert rows.max() < 10**9
    assert rows.std() > 10**8


def test_drawn_bits_are_splitmix64():
    """The first three numbers of the published generator from seed 0; another seed is another stream."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    golden = np.uint64(0x9E3779B97F4A7C15)
    states = np.arange(3, dtype=np.uint64) * golden
    assert order._finalised(states).tolist() == first
    number = np.arange(1000).reshape(10, 100)
    np.testing.assert_array_equal(order.drawn(3, number)[4], order.drawn(3, number[4]))
    assert not np.intersect1d(order.drawn(3, number), order.drawn(4, number)).size
    assert len(np.unique(order.drawn(3, number))) == 1000
