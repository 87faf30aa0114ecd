"""Arrays by name as bytes, and settings as text; equal content gives equal bytes, and nothing is executed."""

import io
import json
import re
import zipfile
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from improvement.errors import Invalid
from improvement.two_tower.facts import Arrays
from improvement.two_tower.settings import TowerHealth, TowerSettings

_NAME = re.compile(r"[A-Za-z0-9_.]+")


def packed(arrays: Arrays) -> bytes:
    """Return arrays as an ``.npz`` file that `numpy.load` reads; equal arrays give equal bytes.

    Raises:
        Invalid: an array is not of numbers, or holds NaN or infinity: nobody would want that state back.
    """
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            if not _NAME.fullmatch(name):
                raise Invalid(f"arrays: expected names of letters, digits, _ and ., got {name!r}")
            array = _plain(name, np.asarray(arrays[name]))
            entry = zipfile.ZipInfo(f"{name}.npy")  # its time is a constant unless it is given
            entry.create_system = 3
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return written.getvalue()


def unpacked(content: bytes) -> dict[str, NDArray[Any]]:
    """Return what `packed` was given; raises ValueError or BadZipFile where it did not make these bytes."""
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def settings_text(settings: TowerSettings) -> str:
    """Return settings as JSON; equal settings give equal text."""
    return json.dumps(asdict(settings), sort_keys=True, separators=(",", ":"))


def settings_of(text: str) -> TowerSettings:
    """Return the settings that `settings_text` was given; fields that are no more are left out."""
    found = json.loads(text)
    health = _known(TowerHealth, found.pop("health", {}))
    health = {name: tuple(value) if isinstance(value, list) else value for name, value in health.items()}
    return TowerSettings(**_known(TowerSettings, found), health=TowerHealth(**health))


def _known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return it row by row and with the lowest byte first, as equal arrays might not be."""
    if array.dtype.kind not in "biuf":
        raise Invalid(f"{name}: expected an array of numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Invalid(f"{name}: expected finite numbers")
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")
