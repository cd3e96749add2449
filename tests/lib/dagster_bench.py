"""Assets whose jobs run on Slurm, by slurmray and by dagster-slurm, for tests/bench/dagster, which sets the environment.

usage: dagster_bench.py single | many        prints Markdown
       dagster_bench.py threads WAY COUNT    materializes COUNT assets at once, as threads of this process: a line of JSON
       dagster_bench.py payload              is the job

The payload notes when it began and when its work was done; the clock is one, since the testbed runs on this machine. Slurm's log says when a job had left
its node.
"""
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import threading
import time

ME = os.path.abspath(__file__)
sys.path.insert(0, os.path.join(os.path.dirname(ME), '../../docs/examples/dagster'))
DIR = os.environ['BENCH_DIR'] if 'BENCH_DIR' in os.environ else ''
WAYS = os.environ.get('WAYS', 'slurmray dagster-slurm').split()


def payload(extras):
    begin = time.time()
    import dagster_pipes as dp
    if extras:
        time.sleep(extras['seconds'])
        done = time.time()
    else:
        with dp.open_dagster_pipes() as pipes:
            extras = pipes.extras
            time.sleep(extras['seconds'])
            pipes.report_asset_materialization(metadata={'seconds': extras['seconds']})
            done = time.time()
    with open(extras['note'] + '.new', 'w', encoding='utf-8') as f:
        json.dump({'begin': begin, 'done': done, 'job': os.environ['SLURM_JOB_ID']}, f)
    os.rename(extras['note'] + '.new', extras['note'])


if __name__ == '__main__' and sys.argv[1:] in ([], ['payload']):
    payload(json.loads(os.environ.get('BENCH', '{}')))
    sys.exit()

import dagster as dg  # noqa: E402


def note_of(name):
    return '%s/cases/%s' % (DIR, name)


def by_slurmray(context, extras):
    import slurmray_dagster as sd
    yield from sd.run(context, ['python3', os.path.basename(ME)], files=[ME], extras=extras, time='30')


def by_dagster_slurm(context, extras):
    yield from compute().run(context=context, payload_path=ME, extras=extras).get_results()


made = []


def compute():
    """As its documentation has it: one resource for all assets."""
    if not made:
        import dagster_slurm as ds
        bed = DIR + '/testbed'
        with open(bed + '/ssh/config', encoding='utf-8') as f:
            port = int(re.search(r'Port (\d+)', f.read()).group(1))
        ssh = ds.SSHConnectionResource(host='127.0.0.1', port=port, user=os.environ.get('USER') or 'root', key_path=bed + '/ssh/id',
                                       extra_opts=['-o', 'UserKnownHostsFile=%s/ssh/known_hosts' % bed])
        slurm = ds.SlurmResource(ssh=ssh, queue=ds.SlurmQueueConfig(cpus=1, mem='100M'), remote_base=bed + '/home/pipelines')
        made.append(ds.ComputeResource(mode='slurm', slurm=slurm, default_launcher=ds.BashLauncher(), pre_deployed_env_path=DIR + '/env'))
    return made[0]


def by_nobody(_context, _extras):
    yield dg.MaterializeResult()


BY = {'slurmray': by_slurmray, 'dagster-slurm': by_dagster_slurm, 'nobody': by_nobody}


def asset_of(way, name, seconds):
    @dg.asset(name=name)
    def asset(context: dg.AssetExecutionContext):
        yield from BY[way](context, {'seconds': seconds, 'note': note_of(name)})
    return asset


# --- what is counted ---

def held(job, done):
    """Seconds from the end of the work until Slurm had the node back."""
    with open(DIR + '/testbed/log/slurmctld.log', encoding='utf-8', errors='replace') as f:
        found = re.findall(r'\[([0-9T:.-]+)\] _job_complete: JobId=%s.* done' % job, f.read())
    if not found:
        return None
    stamp = found[-1]
    return time.mktime(time.strptime(stamp[:19], '%Y-%m-%dT%H:%M:%S')) + float(stamp[19:] or 0) - done


def lines(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding='utf-8', errors='replace') as f:
        return f.read().splitlines()


class Count:
    """What happens between its creation and `done`."""
    QUERIES = 'JOB_INFO', 'JOB_INFO_SINGLE', 'PARTITION_INFO', 'NODE_INFO', 'JOB_STEP_INFO', 'JOB_USER_INFO'

    def __init__(self):
        self.before = self.now()

    @staticmethod
    def now():
        sdiag = subprocess.run(['sdiag'], check=True, stdout=subprocess.PIPE, text=True).stdout
        rpcs = {name: int(n) for name, n in re.findall(r'REQUEST_(\w+)\s*\(\s*\d+\)\s*count:(\d+)', sdiag)}
        ssh = lines(DIR + '/count/ssh')
        return {'ssh': len(ssh), 'sacct': sum('sacct ' in line for line in ssh), 'rpc': sum(rpcs.get(q, 0) for q in Count.QUERIES),
                'logins': sum('Accepted publickey' in line for line in lines(DIR + '/testbed/log/sshd.log'))}

    def done(self):
        now = self.now()
        return {k: now[k] - self.before[k] for k in now}


# --- one at a time ---

def quiet():
    import logging
    import warnings
    warnings.simplefilter('ignore')
    logging.disable(logging.NOTSET)


def srun(name, seconds):
    begin = time.time()
    extras = json.dumps({'seconds': seconds, 'note': note_of(name)})
    subprocess.run(['/usr/bin/ssh', '-F', DIR + '/testbed/ssh/config', '-o', 'ControlPath=' + DIR + '/mux', 'slurmray-demo',
                    "BENCH='%s' srun -n1 %s %s payload" % (extras, os.environ['BENCH_PYTHON'], ME)], check=True, stdin=subprocess.DEVNULL)
    return begin, time.time(), True


def materialize(instance, way, name, seconds):
    asset = asset_of(way, name, seconds)
    begin = time.time()
    result = dg.materialize([asset], instance=instance, raise_on_error=False)
    return begin, time.time(), result.success and len(result.asset_materializations_for_node(name)) == 1


def one(instance, way, name, seconds):
    """What a run took, in parts; none when it failed."""
    count = Count()
    begin, end, well = srun(name, seconds) if way == 'srun' else materialize(instance, way, name, seconds)
    row = {'well': well, 'total': end - begin - seconds, **count.done()}
    if way != 'nobody' and os.path.exists(note_of(name)):
        with open(note_of(name), encoding='utf-8') as f:
            note = json.load(f)
        time.sleep(.5)
        row.update(before=note['begin'] - begin, after=end - note['done'], held=held(note['job'], note['done']))
    print(way, seconds, json.dumps(row), file=sys.stderr, flush=True)
    return row


def spread(rows, key, digits=2):
    values = sorted(r[key] for r in rows if r.get(key) is not None)
    return ' / '.join('%.*f' % (digits, v) for v in (values[0], statistics.median(values), values[-1])) if values else '-'


def median(rows, key):
    return statistics.median([r[key] for r in rows if r['well']] or [float('nan')])


def single():
    runs, payloads = int(os.environ.get('RUNS', '10')), [int(s) for s in os.environ.get('SECONDS_OF', '0 1 10').split()]
    ways, seen = ['srun', 'nobody', *WAYS], {}
    with dg.DagsterInstance.get() as instance:
        for way in ways:  # what is slow once
            one(instance, way, 'warm_' + way.replace('-', '_'), 0)
        for i in range(runs):
            for seconds in payloads:
                for way in ways:
                    if way == 'nobody' and seconds:
                        continue
                    time.sleep((i * 7 + seconds * 3) % 10 / 10)  # out of step with Slurm's schedulers
                    seen.setdefault((way, seconds), []).append(one(instance, way, 'a%d_%d_%s' % (i, seconds, way.replace('-', '_')), seconds))
    share = median(seen['nobody', 0], 'total')
    print('\nSeconds, n = %d each, in turns, min / median / max. Total is from the call to its return, without the payload\'s sleep; added, of'
          ' the medians, is what is left without `ssh srun` of the same payload (connection kept) and without Dagster\'s own share, which'
          ' is that of an asset without a job. Held is from the end of the work, which the payload has reported then, until Slurm has its node back.\n' % runs)
    print('| payload | way | failed | total | added | call to payload | work done to return | node held | ssh, scp processes | logins | queries | sacct |')
    print('|---|---|---|---|---|---|---|---|---|---|---|---|')
    for seconds in payloads:
        bare = median(seen['srun', seconds], 'total')
        for way in ways:
            rows = seen.get((way, seconds))
            if rows:
                well = [r for r in rows if r['well']]
                added = '%.2f' % (median(rows, 'total') - bare - share) if way in WAYS else '-'
                print('| %d s | %s | %d | %s | %s | %s | %s | %s | %s |' % (
                    seconds, {'nobody': 'Dagster alone', 'srun': '`ssh srun`'}.get(way, way), len(rows) - len(well), spread(well, 'total'), added,
                    spread(well, 'before'), spread(well, 'after'), spread(well, 'held'),
                    ' | '.join('%g' % median(rows, k) for k in ('ssh', 'logins', 'rpc', 'sacct'))), flush=True)


# --- many at once ---

def assets_of(way, count):
    seconds = int(os.environ.get('BURST_SECONDS', '10'))
    return [asset_of(way, '%s_%03d' % (way.replace('-', '_'), i), seconds) for i in range(count)]


def slurmray_many():
    return dg.Definitions(assets_of('slurmray', int(os.environ['BENCH_COUNT'])), jobs=[dg.define_asset_job('many')]).get_job_def('many')


def dagster_slurm_many():
    return dg.Definitions(assets_of('dagster-slurm', int(os.environ['BENCH_COUNT'])), jobs=[dg.define_asset_job('many')]).get_job_def('many')


def in_processes(way, count):
    """The multiprocess executor."""
    os.environ['BENCH_COUNT'] = str(count)
    job = {'slurmray': slurmray_many, 'dagster-slurm': dagster_slurm_many}[way]
    with dg.DagsterInstance.get() as instance:
        begin = time.time()
        result = dg.execute_job(dg.reconstructable(job), instance, raise_on_error=False,
                                run_config={'execution': {'config': {'multiprocess': {'max_concurrent': count}}}})
        mats = [e for e in result.all_events if e.is_step_materialization]
        return {'seconds': time.time() - begin, 'well': len(mats), 'memory': None}


def in_threads(way, count):
    """A process of its own, for its memory."""
    out = subprocess.run([sys.executable, ME, 'threads', way, str(count)], stdout=subprocess.PIPE, check=True, text=True, timeout=1800).stdout
    return json.loads(out.splitlines()[-1])


def threads(way, count):
    import logging.config
    logging.config.dictConfig = lambda config: None  # Dagster calls it for each run, and threads that do so wait for each other for ever
    out = os.dup(1)  # Dagster's capture of each run's output moves those of sys.stdout about
    os.dup2(2, 1)
    with dg.DagsterInstance.get():
        small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        good, begin = [], time.time()

        def run(asset):
            with dg.DagsterInstance.get() as own:
                result = dg.materialize([asset], instance=own, raise_on_error=False)
            if result.success and len(result.asset_materializations_for_node(asset.op.name)) == 1:
                good.append(asset)
        all_of_them = [threading.Thread(target=run, args=(a,)) for a in assets_of(way, count)]
        for t in all_of_them:
            t.start()
        for t in all_of_them:
            t.join()
        os.write(out, json.dumps({'seconds': time.time() - begin, 'well': len(good), 'before': small / 1024,
                                  'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}).encode())


def many():
    bursts = [b.split(':') for b in os.environ.get('BURST', 'processes:20 threads:100').split()]
    print('\nAt once, payloads of %s s. In processes is one run of Dagster with its multiprocess executor, in threads are so many runs with its '
          'in-process executor in one process.\n' % os.environ.get('BURST_SECONDS', '10'))
    print('| how many | way | failed | seconds | ssh, scp processes | logins | queries | sacct | memory of the process |')
    print('|---|---|---|---|---|---|---|---|---|')
    for kind, number in bursts:
        for way in WAYS:
            count = int(number)
            for name in os.listdir(DIR + '/cases'):
                os.unlink(DIR + '/cases/' + name)
            counted = Count()
            got = {'threads': in_threads, 'processes': in_processes}[kind](way, count)
            print('| %d in %s | %s | %d | %.1f | %s | %s |' % (
                count, kind, way, count - got['well'], got['seconds'],
                ' | '.join('%d' % counted.done()[k] for k in ('ssh', 'logins', 'rpc', 'sacct')),
                '%.0f MiB (%.0f before)' % (got['memory'], got['before']) if got['memory'] else '-'), flush=True)


if __name__ == '__main__':
    if sys.argv[1] == 'threads':
        threads(sys.argv[2], int(sys.argv[3]))
    else:
        sys.stdout = os.fdopen(os.dup(1), 'w', encoding='utf-8')
        os.dup2(2, 1)  # what jobs print
        {'single': single, 'many': many}[sys.argv[1]]()
