"""The ledger of claims: which runs decide, which do not, and the files it leaves."""

import csv
import io
import json
import re

import pytest
from rich.console import Console
from written_run import claim, experiment, write_run

from experiments import ledger_files, report
from experiments.claims import Record
from experiments.experiment import Data, Kind
from experiments.ledger import paper_of, read_ledger
from experiments.provenance import kind_of_data, provenance_of
from hccp_jax.errors import UserError
from launch import main as launch_main

DEMO, OTHER = experiment(), experiment("other", claims=(claim("CRO-1", "good", paper="CROLoss Table 2"),))
COMMAND = "python launch.py --claims --out=runs"


def statuses(found):
    return [(entry.claim.id, entry.status, entry.run.name if entry.run else "") for entry in found.entries]


def test_a_full_run_decides_by_paper_and_number(tmp_path):
    write_run(tmp_path / "b" / "full", DEMO, worlds=3)
    found = read_ledger(tmp_path, [DEMO, OTHER])
    assert statuses(found) == [
        ("HCCP-2.a", "not_supported", "b/full"),
        ("HCCP-2.b", "not_supported", "b/full"),
        ("HCCP-10", "supported", "b/full"),  # after 2: numbers are numbers
        ("RT-1", "not_run", "b/full"),
        ("CRO-1", "not_run", ""),
        ("SYS-1", "supported", "b/full"),
    ]
    assert [name for name, _ in found.groups] == ["HCCP", "RankTower", "CROLoss", "Ours"]
    assert found.counts == {"supported": 2, "not_supported": 2, "inconclusive": 0, "smoke": 0, "not_run": 2}
    assert found.entries[3].reason == "row absent has no results"
    good = found.entries[2].verdict
    assert good.interval.mean == pytest.approx(0.3, abs=0.004)
    assert len(good.by_world) == 3
    assert found.entries[2].seeds == "5 x 3"


def test_the_verdicts_are_those_of_the_runs_own_report(tmp_path):
    run = write_run(tmp_path / "full", DEMO, worlds=2)
    report.write_all(run, DEMO, "python launch.py", Console(file=io.StringIO()))
    own = {entry["id"]: entry for entry in json.loads((run / "claims.json").read_text())}
    for entry in read_ledger(tmp_path, [DEMO]).entries:
        if entry.verdict:
            assert own[entry.claim.id] == entry.verdict.as_json()


def test_a_smoke_run_decides_nothing_whatever_its_command(tmp_path):
    by_size = write_run(tmp_path / "size", DEMO, steps=10)
    by_flag = write_run(tmp_path / "flag", DEMO, steps=20, command="python launch.py --smoke --train.steps=20")
    assert provenance_of(by_size, DEMO).smoke
    assert provenance_of(by_flag, DEMO).smoke
    found = read_ledger(tmp_path, [DEMO])
    assert found.counts["smoke"] == 2 * len(DEMO.claims)
    assert not any(entry.verdict for entry in found.entries)
    write_run(tmp_path / "full", DEMO)
    found = read_ledger(tmp_path, [DEMO])  # beside a full run it is listed as a run only
    assert found.counts["smoke"] == 0
    assert {entry.run.name for entry in found.entries} == {"full"}
    assert len(found.runs) == 3


def test_a_claim_that_a_view_decides_is_not_also_listed_as_not_run(tmp_path):
    write_run(tmp_path / "view", DEMO)
    owner = experiment("owner", claims=(*DEMO.claims[:2], claim("HCCP-11", "good")))
    found = read_ledger(tmp_path, [owner, DEMO])
    assert [(entry.claim.id, entry.status) for entry in found.entries if entry.experiment is owner] == [
        ("HCCP-11", "not_run")
    ]


def test_two_full_runs_stand_side_by_side_with_what_was_changed(tmp_path):
    write_run(tmp_path / "one", DEMO)
    write_run(tmp_path / "two", DEMO, steps=800, good=0.1)
    found = read_ledger(tmp_path, [DEMO])
    tens = [(entry.run.name, entry.status) for entry in found.entries if entry.claim.id == "HCCP-10"]
    assert tens == [("one", "supported"), ("two", "not_supported")]
    assert found.runs[0].provenance.changed == ()
    assert found.runs[1].provenance.changed == ("train.steps: 400 -> 800",)
    assert found.runs[0].provenance.configuration != found.runs[1].provenance.configuration


def test_what_is_no_run_of_ours_is_left_aside_with_its_reason(tmp_path):
    write_run(tmp_path / "full", DEMO)
    write_run(tmp_path / "strange", experiment("unheard"))
    sweep = write_run(tmp_path / "sweep", DEMO)
    lines = [line for line in (sweep / "results.jsonl").read_text().splitlines() if '"truth"' in line]
    (sweep / "results.jsonl").write_text("\n".join(lines))
    for name, text in (("half", '{"experiment": "de'), ("list", "[1, 2]"), ("empty", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_text(text)
    found = read_ledger(tmp_path, [DEMO])
    assert [run.name for run in found.runs] == ["full"]
    reasons = dict(found.aside)
    assert set(reasons) == {"strange", "sweep", "half", "list", "empty"}
    assert "'unheard', no known experiment" in reasons["strange"]
    assert "sweep decide no claims" in reasons["sweep"]
    assert "cannot be read" in reasons["half"]
    assert "cannot be read" in reasons["list"]


def test_a_directory_without_runs_is_the_users_mistake(tmp_path):
    for out in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="no results of a known experiment"):
            read_ledger(out, [DEMO])


def test_the_directory_may_be_a_run_itself(tmp_path):
    write_run(tmp_path / "full", DEMO)
    assert [run.name for run in read_ledger(tmp_path / "full", [DEMO]).runs] == ["."]


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("HCCP-12", "ours, simulated", "Ours"),
        ("HCCP-12", "HCCP 4.3", "HCCP"),
        ("RT-1", "x", "RankTower"),
        ("SYS-4", "SDCL Table 3", "SDCL"),
        ("SSB-2", "ours", "Ours"),
    ],
)
def test_the_paper_of_a_claim(name, source, expected):
    assert paper_of(claim(name, "good", paper=source)) == expected


@pytest.mark.parametrize(
    ("declared", "told", "kind"),
    [
        (Kind.SIMULATED, "", Kind.SIMULATED),
        (Kind.STAGED, "Data: Ads.", Kind.STAGED),
        (Kind.STORED, "", Kind.STORED),
        (Kind.STORED, "Data: Ads; simulated: the stages.", Kind.STAGED),
        (Kind.STORED, "Data: Ads.", Kind.REAL),
    ],
)
def test_a_store_says_what_its_data_are_and_all_else_is_declared(tmp_path, declared, told, kind):
    records = [Record("base", 0, {}, {"data": told}, tmp_path)] if told else []
    assert kind_of_data(experiment(data=Data(declared, "What it is.")), records) == kind


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A ledger of a full run, a smoke run and an experiment that was never run, on disk."""
    tmp_path = tmp_path_factory.mktemp("ledger")
    full = write_run(tmp_path / "full run", DEMO, worlds=3, command="python launch.py --out='full run'")
    write_run(tmp_path / "smoke", OTHER, steps=10)
    report.write_all(full, DEMO, "python launch.py --out='full run'", Console(file=io.StringIO()))
    text = io.StringIO()
    third = experiment("third", claims=(claim("HAP-1", "good"),))
    experiments = [DEMO, OTHER, third]
    found = read_ledger(tmp_path, experiments)
    ledger_files.write_all(found, COMMAND, Console(file=text, width=80))
    ledger_files.write_results(found, experiments, tmp_path / "RESULTS.md", COMMAND, Console(file=io.StringIO()))
    return tmp_path, text.getvalue()


def test_a_line_a_claim_on_the_terminal(written):
    _, printed = written
    lines = printed.splitlines()
    good = next(line for line in lines if "HCCP-10" in line)
    assert re.match(r"  supported  HCCP-10  good is ahead of base\. \(HCCP Table 1\)  \+0\.\d{4} \[\+0\.", good)
    assert "by world +0." in good
    assert "5 x 3 seeds x worlds; simulated; full run" in good
    assert any(line.startswith("  not run  HAP-1") and "--experiment=third" in line for line in lines)
    assert any(line.startswith("  smoke run only  CRO-1") for line in lines)
    assert "7 lines: 2 supported, 2 not supported, 1 smoke run only, 2 not run" in lines


def test_markdown_and_results_say_what_made_each_run(written):
    out, _ = written
    ledger, results = (out / "ledger.md").read_text(), (out / "RESULTS.md").read_text()
    assert COMMAND in ledger
    assert results.startswith("# Results\n")
    assert COMMAND in results
    for text in (ledger, results):
        for part in (
            "* Command: `python launch.py --out='full run'`",
            "* Commit: abc123",
            "* Machine: Linux, 2 cores; 2 x cpu",
            "* Seeds x worlds: 5 x 3",
            "* Size: 400 steps of 128, 1,234 parameters. The paper's: a billion requests.",
            "Epochs: 1.",
            "* Smoke run: shrunk to seconds; its numbers decide nothing",
            "| HAP-1 | HCCP Table 1 | good is ahead of base. | not run | no run of this experiment | simulated |",
            "| RT-1 | RankTower Table 1 | absent is ahead of base. | not run | row absent has no results |",
        ):
            assert part in text
        assert re.search(
            r"\| HCCP-10 \| .* \| \*\*supported\*\* \| \+0\.\d+ \[.*\] \| \+0\.2000 \| .* \| 5 x 3 \| simulated \|",
            text,
        )
        widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
        assert set(widths) == {6, 10}  # no cell breaks a table


def test_csv_and_json_hold_the_same_unscaled_numbers(written):
    out, _ = written
    told = json.loads((out / "ledger.json").read_text())
    lines = list(csv.DictReader(io.StringIO((out / "ledger.csv").read_text())))
    assert [line["id"] for line in lines] == [entry["id"] for entry in told["claims"]]
    assert sum(told["counts"].values()) == len(lines)
    for line, entry in zip(lines, told["claims"], strict=True):
        assert line["status"] == entry["status"]
        if entry["effect"] is None:
            assert (line["effect"], line["low"], line["by_world"]) == ("", "", "")
        else:
            assert float(line["effect"]) == entry["effect"]
            assert [float(line["low"]), float(line["high"])] == entry["ci95"]
            assert [float(value) for value in line["by_world"].split()] == entry["by_world"]
            assert sum(entry["by_world"]) / entry["worlds"] == pytest.approx(entry["effect"])
    assert [(run["run"], run["smoke"], run["commit"]) for run in told["runs"]] == [
        ("full run", False, "abc123"),
        ("smoke", True, "abc123"),
    ]


def test_launch_refuses_a_directory_without_runs(tmp_path, capsys):
    for arguments in (["--claims", f"--out={tmp_path}"], ["--results=RESULTS.md"]):
        assert launch_main(arguments) == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
    assert "expected --claims" in errors[0]


def test_the_ledger_is_of_all_experiments(tmp_path, capsys):
    assert launch_main(["--claims", "--experiment=hccp_ladder", f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        "error: experiment='hccp_ladder': expected only --out and --results with --claims\n"
    )


def test_launch_lists_every_claim_of_every_experiment(tmp_path, capsys):
    from launch import EXPERIMENTS, _load

    quickstart = _load("quickstart")
    lines = [
        json.dumps(
            {"experiment": "quickstart", "row": row, "seed": seed, "config_hash": "x", "metrics": {"ISH@100": value}}
        )
        for row, value in (("base", 0.5), ("hccp", 0.7))
        for seed in range(3)
    ]
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "results.jsonl").write_text("\n".join(lines))
    assert launch_main(["--claims", f"--out={tmp_path}", f"--results={tmp_path / 'R.md'}"]) == 0
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "ledger.json").read_text())
    known = {(made.id, made.measured, name) for name in EXPERIMENTS for made in _load(name).claims}
    listed = {(entry["id"], entry["measured"], entry["experiment"]) for entry in told["claims"]}
    assert listed <= known
    own = {(entry["id"], entry["measured"]) for entry in told["claims"] if entry["run"] == "quick"}
    assert {key for key in known if key[:2] not in own} <= listed  # no other claim is left out
    decided = {entry["id"]: entry["status"] for entry in told["claims"] if entry["run"] == "quick"}
    assert decided == {quickstart.claims[0].id: "supported", quickstart.claims[1].id: "not_run"}
    assert "  supported  HCCP-2a" in printed
    assert (tmp_path / "R.md").read_text().startswith("# Results")
