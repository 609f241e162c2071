"""Tables in LaTeX: escaped, bold where the interval excludes 0, whole; compiled where there is a pdflatex."""

import re
import shutil
import subprocess

import pytest
from written_run import experiment, write_run

from experiments.claims import read_records
from experiments.experiment import Column
from experiments.latex import DIFFERENCES_WIDE, MEANS_WIDE, escape, numbers, to_latex
from experiments.ledger import read_ledger
from experiments.ledger_files import to_latex as ledger_to_latex
from experiments.provenance import provenance_of
from experiments.tables import build_table

COMMAND = "python launch.py --out='100 %'"


def made(tmp_path, **changes):
    of = experiment(**changes)
    write_run(tmp_path / "run", of, worlds=2, command=COMMAND)
    return to_latex(build_table(of, read_records(tmp_path / "run", of)), provenance_of(tmp_path / "run", of))


def bare(text):
    """The text without comments."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("%"))


def is_whole(text):
    """Whether braces, environments and mathematics are closed."""
    plain = re.sub(r"\\[\\{}%&_#$]", "", bare(text))
    begun = re.findall(r"\\begin\{(\w+)\}", plain)
    ended = re.findall(r"\\end\{(\w+)\}", plain)
    return plain.count("{") == plain.count("}") and sorted(begun) == sorted(ended) and plain.count("$") % 2 == 0


def test_table(tmp_path):
    text = made(tmp_path)
    assert text.startswith("% command: python launch.py --out='100 %'\n% commit: abc123\n% configuration: ")
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"ISH@100 \%",
        r"Poor\_\%",
        r"Good \& \textless{}b",
        r"\label{",
    ):
        assert part in text
    assert re.search(r"\\textit\{Truth\} & 9\d\.\d", text)
    assert is_whole(text)
    assert text.count(r"\begin{table}") == 2


def test_bold_where_the_paired_interval_excludes_zero(tmp_path):
    lines = [line for line in made(tmp_path).splitlines() if line.startswith(("Base", "Good", "Level"))]
    base, good, level = lines[:3]
    assert good.count(r"\textbf{") == 2
    assert r"\textbf" not in base + level
    assert re.search(r"\\textbf\{\$\+30\.\d\$ \[\$\+", "\n".join(lines[3:]))


def test_every_line_has_a_cell_for_each_column_and_wide_tables_go_on_below(tmp_path):
    columns = tuple(Column("ISH@100", f"Column {index}") for index in range(8))
    text = made(tmp_path, columns=columns)
    blocks = re.findall(r"\\begin\{tabular\}\{(l)(r+)\}\n\\toprule\n(.*?)\n\\bottomrule", text, re.DOTALL)
    assert [len(columns) for _, columns, _ in blocks] == [MEANS_WIDE, 2, DIFFERENCES_WIDE, DIFFERENCES_WIDE]
    for _, columns, body in blocks:
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines()} == {len(columns)}
    assert is_whole(text)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("a_b & 5 % #1 $x {y}", r"a\_b \& 5 \% \#1 \$x \{y\}"),
        ("\\ ~ ^", r"\textbackslash{} \textasciitilde{} \textasciicircum{}"),
        ("α = 0.6 ± λ – ×", r"$\alpha$ = 0.6 $\pm$ $\lambda$ -- $\times$"),
    ],
)
def test_escape(plain, expected):
    assert escape(plain) == expected


def test_only_signs_of_numbers_are_mathematics():
    assert numbers("COPR-style, K-1: -1.2 [-2.0, +0.4]") == "COPR-style, K-1: $-1.2$ [$-2.0$, $+0.4$]"


@pytest.fixture
def documents(tmp_path):
    of = experiment(columns=tuple(Column("ISH@100", f"Column {index} % α") for index in range(8)))
    table = made(tmp_path, columns=of.columns)
    return table, ledger_to_latex(read_ledger(tmp_path, [of, experiment("other")]), "python launch.py --claims")


def test_the_ledger(documents):
    text = documents[1]
    assert text.startswith("% command: python launch.py --claims\n% commits of the runs: abc123\n")
    assert is_whole(text)
    lines = [line for line in text.splitlines() if line.startswith(("HCCP-", "RT-", "SYS-"))]
    assert len(lines) == 5  # of a run; the other experiment, which was not run, has no claim of its own
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {5}
    assert sum("& not run &" in line for line in lines) == 1


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex on this machine; the structure is tested above"
)
def test_it_compiles(documents, tmp_path):
    packages = r"\documentclass{article}\usepackage{array,booktabs,graphicx,longtable}"
    for index, text in enumerate(documents):
        source = f"{packages}\n\\begin{{document}}\n{text}\n\\end{{document}}\n"
        (tmp_path / f"{index}.tex").write_text(source)
        command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", f"{index}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
