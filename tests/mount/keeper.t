#!/usr/bin/env python3
"""The keeper and its worker under kill -9: TAP. Runs tests/tools/toyfs as the user that starts it.

KEEPER_KILLS and KEEPER_DEATHS: how many workers are killed from outside, and kill themselves between two steps.
"""
import ctypes
import errno
import hashlib
import os
import random
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOY = os.environ.get("TOYFS", os.path.join(TOP, "build", "tools", "toyfs"))
KILLS = int(os.environ.get("KEEPER_KILLS", "40"))
DEATHS = int(os.environ.get("KEEPER_DEATHS", "100"))
PATIENCE = 60  # seconds after which a wait is a failure, never a measure
READERS = 50
FINAL_SIZE = 1 << 20
tests = []
faults = []  # of the running test


def test(f):
    tests.append(f)
    return f


def check(ok, what):
    if not ok:
        faults.append(what)
    return ok


def until(cond, what):
    """Waits for a condition; a fault when it does not come."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if cond():
            return True
        time.sleep(0.005)
    return check(False, "never: " + what)


def slurp(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def mounted(path):
    with open("/proc/self/mountinfo") as f:
        return any(line.split(" ")[4] == path for line in f)


def alive(pid):
    """A process that is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Toy:
    """A mount of the toy in a directory of its own."""

    def __init__(self, **env):
        self.base = tempfile.mkdtemp(prefix="keeper.")
        self.dir = os.path.join(self.base, "mnt")
        self.state = os.path.join(self.base, "state")
        os.mkdir(self.dir)
        self.env = dict(os.environ, TOYFS_BACKOFF="1", **env)
        self.pids = set()

    def run(self, *args, **kw):
        return subprocess.run([TOY, *args], env=self.env, capture_output=True, text=True, timeout=PATIENCE, **kw)

    def mount(self, *more, **kw):
        return self.run("mount", self.dir, self.state, *more, **kw)

    def umount(self):
        return self.run("umount", self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def keeper(self):
        pid = int(slurp(os.path.join(self.state, "lock")).split()[0])
        self.pids.add(pid)
        return pid

    def worker(self):
        """Its pid, or 0 while there is none."""
        text = slurp(os.path.join(self.state, "worker.pid"))
        pid = int(text) if text.endswith("\n") else 0
        if pid:
            self.pids.add(pid)
        return pid

    def kill_worker(self):
        pid = self.worker()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
            until(lambda: self.worker() not in (0, pid), "another worker")
        return pid != 0

    def log(self):
        return slurp(os.path.join(self.state, "log"))

    def journal(self, name):
        """Texts of the writes to one file, in order."""
        lines = slurp(os.path.join(self.state, "journal")).split("\n")
        return [w[3] for w in (line.split(" ", 3) for line in lines if line) if w[2] == name]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if mounted(self.dir):
            r = self.umount()
            if not check(r.returncode == 0, "umount: " + r.stderr):
                for pid in self.pids:
                    if alive(pid):
                        os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.base, ignore_errors=True)


def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, text.encode())
    finally:
        os.close(fd)


def cat(path):
    return subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def parked(proc):
    """cat has the file open: its read follows at once, whether the worker lives or not."""
    def has_open():
        try:
            return any("/wait" in os.readlink(f"/proc/{proc.pid}/fd/{n}") for n in os.listdir(f"/proc/{proc.pid}/fd"))
        except OSError:
            return False
    return until(has_open, "a reader that opened wait")


def finish(proc, out, code, what):
    try:
        o, e = proc.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        proc.kill()
        return check(False, what + ": hangs")
    return check(o == out and proc.returncode == code, f"{what}: {o!r} {e!r} exit {proc.returncode}")


def refuses(r, *words):
    check(r.returncode == 1 and all(w in r.stderr for w in words), f"wanted {words}: {r.returncode} {r.stderr!r}")


@test
def refusals():
    """each reason for not mounting has its sentence"""
    with Toy() as t:
        os.rmdir(t.dir)
        refuses(t.mount(), "does not exist", "mkdir")
        with open(t.dir, "w"):
            pass
        refuses(t.mount(), "not a directory")
        os.unlink(t.dir)
        os.mkdir(t.dir)
        os.mkdir(t.path("x"))
        refuses(t.mount(), "not empty")
        os.rmdir(t.path("x"))
        refuses(t.run("mount", t.dir, t.path("state")), "inside the mount")
        shutil.rmtree(t.path("state"))
        os.chmod(t.state, 0o755)
        refuses(t.mount(), "chmod 700")
        os.chmod(t.state, 0o700)
        check(t.mount().returncode == 0, "mount")
        refuses(t.mount(), "in use", str(t.keeper()), t.dir)
        refuses(t.run("mount", t.dir, t.state + "2"), "already a slurmray mount", str(t.keeper()))
        check(t.umount().returncode == 0, "umount")
        refuses(t.umount(), "not mounted")
        refuses(t.run("umount", "/proc"), "not one of slurmray's")


@test
def worker_that_cannot_start():
    """the worker's own words come out of mount, and nothing stays mounted"""
    with Toy(TOYFS_FAIL="the store is on fire") as t:
        refuses(t.mount(), "the store is on fire")
        check(not mounted(t.dir), "still mounted")
        refuses(t.mount("--foreground"), "the store is on fire")
        del t.env["TOYFS_FAIL"]
        check(t.mount().returncode == 0, "mount afterwards")


@test
def descriptors():
    """the caller's descriptors are not kept, the worker has its own four"""
    with Toy() as t:
        r, w = os.pipe()
        check(t.mount(pass_fds=[w]).returncode == 0, "mount")
        os.close(w)
        check(select.select([r], [], [], PATIENCE)[0] and os.read(r, 1) == b"", "an inherited pipe stays open")
        os.close(r)
        links = [os.readlink(f"/proc/{t.worker()}/fd/{n}") for n in os.listdir(f"/proc/{t.worker()}/fd")]
        check(sum("/dev/fuse" in x for x in links) == 2 and sum("memfd" in x for x in links) == 1, str(links))
        check(stat.S_IMODE(os.stat(os.path.join(t.state, "lock")).st_mode) == 0o600, "mode of lock")


@test
def stop_answers_readers():
    """umount answers parked readers and waits until all is gone"""
    with Toy() as t:
        t.mount()
        keeper, worker = t.keeper(), t.worker()
        procs = [cat(t.path("wait")) for _ in range(5)]
        for p in procs:
            parked(p)
        time.sleep(0.05)
        r = t.umount()
        check(r.returncode == 0, r.stderr)
        check(not mounted(t.dir) and not alive(keeper) and not alive(worker), "something is left")
        for p in procs:
            p.communicate(timeout=PATIENCE)
            check(p.returncode == 1, "a reader's exit")
        check(not os.path.exists(os.path.join(t.state, "worker.pid")), "worker.pid is left")
        check(t.mount().returncode == 0, "mount again at once")


def plain_umount(*args):
    cmd = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    return subprocess.run([*cmd, *args], capture_output=True, text=True, timeout=PATIENCE)


@test
def others_unmount():
    """plain umount ends keeper and worker, also with no worker alive; a lazy one drains the readers"""
    for mode in ("plain", "no worker", "lazy"):
        if mode == "no worker" and os.geteuid() != 0:
            continue  # only umount2 itself does not ask the tree first
        with Toy() as t:
            t.mount()
            keeper = t.keeper()
            p = None
            if mode == "lazy":
                p = cat(t.path("wait"))
                parked(p)
                check(plain_umount(t.dir).returncode != 0, "umount while a file is open")
            if mode == "no worker":
                os.kill(keeper, signal.SIGSTOP)
                os.kill(t.worker(), signal.SIGKILL)
                check(ctypes.CDLL(None).umount2(t.dir.encode(), 0) == 0, "umount2")
                os.kill(keeper, signal.SIGCONT)
            else:
                more = [] if mode == "plain" else ["-l"] if os.geteuid() == 0 else ["-z"]
                r = plain_umount(*more, t.dir)
                check(r.returncode == 0, f"{mode}: {r.stderr}")
            until(lambda: not alive(keeper) and not alive(t.worker()), mode + ": keeper and worker leave")
            if p:
                p.communicate(timeout=PATIENCE)
                check(p.returncode == 1, "the reader's exit")


@test
def dead_mount():
    """a mount whose processes were all killed is taken over by the next one, and umount detaches it"""
    with Toy() as t:
        for again in ("mount", "umount"):
            t.mount()
            for pid in (t.keeper(), t.worker()):
                os.kill(pid, signal.SIGKILL)
                until(lambda: not alive(pid), "its death")
            try:
                os.stat(t.path("hello"))
                check(False, "a dead mount answers")
            except OSError as e:
                check(e.errno == errno.ENOTCONN, str(e))
            r = t.mount() if again == "mount" else t.umount()
            check(r.returncode == 0, r.stderr)
            check(again == "umount" or read(t.path("hello")) == b"hello\n", "hello")
            if again == "mount":
                t.umount()
        check(not mounted(t.dir), "still mounted")


@test
def orphan():
    """a worker serves on without its keeper, keeps the state directory, and umount ends it"""
    with Toy() as t:
        t.mount()
        keeper, worker = t.keeper(), t.worker()
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not alive(keeper), "its death")
        check(read(t.path("hello")) == b"hello\n", "hello")
        refuses(t.mount(), "keeper %d was killed" % keeper, "worker %d" % worker)
        check(t.umount().returncode == 0, "umount")
        check(not alive(worker) and not mounted(t.dir), "something is left")
        check(t.mount().returncode == 0, "mount again")


@test
def poison():
    """a request that kills every worker is answered EIO, all others wait for it and are served"""
    with Toy() as t:
        t.mount()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        p = cat(t.path("wait"))
        parked(p)
        for _ in range(2):
            try:
                read(t.path("crash"))
                check(False, "crash can be read")
            except OSError as e:
                check(e.errno == errno.EIO, str(e))
            check(read(t.path("hello")) == b"hello\n", "hello")
        check(t.log().count("killed 3 workers in a row") == 2, "not in the log")
        write(t.path("go"), "x")
        finish(p, "went\n", 0, "reader")


@test
def hangup():
    """SIGHUP to the keeper replaces the worker, and nobody notices"""
    with Toy() as t:
        t.mount()
        p = cat(t.path("wait"))
        parked(p)
        for _ in range(10):
            old = t.worker()
            os.kill(t.keeper(), signal.SIGHUP)
            until(lambda: t.worker() not in (0, old), "another worker")
        check("status 75" in t.log(), "it did not end with 75")
        write(t.path("go"), "x")
        finish(p, "went\n", 0, "reader")


@test
def interrupt_in_the_gap():
    """Ctrl-C while no worker lives takes effect after the restart, for parked readers as well as for new ones"""
    with Toy() as t:
        t.mount()
        for _ in range(20):
            p, q = cat(t.path("wait")), cat(t.path("wait"))
            parked(p)
            parked(q)
            time.sleep(random.uniform(0, 0.01))
            os.kill(t.keeper(), signal.SIGSTOP)
            os.kill(t.worker(), signal.SIGKILL)
            p.send_signal(signal.SIGINT)
            late = cat(t.path("wait"))
            time.sleep(random.uniform(0, 0.02))
            late.send_signal(signal.SIGINT)
            os.kill(t.keeper(), signal.SIGCONT)
            finish(p, "", -signal.SIGINT, "interrupted reader")
            finish(late, "", -signal.SIGINT, "reader interrupted in its open")
            write(t.path("go"), "x")
            finish(q, "went\n", 0, "the other reader")


@test
def foreground():
    """in the foreground SIGINT ends it with 0"""
    with Toy() as t:
        p = subprocess.Popen([TOY, "mount", t.dir, t.state, "--foreground"], env=t.env, stderr=subprocess.PIPE)
        until(lambda: mounted(t.dir) and t.worker(), "the mount")
        check(read(t.path("hello")) == b"hello\n", "hello")
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=PATIENCE)
        check(p.returncode == 0 and not mounted(t.dir), f"exit {p.returncode}")


@test
def outage():
    """no worker gets ready, for whatever reason and however long: requests get ENODEV, no close is lost, and the next good one goes on"""
    for why in ("TOYFS_BROKEN", "TOYFS_STUCK"):
        flag = tempfile.mktemp(prefix="keeper.")
        with Toy(TOYFS_OUTAGE="500", TOYFS_START="200", **{why: flag}) as t:
            t.mount()
            held = os.open(t.path("hello"), os.O_RDONLY)
            p = cat(t.path("wait"))
            parked(p)
            with open(flag, "w"):
                pass
            old = t.worker()
            os.kill(old, signal.SIGKILL)
            if why == "TOYFS_BROKEN":
                until(lambda: "32 workers in a row did not get ready (the disk is broken)" in t.log(), "many tries")
                check(len(t.log().splitlines()) < 40, f"{len(t.log().splitlines())} lines in the log")
            p.communicate(timeout=PATIENCE)
            check(p.returncode == 1, "a reader that waited is answered")
            for _ in range(20):
                try:
                    os.stat(t.path("count"))
                    check(False, "stat succeeds")
                except OSError as e:
                    check(e.errno == errno.ENODEV, str(e))
                try:
                    os.pread(held, 100, 0)
                    check(False, "pread succeeds")
                except OSError as e:
                    check(e.errno == errno.ENODEV, str(e))
            try:
                os.close(held)
            except OSError as e:
                check(e.errno == errno.ENODEV, str(e))
            os.unlink(flag)

            def served():
                try:
                    return read(t.path("hello")) == b"hello\n"
                except OSError:
                    return False
            until(served, "a worker that serves")
            write(t.path("count"), "line")
            check(t.journal("count") == ["line"], "journal")
            print(f"# {why}: " + " | ".join(x[28:] for x in t.log().splitlines()[-3:]))


class Actors:
    """Threads that use the tree without pause; every error is a fault."""

    def __init__(self, toy):
        self.t = toy
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.count = 0
        self.slow = 0
        self.reads = 0
        self.victims = 0
        self.wakes = 0
        self.rounds = 0
        self.worst = 0.0
        jobs = [self.loop_reader, self.prober, self.writer, self.poller, self.victim] + [self.slow_writer] * 4
        self.threads = [threading.Thread(target=self.guard, args=(j,), daemon=True) for j in jobs]

    def guard(self, job):
        try:
            job()
        except OSError as e:
            check(False, f"{job.__name__}: {e}")

    def loop_reader(self):
        fd = os.open(self.t.path("hello"), os.O_RDONLY)
        while not self.over.is_set():
            start = time.monotonic()
            check(os.pread(fd, 100, 0) == b"hello\n", "pread of hello")
            self.worst = max(self.worst, time.monotonic() - start)
            self.reads += 1
            time.sleep(0.002)
        os.close(fd)

    def prober(self):
        while not self.over.is_set():
            check(read(self.t.path("hello")) == b"hello\n", "hello")
            check(sorted(os.listdir(self.t.dir))[0] == "count", "listing")
            self.reads += 1

    def writer(self):
        fd = os.open(self.t.path("count"), os.O_WRONLY)
        while not self.over.is_set():
            line = f"line {self.count}\n"
            n = os.write(fd, line.encode()) if self.count % 2 else write(self.t.path("count"), line)
            check(n == len(line), "short write")
            self.count += 1
        os.close(fd)

    def slow_writer(self):
        while not self.over.is_set():
            with self.lock:
                mine = self.slow
                self.slow += 1
            size = random.choice((1, 1, 10, 3000))
            check(write(self.t.path("slow"), f"slow {mine} " + "x" * size) > size, "short write")

    def poller(self):
        fd = os.open(self.t.path("pollme"), os.O_RDONLY)
        p = select.poll()
        p.register(fd, select.POLLIN)
        seen = int(os.read(fd, 100))
        while not self.over.is_set():
            if not p.poll(1000):
                # Nobody said go, or a wake-up was lost: then the file knows more than we were told.
                with self.lock:
                    now = int(os.pread(fd, 100, 0))
                check(now == seen or self.wakes, f"poll slept through round {now}")
                check(now == seen, f"a wake-up was lost: {now}, seen {seen}")
                continue
            seen = int(os.read(fd, 100))
            self.wakes += 1
        os.close(fd)

    def victim(self):
        while not self.over.is_set():
            p = cat(self.t.path("wait"))
            time.sleep(random.uniform(0, 0.02))
            p.send_signal(signal.SIGINT)
            try:
                out, _ = p.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                check(False, "Ctrl-C hangs")
                return
            # A `go` may have come first.
            check(p.returncode == -signal.SIGINT or (p.returncode == 0 and out == "went\n"),
                  f"victim: exit {p.returncode} {out!r}")
            self.victims += 1

    def start(self):
        for th in self.threads:
            th.start()

    def stop(self):
        self.over.set()
        for th in self.threads:
            th.join(PATIENCE)
            check(not th.is_alive(), "a thread hangs")

    def round_of_readers(self, while_parked):
        """READERS parked cats, then something happens, then `go`: each gets its line."""
        procs = [cat(self.t.path("wait")) for _ in range(READERS)]
        for p in procs:
            parked(p)
        while_parked()
        write(self.t.path("go"), f"round {self.rounds}")
        self.rounds += 1
        for p in procs:
            finish(p, "went\n", 0, "reader")


def verify(a):
    t = a.t
    got = t.journal("count")
    check(got == [f"line {i}" for i in range(a.count)], f"count: {len(got)} lines for {a.count} writes")
    got = sorted(int(x.split(" ")[1]) for x in t.journal("slow"))
    check(got == list(range(a.slow)), f"slow: {len(got)} lines for {a.slow} writes")
    check(len(t.journal("go")) == a.rounds, "go")


def deaths(t):
    return len(re.findall(r"died by signal 9", t.log()))


def summary(a, extra=""):
    print(f"# {deaths(a.t)} deaths; {a.rounds * READERS} parked readers, {a.count}+{a.slow} writes "
          f"({a.t.log().count('duplicate')} duplicates caught), {a.reads} reads, {a.victims} Ctrl-C, {a.wakes} wake-ups, "
          f"longest read {a.worst * 1000:.0f} ms{extra}")


@test
def random_kills():
    """kill -9 from outside: nobody sees an error, every write counts once"""
    with Toy() as t:
        t.mount()
        a = Actors(t)
        a.start()
        left = KILLS

        def kill_some():
            nonlocal left
            for _ in range(min(left, 10)):
                time.sleep(random.uniform(0, 0.05))
                left -= t.kill_worker()
        while left > 0 and not faults:
            a.round_of_readers(kill_some)
        a.stop()
        verify(a)
        summary(a)


@test
def self_kills():
    """death between any two steps, also while taking over: nobody sees an error, every write counts once"""
    for _ in range(3):
        with Toy(TOYFS_DIE="1500") as t:
            t.mount()
            a = Actors(t)
            a.start()
            while deaths(t) < DEATHS and not faults:
                a.round_of_readers(lambda: time.sleep(0.2))
            a.stop()
            if "killed 3 workers in a row" not in t.log():
                verify(a)
                summary(a)
                return
            # By chance three in a row died at one request, and it was given up as the rule is.
            faults.clear()
    check(False, "three runs with a request that was given up")


def digest_loop(path, want, over, tally):
    while not over.is_set():
        r = subprocess.run(["sha256sum", path], capture_output=True, text=True)
        check(r.returncode == 0 and r.stdout.startswith(want), f"sha256sum: {r.returncode} {r.stderr}")
        tally["sha256sum"] += 1


def pread_loop(path, content, over, tally):
    fd = os.open(path, os.O_RDONLY)
    while not over.is_set():
        off = random.randrange(FINAL_SIZE)
        n = random.choice((1, 4096, 131072))
        try:
            check(os.pread(fd, n, off) == content[off:off + n], f"pread {n} at {off}")
        except OSError as e:
            check(False, f"pread: {e}")
        tally["pread"] += 1
    os.close(fd)


# In a process of its own, for an error would be SIGBUS.
MAPPER = """
import mmap, os, sys, hashlib
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
n = 0
while not os.path.exists(sys.argv[3]):
    m.madvise(mmap.MADV_DONTNEED)
    if hashlib.sha256(m).hexdigest() != sys.argv[2]:
        sys.exit(3)
    n += 1
print(n)
"""


def drop_pages(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3\n")
    except OSError:
        pass  # root's alone; for others the advice has to do


def content_of_final():
    x, out = 1, bytearray(FINAL_SIZE)
    for i in range(FINAL_SIZE):
        x = (x * 1664525 + 1013904223) & 0xffffffff
        out[i] = x >> 24
    return bytes(out)


@test
def page_cache():
    """a cached file is read, mapped and summed while workers die and its pages are dropped: no error, no wrong byte"""
    content = content_of_final()
    want = hashlib.sha256(content).hexdigest()
    with Toy() as t:
        t.mount()
        path, flag = t.path("final"), os.path.join(t.base, "over")
        over, tally = threading.Event(), {"sha256sum": 0, "pread": 0}
        threads = [threading.Thread(target=digest_loop, args=(path, want, over, tally), daemon=True),
                   threading.Thread(target=pread_loop, args=(path, content, over, tally), daemon=True)]
        mapper = subprocess.Popen([sys.executable, "-c", MAPPER, path, want, flag], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        for th in threads:
            th.start()
        for _ in range(KILLS):
            drop_pages(path)
            time.sleep(random.uniform(0, 0.01))
            t.kill_worker()
        over.set()
        with open(flag, "w"):
            pass
        for th in threads:
            th.join(PATIENCE)
            check(not th.is_alive(), "a thread hangs")
        out, err = mapper.communicate(timeout=PATIENCE)
        check(mapper.returncode == 0, f"mapped reader: exit {mapper.returncode} {err}")
        print(f"# {deaths(t)} deaths; {tally['sha256sum']} sha256sum, {tally['pread']} preads, {out.strip()} sums of the map")


def main():
    if not os.path.exists("/dev/fuse") or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        print("1..0 # SKIP no /dev/fuse that we may use")
        return 0
    if not os.path.exists(TOY):
        print("1..0 # SKIP " + TOY + " is not built (make tools)")
        return 0
    wanted = [f for f in tests if len(sys.argv) < 2 or f.__name__ in sys.argv[1:]]
    print(f"1..{len(wanted)}")
    bad = 0
    for i, f in enumerate(wanted, 1):
        faults.clear()
        try:
            f()
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as e:
            check(False, f"{type(e).__name__}: {e}")
        print(f"{'not ok' if faults else 'ok'} {i} - {f.__doc__}", flush=True)
        for line in faults[:10]:
            print("#   " + line)
        bad += bool(faults)
    return 1 if bad else 0


sys.exit(main())
