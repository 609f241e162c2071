"""The evidence and the verdicts, from numbers small enough to judge by hand."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.claims import Record, by_seed, decide, difference, judge, read_records
from experiments.experiment import Claim, Column, Experiment, Row
from hccp_jax.errors import UserError


@dataclass(frozen=True)
class Settings:
    steps: int = 1


ROWS = (Row("base", "Base"), Row("good", "Good"), Row("truth", "Truth", reference=True))


def experiment(*claims):
    columns = (Column("ISH@100", "ISH@100"),)
    return Experiment(
        "demo", "Demo", "A. Author", "Table 1", 1, "Simulated.", Settings(), {}, ROWS, columns, claims, 3, print
    )


def claim(better="good", worse="base", metric="ISH@100"):
    return Claim("C-1", "A. Author", "Good is ahead of base.", metric, better, worse, smallest_effect=0.005)


def records(**rows):
    """Records from row -> list of ISH@100, one a seed."""
    return [
        Record(row, seed, {"ISH@100": value}, {}, Path("none"))
        for row, values in rows.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("mean", "low", "high", "verdict"),
    [
        (0.02, 0.01, 0.03, "supported"),
        (0.005, 0.001, 0.009, "supported"),
        (-0.02, -0.03, -0.01, "not_supported"),
        (0.002, 0.001, 0.003, "not_supported"),  # above 0, yet too small to matter
        (0.000, -0.004, 0.004, "not_supported"),
        (0.004, 0.001, 0.007, "inconclusive"),
        (0.02, -0.01, 0.05, "inconclusive"),
        (0.02, 0.0, 0.04, "inconclusive"),
    ],
)
def test_judge(mean, low, high, verdict):
    assert judge(mean, low, high, smallest_effect=0.005) == verdict


def test_differences_are_paired_by_seed():
    found = difference(records(base=[0.1, 0.5, 0.9], good=[0.2, 0.6, 1.0]), "ISH@100", "good", "base")
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.count == 3


def test_only_common_seeds_with_finite_values_count():
    made = records(base=[0.1, None, 0.3, 0.4], good=[0.2, 0.3, float("nan")])
    assert by_seed(made, "good", "ISH@100") == {(0, 0): 0.2, (0, 1): 0.3}
    found = difference(made, "ISH@100", "good", "base")
    assert found is not None
    assert found.count == 1


def test_supported_verdict_of_three_seeds_says_that_five_are_needed():
    (verdict,) = decide([claim()], records(base=[0.1, 0.5, 0.9], good=[0.2, 0.61, 1.0]))
    assert verdict.verdict == "supported"
    assert verdict.note == "3 seeds; five are needed to call it reproduced"
    entry = verdict.as_json()
    assert list(entry)[:7] == ["id", "paper", "statement", "verdict", "effect", "ci95", "seeds"]
    assert entry["ci95"][0] < entry["effect"] < entry["ci95"][1]
    assert entry["seeds"] == 3


def test_five_seeds_need_no_warning():
    (verdict,) = decide([claim()], records(base=[0.1] * 5, good=[0.0, 0.01, 0.0, 0.01, 0.0]))
    assert verdict.verdict == "not_supported"
    assert verdict.word == "not supported"
    assert verdict.note == "5 seeds"


@pytest.mark.parametrize(
    ("better", "metric", "data", "reason"),
    [
        ("good", "ISH@100", {"base": [0.1], "good": [0.2]}, "1 seed in common; an interval needs two"),
        ("good", "ISH@100", {"base": [0.1, 0.2]}, "row good has no results"),
        ("good", "AUC", {"base": [0.1, 0.2], "good": [0.2, 0.3]}, "row good has no AUC"),
        ("good", "ISH@100", {"base": [None, 0.2], "good": [0.2]}, "rows good and base have no seed in common"),
    ],
)
def test_lack_of_data_is_inconclusive_with_a_reason(better, metric, data, reason):
    (verdict,) = decide([claim(better, metric=metric)], records(**data))
    entry = verdict.as_json()
    assert entry["verdict"] == "inconclusive"
    assert entry["reason"] == reason
    assert entry["ci95"] is None


def write(out_dir, *lines):
    (out_dir / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def entry(row, seed, value, experiment="demo"):
    metrics = {"ISH@100": value}
    return {"experiment": experiment, "row": row, "seed": seed, "metrics": metrics, "config_hash": f"{row}{seed}"}


def test_records_are_ordered_and_the_last_line_wins(tmp_path):
    write(
        tmp_path,
        entry("truth", 0, 0.9),
        entry("good", 1, 0.3),
        entry("base", 0, 0.1),
        entry("base", 0, 0.2),
        entry("base", 1, 0.5, experiment="other"),
        entry("dropped", 0, 0.5),
    )
    (tmp_path / "trials" / "good1").mkdir(parents=True)
    (tmp_path / "trials" / "good1" / "result.json").write_text('{"epochs": 1.5}')
    found = read_records(tmp_path, experiment())
    assert [(r.row, r.seed, r.metrics["ISH@100"]) for r in found] == [
        ("base", 0, 0.2),
        ("good", 1, 0.3),
        ("truth", 0, 0.9),
    ]
    assert found[1].result == {"epochs": 1.5}


def test_without_results_it_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"results\.jsonl: no such file"):
        read_records(tmp_path, experiment())


def in_worlds(row, *worlds):
    """Records of one row, a list of ISH@100 a world."""
    return [
        Record(row, seed, {"ISH@100": value}, {}, Path("none"), world)
        for world, values in enumerate(worlds)
        for seed, value in enumerate(values)
    ]


def test_pairs_are_of_the_same_world_and_seed():
    made = in_worlds("base", [0.1, 0.2], [0.5, 0.6]) + in_worlds("good", [0.2, 0.3], [0.6, 0.7])
    (verdict,) = decide([claim()], made)
    assert verdict.verdict == "supported"
    assert verdict.by_world == pytest.approx((0.1, 0.1))
    assert verdict.note == "2 seeds x 2 worlds; five are needed to call it reproduced"


def test_worlds_that_disagree_leave_a_claim_open_however_many_seeds():
    wide = [0.1 + 0.001 * seed for seed in range(20)]
    made = in_worlds("base", [0.0] * 20, [0.0] * 20, [0.0] * 20)
    made += in_worlds("good", wide, wide, [-value for value in wide])
    assert decide([claim()], made)[0].verdict == "inconclusive"


def test_a_reference_stands_for_all_seeds_of_its_world():
    made = in_worlds("truth", [0.9], [0.8]) + in_worlds("base", [0.5, 0.4], [0.4, 0.3])
    (verdict,) = decide([claim("truth")], made, ["truth"])
    assert verdict.interval is not None
    assert verdict.interval.count == 4
    assert verdict.by_world == pytest.approx((0.45, 0.45))


def test_a_contrast_is_a_weighted_sum_and_may_be_relative():
    made = records(base=[0.1, 0.2, 0.4], good=[0.2, 0.4, 0.8])
    terms = ((1.0, "good", "ISH@100"), (-1.0, "base", "ISH@100"))
    (verdict,) = decide([Claim("C-1", "A", "Good doubles base.", terms=terms, relative=True)], made)
    assert verdict.interval is not None
    assert verdict.interval.mean == pytest.approx(1.0)
    nothing = records(base=[0.0, 0.2, 0.4], good=[0.2, 0.4, 0.8])
    assert decide([Claim("C-1", "A", "Good doubles base.", terms=terms, relative=True)], nothing)[0].interval.count == 2
    swapped = Claim("C-2", "A", "Their sum is above 0.", terms=((2.0, "good", "ISH@100"), (1.0, "base", "ISH@100")))
    assert decide([swapped], made)[0].interval.mean == pytest.approx((0.5 + 1.0 + 2.0) / 3)


@pytest.mark.parametrize(
    ("spread", "shift", "verdict"),
    [(0.001, 0.0, "supported"), (0.001, 0.1, "not_supported"), (0.05, 0.0, "inconclusive")],
)
def test_a_claim_that_nothing_much_happens(spread, shift, verdict):
    made = records(base=[0.5] * 5, good=[0.5 + shift + spread * step for step in (-2, -1, 0, 1, 2)])
    small = Claim("C-1", "A. Author", "Good is level with base.", "ISH@100", "good", "base", within=0.02)
    assert decide([small], made)[0].verdict == verdict


def test_many_statements_in_one_breath_are_adjusted_and_others_are_not():
    made = records(base=[0.0] * 3, good=[0.1, 0.2, 0.3])  # t = 3.46 with 2 degrees of freedom: p = 0.074 two-sided
    made += records(better=[0.19, 0.2, 0.21])  # t = 34.6: p = 0.0008
    sure = [Claim(f"C-1.{n}", "A", "Ahead.", "ISH@100", "better", "base") for n in range(40)]
    alone = decide(sure[:1], made)[0]
    assert (alone.verdict, round(alone.chance, 4)) == ("supported", 0.0008)
    many = decide(sure * 2, made)
    assert {v.verdict for v in many} == {"inconclusive"}
    assert many[0].reason == "supported on its own, not after Holm's adjustment over 80 claims"
    apart = decide([Claim(f"C-{n}", "A", "Ahead.", "ISH@100", "better", "base") for n in range(80)], made)
    assert {v.verdict for v in apart} == {"supported"}
