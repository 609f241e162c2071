"""Held-out requests with everything known about all their candidates: what every ranking metric reads.

Axes: U requests, P candidate slots (padded).
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from hccp_jax.evaluation.ranking import tie_order

_Tree = TypeVar("_Tree")


@struct.dataclass
class CandidateSet:
    """A batch of held-out requests. Slots may come in any order; rows without a real slot are padding requests.

    Attributes:
        ids: [U, P] int32 item ids, 0 is padding.
        mask: [U, P] bool, real candidates.
        ties: [U, P] uint32, a seeded permutation key: equal scores are ordered by it, smaller first, then by slot.
            None means that the slots already are in tie order (`in_tie_order`), which makes ranking cheaper.
        in_scenario: task -> [U, P] bool, feedback in this scenario; exposed candidates only.
        all_scenario: task -> [U, P] bool, feedback in any scenario.
        ranker_rank: [U, P] int32, the downstream ranker's order over all candidates, 0 the best, P where masked.
        exposed: [U, P] bool, the impressions.
        truth: [U, P] float32, true expected click probability, 0 where masked; None where unknown (real logs).
        octile: [U, P] int8 in 0..7, the item's frequency octile, 0 the most popular.
        entered: [U, P] bool, what the logging pre-ranker passed on to the ranker (D2 of SDCL); None where unknown.
    """

    ids: jax.Array
    mask: jax.Array
    ties: jax.Array | None
    in_scenario: dict[str, jax.Array]
    all_scenario: dict[str, jax.Array]
    ranker_rank: jax.Array
    exposed: jax.Array
    truth: jax.Array | None
    octile: jax.Array
    entered: jax.Array | None = None

    @property
    def real(self) -> jax.Array:
        """[U] bool: requests with a candidate; the others pad the batch."""
        return self.mask.any(axis=1)


def permute(tree: _Tree, slots: jax.Array) -> _Tree:
    """Reorder the slots of every [U, P] leaf: slot j of the result is slot `slots[:, j]` of the input."""
    return jax.tree.map(lambda leaf: jnp.take_along_axis(jnp.asarray(leaf), slots, axis=1), tree)


def in_tie_order(candidates: CandidateSet) -> CandidateSet:
    """Sort the slots by their tie key, once, so that later rankings break ties by slot.

    Returns:
        The same requests with permuted slots and `ties` None. Every metric is unchanged; scores must be computed for,
        or permuted to, the new slots.

    """
    if candidates.ties is None:
        return candidates
    return dataclasses.replace(permute(candidates, tie_order(candidates.ties)), ties=None)
