"""`python -m benchmarks [NAME …]`: run some benchmarks, or all of them, and print their figures."""

import argparse
import os
import platform

from benchmarks import api_process, data, first_step, upload, webhooks

BENCHMARKS = {
    "api_process": api_process.run,
    "data": data.run,
    "first_step": first_step.run,
    "upload": upload.run,
    "webhooks": webhooks.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    for name in names:
        print(f"\n{name}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
