"""The one exception that is meant for the user: `main` prints it as a single line and exits with 2."""


class UserError(ValueError):
    """Bad input: the message names the file, key or value and says what to do."""
