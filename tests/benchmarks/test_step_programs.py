"""The compiled step of HCCP sends what is counted by hand, and the closed form holds for a program it has not seen."""

from dataclasses import replace

import pytest

from experiments.benchmarks.cost_model import apart, fitted
from experiments.benchmarks.step_programs import compiled, counted, described, least
from experiments.settings import SimulatedSettings
from hccp_jax.cascade.world import WorldConfig
from hccp_jax.models.three_tower import ModelConfig

pytestmark = pytest.mark.slow  # they compile the step for several meshes

WORLD = WorldConfig(items=127, users=63, candidates=64, ranked=40, rerank=20, clusters=8, categories=4)
SETTINGS = replace(
    SimulatedSettings(), world=WORLD, model=ModelConfig(id_width=4, vector=4, hidden=8, experts=2, expert_width=4)
)


@pytest.fixture(scope="module")
def programs():
    steps = {devices: described(SETTINGS, "lazy", 2, devices, 1) for devices in (2, 4, 8)}
    return steps, {devices: counted(compiled(step, SETTINGS), devices) for devices, step in steps.items()}


def test_payloads_are_those_counted_by_hand(programs):
    steps, found = programs
    by_hand = least(SETTINGS, steps[4], 4, by_rows=True)
    payloads = found[4].payloads(1)
    impressions = 4 * 2 * WORLD.exposed
    assert payloads["all-gather", "all"] == by_hand["all-gather"](4) == impressions * (4 * 4 + 4 + 4 + 1)
    assert payloads["reduce-scatter", "all"] == by_hand["reduce-scatter"](4) == impressions * 4 * 4
    # every gradient is summed once, beside a few numbers of the loss
    assert by_hand["all-reduce"](4) <= payloads["all-reduce", "all"] <= by_hand["all-reduce"](4) + 4096
    assert payloads["all-reduce", "all"] - found[2].payloads(1)["all-reduce", "all"] >= 2 * by_hand["all-reduce"].other


def test_the_closed_form_holds_beyond_what_it_was_fitted_to(programs):
    found = programs[1]
    model = fitted([found[2], found[4]], 1)
    differences = apart(model, found[8])
    assert differences["bytes sent"][2] < 1e-9
    assert all(difference < 0.03 for _, _, difference in differences.values())


def test_a_count_by_hand_of_dense_tables():
    step = described(SETTINGS, "dense", 2, 2, 1)
    by_hand = least(SETTINGS, step, 2, by_rows=False)["all-reduce"]
    rows = described(SETTINGS, "lazy", 2, 2, 1)
    rest = least(SETTINGS, rows, 2, by_rows=True)["all-reduce"].own
    assert by_hand(2) - rest == 4 * 4 * (128 + 64)
