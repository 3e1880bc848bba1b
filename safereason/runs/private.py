"""The umask of everything that is stored: only its owner may read it, unless they choose otherwise.

Runs, caches and outputs hold what models were made to say. `SAFEREASON_UMASK` replaces 077, in the notation of
`umask`: with 027 the group may read too.
"""

import os
import re

from safereason.errors import InputError

UMASK = "SAFEREASON_UMASK"
PRIVATE = 0o077


def umask() -> int:
    """The bits that no file or folder gets.

    Raises:
        InputError: The variable holds no umask.
    """
    given = os.environ.get(UMASK)
    if not given:
        return PRIVATE
    # `int(text, 8)` alone would also take `0o27`, `-1` and `1_000`.
    if not re.fullmatch("0?[0-7]{1,3}", given):
        raise InputError(f"{UMASK}={given}: an octal umask is expected, such as 027; mend or unset it")
    return int(given, 8)


def apply() -> None:
    """Sets the umask of this process and of those that it starts.

    Raises:
        InputError: As `umask`.
    """
    os.umask(umask())
