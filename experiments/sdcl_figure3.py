"""SDCL Figure 3: the learned weights of negatives over training, on the simulated cascade.

    python launch.py --experiment=sdcl_figure3                a view of the runs of sdcl_table3

The paper's axis are days of training; here they are steps of one pass. Two statements are tested on thirds of training:
every weight falls from the first third to the last, and Matching NS are stable first: their weight falls less from the
middle third to the last than that of the other kinds. The loss starts all weights at about 1 / 2, the probability of a
new model, so that a part of any fall is the calibration of the model rather than what it learns of negatives.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from experiments import sdcl_table3, sdcl_table7
from experiments.claims import Record
from experiments.experiment import Claim, Column, Experiment
from experiments.figures import line, panels, pool, training_log, with_legend
from experiments.sdcl_run import THIRDS
from experiments.sdcl_table5 import TITLES
from experiments.sdcl_table7 import KINDS, SMALLEST, by_kind

SOURCE = "SDCL Figure 3"
WHEN = dict(zip(THIRDS, ("first third", "middle third", "last third"), strict=True))
CAPTION = (
    "Mean weight of a negative over SDCL's training, by task and stage. Line: mean over seeds and worlds; band: its "
    "95 % interval."
)


def figure3(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """A line a kind of negatives over steps, a panel a task."""
    logs = [log for r in records if r.row == "sdcl" and (log := training_log(r.directory / "metrics.jsonl"))]
    if not logs:
        return None
    kinds = by_kind(experiment)
    figure, axes = panels(experiment, "Learned weights of negatives over training", tuple(TITLES))
    for task, axis in zip(TITLES, axes, strict=True):
        for row in kinds.rows:
            name = f"weight_{row.name}/{task}"
            line(axis, kinds, row, pool(([e["step"] for e in log], [e[name] for e in log]) for log in logs))
        axis.set(title=f"{TITLES[task]} ({task})", xlabel="step", ylabel="mean weight w")
        axis.set_ylim(bottom=0)
    return with_legend(figure, axes[:1], kinds)


def _falls(kind: str, task: str) -> Claim:
    name = f"weight_{kind}/{task}"
    return Claim(
        f"SDCL-6.fall {KINDS[kind].removesuffix(' NS')} {TITLES[task]}",
        SOURCE,
        f"The weight of {KINDS[kind]} in {TITLES[task]} falls from the first to the last third of training.",
        smallest_effect=SMALLEST,
        terms=((1.0, "sdcl", f"{name}/first"), (-1.0, "sdcl", name)),
    )


def _stable(other: str, task: str) -> Claim:
    still, falling = f"weight_pool/{task}", f"weight_{other}/{task}"
    lost = ((1.0, "sdcl", f"{falling}/middle"), (-1.0, "sdcl", falling))
    kept = ((-1.0, "sdcl", f"{still}/middle"), (1.0, "sdcl", still))
    return Claim(
        f"SDCL-6.stable {KINDS[other].removesuffix(' NS')} {TITLES[task]}",
        SOURCE,
        f"From the middle to the last third Matching NS lose less weight than {KINDS[other]} in {TITLES[task]}.",
        smallest_effect=SMALLEST,
        terms=(*lost, *kept),
    )


EXPERIMENT = replace(
    sdcl_table7.EXPERIMENT,
    name="sdcl_figure3",
    title="SDCL Figure 3: learned weights over training on a simulated cascade",
    table="Figure 3",
    rows=(sdcl_table3.EXPERIMENT.row("sdcl"),),
    columns=tuple(
        Column(f"weight_{kind}/{task}{third}", f"{title}, {KINDS[kind]}, {WHEN[third]}", percent=False, decimals=4)
        for task, title in TITLES.items()
        for kind in KINDS
        for third in THIRDS
    ),
    claims=(
        *(_falls(kind, task) for task in TITLES for kind in KINDS),
        *(_stable(kind, task) for task in TITLES for kind in ("preranked", "ranked")),
    ),
    printed={},
    printed_note="",
    printed_absolute=False,
    figures=(("figure3", CAPTION, figure3),),
)
