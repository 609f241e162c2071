"""The pictures of a sweep: parallel coordinates of all settings of a row, and a heat map of its two strongest knobs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from experiments.figures import DPI, WIDTH, save
from experiments.sweep_answer import Answer
from experiments.sweep_effects import MOST_LEVELS, axis, knobs, unit

COLOURS = colormaps["viridis"]


def save_sweep(out: Path, answers: Sequence[Answer]) -> list[Path]:
    """Write figures/sweep_*.png, for each row what it has the knobs for."""
    paths = []
    for answer in answers:
        names = knobs([setting.tried.point for setting in answer.settings])
        if names and len(answer.settings) > 1:
            paths.append(save(out, f"sweep_{answer.of.name}_settings", parallel_coordinates(answer, names)))
        if pair := strongest_two(answer, names):
            paths.append(save(out, f"sweep_{answer.of.name}_map", heat_map(answer, *pair)))
    return paths


def parallel_coordinates(answer: Answer, names: Sequence[str]) -> Figure:
    """One line a setting over the knobs, ending at its validation value; the best is thick."""
    figure = Figure(figsize=(WIDTH, 3.6), dpi=DPI, layout="constrained")
    panel = figure.add_subplot()
    values = np.array([setting.validation.mean for setting in answer.settings])
    texts = [[setting.tried.point.get(name, "–") for setting in answer.settings] for name in names]
    places = np.stack([*(axis(column) for column in texts), unit(values)], axis=1)
    colours = COLOURS(unit(values))
    for index in reversed(range(len(values))):  # the best last, on top
        style: dict[str, Any] = {"linewidth": 2.8 if index == 0 else 1.0, "alpha": 1.0 if index == 0 else 0.6}
        panel.plot(range(len(names) + 1), places[index], color=colours[index], **style)
    for index, column in enumerate(texts):
        panel.axvline(index, color="#555555", linewidth=0.8)
        for text, at in _ticks(column).items():
            panel.annotate(text, (index, at), xytext=(3, 2), textcoords="offset points", fontsize=7)
    panel.axvline(len(names), color="#555555", linewidth=0.8)
    for at, value in ((0.0, values.min()), (1.0, values.max())):
        panel.annotate(f"{value:.4f}", (len(names), at), xytext=(3, 2), textcoords="offset points", fontsize=7)
    panel.set_xticks(range(len(names) + 1), [*(name.rpartition(".")[2] for name in names), "validation"], fontsize=8)
    panel.set_yticks([])
    panel.set_xlim(-0.1, len(names) + 0.35)
    panel.spines[:].set_visible(False)
    figure.suptitle(f"{answer.of.label}: settings and validation", fontsize=11, fontweight="bold")
    return figure


def _ticks(texts: Sequence[str]) -> dict[str, float]:
    """Value -> place, in the order of the places; of many values the lowest and the highest."""
    places = sorted(dict(zip(texts, axis(texts), strict=True)).items(), key=lambda entry: entry[1])
    return dict(places if len(places) <= MOST_LEVELS else [places[0], places[-1]])


def strongest_two(answer: Answer, names: Sequence[str]) -> tuple[str, str] | None:
    """The two knobs with the largest effects, the stronger first; None with fewer than two that are known."""
    size = dict.fromkeys(names, 0.0)
    for effect in answer.effects:
        if effect.interval is not None:
            size[effect.knob] = max(size[effect.knob], abs(effect.interval.mean))
    known = sorted((name for name in names if size[name] > 0), key=lambda name: -size[name])
    return (known[0], known[1]) if len(known) > 1 else None


def heat_map(answer: Answer, down: str, across: str) -> Figure:
    """Mean validation over everything else, at each value of two knobs; many values are a scatter of settings."""
    figure = Figure(figsize=(WIDTH, 4.2), dpi=DPI, layout="constrained")
    panel = figure.add_subplot()
    rows = [setting.tried.point.get(down, "–") for setting in answer.settings]
    columns = [setting.tried.point.get(across, "–") for setting in answer.settings]
    values = np.array([setting.validation.mean for setting in answer.settings])
    scale = Normalize(values.min(), values.max())
    levels = [_ordered(rows), _ordered(columns)]
    if max(map(len, levels)) > 2 * MOST_LEVELS:
        shown: Any = panel.scatter(axis(columns), axis(rows), c=values, cmap=COLOURS, norm=scale, s=36)
        for ticks, texts in ((panel.set_yticks, rows), (panel.set_xticks, columns)):
            shown_at = _ticks(texts)
            ticks(list(shown_at.values()), list(shown_at))
    else:
        grid = np.full((len(levels[0]), len(levels[1])), np.nan)
        for i, row in enumerate(levels[0]):
            for j, column in enumerate(levels[1]):
                here = [v for v, a, b in zip(values, rows, columns, strict=True) if (a, b) == (row, column)]
                grid[i, j] = np.mean(here) if here else np.nan
        shown = panel.imshow(grid, cmap=COLOURS, norm=scale, aspect="auto", origin="lower")
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                colour = "white" if scale(value) < 0.6 else "black"
                panel.text(j, i, f"{value:.4f}", ha="center", va="center", fontsize=7, color=colour)
        panel.set_yticks(range(len(levels[0])), levels[0])
        panel.set_xticks(range(len(levels[1])), levels[1])
    panel.set_ylabel(down)
    panel.set_xlabel(across)
    figure.colorbar(shown, label="validation")
    figure.suptitle(f"{answer.of.label}: validation by its two strongest knobs", fontsize=11, fontweight="bold")
    return figure


def _ordered(texts: Sequence[str]) -> list[str]:
    return sorted(dict.fromkeys(texts), key=dict(zip(texts, axis(texts), strict=True)).__getitem__)
