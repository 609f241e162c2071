"""Days of retraining on the own log: the plan of the experiment, what a day keeps, and a smoke run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from processes import launch

from experiments import online_days, online_days_run
from experiments.claims import Record
from experiments.online_days import EXPERIMENT, days_figure
from experiments.online_days_run import DaysConfig, DaysSettings, Loop
from hccp_jax import config
from hccp_jax.cascade.logs import clicked_first
from hccp_jax.errors import UserError

OPEN = ("base_open", "without_up_open", "hccp_open")
LAST = {"online/clicks", "online/purchases", "online/tail_share", "online/gini", "online/distinct_items"}
DAY = {"click_rate", "tail_share", "gini", "popular_head", "popular_overlap"}


def known(metric):
    day, _, rest = metric.partition("/")
    return metric in LAST | DAY or (day.removeprefix("day").isdigit() and rest in LAST | DAY)


def test_rows_claims_and_columns_name_what_is_there():
    names = [row.name for row in EXPERIMENT.rows]
    assert names == ["logging", "base", "without_up", "without_margin", "hccp", "hccp_fused", *OPEN]
    assert EXPERIMENT.baseline.name == "base"
    for claim in EXPERIMENT.claims:
        assert all(row in names and known(metric) for _, row, metric in claim.contrast), claim.id
    assert all(known(column.metric) for column in EXPERIMENT.columns)
    for row in EXPERIMENT.rows:
        config.override(EXPERIMENT.settings, row.overrides)
    config.override(EXPERIMENT.settings, EXPERIMENT.smoke)


def test_the_fused_row_differs_in_what_is_served_only():
    click, fused = (config.override(EXPERIMENT.settings, EXPERIMENT.row(n).overrides) for n in ("hccp", "hccp_fused"))
    assert dataclasses.replace(fused.hyper, serve_consistency=0.0) == click.hyper
    assert fused.hyper.serve_consistency == 1


def test_a_twin_without_the_loop_differs_in_the_loop_only():
    for name in OPEN:
        twin, own = (config.override(EXPERIMENT.settings, EXPERIMENT.row(n).overrides) for n in (name, name[:-5]))
        assert twin == dataclasses.replace(own, loop=dataclasses.replace(own.loop, open=True))


def test_without_the_loop_every_day_has_the_logging_policys_log(monkeypatch, tmp_path):
    """What an arm serves is measured; what it trains on is another's log, and its world stays as it was."""
    trained = []

    def live(open_):
        made = object.__new__(Loop)
        made.settings = dataclasses.replace(DaysSettings(), loop=DaysConfig(days=2, open=open_))
        made.start, made.octile, made.method, made.source = "start", None, None, type("S", (), {"catalogue": None})
        made.log = lambda world, seed, day, arm=None: (world, day, arm and arm[0])
        made.own_log = lambda seed, day: ("own", day)
        made.online = lambda world: type("O", (), {"data": world, "measured": lambda self, scores: ({}, {})})()
        made.trained = lambda trial, log, day, context: trained.append(log) or f"arm{day}"
        settings = made.settings
        trial = type("T", (), {"seed": 3, "settings": settings, "row": type("R", (), {"reference": False})})
        made.live(trial, None)

    monkeypatch.setattr(online_days_run, "day_metrics", lambda *x: {})
    monkeypatch.setattr(online_days_run, "clicks_per_item", lambda *x: 1.0)
    monkeypatch.setattr(online_days_run, "_drifted", lambda *x: "drifted")
    monkeypatch.setattr(online_days_run, "_scores", lambda *x: (None, None))
    monkeypatch.setattr(Loop, "tail", None)
    live(False)
    assert trained == [("own", 0), ("drifted", 1, "arm0"), ("drifted", 2, "arm1")]
    trained.clear()
    live(True)
    assert trained == [("own", 0), ("own", 1), ("own", 2)]


def test_days_that_no_stream_holds_are_refused():
    with pytest.raises(UserError, match=r"loop\.days=99999999: expected at most"):
        Loop(dataclasses.replace(DaysSettings(), loop=DaysConfig(days=99_999_999)))


def test_the_first_clicked_requests_are_kept_in_order():
    clicks = np.array([[0, 0], [1, 0], [0, 0], [0, 1], [1, 1]])
    batch = type("Batch", (), {"labels": {"click": clicks}})
    assert clicked_first(batch, 2).tolist() == [1, 3]
    assert clicked_first(batch, 4).tolist() == [1, 3, 4, 0]  # the first without a click fills up


def test_a_line_a_row_over_days(tmp_path):
    records = [
        Record(
            row,
            seed,
            {f"day{d}/{n}": 0.1 * d + 0.01 * seed for d in range(3) for n in online_days.PANELS},
            {},
            tmp_path,
        )
        for row in ("logging", "hccp")
        for seed in range(1 if row == "logging" else 3)
    ]
    axes = days_figure(EXPERIMENT, records).axes
    assert [axis.get_title() for axis in axes] == list(online_days.PANELS.values())
    for axis in axes:
        lines = {line.get_label(): line for line in axis.get_lines()}
        np.testing.assert_array_equal(lines["HCCP"].get_xdata(), [0, 1, 2])
        np.testing.assert_allclose(lines["HCCP"].get_ydata(), [0.01, 0.11, 0.21])
    assert days_figure(EXPERIMENT, []) is None


@pytest.fixture(scope="module")
def loop(small_world):
    small = {"train.steps": 2, "train.batch": 32, "train.chunk": 1, "loop.days": 1, "loop.online": 64}
    settings = config.override(EXPERIMENT.settings, small)
    return Loop(dataclasses.replace(settings, world=small_world[1], sampling=small_world[2]))


@pytest.mark.slow
def test_day_0_trains_what_fresh_training_batches_are(loop):
    log = loop.own_log(3, 0)
    assert log.mask.shape[:2] == (2, 64)
    kept, fresh = loop.kept(log), loop.source.chunk([3], 0, 2)
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other[0]), kept, fresh)
    assert (log.labels["click"].sum(-1) == 0).any()  # requests without a click are in the log, not in training
    clicked, trained = ((part.labels["click"].sum(-1) > 0).sum(-1) for part in (log, kept))
    np.testing.assert_array_equal(trained, np.minimum(clicked, 32))  # every request with a click, as far as they fit


@pytest.mark.slow
def test_the_tail_stays_the_same_items_while_the_world_drifts(loop):
    clicks = loop.tail.astype(np.float32)
    world = online_days_run._drifted(loop.start, loop.settings.world, clicks, 1.0)
    online = loop.online(world)
    seen = online.octile >= 0
    np.testing.assert_array_equal(online.octile[seen], loop.octile[seen])
    before = loop.online(loop.start)
    np.testing.assert_array_equal(online.data.requests.user["request"], before.data.requests.user["request"])
    # a channel of tail items alone brings more of them to the candidates
    shares = [loop.tail[np.asarray(o.data.candidates.ids)].mean() for o in (online, before)]
    assert shares[0] > shares[1]
    assert not loop.tail[0]


@pytest.mark.slow
def test_smoke(tmp_path):
    out = tmp_path / "out"
    command = ["--experiment=online_days", "--smoke", f"--out={out}"]
    assert launch(*command).returncode == 0
    for name in ("table.md", "claims.json", "figures/days.png", "report.html"):
        assert (out / name).exists()
    entries = json.loads((out / "claims.json").read_text())
    assert len(entries) == len(EXPERIMENT.claims)
    assert not [entry for entry in entries if " has no" in entry.get("reason", "")]
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    by_row = {(r["row"], r["seed"]): r["metrics"] for r in results}
    assert len(by_row) == 5 * 2 + 1
    for metrics in by_row.values():
        assert metrics["tail_share"] == metrics["day2/tail_share"]
        assert metrics["day0/popular_overlap"] == 1
        # day 0 is the world's own log, for every arm of a seed
        assert metrics["day0/gini"] in {by_row["base", seed]["day0/gini"] for seed in range(2)}
    one, other = by_row["base", 0], by_row["hccp", 0]
    assert one["day1/popular_overlap"] == other["day1/popular_overlap"] < 1
    assert one["day2/popular_overlap"] != other["day2/popular_overlap"]
    again = tmp_path / "again"
    again_command = ("--experiment=online_days", "--smoke", "--rows=hccp", "--seeds=1", f"--out={again}")
    assert launch(*again_command).returncode == 0
    repeated = [json.loads(line) for line in (again / "results.jsonl").read_text().splitlines()]
    assert next(r["metrics"] for r in repeated if r["row"] == "hccp") == other
