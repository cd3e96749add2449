"""Each step of a run is a job: a step executor over the files of slurmray. Copy this file beside your definitions:

    defs = dg.Definitions(assets=[...], executor=slurmray_executor.configured({"mount": "/home/me/cluster", "spec": {"cluster": "hpc"}}))

Tags of an op (`op_tags` of an asset) say what its job needs: `slurmray/KEY`, or `slurmray/config` with an object of keys.
"""
import contextlib
import hashlib
import json
import os
import re

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.tags import get_tag_concurrency_limits_config
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepDelegatingExecutor, StepHandler
from dagster._grpc.types import ExecuteStepArgs

LIVE = "draft queued submitting pending running completing unknown".split()
ENDS = {DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_UP_FOR_RETRY}


def read(*path):
    with open("/".join(path), encoding="utf-8", errors="replace") as f:
        return f.read().strip()


def submit(job, spec):
    """Once, however often: the run's name says which job it is."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(job)
    fd = os.open(job + "/spec", os.O_RDWR)
    try:
        os.write(fd, json.dumps(spec).encode())
    except OSError as e:
        if read(job, "status") == "draft":  # else it was submitted before
            raise DagsterLaunchFailedError("%s: %s" % (job, os.read(fd, 4096).decode().strip())) from e
    finally:
        os.close(fd)


def over(spec, more):
    """`more` wins over `spec`; of maps (env, ray) each member for itself, and KEY.MEMBER is one."""
    for name, value in more.items():
        key, _, member = name.partition(".")
        old, value = spec.get(key), {member: value} if member else value
        spec = {**spec, key: {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value}
    return spec


class SlurmrayStepHandler(StepHandler):
    name = "slurmray"

    def __init__(self, mount, spec, env, python):
        self.mount, self.spec, self.python = mount, spec, python
        self.env = {k: os.environ[k] for k in ["DAGSTER_HOME", *env] if k in os.environ}

    def step(self, context):
        """Key of the step, which try it is, and its job: the same for every worker of the run, so nothing starts twice."""
        args = context.execute_step_args
        key = args.step_keys_to_execute[0]
        tries = args.known_state.get_retry_state().get_attempt_count(key)
        name = "%s_%s_%d" % (re.sub("[^A-Za-z0-9._-]", "_", key)[:40], hashlib.sha256((args.run_id + key).encode()).hexdigest()[:16], tries)
        return key, tries, "%s/runs/step_%s" % (self.mount, name)

    def launch_step(self, context):
        args, (key, tries, job) = context.execute_step_args, self.step(context)
        origin, tags = args.job_origin, {k[9:]: v for k, v in context.step_tags[key].items() if k.startswith("slurmray/")}
        tags.update(json.loads(tags.pop("config", "{}")))
        # Without instance_ref nothing of dagster.yaml is in the job's variables: it reads that of its own DAGSTER_HOME.
        args = ExecuteStepArgs(job_origin=origin, run_id=args.run_id, step_keys_to_execute=[key], retry_mode=args.retry_mode,
                               known_state=args.known_state, should_verify_step=True)
        spec = {"workdir": getattr(origin.repository_origin.code_pointer, "working_directory", None),
                "name": re.sub("[^A-Za-z0-9._-]", "_", key), "env": self.env}
        submit(job, over(over(over(spec, self.spec), tags), {
            "env": {v["name"]: v["value"] for v in args.get_command_env()}, "tags": ["dagster", "dagster_" + args.run_id],
            "command": [self.python or origin.executable_path, "-m", "dagster", "api", "execute_step"]}))
        yield DagsterEvent.step_worker_starting(context.get_step_context(key), "Step %s is the job %s." % (key, job), metadata={})

    def check_step_health(self, context):
        """What has ended without a word to Dagster is unhealthy. An OSError says that the mount is away: it asks again."""
        key, tries, job = self.step(context)
        if read(self.mount, "status") and not os.path.isdir(job):
            return CheckStepHealthResult.unhealthy(job + " is not there")
        status = read(job, "status")
        if status in LIVE:
            return CheckStepHealthResult.healthy()
        ends = [e for e in context.instance.all_logs(context.dagster_run.run_id, of_type=ENDS) if e.step_key == key]
        if len(ends) > tries:
            return CheckStepHealthResult.healthy()  # the executor is about to see its event
        return CheckStepHealthResult.unhealthy("%s: %s\n%s" % (job, status, read(job, "why")))

    def terminate_step(self, context):
        key, _, job = self.step(context)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError), open(job + "/ctl", "w", encoding="utf-8") as f:
            f.write("cancel\n")
        yield DagsterEvent.engine_event(context.get_step_context(key), "Cancelled the job %s." % job)


@dg.executor(name="slurmray", requirements=multiple_process_executor_requirements(), config_schema={
    "mount": dg.StringSource,
    "spec": dg.Field(dg.Permissive(), default_value={}, description="what all jobs ask for"),
    "env": dg.Field([str], default_value=["PYTHONPATH"], description="variables that jobs take along, besides DAGSTER_HOME"),
    "python": dg.Field(str, default_value="", description="of the jobs, where it is not that of the run"),
    "retries": get_retries_config(), "tag_concurrency_limits": get_tag_concurrency_limits_config(),
    "max_concurrent": dg.Field(dg.Noneable(int), is_required=False), "check_seconds": dg.Field(int, default_value=20)})
def slurmray_executor(context):
    c = context.executor_config
    return StepDelegatingExecutor(
        SlurmrayStepHandler(c["mount"], c["spec"], c["env"], c["python"]), retries=RetryMode.from_config(c["retries"]),
        max_concurrent=c.get("max_concurrent"), tag_concurrency_limits=c.get("tag_concurrency_limits"),
        check_step_health_interval_seconds=c["check_seconds"], should_verify_step=True)
