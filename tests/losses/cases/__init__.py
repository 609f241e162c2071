"""Every kernel with its oracle: one file a family, joined in `CASES`."""

from . import contrast, distillation, hccp, pairwise, permutation, recall, softmax, sorting
from .case import EASY, EXTRA, HARD, OTHER, POSITIVE, Case, draw, expected

CASES = [
    *hccp.CASES,
    *pairwise.CASES,
    *softmax.CASES,
    *distillation.CASES,
    *permutation.CASES,
    *contrast.CASES,
    *recall.CASES,
    *sorting.CASES,
]

__all__ = ["CASES", "EASY", "EXTRA", "HARD", "OTHER", "POSITIVE", "Case", "draw", "expected"]
