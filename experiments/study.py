"""The search for one row: a study of Optuna, over the fields that the row leaves open.

What a study was asked is in its storage, so a killed search goes on. Each setting is drawn from the seed and its number
in the study, so it goes on to the settings of an undisturbed one.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.experiment import Row
from experiments.plan import Plan
from experiments.sweep_space import Point, Range
from hccp_jax import __version__, config
from hccp_jax.errors import UserError

Knob = Range | tuple[str, ...]  # a range, or the values of a list


@dataclass
class Study:
    """The search for one row.

    Attributes:
        row: of the experiment.
        knobs: the fields that the row leaves open.
        wanted: how many settings to ask for.
        seed: of all draws.
        study: of Optuna.
        given_up: numbers of settings with a trial that failed; they stay open for the next command.
    """

    row: Row
    knobs: dict[str, Knob]
    wanted: int
    seed: int
    study: Any
    given_up: set[int] = field(default_factory=set)

    def ask(self, batch: int) -> dict[int, Point]:
        """The settings that are asked and not told, filled up to the end of a round of `batch`; number -> point."""
        asked = self._asked()
        for trial in [trial for trial in asked if not self.knobs.keys() <= trial.params.keys()]:
            self.study.tell(trial.number, state=type(trial.state).FAIL)  # a launcher was killed while it asked
            asked.remove(trial)
        untold = [t for t in asked if not t.state.is_finished() and t.number not in self.given_up]
        left = {trial.number: self._point(trial) for trial in untold}
        end = math.ceil(len(asked) / batch) * batch if left else len(asked) + batch
        for index in range(len(asked), min(end, self.wanted)):
            self.study.sampler = _sampler(self.seed, index)
            trial = self.study.ask({name: _distribution(knob) for name, knob in self.knobs.items()})
            left[trial.number] = self._point(trial)
        return left

    def tell(self, number: int, value: float) -> None:
        """Note the validation value of a setting."""
        value = -math.inf if math.isnan(value) else value
        self.study.tell(number, value, skip_if_finished=True)  # another launcher may have been quicker

    def points(self) -> list[Point]:
        """All settings asked."""
        return [self._point(trial) for trial in self._asked()]

    @property
    def best(self) -> str:
        """For messages."""
        told = [trial for trial in self._asked() if trial.value is not None]
        if not told:
            return "none told"
        best = max(told, key=lambda trial: trial.value)
        return f"best {best.value:.4f} at " + ", ".join(f"{n}={v}" for n, v in self._point(best).items())

    def _asked(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name != "FAIL"]

    def _point(self, trial: Any) -> Point:
        params = trial.params
        return {n: params[n] if isinstance(k, tuple) else k.text(params[n]) for n, k in self.knobs.items()}


def _sampler(seed: int, number: int) -> Any:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # what is asked and not told counts as bad, so that the settings of a round differ
        return optuna.samplers.TPESampler(seed=seed * 1_000_003 + number, constant_liar=True)


def _distribution(knob: Knob) -> Any:
    from optuna import distributions

    if isinstance(knob, tuple):
        return distributions.CategoricalDistribution(knob)
    if knob.kind == "int":
        return distributions.IntDistribution(int(knob.low), int(knob.high))
    return distributions.FloatDistribution(knob.low, knob.high, log=knob.kind == "log")


def studies(plan: Plan, knobs: dict[str, Knob], given: Mapping[str, Any]) -> list[Study]:
    """Open or continue the studies of a plan's trained rows.

    Args:
        plan: without a sweep.
        knobs: of `asked_space`.
        given: the flags.

    Raises:
        UserError: if Optuna is missing or the storage cannot be used.
    """
    wanted, seed = given["search"], given["sweep_seed"]
    try:
        import optuna
    except ImportError:
        raise UserError(f"search={wanted}: Optuna is not installed; expected pip install 'hccp_jax[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = given["search_storage"] or f"sqlite:///{plan.out.absolute() / 'search.db'}"
    what = config.digest(__version__, config.to_json(plan.settings), repr(sorted(knobs.items())), plan.seeds, seed)
    found = []
    try:
        opened = optuna.storages.get_storage(storage)
        for row in plan.rows:
            if row.reference:
                continue
            left = {name: knob for name, knob in knobs.items() if name not in row.overrides}
            name = f"{plan.experiment.name}/{row.name}/{what}"
            study = optuna.create_study(storage=opened, study_name=name, direction="maximize", load_if_exists=True)
            # a row that fixes everything is tried once, as it is
            found.append(Study(row, left or knobs, wanted if left else 1, seed, study))
    except Exception as error:  # the drivers of data bases have no error in common
        raise UserError(f"search_storage={storage!r}: cannot be used ({str(error).splitlines()[0]})") from None
    return found
