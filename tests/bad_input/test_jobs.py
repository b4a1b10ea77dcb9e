"""Group D: what a job may not ask for. Refused, it leaves no job, no event, no audit entry."""

import json
from typing import Any

import pytest
from live_server import Live

from app.config import Settings
from tests.bad_input.conftest import kept
from tests.bad_input.refusals import refused

JOBS = "/v1/fine_tuning/jobs"
DROP = object()


def body(live: Live, changes: dict[str, Any]) -> dict[str, Any]:
    fields = {"model": "tiny-chat", "training_file": live.training_file} | changes
    return {name: value for name, value in fields.items() if value is not DROP}


def supervised(**settings: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": settings}}}


def wandb(**changes: Any) -> dict[str, Any]:
    return {"integrations": [{"type": "wandb", "wandb": {"project": "p"} | changes}]}


def bound(kind: str, number: float) -> str:
    """The code for a number that is too large, or for one that is too small."""
    return f"{kind}_above_max_value" if number > 0 else f"{kind}_below_min_value"


INSIDE = "method.supervised.hyperparameters"
WANDB = "integrations.[0].wandb"

BODIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "D09 no model": ({"model": DROP}, "missing_required_parameter", "model"),
    "D09 model null": ({"model": None}, "invalid_type", "model"),
    "D09 model empty": ({"model": ""}, "model_not_available", "model"),
    "D09 model number": ({"model": 1}, "invalid_type", "model"),
    "D09 model list": ({"model": []}, "invalid_type", "model"),
    "D11 model not on this server": ({"model": "not-here"}, "model_not_available", "model"),
    "D13 model of a hub": ({"model": "meta-llama/Llama-3.1-8B"}, "model_not_available", "model"),
    "model in capitals": ({"model": "TINY-CHAT"}, "model_not_available", "model"),
    "F63 model of look-alikes": ({"model": "tiny-ch\u0430t"}, "model_not_available", "model"),
    "model with a space": ({"model": "tiny-chat "}, "model_not_available", "model"),
    "model of a path": ({"model": "../tiny-chat"}, "model_not_available", "model"),
    "model of a URL": ({"model": "http://169.254.169.254/"}, "model_not_available", "model"),
    "model of sql": ({"model": "' OR 1=1--"}, "model_not_available", "model"),
    "model of 70 kB": ({"model": "x" * 70_000}, "model_not_available", "model"),
    "D17 no training file": ({"training_file": DROP}, "missing_required_parameter", "training_file"),
    "D17 training file null": ({"training_file": None}, "invalid_type", "training_file"),
    "D17 training file empty": ({"training_file": ""}, "invalid_value", "training_file"),
    "D17 training file number": ({"training_file": 5}, "invalid_type", "training_file"),
    "D23 training file object": ({"training_file": {"id": "file-x"}}, "invalid_type", "training_file"),
    "D23 training file list": ({"training_file": ["file-x"]}, "invalid_type", "training_file"),
    "training file of a path": ({"training_file": "../../etc/passwd"}, "invalid_value", "training_file"),
    "training file not ASCII": ({"training_file": "file-\u00e9"}, "invalid_value", "training_file"),
    "validation file unknown": ({"validation_file": "file-nobody"}, "invalid_value", "validation_file"),
    "validation file empty": ({"validation_file": ""}, "invalid_value", "validation_file"),
    "validation file false": ({"validation_file": False}, "invalid_type", "validation_file"),
    "D27 suffix of 65": ({"suffix": "x" * 65}, "string_above_max_length", "suffix"),
    "suffix empty": ({"suffix": ""}, "string_below_min_length", "suffix"),
    "suffix of signs": ({"suffix": "<>/\\:"}, "invalid_value", "suffix"),
    "suffix of another script": ({"suffix": "\u6a21\u578b"}, "invalid_value", "suffix"),
    "suffix number": ({"suffix": 1}, "invalid_type", "suffix"),
    "D31 seed -1": ({"seed": -1}, "integer_below_min_value", "seed"),
    "seed 2^31": ({"seed": 2**31}, "integer_above_max_value", "seed"),
    "D33 seed 1.5": ({"seed": 1.5}, "invalid_type", "seed"),
    "D33 seed text": ({"seed": "1"}, "invalid_type", "seed"),
    "D33 seed true": ({"seed": True}, "invalid_type", "seed"),
    "seed 1.0": ({"seed": 1.0}, "invalid_type", "seed"),
    "seed list": ({"seed": [1]}, "invalid_type", "seed"),
    **{
        f"D35 n_epochs {n}": (supervised(n_epochs=n), bound("integer", n), f"{INSIDE}.n_epochs")
        for n in (0, -1, 51, 10**9)
    },
    **{
        f"n_epochs {n!r}": (supervised(n_epochs=n), "invalid_type", f"{INSIDE}.n_epochs")
        for n in ("1", "AUTO", "", 1.5, True, [])
    },
    **{
        f"D37 batch_size {n}": (supervised(batch_size=n), bound("integer", n), f"{INSIDE}.batch_size")
        for n in (0, -1, 257, 10**9)
    },
    **{
        f"D39 multiplier {n}": (
            supervised(learning_rate_multiplier=n),
            "decimal_below_min_value" if n <= 0 else "invalid_value",  # the most depends on the base model
            f"{INSIDE}.learning_rate_multiplier",
        )
        for n in (0, -1, 0.0, -0.0, 1e9, 1e300)
    },
    "D39 multiplier x": (
        supervised(learning_rate_multiplier="x"),
        "invalid_type",
        f"{INSIDE}.learning_rate_multiplier",
    ),
    "multiplier true": (
        supervised(learning_rate_multiplier=True),
        "invalid_type",
        f"{INSIDE}.learning_rate_multiplier",
    ),
    "multiplier 5001 above": (
        {"hyperparameters": {"learning_rate_multiplier": 5001}},
        "invalid_value",
        "hyperparameters.learning_rate_multiplier",
    ),
    "multiplier 5001": (
        supervised(learning_rate_multiplier=5001),
        "invalid_value",
        f"{INSIDE}.learning_rate_multiplier",
    ),
    "n_epochs 0 above": ({"hyperparameters": {"n_epochs": 0}}, "integer_below_min_value", "hyperparameters.n_epochs"),
    "hyperparameters list": ({"hyperparameters": []}, "invalid_type", "hyperparameters"),
    "D43 two numbers": (
        {"hyperparameters": {"n_epochs": 2}} | supervised(n_epochs=3),
        "invalid_value",
        "hyperparameters.n_epochs",
    ),
    "D45 a type beside its block": (
        {"method": {"type": "dpo", "supervised": {"hyperparameters": {}}}},
        "invalid_value",
        "method.type",
    ),
    "method list": ({"method": []}, "invalid_type", "method"),
    "method type null": ({"method": {"type": None}}, "invalid_type", "method.type"),
    "method type missing": ({"method": {}}, "missing_required_parameter", "method.type"),
    "method with more": ({"method": {"type": "supervised", "x": 1}}, "unknown_parameter", "method.x"),
    "reinforcement": (
        {"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}},
        "invalid_value",
        "method.type",
    ),
    **{
        f"D47 rank {n}": (supervised(lora_rank=n), bound("integer", n), f"{INSIDE}.lora_rank")
        for n in (0, -1, 257, 513)
    },
    "D47 rank text": (supervised(lora_rank="8"), "invalid_type", f"{INSIDE}.lora_rank"),
    **{
        f"D49 dropout {n}": (supervised(lora_dropout=n), bound("decimal", n), f"{INSIDE}.lora_dropout")
        for n in (-0.1, 1, 1.1)
    },
    "alpha 0": (supervised(lora_alpha=0), "decimal_below_min_value", f"{INSIDE}.lora_alpha"),
    "alpha 1e300": (supervised(lora_alpha=1e300), "decimal_above_max_value", f"{INSIDE}.lora_alpha"),
    "modules of others": (
        supervised(lora_target_modules=["lm_head"]),
        "invalid_value",
        f"{INSIDE}.lora_target_modules",
    ),
    "modules a pattern": (supervised(lora_target_modules=".*"), "invalid_type", f"{INSIDE}.lora_target_modules"),
    "no modules": (supervised(lora_target_modules=[]), "array_below_min_length", f"{INSIDE}.lora_target_modules"),
    "65 modules": (
        supervised(lora_target_modules=["q_proj"] * 65),
        "array_above_max_length",
        f"{INSIDE}.lora_target_modules",
    ),
    **{
        f"D51 length {n}": (supervised(max_sequence_length=n), code, f"{INSIDE}.max_sequence_length")
        for code, numbers in {"integer_below_min_value": (0, -1, 15), "invalid_value": (513, 10**9)}.items()
        for n in numbers
    },
    "D53 quantization int3": (supervised(quantization="int3"), "invalid_value", f"{INSIDE}.quantization"),
    "precision": (supervised(precision="int3"), "unknown_parameter", f"{INSIDE}.precision"),
    **{
        f"D55 eval_interval {n}": (supervised(eval_interval=n), bound("integer", n), f"{INSIDE}.eval_interval")
        for n in (0, -1, 10**9)
    },
    "patience 10^9": (
        supervised(early_stopping_patience=10**9),
        "integer_above_max_value",
        f"{INSIDE}.early_stopping_patience",
    ),
    "warmup 1.1": (supervised(warmup_ratio=1.1), "decimal_above_max_value", f"{INSIDE}.warmup_ratio"),
    "scheduler": (supervised(lr_scheduler="magic"), "invalid_value", f"{INSIDE}.lr_scheduler"),
    "rate above 1": (supervised(learning_rate=1.5), "decimal_above_max_value", f"{INSIDE}.learning_rate"),
    "gradient norm 0": (supervised(max_grad_norm=0), "decimal_below_min_value", f"{INSIDE}.max_grad_norm"),
    "deterministic 1": (supervised(deterministic=1), "invalid_type", f"{INSIDE}.deterministic"),
    "D57 17 pairs": ({"metadata": {str(n): "x" for n in range(17)}}, "object_above_max_properties", "metadata"),
    "D59 metadata number": ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
    "D59 metadata null": ({"metadata": {"a": None}}, "invalid_type", "metadata.a"),
    "D59 metadata object": ({"metadata": {"a": {}}}, "invalid_type", "metadata.a"),
    "metadata key of 65": ({"metadata": {"k" * 65: "x"}}, "invalid_value", "metadata"),
    "metadata value of 513": ({"metadata": {"a": "x" * 513}}, "string_above_max_length", "metadata.a"),
    "metadata list": ({"metadata": [["a", "b"]]}, "invalid_type", "metadata"),
    "metadata text": ({"metadata": "a=b"}, "invalid_type", "metadata"),
    "D63 100 integrations": (
        {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}] * 100},
        "array_above_max_length",
        "integrations",
    ),
    "D65 entity number": (wandb(entity=1), "invalid_type", f"{WANDB}.entity"),
    "D65 name list": (wandb(name=[]), "invalid_type", f"{WANDB}.name"),
    "D65 tags text": (wandb(tags="a"), "invalid_type", f"{WANDB}.tags"),
    "D65 tag number": (wandb(tags=[1]), "invalid_type", f"{WANDB}.tags.[0]"),
    "51 tags": (wandb(tags=["a"] * 51), "array_above_max_length", f"{WANDB}.tags"),
    "project null": (wandb(project=None), "invalid_type", f"{WANDB}.project"),
    "project empty": (wandb(project=""), "string_below_min_length", f"{WANDB}.project"),
    "no block": ({"integrations": [{"type": "wandb"}]}, "missing_required_parameter", WANDB),
    "another integration": ({"integrations": [{"type": "mlflow"}]}, "invalid_value", "integrations.[0].type"),
    "integration null": ({"integrations": [None]}, "invalid_type", "integrations.[0]"),
    "wandb that is not offered": (wandb(), "invalid_value", "integrations"),
    "D67 base_url": (wandb(base_url="http://169.254.169.254"), "unknown_parameter", f"{WANDB}.base_url"),
    "api key": (wandb(api_key="x"), "unknown_parameter", f"{WANDB}.api_key"),
    "D69 priority": ({"priority": 10**9}, "unknown_parameter", "priority"),
    "F57 chat_template": ({"chat_template": "{{ x }}"}, "unknown_parameter", "chat_template"),
    "F57 chat_template_kwargs": (
        supervised(chat_template_kwargs={}),
        "unknown_parameter",
        f"{INSIDE}.chat_template_kwargs",
    ),
    "F81 environment": ({"env": {"LD_PRELOAD": "/tmp/x.so"}}, "unknown_parameter", "env"),
    **{
        f"what the server says: {name}": ({name: value}, "unknown_parameter", name)
        for name, value in {
            "id": "ftjob-mine",
            "status": "succeeded",
            "fine_tuned_model": "ft:x",
            "project_id": "proj_x",
            "organization_id": "org-x",
            "trained_tokens": 0,
            "created_at": 0,
            "result_files": [],
            "error": None,
            "base_key": "x",
            "object_key": "x",
            "fence": 1,
        }.items()
    },
    "an empty name": ({"": 1}, "unknown_parameter", None),  # type: ignore[dict-item]
    "a name of controls": ({"\x1b[2J\u202e": 1}, "unknown_parameter", "\\x1b[2J\\u202e"),
}


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(("changes", "code", "param"), BODIES.values(), ids=BODIES.keys())
def test_bad_bodies(live: Live, changes: dict[str, Any], code: str, param: str) -> None:
    refused(live.http.post(JOBS, json=body(live, changes)), code=code, param=param)


RAW = {
    "D01 empty": b"",
    "D03 truncated": b'{"model": "tiny-chat", "training_fi',
    "D07 key twice": b'{"model": "tiny-chat", "training_file": "FILE", "model": "tiny-chat"}',
    "D33 seed NaN": b'{"model": "tiny-chat", "training_file": "FILE", "seed": NaN}',
    "D39 multiplier NaN": b'{"model": "tiny-chat", "training_file": "FILE", "hyperparameters": {"n_epochs": NaN}}',
    "D39 multiplier Infinity": (
        b'{"model": "tiny-chat", "training_file": "FILE", "hyperparameters": {"learning_rate_multiplier": Infinity}}'
    ),
    "D39 multiplier 1e-400": (
        b'{"model": "tiny-chat", "training_file": "FILE", "hyperparameters": {"learning_rate_multiplier": 1e-400}}'
    ),
    "D49 dropout NaN": (
        b'{"model": "tiny-chat", "training_file": "FILE", '
        b'"method": {"type": "supervised", "supervised": {"hyperparameters": {"lora_dropout": NaN}}}}'
    ),
    "D61 metadata NUL": b'{"model": "tiny-chat", "training_file": "FILE", "metadata": {"a": "\\u0000"}}',
    "D61 metadata NUL in a key": b'{"model": "tiny-chat", "training_file": "FILE", "metadata": {"\\u0000": "a"}}',
    "D61 metadata surrogate": b'{"model": "tiny-chat", "training_file": "FILE", "metadata": {"a": "\\ud83d"}}',
    "metadata key twice": b'{"model": "tiny-chat", "training_file": "FILE", "metadata": {"a": "b", "a": "c"}}',
    "seed of 400 digits": b'{"model": "tiny-chat", "training_file": "FILE", "seed": ' + b"1" * 400 + b"}",
    "after the end": b'{"model": "tiny-chat", "training_file": "FILE"}{}',
}


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("content", RAW.values(), ids=RAW.keys())
def test_bodies_that_would_be_good_otherwise(live: Live, content: bytes) -> None:
    content = content.replace(b"FILE", live.training_file.encode())
    refused(live.http.post(JOBS, content=content, headers={"Content-Type": "application/json"}))


@pytest.mark.usefixtures("nothing_kept")
def test_d05_a_byte_over_the_limit(live: Live) -> None:
    assert Settings.model_fields["max_body_bytes"].default == 1024 * 1024
    content = json.dumps(body(live, {})).encode().ljust(1024 * 1024 + 1)
    refused(live.http.post(JOBS, content=content, headers={"Content-Type": "application/json"}), 413)
    refused(live.http.post(JOBS, content=content[:-2] + b"x", headers={"Content-Type": "application/json"}))


def test_d15_d19_what_another_project_has_is_as_what_nobody_has(live: Live) -> None:
    made = live.http.post(JOBS, json=body(live, {})).json()["id"]
    model = live.publish(made)
    before = kept(live)
    for name, theirs, nobodys in [
        ("training_file", live.training_file, "file-nobody"),
        ("validation_file", live.training_file, "file-nobody"),
        ("model", model, model[:-8] + "00000000"),
    ]:
        base = {"model": "tiny-chat", "training_file": live.strangers_file}
        replies = [live.stranger.post(JOBS, json=base | {name: value}) for value in (theirs, nobodys)]
        refused(replies[0], param=name)
        assert replies[0].content.replace(theirs.encode(), nobodys.encode()) == replies[1].content
    assert kept(live) == before


@pytest.mark.parametrize("purpose", ["batch", "user_data", "evals", "assistants", "vision"])
def test_d21_a_file_of_another_purpose(live: Live, purpose: str) -> None:
    files = {"file": ("x.jsonl", b'{"prompt": "a", "completion": "b"}\n')}
    made = live.http.post("/v1/files", data={"purpose": purpose}, files=files).json()["id"]
    before = kept(live)
    for name in ("training_file", "validation_file"):
        refused(live.http.post(JOBS, json=body(live, {name: made})), code="invalid_value", param=name)
    assert kept(live) == before


GOOD: dict[str, dict[str, Any]] = {
    "D25 no validation file": {"validation_file": None},
    "D29 markup as suffix": {"suffix": "<script>"},
    "D41 hyperparameters null": {"hyperparameters": None},
    "rank of no power of two": supervised(lora_rank=7),
    "everything null": dict.fromkeys(
        ("validation_file", "suffix", "seed", "method", "hyperparameters", "integrations", "metadata")
    ),
    "everything empty": {"integrations": [], "metadata": {}, "hyperparameters": {}},
    "seed 0": {"seed": 0},
    "seed 2^31 - 1": {"seed": 2**31 - 1},
    "16 pairs": {"metadata": {"k" * 62 + f"{n:02}": "v" * 512 for n in range(16)}},
    "metadata of any text": {"metadata": {"": "", "\u202e<script>": "\U0001f600\n", "__proto__": "' OR 1=1--"}},
    "the same number twice": {"hyperparameters": {"n_epochs": 3}} | supervised(n_epochs=3),
    "C75 validation file = training file": {"validation_file": "TRAINING"},
}


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD.keys())
def test_what_is_odd_and_harmless(live: Live, changes: dict[str, Any]) -> None:
    if changes.get("validation_file") == "TRAINING":
        changes = {"validation_file": live.training_file}
    reply = live.http.post(JOBS, json=body(live, changes))
    assert reply.status_code == 200, reply.text
    job = reply.json()
    assert job["metadata"] == changes.get("metadata")
    name = live.publish(job["id"])
    assert "<" not in name
    assert live.http.get(f"{JOBS}/{job['id']}").json()["fine_tuned_model"] == name
