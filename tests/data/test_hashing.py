"""Counter-based randomness: range, distribution, independence, and one value whatever transformation asks for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.data import hashing

MANY = 1 << 16
ROWS = jnp.arange(MANY)


def chi_square(counts, expected):
    return float(np.sum((counts - expected) ** 2 / expected))


@pytest.fixture
def every_bit_set(monkeypatch):
    """The two ends of the range of the hash, which no purpose and key at hand produce."""
    monkeypatch.setattr(hashing, "hash_bits", lambda *_: jnp.asarray([0, 0xFFFFFFFF], jnp.uint32))


def test_uniform_never_reaches_one(every_bit_set):
    low, high = np.asarray(hashing.uniform("any"))
    assert low == 0.0
    assert high == np.float32(1 - 2.0**-23)
    # the construction that uses all 32 bits does reach it
    assert np.float32(0xFFFFFFFF) * np.float32(2.0**-32) == 1.0


@pytest.mark.parametrize("below", [1, 2, 10, 20_000, 2**23, 2**24 - 1, 2**24 + 1, 2**31 - 1])
def test_integers_stay_below_their_bound_at_both_ends(below, every_bit_set):
    low, high = np.asarray(hashing.integers("any", below=below)).astype(np.int64)
    assert low == 0
    assert below - 1 - below * 2.0**-22 <= high <= below - 1


def test_normal_is_finite_and_symmetric_at_both_ends(every_bit_set):
    low, high = np.asarray(hashing.normal("any"))
    assert low == pytest.approx(-high, rel=1e-3)
    assert 5 < high < 6


def test_uniform_is_uniform():
    draws = np.asarray(hashing.uniform("u", 3, ROWS))
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 5 / np.sqrt(12 * MANY)
    assert abs(draws.var() - 1 / 12) < 5 / np.sqrt(180 * MANY)
    assert chi_square(np.bincount((draws * 64).astype(int), minlength=64), MANY / 64) < 120  # 63 degrees: 1e-5


def test_normal_has_the_moments_of_a_standard_normal():
    draws = np.asarray(hashing.normal("n", 3, ROWS), np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(draws**power) - moment) < 5 * np.sqrt(variance / MANY), power


@pytest.mark.parametrize("below", [3, 10, 20_000])
def test_integers_are_uniform(below):
    draws = np.asarray(hashing.integers("i", 3, ROWS, below=below))
    assert draws.dtype == np.int32
    bins = min(below, 20)
    counts = np.bincount(draws.astype(np.int64) * bins // below, minlength=bins)
    assert chi_square(counts, MANY / bins) < 60  # at most 19 degrees: 1e-5


def test_integers_take_a_bound_for_each_key():
    below = jnp.asarray([1, 2, 3, 50])
    draws = np.asarray(hashing.integers("i", jnp.arange(2000)[:, None], below=below))
    assert draws.shape == (2000, 4)
    np.testing.assert_array_equal(draws.max(0), below - 1)
    np.testing.assert_array_equal(draws.min(0), 0)


STREAMS = {
    "another purpose": lambda: hashing.uniform("b", 0, ROWS),
    "another seed": lambda: hashing.uniform("a", 1, ROWS),
    "keys exchanged": lambda: hashing.uniform("a", ROWS, 0),
    "the next row": lambda: hashing.uniform("a", 0, ROWS + 1),
    "one more key": lambda: hashing.uniform("a", 0, ROWS, 0),
    "a row with another high bit": lambda: hashing.uniform("a", 0, ROWS + (1 << 25)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_independent(name):
    one, other = np.asarray(hashing.uniform("a", 0, ROWS)), np.asarray(STREAMS[name]())
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(MANY)
    cells = np.bincount((one * 8).astype(int) * 8 + (other * 8).astype(int), minlength=64)
    assert chi_square(cells, MANY / 64) < 120


def test_every_key_bit_reaches_every_hash_bit():
    rows = jnp.arange(2048)
    plain = np.asarray(hashing.hash_bits("a", 5, rows))
    for bit in range(0, 31, 3):
        changed = plain ^ np.asarray(hashing.hash_bits("a", 5, rows ^ (1 << bit)))
        share = np.mean((changed[:, None] >> np.arange(32, dtype=np.uint32)) & 1, axis=0)
        assert np.all(np.abs(share - 0.5) < 0.07), bit  # six standard errors


def test_the_last_key_gives_distinct_bits():
    assert len(np.unique(np.asarray(hashing.hash_bits("a", 7, ROWS)))) == MANY


def test_keys_broadcast():
    rows, columns = jnp.arange(5)[:, None], jnp.arange(7)[None, :]
    table = np.asarray(hashing.hash_bits("a", 2, rows, columns))
    assert table.shape == (5, 7)
    for row, column in ((0, 0), (4, 6), (2, 5)):
        assert table[row, column] == int(hashing.hash_bits("a", 2, row, column))
    assert hashing.hash_bits("a", 2).shape == ()


def test_keys_of_any_integer_type_give_the_same_bits():
    want = int(hashing.hash_bits("a", 200))
    for dtype in (np.uint8, np.int16, np.int32, np.uint32):
        assert int(hashing.hash_bits("a", dtype(200))) == want
    assert int(hashing.hash_bits("a", jnp.asarray(-1))) == int(hashing.hash_bits("a", np.uint32(0xFFFFFFFF)))


def test_the_values_are_fixed():
    """A change of the hash would change every world, log and sample."""
    got = [int(hashing.hash_bits("click", 0, row)) for row in range(3)]
    assert got == [4265706425, 1300359110, 168610027]


def test_the_same_value_under_every_transformation():
    def draw(row):
        return hashing.integers("t", 1, row, below=1000)

    rows = jnp.arange(50)
    want = np.asarray(draw(rows))
    np.testing.assert_array_equal(jax.jit(draw)(rows), want)
    np.testing.assert_array_equal(jax.vmap(draw)(rows), want)
    np.testing.assert_array_equal(draw(rows[::-1])[::-1], want)
