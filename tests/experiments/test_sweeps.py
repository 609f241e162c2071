"""Sweeps: which rows they become, what is refused, what each knob does, and the answer that is written."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from processes import launch
from scipy import stats
from test_launch import one_line

from experiments import quickstart, sweeps
from experiments.claims import Record
from experiments.experiment import Column, Data, Experiment, Kind, Row
from experiments.sweep_answer import answers, chosen_text, to_markdown
from experiments.sweep_effects import axis, effects, knobs
from experiments.sweep_figures import save_sweep, strongest_two
from experiments.sweeps import points, tried, widened
from experiments.trials import groups, make_trials
from hccp_jax.config import field
from hccp_jax.errors import UserError
from launch import main as launch_main

ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Hyper:
    margin: float = field(0.5, "margin", at_least=0)
    rate: float = field(0.1, "step size", above=0)


@dataclasses.dataclass(frozen=True)
class Settings:
    hyper: Hyper = Hyper()
    width: int = field(4, "width")


ROWS = (Row("base", "Base"), Row("fixed", "Fixed", {"hyper.margin": 0.0}), Row("truth", "Truth", reference=True))
COLUMNS = (Column("AUC", "AUC"), Column("ms", "ms", percent=False, cost=True))
EXPERIMENT = Experiment(
    "demo",
    "Demo",
    "A. Author",
    "T",
    1,
    Data(Kind.SIMULATED, "Simulated: x."),
    Settings(),
    {},
    ROWS,
    COLUMNS,
    (),
    2,
    print,
)


def test_a_row_is_tried_once_where_it_fixes_what_the_point_changes(tmp_path):
    over = tried(ROWS, Settings(), points("hyper.margin=0,0.9 x hyper.rate=0.1,0.2", "", 0, 0))
    assert [one.of.name for one in over] == ["base"] * 4 + ["fixed"] * 2
    assert [one.row.label for one in over][2:5] == [
        "Base: margin=0.9, rate=0.1",
        "Base: margin=0.9, rate=0.2",
        "Fixed: rate=0.1",
    ]
    assert len({one.row.name for one in over}) == 6
    wide = widened(EXPERIMENT, ROWS, over)
    trials = make_trials(wide, Settings(), wide.rows, 2, tmp_path)
    assert len(trials) == 6 * 2 + 1
    assert {trial.settings.hyper.margin for trial in trials if trial.row.name.startswith("fixed")} == {0.0}
    assert len({trial.directory for trial in trials}) == len(trials)


def test_points_that_differ_in_numbers_share_a_program(tmp_path):
    over = tried(ROWS[:1], Settings(), points("hyper.margin=0,0.9 x width=4,8", "", 0, 0))
    wide = widened(EXPERIMENT, ROWS[:1], over)
    found = groups(make_trials(wide, Settings(), wide.rows, 3, tmp_path))
    assert sorted(len(group) for group in found) == [6, 6]


def test_a_file_is_its_lines_one_after_the_other(tmp_path):
    file = tmp_path / "sweep.txt"
    file.write_text("# step sizes\nhyper.rate=0.1,0.2  # two\n\nhyper.margin=0\n")
    assert points("", str(file), 0, 0) == [{"hyper.rate": "0.1"}, {"hyper.rate": "0.2"}, {"hyper.margin": "0"}]
    assert len(points("", str(file), 2, 5)) == 2


def test_files_that_are_no_sweep(tmp_path):
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, problem in (("empty", "expected a sweep"), ("bytes", "cannot be read"), ("none", "No such file")):
        with pytest.raises(UserError, match=problem):
            points("", str(tmp_path / name), 0, 0)
    with pytest.raises(UserError, match="not both"):
        points("a=1", str(tmp_path / "empty"), 0, 0)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--sweep=hyper.margn=0,1"], "did you mean hyper.margin?"),
        (["--sweep=hyper.margin=0,-1"], "hyper.margin=-1.0: expected a value at least 0"),
        (["--sweep=hyper.margin=uniform(0,1)"], "give the number of draws by --sweep_draws"),
        (["--sweep=hyper.margin=0,1", "--sweep_draws=-1"], "sweep_draws=-1: expected at least 0"),
        (["--sweep=hyper.margin=0,1 & train.steps=1"], "a zip of 2 and 1 values"),
    ],
)
def test_bad_sweeps_are_one_line_and_write_nothing(arguments, part, tmp_path, capsys):
    code = launch_main([*arguments, f"--out={tmp_path / 'run'}"])
    assert part in one_line(code, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_effects_are_least_squares():
    """Against the normal equations, with the seed as one more factor."""
    rng = np.random.default_rng(0)
    grid = [{"m": m, "r": r} for m in ("0", "0.2", "0.9") for r in ("1e-3", "3e-3")]
    data, seeds = grid * 4, [seed for seed in range(4) for _ in grid]
    values = rng.normal(size=len(data))
    columns = [[float(p["m"] == "0.2"), float(p["m"] == "0.9"), float(p["r"] == "3e-3")] for p in data]
    x = np.array([[*(float(s == k) for k in range(4)), *row] for s, row in zip(seeds, columns, strict=True)])
    beta = np.linalg.solve(x.T @ x, x.T @ values)
    freedom = len(data) - 7
    error = np.sqrt(np.sum((values - x @ beta) ** 2) / freedom * np.diag(np.linalg.inv(x.T @ x)))
    half = stats.t.ppf(0.975, freedom) * error
    found = effects(data, seeds, values)
    assert [(e.knob, e.change) for e in found] == [("m", "0 -> 0.2"), ("m", "0 -> 0.9"), ("r", "1e-3 -> 3e-3")]
    for effect, mean, width in zip(found, beta[4:], half[4:], strict=True):
        np.testing.assert_allclose(
            [effect.interval.mean, effect.interval.low, effect.interval.high], [mean, mean - width, mean + width]
        )


def test_knobs_that_change_together_cannot_be_told_apart():
    data = [{"m": "0", "r": "1", "s": s} for s in "ab"] + [{"m": "1", "r": "2", "s": s} for s in "ab"]
    found = {effect.knob: effect for effect in effects(data, [0] * 4, [0.0, 1.0, 5.0, 6.0])}
    assert found["m"].interval is found["r"].interval is None
    assert found["m"].why == "changes together with other knobs"
    assert found["s"].interval.mean == pytest.approx(1.0)


def test_many_values_are_a_line_on_the_scale_that_they_span():
    rates = [f"{rate:.3g}" for rate in np.geomspace(1e-4, 1e-2, 9)]
    values = [2.0 + 3.0 * math.log10(float(rate) / 1e-4) / 2 for rate in rates]
    (effect,) = effects([{"r": rate} for rate in rates], [0] * 9, values)
    assert effect.change == "0.0001 -> 0.01"
    assert effect.interval.mean == pytest.approx(3.0, rel=1e-3)
    np.testing.assert_allclose(axis(["0", "1", "4"]), [0, 0.25, 1])
    np.testing.assert_allclose(axis(["1", "10", "100"]), [0, 0.5, 1])
    np.testing.assert_allclose(axis(["pcgrad", "sum"]), [0, 1])


def test_what_does_not_vary_is_no_knob():
    assert knobs([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}]) == ["b"]
    assert effects([{"a": "1"}], [0], [1.0]) == []


@pytest.fixture
def found():
    over = tried(ROWS, Settings(), points("hyper.margin=0,0.9 x hyper.rate=0.1,0.2", "", 0, 0))
    records = []
    for one in over:
        for seed in range(2):
            value = float(one.point.get("hyper.margin", 0)) + 10 * float(one.point["hyper.rate"]) + 0.01 * seed
            result = {"validation": value, "validated_by": "ISH@100"}
            records.append(Record(one.row.name, seed, {"AUC": value / 10, "ms": 1.0}, result, Path("none")))
    return over, records


def test_settings_without_a_result_are_named():
    over = tried(ROWS[:1], Settings(), points("hyper.margin=0,0.9", "", 0, 0))
    first, second = (one.row.name for one in over)
    records = [Record(first, 0, {}, {"validation": 0.5, "validated_by": "AUC"}, Path("none"))]
    (answer,) = answers(over, records)
    assert [one.row.name for one in answer.without] == [second]
    assert "Without a result: hyper.margin=0.9." in to_markdown(EXPERIMENT, [answer], "x")


def test_the_answer_is_the_best_by_validation(found):
    base, fixed = answers(*found)
    assert (base.of.name, fixed.of.name) == ("base", "fixed")
    assert base.settings[0].tried.point == {"hyper.margin": "0.9", "hyper.rate": "0.2"}
    assert [setting.validation.mean for setting in base.settings] == sorted(
        (setting.validation.mean for setting in base.settings), reverse=True
    )
    assert chosen_text(base).startswith("hyper.margin=0.9, hyper.rate=0.2; ISH@100: 2.9050 [")
    assert strongest_two(base, ["hyper.margin", "hyper.rate"]) == ("hyper.rate", "hyper.margin")
    assert strongest_two(fixed, ["hyper.rate"]) is None
    text = to_markdown(EXPERIMENT, [base, fixed], "the command")
    assert "| hyper.rate | 0.1 -> 0.2 | +1.0000 [" in text
    assert "Simulated: x." in text
    assert "ms" not in text.split("validation |")[1].splitlines()[0]


def test_trials_without_a_validation_value_have_no_answer(found):
    over, records = found
    bare = [dataclasses.replace(record, result={}) for record in records]
    assert answers(over, bare) == []


def test_pictures_are_drawn_for_rows_with_knobs(found, tmp_path):
    paths = save_sweep(tmp_path, answers(*found))
    assert [path.name for path in paths] == [
        "sweep_base_settings.png",
        "sweep_base_map.png",
        "sweep_fixed_settings.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_many_values_are_pictured_as_points(tmp_path):
    over = tried(ROWS[:1], Settings(), points("hyper.margin=uniform(0,1) x hyper.rate=log(1e-3,1)", "", 30, 0))
    records = []
    for one in over:
        value = float(one.point["hyper.margin"]) + 0.1 * math.log(float(one.point["hyper.rate"]))
        result = {"validation": value, "validated_by": "ISH@100"}
        records.append(Record(one.row.name, 0, {"AUC": value}, result, Path("none")))
    (answer,) = answers(over, records)
    assert len(save_sweep(tmp_path, [answer])) == 2
    assert "and 10 more in results.jsonl" in to_markdown(EXPERIMENT, [answer], "x")


@pytest.mark.slow
def test_a_sweep_is_run_answered_and_found_again(tmp_path):
    sweep = "--sweep=hyper.margin=0,0.9 x hyper.learning_rate=1e-3,9e-3"
    arguments = ["--seeds=2", "--rows=hccp", sweep, f"--out={tmp_path / 'run'}"]
    first = launch("--smoke", *arguments)
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "run" / "sweep.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert len([line for line in lines if line["row"].startswith("hccp-")]) == 8
    assert "| hyper.learning_rate | 1e-3 -> 9e-3 |" in text
    assert "Best settings" in (tmp_path / "run" / "report.html").read_text()
    again = launch("--smoke", *arguments)
    assert again.returncode == 0, again.stderr
    assert "12 of 12 trials are finished" in again.stdout
    assert (tmp_path / "run" / "sweep.md").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_setting_that_diverges_is_named_and_the_others_are_answered(tmp_path, processes):
    """In one population, and in workers, which are not started again for it."""
    arguments = ["--seeds=1", "--rows=base,hccp", f"--processes={processes}", f"--out={tmp_path}"]
    done = launch("--smoke", *arguments, "--sweep=hyper.learning_rate=3e-3,1e30")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: 2 of 8 trials are missing: ")
    assert line.count("loss is not finite at step 2 (terms: ") == 2
    assert "starting it again" not in done.stdout
    text = (tmp_path / "sweep.md").read_text()
    assert text.count("Without a result: hyper.learning_rate=1e30.") == 2
    assert text.count("**hyper.learning_rate=3e-3**") == 2


def test_the_quickstart_can_be_swept():
    over = sweeps.tried(
        quickstart.EXPERIMENT.rows, quickstart.EXPERIMENT.settings, points("hyper.margin=0,0.5", "", 0, 0)
    )
    assert [one.of.name for one in over] == ["base", "base", "hccp", "hccp"]
