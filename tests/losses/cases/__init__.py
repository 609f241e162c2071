"""Every kernel with its oracle: one file a family, joined in `CASES`."""

from . import hccp
from .case import EASY, EXTRA, HARD, OTHER, POSITIVE, Case, draw, expected

CASES = [*hccp.CASES]

__all__ = ["CASES", "EASY", "EXTRA", "HARD", "OTHER", "POSITIVE", "Case", "draw", "expected"]
