"""What is submitted: payloads with known output, and a record of each submission and of what became of it.

Bytes of stdout and of stderr come from disjoint alphabets (both with odd bytes: NUL, 0xff, 0x01, no newline at the end), so that
both can be found again in `log`, which mixes them.
"""
import json
import os
import shlex
import threading

OUT_BYTES = bytes([0, 0xFF, 10, 32]) + bytes(range(0x30, 0x3A)) + bytes(range(0x61, 0x7B)) + bytes(range(0x80, 0x90))
ERR_BYTES = bytes([1, 13, 0xFE]) + bytes(range(0x41, 0x5B))
PATTERNS = 12

JOB = r"""#!/bin/sh
# job.sh TOKEN PATTERN PAUSE CODE: says in the ledger that it runs, and writes the pattern piece by piece.
here=%(jobs)s
echo "start $1 ${SLURMRAY_RUN:--} ${SLURMRAY_ATTEMPT:--}" >>%(ledger)s
i=0
while [ -e "$here/$2.$i.out" ]; do
	cat "$here/$2.$i.out"
	[ ! -e "$here/$2.$i.err" ] || cat "$here/$2.$i.err" >&2
	sleep "$3"
	i=$((i + 1))
done
echo "end $1" >>%(ledger)s
exit "$4"
"""

STEADY = r"""#!/bin/sh
# steadyjob.sh TOKEN: writes until the file `stop` is there, and a copy of all of it for the judge.
here=%(jobs)s
echo "start $1 ${SLURMRAY_RUN:--} ${SLURMRAY_ATTEMPT:--}" >>%(ledger)s
i=0
while [ ! -e "$here/stop" ]; do
	line="tick $i %(filler)s"
	echo "$line"
	echo "$line" >>"$here/steady.copy"
	sleep 0.1
	i=$((i + 1))
done
echo "end $1" >>%(ledger)s
"""


class Pattern:
    def __init__(self, world, name, rng, pieces, size, with_err):
        self.name = name
        self.out = b""
        self.err = b""
        for i in range(pieces):
            piece = bytes(rng.choices(OUT_BYTES, k=rng.randint(1, size)))
            self.write(world, i, "out", piece)
            self.out += piece
            if with_err:
                piece = bytes(rng.choices(ERR_BYTES, k=rng.randint(1, 200)))
                self.write(world, i, "err", piece)
                self.err += piece

    def write(self, world, i, stream, data):
        with open(os.path.join(world.jobs, "%s.%d.%s" % (self.name, i, stream)), "wb") as f:
            f.write(data)


class SteadyPattern:
    """What the steady run wrote, known when it has ended."""

    name = "steady"
    err = b""

    def __init__(self, world):
        self.script = os.path.join(world.jobs, "steadyjob.sh")
        self.copy = os.path.join(world.jobs, "steady.copy")
        self.stop = os.path.join(world.jobs, "stop")
        with open(self.script, "w") as f:
            f.write(STEADY % {"jobs": shlex.quote(world.jobs), "ledger": shlex.quote(world.ledger), "filler": "x" * 200})

    @property
    def out(self):
        with open(self.copy, "rb") as f:
            return f.read()


class Payloads:
    """The patterns: p0.. ordinary ones, `tail` for half a minute, `victim` for longer than anybody waits."""

    def __init__(self, world):
        rng = world.rng("patterns")
        self.script = os.path.join(world.jobs, "job.sh")
        with open(self.script, "w") as f:
            f.write(JOB % {"jobs": shlex.quote(world.jobs), "ledger": shlex.quote(world.ledger)})
        os.chmod(self.script, 0o755)
        self.patterns = {}
        for i in range(PATTERNS):
            pieces = rng.randint(1, 5)
            self.add(Pattern(world, "p%d" % i, rng, pieces, rng.choice([3, 300, 9000, 60000]), i % 3 == 0))
        self.add(Pattern(world, "tail", rng, 15 if world.short else 100, 400, True))
        self.add(Pattern(world, "victim", rng, 400, 50, False))
        self.steady = SteadyPattern(world)

    def add(self, pattern):
        self.patterns[pattern.name] = pattern


class Job:
    """One submission. `fate`: refused, acked (it must run), unknown (it may), hoped (a script that was only closed)."""

    def __init__(self, number, token, pattern, pause, code):
        self.number = number
        self.token = token
        self.pattern = pattern
        self.pause = pause
        self.code = code
        self.key = None
        self.form = "line"
        self.victim = False
        self.steady = False  # for all of the worker's deaths; nobody cancels it, and its readers are counted apart
        self.fate = None
        self.ids = set()  # as they were read back
        self.name = None  # of a draft
        self.cancel = None  # None, "asked", "acked"
        self.expect_refused = False
        self.why = ""  # what was said on refusal

    def argv(self, script):
        return ["sh", script, self.token, self.pattern.name, "%g" % self.pause, str(self.code)]


class Book:
    """All submissions of a run."""

    def __init__(self, world, payloads):
        self.world = world
        self.payloads = payloads
        self.jobs = []
        self.by_id = {}
        self.ended = set()  # ids that a reader saw ended
        self.lock = threading.Lock()
        self.drafts = {}  # names that mkdir has acknowledged -> job or None

    def new_job(self, rng, pattern=None):
        with self.lock:
            number = len(self.jobs)
            token = "t%05d" % number
            victim = pattern == "victim"
            name = pattern or "p%d" % rng.randrange(PATTERNS)
            pause = 0.3 if victim or name == "tail" else rng.choice([0.02, 0.1, 0.2, 0.3])
            job = Job(number, token, self.payloads.patterns[name], pause, 0 if rng.random() < 0.8 else rng.randint(1, 125))
            job.victim = victim
            self.jobs.append(job)
        return job

    def new_steady(self):
        with self.lock:
            number = len(self.jobs)
            job = Job(number, "t%05d" % number, self.payloads.steady, 0, 0)
            job.steady = True
            job.form = "steady"
            self.jobs.append(job)
        return job

    def acked(self, job, run_id=None):
        with self.lock:
            if job.fate == "refused":
                self.world.violation("%s was refused and accepted" % job.token)
            job.fate = "acked"
            if run_id is not None:
                job.ids.add(run_id)
                if not job.steady:
                    self.by_id[run_id] = job

    def live_ids(self):
        with self.lock:
            return [i for i in self.by_id if i not in self.ended]

    def note_ended(self, run_id):
        with self.lock:
            self.ended.add(run_id)

    # --- spec texts

    def keys(self, job):
        d = {"tags": ["torture", job.token]}
        if job.key:
            d["key"] = job.key
        return d

    def line(self, job):
        words = ["tags=torture,%s" % job.token] + (["key=" + job.key] if job.key else [])
        return (" ".join(words) + " -- " + " ".join(shlex.quote(a) for a in job.argv(self.payloads.script)) + "\n").encode()

    def json(self, job, command=None, **more):
        d = self.keys(job)
        d["command"] = command or job.argv(self.payloads.script)
        d.update(more)
        return json.dumps(d).encode()

    def script(self, job):
        return ("#!/bin/sh\n#SBATCH --job-name=%s\n# %s\nexec %s\n" % (job.token, "x" * 300,
                " ".join(shlex.quote(a) for a in job.argv(self.payloads.script)))).encode()
