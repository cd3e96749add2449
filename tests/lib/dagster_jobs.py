"""Jobs for tests/lib/dagster_runs.py. In $WORK each op notes that it started; some wait until the test lets them go on."""
import os
import time

import dagster as dg
from slurmray_executor import slurmray_executor

on_cluster = slurmray_executor.configured({"mount": {"env": "MNT"}, "spec": {"cluster": os.environ["CLUSTER"], "time": "9"},
                                           "env": ["PYTHONPATH", "MNT", "CLUSTER", "WORK"], "check_seconds": 1})


def note(context, text="started"):
    with open(os.path.join(os.environ["WORK"], "ledger"), "a", encoding="utf-8") as f:
        f.write("%s %s %s\n" % (context.run_id, context.op.name, text))


def wait_for(context):
    while not os.path.exists(os.path.join(os.environ["WORK"], context.run_id)):
        time.sleep(.1)


@dg.op
def good(context):
    note(context, os.environ.get("COLOUR", "none"))


@dg.op
def bad(context):
    raise ValueError("not today")


@dg.op
def slow(context):
    note(context)
    wait_for(context)


@dg.op(tags={"slurmray/time": "7", "slurmray/config": {"cpus_per_task": 1, "env": {"COLOUR": "red"}}})
def one(context):
    note(context, os.environ["COLOUR"])
    wait_for(context)
    return 1


@dg.op
def two(context):
    note(context)
    wait_for(context)
    return 2


@dg.op
def three(context):
    note(context)
    wait_for(context)
    return 3


@dg.op
def total(context, a, b, c):
    note(context, str(a + b + c))


@dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
def flaky(context):
    note(context, "try %d" % context.retry_number)
    if context.retry_number == 0:
        raise dg.RetryRequested(max_retries=1)


@dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
def mortal(context):
    note(context, "try %d" % context.retry_number)
    if context.retry_number == 0:
        os.kill(os.getpid(), 9)


@dg.job(executor_def=dg.in_process_executor)
def well():
    good()


@dg.job(executor_def=dg.in_process_executor)
def broken():
    bad()


@dg.job(executor_def=dg.in_process_executor)
def lengthy():
    slow()


@dg.job(executor_def=on_cluster)
def parallel():
    total(one(), two(), three())


@dg.job(executor_def=on_cluster)
def again():
    flaky()
    mortal()


defs = dg.Definitions(jobs=[well, broken, lengthy, parallel, again])
