"""A tokenizer of each family: its template, its special tokens, and a byte-level vocabulary trained on a few words."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
WORDS = ("Hello there, how are you today? user assistant system tool content name arguments weather Paris sunny " * 4,)


@dataclass(frozen=True)
class Family:
    """special: every special token; eos and stops end a turn; bos begins a conversation where the template says so."""

    special: tuple[str, ...]
    eos: str
    stops: tuple[str, ...]
    bos: str | None = None
    pattern: str | None = None  # how a text is cut before it is tokenised; None: as GPT-2 does


FAMILIES = {
    "chatml": Family(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    "thinking": Family(("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|im_end|>",)),
    "llama3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
    ),
    "mistral": Family(
        (
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        "</s>",
        ("</s>",),
        "<s>",
    ),
    "gemma": Family(
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", ("<eos>", "<end_of_turn>"), "<bos>"
    ),
    "phi3": Family(
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|endoftext|>",
        ("<|endoftext|>", "<|end|>"),
    ),
}


def write(name: str, folder: Path, template: str | None = None) -> Path:
    """Make the tokenizer folder of a family, as a base model's folder has it."""
    family = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(family.pattern)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in family.special]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=family.eos, bos_token=family.bos)
    fast.chat_template = template if template is not None else (TEMPLATES / f"{name}.jinja").read_text().rstrip("\n")
    fast.save_pretrained(folder)
    ids = [tokenizer.token_to_id(token) for token in family.stops]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return folder


def _pre_tokenizer(pattern: str | None) -> pre_tokenizers.PreTokenizer:
    if pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
