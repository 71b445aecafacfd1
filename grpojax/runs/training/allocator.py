"""The C library's allocator."""

import ctypes
import sys


def give_back() -> None:
    """Gives freed memory back to the system, where the C library would keep it.

    A compiler allocates in small pieces and frees them all; glibc keeps what is free
    below one that is not, and arrays, which are large, do not go there. On other
    systems there is nothing to do.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
