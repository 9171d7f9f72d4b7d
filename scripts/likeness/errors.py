"""The one exception that is shown to a user without a traceback, and which errors of the system are the disk's."""

import errno

# No space on the device, none left of the quota, or of what one file may have.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LikenessError(Exception):
    """Something a user can mend. The message says what was found and what to do."""
