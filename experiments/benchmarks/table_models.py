"""Two small models on a table of users and one of items, as a user of the package would write them.

Their cost is that of their tables and of plain products, so that a step of theirs compares libraries and not models.
`peers/torch_models.py` has the same two in PyTorch.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.data.catalogue import Catalogue, FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.methods.base import Method
from hccp_jax.methods.pointwise import PointwiseHyper, pointwise
from hccp_jax.models.mmoe import MixtureOfExperts
from hccp_jax.models.pair_model import PairModel, dot_products
from hccp_jax.models.table import ITEMS, USERS, Table
from hccp_jax.training.parallel import wrap
from hccp_jax.training.state import TrainState, initial_state, stack_numbers
from hccp_jax.training.step import train_chunk
from hccp_jax.training.tables import TablesConfig

RATE = 1e-3


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its batches.

    Attributes:
        model: "two-tower" or "MMoE".
        rows: of each of the two tables.
        width: of a row.
        pairs: of a user and an item in a batch.
        hidden: width of a tower's hidden layer, or of an expert.
        vector: width of the towers' results; of the two-tower model only.
        experts: of the MMoE.
        tasks: labels of a pair.
    """

    model: str
    rows: int
    width: int
    pairs: int = 4096
    hidden: int = 128
    vector: int = 64
    experts: int = 8
    tasks: int = 1

    def __str__(self) -> str:
        rows = f"{self.rows // 10**6}M" if self.rows >= 10**6 else f"{self.rows // 1000}k"
        return f"2 x {rows} x {self.width}, B={self.pairs}"


class TwoTowers(PairModel):
    """The logit is the product of the results of two towers, each a hidden layer on a row of a table.

    Attributes:
        shape: sizes.
    """

    shape: Shape

    def setup(self) -> None:
        """Create the tables and layers."""
        self.users, self.items = _tables(self.shape)
        self.user_hidden, self.user_output = nn.Dense(self.shape.hidden), nn.Dense(self.shape.vector)
        self.item_hidden, self.item_output = nn.Dense(self.shape.hidden), nn.Dense(self.shape.vector)

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
        """[U, d] user vectors."""
        return self.user_output(nn.relu(self.user_hidden(self.users(user))))

    def item_side(self, items: dict) -> jax.Array:
        """[U, K, d] item vectors."""
        return self.item_output(nn.relu(self.item_hidden(self.items(items))))

    def pair_logits(self, users: jax.Array, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits."""
        return dot_products(users, items)[:, None]


class Experts(PairModel):
    """A mixture of experts on the rows of user and item, joined, and one linear output a task.

    Attributes:
        shape: sizes.
    """

    shape: Shape

    def setup(self) -> None:
        """Create the tables and layers."""
        s = self.shape
        self.users, self.items = _tables(s)
        self.mixture = MixtureOfExperts(s.experts, s.hidden, s.tasks, jnp.dtype("float32"))
        self.output = self.param("output", nn.initializers.lecun_normal(), (s.tasks, s.hidden))

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
        """[U, w] rows."""
        return self.users(user)

    def item_side(self, items: dict) -> jax.Array:
        """[U, K, w] rows."""
        return self.items(items)

    def pair_logits(self, users: jax.Array, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, T, K] logits."""
        joined = jnp.concatenate([jnp.broadcast_to(users[:, None], items.shape), items], axis=-1)
        mixed = self.mixture(joined.reshape(-1, joined.shape[-1]))
        return jnp.einsum("nth,th->nt", mixed, self.output).reshape(*joined.shape[:2], -1).swapaxes(1, 2)


def _tables(shape: Shape) -> tuple[Table, Table]:
    start = nn.initializers.normal(0.05)
    return Table(USERS, shape.rows, shape.width, start), Table(ITEMS, shape.rows, shape.width, start)


def method_of(shape: Shape) -> Method:
    """The model with the package's log-loss on impressions, the sum over tasks of the mean over pairs."""
    names = tuple(f"task{index}" for index in range(shape.tasks))
    spec = FeatureSpec(shape.rows, shape.rows, 1, 1, names, 0, 0)
    return pointwise(spec, TwoTowers(shape) if shape.model == "two-tower" else Experts(shape))


def drawn(shape: Shape, steps: int, seed: int = 0) -> RequestBatch:
    """Batches of NumPy [1, steps, pairs, ...] of one item a request; rows of the tables are drawn evenly.

    Evenly is the hardest for updates by rows: hardly a row comes twice in a batch.
    """
    random = np.random.default_rng(seed)
    lead = (1, steps, shape.pairs)

    def ids(*size: int) -> np.ndarray:
        return random.integers(1, shape.rows, size, dtype=np.int32)

    labels = (random.random((shape.tasks, *lead, 1)) < 0.3).astype(np.float32)
    fields: dict[str, Any] = {
        "user": {"id": ids(*lead)},
        "history": {"id": np.zeros((*lead, 0), np.int32)},
        "history_mask": np.zeros((*lead, 0), bool),
        "items": {"id": ids(*lead, 1)},
        "cross": None,
        "stage": np.full((*lead, 1), Stage.EXPOSED, np.int8),
        "rank": np.zeros((*lead, 1), np.int32),
        "labels": {f"task{index}": label for index, label in enumerate(labels)},
        "teacher": {},
        "mask": np.ones((*lead, 1), bool),
    }
    return RequestBatch(**fields)


def _as_it_is(batch: RequestBatch, catalogue: Catalogue | None) -> RequestBatch:
    """No features are attached."""
    return batch


class Ours:
    """One run of the package, ready to train a chunk of steps at a time.

    Attributes:
        states: of one member, leaves [1, ...].
        temporary: bytes that XLA sets aside for a chunk beside the states, which are updated in place, and the batches.
    """

    def __init__(self, shape: Shape, update: str, batches: RequestBatch) -> None:
        """Compile a chunk.

        Args:
            shape: sizes.
            update: of `TablesConfig`.
            batches: of `drawn`.
        """
        method, config = method_of(shape), TablesConfig(update=update)
        self._batches = jax.tree.map(jnp.asarray, batches)
        one = jax.tree.map(lambda leaf: leaf[0, 0, :1], self._batches)

        def start(key: jax.Array) -> TrainState:
            return jax.tree.map(lambda leaf: leaf[None], initial_state(method, key, one, config))

        self.states = jax.jit(start)(jax.random.key(0))
        hypers = stack_numbers([PointwiseHyper(learning_rate=RATE)])
        self._before, self._after = (hypers, jnp.zeros(1, jnp.int32)), (None, jnp.float32(100))
        run: Any = wrap(partial(train_chunk, method, _as_it_is, tables=config), "single").run
        self._run = run.lower(self.states, *self._before, self._batches, *self._after).compile()
        memory = self._run.memory_analysis()
        assert memory is not None, "XLA on the CPU tells what it sets aside"
        # what is not updated in place is there twice
        self.temporary = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes

    def train(self) -> np.ndarray:
        """Loss [steps] of one chunk."""
        self.states, metrics = self._run(self.states, *self._before, self._batches, *self._after)
        return np.asarray(metrics["loss"][0])
