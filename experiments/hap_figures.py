"""Pictures of the HAP-style system: what each group of negatives does to a model, and quality over serving cost."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, PercentFormatter

from experiments.claims import Record, by_seed, over_worlds
from experiments.experiment import Experiment
from experiments.figures import OKABE_ITO, colour, half_width, line, panels, with_legend
from hccp_jax.methods.hap import GROUPS

COST = "kflops_per_candidate"
BY_GROUP = {
    "gradient/infonce": "gradient norm of InfoNCE (log10)",
    "gradient/bce": "gradient norm of BCE (log10)",
    "logit": "mean logit of the light model",
    "AUC": "AUC of clicks against the group",
}
LOOKED_AT = ("mixed", "cross_entropy", "grouped", "large", "heavy")


def negative_groups(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """A panel a measure, a line a row, over the groups from the hardest to the easiest."""
    figure, axes = panels(experiment, "Groups of negatives", list(BY_GROUP))
    for (name, title), axis in zip(BY_GROUP.items(), axes, strict=True):
        for row in (experiment.row(row_name) for row_name in LOOKED_AT):
            found = [by_seed(records, row.name, f"{name}/{group}") for group in GROUPS]
            points = [(float(place), over_worlds(values)) for place, values in enumerate(found) if values]
            line(axis, experiment, row, points)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(GROUPS)), ["exposed", "ranked", "pre-ranked", "pool"], fontsize=8)
        axis.margins(x=0.08)
    axes[-1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return with_legend(figure, axes, experiment)


def routing(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Quality over cost: the pair at all routed shares as one line, single models as points."""
    names = {"ISH@100": "ISH@100", "T@100": "true expected clicks of the first 100"}
    shares = [row for row in experiment.rows if row.name.startswith("series_")]
    if not any(COST in record.metrics for record in records):
        return None
    figure, axes = panels(experiment, "Quality over the cost of serving", list(names), columns=1)
    for (metric, title), axis in zip(names.items(), axes, strict=True):
        at = {row.name: _point(records, row.name, metric) for row in experiment.rows if not row.reference}
        pair = [(row, point) for row in shares if (point := at[row.name])]
        xs, ys, errors = ([point[place] for _, point in pair] for place in range(3))
        axis.errorbar(xs, ys, errors, marker="o", color=OKABE_ITO[0], label="in series, by share routed", capsize=2)
        for row, (x, y, _) in pair:
            axis.annotate(row.name.partition("_")[2], (x, y), (4, -11), textcoords="offset points", fontsize=8)
        for name in ("grouped", "large", "heavy"):
            if point := at.get(name):
                row = experiment.row(name)
                style: Mapping = {"fmt": "s", "color": colour(experiment, row), "label": row.label, "capsize": 2}
                axis.errorbar(point[0], point[1], point[2], **style)
        axis.set(title=title, xlabel="kFLOP per candidate (log axis)")
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
        axis.tick_params(axis="x", which="both", labelsize=8)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        axis.margins(0.08)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=2)
    return figure


def _point(records: Sequence[Record], row: str, metric: str) -> tuple[float, float, float] | None:
    """Cost, mean quality and half of its interval."""
    values, costs = by_seed(records, row, metric), by_seed(records, row, COST)
    if not values or not costs:
        return None
    found = over_worlds(values)
    return over_worlds(costs).mean, found.mean, half_width(found)


ERRORS_NOTE = "Error bars and bands: 95 % interval over seeds and worlds."
FIGURES = (
    (
        "negative_groups",
        "Simulated. By group of negatives, from the hardest to the easiest, when training ends, on held-out lists: "
        f"length of the gradient of the group's own loss, mean logit, AUC. {ERRORS_NOTE}",
        negative_groups,
    ),
    (
        "routing",
        "Simulated. Hit rate and true expected clicks over operations per candidate. The line is one pair of models, "
        f"with the share of candidates that the heavy one scores beside each point. {ERRORS_NOTE}",
        routing,
    ),
)
