"""Conversations: runs/new, runs/check, a draft's spec. See mnt.py for how this is run."""
import errno
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from mnt import (Failure, case, ctl, done, ended, errors, fails, idents, is_, kill_worker, kills, main, ok, path, put,
                 run, sh, sh_ok, since, slurp, status, submit, text, until, word)
import mnt

HELD = "hold=true -- "
MIB = 1 << 20


def new_rows(before):
    return errors()[before:]


def one_run(before):
    ids = since(before)
    is_("one run", len(ids), 1)
    return ids[0]


def specs(ids):
    return [text(run(i, "spec")) for i in ids]


def cancel(ids):
    for i in ids:
        try:
            ctl(i, "cancel")
        except OSError:
            pass


# --- shells and tools ---

def writers(form):
    """Commands that write $SPEC (a file) to runs/new, in the shells."""
    del form
    return {
        "cat": 'cat "$SPEC" >"$MNT/runs/new"',
        "cat append": 'cat "$SPEC" >>"$MNT/runs/new"',
        "cp": 'cp "$SPEC" "$MNT/runs/new"',
        "tee": 'tee "$MNT/runs/new" <"$SPEC" >/dev/null',
        "tee -a": 'tee -a "$MNT/runs/new" <"$SPEC" >/dev/null',
        "dd": 'dd if="$SPEC" of="$MNT/runs/new" bs=7 status=none',
        "dd bs=1": 'dd if="$SPEC" of="$MNT/runs/new" bs=1 status=none',
        "dd notrunc": 'dd if="$SPEC" of="$MNT/runs/new" conv=notrunc oflag=append bs=64k status=none',
        "echo": 'echo "$(cat "$SPEC")" >"$MNT/runs/new"',
        "printf": 'printf "%s\\n" "$(cat "$SPEC")" >"$MNT/runs/new"',
        "printf >>": 'printf "%s\\n" "$(cat "$SPEC")" >>"$MNT/runs/new"',
        "here-document": 'cat >"$MNT/runs/new" <<X\n$(cat "$SPEC")\nX\n',
        "sed": 'sed -n p "$SPEC" >"$MNT/runs/new"',
        "install": 'cat "$SPEC" | sh -c \'cat >"$MNT/runs/new"\'',
        "group": '{ cat "$SPEC"; } >"$MNT/runs/new"',
        "clobber": 'set -C; cat "$SPEC" >|"$MNT/runs/new"',
        "python": 'python3 -c \'import os,sys\nwith open(sys.argv[1], "w") as f: f.write(open(sys.argv[2]).read())\' '
                  '"$MNT/runs/new" "$SPEC"',
        "python pathlib": 'python3 -c \'import pathlib,sys\n'
                          'pathlib.Path(sys.argv[1]).write_text(open(sys.argv[2]).read())\' "$MNT/runs/new" "$SPEC"',
        "python shutil": 'python3 -c \'import shutil,sys\nshutil.copyfile(sys.argv[2], sys.argv[1])\' "$MNT/runs/new" "$SPEC"',
    }


FORMS = {
    "line": 'hold=true name=li -- echo "a  b" \\$HOME\n',
    "json": '{\n  "command": "echo {}[]",\n  "hold": true,\n  "env": {"A": "x\\"}y"}\n}\n',
    "script": '#!/bin/bash\n#SBATCH --hold\n\necho "one }"\nif true; then\n\techo two\nfi\n',
}


def each_writer(form):
    made = []
    with tempfile.NamedTemporaryFile("w", suffix=".spec") as f:
        f.write(FORMS[form])
        f.flush()
        for name, script in writers(form).items():
            for shell in ("bash", "dash"):
                if name.startswith("python") and shell == "dash":
                    continue
                if (name, shell, form) in (("echo", "dash", "json"), ("echo", "dash", "line")):
                    continue  # dash's echo turns backslashes into something else
                before = idents()
                r = sh(script, shell=shell, env={"SPEC": f.name})
                if r.returncode or r.stderr:
                    raise Failure("%s in %s: status %d %s" % (name, shell, r.returncode, r.stderr))
                os.readlink(path("last"))
                ids = since(before)
                if len(ids) != 1:
                    raise Failure("%s in %s: %d runs %r" % (name, shell, len(ids), specs(ids)))
                got = text(run(ids[0], "spec"))
                if got.rstrip("\n") != FORMS[form].rstrip("\n"):
                    raise Failure("%s in %s: the spec became %r" % (name, shell, got))
                made += ids
    cancel(made)


@case
def lines():
    """a line, by every way to write it, is one run with that spec"""
    each_writer("line")


@case
def json_documents():
    """a JSON document of several lines, by every way to write it, is one run with that spec"""
    each_writer("json")


@case
def scripts():
    """a batch script, by every way to write it, is one run with that spec"""
    each_writer("script")


@case
def shell_reports():
    """every tool reports a refused spec: exit status not 0"""
    before, rows = idents(), len(errors())
    for shell in ("bash", "dash"):
        for script in ('echo nodez=1 -- true >"$MNT/runs/new"', 'printf "nodez=1 -- true\\n" >"$MNT/runs/new"',
                       'printf \'{"a":1}\' >"$MNT/runs/new"', 'echo nodez=1 -- x | cat >"$MNT/runs/new"',
                       'echo nodez=1 -- x | tee "$MNT/runs/new" >/dev/null',
                       'echo nodez=1 -- x | dd of="$MNT/runs/new" status=none',
                       'echo nodez=1 -- x >"$T/x"; cp "$T/x" "$MNT/runs/new"',
                       'printf "#!/bin/sh\\n#SBATCH --no-such=1\\ntrue\\n" | cat >"$MNT/runs/new"',
                       'printf "#!/bin/sh\\n#SBATCH --no-such=1\\ntrue\\n" >"$T/x"; cp "$T/x" "$MNT/runs/new"',
                       'printf "#!/bin/sh\\nrm -rf ./a" | cat >"$MNT/runs/new"',
                       'printf "{\\"command\\": \\"true\\"" | cat >"$MNT/runs/new"',
                       'printf "rm -rf ./a" >"$T/x"; cp "$T/x" "$MNT/runs/new"'):
            r = sh(script, shell=shell, env={"T": os.environ.get("T", tempfile.gettempdir())})
            if r.returncode == 0:
                raise Failure("%s: no error for %s" % (shell, script))
            if "nput/output" in r.stderr and shell != "dash":
                raise Failure("%s: %s" % (script, r.stderr))
    until(lambda: len(errors()) - rows >= 24, "a row for each")
    is_("one row each", len(errors()) - rows, 24)
    is_("nothing was submitted", since(before), [])


@case
def two_specs_one_descriptor():
    """exec 3<>: two specs one after the other, each with its id and its decision, in bash and dash"""
    script = '''exec 3<>"$MNT/runs/new"
        echo true >&3; read -r a <&3; read -r w1 j1 <&3
        echo "{\\"command\\": \\"true\\"}" >&3; read -r b <&3; read -r w2 j2 <&3
        echo "nodez=1 -- true" >&3 2>/dev/null || echo refused; read -r why <&3; echo "$why" | grep -c nodez
        echo true >&3; read -r c <&3
        exec 3>&-; echo "$a $b $c $w1 $w2"; cat "$MNT/runs/$a/wait" "$MNT/runs/$b/wait" "$MNT/runs/$c/wait"'''
    for shell in ("bash", "dash"):
        before = idents()
        out = sh_ok(script, shell=shell).splitlines()
        ids = since(before)
        is_(shell, out, ["refused", "1", " ".join(ids) + " accepted accepted"] + ["succeeded 0"] * 3)


@case
def reading_in_pieces():
    """the answer can be read byte by byte, and ends"""
    fd = os.open(path("runs/new"), os.O_RDWR)
    before = idents()
    os.write(fd, b"true\n")
    got = b""
    while True:
        c = os.read(fd, 1)
        if not c:
            break
        got += c
    os.close(fd)
    ident = one_run(before)
    lines_ = got.decode().splitlines()
    is_("id", lines_[0], ident)
    ok(lines_[1].startswith("accepted "), repr(got))
    is_("lines", len(lines_), 2)


@case
def children():
    """children that inherit the descriptor (a FLUSH for each) change nothing"""
    before, rows = idents(), len(errors())
    sh_ok('exec 3<>"$MNT/runs/new"; /bin/true; printf "hold=true -- " >&3; /bin/true; (exit 0); echo late >&3; /bin/true;'
          'read -r id <&3; /bin/true; exec 3>&-')
    is_("the spec", specs(since(before)), ["hold=true -- late\n"])
    sh_ok('exec 3<>"$MNT/runs/new"; /bin/true; echo "#!/bin/sh" >&3; /bin/true; echo "#SBATCH -H" >&3; /bin/true; echo a >&3;'
          'sh -c : ; echo b >&3; exec 3>&-; readlink "$MNT/last"')
    is_("the script", specs(since(before))[1:], ["#!/bin/sh\n#SBATCH -H\na\nb\n"])
    is_("no rejection", len(errors()), rows)
    cancel(since(before))


@case
def append_and_truncate():
    """O_APPEND, O_TRUNC, truncate(1), touch, ftruncate: nothing happens but what is written"""
    before, rows = idents(), len(errors())
    sh_ok('touch "$MNT/runs/new"; truncate -s 0 "$MNT/runs/new"; truncate -s 100 "$MNT/runs/new"; : >"$MNT/runs/new";'
          ': >>"$MNT/runs/new"; touch -d yesterday "$MNT/runs/new"; truncate -s 0 "$MNT/runs/check"')
    for flags in (os.O_APPEND, os.O_TRUNC, os.O_CREAT | os.O_TRUNC, os.O_SYNC, os.O_CREAT | os.O_APPEND):
        fd = os.open(path("runs/new"), os.O_RDWR | flags)
        os.ftruncate(fd, 0)
        os.write(fd, (HELD + "x\n").encode())
        os.ftruncate(fd, 0)
        ok(os.read(fd, 100).strip().isdigit(), "an id")
        os.close(fd)
    fails(errno.EEXIST, "O_EXCL", os.open, path("runs/new"), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    fails(errno.ESPIPE, "pwrite", lambda: os.pwrite(os.open(path("runs/new"), os.O_RDWR), b"x", 5))
    fails(errno.ESPIPE, "lseek", lambda: os.lseek(os.open(path("runs/new"), os.O_RDWR), 0, os.SEEK_SET))
    fails(errno.EPERM, "chmod", os.chmod, path("runs/new"), 0o600)
    is_("runs", len(since(before)), 5)
    is_("no rejection", len(errors()), rows)
    cancel(since(before))


# --- pieces ---

def in_pieces(data, sizes):
    fd = os.open(path("runs/new"), os.O_RDWR)
    at = 0
    i = 0
    while at < len(data):
        n = sizes[i % len(sizes)]
        is_("whole write", os.write(fd, data[at:at + n]), len(data[at:at + n]))
        at += n
        i += 1
    return fd


@case
def pieces():
    """all three forms in writes of any size, cut anywhere, are the same spec"""
    before = idents()
    for form, spec in FORMS.items():
        for sizes in ([1], [2], [3, 1], [5, 13, 1], [1, 1000]):
            fd = in_pieces(spec.rstrip("\n").encode() + b"\n" if form != "json" else spec.rstrip("\n").encode(), sizes)
            ident = os.read(fd, 100).decode().strip()
            os.close(fd)
            is_("%s in pieces of %r" % (form, sizes), text(run(ident, "spec")).rstrip("\n"), spec.rstrip("\n"))
    cancel(since(before))


@case
def leading_blanks():
    """blank lines before a document do not matter, nor do those after it"""
    before = idents()
    for spec in ("\n \n{\"command\": \"true\", \"hold\": true}\n\n", "\n\nhold=true -- true\n", "\n#!/bin/sh\n#SBATCH -H\ntrue\n",
                 "\r\n\t{\"command\": \"true\", \"hold\": true}"):
        for step in (1, 5, 1000):
            fd = in_pieces(spec.encode(), [step])
            got = os.read(fd, 100)
            os.close(fd)
            ok(got.strip().isdigit(), "%r in steps of %d: %r" % (spec, step, got))
    is_("runs", len(since(before)), 12)
    cancel(since(before))
    before = idents()
    for shell in ("bash", "dash"):  # bash writes a line at a time
        for script in ('echo "$SPEC" >"$MNT/runs/new"', '{ echo; echo "$SPEC"; } >"$MNT/runs/new"', 'printf "\n%s\n" "$SPEC" >"$MNT/runs/new"'):
            r = sh(script, shell=shell, env={"SPEC": '\n{"command": "true",\n"hold": true}'})
            ok(r.returncode == 0 and not r.stderr, "%s in %s: %d %s" % (script, shell, r.returncode, r.stderr))
    is_("runs", len(since(before)), 6)
    cancel(since(before))


@case
@kills
def nothing():
    """blank lines alone, as of an empty variable, are no document: EINVAL at close and fsync, and a row; behind a document they are nothing"""
    before, rows = idents(), len(errors())
    for file in ("runs/new", "runs/check"):
        for blank in (b" \t\n", b"\n", b"\n\n"):
            fd = os.open(path(file), os.O_RDWR)
            os.write(fd, blank)
            if blank == b" \t\n":
                kill_worker()
            os.write(fd, blank)
            fails(errno.EAGAIN, "read", os.read, fd, 1000)
            fails(errno.EINVAL, "fsync", os.fsync, fd)
            fails(errno.EINVAL, "close", os.close, fd)
            if file == "runs/new":
                rows += 1
                until(lambda: len(errors()) == rows, "a row")
    rows = len(errors())  # a row of the moment before a kill may go with it
    ok(sh('echo >"$T/blank"; cp "$T/blank" "$MNT/runs/new"').returncode != 0, "cp says so")
    ok(sh("echo '' >\"$MNT/runs/new\"").returncode == 0, "the shell's echo hears nothing of it")
    until(lambda: len(errors()) - rows == 2, "rows")
    ok("empty" in errors()[-1]["why"], errors()[-1]["why"])
    fd = in_pieces(b'{"command": "true", "hold": true}\n\n', [33, 1])
    os.close(fd)
    is_("rows", len(errors()) - rows, 2)
    is_("runs", len(since(before)), 1)
    cancel(since(before))


@case
def no_shebang():
    """a batch script without its first line is refused with the line that is missing"""
    before = idents()
    for bad in (b"#SBATCH -N 1\nsrun x\n", b"# a comment\nhostname\n", b"cd /tmp\nhostname\n", b"#SBATCH -N 1\n"):
        for file in ("runs/new", "runs/check"):
            fd = os.open(path(file), os.O_RDWR)
            fails(errno.EINVAL, repr(bad), os.write, fd, bad)
            why = os.read(fd, 1000).decode()
            os.close(fd)
            ok("#!/bin/bash" in why, why)
    is_("runs", since(before), [])


@case
def editors():
    """what is made or replaced beside the files of the tree is EPERM, and a row says where it belongs; editors' helpers have none"""
    before, draft = len(errors()), run("editors")
    os.mkdir(draft)
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("true\n")
        f.flush()
        for what, script, part in (
                ("a file in runs/", 'echo true >"$MNT/runs/job"', "runs/job: there are no files in runs/ but those of the tree"),
                ("mv over new", 'cp "$F" "$F.2"; mv -f "$F.2" "$MNT/runs/new"; rc=$?; rm "$F.2"; exit $rc', "cat FILE > runs/new"),
                ("rm new", 'rm -f "$MNT/runs/new"', "runs/new cannot be removed or replaced"),
                ("an input beside files/", 'cp "$F" "$MNT/runs/editors/data.csv"', "runs/editors/files/data.csv"),
                ("a draft's spec replaced", 'cp "$F" "$F.2"; mv -f "$F.2" "$MNT/runs/editors/spec"; rc=$?; rm "$F.2"; exit $rc',
                 "cat FILE > runs/editors/spec")):
            rows = len(errors())
            ok(sh(script, env={"F": f.name}).returncode != 0, what + ": it succeeded")
            until(lambda: len(errors()) > rows, what + ": a row")
            ok(part in errors()[-1]["why"], "%s: %r" % (what, errors()[-1]["why"]))
    rows = len(errors())
    for helper in (".new.swp", "new~", "4913", "#new#", "new.swp"):
        fails(errno.EPERM, helper, open, path("runs", helper), "x")
    fails(errno.EPERM, "rename", os.rename, path("runs/new"), path("runs/list"))
    until(lambda: len(errors()) > rows, "a row")
    is_("rows", len(errors()) - rows, 1)
    ok(len(errors()) > before, "rows")
    os.rmdir(draft)


@case
def refused_in_a_loop():
    """files that are made again and again where there are none do not fill the journal: few rows, and one says how many had none"""
    rows = len(errors())
    for _ in range(300):
        fails(errno.EPERM, "a file in runs/", open, path("runs/output.txt"), "w")
    ok(len(errors()) - rows <= 25, "%d rows" % (len(errors()) - rows))

    def another():
        fails(errno.EPERM, "a file in runs/", open, path("runs/output.txt"), "w")
        return "more before it have no row" in errors()[-1]["why"]
    until(another, "a row about the others")


@case
def vim():
    """vim writes a line and a script with :w, and hears of a bad one"""
    if not shutil.which("vim"):
        return
    before = idents()
    with tempfile.TemporaryDirectory() as home:
        for lines, good in ((["hold=true -- echo from vim"], True), (["#!/bin/sh", "#SBATCH -H", "echo from vim"], True),
                            (["nodez=1 -- true"], False)):
            rows = len(errors())
            r = sh("vim -u NONE -es --not-a-term -c \"call setline(1, %s)\" -c 'w! runs/new' -c 'q!' </dev/null" % lines, env={"HOME": home},
                   cwd=path(""))
            is_("%r: %s" % (lines, r.stdout + r.stderr), r.returncode == 0, good)
            is_("rows for %r" % lines, len(errors()) - rows, 0 if good else 1)
    os.readlink(path("last"))
    is_("runs", len(since(before)), 2)
    cancel(since(before))


@case
def comment_line():
    """a line that begins with # is no job and not half a script"""
    before = idents()
    for step in (1, 5, 100):
        fd = os.open(path("runs/new"), os.O_RDWR)
        for i in range(0, 9, step):
            os.write(fd, b"# nothing"[i:i + step])
        fails(errno.EINVAL, "the end of the line", os.write, fd, b"\n")
        ok(len(os.read(fd, 1000)) > 10, "why")
        os.close(fd)
    is_("runs", len(since(before)), 0)


@case
def several_documents():
    """JSON documents in a row are jobs, an id a line, also when writes cut them anywhere"""
    docs = ['{"command": "echo %d", "hold": true}' % i for i in range(40)]
    for sep in ("", "\n", " \n\n "):
        for size in (17, 100, 1 << 20):
            before = idents()
            fd = in_pieces(sep.join(docs).encode(), [size])
            got = b""
            while got.count(b"\n") < 40:
                got += os.read(fd, 4096)
            os.close(fd)
            ids = since(before)
            is_("ids", got.decode().split()[:40], ids)
            is_("specs", specs(ids), docs)
            cancel(ids)


@case
def all_or_nothing():
    """one bad document among several: nothing is submitted, every error is told"""
    before, rows = idents(), len(errors())
    fd = os.open(path("runs/new"), os.O_RDWR)
    fails(errno.EINVAL, "write", os.write, fd, b'{"command": "true"} {"comand": "x"} {"command": "true", "nodez": 1}')
    why = os.read(fd, 4096).decode()
    ok("comand" in why and "nodez" in why, why)
    is_("end", os.read(fd, 100), b"")
    os.write(fd, b'{"command": "true"}')
    ok(os.read(fd, 100).strip().isdigit(), "goes on")
    os.close(fd)
    is_("runs", len(since(before)), 1)
    is_("rows", len(errors()) - rows, 1)


@case
def trailing():
    """anything after a complete line, or other text after JSON, in the same write is EINVAL and nothing is submitted"""
    before = idents()
    for bad in (b"true\nfalse\n", b"true\nfalse", b'{"command": "true"} x\n', b'{"command": "true"}\ntrue\n',
                b'{"command": "true"}#!/bin/sh\ntrue\n', b'{"command":"true"}}'):
        fd = os.open(path("runs/new"), os.O_RDWR)
        fails(errno.EINVAL, repr(bad), os.write, fd, bad)
        ok(len(os.read(fd, 1000)) > 10, "a reason")
        os.close(fd)
    is_("runs", since(before), [])


@case
def cut():
    """a document that is cut off is no job: close says EINVAL, and there is a row with the writer's uid"""
    before, rows = idents(), len(errors())
    for bad in (b"rm -rf /tmp/a", b'{"command": "x"', b"#!/bin/sh\nrm -rf ./da", b"#", b"#!", b'{"command": "x\\"}'):
        fd = os.open(path("runs/new"), os.O_WRONLY)
        os.write(fd, bad)
        fails(errno.EINVAL, "fsync of %r" % bad, os.fsync, fd)
        fails(errno.EINVAL, "close of %r" % bad, os.close, fd)
    until(lambda: len(errors()) - rows == 6, "six rows")
    for row in errors()[rows:]:
        is_("uid", row["uid"], os.getuid())
        ok("nothing was submitted" in row["why"] or "newline" in row["why"], row["why"])
    is_("runs", since(before), [])


@case
def kill_of_writer():
    """a writer that is killed half way leaves a row and no job"""
    before, rows = idents(), len(errors())
    sh("{ echo '#!/bin/sh'; echo 'rm -rf a'; printf 'rm -rf /home/'; kill -9 $$; } >\"$MNT/runs/new\"")
    until(lambda: len(errors()) == rows + 1, "a row")
    is_("runs", since(before), [])


# --- limits ---

@case
def largest():
    """1 MiB is taken, in writes of 128 KiB; one byte more is EFBIG; so it is byte by byte at the end"""
    before, rows = idents(), len(errors())
    head, tail = b"#!/bin/sh\n#SBATCH -H\n#", b"\n"
    spec = head + b"x" * (MIB - len(head) - len(tail)) + tail
    fd = in_pieces(spec, [128 << 10])
    ident = os.read(fd, 100).decode().strip()
    os.close(fd)
    is_("spec", slurp(run(ident, "spec")) == spec, True)
    is_("size", os.stat(run(ident, "spec")).st_size, MIB)
    fd = in_pieces(spec[:-1], [128 << 10])
    fails(errno.EFBIG, "one byte too many", os.write, fd, b"y\n")
    os.close(fd)
    fd = in_pieces(b'{"command": "true", "hold": true, "name": "a"' + b" " * (MIB - 46) + b"}", [128 << 10])
    ok(os.read(fd, 100).strip().isdigit(), "JSON of 1 MiB")
    os.close(fd)
    is_("rows", len(errors()) - rows, 1)
    is_("runs", len(since(before)), 2)
    cancel(since(before))


@case
def rest_of_refused():
    """what follows a document that was refused before its end is not taken for new commands"""
    before = idents()
    script = b"#!/bin/sh\n#" + b"x" * (MIB - 20) + b"\n"
    fd = in_pieces(script, [128 << 10])
    fails(errno.EFBIG, "too large", os.write, fd, b"echo one more line\n")
    fails(errno.EFBIG, "the next line", os.write, fd, b"rm -rf /tmp/nothing\n")
    fails(errno.EFBIG, "and the next", os.write, fd, b"reboot\n")
    ok(b"1 MiB" in os.read(fd, 1000), "the reason")
    os.write(fd, b"hold=true -- after the error was read\n")
    os.close(fd)
    is_("runs", specs(since(before)), ["hold=true -- after the error was read\n"])
    cancel(since(before))
    before = idents()
    deep = "[\n" * 70 + "]\n" * 70
    r = sh('printf \'{"command":"true","x":\n%s}\n\' "$DEEP" >"$MNT/runs/new"', env={"DEEP": deep})
    ok(r.returncode != 0, "bash's printf of a document that is too deep")
    is_("runs", specs(since(before)), [])


@case
def depth():
    """64 levels are a document, 65 are EINVAL"""
    def nested(n):
        return b'{"a":' * n + b"1" + b"}" * n
    fd = os.open(path("runs/new"), os.O_RDWR)
    fails(errno.EINVAL, "64 levels: unknown key", os.write, fd, nested(64))
    ok(b"deeper" not in os.read(fd, 1000), "64 levels are not too deep")
    fails(errno.EINVAL, "65 levels", os.write, fd, nested(65))
    ok(b"deeper than 64" in os.read(fd, 1000), "65 levels are")
    os.close(fd)


@case
def every_byte():
    """each byte value in each form: accepted or one error, never a hang"""
    before, rows, refused = idents(), len(errors()), 0
    for form in (b"hold=true -- echo %c\n", b'{"command": "echo %c", "hold": true}', b"#!/bin/sh\n#SBATCH -H\necho %c\n", b"%c", b"%c\n"):
        for b in range(256):
            data = form.replace(b"%c", bytes([b]))
            fd = os.open(path("runs/new"), os.O_RDWR)
            try:
                os.write(fd, data)
                os.close(fd)
            except OSError as e:
                is_("errno of %r" % data, e.errno, errno.EINVAL)
                refused += 1
                try:
                    os.close(fd)
                except OSError:
                    pass
    os.readlink(path("last"))
    ids = since(before)
    until(lambda: len(errors()) - rows + len(ids) >= 5 * 256 or len(since(before)) > len(ids), "all are accounted for")
    ok(len(errors()) - rows >= refused, "a row for each error")
    is_("all are accounted for", len(errors()) - rows + len(since(before)), 5 * 256)
    is_("alive", status(ids[0]) in ("pending", "queued", "submitting"), True)
    cancel(since(before))


@case
def random_bytes():
    """writes of random bytes never hang and never kill the daemon"""
    import random
    rng = random.Random(5)
    before = idents()
    for _ in range(300):
        fd = os.open(path("runs/new"), os.O_RDWR | os.O_NONBLOCK)
        try:
            for _ in range(rng.randint(1, 4)):
                n = rng.randint(1, 60)
                alphabet = rng.choice((bytes(range(256)), b'{}[]":,\\ \n#!ax=-', b"\x00\n{}"))
                os.write(fd, b"hold=true -- :" + bytes(rng.choice(alphabet) for _ in range(n)))
                os.read(fd, 500)
        except OSError as e:
            ok(e.errno in (errno.EINVAL, errno.EAGAIN), os.strerror(e.errno))
        try:
            os.close(fd)
        except OSError as e:
            is_("close", e.errno, errno.EINVAL)
    cancel(since(before))


# --- reading back ---

@case
def read_first():
    """a read before the first write is EAGAIN; so is one with half a document"""
    for file in ("runs/new", "runs/check", "clusters/local/runs/new"):
        fd = os.open(path(file), os.O_RDWR)
        fails(errno.EAGAIN, file, os.read, fd, 100)
        os.write(fd, b"hold=true")
        fails(errno.EAGAIN, file, os.read, fd, 100)
        fails(errno.EINVAL, "close", os.close, fd)
    is_("who only reads has no conversation", sh_ok('cat "$MNT/runs/new"'), "")


@case
def errors_read_back():
    """the text of an error is read back, all of it, then the end; and the row says the same"""
    fd = os.open(path("runs/new"), os.O_RDWR)
    fails(errno.EINVAL, "write", os.write, fd, b'{"command": "x", "nodes": "many", "tiem": 5, "time": "soon"}')
    why = b""
    while True:
        part = os.read(fd, 10)
        if not part:
            break
        why += part
    os.close(fd)
    for w in (b"nodes", b"tiem", b"time"):
        ok(w in why, why)
    row = errors()[-1]
    is_("row", row["why"].strip(), why.decode().strip())
    is_("text", row["text"], '{"command": "x", "nodes": "many", "tiem": 5, "time": "soon"}')
    is_("uid", row["uid"], os.getuid())


@case
def decision_waits():
    """the second line waits for the decision: EAGAIN with O_NONBLOCK, poll(2) says when, a signal ends it"""
    before = submit("sleep 3")
    fd = os.open(path("runs/new"), os.O_RDWR)
    os.write(fd, ("afterok=%s -- true\n" % before).encode())
    ident = os.read(fd, 100).decode().strip()
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
    fails(errno.EAGAIN, "not decided", os.read, fd, 100)
    p = select.poll()
    p.register(fd, select.POLLIN)
    is_("poll at once", p.poll(0), [])
    r = subprocess.Popen([sys.executable, "-c", "import os,sys\nos.set_blocking(int(sys.argv[1]), True)\n"
                          "os.read(int(sys.argv[1]), 100)", str(fd)], pass_fds=[fd])
    time.sleep(0.5)
    r.terminate()
    is_("a signal ends the wait", r.wait(10), -15)
    os.set_blocking(fd, False)
    start = time.monotonic()
    ok(p.poll(20000), "poll wakes")
    ok(time.monotonic() - start > 0.5, "not at once")
    ok(os.read(fd, 100).startswith(b"accepted "), "accepted")
    is_("the end", os.read(fd, 100), b"")
    os.close(fd)
    is_("ran", ended(ident), "succeeded 0")


@case
def refused_meanwhile():
    """a write that is refused while a reader waits for a decision begins anew: the reader goes, and what is written then is decided"""
    blocker = submit("sleep 30")
    pid = mnt.worker()
    fd = os.open(path("runs/new"), os.O_RDWR)
    os.write(fd, ("afterok=%s -- true\n" % blocker).encode())
    os.read(fd, 100)
    code = "import os,sys\nos.read(int(sys.argv[1]), 100)"
    readers = [subprocess.Popen([sys.executable, "-c", code, str(fd)], pass_fds=[fd]) for _ in range(2)]
    time.sleep(0.5)
    fails(errno.EINVAL, "refused", os.write, fd, b"nodez=1 -- true\n")
    readers[0].kill()
    readers[0].wait(10)
    ctl(blocker, "cancel")
    readers[1].wait(10)
    while b"nodez" in os.read(fd, 1000):
        pass
    is_("the end", os.read(fd, 1000), b"")
    os.write(fd, b"true\n")
    ident = os.read(fd, 1000).decode().strip()
    ok(ident.isdigit(), ident)
    ok(os.read(fd, 1000).startswith(b"accepted "), "what was written last is decided")
    os.close(fd)
    is_("the worker", mnt.worker(), pid)


@case
def shared_descriptor():
    """a reader that waits for the decision does not keep another process from writing on the same descriptor"""
    blocker = submit("sleep 30")
    fd = os.open(path("runs/new"), os.O_RDWR)
    os.write(fd, ("afterok=%s -- true\n" % blocker).encode())
    first = os.read(fd, 100).decode().strip()
    reader = subprocess.Popen([sys.executable, "-c", "import os,sys\nprint(os.read(int(sys.argv[1]), 100))", str(fd)],
                              pass_fds=[fd], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    start = time.monotonic()
    writer = subprocess.Popen([sys.executable, "-c", "import os,sys\nos.write(int(sys.argv[1]), b'hold=true -- two\\n')", str(fd)],
                              pass_fds=[fd])
    try:
        writer.wait(10)
    except subprocess.TimeoutExpired:
        ctl(blocker, "cancel")
        writer.wait(10)
        raise Failure("the writer waited for the reader") from None
    ok(time.monotonic() - start < 8, "the writer waited")
    ctl(blocker, "cancel")
    out, _ = reader.communicate(timeout=20)
    ok("'" in out, out)
    os.close(fd)
    ok(first.isdigit(), first)
    cancel(idents())


@case
def fsync_tells():
    """fsync: 0 when all is accepted, EINVAL for what is cut off or refused; a script is committed by it"""
    before = idents()
    fd = os.open(path("runs/new"), os.O_RDWR)
    os.fsync(fd)
    os.write(fd, b"true\n")
    os.fsync(fd)
    ident, decision, _ = os.read(fd, 100).decode().split("\n")
    ok(decision.startswith("accepted "), decision)
    is_("fsync waited", word(ident, "job_id") != "-", True)
    os.write(fd, b"#!/bin/sh\ntrue\n")
    os.fsync(fd)
    is_("committed", len(since(before)), 2)
    is_("id", os.read(fd, 100).decode().splitlines()[0], since(before)[1])
    os.write(fd, b"#!/bin/sh\ntrue")
    fails(errno.EINVAL, "cut script", os.fsync, fd)
    os.write(fd, b"\n")
    os.fdatasync(fd)
    is_("now it is whole", len(since(before)), 3)
    os.write(fd, b"#!/bin/sh\n#SBATCH --nodez=1\ntrue\n")
    fails(errno.EINVAL, "bad script", os.fsync, fd)
    os.close(fd)
    is_("runs", len(since(before)), 3)


@case
def script_read_back():
    """a read commits a script; a bad one is told by the read"""
    fd = os.open(path("runs/new"), os.O_RDWR)
    os.write(fd, b"#!/bin/sh\n")
    os.write(fd, b"exit 3\n")
    ident = os.read(fd, 100).decode().strip()
    is_("runs", ended(ident), "failed 3")
    ok(os.read(fd, 100).startswith(b"accepted"), "decision")
    os.write(fd, b"#!/bin/sh\n#SBATCH --nodez=3\nexit 3\n")
    ok(b"nodez" in os.read(fd, 1000), "why")
    os.close(fd)


@case
def check():
    """runs/check: effective spec and script, or every error; nothing is submitted; scripts and several documents too"""
    before, rows = idents(), len(errors())
    fd = os.open(path("runs/check"), os.O_RDWR)
    os.write(fd, b"nodes=1 -- hostname\n")
    got = b""
    while True:
        part = os.read(fd, 100)
        if not part:
            break
        got += part
    ok(b'"nodes"' in got and b"#!/bin/sh" in got, got[:200])
    fails(errno.EINVAL, "bad", os.write, fd, b"nodez=1 timee=3 -- hostname\n")
    why = os.read(fd, 1000)
    ok(b"nodez" in why and b"timee" in why, why)
    os.close(fd)
    out = sh_ok('exec 3<>"$MNT/runs/check"; printf "#!/bin/bash\\n#SBATCH -N 1\\nexit 0\\n" >&3; cat <&3')
    ok("exit 0" in out and '"nodes"' in out, out[:200])
    r = sh('printf "#!/bin/bash\\n#SBATCH --nodez=1\\nexit 0\\n" | cat >"$MNT/runs/check"')
    ok(r.returncode != 0, "cat tells")
    is_("runs", since(before), [])
    is_("a check is no rejection", len(errors()), rows)


@case
def check_of_the_largest():
    """the check of the largest script, which is more than 2 MiB, is read to its end"""
    head = b"#!/bin/sh\n#"
    fd = in_check = os.open(path("runs/check"), os.O_RDWR)
    spec = head + b'"\\' * ((MIB - len(head) - 1) // 2) + b"\n"
    for i in range(0, len(spec), 128 << 10):
        os.write(fd, spec[i:i + (128 << 10)])
    n = 0
    while True:
        part = os.read(in_check, MIB)
        if not part:
            break
        n += len(part)
        ok(n < 32 * MIB, "it does not end")
    os.close(fd)
    ok(n > 2 * MIB, "%d bytes" % n)


@case
def cluster_new():
    """clusters/NAME/runs/new submits there; a spec that names another cluster is EINVAL or goes there as it says"""
    before = idents()
    sh_ok('echo hold=true -- true >"$MNT/clusters/local/runs/new"')
    ident = one_run(before)
    is_("cluster", word(ident, "cluster"), "local")
    fails(errno.ENOENT, "no such cluster", put, path("clusters/nowhere/runs/new"), "true\n")
    cancel([ident])


@case
def template():
    """runs/template can be submitted as it is"""
    before = idents()
    sh_ok('cat "$MNT/runs/template" >"$MNT/runs/new"; readlink "$MNT/last" >/dev/null')
    ident = one_run(before)
    is_("ends", ended(ident), "succeeded 0")
    is_("spec", slurp(run(ident, "spec")), slurp(path("runs/template")))
    sh_ok('cp "$MNT/runs/template" "$MNT/runs/check"')
    for key in ("files", "workdir", "name", "args", "env.NAME", "afterok"):
        ok("\n#   %s=" % key in text(path("runs/template")), key)


@case
def spec_again():
    """cp runs/ID/spec runs/new submits it again, in all three forms"""
    for spec in FORMS.values():
        fd = in_pieces(spec.encode(), [1 << 20])
        first = os.read(fd, 100).decode().strip()
        os.close(fd)
        before = idents()
        sh_ok('cp "$MNT/runs/%s/spec" "$MNT/runs/new"; readlink "$MNT/last" >/dev/null' % first)
        again = one_run(before)
        is_("spec", slurp(run(again, "spec")), slurp(run(first, "spec")))
        cancel([first, again])


@case
def many_writers():
    """200 writers at once: all are accepted, ids are unique"""
    before = idents()
    r = sh('for i in $(seq 200); do echo "hold=true -- true $i" >"$MNT/runs/new" || echo bad & done; wait')
    is_("no error", r.stdout + r.stderr, "")
    ids = since(before)
    is_("runs", len(ids), 200)
    is_("each one", sorted(int(s.split()[-1]) for s in specs(ids)), list(range(1, 201)))
    cancel(ids)


@case
def readers_of_errors():
    """reading `errors` while it grows: whole rows, nothing twice; an open descriptor sees the news, as tail -f wants"""
    stop = threading.Event()
    bad = []

    def reader():
        while not stop.is_set():
            t = slurp(path("errors"))
            if not t.endswith(b"\n"):
                bad.append(t[-100:])
            for row in t.splitlines():
                try:
                    json.loads(row)
                except ValueError:
                    bad.append(row)
    thread = threading.Thread(target=reader)
    thread.start()
    fd = os.open(path("errors"), os.O_RDONLY)
    size = os.fstat(fd).st_size
    at = size
    for i in range(100):
        fd2 = os.open(path("runs/new"), os.O_WRONLY)
        fails(errno.EINVAL, "bad", os.write, fd2, b"nodez=%d -- x\n" % i)
        os.close(fd2)
        ok(os.fstat(fd).st_size > size, "the size grows")
        size = os.fstat(fd).st_size
    got = os.pread(fd, 1 << 20, at)
    os.close(fd)
    stop.set()
    thread.join()
    is_("whole rows", bad, [])
    is_("news", [json.loads(x)["text"] for x in got.decode().splitlines()], ["nodez=%d -- x\n" % i for i in range(100)])
    m = os.stat(path("errors")).st_mtime
    ok(abs(time.time() - m) < 20, "mtime of errors")


# --- drafts ---

@case
def draft_spec():
    """a draft's spec: pieces, a bad one leaves a draft, an equal one has no effect, another is EEXIST"""
    name = "conv-draft"
    os.mkdir(run(name))
    is_("empty", slurp(run(name, "spec")), b"")
    fails(errno.EBUSY, "wait", os.open, run(name, "wait"), os.O_RDONLY)
    fd = os.open(run(name, "spec"), os.O_RDWR)
    fails(errno.EINVAL, "bad", os.write, fd, b"nodez=1 -- x\n")
    ok(b"nodez" in os.read(fd, 1000), "why")
    is_("draft", status(name), "draft")
    os.write(fd, b"hold=true")
    os.write(fd, b" -- true\n")
    is_("id", os.read(fd, 100), name.encode() + b"\n")
    os.close(fd)
    put(run(name, "spec"), "hold=true -- true\n")
    fails(errno.EEXIST, "another", put, run(name, "spec"), "hold=true -- false\n")
    is_("spec", slurp(run(name, "spec")), b"hold=true -- true\n")
    fails(errno.EBUSY, "rmdir of a live run", os.rmdir, run(name))
    ctl(name, "cancel")
    ended(name)
    os.rmdir(run(name))
    fails(errno.ENOENT, "gone", os.stat, run(name))


@case
def draft_script():
    """a script into a draft, by cp: close submits it"""
    os.mkdir(run("conv-script"))
    sh_ok('printf "#!/bin/sh\\necho from a draft\\n" >"$T/s"; cp "$T/s" "$MNT/runs/conv-script/spec"; readlink "$MNT/last"',
          env={"T": tempfile.gettempdir()})
    is_("ends", ended("conv-script"), "succeeded 0")
    is_("log", slurp(run("conv-script", "log")), b"from a draft\n")
    os.rmdir(run("conv-script"))


# --- ctl ---

@case
def ctl_answers():
    """ctl: the list of verbs, the answer once, byte by byte too, errors with their text and errno"""
    ident = submit(HELD + "true")
    until(lambda: status(ident) == "pending", "pending")
    ok(b"cancel\n" in slurp(run(ident, "ctl")), "verbs")
    is_("size", os.stat(run(ident, "ctl")).st_size, len(slurp(run(ident, "ctl"))))
    fd = os.open(run(ident, "ctl"), os.O_RDWR)
    fails(errno.EINVAL, "unknown", os.write, fd, b"dance\n")
    ok(b"unknown verb 'dance'" in os.read(fd, 1000), "why")
    is_("end", os.read(fd, 1000), b"")
    fails(errno.EINVAL, "fsync", os.fsync, fd)
    fails(errno.EBUSY, "signal", os.write, fd, b"signal USR1\n")
    ok(b"not running" in os.read(fd, 1000), "why")
    os.write(fd, b"release\n")
    got = b""
    while True:
        c = os.read(fd, 1)
        if not c:
            break
        got += c
    ok(got.startswith(b"ok") and got.endswith(b"\n"), got)
    os.close(fd)
    is_("ran", ended(ident), "succeeded 0")
    fails(errno.ESRCH, "ended", ctl, ident, "cancel")
    fails(errno.EFBIG, "4097 bytes", ctl, ident, "x" * 4097)
    ident2 = submit(HELD + "true")
    out = sh_ok('exec 3<>"$MNT/runs/%s/ctl"; echo cancel >&3; read -r a <&3; echo "$a"' % ident2, shell="dash")
    ok(out.startswith("ok"), out)
    for file, verb in (("ctl", "reload"), ("clusters/local/ctl", "reconnect")):
        ok(verb in text(path(file)), file)
        fd = os.open(path(file), os.O_RDWR)
        fails(errno.EINVAL, file, os.write, fd, b"dance\n")
        ok(b"unknown verb" in os.read(fd, 1000), "why")
        os.close(fd)
    fd = os.open(path("clusters/local/ctl"), os.O_RDWR)
    os.write(fd, b"reconnect\n")
    is_("answer", os.read(fd, 100), b"ok\n")
    is_("end", os.read(fd, 100), b"")
    os.close(fd)


# --- the worker dies ---

@kills
@case
def killed_between_pieces():
    """half a document, kill -9 of the worker, the other half: one job with the whole spec"""
    before = idents()
    for form, spec in FORMS.items():
        data = spec.rstrip("\n").encode() + (b"" if form == "json" else b"\n")
        for at in (1, 2, len(data) // 2, len(data) - 1):
            fd = os.open(path("runs/new"), os.O_RDWR)
            os.write(fd, data[:at])
            kill_worker()
            os.write(fd, data[at:])
            kill_worker()
            ident = os.read(fd, 100).decode().strip()
            is_("spec of %s at %d" % (form, at), slurp(run(ident, "spec")), data)
            os.close(fd)
    is_("runs", len(since(before)), 12)
    cancel(since(before))


@kills
@case
def killed_in_conversation():
    """kill -9 between any two steps of a conversation: the same answers, nothing twice"""
    before = idents()
    fd = os.open(path("runs/new"), os.O_RDWR)
    ids = []
    for i in range(4):
        os.write(fd, b"true\n")
        kill_worker()
        got = os.read(fd, 100).decode()
        ok(got.strip().isdigit(), got)
        ids.append(got.strip())
        if i % 2:
            kill_worker()
        ok(os.read(fd, 100).startswith(b"accepted "), "decision")
        kill_worker()
        is_("end", os.read(fd, 100), b"")
    fails(errno.EINVAL, "bad", os.write, fd, b"nodez=1 -- x\n")
    kill_worker()
    ok(b"nodez" in os.read(fd, 1000), "why")
    fails(errno.EINVAL, "fsync after it", os.fsync, fd)
    os.write(fd, b'{"command": "true"}{"command":')
    kill_worker()
    os.write(fd, b'"true"}')
    ids += os.read(fd, 100).decode().split()
    while len(ids) < 6:
        ids += [w for w in os.read(fd, 100).decode().split("\n") if w.isdigit()]
    os.close(fd)
    is_("ids", ids, since(before))


def talk():
    """Two rounds, a refusal and a script on one descriptor, all read; the ids."""
    fd = os.open(path("runs/new"), os.O_RDWR)
    ids = []
    os.write(fd, b'{"command": "true", ')
    os.write(fd, b'"hold": true}')
    ids.append(os.read(fd, 100).decode())
    got = os.read(fd, 3) + os.read(fd, 100)
    ok(got.startswith(b"accepted ") and got.count(b"\n") == 1, "decision %r" % got)
    is_("end", os.read(fd, 100), b"")
    fails(errno.EINVAL, "bad", os.write, fd, b"nodez=1 -- x\n")
    ok(b"nodez" in os.read(fd, 1000), "why")
    is_("end", os.read(fd, 100), b"")
    os.write(fd, b"hold=true -- two\n")
    ids.append(os.read(fd, 100).decode())
    os.write(fd, b"#!/bin/sh\n#SBATCH -H\n")
    os.write(fd, b": three\n")
    while len(ids) < 3:
        ids += [w + "\n" for w in os.read(fd, 100).decode().split("\n") if w.isdigit()]
    os.fsync(fd)
    os.close(fd)
    sh_ok('printf "#!/bin/sh\\n#SBATCH -H\\n: four\\n" | cat >"$MNT/runs/new"; readlink "$MNT/last" >/dev/null')
    return [i.strip() for i in ids]


@kills
@case
def killed_at_each_point():
    """death at each numbered point on the way of a conversation: the same answers, every spec once"""
    death = mnt.Death()
    hits = 0
    for point in death.names:
        if point.split(".")[0] not in ("session", "conv", "store", "engine"):
            continue
        for passes in (1, 2, 5, 11):
            before, rows = idents(), len(errors())
            death.arm(point, passes)
            try:
                ids = talk()
            except (OSError, Failure, subprocess.SubprocessError) as e:
                raise Failure("%s, pass %d: %s" % (point, passes, e)) from e
            hits += death.disarm()
            new = since(before)
            is_("%s, pass %d: runs" % (point, passes), len(new), 4)
            is_("%s, pass %d: ids" % (point, passes), ids, new[:3])
            is_("%s, pass %d: last spec" % (point, passes), specs(new)[3], "#!/bin/sh\n#SBATCH -H\n: four\n")
            # The row is in the journal a moment after the writer's answer, and once more when the request is delivered again.
            ok(len(errors()) - rows <= 2, "%s, pass %d: %d rows" % (point, passes, len(errors()) - rows))
            cancel(new)
    ok(hits > 40, "%d deaths only" % hits)


@kills
@case
def killed_after_refusal():
    """what follows a document that was refused in its middle stays refused by the next worker, until it is read"""
    before = idents()
    fd = os.open(path("runs/new"), os.O_RDWR)
    fails(errno.EINVAL, "too deep", os.write, fd, b'{"a":' * 65)
    kill_worker()
    fails(errno.EINVAL, "the rest", os.write, fd, b"reboot\n")
    ok(b"deeper" in os.read(fd, 1000), "why")
    kill_worker()
    os.write(fd, b"hold=true -- ok\n")
    os.close(fd)
    is_("runs", specs(since(before)), ["hold=true -- ok\n"])
    cancel(since(before))


@kills
@case
def killed_with_ctl():
    """a verb's answer can be read from the next worker; it is not the list of verbs"""
    ident = submit(HELD + "true")
    until(lambda: status(ident) == "pending", "pending")
    fd = os.open(run(ident, "ctl"), os.O_RDWR)
    os.write(fd, b"release\n")
    kill_worker()
    answer = os.read(fd, 1000)
    # The next worker tells the cluster again; by then the job may be running, or over.
    ok(answer.startswith(b"ok") or b"pending" in answer or b"ended" in answer, "answer: %r" % answer)
    is_("end", os.read(fd, 1000), b"")
    fails((errno.EINVAL, errno.ESRCH), "bad", os.write, fd, b"dance\n")
    kill_worker()
    ok(b"errors" in os.read(fd, 1000), "where to look")
    is_("end", os.read(fd, 1000), b"")
    os.close(fd)
    is_("ran", ended(ident), "succeeded 0")


@kills
@case
def killed_at_close():
    """scripts that are closed while workers die: each is one job"""
    before = idents()
    stop = threading.Event()

    def killer():
        while not stop.is_set():
            kill_worker()
            os.stat(path("status"))  # the next one serves: the keeper gives up on workers that never do
            time.sleep(0.05)
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        for i in range(40):
            sh_ok('printf "#!/bin/sh\\n#SBATCH -H\\n: %d\\n" | cat >"$MNT/runs/new"' % i)
    finally:
        stop.set()
        thread.join()
    os.readlink(path("last"))
    is_("each once", sorted(int(s.split()[-1]) for s in specs(since(before))), list(range(40)))
    cancel(since(before))


@case
def handles_are_gone():
    """closed conversations leave no file in the state directory"""
    def left():
        return [f for f in os.listdir(os.path.join(mnt.STATE, "handles")) if not f.startswith(".")]
    until(lambda: not left(), "an empty directory")


if __name__ == "__main__":
    main()
