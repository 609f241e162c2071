"""Every kernel with its oracle: one file a family, joined in `CASES`."""

import dataclasses

from . import contrast, distillation, hccp, pairwise, permutation, recall, softmax, sorting
from .case import EASY, EXTRA, HARD, OTHER, POSITIVE, Case, draw, expected

# Kernels that another case covers with other options, and forms that their own test files cover.
VARIANTS = {
    "weighted_cross_entropy",
    "pairwise_logistic_long",
    "delta_ndcg_ratio_top",
    "softmax_distillation_normalized",
    "arf_relaxed_recall_soft_sort",
    "sdcl_through_the_weights",
    "croloss_sigmoid_unbiased",
    "croloss_exponential_unscaled",
    "croloss_hinge_near_one",
    "soft_sort_literal_power_1",
    "soft_sort_literal_power_2_streamed",
    "soft_sort_block_power_1_streamed",
    "soft_sort_teacher_power_2_streamed",
    "am_rankmax_power_0_streamed",
    "am_rankmax_power_0_fast",
    "am_rankmax_power_2_streamed",
}

_ALL = [
    *hccp.CASES,
    *pairwise.CASES,
    *softmax.CASES,
    *distillation.CASES,
    *permutation.CASES,
    *contrast.CASES,
    *recall.CASES,
    *sorting.CASES,
]

CASES = [dataclasses.replace(case, variant=case.name in VARIANTS) for case in _ALL]
assert {case.name for case in CASES} >= VARIANTS

__all__ = ["CASES", "EASY", "EXTRA", "HARD", "OTHER", "POSITIVE", "Case", "draw", "expected"]
