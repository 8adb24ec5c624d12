"""What can go wrong, each kind with the exit code that it leaves with. Called by every module."""

from __future__ import annotations

import errno
import os

from job.addresses import hidden

DONE = 0
BUG = 1
USER = 2
MACHINE = 69
INTERRUPTED = 75
READER_LEFT = 141  # as shells say of SIGPIPE: the reader of a result left before all of it was printed


class JobError(Exception):
    """An error that one line explains: where it is, what is wrong, what to do about it; without the secrets of addresses."""

    code = BUG

    def __init__(self, where: str, what: str, fix: str) -> None:
        where, what, fix = hidden(where), hidden(what), hidden(fix)
        super().__init__(f"{where}: {what}; {fix}" if fix else f"{where}: {what}")


class UserError(JobError):
    """The user's mistake: an option, a configuration, data, credentials (exit code 2)."""

    code = USER


class Corrupt(UserError):
    """A file that is damaged, whatever it was to be; one that was downloaded is deleted then."""


class MachineError(JobError):
    """An error of this machine or of a service: no GPU, full disk, read-only folder (exit code 69)."""

    code = MACHINE


class OutOfMemory(MachineError):
    """What was asked for does not fit into the memory of this machine or its GPU; less of it may."""


class ProofError(JobError):
    """A proof that failed: the smoke test did not learn (exit code 1)."""


class StuckError(JobError):
    """Start after start that ended without a new checkpoint: another one would too (exit code 1)."""


class Unsent(JobError):
    """All is saved on this machine, and some of it could not be sent to its bucket in time (exit code 75)."""

    code = INTERRUPTED


class Interrupted(Exception):
    """Stopped by a signal; rerun to resume (exit code 75). `saved` says whether there was anything to save."""

    def __init__(self, saved: bool = False) -> None:
        super().__init__()
        self.saved = saved


_FILE_SYSTEM = (
    errno.EIO, errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOLCK, errno.EHOSTDOWN, errno.ENOTCONN, errno.EREMOTEIO,
)  # fmt: skip


def from_os_error(error: OSError) -> JobError | None:
    """The errors of a disk in house form; None where the error is of another kind."""
    where = str(error.filename or "disk")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(where, "the disk is full", "free some space and rerun to resume")
    if error.errno == errno.EROFS:
        return MachineError(where, "the file system is read-only", "name a folder that can be written with --out")
    if error.errno in (errno.EACCES, errno.EPERM):
        return MachineError(where, "permission denied", "change its permissions or name another folder")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return MachineError(where, "too many open files", "raise the limit with ulimit -n")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{hidden(where)[:60]}...", "the name is too long", "give a shorter one")
    if error.errno in _FILE_SYSTEM:
        return MachineError(where, f"the file system failed ({os.strerror(error.errno)})", "check the disk or the mount, then rerun")
    return None
