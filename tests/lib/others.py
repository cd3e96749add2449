"""Several users of one mount. Users are numbers: nothing needs an account. See mnt.py for how this is run."""
import errno
import os
import select
import stat
import threading
import traceback

from mnt import Failure, case, ctl, ended, errors, fails, is_, main, ok, path, purge, put, run, sh, slurp, status, submit, until

NAMED, NAMED_TOO, OTHER = 54321, 54323, 54322


def as_user(uid, f, *args):
    """Runs f(*args) in a process of that user; a Failure there is one here."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        why = ""
        try:
            os.chdir("/")
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            f(*args)
        except Failure as e:
            why = str(e)
        except BaseException:  # pylint: disable=broad-except
            why = traceback.format_exc()
        os.write(w, why.encode()[:60000])
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as pipe:
        why = pipe.read()
    os.waitpid(pid, 0)
    if why:
        raise Failure("as user %d: %s" % (uid, why))


def everything(ident):
    """(what, call) for each way in."""
    yield "listing", lambda: os.listdir(path())
    yield "listing runs", lambda: os.listdir(path("runs"))
    yield "stat of a name", lambda: os.stat(path("README"))
    yield "reading", lambda: slurp(path("README"))
    yield "status", lambda: slurp(run(ident, "status"))
    yield "log", lambda: slurp(run(ident, "log"))
    yield "stat of a log", lambda: os.stat(run(ident, "log"))
    yield "readlink", lambda: os.readlink(path("last"))
    yield "submitting", lambda: put(path("runs/new"), "true\n")
    yield "mkdir", lambda: os.mkdir(path("runs/mine"))
    yield "rmdir", lambda: os.rmdir(run(ident))
    yield "cancel", lambda: ctl(ident, "cancel")
    yield "ctl", lambda: put(path("ctl"), "stop\n")
    yield "truncate", lambda: os.truncate(path("runs/new"), 0)
    yield "chmod", lambda: os.chmod(run(ident, "log"), 0o777)
    yield "files/", lambda: put(run("others-draft", "files/x"), "x", os.O_CREAT | os.O_WRONLY)
    yield "unlink in files/", lambda: os.unlink(run("others-draft", "files/there"))
    yield "by/", lambda: os.listdir(path("by/status/succeeded"))
    yield "results", lambda: slurp(run(ident, "results/r"))
    yield "errors", lambda: slurp(path("errors"))


def setup():
    ident = submit("echo 1 >$SLURMRAY_RESULTS/r; echo out")
    ended(ident)
    if not os.path.exists(run("others-draft")):
        os.mkdir(run("others-draft"))
        put(run("others-draft", "files/there"), "x", os.O_CREAT | os.O_WRONLY)
    return ident


def nothing_works(ident):
    for what, call in everything(ident):
        fails((errno.EACCES, errno.EPERM) if what in ("chmod", "truncate") else errno.EACCES, what, call)


@case
def owner_only():
    """without --allow-other the kernel lets nobody in but the owner"""
    ident = setup()
    as_user(OTHER, nothing_works, ident)
    as_user(OTHER, lambda: fails(errno.EACCES, "stat", os.stat, path()))
    is_("mode", stat.S_IMODE(os.stat(path("runs/new")).st_mode), 0o644)


@case
def unnamed_user():
    """with --allow-other a user who is not named gets EACCES everywhere"""
    as_user(OTHER, nothing_works, setup())


def works(ident):
    uid = os.getuid()
    is_("listing", "runs" in os.listdir(path()), True)
    is_("log", slurp(run(ident, "log")), b"out\n")
    is_("results", slurp(run(ident, "results/r")), b"1\n")
    is_("link", os.readlink(path("last")), "runs/" + ident)
    mine = submit("sleep 1; echo mine")
    is_("wait", ended(mine), "succeeded 0")
    is_("its log", slurp(run(mine, "log")), b"mine\n")
    fails(errno.EINVAL, "a bad spec", put, path("runs/new"), "nodez=1 -- x\n")
    is_("the row says who", errors()[-1]["uid"], uid)
    fd = os.open(path("runs/new"), os.O_WRONLY)
    os.write(fd, b"cut")
    fails(errno.EINVAL, "cut", os.close, fd)
    until(lambda: errors()[-1]["text"] == "cut", "a row for what was cut off")
    is_("and its row says who", errors()[-1]["uid"], uid)
    name = "of%d" % uid
    os.mkdir(run(name))
    put(run(name, "files/in"), "data", os.O_CREAT | os.O_WRONLY)
    os.mkdir(run(name, "files/d"))
    os.rename(run(name, "files/in"), run(name, "files/d/in"))
    os.symlink("d/in", run(name, "files/link"))
    os.truncate(run(name, "files/d/in"), 2)
    is_("files", slurp(run(name, "files/link")), b"da")
    fails(errno.EPERM, "chown", os.chown, run(name, "files/d/in"), uid, uid)
    put(run(name, "spec"), "cat link; sleep 30\n")
    until(lambda: status(name) == "running", "running")
    p = select.poll()
    fd = os.open(run(name, "wait"), os.O_RDONLY | os.O_NONBLOCK)
    p.register(fd, select.POLLIN)
    is_("poll", p.poll(0), [])
    ctl(name, "cancel")
    ok(p.poll(20000), "poll wakes")
    os.close(fd)
    purge(name)
    fails(errno.EPERM, "unlink", os.unlink, run(ident, "log"))
    fails(errno.EPERM, "create", os.open, path("x"), os.O_CREAT | os.O_WRONLY)


@case
def named_user():
    """a user who is named may do all that the owner may"""
    for uid in (NAMED, NAMED_TOO):
        as_user(uid, works, setup())


@case
def warm_caches():
    """what the owner and a named user just looked at is not seen by others"""
    ident = setup()
    stop = threading.Event()

    def warm():
        while not stop.is_set():
            sh('ls -lR "$MNT/runs/%s" "$MNT/by" >/dev/null; cat "$MNT"/runs/%s/* >/dev/null; readlink "$MNT/last"' % (ident, ident))
    t = threading.Thread(target=warm)
    t.start()
    try:
        for _ in range(20):
            sh('ls -lR "$MNT" >/dev/null')
            as_user(OTHER, nothing_works, ident)
    finally:
        stop.set()
        t.join()


if __name__ == "__main__":
    main()
