"""Loaded by schemathesis: whose key a request carries, and which ids go together.

FUZZ_WORLD is a file with the keys, and with what lies below what (fuzz_openapi.py writes it).
"""

import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32

import schemathesis

ADMINISTRATION = "/v1/organization"
WORLD = json.loads(Path(os.environ["FUZZ_WORLD"]).read_text())


@schemathesis.auth(refresh_interval=None)
class Key:
    """An administrator's key where one is needed, else a project's."""

    def get(self, case: Any, context: Any) -> str:
        return WORLD["admin_key" if case.path.startswith(ADMINISTRATION) else "tenant_key"]

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Where a path holds two ids that exist, let the second lie below the first."""
    name = next(reversed(path_parameters or {}), "")
    pairs = WORLD["pairs"].get(name, [])
    if len(path_parameters or {}) == 2 and path_parameters[name] in {below for _, below in pairs}:
        pair = pairs[crc32("/".join(map(str, path_parameters.values())).encode()) % len(pairs)]
        return dict(zip(path_parameters, pair, strict=True))
    return path_parameters


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Keep the administrator from revoking the key it works with."""
    return WORLD["admin_key_id"] not in (case.path_parameters or {}).values()
