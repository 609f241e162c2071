"""A claim's effect by the paper's own numbers, against sums by hand."""

import pytest
from written_run import claim, experiment

from experiments.experiment import Claim, Column
from experiments.printed_effects import printed_effect, printed_text
from launch import EXPERIMENTS, _load

DIFFERENCES = experiment()  # ISH@100, points over base: good 20, poor 5, level 1.25
VALUES = experiment(
    columns=(Column("ISH@100", "ISH@100"), Column("reach", "reach", percent=False)),
    printed={"ISH@100": {"base": 40.0, "good": 44.0}, "reach": {"base": 2.0, "good": 3.0}},
    printed_absolute=True,
)
LIFTS = experiment(
    columns=(Column("clicks", "clicks", percent=False, lift=True),), printed={"clicks": {"good": 10.0, "poor": 4.0}}
)


def of(terms, relative=False):
    return Claim("X", "ours", "It is.", terms=terms, relative=relative)


@pytest.mark.parametrize(
    ("made", "asked", "expected"),
    [
        (DIFFERENCES, claim("a", "good"), 0.2),
        (DIFFERENCES, claim("a", "poor", "good"), -0.15),
        (DIFFERENCES, of(((1.0, "good", "ISH@100"), (-2.0, "poor", "ISH@100"), (1.0, "base", "ISH@100"))), 0.1),
        (DIFFERENCES, of(((1.0, "good", "ISH@100"),)), None),  # the baseline's own value is not printed
        (DIFFERENCES, of(((1.0, "good", "ISH@100"), (-0.98, "base", "ISH@100"))), None),
        (DIFFERENCES, claim("a", "absent"), None),
        (DIFFERENCES, Claim("a", "", "", "T@100", "good", "base"), None),
        (DIFFERENCES, Claim("a", "", "", "ISH@100", "good", "base", relative=True), None),
        (VALUES, claim("a", "good"), 0.04),
        (VALUES, Claim("a", "", "", "ISH@100", "good", "base", relative=True), 0.1),
        (VALUES, Claim("a", "", "", "reach", "good", "base"), 1.0),
        (VALUES, of(((1.0, "good", "ISH@100"), (-0.98, "base", "ISH@100"))), 0.44 - 0.98 * 0.4),
        (LIFTS, Claim("a", "", "", "clicks", "good", "base", relative=True), 0.1),
        (LIFTS, Claim("a", "", "", "clicks", "good", "poor", relative=True), 1.10 / 1.04 - 1),
        (LIFTS, Claim("a", "", "", "clicks", "good", "poor"), None),  # lifts are no clicks
    ],
)
def test_the_printed_effect_is_the_contrast_of_the_printed_numbers(made, asked, expected):
    found = printed_effect(made, asked)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("better", "smallest", "within", "expected"),
    [
        ("good", 0.2, 0.0, "+0.2000"),
        ("good", 0.3, 0.0, "+0.2000 (too small to matter here)"),
        ("good", 0.2, 0.3, "+0.2000"),
        ("good", 0.2, 0.1, "+0.2000 (the printed numbers deny it)"),
        ("absent", 0.2, 0.0, ""),
    ],
)
def test_it_says_where_the_printed_size_would_not_do(better, smallest, within, expected):
    asked = Claim("a", "", "", "ISH@100", better, "base", smallest, within=within)
    assert printed_text(DIFFERENCES, asked) == expected


def test_a_claim_that_its_paper_denies_is_known():
    """Those of CROLoss that its own table on Books contradicts, and no other claim of any table."""
    denied = {
        asked.id for name in EXPERIMENTS for asked in _load(name).claims if "deny" in printed_text(_load(name), asked)
    }
    assert denied == {"CRO-3.d", "CRO-3 swing.hinge"}  # see the docstring of experiments/croloss_table3.py
