"""What the engine's process asks of the libraries that it runs on, before the first tensor.

By itself glibc gives large blocks back to the system at once, and a pass gets them again page by page: 25,000 page
faults a pass of 1,300 tokens at 12.6 M parameters, which took 1.2 times as long (mallopt(3)). And oneDNN keeps the code
of 1,024 products, where a pass has 30 of each length of its stream.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1
_LIBRARY = ctypes.CDLL(None)
_PRODUCTS = b"4096"


def settle() -> None:
    """From now on freed memory stays with this process (with glibc), and so does the code of products."""
    _LIBRARY.setenv(b"ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PRODUCTS, 0)  # 0: unless the operator has set it
    if hasattr(_LIBRARY, "mallopt"):
        _LIBRARY.mallopt(_MMAP_THRESHOLD, _MOST)
        _LIBRARY.mallopt(_TRIM_THRESHOLD, _MOST)


def give_back() -> None:
    """Give the system what memory is free at present."""
    if hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(0)
