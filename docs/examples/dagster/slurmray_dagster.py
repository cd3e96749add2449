"""Dagster assets that run as jobs through a slurmray mount. Copy this file next to your assets; it needs Dagster alone.

    @dg.asset
    def model(context: dg.AssetExecutionContext):
        yield from run(context, ['python3', 'train.py'], files=['/home/me/train.py'], time='1:00:00')
"""
import contextlib, datetime, errno, hashlib, json, os, re, subprocess  # noqa: E401
import dagster as dg

MOUNT = os.environ.get('SLURMRAY_MOUNT', os.path.expanduser('~/cluster'))
BAD = 'failed cancelled timeout out_of_memory node_failed preempted rejected'.split()
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.ESTALE)  # the mount, not the job
Job = type('Job', (list,), {})  # the results that an asset yields; with `path`, the directory of the run, and `messages`, the custom ones


def run(context, command=None, *, extras=None, label='', mount=MOUNT, **spec):
    """Runs a job, or goes on with the one that an earlier try of this step began. The keywords are those of a spec."""
    try:
        path = draft(context, label, mount)
        try:
            with dg.open_pipes_session(context, dg.PipesFileContextInjector(path + '/context'),
                                       dg.PipesFileMessageReader(path + '/events'), extras=extras) as session:
                submit(context, path, dict(spec, command=command, env={**session.get_bootstrap_env_vars(), **spec.get('env', {})}))
                subprocess.run([os.environ.get('SLURMRAY', 'slurmray'), 'follow', path], check=False)  # into Dagster's compute logs
                status = read(path, 'wait').split()[0]
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            if context.instance.get_run_by_id(context.run_id).status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED):
                cancel(path)  # a process that was stopped or restarted leaves it there, to be found again
            raise
        if status != 'succeeded' or (os.path.getsize(path + '/events') and not session.message_handler.received_closed_message):
            why = read(path, 'why') or status if status != 'succeeded' else 'Dagster Pipes was opened, and its end was not seen'
            failure = dg.Failure(why, metadata={'slurmray/run': dg.MetadataValue.path(path), 'log': '\n' + read(path, 'log', 4096)})
            if status == 'succeeded' and re.search('"method": *"closed"', read(path, 'events', 1 << 16)):
                raise dg.RetryRequested(max_retries=3, seconds_to_wait=1) from failure  # all of it is there; the reader was lost
            raise failure
        facts = {k: dg.MetadataValue.float(float(v)) for k, v in json.loads(read(path, 'metrics.json')).items()
                 if k in ('elapsed', 'max_rss', 'node_hours')}
        facts.update(run=dg.MetadataValue.path(path), job_id=dg.MetadataValue.text(read(path, 'job_id')))
        job = Job(session.get_results(metadata={'slurmray/' + k: v for k, v in facts.items()}))
        job.path, job.messages = path, session.get_custom_messages()
        for m in job.messages:  # one job for many partitions
            if isinstance(m, dict) and m.keys() == {'partition', 'metadata'}:
                context.add_asset_metadata(m['metadata'], partition_key=m['partition'])
        return job
    except OSError as e:
        if e.errno in GONE or (context.retry_number and not os.path.isdir(mount + '/runs')):
            raise dg.RetryRequested(max_retries=60, seconds_to_wait=10) from e  # the next mount has the job
        raise


def group(instance, run_of_dagster):
    """The ids of a Dagster run and its re-executions, the first one in front."""
    root = run_of_dagster.root_run_id or run_of_dagster.run_id
    return [root] + [r.run_id for r in instance.get_runs(dg.RunsFilter(tags={'dagster/root_run_id': root}))]


def draft(context, label='', mount=MOUNT):
    """The directory of this step's run: the same one for each try, by the name STEP-PARTITION-ROOT. A run that ended badly, or whose
    results a step has taken already, is followed by the next of its series: NAME.2, NAME.3."""
    step = getattr(context, 'op_execution_context', context).get_step_execution_context().step.key
    tries = group(context.instance, context.run)
    tags = [context.run.tags.get('dagster/' + k) for k in ('partition', 'asset_partition_range_start', 'asset_partition_range_end')]
    full = '-'.join(filter(None, ['_' * (not step[0].isalpha()) + step, label, *tags]))
    name = re.sub('[^A-Za-z0-9._-]', '_', full)[:80]
    name = '-'.join([name, *([hashlib.sha256(full.encode()).hexdigest()[:8]] if name != full else []), tries[0][:13]])
    number, taken = 1, None
    while True:
        path = '%s/runs/%s%s' % (mount, name, '.%d' % number if number > 1 else '')
        try:
            os.mkdir(path)  # of two that try at the same time, one makes it and the other finds it
            return path
        except FileExistsError:
            status = read(path, 'status')
        if status == 'succeeded' and taken is None:
            taken = sum(e.dagster_event.step_key == step for i in tries
                        for e in context.instance.all_logs(i, of_type=dg.DagsterEventType.STEP_SUCCESS))
        if status not in BAD and not (status == 'succeeded' and taken):
            context.log.info('goes on with %s, which is %s' % (path, status))
            return path
        taken, number = taken - 1 if status == 'succeeded' else taken, number + 1


def submit(context, path, spec):
    """Submits a draft; what was submitted already stays as it is. Without `cluster` in the spec, SLURMRAY_CLUSTER says where."""
    tags = [*spec.get('tags', []), 'dagster-' + group(context.instance, context.run)[0]]  # for cancel_sensor, and for find
    spec = {'name': os.path.basename(path), 'cluster': os.environ.get('SLURMRAY_CLUSTER'), **spec, 'tags': tags}
    with open(os.open(path + '/spec', os.O_RDWR), 'r+b', buffering=0) as f:
        try:
            if read(path, 'status') == 'draft':
                f.write(json.dumps({k: v for k, v in spec.items() if v is not None}).encode())
        except OSError as e:
            if e.errno != errno.EEXIST:  # another try was faster
                raise dg.Failure('%s: %s' % (path, f.read(65536).decode() or e), allow_retries=False)


def read(path, name, tail=1 << 20):
    with open('%s/%s' % (path, name), 'rb') as f:
        if os.path.getsize(f.name) > tail:
            f.seek(-tail, os.SEEK_END)
        return f.read().decode('utf-8', 'replace').strip()


def cancel(path):
    with open(path + '/ctl', 'wb', buffering=0) as f, contextlib.suppress(OSError):  # it has ended, or never began
        f.write(b'cancel\n')  # is journaled; nobody has to wait for the scheduler


def cancel_sensor(mount=MOUNT):
    """Cancels the jobs of runs that were terminated while nobody was there to do it. Looks at the last day each time, for mounts go away."""
    @dg.sensor(name='slurmray_cancel', minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
    def sensor(context):
        instance, day = context.instance, datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        for one in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE], updated_after=day)):
            tag = '%s/by/tag/dagster-%s' % (mount, one.root_run_id or one.run_id)
            live = [n for n in (os.listdir(tag) if os.path.isdir(tag) else []) if read(tag + '/' + n, 'status') not in BAD + ['succeeded']]
            last = live and (group(instance, one)[1:] + [one.run_id])[0] == one.run_id  # else a later try has taken them over
            if last and (one.status == dg.DagsterRunStatus.CANCELED or instance.all_logs(one.run_id, of_type=dg.DagsterEventType.RUN_CANCELING)):
                for name in live:
                    cancel(tag + '/' + name)
    return sensor
