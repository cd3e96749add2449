"""The examples of docs/examples/dagster that use Ray, with stock Dagster: on a Ray cluster that is there (`lab`), in an allocation and in a
session of a real Slurm (`demo`), by Ray Client, as whole runs and steps; what is killed, and what jobs print that is no text. Needs the
environment of scripts/ray-env dagster (VENV), SLURMRAY_MOUNT and its CONFIG, CASES (an empty directory that jobs see), and DAGSTER_HOME,
whose launcher is slurmray's on `lab`. That is the Ray cluster of the session, by its Jobs API: one less to be started.

usage: dagster_on_ray.py   prints `ok NAME` or `not ok NAME`, reasons behind `# `
"""
import glob
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'docs/examples/dagster')
sys.path.insert(0, EXAMPLES)
import dagster as dg  # noqa: E402
import slurmray_dagster as sd  # noqa: E402
from dagster._core.definitions.reconstruct import ReconstructableJob  # noqa: E402
from on_ray import NODES, WARM  # noqa: E402
from slurmray_executor import slurmray_executor  # noqa: E402
from slurmray_session import Session, lease  # noqa: E402

MNT, CASES = os.environ['SLURMRAY_MOUNT'], os.environ['CASES']
PATIENCE = 600
LONG = os.environ.get('LONG') == '1'  # another Ray cluster, in an allocation of its own
began, failed = time.time(), []


def report(name, /, said='', **have_want):
    wrong = ['%s: %.600r, not %.600r' % (k, h, w) for k, (h, w) in have_want.items() if h != w]
    print('%s %s' % ('not ok' if wrong else 'ok', name), flush=True)
    for text in wrong + (said.splitlines() if wrong else []):
        print('# ' + text.replace('\n', ' '), flush=True)
    print('%5.1f s %s' % (time.time() - began, name), file=sys.stderr, flush=True)
    failed.extend(wrong)


def wait_for(f, patience=PATIENCE):
    end = time.time() + patience
    while not f() and time.time() < end:
        time.sleep(.1)
    return f()


# --- assets and jobs ---

JOB = r'''
import os, sys, time
import dagster_pipes as dp
path = sys.argv[1]
with open(path + '.starts', 'a') as f:
    f.write('%d\n' % os.getpid())
with dp.open_dagster_pipes() as pipes:
    while not os.path.exists(path + '.go'):
        time.sleep(.1)
    sys.stdout.buffer.write(b'a\xff\n' + b'x' * (6 << 20) + b'\n')
    sys.stdout.flush()
    pipes.report_asset_materialization(metadata={'said': 'all'})
'''


def body(context, **spec):
    """Waits until it is let go, prints a byte that is no text and a line of 6 MB, and reports."""
    yield from sd.run(context, ['python3', '-c', JOB, os.path.join(CASES, context.op_execution_context.op.name)], **spec)


@dg.asset
def held_elsewhere(context: dg.AssetExecutionContext):
    yield from body(context, cluster='lab')


@dg.asset
def held_warm(context: dg.AssetExecutionContext, warm: Session):
    yield from body(context, cluster='demo', session=warm.name)


on_lab = slurmray_executor.configured({
    'mount': {'env': 'SLURMRAY_MOUNT'}, 'spec': {'cluster': 'lab', 'ray': {'entrypoint_num_cpus': 0.2, 'metadata': {'team': 'blue'}}},
    'env': ['PYTHONPATH', 'PYTHONPYCACHEPREFIX', 'SLURMRAY_MOUNT', 'CASES'], 'check_seconds': 2})


@dg.op(tags={'slurmray/ray.entrypoint_num_cpus': '0.5'})
def small(context):
    return os.environ['RAY_ADDRESS']


@dg.op(tags={'slurmray/config': {'cluster': 'demo', 'session': 'warm', 'launcher': 'ray', 'ray': None}})
def wide(context, address):
    import ray
    ray.init()
    with open(CASES + '/wide', 'w', encoding='utf-8') as f:
        f.write('%d %s' % (len(ray.nodes()), os.environ['RAY_ADDRESS'] == address))


@dg.job(executor_def=on_lab)
def steps():
    wide(small())


defs = dg.Definitions([held_elsewhere, held_warm], resources={'warm': WARM}, jobs=[steps] + [
    dg.define_asset_job(name + '_job', [name], executor_def=dg.in_process_executor) for name in ('held_elsewhere', 'held_warm')])


def held_elsewhere_job():
    return defs.get_job_def('held_elsewhere_job')


def held_warm_job():
    return defs.get_job_def('held_warm_job')


# --- what tests do ---

def dagster(*words):
    name = words[-1]
    with open('%s/%s.out' % (CASES, name), 'w', encoding='utf-8') as out:
        return subprocess.Popen([sys.executable, '-m', 'dagster', *words], stdout=out, stderr=out, cwd=CASES)


def said(name):
    return sd.read(CASES, name + '.out')[-3000:]


def newest(instance, key):
    records = instance.fetch_materializations(dg.AssetKey(key), limit=1).records
    return {k: v.value for k, v in records[0].asset_materialization.metadata.items()} if records else {}


def starts(name):
    path = '%s/%s.starts' % (CASES, name)
    return sd.read(CASES, name + '.starts').split() if os.path.exists(path) else []


def alive(pid):
    return os.path.exists('/proc/%s' % pid)


def words_of(path, name, key):
    return json.loads(sd.read(path, name)).get(key, {}).get('value')


def lab():
    """Configures it, when the session's Ray is ready."""
    path = '%s/runs/%s' % (MNT, sd.read(MNT + '/sessions/warm', 'run'))
    ready, token = sd.read(path, 'ray/ready'), os.open(CASES + '/token', os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(token, sd.read(path, 'ray/token').encode())
    with open(os.environ['CONFIG'], 'a', encoding='utf-8') as f:
        f.write('[cluster lab]\ntype = ray\naddress = %s\ntoken_file = %s/token\nenvironment = venv:%s\n' % (
            sd.read(path, 'ray/dashboard'), CASES, os.environ['VENV']))
    with open(MNT + '/ctl', 'w', encoding='utf-8') as f:
        f.write('reload\n')
    wait_for(lambda: os.path.isdir(MNT + '/clusters/lab') and 'link up' in sd.read(MNT, 'clusters/lab/status'), 60)
    report('the Ray cluster of a session is a cluster of the type ray, too', ready=(ready, 'ready'), said=str(sd.read(path, 'ray/why')),
           link=('link up' in sd.read(MNT, 'clusters/lab/status'), True))


def examples(instance):
    """on_ray.py, as its README says; three commands side by side, of which the last has two processes in one session."""
    which = {'pi_elsewhere': ('asset', 'materialize', '-m', 'on_ray', '--select', 'pi_elsewhere'),
             'pi_allocation': ('asset', 'materialize', '-m', 'on_ray', '--select', 'pi_allocation'),
             'pi_in_session': ('job', 'execute', '-m', 'on_ray', '-j', 'pi_in_session')}
    processes = {'pi_in_session': dagster(*which['pi_in_session'])}
    leases, ended = set(), set()

    def look():
        while processes['pi_in_session'].poll() is None:
            leases.update(os.listdir(MNT + '/sessions/warm/leases'))
            time.sleep(.1)
        ended.update(os.listdir(MNT + '/sessions/warm/leases'))
    looks = threading.Thread(target=look)
    looks.start()
    lab()
    processes.update({name: dagster(*which[name]) for name in ('pi_elsewhere', 'pi_allocation')[:1 + LONG]})
    wait_for(lambda: all(p.poll() is not None for p in processes.values()))
    looks.join(10)
    ends = {name: p.poll() for name, p in processes.items()}
    report('dagster asset materialize on a Ray cluster that is there', said=said('pi_elsewhere'), end=(ends['pi_elsewhere'], 0),
           **facts(instance, 'pi_elsewhere', NODES, 'lab'))
    if LONG:
        report('on a Ray cluster in an allocation', said=said('pi_allocation'), end=(ends['pi_allocation'], 0),
               **facts(instance, 'pi_allocation', NODES, 'demo'))
    warm = facts(instance, 'pi_warm', NODES, 'demo')
    job = sd.read(MNT + '/sessions/warm', 'job_id') if os.path.isdir(MNT + '/sessions/warm') else ''
    report('in a warm session', said=said('pi_in_session'), end=(ends['pi_in_session'], 0), **warm,
           job=(sd.read(newest(instance, 'pi_warm')['slurmray/run'], 'job_id').split('.')[0] if newest(instance, 'pi_warm') else '', job))
    here = newest(instance, 'pi_here')
    report('the process of the step itself, by Ray Client', said=said('pi_in_session'), pi=(2.9 < here.get('pi', 0) < 3.4, True))
    report('each of the two steps had a lease of its own, and they left one for a while', seen=(len(leases - {'linger', 'test'}) > 1, True),
           named=({'linger', 'test'} <= leases, True), left=(ended <= {'linger', 'test'}, True), status=(sd.read(MNT + '/sessions/warm', 'status'), 'running'))


def facts(instance, key, nodes, cluster):
    made = newest(instance, key)
    return {'nodes': (made.get('nodes'), nodes), 'pi': (2.9 < made.get('pi', 0) < 3.4, True),
            'cluster': (sd.read(made['slurmray/run'], 'cluster') if made else '', cluster)}


def kills(instance):
    """kill -9 of two of Dagster's processes; and a run whose worker and steps are jobs, meanwhile."""
    names = ['held_elsewhere', 'held_warm']
    processes = {n: dagster('job', 'execute', '-f', os.path.abspath(__file__), '-j', n + '_job') for n in names}
    recon = ReconstructableJob.for_file(os.path.abspath(__file__), 'steps')
    run_id = instance.create_run_for_job(recon.get_definition(), job_code_origin=recon.get_python_origin()).run_id
    instance.launch_run(run_id, None)
    wait_for(lambda: all(starts(n) or processes[n].poll() is not None for n in names))
    for n in names:
        processes[n].kill()
        processes[n].wait()
    for n in names:
        runs = glob.glob('%s/runs/%s-*' % (MNT, n))
        before = [sd.read(p, 'status') for p in runs]
        dead = [r for r in instance.get_runs() if r.job_name == n + '_job'][0].run_id
        open('%s/%s.go' % (CASES, n), 'w', encoding='utf-8').close()
        if not runs:
            report(n + ': its job began', said=said(n + '_job'), runs=(runs, 'one'))
            continue
        instance.report_run_failed(instance.get_run_by_id(dead))
        again = dg.execute_job(dg.reconstructable(globals()[n + '_job']), instance, raise_on_error=False,
                               reexecution_options=dg.ReexecutionOptions(parent_run_id=dead))
        mats = again.asset_materializations_for_node(n) if again.success else []
        report('%s: kill -9 of Dagster leaves the job alone, a re-execution takes it over' % n, before=(before, ['running']),
               success=(again.success, True), starts=(len(starts(n)), 1), runs=(glob.glob('%s/runs/%s-*' % (MNT, n)), runs),
               orphans=([p for p in starts(n) if alive(p)], []))
        log, want = hashlib.md5(), hashlib.md5(b'a\xff\n' + b'x' * (6 << 20) + b'\n')
        with open(runs[0] + '/stdout', 'rb') as f:
            log.update(f.read())
        report('%s: a byte that is no text and a line of 6 MB cost no report, and are in the log' % n,
               reports=([m.metadata['said'].value for m in mats], ['all']), log=(log.hexdigest(), want.hexdigest()))
    wait_for(lambda: instance.get_run_by_id(run_id).is_finished)
    path = {os.path.basename(os.path.realpath(p)): p for p in glob.glob('%s/by/tag/dagster_%s/*' % (MNT, run_id))}
    kind = {sd.read(p, 'info').split('\n')[0]: p for p in path.values()}
    told = '\n'.join(e.message for e in instance.all_logs(run_id)) + '\n'.join('%s %s' % (sd.read(p, 'why'), sd.read(p, 'log')[-500:]) for p in kind.values())
    by_name = {words_of(p, 'effective', 'name'): p for p in path.values()}
    report('a run and its steps are jobs of the Ray cluster, one of them in the session', said=told,
           status=(instance.get_run_by_id(run_id).status.value, 'SUCCESS'),
           clusters=({n: sd.read(p, 'cluster') for n, p in by_name.items()}, {'steps': 'lab', 'small': 'lab', 'wide': 'demo'}),
           wide=(os.path.exists(CASES + '/wide') and sd.read(CASES, 'wide'), '%d True' % NODES))
    ray = words_of(by_name['small'], 'effective', 'ray') if 'small' in by_name else {}
    report('the tag of an op wins over the member of the executor that it names', cpus=(ray.get('entrypoint_num_cpus'), 0.5),
           metadata=(ray.get('metadata'), {'team': 'blue'}))


def end(_instance):
    session = MNT + '/sessions/warm'
    for name in os.listdir(session + '/leases'):  # that of a process that was killed, too
        os.unlink('%s/leases/%s' % (session, name))
    report('without leases the session ends', end=(sd.read(session, 'wait'), 'succeeded 0'),
           log=('last lease is gone' in sd.read(session, 'log'), True))


if __name__ == '__main__':
    sys.stdout = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)  # what jobs print
    with dg.DagsterInstance.get() as of_all:
        with lease(MNT + '/sessions/warm', 'test', WARM.spec, WARM.linger):
            examples(of_all)
            kills(of_all)
        end(of_all)
    sys.exit(1 if failed else 0)
