"""What a file can be uploaded for, and how long it lives. Pure."""

FINE_TUNE = "fine-tune"
PURPOSES = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
SHORTEST_EXPIRY_SECONDS, LONGEST_EXPIRY_SECONDS = 3600, 2_592_000
BATCH_EXPIRY_SECONDS = 30 * 24 * 3600


def default_expiry(purpose: str) -> int | None:
    """How many seconds a file lives if nothing else is asked for; None for ever."""
    return BATCH_EXPIRY_SECONDS if purpose == "batch" else None
