"""The failpoints there are, read from the sources, and whether a run came past all of them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
PARTS = ("chaos", "short")  # the marks of what comes past every failpoint, each by itself
# By these a run is narrowed down to some tests of what its mark names.
NARROWED_BY = ("keyword", "deselect", "ignore", "ignore_glob", "lf", "collectonly")


def named() -> list[str]:
    """The name of each failpoint in the sources, as often as it stands there."""
    names = []
    for path in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"a failpoint's name is written out: {path}"
                names.append(str(name.value))
    return names


class Coverage:
    """A plugin of the process that controls a run: in the end, every failpoint was come past, or the run has failed.

    A failpoint that no test reaches says nothing about its place. Who runs a few tests only wants to hear of those.
    """

    def __init__(self, hits: Path) -> None:
        self.hits = hits
        self.missed: list[str] = []
        hits.touch()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and whole(session.config):
            self.missed = sorted(set(named()) - set(self.hits.read_text().split()))
            if self.missed:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.missed:
            terminalreporter.section("failpoints that no test came past", red=True)
            terminalreporter.line(", ".join(self.missed))


def whole(config: pytest.Config) -> bool:
    """Whether all of the suite was asked for, or all of its short part."""
    folders = [Path(config.invocation_params.dir, argument) for argument in config.args]
    return (
        config.option.markexpr in PARTS
        and not any(getattr(config.option, name, None) for name in NARROWED_BY)
        and any(HERE.is_relative_to(folder) for folder in folders)
    )
