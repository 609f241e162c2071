"""Metrics by item frequency: eight groups of items, from popular to rare, that hold equal shares of the positives.

A hit rate of rare items alone misleads: a model that floods its top K with them reaches it at the head's expense.
Therefore the share of top-K slots that they take, and their hits per slot, stand beside it.

Axes: U requests, P candidate slots, N items, G = 8 octiles with 0 the most popular.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hccp_jax.errors import UserError
from hccp_jax.evaluation.candidates import CandidateSet
from hccp_jax.evaluation.ranking import order

OCTILES = 8
TAIL = 6  # octiles 7 and 8 of the paper's count, which begins at 1


def assign_octiles(frequency: np.ndarray, popularity_rank: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Cut the items, sorted by falling frequency, into eight groups of equal mass (host, numpy).

    An item goes where the middle of its mass falls, so a group is off by at most the mass of its two border items,
    half each; a single item with more than an eighth may leave a group empty.

    Args:
        frequency: [N] times an item was exposed in the training log.
        popularity_rank: [N] order among equal frequencies, smaller first, then by item.
        mass: [N] >= 0, what is to be shared evenly: true click mass over all candidates, or positives.

    Returns:
        [N] int8 in 0..7.

    Raises:
        UserError: where a mass is negative or not finite, or all are zero.

    >>> assign_octiles(np.array([1, 9, 5, 5]), np.array([0, 1, 3, 2]), np.ones(4)).tolist()
    [7, 1, 5, 3]

    """
    mass = np.asarray(mass, np.float64)
    if not np.isfinite(mass).all() or (mass < 0).any() or not mass.any():
        raise UserError(f"octiles: mass: expected values >= 0 with a positive sum, found a sum of {mass.sum()}")
    sorted_items = np.lexsort((np.arange(len(mass)), popularity_rank, -np.asarray(frequency, np.float64)))
    upper = np.cumsum(mass[sorted_items])
    middle = upper - mass[sorted_items] / 2
    groups = np.empty(len(mass), np.int8)
    groups[sorted_items] = np.minimum(np.floor(OCTILES * middle / upper[-1]), OCTILES - 1).astype(np.int8)
    return groups


def octile_edges(frequency: np.ndarray, octile: np.ndarray) -> np.ndarray:
    """[G, 2] float64: the highest and the lowest frequency of each octile, NaN where it is empty (axis labels).

    >>> octile_edges(np.array([1, 9, 5, 5]), np.array([7, 1, 5, 3]))[[1, 7]].tolist()
    [[9.0, 9.0], [1.0, 1.0]]
    """
    frequency = np.asarray(frequency, np.float64)
    members = (frequency[octile == group] for group in range(OCTILES))
    return np.array([(held.max(), held.min()) if held.size else (np.nan, np.nan) for held in members])


@struct.dataclass
class OctileTotals:
    """Sums by octile, each [G] float32, that add over disjoint requests (`metrics.merge`).

    Attributes:
        positives: "ISH" and "ASH" -> clicked candidates in this scenario and in any; "ISPH" and "ASPH" purchased ones,
            where purchases are known.
        hits: those in the top k.
        present: true click mass of the candidates, None where the truth is unknown.
        delivered: true click mass of the top k, or None.
        slots: top-k slots filled.
        k: the cutoff, static.
    """

    positives: dict[str, jax.Array]
    hits: dict[str, jax.Array]
    present: jax.Array | None
    delivered: jax.Array | None
    slots: jax.Array
    k: int = struct.field(pytree_node=False)


def octile_totals(scores: jax.Array, candidates: CandidateSet, k: int = 100) -> OctileTotals:
    """Clicks, purchases, true mass and top-k slots by octile; traceable with `k` static.

    Args:
        scores: [U, P] float.
        candidates: the requests.
        k: cutoff; beyond P it means P.

    """
    mask = candidates.mask
    top = order(scores, mask, candidates.ties)[:, :k]

    def by_octile(values: jax.Array, octile: jax.Array) -> jax.Array:
        groups = jnp.arange(OCTILES, dtype=octile.dtype)[:, None, None]
        return jnp.where(octile[None] == groups, values.astype(jnp.float32)[None], 0).sum(axis=(1, 2))

    def everywhere(values: jax.Array) -> jax.Array:
        return by_octile(jnp.where(mask, values, 0), candidates.octile)

    def on_top(values: jax.Array) -> jax.Array:
        taken, octile = (jnp.take_along_axis(x, top, axis=1) for x in (jnp.where(mask, values, 0), candidates.octile))
        return by_octile(taken, octile)

    flags = {"ISH": candidates.in_scenario["click"], "ASH": candidates.all_scenario["click"]}
    if "purchase" in candidates.in_scenario:
        flags |= {"ISPH": candidates.in_scenario["purchase"], "ASPH": candidates.all_scenario["purchase"]}
    truth = candidates.truth
    return OctileTotals(
        positives={name: everywhere(flag) for name, flag in flags.items()},
        hits={name: on_top(flag) for name, flag in flags.items()},
        present=None if truth is None else everywhere(truth),
        delivered=None if truth is None else on_top(truth),
        slots=on_top(mask),
        k=k,
    )


def octile_table(totals: OctileTotals) -> dict[str, float]:
    """Name -> number, on the host; NaN where a denominator is zero.

    "ISH@k/octileJ" and "ASH@k/octileJ", J = 1..8, are clicks in the top k over clicks present, summed over requests
    before dividing: a request has too few clicks in one octile for a mean of ratios. "ISPH@k/octileJ" and
    "ASPH@k/octileJ" are the same of purchases, where there are any. "T@k/octileJ" is the same with
    the true click probability. "tail_slots@k" is the share of the filled top-k slots that octiles 7 and 8 take, and
    "tail_hits_per_slot@k" their all-scenario click hits a slot.
    """

    def ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
        return float(numerator / denominator) if denominator else float("nan")

    def host(values: jax.Array) -> np.ndarray:
        return np.asarray(values, np.float64)

    shares = {name: (host(totals.hits[name]), host(totals.positives[name])) for name in totals.positives}
    if totals.present is not None and totals.delivered is not None:
        shares["T"] = (host(totals.delivered), host(totals.present))
    table = {
        f"{name}@{totals.k}/octile{group + 1}": ratio(delivered[group], present[group])
        for name, (delivered, present) in shares.items()
        for group in range(OCTILES)
    }
    slots, hits = host(totals.slots), host(totals.hits["ASH"])
    table[f"tail_slots@{totals.k}"] = ratio(slots[TAIL:].sum(), slots.sum())
    table[f"tail_hits_per_slot@{totals.k}"] = ratio(hits[TAIL:].sum(), slots[TAIL:].sum())
    return table
