"""Training samples of next-item prediction from sequences, as ComiRec and CROLoss draw them.

A sample is a user, a position k of its sequence from 4 on, the item there and the items before. Each epoch has every
user once, in a keyed order, so that the users of a batch differ, as in the released code. The random negatives that a
batch shares are drawn inside the step: a batch that goes to the device is histories, items and the numbers of its
samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.data import hashing
from hccp_jax.data.catalogue import Catalogue, FeatureSpec, attach
from hccp_jax.data.order import drawn
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.sequences import Sequences
from hccp_jax.data.source import Source, log_rows, rows_of_part
from hccp_jax.errors import UserError

TASK = "next"
FIRST = 4  # the first position that is predicted
SHARE = 0.8  # of a held-out sequence, before what is predicted


def feature_spec(items: int) -> FeatureSpec:
    """Sizes of a data set that has items, the padding included, and nothing else."""
    return FeatureSpec(1, items, 1, 1, (TASK,), 1, 0)


@dataclass(frozen=True)
class Samples:
    """Samples of a part as a pure function of (seed, step).

    Attributes:
        part: training sequences.
        usable: [n] sequences that are long enough.
        size: B, samples a batch.
        history: H.
    """

    part: Sequences
    usable: np.ndarray
    size: int
    history: int

    def chunk(self, seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> dict:
        """Leaves [seeds, steps, B, ...] int32: "user", "history" [.., H], "item", and "seed" and "number" of draws."""
        row = self.usable[log_rows(len(self.usable), self.size)(seeds, first, steps, part)]
        number = np.arange(first * self.size, (first + steps) * self.size).reshape(steps, self.size)
        number = np.broadcast_to(number[:, rows_of_part(part, self.size)], row.shape)
        bits = np.stack([drawn(seed, own) for seed, own in zip(seeds, number, strict=True)])
        position = FIRST + (bits % (self.part.length[row] - FIRST).astype(np.uint64)).astype(np.int64)
        seed = np.broadcast_to(np.asarray(seeds)[:, None, None], row.shape)
        found = {
            "user": self.part.user[row],
            "history": self.part.before(row, position, self.history),
            "item": self.part.at(row, position),
            "seed": seed,
            "number": number % (1 << 31),
        }
        return {name: leaf.astype(np.int32) for name, leaf in found.items()}


def next_item_source(
    spec: FeatureSpec, catalogue: Catalogue, part: Sequences, size: int, history: int, negatives: int
) -> Source:
    """Batches of samples as requests: the item to predict as the one impression, and random items as pool items.

    Args:
        spec: of `feature_spec`.
        catalogue: feature tables of items, possibly empty.
        part: training sequences.
        size: B, samples a batch.
        history: H, items of a history.
        negatives: random items that each sample adds to those of the batch, uniform with replacement.

    Raises:
        UserError: if no sequence has a position to predict.
    """
    usable = np.flatnonzero(part.length > FIRST)
    if not len(usable):
        raise UserError(f"sequences_train: no user has more than {FIRST} events, expected one at least")

    def featurise(batch: dict[str, jax.Array], catalogue: Catalogue) -> RequestBatch:
        random = _random_items(batch["seed"], batch["number"], negatives, spec.items)
        ids = jnp.concatenate([batch["item"][:, None], random], axis=1)
        return attach(requests(batch["user"], batch["history"], ids), catalogue)

    frequency = np.bincount(np.asarray(part.item[:]), minlength=spec.items).astype(np.float32)
    chunk = Samples(part, usable, size, history).chunk
    return Source(spec, catalogue, featurise, chunk, len(usable) / size, frequency)


def _random_items(seed: jax.Array, number: jax.Array, count: int, items: int) -> jax.Array:
    """[B, count] int32 ids from 1 on; a remainder of 32 bits favours no item by more than items / 2^32."""
    bits = hashing.hash_bits("negative", seed[:, None], number[:, None], jnp.arange(count))
    return 1 + (bits % jnp.uint32(items - 1)).astype(jnp.int32)


def requests(user: jax.Array, history: jax.Array, ids: jax.Array) -> RequestBatch:
    """Samples as requests, features not attached.

    Args:
        user: [U] int32.
        history: [U, H] int32, 0 where there is none.
        ids: [U, K] int32, the item to predict and random ones behind it.
    """
    first = jnp.broadcast_to(jnp.arange(ids.shape[1]) == 0, ids.shape)
    return RequestBatch(
        user={"id": user},
        history={"id": history},
        history_mask=history > 0,
        items={"id": ids},
        cross=None,
        stage=jnp.where(first, Stage.EXPOSED, Stage.POOL).astype(jnp.int8),
        rank=jnp.where(first, 0, -1).astype(jnp.int32),
        labels={TASK: first.astype(jnp.float32)},
        teacher={},
        mask=jnp.ones(ids.shape, bool),
    )


@dataclass(frozen=True)
class Questions:
    """What is asked of held-out users: given the first 80 % of a sequence, the items of the rest.

    Attributes:
        user: [U] int32.
        history: [U, H] int32, the last items before, oldest first, then zeros.
        row: [P] int32 whose target each is, ascending.
        target: [P] int32, distinct for a user: an item that comes twice is one target.
    """

    user: np.ndarray
    history: np.ndarray
    row: np.ndarray
    target: np.ndarray


def questions(part: Sequences, history: int, users: int = 0) -> Questions:
    """The questions of a part.

    Args:
        part: held-out sequences; those of one event have no history and ask nothing.
        history: H.
        users: how many, evenly chosen; 0: all.

    Raises:
        UserError: if no sequence has two events.
    """
    row = np.flatnonzero(part.length > 1)
    if not len(row):
        raise UserError("sequences: no held-out user has two events, expected one at least")
    if 0 < users < len(row):
        row = row[np.arange(users) * len(row) // users]
    begin = (SHARE * part.length[row]).astype(np.int64)
    count = part.length[row] - begin
    own = np.repeat(np.arange(len(row)), count)
    place = np.arange(len(own)) - np.repeat(np.cumsum(count) - count, count) + begin[own]
    pairs = np.unique(np.stack([own, part.at(row[own], place)]), axis=1).astype(np.int32)
    return Questions(part.user[row], part.before(row, begin, history), pairs[0], pairs[1])
