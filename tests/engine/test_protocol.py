"""The protocol's words: what is read, what is refused, and that neither end needs torch to speak it."""

import json
import os
import subprocess
import sys

import pytest

from tests.engine import tiny
from worker.engine.protocol import Admit, LoadBase, Ping, ProtocolError, Release, Replies, Spec, decode, encode


def admit() -> Admit:
    return Admit(2, "ftjob-1", Spec(**tiny.spec()), "/data", None, None, None, "/out")


@pytest.mark.parametrize(
    "command",
    [
        LoadBase(1, "/base", "key", "auto", "cpu", ["q_proj"], 4, None, "a/model"),
        admit(),
        Release(3, "ftjob", True),
        Ping(5),
    ],
)
def test_a_command_is_read_as_it_was_written(command: object) -> None:
    line = encode(command)  # type: ignore[arg-type]
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == command


def test_a_whole_number_does_for_a_fraction_and_unknown_fields_are_passed_over() -> None:
    message = json.loads(encode(admit()))
    message["spec"] |= {"lora_alpha": 8, "of_a_later_version": True}
    command = decode(json.dumps(message))
    assert isinstance(command, Admit)
    assert command.spec.lora_alpha == 8.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_epochs": 1.5}, "admit.spec.n_epochs"),
        ({"n_epochs": True}, "admit.spec.n_epochs"),
        ({"learning_rate": None}, "admit.spec.learning_rate"),
        ({"lr_scheduler": "steps"}, "admit.spec.lr_scheduler"),
        ({"lora_target_modules": ["q_proj", 3]}, "admit.spec.lora_target_modules"),
        ({"method": "dpo"}, "admit.spec.method"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(changes: dict, said: str) -> None:
    message = json.loads(encode(admit()))
    message["spec"] |= changes
    with pytest.raises(ProtocolError, match=said) as refused:
        decode(json.dumps(message))
    assert refused.value.id == 2


@pytest.mark.parametrize("line", [b"", b"[]", b'"x"', b"\xff", b'{"type": "ping"}', b'{"type": "ping", "id": "1"}'])
def test_what_is_no_command_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)


def test_no_reply_carries_a_number_that_json_lacks() -> None:
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="JSON compliant"):
        Replies(writer).report("step", train_loss=float("nan"))
    os.close(reader)
    os.close(writer)


def test_the_protocol_needs_no_torch() -> None:
    code = "import sys, worker.engine.protocol; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
