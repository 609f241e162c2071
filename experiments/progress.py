"""One live line on a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hccp_jax.training.run import Report


def reporter(console: Console):
    """A factory of progress reports: (label, total steps) -> report(step, values)."""

    def begin(label: str, steps: int) -> Report:
        return _live(console, label, steps) if console.is_terminal else _plain(console, label, steps)

    return begin


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
