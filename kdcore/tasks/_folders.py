"""Where reference teachers and larger data sets are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder of reference teachers and scans: the environment variable ``KDCORE_CACHE``, or the user's cache folder."""
    if given := os.environ.get("KDCORE_CACHE"):
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("kdcore", appauthor=False)


def data_folder() -> Path:
    """Folder of data sets loaded by name: the environment variable ``KDCORE_DATA``, or ``data`` in the cache folder."""
    if given := os.environ.get("KDCORE_DATA"):
        return Path(given).expanduser()
    return cache_folder() / "data"
