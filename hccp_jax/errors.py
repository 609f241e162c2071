"""The exceptions that mean something to whoever runs a command: a mistake of theirs, or a stop that was asked for."""


class UserError(Exception):
    """A mistake in flags, configuration, data or checkpoints.

    The message is one line naming the field, the value and what is accepted. `launch.py` prints it after
    `error: ` and exits with code 2; every other exception but `Stopped` is a defect and keeps its traceback.
    """


class Diverged(UserError):  # noqa: N818 - named after what happened
    """A loss that is not finite: of all that was trained together, nothing has a finite one left."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Training was asked to stop, by a signal or by the machine; all is saved and the same command goes on.

    Attributes:
        step: where.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}; everything is saved: run the command again to go on")
        self.step = step
