"""Becomes another program that does not outlive its parent: a script that `child.py` runs.

Arguments: the parent's pid, the signal to get when the parent dies, "-" or uid:gid to become, then
the program and its arguments. A forked interpreter instead of a preexec function, because those
deadlock in a process with threads. Where the kernel has no such signal (macOS), the program is
stopped only by a parent that ends in order.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, death_signal, account, *command = sys.argv[1:]
    if account != "-":
        uid, gid = (int(part) for part in account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of user, which clears the setting; it survives the exec.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(f"error: {command[0]} not started: the process that wanted it is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming that program is this script's job
    except OSError as error:
        sys.exit(f"error: cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
