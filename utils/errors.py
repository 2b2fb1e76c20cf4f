"""What goes wrong outside the program, and how it is said: one line each.

A leaf module: it imports nothing of the project and nothing heavy.
"""

import sys


class InputError(Exception):
    """A mistake in what came from outside: a file, a header, a list, a flag or a checkpoint.

    Args:
        source: the file or flag at fault, as the user wrote it.
        problem: what is wrong with it.
        remedy: what to do about it.
    """

    def __init__(self, source: object, problem: str, remedy: str) -> None:
        super().__init__(f"{source}: {problem}; {remedy}")
        self.source, self.problem, self.remedy = str(source), problem, remedy


def notice(text: str) -> None:
    """Say one line that the user should know and that is not an error."""
    print(f"notice: {text}", file=sys.stderr, flush=True)


def report(error: InputError) -> None:
    """Print the one line of an error."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
