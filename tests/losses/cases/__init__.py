"""Every kernel with its oracle: one file a family, joined in `CASES`."""

from . import contrast, distillation, hccp, pairwise, permutation, softmax
from .case import EASY, EXTRA, HARD, OTHER, POSITIVE, Case, draw, expected

CASES = [*hccp.CASES, *pairwise.CASES, *softmax.CASES, *distillation.CASES, *permutation.CASES, *contrast.CASES]

__all__ = ["CASES", "EASY", "EXTRA", "HARD", "OTHER", "POSITIVE", "Case", "draw", "expected"]
