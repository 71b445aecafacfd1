"""The C library's allocator."""

import ctypes
import sys


def give_back() -> None:
    """Returns freed heap memory to the operating system, by glibc's `malloc_trim`.

    A compiler allocates in small pieces and frees them all; glibc keeps what is free
    below one that is not, and arrays, which are large, do not go there. On other
    systems there is nothing to do.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
