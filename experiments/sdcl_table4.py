"""SDCL Table 4: reverse rate, Recall@100 and Precision@100 of user groups by activity, on the simulated cascade.

    python launch.py --experiment=sdcl_table4                 a view of the runs of sdcl_table3

The groups are simulated (see experiments/sdcl_run.py): a fifth of the users each, by how many training requests they
have. In the paper they are login frequencies of real users, who differ in more than that. Its Recall@100 is not
monotone (Mid-High is ahead of High), so only the two ends are compared. It does not say of which model its table is;
here SDCL.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments import sdcl_table3
from experiments.claims import Record, by_seed, over_worlds
from experiments.experiment import Claim, Column, Experiment
from experiments.figures import ERRORS, colour, half_width, panels, with_legend
from experiments.sdcl_run import GROUPED, GROUPS

SOURCE = "SDCL Table 4"
TITLES = {"reverse": "reverse rate", "ISH@100": "Recall@100", "precision@100": "Precision@100"}
CAPTION = (
    "By user group: a fifth of the simulated users each, from those with the fewest training requests (Low) to those "
    "with the most (Full). Bars: mean over seeds and worlds; error bars: 95 % interval."
)
_PRINTED = {
    "reverse": (45.37, 42.10, 41.07, 40.48, 40.27),
    "ISH@100": (28.46, 33.33, 40.49, 34.72, 40.04),
    "precision@100": (1.32, 1.57, 1.32, 1.36, 1.55),
}
LOW, FULL = 0, len(GROUPS) - 1


def groups_figure(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Bars of each group, a panel a metric, a colour a row."""
    if not any(f"reverse/group_{LOW}" in record.metrics for record in records):
        return None
    figure, axes = panels(experiment, "By user group", GROUPED, columns=1)
    rows = [row for row in experiment.rows if not row.reference]
    width = 0.8 / len(rows)
    for name, axis in zip(GROUPED, axes, strict=True):
        for place, row in enumerate(rows):
            seeds = {group: by_seed(records, row.name, f"{name}/group_{group}") for group in range(len(GROUPS))}
            found = {group: over_worlds(values) for group, values in seeds.items() if values}
            axis.bar(
                [group + (place - (len(rows) - 1) / 2) * width for group in found],
                [interval.mean for interval in found.values()],
                width * 0.9,
                yerr=[half_width(interval) for interval in found.values()],
                label=row.label,
                error_kw=ERRORS,
                color=colour(experiment, row),
            )
        axis.set(title=TITLES[name])
        axis.set_xticks(range(len(GROUPS)), GROUPS)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=2 if name == "precision@100" else 0))
        axis.grid(visible=False, axis="x")
        axis.set_ylim(bottom=0)
    return with_legend(figure, axes[:1], experiment)


EXPERIMENT = replace(
    sdcl_table3.EXPERIMENT,
    name="sdcl_table4",
    title="SDCL Table 4: user groups by activity on a simulated cascade",
    table="Table 4",
    columns=tuple(
        Column(f"{name}/group_{group}", f"{TITLES[name]}, {label}", decimals=2 if name == "precision@100" else None)
        for name in GROUPED
        for group, label in enumerate(GROUPS)
    ),
    claims=(
        Claim(
            "SDCL-T4.reverse",
            SOURCE,
            "SDCL's reverse rate is lower for the most active users than for the least active.",
            terms=((1.0, "sdcl", f"reverse/group_{LOW}"), (-1.0, "sdcl", f"reverse/group_{FULL}")),
        ),
        Claim(
            "SDCL-T4.recall",
            SOURCE,
            "SDCL's Recall@100 is higher for the most active users than for the least active.",
            terms=((1.0, "sdcl", f"ISH@100/group_{FULL}"), (-1.0, "sdcl", f"ISH@100/group_{LOW}")),
        ),
    ),
    printed={
        f"{name}/group_{group}": {"sdcl": number}
        for name, numbers in _PRINTED.items()
        for group, number in enumerate(numbers)
    },
    printed_note="per cent, on Weibo's private production data; the model is not named",
    printed_absolute=True,
    figures=(("user_groups", CAPTION, groups_figure),),
)
