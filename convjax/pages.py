"""Large pages: whether the system backs the arrays of XLA's CPU client with them.

The client asks the C library for its buffers anew at every call, and the system finds and clears them page by page:
fifteen thousand of 4 KiB in a training step of a small network, up to a third of its time. Of 2 MiB there are some 150.
"""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

# The setting by which glibc asks for large pages, read when a process starts, and the first release that has it.
SETTING = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
_GLIBC = (2, 35)
# The same among other tunables, of any value but 0, which asks for none.
_ASKED = re.compile(r"(^|:)glibc\.malloc\.hugetlb=(?!(0x)?0*(:|$))")
# What the kernel gives large pages to: always, madvise or never, the one in force in brackets.
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages(
    policy: Path = _POLICY,
    environ: Mapping[str, str] = os.environ,
    libc: tuple[str, str] | None = None,
) -> str:
    """Whether arrays have large pages, and what would give them some: a line of `doctor`'s report.

    Args:
        policy: the file in which Linux says what it gives them to.
        environ: the environment that the process began with.
        libc: name and version of the C library; None asks which it is.

    Example:
        >>> large_pages(Path("/nowhere"))
        'large pages: this system has no transparent ones'
    """
    given = policy.read_text() if policy.exists() else ""
    name, version = libc or platform.libc_ver()
    if "[always]" in given:
        return "large pages: given to every program"
    if "[madvise]" not in given:
        return f"large pages: {'the system gives none' if given else 'this system has no transparent ones'}"
    if _ASKED.search(environ.get("GLIBC_TUNABLES", "")):
        return "large pages: asked for by GLIBC_TUNABLES"
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < _GLIBC:
        return f"large pages: given on request, which {f'{name} {version}'.strip() or 'this C library'} does not make"
    return f"large pages: given on request; started with {SETTING}, programs of large arrays are faster"
