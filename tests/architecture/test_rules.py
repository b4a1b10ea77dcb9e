"""The rules of docs/architecture.md that import-linter cannot say, as tests over the syntax trees of the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LONGEST_FILE = 400  # lines; most stay under 300
PACKAGES = ("app", "worker", "migrations")
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "base"}

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in SOURCES}


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names of every module that a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attributes(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that a file mentions, such as `os.environ`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def importers(*packages: str) -> set[str]:
    """The files that import one of these packages or anything below them."""
    return {
        name
        for name, tree in TREES.items()
        for module in imported(tree)
        if any(module == package or module.startswith(f"{package}.") for package in packages)
    }


def test_the_sources_are_found() -> None:
    assert {"app/db.py", "app/config.py", "migrations/run.py", "app/cli/main.py"} <= TREES.keys()


def test_package_files_are_empty() -> None:
    full = [name for name in TREES if name.endswith("__init__.py") and (ROOT / name).read_text("utf-8").strip()]
    assert full == []


def test_only_config_reads_the_environment() -> None:
    names = {"os.environ", "os.getenv", "os.environb", "os.putenv"}
    readers = {name for name, tree in TREES.items() if names & {*attributes(tree), *imported(tree)}}
    assert readers == {"app/config.py"}


def test_only_db_commits() -> None:
    """`engine.begin()` belongs to migrations; elsewhere a transaction is the visible block of `app/db.py`."""
    calls = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"commit", "begin"}
    }
    assert calls <= {"app/db.py", "migrations/run.py", "migrations/env.py"}
    assert "app/db.py" in calls


def test_only_storage_speaks_s3() -> None:
    assert importers("boto3", "botocore") == {"app/storage.py"}


def test_only_the_engine_imports_torch() -> None:
    assert {name for name in importers("torch", "peft") if not name.startswith("worker/engine/")} == set()


def test_no_pickle() -> None:
    assert importers("pickle", "cPickle", "dill", "joblib", "shelve", "marshal") == set()
    loaders = {name for name, tree in TREES.items() if "torch.load" in set(attributes(tree))}
    assert loaders == set()


def test_no_remote_code() -> None:
    keywords = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
        if not (isinstance(node.value, ast.Constant) and node.value.value is False)
    }
    assert keywords == set()


@pytest.mark.parametrize("name", TREES)
def test_files_stay_short(name: str) -> None:
    assert len((ROOT / name).read_text("utf-8").splitlines()) <= LONGEST_FILE


def test_no_file_is_named_after_nothing() -> None:
    assert [path for path in SOURCES if {path.stem, *path.relative_to(ROOT).parts} & FORBIDDEN_NAMES] == []


# Routes that answer a POST and change nothing that anybody can see.
UNRECORDED = {
    "app/uploads/routes.py:add_part": "a part is nothing until its upload is completed, which is recorded",
    "app/graders/routes.py:validate": "it looks at a grader and forgets it",
    "app/graders/routes.py:run": "it grades one sample and keeps nothing",
}


def changing_routes() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function that answers a POST, PUT, PATCH or DELETE, by file and name."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                isinstance(decorator, ast.Call)
                and isinstance(decorator.func, ast.Attribute)
                and decorator.func.attr in {"post", "put", "patch", "delete", "api_route"}
                for decorator in node.decorator_list
            ):
                yield f"{name}:{node.name}", node


def records(function: ast.AST, module: ast.Module) -> bool:
    """Whether a function, or one of its own module that it names, calls `audit.record`."""
    named = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    beside = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name in named]
    return any("audit.record" in attributes(node) for node in [function, *beside])


def test_every_change_is_audited() -> None:
    routes = dict(changing_routes())
    assert len(routes) > 8
    silent = {name for name, node in routes.items() if not records(node, TREES[name.split(":")[0]])}
    assert silent == UNRECORDED.keys(), "a route that changes something calls audit.record in its transaction"


def test_models_are_not_rows() -> None:
    """Rows live in `tables.py`."""
    rows = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Base" for base in node.bases)
    }
    assert rows
    assert {name for name in rows if not name.endswith("/tables.py")} == {
        "app/idempotency.py",
        "app/outbox.py",
    }  # whole features in one file


def test_states_import_nothing_of_ours() -> None:
    assert [module for module in imported(TREES["app/jobs/states.py"]) if module.startswith(("app", "worker"))] == []


@pytest.mark.parametrize("module", ["app.cli.main", "app.main", "worker.cpu", "worker.gpu"])
def test_torch_stays_out_of_the_process(module: str) -> None:
    script = f"import sys, {module}; sys.exit(any(sys.modules.get(name) for name in ('torch', 'peft')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_command_starts_light() -> None:
    """`tunesmith --help` pays for none of the big packages."""
    script = (
        "import sys, app.cli.main;"
        "print([n for n in ('openai', 'fastapi', 'sqlalchemy', 'celery', 'transformers', 'boto3') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_import_arrows() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
