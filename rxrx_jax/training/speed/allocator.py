"""Huge pages for what a step on the CPU allocates."""

import os
import sys

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Starts this program again, in the same process, with transparent huge pages for large blocks of memory.

    XLA's CPU client allocates a step's temporaries again at every step, and the kernel hands them out zeroed, page by
    page: with pages of 4 KiB that is a sixth of the processor time of a ViT-S/16 step (benchmarks/step.py). glibc (2.35
    and newer; others ignore it) reads the setting at start only. Nothing happens where it is set, or not on Linux.
    """
    if sys.platform == "linux" and VARIABLE not in os.environ:
        os.environ[VARIABLE] = SETTING
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
