"""Which offline metric predicts the simulated online order of HCCP Table 1's ten rows.

    python launch.py --experiment=hccp_offline_online

A view of the runs of hccp_table1, tuned and at full length; `offline_online` asks the same of all systems after a short
training. Ten rows are few for a rank correlation, and eight of them are one network: the intervals are over seeds and
worlds, not over other choices of rows.
"""

from collections.abc import Sequence
from dataclasses import replace

from experiments import hccp_table1, offline_online
from experiments.claims import Record


def derive(records: Sequence[Record]) -> list[Record]:
    """Over the ten rows."""
    return offline_online.correlations(records, hccp_table1.ORDER)


EXPERIMENT = replace(
    hccp_table1.EXPERIMENT,
    name="hccp_offline_online",
    title="Which offline metric predicts the simulated online order of HCCP Table 1's rows",
    table="no table of the paper: offline against online",
    rows=(*hccp_table1.EXPERIMENT.rows, *offline_online.DERIVED),
    columns=offline_online.COLUMNS,
    claims=tuple(
        replace(claim, id=claim.id.replace("OFFLINE", "OFFLINE of HCCP Table 1")) for claim in offline_online.CLAIMS
    ),
    printed={},
    printed_note="",
    derive=derive,
    figures=(("offline_online", offline_online.CAPTION, offline_online.figure),),
)
