"""The one exception that speaks to the user."""


class InputError(ValueError):
    """Input that a person can mend: the message says what was expected, what came and what to do.

    The command line prints it without a stack trace and exits with status 2; nodes show it as the error text.
    """
