#!/usr/bin/env python3
"""Kills everything that slurmray consists of, over and over, while it is used, and then demands that nothing of it shows.

usage: torture.py      Environment: N=100 kills from outside, SEED=1, CLUSTER=local|demo, BUILD=build, KEEP=1 (keep the
directory), POINTS=conv.saved,... (N self-kills at each of these and nothing else)

Three kinds of death, the first two in turns and then the third:
  outside   kill -9 of the worker while a submission, a cancel or the read of a log has no answer, or at a random moment: N
  inside    the worker kills itself at a numbered point (backend/base/point.h); N/20 times at each, at one point in
            N/2 with a small N
  both      keeper and worker at once, then a mount with the same state; a quarter of N
On a testbed also the login node, the remote shells and the controller go away now and then.

Fifty readers, followers and a `tail -f` are blocked from before the first death of a worker until after the last one
(steady.py), and another reader comes every 10 ms. No reader or writer may notice a death of the first two kinds. At the end each submission that was acknowledged has run
once, every log is exact, every wait was answered rightly. Exit status 1 when anything was wrong; then the directory is
kept: `trace` says what was done when, `mount.log` what the daemon said.
"""
import os
import signal
import statistics
import sys
import threading
import time

import judge
import load
from jobs import Book, Payloads
from steady import BLOCKED, Steady
from world import PATIENCE, TOP, World

REACH = 8  # seconds in which an armed point should be passed
DURING = ("submission", "cancel", "log", "run")  # what a kill from outside waits for; runs there are always
SKIPPED = {"local": ("remote.", "events.", "clean.", "cache."), "demo": ("local.", "events.", "clean.", "cache.")}


class Executioner:
    def __init__(self, world, book, pulse, steady, n):
        self.world = world
        self.book = book
        self.pulse = pulse
        self.steady = steady
        self.rng = world.rng("kills")
        self.n = n
        self.done = []  # (time, kind)
        self.remounts = []  # seconds
        self.unreached = []
        self.blocked = []  # readers that were blocked, for each death of a worker
        self.during = {"submission": 0, "cancel": 0, "log": 0}  # kills from outside while such a call had no answer

    def plan(self):
        points = [p for p in self.world.page.names() if not p.startswith(SKIPPED[self.world.cluster])]
        only = [p for p in os.environ.get("POINTS", "").split(",") if p]
        if only:
            return [("inside", p) for p in only * self.n], []
        if self.n >= 20:
            inside = points * (self.n // 20)
            outside = self.n
        else:
            inside = self.rng.sample(points, self.n // 2)
            outside = self.n - len(inside)
        acts = [("outside", DURING[i % len(DURING)]) for i in range(outside)] + [("inside", p) for p in inside]
        both = [("both", None)] * max(1, self.n // 4)
        if self.world.cluster == "demo":
            faults = [("fault", self.rng.choice(FAULTS)) for _ in range(max(2, self.n // 10))]
            acts += faults[len(faults) // 4:]
            both += faults[:len(faults) // 4]
        self.rng.shuffle(acts)
        self.rng.shuffle(both)
        return acts, both

    def run(self):
        workers, both = self.plan()
        self.steady.begin()
        self.do(workers)
        self.steady.end()
        self.world.say("the workers' deaths are over")
        self.world.mounts_die = True
        if both:
            time.sleep(1)  # the next `tail -f` begins
            self.do(both)

    def do(self, acts):
        self.world.say("%d acts: %s" % (len(acts), {k: sum(a[0] == k for a in acts) for k in ("outside", "inside", "both", "fault")}))
        tries = {}
        last = time.monotonic()
        i = 0
        while i < len(acts):
            kind, what = acts[i]
            i += 1
            time.sleep(self.rng.uniform(0.05, 0.6))
            at = time.monotonic()
            if kind == "inside":
                at = self.inside(what)
                if at is None:
                    tries[what] = tries.get(what, 0) + 1
                    if tries[what] < 20:
                        acts.append((kind, what))
                    else:
                        self.unreached.append(what)
                    continue
            else:
                getattr(self, kind)(what)
            self.done.append((at, kind))
            self.world.note("kill %s %s" % (kind, what or ""))
            self.wait_alive()
            if time.monotonic() - last > 20:
                last = time.monotonic()
                self.world.say("%d of %d acts, %d submissions, %d runs not ended" %
                               (i, len(acts), len(self.book.jobs), len(self.book.live_ids())))

    def wait_alive(self):
        """Until a whole cycle of the pulse began after now."""
        begin = time.monotonic()
        while time.monotonic() < begin + PATIENCE:
            if self.pulse.cycles and self.pulse.cycles[-1][0] > begin:
                return
            if not self.book.live_ids() and time.monotonic() > begin + 2:
                return
            if not self.pulse.is_alive():
                raise RuntimeError("the pulse is dead")
            time.sleep(0.005)
        raise RuntimeError("the mount does not answer any more")

    def outside(self, what):
        if what in self.during:
            self.world.await_begin(what, REACH)
            time.sleep(self.rng.choice([0, 0, 0.0005, 0.002]))
        self.blocked.append(self.steady.check())
        busy = dict(self.world.busy)
        self.world.kill_worker()
        for kind in self.during:
            self.during[kind] += busy[kind] > 0

    def inside(self, name):
        """When it died, or None."""
        page = self.world.page
        number = page.names().index(name)
        before = page.total()
        busy = name.startswith(("session.", "engine.committed", "engine.applied", "store.", "spool."))
        rare = "cancel" in name or name == "conv.decided"
        page.arm(number, 1 if rare else self.rng.randint(1, 40 if busy else 3))
        if name == "session.taking-over":
            self.world.kill_worker()
        end = time.monotonic() + REACH
        while page.total() == before and time.monotonic() < end:
            time.sleep(0.001)
        page.disarm()
        if page.total() == before:
            return None
        self.blocked.append(self.steady.check())
        return time.monotonic()

    def both(self, _):
        begin = time.monotonic()
        self.world.kill_both(self.rng.random() < 0.5)
        self.world.mount()
        self.remounts.append(time.monotonic() - begin)

    def fault(self, name):
        self.world.say("fault: " + name)
        getattr(self, "fault_" + name)()

    def fault_login(self):
        self.world.on_testbed("sshd-stop")
        time.sleep(self.rng.uniform(0, 2))
        self.world.on_testbed("sshd-start")

    def fault_login_and_worker(self):
        self.world.on_testbed("sshd-stop")
        self.world.kill_worker()
        time.sleep(self.rng.uniform(0, 2))
        self.world.on_testbed("sshd-start")

    def fault_shells(self):
        """What the mount runs on the login node: below that sshd, and no job."""
        home = ("HOME=%s/home" % self.world.testbed).encode()
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open("/proc/%s/environ" % name, "rb") as f:
                    env = f.read().split(b"\0")
                if home in env and any(e.startswith(b"SSH_CONNECTION=") for e in env) and \
                        not any(e.startswith(b"SLURM_JOB_ID=") for e in env):
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                continue

    def fault_controller_frozen(self):
        self.world.on_testbed("ctld-freeze")
        time.sleep(self.rng.uniform(0, 3))
        self.world.on_testbed("ctld-thaw")

    def fault_controller_restarted(self):
        self.world.on_testbed("ctld-stop")
        time.sleep(self.rng.uniform(0, 2))
        self.world.on_testbed("ctld-start")

    def fault_controller_killed(self):
        """It forgets what it did in its last seconds."""
        self.world.on_testbed("ctld-kill")
        time.sleep(self.rng.uniform(0, 2))
        self.world.on_testbed("ctld-start")

    # --- what it cost

    def pauses(self, kinds):
        """For each kill the longest gap between two answers to the pulse around it."""
        ends = [c[1] for c in self.pulse.cycles]
        found = []
        for at, kind in self.done:
            if kind not in kinds:
                continue
            around = [e for e in ends if at - 0.5 < e < at + 3]
            gaps = [b - a for a, b in zip(around, around[1:]) if b > at - 0.05]
            if gaps:
                found.append(max(gaps))
        return found


FAULTS = ("login", "login_and_worker", "shells", "controller_frozen", "controller_restarted", "controller_killed")


def drain(world, book):
    """Waits until every run has ended."""
    limit = PATIENCE + 3 * len(book.live_ids()) + (120 if world.cluster == "demo" else 0)
    end = time.monotonic() + limit
    quiet = 0
    while time.monotonic() < end:
        left = []
        for name in os.listdir(world.path("runs")):
            if name in ("new", "check", "template", "list", "last"):
                continue
            with open(world.path("runs", name, "status")) as f:
                word = f.read().strip()
            if word in load.ENDED:
                book.note_ended(name)
            elif word != "draft":
                left.append((name, word))
        quiet = quiet + 1 if not left else 0
        if quiet > 2:
            return
        time.sleep(0.3)
    world.violation("not ended after %d s: %s" % (limit, left[:20]))


def finish_readers(world, actors):
    end = time.monotonic() + PATIENCE
    for name in ("blocked", "tail"):
        actors[name].join(max(0, end - time.monotonic()))
        if actors[name].is_alive() and name != "tail":
            world.violation("%s has not finished" % name)
    actors = {name: a for name, a in actors.items() if name != "steady"}
    for name, a in actors.items():
        if name.startswith("follower"):
            a.join(max(0, end - time.monotonic()))
    world.over = True
    for a in actors.values():
        a.join(10)
        if a.is_alive():
            world.violation("%s does not finish: it hangs in the mount" % a.name)


def seconds(values):
    if not values:
        return "-"
    return "median %.1f ms, max %.1f ms (%d)" % (1000 * statistics.median(values), 1000 * max(values), len(values))


def of_cluster(world, by_point):
    return {name: n for name, n in by_point.items() if not name.startswith(SKIPPED[world.cluster])}


def table(world, ex, jd, actors):
    n = jd.numbers
    deaths = world.page.deaths()
    passes = world.page.passes()
    print("\nkills per point (and how often each was passed):")
    for name in of_cluster(world, deaths):
        print("  %-24s %4d %9d" % (name, deaths[name], passes[name]))
    kinds = {k: sum(d[1] == k for d in ex.done) for k in ("outside", "inside", "both", "fault")}
    followed = sum(len(getattr(a, "results", [])) for a in actors.values())
    tails = sum(r[1] == "log" for r in actors["tail"].results) + 1
    rows = [
        ("kills of the worker from outside", kinds["outside"]),
        ("  while a submission had no answer", ex.during["submission"]),
        ("  while a cancel had none", ex.during["cancel"]),
        ("  while a log was read", ex.during["log"]),
        ("self-kills at a point", kinds["inside"]),
        ("  fewest at any point", min(of_cluster(world, deaths).values())),
        ("readers blocked at each, fewest", "%d of %d" % (min(ex.blocked), BLOCKED)),
        ("kills of keeper and worker", kinds["both"]),
        ("faults of the testbed", kinds["fault"]),
        ("submissions", n["submitted"]),
        ("  acknowledged", n["acked"]),
        ("  refused", n["refused"]),
        ("  unknown (the mount died under them)", n["unknown"]),
        ("executed", n["executed"]),
        ("cancelled", n["cancelled"]),
        ("  by Slurm: their number was given twice", n["given_twice"]),
        ("runs in the tree", len(jd.runs)),
        ("runs that needed another attempt", n["later_attempts"]),
        ("lost", n["lost"]),
        ("doubled", n["doubled"]),
        ("log bytes lost / repeated", "%d / %d" % (n["lost_bytes"], n["repeated_bytes"])),
        ("logs that are wrong", n["wrong_logs"]),
        ("bytes of logs compared", n["bytes"]),
        ("blocked readers that were answered", len(actors["blocked"].answers) + len(actors["steady"].answers)),
        ("pollers that were woken", len(actors["poller"].answers)),
        ("logs followed to their end", followed),
        ("  of which by tail -f", tails),
        ("Ctrl-C on a blocked reader", actors["interrupted"].count),
        ("reads of the 10 ms reader", len(actors["pulse"].cycles)),
        ("  its errors", actors["pulse"].errors),
        ("  its pause at a kill of the worker", seconds(ex.pauses(("outside", "inside")))),
        ("mounting again", seconds(ex.remounts)),
        ("violations", len(world.violations)),
    ]
    print()
    for what, value in rows:
        print("  %-40s %s" % (what, value))
    sys.stdout.flush()


def after_the_end(world, jd):
    """Unmounted, nothing is left; mounted again, everything is as it was."""
    world.epoch += 1
    world.unmount()
    end = time.monotonic() + 10
    while time.monotonic() < end and [p for p in world.marked() if not process_gone(p)]:
        time.sleep(0.05)
    for pid in world.marked():
        world.violation("a process is left: %d %s" % (pid, load_command(pid)))
    before = {i: r.digest() for i, r in jd.runs.items()}
    world.mount()
    for run_id, digest in before.items():
        if judge.Run(world, run_id).digest() != digest:
            world.violation("run %s is not what it was before the last mount" % run_id)
    world.epoch += 1
    world.unmount()


def process_gone(pid):
    return not os.path.exists("/proc/%d" % pid)


def load_command(pid):
    from world import command_line

    return command_line(pid)


def torture(world, n):
    book = Book(world, Payloads(world))
    world.write_config()
    world.mount()
    steady = Steady(world, book)
    actors = load.all_actors(world, book, steady)
    for a in actors.values():
        a.start()
    end = time.monotonic() + PATIENCE
    while not actors["pulse"].cycles and time.monotonic() < end:
        time.sleep(0.05)
    ex = Executioner(world, book, actors["pulse"], steady, n)
    ex.run()
    actors["steady"] = steady
    world.say("the killing is over; waiting for the ends")
    world.stopping = True
    drain(world, book)
    finish_readers(world, actors)
    jd = judge.Judge(world, book, actors)
    jd.all()
    after_the_end(world, jd)
    for name in ex.unreached:
        world.violation("nothing passed the point %s" % name)
    if not os.environ.get("POINTS"):
        for name, deaths in of_cluster(world, world.page.deaths()).items():
            if deaths < n // 20:
                world.violation("only %d deaths at %s" % (deaths, name))
    table(world, ex, jd, actors)


def main():
    n, seed = int(os.environ.get("N", "100")), os.environ.get("SEED", "1")
    cluster = os.environ.get("CLUSTER", "local")
    if cluster not in SKIPPED:
        print("CLUSTER is local or demo, not %s" % cluster)
        return 2
    binary = os.path.join(os.path.join(TOP, os.environ.get("BUILD", "build")), "slurmray")
    world = World(cluster, seed, binary, n < 20)
    print("torture: N=%d SEED=%s CLUSTER=%s in %s" % (n, seed, cluster, world.dir), flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background with SIGINT ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        torture(world, n)
    except KeyboardInterrupt:
        world.violation("interrupted")
    except Exception as e:
        import traceback

        world.violation("harness: %r\n%s" % (e, traceback.format_exc()))
    finally:
        world.stopping = world.over = True
        bad = bool(world.violations)
        world.clean_up(bad or bool(os.environ.get("KEEP")))
    if bad:
        print("FAILED: %d violations; seed %s" % (len(world.violations), seed))
        for v in world.violations[:60]:
            print("  " + v)
    else:
        print("passed; seed %s" % seed)
    sys.stdout.flush()
    os._exit(1 if bad else 0)  # threads that hang in a dead mount must not hold it


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    threading.excepthook = lambda args: os.write(2, ("thread: %r\n" % (args,)).encode())
    main()
