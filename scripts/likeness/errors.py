"""The one exception that is shown to a user without a traceback."""


class LikenessError(Exception):
    """Something a user can mend. The message says what was found and what to do."""
