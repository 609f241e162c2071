"""The closed form of a step's cost against counts by hand, and the plan that is printed from it."""

import doctest
import json

import pytest

from experiments.benchmarks import accelerator, cost_model, scaling
from experiments.benchmarks.cost_model import Chip, Counted, Line, apart, fitted
from experiments.benchmarks.hlo import Collective
from hccp_jax.errors import UserError

CHIP = Chip("test", flops=10.0, memory_bandwidth=100.0, link_bandwidth=1.0)


def step(devices, model=1, extra=0):
    """A made-up step: gradients of 800 bytes, 40 gathered from each device, 30 summed where a table is shared."""
    found = [Collective("all-reduce", devices, 800 + extra), Collective("all-gather", devices, 40 * devices)]
    if model > 1:
        found.append(Collective("all-reduce", model, 30 * devices))
    return Counted(devices, 100.0 + 7 * devices, 1000.0 + 5 * devices, 50.0 + devices, tuple(found))


def test_the_model_is_that_of_programs_it_has_not_seen():
    model = fitted([step(2), step(4)], 1)
    assert model.flops == Line(100.0, 7.0)
    assert model.payloads == {("all-gather", "all"): Line(0.0, 40.0), ("all-reduce", "all"): Line(800.0, 0.0)}
    for devices in (1, 2, 4, 8, 64):
        assert all(difference < 1e-12 for _, _, difference in apart(model, step(devices)).values())
    assert apart(model, step(8, extra=80))["bytes sent"][2] == pytest.approx(140 / (2 * 7 / 8 * 880 + 280), rel=1e-9)


def test_sums_over_those_that_share_a_table_are_a_term_of_their_own():
    model = fitted([step(4, 2), step(8, 2)], 2)
    assert model.payloads["all-reduce", "model"] == Line(0.0, 30.0)
    # on as many devices as share a table the two kinds of groups are the same
    for devices in (2, 4, 16):
        assert all(difference < 1e-12 for _, _, difference in apart(model, step(devices, 2)).values())


def test_a_prediction_by_hand():
    one, four = (fitted([step(2), step(4)], 1).predict(devices, CHIP) for devices in (1, 4))
    assert (one.compute, one.memory, one.links) == (10.7, 10.05, 0.0)
    assert one.step == 10.7
    assert four.sent == 2 * 3 / 4 * 800 + 3 / 4 * 160
    assert four.step == pytest.approx(12.8 + 1320.0)  # compute is the slower of the two, links are added
    assert four.resident == 54.0


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--tables=sparse", "tables=sparse: expected dense, lazy or adagrad"),
        ("--model=two", "model=two: expected whole numbers"),
        ("--model=3", "model=3: expected a divisor of rows=20480"),
        ("--accelerator=abacus", "abacus"),
        ("--requests=0", "requests"),
    ],
)
def test_bad_flags(argument, told):
    with pytest.raises(UserError, match=told):
        scaling.parse([argument])


def test_dense_tables_are_not_shared():
    with pytest.raises(UserError, match="dense tables stay whole"):
        scaling.main(["--tables=dense", "--model=2"])


def test_speeds_can_be_given():
    assert scaling.parse([])["chip"] == scaling.CHIPS["h100"]
    chip = scaling.parse(["--accelerator=v5e", "--link_bandwidth=1e9"])["chip"]
    assert (chip.flops, chip.link_bandwidth) == (scaling.CHIPS["v5e"].flops, 1e9)


@pytest.mark.parametrize(("extra", "code"), [(0, 0), (100, 1)])
def test_the_exit_code_says_whether_the_model_holds(monkeypatch, capsys, tmp_path, extra, code):
    def plan(tables, model, requests, rows):
        programs = (step(1), step(2), step(4), step(8, extra=extra))
        least = {"all-reduce": Line(400.0, 0.0), "all-gather": Line(0.0, 40.0)}
        return scaling.Plan(tables, programs, fitted(programs[1:3], model), least)

    monkeypatch.setattr(scaling, "plan", plan)
    monkeypatch.setattr(accelerator, "asked_elsewhere", lambda: None)
    target = tmp_path / "plan.json"
    assert scaling.main(["--tables=lazy", f"--json={target}"]) == code
    printed = capsys.readouterr().out
    assert "all-reduce of 0.00 + 0.000 D MB: 2.00 times what it must be" in printed
    assert "assumed, not measured: H100" in printed
    assert "no accelerator here" in printed
    (found,) = json.loads(target.read_text())["plans"]
    assert found["agrees"] is (code == 0)
    assert [one["devices"] for one in found["predicted"]] == list(scaling.PREDICTED)


def test_examples():
    assert doctest.testmod(cost_model).failed == 0
