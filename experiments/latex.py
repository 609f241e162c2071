r"""A table of an experiment in LaTeX, for a paper: booktabs, bold where the paired interval excludes 0.

The files hold tables alone; the document that reads them with \input needs
\usepackage{array,booktabs,graphicx,longtable}.
"""

import re
from collections.abc import Callable, Sequence

from experiments.provenance import Provenance
from experiments.tables import Cell, Table, TableRow

PACKAGES = r"% needs \usepackage{array,booktabs,graphicx,longtable}"
MEANS_WIDE, DIFFERENCES_WIDE = 6, 4  # columns side by side that are still read
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "→": r"$\to$",
    "–": "--",
    "—": "---",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "τ": r"$\tau$",
    "φ": r"$\varphi$",
}
NUMBER = re.compile(r"(?<![\w.])[+-]\d[\d.]*")  # a sign that is not a hyphen


def escape(text: str) -> str:
    r"""Plain text as LaTeX prints it.

    >>> print(escape("50 % of a_b & λ"))
    50 \% of a\_b \& $\lambda$
    """
    return "".join(SPECIAL.get(character, character) for character in text)


def numbers(text: str) -> str:
    """A cell of numbers: signs as mathematics, so that a minus is no hyphen.

    >>> print(numbers("-1.2 [-2.0, +0.4]"))
    $-1.2$ [$-2.0$, $+0.4$]
    """
    return NUMBER.sub(lambda found: f"${found.group()}$", escape(text))


def comment(provenance: Provenance) -> str:
    """Comment lines that say what made a file."""
    told = [("command", provenance.command), ("commit", provenance.commit), ("configuration", provenance.configuration)]
    return "\n".join(f"% {name}: {' '.join(text.split())}" for name, text in told)


def to_latex(table: Table, provenance: Provenance) -> str:
    """table.tex: the means, and the paired differences where there are any, each as a table with its facts."""
    name = table.experiment.name.replace("_", "-")
    facts = escape(" ".join((table.legend.replace("Marked:", "Bold:"), *table.facts)))
    columns = list(range(len(table.experiment.columns)))
    means = [_tabular(table, block, table.rows, Cell.text) for block in _blocks(columns, MEANS_WIDE)]
    parts = [comment(provenance), PACKAGES, _floating(means, f"{escape(table.experiment.title)}. {facts}", name)]
    if table.compared:
        compared = [index for index in columns if not table.experiment.columns[index].cost]
        blocks = _blocks(compared, DIFFERENCES_WIDE)
        differences = [_tabular(table, block, table.compared, Cell.difference_text) for block in blocks]
        caption = f"{escape(table.difference_title)}. {escape(table.experiment.data.sentence)}"
        parts.append(_floating(differences, caption, f"{name}-differences"))
    return "\n".join(parts) + "\n"


def _blocks(columns: Sequence[int], wide: int) -> list[Sequence[int]]:
    """Columns that go side by side; those of a wider table go on below."""
    return [columns[start : start + wide] for start in range(0, len(columns), wide)]


def _tabular(table: Table, columns: Sequence[int], rows: Sequence[TableRow], text: Callable[[Cell], str]) -> str:
    lines = [_line(["", *(escape(table.headers[index]) for index in columns)]) + " \\midrule"]
    for row in rows:
        label = escape(row.row.label)
        cells = [_cell(row.cells[index], text(row.cells[index])) for index in columns]
        lines.append(_line([rf"\textit{{{label}}}" if row.row.reference else label, *cells]))
    body = "\n".join(lines)
    return f"\\begin{{tabular}}{{l{'r' * len(columns)}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"


def _cell(cell: Cell, text: str) -> str:
    # bold reaches into mathematics only with \boldmath
    return rf"{{\boldmath\textbf{{{numbers(text)}}}}}" if cell.differs else numbers(text)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _floating(tabulars: Sequence[str], caption: str, label: str) -> str:
    """A floating table of one or more blocks; one that is wider than the line is shrunk to it."""
    width = "\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi"
    fitted = "\n\\par\\medskip\n".join(f"\\resizebox{{{width}}}{{!}}{{%\n{tabular}}}" for tabular in tabulars)
    parts = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\label{{tab:{label}}}\\smallskip", fitted]
    return "\n".join([*parts, "\\end{table}"])


def long_table(header: Sequence[str], widths: Sequence[float], groups: Sequence[tuple[str, Sequence[Sequence[str]]]]):
    r"""A longtable over pages, its columns as shares of the line, its lines in groups with headings.

    Args:
        header: of the columns.
        widths: of the columns, in parts of \linewidth.
        groups: (heading, lines of plain cells).

    Returns:
        The LaTeX text.
    """
    columns = "".join(rf">{{\raggedright\arraybackslash}}p{{{width}\linewidth}}" for width in widths)
    head = _line([escape(text) for text in header])
    parts = ["{\\footnotesize\\setlength{\\tabcolsep}{3pt}"]
    parts += [f"\\begin{{longtable}}{{{columns}}}", f"\\toprule {head} \\midrule"]
    parts += ["\\endhead", "\\bottomrule", "\\endlastfoot"]
    for heading, lines in groups:
        parts.append(rf"\multicolumn{{{len(header)}}}{{l}}{{\textbf{{{escape(heading)}}}}} \\")
        parts += [_line([numbers(text) for text in line]) for line in lines]
    return "\n".join([*parts, "\\end{longtable}}"]) + "\n"
