"""Every wrapper gives the numbers of one device, with positives spread unevenly over the devices.

Adam hides a wrong scale of the gradient, so moments after one step are compared: the first is linear in it.
Never two programs with collectives at once: simulated CPU devices may block for ever.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hccp import assert_trees_close, tiny
from toy import Hyper, Toy

from hccp_jax.collectives import pmean
from hccp_jax.errors import UserError
from hccp_jax.methods.hccp import HyperConfig
from hccp_jax.training.parallel import KINDS, wrap
from hccp_jax.training.state import TrainState, initial_state, optimizer, stack_numbers
from hccp_jax.training.step import train_chunk

STEPS = 3
PLACEMENTS = [
    ("emulated", 2, 1),
    ("emulated", 8, 1),
    ("pmap", 2, 1),
    ("pmap", 8, 1),
    ("mesh", 1, 1),
    ("mesh", 2, 1),
    ("mesh", 4, 1),
    ("mesh", 8, 1),
    ("mesh", 1, 2),
    ("mesh", 2, 2),
    ("mesh", 4, 2),
]
QUICK = {("mesh", 4, 2)}  # HCCP takes long to compile; the toy is tried on all


def steps_of(method, source, kind, devices, population, states, hypers, batches):
    """Moments after the first step, all metrics [M, STEPS], parameters after the last; one step a call."""
    wrapped = wrap(partial(train_chunk, method, source.featurise), kind, devices, population)
    states = jax.tree.map(jnp.copy, states)  # they are donated
    groups = len(jax.tree.leaves(batches[0])[0])
    streams, metrics = jnp.arange(2, dtype=jnp.int32) % groups, []
    for number, batch in enumerate(batches):
        states, found = wrapped.run(states, hypers, streams, batch, source.catalogue, jnp.float32(10))
        metrics.append(jax.device_get(found))
        if number == 0:
            moments = jax.device_get(states.moments)
    return moments, jax.tree.map(lambda *x: np.concatenate(x, axis=1), *metrics), jax.device_get(states.parameters)


def clear(first_moments, parameters):
    """The parameters without those whose gradient is next to nothing, which Adam makes a step of any direction of.

    A constant does not change the order of a list, so an offset of a head that only orders has such a gradient.
    """
    (mu, *_) = (part.mu for part in first_moments if hasattr(part, "mu"))
    return jax.tree.map(lambda m, p: np.where((m == 0) | (np.abs(m) > 1e-3 * np.abs(m).max()), p, 0.0), mu, parameters)


def assert_same(first, second):
    for index, (name, tolerance) in enumerate((("moments", 3e-6), ("metrics", 2e-6), ("parameters", 1e-5))):
        a, b = first[index], second[index]
        if name == "parameters":
            a, b = clear(first[0], a), clear(first[0], b)
        try:
            assert_trees_close(a, b, tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.fixture(scope="module")
def toy_case():
    toy = Toy(size=16)
    one = jax.tree.map(lambda x: x[:1], toy.batch(0, 0))
    states = jax.vmap(lambda key: initial_state(toy.method, key, one))(jax.random.split(jax.random.key(0), 2))
    hypers = stack_numbers([Hyper(), Hyper(noise=0.4, learning_rate=0.02)])
    arguments = states, hypers, [toy.chunk([0, 1], number, 1) for number in range(STEPS)]
    where = arguments[2][0]["where"].reshape(2, 8, 2)
    assert len(set(where[0].sum(-1))) > 1
    assert not where[0, -1].any()  # the last of eight devices has nothing that counts
    return toy, arguments, steps_of(toy.method, toy.source, "single", 1, 1, *arguments)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
def test_every_placement_is_one_device(toy_case, placement):
    toy, arguments, expected = toy_case
    assert_same(expected, steps_of(toy.method, toy.source, *placement, *arguments))


@pytest.fixture(scope="module")
def hccp_case(small_world):
    """Requests by falling number of clicks: the first devices have most positives, the last ones none."""
    made = tiny(small_world)
    method, log = made.method, made.log
    clicks = (log.labels["click"] > 0).sum(axis=1)
    busy, idle = np.argsort(-clicks, kind="stable")[:21], np.flatnonzero(clicks == 0)
    batches = []
    for number in range(STEPS):
        rows = np.r_[busy[number::3], idle[9 * number : 9 * (number + 1)]]
        assert len(rows) == 16
        positives = (log.labels["click"][rows] > 0).sum(axis=1).reshape(8, 2).sum(axis=1)
        assert positives[0] > positives[2] > 0
        assert not positives[4:].any()
        batches.append(jax.tree.map(lambda leaf, rows=rows: leaf[rows][None, None], log))
    hypers = stack_numbers(
        [HyperConfig(log_q=0.5, temperature=0.5), HyperConfig(margin=0.2, learning_rate=1e-2, local=0.2)]
    )
    moments = optimizer(0.0).init(made.parameters)
    state = TrainState(jnp.int32(0), made.parameters, moments, jax.random.key(5), jnp.asarray(True))
    states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    arguments = states, hypers, batches
    return made, arguments, steps_of(method, made.source, "single", 1, 1, *arguments)


@pytest.mark.parametrize(
    "placement",
    [
        pytest.param(placement, marks=[] if placement in QUICK else pytest.mark.slow, id=str(placement))
        for placement in PLACEMENTS
    ],
)
def test_hccp_is_the_same_on_every_placement(hccp_case, placement):
    made, arguments, expected = hccp_case
    assert_same(expected, steps_of(made.method, made.source, *placement, *arguments))


def mean_of_local_losses(method):
    """The common mistake: every device takes the mean over its own lists, with its own negatives."""

    def loss(*arguments):
        value, terms = method.loss(*arguments[:-1], None)
        return pmean((value, terms), arguments[-1])

    return method._replace(loss=loss)


def without_averaging(method):
    """Another one: the gradient of the global loss is not averaged; each device's gradient is its own part only."""

    def loss(parameters, *rest):
        value, terms = method.loss(parameters, *rest)
        return value / 2, terms

    return method._replace(loss=loss)


@pytest.mark.parametrize("mistake", [mean_of_local_losses, without_averaging])
def test_the_comparison_catches_a_wrong_step(toy_case, mistake):
    toy, arguments, expected = toy_case
    with pytest.raises(AssertionError, match="moments"):
        assert_same(expected, steps_of(mistake(toy.method), toy.source, "emulated", 8, 1, *arguments))


def test_a_loss_that_is_not_global_is_refused_when_it_is_traced(toy_case):
    """check_vma is on: a forgotten reduction does not train."""
    toy, (states, hypers, batches), _ = toy_case
    forgetful = toy.method._replace(loss=lambda *arguments: toy.loss(*arguments[:-1], None))
    with pytest.raises(Exception, match=r"vary|out_specs"):
        steps_of(forgetful, toy.source, "mesh", 4, 1, states, hypers, batches)


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_too_many_devices_are_refused(kind):
    with pytest.raises(UserError, match=r"^devices=9: only 8 of cpu are there$"):
        wrap(lambda *_: None, kind, 9)
    with pytest.raises(UserError, match=r"^devices=16: only 8 of cpu are there$"):
        wrap(lambda *_: None, kind, 4, 4)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match=r"^parallel='gpu': expected one of single, emulated, pmap, mesh$"):
        wrap(lambda *_: None, "gpu")
    assert KINDS == ("single", "emulated", "pmap", "mesh")


def test_only_a_mesh_has_a_population_axis():
    assert [wrap(lambda *_: None, kind, 1).population for kind in KINDS] == [1, 1, 1, 1]
    assert wrap(lambda *_: None, "mesh", 2, 3).population == 3
