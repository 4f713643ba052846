"""How a command ends: each error class has one exit code, and its text is all the user sees."""


class PipelineError(Exception):
    """An expected ending, reported as its message alone, without a traceback."""

    exit_code = 1


class StepFailed(PipelineError):
    """A step's work failed; nothing was sealed and a rerun resumes it."""

    exit_code = 1


class UserError(PipelineError):
    """The input is wrong. The message says where, what was found, what was expected, what to do.

    Several problems found together are one error with one line each.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Stopped(PipelineError):
    """Stopped on request (Ctrl-C, SIGTERM, SIGUSR2) with everything left resumable."""

    exit_code = 75
