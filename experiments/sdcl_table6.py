"""SDCL Table 6: AUC of each task with one kind of sampled negatives at a time, on the simulated cascade.

    python launch.py --experiment=sdcl_table6                 about 10 minutes on two cores
    python launch.py --experiment=sdcl_table6 --smoke

As Table 5 (see experiments/sdcl_table5.py), with eleven negatives of one kind a request. The paper concludes from the
AUC that Matching NS are the easiest to learn. With a row's own negatives in its test lists that is a statement about
the lists: items that no stage retrieved are told apart by any model. So every row stands on `common` lists, too, which
hold all three kinds, and the claims are tested on both.
"""

from dataclasses import replace

from experiments import sdcl_table5
from experiments.experiment import Claim, Row
from experiments.sdcl_table5 import PLAIN, TITLES, auc_columns
from hccp_jax.cascade.logs import SamplingConfig

SOURCE = "SDCL Table 6"
KINDS = {"pool": "Matching NS", "preranked": "Pre-ranking NS", "ranked": "Ranking NS"}


def _row(kind: str) -> Row:
    dropped = {f"hyper.sdcl.{other}": 0.0 for other in KINDS if other != kind}
    return Row(f"{kind}_only", KINDS[kind], PLAIN | dropped)


_PRINTED = {"own/click/AUC": (91.3, 81.6, 80.4), "own/purchase/AUC": (96.6, 94.9, 95.0)}
ROWS = tuple(_row(kind) for kind in KINDS)


def _ahead(on: str, task: str, better: str, worse: str) -> Claim:
    statement = f"{TITLES[task]}'s AUC on {on} lists is higher with {KINDS[better]} than with {KINDS[worse]}."
    name = f"SDCL-5.{on} {TITLES[task]} {KINDS[better].removesuffix(' NS')}"
    return Claim(name, SOURCE, statement, f"{on}/{task}/AUC", f"{better}_only", f"{worse}_only")


def _artefact(task: str) -> Claim:
    """The lead on own lists minus that on common lists."""
    terms = [(1.0, "pool_only", f"own/{task}/AUC"), (-1.0, "preranked_only", f"own/{task}/AUC")]
    terms += [(-1.0, "pool_only", f"common/{task}/AUC"), (1.0, "preranked_only", f"common/{task}/AUC")]
    statement = f"Matching NS lead Pre-ranking NS in {TITLES[task]}'s AUC by more on own lists than on common ones."
    return Claim(f"SDCL-5.artefact {TITLES[task]}", "ours, on SDCL Table 6", statement, terms=tuple(terms))


EXPERIMENT = replace(
    sdcl_table5.EXPERIMENT,
    name="sdcl_table6",
    title="SDCL Table 6: one kind of sampled negatives at a time on a simulated cascade",
    table="Table 6",
    minutes=10,
    settings=replace(sdcl_table5.SHORT, sampling=SamplingConfig(sequence=21, preranked=11, pool=11)),
    rows=ROWS,
    columns=(*auc_columns(*KINDS), *sdcl_table5.EXPERIMENT.columns[-2:]),
    claims=(
        *(
            claim
            for on in ("own", "common")
            for claim in (
                _ahead(on, "click", "pool", "preranked"),
                _ahead(on, "purchase", "pool", "preranked"),
                _ahead(on, "click", "preranked", "ranked"),
            )
        ),
        *(_artefact(task) for task in TITLES),
    ),
    printed={
        metric: {row.name: number for row, number in zip(ROWS, numbers, strict=True)}
        for metric, numbers in _PRINTED.items()
    },
)
