r"""A table of an experiment in LaTeX, for a paper: booktabs, bold where the paired interval excludes 0.

The files hold tables alone; the document that reads them with \input needs \usepackage{booktabs,graphicx,longtable}.
"""

import re
from collections.abc import Sequence

from experiments.provenance import Provenance
from experiments.tables import Cell, Table, TableRow

PACKAGES = r"% needs \usepackage{booktabs,graphicx,longtable}"
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
    everything = range(len(table.experiment.columns))
    means = _tabular(table, everything, table.rows, [[cell.text() for cell in row.cells] for row in table.rows])
    parts = [comment(provenance), PACKAGES, _floating(means, f"{escape(table.experiment.title)}. {facts}", name)]
    if table.compared:
        compared = [index for index in everything if not table.experiment.columns[index].cost]
        texts = [[cell.difference_text() for cell in row.cells] for row in table.compared]
        caption = f"{escape(table.difference_title)}. {escape(table.experiment.data)}"
        parts.append(_floating(_tabular(table, compared, table.compared, texts), caption, f"{name}-differences"))
    return "\n".join(parts) + "\n"


def _tabular(table: Table, columns: Sequence[int], rows: Sequence[TableRow], texts: Sequence[Sequence[str]]) -> str:
    lines = [_line(["", *(escape(table.headers[index]) for index in columns)]) + " \\midrule"]
    for row, own in zip(rows, texts, strict=True):
        label = escape(row.row.label)
        cells = [_cell(row.cells[index], own[index]) for index in columns]
        lines.append(_line([rf"\textit{{{label}}}" if row.row.reference else label, *cells]))
    body = "\n".join(lines)
    return f"\\begin{{tabular}}{{l{'r' * len(columns)}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"


def _cell(cell: Cell, text: str) -> str:
    # bold reaches into mathematics only with \boldmath
    return rf"{{\boldmath\textbf{{{numbers(text)}}}}}" if cell.differs else numbers(text)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _floating(tabular: str, caption: str, label: str) -> str:
    """A floating table; one that is wider than the line is shrunk to it."""
    fitted = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n" + tabular + "}"
    parts = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\label{{tab:{label}}}", fitted]
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
    parts = ["% and \\usepackage{array}", f"\\begin{{longtable}}{{{columns}}}", f"\\toprule {head} \\midrule"]
    parts += ["\\endhead", "\\bottomrule", "\\endlastfoot"]
    for heading, lines in groups:
        parts.append(rf"\multicolumn{{{len(header)}}}{{l}}{{\textbf{{{escape(heading)}}}}} \\")
        parts += [_line([numbers(text) for text in line]) for line in lines]
    return "\n".join([*parts, "\\end{longtable}"]) + "\n"
