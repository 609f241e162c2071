"""The multi-level samples N1-N5 of HCCP section 3.2, vectorised over requests.

N1, the impressions, are in every list already. Everything random is keyed by (seed, request): see `hashing`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.data import hashing
from hccp_jax.errors import UserError

# Borders follow from the seven rates if every chunk gives five items, which makes the stated 35 (inferred; HCCP 4.1.4
# states rates and total only).
PAPER_BORDERS = (10, 50, 100, 200, 400, 900, 1900)
PAPER_RATES = (0.5, 0.125, 0.1, 0.05, 0.025, 0.01, 0.005)


@dataclass(frozen=True)
class Chunks:
    """Non-uniform chunks of the ranking order (HCCP Eq 2).

    Attributes:
        borders: end (exclusive) of each chunk in ranking positions, ascending; the first chunk begins at 0.
        counts: items drawn from each chunk, at most its width.
    """

    borders: tuple[int, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse chunks that cannot be drawn."""
        if len(self.borders) != len(self.counts) or not self.borders:
            raise UserError(
                f"sampling.borders={self.borders}: expected one border for each of {len(self.counts)} rates"
            )
        if any(width < count or count < 0 for width, count in zip(self.widths, self.counts, strict=True)):
            raise UserError(f"sampling.borders={self.borders}: a chunk is narrower than its {self.counts} items")

    @property
    def widths(self) -> tuple[int, ...]:
        """Positions in each chunk."""
        return tuple(end - start for start, end in zip(self.starts, self.borders, strict=True))

    @property
    def starts(self) -> tuple[int, ...]:
        """First position of each chunk."""
        return (0, *self.borders[:-1])

    @property
    def total(self) -> int:
        """Items drawn in all: M of HCCP 3.2.1."""
        return sum(self.counts)


def chunks_from_rates(borders: tuple[int, ...], rates: tuple[float, ...]) -> Chunks:
    """Chunks whose counts are rate times width, rounded.

    >>> chunks_from_rates(PAPER_BORDERS, PAPER_RATES).counts
    (5, 5, 5, 5, 5, 5, 5)
    """
    if len(borders) != len(rates) or not borders:
        raise UserError(f"sampling.borders={borders}: expected one border for each of {len(rates)} rates")
    widths = (end - start for start, end in zip((0, *borders[:-1]), borders, strict=True))
    return Chunks(borders, tuple(round(rate * width) for rate, width in zip(rates, widths, strict=True)))


def scaled_chunks(n_ranked: int, per_chunk: int = 5) -> Chunks:
    """The paper's seven chunks for a ranker that scores `n_ranked` items instead of about 1,900.

    Borders shrink in proportion, but no chunk gets narrower than the items it gives.

    >>> scaled_chunks(1900).borders == PAPER_BORDERS
    True
    >>> scaled_chunks(150)
    Chunks(borders=(5, 10, 15, 20, 32, 71, 150), counts=(5, 5, 5, 5, 5, 5, 5))
    """
    if n_ranked < per_chunk * len(PAPER_BORDERS):
        raise UserError(f"world.ranked={n_ranked}: expected at least {per_chunk * len(PAPER_BORDERS)} for seven chunks")
    borders: list[int] = []
    for border in PAPER_BORDERS:
        smallest = (borders[-1] if borders else 0) + per_chunk
        borders.append(max(smallest, round(border * n_ranked / PAPER_BORDERS[-1])))
    return Chunks(tuple(borders), (per_chunk,) * len(PAPER_BORDERS))


def distinct_integers(below: jax.Array, count: int, purpose: str, *keys: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """`count` different integers of [0, below), every set equally likely, without a sort (Floyd's algorithm).

    Args:
        below: [...] int32, may be smaller than `count`.
        count: static number of draws.
        purpose: name of the draw.
        *keys: integer keys that broadcast with `below`.

    Returns:
        values [..., count] int32 in no particular order, and valid [..., count] bool: min(count, below) are valid.
    """
    last = below[..., None] - count + jnp.arange(count, dtype=jnp.int32)  # draw i is from [0, last]
    expanded = (jnp.asarray(key)[..., None] for key in keys)
    draws = hashing.integers(purpose, *expanded, jnp.arange(count), below=jnp.maximum(last + 1, 1))
    last, slots = jnp.broadcast_to(last, draws.shape), jnp.arange(count)

    def replace(i: jax.Array, draws: jax.Array) -> jax.Array:
        """Draw i becomes `last` if an earlier one took its value. A loop: unrolled, it compiles for seconds."""
        value = jax.lax.dynamic_index_in_dim(draws, i, -1)
        taken = jnp.any((draws == value) & (slots < i), axis=-1, keepdims=True)
        return jnp.where((slots == i) & taken, last, draws)

    if count > 1:
        draws = jax.lax.fori_loop(1, count, replace, draws)
    return jnp.where(last < 0, -1, draws), last >= 0


def chunk_positions(chunks: Chunks, *keys: ArrayLike) -> jax.Array:
    """Ranking positions drawn without replacement inside each chunk: the non-uniform sample of HCCP 3.2.1.

    Args:
        chunks: static.
        *keys: integer arrays [U] (or scalars) naming the seed and the request.

    Returns:
        [U, M] int32, distinct in a row, not sorted.
    """
    parts = []
    for index, (start, width, count) in enumerate(zip(chunks.starts, chunks.widths, chunks.counts, strict=True)):
        shape = jnp.broadcast_shapes(*(jnp.shape(key) for key in keys))
        values, _ = distinct_integers(jnp.full(shape, width, jnp.int32), count, "chunk", *keys, index)
        parts.append(values + start)
    return jnp.concatenate(parts, axis=-1)


class RankingSequence(NamedTuple):
    """R^c of HCCP 3.2.1. All fields [U, M]: ranking position, index among the exposures or -1, real slots."""

    position: jax.Array
    exposure: jax.Array
    valid: jax.Array


def ranking_sequence(
    sampled: jax.Array, exposed: jax.Array, clicked: jax.Array, n_ranked: ArrayLike, *, length: int
) -> RankingSequence:
    """Join the sample with the impressions and arrange it by r^c = r - (e + click) N^r.

    Impressions are always kept; the sampled items ranked lowest make room for them, so that the length stays M
    (decision: the paper does not say whether the 35 include the impressions). Sorting by r^c is lexicographic: clicked
    impressions, other impressions, unexposed items, each part in ranking order.

    Args:
        sampled: [U, M] int32 ranking positions, distinct in a row.
        exposed: [U, R] int32 ranking positions of the impressions, -1 for padding; R <= length.
        clicked: [U, R] bool.
        n_ranked: [U] or scalar int32, N^r; sampled positions at or beyond it are dropped.
        length: M, static.

    Returns:
        The arranged sequence.
    """
    bits = max(1, (exposed.shape[-1] - 1).bit_length())
    slots = jnp.arange(exposed.shape[-1], dtype=jnp.int32)
    span = 1 << (31 - 2 - bits - 1)  # more ranking positions than any list has; three groups fit into 31 bits
    n_ranked = jnp.broadcast_to(jnp.asarray(n_ranked, jnp.int32), sampled.shape[:1])[:, None]
    unwanted = jnp.any(sampled[:, :, None] == exposed[:, None, :], axis=-1) | (sampled >= n_ranked)
    invalid = jnp.iinfo(jnp.int32).max
    exposed_key = ((jnp.where(clicked, 0, span) + exposed) << bits) | slots
    sampled_key = (2 * span + sampled) << bits
    keys = jnp.concatenate(
        [jnp.where(exposed < 0, invalid, exposed_key), jnp.where(unwanted, invalid, sampled_key)], axis=-1
    )
    keys = jnp.sort(keys, axis=-1)[:, :length]
    valid = keys != invalid
    is_exposed = valid & ((keys >> bits) < 2 * span)
    position = (keys >> bits) % span
    exposure = jnp.where(is_exposed, keys & ((1 << bits) - 1), -1)
    return RankingSequence(jnp.where(valid, position, -1), exposure, valid)


def arranged_rank(rank: jax.Array, exposed: jax.Array, label: jax.Array, n_ranked: ArrayLike) -> jax.Array:
    """r^t = r - (e + l^t) N^r (HCCP 3.2.1): the order of the exposure sequence for one task; smaller is better.

    Args:
        rank: [U, K] int32 downstream order.
        exposed: [U, K] bool.
        label: [U, K], nonzero where the task has positive feedback (implies exposed).
        n_ranked: N^r, larger than any rank.

    Returns:
        [U, K] int32.
    """
    return rank - (exposed.astype(jnp.int32) + (label > 0).astype(jnp.int32)) * jnp.asarray(n_ranked, jnp.int32)


def latter_positions(
    n_ranked: int, n_candidates: jax.Array, count: int, *keys: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """N3: pre-ranking positions drawn uniformly from the retrieved items that did not enter ranking (HCCP 3.2.2).

    Args:
        n_ranked: items that went on to ranking, static.
        n_candidates: [U] int32 retrieved items.
        count: static number of draws.
        *keys: seed and request.

    Returns:
        positions [U, count] int32 in the pre-ranking order, valid [U, count] bool.
    """
    values, valid = distinct_integers(jnp.maximum(n_candidates - n_ranked, 0), count, "latter", *keys)
    return jnp.where(valid, values + n_ranked, -1), valid


def pool_negatives(
    n_items: int, retrieved: jax.Array, count: int, *keys: ArrayLike, spare: int = 6
) -> tuple[jax.Array, jax.Array]:
    """N5: ids drawn uniformly from the catalogue, without the retrieved ones (HCCP 3.2.4).

    Args:
        n_items: catalogue size; ids run from 1.
        retrieved: [U, P] int32 ids, 0 for padding.
        count: static number of ids asked.
        *keys: seed and request.
        spare: extra draws that stand in for retrieved ones.

    Returns:
        ids [U, count] int32 (0 where not valid) and valid [U, count] bool.
    """
    total = count + spare
    values, drawn = distinct_integers(jnp.full(retrieved.shape[:1], n_items, jnp.int32), total, "pool", *keys)
    ids = values + 1
    bad = jnp.any(ids[:, :, None] == retrieved[:, None, :], axis=-1) | ~drawn
    # Any set of draws is equally likely, but not any order of them: the draws to keep are chosen by fresh random bits.
    slots = jnp.arange(total, dtype=jnp.uint32)
    bits = total.bit_length()
    shuffled = hashing.hash_bits("pool order", *(jnp.asarray(key)[..., None] for key in keys), slots) >> (bits + 1)
    order = jnp.sort((bad.astype(jnp.uint32) << 31) | (shuffled << bits) | slots, axis=-1)[:, :count]
    valid = order >> 31 == 0
    slot = (order & ((1 << bits) - 1)).astype(jnp.int32)
    return jnp.where(valid, jnp.take_along_axis(ids, slot, axis=-1), 0), valid


def shared_columns(total: int, rate: float, *keys: ArrayLike) -> jax.Array:
    """A sample of in-batch columns that all users of the step share: one column of every 1/rate.

    Every column has the same chance, the number is fixed, and nothing of size U x (U R) is stored, so a step's cost
    per request does not grow with the batch as long as the sample does not.

    Args:
        total: U R, static.
        rate: HCCP uses 0.05.
        *keys: scalar seed and step.

    Returns:
        [round(total * rate)] int32 column numbers, ascending (at least one).
    """
    count = max(1, round(total * rate))
    borders = jnp.asarray([number * total // count for number in range(count + 1)], jnp.int32)
    columns = borders[:-1] + hashing.integers("column", *keys, jnp.arange(count), below=jnp.diff(borders))
    if total % count:  # parts of unequal width: a random rotation gives every column the same chance again
        columns = jnp.sort((columns + hashing.integers("rotation", *keys, below=total)) % total)
    return columns


def independent_columns(rows: jax.Array, columns: jax.Array, rate: float, *keys: ArrayLike) -> jax.Array:
    """Each (row, column) pair kept with chance `rate`, by a counter hash that is never stored.

    Args:
        rows: int32 global row numbers.
        columns: int32 column numbers; broadcast with the rows.
        rate: chance.
        *keys: scalar seed and step.

    Returns:
        bool of the broadcast shape.
    """
    return hashing.uniform("pair", *keys, rows, columns) < rate
