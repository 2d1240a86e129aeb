"""Errors that a user can mend."""


class InputError(ValueError):
    """Bad input: one line that says what, where and what to do; the command line prints it and exits with 2."""
