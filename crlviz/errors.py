"""The two kinds of mistake a user can make; the command prints either as one sentence."""


class CrlvizError(Exception):
    """Something is wrong with the data: a checkpoint, a maze file, a run directory. Exit code 1."""

    exit_code = 1


class UsageError(CrlvizError):
    """Something is wrong with the request: an option, a name, a combination. Exit code 2."""

    exit_code = 2
