"""How figures are summed up, printed and kept: medians, with the range beside them."""

import statistics
from collections.abc import Sequence
from pathlib import Path

# Everything shown by this process, for `--json`.
shown: list[dict[str, object]] = []


def show(label: str, values: Sequence[float], unit: str) -> None:
    """Print the median of some measurements, their range, and how many they are."""
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"  {label:<52} {middle:10.3f} {unit:<5} ({low:.3f} … {high:.3f}, {len(values)} runs)", flush=True)
    shown.append({"label": label, "median": middle, "unit": unit, "values": list(values)})


def memory_mb(pid: int | str, field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (peak) of a process, in MB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(field + ":"))
    return int(kilobytes) * 1024 / 1e6
