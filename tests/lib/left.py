"""What is left of a Ray cluster in an allocation, found by its own directory, its nodes' temporary directories and ports, and
nothing else.

left.py note DIR FILE     DIR: the attempt's directory, of which the cluster is up; FILE: what is to be gone later
left.py left DIR FILE     a line for each thing that is still there; status 1 when there is any
"""
import glob
import json
import os
import sys


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def listening():
    """Socket inode -> port."""
    found = {}
    for name in "/proc/net/tcp", "/proc/net/tcp6":
        for line in read(name).decode().splitlines()[1:]:
            w = line.split()
            if w[3] == "0A":
                found[w[9]] = int(w[1].rsplit(":", 1)[1], 16)
    return found


def links(pid):
    for fd in glob.glob("/proc/%s/fd/*" % pid):
        try:
            yield os.readlink(fd)
        except OSError:
            pass


def born(pid):
    """The start time: a pid alone may be another's later."""
    stat = read("/proc/%s/stat" % pid).decode(errors="replace")
    words = stat.rsplit(")", 1)[-1].split()
    return words[19] if len(words) > 19 and words[0] != "Z" else None


def temporary(d):
    """The directories of its nodes: the ids of all clusters that DIR had are in the settings, or were."""
    ids = [line[4:] for line in read(d + "/ray-settings").decode().splitlines() if line.startswith("_id=")]
    return [p for i in ids for p in glob.glob("/tmp/sr-%s*" % i)]


def of(d, tmp):
    """Its processes: they name DIR, hold files of its directories, or have its mark."""
    uuid, num, attempt = d.split("/")[-4], d.split("/")[-2], d.split("/")[-1]
    mark = ("SLURMRAY_RAY_NODE=slurmray:%s/%s/%s@" % (uuid, num, attempt)).encode()
    me = os.getpid()
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == me:
            continue
        words = read("/proc/%s/cmdline" % pid).decode(errors="replace").split("\0")
        named = any(w.startswith(d + "/ray-") for w in words)
        held = any(x.startswith(t + "/") for x in links(pid) for t in tmp)
        if named or held or mark in read("/proc/%s/environ" % pid):
            yield pid, " ".join(words)[:100]


def main():
    verb, d, file = sys.argv[1:4]
    d = os.path.realpath(d)
    if verb == "note":
        tmp = temporary(d)
        found, ports, inodes = {}, set(), listening()
        for pid, _ in of(d, tmp):
            found[pid] = born(pid)
            ports |= {inodes[x[8:-1]] for x in links(pid) if x.startswith("socket:[") and x[8:-1] in inodes}
        with open(file, "w", encoding="ascii") as f:
            json.dump({"tmp": tmp, "pids": found, "ports": sorted(ports)}, f)
        print("%d processes, %d ports, %s" % (len(found), len(ports), " ".join(tmp)))
        return
    with open(file, encoding="ascii") as f:
        was = json.load(f)
    left = ["process %s %s" % p for p in of(d, was["tmp"])]
    left += ["process %s, which it had" % p for p, b in was["pids"].items() if b and born(p) == b]
    left += ["port %d" % p for p in set(was["ports"]) & set(listening().values())]
    left += ["directory " + t for t in was["tmp"] if os.path.exists(t)]
    print("\n".join(left))
    sys.exit(1 if left else 0)


main()
