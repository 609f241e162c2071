"""The report, end to end from files on disk."""

import dataclasses
import io
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest
import written_run
from rich.console import Console

from experiments import report
from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from hccp_jax.errors import UserError

DATA = Data(Kind.SIMULATED, "Simulated: every request is drawn from the simulated world.")
COMMAND = "python launch.py --experiment=demo --seeds=3 --out='runs/<demo>'"


@dataclass(frozen=True)
class Settings:
    served: str = "click"


ROWS = (
    Row("base", "Base"),
    Row("good", "Good & <b>bold</b>"),
    Row("poor", "Poor"),
    Row("truth", "Truth", reference=True),
    Row("random", "Random", reference=True),
)
LEVELS = {"base": 0.3, "good": 0.6, "poor": 0.2, "truth": 0.97, "random": 0.07}


def claim(name, better, worse):
    return Claim(name, "A. Author", f"{better} is ahead of {worse}.", "ISH@100", better, worse)


EXPERIMENT = Experiment(
    name="demo",
    title="Demo <script>alert(1)</script>",
    paper="A. Author",
    table="Table 1",
    minutes=1,
    data=DATA,
    settings=Settings(),
    smoke={},
    rows=ROWS,
    columns=(Column("ISH@100", "ISH@100"), Column("AUC", "AUC", percent=False)),
    claims=(claim("D-1", "good", "base"), claim("D-2", "poor", "base"), claim("D-3", "absent", "base")),
    seeds=3,
    run=print,
)


@pytest.fixture
def out_dir(tmp_path):
    lines = []
    for row, level in LEVELS.items():
        for seed in range(3):
            metrics = {"ISH@100": level + 0.01 * seed * (level > 0.5), "AUC": None}
            entry = {"experiment": "demo", "row": row, "seed": seed, "metrics": metrics, "config_hash": f"{row}{seed}"}
            curves = {"ISH": {"cutoffs": [10, 100], "values": [level / 2, level]}}
            directory = tmp_path / "trials" / f"{row}{seed}"
            directory.mkdir(parents=True)
            (directory / "result.json").write_text(json.dumps({**entry, "curves": curves, "epochs": 1.0}))
            lines.append(json.dumps(entry) + "\n")
    (tmp_path / "results.jsonl").write_text("".join(lines))
    (tmp_path / "environment.json").write_text('{"versions": {"jax": "0.10.2"}, "device": "cpu", "commit": "abc123"}')
    (tmp_path / "config.json").write_text('{"train": {"steps": 400}}')
    return tmp_path


def write(out_dir, command=COMMAND, experiment=EXPERIMENT):
    text = io.StringIO()
    report.write_all(out_dir, experiment, command, Console(file=text, width=100))
    return (out_dir / "report.html").read_text(), text.getvalue()


class Tags(HTMLParser):
    """Collects the tags that are open and the links that leave the page."""

    def __init__(self):
        super().__init__()
        self.open, self.outside, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:image/png;base64,")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_write_all_leaves_the_promised_files_and_nothing_else(out_dir):
    before = {path.name for path in out_dir.iterdir()}
    write(out_dir)
    after = {path.name for path in out_dir.iterdir()}
    assert after - before == {
        *("table.md", "table.csv", "table.tex", "claims.json", "command.txt", "figures", "report.html")
    }
    assert [path.name for path in (out_dir / "figures").iterdir()] == ["hit_rate_curves.png"]
    assert DATA.sentence in (out_dir / "table.md").read_text()
    assert len((out_dir / "table.csv").read_text().splitlines()) == 1 + len(ROWS) * 2


def test_a_cost_stands_among_the_means_only(out_dir):
    with_cost = dataclasses.replace(EXPERIMENT, columns=(*EXPERIMENT.columns, Column("ISH@100", "euros", cost=True)))
    page, _ = write(out_dir, experiment=with_cost)
    assert page.count(">euros %</th>") == 1
    rows = [row for row in page.split("<tr")[1:] if ">Good" in row]
    assert [row.count("<td>") for row in rows] == [3, 2]


def test_claims_json(out_dir):
    write(out_dir)
    verdicts = json.loads((out_dir / "claims.json").read_text())
    assert [(v["id"], v["verdict"], v["seeds"]) for v in verdicts] == [
        ("D-1", "supported", 3),
        ("D-2", "not_supported", 3),
        ("D-3", "inconclusive", 0),
    ]
    assert verdicts[2]["reason"] == "row absent has no results"


def test_the_page_stands_alone_and_is_well_formed(out_dir):
    page, _ = write(out_dir)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.outside == []
    assert "script" not in tags.seen
    assert "img" in tags.seen
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|@import|url\(", page)


def test_the_page_escapes_what_it_is_given(out_dir):
    page, _ = write(out_dir)
    assert "<script>" not in page
    assert "Good &amp; &lt;b&gt;bold" in page
    assert "runs/&lt;demo&gt;" in page


def test_the_page_says_what_the_data_are_and_what_was_decided(out_dir):
    page, _ = write(out_dir)
    assert page.count(DATA.sentence) == 4  # at the top, under both tables and under the figure
    for word in ("supported", "not supported", "inconclusive"):
        assert f'{word.replace(" ", "_")}">{word}</span>' in page
    assert "3 seeds; five are needed to call it reproduced" in page
    assert "row absent has no results" in page
    for text in ("versions.jax", "0.10.2", "abc123", "train.steps", "Served head: click."):
        assert text in page
    assert "Smoke run" not in page


def test_a_smoke_run_says_so(out_dir):
    page, printed = write(out_dir, command="python launch.py --experiment=demo --smoke")
    assert "Smoke run" in page
    assert "Smoke run" in printed
    assert "Smoke run" in (out_dir / "table.md").read_text()


def test_the_terminal_gets_the_table_and_the_verdicts(out_dir):
    _, printed = write(out_dir)
    assert re.search(r"Good & <b>bold</b> +61\.0 ±2\.5\* +–", printed)
    assert re.search(r"^not supported +D-2", printed, re.MULTILINE)


def test_writing_again_changes_nothing(out_dir):
    first, _ = write(out_dir)
    second, _ = write(out_dir)
    assert first == second


def test_the_page_says_how_sure_in_which_worlds_beside_the_paper_and_what_made_it(tmp_path):
    run = written_run.write_run(tmp_path, written_run.experiment(), worlds=3)
    page, _ = write(run, experiment=written_run.experiment())
    verdicts = {entry["id"]: entry for entry in json.loads((run / "claims.json").read_text())}
    good = verdicts["HCCP-10"]
    assert f"By world: {', '.join(f'{effect:+.4f}' for effect in good['effect_by_world'])}." in page
    assert "p = below 0.0001 after Holm" in page
    assert 'id="claim-HCCP-10"' in page
    assert "Beside the paper&#39;s numbers" in page
    assert "<td>+20.00</td>" in page
    assert re.search(r"Commit abc123,\s+configuration [0-9a-f]{12}, Linux, 2 cores; 2 x cpu\.", page)
    table = (run / "table.md").read_text()
    assert "## Beside the paper's numbers" in table
    assert f"Command: `{COMMAND}`. Commit: abc123." in table
    assert (run / "command.txt").read_text() == COMMAND + "\n"


def test_without_trials_environment_or_other_rows(tmp_path):
    line = {"experiment": "demo", "row": "good", "seed": 0, "metrics": {"ISH@100": 0.5}, "config_hash": "x"}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    page, printed = write(tmp_path)
    assert "Nothing to compare" in page
    assert "Not recorded." in page
    assert "<img" not in page
    assert "50.0" in printed
    assert "±" not in printed.partition("Mean over seeds")[0]


def test_without_results_it_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"results\.jsonl"):
        write(tmp_path)
