"""HCCP Table 2: AUC, ISH@2 and ISH@5 on the public Ali display ads, or any store of impressions with stages.

    python -m hccp_jax.data.convert --source=taobao_ads --input=DIR --output=STORE
    python -m experiments.full_stage_logs --store=STORE --output=STAGED
    python launch.py --experiment=hccp_table2 --store=STAGED

The impressions are real; the ranking order, the candidates below exposure and the teacher are simulated, by models
trained on the first half of the training period (`experiments.full_stage_logs`). The paper uses impressions and a DIN
alone and says that the set cannot fully show what HCCP adds. Requests are a user's impressions of a day (`--grouping`
of the conversion), which the paper leaves open; its AUC of .75 to .78 is far above what this data gives elsewhere, so
absolute values are not expected to match. ISH@K is the hit rate of clicks within an exposed list. The paper trains on
impressions alone where ours has the simulated candidates, too, as the losses of COPR, Rethink and HCCP are defined on
them.
"""

from dataclasses import replace

from experiments import systems_logs
from experiments.experiment import Claim, Column, Data, Kind
from experiments.quickstart import PAPER
from experiments.systems import SYSTEM_ROWS

SOURCE = "HCCP Table 2"
ORDER = ("base", "base_listnet", "base_listmle", "copr", "rethink", "hccp")
METRICS = ("click/AUC", "click/ISH@2", "click/ISH@5")

_PRINTED = {  # AUC, ISH@2, ISH@5
    "base": (75.15, 49.47, 75.31),
    "base_listnet": (76.84, 49.91, 75.80),
    "base_listmle": (76.69, 49.73, 75.68),
    "copr": (77.13, 49.86, 75.67),
    "rethink": (77.91, 51.02, 76.21),
    "hccp": (78.07, 51.51, 76.75),
}


def _ahead(name: str, better: str, worse: str, metric: str = "click/AUC") -> Claim:
    labels = {row.name: row.label for row in SYSTEM_ROWS}
    text = f"{labels[better]} is ahead of {labels[worse]} on {metric.partition('/')[2]}."
    return Claim(f"HCCP-8.{name}", SOURCE, text, metric, better, worse, 0.001)


EXPERIMENT = replace(
    systems_logs.EXPERIMENT,
    name="hccp_table2",
    title="HCCP Table 2: impressions of public logs, with simulated stages",
    paper=PAPER,
    table="Table 2",
    data=Data(
        Kind.STAGED,
        "Real impressions of the store's test part; ranking order, unexposed candidates and teacher are simulated.",
    ),
    rows=tuple(row for name in ORDER for row in SYSTEM_ROWS if row.name == name),
    columns=tuple(Column(metric, metric.partition("/")[2]) for metric in METRICS),
    claims=(
        _ahead("a", "hccp", "rethink"),
        _ahead("b", "rethink", "copr"),
        _ahead("c", "copr", "base_listmle"),
        _ahead("d", "base_listnet", "base_listmle"),
        _ahead("e", "base_listmle", "base"),
        _ahead("f", "hccp", "rethink", "click/ISH@2"),
        *(
            Claim(
                f"HCCP-8.level {row}",
                SOURCE,
                f"ISH@2 hardly moves by ListNet, ListMLE and COPR: {row} is within a point of Base.",
                "click/ISH@2",
                row,
                "base",
                within=0.01,
            )
            for row in ("base_listnet", "base_listmle", "copr")
        ),
    ),
    seeds=5,
    pictured=(),
    printed={
        metric: {row: numbers[place] for row, numbers in _PRINTED.items()} for place, metric in enumerate(METRICS)
    },
    printed_note="values in per cent on Ali_Display_Ad_Click",
    printed_absolute=True,
)
