"""Files and directories: attributes, walks, areas, sets, poll(2), the page cache. See mnt.py for how this is run."""
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

from mnt import (Failure, Skip, case, ctl, ended, fails, finished, is_, kill_worker, kills, main, ok, path, purge, put, run, sh,
                 sh_ok, slurp, status, submit, text, until)
import mnt

HELD = "hold=true -- "
RUN_FILES = {"spec": 0o644, "effective": 0o444, "script": 0o444, "status": 0o444, "why": 0o444, "info": 0o444,
             "info.json": 0o444, "job_id": 0o444, "cluster": 0o444, "exit_code": 0o444, "stdout": 0o444, "stderr": 0o444,
             "log": 0o444, "history": 0o444, "metrics": 0o444, "metrics.json": 0o444, "ctl": 0o644,
             "events": 0o644, "events.rejected": 0o444, "context": 0o644}
PIPES_OWN = ("events", "context")  # Dagster's classes remove them, without effect
HIDDEN = ("wait", "stdout.follow", "stderr.follow", "log.follow", "events.follow")


class Scratch:
    """A directory that goes away."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="files.")
        return self.dir

    def __exit__(self, *exc):
        sh("chmod -R u+rwx %s; rm -rf %s" % (self.dir, self.dir))


def over(spec):
    return finished(submit(spec))


# --- attributes ---

@case
def modes_and_owners():
    """modes, owners, links and types of everything in a run directory"""
    ident = over('cp /proc/self/status $SLURMRAY_RESULTS/r; echo out; echo err >&2')
    is_("listing", sorted(os.listdir(run(ident))), sorted(list(RUN_FILES) + ["results", "files", "pipes"]))
    for name, mode in RUN_FILES.items():
        st = os.lstat(run(ident, name))
        is_("mode of " + name, oct(stat.S_IMODE(st.st_mode)), oct(mode))
        ok(stat.S_ISREG(st.st_mode), name + " is a file")
        is_("owner of " + name, (st.st_uid, st.st_gid, st.st_nlink), (os.getuid(), os.getgid(), 1))
    for name in HIDDEN:
        ok(stat.S_ISREG(os.lstat(run(ident, name)).st_mode), name)
    for d in ("results", "work", "files", "pipes"):
        ok(stat.S_ISDIR(os.lstat(run(ident, d)).st_mode), d)
    for d in ("", "runs", "by", "clusters", "by/status", "by/status/succeeded", "clusters/local", "clusters/local/runs"):
        st = os.lstat(path(d))
        ok(stat.S_ISDIR(st.st_mode) and st.st_nlink == 2 and st.st_uid == os.getuid(), d)
    out = sh_ok('ls -a "$MNT" "$MNT/runs/%s"' % ident)
    is_("dots", out.split().count(".") + out.split().count(".."), 4)
    is_("size of a link", os.lstat(path("last")).st_size, len(os.readlink(path("last"))))


def exact(ident):
    """Every listed file: its size is what can be read, unless it changed just then."""
    for name in RUN_FILES:
        p = run(ident, name)
        for _ in range(50):
            before = os.stat(p)
            data = slurp(p)
            after = os.stat(p)
            if before.st_size == after.st_size:
                break
            if name in ("stdout", "stderr", "log", "history") and not before.st_size <= len(data) <= after.st_size:
                raise Failure("%s: %d bytes between sizes %d and %d" % (name, len(data), before.st_size, after.st_size))
        if before.st_size == after.st_size and len(data) != before.st_size:
            again = os.stat(p)
            if again.st_size == after.st_size and len(slurp(p)) != len(data):
                continue
            raise Failure("%s: %d bytes, size %d" % (name, len(data), before.st_size))


@case
def sizes():
    """sizes are exact, in a draft, live and ended; wc -c agrees with stat"""
    os.mkdir(run("sizes-draft"))
    exact("sizes-draft")
    os.rmdir(run("sizes-draft"))
    ident = submit('for i in $(seq 40); do echo line $i; echo err $i >&2; sleep 0.05; done')
    while mnt.live(ident):
        exact(ident)
    finished(ident)
    exact(ident)
    for name in ("README", "runs/template", "clusters/local/ctl", "clusters/local/nodes", "clusters/local/nodes.json", "ctl",
                 "runs/list", "errors"):
        data = slurp(path(name))
        is_(name, os.stat(path(name)).st_size, len(data))
    out = sh_ok('cd "$MNT/runs/%s"; for f in *; do [ -f "$f" ] && [ "$(stat -c %%s "$f")" != "$(wc -c <"$f")" ] && echo $f; done; :'
                % ident)
    is_("wc -c", out, "")


@case
def mtimes():
    """mtimes: status when it changed, logs when they grew, runs/ when a run comes or goes; monotone; now and not later"""
    before = os.stat(path("runs")).st_mtime
    ident = submit('for i in 1 2 3 4 5; do echo $i; sleep 0.3; done; sleep 1')
    ok(os.stat(path("runs")).st_mtime > before, "runs/ changed")
    seen = {}
    while mnt.live(ident):
        for name in ("status", "log", "history", "info"):
            m = os.stat(run(ident, name)).st_mtime
            ok(m >= seen.get(name, 0) or not mnt.live(ident), "%s goes back by %f" % (name, seen.get(name, 0) - m))
            ok(m <= time.time() + 1, name + " is in the future")
            seen[name] = m
        time.sleep(0.05)
    finished(ident)
    steps = [json.loads(x) for x in text(run(ident, "history")).splitlines()]
    import datetime
    last = datetime.datetime.fromisoformat(steps[-1]["time"].replace("Z", "+00:00")).timestamp()
    for name in ("status", "exit_code", "history"):
        ok(abs(os.stat(run(ident, name)).st_mtime - last) < 0.001, name + " is of the last transition")
    log, stdout = os.stat(run(ident, "log")).st_mtime, os.stat(run(ident, "stdout")).st_mtime
    is_("log and stdout", log, stdout)
    ok(last - 3 < log < last - 0.5, "log is of the last line: %f before the end" % (last - log))
    before = os.stat(path("runs")).st_mtime
    purge(ident)
    ok(os.stat(path("runs")).st_mtime > before, "runs/ changed by a purge")


@case
def make():
    """make rebuilds what depends on a run once, and again when it should"""
    ident = over("echo data; echo 1 > $SLURMRAY_RESULTS/r")
    with Scratch() as d:
        with open(d + "/Makefile", "w", encoding="ascii") as f:
            f.write("all: a b c\na: %s\n\tcp $< $@\nb: %s\n\tcp $< $@\nc: %s\n\tcp $< $@\n" % (
                run(ident, "log"), run(ident, "results/r"), run(ident, "status")))
        sh_ok("make", cwd=d)
        r = sh("make -q", cwd=d)
        is_("up to date", r.returncode, 0)


@case
def whole_mount():
    """cp -a, cp -r, tar, rsync, grep -r and find -L over the whole mount, with live runs: status 0, nothing blocks"""
    over('echo wholly; echo r >$SLURMRAY_RESULTS/r; ln -s r $SLURMRAY_RESULTS/link; mkdir $SLURMRAY_RESULTS/d')
    quiet = submit('echo wholly; echo r >$SLURMRAY_RESULTS/r; sleep 600')
    held = submit(HELD + "true")
    os.mkdir(run("whole-draft"))
    until(lambda: slurp(run(quiet, "log")) == b"wholly\n", "its log")
    with Scratch() as d:
        for what in ("cp -a . %s/a", "cp -r . %s/r", "tar cf %s/t.tar .", "rsync -a . %s/s", "grep -r wholly . >%s/g",
                     "find -L . >%s/f", "tar cf - . | tar tf - >%s/l", "ls -lR . >%s/ls", "find . -type f -exec cat {} + >%s/cat",
                     "wc -c $(find . -type f) >%s/wc"):
            r = sh("set -o pipefail; " + what % d, cwd=mnt.MNT)
            is_(what, (r.returncode, r.stderr), (0, ""))
        is_("what was copied", slurp("%s/a/runs/%s/log" % (d, quiet)), b"wholly\n")
        is_("a conversation is an empty file", os.path.getsize(d + "/a/runs/new"), 0)
        is_("results of a live run", slurp("%s/r/runs/%s/results/r" % (d, quiet)), b"r\n")
    for ident in (quiet, held):
        ctl(ident, "cancel")
        ended(ident)
    os.rmdir(run("whole-draft"))


@kills
@case
def read_only_conversations():
    """a descriptor that is only for reading has no conversation: end of file, also after kill -9 of the worker"""
    fds = {f: os.open(path(f), os.O_RDONLY) for f in ("runs/new", "runs/check", "clusters/local/runs/new")}
    for _ in range(2):
        for name, fd in fds.items():
            is_(name, os.read(fd, 100), b"")
            is_(name, select.select([fd], [], [], 0)[0], [fd])
            os.fsync(fd)
        is_("cat", sh_ok('cat "$MNT"/runs/new "$MNT"/runs/check "$MNT"/clusters/local/runs/new'), "")
        kill_worker()
    for fd in fds.values():
        os.close(fd)
    fd = os.open(path("runs/new"), os.O_RDWR)
    fails(errno.EAGAIN, "before the first write", os.read, fd, 100)
    os.close(fd)


@case
def steady_times():
    """what nobody changed keeps its mtime: README, template, status, list"""
    ident = over("true")
    names = ("README", "runs/template", "status", "runs/list", "clusters/local/status", "errors", "ctl", "runs", "by", "")

    def look():
        return {n: (os.stat(path(n)).st_mtime_ns, os.stat(path(n)).st_ctime_ns) for n in names}
    before = look()
    time.sleep(0.05)
    is_("a moment later", look(), before)
    purge(ident)
    after = look()
    for n in ("status", "runs/list"):
        ok(after[n] > before[n], "%s changed by a purge" % n)
    is_("README", after["README"], before["README"])


@kills
@case
def stable():
    """inode numbers and mtimes of what is ended survive kill -9 of the worker"""
    ident = over("mkdir $SLURMRAY_RESULTS/d; echo 1 >$SLURMRAY_RESULTS/d/a; echo 2 >$SLURMRAY_RESULTS/b; echo x")
    sh_ok('ls -R "$MNT/runs/%s" >/dev/null' % ident)

    def look():
        out = sh_ok('cd "$MNT"; find README errors by/cluster runs/template runs/%s clusters -printf "%%i %%T@ %%s %%m %%p\\n"'
                    ' | grep -v -E "clusters/local/(queue|status|nodes|info|partitions|shares)"' % ident)
        return sorted(out.splitlines())
    before = look()
    ok(len(before) > 25, "enough files")
    numbers = [x.split()[0] for x in before if "by/cluster/" not in x]
    is_("inode numbers are unique", len(set(numbers)), len(numbers))
    for _ in range(3):
        kill_worker()
        is_("after a kill", sorted(set(look()) ^ set(before)), [])


# --- what may not be done ---

@case
def not_permitted():
    """create, unlink, rename, links, chmod, chown, truncate, writing what is not written: EPERM"""
    ident = over("echo 1 >$SLURMRAY_RESULTS/r")
    os.mkdir(run("perm-draft"))
    for d in (path(), path("runs"), path("by"), path("by/status"), path("by/status/succeeded"), path("clusters"),
              path("clusters/local"), path("clusters/local/runs"), run(ident), run(ident, "results"), run(ident, "files"),
              run(ident, "work"), run("perm-draft"), run("perm-draft", "results")):
        new = d + "/new_entry"
        fails(errno.EPERM, "create in " + d, os.open, new, os.O_WRONLY | os.O_CREAT, 0o600)
        fails(errno.EPERM, "symlink in " + d, os.symlink, "x", new)
        fails(errno.EPERM, "mkfifo in " + d, os.mkfifo, new)
        fails((errno.EPERM, errno.EXDEV), "link in " + d, os.link, run(ident, "log"), new)
        if d != path("runs"):
            fails(errno.EPERM, "mkdir in " + d, os.mkdir, new)
        fails(errno.EPERM, "chmod of " + d, os.chmod, d, 0o700)
        fails(errno.EPERM, "chown of " + d, os.chown, d, 1, 1)
        if d != path():
            fails((errno.EPERM, errno.EBUSY), "rename of " + d, os.rename, d, path("elsewhere"))
    for p in [run(ident, n) for n in RUN_FILES] + [path("README"), path("last"), path("runs/new"), run(ident, "results/r"),
                                                   path("by/status/succeeded", ident)]:
        if os.path.basename(p) in PIPES_OWN:
            os.unlink(p)
            ok(os.path.exists(p), p + " stays")
        else:
            fails(errno.EPERM, "unlink of " + p, os.unlink, p)
        fails(errno.EPERM, "rename of " + p, os.rename, p, path("x"))
        if os.path.islink(p):
            continue
        fails(errno.EPERM, "chmod of " + p, os.chmod, p, 0o700)
        fails(errno.EPERM, "chown of " + p, os.chown, p, 1, 1)
        if not stat.S_IMODE(os.stat(p).st_mode) & 0o200:
            fails(errno.EPERM, "writing " + p, os.open, p, os.O_WRONLY)
            fails(errno.EPERM, "truncating " + p, os.truncate, p, 0)
    for d in ("by/status", "clusters/local", "by", "runs"):
        fails(errno.EPERM, "rmdir " + d, os.rmdir, path(d))
    for d in ("results", "files", "work"):
        fails(errno.EPERM, "rmdir " + d, os.rmdir, run(ident, d))
    fails(errno.ENOTDIR, "rmdir of a file", os.rmdir, run(ident, "log"))
    fails(errno.ENOTDIR, "rmdir of a link", os.rmdir, path("last"))
    fails(errno.EISDIR, "writing a directory", os.open, run(ident), os.O_WRONLY)
    fails(errno.ENOTDIR, "O_DIRECTORY of a file", os.open, run(ident, "log"), os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open(run(ident), os.O_RDONLY | os.O_DIRECTORY))
    is_("log is untouched", slurp(run(ident, "results/r")), b"1\n")
    os.rmdir(run("perm-draft"))
    purge(ident)


@case
def mkdir_and_rmdir():
    """names of drafts; rmdir of a live run is EBUSY, of a draft and an ended run it purges; rm -r cancels nothing"""
    for name in ("new", "check", "template", "list", "last"):
        fails(errno.EEXIST, name, os.mkdir, run(name))
    for name in ("wait", "any", "wait-any", "9x", "-x", ".x", "a b", "a" * 129, "ä", "x\n", "a%", "a:b"):
        fails(errno.EINVAL, repr(name), os.mkdir, run(name))
    fails((errno.ENAMETOOLONG, errno.EINVAL), "256 bytes", os.mkdir, run("a" * 256))
    for name in ("a" * 128, "_x", "A.b-c_d"):
        os.mkdir(run(name))
        fails(errno.EEXIST, "again", os.mkdir, run(name))
        ok(name in os.listdir(path("runs")), "listed")
        is_("listed once", os.listdir(path("runs")).count(name), 1)
        os.rmdir(run(name))
        fails(errno.ENOENT, "gone", os.stat, run(name))
    ident = submit("sleep 30")
    until(lambda: status(ident) == "running", "running")
    fails(errno.EBUSY, "rmdir", os.rmdir, run(ident))
    ok(sh('rm -rf "$MNT/runs/%s"' % ident).returncode != 0, "rm -rf fails")
    shutil.rmtree(run(ident), ignore_errors=True)
    is_("still running", status(ident), "running")
    ctl(ident, "cancel")
    finished(ident)
    fd = os.open(run(ident, "log"), os.O_RDONLY)
    purge(ident)
    fails(errno.ENOENT, "stat", os.stat, run(ident))
    fails((errno.ENOENT, errno.ESTALE), "reading an open log", os.read, fd, 10)
    os.close(fd)
    fails(errno.ENOENT, "rmdir again", os.rmdir, run(ident))


# --- reading logs ---

@case
def tails():
    """tail -f, tail -F, head -c, dd skip, tac, less of a log that grows: every byte once"""
    ident = submit('for i in $(seq 30); do echo line $i; sleep 0.1; done')
    until(lambda: status(ident) != "pending", "a start")
    with Scratch() as d:
        jobs = [subprocess.Popen("exec " + c % run(ident, "log") + " >%s/%d" % (d, i), shell=True)
                for i, c in enumerate(("tail -s 0.1 -n +1 -f %s", "tail -s 0.1 -n +1 -F %s", "tail -s 0.1 -c +1 -f %s"))]
        follow = subprocess.Popen("cat %s >%s/follow" % (run(ident, "log.follow"), d), shell=True)
        finished(ident)
        log = slurp(run(ident, "log"))
        is_("log.follow ends", follow.wait(20), 0)
        until(lambda: all(os.path.getsize("%s/%d" % (d, i)) >= len(log) for i in range(3)), "tails have all")
        for j in jobs:
            j.kill()
            j.wait()
        for i in range(3):
            is_("tail %d" % i, slurp("%s/%d" % (d, i)), log)
        is_("follow", slurp(d + "/follow"), log)
        is_("log", log, b"".join(b"line %d\n" % i for i in range(1, 31)))
    is_("head -c", sh_ok('head -c 5 "$MNT/runs/%s/log"' % ident), "line ")
    is_("dd", sh_ok('dd if="$MNT/runs/%s/log" bs=1 skip=5 count=3 status=none' % ident), "1\nl")
    is_("tac", sh_ok('tac "$MNT/runs/%s/log" | head -n 1' % ident), "line 30\n")
    is_("tail -c", sh_ok('tail -c 8 "$MNT/runs/%s/log"' % ident), "line 30\n")
    is_("tail -n", sh_ok('tail -n 1 "$MNT/runs/%s/stdout"' % ident), "line 30\n")


@case
def random_preads():
    """pread at random offsets of a log of both streams, live and ended, is what the whole says"""
    ident = submit('for i in $(seq 300); do echo out $i; echo error $i >&2; [ $((i % 20)) = 0 ] && sleep 0.1; done; sleep 1')
    rng = random.Random(1)
    while mnt.live(ident):
        fd = os.open(run(ident, "log"), os.O_RDONLY)
        whole = slurp(run(ident, "log"))
        for _ in range(20):
            off, n = rng.randrange(len(whole) + 10), rng.randrange(1, 3000)
            is_("pread %d at %d" % (n, off), os.pread(fd, n, off)[:max(0, len(whole) - off)], whole[off:off + n])
        os.close(fd)
    finished(ident)
    whole = slurp(run(ident, "log"))
    is_("sum", len(whole), len(slurp(run(ident, "stdout"))) + len(slurp(run(ident, "stderr"))))
    for flags in (0, getattr(os, "O_DIRECT", 0), os.O_NONBLOCK):
        fd = os.open(run(ident, "log"), os.O_RDONLY | flags)
        for _ in range(100):
            off, n = rng.randrange(len(whole) + 10), rng.randrange(1, 5000)
            is_("pread", os.pread(fd, n, off), whole[off:off + n])
        is_("at the end", os.pread(fd, 10, len(whole)), b"")
        os.close(fd)


# --- walks ---

@case
def walkers():
    """cp -a, cp -r, rsync, tar, grep -r, find, du of ended and live runs: no hang, every byte"""
    a = over('echo hello; echo err >&2; mkdir -p $SLURMRAY_RESULTS/d/e; echo deep >$SLURMRAY_RESULTS/d/e/f; '
             'ln -s e/f $SLURMRAY_RESULTS/d/l; head -c 300000 /dev/urandom >$SLURMRAY_RESULTS/blob')
    os.mkdir(run("walk-draft"))
    put(run("walk-draft", "files/x"), "x", os.O_WRONLY | os.O_CREAT)
    held = submit(HELD + "true")
    want = {f: slurp(run(a, f)) for f in list(RUN_FILES) + ["results/d/e/f", "results/blob"] if f != "ctl"}
    with Scratch() as d:
        for tool in ("cp -a $SRC $DST", "cp -r $SRC $DST", "rsync -a $SRC $DST", "tar -C $MNT/runs -cf - $NAMES | tar -C $DST -xf -",
                     "rsync -a --checksum $SRC $DST", "cd $MNT/runs && find $NAMES | cpio -pdm --quiet $DST"):
            if tool.startswith("cd") and not shutil.which("cpio"):
                continue
            dst = d + "/copy"
            os.mkdir(dst)
            r = sh("set -o pipefail; " + tool, env={"SRC": " ".join(run(i) for i in (a, "walk-draft", held)), "DST": dst,
                                                    "NAMES": "%s walk-draft %s" % (a, held)})
            if r.returncode and not ("tar" in tool and "changed as we read" in r.stderr):
                raise Failure("%s: %d %s" % (tool, r.returncode, r.stderr))
            for f, data in want.items():
                is_("%s: %s" % (tool, f), slurp(os.path.join(dst, a, f)), data)
            is_("link", os.readlink(os.path.join(dst, a, "results/d/l")), "e/f")
            is_("draft", slurp(os.path.join(dst, "walk-draft/files/x")), b"x")
            st, src = os.stat(os.path.join(dst, a, "log")), os.stat(run(a, "log"))
            if tool != "cp -r $SRC $DST":
                ok(abs(st.st_mtime - src.st_mtime) < 1, tool + " keeps mtimes")
            sh_ok("chmod -R u+w %s; rm -rf %s" % (dst, dst))
        sh_ok('rsync -a $MNT/runs/%s %s/again' % (a, d))
        is_("rsync copies nothing twice", sh_ok('rsync -ai $MNT/runs/%s %s/again | grep -v -e /$ -e /ctl; :' % (a, d)), "")
    is_("grep -r", sh('grep -r -l "^deep$" "$MNT/runs"').stdout.strip(), run(a, "results/d/e/f"))
    ok(str(a) in sh_ok('find -L "$MNT/by/status/succeeded" -name f'), "find -L")
    ok(int(sh_ok('du -s --apparent-size "$MNT/runs/%s" | cut -f 1' % a)) >= 290, "du")
    ok(int(sh_ok('du -s "$MNT/runs/%s" | cut -f 1' % a)) >= 290, "du by blocks")
    sh_ok('cd "$MNT/runs/%s" && tar -cSf /dev/null .' % a)
    ctl(held, "cancel")
    os.rmdir(run("walk-draft"))


class Dirent(ctypes.Structure):
    _fields_ = [("d_ino", ctypes.c_uint64), ("d_off", ctypes.c_int64), ("d_reclen", ctypes.c_ushort),
                ("d_type", ctypes.c_ubyte), ("d_name", ctypes.c_char * 256)]


def libc():
    lib = ctypes.CDLL(None, use_errno=True)
    lib.opendir.restype = lib.readdir64.restype = ctypes.c_void_p
    lib.readdir64.argtypes = lib.rewinddir.argtypes = lib.telldir.argtypes = lib.closedir.argtypes = [ctypes.c_void_p]
    lib.telldir.restype = ctypes.c_long
    lib.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    return lib


def entries(lib, d):
    """Rest of a directory stream: (name, place before it, inode)."""
    got = []
    while True:
        at = lib.telldir(d)
        p = lib.readdir64(d)
        if not p:
            return got
        e = ctypes.cast(p, ctypes.POINTER(Dirent)).contents
        got.append((e.d_name.decode(), at, e.d_ino))


def streams(p):
    """rewinddir and seekdir give what readdir gave."""
    lib = libc()
    d = lib.opendir(p.encode())
    ok(d, "opendir " + p)
    first = entries(lib, d)
    lib.rewinddir(d)
    is_("rewinddir of " + p, [e[0] for e in entries(lib, d)], [e[0] for e in first])
    for i in (0, len(first) // 3, len(first) - 1, 1, len(first) // 2):
        lib.seekdir(d, first[i][1])
        is_("seekdir %d of %s" % (i, p), [e[0] for e in entries(lib, d)], [e[0] for e in first[i:]])
    lib.closedir(d)
    names = [e[0] for e in first]
    is_("no name twice", len(names), len(set(names)))
    for name, _, ino in first[:300]:
        if name != "..":
            is_("d_ino of " + name, ino, os.lstat(os.path.join(p, name)).st_ino)
    return names


@case
def directory_streams():
    """readdir, rewinddir, seekdir and d_ino of every kind of directory"""
    ident = over("cd $SLURMRAY_RESULTS; for i in $(seq 300); do echo $i >f$i; done; mkdir sub; echo x >sub/y")
    is_("results", len(streams(run(ident, "results"))), 303)
    for d in ("", "runs", "by", "clusters", "by/status", "by/status/succeeded", "clusters/local", "runs/%s" % ident,
              "runs/%s/results/sub" % ident, "runs/%s/files" % ident, "clusters/local/runs", "by/day"):
        names = streams(path(d))
        is_("dots of " + d, names[:2], [".", ".."])
        is_("listdir of " + d, sorted(os.listdir(path(d))), sorted(names[2:]))


# --- by/ ---

@case
def sets():
    """by/: names as they are or with %XX, long ones cut with a hash, values of each kind; links lead to the runs"""
    long = "\u00e4" * 60
    ident = submit(json.dumps({"command": "true", "name": "a/b c%d\u00e4.x-y_z", "tags": ["t1", "T.2_-", "x" * 128]}))
    other = submit(json.dumps({"command": "true", "name": long}))
    third = submit(json.dumps({"command": "true", "name": ".hidden"}))
    ok("a%2Fb%20c%25d%C3%A4.x-y_z" in os.listdir(path("by/name")), os.listdir(path("by/name")))
    ok("%2Ehidden" in os.listdir(path("by/name")), "a leading dot")
    shown = [n for n in os.listdir(path("by/name")) if n.startswith("%C3%A4%C3%A4")]
    is_("one long name", len(shown), 1)
    is_("its length", len(shown[0]), 128)
    is_("by the long name", os.listdir(path("by/name", shown[0])), [other])
    fails(errno.ENOENT, "the name as it is", os.stat, path("by/name", long))
    for kind, value in (("name", "a%2Fb%20c%25d%C3%A4.x-y_z"), ("tag", "t1"), ("tag", "T.2_-"), ("tag", "x" * 128),
                        ("cluster", "local"), ("day", time.strftime("%Y-%m-%d", time.gmtime()))):
        d = path("by", kind, value)
        ok(ident in os.listdir(d), d)
        ok(os.path.islink(os.path.join(d, ident)), "a link")
        is_("to", os.path.realpath(os.path.join(d, ident)), os.path.realpath(run(ident)))
        fails(errno.ENOENT, "a run that is not there", os.stat, os.path.join(d, "999999"))
        ok("wait" not in os.listdir(d), "unlisted")
    finished(ident), finished(other), finished(third)
    ok(ident in os.listdir(path("by/status/succeeded")), "its status")
    fails(errno.ENOENT, "no longer live", os.stat, path("by/status/running", ident))
    for i in (ident, other, third):
        purge(i)
    until(lambda: not os.path.exists(path("by/tag/t1")), "a tag goes with its runs")
    ok(sh_ok('find "$MNT/by" -maxdepth 2 | wc -l').strip().isdigit(), "find")


def tagged(tag, *commands):
    return [submit("tags=%s -- %s" % (tag, c)) for c in commands]


@kills
@case
def set_waits():
    """wait and wait-any: ends are counted, an empty set ends at once, the set is fixed at the first read and survives kills"""
    a, b, c = tagged("sw", "sleep 1", "sleep 1; exit 3", "sleep 2; kill -9 $$")
    start = time.monotonic()
    first = text(path("by/tag/sw/wait-any"))
    ok(first in ("%s succeeded 0\n" % a, "%s failed 3\n" % b), first)
    is_("all", sorted(text(path("by/tag/sw/wait")).splitlines()), ["failed 2", "succeeded 1"])
    ok(time.monotonic() - start > 1, "it waited")
    ended(c)
    ok(text(path("by/tag/sw/wait-any")).count("\n") == 1, "one answer")
    for empty in ("rejected", "timeout", "node_failed", "running"):
        if not os.listdir(path("by/status", empty)):
            is_("wait of an empty set", text(path("by/status", empty, "wait")), "")
            is_("wait-any of one", text(path("by/status", empty, "wait-any")), "")
    one = submit("tags=fix -- sleep 1.5")
    fd = os.open(path("by/tag/fix/wait"), os.O_RDONLY | os.O_NONBLOCK)
    fails(errno.EAGAIN, "not yet", os.read, fd, 100)
    later = submit("tags=fix hold=true -- true")
    p = select.poll()
    p.register(fd, select.POLLIN)
    is_("poll", p.poll(0), [])
    kill_worker()
    is_("poll after a kill", p.poll(0), [])
    reader = subprocess.Popen([sys.executable, "-c", "import os,sys\nfd=int(sys.argv[1])\nos.set_blocking(fd, True)\n"
                               "print(os.read(fd, 100).decode(), os.read(fd, 100))", str(fd)], pass_fds=[fd],
                              stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    kill_worker()
    out, _ = reader.communicate(timeout=20)
    is_("the first one alone", out, "succeeded 1\n b''\n")
    os.close(fd)
    fd = os.open(path("by/tag/fix/wait-any"), os.O_RDONLY | os.O_NONBLOCK)
    is_("any", os.read(fd, 3), ("%s succeeded 0\n" % one)[:3].encode())
    kill_worker()
    os.close(fd)
    fd = os.open(path("by/tag/fix/wait"), os.O_RDONLY | os.O_NONBLOCK)
    fails(errno.EAGAIN, "with the later one", os.read, fd, 100)
    p = select.poll()
    p.register(fd, select.POLLIN)
    is_("poll", p.poll(0), [])
    ctl(later, "cancel")
    ok(p.poll(20000), "poll wakes")
    is_("all", sorted(os.read(fd, 100).decode().splitlines()), ["cancelled 1", "succeeded 1"])
    os.close(fd)


# --- poll(2) ---

@kills
@case
def polls():
    """poll(2): wait at the end, log.follow when there is more and not before, across kill -9; writers may always write"""
    with Scratch() as d:
        ident = submit("cd %s; for i in 0 1 2; do until [ -e go$i ]; do sleep 0.05; done; echo word$i; done" % d)
        until(lambda: status(ident) == "running", "running")
        w = os.open(run(ident, "wait"), os.O_RDONLY | os.O_NONBLOCK)
        f = os.open(run(ident, "log.follow"), os.O_RDONLY | os.O_NONBLOCK)
        pw, pf = select.poll(), select.poll()
        pw.register(w, select.POLLIN)
        pf.register(f, select.POLLIN)
        for i in range(3):
            for _ in range(2):
                is_("wait: not yet", pw.poll(50), [])
                is_("log.follow: nothing more", pf.poll(50), [])
                fails(errno.EAGAIN, "wait", os.read, w, 100)
                fails(errno.EAGAIN, "log.follow", os.read, f, 100)
                kill_worker()
                is_("log.follow: nothing more for a new worker", pf.poll(0), [])
            woken = []
            t = threading.Thread(target=lambda: woken.extend(pf.poll(20000)))  # pylint: disable=cell-var-from-loop
            t.start()
            time.sleep(0.1)
            if i == 1:
                kill_worker()
            put("%s/go%d" % (d, i), "", os.O_CREAT | os.O_WRONLY)
            t.join(25)
            ok(woken, "log.follow wakes for line %d" % i)
            is_("the line", os.read(f, 100), b"word%d\n" % i)
        ok(pw.poll(20000), "wait wakes")
        is_("wait", os.read(w, 100), b"succeeded 0\n")
        ok(pf.poll(20000), "log.follow wakes for the end")
        is_("the end", os.read(f, 100), b"")
        os.close(w), os.close(f)
    for p in (run(ident, "ctl"), path("runs/new"), path("ctl")):
        fd = os.open(p, os.O_RDWR)
        q = select.poll()
        q.register(fd, select.POLLOUT)
        ok(q.poll(0), "POLLOUT of " + p)
        os.close(fd)
    is_("a plain log is always ready", bool(select.select([os.open(run(ident, "log"), os.O_RDONLY)], [], [], 0)[0]), True)


@kills
@case
def blocked_readers():
    """many readers of wait and log.follow: kills are not seen, signals end them"""
    ident = submit("sleep 2; echo one; sleep 1; exit 7")
    procs = [subprocess.Popen(["cat", run(ident, "wait")], stdout=subprocess.PIPE) for _ in range(30)]
    follow = [subprocess.Popen(["cat", run(ident, "log.follow")], stdout=subprocess.PIPE) for _ in range(10)]
    victims = [subprocess.Popen(["cat", run(ident, "wait")], stdout=subprocess.PIPE) for _ in range(10)]
    time.sleep(0.4)
    kill_worker()
    for v in victims:
        v.send_signal(signal.SIGINT)
    for v in victims:
        is_("a signal", v.wait(10), -2)
    for p in procs:
        is_("wait", p.communicate(timeout=30)[0], b"failed 7\n")
    for p in follow:
        is_("log.follow", p.communicate(timeout=30)[0], b"one\n")
        is_("exit", p.returncode, 0)


# --- files/ of a draft ---

def source(d):
    """A directory with a bit of everything."""
    os.makedirs(d + "/src/sub/deep")
    with open(d + "/src/plain", "w", encoding="ascii") as f:
        f.write("plain\n")
    with open(d + "/src/sub/exec", "w", encoding="ascii") as f:
        f.write("#!/bin/sh\necho run\n")
    os.chmod(d + "/src/sub/exec", 0o755)
    with open(d + "/src/sub/deep/blob", "wb") as f:
        f.write(os.urandom(700000))
    with open(d + "/src/with blank\nand newline", "w", encoding="ascii") as f:
        f.write("odd\n")
    with open(d + "/src/empty", "w", encoding="ascii"):
        pass
    with open(d + "/src/-dash", "w", encoding="ascii") as f:
        f.write("dash\n")
    with open(d + "/src/\u00fcml\u00e4ut", "w", encoding="ascii") as f:
        f.write("utf8\n")
    os.chmod(d + "/src/plain", 0o640)
    os.symlink("plain", d + "/src/link")
    os.symlink("sub/deep", d + "/src/dirlink")
    os.link(d + "/src/plain", d + "/src/hard")
    os.utime(d + "/src/plain", (1000000000, 1000000000))
    return d + "/src"


def tree(top, modes=True):
    """What there is, comparable."""
    got = {}
    for base, dirs, files in os.walk(top):
        for name in dirs + files:
            p = os.path.join(base, name)
            st = os.lstat(p)
            rel = os.path.relpath(p, top)
            if stat.S_ISLNK(st.st_mode):
                got[rel] = "-> " + os.readlink(p)
            elif stat.S_ISDIR(st.st_mode):
                got[rel] = "d %o" % stat.S_IMODE(st.st_mode) if modes else "d"
            else:
                got[rel] = "%s %d %s" % ("%o" % stat.S_IMODE(st.st_mode) if modes else "", st.st_size,
                                         hashlib.sha256(slurp(p)).hexdigest())
    return got


def mtimes_of(top):
    return {os.path.relpath(os.path.join(b, n), top): int(os.lstat(os.path.join(b, n)).st_mtime)
            for b, _, fs in os.walk(top) for n in fs if not os.path.islink(os.path.join(b, n))}


@case
def files_copies():
    """files/ takes cp -a, rsync -a, tar x, git clone: same bytes, modes, times and links"""
    with Scratch() as d:
        src = source(d)
        want, times = tree(src), mtimes_of(src)
        for i, tool in enumerate(("cp -a $SRC/. $DST/", "rsync -a $SRC/ $DST/", "rsync -aH $SRC/ $DST/",
                                  "tar -C $SRC -cf - . | tar -C $DST -xpf -", "cp -a $SRC/. $DST/ && rsync -a $SRC/ $DST/")):
            name = "files-%d" % i
            os.mkdir(run(name))
            sh_ok("set -o pipefail; umask 022; " + tool, env={"SRC": src, "DST": run(name, "files")})
            is_(tool, tree(run(name, "files")), want)
            got = mtimes_of(run(name, "files"))
            is_("times with " + tool, got, times)
            sh_ok('rm -r "$DST"/* && [ -z "$(ls -A "$DST")" ]', env={"DST": run(name, "files")})
            os.rmdir(run(name))
        if not shutil.which("git"):
            raise Skip("git is not installed")
        os.mkdir(run("files-git"))
        sh_ok('set -e; cd $D; export HOME=$D; git init -q repo; cd repo; git config user.email a@b; git config user.name n\n'
              'cp -r $SRC/sub .; git add .; git commit -qm first; git gc -q; cd ..; git clone -q repo $DST/clone; cd $DST/clone\n'
              'git status --short; git log --oneline | wc -l | grep -qx 1; echo more >>sub/exec; git config user.email a@b\n'
              'git config user.name n; git commit -qam second; git fsck 2>&1; git checkout -q HEAD~1; git stash list; git gc -q',
              env={"D": d, "SRC": src, "DST": run("files-git", "files")})
        os.rmdir(run("files-git"))


@case
def files_shipped():
    """files/ arrive in the job as they are, and are read-only afterwards"""
    with Scratch() as d:
        src = source(d)
        os.mkdir(run("files-job"))
        sh_ok("cp -a $SRC/. $DST/", env={"SRC": src, "DST": run("files-job", "files")})
        put(run("files-job", "spec"), "cat plain link sub/exec; ls -A | wc -l; sub/exec; sha256sum <sub/deep/blob\n")
        is_("ends", ended("files-job"), "succeeded 0")
        blob = hashlib.sha256(slurp(src + "/sub/deep/blob")).hexdigest()
        is_("the job's view", slurp(run("files-job", "log")).decode(),
            "plain\nplain\n#!/bin/sh\necho run\n10\nrun\n%s  -\n" % blob)
        for what, f, args in (("write", put, (run("files-job", "files/plain"), "x")),
                              ("create", os.open, (run("files-job", "files/new"), os.O_CREAT | os.O_WRONLY)),
                              ("unlink", os.unlink, (run("files-job", "files/plain"),)),
                              ("mkdir", os.mkdir, (run("files-job", "files/new"),)),
                              ("chmod", os.chmod, (run("files-job", "files/plain"), 0o777)),
                              ("truncate", os.truncate, (run("files-job", "files/plain"), 0)),
                              ("utime", os.utime, (run("files-job", "files/plain"), (1, 1))),
                              ("rename", os.rename, (run("files-job", "files/plain"), run("files-job", "files/p2"))),
                              ("link", os.link, (run("files-job", "files/plain"), run("files-job", "files/p2"))),
                              ("rmdir", os.rmdir, (run("files-job", "files/sub/deep"),))):
            fails(errno.EPERM, what + " after submission", f, *args)
        is_("modes without w", stat.S_IMODE(os.stat(run("files-job", "files/sub/exec")).st_mode), 0o555)
        finished("files-job")
        purge("files-job")


@kills
@case
def files_operations():
    """files/: rename, link, symlink, O_EXCL, append, truncate, holes, unlinked open files, renamed directories, kills"""
    os.mkdir(run("fops"))
    os.chdir(run("fops", "files"))
    try:
        file_operations()
    finally:
        os.chdir("/")
    os.rmdir(run("fops"))


def file_operations():
    fd = os.open("a", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    fails(errno.EEXIST, "O_EXCL", os.open, "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(fd, b"0123456789")
    is_("size", os.fstat(fd).st_size, 10)
    os.ftruncate(fd, 4)
    is_("truncated", (slurp("a"), os.fstat(fd).st_size), (b"0123", 4))
    os.pwrite(fd, b"x", 100000)
    is_("hole", (os.stat("a").st_size, slurp("a")[:6]), (100001, b"0123\0\0"))
    kill_worker()
    os.pwrite(fd, b"y", 0)
    is_("after a kill", os.pread(fd, 4, 0), b"y123")
    os.close(fd)
    put("a", "short", os.O_WRONLY | os.O_TRUNC)
    put("a", "+more", os.O_WRONLY | os.O_APPEND)
    is_("appended", slurp("a"), b"short+more")
    os.mkdir("d1", 0o750)
    is_("mode", stat.S_IMODE(os.stat("d1").st_mode), 0o750 & ~mask())
    os.mkdir("d1/sub")
    put("d1/sub/f", "in sub", os.O_WRONLY | os.O_CREAT)
    inner = os.open("d1/sub/f", os.O_RDWR)
    os.rename("d1", "d2")
    is_("renamed directory", slurp("d2/sub/f"), b"in sub")
    is_("its inode", os.fstat(inner).st_ino, os.stat("d2/sub/f").st_ino)
    kill_worker()
    is_("an open file below it, with a new worker", os.pread(inner, 100, 0), b"in sub")
    os.pwrite(inner, b"IN", 0)
    os.close(inner)
    is_("written", slurp("d2/sub/f"), b"IN sub")
    fails(errno.ENOTEMPTY, "rmdir", os.rmdir, "d2")
    put("b", "bee", os.O_WRONLY | os.O_CREAT)
    old = os.open("b", os.O_RDONLY)
    os.rename("a", "b")
    is_("rename over a file", slurp("b"), b"short+more")
    is_("the old one is still open", os.pread(old, 10, 0), b"bee")
    is_("fstat of it", os.fstat(old).st_size, 3)
    os.close(old)
    fails(errno.ENOENT, "gone", os.stat, "a")
    is_("mv -n", sh("echo 1 >n1; echo 2 >n2; mv -n n1 n2; cat n2 n1", cwd=os.getcwd()).stdout, "2\n1\n")
    fd = os.open("tmp", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"unlinked")
    os.unlink("tmp")
    is_("unlinked, open", (os.pread(fd, 100, 0), os.fstat(fd).st_size), (b"unlinked", 8))
    put("tmp", "another", os.O_WRONLY | os.O_CREAT)
    is_("the old one", os.pread(fd, 100, 0), b"unlinked")
    is_("the new one", slurp("tmp"), b"another")
    os.ftruncate(fd, 2)
    is_("truncating the old one", (os.fstat(fd).st_size, os.stat("tmp").st_size), (2, 7))
    os.close(fd)
    os.link("tmp", "tmp2")
    is_("link", (slurp("tmp2"), os.stat("tmp").st_nlink), (b"another", 2))
    os.symlink("/etc/passwd", "out")
    is_("symlink", os.readlink("out"), "/etc/passwd")
    fails(errno.EPERM, "fifo", os.mkfifo, "fifo")
    os.mkdir("other-kind")
    os.rmdir("other-kind")
    put("other-kind", "a file now", os.O_WRONLY | os.O_CREAT)
    ok(stat.S_ISREG(os.stat("other-kind").st_mode), "a file where a directory was")
    fd = os.open("locked", os.O_CREAT | os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    m = None
    os.write(fd, b"mapped")
    m = mmap.mmap(fd, 6, mmap.MAP_PRIVATE, mmap.PROT_READ)
    is_("private mapping", m[:], b"mapped")
    m.close()
    os.close(fd)
    os.chmod("tmp", 0o4755)
    is_("setuid is not kept", stat.S_IMODE(os.stat("tmp").st_mode), 0o755)
    os.chmod("tmp", 0o600)
    is_("chmod", stat.S_IMODE(os.stat("tmp").st_mode), 0o600)
    os.chown("tmp", os.getuid(), os.getgid())
    fails(errno.EXDEV, "rename out of it", os.rename, os.path.abspath("tmp"), "/tmp/x") \
        if os.stat("/tmp").st_dev != os.stat(".").st_dev else None
    fails((errno.ENAMETOOLONG, errno.EINVAL), "a long name", os.mkdir, "n" * 256)
    os.mkdir("n" * 255)
    sh_ok("for i in $(seq 200); do echo $i >m$i; done; rm m*; for i in $(seq 50); do mkdir -p p/q$i; done; rm -r p",
          cwd=os.getcwd())
    inodes = {n: os.lstat(n).st_ino for n in os.listdir(".")}
    kill_worker()
    is_("inodes after a kill", {n: os.lstat(n).st_ino for n in os.listdir(".")}, inodes)
    sh_ok("find . -depth -mindepth 1 -delete", cwd=os.getcwd())
    is_("empty", os.listdir("."), [])


def mask():
    m = os.umask(0)
    os.umask(m)
    return m


# --- results/ and work/ ---

@case
def results_names():
    """results/: 300 files, odd names, links inside and outside, a FIFO, setuid, empty and deep directories"""
    script = r'''cd $SLURMRAY_RESULTS; for i in $(seq 300); do echo $i >file$i; done
        mkdir -p a/b/c/d empty; echo deep >a/b/c/d/f; printf x >'with blank'; printf y >'new
line'; printf z >'ümläut'; printf d >-dash; printf q >"quo'te\"s"; : >zero; printf '\001' >"$(printf 'ctl\001x')"
        ln -s file1 inside; ln -s ../file2 a/up; ln -s /etc/passwd abs; ln -s ../../../outside out; ln -s a/b dir; ln -s nowhere dangling
        mkfifo pipe; cp file3 suid; chmod 4755 suid; echo s >secret; chmod 000 secret; printf '*' >'*'; printf b >'back\slash'
        '''
    fd = os.open(path("runs/new"), os.O_RDWR)
    os.write(fd, b"#!/bin/bash\n" + script.encode() + b"\n")
    ident = os.read(fd, 100).decode().strip()
    os.close(fd)
    is_("ends", ended(ident), "succeeded 0")
    r = run(ident, "results")
    names = set(os.listdir(r))
    want = {"file%d" % i for i in range(1, 301)} | {"a", "empty", "with blank", "new\nline", "ümläut", "-dash", "quo'te\"s", "zero",
                                                    "ctl\x01x", "inside", "dir", "suid", "*", "back\\slash", "dangling"}
    is_("missing", sorted(want - names), [])
    is_("too many", sorted(names - want - {"secret"}), [])
    for name, data in (("file7", b"7\n"), ("with blank", b"x"), ("new\nline", b"y"), ("ümläut", b"z"), ("-dash", b"d"), ("zero", b""),
                       ("quo'te\"s", b"q"), ("*", b"*"), ("back\\slash", b"b"), ("ctl\x01x", b"\x01"), ("a/b/c/d/f", b"deep\n"),
                       ("inside", b"1\n"), ("a/up", b"2\n"), ("dir/c/d/f", b"deep\n")):
        is_(name, slurp(os.path.join(r, name)), data)
        is_("size of " + name, os.stat(os.path.join(r, name)).st_size, len(data))
    is_("empty", os.listdir(r + "/empty"), [])
    is_("no setuid", stat.S_IMODE(os.stat(r + "/suid").st_mode) & 0o7000, 0)
    is_("executable", stat.S_IMODE(os.stat(r + "/suid").st_mode), 0o555)
    fails(errno.ENOENT, "dangling", os.stat, r + "/dangling")
    with Scratch() as d:
        sh_ok('cp -a "$R" "$D/copy"; rsync -a "$R/" "$D/rs"; diff -r "$D/copy" "$D/rs" --no-dereference', env={"R": r, "D": d})
    purge(finished(ident))


@kills
@case
def removed_results():
    """a result that was removed on the cluster is ENOENT or ESTALE, a shorter one ESTALE; never EIO, never a hang"""
    ident = over("cd $SLURMRAY_RESULTS; echo small >small; head -c 9000000 /dev/zero >big; head -c 6000000 /dev/zero >shrinks; "
                 "echo cached >cached; pwd")
    where = text(run(ident, "log")).strip()
    is_("fetched before", slurp(run(ident, "results/cached")), b"cached\n")
    shrinks = os.open(run(ident, "results/shrinks"), os.O_RDONLY)
    for name in ("small", "big", "cached"):
        os.unlink(os.path.join(where, name))
    os.truncate(os.path.join(where, "shrinks"), 1000)
    for name in ("small", "big"):
        is_("it is still listed", name in os.listdir(run(ident, "results")), True)
        for _ in range(2):
            fails((errno.ENOENT, errno.ESTALE), name, lambda n=name: slurp(run(ident, "results", n)))
    is_("fetched ones stay", slurp(run(ident, "results/cached")), b"cached\n")
    try:
        got = b""
        while True:
            part = os.read(shrinks, 1 << 20)
            if not part:
                break
            got += part
        raise Failure("a shorter file: %d bytes and no error" % len(got))
    except OSError as e:
        is_("a shorter file", e.errno, errno.ESTALE)
    os.close(shrinks)
    kill_worker()
    is_("fetched ones survive", slurp(run(ident, "results/cached")), b"cached\n")


@kills
@case
def big_results():
    """three readers of one 20 MB result at once, random preads, and a kill in the middle: every byte"""
    ident = over("head -c 20000000 /dev/urandom >$SLURMRAY_RESULTS/big; sha256sum <$SLURMRAY_RESULTS/big")
    want = text(run(ident, "log")).split()[0]
    p = run(ident, "results/big")
    procs = [subprocess.Popen(["sha256sum", p], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    time.sleep(0.05)
    kill_worker()
    for q in procs:
        out, _ = q.communicate(timeout=60)
        is_("sum", out.split()[:1], [want])
    whole = slurp(p)
    is_("whole", hashlib.sha256(whole).hexdigest(), want)
    other = over("cp %s $SLURMRAY_RESULTS/again" % os.path.join(text(run(ident, "info.json")) and p))
    rng = random.Random(3)
    fd = os.open(run(other, "results/again"), os.O_RDONLY)
    for i in range(60):
        off, n = rng.randrange(len(whole) + 100), rng.choice((1, 4096, 100000, 3000000))
        is_("pread %d at %d" % (n, off), os.pread(fd, n, off) == whole[off:off + n], True)
        if i == 20:
            kill_worker()
    os.close(fd)


@case
def live_areas():
    """results/ and work/ of a live run: what is there appears, grows and goes; nothing blocks"""
    with Scratch() as d:
        go = "until [ -e %s/go%%d ]; do sleep 0.05; done; " % d
        ident = submit("cd $SLURMRAY_RESULTS; echo one >grows; echo w >$OLDPWD/in-work; mkdir $OLDPWD/wd; echo y >$OLDPWD/wd/z; " +
                       go % 1 + "echo two >>grows; echo new >added; " + go % 2 + "rm added")
        until(lambda: status(ident) == "running", "running")
        until(lambda: os.path.exists(run(ident, "work/wd/z")), "the last of what it makes")
        is_("results", os.listdir(run(ident, "results")), ["grows"])
        is_("content", slurp(run(ident, "results/grows")), b"one\n")
        ok("in-work" in os.listdir(run(ident, "work")), "work/")
        is_("work", until(lambda: slurp(run(ident, "work/in-work")), "bytes"), b"w\n")
        is_("deeper", os.listdir(run(ident, "work/wd")), ["z"])
        until(lambda: os.stat(run(ident, "work/wd/z")).st_size == 2, "its bytes")
        is_("deeper still", slurp(run(ident, "work/wd/z")), b"y\n")
        fails(errno.EPERM, "writing", os.open, run(ident, "work/in-work"), os.O_WRONLY)
        fd = os.open(run(ident, "results/grows"), os.O_RDONLY)
        is_("before", os.pread(fd, 100, 0), b"one\n")
        put(d + "/go1", "", os.O_CREAT | os.O_WRONLY)
        until(lambda: os.fstat(fd).st_size == 8, "the size of an open file")
        until(lambda: os.pread(fd, 100, 0) == b"one\ntwo\n", "the bytes of an open file")
        until(lambda: "added" in os.listdir(run(ident, "results")), "another file")
        put(d + "/go2", "", os.O_CREAT | os.O_WRONLY)
        is_("ends", ended(ident), "succeeded 0")
        is_("at the end", os.listdir(run(ident, "results")), ["grows"])
        is_("open since it was live", os.pread(fd, 100, 0), b"one\ntwo\n")
        os.close(fd)
        is_("work/ of an ended run", slurp(run(ident, "work/in-work")), b"w\n")


@case
def announced():
    """what a line of the log says is so: names, sizes, listings and absence in results/ and work/ at the first look"""
    with Scratch() as d:
        ident = submit("cd $SLURMRAY_RESULTS; mkdir -p sub; n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n >f$n; echo $n >>all; "
                       "mkdir -p sub/d$n; echo x >sub/d$n/x; echo w >$OLDPWD/w$n; rm -f f$((n-1)); echo $n; "
                       "until [ -e %s/$n ]; do sleep 0.01; done; done" % d)
        size = 0
        with open(run(ident, "log.follow"), "rb", buffering=0) as log:
            for n in range(1, 61):
                is_("the line", log.read(100), b"%d\n" % n)
                size += len(str(n)) + 1
                if n % 3 == 0:
                    is_("read", slurp(run(ident, "results/f%d" % n)), b"%d\n" % n)
                    is_("size", os.stat(run(ident, "results/all")).st_size, size)
                elif n % 3 == 1:
                    is_("listed", sorted(os.listdir(run(ident, "results"))), sorted(["sub", "all", "f%d" % n]))
                    ok("w%d" % n in os.listdir(run(ident, "work")), "in work/")
                is_("deep", os.stat(run(ident, "results/sub/d%d/x" % n)).st_size, 2)
                fails(errno.ENOENT, "what was removed", os.stat, run(ident, "results/f%d" % (n - 1)))
                put("%s/%d" % (d, n), "", os.O_CREAT | os.O_WRONLY)
        is_("ends", ended(ident), "succeeded 0")


@case
def hostile_results():
    """results of a live and an ended run: strange names are names, links that lead out are not there, sizes are sizes"""
    def look(ident):
        d = run(ident, "results")
        is_("listed", sorted(os.listdir(d)), ["\n", " ", "$(x)", "-rf", "dir", "dot", "huge", "in", "up", "\udcff"])
        is_("a newline", slurp(d + "/\n"), b"n\n")
        is_("no text", slurp(d + "/\udcff"), b"b\n")
        is_("a link that stays", slurp(d + "/in"), b"n\n")
        is_("one from below", slurp(d + "/dir/up"), b"n\n")
        is_("a link to itself", os.readlink(d + "/dot"), ".")
        is_("through it", slurp(d + "/dot/dot/up/\n"), b"n\n")
        for name in ("out", "abs", "round", "fifo", "dir/out"):
            fails(errno.ENOENT, name, os.lstat, d + "/" + name)
        is_("huge", os.stat(d + "/huge").st_size, 4 << 40)
        with open(d + "/huge", "rb", buffering=0) as f:
            f.seek((4 << 40) - 3)
            is_("its end", f.read(10), b"end")
    with Scratch() as d:
        ident = submit("cd $SLURMRAY_RESULTS; echo n >$'\\n'; echo b >$'\\xff'; touch ' ' '$(x)' ./-rf; mkdir dir; ln -s . dot; ln -s $'\\n' in; "
                       "ln -s ../in dir/up; ln -s ../../x dir/out; ln -s .. out; ln -s /etc/passwd abs; ln -s dot/dot/../.. round; "
                       "ln -s dot up; mkfifo fifo; truncate -s $(((4 << 40) - 3)) huge; printf end >>huge; echo made; "
                       "until [ -e %s/go ]; do sleep 0.05; done" % d)
        until(lambda: slurp(run(ident, "log")) == b"made\n", "all of it")
        look(ident)
        put(d + "/go", "", os.O_CREAT | os.O_WRONLY)
        finished(ident)
        look(ident)


@case
def wide_results():
    """ls -l of 3,000 results of a live run, and a look at each: no listing for each name"""
    ident = submit("cd $SLURMRAY_RESULTS; for i in $(seq 3000); do echo $i >f$i; done; echo all; sleep 600")
    until(lambda: slurp(run(ident, "log")) == b"all\n", "all files")
    is_("listed", len(os.listdir(run(ident, "results"))), 3000)
    is_("ls -l", len(sh_ok('ls -l "$MNT/runs/%s/results"' % ident).splitlines()), 3001)
    is_("bytes", sum(os.stat(run(ident, "results/f%d" % i)).st_size for i in range(1, 3001)), sum(len(str(i)) + 1 for i in range(1, 3001)))
    names = streams(run(ident, "results"))
    is_("readdir, rewinddir and seekdir", len(names), 3002)
    for i in range(100):
        fails(errno.ENOENT, "what is not there", os.stat, run(ident, "results/none%d" % i))
    ctl(ident, "cancel")
    ended(ident)


# --- the page cache ---

def mapped(p):
    fd = os.open(p, os.O_RDONLY)
    try:
        with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as m:
            return m[:]
    finally:
        os.close(fd)


def drop_pages(p):
    fd = os.open(p, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@case
def shared_mappings():
    """logs and results of ended runs can be mapped shared; live ones cannot; private mappings of live ones are not kept"""
    with Scratch() as d:
        fifo = d + "/go"
        os.mkfifo(fifo)
        ident = submit("echo 12345; read x <%s; echo 67890; echo r >$SLURMRAY_RESULTS/r; "
                       "head -c 3000000 /dev/urandom >$SLURMRAY_RESULTS/m" % fifo)
        until(lambda: slurp(run(ident, "log")) == b"12345\n", "a line")
        fd = os.open(run(ident, "log"), os.O_RDONLY)
        fails(errno.ENODEV, "shared mapping of a live log", mmap.mmap, fd, 6, mmap.MAP_SHARED, mmap.PROT_READ)
        m = mmap.mmap(fd, 6, mmap.MAP_PRIVATE, mmap.PROT_READ)
        is_("private", m[:], b"12345\n")
        put(fifo, "\n")
        finished(ident)
        is_("log, mapped", mapped(run(ident, "log")), b"12345\n67890\n")
        is_("log, read", slurp(run(ident, "log")), b"12345\n67890\n")
        is_("through the old descriptor", os.pread(fd, 100, 0), b"12345\n67890\n")
        m.close()
        os.close(fd)
    is_("result, mapped", mapped(run(ident, "results/r")), b"r\n")
    is_("a larger one", hashlib.sha256(mapped(run(ident, "results/m"))).digest(),
        hashlib.sha256(slurp(run(ident, "results/m"))).digest())


MAPPER = """
import hashlib, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
n = 0
while not os.path.exists(sys.argv[3]):
    m.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if hashlib.sha256(m).hexdigest() != sys.argv[2]:
        sys.exit(3)
    n += 1
print(n)
"""


@kills
@case
def cache_and_kills():
    """cached logs and results are read, mapped and summed while workers die and pages are dropped: every byte, no error"""
    ident = over("head -c 3000000 /dev/urandom | base64 | tee $SLURMRAY_RESULTS/copy")
    want = hashlib.sha256(slurp(run(ident, "log"))).hexdigest()
    is_("the same", hashlib.sha256(slurp(run(ident, "results/copy"))).hexdigest(), want)
    whole = slurp(run(ident, "log"))
    with Scratch() as d:
        flag = d + "/over"
        mappers = [subprocess.Popen([sys.executable, "-c", MAPPER, run(ident, f), want, flag], stdout=subprocess.PIPE, text=True)
                   for f in ("log", "results/copy")]
        bad = []

        def reads(name):
            rng = random.Random(name)
            fd = os.open(run(ident, name), os.O_RDONLY)
            while not os.path.exists(flag):
                off, n = rng.randrange(len(whole)), rng.choice((1, 4096, 131072, 1 << 20))
                try:
                    if os.pread(fd, n, off) != whole[off:off + n]:
                        bad.append("pread of %s" % name)
                    if rng.random() < 0.1 and slurp(run(ident, name)) != whole:
                        bad.append("read of %s" % name)
                except OSError as e:
                    bad.append("%s: %s" % (name, e))
            os.close(fd)
        threads = [threading.Thread(target=reads, args=(n,)) for n in ("log", "stdout", "results/copy")]
        for t in threads:
            t.start()
        for _ in range(40):
            for f in ("log", "results/copy"):
                drop_pages(run(ident, f))
            time.sleep(random.uniform(0, 0.03))
            kill_worker()
        with open(flag, "w", encoding="ascii"):
            pass
        for t in threads:
            t.join(30)
        for m in mappers:
            out, _ = m.communicate(timeout=30)
            is_("a mapped reader", m.returncode, 0)
            print("# %s sums of a mapping" % out.strip())
        is_("reads", bad[:5], [])


# --- many ---

@case
def many_runs():
    """2,000 runs: listings are whole, walks end (times are printed)"""
    before = len(os.listdir(path("runs")))
    start = time.monotonic()
    docs = "".join('{"command": "true", "hold": true, "tags": ["many"], "name": "n%d"}\n' % (i % 7) for i in range(500))
    for i in range(4):
        fd = os.open(path("runs/new"), os.O_RDWR)
        os.write(fd, docs.encode())
        os.close(fd)
    print("# 2,000 runs in 4 writes: %.1f s" % (time.monotonic() - start))
    is_("listed", len(os.listdir(path("runs"))), before + 2000)
    names = streams(path("runs"))
    is_("readdir", len(names), before + 2002)
    is_("by tag", len(os.listdir(path("by/tag/many"))), 2000)
    is_("by/tag/many", len(streams(path("by/tag/many"))), 2002)
    is_("runs/list", len(text(path("runs/list")).splitlines()) >= 2001, True)
    first = sorted(os.listdir(path("by/tag/many")), key=int)[:500]
    for what in ("ls -lR %s", "find %s -type f", "grep -l pending %s"):
        where = " ".join(run(i) + ("/status" if what.startswith("grep") else "") for i in first)
        start = time.monotonic()
        r = sh(what % where)
        ok(len(r.stdout) > 10000 or what.startswith("grep"), what)
        print("# %s of 500 runs: %.1f s" % (what.split()[0], time.monotonic() - start))
    start = time.monotonic()
    sh_ok('find "$MNT/by" >/dev/null')
    print("# find by: %.1f s" % (time.monotonic() - start))
    start = time.monotonic()
    sh_ok('ls -l "$MNT/runs" >/dev/null')
    print("# ls -l runs: %.1f s" % (time.monotonic() - start))


if __name__ == "__main__":
    main()
