"""The helpers of docs/examples/dagster with stock Dagster: what becomes of jobs when steps are tried again, stopped, canceled or killed.
Needs the environment of scripts/dagster-env, DAGSTER_HOME, SLURMRAY_MOUNT and CASES, an empty directory that jobs see, too.

usage: dagster_project.py [few] CLUSTER...   prints `ok NAME` or `not ok NAME`, reasons behind `# `
"""
import glob
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../docs/examples/dagster'))
import dagster as dg
import definitions
import slurmray_dagster as sd

MNT, CASES = os.environ['SLURMRAY_MOUNT'], os.environ['CASES']
IN_PROCESS = {'execution': {'config': {'in_process': {}}}}
failed = []


def report(name, /, said='', **have_want):
    """A result. Lines of `said`, output that explains a failure, come with the reasons: they belong to the line above them."""
    wrong = ['%s: %.600r, not %.600r' % (k, h, w) for k, (h, w) in have_want.items() if h != w]
    print('%s %s' % ('not ok' if wrong else 'ok', name), flush=True)
    for text in wrong:
        print('# ' + text.replace('\n', ' '), flush=True)
    for text in said.splitlines() if wrong else []:
        print('# ' + text, flush=True)
    failed.extend(wrong)


# --- assets: what each does is in its tags ---

def words(context):
    """The case, and the directory where its jobs leave a line for each start."""
    case = context.run.tags['case']
    return case, os.path.join(CASES, case)


COUNT = 'echo started >>%s.starts; '


@dg.asset
def long(context: dg.AssetExecutionContext):
    """Runs until it is let go."""
    _, path = words(context)
    yield from sd.run(context, COUNT % path + 'until [ -e %s.go ]; do sleep 0.1; done' % path, time='10')


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def short(context: dg.AssetExecutionContext):
    case, path = words(context)
    first = '[ $(wc -l <%s.starts) -gt 1 ] || ' % path
    opened = '''python3 -c "import sys, dagster_pipes as d; d.open_dagster_pipes(); print('the last words', flush=True); sys.exit(%d)"'''
    command = {'fails-once': first + 'exit 3', 'fails': 'echo the last words; echo of stderr >&2; exit 3', 'dies': opened % 5 + '; kill -9 $$',
               'open': 'python3 -c "import os, dagster_pipes as d; d.open_dagster_pipes(); os._exit(0)"'}.get(case, 'true')
    job = sd.run(context, COUNT % path + command, time='10', **({'tiem': 1} if case == 'refused' else {}))
    if case.startswith('stumbles') and not os.path.exists(path + '.stumbled'):
        open(path + '.stumbled', 'w', encoding='utf-8').close()
        raise ValueError('after the job')
    yield from job


defs = dg.Definitions(assets=[long, short, definitions.model], jobs=[dg.define_asset_job(n + '_job', [n]) for n in ('long', 'short', 'model')])


def short_job():
    return defs.get_job_def('short_job')


def long_job():
    return defs.get_job_def('long_job')


def model_job():
    return defs.get_job_def('model_job')


# --- what tests do ---

def execute(instance, job, case, again=None):
    return dg.execute_job(dg.reconstructable(job), instance, run_config=IN_PROCESS, tags={'case': case}, raise_on_error=False,
                          reexecution_options=again and dg.ReexecutionOptions(parent_run_id=again))


def wait_for(what, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        value = what()
        if value:
            return value
        time.sleep(.05)
    return None


def runs(name):
    return sorted(os.path.basename(p) for p in glob.glob('%s/runs/%s*' % (MNT, name)))


def run_of(instance, case):
    found = instance.get_runs(dg.RunsFilter(tags={'case': case}))
    return found[0] if found else None


def series(dagster_run, step):
    """Status words of the runs that this Dagster run and its re-executions made."""
    root = dagster_run.root_run_id or dagster_run.run_id
    return [sd.read('%s/runs/%s' % (MNT, name), 'status') for name in runs('%s-%s' % (step, root[:13]))]


def starts(case):
    try:
        with open('%s/%s.starts' % (CASES, case), encoding='utf-8') as f:
            return len(f.readlines())
    except FileNotFoundError:
        return 0


def failures(result):
    """Text and metadata of each failed or retried try."""
    found = []
    for e in result.all_events:
        if e.is_step_failure or e.is_step_up_for_retry:
            user = e.step_failure_data.user_failure_data if e.is_step_failure else None
            found.append((str(e.event_specific_data.error), {k: str(v.value) for k, v in (user.metadata if user else {}).items()}))
    return found


def tries(instance, cluster):
    case = 'plain-' + cluster
    result = execute(instance, short_job, case)
    meta = result.asset_materializations_for_node('short')[0].metadata if result.success else {}
    report('%s: a job that knows nothing of Pipes is an asset, and says where it ran' % cluster, success=(result.success, True),
           starts=(starts(case), 1), series=(series(result.dagster_run, 'short'), ['succeeded']),
           meta=([k for k in ('run', 'job_id', 'elapsed') if 'slurmray/' + k not in meta], []), path=(os.path.isdir(meta['slurmray/run'].value) if meta else 0, True))
    again = execute(instance, short_job, case, result.run_id)
    report('%s: a step that succeeded and is asked for again runs again' % cluster, success=(again.success, True), starts=(starts(case), 2),
           series=(series(result.dagster_run, 'short'), ['succeeded'] * 2))
    case = 'stumbles-' + cluster
    result = execute(instance, short_job, case)
    report('%s: a step that failed after its job is tried again and takes the results of that job' % cluster,
           success=(result.success, True), starts=(starts(case), 1), tries=(len(failures(result)), 1))
    os.unlink('%s/%s.stumbled' % (CASES, case))


def ends(instance):
    result = execute(instance, short_job, 'fails-once')
    report('a job that failed is followed by the next of its series', success=(result.success, True), starts=(starts('fails-once'), 2),
           series=(series(result.dagster_run, 'short'), ['failed', 'succeeded']))
    result = execute(instance, short_job, 'fails')
    text, meta = failures(result)[-1] if failures(result) else ('', {})
    report('a job that fails, fails the step with why and the end of its log', success=(result.success, False), starts=(starts('fails'), 2),
           why=('exit' in text and '3' in text, True), log=('the last words' in meta.get('log', ''), True),
           err=('of stderr' in meta.get('log', ''), True), run=(os.path.isdir(meta.get('slurmray/run', '')), True))
    result = execute(instance, short_job, 'dies')
    text, meta = failures(result)[-1] if failures(result) else ('', {})
    report('a job that dies before it closed Pipes fails the step', success=(result.success, False),
           log=('the last words' in meta.get('log', ''), True))
    result = execute(instance, short_job, 'open')
    report('so does one that ends well and never closed them', success=(result.success, False),
           text=('its end was not seen' in str(failures(result)), True))
    result = execute(instance, short_job, 'refused')
    report('a spec that is refused fails the step at once, with the reason', success=(result.success, False), tries=(len(failures(result)), 1),
           text=('tiem' in str(failures(result)), True), starts=(starts('refused'), 0))


def lost_reader(instance):
    """The reader dies without a word; the asset must not succeed with what came before."""
    from dagster._core.pipes.context import PipesMessageHandler

    handle, losses = PipesMessageHandler.handle_message, [1]

    def broken(self, message):
        if losses:
            losses.pop()
            raise OSError('the reader is gone')
        return handle(self, message)
    PipesMessageHandler.handle_message = broken
    try:
        once = execute(instance, model_job, 'reader-once')
        losses = [1] * 9
        always = execute(instance, model_job, 'reader')
    finally:
        PipesMessageHandler.handle_message = handle

    def rows(result):
        return [m.metadata['rows'].value for m in result.asset_materializations_for_node('model')] if result.success else []
    report('a step whose reader was lost is tried again, and has it all from the same run', success=(once.success, True), rows=(rows(once), [100]),
           text=('its end was not seen' in str(failures(once)), True), series=(series(once.dagster_run, 'model'), ['succeeded']))
    again = execute(instance, model_job, 'reader', always.run_id)
    report('it fails when its reader is lost again and again, and a re-execution has it all', lost=(always.success, False), again=(again.success, True),
           tries=(len(failures(always)), 4), series=(series(again.dagster_run, 'model'), ['succeeded']), rows=(rows(again), [100]))


def compute_logs(instance):
    result = execute(instance, model_job, 'logs')
    data = {}
    for e in instance.all_logs(result.run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED):
        key = [result.run_id, 'compute_logs', e.dagster_event.logs_captured_data.file_key]
        log = instance.compute_log_manager.get_log_data(key)
        data = {'out': log.stdout.decode(), 'err': log.stderr.decode()}
    meta = {k: v.value for k, v in result.asset_materializations_for_node('model')[0].metadata.items()} if result.success else {}
    report('stdout and stderr of the job are in Dagster\'s compute logs', success=(result.success, True),
           out=(data.get('out', '').count('step '), 3), err=('this is stderr' in data.get('err', ''), True))
    report('an asset opens a file of results/, and adds it to what the job reported', rows=(meta.get('rows'), 100),
           weights=(meta.get('weights'), 100))


def race():
    """Two tries at the same moment are given the same run, also where the first one of a series ended badly."""
    def context(run_id):
        step = types.SimpleNamespace(step=types.SimpleNamespace(key='race'))
        return types.SimpleNamespace(
            get_step_execution_context=lambda: step, log=types.SimpleNamespace(info=lambda text: None),
            run=types.SimpleNamespace(run_id=run_id, root_run_id=None, tags={'dagster/partition': 'a/b|c'}),
            instance=types.SimpleNamespace(get_runs=lambda f: [], all_logs=lambda i, of_type: []))

    pairs = []
    for i in range(20):
        got = []
        threads = [threading.Thread(target=lambda c: got.append(sd.draft(c)), args=(context('%013d-x' % (os.getpid() * 100 + i)),)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        pairs.append((len(got), len(set(got))))
        if i < 3:
            fd = os.open(got[0] + '/spec', os.O_RDWR)
            os.write(fd, b'{"command": "exit 1"}')
            os.close(fd)
            sd.read(got[0], 'wait')
            got = [sd.draft(context('%013d-x' % (os.getpid() * 100 + i))) for _ in range(2)]
            pairs.append((len(got), len(set(got))) if got[0].endswith('.2') else got)
    report('tries that race are given one run', pairs=(set(pairs), {(4, 1), (2, 1)}))


def start(case, *options):
    with open('%s/%s.out' % (CASES, case), 'w', encoding='utf-8') as out:
        return subprocess.Popen([sys.executable, '-m', 'dagster', 'job', 'execute', '-f', os.path.abspath(__file__), '-j', 'long_job',
                                 '--tags', json.dumps({'case': case}), *options], stdout=out, stderr=out)


def status_of(instance, case):
    return instance.get_run_by_id(run_of(instance, case).run_id).status.value


def stops(instance):
    """A process that is stopped, one whose run is terminated, one that is killed and its run then canceled by force, and one that is
    killed while its run is being terminated."""
    cases = ['term', 'cancel', 'force', 'both']
    config = CASES + '/in_process.yaml'
    with open(config, 'w', encoding='utf-8') as f:
        json.dump(IN_PROCESS, f)
    process = {c: start(c, *(() if c == 'term' else ('-c', config))) for c in cases}
    wait_for(lambda: all(starts(c) or process[c].poll() is not None for c in cases), 150)
    begun = [starts(c) == 1 for c in cases]
    if not all(begun):
        for c in cases:
            process[c].kill()
    report('four jobs are running', said='\n'.join(sd.read(CASES, c + '.out')[-1000:] for c in cases), begun=(begun, [True] * 4))
    if not all(begun):
        return
    run = {c: run_of(instance, c) for c in cases}
    process['term'].send_signal(signal.SIGTERM)
    instance.report_run_canceling(run['cancel'])
    process['cancel'].send_signal(signal.SIGTERM)
    process['force'].kill()
    process['both'].kill()
    for p in process.values():
        p.wait(60)
    report('a process that is stopped leaves its job running', dagster=(status_of(instance, 'term'), 'FAILURE'),
           series=(series(run['term'], 'long'), ['running']))
    report('termination of the run cancels the job', dagster=(status_of(instance, 'cancel'), 'CANCELED'),
           series=(wait_for(lambda: series(run['cancel'], 'long') == ['cancelled'] and 'cancelled'), 'cancelled'))
    open(CASES + '/term.go', 'w', encoding='utf-8').close()
    again = execute(instance, long_job, 'term', run['term'].run_id)
    report('the next try goes on with the job that was left', success=(again.success, True), starts=(starts('term'), 1),
           series=(series(run['term'], 'long'), ['succeeded']))
    left = [series(run[c], 'long') for c in ('force', 'both')]
    sensor = sd.cancel_sensor(MNT)

    def look():
        with dg.build_sensor_context(instance) as context:
            sensor.evaluate_tick(context)
    look()
    instance.report_run_canceled(run['force'])
    instance.report_run_canceling(run['both'])
    instance.report_run_failed(instance.get_run_by_id(run['both'].run_id))
    away = sd.cancel_sensor(MNT + '/nowhere')
    with dg.build_sensor_context(instance) as context:
        away.evaluate_tick(context)
    before = [series(run[c], 'long') for c in ('force', 'both')]
    look()
    wait_for(lambda: all(series(run[c], 'long') == ['cancelled'] for c in ('force', 'both')))
    report('jobs of runs that were terminated and had no process are cancelled by the sensor, also when the mount was away at first',
           left=(left, [['running']] * 2), before=(before, left), after=([series(run[c], 'long') for c in ('force', 'both')], [['cancelled']] * 2))


def command_line(instance, cluster, config):
    """Every asset of the project, as its README says; three commands side by side."""
    environ = dict(os.environ, SLURMRAY_CLUSTER=cluster)
    several = [['model,simulation,customers,orders'], ['ensemble', '--partition', 'seed007'], ['days', '--partition-range', '2026-01-01...2026-01-03']]
    processes = [subprocess.Popen([sys.executable, '-m', 'dagster', 'asset', 'materialize', '-m', 'definitions', '--select', *options,
                                   '--config-json', config], env=environ, cwd=os.path.dirname(sd.__file__),
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for options in several]
    ends, said = [], ''
    for p in processes:
        text = p.communicate(timeout=300)[0]
        ends.append(p.returncode)
        said += text[-2000:] if p.returncode else ''
    report('%s: dagster asset materialize' % cluster, said=said, ends=(ends, [0, 0, 0]))
    if any(ends):
        return

    def newest(key, count=1):
        records = instance.fetch_materializations(dg.AssetKey(key), limit=count).records
        return [({k: v.value for k, v in r.asset_materialization.metadata.items()}, r.partition_key) for r in records]

    model, simulation, member = newest('model')[0][0], newest('simulation')[0][0], newest('ensemble')[0]
    checks = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey('orders'), 'orders_have_customers'), limit=1)
    report('%s: a job that reports, and one that knows nothing of Dagster' % cluster, rows=(model['rows'], 100), weights=(model['weights'], 100),
           cluster=([sd.read(m['slurmray/run'], 'cluster') for m in (model, simulation)], [cluster] * 2),
           parameter=(sd.read(simulation['slurmray/run'], 'results/parameter'), '42'),
           inputs=(sd.read(simulation['slurmray/run'], 'results/size'), str(os.path.getsize(model['slurmray/run'] + '/results/model.json'))))
    report('%s: two assets and a check from one job' % cluster, check=([c.status.value for c in checks], ['SUCCEEDED']),
           rows=([newest(k)[0][0]['rows'] for k in ('customers', 'orders')], [3, 7]),
           run=(len({newest(k)[0][0]['slurmray/run'] for k in ('customers', 'orders')}), 1))
    report('%s: a partition, in a run whose name has it' % cluster, key=(member[1], 'seed007'),
           directory=(os.path.basename(member[0]['slurmray/run']).startswith('ensemble-seed007-'), True))
    report('%s: partitions of one job, each with metadata of its own' % cluster,
           days=({p: m.get('number') for m, p in newest('days', 3)}, {'2026-01-01': 0, '2026-01-02': 1, '2026-01-03': 2}))


def detached(instance):
    """A step that only submits, and the sensor that tells of its job, once."""
    from detached import TAG, begin_survey, detached_jobs

    def look(cursor):
        with dg.build_sensor_context(instance, cursor) as context:
            found = detached_jobs.evaluate_tick(context)
        return [(e.asset_key.to_user_string(), e.metadata['answers'].value) for e in found.asset_events], found.cursor

    def job(text):
        with open(os.open(MNT + '/runs/new', os.O_RDWR), 'r+b', buffering=0) as f:
            f.write(json.dumps({'command': ['python3', '-c', 'import dagster_pipes as d, os, time\nwith d.open_dagster_pipes() as p:\n ' + text],
                                'pipes': True, 'tags': [TAG]}).encode())
            return f.read(4096).decode().strip()

    def ended(name):
        return sd.read('%s/runs/%s' % (MNT, name), 'wait')
    _, cursor = look(None)  # what others have reported on this mount before
    result = begin_survey.execute_in_process(instance=instance)
    name = runs('submit_survey-' + result.dagster_run.run_id[:13])[0]
    status = ended(name)
    after, cursor = look(cursor)
    again, cursor = look(cursor)
    report('a job that nobody waits for is materialized by a sensor, once', begun=(result.success, True), status=(status, 'succeeded 0'), after=(after, [('survey', 42)]), again=(again, []))
    say = 'p.report_asset_materialization(asset_key="survey", metadata={"answers": %d})'
    bad, go = job(say % 1 + '; os._exit(1)'), CASES + '/detached.go'
    slow = job(say % 2 + '\n while not os.path.exists("%s"): time.sleep(.1)' % go)
    ended(bad)
    wait_for(lambda: os.path.getsize('%s/runs/%s/pipes/materializations' % (MNT, slow)))
    wait_for(lambda: b'"answers"' in tail(MNT + '/events', cursor, slow))
    early, cursor = look(cursor)
    open(go, 'w', encoding='utf-8').close()
    ended(slow)
    wait_for(lambda: purge('%s/runs/%s' % (MNT, slow)))
    after, cursor = look(cursor)
    again, cursor = look(cursor)
    report('not one that failed; one that has reported when it has ended, also when it was purged', early=(early, []), after=(after, [('survey', 2)]),
           again=(again, []), cursor=(json.loads(cursor)['reports'], {}))


def tail(path, cursor, run):
    """Lines of a run behind the cursor."""
    with open(path, 'rb') as f:
        f.seek(json.loads(cursor)['at'])
        return b''.join(line for line in f if json.loads(line)['run'] == run)


def purge(path):
    try:
        os.rmdir(path)
        return True
    except OSError:
        return False


def main(few, clusters):
    with dg.DagsterInstance.get() as instance:
        race()
        if not few:
            for cluster in clusters:
                command_line(instance, cluster, json.dumps(IN_PROCESS))
        for cluster in clusters:
            os.environ['SLURMRAY_CLUSTER'] = cluster
            tries(instance, cluster)
        ends(instance)
        compute_logs(instance)
        detached(instance)
        if not few:
            lost_reader(instance)
            stops(instance)


if __name__ == '__main__':
    main(sys.argv[1] == 'few', [a for a in sys.argv[1:] if a != 'few'])
    sys.exit(1 if failed else 0)
