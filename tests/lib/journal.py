"""A journal that does not answer: who waits for it, for how long, and what becomes of what they wanted. See mnt.py."""
import errno
import os
import signal
import subprocess
import sys
import threading
import time

from mnt import (Failure, case, ended, errors, fails, idents, is_, kill_worker, kills, main, name_of, ok, path, put, run, since,
                 slurp, status, submit, text, until)
import mnt

HANG = os.environ["SLOW_FSYNC"]


class Hang:
    def __enter__(self):
        with open(HANG, "w", encoding="ascii"):
            pass

    def __exit__(self, *exc):
        try:
            os.unlink(HANG)
        except OSError:
            pass


class Op(threading.Thread):
    """An operation that waits: its errno (0: none), its result, how long it took."""

    def __init__(self, what, f, *args):
        super().__init__(daemon=True)
        self.what, self.f, self.args = what, f, args
        self.errno = self.result = self.took = None
        self.start()

    def run(self):
        start = time.monotonic()
        try:
            self.result = self.f(*self.args)
            self.errno = 0
        except OSError as e:
            self.errno = e.errno
        self.took = time.monotonic() - start

    def is_(self, wanted):
        self.join(60)
        ok(not self.is_alive(), self.what + " hangs")
        if self.errno not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise Failure("%s: %s after %.1f s, wanted %r" % (self.what, name_of(self.errno), self.took, wanted))


def rows_with(before, words):
    return [r for r in errors()[before:] if words in r["why"]]



@kills
@case
def killed_while_it_hangs():
    """workers that are killed while the journal hangs: writers wait on, and each spec is one run"""
    before = idents()
    with Hang():
        ops = [Op("writer %d" % i, put, path("runs/new"), "hold=true -- killed %d\n" % i) for i in range(10)]
        time.sleep(0.3)
        mnt.os.kill(mnt.worker(), signal.SIGKILL)
        time.sleep(1)
    for op in ops:
        op.is_(0)
    is_("each once", sorted(text(run(i, "spec")) for i in since(before)), sorted("hold=true -- killed %d\n" % i for i in range(10)))
    kill_worker()
    is_("and with the next worker", len(since(before)), 10)


@kills
@case
def stopped_while_it_commits():
    """umount while writers wait for a slow commit: they learn that it was done"""
    with Hang():
        new = [os.open(path("runs/new"), os.O_RDWR) for _ in range(5)]
        ops = [Op("writer %d" % i, os.write, fd, b"hold=true -- stop %d\n" % i) for i, fd in enumerate(new)]
        time.sleep(0.3)
        os.kill(mnt.worker(), signal.SIGTERM)
        time.sleep(1)
    for op in ops:
        op.is_(0)


if __name__ == "__main__":
    main()
