"""What a paper's own numbers make of a claim: its contrast put through the printed table.

A claim may be decided by a size that the paper's own effect does not reach, or state what the paper's numbers deny; so
its printed effect stands beside ours wherever all its rows are printed.
"""

from collections.abc import Mapping

from experiments.experiment import Claim, Column, Experiment


def printed_effect(experiment: Experiment, claim: Claim) -> float | None:
    """The claim's effect by the paper's numbers, in the unit of ours; None where the paper does not print them all.

    Args:
        experiment: whose `printed` are in the unit of its table: per cent where a column is, differences to the
            baseline unless `printed_absolute`, lifts over it in per cent where a column has lifts.
        claim: one of its claims.
    """
    columns = {column.metric: column for column in experiment.columns}
    if any(metric not in experiment.printed or metric not in columns for _, _, metric in claim.contrast):
        return None
    lifted = {columns[metric].lift and not experiment.printed_absolute for _, _, metric in claim.contrast}
    if lifted == {True}:
        return _of_lifts(experiment, claim)
    if True in lifted or (claim.relative and not experiment.printed_absolute):
        return None
    terms = [
        (weight, metric, _value(experiment, columns[metric], experiment.printed[metric], row))
        for weight, row, metric in claim.contrast
    ]
    values = [(weight, value) for weight, _, value in terms if value is not None]
    if len(values) < len(terms) or not (experiment.printed_absolute or _balanced(terms)):
        return None
    total = sum(weight * value for weight, value in values)
    return total / values[-1][1] if claim.relative else total


def _of_lifts(experiment: Experiment, claim: Claim) -> float | None:
    """Of one row over another, where both lifts over the baseline are printed."""
    if claim.terms or not claim.relative:
        return None
    printed = {experiment.baseline.name: 0.0} | dict(experiment.printed[claim.metric])
    if claim.better not in printed or claim.worse not in printed:
        return None
    return (100 + printed[claim.better]) / (100 + printed[claim.worse]) - 1


def _value(experiment: Experiment, column: Column, printed: Mapping[str, float], row: str) -> float | None:
    known = dict(printed) if experiment.printed_absolute else {experiment.baseline.name: 0.0} | dict(printed)
    value = known.get(row)
    return value / 100 if value is not None and column.percent else value


def _balanced(terms: list[tuple[float, str, float | None]]) -> bool:
    """Whether the baseline's own value, which differences do not tell, cancels in every metric."""
    metrics = {metric for _, metric, _ in terms}
    return all(abs(sum(weight for weight, own, _ in terms if own == metric)) < 1e-9 for metric in metrics)


def printed_text(experiment: Experiment, claim: Claim) -> str:
    """The printed effect as a reader sees it, such as `+0.0022 (too small to matter here)`; empty where there is none.

    It says so where an effect of the printed size would not be supported.
    """
    found = printed_effect(experiment, claim)
    if found is None:
        return ""
    least = claim.smallest_effect - 1e-9  # sums of printed decimals
    met = abs(found) < claim.within if claim.within else found > 0 and found >= least
    small = not claim.within and 0 < found < least
    note = "" if met else " (too small to matter here)" if small else " (the printed numbers deny it)"
    return f"{found:+z.4f}{note}"
