"""Who types a command."""

import getpass


def login_name() -> str:
    """Return the login name, or the word "operator" where the system knows none (a container's bare uid)."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "operator"
