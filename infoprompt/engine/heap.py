"""Has glibc give the memory of large tensors back to the system as soon as they are gone."""

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h
_BYTES = 2**20


def free_large_blocks_at_once() -> None:
    """From now on, in this process. Nothing is done where the C library is not glibc.

    glibc raises its threshold up to 32 MiB as blocks are freed, and keeps smaller ones in its arenas. A model that
    goes through memory tensor by tensor would leave more than its own size there, since what is kept lies between.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
