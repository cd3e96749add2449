"""What users do while everything is killed: submitters, cancellers, and readers of every kind.

Each is a thread; each operation that fails while keeper and worker were not both dead is a violation.
"""
import errno
import os
import select
import signal
import subprocess
import threading
import time

from world import PATIENCE

ENDED = ("succeeded", "failed", "cancelled", "timeout", "out_of_memory", "node_failed", "preempted", "rejected")
RANK = {"draft": 0, "queued": 1, "submitting": 2, "pending": 3, "running": 4, "completing": 5}


def err_name(e):
    return errno.errorcode.get(e.errno, str(e.errno))


class Actor(threading.Thread):
    def __init__(self, world, book, name):
        super().__init__(name=name, daemon=True)
        self.world = world
        self.book = book
        self.rng = world.rng(name)

    def run(self):
        try:
            self.act()
        except Exception as e:  # a bug of the harness must not pass as success
            import traceback

            self.world.violation("harness: %s: %r\n%s" % (self.name, e, traceback.format_exc()))

    def nap(self, low, high):
        time.sleep(self.rng.uniform(low, high))


class Refused(Exception):
    pass


# --- submitting -------------------------------------------------------------------------------------------------------


class Submitter(Actor):
    def act(self):
        backlog = 12 if self.world.short else 36
        forms = [(self.read_back, 4), (self.echo, 2), (self.one_json, 2), (self.several_json, 1), (self.in_pieces, 2),
                 (self.script, 3), (self.draft, 2), (self.refused, 1), (self.twice, 1), (self.talk, 2), (self.client, 2)]
        names, weights = zip(*forms)
        while not self.world.stopping:
            if len(self.book.live_ids()) >= backlog:
                self.nap(0.02, 0.1)
                continue
            if self.world.wait_up() is None:
                return
            self.rng.choices(names, weights)[0]()
            self.nap(0, 0.15)

    # One document by one way; retried with its key when keeper and worker died under it.

    def attempt(self, job, how):
        while True:
            since = self.world.wait_up()
            if since is None:
                return
            try:
                with self.world.doing("submission"):
                    how()
                self.world.note("acked %s %s ids %s" % (job.token, job.form, sorted(job.ids)))
                if job.expect_refused:
                    self.world.violation("%s was accepted, though its spec is wrong" % job.token)
                return
            except Refused as e:
                job.why = str(e)
                if not job.expect_refused:
                    self.world.violation("%s (%s) was refused: %s" % (job.token, job.form, e))
                if job.fate is None:
                    job.fate = "refused"
                return
            except OSError as e:
                self.world.note("failed %s %s: %s" % (job.token, job.form, e))
                if not self.world.disturbed(since):
                    self.world.violation("submitting %s (%s): %s" % (job.token, job.form, e))
                    job.fate = job.fate or "unknown"
                    return
                job.fate = job.fate or "unknown"
                if not job.key:
                    return

    def write(self, fd, data):
        """The write that completes a document: it alone may be refused."""
        try:
            n = os.write(fd, data)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.EEXIST):
                raise
            text = b""
            try:
                text = os.read(fd, 4096)
            except OSError:
                pass
            raise Refused("%s %s" % (err_name(e), text.decode("utf-8", "replace").strip()))
        if n != len(data):
            self.world.violation("a write of %d bytes took %d" % (len(data), n))

    def read_line(self, fd):
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(fd, 1)
            if not part:
                raise OSError(errno.ENODATA, "end of file after %r" % line)
            line += part
        return line[:-1].decode()

    def read_id(self, fd, job):
        run_id = self.read_line(fd)
        if not run_id.isdigit() and run_id != job.name:
            self.world.violation("%s: the id that was read back is %r" % (job.token, run_id))
            return
        self.book.acked(job, run_id)

    def read_decision(self, fd, *jobs):
        """Of one of these, in the order in which they were submitted."""
        text = self.read_line(fd)
        if not text.startswith("accepted ") and not (text.startswith("rejected ") and any(j.cancel for j in jobs)):
            self.world.violation("%s: instead of a decision was read: %r" % (jobs[-1].token, text))

    def open_new(self, flags=os.O_RDWR):
        return os.open(self.world.path("runs", "new"), flags)

    def maybe_key(self, job, chance=0.5):
        if self.rng.random() < chance:
            job.key = "key-%s-%s" % (self.world.seed, job.token)

    def new_job(self):
        pattern = "victim" if self.rng.random() < 0.15 else None
        job = self.book.new_job(self.rng, pattern)
        self.maybe_key(job)
        return job

    def read_back(self):
        job = self.new_job()

        def how():
            fd = self.open_new()
            try:
                self.write(fd, self.book.line(job))
                self.book.acked(job)
                self.read_id(fd, job)
                if self.rng.random() < 0.3:
                    self.read_decision(fd, job)
            finally:
                os.close(fd)

        self.attempt(job, how)

    def echo(self):
        job = self.new_job()
        job.form = "echo"

        def how():
            fd = self.open_new(os.O_WRONLY | os.O_TRUNC)
            try:
                self.write(fd, self.book.line(job))
                self.book.acked(job)
            finally:
                os.close(fd)

        self.attempt(job, how)

    def one_json(self):
        job = self.new_job()
        job.form = "json"

        def how():
            fd = self.open_new()
            try:
                self.write(fd, self.book.json(job))
                self.book.acked(job)
                self.read_id(fd, job)
            finally:
                os.close(fd)

        self.attempt(job, how)

    def several_json(self):
        jobs = [self.book.new_job(self.rng) for _ in range(self.rng.randint(2, 4))]
        for j in jobs:
            j.form = "jsons"
            j.key = "key-%s-%s" % (self.world.seed, j.token)

        def how():
            fd = self.open_new()
            try:
                self.write(fd, b"\n".join(self.book.json(j) for j in jobs))
                for j in jobs:
                    self.book.acked(j)
                for j in jobs:
                    self.read_id(fd, j)
            finally:
                os.close(fd)

        self.attempt(jobs[0], how)
        for j in jobs[1:]:
            j.fate = j.fate or "unknown"

    def in_pieces(self):
        job = self.new_job()
        job.form = "pieces"
        data = self.book.json(job, env={"FILL": "y" * self.rng.randint(0, 6000)})

        def how():
            cuts = sorted(self.rng.sample(range(1, len(data)), 3))
            fd = self.open_new()
            try:
                for a, b in zip([0] + cuts, cuts + [len(data)]):
                    self.write(fd, data[a:b])
                    self.nap(0, 0.05)
                self.book.acked(job)
                self.read_id(fd, job)
            finally:
                os.close(fd)

        self.attempt(job, how)

    def script(self):
        job = self.book.new_job(self.rng)
        job.form = "script"
        end = self.rng.choice(["read", "fsync", "close"])

        def how():
            data = self.book.script(job)
            fd = self.open_new()
            try:
                cut = self.rng.randint(1, len(data) - 1)
                self.write(fd, data[:cut])
                self.nap(0, 0.03)
                self.write(fd, data[cut:])
                if end == "read":
                    self.read_id(fd, job)
                elif end == "fsync":
                    os.fsync(fd)
                    self.book.acked(job)
                else:
                    job.fate = "hoped"
            finally:
                os.close(fd)

        since = self.world.epoch
        self.attempt(job, how)
        if job.fate == "hoped":
            # The RELEASE follows close(2) by a moment: only when no mount died soon is it certain.
            threading.Thread(target=self.certain_later, args=(job, since), daemon=True).start()

    def certain_later(self, job, since):
        time.sleep(3)
        if not self.world.disturbed(since) and job.fate == "hoped":
            job.fate = "acked"

    def draft(self):
        job = self.book.new_job(self.rng)
        job.form = "draft"
        job.name = "d-%s" % job.token
        top = self.world.path("runs", job.name)
        command = "[ \"$(cat input)\" = %s ] || exit 99; exec %s" % (
            job.token, " ".join(job.argv(self.book.payloads.script)))

        def how():
            try:
                os.mkdir(top)
            except FileExistsError:
                if job.name not in self.book.drafts and job.fate != "unknown":
                    raise
            self.book.drafts[job.name] = job
            try:
                with open(os.path.join(top, "files", "input"), "w") as f:
                    f.write(job.token + "\n")
            except PermissionError:
                if job.fate != "unknown":  # else it may be a draft no more
                    raise
            fd = os.open(os.path.join(top, "spec"), os.O_RDWR)
            try:
                self.write(fd, self.book.json(job, command=command))
                self.book.acked(job, job.name)
                if self.rng.random() < 0.5:
                    self.read_id(fd, job)
            finally:
                os.close(fd)

        job.key = "key-%s-%s" % (self.world.seed, job.token)
        since = self.world.epoch
        self.attempt(job, how)
        if job.fate == "unknown" and not self.world.disturbed(since):
            self.world.violation("draft %s was left unknown" % job.name)

    def refused(self):
        job = self.book.new_job(self.rng)
        job.form = "refused"
        job.expect_refused = True
        bad = self.rng.randrange(4)

        def how():
            fd = self.open_new()
            try:
                if bad == 0:
                    self.write(fd, b"nodez=2 -- " + self.book.line(job).split(b" -- ", 1)[1])
                elif bad == 1:
                    self.write(fd, self.book.json(job, tiem="1:00"))
                elif bad == 2:
                    self.write(fd, self.book.line(job) + self.book.line(job))
                else:
                    self.write(fd, self.book.line(job)[:-1])  # no newline: never complete, close(2) says so
            finally:
                try:
                    os.close(fd)
                except OSError as e:
                    if e.errno != errno.EINVAL:
                        raise
            if bad == 3:
                raise Refused("not complete")

        self.attempt(job, how)

    def twice(self):
        """Two writers with the same key and spec at once: one run, and both get its id. Then another spec: refused."""
        job = self.book.new_job(self.rng)
        job.form = "twice"
        job.key = "key-%s-%s" % (self.world.seed, job.token)
        text = self.book.json(job)

        def how():
            fd = self.open_new()
            try:
                self.write(fd, text)
                self.book.acked(job)
                self.read_id(fd, job)
            finally:
                os.close(fd)

        other = threading.Thread(target=self.attempt, args=(job, how), daemon=True)
        other.start()
        self.attempt(job, how)
        other.join()
        thief = self.book.new_job(self.rng)
        thief.form = "thief"
        thief.key = job.key
        thief.expect_refused = True

        def steal():
            fd = self.open_new()
            try:
                self.write(fd, self.book.json(thief))
            finally:
                os.close(fd)

        self.attempt(thief, steal)

    def client(self):
        """`slurmray submit`, with a key."""
        job = self.book.new_job(self.rng)
        job.form = "client"
        job.key = "key-%s-%s" % (self.world.seed, job.token)

        def how():
            run = subprocess.run(
                [self.world.binary, "submit", "--mount", self.world.mnt, "key=" + job.key, "tags=torture,%s" % job.token, "--"] +
                job.argv(self.book.payloads.script), capture_output=True, text=True, env=self.world.env, timeout=2 * PATIENCE)
            if run.returncode:
                raise OSError(errno.EIO, "slurmray submit: %d %s" % (run.returncode, run.stderr.strip()))
            self.book.acked(job, run.stdout.strip())

        self.attempt(job, how)

    def talk(self):
        """A long conversation on one descriptor."""
        fd = None
        since = self.world.epoch
        jobs = []
        for _ in range(self.rng.randint(2, 4)):
            if self.world.stopping or self.world.disturbed(since):
                break
            job = self.new_job()
            job.form = "talk"
            job.key = None
            jobs.append(job)

            def how():
                nonlocal fd
                if fd is None:
                    fd = self.open_new()
                self.write(fd, self.book.json(job))
                self.book.acked(job)
                self.read_id(fd, job)
                if self.rng.random() < 0.6:
                    self.read_decision(fd, *jobs)

            self.attempt(job, how)
            self.nap(0, 0.1)
            if job.ids and self.rng.random() < 0.4:
                break
        if fd is not None:
            try:
                os.close(fd)
            except OSError as e:
                if not self.world.disturbed(since):
                    self.world.violation("closing runs/new: %s" % e)


class Tailed(Actor):
    """Submits the long runs that a `tail -f` follows while mounts die, one after the other."""

    def act(self):
        self.current = None
        while not self.world.mounts_die and not self.world.stopping:
            time.sleep(0.05)
        submit = Submitter(self.world, self.book, "tailed-submit")
        while not self.world.stopping:
            job = self.book.new_job(self.rng, "tail")
            job.key = "key-%s-%s" % (self.world.seed, job.token)

            def how():
                fd = submit.open_new()
                try:
                    submit.write(fd, self.book.json(job, nice=0))
                    self.book.acked(job)
                    submit.read_id(fd, job)
                finally:
                    os.close(fd)

            submit.attempt(job, how)
            self.current = next(iter(job.ids), None)
            while self.current and not self.world.stopping and self.current not in self.book.ended:
                time.sleep(0.1)


# --- cancelling -------------------------------------------------------------------------------------------------------


class Canceller(Actor):
    """Cancels every victim, queued or running, and now and then another run."""

    def act(self):
        seen = 0
        while not self.world.over:
            with self.book.lock:
                fresh = self.book.jobs[seen:]
                seen = len(self.book.jobs)
            for job in fresh:
                if job.victim or (self.rng.random() < 0.1 and not job.steady):
                    threading.Thread(target=self.later, args=(job, self.rng.uniform(0, 4)), daemon=True).start()
            time.sleep(0.05)

    def later(self, job, delay):
        try:
            time.sleep(delay)
            end = time.monotonic() + PATIENCE
            while not job.ids and not self.world.over:
                if job.fate in ("refused", "hoped") or time.monotonic() > end:
                    return
                self.find(job)
                time.sleep(0.1)
            for run_id in sorted(job.ids)[:1]:
                self.cancel(job, run_id)
        except Exception as e:
            self.world.violation("harness: cancelling %s: %r" % (job.token, e))

    def find(self, job):
        """A run whose writer did not read its id back: by its tag."""
        if not job.victim or self.world.wait_up() is None:
            return
        try:
            names = os.listdir(self.world.path("by", "tag", job.token))
        except OSError:
            return
        for name in names:
            if name not in ("wait", "wait-any"):
                self.book.acked(job, name)

    def cancel(self, job, run_id):
        job.cancel = "asked"
        while True:
            since = self.world.wait_up()
            if since is None:
                return
            try:
                with self.world.doing("cancel"):
                    self.cancel_once(job, run_id)
                return
            except OSError as e:
                if e.errno == errno.ESRCH:
                    return
                if not self.world.disturbed(since):
                    self.world.violation("cancelling run %s: %s" % (run_id, e))
                    return

    def cancel_once(self, job, run_id):
        fd = os.open(self.world.path("runs", run_id, "ctl"), os.O_RDWR)
        try:
            os.write(fd, b"cancel\n")
            job.cancel = "acked"
            self.world.note("cancelled %s run %s" % (job.token, run_id))
            if job.number % 2:
                answer = os.read(fd, 4096).decode()
                if not answer.startswith(("ok", "error")):
                    self.world.violation("cancelling run %s: the answer is %r" % (run_id, answer))
        finally:
            os.close(fd)


# --- reading ----------------------------------------------------------------------------------------------------------


class Blocked(Actor):
    """`cat wait` of runs that come and go. What they printed is compared with the end in the final judgement."""

    COUNT = 25

    def act(self):
        self.answers = []  # (id, text)
        self.interrupted = 0
        self.restarted = 0
        readers = []
        while not self.world.over:
            still = []
            for r in readers:
                if r[0].poll() is None:
                    still.append(r)
                else:
                    self.finished(*r)
            readers = still
            if not self.world.stopping:
                self.top_up(readers)
            elif not readers:
                break
            time.sleep(0.02)
        self.left = readers
        for proc, run_id, _ in readers:
            self.world.violation("a reader of runs/%s/wait is blocked though everything has ended" % run_id)
            proc.kill()

    def top_up(self, readers):
        since = self.world.epoch
        live = self.book.live_ids()
        if since % 2 or not live:
            return
        for _ in range(min(8, self.COUNT - len(readers))):
            run_id = self.rng.choice(live)
            readers.append((self.open_reader(run_id), run_id, since))

    def open_reader(self, run_id):
        return subprocess.Popen(["cat", self.world.path("runs", run_id, "wait")], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=self.world.env)

    def finished(self, proc, run_id, since):
        out, err = proc.communicate()
        if proc.returncode == 0:
            self.book.note_ended(run_id)
            self.answers.append((run_id, out.decode("utf-8", "replace")))
        elif self.world.disturbed(since):
            self.restarted += 1
        else:
            self.world.violation("cat runs/%s/wait ended with %d: %s" % (run_id, proc.returncode, err.decode().strip()))


def stuck_at(pid):
    """What the kernel says of a process that does not go."""
    said = []
    for name in ("wchan", "syscall", "stack"):
        try:
            with open("/proc/%d/%s" % (pid, name)) as f:
                said.append(" ".join(f.read().split()))
        except OSError:
            pass
    return "; ".join(said)


class Interrupted(Actor):
    """Ctrl-C on blocked readers: they must go at once, worker or no worker."""

    def act(self):
        self.count = 0
        while not self.world.stopping:
            live = self.book.live_ids()
            if not live or self.world.wait_up() is None:
                time.sleep(0.05)
                continue
            run_id = self.rng.choice(live)
            proc = subprocess.Popen(["cat", self.world.path("runs", run_id, "wait")],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.world.env)
            self.nap(0.05, 0.4)
            proc.send_signal(signal.SIGINT)
            try:
                self.count += proc.wait(20) == -signal.SIGINT
            except subprocess.TimeoutExpired:
                self.world.violation("a reader of run %s does not go at Ctrl-C: %s" % (run_id, stuck_at(proc.pid)))
                proc.kill()
            self.nap(0.2, 1)


class Follower(Actor):
    """`cat log.follow` from the beginning to the end of a run; the bytes are judged at the end."""

    def act(self):
        self.results = []  # (id, file name, path of the copy)
        n = 0
        while not self.world.stopping:
            live = self.book.live_ids()
            since = self.world.wait_up()
            if since is None or not live:
                time.sleep(0.05)
                continue
            run_id = self.rng.choice(live)
            name = self.rng.choice(["log", "stdout", "stderr"])
            n += 1
            copy = os.path.join(self.world.outputs, "%s.%d" % (self.name, n))
            with open(copy, "wb") as f:
                proc = subprocess.Popen(["cat", self.world.path("runs", run_id, name + ".follow")], stdout=f,
                                        stderr=subprocess.PIPE, env=self.world.env)
            while proc.poll() is None and not self.world.over:
                time.sleep(0.05)
            if proc.poll() is None:
                self.world.violation("cat runs/%s/%s.follow is blocked though everything has ended" % (run_id, name))
                proc.kill()
                return
            err = proc.stderr.read().decode().strip()
            if proc.returncode == 0:
                self.results.append((run_id, name, copy))
            elif not self.world.disturbed(since):
                self.world.violation("cat runs/%s/%s.follow ended with %d: %s" % (run_id, name, proc.returncode, err))


class ClientFollower(Actor):
    """`slurmray follow`: both streams and the exit code, over deaths of any kind."""

    def act(self):
        self.results = []
        self.codes = []  # (id, exit status)
        n = 0
        while not self.world.stopping:
            live = self.book.live_ids()
            since = self.world.wait_up()
            if since is None or not live:
                time.sleep(0.05)
                continue
            run_id = self.rng.choice(live)
            n += 1
            copies = [os.path.join(self.world.outputs, "%s.%d.%s" % (self.name, n, s)) for s in ("stdout", "stderr")]
            with open(copies[0], "wb") as out, open(copies[1], "wb") as err:
                proc = subprocess.Popen([self.world.binary, "follow", "--mount", self.world.mnt, run_id], stdout=out, stderr=err,
                                        env=self.world.env)
            while proc.poll() is None and not self.world.over:
                time.sleep(0.05)
            if proc.poll() is None:
                self.world.violation("slurmray follow %s does not end though everything has ended" % run_id)
                proc.kill()
                return
            if proc.returncode == 1 and self.world.disturbed(since) and not os.path.getsize(copies[0]):
                continue  # it found no mount to begin with
            self.codes.append((run_id, proc.returncode))
            self.results.append((run_id, "stdout", copies[0]))
            self.results.append((run_id, "stderr+", copies[1]))


class Tail(Actor):
    """One `tail -f` on the log of a long run; after a remount another one goes on where it stopped."""

    def __init__(self, world, book, tailed):
        super().__init__(world, book, "tail")
        self.tailed = tailed
        self.results = []

    def act(self):
        while not self.world.stopping:
            run_id = getattr(self.tailed, "current", None)
            if not run_id or any(r[0] == run_id for r in self.results):
                time.sleep(0.05)
                continue
            copy = os.path.join(self.world.outputs, "tail.%s" % run_id)
            open(copy, "w").close()
            self.follow(run_id, copy)
            self.results.append((run_id, "log", copy))

    def follow(self, run_id, copy):
        """Until the run has ended and as much as its log has was copied."""
        path = self.world.path("runs", run_id, "log")
        while not self.world.over:
            since = self.world.wait_up()
            if since is None:
                return
            with open(copy, "ab") as f:
                proc = subprocess.Popen(["tail", "-f", "-s", "0.05", "-c", "+%d" % (os.path.getsize(copy) + 1), path],
                                        stdout=f, stderr=subprocess.PIPE, env=self.world.env)
            done = False
            while proc.poll() is None and not done and not self.world.disturbed(since):
                time.sleep(0.1)
                done = run_id in self.book.ended and self.all_here(path, copy)
            early = proc.poll() is not None
            proc.kill()
            proc.wait()
            err = proc.stderr.read().decode().strip()
            if (early or err) and not self.world.disturbed(since):
                self.world.violation("tail -f runs/%s/log: %s" % (run_id, err or "ended with %d" % proc.returncode))
            if done:
                return

    def all_here(self, path, copy):
        try:
            return os.path.getsize(copy) >= os.stat(path).st_size
        except OSError:
            return False


class Pulse(Actor):
    """Opens and reads a status and a log every 10 ms; knows how long anybody had to wait."""

    def __init__(self, world, book, steady):
        super().__init__(world, book, "pulse")
        self.steady = steady

    def act(self):
        self.cycles = []  # (begin, end)
        self.errors = 0
        run_id, status, log = None, None, b""
        while not self.world.over:
            since = self.world.epoch
            live = self.book.live_ids() or self.steady.live_ids()
            if since % 2 or (run_id is None and not live):
                time.sleep(0.01)
                continue
            if run_id is None:
                run_id, status, log = self.rng.choice(live), None, b""
            begin = time.monotonic()
            try:
                word = self.slurp(run_id, "status").decode().strip()
                with self.world.doing("log"):
                    text = self.slurp(run_id, "log")
                self.cycles.append((begin, time.monotonic(), since))
                if not text.startswith(log):
                    self.world.violation("runs/%s/log changed: %d bytes, then %d other ones" % (run_id, len(log), len(text)))
                self.check(run_id, status, word)
                status, log = word, text
                if word in ENDED:
                    self.book.note_ended(run_id)
                    if self.rng.random() < 0.1:
                        run_id = None
                elif self.rng.random() < 0.02:
                    run_id = None
            except OSError as e:
                if not self.world.disturbed(since):
                    self.errors += 1
                    self.world.violation("reading runs/%s: %s" % (run_id, e))
                run_id = None
            time.sleep(0.01)

    def slurp(self, run_id, name):
        fd = os.open(self.world.path("runs", run_id, name), os.O_RDONLY)
        try:
            data = b""
            while True:
                part = os.read(fd, 1 << 20)
                if not part:
                    return data
                data += part
        finally:
            os.close(fd)

    def check(self, run_id, before, now):
        if now not in RANK and now not in ENDED and now != "unknown":
            self.world.violation("runs/%s/status is %r" % (run_id, now))
        if before in ENDED and now != before:
            self.world.violation("runs/%s/status was %s and is %s" % (run_id, before, now))
        if before in RANK and now in RANK and RANK[now] < RANK[before]:
            self.world.violation("runs/%s/status went back from %s to %s" % (run_id, before, now))


class Poller(Actor):
    """poll(2) on `wait` with O_NONBLOCK."""

    def act(self):
        self.answers = []
        while not self.world.stopping:
            live = self.book.live_ids()
            since = self.world.wait_up()
            if since is None or not live:
                time.sleep(0.05)
                continue
            run_id = self.rng.choice(live)
            try:
                text = self.wait_for(run_id)
                if text:
                    self.answers.append((run_id, text))
                    self.book.note_ended(run_id)
            except OSError as e:
                if not self.world.disturbed(since):
                    self.world.violation("poll on runs/%s/wait: %s" % (run_id, e))

    def wait_for(self, run_id):
        fd = os.open(self.world.path("runs", run_id, "wait"), os.O_RDONLY | os.O_NONBLOCK)
        try:
            p = select.poll()
            p.register(fd, select.POLLIN)
            while not self.world.over:
                ready = p.poll(1000)
                if ready and ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                    raise OSError(errno.EIO, "poll(2) says 0x%x" % ready[0][1])
                if not ready:
                    continue
                try:
                    return os.read(fd, 100).decode()
                except BlockingIOError:
                    continue
            return None
        finally:
            os.close(fd)


def all_actors(world, book, steady):
    tailed = Tailed(world, book, "tailed")
    actors = {"tailed": tailed, "canceller": Canceller(world, book, "canceller"), "blocked": Blocked(world, book, "blocked"),
              "interrupted": Interrupted(world, book, "interrupted"), "tail": Tail(world, book, tailed),
              "pulse": Pulse(world, book, steady), "poller": Poller(world, book, "poller")}
    for i in range(4):
        actors["submitter-%d" % i] = Submitter(world, book, "submitter-%d" % i)
    actors["follower-client"] = ClientFollower(world, book, "follower-client")
    for i in range(3):
        actors["follower-%d" % i] = Follower(world, book, "follower-%d" % i)
    return actors
