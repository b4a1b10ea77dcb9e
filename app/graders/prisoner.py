"""What the jailed interpreter runs: read a request, run the code, write what came of it. Standard library only.

Request (stdin, JSON): {"source", "check": true} or {"source", "sample", "item"}. Result (the descriptor named by the
first argument, JSON): {"reward": number}, {"ok": true} after a check, or {"error": text}.
"""

import inspect
import json
import numbers
import os
import sys
import types
from typing import Any

SOURCE_NAME = "<grader>"
MAX_ERROR_CHARS = 450


def main(result: int) -> None:
    """Answer the one request."""
    request = json.load(sys.stdin.buffer)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    try:
        answer = _answer(request)
    except BaseException as error:  # noqa: BLE001 - whatever the code raises is its result
        answer = {"error": _describe(error)}
    os.write(result, json.dumps(answer).encode())


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module = types.ModuleType("grader")
    sys.modules["grader"] = module  # where dataclasses and pydantic look for the names in annotations
    exec(compile(request["source"], SOURCE_NAME, "exec"), module.__dict__)  # noqa: S102 - what the jail is for
    grade = getattr(module, "grade", None)
    if not callable(grade):
        return {"error": "The source does not define a function grade(sample, item)."}
    try:
        inspect.signature(grade).bind(None, None)
    except TypeError:
        return {"error": "grade must take exactly two arguments: sample and item."}
    if request.get("check"):
        return {"ok": True}
    return _reward(grade(request["sample"], request["item"]))


def _reward(value: Any) -> dict[str, Any]:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return {"error": f"grade returned {type(value).__name__}, not a float."}
    reward = float(value)
    if reward - reward != 0:
        return {"error": f"grade returned {reward}, which is not a finite number."}
    return {"reward": reward}


def _describe(error: BaseException) -> str:
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == SOURCE_NAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno
    text = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    text = text.encode("utf-8", "replace").decode().replace("\0", "?")  # what the other side takes
    return text if line is None else f"{text} (line {line})"


if __name__ == "__main__":
    main(int(sys.argv[1]))
