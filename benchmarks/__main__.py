"""`python -m benchmarks [NAME …]`: run some benchmarks, or all of them, and print their figures."""

import argparse
import importlib.metadata
import json
import os
import platform
from importlib import import_module
from pathlib import Path

from benchmarks import figures

NAMES = (
    "api_process",
    "api_speed",
    "claims",
    "data",
    "first_step",
    "many_events",
    "memory",
    "overhead",
    "overload",
    "soak",
    "step_profile",
    "training",
    "upload",
    "webhooks",
)
VERSIONS = ("torch", "transformers", "peft", "trl", "datasets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    machine = _machine()
    print(machine)
    found = {}
    for name in options.names or NAMES:
        print(f"\n{name}", flush=True)
        figures.shown.clear()
        import_module(f"benchmarks.{name}").run()
        found[name] = list(figures.shown)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "figures": found}, indent=1) + "\n")


def _machine() -> str:
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    return f"{os.cpu_count()} cores, {_processor()}, {_accelerator()}, Python {platform.python_version()}, {versions}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
