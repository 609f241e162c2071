"""One live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hccp_jax.training.run import Report


def reporter(console: Console):
    """A factory of progress reports: (label, total steps) -> report(step, values)."""

    def begin(label: str, steps: int) -> Report:
        return _live(console, label, steps) if console.is_terminal else _plain(console, label, steps)

    return begin


def profiled(begin, directory: Path, steps: int, say: Callable[[str], None]):
    """The same factory, whose first report also profiles about so many steps, from the end of the first chunk on."""
    running: list[int] = []

    def begun(label: str, total: int) -> Report:
        inner = begin(label, total)

        def report(step: int, values: dict[str, float]) -> None:
            inner(step, values)
            if not running and step < total:
                running.append(step)
                jax.profiler.start_trace(str(directory))
            elif len(running) == 1 and (step - running[0] >= steps or step >= total):
                running.append(step)
                jax.profiler.stop_trace()
                say(f"steps {running[0] + 1} to {step} are profiled in {directory}; see xprof or ui.perfetto.dev")

        return report

    return begun


def _live(console: Console, label: str, steps: int) -> Report:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}  loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[rate]:,.0f} requests/s"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console)
    task = progress.add_task(label, total=steps, loss=float("nan"), rate=0.0)
    progress.start()

    def report(step: int, values: dict[str, float]) -> None:
        progress.update(task, completed=step, loss=values["loss"], rate=values["requests_per_second"])
        if step >= steps:
            progress.stop()

    return report


def _plain(console: Console, label: str, steps: int) -> Report:
    started = time.monotonic()
    first: list[int] = []

    def report(step: int, values: dict[str, float]) -> None:
        first.append(step)
        done = step - first[0]
        left = f", {(time.monotonic() - started) / done * (steps - step):.0f} s left" if done else ""
        console.print(
            f"{label}: step {step}/{steps}, loss {values['loss']:.3f}, "
            f"{values['requests_per_second']:,.0f} requests/s{left}",
            highlight=False,
        )

    return report
