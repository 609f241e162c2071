"""CROLoss's tables and figures: views of the same runs, claims that the paper's own numbers hold, and identities."""

import importlib
import json
import math

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from processes import ROOT, launch
from test_croloss_experiment import store  # noqa: F401

from experiments import croloss, croloss_figure2, croloss_online, croloss_rows
from experiments.claims import INCONCLUSIVE, SUPPORTED, Record, contrast, decide
from experiments.croloss_figure5 import gain_over_n
from experiments.croloss_printed import BOOKS, TAOBAO, by_metric
from experiments.croloss_table3 import recall_over_alpha
from experiments.trials import Context, make_trials
from hccp_jax import config
from hccp_jax.evaluation.next_item import CURVE
from hccp_jax.losses.recall import croloss as croloss_of_lists
from hccp_jax.training.program import Placement

NAMES = ("table2", "table3", "table4", "figure3", "figure4", "figure5")
VIEWS = {name: importlib.import_module(f"experiments.croloss_{name}").EXPERIMENT for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_view_finds_the_trials_of_the_whole_run(name, tmp_path):
    """And the other way round: the same rows, settings and owner make the same hashes."""
    view, whole = VIEWS[name], croloss.EXPERIMENT
    everything = {t.directory.name for t in make_trials(whole, whole.settings, whole.rows, 2, tmp_path / "croloss")}
    own = {t.directory.name for t in make_trials(view, view.settings, view.rows, 2, tmp_path / name)}
    assert own <= everything
    finished = tmp_path / "croloss" / "trials" / sorted(own)[0]
    finished.mkdir(parents=True)
    (finished / "result.json").write_text("{}")
    trials = make_trials(view, view.settings, view.rows, 2, tmp_path / name)
    assert sum(trial.finished for trial in trials) == 1


def test_recorded_trials_keep_their_names():
    """The hash of a trial that was run before there were views."""
    changed = {"store": "/tmp/games_store", "train.steps": 2000}
    settings = config.override(croloss.EXPERIMENT.settings, changed)
    rows = [croloss.EXPERIMENT.row("softplus_06")]
    (trial,) = make_trials(croloss.EXPERIMENT, settings, rows, 1, ROOT / "nowhere")
    assert trial.directory.name == "e2a9fb826411"


@pytest.mark.parametrize("name", NAMES)
def test_claims_name_rows_and_metrics_that_are_there(name):
    view = VIEWS[name]
    rows = {row.name for row in view.rows}
    assert all({row for _, row, _ in claim.contrast} <= rows for claim in view.claims)
    assert {metric for claim in view.claims for *_, metric in claim.contrast} <= {c.metric for c in view.columns}
    assert set(view.pictured) <= rows
    assert view.baseline.name in rows
    assert len({claim.id for claim in view.claims}) == len(view.claims)
    assert all(set(numbers) <= rows for numbers in view.printed.values())


def test_the_whole_run_has_every_row_and_claim_once():
    ids = [claim.id for claim in croloss.EXPERIMENT.claims]
    assert len(set(ids)) == len(ids)
    used = {row.name for view in VIEWS.values() for row in view.rows}
    assert used == {row.name for row in croloss.EXPERIMENT.rows}
    assert set(BOOKS) | set(TAOBAO) <= {row.name for row in croloss_rows.ROWS}


@pytest.mark.parametrize("claim", croloss.EXPERIMENT.claims, ids=lambda claim: claim.id)
def test_a_claim_of_the_paper_holds_for_the_numbers_that_it_prints(claim):
    """So a claim says what is printed, exceptions included."""
    numbers = TAOBAO if "Taobao" in claim.paper else BOOKS
    if "Books" not in claim.paper and "Taobao" not in claim.paper:
        pytest.skip("not read off one corpus")
    found = by_metric(numbers, numbers)
    records = [
        Record(row, 0, {metric: values[row] / 100 for metric, values in found.items()}, {}, ROOT) for row in numbers
    ]
    ((_, value),) = contrast(records, claim).items()
    assert abs(value) < claim.within if claim.within else value > 0


def record(row, seed, level):
    curve = {"cutoffs": list(CURVE), "values": [level * math.log1p(n) / 10 + 0.001 * seed for n in CURVE]}
    return Record(row, seed, {f"recall@{n}": level for n in (50, 100, 200, 500)}, {"curves": {"recall": curve}}, ROOT)


def test_the_gain_is_that_of_the_curves():
    rows = {"triplet": 0.2, "hinge_1": 0.3, "bpr": 0.1, "softplus_1": 0.05}
    view = VIEWS["figure5"]
    figure = gain_over_n(view, [record(row, 0, level) for row, level in rows.items()])
    assert isinstance(figure, Figure)
    for axis, gain in zip(figure.axes, (0.5, -0.5), strict=True):
        np.testing.assert_allclose(axis.lines[0].get_ydata(), gain, atol=1e-12)
    books = figure.axes[0].lines[1].get_ydata()
    assert books[0] == pytest.approx(9.88 / 7.53 - 1)
    assert gain_over_n(view, [record("triplet", 0, 0.2)]) is None


def test_the_difference_of_curves_is_paired_by_seed():
    view = VIEWS["figure4"]
    draw = view.figures[0][2]
    # the seed moves both alike; seed 2 has no partner
    records = [record("sigmoid_1", seed, 0.3) for seed in (0, 1)] + [record("sigmoid_06", s, 0.3) for s in (0, 1, 2)]
    figure = draw(view, records)
    left, right = figure.axes
    np.testing.assert_allclose(right.lines[1].get_ydata(), 0.0, atol=1e-12)
    assert left.lines[1].get_ydata()[0] - left.lines[0].get_ydata()[0] == pytest.approx(0.0005)
    assert draw(view, []) is None


def test_recall_over_alpha_waits_for_two_alphas_of_a_kernel():
    view = VIEWS["table3"]
    assert recall_over_alpha(view, [record("sigmoid_1", 0, 0.3), record("softplus_06", 0, 0.2)]) is None
    records = [record("sigmoid_1", 0, 0.3), record("sigmoid_06", 0, 0.2), record("cross_entropy", 0, 0.1)]
    figure = recall_over_alpha(view, records)
    sigmoid, exponential = figure.axes[0].lines
    np.testing.assert_allclose(sigmoid.get_xdata(), [0.6, 1.0])
    np.testing.assert_allclose(sigmoid.get_ydata(), [0.2, 0.3])
    np.testing.assert_allclose(exponential.get_ydata(), [0.1])


def compared(tmp_path, seeds=2):
    experiment = croloss_figure2.EXPERIMENT
    settings = config.override(experiment.settings, {"train.batch": 8, "items": 1000})
    trials = make_trials(experiment, settings, experiment.rows, seeds, tmp_path)
    croloss_figure2.run(Context(experiment, tuple(trials), Placement(), lambda *_: lambda *_: None, lambda _: None))
    return trials


def test_eq_17_to_19_hold_and_another_loss_is_told_from_them(tmp_path):
    trials = compared(tmp_path)
    records = [Record(t.row.name, t.seed, t.result["metrics"], t.result, t.directory) for t in trials]
    verdicts = decide(croloss_figure2.EXPERIMENT.claims, records)
    assert [verdict.verdict for verdict in verdicts] == [SUPPORTED] * len(verdicts)
    by_row = {r.row: r.metrics for r in records}
    assert by_row["softmax"]["factor"] == pytest.approx(1.0, abs=1e-5)
    for row in ("triplet", "bpr"):  # W_0 is (R - 1) / |I|, times log(|I| + 1); R is |I| / |I'| times the sum
        assert by_row[row]["factor"] == pytest.approx(math.log(1001) / 80, rel=1e-4)


def test_what_is_compared_is_croloss_and_bpr():
    """The streamed loss of the rows against that of lists, whose cases have oracles, and BPR in float64."""
    bpr = next(row for row in croloss_figure2.ROWS if row.name == "bpr")
    settings = config.override(croloss_figure2.EXPERIMENT.settings, {"train.batch": 4} | bpr.overrides)

    @jax.jit
    def found(key):
        vectors = users, positives, negatives = croloss_figure2.drawn(settings, key)
        own, others = (users * positives).sum(-1, keepdims=True), users @ negatives.T
        lists = croloss_of_lists(own, others, items=settings.items, alpha=0.0, kernel="softplus")
        ours = croloss_figure2.croloss_of(settings, vectors, "none")
        return vectors, ours, lists, croloss_figure2.other_loss(settings, vectors)

    vectors, ours, lists, other = found(jax.random.key(1))
    users, positives, negatives = (np.asarray(leaf, np.float64) for leaf in vectors)
    np.testing.assert_allclose(np.linalg.norm(users, axis=-1), 10.0, rtol=1e-5)
    assert negatives.shape == (40, 32)
    assert ours == pytest.approx(float(lists), rel=1e-5)
    gap = users @ negatives.T - (users * positives).sum(-1, keepdims=True)
    assert other == pytest.approx(np.log1p(np.exp(gap)).sum(axis=-1).mean(), rel=1e-5)


def test_the_online_table_lifts_what_the_paper_lifts():
    experiment = croloss_online.EXPERIMENT
    names = {row.name for row in experiment.rows}
    assert experiment.settings.evaluate.online > 0
    assert [row.name for row in experiment.rows if not row.reference] == [row.name for row in croloss_online.ROWS]
    assert experiment.baseline.name == "croloss_cross_entropy"
    for claim in experiment.claims:
        assert claim.relative
        assert {row for _, row, _ in claim.contrast} <= names
    records = [
        Record("croloss_croloss", 0, {"online/clicks": 1.05, "ISH@100": 0.6}, {}, ROOT),
        Record("croloss_cross_entropy", 0, {"online/clicks": 1.0, "ISH@100": 0.5}, {}, ROOT),
    ]
    recall, clicks = experiment.claims[:2]
    assert contrast(records, recall)[0, 0] == pytest.approx(0.2)
    assert contrast(records, clicks)[0, 0] == pytest.approx(0.05)


def judged(*arguments, out, figures):
    done = launch(*arguments, "--smoke", f"--out={out}", f"--cache_dir={ROOT / '.jax_cache'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "table.md").exists()
    verdicts = json.loads((out / "claims.json").read_text())
    assert all("has no" not in verdict.get("reason", "") for verdict in verdicts)
    assert {path.stem for path in (out / "figures").iterdir()} >= set(figures)
    return done.stdout, verdicts


@pytest.mark.slow
def test_smoke_runs_of_all_views_train_each_row_once(store, tmp_path):  # noqa: F811
    stores = f"--store={store}"
    for name, view in VIEWS.items():
        figures = {figure for figure, *_ in view.figures} | {"hit_rate_curves", "training_curves"}
        judged(f"--experiment=croloss_{name}", stores, out=tmp_path / name, figures=figures)
    said, verdicts = judged("--experiment=croloss", stores, out=tmp_path / "croloss", figures={"hit_rate_curves"})
    count = 2 * len(croloss_rows.ROWS) + 1
    assert f"{count} of {count} trials are finished" in said
    assert len(verdicts) == len(croloss.EXPERIMENT.claims)


@pytest.mark.slow
def test_smoke_runs_of_what_needs_no_store(tmp_path):
    judged("--experiment=croloss_figure2", out=tmp_path / "formulas", figures={"figure2"})
    _, verdicts = judged("--experiment=croloss_online", out=tmp_path / "online", figures={"training_curves"})
    assert {verdict["verdict"] for verdict in verdicts} <= {SUPPORTED, INCONCLUSIVE, "not_supported"}
