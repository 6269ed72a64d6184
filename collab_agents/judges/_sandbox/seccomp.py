"""A system call filter for `bwrap --seccomp`: it refuses what tests never need and no other limit covers.

These calls fail as if the kernel did not have them: memory that is charged to no process (memfd, System V), the
session's keys, inspecting other processes, new namespaces and mounts, locks visible to outside processes, and the large
interfaces io_uring, bpf and perf. Also refused is kernel memory beyond a program's memory limit: extended attributes,
larger buffers for sockets and pipes, and socket families other than UNIX and IP.
"""

import os
import platform
import struct
from dataclasses import dataclass

_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NO_SUCH_CALL, _NOT_PERMITTED, _NO_ATTRIBUTES, _NO_SUCH_FAMILY, _DONE = 38, 1, 95, 97, 0
_LOAD, _IS, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_OTHER_ABI, _NEW_USER_NAMESPACE = 0x40000000, 0x10000000
_FAMILIES = (1, 2, 10)  # UNIX, IPv4, IPv6.
_SOL_SOCKET, _BUFFERS = 1, (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and with FORCE.
_SET_PIPE_SIZE = 1031

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Syscalls:
    """The numbers of an architecture and its system calls.

    - `refused`: shmget, msgget, semget, memfd_create, memfd_secret; add_key, request_key, keyctl; ptrace,
      process_vm_readv, process_vm_writev, pidfd_getfd; unshare, setns, clone3, mount, pivot_root; flock;
      io_uring_setup, bpf, perf_event_open, userfaultfd, kexec_load.
    - `attributes`: setxattr, lsetxattr, fsetxattr, setxattrat.
    - `sockets`: socket, socketpair.
    """

    architecture: int
    clone: int
    setsockopt: int
    fcntl: int
    sockets: tuple[int, ...]
    attributes: tuple[int, ...]
    refused: tuple[int, ...]


_CALLS = {
    "x86_64": _Syscalls(
        architecture=0xC000003E,
        clone=56,
        setsockopt=54,
        fcntl=72,
        sockets=(41, 53),
        attributes=(188, 189, 190, 463),
        refused=(
            *(29, 68, 64, 319, 447, 248, 249, 250, 101, 310, 311, 438, 272, 308, 435, 165, 155, 73),
            *(425, 321, 298, 323, 246),
        ),
    ),
    "aarch64": _Syscalls(
        architecture=0xC00000B7,
        clone=220,
        setsockopt=208,
        fcntl=25,
        sockets=(198, 199),
        attributes=(5, 6, 7, 463),
        refused=(
            *(194, 186, 190, 279, 447, 217, 218, 219, 117, 270, 271, 438, 97, 268, 435, 40, 41, 32),
            *(425, 280, 241, 282, 104),
        ),
    ),
}


def filter_file() -> int | None:
    """Return the filter as an open file, which the caller closes, or None on an unknown architecture."""
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return None
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IS, 1, 0, calls.architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _OTHER_ABI),
        (_RETURN, 0, 0, _KILL),
    ]
    for number in calls.refused:
        program += _when(number, [_refuse(_NO_SUCH_CALL)])
    for number in calls.attributes:
        program += _when(number, [_refuse(_NO_ATTRIBUTES)])
    for number in calls.sockets:
        program += _when(number, _unless(0, _FAMILIES, _NO_SUCH_FAMILY))
    program += _when(calls.fcntl, _if_is(1, (_SET_PIPE_SIZE,), _NOT_PERMITTED))
    larger = _if_is(2, _BUFFERS, _DONE)
    program += _when(calls.setsockopt, [_argument(1), (_IS, 0, len(larger), _SOL_SOCKET), *larger])
    program += _when(calls.clone, [_argument(0), (_HAS_BIT, 0, 1, _NEW_USER_NAMESPACE), _refuse(_NO_SUCH_CALL)])
    program += [(_RETURN, 0, 0, _ALLOW)]
    return memory_file("seccomp", b"".join(struct.pack("HBBI", *one) for one in program))


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """Run the instructions if the system call has this number."""
    then = [*then, (_RETURN, 0, 0, _ALLOW)]
    return [(_IS, 0, len(then), number), *then]


def _argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERROR | error)


def _if_is(argument: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    found = [(_IS, len(values) - 1 - at, 1 if at == len(values) - 1 else 0, one) for at, one in enumerate(values)]
    return [_argument(argument), *found, _refuse(error)]


def _unless(argument: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    return [_argument(argument), *((_IS, len(values) - at, 0, one) for at, one in enumerate(values)), _refuse(error)]


def memory_file(name: str, content: bytes) -> int:
    """Return an open in-memory file, positioned at its start, which the caller closes."""
    file = os.memfd_create(name)
    # Not os.write, which a LangGraph development server reports as a blocking call.
    with open(file, "wb", closefd=False) as out:
        out.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    return file
