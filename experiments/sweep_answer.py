"""A sweep's answer: the best setting of each row by validation, what each knob does, and two pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.claims import Record
from experiments.experiment import Experiment, Row
from experiments.sweep_effects import Effect, effects
from experiments.sweeps import Tried
from experiments.tables import number_text
from hccp_jax.evaluation.statistics import Interval, mean_interval

SHOWN = 20  # settings of a row that sweep.md lists; results.jsonl has all


@dataclass(frozen=True)
class Setting:
    """One row at one point.

    Attributes:
        tried: the row of the sweep.
        validation: mean over seeds, with its interval.
        seeds: how many finished.
        records: its finished trials.
    """

    tried: Tried
    validation: Interval
    seeds: int
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Answer:
    """What a sweep says of one row of the experiment.

    Attributes:
        of: the row.
        settings: the best first.
        effects: of each knob, on validation.
        by: what validation is.
        without: settings that have no result: their loss was not finite, or they are still to be run.
    """

    of: Row
    settings: tuple[Setting, ...]
    effects: tuple[Effect, ...]
    by: str
    without: tuple[Tried, ...] = ()


def answers(over: Sequence[Tried], records: Sequence[Record]) -> list[Answer]:
    """One answer for each row of the experiment with finished trials, in its order."""
    of_row: dict[str, list[Record]] = {}
    for record in records:
        if record.result.get("validation") is not None:
            of_row.setdefault(record.row, []).append(record)
    found = []
    for row in dict.fromkeys(one.of.name for one in over):
        finished = [one for one in over if one.of.name == row and one.row.name in of_row]
        if finished:
            missing = [one for one in over if one.of.name == row and one.row.name not in of_row]
            found.append(replace(_answer(finished, of_row), without=tuple(missing)))
    return found


def _answer(finished: Sequence[Tried], of_row: Mapping[str, list[Record]]) -> Answer:
    settings, points, seeds, values, by = [], [], [], [], ""
    for one in finished:
        own = of_row[one.row.name]
        measured = [float(record.result["validation"]) for record in own]
        settings.append(Setting(one, mean_interval(measured), len(own), tuple(own)))
        points += [one.point] * len(own)
        seeds += [record.seed for record in own]
        values += measured
        by = str(own[0].result["validated_by"])
    best_first = sorted(settings, key=lambda setting: -setting.validation.mean)
    return Answer(finished[0].of, tuple(best_first), tuple(effects(points, seeds, values)), by)


def to_markdown(experiment: Experiment, found: Sequence[Answer], text: str) -> str:
    """sweep.md."""
    parts = [f"# Sweep: {experiment.title}", f"`{text}`", experiment.data.sentence]
    for answer in found:
        best = answer.settings[0]
        names = list(dict.fromkeys(name for setting in answer.settings for name in setting.tried.point))
        parts += [
            f"## {answer.of.label}",
            f"Best by validation ({answer.by}): **{point_text(best)}**, {interval_text(best.validation)}, "
            f"seeds: {best.seeds}.",
            _settings(experiment, answer, names),
        ]
        if answer.without:
            parts += ["Without a result: " + "; ".join(changes_text(one) for one in answer.without) + "."]
        if answer.effects:
            parts += ["What each knob does to validation, the others and the seed as they are, 95 % intervals:"]
            parts += [_effects(answer.effects)]
        else:
            parts += ["No knob of this row took two values."]
    return "\n\n".join(parts) + "\n"


def _settings(experiment: Experiment, answer: Answer, names: Sequence[str]) -> str:
    columns = [column for column in experiment.columns if not column.cost]
    headers = [*(name.rpartition(".")[2] for name in names), "seeds", "validation", *(c.header for c in columns)]
    lines = [headers, ["---:"] * len(headers)]
    for setting in answer.settings[:SHOWN]:
        cells = [setting.tried.point.get(name, "") for name in names] + [
            str(setting.seeds),
            interval_text(setting.validation),
        ]
        for column in columns:
            values = [r.metrics[column.metric] for r in setting.records if r.metrics.get(column.metric) is not None]
            cells.append(number_text(column, sum(values) / len(values)) if values else "–")
        lines.append(cells)
    more = len(answer.settings) - SHOWN
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return table + (f"\n\nand {more} more in results.jsonl." if more > 0 else "")


def _effects(found: Sequence[Effect]) -> str:
    lines = ["| knob | change | effect |", "| --- | --- | ---: |"]
    for effect in found:
        shown = effect.why if effect.interval is None else interval_text(effect.interval, sign="+")
        lines.append(f"| {effect.knob} | {effect.change} | {shown} |")
    return "\n".join(lines)


def point_text(setting: Setting) -> str:
    """The fields that a setting changes."""
    return changes_text(setting.tried)


def changes_text(tried: Tried) -> str:
    """The fields that a row of a sweep changes."""
    return ", ".join(f"{name}={value}" for name, value in tried.point.items()) or "the row as it is"


def chosen_text(answer: Answer) -> str:
    """The best setting of a row and its validation value."""
    best = answer.settings[0]
    return f"{point_text(best)}; {answer.by}: {interval_text(best.validation)}"


def interval_text(interval: Interval, sign: str = "") -> str:
    """Such as `0.8312 [0.8290, 0.8334]`."""
    ends = "" if interval.low is None else f" [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"
    return f"{interval.mean:{sign}.4f}{ends}"
