"""The readers that stay: while workers die, fifty `cat wait`, some `cat log.follow` and a `tail -f` are blocked on one run that
lasts as long as the killing. They are started before the first death and must all be there after the last one: the same processes,
none with an error or an early end.
"""
import os
import signal
import subprocess
import time

from load import Submitter
from world import PATIENCE, process_state

BLOCKED = 50
FOLLOWERS = 4


class Steady:
    def __init__(self, world, book):
        self.world = world
        self.book = book
        self.run_id = None
        self.job = None
        self.blocked = []
        self.followers = []  # (process, path of the copy)
        self.tail = None
        self.ended = False
        self.least = BLOCKED  # seen alive at any death
        self.results = []  # (id, file name, copy), for the judge
        self.answers = []

    def live_ids(self):
        return [self.run_id] if self.run_id and not self.ended else []

    # --- beginning

    def begin(self):
        self.job = self.book.new_steady()
        self.submit()
        self.until("the steady run writes", lambda: os.path.exists(self.job.pattern.copy))
        self.blocked = [self.start("wait", subprocess.PIPE) for _ in range(BLOCKED)]
        for i in range(FOLLOWERS):
            self.followers.append(self.copying(["cat", self.path("log.follow")], "follow.%d" % i))
        self.tail = self.copying(["tail", "-f", "-s", "0.05", "-c", "+1", self.path("log")], "tail")
        self.until("%d readers are blocked" % BLOCKED, lambda: sum(self.is_reading(p) for p in self.blocked) == BLOCKED)
        self.until("tail -f reads", lambda: os.path.getsize(self.tail[1]) > 0)

    def submit(self):
        submitter = Submitter(self.world, self.book, "steady-submit")

        def how():
            fd = submitter.open_new()
            try:
                submitter.write(fd, self.book.json(self.job, ["sh", self.job.pattern.script, self.job.token], time="4:00:00"))
                self.book.acked(self.job)
                submitter.read_id(fd, self.job)
            finally:
                os.close(fd)

        submitter.attempt(self.job, how)
        self.run_id = next(iter(self.job.ids))

    def path(self, name):
        return self.world.path("runs", self.run_id, name)

    def start(self, name, out):
        return subprocess.Popen(["cat", self.path(name)], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
                                env=self.world.env)

    def copying(self, command, name):
        copy = os.path.join(self.world.outputs, "steady-" + name)
        with open(copy, "wb") as f:
            proc = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.PIPE, env=self.world.env)
        return proc, copy

    def is_reading(self, proc):
        """Asleep, with `wait` open: there is nothing else that it could wait for."""
        if process_state(proc.pid) not in ("S", "D"):
            return False
        try:
            return any(os.readlink("/proc/%d/fd/%s" % (proc.pid, n)).endswith("/wait") for n in os.listdir("/proc/%d/fd" % proc.pid))
        except OSError:
            return False

    def until(self, what, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise RuntimeError("it does not come to this: " + what)
            time.sleep(0.02)

    # --- while workers die

    def check(self):
        """How many of the fifty are still there."""
        alive = sum(p.poll() is None for p in self.blocked)
        self.least = min(self.least, alive)
        return alive

    # --- the end

    def end(self):
        """Lets the run end; then everybody must be answered."""
        alive = self.check()
        if alive != BLOCKED:
            self.world.violation("%d of %d blocked readers are left when the last worker was killed" % (alive, BLOCKED))
        if self.tail[0].poll() is not None or any(p.poll() is not None for p, _ in self.followers):
            self.world.violation("a tail -f or a log.follow of the steady run ended before it")
        with open(self.job.pattern.stop, "w"):
            pass
        limit = time.monotonic() + PATIENCE
        for p in self.blocked:
            self.answers.append((self.run_id, self.finish(p, "wait", limit)))
        for p, copy in self.followers:
            self.finish(p, "log.follow", limit)
            self.results.append((self.run_id, "log", copy))
        self.ended = True
        self.stop_tail(limit)

    def finish(self, proc, name, limit):
        try:
            out, err = proc.communicate(timeout=max(1, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.world.violation("cat %s of the steady run is blocked though it has ended" % name)
            proc.kill()
            return ""
        if proc.returncode or err:
            self.world.violation("cat %s of the steady run ended with %d: %s" % (name, proc.returncode, err.decode().strip()))
        return (out or b"").decode("utf-8", "replace")

    def stop_tail(self, limit):
        proc, copy = self.tail
        wanted = os.path.getsize(self.job.pattern.copy)
        while os.path.getsize(copy) < wanted and time.monotonic() < limit:
            time.sleep(0.05)
        if proc.poll() is not None:
            self.world.violation("tail -f of the steady run ended with %d" % proc.returncode)
        proc.send_signal(signal.SIGTERM)
        err = proc.communicate()[1].decode().strip()
        if err:
            self.world.violation("tail -f of the steady run: " + err)
        self.results.append((self.run_id, "log", copy))
