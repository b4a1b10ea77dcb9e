"""The process that prepares data never holds torch, and stays small."""

import subprocess
import sys
from pathlib import Path

from tests.prepare import families

SCRIPT = """
import re, sys
from pathlib import Path
import worker.cpu
from worker.prepare import tokenizer
from worker.prepare.template import Template
Template(tokenizer.load(Path(sys.argv[1])))
assert sys.modules["torch"] is None
assert not any(name.startswith("torch.") for name in sys.modules)
assert not any(name.split(".")[0] == "fastapi" for name in sys.modules)
print("peak MB:", int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_torch_is_absent_and_memory_is_below_200_mb(tmp_path: Path) -> None:
    folder = families.write("chatml", tmp_path)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("peak MB:")[1]) < 200
