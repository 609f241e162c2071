"""Adaptive search: Optuna's TPE names the settings of a sweep, a few at a time.

    python launch.py --rows=hccp --sweep='hyper.margin=uniform(0,1) x model.normalize=true,false' --search=20

Each row has a study of its own. A setting is a row of a sweep like any other, with the same trials and hashes, and its
study is told the mean over seeds of what the trials say of validation data.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import sweep_space, sweeps
from experiments.engines.choice import Engine
from experiments.engines.jobs import Failure
from experiments.experiment import Row
from experiments.locks import alone
from experiments.plan import Plan
from experiments.study import Knob, Study
from experiments.sweep_space import Point, Range
from experiments.sweeps import Tried
from hccp_jax.errors import UserError


def space(text: str) -> dict[str, Knob]:
    """What a sweep leaves to choose: field -> a range or the values of a list.

    Raises:
        UserError: on text that is no sweep, or one that is no product, such as a zip.
    """
    cells = sweep_space.parse(text)
    found = {name: list(dict.fromkeys(cell.get(name, "") for cell in cells)) for name in cells[0]}
    product = [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]
    whole = len(product) == len(cells) and all(cell in product for cell in cells)
    if not whole or any(isinstance(value, Range) and len(values) > 1 for values in found.values() for value in values):
        raise UserError(f"sweep={text!r}: expected a product of ranges and lists, which a zip or chain is not")
    return {
        name: values[0] if isinstance(values[0], Range) else tuple(map(str, values)) for name, values in found.items()
    }


def asked_space(given: Mapping[str, Any], plan: Plan) -> dict[str, Knob]:
    """What the flags ask to search; empty where they ask for no search.

    Raises:
        UserError: for flags that do not go together, an unknown field, or a range that leaves the field's own.
    """
    if not given["search"]:
        return {}
    number = given["search"]
    if not given["sweep"]:
        raise UserError(f"search={number}: expected --sweep with ranges or lists, such as hyper.margin=uniform(0,1)")
    if given["sweep_draws"] or given["sweep_file"]:
        raise UserError(f"search={number}: expected neither --sweep_draws nor --sweep_file beside it")
    if given["engine"] == "print" or given["only"]:
        raise UserError(f"search={number}: chooses settings by results; expected --engine=local or --engine=ray")
    knobs = space(given["sweep"])
    for name, knob in knobs.items():
        ends = knob if isinstance(knob, tuple) else (knob.text(knob.low), knob.text(knob.high))
        sweeps.tried(plan.rows, plan.settings, [{name: end} for end in ends])
    return knobs


def batch(given: Mapping[str, Any]) -> int:
    """How many settings are asked at once."""
    return given["search_batch"] or (given["processes"] if given["processes"] > 1 else 4)


def search(
    plan: Plan,
    of_rows: Sequence[Study],
    batch: int,
    run: Engine,
    say: Callable[[str], None],
) -> tuple[Plan, list[Failure | str]]:
    """Ask, run and tell until every study has what it wants; returns the plan of all settings, and what failed.

    A setting with a trial that failed stays open: the same command tries it again.
    """
    failures: list[Failure | str] = []

    def ran(at: Sequence[tuple[Row, Point]]) -> Plan:
        some = plan.at(_tried(plan, at), " + ".join(_text(point) for _, point in at))
        failures.extend(run(some))
        return some

    while True:
        with alone(plan.out / "search.lock", lambda: None):  # two launchers share the settings of a round
            asked = [(study, *item) for study in of_rows for item in study.ask(batch).items()]
        if not asked:
            break
        some = ran([(study.row, point) for study, _, point in asked])
        for study, number, point in asked:
            value = _validation(some, _tried(plan, [(study.row, point)])[0])
            if value is None:
                study.given_up.add(number)
            else:
                study.tell(number, value)
        for study in of_rows:
            say(f"search of {study.row.name}: {len(study.points())} of {study.wanted} settings, {study.best}")
    every = [(study.row, point) for study in of_rows for point in study.points()]
    # a storage of its own may know settings that another directory's search was told
    return (plan.at(_tried(plan, every)) if failures else ran(every)), failures


def _tried(plan: Plan, at: Sequence[tuple[Row, Point]]) -> list[Tried]:
    found = [one for row, point in at for one in sweeps.tried([row], plan.settings, [point])]
    return list({one.row.name: one for one in found}.values())


def _text(point: Point) -> str:
    return " & ".join(f"{name}=[{value}]" for name, value in point.items())


def _validation(plan: Plan, one: Tried) -> float | None:
    """Mean over seeds of a setting; None where a trial has no result."""
    results = [trial.result for trial in plan.trials() if trial.row.name == one.row.name]
    values = [result["validation"] for result in results if result is not None and "validation" in result]
    return sum(values) / len(values) if values and len(values) == len(results) else None
