"""What graders cost a process that may never run one, and one that has run them all."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import re, sys
from pathlib import Path
from app.main import create_app

create_app()
print(sorted({"nltk", "rapidfuzz", "httpx", "numpy", "openai"} & sys.modules.keys()))

from app.graders import similarity
from app.graders.endpoint import Endpoint
from app.graders.faults import ModelServerFault
from app.graders.sandbox import Sandbox

for metric in similarity.METRICS:
    assert similarity.score(metric, "one two three four five", "one two three four five") > 0.9, metric
try:
    Endpoint("http://127.0.0.1:1/v1", None, {"m": "m"}, 5).complete("m", {}, seconds=0.1)
except ModelServerFault:
    pass
assert Sandbox().grade("def grade(sample, item): return 1.0", sample={}, item={}, seconds=60) == 1
assert "torch" not in sys.modules
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_libraries_are_loaded_when_a_grader_needs_them_and_fit_into_the_api_process() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    before, megabytes = done.stdout.splitlines()
    assert before == "[]"
    assert int(megabytes) < 150, "peak memory in MB"
