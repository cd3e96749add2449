"""For tests of a mount that are written in Python: cases, checks and the few calls that all of them need.

A file with cases is started as `FILE MNT STATE [CASE...]` by a .t file, through tap_from of tap.sh, which has mounted; it
prints TAP. Each case has a time limit of its own: a hang is a failure with a name.
"""
import errno
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
import traceback

LIMIT = int(os.environ.get("CASE_LIMIT", "60"))
PATIENCE = 30  # seconds after which something never comes
cases = []
MNT = STATE = None


def case(f):
    """The docstring is the name of the result."""
    cases.append(f)
    return f


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def is_(what, got, wanted):
    if got != wanted:
        raise Failure("%s: got %r, wanted %r" % (what, got, wanted))


def ok(cond, what):
    if not cond:
        raise Failure(what)


def until(cond, what, patience=PATIENCE):
    end = time.monotonic() + patience
    while True:
        value = cond()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure("never: " + what)
        time.sleep(0.02)


def name_of(code):
    return errno.errorcode.get(code, str(code))


def fails(code, what, f, *args, **kw):
    """f(*args) must raise OSError with this errno (a number or several)."""
    wanted = code if isinstance(code, tuple) else (code,)
    try:
        result = f(*args, **kw)
    except OSError as e:
        if e.errno not in wanted:
            raise Failure("%s: %s, wanted %s" % (what, name_of(e.errno), "/".join(map(name_of, wanted)))) from e
        return
    raise Failure("%s: succeeded (%r), wanted %s" % (what, result, "/".join(map(name_of, wanted))))


# --- files ---

def path(*parts):
    return os.path.join(MNT, *map(str, parts))


def run(ident, *parts):
    return path("runs", ident, *parts)


def slurp(p):
    with open(p, "rb") as f:
        return f.read()


def text(p):
    return slurp(p).decode()


def word(ident, name):
    return text(run(ident, name)).strip()


def errors():
    return [json.loads(line) for line in text(path("errors")).splitlines()]


def feed():
    """The root's events: its lines."""
    data = slurp(path("events"))
    ok(not data or data.endswith(b"\n"), "events ends with a line's end: %r" % data[-80:])
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def judge_feed(rows=None):
    """Every change of every run that is there, and every message, is in `events` once, in its order."""
    rows = feed() if rows is None else rows
    for ident in sorted(os.listdir(path("runs"))):
        if ident in ("new", "check", "template", "list", "last"):
            continue
        num = json.loads(slurp(run(ident, "info.json")))["number"]
        own = [r for r in rows if r["num"] == num]
        steps = [(h["time"], None if h["from"] == "-" else h["from"], h["to"])
                 for h in map(json.loads, slurp(run(ident, "history")).splitlines())]
        is_("changes of run %s" % ident, [(r["time"], r["from"], r["to"]) for r in own if r["type"] == "status"], steps)
        said = [(m["method"], m["params"]) for m in map(json.loads, slurp(run(ident, "events")).splitlines())]
        is_("messages of run %s" % ident, [(r["method"], r["params"]) for r in own if r["type"] == "report"], said)


def put(p, data, flags=os.O_WRONLY):
    """One open, one write, one close; errno of either is raised."""
    fd = os.open(p, flags)
    try:
        return os.write(fd, data.encode() if isinstance(data, str) else data)
    finally:
        os.close(fd)


def submit(spec, where="runs/new"):
    """The id of one spec."""
    fd = os.open(path(where), os.O_RDWR)
    try:
        data = spec if isinstance(spec, bytes) else spec.encode()
        if not data.startswith(b"{") and not data.endswith(b"\n"):
            data += b"\n"
        os.write(fd, data)
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)


def status(ident):
    return word(ident, "status")


def live(ident):
    return status(ident) in ("draft", "queued", "submitting", "pending", "running", "completing", "unknown")


def ended(ident):
    """Waits; `STATUS CODE`."""
    return text(run(ident, "wait")).strip()


def done(spec):
    ident = submit(spec)
    ended(ident)
    return ident


def finished(ident):
    """Waits until the end and all that follows from it is written down; the id."""
    ended(ident)
    until(lambda: "\nlogs " in text(run(ident, "info")), "the logs of %s" % ident)
    return ident


def purge(ident):
    """rmdir; the last facts of an ended run may still be on their way to the journal."""
    def gone():
        try:
            os.rmdir(run(ident))
            return True
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            return False
    until(gone, "rmdir of %s" % ident)


def ctl(ident, verb):
    put(run(ident, "ctl"), verb + "\n")


def count():
    """Runs that there are."""
    return len(text(path("runs/list")).splitlines()) - 1


def idents():
    return {line.split()[0] for line in text(path("runs/list")).splitlines()[1:]}


def since(before):
    """Ids of the runs that came, in their order."""
    return sorted(idents() - before, key=lambda i: (len(i), i))


# --- the daemon ---

def worker():
    try:
        with open(os.path.join(STATE, "worker.pid"), encoding="ascii") as f:
            t = f.read()
        return int(t) if t.endswith("\n") else 0
    except (OSError, ValueError):
        return 0


def kill_worker():
    """kill -9, and waits for the next one."""
    pid = worker()
    os.kill(pid, signal.SIGKILL)
    until(lambda: worker() not in (0, pid), "another worker")
    return pid


class Death:
    """The page of fs/die.h ($SLURMRAY_TEST_DIE): the next worker that passes a point for the n-th time dies there."""
    POINTS = 64

    def __init__(self):
        with open(os.environ["SLURMRAY_TEST_DIE"], "r+b") as f:
            self.page = mmap.mmap(f.fileno(), 4096)
        n = struct.unpack_from("I", self.page, 0)[0]
        names = 16 + 8 * self.POINTS
        self.names = [self.page[names + 32 * i:names + 32 * i + 32].split(b"\0")[0].decode() for i in range(n)]

    def arm(self, point, passes=1):
        struct.pack_into("I", self.page, 8, passes)
        struct.pack_into("I", self.page, 4, self.names.index(point) + 1)

    def disarm(self):
        """Did it come to it?"""
        armed = struct.unpack_from("I", self.page, 4)[0]
        struct.pack_into("I", self.page, 4, 0)
        return not armed


def sh(script, shell="bash", env=None, cwd=None, timeout=LIMIT, stdin=None):
    """A script with $MNT set: what subprocess.run gives, as text."""
    return subprocess.run([shell, "-c", script], env=dict(os.environ, MNT=MNT, **(env or {})), cwd=cwd, timeout=timeout,
                          stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="surrogateescape", check=False)


def sh_ok(script, **kw):
    r = sh(script, **kw)
    if r.returncode:
        raise Failure("status %d of %s\n%s%s" % (r.returncode, script, r.stdout, r.stderr))
    return r.stdout


# --- running ---

def late(_sig, _frame):
    raise Failure("took longer than %d s" % LIMIT)


def run_case(number, f):
    title = (f.__doc__ or f.__name__).strip().splitlines()[0]
    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    before = worker()
    try:
        f()
        signal.alarm(0)
        if worker() != before and not getattr(f, "kills", False):
            raise Failure("the worker was replaced: it died")
    except Skip as e:
        print("ok %d - %s # SKIP %s" % (number, title, e))
        return True
    except Exception as e:  # pylint: disable=broad-except
        signal.alarm(0)
        print("not ok %d - %s" % (number, title))
        lines = str(e).splitlines() if isinstance(e, Failure) else traceback.format_exc().splitlines()
        if isinstance(e, Failure):
            where = traceback.extract_tb(e.__traceback__)
            lines += ["%s:%d %s" % (os.path.basename(w.filename), w.lineno, w.line) for w in where[-4:-1]]
        for line in lines[:40]:
            print("#   " + line)
        return False
    finally:
        signal.alarm(0)
        sys.stdout.flush()
    print("ok %d - %s" % (number, title), flush=True)
    return True


def kills(f):
    """This case kills workers."""
    f.kills = True
    return f


def main():
    global MNT, STATE
    MNT, STATE = sys.argv[1:3]
    wanted = [f for f in cases if len(sys.argv) < 4 or f.__name__ in sys.argv[3:]]
    print("1..%d" % len(wanted))
    good = [run_case(i, f) for i, f in enumerate(wanted, 1)]
    sys.exit(0 if all(good) else 1)
