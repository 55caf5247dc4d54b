"""How much memory there is, and how much was held: of the accelerator, or of this process on the CPU."""

import resource
from collections.abc import Iterator
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE = Path("/proc/meminfo")
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of a control group, version 2 and 1: the files of its limit and of what it holds, and what of that can be dropped."""


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text("5")  # proc(5): resets the high-water mark of resident memory


def peak_bytes(device: torch.device) -> int:
    """Return the most memory held since ``reset_peak``: of the accelerator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes(STATUS, "VmHWM")


def held_bytes(device: torch.device) -> int:
    """Return what is held now; the peak is measured anew from here."""
    reset_peak(device)
    return peak_bytes(device)


def free_bytes(device: torch.device, *, cgroup: Path | None = None) -> int | None:
    """Return how much this process may hold at most, what it holds already included; None where unknown.

    On the CPU that is the least of what the machine has left, what every control group around the process leaves it
    (a container's limit), and its own limit of addresses.

    Args:
        device: Where it computes.
        cgroup: The folder of a control group that counts instead of those that the process is in.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if not MACHINE.exists():
        return None
    held = _kilobytes(STATUS, "VmRSS")
    left = [_kilobytes(MACHINE, "MemAvailable")]
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        left.append(most - _kilobytes(STATUS, "VmSize"))
    for folder in [cgroup] if cgroup is not None else own_cgroups():
        for one in (folder, *folder.parents):
            left += _left_in(one)
    return held + max(0, min(left))


def own_cgroups() -> Iterator[Path]:
    """Give the folder of each control group of this process that may limit memory; they need not be mounted."""
    for line in OWN_CGROUPS.read_text().splitlines() if OWN_CGROUPS.exists() else ():
        _, kinds, place = line.split(":", 2)
        if not kinds or "memory" in kinds.split(","):
            yield CGROUPS / kinds / place.strip("/")


def _left_in(folder: Path) -> Iterator[int]:
    """Give what a control group leaves to those in it; nothing where there is no limit."""
    for limit, current, droppable in LIMITS:
        if not (folder / limit).is_file() or (most := (folder / limit).read_text().strip()) == "max":
            continue
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        yield int(most) - int((folder / current).read_text()) + int(facts.get(droppable, 0))


def _kilobytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise OSError(f"{path}: expected a line {name!r}")
