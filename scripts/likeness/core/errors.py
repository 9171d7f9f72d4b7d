"""The exception that users see without a traceback, and what the errors of the operating system mean."""

import errno

# No space on the device, the quota is used up, or the file is larger than the file system allows.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LikenessError(Exception):
    """An error that the user can correct. The message says what is wrong and what to do."""


class PhotoError(LikenessError):
    """A picture file that cannot be used. The message is the reason, without the file's name. A stage that goes on
    without the file records the reason. Stages catch no wider exception than this: a damaged model would otherwise
    exclude every photo.
    """


def system_reason(error: OSError) -> str:
    """The reason that the operating system gives, in lower case; the whole message where it gives none."""
    return (error.strerror or str(error)).lower()
