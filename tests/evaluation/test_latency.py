"""What serving costs: counted operations, parameters, and the cheaper path of two models in series."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hccp import drawn, featurised, tiny

from hccp_jax.evaluation.latency import serving_cost
from hccp_jax.methods.hap import HyperConfig, hap
from hccp_jax.methods.pointwise import PointwiseHyper, pointwise
from hccp_jax.models.light_heavy import HapConfig
from hccp_jax.models.two_tower import TwoTower, TwoTowerConfig


@pytest.fixture(scope="module")
def one(small_world):
    made = tiny(small_world)
    batch = featurised(made.source, made.log, range(1))
    everything = made.source.catalogue.items
    ids = jnp.arange(len(next(iter(everything.values()))), dtype=jnp.int32)
    return made, batch, everything | {"id": ids}


def test_a_two_tower_pair_costs_its_dot_product(one):
    made, batch, items = one
    config = TwoTowerConfig(vector=32)
    method = pointwise(made.spec, TwoTower(config, made.spec))
    parameters = drawn(method, batch)
    cost = serving_cost(method, parameters, PointwiseHyper(), batch, items, repeats=3)
    assert cost.parameters == sum(np.size(leaf) for leaf in jax.tree.leaves(parameters))
    assert 2 * 32 <= cost.flops_per_candidate <= 2 * 32 + 8  # scale and bias beside the product
    assert 0 < cost.p50_ms <= cost.p99_ms


@pytest.mark.slow
def test_the_heavy_model_runs_on_the_routed_share_only_and_serves_the_same(one):
    made, batch, items = one
    method = hap(made.spec, HapConfig(), made.layout.exposed)
    parameters = drawn(method, batch)
    flops = {}
    for hyper in (
        HyperConfig(),
        HyperConfig(routed=1.0),
        HyperConfig(light_only=1.0),
        dataclasses.replace(HyperConfig(), routed=0.05),
    ):

        @jax.jit
        def both(parameters, batch, hyper=hyper):
            users, sides = method.user_side(parameters, batch), method.item_side(parameters, batch.items)
            heads = method.route(method.pair_scores(parameters, users, sides, batch.cross), hyper, batch.mask)
            served = method.serve(parameters, hyper, users, sides, batch.cross, batch.mask)
            return served, method.served(heads, hyper)

        served, expected = both(parameters, batch)
        expected = jnp.where(batch.mask, expected, 0)
        np.testing.assert_allclose(jnp.where(batch.mask, served, 0), expected, rtol=1e-4, atol=1e-4)
        cost = serving_cost(method, parameters, hyper, batch, items, repeats=1)
        flops[hyper.routed, hyper.light_only] = cost.flops_per_candidate
    assert flops[1.0, 0.0] > 2 * flops[0.05, 0.0] > flops[0.3, 1.0]
