"""InputError: what was asked for cannot be right, whatever the catalog holds."""

from __future__ import annotations


class InputError(ValueError):
    """Names the field, its value and the choices; the message is complete and meant for the user."""
