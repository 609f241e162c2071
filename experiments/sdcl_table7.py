"""SDCL Table 7: the learned weights of negatives by user group, task and stage, on the simulated cascade.

    python launch.py --experiment=sdcl_table7                 a view of the runs of sdcl_table3

The weights w of Eq 8 averaged over all pairs of a positive and a negative of one request, over the last third of
training. Click stands for CTR and purchase for ITR; TIME is missing. The groups are simulated, see
experiments/sdcl_run.py. The paper's first finding, weights that fall with activity, is not monotone in its own table
(Matching NS of CTR are highest for Full), so only the two ends are compared. A batch without a positive of a group
counts as 0 in the group's mean; with 128 requests a batch that is rare, and 0.002 is taken as the smallest effect.

With delta = 1 (the paper gives no value) a weight is 1 / n of the softmax over n = 50 negatives plus the predicted
probability: compare the order of the weights with the paper's, not their size.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from experiments import sdcl_table3
from experiments.claims import Record, by_seed, over_worlds
from experiments.experiment import Claim, Column, Experiment, Row
from experiments.figures import ERRORS, colour, half_width, panels, with_legend
from experiments.sdcl_run import GROUPS
from experiments.sdcl_table5 import TITLES

SOURCE = "SDCL Table 7"
KINDS = {"pool": "Matching NS", "preranked": "Pre-ranking NS", "ranked": "Ranking NS"}
SMALLEST = 0.002
CAPTION = (
    "Mean weight of a negative over the last third of SDCL's training, by user group (a fifth of the simulated users "
    "each, Low: the fewest training requests), task and stage. Error bars: 95 % interval over seeds and worlds."
)
# Matching, Pre-ranking, Ranking NS of CTR and of ITR
_PRINTED = {
    "Low": (0.0674, 0.2526, 0.2974, 0.0437, 0.0488, 0.0491),
    "Mid-Low": (0.0670, 0.2206, 0.2715, 0.0477, 0.0544, 0.0547),
    "Mid-High": (0.0668, 0.2241, 0.2772, 0.0449, 0.0502, 0.0504),
    "High": (0.0671, 0.2261, 0.2831, 0.0419, 0.0456, 0.0458),
    "Full": (0.0683, 0.2233, 0.2751, 0.0399, 0.0426, 0.0427),
}
_PLACES = [(task, kind) for task in TITLES for kind in KINDS]


def by_kind(experiment: Experiment) -> Experiment:
    """The experiment with the kinds of negatives in the place of its rows, for colours and legends."""
    return replace(experiment, rows=tuple(Row(kind, label) for kind, label in KINDS.items()), pictured=())


def weights_figure(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Bars of each group, a panel a task, a colour a kind of negatives."""
    if not by_seed(records, "sdcl", "weight_pool/click"):
        return None
    kinds = by_kind(experiment)
    figure, axes = panels(experiment, "Learned weights of negatives", tuple(TITLES))
    width = 0.8 / len(KINDS)
    for task, axis in zip(TITLES, axes, strict=True):
        for place, row in enumerate(kinds.rows):
            names = [f"weight_{row.name}_group_{group}/{task}" for group in range(len(GROUPS))]
            found = [over_worlds(by_seed(records, "sdcl", name)) for name in names]
            axis.bar(
                [group + (place - 1) * width for group in range(len(GROUPS))],
                [interval.mean for interval in found],
                width * 0.9,
                yerr=[half_width(interval) for interval in found],
                label=row.label,
                error_kw=ERRORS,
                color=colour(kinds, row),
            )
        axis.set(title=f"{TITLES[task]} ({task})", ylabel="mean weight w")
        axis.set_xticks(range(len(GROUPS)), [group.replace("-", "-\n") for group in GROUPS], fontsize=8)
        axis.grid(visible=False, axis="x")
        axis.set_ylim(bottom=0)
    return with_legend(figure, axes[:1], kinds)


def _larger(name: str, statement: str, large: str, small: str) -> Claim:
    terms = ((1.0, "sdcl", large), (-1.0, "sdcl", small))
    return Claim(f"SDCL-6.{name}", SOURCE, statement, smallest_effect=SMALLEST, terms=terms)


def _less_active(task: str) -> Claim:
    low, full = (tuple(f"weight_{kind}_group_{group}/{task}" for kind in KINDS) for group in (0, len(GROUPS) - 1))
    share = 1 / len(KINDS)
    terms = (*((share, "sdcl", name) for name in low), *((-share, "sdcl", name) for name in full))
    statement = f"{TITLES[task]}'s weights are larger for the least active users than for the most active."
    return Claim(f"SDCL-6.activity {TITLES[task]}", SOURCE, statement, smallest_effect=SMALLEST, terms=terms)


CLAIMS = (
    *(
        _larger(
            f"{KINDS[large].removesuffix(' NS')} {TITLES[task]}",
            f"{KINDS[large]} weigh more than {KINDS[small]} in {TITLES[task]}.",
            f"weight_{large}/{task}",
            f"weight_{small}/{task}",
        )
        for task in TITLES
        for large, small in (("ranked", "preranked"), ("preranked", "pool"))
    ),
    *(
        _larger(
            f"tasks {KINDS[kind].removesuffix(' NS')}",
            f"{KINDS[kind]} weigh more in CTR than in ITR.",
            f"weight_{kind}/click",
            f"weight_{kind}/purchase",
        )
        for kind in KINDS
    ),
    *(_less_active(task) for task in TITLES),
)

EXPERIMENT = replace(
    sdcl_table3.EXPERIMENT,
    name="sdcl_table7",
    title="SDCL Table 7: learned weights of negatives on a simulated cascade",
    table="Table 7",
    rows=(sdcl_table3.EXPERIMENT.row("sdcl"),),
    columns=tuple(
        Column(f"weight_{kind}{group}/{task}", f"{TITLES[task]}, {KINDS[kind]}, {label}", percent=False, decimals=4)
        for group, label in (("", "all"), *((f"_group_{place}", name) for place, name in enumerate(GROUPS)))
        for task, kind in _PLACES
    ),
    claims=CLAIMS,
    printed={
        f"weight_{kind}_group_{GROUPS.index(group)}/{task}": {"sdcl": number}
        for group, numbers in _PRINTED.items()
        for (task, kind), number in zip(_PLACES, numbers, strict=True)
    },
    printed_note="on Weibo's private production data",
    printed_absolute=True,
    figures=(("learned_weights", CAPTION, weights_figure),),
)
