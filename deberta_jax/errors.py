"""Errors that a user can fix."""


class InputError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do. Commands print it and exit with 2."""
