"""Atomic checkpoints of one run through Orbax: the latest two and the best are kept."""

import json
import logging
import shutil
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hccp_jax.errors import UserError
from hccp_jax.training.hosts import is_alone, is_primary, wait_for_all
from hccp_jax.training.state import TrainState

# Orbax reports every save and load through absl at INFO and warns about options it fills in by itself.
logging.getLogger("absl").setLevel(logging.ERROR)
# A damaged checkpoint makes asyncio log pages of "Task exception was never retrieved"; `load` says it in one line.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

METRIC, CHECKSUM = "validation", "checksum"
_NO_METRIC = -1e30  # JSON has no infinity
_DISK = ("No space left on device", "Disk quota exceeded", "Read-only file system", "Permission denied")
# Orbax tells its saves and loads apart by one number of the whole process: two at a time take each other's signals,
# and one may write before its directory is there. So one thread does them all, beside training.
_ORBAX = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")


def as_tree(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state: its fields by name, the typed key as its data."""
    fields = ("step", "parameters", "moments", "alive")
    return {name: getattr(state, name) for name in fields} | {"key": jax.random.key_data(state.key)}


def to_host(state: TrainState) -> dict[str, Any]:
    """The state as a tree of NumPy arrays; the typed key becomes its data.

    A population that is spread over devices is joined here, on the host, without a collective.
    """
    return jax.tree.map(np.asarray, as_tree(state))


def to_state(tree: dict[str, Any]) -> TrainState:
    """The inverse of `to_host`."""
    return TrainState(**{**tree, "key": jax.random.wrap_key_data(tree["key"])})


def checksum(tree: dict[str, Any]) -> float:
    """A CRC-32 of all bytes of a tree of NumPy arrays, in the order of its leaves."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        found = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), found)
    return float(found)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


class Checkpoints:
    """The checkpoints of one run, in one directory."""

    def __init__(self, directory: Path) -> None:
        """Open (and create) the directory; what a killed save left behind is removed.

        A checkpoint whose metric cannot be read is removed as well, since Orbax would not open the directory, and is
        named in `damaged`.

        Raises:
            UserError: if the directory cannot be written.
        """
        self.directory = directory.absolute()
        self._saving: Future | None = None
        self._failed = False
        self.damaged = [path.parent.parent for path in self.directory.glob("*/metrics/metrics") if not _is_json(path)]
        wait_for_all("damaged checkpoints are known")
        for path in self.damaged if is_primary() else []:
            shutil.rmtree(path)
        wait_for_all("damaged checkpoints are gone")
        from orbax.checkpoint import v1 as ocp  # it takes half a second, which finding a finished run need not

        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1)
        try:
            self._checkpointer = _ORBAX.submit(
                ocp.training.Checkpointer,
                self.directory,
                save_decision_policy=ocp.training.save_decision_policies.ContinuousCheckpointingPolicy(),
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
                cleanup_tmp_directories=True,
            ).result()
        except OSError as error:
            raise UserError(f"out={directory}: cannot write checkpoints ({error.strerror})") from None

    def save(self, tree: dict[str, Any], metric: float | None = None, step: int | None = None) -> None:
        """Save a `to_host` tree, in the background; `metric` decides the best, larger is better.

        It is saved under `step`, or under its own: that of a run that is frozen lies behind the others'.

        A step that is there already is left alone: the same step of the same run holds the same numbers.
        """
        self.wait()
        step = int(tree["step"]) if step is None else step
        if step in self.steps:
            return
        copied = jax.tree.map(np.array, tree)  # what happens to the arrays from now on is not saved

        def write() -> None:
            metrics = {METRIC: metric if metric is not None else _NO_METRIC, CHECKSUM: checksum(copied)}
            # forced: the policies would leave a save out while another one is under way
            self._checkpointer.save(step, copied, force=True, metrics=metrics)

        self._saving = _ORBAX.submit(write)
        if not is_alone():  # processes meet while they save, which must not cross what training meets for
            self.wait()

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: a run that goes back to `step` writes them again."""
        for late in self.steps:
            if late > step and is_primary():
                shutil.rmtree(self.directory / str(late))
        wait_for_all("later checkpoints are gone")
        _ORBAX.submit(self._checkpointer.reload).result()

    def wait(self) -> None:
        """Block until what was saved is durable.

        Raises:
            UserError: if it cannot be written; earlier checkpoints stay.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
            except Exception as error:  # Orbax raises many kinds for a disk that is full
                lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                self._failed = True
                why = next((word for word in _DISK if word in str(error)), lines[0][:160])
                raise UserError(f"checkpoints {self.directory}: cannot be written ({why})") from None

    def close(self) -> None:
        """Finish and release."""
        try:
            self.wait()
        finally:
            with suppress(Exception) if self._failed else nullcontext():  # it would tell of the same once more
                _ORBAX.submit(self._checkpointer.close).result()

    @property
    def steps(self) -> list[int]:
        """Steps with a finished checkpoint, oldest first."""
        return sorted(found.step for found in self._checkpointer.checkpoints)

    @property
    def best_step(self) -> int | None:
        """The step with the largest metric, the latest among equals as in Orbax's BestN; None without checkpoints."""
        found = [(c.metrics or {}).get(METRIC, _NO_METRIC) for c in self._checkpointer.checkpoints]
        steps = [c.step for c in self._checkpointer.checkpoints]
        return max(zip(found, steps, strict=True))[1] if steps else None

    def metric(self, step: int) -> float:
        """The metric saved with a step, _NO_METRIC if none."""
        return self._metrics(step).get(METRIC, _NO_METRIC)

    def _metrics(self, step: int) -> dict[str, float]:
        return next(found.metrics or {} for found in self._checkpointer.checkpoints if found.step == step)

    def load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Load the tree saved at a step.

        Args:
            step: one of `steps`.
            like: a tree of arrays with the shapes and dtypes to expect.

        Raises:
            UserError: if it is damaged or does not fit the configuration.
        """
        try:
            tree = _ORBAX.submit(self._checkpointer.load, step, like).result()
        except Exception as error:  # Orbax raises many kinds for a damaged file
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"checkpoint {self.directory / str(step)}: cannot be read ({first[:160]})") from None
        tree = jax.tree.map(np.asarray, tree)
        for found, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
            if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):  # Orbax does not mind
                raise UserError(
                    f"checkpoint {self.directory / str(step)}: cannot be read (an array of {found.dtype}{found.shape}, "
                    f"expected {wanted.dtype}{wanted.shape})"
                )
        saved = self._metrics(step).get(CHECKSUM)
        if saved is not None and saved != checksum(tree):  # Orbax does not notice a byte that differs in an array
            raise UserError(f"checkpoint {self.directory / str(step)}: cannot be read (its numbers have changed)")
        return tree
