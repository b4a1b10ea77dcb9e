"""`python -m tests.chaos.newer_engine`: the engine of the next version, whose resume states this one does not know."""

from worker.engine import resume
from worker.engine.__main__ import main

if __name__ == "__main__":
    resume.VERSION += 1
    main()
