"""The exceptions for mistakes that a user can mend.

Every stage raises one with a single sentence (what is wrong, where, what to do); the command line prints that sentence and exits with
status 2, without a traceback. Anything else that is raised is a defect of this library and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in the input, the configuration or the surroundings, worded for the person who can mend it.

    Attributes:
        status: exit status of the command.
    """

    status = 2


class ScoreDiffers(UserError):
    """No mistake, but a check that failed: a distilled data set does not reach what its card says."""

    status = 1


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an exception is Ctrl-C, or what the clearing up after it has come to: libraries that are stopped in the middle cannot always be closed."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
