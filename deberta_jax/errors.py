"""Errors that the command line reports in one line."""


class InputError(ValueError):
    """Bad input: one line that says what, where and what to do; the command line prints it and exits with 2."""


class StopRequested(Exception):
    """The run was asked to stop by `signal` (SIGTERM or SIGINT); its state after `step` is saved."""

    def __init__(self, signal: int, step: int):
        self.signal, self.step = signal, step
        super().__init__(f"stopped after step {step}; to resume, run the same command again")
