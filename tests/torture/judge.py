"""The judgement after a torture run: what was promised, against what is there, byte for byte."""
import glob
import hashlib
import json
import os
import re

from jobs import ERR_BYTES, OUT_BYTES
from load import ENDED

TOKEN = re.compile(rb"(?:steady)?job\.sh['\", ]+(t\d{5})\b")
SAID = re.compile(rb"slurmray: [^\n]*\n")  # no payload writes such letters to stderr


class Run:
    """A run directory, read once."""

    def __init__(self, world, run_id):
        self.id = run_id
        for name in ("status", "exit_code", "job_id", "stdout", "stderr", "log", "history", "spec"):
            setattr(self, name, self.read(world, name))
        self.status = self.status.decode().strip()
        self.wait = "" if self.status == "draft" else self.read(world, "wait").decode().strip()
        self.info = json.loads(self.read(world, "info.json"))
        found = TOKEN.search(self.spec)
        self.token = found.group(1).decode() if found else None

    def read(self, world, name):
        with open(world.path("runs", self.id, name), "rb") as f:
            return f.read()

    def digest(self):
        h = hashlib.sha256()
        for part in (self.status, self.wait):
            h.update(part.encode() + b"\n")
        for part in (self.exit_code, self.stdout, self.stderr, self.log, self.history):
            h.update(b"%d:" % len(part) + part)
        return h.hexdigest()


class Judge:
    def __init__(self, world, book, actors):
        self.world = world
        self.book = book
        self.actors = actors
        self.runs = {}
        self.by_token = {}
        self.starts = {}
        self.numbers = dict(submitted=0, acked=0, refused=0, unknown=0, executed=0, cancelled=0, lost=0, doubled=0,
                            bytes=0, lost_bytes=0, repeated_bytes=0, wrong_logs=0, later_attempts=0, given_twice=0)

    def bad(self, text):
        self.world.violation(text)

    def all(self):
        for name in sorted(os.listdir(self.world.path("runs"))):
            if name in ("new", "check", "template", "list", "last"):
                continue
            run = self.runs[name] = Run(self.world, name)
            if run.token:
                self.by_token.setdefault(run.token, []).append(run)
        self.read_ledger()
        for job in self.book.jobs:
            self.job(job)
        for run in self.runs.values():
            self.run(run)
        self.feed()
        self.readers()
        self.refusals()

    def read_ledger(self):
        with open(self.world.ledger) as f:
            for line in f:
                words = line.split()
                if words[0] == "start":
                    self.starts.setdefault(words[1], []).append(words[2:])

    # --- each submission

    def job(self, job):
        runs = self.by_token.get(job.token, [])
        starts = self.starts.get(job.token, [])
        n = self.numbers
        n["submitted"] += 1
        n["executed"] += len(starts) > 0
        if len(starts) > 1:
            n["doubled"] += 1
            self.bad("%s (%s) started %d times: %s" % (job.token, job.form, len(starts), starts))
        if len(runs) > 1:
            n["doubled"] += 1
            self.bad("%s (%s) became the runs %s" % (job.token, job.form, [r.id for r in runs]))
        if job.fate == "refused":
            n["refused"] += 1
            if runs or starts:
                self.bad("%s was refused (%s), yet there are runs %s, starts %s" %
                         (job.token, job.why, [r.id for r in runs], starts))
            return
        if job.fate != "acked":
            n["unknown"] += 1
            return
        n["acked"] += 1
        if not runs:
            n["lost"] += 1
            self.bad("%s (%s) was acknowledged (ids %s) and is not there" % (job.token, job.form, sorted(job.ids)))
        if job.ids and (len(job.ids) > 1 or {r.id for r in runs} != job.ids):
            self.bad("%s: ids %s were given, its runs are %s" % (job.token, sorted(job.ids), [r.id for r in runs]))

    # --- each run

    def run(self, run):
        self.history(run)
        if run.status == "draft":
            if run.id not in self.book.drafts:
                self.bad("draft %s was made by nobody" % run.id)
            return
        job = next((j for j in self.book.jobs if j.token == run.token), None)
        if run.status not in ENDED:
            self.bad("run %s is %s after everything should have ended" % (run.id, run.status))
            return
        if not job:
            self.bad("run %s is nobody's: %r" % (run.id, run.spec[:200]))
            return
        if run.info.get("attempt", 0) > 1:
            self.numbers["later_attempts"] += 1
            if self.world.cluster == "local":
                self.bad("run %s has attempt %d" % (run.id, run.info["attempt"]))
        self.status(run, job)
        self.logs(run, job)

    def status(self, run, job):
        starts = self.starts.get(job.token, [])
        what = "run %s (%s, %s)" % (run.id, job.token, job.form)
        natural = "succeeded" if job.code == 0 else "failed"
        for s in starts:
            if s[0] != run.id:
                self.bad("%s: it was started as run %s" % (what, s[0]))
        if run.status == "cancelled":
            self.numbers["cancelled"] += 1
            if not job.cancel and not starts and self.number_given_twice(run):
                self.numbers["given_twice"] += 1
            elif not job.cancel:
                self.bad("%s was cancelled by nobody: %s" % (what, run.info.get("why")))
            if not run.wait.startswith("cancelled "):
                self.bad("%s: wait says %r" % (what, run.wait))
            return
        if job.victim and job.cancel == "acked":
            self.bad("%s was cancelled, and ended as %s: %s" % (what, run.status, run.info.get("why")))
            return
        if run.status != natural:
            self.bad("%s ended as %s, not %s: %s" % (what, run.status, natural, run.info.get("why")))
            return
        if not starts:
            self.numbers["lost"] += 1
            self.bad("%s %s, and was never started" % (what, run.status))
        if run.exit_code.decode().strip() != str(job.code) or run.wait != "%s %d" % (natural, job.code):
            self.bad("%s: exit_code %r, wait %r, wanted %d" % (what, run.exit_code, run.wait, job.code))

    def number_given_twice(self, run):
        """
        A controller that was killed forgets its last numbers and gives them out again. When the former holder still runs on a
        node, Slurm takes its end for that of the new one, and cancels that: nobody but Slurm can tell them apart.
        """
        return self.world.cluster == "demo" and run.job_id.strip() and any(
            other is not run and other.job_id == run.job_id for other in self.runs.values())

    def logs(self, run, job):
        whole = run.status != "cancelled"
        self.stream(run, "stdout", run.stdout, job.pattern.out, whole)
        if len(run.log) != len(run.stdout) + len(run.stderr):
            self.bad("run %s: log has %d bytes, stdout %d, stderr %d" % (run.id, len(run.log), len(run.stdout), len(run.stderr)))
        if self.world.cluster == "demo" and not whole:  # Slurm says on stderr that it cancels
            self.stream(run, "stderr", re.sub(rb"slurmstepd[^\n]*\n|Terminated\n", b"", run.stderr), job.pattern.err, whole)
            return
        self.stream(run, "stderr", run.stderr, job.pattern.err, whole)
        out = bytes(b for b in run.log if b in OUT_SET)
        err = bytes(b for b in run.log if b in ERR_SET)
        self.stream(run, "log (stdout in it)", out, run.stdout, True)
        self.stream(run, "log (stderr in it)", err, run.stderr, True)
        if self.world.cluster == "local":
            for stream in ("stdout", "stderr"):
                files = glob.glob(os.path.join(self.world.state, "local", "*", "runs", str(run.info["number"]), "a1", stream))
                if files:
                    with open(files[0], "rb") as f:
                        self.stream(run, stream + " (against the job's file)", getattr(run, stream), f.read(), True)

    def stream(self, run, name, got, wanted, whole):
        self.numbers["bytes"] += len(got)
        if got == wanted or (not whole and wanted.startswith(got)):
            return
        same = len(os.path.commonprefix([got, wanted]))
        self.numbers["lost_bytes"] += max(0, len(wanted) - len(got))
        self.numbers["repeated_bytes"] += max(0, len(got) - len(wanted))
        self.numbers["wrong_logs"] += 1
        self.bad("run %s (%s): %s has %d bytes instead of %d, the first difference is at %d" %
                 (run.id, run.status, name, len(got), len(wanted), same))

    def history(self, run):
        rows = [json.loads(line) for line in run.history.splitlines()]
        last, seen = None, set()
        for row in rows:
            step = (row["from"], row["to"])
            if step in seen and "unknown" not in step:
                self.bad("run %s: the step %s is in its history twice" % (run.id, step))
            if last is not None and row["from"] != last:
                self.bad("run %s: its history goes from %s to %s" % (run.id, last, step))
            seen.add(step)
            last = row["to"]
        if last != run.status:
            self.bad("run %s: its history ends with %s, its status is %s" % (run.id, last, run.status))
        times = [row["time"] for row in rows]
        if self.world.cluster == "local" and times != sorted(times):
            self.bad("run %s: times of its history go back: %s" % (run.id, times))
        ends = [row for row in rows if row["to"] in ENDED]
        if len(ends) > 1:
            self.bad("run %s ended %d times" % (run.id, len(ends)))

    def feed(self):
        with open(self.world.path("events"), "rb") as f:
            text = f.read()
        if text and not text.endswith(b"\n"):
            self.bad("events does not end with a line: %r" % text[-100:])
        rows = {}
        for line in text.splitlines():
            row = json.loads(line)
            if row["type"] == "status":
                rows.setdefault(row["num"], []).append((row["time"], row["from"] or "-", row["to"]))
        for run in self.runs.values():
            steps = [(h["time"], h["from"], h["to"]) for h in map(json.loads, run.history.splitlines())]
            if rows.get(run.info["number"]) != steps:
                self.bad("run %s: events has %s, its history %s" % (run.id, rows.get(run.info["number"]), steps))

    # --- each reader

    def readers(self):
        for name in ("blocked", "poller", "steady"):
            for run_id, text in self.actors[name].answers:
                if run_id in self.runs and text.strip() != self.runs[run_id].wait:
                    self.bad("%s: wait of run %s said %r, now it says %r" % (name, run_id, text, self.runs[run_id].wait))
        for name, actor in self.actors.items():
            for run_id, stream, copy in getattr(actor, "results", []):
                if run_id not in self.runs:
                    continue
                with open(copy, "rb") as f:
                    got = f.read()
                wanted = getattr(self.runs[run_id], stream.rstrip("+"))
                if stream.endswith("+"):  # slurmray itself says what it waits for, that the mount was away, and in the end why
                    got = SAID.sub(b"", got)
                self.stream(self.runs[run_id], "%s as seen by %s" % (stream, name), got, wanted, True)
        for run_id, code in self.actors["follower-client"].codes:
            run = self.runs.get(run_id)
            word = run.wait.split()[-1] if run and run.wait else "-"
            if word == "-" or (word == "0" and not run.wait.startswith("succeeded")):
                word = "1"  # an end that is not good has no 0, whatever the command said
            if run and code != int(word):
                self.bad("slurmray follow %s exited with %d, its wait says %s" % (run_id, code, run.wait))

    def refusals(self):
        with open(self.world.path("errors"), "rb") as f:
            text = f.read()
        rows = [json.loads(line) for line in text.splitlines()]
        for job in self.book.jobs:
            if job.expect_refused and job.fate == "refused" and not any(job.token in r["text"] for r in rows):
                self.bad("%s was refused (%s) and is not in `errors`" % (job.token, job.why))


OUT_SET = frozenset(OUT_BYTES)
ERR_SET = frozenset(ERR_BYTES)
