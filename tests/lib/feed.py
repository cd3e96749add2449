"""The root's `events`: every change and every message once, at offsets that hold, whatever is killed. See mnt.py."""
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time

from mnt import (case, ctl, ended, feed, finished, is_, judge_feed, kill_worker, kills, main, ok, path, purge, run, slurp,
                 status, submit, text, until)
import mnt

HEAD = ["time", "run", "num", "name", "cluster", "tags", "attempt", "type"]
WRITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pipes.py")

# A job that says `n` things, slowly enough to be killed about.
TALK = r'''
import base64, json, os, sys, time, zlib
path = json.loads(zlib.decompress(base64.b64decode(os.environ["DAGSTER_PIPES_MESSAGES"])))["path"]
def say(method, params):
    with open(path, "a") as f:
        f.write(json.dumps({"__dagster_pipes_version": "0.1", "method": method, "params": params}) + "\n")
say("opened", {})
for i in range(int(sys.argv[1])):
    say("log", {"message": "m%d" % i + "x" * int(sys.argv[3]), "level": "INFO"})
    with open(path, "a") as f:
        f.write("junk\n")
    time.sleep(float(sys.argv[2]))
say("report_asset_materialization", {"asset_key": "a/b", "data_version": "v", "metadata": {"rows": {"raw_value": 1, "type": "int"}}})
say("closed", {})
'''


def talk(n, pause=0.0, size=0, **keys):
    return json.dumps({"command": ["python3", "-c", TALK, str(n), str(pause), str(size)], "pipes": True, **keys})


def own(ident):
    num = json.loads(text(run(ident, "info.json")))["number"]
    return [r for r in feed() if r["num"] == num]


@case
def lines():
    """a line for each change: who, when, from where to where, code and why; for drafts, refusals and ends of all kinds"""
    a = finished(submit('{"command": "exit 3", "name": "three", "tags": ["x", "y"]}'))
    rows = own(a)
    is_("members", {tuple(r) for r in rows}, {tuple(HEAD + ["from", "to", "code", "why", "source"])})
    is_("head", (rows[0]["run"], rows[0]["name"], rows[0]["cluster"], rows[0]["tags"]), (a, "three", "local", ["x", "y"]))
    is_("steps", [(r["from"], r["to"]) for r in rows], [(None, "queued"), ("queued", "submitting"), ("submitting", "pending"),
                                                        ("pending", "running"), ("running", "failed")])
    is_("the end", (rows[-1]["code"], rows[-1]["why"], rows[-2]["code"]), (3, "exited with code 3", None))
    os.mkdir(run("feed-draft"))
    is_("a draft", [(r["run"], r["cluster"], r["from"], r["to"]) for r in own("feed-draft")], [("feed-draft", None, None, "draft")])
    b = submit("hold=true -- true")
    until(lambda: status(b) == "pending", "held")
    ctl(b, "cancel")
    is_("cancelled", ended(b), "cancelled -")
    is_("its line", [(r["to"], r["code"]) for r in own(b)][-1], ("cancelled", None))
    c = submit("kill -9 $$")
    ended(c)
    is_("a signal", own(c)[-1]["code"], 137)
    judge_feed()


@case
def reports():
    """a job's messages are all there, before its end, with all that they say; what is no message is not"""
    a = finished(submit(talk(5, name="talker")))
    rows = [r for r in own(a) if r["type"] == "report"]
    is_("members", {tuple(r) for r in rows}, {tuple(HEAD + ["method", "params"])})
    is_("methods", [r["method"] for r in rows], ["opened"] + ["log"] * 5 + ["report_asset_materialization", "closed"])
    is_("a materialization", rows[-2]["params"], {"asset_key": "a/b", "data_version": "v",
                                                 "metadata": {"rows": {"raw_value": 1, "type": "int"}}})
    is_("names", {r["name"] for r in rows}, {"talker"})
    is_("the last line", own(a)[-1]["to"], "succeeded")
    judge_feed()


@case
def attributes():
    """a plain file that cannot be written; its size is what can be read; its time is that of its last line"""
    st = os.stat(path("events"))
    is_("mode", oct(st.st_mode), oct(stat.S_IFREG | 0o444))
    ok("events" in os.listdir(mnt.MNT), "it is listed")
    data = slurp(path("events"))
    is_("size", st.st_size, len(data))
    mnt.fails(1, "writing", open, path("events"), "a")
    for at in (0, 1, len(data) // 2, len(data) - 1, len(data), len(data) + 100):
        with open(path("events"), "rb", buffering=0) as f:
            f.seek(at)
            is_("from %d" % at, f.read(1000), data[at:at + 1000])
    before = os.stat(path("events")).st_mtime
    ok(before <= time.time(), "not later than now")
    finished(submit("true"))
    ok(os.stat(path("events")).st_mtime > before, "it changed")
    is_("what was there", slurp(path("events"))[:len(data)], data)


class Reader(threading.Thread):
    """Reads as a sensor does: from a cursor (now), until 0 bytes; each end must be a line's."""

    def __init__(self, check=None):
        super().__init__(daemon=True)
        self.first = os.stat(path("events")).st_size
        self.check, self.data, self.bad, self.stop = check, bytearray(), [], False
        self.start()

    def run(self):
        while not self.stop:
            with open(path("events"), "rb", buffering=0) as f:
                f.seek(self.first + len(self.data))
                lines = len(self.data)
                while True:
                    piece = f.read(777)
                    if not piece:
                        break
                    self.data += piece
                    if self.first + len(self.data) > os.fstat(f.fileno()).st_size:
                        self.bad.append("more bytes than its size says")
            if self.data and not self.data.endswith(b"\n"):
                self.bad.append("0 bytes within a line: %r" % self.data[-50:])
            if self.check:
                self.check(self, bytes(self.data[lines:]))
            time.sleep(0.002)

    def whole(self):
        """It has read all, and what it read is what is there."""
        until(lambda: self.first + len(self.data) == os.stat(path("events")).st_size, "all is read")
        self.stop = True
        self.join(30)
        is_("what its reader saw", self.bad, [])
        ok(bytes(self.data) == slurp(path("events"))[self.first:], "its reader has the same bytes")


@case
def order():
    """what a line tells of is there when the line is: status, messages; a reader from a cursor sees whole lines"""
    def check(self, lines):
        for line in lines.splitlines():
            row = json.loads(line)
            try:
                if row["type"] == "status":
                    history = [json.loads(h)["to"] for h in slurp(run(row["run"], "history")).splitlines()]
                    if row["to"] not in history:
                        self.bad.append("%s is not in %s" % (row["to"], history))
                elif row["method"] == "log":
                    if row["params"]["message"].encode() not in slurp(run(row["run"], "events")):
                        self.bad.append("a line before its message: %s" % row)
            except OSError as e:
                self.bad.append("%s: %s" % (e, row))
    r = Reader(check)
    for i in [submit(talk(20, 0.02)) for _ in range(3)]:
        ended(i)
        ok(any(e["run"] == i and e.get("to") == "succeeded" for e in feed()), "the end of %s is there when `wait` says so" % i)
    r.whole()


@case
def tail():
    """tail -f shows the lines as they come, and loses none"""
    start = os.stat(path("events")).st_size
    out = os.path.join(os.environ["T"], "tail.out")
    with open(out, "wb") as f, subprocess.Popen(["tail", "-c", "+%d" % (start + 1), "-s", "0.1", "-f", path("events")], stdout=f) as p:
        try:
            a = submit(talk(10, 0.05))
            ended(a)
            until(lambda: slurp(out) == slurp(path("events"))[start:], "tail has it all")
        finally:
            p.terminate()


POINTS = {"store.committing": 3, "store.committed": 3, "feed.half": 3, "feed.written": 3, "feed.posted": 1, "engine.created": 1,
          "engine.committed": 2, "engine.applied": 2, "events.data": 2, "events.judged": 2, "engine.end-received": 1,
          "engine.end-held": 1, "local.ending": 1}


@kills
@case
def deaths():
    """killed at any point: nothing is lost, nothing is there twice, no byte changes its place"""
    d, r, dead = mnt.Death(), Reader(), 0
    for point, passes in POINTS.items():
        for n in range(1, passes + 1):
            pid = mnt.worker()
            before = slurp(path("events"))
            d.arm(point, n)
            a = submit(talk(4, 0.03))
            is_(point, ended(a), "succeeded 0")
            if d.disarm():
                dead += 1
                until(lambda p=pid: mnt.worker() not in (0, p), "another worker")
            is_("%s: what was there" % point, slurp(path("events"))[:len(before)], before)
            judge_feed()
    print("# %d deaths" % dead)
    ok(dead > len(POINTS), "it came to it: %d" % dead)
    r.whole()


@kills
@case
def storm():
    """killed at random while ten jobs talk, and cut files: the same"""
    ids = [submit(talk(60, 0.03)) for _ in range(10)] + [submit(json.dumps({"command": [sys.executable, WRITE, "payload", c],
                                                                            "pipes": True})) for c in ("cut", "nasty", "last_line")]
    r = Reader()
    for i in range(12):
        time.sleep(0.1 + 0.05 * (i % 4))
        kill_worker()
    for i in ids:
        ok(ended(i).startswith("succeeded"), "run %s: %s" % (i, status(i)))
    r.whole()
    judge_feed()


@case
def purged():
    """a run that is purged leaves its lines; a name that is used again has another number"""
    os.mkdir(run("again"))
    with open(run("again", "spec"), "w", encoding="ascii") as f:
        f.write("true\n")
    finished("again")
    before = slurp(path("events"))
    purge("again")
    is_("after the purge", slurp(path("events"))[:len(before)], before)
    os.mkdir(run("again"))
    is_("numbers", len({r["num"] for r in feed() if r["run"] == "again"}), 2)
    is_("what was there", slurp(path("events"))[:len(before)], before)
    judge_feed()


@kills
@case
def many():
    """120 runs (LONG=1: 300) and ten deaths: each line once; the journal keeps few of them"""
    ids, n = [], 300 if os.environ.get("LONG") == "1" else 120
    for i in range(n):
        if i % (n // 10) == n // 10 - 1:
            os.kill(mnt.worker(), signal.SIGKILL)
        ids.append(submit("true"))
    for i in ids:
        is_("run " + i, ended(i), "succeeded 0")
    judge_feed()


@case
def large():
    """messages of any size: 20 MB is one line, and in its place"""
    a = submit(talk(3, size=7 * 1000 * 1000))
    b = submit(talk(1, size=20 * 1000 * 1000))
    ended(a)
    ended(b)
    sizes = [len(r["params"]["message"]) for r in own(b) if r["type"] == "report" and r["method"] == "log"]
    is_("its size", sizes, [20 * 1000 * 1000 + 2])
    judge_feed()


if __name__ == "__main__":
    main()
