"""The `tunesmith` command: its table of contents, and the one place where errors become a line and an exit status."""

import sys

import typer

from app.cli import backups, catalog, doctor, finetune, jobs, keys, models, servers
from app.cli.errors import report

HELP = """Fine-tune language models on your own machines, through OpenAI's fine-tuning API.

Commands for users (finetune, jobs, models) talk to a server by HTTP. They read OPENAI_BASE_URL (default
http://127.0.0.1:8000/v1) and OPENAI_API_KEY, as OpenAI's own clients do.

Exit status: 0 all is well; 1 the job failed or was cancelled, or a server could not be started; 2 the command line or
the request is wrong; 3 the server cannot be reached or does not accept the key; 4 the server cannot answer now;
130 interrupted.
"""

app = typer.Typer(
    name="tunesmith",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command("up")(servers.up)
app.command("api")(servers.api)
app.add_typer(servers.worker, name="worker")
app.command("migrate")(servers.migrate)
app.command("doctor")(doctor.doctor)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.add_typer(keys.app, name="keys")
app.add_typer(catalog.app, name="catalog")
app.command("finetune")(finetune.finetune)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")


def main() -> None:
    """The entry point. Never shows a traceback: what went wrong is one line on stderr and an exit status."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line
        sys.exit(report(error))


if __name__ == "__main__":
    main()
