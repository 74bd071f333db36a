"""The one family of errors that a user can cause and mend."""


class UserError(Exception):
    """Something given by the user is wrong; the message says what, and what would be right.

    Entry points print it as one line and exit with a non-zero status, without a traceback.
    """
