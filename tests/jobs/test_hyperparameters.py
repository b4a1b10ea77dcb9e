"""The "auto" rules as literals, merging the two places of a request, and what a base model allows."""

import pytest
from pydantic import ValidationError

from app.config import Settings
from app.jobs import hyperparameters
from app.jobs.errors import ConflictingHyperparameters, InvalidHyperparameter
from app.jobs.hyperparameters import Hyperparameters, OpenAIHyperparameters
from app.jobs.tables import Job
from app.models.catalog import CatalogEntry

ALL_AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


@pytest.mark.parametrize(
    ("n_examples", "epochs"),
    [
        (1, 25),
        (4, 25),
        (5, 20),
        (10, 10),
        (20, 5),
        (25, 4),
        (33, 3),
        (34, 3),
        (100, 3),
        (8333, 3),
        (8334, 2),
        (12500, 2),
        (12501, 1),
        (200_000, 1),
    ],
)
def test_auto_epochs(n_examples: int, epochs: int) -> None:
    assert hyperparameters.auto_epochs(n_examples) == epochs


@pytest.mark.parametrize(
    ("n_examples", "batch_size"),
    [
        (1, 1),
        (100, 1),
        (749, 1),
        (750, 2),
        (1000, 2),
        (1250, 3),
        (8334, 17),
        (127_749, 255),
        (127_750, 256),
        (10**6, 256),
    ],
)
def test_auto_batch_size(n_examples: int, batch_size: int) -> None:
    assert hyperparameters.auto_batch_size(n_examples) == batch_size


def test_resolve_gives_every_field_a_value(entry: CatalogEntry) -> None:
    resolved = hyperparameters.resolve(ALL_AUTO, n_examples=100, entry=entry)

    assert resolved == {
        "n_epochs": 3,
        "batch_size": 1,
        "learning_rate_multiplier": 1.0,
        "learning_rate": 2e-4,
        "lora_rank": 16,
        "lora_alpha": 32.0,
        "lora_dropout": 0.0,
        "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "max_sequence_length": 512,
        "warmup_ratio": 0.03,
        "lr_scheduler": "cosine",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "quantization": "none",
        "eval_interval": None,
        "early_stopping_patience": None,
        "deterministic": False,
    }


def test_resolve_keeps_what_was_asked(entry: CatalogEntry) -> None:
    asked = hyperparameters.merge(
        None,
        Hyperparameters(
            n_epochs=7,
            batch_size=4,
            learning_rate=1e-3,
            lora_rank=8,
            lora_target_modules="attention",
            max_sequence_length=64,
            lr_scheduler="linear",
            weight_decay=0,
            eval_interval=5,
            deterministic=True,
        ),
    )
    resolved = hyperparameters.resolve(asked, n_examples=10, entry=entry)

    assert resolved["n_epochs"] == 7
    assert resolved["batch_size"] == 4
    assert resolved["learning_rate"] == 1e-3
    assert resolved["learning_rate_multiplier"] == pytest.approx(5.0)
    assert resolved["lora_alpha"] == 16.0  # alpha / rank stays 2
    assert resolved["lora_target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert resolved["max_sequence_length"] == 64
    assert resolved["lr_scheduler"] == "linear"
    assert resolved["weight_decay"] == 0.0
    assert resolved["eval_interval"] == 5
    assert resolved["deterministic"] is True


def test_multiplier_scales_the_catalogue_rate(entry: CatalogEntry) -> None:
    resolved = hyperparameters.resolve(ALL_AUTO | {"learning_rate_multiplier": 2}, n_examples=10, entry=entry)
    assert (resolved["learning_rate"], resolved["learning_rate_multiplier"]) == (pytest.approx(4e-4), 2.0)


def test_target_modules_come_in_the_catalogue_order_without_duplicates(entry: CatalogEntry) -> None:
    assert hyperparameters.target_modules(["v_proj", "q_proj", "v_proj"], entry) == ["q_proj", "v_proj"]


def test_engine_spec_is_the_resolved_numbers_with_method_seed_and_clock(entry: CatalogEntry) -> None:
    resolved = hyperparameters.resolve(ALL_AUTO, n_examples=100, entry=entry)
    spec = hyperparameters.engine_spec(
        Job(method="supervised", seed=7), resolved, Settings(resume_interval_seconds=11.0)
    )
    assert spec.keys() == {
        "method", "n_epochs", "batch_size", "learning_rate", "lora_rank", "lora_alpha", "lora_dropout",
        "lora_target_modules", "max_sequence_length", "warmup_ratio", "lr_scheduler", "weight_decay", "max_grad_norm",
        "eval_interval", "early_stopping_patience", "deterministic", "seed", "resume_interval_seconds",
    }  # fmt: skip
    assert (spec["method"], spec["seed"], spec["resume_interval_seconds"]) == ("supervised", 7, 11.0)


@pytest.mark.parametrize(
    ("top", "inner", "merged"),
    [
        pytest.param({}, {}, {}, id="nothing"),
        pytest.param({"n_epochs": 2}, {}, {"n_epochs": 2}, id="top only"),
        pytest.param({}, {"n_epochs": 2}, {"n_epochs": 2}, id="method only"),
        pytest.param({"n_epochs": 2}, {"n_epochs": 2}, {"n_epochs": 2}, id="same number"),
        pytest.param({"n_epochs": 2}, {"n_epochs": "auto"}, {}, id="method says auto"),
        pytest.param({"n_epochs": "auto"}, {"n_epochs": 2}, {"n_epochs": 2}, id="top says auto"),
        pytest.param({"n_epochs": 2}, {"batch_size": 4}, {"n_epochs": 2, "batch_size": 4}, id="different settings"),
        pytest.param({"n_epochs": None}, {"batch_size": None}, {}, id="nulls"),
    ],
)
def test_merge(top: dict, inner: dict, merged: dict) -> None:
    assert hyperparameters.merge(OpenAIHyperparameters(**top), Hyperparameters(**inner)) == ALL_AUTO | merged


def test_merge_refuses_two_different_numbers() -> None:
    with pytest.raises(ConflictingHyperparameters) as raised:
        hyperparameters.merge(OpenAIHyperparameters(batch_size=2), Hyperparameters(batch_size=3))
    assert raised.value.param == "hyperparameters.batch_size"


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        pytest.param({"max_sequence_length": 513}, "max_sequence_length", id="over the context"),
        pytest.param({"quantization": "nf4"}, "quantization", id="quantization not offered"),
        pytest.param({"lora_target_modules": ["q_proj", "lm_head"]}, "lora_target_modules", id="no such linear"),
        pytest.param({"learning_rate": 1e-3, "learning_rate_multiplier": 2.0}, "learning_rate", id="two rates"),
    ],
)
def test_check_refuses_what_the_base_does_not_allow(asked: dict, name: str, entry: CatalogEntry) -> None:
    with pytest.raises(InvalidHyperparameter) as raised:
        hyperparameters.check(ALL_AUTO | asked, entry)
    assert raised.value.param == f"method.supervised.hyperparameters.{name}"


def test_check_allows_the_limits(entry: CatalogEntry) -> None:
    hyperparameters.check(
        ALL_AUTO | {"max_sequence_length": 512, "quantization": "none", "lora_target_modules": ["down_proj"]}, entry
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", 0), ("n_epochs", 51), ("n_epochs", True), ("n_epochs", 3.0), ("n_epochs", "3"),
        ("n_epochs", "Auto"),
        ("batch_size", 0), ("batch_size", 257), ("batch_size", False), ("batch_size", []),
        ("learning_rate_multiplier", 0), ("learning_rate_multiplier", -1.0), ("learning_rate_multiplier", True),
        ("learning_rate_multiplier", float("inf")), ("learning_rate_multiplier", float("nan")),
        ("learning_rate_multiplier", 10**400), ("learning_rate_multiplier", "1"),
        ("learning_rate", 0), ("learning_rate", 1.1), ("learning_rate", "auto"),
        ("lora_rank", 0), ("lora_rank", 257), ("lora_rank", True), ("lora_alpha", 0), ("lora_dropout", 1),
        ("lora_dropout", -0.1), ("lora_target_modules", "all"), ("lora_target_modules", []),
        ("lora_target_modules", [1]), ("max_sequence_length", 15), ("warmup_ratio", 1.1), ("warmup_ratio", -0.1),
        ("lr_scheduler", "cubic"), ("weight_decay", -1), ("max_grad_norm", 0), ("quantization", 4),
        ("eval_interval", 0), ("early_stopping_patience", 0), ("deterministic", 1), ("lora_bias", "none"),
    ],
)  # fmt: skip
def test_out_of_range_is_one_error_on_the_setting(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        Hyperparameters.model_validate({name: value})
    assert [error["loc"][0] for error in raised.value.errors()] == [name]


@pytest.mark.parametrize("name", ["learning_rate", "lora_rank", "deterministic"])
def test_our_settings_do_not_ride_at_the_top_level(name: str) -> None:
    with pytest.raises(ValidationError):
        OpenAIHyperparameters.model_validate({name: None})


def test_the_shape_of_a_parent_is_kept(entry: CatalogEntry) -> None:
    shape = {"lora_rank": 4, "lora_alpha": 8.0, "lora_target_modules": ["q_proj", "v_proj"]}
    same = ALL_AUTO | {"lora_rank": 4, "lora_target_modules": ["v_proj", "q_proj"]}
    assert hyperparameters.with_shape_of(shape, same, entry) == ALL_AUTO | shape
    with pytest.raises(InvalidHyperparameter) as raised:
        hyperparameters.with_shape_of(shape, ALL_AUTO | {"lora_rank": 8}, entry)
    assert raised.value.param == "method.supervised.hyperparameters.lora_rank"
