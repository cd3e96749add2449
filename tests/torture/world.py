"""The world of a torture run: directories, the mount, its processes, the page that says where the worker dies.

An epoch is even while a mount serves and odd while keeper and worker are both dead; only what overlaps an odd one may
fail (`disturbed`). Violations are collected here, from all threads.
"""
import contextlib
import mmap
import os
import random
import signal
import struct
import subprocess
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATIENCE = 60  # seconds after which a wait is a violation
PAGE_SIZE = 4096
PAGE_POINTS = 64
PAGE_NAMES = 16 + 2 * 4 * PAGE_POINTS


class DiePage:
    """The shared page of fs/die.c."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as f:
            f.write(bytes(PAGE_SIZE))
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), PAGE_SIZE)

    def word(self, at):
        return struct.unpack_from("=I", self.map, at)[0]

    def names(self):
        raw = [self.map[PAGE_NAMES + 32 * i : PAGE_NAMES + 32 * (i + 1)] for i in range(self.word(0))]
        return [r.split(b"\0")[0].decode() for r in raw]

    def arm(self, number, countdown):
        struct.pack_into("=I", self.map, 4, 0)
        struct.pack_into("=I", self.map, 8, countdown)
        struct.pack_into("=I", self.map, 4, number + 1)

    def disarm(self):
        struct.pack_into("=I", self.map, 4, 0)

    def total(self):
        return self.word(12)

    def deaths(self):
        return {n: self.word(16 + 4 * (PAGE_POINTS + i)) for i, n in enumerate(self.names())}

    def passes(self):
        return {n: self.word(16 + 4 * i) for i, n in enumerate(self.names())}


def process_state(pid):
    """The letter of /proc/PID/stat, or None when there is no such process."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0].decode()
    except (OSError, IndexError):
        return None


def is_dead(pid):
    return process_state(pid) in (None, "Z", "X")


def command_line(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return "?"


def parent_of(pid):
    try:
        with open("/proc/%d/stat" % pid, "rb") as f:
            return int(f.read().rsplit(b")", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


class World:
    def __init__(self, cluster, seed, binary, short):
        self.cluster = cluster
        self.short = short  # fewer runs at once, and none that lasts
        self.seed = seed
        self.binary = binary
        self.dir = tempfile.mkdtemp(prefix="slurmray-torture.")
        self.mnt = os.path.join(self.dir, "mnt")
        self.state = os.path.join(self.dir, "state")
        self.jobs = os.path.join(self.dir, "jobs")
        self.outputs = os.path.join(self.dir, "outputs")
        self.ledger = os.path.join(self.dir, "ledger")
        self.config = os.path.join(self.dir, "config")
        for d in (self.mnt, self.jobs, self.outputs, os.path.join(self.dir, "home")):
            os.mkdir(d)
        open(self.ledger, "w").close()
        self.page = DiePage(os.path.join(self.dir, "page"))
        self.env = dict(os.environ, HOME=os.path.join(self.dir, "home"), LC_ALL="C", SLURMRAY_TEST_DIE=self.page.path)
        for name in ("SLURM_CONF", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            self.env.pop(name, None)
        self.mark = ("TORTURE=" + self.dir).encode()
        self.env["TORTURE"] = self.dir
        self.keeper = None
        self.epoch = 1
        self.stopping = False  # no more submissions
        self.over = False  # readers go as well
        self.mounts_die = False  # the second part: keeper and worker
        self.lock = threading.Lock()
        self.busy = {"submission": 0, "cancel": 0, "log": 0}  # how many calls have no answer yet
        self.calls = dict(self.busy)  # how many there were
        self.begun = threading.Condition()
        self.violations = []
        self.started_at = time.monotonic()
        self.trace = open(os.path.join(self.dir, "trace"), "w", buffering=1)
        self.testbed = None

    # --- telling

    def rng(self, name):
        return random.Random("%s/%s" % (self.seed, name))

    def say(self, text):
        print("%6.1f s  %s" % (time.monotonic() - self.started_at, text), flush=True)
        self.note(text)

    def note(self, text):
        self.trace.write("%.4f %s\n" % (time.monotonic() - self.started_at, text))

    def violation(self, text):
        with self.lock:
            self.violations.append(text)
            first = len(self.violations) <= 40
        self.note("VIOLATION " + text)
        if first:
            print("%6.1f s  VIOLATION: %s" % (time.monotonic() - self.started_at, text), flush=True)

    # --- what is under way

    @contextlib.contextmanager
    def doing(self, what):
        with self.begun:
            self.busy[what] += 1
            self.calls[what] += 1
            self.begun.notify_all()
        try:
            yield
        finally:
            with self.begun:
                self.busy[what] -= 1

    def await_begin(self, what, seconds):
        """Until the next call of this kind begins."""
        end = time.monotonic() + seconds
        with self.begun:
            before = self.calls[what]
            while time.monotonic() < end and self.calls[what] == before:
                self.begun.wait(0.1)

    # --- epochs

    def disturbed(self, since):
        return since % 2 == 1 or self.epoch != since

    def wait_up(self):
        """The epoch, once a mount serves; None when the run is over."""
        while not self.over:
            e = self.epoch
            if e % 2 == 0:
                return e
            time.sleep(0.01)
        return None

    def path(self, *parts):
        return os.path.join(self.mnt, *parts)

    # --- the mount

    def write_config(self):
        if self.cluster == "local":
            with open(self.config, "w") as f:
                f.write("[defaults]\ncluster = local\n")
            return
        self.testbed = os.path.join(self.dir, "testbed")
        run = subprocess.run([os.path.join(TOP, "scripts", "testbed"), "up"], env=self.testbed_env(), capture_output=True,
                             text=True, timeout=180)
        if run.returncode:
            raise RuntimeError("the testbed did not come up:\n" + run.stdout + run.stderr)
        with open(os.path.join(self.testbed, "config")) as f, open(self.config, "w") as out:
            out.write(f.read())

    def testbed_env(self):
        env = dict(os.environ, TESTBED_DIR=self.testbed or "")
        env.pop("SLURM_CONF", None)
        return env

    def on_testbed(self, *words):
        return subprocess.run([os.path.join(TOP, "scripts", "testbed"), *words], env=self.testbed_env(), text=True,
                              capture_output=True, timeout=120)

    def mount(self):
        log = open(os.path.join(self.dir, "mount.log"), "ab")
        self.keeper = subprocess.Popen(
            [self.binary, "mount", self.mnt, "--config", self.config, "--state", self.state, "--foreground", "--verbose"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True)
        log.close()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.keeper.poll() is not None:
                raise RuntimeError("slurmray mount ended with status %d; see %s/mount.log" %
                                   (self.keeper.returncode, self.dir))
            if self.is_mounted():
                try:
                    with open(self.path("README"), "rb") as f:
                        f.read(1)
                    self.epoch += 1
                    return
                except OSError:
                    pass
            time.sleep(0.005)
        raise RuntimeError("the mount did not answer in %d s; see %s/mount.log" % (PATIENCE, self.dir))

    def is_mounted(self):
        with open("/proc/self/mountinfo") as f:
            return any(line.split()[4] == self.mnt for line in f)

    def worker_pid(self):
        """The pid of a living worker, or 0."""
        try:
            with open(os.path.join(self.state, "worker.pid")) as f:
                pid = int(f.read() or "0")
        except (OSError, ValueError):
            return 0
        return pid if pid and not is_dead(pid) and parent_of(pid) == self.keeper.pid else 0

    def kill_worker(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            pid = self.worker_pid()
            if pid:
                os.kill(pid, signal.SIGKILL)
                return pid
            time.sleep(0.001)
        raise RuntimeError("there is no worker")

    def kill_both(self, worker_first):
        """Keeper and worker; then the mount answers nothing (ENOTCONN) until it is mounted again."""
        self.epoch += 1
        pids = [self.keeper.pid, self.worker_pid()]
        if worker_first:
            pids.reverse()
        for pid in pids:
            if pid:
                os.kill(pid, signal.SIGKILL)
        self.keeper.wait()
        # The keeper may have started another worker in between.
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            # One that is ending has no environment any more, and still its descriptors: so the known ones are looked at too.
            alive = [p for p in pids[:2] if p and not is_dead(p)]
            alive += [p for p in self.marked() if "--worker" in command_line(p) and not is_dead(p)]
            if not alive:
                return
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.002)
        raise RuntimeError("a worker does not die: %s" % alive)

    def unmount(self):
        run = subprocess.run([self.binary, "umount", self.mnt], capture_output=True, text=True, timeout=PATIENCE, env=self.env)
        if run.returncode:
            self.violation("slurmray umount ended with status %d: %s" % (run.returncode, run.stderr.strip()))
        try:
            status = self.keeper.wait(PATIENCE)
            if status:
                self.violation("the keeper ended with status %d" % status)
        except subprocess.TimeoutExpired:
            self.violation("the keeper does not end after umount")
        if self.is_mounted():
            self.violation("still mounted after umount")

    # --- processes

    def marked(self):
        """Processes (but this one) that were started from here: daemon, jobs, readers."""
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                with open("/proc/%s/environ" % name, "rb") as f:
                    if self.mark in f.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue
        return found

    def clean_up(self, keep):
        """Takes down whatever is left, however the run ended."""
        for pid in self.marked():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if self.keeper and self.keeper.poll() is None:
            self.keeper.kill()
            self.keeper.wait()
        if self.is_mounted():
            for command in (["umount", "-l", self.mnt], ["fusermount3", "-uz", self.mnt]):
                if subprocess.run(command, capture_output=True).returncode == 0:
                    break
        if self.testbed:
            if keep:  # what Slurm says of it
                subprocess.run("mkdir slurm-logs && cp testbed/log/*.log slurm-logs", shell=True, cwd=self.dir,
                               capture_output=True)
            self.on_testbed("down")
        if keep:
            print("kept: %s" % self.dir, flush=True)
        else:
            subprocess.run(["rm", "-rf", "--one-file-system", self.dir])
