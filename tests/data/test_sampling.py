"""The samples N2-N5 against section 3.2 of HCCP written out request by request, and their chances."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data import sampling
from hccp_jax.errors import UserError

REQUESTS = jnp.arange(4000)


def z_scores(counts, draws, chance):
    """How many standard errors a binomial count lies from its mean."""
    return (np.asarray(counts) - draws * chance) / np.sqrt(np.maximum(draws * chance * (1 - chance), 1e-9))


def distinct(rows):
    return all(len(set(row)) == len(row) for row in np.asarray(rows).tolist())


# chunks


def test_the_papers_rates_give_five_items_a_chunk_and_35_in_all():
    chunks = sampling.chunks_from_rates(sampling.PAPER_BORDERS, sampling.PAPER_RATES)
    assert chunks.counts == (5,) * 7
    assert chunks.total == 35
    assert chunks.starts == (0, 10, 50, 100, 200, 400, 900)
    assert chunks.widths == (10, 40, 50, 100, 200, 500, 1000)
    shares = [count / width for count, width in zip(chunks.counts, chunks.widths, strict=True)]
    np.testing.assert_allclose(shares, sampling.PAPER_RATES)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(per_chunk=st.integers(1, 8), extra=st.integers(0, 3000))
def test_scaled_chunks_cover_the_ranking_and_hold_what_they_give(per_chunk, extra):
    n_ranked = 7 * per_chunk + extra
    chunks = sampling.scaled_chunks(n_ranked, per_chunk)
    assert chunks.counts == (per_chunk,) * 7
    assert chunks.borders[-1] == n_ranked
    assert all(width >= per_chunk for width in chunks.widths)
    shares = [count / width for count, width in zip(chunks.counts, chunks.widths, strict=True)]
    assert all(later <= earlier * 1.5 for earlier, later in pairwise(shares))  # up to rounding


@pytest.mark.parametrize(
    ("borders", "rates"),
    [
        ((), ()),
        ((10, 20), (0.5,)),
        ((10, 20), (0.5, 0.5, 0.5)),
        ((10, 5), (0.5, 0.5)),
        ((10, 5), (0.5, 0.0)),
        ((10, 20), (0.5, 1.5)),
        ((10, 20), (0.5, -0.2)),
    ],
)
def test_chunks_that_cannot_be_drawn_are_refused(borders, rates):
    with pytest.raises(UserError, match=r"sampling\.borders="):
        sampling.chunks_from_rates(borders, rates)


def test_too_short_a_ranking_is_refused():
    with pytest.raises(UserError, match=r"world\.ranked=34: expected at least 35"):
        sampling.scaled_chunks(34)


# draws without replacement


@pytest.mark.parametrize(("below", "count"), [(5, 2), (6, 3)])
def test_every_subset_is_equally_likely(below, count):
    draw = jax.jit(lambda keys: sampling.distinct_integers(jnp.full(keys.shape, below), count, "test", 0, keys))
    values, valid = map(np.asarray, draw(jnp.arange(30_000)))
    assert valid.all()
    assert distinct(values)
    codes = np.sum(1 << values, axis=1)
    _, counts = np.unique(codes, return_counts=True)
    subsets = int(np.prod(np.arange(below - count + 1, below + 1)) / np.prod(np.arange(1, count + 1)))
    assert len(counts) == subsets
    expected = 30_000 / subsets
    assert np.sum((counts - expected) ** 2 / expected) < subsets + 6 * np.sqrt(2 * subsets)


def test_draws_from_a_set_that_is_too_small_are_all_of_it():
    belows = jnp.asarray([0, 1, 3, 4, 9])
    values, valid = map(np.asarray, jax.jit(lambda n: sampling.distinct_integers(n, 4, "test", jnp.arange(5)))(belows))
    np.testing.assert_array_equal(valid.sum(1), [0, 1, 3, 4, 4])
    for row, ok, below in zip(values, valid, (0, 1, 3, 4, 9), strict=True):
        assert len(set(row[ok])) == ok.sum()
        assert np.all((row[ok] >= 0) & (row[ok] < below))


def test_no_draw_at_all_is_an_empty_array():
    values, valid = sampling.distinct_integers(jnp.asarray([3, 4]), 0, "test", 0, jnp.arange(2))
    assert values.shape == valid.shape == (2, 0)


# non-uniform chunks


def test_chunk_positions_have_the_rates_of_the_paper():
    chunks = sampling.chunks_from_rates(sampling.PAPER_BORDERS, sampling.PAPER_RATES)
    positions = np.asarray(jax.jit(partial(sampling.chunk_positions, chunks))(0, REQUESTS))
    assert positions.shape == (4000, 35)
    assert distinct(positions)
    for start, width, rate, part in zip(
        chunks.starts, chunks.widths, sampling.PAPER_RATES, np.split(positions, 7, axis=1), strict=True
    ):
        assert part.min() >= start
        assert part.max() < start + width
        counts = np.bincount(part.ravel() - start, minlength=width)
        z = z_scores(counts, 4000, rate)
        assert np.abs(z).max() < 5.2
        assert 0.7 < z.std() < 1.3 or width < 50


def test_chunks_are_drawn_independently_of_each_other_and_of_the_seed():
    chunks = sampling.Chunks((8, 16), (2, 2))
    draw = jax.jit(partial(sampling.chunk_positions, chunks))
    one, other = np.asarray(draw(0, REQUESTS)), np.asarray(draw(1, REQUESTS))
    assert np.mean(np.all(one[:, :2] == one[:, 2:] - 8, axis=1)) < 0.05  # by chance: 1 / 56
    assert np.mean(np.all(one == other, axis=1)) < 0.01
    np.testing.assert_array_equal(draw(0, REQUESTS[::-1]), one[::-1])


def test_a_chunk_may_give_nothing_or_everything():
    chunks = sampling.Chunks((4, 9, 11), (4, 0, 1))
    positions = np.asarray(jax.jit(partial(sampling.chunk_positions, chunks))(0, jnp.arange(3)))
    np.testing.assert_array_equal(np.sort(positions[:, :4], axis=1), [[0, 1, 2, 3]] * 3)
    assert np.isin(positions[:, 4], [9, 10]).all()


# the ranking sequence


def literal_sequence(sampled, exposed, clicked, n_ranked, length):
    """HCCP 3.2.1 for one request: (position, index among the impressions or -1) in the order of r^c."""
    kept = [(r, 1, int(clicked[i]), i) for i, r in enumerate(exposed) if r >= 0]
    others = sorted(r for r in sampled if r < n_ranked and r not in exposed)
    kept += [(r, 0, 0, -1) for r in others[: length - len(kept)]]
    kept.sort(key=lambda item: item[0] - (item[1] + item[2]) * n_ranked)  # r^c = r - (e + click) N^r
    return [(r, index) for r, _, _, index in kept]


arrange = jax.jit(sampling.ranking_sequence, static_argnames="length")


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    shape=st.sampled_from([(4, 6, 3, 6), (3, 9, 1, 9), (5, 12, 10, 12)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_ranking_sequence_equals_the_literal_arrangement(shape, seed):
    requests, drawn, shown, length = shape
    rng = np.random.default_rng(seed)
    n_ranked = rng.integers(shown, 30, requests).astype(np.int32)
    sampled = np.stack([rng.permutation(30)[:drawn] for _ in range(requests)]).astype(np.int32)
    exposed = np.full((requests, shown), -1, np.int32)
    for row, total in enumerate(n_ranked):
        real = rng.integers(0, shown + 1)
        exposed[row, :real] = rng.permutation(total)[:real]
    clicked = rng.random((requests, shown)) < 0.4
    got = jax.tree.map(np.asarray, arrange(sampled, exposed, clicked, n_ranked, length=length))
    assert got.position.shape == (requests, length)
    for row in range(requests):
        want = literal_sequence(sampled[row].tolist(), exposed[row].tolist(), clicked[row], int(n_ranked[row]), length)
        real = len(want)
        np.testing.assert_array_equal(got.valid[row], np.arange(length) < real)
        found = zip(got.position[row, :real].tolist(), got.exposure[row, :real].tolist(), strict=True)
        assert list(found) == want
        assert np.all(got.position[row, real:] == -1)
        assert np.all(got.exposure[row, real:] == -1)


def test_impressions_displace_the_sampled_items_ranked_lowest():
    sampled, exposed = jnp.asarray([[40, 3, 20, 8, 31]]), jnp.asarray([[45, 8]])
    got = arrange(sampled, exposed, jnp.asarray([[True, False]]), 50, length=5)
    np.testing.assert_array_equal(got.position, [[45, 8, 3, 20, 31]])
    np.testing.assert_array_equal(got.exposure, [[0, 1, -1, -1, -1]])


def test_long_rankings_do_not_overflow_the_packed_key():
    sampled, exposed = jnp.asarray([[1_000_000, 5]]), jnp.full((1, 16), -1).at[0, 15].set(999_999)
    got = arrange(sampled, exposed, jnp.ones((1, 16), bool), 2_000_000, length=3)
    np.testing.assert_array_equal(got.position, [[999_999, 5, 1_000_000]])
    np.testing.assert_array_equal(got.exposure, [[15, -1, -1]])


def test_arranged_rank_is_the_formula_of_each_task():
    rng = np.random.default_rng(0)
    rank = np.stack([rng.permutation(20)[:8] for _ in range(6)]).astype(np.int32)
    exposed = rng.random((6, 8)) < 0.6
    label = (exposed & (rng.random((6, 8)) < 0.5)).astype(np.float32)
    got = np.asarray(sampling.arranged_rank(rank, exposed, label, 20))
    for u in range(6):
        for j in range(8):
            assert got[u, j] == rank[u, j] - (int(exposed[u, j]) + int(label[u, j])) * 20
        order = np.argsort(got[u])
        groups = (exposed[u].astype(int) + (label[u] > 0))[order]
        assert np.all(np.diff(groups) <= 0)  # positives, other impressions, the rest


# negatives


draw_latter = jax.jit(lambda candidates, keys: sampling.latter_positions(10, candidates, 5, 0, keys))


def test_latter_positions_are_uniform_beyond_the_ranked_ones():
    positions, valid = map(np.asarray, draw_latter(jnp.full(4000, 30), REQUESTS))
    assert valid.all()
    assert distinct(positions)
    counts = np.bincount(positions.ravel(), minlength=30)
    assert counts[:10].sum() == 0
    assert len(counts) == 30
    assert np.abs(z_scores(counts[10:], 4000, 5 / 20)).max() < 4.5


def test_latter_positions_of_a_short_list():
    candidates = np.tile([4, 10, 12, 16], 1000)
    positions, valid = map(np.asarray, draw_latter(candidates, REQUESTS))
    np.testing.assert_array_equal(valid.sum(1), np.tile([0, 0, 2, 5], 1000))
    assert np.all(positions[~valid] == -1)
    assert sorted(positions[2][valid[2]]) == [10, 11]
    assert np.all((positions[3::4] >= 10) & (positions[3::4] < 16))
    assert distinct(positions[3::4])


RETRIEVED = jnp.tile(jnp.asarray([[3, 4, 17, 30, 0, 0]]), (4000, 1))
draw_pool = jax.jit(sampling.pool_negatives, static_argnums=(0, 2), static_argnames="spare")


def test_pool_negatives_are_uniform_over_what_was_not_retrieved():
    ids, valid = map(np.asarray, draw_pool(30, RETRIEVED, 8, 0, REQUESTS))
    assert valid.all()
    assert distinct(ids)
    counts = np.bincount(ids.ravel(), minlength=31)
    assert counts[[0, 3, 4, 17, 30]].sum() == 0
    others = np.setdiff1d(np.arange(1, 31), [3, 4, 17, 30])
    assert np.abs(z_scores(counts[others], 4000, 8 / 26)).max() < 4.5


def test_pool_negatives_differ_by_request_and_not_by_batch():
    ids, _ = draw_pool(30, RETRIEVED, 8, 0, REQUESTS)
    np.testing.assert_array_equal(draw_pool(30, RETRIEVED, 8, 0, REQUESTS[::-1])[0], ids[::-1])
    assert len(np.unique(np.asarray(ids), axis=0)) > 3900


def test_pool_negatives_of_a_catalogue_too_small_are_invalid_and_zero():
    ids, valid = map(np.asarray, draw_pool(4, jnp.tile(jnp.asarray([1, 2]), (9, 1)), 3, 0, jnp.arange(9), spare=2))
    np.testing.assert_array_equal(np.sort(ids, axis=1), [[0, 3, 4]] * 9)
    np.testing.assert_array_equal(valid, ids > 0)


def test_retrieved_items_leave_pool_slots_empty_once_the_spare_draws_are_used():
    retrieved = jnp.tile(jnp.arange(1, 29)[None], (90, 1))
    ids, valid = map(np.asarray, draw_pool(30, retrieved, 3, 0, jnp.arange(90), spare=2))
    assert np.all(np.isin(ids[valid], [29, 30]))
    assert np.all(ids[~valid] == 0)
    assert 0 < valid.sum() < 90


@pytest.mark.parametrize(("total", "rate"), [(40, 0.05), (23, 0.2), (10, 0.01)])
def test_shared_columns_give_every_column_the_same_chance(total, rate):
    steps = 6000
    draw = jax.jit(jax.vmap(lambda step: sampling.shared_columns(total, rate, 0, step)))
    columns = np.asarray(draw(jnp.arange(steps)))
    count = max(1, round(total * rate))
    assert columns.shape == (steps, count)
    assert np.all(np.diff(columns, axis=1) > 0)
    assert columns.min() >= 0
    assert columns.max() < total
    counts = np.bincount(columns.ravel(), minlength=total)
    assert np.abs(z_scores(counts, steps, count / total)).max() < 4.5


def test_shared_columns_of_rate_one_are_all():
    np.testing.assert_array_equal(sampling.shared_columns(17, 1.0, 0, 3), np.arange(17))


def test_shared_columns_reach_the_last_column_of_a_long_batch():
    """A border in float32 would fall one short here."""
    columns = jax.jit(jax.vmap(lambda step: sampling.shared_columns(2990, 0.05, 0, step)[-1]))(jnp.arange(400))
    assert np.asarray(columns).max() == 2989


def test_independent_columns_keep_the_rate_and_do_not_know_the_batch():
    rows, columns = jnp.arange(64)[:, None], jnp.arange(640)[None]
    draw = jax.jit(sampling.independent_columns, static_argnums=2)
    kept = np.asarray(draw(rows, columns, 0.05, 0, 9))
    assert abs(z_scores(kept.sum(), kept.size, 0.05)) < 4.5
    assert np.abs(z_scores(kept.sum(0), 64, 0.05)).max() < 6
    assert np.abs(z_scores(kept.sum(1), 640, 0.05)).max() < 4.5
    split = [draw(part, columns, 0.05, 0, 9) for part in np.split(np.arange(64)[:, None], 4)]
    np.testing.assert_array_equal(np.concatenate(split), kept)
    assert not np.array_equal(draw(rows, columns, 0.05, 0, 10), kept)
    assert np.asarray(draw(rows, columns, 1.0, 0, 9)).all()
