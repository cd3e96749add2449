"""Each run of Dagster is a job: a run launcher over the files of slurmray. Copy this file to where webserver, daemon and jobs can import
it, and name it in dagster.yaml. Tags of a run say what its job needs: `slurmray/KEY`, or `slurmray/config` with an object of keys."""
import contextlib, glob, json, os, threading  # noqa: E401
import dagster as dg
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher import CheckRunHealthResult, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClass

LIVE = "draft queued submitting pending running completing unknown".split()


def read(*path):
    with open("/".join(path), encoding="utf-8", errors="replace") as f:
        return f.read().strip()


def submit(job, spec):
    """Once, however often: the run's name says which job it is."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(job)
    with open(os.open(job + "/spec", os.O_RDWR), "r+b", buffering=0) as f:
        try:
            f.write(json.dumps(spec).encode())
        except OSError as e:
            if read(job, "status") == "draft":  # else it was submitted before
                raise DagsterLaunchFailedError("%s: %s" % (job, f.read(4096).decode().strip())) from e


def over(spec, more):
    """`more` wins over `spec`; of maps (env, ray) each member for itself, and KEY.MEMBER is one."""
    for name, value in more.items():
        key, _, member = name.partition(".")
        old, value = spec.get(key), {member: value} if member else value
        spec = {**spec, key: {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value}
    return spec


class SlurmrayRunLauncher(RunLauncher, ConfigurableClass):
    supports_check_run_worker_health = supports_resume_run = True
    inst_data = property(lambda self: self._inst_data)

    def __init__(self, inst_data, mount, spec, env, python):
        self._inst_data, self.mount, self.spec, self.python, self.stop = inst_data, mount, spec, python, threading.Event()
        self.env = {k: os.environ[k] for k in ["DAGSTER_HOME", *env] if k in os.environ}
        self.dispose = self.stop.set
        super().__init__()

    @classmethod
    def config_type(cls):
        return {"mount": dg.StringSource, "spec": dg.Field(dg.Permissive(), default_value={}),
                "env": dg.Field([str], default_value=["PYTHONPATH"]), "python": dg.Field(str, default_value="")}

    @classmethod
    def from_config_value(cls, inst_data, config_value):
        return cls(inst_data, **config_value)

    def register_instance(self, instance):
        super().register_instance(instance)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        """Dagster looks after runs that have begun. Here those are found whose job ended without a word before that, or cancelled."""
        while not self.stop.wait(5):
            with contextlib.suppress(Exception):  # mount or database are away
                for run in self._instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING])):
                    status, why = self.look(run.run_id)
                    run = self._instance.get_run_by_id(run.run_id)  # after the end of the job
                    if run.status == dg.DagsterRunStatus.STARTING and status and status not in LIVE:
                        self._instance.report_run_failed(run, why)
                    elif run.status == dg.DagsterRunStatus.CANCELING and status not in LIVE:
                        self._instance.report_run_canceled(run, why)

    def job(self, run_id):
        return "%s/runs/run_%s_%d" % (self.mount, run_id, self._instance.count_resume_run_attempts(run_id))

    def look(self, run_id):
        """Status and reason of its job. An OSError says that the mount is away."""
        job = self.job(run_id)
        if read(self.mount, "status") and not os.path.isdir(job):
            return "", job + " is not there"
        return read(job, "status"), "%s: %s\n%s" % (job, read(job, "status"), read(job, "why"))

    def launch_run(self, context, args=ExecuteRunArgs):
        run, origin, job = context.dagster_run, context.dagster_run.job_code_origin, self.job(context.dagster_run.run_id)
        # Without instance_ref nothing of dagster.yaml is in the job's arguments: it reads that of its own DAGSTER_HOME.
        command = args(job_origin=origin, run_id=run.run_id, instance_ref=None).get_command_args()[-3:]
        tags = {k[9:]: v for k, v in run.tags.items() if k.startswith("slurmray/")}
        tags.update(json.loads(tags.pop("config", "{}")))
        spec = {"workdir": getattr(origin.repository_origin.code_pointer, "working_directory", None), "name": run.job_name, "env": self.env}
        submit(job, {**over(over(spec, self.spec), tags), "tags": ["dagster", "dagster_" + run.run_id],
                     "command": [self.python or origin.executable_path, "-m", "dagster", *command]})
        self._instance.report_engine_event("This run is the job %s." % job, run)

    def resume_run(self, context):
        self.launch_run(context, ResumeRunArgs)

    def terminate(self, run_id):
        run = self._instance.get_run_by_id(run_id)
        if live := bool(run and not run.is_finished):
            self._instance.report_run_canceling(run)
            self.cancel(run_id)
        return live

    def cancel(self, run_id):
        read(self.mount, "status")  # or says that the mount is away
        for ctl in glob.glob("%s/by/tag/dagster_%s/*/ctl" % (self.mount, run_id)):  # its worker's, and its steps'
            with contextlib.suppress(ProcessLookupError), open(ctl, "w", encoding="utf-8") as f:
                f.write("cancel\n")

    def check_run_worker_health(self, run):
        """Never UNKNOWN: Dagster gives such runs up. After an exception it asks again."""
        status, why = self.look(run.run_id)
        if status in LIVE:
            return CheckRunHealthResult(WorkerStatus.RUNNING, why)
        if self._instance.get_run_by_id(run.run_id).is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS, why)
        if not self._instance.run_will_resume(run.run_id):
            self.cancel(run.run_id)  # steps without a worker
        return CheckRunHealthResult(WorkerStatus.FAILED if status else WorkerStatus.NOT_FOUND, why)
