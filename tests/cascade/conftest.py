"""One compiled program for all that the funnel does to 256 requests, and one source of fresh batches."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

SIZE = 32


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.fixture(scope="session")
def run(small_world):
    """The first 256 requests of training seed 0 through every stage, as NumPy."""
    from hccp_jax.cascade import funnel, logs

    @partial(jax.jit, static_argnums=(1, 2))
    def stages(world, config, samples, request):
        context = funnel.contexts(world, config, request)
        slots = funnel.retrieve(world, config, context)
        log = logs.log_requests(world, config, samples, request)
        held = logs.held_out(world, config, request)
        truth = funnel.click_logits(world, config, context.user, context.intent, held.requests.items["id"])
        buys = funnel.purchase_logits(world, config, context.user, held.requests.items["id"])
        return {"context": context, "slots": slots, "log": log, "held": held, "truth": truth, "buys": buys}

    world, config, samples = small_world
    request = logs.request_ids(logs.training_stream(0), 0, 256)
    return SimpleNamespace(request=np.asarray(request), **numpy(stages(world, config, samples, request)))


@pytest.fixture(scope="session")
def fresh(small_world):
    """Fresh requests, two steps of two seeds a chunk."""
    from hccp_jax.cascade.source import fresh_source

    return fresh_source(*small_world, SIZE, 2, 2)


@pytest.fixture(scope="session")
def tables(small_world):
    """The tables of the small world as NumPy."""
    return numpy(small_world[0].replace(ranker=jnp.zeros(())))
