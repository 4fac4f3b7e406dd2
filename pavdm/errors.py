"""Exceptions that speak to the user, and what is known of those that others raise."""


class InputError(ValueError):
    """Input that a person can mend: the message says what was expected, what came and what to do.

    The command line prints it without a stack trace and exits with status 2; nodes show it as the error text.
    """


class RunLost(InputError):
    """No input is to blame: another process of the run has failed or is gone. Status 1; the same command goes on."""


OUT_OF_MEMORY = (
    "the memory does not suffice: try a smaller --size, --tile 32, --dtype bf16 or fewer --window-chunks. What was "
    "saved with --state is kept"
)


def is_out_of_memory(error: BaseException) -> bool:
    """torch has a type of its own for CUDA; for the CPU only the text tells."""
    text = str(error)
    signs = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)
