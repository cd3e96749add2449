"""The disk of the state directory: full, read-only, broken. What is refused then, what goes on, and what is there afterwards.

$DISK is the file system (or directory) that STATE is on and $DISK_ERROR the flag file of disk_errors.c. With DISK_REAL=1 it
is a small tmpfs that is really filled. Jobs have their own directory, which has room: $JOBS. See mnt.py.
"""
import concurrent.futures
import errno
import os
import random
import signal
import threading
import time

from mnt import (Failure, case, ctl, done, ended, errors, fails, finished, idents, is_, judge_feed, kill_worker, kills, main,
                 name_of, ok, path, put, run, sh_ok, since, slurp, status, submit, text, until)
import mnt

DISK, FLAG, JOBS = os.environ["DISK"], os.environ["DISK_ERROR"], os.environ["JOBS"]
REAL = os.environ.get("DISK_REAL") == "1"
FREE = "nothing was submitted; free space"
FILLER = os.path.join(DISK, "filler")


class Broken:
    """Whatever is written to the state directory fails with this errno."""

    def __init__(self, code):
        self.code = code

    def __enter__(self):
        with open(FLAG + ".new", "w", encoding="ascii") as f:
            f.write("%d\n" % self.code)
        os.rename(FLAG + ".new", FLAG)

    def __exit__(self, *exc):
        os.unlink(FLAG)


class Full:
    """Not a byte is left."""

    def __enter__(self):
        fd = os.open(FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for size in (65536, 4096, 1):
            try:
                while True:
                    os.write(fd, b"\0" * size)
            except OSError as e:
                is_("filling", e.errno, errno.ENOSPC)
        os.close(fd)

    def __exit__(self, *exc):
        os.unlink(FILLER)


def full():
    return Full() if REAL else Broken(errno.ENOSPC)


def value(key):
    lines = [line for line in text(path("status")).splitlines() if line.startswith(key + " ")]
    is_("lines about the " + key, len(lines), 1)
    return lines[0][len(key) + 1:]


def journal():
    return value("journal")


def healthy():
    return journal() == "ok"


def refused(code, what, f, *args):
    """With this errno; returns what the user reads then on the same descriptor, when f returns one."""
    try:
        f(*args)
    except OSError as e:
        if e.errno == code:
            return
        raise Failure("%s: %s, wanted %s" % (what, name_of(e.errno), name_of(code))) from e
    raise Failure("%s: accepted" % what)


def mark(tag):
    return "echo x >>%s/ran.%s" % (JOBS, tag)


def ran(tag):
    try:
        return len(slurp("%s/ran.%s" % (JOBS, tag)).splitlines())
    except FileNotFoundError:
        return 0


def with_text(code, data, word, finish=None):
    """Written to runs/new and refused with this errno; the sentence on the same descriptor has this word."""
    fd = os.open(path("runs/new"), os.O_RDWR)
    try:
        refused(code, repr(data[:40]), lambda: (os.write(fd, data), finish(fd) if finish else None))
        said = os.read(fd, 4096).decode()
        ok(word in said, "sentence of %r: %r" % (data[:40], said))
    finally:
        try:
            os.close(fd)
        except OSError:
            pass


def together(*calls):
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        for f in [pool.submit(*c) for c in calls]:
            f.result(mnt.PATIENCE)


@case
def nothing_half():
    """a full disk: every way to submit is ENOSPC with a sentence, and nothing of it is there afterwards"""
    finished(submit("true"))
    old = done("echo an old one")
    held = submit("hold=true -- " + mark("held"))
    writer = submit("for i in $(seq 60); do echo line $i; sleep 0.1; done; " + mark("writer"))
    short = submit("sleep 0.5; echo short; " + mark("short"))
    os.mkdir(run("kept"))
    put(run("kept", "files", "in"), "input", os.O_WRONLY | os.O_CREAT)
    half = os.open(path("runs/new"), os.O_RDWR)
    os.write(half, b'{"command": "%s", "tags": ["half' % mark("half").encode())
    until(lambda: status(writer) == "running" and status(held) == "pending", "running, held")
    before, rows = idents(), len(errors())
    with full():
        # Side by side: each waits until the journal was tried again, for a second at most.
        together(
            (with_text, errno.ENOSPC, b"echo line\n", FREE),
            (with_text, errno.ENOSPC, b'{"command": "echo json"}', FREE),
            (with_text, errno.ENOSPC, b'{"command": "echo 1"}{"command": "echo 2"}', FREE),
            (with_text, errno.ENOSPC, b'{"command": "echo keyed", "key": "k"}', FREE),
            (with_text, errno.ENOSPC, b"#!/bin/sh\necho script\n", FREE, os.fsync),
            (with_text, errno.ENOSPC, b'{"command": "begun', FREE),
            (fails, errno.ENOSPC, "a script, closed", put, path("runs/new"), "#!/bin/sh\n" + "# long\n" * 30000),
            (fails, errno.ENOSPC, "more of a half document", os.write, half, b"x" * 200000),
            (fails, errno.ENOSPC, "a file of a draft", put, run("kept", "files", "big"), "x" * 300000, os.O_WRONLY | os.O_CREAT),
            (fails, errno.ENOSPC, "a draft", os.mkdir, run("late")),
            (fails, errno.ENOSPC, "release", ctl, held, "release"),
            (fails, errno.ENOSPC, "cancel", ctl, writer, "cancel"),
            (fails, errno.ENOSPC, "retry", ctl, old, "retry"),
            (fails, errno.EINVAL, "what is wrong anyway", put, path("runs/new"), "nodez=1 -- x\n"))
        if os.path.exists(run("kept", "files", "big")):
            os.unlink(run("kept", "files", "big"))  # empty, as everywhere
        fails(errno.ENOSPC, "a draft's spec", put, run("kept", "spec"), "true\n")
        fails(errno.ENOSPC, "rmdir", os.rmdir, run(old))
        is_("runs", idents(), before)
        is_("what has ended", (status(old), text(run(old, "log"))), ("succeeded", "an old one\n"))
        is_("its documents", text(run(old, "spec")), "echo an old one\n")
        ok("No space left" in journal() and "Make room" in journal(), journal())
        said = [r["text"] for r in errors()[rows:] if FREE in r["why"]]
        for word in ("echo line", "echo json", "echo 1", "keyed", "echo script", "begun", "# long", "xxxx"):
            ok([t for t in said if word in t], "a row in errors for " + word)
        is_("the held one", status(held), "pending")
        ok(mnt.live(short), "no end before it is in the journal: " + status(short))
        until(lambda: ran("short") == 1, "jobs run on")
    until(healthy, "the journal is well again")
    is_("its end", ended(short), "succeeded 0")
    is_("its log", text(run(finished(short), "log")), "short\n")
    is_("runs", idents(), before)
    new = submit("true")
    ok(int(new) > max(int(i) for i in before if i.isdigit()), "numbers go on: " + new)
    keyed = submit('{"command": "true", "key": "k"}')
    ok(keyed not in before, "the key was not used up")
    put(run("kept", "spec"), "cat in; ls\n")
    is_("the draft", (ended("kept"), text(run(finished("kept"), "log"))), ("succeeded 0", "inputin\n"))
    ok("free space" in os.read(half, 4096).decode(), "the sentence of the half document")
    os.write(half, b'"]}\n')
    ident = os.read(half, 100).decode().strip()
    is_("the half document goes on where it was", (ended(ident), ran("half"), slurp(run(ident, "spec"))[-9:]),
        ("succeeded 0", 1, b'["half"]}'))
    os.close(half)
    ctl(held, "release")
    is_("released", (ended(held), ran("held")), ("succeeded 0", 1))
    is_("the one that wrote all the time", (ended(writer), ran("writer")), ("succeeded 0", 1))
    is_("its log", text(run(finished(writer), "log")), "".join("line %d\n" % i for i in range(1, 61)))


@kills
@case
def killed_while_full():
    """workers that are killed while the disk is full: the next one serves, and what had ended is told when there is room"""
    before = idents()
    job = submit("sleep 1; echo through; " + mark("through"))
    until(lambda: status(job) == "running", "running")
    waiter = threading.Thread(target=lambda: ends.append(ended(job)), daemon=True)
    ends = []
    with full():
        waiter.start()
        for _ in range(3):
            fails(errno.ENOSPC, "a submission", put, path("runs/new"), "true\n")
            kill_worker()
            ok("No space left" in until(lambda: not healthy() and journal(), "trouble is said"), "the next worker says it")
            is_("runs", since(before), [job])
            ok(mnt.live(job), status(job))
        is_("the waiting reader", ends, [])
        until(lambda: ran("through") == 1, "the job runs on")
    until(healthy, "the journal is well again")
    waiter.join(mnt.PATIENCE)
    is_("the reader that waited", ends, ["succeeded 0"])
    is_("its log", text(run(finished(job), "log")), "through\n")
    is_("once", ran("through"), 1)


class Writers:
    """Threads that submit until told to stop: tags that were accepted, refused, and of an unknown fate."""

    def __init__(self, n):
        self.ids, self.refused, self.other = {}, set(), []
        self.stop = False
        self.threads = [threading.Thread(target=self.write, args=(i,), daemon=True) for i in range(n)]
        for t in self.threads:
            t.start()

    def write(self, number):
        count = 0
        while not self.stop:
            count += 1
            tag = "t%d.%d" % (number, count)
            try:
                spec = "name=%s -- %s" % (tag, mark(tag)) if count % 2 else \
                    '{"name": "%s", "command": "%s", "env": {"LONG": "%s"}}' % (tag, mark(tag), "y" * 2000)
                self.ids[tag] = submit(spec)
            except OSError as e:
                if e.errno == errno.ENOSPC:
                    self.refused.add(tag)
                else:
                    self.other.append((tag, name_of(e.errno)))
            time.sleep(0.03)

    def join(self):
        self.stop = True
        for t in self.threads:
            t.join(mnt.PATIENCE)
            ok(not t.is_alive(), "a writer hangs")


@kills
@case
def comes_and_goes():
    """room comes and goes while four write and workers die: what was accepted runs once, what was refused never was"""
    before = idents()
    rng = random.Random(1)
    writers = Writers(4)
    turn = 0
    while turn < 8 or turn < 100 and not (len(writers.ids) > 10 and writers.refused):
        time.sleep(rng.uniform(0.05, 0.2))
        with full():
            time.sleep(rng.uniform(0.05, 0.4))
            if turn % 3 == 1:
                os.kill(mnt.worker(), signal.SIGKILL)
                time.sleep(rng.uniform(0.0, 0.2))
        if turn % 3 == 2:
            kill_worker()
        turn += 1
    writers.join()
    until(healthy, "the journal is well again")
    is_("no other errors", writers.other, [])
    print("# %d accepted, %d refused" % (len(writers.ids), len(writers.refused)))
    ok(len(writers.ids) > 10 and writers.refused, "both happened: %d, %d" % (len(writers.ids), len(writers.refused)))
    is_("runs", sorted(since(before), key=int), sorted(writers.ids.values(), key=int))
    for tag, ident in writers.ids.items():
        is_("%s, run %s" % (tag, ident), (ended(ident), ran(tag)), ("succeeded 0", 1))
    for tag in writers.refused:
        is_(tag, ran(tag), 0)


@kills
@case
def broken():
    """a disk with errors, or read-only, or over a quota: the same, with the errno and the sentence that fit"""
    for code, seen, word in ((errno.EIO, errno.EIO, "Input/output error"), (errno.EROFS, errno.EROFS, ""),
                             (errno.EDQUOT, errno.ENOSPC, "No space left")):
        name = name_of(code)
        before = idents()
        job = submit("for i in $(seq 20); do echo $i; sleep 0.1; done; exit 3")
        until(lambda i=job: status(i) == "running", "running")
        with Broken(code):
            with_text(seen, b"echo refused\n", "nothing was submitted")
            with_text(seen, b'{"command": "1"}{"command": "2"}', "nothing was submitted")
            fails(seen, name + ": mkdir", os.mkdir, run("late"))
            ok(word in journal() and "kept in memory" in journal(), journal())
            if code != errno.EROFS:  # no worker starts on that
                old = value("pid")
                os.kill(int(old), signal.SIGKILL)
                until(lambda o=old: value("pid") != o and not healthy(), "the next worker says it")
                fails(seen, name + ": a submission", put, path("runs/new"), "true\n")
            is_(name + ": runs", since(before), [job])
            sh_ok('cat "$MNT"/runs/*/status "$MNT"/runs/*/log >/dev/null; ls -lR "$MNT/runs" >/dev/null')
        until(healthy, name + ": the journal is well again")
        is_(name + ": the job", ended(job), "failed 3")
        is_(name + ": its log", text(run(finished(job), "log")), "".join("%d\n" % i for i in range(1, 21)))
        is_(name + ": goes on", ended(submit("true")), "succeeded 0")


@case
def feed():
    """after all that `events` has every change and every message of every run, once, in its order"""
    until(healthy, "the journal is well")
    judge_feed()


if __name__ == "__main__":
    main()
