"""The one class of error that is the user's to mend. The command line prints it as one line and exits with code 2."""


class UserError(Exception):
    """Say what was found, what was expected and what to do, in that order, on one line."""


class DataError(UserError):
    """A file that was read is not what its format says: the message names the file and the key."""


class WaitingError(UserError):
    """Nothing is wrong, but somebody else has to act before the same command can go on: exit code 75, "try again later"."""


class Interrupted(Exception):
    """The user, or the system, asked to stop; what was under way has been brought to an end and saved."""
