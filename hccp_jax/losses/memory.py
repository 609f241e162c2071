"""Cross-batch negatives: a memory of past item vectors, the logQ correction, and how often an item is met."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import accumulated


@struct.dataclass
class VectorMemory:
    """The last M item vectors that were remembered, with what a sampled softmax needs to know of them.

    Attributes:
        vectors: [M, D] item vectors, of the towers as they were when the item was met.
        ids: [M] int32 item ids, with which a loss leaves out a request's own positives; -1 where nothing is stored.
        log_q: [M] log probabilities of being drawn, as known then.
        valid: [M] bool, slots that hold an item.
        next_slot: int32 scalar, where the next item goes; once all slots are taken, the oldest item's slot.
    """

    vectors: jax.Array
    ids: jax.Array
    log_q: jax.Array
    valid: jax.Array
    next_slot: jax.Array


def empty_memory(size: int, dim: int, dtype: jnp.dtype | type = jnp.float32) -> VectorMemory:
    """A memory for `size` vectors of length `dim` that holds none; its columns are all invalid.

    Time O(size dim), memory O(size dim).

    >>> print(empty_memory(3, 2).valid)
    [False False False]

    """
    return VectorMemory(
        vectors=jnp.zeros((size, dim), dtype),
        ids=jnp.full(size, -1, jnp.int32),
        log_q=jnp.zeros(size, jnp.float32),
        valid=jnp.zeros(size, bool),
        next_slot=jnp.zeros((), jnp.int32),
    )


def remember(
    memory: VectorMemory,
    vectors: jax.Array,
    ids: jax.Array,
    log_q: jax.Array | None = None,
    where: jax.Array | None = None,
) -> VectorMemory:
    """Enqueue item vectors, first in, first out, as in CBNS (Wang et al., SIGIR 2021); call it after the loss.

    The paper trains on in-batch negatives alone until the item vectors drift slowly (40,000 steps there): until then a
    caller leaves the memory out of its loss. Nothing here is random, and no gradient enters the memory.

    Args:
        memory: as it is.
        vectors: [..., D] item vectors, cast to the memory's type; the leading axes are gone through in order.
        ids: [...] integer item ids.
        log_q: [...] log probabilities of being drawn; 0 if None.
        where: [...] bool, the items to remember; the others leave no trace, not even an unused slot.

    Returns:
        The memory with the items in it. Of more than M items the last M remain.

    Time O(M + B D), memory O(B D) besides the memory for B items, if the old memory is donated.

    >>> memory = remember(empty_memory(3, 1), jnp.ones((4, 1)), jnp.array([7, 8, 9, 10]))
    >>> print(memory.ids, memory.next_slot)  # 10 has taken the place of 7
    [10  8  9] 1

    """
    size = memory.ids.shape[0]
    if not size:
        return memory
    ids = jnp.asarray(ids, jnp.int32).reshape(-1)
    vectors = vectors.reshape(-1, vectors.shape[-1]).astype(memory.vectors.dtype)
    log_q = jnp.zeros(ids.shape, jnp.float32) if log_q is None else jnp.asarray(log_q, jnp.float32).reshape(-1)
    chosen = jnp.broadcast_to(True if where is None else jnp.asarray(where, bool).reshape(-1), ids.shape)
    order = jnp.cumsum(chosen, dtype=jnp.int32)
    # An item that a later one of this batch would overwrite is not written: the order of equal writes is undefined.
    kept = chosen & (order[-1:] - order < size) if ids.size else chosen
    slot = jnp.where(kept, (memory.next_slot + order - 1) % size, size)  # `size` is out of bounds: dropped
    return VectorMemory(
        vectors=memory.vectors.at[slot].set(jax.lax.stop_gradient(vectors), mode="drop"),
        ids=memory.ids.at[slot].set(ids, mode="drop"),
        log_q=memory.log_q.at[slot].set(jax.lax.stop_gradient(log_q), mode="drop"),
        valid=memory.valid.at[slot].set(True, mode="drop"),
        next_slot=(memory.next_slot + jnp.sum(chosen, dtype=jnp.int32)) % size,
    )


def memory_columns(memory: VectorMemory) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What a loss joins to the items of its batch: vectors [M, D], ids [M], log q [M] and which count [M].

    In no particular order, and without gradient. A loss masks, besides the invalid columns, those whose id is one of
    the request's own positives: `valid & (ids != positive)`.

    >>> vectors, ids, log_q, valid = memory_columns(remember(empty_memory(2, 4), jnp.ones((1, 4)), jnp.array([7])))
    >>> print(vectors.shape, ids, valid)
    (2, 4) [ 7 -1] [ True False]

    """
    return jax.lax.stop_gradient((memory.vectors, memory.ids, memory.log_q, memory.valid))


def log_q_corrected(logits: jax.Array, log_q: jax.Array, strength: ArrayLike = 1.0) -> jax.Array:
    """Logits of a sampled softmax, corrected for how often an item is drawn: logits - strength log q.

    Sampled softmax draws popular items more often than the full one has them; the correction (Bengio and Senecal 2008,
    for batches Yi et al. 2019) makes its gradient that of the full softmax in the limit. It goes to every logit whose
    item comes from that distribution, the positive included where that is drawn from the batch as well; a constant q
    cancels. For training only: scores are served without it.

    Args:
        logits: [..., N] floats, divided by the temperature.
        log_q: log probabilities, broadcastable to the logits from the right; constants.
        strength: 1 is the correction, 0 none; a scalar, possibly traced.

    Returns:
        [..., N], float32 or wider.

    Time O(N), memory O(N) a list.

    >>> print(log_q_corrected(jnp.array([1.0, 1.0]), jnp.log(jnp.array([1.0, 0.5]))))  # 1 and 1 + log(2)
    [1.        1.6931472]

    """
    log_q = jax.lax.stop_gradient(jnp.broadcast_to(accumulated(log_q), logits.shape))
    return accumulated(logits) - strength * log_q


@struct.dataclass
class FrequencyEstimate:
    """How many steps pass between two sights of an item, estimated on the stream (Yi et al. 2019, Algorithm 2).

    Attributes:
        last: [H] int32, the paper's A: the step at which an item of this bucket was last met, 0 before the first.
        gap: [H] float32, the paper's B: the running mean of the steps between two sights.
    """

    last: jax.Array
    gap: jax.Array


def empty_frequency(buckets: int, gap: float) -> FrequencyEstimate:
    """An estimate that has seen nothing: every item is taken to come once in `gap` steps.

    `buckets` items are told apart exactly; an id stands for id modulo `buckets`, and ids that collide are taken for
    one item, more frequent than either. Time O(buckets), memory O(buckets).

    >>> print(empty_frequency(2, 10.0).gap)
    [10. 10.]

    """
    return FrequencyEstimate(last=jnp.zeros(buckets, jnp.int32), gap=jnp.full(buckets, gap, jnp.float32))


def update_frequency(
    estimate: FrequencyEstimate,
    ids: jax.Array,
    step: ArrayLike,
    *,
    rate: ArrayLike = 0.01,
    where: jax.Array | None = None,
) -> FrequencyEstimate:
    r"""Take in the items of one step: B <- (1 - a) B + a (t - A), A <- t for each bucket met.

    An item that comes several times in a batch counts once: what is estimated is the probability that a batch has it.

    Args:
        estimate: of the steps before.
        ids: [...] integer item ids, not negative.
        step: t, an integer scalar, possibly traced; 1 for the first step, rising by 1.
        rate: a, in (0, 1], possibly traced.
        where: [...] bool, the items that count.

    Returns:
        The estimate after this step.

    Time O(B), memory O(B) besides the estimate for B items, if the old estimate is donated.

    >>> estimate = update_frequency(empty_frequency(4, 10.0), jnp.array([1, 1, 3]), 2, rate=0.5)
    >>> print(estimate.gap)  # (10 + 2) / 2 where an item was met
    [10.  6. 10.  6.]

    """
    buckets = estimate.last.shape[0]
    bucket = jnp.asarray(ids).reshape(-1) % buckets
    gap = (1.0 - rate) * estimate.gap[bucket] + rate * (step - estimate.last[bucket])
    if where is not None:
        bucket = jnp.where(jnp.asarray(where, bool).reshape(-1), bucket, buckets)  # out of bounds: dropped
    # Items of one bucket all write the same numbers, so that the order of the writes does not matter.
    return FrequencyEstimate(
        last=estimate.last.at[bucket].set(jnp.asarray(step, jnp.int32), mode="drop"),
        gap=estimate.gap.at[bucket].set(gap.astype(jnp.float32), mode="drop"),
    )


def log_frequency(estimate: FrequencyEstimate, ids: jax.Array) -> jax.Array:
    """Log of the estimated probability that a batch has the item, log(1 / B): the log q of `log_q_corrected`.

    B counts as 1 at least, a probability of 1. That a batch has several items shifts all in-batch logits by the same
    constant and cancels. Float32, the shape of `ids`. Time O(B), memory O(B) for B items.

    >>> print(f"{log_frequency(empty_frequency(4, 10.0), jnp.array(2)):.4f}")  # -log(10)
    -2.3026

    """
    return -jnp.log(jnp.maximum(estimate.gap[jnp.asarray(ids) % estimate.gap.shape[0]], 1.0))
