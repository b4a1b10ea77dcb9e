"""`python -m worker.engine`: the child process that holds a base model on one device and trains jobs on it."""

import argparse
import logging
import os
import queue
import sys
import threading


def main() -> None:
    parser = argparse.ArgumentParser(prog="worker.engine", description=__doc__)
    for name, meaning in (
        ("commands", "descriptor to read commands from"),
        ("replies", "descriptor to write replies and reports to"),
        ("lifeline", "descriptor whose end means that the worker is gone"),
    ):
        parser.add_argument(f"--{name}", type=int, required=True, help=meaning)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    watch(arguments.lifeline)

    # The lifeline is watched before these imports, which take seconds.
    from worker.engine import process
    from worker.engine.protocol import Replies
    from worker.engine.server import Server, read_commands

    process.settle()
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    read_commands(arguments.commands, inbox)
    Server(Replies(arguments.replies)).serve(inbox)


def watch(descriptor: int) -> None:
    """Exit at once, from whatever the process is doing, when the other end of the lifeline closes."""

    def wait() -> None:
        while os.read(descriptor, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    main()
