"""Pre-rankers that train on their own logs, day after day: the Matthew effect in a closed loop, simulated.

    python launch.py --experiment=online_days                 about an hour on two cores
    python launch.py --experiment=online_days --smoke

Simulated data, five seeds in each of three worlds. Not a table of HCCP, but what its introduction argues: a pre-ranker
that imitates the stages below it learns from what it has itself delivered, which aggravates the Matthew effect (popular
items become more popular), and samples from the whole stream relieve it. No offline table can show that, as there all
rows train on one log. Here every arm is first trained on the world's own log (day 0). On days 1 to D it serves; its
clicks move the popular channel of retrieval; its log trains it further; and a simulated online test measures it in the
world that it has made. The first row is the world's own pre-ranker, which never trains, under the same drift. Rows
"no loop" are what longer training alone does: they train on as many days of logs of the world's own pre-ranker, and the
world stays as it was. What the loop does is the difference.

Decisions. Training goes on from the parameters and moments of the evening before, so that each day adds to the whole
past; the margin's schedule runs over all days so far, so it is on after day 0. Half of the popular channel are clicks,
counted with a half-life of one day. The tail is octiles 7 and 8 of day 0 for all days. Metrics "dayJ/..." from an
arm's own requests, with and without a click: click rate, tail share, Gini coefficient; "dayJ/online/..." from the
online test after day J. "tail_share", "online/clicks" and so on are those of the last day. The other channels do not
drift, and users do not leave: what is measured is the loop through logs and the popular channel alone.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.claims import Record, by_seed, over_worlds
from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from experiments.figures import line, panels, with_legend
from experiments.hccp_ladder import LABELS
from experiments.online_days_run import DaysConfig, DaysSettings, run
from experiments.quickstart import PAPER, SMOKE
from hccp_jax.methods.hccp import ROWS as HCCP_ROWS
from hccp_jax.training.config import TrainConfig

SOURCE = "HCCP introduction"
DATA = Data(
    Kind.SIMULATED,
    "Simulated data: users, items, funnel and feedback come from the package's own world, which each arm changes by "
    "its own clicks.",
)
LOOPED = ("base", "without_up", "hccp")  # rows that have a twin without the loop
ROWS = (
    Row("logging", "the world's own, never trained", reference=True),
    *(Row(name, LABELS[name], HCCP_ROWS[name]) for name in ("base", "without_up", "without_margin", "hccp")),
    Row("hccp_fused", "HCCP, fused", HCCP_ROWS["hccp"] | {"hyper.serve_consistency": 1.0}),
    *(
        Row(f"{name}_open", f"{LABELS[name]}, no loop", HCCP_ROWS[name] | {"loop.open": True}, against=name)
        for name in LOOPED
    ),
)

PANELS = {
    "online/clicks": "Clicks a request, online test",
    "tail_share": "Tail share of impressions",
    "gini": "Gini coefficient of impressions",
    "popular_overlap": "Popular channel kept",
}
CAPTION = (
    "Days of serving and retraining on the own log. Day 0 is the world's own log, the same for all arms; the online "
    "test follows each day's training. Line: mean over seeds and worlds; band: 95 % interval. Dashed grey: the world's "
    "own pre-ranker, never trained. No loop: trained on its logs, without drift."
)


def days_figure(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Lines over days, a panel a metric."""
    days = sorted({int(name[3:].partition("/")[0]) for r in records for name in r.metrics if name.startswith("day")})
    if not days:
        return None
    figure, axes = panels(experiment, "Day after day on the own log", list(PANELS))
    for (name, title), axis in zip(PANELS.items(), axes, strict=True):
        for row in experiment.rows:
            found = [(day, by_seed(records, row.name, f"day{day}/{name}")) for day in days]
            line(axis, experiment, row, [(day, over_worlds(values)) for day, values in found if values])
        axis.set(title=title, xlabel="day")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if name in ("tail_share", "popular_overlap"):
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    return with_legend(figure, axes[:1], experiment)


def _looped(row: str, weight: float = 1.0) -> tuple[tuple[float, str, str], ...]:
    """What the loop takes of a row's tail share from day 1 to the last: its fall, less that of its twin without it."""
    return tuple(
        (sign * weight, name, metric)
        for sign, name in ((1.0, row), (-1.0, f"{row}_open"))
        for sign, metric in ((sign, "day1/tail_share"), (-sign, "tail_share"))
    )


CLAIMS = (
    *(
        Claim(
            f"DAYS-1.{name}",
            SOURCE,
            f"Training on its own log costs {LABELS[name]} more of the tail from day 1 to the last than as much "
            "training on the log of the world's own pre-ranker.",
            smallest_effect=0.001,
            terms=_looped(name),
        )
        for name in LOOPED
    ),
    Claim(
        "DAYS-2.level",
        SOURCE,
        "Imitating the stages below alone leaves less tail than Base on the last day: HCCP(w/o Up) below Base.",
        "tail_share",
        "base",
        "without_up",
        0.001,
    ),
    Claim(
        "DAYS-2.loop",
        SOURCE,
        "The loop takes more of the tail from HCCP(w/o Up) than from Base.",
        smallest_effect=0.001,
        terms=(*_looped("without_up"), *_looped("base", -1.0)),
    ),
    Claim(
        "DAYS-3.level",
        SOURCE,
        "Samples of the whole stream keep more of the tail: HCCP ahead of HCCP(w/o Up) on the last day.",
        "tail_share",
        "hccp",
        "without_up",
        0.001,
    ),
    Claim(
        "DAYS-3.loop",
        SOURCE,
        "The loop takes less of the tail from HCCP than from HCCP(w/o Up).",
        smallest_effect=0.001,
        terms=(*_looped("without_up"), *_looped("hccp", -1.0)),
    ),
    Claim(
        "DAYS-3.gini",
        SOURCE,
        "HCCP's impressions are spread more evenly than HCCP(w/o Up)'s on the last day.",
        smallest_effect=0.005,
        terms=((1.0, "without_up", "gini"), (-1.0, "hccp", "gini")),
    ),
    *(
        Claim(
            f"DAYS-4.{row}",
            "HCCP 4.3, online test",
            f"{label} earns more clicks than Base after the last day of training on its own log.",
            "online/clicks",
            row,
            "base",
            0.002,
            relative=True,
        )
        for row, label in (("hccp", "HCCP"), ("hccp_fused", "HCCP, served fused,"))
    ),
)

EXPERIMENT = Experiment(
    name="online_days",
    title="Pre-rankers that train on their own logs, day after day, in a simulated funnel",
    paper=PAPER,
    table="the Matthew effect that its introduction argues with; no table of the paper",
    minutes=60,
    data=DATA,
    settings=replace(
        DaysSettings(),
        train=TrainConfig(steps=30, batch=128, chunk=30, checkpoint_every=30),
        loop=DaysConfig(),
    ),
    smoke={name: value for name, value in SMOKE.items() if not name.startswith("evaluate.")}
    | {"train.steps": 6, "train.chunk": 6, "loop.days": 2, "loop.online": 64},
    rows=ROWS,
    columns=(
        Column("online/clicks", "clicks a request", percent=False, lift=True),
        Column("online/purchases", "purchases a request", percent=False, lift=True),
        Column("online/tail_share", "tail share, online", decimals=2),
        Column("day1/tail_share", "tail share, day 1", decimals=2),
        Column("tail_share", "tail share, last day", decimals=2),
        Column("day1/gini", "Gini, day 1", percent=False, decimals=3),
        Column("gini", "Gini, last day", percent=False, decimals=3),
        Column("online/distinct_items", "items shown", percent=False, decimals=0),
        Column("day1/click_rate", "click rate, day 1", decimals=2),
        Column("click_rate", "click rate, last day", decimals=2),
        Column("popular_overlap", "popular channel shared with day 0"),
    ),
    claims=CLAIMS,
    seeds=5,
    run=run,
    worlds=3,
    figures=(("days", CAPTION, days_figure),),
)
