"""How many requests an online test needs: from arrays on disk, against the formulas written out."""

import dataclasses

import numpy as np
import pytest

from experiments.claims import Record
from experiments.hccp_online import EXPERIMENT
from experiments.online_power import Need, per_request, power, power_notes
from experiments.tables import build_table, to_markdown
from hccp_jax.evaluation.lift import crossed_lift

REQUESTS = 400


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two rows, two worlds, three seeds; hccp earns about a tenth more from the same requests."""
    found, random = [], np.random.default_rng(3)
    for world in range(2):
        luck = random.gamma(4.0, 0.25, REQUESTS) * (1 + world)
        for seed in range(3):
            for row, factor in (("base", 1.0), ("hccp", 1.1)):
                directory = tmp_path_factory.mktemp("trial")
                clicks = factor * luck + 0.05 * random.normal(size=REQUESTS)
                values = {"online/clicks": clicks, "online/realised_clicks": random.poisson(np.maximum(clicks, 0))}
                np.savez(directory / "per_request.npz", **values)
                found.append(Record(row, seed, {"online/clicks": clicks.mean()}, {}, directory, world))
    return found


def test_values_by_request_are_read_by_world_and_seed(records):
    found = per_request(records, "hccp", "online/clicks")
    assert sorted(found) == [(world, seed) for world in range(2) for seed in range(3)]
    assert per_request(records, "hccp", "online/other") == {}
    assert per_request(records, "sdcl", "online/clicks") == {}


def test_requests_needed_by_the_formulas(records):
    found = power(records, "hccp", "base", "online/clicks")
    one, other = (per_request(records, row, "online/clicks") for row in ("hccp", "base"))
    paired, unpaired = [], []
    for key, a in one.items():
        b = other[key]
        ratio = a.mean() / b.mean()
        paired.append(np.var((a - ratio * b) / b.mean(), ddof=1))
        unpaired.append((np.var(a, ddof=1) + ratio**2 * np.var(b, ddof=1)) / b.mean() ** 2)

    def need(variance):
        half_width, both = 1.959963985, 1.959963985 + 0.841621234
        return Need(*(int(np.ceil(variance * (z / 0.01) ** 2)) for z in (half_width, both)))

    assert found.paired == need(np.mean(paired))
    assert found.unpaired == need(np.mean(unpaired))
    assert found.unpaired.power > 20 * found.paired.power  # what the requests share cancels


def test_lifts_are_crossed_within_each_world(records):
    found = power(records, "hccp", "base", "online/clicks")
    one, other = (per_request(records, row, "online/clicks") for row in ("hccp", "base"))
    for world in range(2):
        a, b = (np.stack([values[world, seed] for seed in range(3)]) for values in (one, other))
        assert found.lifts[world] == crossed_lift(a, b)
        assert found.lifts[world].mean == pytest.approx(0.1, abs=0.01)


def test_rows_without_values_say_nothing(records):
    assert power(records, "hccp", "without_up", "online/clicks") is None
    assert power_notes(EXPERIMENT, [dataclasses.replace(r, directory=r.directory / "no") for r in records]) == []


def test_the_notes_stand_under_the_table(records):
    lines = power_notes(EXPERIMENT, records)
    assert len(lines) == 2  # an explanation, and clicks of HCCP over Base
    found = power(records, "hccp", "base", "online/clicks")
    realised = power(records, "hccp", "base", "online/realised_clicks")
    assert "HCCP over Base" in lines[1]
    assert f"paired expected {found.paired.half_width:,} / {found.paired.power:,}" in lines[1]
    assert f"unpaired realised {realised.unpaired.half_width:,} / {realised.unpaired.power:,}" in lines[1]
    text = to_markdown(build_table(EXPERIMENT, records))
    assert "".join(f"* {line}\n" for line in lines) in text
    without = dataclasses.replace(EXPERIMENT, notes=None)
    assert "Power." not in to_markdown(build_table(without, records))
