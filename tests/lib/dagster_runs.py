"""Whole runs and steps of stock Dagster as jobs: slurmray_launcher.py and slurmray_executor.py of docs/examples/dagster. Needs the
environment of scripts/dagster-env, and in the environment MNT, CLUSTER, WORK (a directory of the test) and DAGSTER_HOME.

usage: dagster_runs.py [CASE...]   prints `ok NAME` or `not ok NAME`, reasons behind `# `
"""
import glob
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
from dagster import DagsterRunStatus as Status
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = os.path.join(HERE, "dagster_jobs.py")
MNT, CLUSTER, WORK = os.environ["MNT"], os.environ["CLUSTER"], os.environ["WORK"]
PATIENCE = 120
AT_ONCE = 1 if CLUSTER == "local" else 3  # a machine of two cores has the run's worker and one step
cases, failed = [], []


def case(f):
    cases.append(f)
    return f


def until(f, what):
    end = time.time() + PATIENCE
    while True:
        value = f()
        if value:
            return value
        if time.time() > end:
            raise AssertionError("waited in vain for " + what)
        time.sleep(.1)


def is_(what, got, want):
    if got != want:
        raise AssertionError("%s: %.600r, not %.600r" % (what, got, want))


def read(*path):
    with open(os.path.join(*path), encoding="utf-8", errors="replace") as f:
        return f.read()


def ledger(run_id):
    path = os.path.join(WORK, "ledger")
    return sorted(line.split(" ", 1)[1].strip() for line in read(path).splitlines() if line.startswith(run_id)) if os.path.exists(path) else []


def go_on(run_id):
    with open(os.path.join(WORK, run_id), "w", encoding="utf-8"):
        pass


class Runs:
    def __init__(self, instance):
        self.instance = instance

    def create(self, name, **tags):
        recon = ReconstructableJob.for_file(JOBS, name)
        return self.instance.create_run_for_job(recon.get_definition(), job_code_origin=recon.get_python_origin(),
                                                tags={"slurmray/" + k: v for k, v in tags.items()}).run_id

    def launch(self, name, **tags):
        run_id = self.create(name, **tags)
        self.instance.launch_run(run_id, None)
        return run_id

    def status(self, run_id):
        return self.instance.get_run_by_id(run_id).status

    def ended(self, run_id, want):
        def at_end():
            return self.instance.get_run_by_id(run_id).is_finished
        try:
            until(at_end, "the end of " + run_id)
            is_("status", self.status(run_id), want)
        except AssertionError as e:
            raise AssertionError("%s\n%s\n%s" % (e, "\n".join(self.told(run_id)[-30:]), "\n".join(
                "%s %s %s" % (p, read(p, "status").strip(), read(p, "why") + read(p, "log")[-3000:]) for p in jobs(run_id)))) from e

    def told(self, run_id):
        return ["%s %s" % (e.dagster_event.event_type_value if e.dagster_event else "-", e.message) for e in self.instance.all_logs(run_id)]

    def worker(self, run_id):
        """Its pid."""
        pids = [e.message.rsplit("pid: ", 1)[1].rstrip(").") for e in self.instance.all_logs(run_id) if "Started process for" in e.message]
        return [int(p) for p in pids]

    def health(self, run_id):
        return self.instance.run_launcher.check_run_worker_health(self.instance.get_run_by_id(run_id))

    def monitor(self):
        """What the daemon does every two minutes."""
        import logging

        class Context:
            instance = self.instance

            @staticmethod
            def create_request_context():
                return None
        errors = [e for e in execute_run_monitoring_iteration(Context, logging.getLogger("monitor")) if e]
        is_("monitoring", errors, [])

    def kill_worker(self, run_id, which=0):
        until(lambda: len(self.worker(run_id)) > which, "a worker")
        os.kill(self.worker(run_id)[which], signal.SIGKILL)
        until(lambda: self.health(run_id).status == WorkerStatus.FAILED, "its end")


def jobs(run_id):
    return sorted(glob.glob("%s/by/tag/dagster_%s/*" % (MNT, run_id)))


def effective(job, key):
    return json.loads(read(job, "effective")).get(key, {}).get("value")


@case
def success(r):
    """a run is a job; its tags say what the job needs"""
    run_id = r.launch("well", time="7", config=json.dumps({"cpus_per_task": 1, "env": {"COLOUR": "blue"}}))
    with ThreadPoolExecutor() as pool:
        list(pool.map(r.instance.run_launcher.launch_run, [LaunchRunContext(r.instance.get_run_by_id(run_id), None)] * 4))
    r.ended(run_id, Status.SUCCESS)
    is_("what ran", ledger(run_id), ["good blue"])
    job, = jobs(run_id)
    is_("time", effective(job, "time"), "7")
    is_("cluster", effective(job, "cluster"), CLUSTER)
    is_("from dagster.yaml", effective(job, "ntasks"), 1)
    until(lambda: r.health(run_id).status == WorkerStatus.SUCCESS, "the end of its job")
    is_("terminate", r.instance.run_launcher.terminate(run_id), False)
    is_("arguments", "sqlite" in read(job, "script") or "local_artifact" in read(job, "script"), False)


@case
def failing(r):
    """an op that fails fails the run; a spec that is refused says why"""
    run_id = r.launch("broken")
    r.ended(run_id, Status.FAILURE)
    is_("told", any("STEP_FAILURE" in t for t in r.told(run_id)), True)
    run_id = r.create("well", nodez="2")
    try:
        r.instance.launch_run(run_id, None)
        raise AssertionError("it was launched")
    except dg.DagsterError as e:
        is_("says why", "nodez" in str(e) and "nodes" in str(e), True)
    is_("status", r.status(run_id), Status.FAILURE)


@case
def cancels(r):
    """terminate ends runs that wait and runs that run"""
    waits = r.launch("well", hold="true")
    runs = r.launch("lengthy")
    until(lambda: ledger(runs), "its op")
    is_("health", r.health(runs).status, WorkerStatus.RUNNING)
    for run_id in waits, runs:
        is_("terminate", r.instance.run_launcher.terminate(run_id), True)
        r.ended(run_id, Status.CANCELED)
    is_("what ran", ledger(waits), [])
    is_("jobs", [read(j, "status").strip() for j in jobs(waits)], ["cancelled"])
    is_("terminate", r.instance.run_launcher.terminate(runs), False)


@case
def never_began(r):
    """a job that ends before Dagster began in it fails the run, with the reason"""
    run_id = r.launch("well", environment="/nowhere/at/all")
    r.ended(run_id, Status.FAILURE)
    is_("told", any("/nowhere/at/all" in t for t in r.told(run_id)), True)


@case
def killed(r):
    """kill -9 of a worker: its steps go on, another worker takes over, and no step starts twice"""
    run_id = r.launch("parallel")
    until(lambda: len(ledger(run_id)) >= AT_ONCE and len(jobs(run_id)) == 4, "steps at once")
    before = jobs(run_id)
    r.kill_worker(run_id)
    r.monitor()
    if AT_ONCE == 3:
        until(lambda: len(r.worker(run_id)) == 2, "another worker")
    is_("health", r.health(run_id).status, WorkerStatus.RUNNING)
    go_on(run_id)
    r.ended(run_id, Status.SUCCESS)
    is_("each step once", ledger(run_id), ["one red", "three started", "total 6", "two started"])
    is_("jobs", len(jobs(run_id)), 6)
    step, = [j for j in before if "/step_one" in os.path.realpath(j)]
    is_("its tags", [effective(step, "time"), effective(step, "cpus_per_task")], ["7", 1])


@case
def killed_too_often(r):
    """the second kill -9 is one too many: the run fails and its steps are cancelled; terminate cancels steps, too"""
    run_id = r.launch("parallel")
    until(lambda: len(ledger(run_id)) >= AT_ONCE and len(jobs(run_id)) == 4, "steps at once")
    r.kill_worker(run_id)
    r.monitor()
    until(lambda: any("Checking on status of in-progress" in t for t in r.told(run_id)), "another worker at work")
    r.kill_worker(run_id, 1)
    r.monitor()
    r.ended(run_id, Status.FAILURE)
    is_("told", any("SIGKILL" in t for t in r.told(run_id)), True)
    for job in jobs(run_id):
        is_(job, read(job, "wait").split()[0], "cancelled" if "/step" in job else "failed")
    run_id = r.launch("parallel")
    until(lambda: len(ledger(run_id)) >= AT_ONCE and len(jobs(run_id)) == 4, "steps at once")
    is_("terminate", r.instance.run_launcher.terminate(run_id), True)
    r.ended(run_id, Status.CANCELED)
    ends = [read(job, "wait").split()[0] for job in jobs(run_id)]
    is_("ends", ends[1:], ["cancelled"] * 3)


@case
def retries(r):
    """a step that asks for it, and a step whose job is killed, are tried again"""
    run_id = r.launch("again")
    r.ended(run_id, Status.SUCCESS)
    is_("tries", ledger(run_id), ["flaky try 0", "flaky try 1", "mortal try 0", "mortal try 1"])
    is_("jobs", len(jobs(run_id)), 5)


@case
def command_line(r):
    """dagster job launch"""
    run = subprocess.run([sys.executable, "-m", "dagster", "job", "launch", "-f", JOBS, "-d", HERE, "-j", "well"],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False)
    is_(run.stdout, run.returncode, 0)
    run_id = r.instance.get_runs(limit=1)[0].run_id
    r.ended(run_id, Status.SUCCESS)
    is_("what ran", ledger(run_id), ["good none"])


def main():
    os.chdir(HERE)
    for f in cases:
        if sys.argv[1:] and f.__name__ not in sys.argv[1:]:
            continue
        title = "%s: %s" % (CLUSTER, f.__doc__)
        start = time.time()
        try:
            with dg.DagsterInstance.get() as instance:
                f(Runs(instance))
            print("ok " + title, flush=True)
        except Exception as e:  # pylint: disable=broad-except
            failed.append(title)
            print("not ok " + title)
            for line in (str(e) if isinstance(e, AssertionError) else traceback.format_exc()).splitlines():
                print("# " + line)
        print("%s %.1f s" % (f.__name__, time.time() - start), file=sys.stderr, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
