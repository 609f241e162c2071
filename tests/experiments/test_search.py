"""Adaptive search: what can be searched, rounds, a killed search that goes on, and the answer of a sweep."""

import json
import math
import sys
from pathlib import Path

import pytest
from processes import launch
from test_engines import EXPERIMENT, planned
from test_launch import TINY, one_line

from experiments.engines.jobs import Failure
from experiments.flags import launcher_flags, parse, settings_flags
from experiments.plan import Plan
from experiments.search import asked_space, batch, search, space
from experiments.study import studies
from experiments.sweep_space import Range
from experiments.trials import Trial
from hccp_jax.errors import UserError
from launch import main as launch_main

SWEEP = "hyper.margin=uniform(0,1) x width=4,8"


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="needs Optuna: pip install 'hccp_jax[optuna]'")


class Runner:
    """An engine whose trials are the better the closer the margin is to 0.3."""

    def __init__(self, stop_after: float = math.inf, fails: str = "") -> None:
        self.ran: list[str] = []
        self.rounds, self.stop_after, self.fails = 0, stop_after, fails

    def __call__(self, plan: Plan) -> list[Failure]:
        failed = []
        self.rounds += 1
        for trial in plan.trials():
            if trial.finished:
                continue
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            if self.fails and trial.settings.width == int(self.fails):
                failed.append(trial)
                continue
            self.ran.append(trial.directory.name)
            self.finish(trial)
        return ["failed"] * len(failed)  # type: ignore[list-item]

    def finish(self, trial: Trial) -> None:
        trial.directory.mkdir(parents=True)
        result = {"seed": trial.seed}
        if not trial.row.reference:
            result |= {"validation": -abs(trial.settings.hyper.margin - 0.3) + 0.01 * trial.seed}
        (trial.directory / "result.json").write_text(json.dumps(result))


def given(*arguments: str) -> dict:
    values = launcher_flags()
    settings_flags(values, EXPERIMENT)
    parse(values, arguments)
    return {name: values[name].value for name in values}


def searched(out: Path, runner: Runner, *arguments: str, rows: str = "a", number: int = 8):
    asked = (f"--sweep={SWEEP}", f"--search={number}", "--search_batch=4", f"--rows={rows}", *arguments)
    plan = planned(out, *asked)
    out.mkdir(exist_ok=True)
    flags = given(*asked)
    return search(plan, studies(plan, asked_space(flags, plan), flags), batch(flags), runner, print)


def points(plan: Plan) -> list[tuple]:
    return [(one.of.name, *one.point.items()) for one in plan.over]


def test_a_product_of_ranges_and_lists_can_be_searched():
    assert space("a=uniform(0,1) x b=1,2 x c=int(1,9)") == {
        "a": Range("uniform", 0, 1),
        "b": ("1", "2"),
        "c": Range("int", 1, 9),
    }
    assert space("a=1 & b=log(1,2)") == {"a": ("1",), "b": Range("log", 1, 2)}


@pytest.mark.parametrize("text", ["a=1,2 & b=3,4", "a=1 + b=2", "a=1,2 x b=3 + a=3 & b=4", "a=uniform(0,1) + a=2"])
def test_a_zip_or_a_chain_is_refused(text):
    with pytest.raises(UserError, match="expected a product of ranges and lists"):
        space(text)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--search=-1"], "search=-1: expected at least 0"),
        (["--search=2"], "search=2: expected --sweep with ranges or lists"),
        (["--search=2", "--sweep=hyper.margin=0,1", "--sweep_draws=2"], "expected neither --sweep_draws"),
        (["--search=2", "--sweep=hyper.margin=0,1", "--engine=print"], "expected --engine=local or --engine=ray"),
        (["--search=2", "--sweep=hyper.margn=0,1"], "did you mean hyper.margin?"),
        (["--search=2", "--sweep=hyper.margin=uniform(-1,1)"], "hyper.margin=-1.0: expected a value at least 0"),
    ],
)
def test_bad_searches_are_one_line_and_write_nothing(arguments, part, tmp_path, capsys):
    code = launch_main([*arguments, f"--out={tmp_path / 'run'}"])
    assert part in one_line(code, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_as_many_settings_are_asked_at_once_as_there_are_processes():
    assert batch(given()) == 4
    assert batch(given("--processes=3")) == 3
    assert batch(given("--processes=3", "--search_batch=5")) == 5


def test_a_search_is_rounds_of_ordinary_trials(optuna, tmp_path):
    runner = Runner()
    plan, failures = searched(tmp_path, runner)
    assert failures == []
    assert runner.rounds == 3  # the last finds everything finished
    assert len(points(plan)) == 8
    assert all(trial.finished for trial in plan.trials())
    again = Runner()
    repeated, _ = searched(tmp_path, again)
    assert (again.ran, points(repeated)) == ([], points(plan))
    longer, _ = searched(tmp_path, again, number=12)
    assert points(longer)[:8] == points(plan)
    assert len(again.ran) == 4 * 2  # seeds


def test_it_is_told_the_mean_over_seeds(optuna, tmp_path):
    plan, _ = searched(tmp_path, Runner())
    found = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'search.db'}")
    for trial, one in zip(found.get_trials(), plan.over, strict=True):
        assert trial.value == pytest.approx(-abs(float(one.point["hyper.margin"]) - 0.3) + 0.005)
    assert len({one.point["width"] for one in plan.over}) == 2


def test_later_settings_are_better(optuna, tmp_path):
    plan, _ = searched(tmp_path, Runner(), number=32)
    misses = [abs(float(one.point["hyper.margin"]) - 0.3) for one in plan.over]
    assert sum(misses[-12:]) < 0.7 * sum(misses[:12])


@pytest.mark.parametrize("stop_after", [0, 5, 9, 13])
def test_a_killed_search_goes_on_to_the_same_settings(optuna, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "killed", Runner(stop_after))
    on = Runner()
    plan, _ = searched(tmp_path / "killed", on)
    straight = Runner()
    undisturbed, _ = searched(tmp_path / "straight", straight)
    assert points(plan) == points(undisturbed)
    assert len(on.ran) == len(straight.ran) - stop_after


def test_a_setting_that_was_half_asked_is_asked_again(optuna, tmp_path):
    plan, _ = searched(tmp_path, Runner(), number=4)
    (study,) = studies(planned(tmp_path, "--rows=a"), space(SWEEP), given(f"--sweep={SWEEP}", "--search=8"))
    study.study.ask()
    assert len(study.ask(4)) == 4
    assert len(study.points()) == 8
    longer, _ = searched(tmp_path, Runner(), number=8)
    assert points(longer)[:4] == points(plan)


def test_each_row_is_searched_over_what_it_leaves_open(optuna, tmp_path):
    runner = Runner()
    plan, _ = searched(tmp_path, runner, rows="a,b,wide")
    found = {name: [p for p in points(plan) if p[0] == name] for name in ("a", "b", "wide")}
    assert len(found["a"]) == 8
    assert {p[1] for p in found["b"]} == {("width", "4"), ("width", "8")}  # of eight asked, two differ
    assert all(p[1][0] == "hyper.margin" and len(p) == 2 for p in found["wide"])


def test_a_setting_that_failed_stays_open(optuna, tmp_path):
    plan, failures = searched(tmp_path, Runner(fails="8"), "--seeds=1")
    wide = sum(one.point["width"] == "8" for one in plan.over)
    assert len(failures) == wide > 0
    assert sum(not trial.finished for trial in plan.trials()) == wide
    again = Runner()
    _, failures = searched(tmp_path, again, "--seeds=1")
    assert (len(again.ran), failures) == (wide, [])


def test_a_storage_that_cannot_be_used_is_one_line(optuna, tmp_path):
    with pytest.raises(UserError, match="search_storage='nonsense': cannot be used"):
        searched(tmp_path, Runner(), "--search_storage=nonsense")


def test_a_missing_optuna_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"search=8: Optuna is not installed; expected pip install .hccp_jax\[optuna\]"):
        searched(tmp_path, Runner())


@pytest.mark.slow
def test_a_search_in_workers_answers_like_one_in_this_process(optuna, tmp_path):
    arguments = [*TINY, "--rows=hccp", "--sweep=hyper.margin=uniform(0,1) x hyper.learning_rate=log(1e-4,1e-2)"]
    for name, more in (("here", []), ("workers", ["--processes=2"])):
        done = launch(*arguments, "--search=4", "--search_batch=2", f"--out={tmp_path / name}", *more)
        assert done.returncode == 0, done.stderr
    here, workers = ((tmp_path / name / "results.jsonl").read_bytes() for name in ("here", "workers"))
    assert here == workers
    assert "Best by validation" in (tmp_path / "workers" / "sweep.md").read_text()
