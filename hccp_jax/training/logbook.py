"""The log of a run: JSON lines, from which every table and picture is made, and TensorBoard on request."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hccp_jax.errors import UserError
from hccp_jax.training.hosts import is_primary


class Logbook:
    """Appends one JSON line a log point to `metrics.jsonl`.

    On resumption the lines after the restored step are dropped, so that a stopped and resumed run leaves the same file
    as a straight one. Of several processes only the primary writes.
    """

    def __init__(self, directory: Path, resume_step: int, tensorboard: bool = False) -> None:
        """Open the log of a run that continues after `resume_step`.

        Raises:
            UserError: if TensorBoard is asked for without tensorboardX, or the file cannot be written.
        """
        self.path = directory / "metrics.jsonl"
        self._file: Any = None
        self._writer: Any = None
        if not is_primary():
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
            kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
            self._writer = _tensorboard_writer(directory) if tensorboard else None
            shorter = self.path.with_suffix(".tmp")  # a kill in this instant leaves the old file or the new one
            shorter.write_text("".join(kept), encoding="utf-8")
            os.replace(shorter, self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"out={directory}: cannot be written ({error.strerror})") from None

    def _lines(self) -> list[str]:
        """Complete lines; a line cut short by a kill is dropped."""
        if not self.path.exists():
            return []
        return [
            line for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")
        ]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of a step."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def _tensorboard_writer(directory: Path):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("train.tensorboard=true: needs `pip install tensorboardX`") from None
    return SummaryWriter(str(directory / "tensorboard"))
