"""One paper per module. Modules are found by :mod:`kdcore.registry`; nothing is listed here."""
