"""The one exception of the package that means: the user's input was wrong."""


class UserError(Exception):
    """A mistake in flags, configuration, data or checkpoints.

    The message is one line naming the field, the value and what is accepted. `launch.py` prints it after
    `error: ` and exits with code 2; every other exception is a defect and keeps its traceback.
    """
