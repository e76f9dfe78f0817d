"""Where weights are kept that do not all stay in memory: `device_map`, as Accelerate has it."""

from collections.abc import Mapping

from densor.errors import ArgumentError
from densor.runtime.arguments import need

DISK, CPU = "disk", "cpu"


def place_of(name: str, device_map: str | Mapping[str, str]) -> str:
    """Where a parameter is to be: what the longest name of a module around it says."""
    if isinstance(device_map, str):
        return device_map
    inside = [key for key in device_map if key in ("", name) or name.startswith(f"{key}.")]
    if not inside:
        raise ArgumentError(f"device_map says nothing of {name!r}")
    return device_map[max(inside, key=len)]


def check_map(device_map: str | Mapping[str, str]) -> None:
    """ArgumentError for places other than "disk" and "cpu"."""
    if not isinstance(device_map, str):
        need(device_map, Mapping, "device_map")
    places = [device_map] if isinstance(device_map, str) else device_map.values()
    wrong = [place for place in places if place not in (DISK, CPU)]
    if wrong:
        raise ArgumentError(f'weights are kept on "disk" or "cpu", not {wrong[0]!r}')
