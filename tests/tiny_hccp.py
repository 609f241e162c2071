"""A tiny HCCP over a stored log of the small world, shared by tests of methods, training and evaluation."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.cascade import logs
from hccp_jax.cascade.source import featurise, impressions
from hccp_jax.data.catalogue import with_frequency
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source, log_source
from hccp_jax.methods.base import Method
from hccp_jax.methods.hccp import Layout, NegativesConfig, hccp
from hccp_jax.models.three_tower import ModelConfig

# free dot products, so that the norms of Eq 5 show
MODEL = ModelConfig(
    id_width=4, category_width=4, vector=8, hidden=8, experts=2, expert_width=8, cross_hidden=4, normalize=False
)
NEGATIVES = NegativesConfig(in_batch_rate=0.2)
SIZE = 16
REQUESTS = 128


class Tiny(NamedTuple):
    """source: the log as batches of SIZE; log: NumPy leaves [REQUESTS, ...]; parameters: [...] random, biases too."""

    spec: Any
    layout: Layout
    method: Method
    source: Source
    log: RequestBatch
    parameters: Any


_made: dict = {}


def tiny(small_world) -> Tiny:
    """The same objects in every test module of a process."""
    world, config, samples = small_world
    if config not in _made:
        _made[config] = _make(world, config, samples)
    return _made[config]


def _make(world, config, samples) -> Tiny:
    first = logs.training_stream(0)
    log = _log(world, config, samples, logs.request_ids(first, 0, REQUESTS))
    log = jax.tree.map(np.asarray, log)
    counts = impressions(log, config.items + 1)
    spec = logs.feature_spec(config)
    catalogue = with_frequency(logs.catalogue(world, config), counts)
    source = log_source(spec, catalogue, featurise, log, SIZE, counts)
    layout = Layout(config.exposed, samples.sequence)
    method = hccp(spec, MODEL, NEGATIVES, layout)
    return Tiny(spec, layout, method, source, log, drawn(method, featurised(source, log, range(1))))


@partial(jax.jit, static_argnums=(1, 2))
def _log(world, config, samples, request):
    return logs.log_requests(world, config, samples, request)


def featurised(source: Source, log: RequestBatch, rows) -> RequestBatch:
    """Some requests of the log with their features."""
    rows = np.asarray(rows)
    return source.featurise(jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), log), source.catalogue)


def drawn(method: Method, batch: RequestBatch, seed: int = 0):
    """Parameters from a normal distribution, so that no bias is 0 and no weight 1; without compiling `init`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def assert_trees_close(first, second, relative: float) -> None:
    """Every leaf within `relative` of its own largest value."""
    left, right = (jax.tree_util.tree_leaves_with_path(tree) for tree in (first, second))
    assert [path for path, _ in left] == [path for path, _ in right]
    for (path, a), (_, b) in zip(left, right, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * scale, err_msg=jax.tree_util.keystr(path))


def assert_trees_equal(first, second) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)
