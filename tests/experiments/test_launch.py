"""The command line: what a user can get wrong, and what a run leaves behind."""

import json
import time
from pathlib import Path

import pytest
from processes import ROOT, begin, launch

from launch import main as launch_main

TINY = [
    "--smoke",
    "--seeds=2",
    "--world.items=400",
    "--world.candidates=128",
    "--world.users=60",
    "--model.experts=2",
    "--evaluate.requests=64",
    "--evaluate.cutoffs=10,100",
    f"--cache_dir={ROOT / '.jax_cache'}",
]


def one_line(code: int, errors: str) -> str:
    """The one line of a refused command."""
    assert code == 2, errors
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    return lines[0]


def refused(*arguments: str) -> str:
    """The refusal of a command in a process of its own."""
    done = launch(*arguments)
    return one_line(done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--experimant=quickstart"], "did you mean experiment?"),
        (["--hyper.margn=0.2"], "did you mean hyper.margin?"),
        (["--experiment=hccp_lader"], "did you mean hccp_ladder?"),
        (["--rows=base,hcp"], "did you mean hccp?"),
    ],
)
def test_a_mistyped_name_is_told_with_its_near_miss(arguments, part, capsys):
    assert part in one_line(launch_main(arguments), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--hyper.temperature=0"], "hyper.temperature=0.0: expected a value above 0"),
        (["--hyper.margin=abc"], "hyper.margin='abc': expected float"),
        (["--train.steps=1.5"], "train.steps='1.5': expected int"),
        (["--model.dtype=float16"], "expected one of float32, bfloat16"),
        (["--seeds=0"], "seeds=0"),
        (["--seeds=x"], "seeds"),
        (["--devices=0"], "devices=0"),
        (["--train.batch=3", "--devices=2"], "train.batch=3: expected a multiple of the 2 devices"),
        (["quickstart"], "unexpected argument"),
        (["--engine=cloud"], "engine"),
    ],
)
def test_a_bad_value_is_one_line(arguments, part, tmp_path, capsys):
    code = launch_main([*arguments, f"--out={tmp_path / 'run'}"])
    assert part in one_line(code, capsys.readouterr().err)


def test_values_that_do_not_fit_together_are_one_line(tmp_path):
    out = f"--out={tmp_path / 'run'}"
    line = refused(*TINY, "--world.ranked=300", out)
    assert "world.ranked=300: expected fewer than world.candidates" in line


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    assert "out=" in refused(f"--out={blocked / 'run'}")
    assert "out=" in refused(f"--out={blocked}")


def test_kuairand_says_which_file_is_missing(tmp_path):
    out = f"--out={tmp_path / 'run'}"
    assert "data_dir" in refused("--experiment=kuairand", out)
    line = refused("--experiment=kuairand", out, f"--data_dir={tmp_path}")
    assert "no user_features_pure.csv or user_features_pure.csv.gz there" in line


def test_list_and_help_name_everything(capsys):
    assert launch_main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("quickstart", "hccp_ladder", "kuairand", "min"))
    helped = launch("--help").stdout
    assert all(
        name in helped for name in ("--experiment", "--hyper.margin", "--world.ranker", "shrunk|perfect|trained")
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("launch") / "run"
    done = launch(*TINY, f"--out={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_a_run_leaves_what_others_script_against(finished):
    names = ("config.json", "environment.json", "results.jsonl", "table.md", "table.csv", "claims.json", "report.html")
    assert all((finished / name).stat().st_size > 0 for name in names)
    assert list((finished / "figures").glob("*.png"))
    records = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    assert {(r["row"], r["seed"]) for r in records} == {("base", 0), ("base", 1), ("hccp", 0), ("hccp", 1)} | {
        (row, 0) for row in ("truth", "ranker", "popularity", "random")
    }
    for record in records:
        trial = finished / "trials" / record["config_hash"]
        assert json.loads((trial / "result.json").read_text())["metrics"] == record["metrics"]
        if record["row"] in ("base", "hccp"):
            steps = [json.loads(line)["step"] for line in (trial / "metrics.jsonl").read_text().splitlines()]
            assert steps == [10, 20]
            assert (trial / "checkpoints" / "20").is_dir()
    truth = next(r["metrics"] for r in records if r["row"] == "truth")
    assert truth["T@10"] == pytest.approx(1.0)
    ranker = next(r["metrics"] for r in records if r["row"] == "ranker")
    assert ranker["NDCG@10"] == pytest.approx(1.0)
    verdicts = json.loads((finished / "claims.json").read_text())
    assert {"id", "paper", "statement", "verdict", "effect", "ci95", "seeds"} <= set(verdicts[0])


def test_the_same_command_again_finds_everything_finished(finished):
    before = (finished / "results.jsonl").read_bytes()
    again = launch(*TINY, f"--out={finished}")
    assert again.returncode == 0
    assert "8 of 8 trials are finished" in again.stdout
    assert (finished / "results.jsonl").read_bytes() == before


def test_another_configuration_in_the_same_output_is_refused_with_the_difference(finished):
    line = refused(*TINY, f"--out={finished}", "--hyper.margin=0.3")
    assert "config.hyper.margin: 0.9 -> 0.3" in line


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_numbers(finished, tmp_path):
    out = tmp_path / "run"
    arguments = [*TINY, f"--out={out}", "--train.checkpoint_every=10"]
    straight = tmp_path / "straight"
    assert launch(*TINY, f"--out={straight}", "--train.checkpoint_every=10").returncode == 0
    with begin(*arguments) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if list(out.glob("trials/*/checkpoints/10/*")):
                break
            time.sleep(0.02)
        process.kill()
    assert launch(*arguments).returncode == 0
    assert (out / "results.jsonl").read_bytes() == (straight / "results.jsonl").read_bytes()
    logs = sorted(path.relative_to(out) for path in out.glob("trials/*/metrics.jsonl"))
    assert logs
    assert all((out / log).read_bytes() == (straight / log).read_bytes() for log in logs)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
def test_devices_share_a_batch_and_change_nothing_but_rounding(finished, tmp_path, parallel):
    out = tmp_path / "run"
    done = launch(*TINY, f"--out={out}", "--devices=4", f"--parallel={parallel}", "--rows=hccp", "--seeds=1")
    assert done.returncode == 0, done.stderr

    def losses(where: Path) -> list[float]:
        row = next(r for r in map(json.loads, (where / "results.jsonl").read_text().splitlines()) if r["row"] == "hccp")
        log = where / "trials" / row["config_hash"] / "metrics.jsonl"
        return [json.loads(line)["loss"] for line in log.read_text().splitlines()]

    assert losses(out) == pytest.approx(losses(finished), rel=1e-4)
