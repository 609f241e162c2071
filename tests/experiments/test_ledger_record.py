"""RESULTS.md and its record: runs that are no longer there keep what they said."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from written_run import claim, experiment, write_run

from experiments import ledger_files
from experiments.ledger import of_runs, read_ledger
from experiments.ledger_record import to_json, with_recorded
from hccp_jax.errors import UserError
from launch import EXPERIMENTS, _load

DEMO, OTHER = experiment(), experiment("other", claims=(claim("CRO-1", "good", paper="CROLoss Table 2"),))
BOTH = [DEMO, OTHER]
ROOT = Path(__file__).resolve().parents[2]


def write_results(out: Path, path: Path, experiments=BOTH) -> str:
    printed = io.StringIO()
    found = read_ledger(out, experiments)
    ledger_files.write_results(found, experiments, path, "python launch.py --claims", Console(file=printed, width=300))
    return printed.getvalue()


@pytest.fixture
def recorded(tmp_path):
    """Two runs below `runs`, recorded in RESULTS.md and RESULTS.json."""
    runs, path = tmp_path / "runs", tmp_path / "RESULTS.md"
    write_run(runs / "one", DEMO, worlds=3)
    write_run(runs / "two", OTHER, steps=800)
    assert "2 runs, 0 of them as recorded earlier" in write_results(runs, path)
    return runs, path


def test_a_run_that_is_gone_keeps_every_line(recorded):
    runs, path = recorded
    before, record = path.read_text(), path.with_suffix(".json").read_text()
    shutil.rmtree(runs / "one")
    assert "2 runs, 1 of them as recorded earlier" in write_results(runs, path)
    assert path.read_text() == before
    assert path.with_suffix(".json").read_text() == record
    assert "HCCP-10" not in (to_json(read_ledger(runs, [OTHER])))  # it stands in the record alone


def test_the_record_names_no_folder_of_the_machine_it_was_made_on(tmp_path):
    write_run(tmp_path / "one", DEMO, command="python launch.py --data_dir=/mnt/logs --store=/mnt/games")
    told = json.loads(to_json(read_ledger(tmp_path, [DEMO])))
    assert told["runs"][0]["command"] == "python launch.py --data_dir=DIR --store=STORE"


def test_a_full_run_replaces_the_recorded_one_and_a_smoke_run_does_not(recorded):
    runs, path = recorded
    before = path.read_text()
    shutil.rmtree(runs / "one")
    write_run(runs / "one", DEMO, steps=10)
    write_results(runs, path)
    assert path.read_text() == before
    shutil.rmtree(runs / "one")
    write_run(runs / "one", DEMO, good=0.1)
    write_results(runs, path)
    told = json.loads(path.with_suffix(".json").read_text())
    assert [entry["status"] for entry in told["claims"] if entry["id"] == "HCCP-10"] == ["not_supported"]


def test_a_claim_that_is_measured_otherwise_now_has_no_recorded_verdict(recorded):
    runs, path = recorded
    first, second, *_ = DEMO.claims
    other = (replace(first, metric="ASH@100"), replace(second, smallest_effect=0.4), claim("HCCP-11", "good"))
    changed = replace(DEMO, claims=other)
    empty = of_runs(runs, [], [], [changed])
    found = with_recorded(empty, path.with_suffix(".json"), [changed])
    assert [(entry.claim.id, entry.status, entry.reason) for entry in found.entries] == [
        ("HCCP-2.b", "not_run", "not among the claims when it was run"),
        ("HCCP-10", "not_run", "not among the claims when it was run"),
        ("HCCP-11", "not_run", "not among the claims when it was run"),
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"runs": [{"run": "one"}], "claims": []}', '{"runs": 3, "claims": []}'])
def test_what_is_no_record_is_told_and_nothing_is_written(recorded, text):
    runs, path = recorded
    before = path.read_text()
    path.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match=r"RESULTS\.json: no record of a ledger"):
        write_results(runs, path)
    assert path.read_text() == before


def test_the_packages_own_results_are_those_of_its_record():
    """RESULTS.md is what its record says of today's claims: neither is written by hand."""
    known = [_load(name) for name in EXPERIMENTS]
    whole = with_recorded(of_runs(ROOT, [], [], known), ROOT / "RESULTS.json", known)
    assert whole.runs
    command = "python launch.py --claims --results=RESULTS.md"
    preface = ledger_files.PREFACE.format(command=command, record="RESULTS.json")
    assert (ROOT / "RESULTS.md").read_text() == ledger_files.to_markdown(whole, preface)
