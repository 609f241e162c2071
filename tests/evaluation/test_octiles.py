import functools
import math

import jax
import numpy as np
import pytest
from drawn_requests import SEEDS, SHAPES, best_first, draw_candidates, draw_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.errors import UserError
from hccp_jax.evaluation.metrics import merge
from hccp_jax.evaluation.octiles import assign_octiles, octile_edges, octile_table, octile_totals

jit_totals = jax.jit(octile_totals, static_argnames="k")
quick = settings(max_examples=40, deadline=None, database=None)


@quick
@given(SEEDS, st.integers(1, 200))
def test_octiles_fall_in_frequency_and_share_the_mass(seed, items):
    rng = np.random.default_rng(seed)
    frequency, popularity = rng.integers(0, 9, items), rng.permutation(items)
    mass = rng.integers(0, 5, items).astype(float)
    mass[rng.integers(items)] += 1
    octile = assign_octiles(frequency, popularity, mass)
    assert octile.dtype == np.int8
    ranked = sorted(range(items), key=lambda item: (-frequency[item], popularity[item]))
    assert (np.diff(octile[ranked]) >= 0).all()
    assert ((octile >= 0) & (octile < 8)).all()
    held = np.bincount(octile, weights=mass, minlength=8)
    assert (np.abs(held - mass.sum() / 8) <= mass.max()).all()
    for group, (high, low) in enumerate(octile_edges(frequency, octile)):
        inside = frequency[octile == group]
        assert (high, low) == (inside.max(), inside.min()) if inside.size else math.isnan(high) and math.isnan(low)


def test_equal_masses_are_cut_exactly():
    octile = assign_octiles(np.zeros(80), np.arange(80)[::-1], np.ones(80))
    assert octile.tolist() == [7 - item // 10 for item in range(80)]


@pytest.mark.parametrize("mass", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan], []])
def test_a_mass_that_cannot_be_shared_is_refused(mass):
    with pytest.raises(UserError, match="octiles: mass"):
        assign_octiles(np.zeros(len(mass)), np.arange(len(mass)), np.array(mass))


def oracle(scores, requests, k):
    shares = ("ISH", "ASH", "ISPH", "ASPH", "T")
    sums = {name: [0.0] * 8 for name in (*shares, *(f"{share} all" for share in shares), "slots")}
    for row in range(requests.mask.shape[0]):
        ranked = best_first(scores, requests, row)
        octile = requests.octile[row].tolist()
        weights = {"ISH": requests.in_scenario["click"], "ASH": requests.all_scenario["click"], "T": requests.truth}
        weights |= {"ISPH": requests.in_scenario["purchase"], "ASPH": requests.all_scenario["purchase"]}
        for name, weight in weights.items():
            row_weight = weight[row].tolist()
            for position, slot in enumerate(ranked):
                sums[f"{name} all"][octile[slot]] += row_weight[slot]
                if position < k:
                    sums[name][octile[slot]] += row_weight[slot]
        for slot in ranked[:k]:
            sums["slots"][octile[slot]] += 1

    def ratio(a, b):
        return a / b if b else math.nan

    table = {
        f"{name}@{k}/octile{group + 1}": ratio(sums[name][group], sums[f"{name} all"][group])
        for name in shares
        for group in range(8)
    }
    tail = sums["slots"][6] + sums["slots"][7]
    table[f"tail_slots@{k}"] = ratio(tail, sum(sums["slots"]))
    table[f"tail_hits_per_slot@{k}"] = ratio(sums["ASH"][6] + sums["ASH"][7], tail)
    return table


@quick
@given(SEEDS, SHAPES, st.sampled_from([2, 100]))
def test_the_table_is_the_definition_however_the_requests_are_split(seed, shape, k):
    requests, scores = draw_candidates(seed, shape), draw_scores(seed, shape)
    expected = oracle(scores, requests, k)
    rows = [jax.tree.map(lambda x, u=u: x[u : u + 1], (scores, requests)) for u in range(shape[0])]
    split = functools.reduce(merge, (jit_totals(*row, k=k) for row in rows))
    for summed in (jit_totals(scores, requests, k=k), split):
        table = octile_table(summed)
        assert table.keys() == expected.keys()
        np.testing.assert_allclose(list(table.values()), [expected[name] for name in table], rtol=1e-6)


def test_without_the_truth_there_is_no_true_mass():
    requests = draw_candidates(0, (3, 7)).replace(truth=None)
    table = octile_table(octile_totals(draw_scores(0, (3, 7)), requests))
    assert not [name for name in table if name.startswith("T@")]


def test_sums_of_different_cutoffs_do_not_merge():
    requests, scores = draw_candidates(0, (3, 7)), draw_scores(0, (3, 7))
    with pytest.raises(ValueError, match="metadata"):
        merge(octile_totals(scores, requests, k=2), octile_totals(scores, requests, k=3))
