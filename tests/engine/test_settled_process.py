"""Memory that stays with the process between passes."""

import subprocess
import sys

LOOK = """
import resource, torch
from worker.engine import process

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(8_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual = faults()
process.settle()
[faults() for _ in range(5)]  # until the heap has found its size
kept, before = faults(), held()
process.give_back()
print(usual, kept, before - held())
"""


def test_what_a_pass_frees_the_next_gets_without_a_page_fault() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    usual, kept, given_back = map(int, done.stdout.split())
    assert kept < usual / 100
    assert given_back > 30_000_000
