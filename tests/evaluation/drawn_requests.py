"""Small random requests with ties, holes in the mask, empty rows and missing feedback; and literal rankings of them."""

import math

import numpy as np
from hypothesis import strategies as st

from hccp_jax.evaluation.candidates import CandidateSet

SHAPES = st.sampled_from([(1, 1), (5, 12)])  # few: each shape is compiled once
SEEDS = st.integers(0, 2**31)


def draw_candidates(seed: int, shape: tuple[int, int], *, distinct_ties: bool = False) -> CandidateSet:
    rng = np.random.default_rng(seed)
    requests, slots = shape
    mask = rng.random(shape) < rng.choice([0.0, 0.6, 1.0], (requests, 1), p=[0.1, 0.6, 0.3])
    exposed = mask & (rng.random(shape) < 0.6)
    in_scenario = {task: exposed & (rng.random(shape) < 0.3) for task in ("click", "purchase")}
    elsewhere = {task: mask & (rng.random(shape) < 0.2) for task in in_scenario}
    ranker = np.zeros(shape, np.int32)
    for row in range(requests):
        ranker[row, mask[row]] = rng.permutation(mask[row].sum())
    if distinct_ties:
        ties = rng.permutation(requests * slots).reshape(shape).astype(np.uint32) * np.uint32(0x9E3779B1)
    else:
        ties = rng.choice(np.array([0, 1, 2**31, 2**32 - 1], np.uint32), shape)
    return CandidateSet(  # masked slots hold values that would show if they were read
        ids=np.where(mask, rng.integers(1, 99, shape), 0).astype(np.int32),
        mask=mask,
        ties=ties,
        in_scenario={task: flag | ~mask for task, flag in in_scenario.items()},
        all_scenario={task: in_scenario[task] | elsewhere[task] | ~mask for task in in_scenario},
        ranker_rank=ranker,
        exposed=exposed,
        truth=np.where(mask, rng.integers(0, 4, shape) / 8, 9).astype(np.float32),
        octile=rng.integers(0, 8, shape).astype(np.int8),
        entered=rng.random(shape) < 0.6,
    )


def draw_scores(seed: int, shape: tuple[int, int], *, finite: bool = True) -> np.ndarray:
    values = [-2.0, -1.0, -0.0, 0.0, 1.0, 2.0] + ([] if finite else [math.inf, -math.inf, math.nan, -math.nan, 1e-40])
    return np.random.default_rng(seed + 1).choice(np.array(values, np.float32), shape)


def best_first(scores, candidates: CandidateSet, row: int) -> list[int]:
    """The real slots of one request by the definition, with Python's sort."""
    score, mask, ties = (np.asarray(x)[row].tolist() for x in (scores, candidates.mask, candidates.ties))
    real = [slot for slot in range(len(score)) if mask[slot]]
    return sorted(real, key=lambda p: (math.isnan(score[p]), -score[p] if score[p] == score[p] else 0, ties[p], p))
