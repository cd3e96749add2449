"""What suites for submitters of Pipes jobs try, as files: sessions side by side, readers that die, files and scripts with odd
content. See mnt.py for how this is run. tests/lib/moving_assets.py tries the same with stock Dagster."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import mnt
import pipes
from mnt import case, ended, fails, is_, main, ok, path, put, run, slurp, submit, text, until

ME = os.path.abspath(__file__)
SPEC_ENV = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")


def shipped(name):
    """A directory of this test outside the mount."""
    d = os.path.join(os.path.dirname(mnt.STATE), "shipped", name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    return d


def write(p, data):
    os.makedirs(os.path.dirname(p), exist_ok=True)
    with open(p, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return p


def refusal(spec):
    """The sentence for a spec that must be refused."""
    fd = os.open(path("runs/new"), os.O_RDWR)
    try:
        fails(errno.EINVAL, "the spec", os.write, fd, spec.encode())
        return os.read(fd, 4096).decode()
    finally:
        os.close(fd)


# --- another process: a step of an orchestrator ---

def step(name, go, ledger):
    """Draft or own run, the spec, the events: prints what it got, as JSON."""
    d = os.path.join(mnt.MNT, "runs", name)
    try:
        os.mkdir(d)
    except FileExistsError:
        pass
    with open(os.path.join(d, "context"), "w", encoding="utf-8") as f:
        f.write(pipes.CONTEXT)
    events = os.path.join(d, "events")
    # The session's own variables are new each time, as Dagster's are.
    spec = {"command": [sys.executable, ME, "--job", name, go, ledger], "env": dict(zip(SPEC_ENV, (
        pipes.encode({"path": d + "/context", "n": os.getpid()}), pipes.encode({"path": events, "n": os.getpid()}))))}
    with open(os.path.join(d, "spec"), "w", encoding="utf-8") as f:
        f.write(json.dumps(spec))
    print("submitted", flush=True)
    with open(os.path.join(d, "wait"), encoding="utf-8") as f:
        end = f.read().strip()
    with open(events, encoding="utf-8") as f:
        said = [json.loads(line)["params"].get("payload") for line in f if "report_custom_message" in line]
    print(json.dumps([end, said]), flush=True)


def job(name, go, ledger):
    with open(ledger, "a", encoding="ascii") as f:
        f.write(name + "\n")
    pipes.emit(pipes.opened(), *(pipes.message("report_custom_message", {"payload": "%s %d" % (name, i)}) for i in range(20)))
    for _ in range(1500):
        if os.path.exists(go):
            break
        time.sleep(0.02)
    pipes.emit(*(pipes.message("report_custom_message", {"payload": "%s %d" % (name, i)}) for i in range(20, 40)), pipes.closed())


class Step:
    def __init__(self, name, d):
        self.name, self.ledger = name, os.path.join(d, "ledger")
        self.process = subprocess.Popen([sys.executable, ME, "--step", mnt.MNT, name, os.path.join(d, "go"), self.ledger],
                                        stdout=subprocess.PIPE, text=True)

    def submitted(self):
        is_("a step", self.process.stdout.readline(), "submitted\n")
        return self

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        self.process.wait(mnt.PATIENCE)

    def result(self):
        out = self.process.stdout.read().splitlines()  # communicate() would not see what readline() has taken
        self.process.wait(mnt.PATIENCE)
        return json.loads(out[-1])

    def wanted(self):
        return ["succeeded 0", ["%s %d" % (self.name, i) for i in range(40)]]


def began(ledger):
    try:
        return sorted(text(ledger).split())
    except FileNotFoundError:
        return []


@case
def partitions_at_once():
    """six steps of one asset at once, each a process: directories and messages of their own"""
    d = shipped("partitions")
    steps = [Step("part_%d" % i, d) for i in range(6)]
    for s in steps:
        s.submitted()
    write(os.path.join(d, "go"), "")
    for s in steps:
        is_(s.name, s.result(), s.wanted())
    is_("each ran once", began(steps[0].ledger), sorted(s.name for s in steps))


@case
def steps_that_die():
    """steps that are killed or terminated while their jobs run: others find the same jobs, and every message from the first one"""
    for i, sig in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)):
        d, name = shipped("die_%d" % i), "die_%d" % i
        first = Step(name, d).submitted()
        until(lambda d=d: began(d + "/ledger"), "the job begins")
        first.kill(sig)
        is_("alive", text(run(name, "status")).strip(), "running")
        second = Step(name, d).submitted()
        write(d + "/go", "")
        is_("the second", second.result(), second.wanted())
        third = Step(name, d).submitted()
        is_("a third, after the end", third.result(), third.wanted())
        is_("once", began(d + "/ledger"), [name])
    fails(errno.EEXIST, "another spec", put, run("die_0", "spec"), "echo other\n")


@case
def a_failed_one_is_left_alone():
    """a failed run is found as failed; the next name is a new job; retry on ctl is a new run, too"""
    d = shipped("failed")
    os.mkdir(run("once_1"))
    put(run("once_1", "spec"), "echo x >> %s/ledger; exit 3\n" % d)
    is_("end", ended("once_1"), "failed 3")
    put(run("once_1", "spec"), "echo x >> %s/ledger; exit 3\n" % d)
    is_("still", text(run("once_1", "status")).strip(), "failed")
    is_("once", text(d + "/ledger"), "x\n")
    fd = os.open(run("once_1", "ctl"), os.O_RDWR)
    os.write(fd, b"retry\n")
    again = os.read(fd, 100).decode().split()[-1]
    os.close(fd)
    is_("the retry", ended(again), "failed 3")
    is_("twice", text(d + "/ledger"), "x\nx\n")


@case
def cancelled_before_anything():
    """a run that waits for another one is cancelled: nothing of it starts, also when the other one ends well"""
    d = shipped("early")
    first = submit("while [ ! -e %s/go ]; do sleep 0.05; done" % d)
    second = submit("afterok=%s -- touch %s/ran" % (first, d))
    put(run(second, "ctl"), "cancel\n")
    is_("end", ended(second).split()[0], "cancelled")
    write(d + "/go", "")
    is_("the other", ended(first), "succeeded 0")
    ok(not os.path.exists(d + "/ran"), "it did not start")


# --- files ---

@case
def extra_files():
    """files: several, directories, a name that comes twice, one that is not there"""
    d = shipped("files")
    a, b = write(d + "/a/train.py", "print('hi')\n"), write(d + "/lib/deep/x.txt", "x\n")
    ident = submit("files=%s,%s/lib -- cat train.py lib/deep/x.txt" % (a, d))
    is_("end", (ended(ident), text(run(ident, "log"))), ("succeeded 0", "print('hi')\nx\n"))
    other = write(d + "/b/train.py", "print('other')\n")
    ok("train.py" in refusal("files=%s,%s -- cat train.py\n" % (a, other)), "two of one name are refused, by name")
    ok("none.py" in refusal("files=%s/none.py -- cat none.py\n" % d), "one that is not there is refused, by name")
    same = submit("files=%s,%s -- cat train.py" % (a, a))
    is_("the same one twice", (ended(same), text(run(same, "log"))), ("succeeded 0", "print('hi')\n"))


@case
def on_the_cluster():
    """a payload that is there already is not sent; one that is not there ends the run with a reason"""
    d = shipped("there")
    payload = write(d + "/train.sh", "#!/bin/sh\necho there $0\n")
    ident = submit("-- sh %s" % payload)
    is_("end", (ended(ident), text(run(ident, "log"))), ("succeeded 0", "there %s\n" % payload))
    ident = submit("-- sh %s/none.sh" % d)
    ok(ended(ident).startswith("failed "), "fails")
    ok("none.sh" in text(run(ident, "why")), "why names it")


ODD = "it's \"odd\" $HOME `id` $(id) \\ \\n %s {} ;&|<>*? # !\nEND_OF_FILE\nEOF\n'\nEND_OF_FILE \n\ttab \r\nlast\x7f\xc3\xa9"


@case
def odd_content():
    """commands, scripts, variables and files with quotes, substitutions and the ends of here documents are what they were"""
    d = shipped("odd")
    ident = submit(json.dumps({"command": ["printf", "%s", ODD]}))
    is_("a word", (ended(ident), slurp(run(ident, "stdout")).decode()), ("succeeded 0", ODD))
    ident = submit(json.dumps({"command": "printf %s \"$ODD\"", "env": {"ODD": ODD}}))
    is_("a variable", (ended(ident), slurp(run(ident, "stdout")).decode()), ("succeeded 0", ODD))
    name = "it's $(id) END_OF_FILE.txt"
    put_in = write(os.path.join(d, name), ODD)
    ident = submit(json.dumps({"command": ["cat", name], "files": [put_in]}))
    is_("a file", (ended(ident), slurp(run(ident, "stdout")).decode()), ("succeeded 0", ODD))
    script = "#!/bin/sh\ncat <<'END_OF_FILE'\nhere $x\nEND_OF_FILE\necho \"it's $((1 + 1))\"\n"
    ident = submit(json.dumps({"script": script}))
    is_("a script", (ended(ident), text(run(ident, "stdout"))), ("succeeded 0", "here $x\nit's 2\n"))


@case
def odd_environments():
    """directories of environments with spaces, quotes and substitutions in their names are sourced, and run nothing"""
    d = shipped("envs")
    for name in "a b", "it's", "$(touch bad)", "`touch bad`;touch bad", "\\\"x":
        where = os.path.join(d, name.replace("/", "_"))
        write(where + "/activate.sh", "export WHERE=activated\n")
        ident = submit(json.dumps({"command": "echo $WHERE; ls", "environment": {"path": where}}))
        is_(name, (ended(ident), text(run(ident, "log"))), ("succeeded 0", "activated\n"))


# --- output ---

@case
def blank_lines():
    """output with blank lines, without a last newline, of both streams, is there byte for byte, once"""
    ident = submit("printf '\\n\\na\\n\\n\\nb\\n \\n\\nend'; printf '\\nerr\\n\\n' >&2")
    is_("end", ended(ident), "succeeded 0")
    is_("stdout", text(run(ident, "stdout")), "\n\na\n\n\nb\n \n\nend")
    is_("stderr", text(run(ident, "stderr")), "\nerr\n\n")
    is_("both", len(text(run(ident, "log"))), 20)
    is_("followed", text(run(ident, "stdout.follow")), text(run(ident, "stdout")))


@case
def failed_runs_keep():
    """a failed run keeps its log, results and working directory until rmdir; then nothing is left"""
    ident = submit("echo said; echo made > file; echo kept > $SLURMRAY_RESULTS/r; pwd; exit 9")
    is_("end", ended(ident), "failed 9")
    where = text(run(ident, "stdout")).splitlines()[1]
    is_("results", text(run(ident, "results/r")), "kept\n")
    is_("work", text(run(ident, "work/file")), "made\n")
    ok(os.path.exists(where), "its directory")
    mnt.purge(ident)
    until(lambda: not os.path.exists(where), "the directory is removed")
    fails(errno.ENOENT, "the run", os.stat, run(ident))


@case
def a_writer_dies_while_it_is_prepared():
    """a writer that is killed while its environment is unpacked: the job is submitted all the same, once"""
    d = shipped("prepare")
    archive = write(d + "/env.sh", "#!/bin/sh\ntouch %s/begun; while [ ! -e %s/go ]; do sleep 0.05; done; mkdir conda-meta\n" % (d, d))
    code = ("import os, sys, time; os.mkdir(sys.argv[1]); open(sys.argv[1] + '/spec', 'w').write(sys.argv[2]); "
            "print('ok', flush=True); time.sleep(60)")
    p = subprocess.Popen([sys.executable, "-c", code, run("prepared"), "environment=archive:%s -- echo ran >> %s/ledger\n" % (archive, d)],
                         stdout=subprocess.PIPE, text=True)
    is_("written", p.stdout.readline(), "ok\n")
    until(lambda: os.path.exists(d + "/begun"), "it is being unpacked")
    p.kill()
    p.wait()
    ok(mnt.live("prepared"), "it waits")
    write(d + "/go", "")
    is_("end", ended("prepared"), "succeeded 0")
    is_("once", text(d + "/ledger"), "ran\n")


if __name__ == "__main__":
    if sys.argv[1] == "--job":
        job(*sys.argv[2:5])
    elif sys.argv[1] == "--step":
        mnt.MNT = sys.argv[2]
        step(*sys.argv[3:6])
    else:
        main()
