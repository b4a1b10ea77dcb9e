"""Fine-tune the bundled model on support tickets, and see what it learned. Run it with `make quickstart`.

Starts the whole stack on this machine, trains through OpenAI's own client, downloads the adapter, and has stock
transformers and peft answer tickets that the training never saw, without the adapter and with it.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from app.cli import adapters
from app.cli.progress import follow

# What is trained, and how. Change these and run again.
MODEL = "tiny-chat"
N_EPOCHS = 4
BATCH_SIZE = 2
SEED = 7

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "examples" / "support-tickets" / "train.jsonl"
HELD_OUT = ROOT / "examples" / "support-tickets" / "valid.jsonl"
BASE = ROOT / "catalog" / MODEL
SCRATCH = ROOT / ".quickstart"
SHOWN = 6  # held-out tickets in the table
ANSWER_TOKENS = 64
GENERATION_BATCH = 25

console = Console()


@dataclass(frozen=True)
class Server:
    base_url: str
    api_key: str


def main() -> int:
    """Returns 0 if the job succeeded."""
    console.print(f"Asking {MODEL} the held-out tickets before it has seen any …")
    before = answers(adapter=None)
    with running_stack() as server:
        client = OpenAI(base_url=server.base_url, api_key=server.api_key)
        job = train(client)
        if job.status != "succeeded":
            console.print(f"The job {job.status}: {job.error.message if job.error else 'no reason given'}")
            return 1
        folder = SCRATCH / "adapters" / job.id
        adapters.download(client, adapters.locate(client, job.id), folder)
    show(before, answers(adapter=folder))
    explain(job, folder)
    return 0


@contextmanager
def running_stack() -> Iterator[Server]:
    """`tunesmith up` on a free port, stopped at the end."""
    console.print(f"Starting Postgres, Redis, the API and the workers in {SCRATCH / 'data'} …", soft_wrap=True)
    command = [str(Path(sys.executable).with_name("tunesmith")), "up", "--data-dir", str(SCRATCH / "data")]
    environment = os.environ | {"TUNESMITH_WARM_BASE": MODEL}
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment) as up:
        try:
            yield wait_until_ready(up)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(180)


def wait_until_ready(up: "subprocess.Popen[str]") -> Server:
    """Read what `tunesmith up` prints, up to the line "ready"."""
    said: dict[str, str] = {}
    assert up.stdout is not None
    for line in up.stdout:
        if line.strip() == "ready":
            return Server(said["base URL"], said["API key"])
        label, _, value = line.strip().partition("  ")
        said[label] = value.strip()
    raise SystemExit("tunesmith up ended before it was ready")


def train(client: OpenAI) -> Any:
    """Upload both files, create the job, show its progress; returns the finished job."""
    training = client.files.create(file=TRAIN, purpose="fine-tune")
    validation = client.files.create(file=HELD_OUT, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=training.id,
        validation_file=validation.id,
        suffix="tickets",
        seed=SEED,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": N_EPOCHS, "batch_size": BATCH_SIZE}},
        },
    )
    console.print(f"Created {job.id}")
    return follow(client, job.id, console=console)


def held_out() -> list[tuple[list[dict[str, str]], str]]:
    """The held-out tickets: the messages that are asked, and the answer that is wanted."""
    lines = [json.loads(line)["messages"] for line in HELD_OUT.read_text("utf-8").splitlines()]
    return [(messages[:-1], messages[-1]["content"].strip()) for messages in lines]


def answers(adapter: Path | None) -> list[str]:
    """What the model says to every held-out ticket, greedily, with or without an adapter."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # peft still asks transformers for names that will go
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE, local_files_only=True, padding_side="left")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(BASE, local_files_only=True, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    asked = [messages for messages, _wanted in held_out()]
    with torch.inference_mode():
        return [
            answer
            for start in range(0, len(asked), GENERATION_BATCH)
            for answer in generate(model, tokenizer, asked[start : start + GENERATION_BATCH])
        ]


def generate(model: Any, tokenizer: Any, asked: list[list[dict[str, str]]]) -> list[str]:
    """Greedy answers to some conversations at once."""
    batch = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    output = model.generate(**batch, max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    new = output[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def show(before: list[str], after: list[str]) -> None:
    """A table of some held-out tickets, and the accuracy over all of them."""
    tickets = held_out()
    table = Table("Ticket (held out)", "Wanted", "Before", "After", show_lines=True)
    for i in range(0, len(tickets), max(1, len(tickets) // SHOWN)):
        messages, wanted = tickets[i]
        table.add_row(*(cell[:160] for cell in (messages[-1]["content"], wanted, before[i], after[i])))
    console.print(table)
    for label, said in (("before", before), ("after", after)):
        right = sum(answer == wanted for answer, (_messages, wanted) in zip(said, tickets, strict=True))
        console.print(f"Held-out exact matches {label}: {right} of {len(tickets)} ({100 * right / len(tickets):.0f} %)")


def explain(job: Any, folder: Path) -> None:
    """Where the adapter lies, and how to do the same by hand."""
    console.print(
        f"\nThe tuned model is [bold]{job.fine_tuned_model}[/bold]; its adapter lies in {folder}", soft_wrap=True
    )
    console.print(BY_HAND.format(model=MODEL, epochs=N_EPOCHS, batch=BATCH_SIZE), markup=False, soft_wrap=True)


BY_HAND = """
The same by hand. Start a server with `make serve`; it prints its URL and an API key. Then, with curl:

  export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=$(cat .tunesmith/api-key)
  curl -H "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/files \\
    -F purpose=fine-tune -F file=@examples/support-tickets/train.jsonl
  curl -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
    $OPENAI_BASE_URL/fine_tuning/jobs -d '{{"model": "{model}", "training_file": "file-…"}}'
  curl -H "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/fine_tuning/jobs/ftjob-…/events
  curl -H "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/fine_tuning/jobs/ftjob-…/adapter | tar x

or in Python:

  from openai import OpenAI
  client = OpenAI()
  file = client.files.create(file=open("examples/support-tickets/train.jsonl", "rb"), purpose="fine-tune")
  job = client.fine_tuning.jobs.create(
      model="{model}", training_file=file.id,
      method={{
          "type": "supervised",
          "supervised": {{"hyperparameters": {{"n_epochs": {epochs}, "batch_size": {batch}}}}},
      }},
  )

or in one command:

  .venv/bin/tunesmith finetune examples/support-tickets/train.jsonl --model {model} --follow
"""


if __name__ == "__main__":
    sys.exit(main())
