"""A filter on system calls, for `bwrap --seccomp`: what a program of tests never needs, and no other limit holds.

Refused, as if the kernel did not have them: memory that counts for no process (memfd, System V), the session's keys,
looking into other processes, new namespaces and mounts, and the large interfaces io_uring, bpf and perf.
"""

import os
import platform
import struct

_ALLOW, _KILL, _NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050000 | 38
_LOAD, _IS, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_OTHER_ABI, _NEW_USER_NAMESPACE = 0x40000000, 0x10000000

# The architecture's own number, that of clone, and those of: shmget, msgget, semget, memfd_create, memfd_secret;
# add_key, request_key, keyctl; ptrace, process_vm_readv, process_vm_writev, pidfd_getfd; unshare, setns, clone3, mount,
# pivot_root; io_uring_setup, bpf, perf_event_open, userfaultfd, kexec_load.
_CALLS = {
    "x86_64": (
        0xC000003E,
        56,
        (29, 68, 64, 319, 447, 248, 249, 250, 101, 310, 311, 438, 272, 308, 435, 165, 155, 425, 321, 298, 323, 246),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        (194, 186, 190, 279, 447, 217, 218, 219, 117, 270, 271, 438, 97, 268, 435, 40, 41, 425, 280, 241, 282, 104),
    ),
}


def filter_file() -> int | None:
    """The filter as an open file, to be closed by the caller; None on a processor whose calls are not known here."""
    if platform.machine() not in _CALLS:
        return None
    architecture, clone, refused = _CALLS[platform.machine()]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _OTHER_ABI),
        (_RETURN, 0, 0, _KILL),
    ]
    for number in refused:
        program += [(_IS, 0, 1, number), (_RETURN, 0, 0, _NO_SUCH_CALL)]
    program += [
        (_IS, 0, 3, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_HAS_BIT, 0, 1, _NEW_USER_NAMESPACE),
        (_RETURN, 0, 0, _NO_SUCH_CALL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return memory_file("seccomp", b"".join(struct.pack("HBBI", *one) for one in program))


def memory_file(name: str, content: bytes) -> int:
    """An open file in memory, to be read from its beginning and closed by the caller."""
    file = os.memfd_create(name)
    # Not by os.write, which a LangGraph server in development takes for one that may wait for a disk.
    with open(file, "wb", closefd=False) as out:
        out.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    return file
