"""Secrets: where they are at each stage of a run, and where they never are. See mnt.py.

$PLACES are the directories where a cluster keeps what it is sent, $CLUSTER is its name.
"""
import errno
import hashlib
import json
import os
import stat
import subprocess
import time

from mnt import (case, ctl, ended, errors, fails, finished, is_, kill_worker, kills, main, ok, path, purge, put, run, slurp,
                 status, submit, text, until)
import mnt

CLUSTER = os.environ["CLUSTER"]
T = os.environ["T"]
PLACES = os.environ["PLACES"].split(":")
serial = [0]


def fresh():
    """A value that was never anywhere; the needle is what is looked for, the value has what shells stumble over."""
    serial[0] += 1
    needle = "N33dle%dx%d" % (os.getpid(), serial[0])
    return needle, "%s '\"$(id)`id`\\ \t %%s\n\n" % needle


def files_with(needle, tops):
    found, needle = [], needle.encode()
    for top in tops:
        for d, _, names in os.walk(top):
            for name in names:
                p = os.path.join(d, name)
                try:
                    if stat.S_ISREG(os.lstat(p).st_mode) and needle in slurp(p):
                        found.append(p)
                except FileNotFoundError:
                    pass
                except OSError as e:
                    if e.errno not in (errno.EHOSTUNREACH, errno.EBUSY):
                        raise
    return found


def in_processes(needle):
    """Arguments of all processes."""
    found, own = [], str(os.getpid())
    for pid in os.listdir("/proc"):
        if pid.isdigit() and pid != own:
            try:
                if needle.encode() in slurp("/proc/%s/cmdline" % pid):
                    found.append(slurp("/proc/%s/cmdline" % pid).replace(b"\0", b" "))
            except OSError:
                pass
    return found


def places(needle, where):
    """Files that hold it: where they may be, and only for their owner."""
    is_("arguments of processes", in_processes(needle), [])
    is_("the mount", files_with(needle, [mnt.MNT]), [])
    found = files_with(needle, [mnt.STATE] + PLACES)
    for p in found:
        ok(any(w in p for w in where), "%s holds it" % p)
        try:
            modes = [oct(stat.S_IMODE(os.lstat(q).st_mode)) for q in (p, os.path.dirname(p))]
        except FileNotFoundError:  # the job has taken it meanwhile
            continue
        is_("mode of %s and above" % p, modes, ["0o600", "0o700"])
    return found


def gate(needle):
    return "%s/go.%s" % (T, needle.rpartition("x")[2])


def spec(needle, value, **keys):
    return json.dumps({"command": "printf %%s \"$TOKEN\" | sha256sum >$SLURMRAY_RESULTS/t; until [ -e %s ]; do sleep 0.1; done" % gate(needle),
                       "cluster": CLUSTER, "secret_env": {"TOKEN": value}, **keys})


def delivered(ident, value):
    is_("end", ended(ident), "succeeded 0")
    is_("what the job had", text(run(ident, "results/t")).split()[0], hashlib.sha256(value.encode()).hexdigest())


def go(needle):
    with open(gate(needle), "w", encoding="ascii"):
        pass


@case
def stages():
    """held, running, ended: in files of their own, 0600, until the job has it; then nowhere; never in the mount or in arguments"""
    needle, value = fresh()
    ident = submit(spec(needle, value, hold=True))
    until(lambda: status(ident) == "pending", "held")
    found = places(needle, ["/secrets/"])
    ok(any(p.startswith(mnt.STATE + "/secrets/") for p in found), "it is kept here: %s" % found)
    for name in ("spec", "effective"):
        ok("***" in text(run(ident, name)), "%s shows it was there" % name)
    ctl(ident, "release")
    until(lambda: status(ident) == "running", "running")
    until(lambda: not places(needle, ["/secrets/"]), "it is gone when the job has it")
    go(needle)
    delivered(ident, value)
    is_("at the end", places(needle, []), [])


@case
def files():
    """file: of this machine and cluster: of the cluster; the paths are shown, the contents are not"""
    needle, _ = fresh()
    other, _ = fresh()
    with open(T + "/local.key", "w", encoding="ascii") as f:
        f.write(needle + "\n")
    with open(PLACES[0] + "/site.key", "w", encoding="ascii") as f:
        f.write(other + "\n")
    ident = submit("cluster=%s secret_env.A=file:%s/local.key secret_env.B=cluster:%s/site.key -- printf %%s%%s \"$A\" \"$B\" | rev" % (
        CLUSTER, T, PLACES[0]))
    is_("end", ended(ident), "succeeded 0")
    finished(ident)
    is_("what it had", text(run(ident, "log"))[::-1], needle + other)
    ok("file:%s/local.key" % T in text(run(ident, "spec")), "spec shows the path")
    is_("of the file", places(needle, []), [])
    again = submit(text(run(ident, "spec")))
    is_("the same spec again", ended(again), "succeeded 0")
    ctl(ident, "retry")
    fails(errno.EINVAL, "a file that is not there", put, path("runs/new"),
          "cluster=%s secret_env.A=file:%s/none -- true\n" % (CLUSTER, T))
    ok("none" in errors()[-1]["why"], errors()[-1]["why"])
    gone = submit("cluster=%s secret_env.A=cluster:/none/such -- true" % CLUSTER)
    ok(ended(gone).startswith("failed"), "a file of the cluster that is not there: %s" % status(gone))
    ok("secret could not be read" in text(run(gone, "why")) and "/none/such" in text(run(gone, "why")), text(run(gone, "why")))


@case
def cancelled():
    """a run that never starts leaves nothing, here or there; nor does one that is purged, or was refused"""
    needle, value = fresh()
    ident = submit(spec(needle, value, hold=True))
    until(lambda: status(ident) == "pending", "held")
    ctl(ident, "cancel")
    ok(ended(ident).startswith("cancelled"), status(ident))
    until(lambda: not places(needle, ["/secrets/"]), "nothing is left")
    needle, value = fresh()
    ident = submit(spec(needle, value, afterok=[submit("hold=true cluster=%s -- true" % CLUSTER)]))
    ok(places(needle, [mnt.STATE + "/secrets/"]), "it waits here")
    ctl(ident, "cancel")
    ok(ended(ident).startswith("cancelled"), status(ident))
    until(lambda: not places(needle, []), "nothing is left")
    needle, value = fresh()
    for bad in (spec(needle, value, nonsense=1), spec(needle, value)[:-1] + " zap}", spec(needle, value).replace("{", "{,", 1),
                '{"command": "x", "secret_env": ["%s"]}' % needle, '{"command": "x", "secret_env": {"1": "%s"}}' % needle,
                '{"command": "x", "secret-env.A": "%s", "nodes": "many"}' % needle, "secret_env.A=%s -- true\n" % needle,
                "nodes=many secret-env.A='%s b' -- true\n" % needle, "secret_env.A=%s true\n" % needle,
                '{"command": "x", "secr\\u0065t_env": {"A": "%s"}, "nodes": "many"}' % needle):
        fails(errno.EINVAL, bad, put, path("runs/new"), bad)
        is_("refused: " + bad, places(needle, []), [])


@case
def equal():
    """equal but for the value is equal; what a spec shows is no value"""
    needle, value = fresh()
    os.mkdir(run("secret-step"))
    put(run("secret-step", "spec"), spec(needle, value, hold=True))
    put(run("secret-step", "spec"), spec(needle, "another", hold=True))
    put(run("secret-step", "spec"), text(run("secret-step", "spec")))
    fails(errno.EEXIST, "another name", put, run("secret-step", "spec"), spec(needle, value, hold=True).replace("TOKEN\":", "OTHER\":"))
    fails(errno.EINVAL, "a copy", put, path("runs/new"), text(run("secret-step", "spec")))
    ok("*** is what a spec shows in place of a value" in errors()[-1]["why"], errors()[-1]["why"])
    ctl("secret-step", "release")
    go(needle)
    delivered("secret-step", value)
    fails(errno.EINVAL, "retry", ctl, "secret-step", "retry")
    purge("secret-step")


@kills
@case
def deaths():
    """workers die meanwhile: the job gets it all the same, once, and nothing is left"""
    needle, value = fresh()
    ident = submit(spec(needle, value, hold=True))
    kill_worker()
    until(lambda: status(ident) == "pending", "held")
    ctl(ident, "release")
    kill_worker()
    until(lambda: status(ident) == "running", "running")
    kill_worker()
    until(lambda: not places(needle, ["/secrets/"]), "nothing is left")
    go(needle)
    delivered(ident, value)


@case
def requeued():
    """a job that Slurm may start again keeps it there until its last start has ended"""
    needle, value = fresh()
    ident = submit(spec(needle, value, requeue=True))
    until(lambda: status(ident) == "running", "running")
    ok(places(needle, ["/secrets/"]), "it is there")
    ctl(ident, "requeue")
    until(lambda: status(ident) == "pending", "pending again", 60)
    time.sleep(3)  # what is left of the first start must be gone (tests/real/t0310-slurm.t)
    subprocess.run(["scontrol", "update", "JobId=" + text(run(ident, "job_id")).strip(), "StartTime=now"], check=True, timeout=30,
                   env=dict(os.environ, SLURM_CONF=PLACES[1] + "/slurm.conf"))
    until(lambda: "restarts 1" in text(run(ident, "info")) and status(ident) == "running", "running again", 60)
    ok(places(needle, ["/secrets/"]), "it is still there")
    go(needle)
    delivered(ident, value)
    until(lambda: not places(needle, []), "nothing is left")


@case
def upload():
    """with large files beside it, which travel by another way"""
    needle, value = fresh()
    os.mkdir(run("secret-large"))
    with open(run("secret-large", "files", "big"), "wb") as f:
        f.write(b"x" * 2000000)
    put(run("secret-large", "spec"), spec(needle, value))
    until(lambda: status("secret-large") == "running", "running", 60)
    until(lambda: not [p for p in places(needle, ["/secrets/", "/files."])], "nothing is left")
    is_("files of the job", sorted(os.listdir(run("secret-large", "work"))), ["big"])
    go(needle)
    delivered("secret-large", value)


if __name__ == "__main__":
    main()
