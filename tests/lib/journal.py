"""A journal that does not answer: who waits for it, for how long, and what becomes of what they wanted. See mnt.py."""
import errno
import os
import signal
import subprocess
import sys
import threading
import time

from mnt import (Failure, case, ended, errors, fails, finished, idents, is_, kill_worker, kills, main, name_of, ok, path, put,
                 run, since, slurp, status, submit, text, until)
import mnt

HANG = os.environ["SLOW_FSYNC"]
DEADLINE = int(os.environ["SLURMRAY_TEST_JOURNAL_MS"]) / 1000  # seconds; 30 when nobody says so


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
        self.join(45)
        ok(not self.is_alive(), self.what + " hangs")
        if self.errno not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise Failure("%s: %s after %.1f s, wanted %r" % (self.what, name_of(self.errno), self.took, wanted))


def rows_with(before, words):
    return [r for r in errors()[before:] if words in r["why"]]


@case
def timed_out():
    """after the deadline: ETIMEDOUT and a row; another row says what became of it; nothing is lost, nothing happens twice"""
    done = finished(submit("true"))
    held = submit("hold=true -- true")
    until(lambda: status(held) == "pending", "a held run")
    before, rows = idents(), len(errors())
    new = [os.open(path("runs/new"), os.O_RDWR) for _ in range(7)]
    for fd in new[2:4]:
        os.write(fd, b"#!/bin/sh\n#SBATCH -H\n: script\n")
    with Hang():
        ops = {
            "line": Op("a line", os.write, new[0], b"hold=true -- line\n"),
            "json": Op("JSON", os.write, new[1], b'{"command": "json", "hold": true}{"command": "json2", "hold": true}'),
            "fsync": Op("fsync of a script", os.fsync, new[2]),
            "read": Op("reading a script back", os.read, new[3], 100),
            "bad": Op("what will be refused", os.write, new[4], b'{"command": "first", "hold": true, "key": "k1"} '
                      b'{"command": "second", "hold": true, "key": "k1"}'),
            "ctl": Op("a verb", put, run(held, "ctl"), "release\n"),
            "doc": Op("a stored document", slurp, run(done, "spec")),
            "closed": Op("a writer that closes", put, path("runs/new"), "hold=true -- closed\n"),
        }
        cut = subprocess.Popen([sys.executable, "-c", "import os,sys\nos.open(sys.argv[1], os.O_RDONLY)", run(done, "effective")],
                               stderr=subprocess.DEVNULL)
        # Everything else goes on.
        is_("status", status(done), "succeeded")
        is_("listing", sorted(os.listdir(path("runs")))[:2], [done, held])
        ops["nodez"] = Op("a bad spec, whose row must be in the journal first", os.write, new[5], b"nodez=1 -- x\n")
        put(path("runs/check"), "true\n")
        time.sleep(0.5)
        cut.send_signal(signal.SIGINT)
        ok(cut.wait(10) != 0, "a signal ends the wait for a document")
        # The kernel keeps a directory locked while something is made in it.
        ops["mkdir"] = Op("mkdir", os.mkdir, run("made-late"))
        for op in ops.values():
            op.is_((errno.ETIMEDOUT, 0) if op.what == "a stored document" else errno.ETIMEDOUT)
            ok(op.took > DEADLINE / 31 or op.errno == 0, "%s took %.1f s" % (op.what, op.took))
        for name in ("line", "json", "fsync", "read"):
            ok(ops[name].took > DEADLINE / 2, "%s was the first to wait, and took %.1f s" % (name, ops[name].took))
        is_("nothing is visible that is not durable", since(before), [])
        is_("rows", len(rows_with(rows, "the journal has not answered for %d seconds (ETIMEDOUT)" % DEADLINE)), 8)
        fails(errno.EBUSY, "the next write before its fate is known", os.write, new[0], b"hold=true -- too early\n")
        os.set_blocking(new[0], False)
        fails(errno.EAGAIN, "reading", os.read, new[0], 100)
        os.set_blocking(new[0], True)
        reader = Op("a reader that waits for the fate", os.read, new[0], 100)
        time.sleep(0.3)
        ok(reader.is_alive(), "it waits")
        os.close(new[1])
    reader.is_(0)
    until(lambda: len(since(before)) == 8, "what was asked for: %r" % since(before))
    specs = sorted(text(run(i, "spec")).strip() for i in since(before) if i != "made-late")
    is_("each once", specs, sorted(["hold=true -- line", '{"command": "json", "hold": true}', '{"command": "json2", "hold": true}',
                                    "#!/bin/sh\n#SBATCH -H\n: script", "#!/bin/sh\n#SBATCH -H\n: script",
                                    '{"command": "first", "hold": true, "key": "k1"}', "hold=true -- closed"]))
    ok("made-late" in idents(), "the draft")
    is_("the id", text(run(reader.result.decode().strip(), "spec")), "hold=true -- line\n")
    until(lambda: len(rows_with(rows, "in the journal now")) == 5, "fates: %r" % [r["why"] for r in errors()[rows:]])
    is_("a verb's fate", len(rows_with(rows, "was done")), 1)
    is_("fates of refusals", len(rows_with(rows, "was refused")), 2)
    ok(b"nodez" in os.read(new[5], 1000), "why")
    for r in rows_with(rows, "in the journal now"):
        for ident in r["why"].split(" run ")[1].split():
            ok(ident in since(before), r["why"])
    os.write(new[0], b"hold=true -- goes on\n")
    is_("the conversation goes on", len(since(before)), 9)
    os.fsync(new[2])
    for fd in (new[0], *new[2:]):
        try:
            os.close(fd)
        except OSError:
            pass
    ended(held)
    until(lambda: not [f for f in os.listdir(os.path.join(mnt.STATE, "handles")) if not f.startswith(".")], "no handles left")


@case
def one_deadline_for_all():
    """who waits for the lock of a directory behind others, or comes when the journal is silent already, does not wait all of it again"""
    with Hang():
        first = Op("the first", put, path("runs/new"), "hold=true -- first of all\n")
        made = [Op("mkdir %d" % i, os.mkdir, run("in-turn-%d" % i)) for i in range(8)]
        first.is_(errno.ETIMEDOUT)
        begin = time.monotonic()
        for i in range(8):
            Op("refused %d" % i, put, path("runs/new"), "nodez=%d -- x\n" % i).is_(errno.ETIMEDOUT)
        for op in made:
            op.is_(errno.ETIMEDOUT)
        took = time.monotonic() - begin
    ok(took < 8 * DEADLINE, "16 others took %.1f s more" % took)
    until(lambda: all(os.path.isdir(run("in-turn-%d" % i)) for i in range(8)), "all of them in the end")
    for i in range(8):
        os.rmdir(run("in-turn-%d" % i))
    until(lambda: sum("nodez" in r["text"] and "was refused" in r["why"] for r in errors()) >= 8, "what became of the refused")


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
