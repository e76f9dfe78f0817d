"""All errors that densor raises on purpose. One tree, so that callers can catch `DensorError`."""


def printable(text: str) -> str:
    """The text with everything that could control a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class DensorError(Exception):
    """Base of every error that densor raises on purpose.

    Messages may hold names from archives, which can be anything; as text, they are one line that
    no terminal takes for more.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class FormatError(DensorError):
    """The input is not a densor archive, or contradicts the format."""


class ChecksumError(DensorError):
    """A checksum does not match: the input was damaged after it was written."""


class TruncatedError(DensorError):
    """The input ends before the archive does."""


class UnsupportedError(DensorError):
    """The input needs something that this version or this installation does not have."""


class LimitError(DensorError):
    """A size exceeds a limit of the format or one that the caller has set."""


class ArgumentError(DensorError, ValueError):
    """A call was given values that cannot work, such as an unknown dtype or level."""


class FileError(DensorError):
    """A file could not be read or written; the message says which and why."""


class MissingFileError(FileError, FileNotFoundError):
    """A file is not there, for callers who look for Python's own error as well."""
