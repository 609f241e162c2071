"""The order of a reused log: row numbers as a pure function of (seed, step), without a stored permutation."""

import numpy as np

_ROUNDS = 4
_WORD = (1 << 64) - 1


def _mix(x: np.ndarray, key: int) -> np.ndarray:
    """One keyed 32-bit hash round on uint64 values below 2^32."""
    mask = np.uint64(0xFFFFFFFF)
    x = (x + np.uint64(key & 0xFFFFFFFF)) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & mask
    return x


def permuted(index: np.ndarray, total: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """A keyed bijection of [0, total): a Feistel network on the next power of four, walked until it lands inside.

    Args:
        index: integers in [0, total), any shape.
        total: number of rows, at least 1.
        seed: key of the order.
        epoch: key of the epoch, broadcasts with `index`.

    Returns:
        int64 array of the shape of `index`; for each epoch a permutation. O(1) time and memory a row.
    """
    half = np.uint64(max(1, (max(total - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    epoch = np.broadcast_to(np.asarray(epoch, np.uint64), np.shape(index))
    key = _mix(epoch * np.uint64(2654435761) & np.uint64(0xFFFFFFFF), seed)

    def once(x: np.ndarray, key: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mix(right ^ key, 0x9E3779B9 * (number + 1)) & low)
        return (left << half) | right

    result = np.array(once(np.asarray(index, np.uint64), key))
    outside = result >= total
    while outside.any():
        result[outside] = once(result[outside], key[outside])
        outside = result >= total
    return result.astype(np.int64)


def rows_at(seed: int, step: int, size: int, total: int, steps: int = 1) -> np.ndarray:
    """[steps * size] int64 rows of the log for one step, or for several that follow each other.

    Rows are numbered through all epochs, so a batch may straddle two; each epoch visits every row exactly once. The
    answer does not depend on devices or on earlier steps.
    """
    number = np.arange(step * size, (step + steps) * size, dtype=np.int64)
    return permuted(number % total, total, seed, number // total)


def drawn(seed: int, number: np.ndarray) -> np.ndarray:
    """64 random bits a number, the same on every machine: splitmix64 (Steele et al., 2014) begun at the seed.

    Args:
        seed: key of the draw.
        number: integers of any shape.

    Returns:
        uint64 array of that shape.
    """
    begun = _finalised(np.full(1, seed & _WORD, np.uint64))
    return _finalised(np.asarray(number).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + begun)


def _finalised(x: np.ndarray) -> np.ndarray:
    """The mixing function of splitmix64, a bijection of 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
