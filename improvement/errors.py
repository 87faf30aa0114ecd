"""What can go wrong, as a tree.

StudioError
├── Invalid            the caller's input; HTTP 422
├── NotFound           an object, session, collection or release that is not there; HTTP 404
├── Conflict           refused in the present state, e.g. deleting the blue collection; HTTP 409
├── Unavailable        a store does not answer, or a folder belongs to another process; HTTP 503
├── PluginFailed       an encoder raised or answered nonsense; HTTP 500
└── WrongPlugin        a domain that cannot be used; stops start-up
"""


class StudioError(Exception):
    """Root of the errors this service raises on purpose; its text is meant for a person."""


class Invalid(StudioError, ValueError):
    """The caller's input cannot be used; the text names the field and what was expected."""


class NotFound(StudioError, LookupError):
    """The named thing does not exist."""


class Conflict(StudioError):
    """The request is well formed but refused in the present state."""


class Unavailable(StudioError):
    """A store does not answer, or is held by another process; trying again later can help."""


class PluginFailed(StudioError):
    """A plugin's encoder raised, or returned something else than it promised."""


class WrongPlugin(StudioError):
    """A search domain is missing or wrong; names the plugin, the field and what was expected."""

    def __init__(self, plugin: str, field: str, expected: str) -> None:
        super().__init__(f"plugin {plugin!r}: {field}: expected {expected}")
        self.plugin, self.field, self.expected = plugin, field, expected
