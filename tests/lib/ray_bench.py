"""Jobs on a Ray cluster that is there, by slurmray and by dagster-ray, for tests/bench/ray, which sets the environment.

usage: ray_bench.py asset | submit | follow | bytes | faults    prints Markdown
       ray_bench.py payload                                     is the job
       ray_bench.py execute NAME [RUN]                          an asset of `faults` in a process of its own; RUN: a re-execution

All clients are in a network namespace of their own, so that a counter of its only interface has what they send and receive.
"""
import asyncio
import glob
import json
import os
import statistics
import subprocess
import sys
import threading
import time

ME = os.path.abspath(__file__)
sys.path.insert(0, os.path.join(os.path.dirname(ME), '../../docs/examples/dagster'))


def payload():
    import dagster_pipes as dp
    with dp.open_dagster_pipes() as pipes:
        extras = pipes.extras
        if 'note' in extras:
            with open(extras['note'], 'a', encoding='utf-8') as f:
                f.write('%d\n' % os.getpid())
        if 'bytes' in extras:
            line = b'x' * 99 + b'\n'
            for _ in range(extras['bytes'] // len(line) // 1000):
                sys.stdout.buffer.write(line * 1000)
        sys.stdout.buffer.write(bytes.fromhex(extras.get('hex', '')) + b'x' * extras.get('line', 0) + b'\n')
        sys.stdout.flush()
        time.sleep(extras.get('seconds', 0))
        pipes.report_asset_materialization(metadata={'well': True})


if __name__ == '__main__' and sys.argv[1:] == ['payload']:
    payload()
    sys.exit()

import dagster as dg  # noqa: E402

MNT, URL, DIR, PYTHON, COUNTER = (os.environ[k] for k in ('SLURMRAY_MOUNT', 'BENCH_URL', 'BENCH_DIR', 'BENCH_PYTHON', 'BENCH_COUNTER'))
RUNS = int(os.environ.get('RUNS', '10'))
WAYS = 'slurmray', 'dagster-ray'
COMMAND = [PYTHON, ME, 'payload']
REPORT = []  # where the Markdown goes: Dagster takes the standard output of steps
calls = {}  # what the last call of each way took, and the id of its job


def say(text):
    print(text, file=REPORT[0], flush=True)


def spread(values, digits=2):
    values = sorted(values)
    return ' / '.join('%.*f' % (digits, v) for v in (values[0], statistics.median(values), values[-1])) if values else '-'


def client():
    from ray.job_submission import JobSubmissionClient
    return JobSubmissionClient(URL)


def read(path):
    with open(path, encoding='utf-8', errors='replace') as f:
        return f.read().strip()


# --- assets ---

def by_slurmray(context, extras):
    import slurmray_dagster as sd
    begin = time.time()
    job = sd.run(context, COMMAND, extras=extras)
    calls['slurmray'] = time.time() - begin, sd.read(job.path, 'job_id')
    return job


def by_dagster_ray(context, extras):
    from dagster_ray import PipesRayJobClient
    begin = time.time()
    done = PipesRayJobClient(address=URL).run(context=context, extras=extras, submit_job_params={'entrypoint': ' '.join(COMMAND)})
    results = list(done.get_results())
    calls['dagster-ray'] = time.time() - begin, done.metadata['Ray Job ID'].value
    return results


def by_nobody(_context, _extras):
    return [dg.MaterializeResult()]


BY = {'slurmray': by_slurmray, 'dagster-ray': by_dagster_ray, 'nobody': by_nobody}


def asset_of(way, name, extras):
    @dg.asset(name=name)
    def asset(context: dg.AssetExecutionContext):
        yield from BY[way](context, extras)
    return asset


def materialize(instance, way, name, extras):
    """Seconds of the whole, and whether what the payload reported is there."""
    begin = time.time()
    result = dg.materialize([asset_of(way, name, extras)], instance=instance, raise_on_error=False)
    mats = result.asset_materializations_for_node(name) if result.success else []
    return time.time() - begin, result.success, [m.metadata['well'].value for m in mats if 'well' in m.metadata] == [True], result.run_id


def own_time(job_id):
    """Ray's own word about how long it was: seconds from its start to its end, when it is known."""
    for _ in range(100):
        info = client().get_job_info(job_id)
        if info.end_time:
            return (info.end_time - info.start_time) / 1000
        time.sleep(.1)
    raise AssertionError(job_id + ' has no end')


def asset():
    rows = {way: [] for way in BY}
    with dg.DagsterInstance.get() as instance:
        for i in range(-1, RUNS):
            for way in BY:
                total, _, well, _ = materialize(instance, way, 'a%d_%s' % (i + 1, way.replace('-', '_')), {'seconds': 0})
                call, job = calls.get(way, (0, None))
                own = own_time(job) if job else 0
                print(way, i, total, call, own, well, file=sys.stderr, flush=True)
                if i >= 0:  # the first one warms up
                    rows[way].append((total, call, own, call - own, well))
    share = statistics.median(r[0] for r in rows['nobody'])
    say('\nAn asset of 0 s, seconds, n = %d each, in turns, min / median / max. The call is that of the client in the asset; added is the call '
        'without what Ray itself says of the job, from its start to its end. An asset without a job takes %.2f s.\n' % (RUNS, share))
    say('| way | without its report | materialize | the call | Ray itself | added |\n|---|---|---|---|---|---|')
    for way in WAYS:
        columns = list(zip(*rows[way]))
        say('| %s | %d | %s |' % (way, columns[4].count(False), ' | '.join(spread(c) for c in columns[:4])))


# --- submission ---

SHELL = 'exec 3<>"$1/runs/new"; echo "-- true" >&3; read -r id <&3; echo "$id"'
ACCEPTED = SHELL + '; read -r said <&3; echo "$said"'


def timed(f):
    begin = time.time()
    f()
    return (time.time() - begin) * 1000


def quiet():
    """Until no job is left: what ends takes the processors that the next one is measured on."""
    while any(not j.status.is_terminal() for j in client().list_jobs()):
        time.sleep(.2)
    time.sleep(.3)


def submit():
    def run(*words):
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = client()
    ways = {
        'a shell: the run\'s id, in the journal': lambda: run('bash', '-c', SHELL, '-', MNT),
        'a shell: accepted by the cluster': lambda: run('bash', '-c', ACCEPTED, '-', MNT),
        '`ray job submit --no-wait`': lambda: run(os.path.dirname(PYTHON) + '/ray', 'job', 'submit', '--no-wait', '--address', URL, '--', 'true'),
        'JobSubmissionClient that is there already (what dagster-ray has)': lambda: kept.submit_job(entrypoint='true'),
    }
    rows = {name: [] for name in ways}
    for i in range(-1, RUNS):
        for name, f in ways.items():
            took = timed(f)
            quiet()
            if i >= 0:
                rows[name].append(took)
    base = statistics.median(rows['`ray job submit --no-wait`'])
    say('\nSubmission, milliseconds, n = %d each, in turns, min / median / max, each as a process of its own but the last.\n' % RUNS)
    say('| what | ms | times as fast as `ray job submit` |\n|---|---|---|')
    for name, took in rows.items():
        say('| %s | %s | %.1f |' % (name, spread(took, 1), base / statistics.median(took)))


# --- logs ---

TICKS = 'import time\nfor i in range(%d):\n time.sleep(.2)\n print("%%.6f" %% time.time(), flush=True)'
LINES = 50


def ticks():
    return [PYTHON, '-c', TICKS % LINES]


def followed_by_slurmray():
    with open(os.open(MNT + '/runs/new', os.O_RDWR), 'r+b', buffering=0) as f:
        f.write(json.dumps({'command': ticks()}).encode())
        number = f.read(4096).decode().split()[0]
    late = []
    with open('%s/runs/%s/log.follow' % (MNT, number), 'rb') as f:
        for line in f:
            late.append(time.time() - float(line))
    return late


def followed_by_ray():
    """As dagster-ray and `ray job logs --follow` do it."""
    import shlex
    kept = client()
    job, late = kept.submit_job(entrypoint=' '.join(shlex.quote(w) for w in ticks())), []

    async def tail():
        async for chunk in kept.tail_job_logs(job):
            now = time.time()
            for line in chunk.splitlines():
                try:
                    late.append(now - float(line))
                except ValueError:
                    pass  # Ray's own lines
    asyncio.run(tail())
    return late


def follow():
    rows = {'slurmray: `log.follow`': [], 'Ray: tail_job_logs': []}
    for _ in range(int(os.environ.get('ROUNDS', '3'))):
        rows['slurmray: `log.follow`'] += followed_by_slurmray()
        quiet()
        rows['Ray: tail_job_logs'] += followed_by_ray()
        quiet()
    say('\nA line every 0.2 s, from the moment at which it is printed to the one at which a follower has it, seconds.\n')
    say('| way | lines | min / median / max | 90% within |\n|---|---|---|---|')
    for name, late in rows.items():
        say('| %s | %d | %s | %.3f |' % (name, len(late), spread(late, 3), sorted(late)[int(len(late) * .9)]))


def network():
    return sum(int(read('%s/%s_bytes' % (COUNTER, way))) for way in ('rx', 'tx'))


def captured(run_id):
    """Bytes of the job's output in Dagster's compute logs."""
    return sum(os.path.getsize(p) for p in glob.glob('%s/storage/%s/compute_logs/*.out' % (os.environ['DAGSTER_HOME'], run_id)))


def bytes_():
    size = int(os.environ.get('LOG_BYTES', '100000000'))
    say('\nAn asset whose job prints %d bytes in lines of 100: bytes on the network, both ways.\n' % size)
    say('| way | seconds | in Dagster\'s compute logs | network | network / log | its report is there |\n|---|---|---|---|---|---|')
    with dg.DagsterInstance.get() as instance:
        for way in WAYS:
            before = network()
            total, _, well, run_id = materialize(instance, way, 'bytes_' + way.replace('-', '_'), {'bytes': size})
            time.sleep(1)
            sent = network() - before
            say('| %s | %.1f | %d | %d | %.2f | %s |' % (way, total, captured(run_id), sent, sent / size, 'yes' if well else 'no'))
            quiet()


# --- faults ---

def starts(note):
    return read(note).split() if os.path.exists(note) else []


def held(way, name):
    extras = {'note': '%s/cases/%s' % (DIR, name), 'seconds': 20}
    return dg.Definitions([asset_of(way, name, extras)], jobs=[dg.define_asset_job(name + '_job', [name], executor_def=dg.in_process_executor)]
                          ).get_job_def(name + '_job')


def killed_slurmray():
    return held('slurmray', 'killed_slurmray')


def killed_dagster_ray():
    return held('dagster-ray', 'killed_dagster_ray')


def execute(name, again=None):
    """An asset in this process, which the test may kill."""
    with dg.DagsterInstance.get() as instance:
        if again:
            instance.report_run_failed(instance.get_run_by_id(again))
        result = dg.execute_job(dg.reconstructable(globals()[name]), instance, raise_on_error=False,
                                reexecution_options=again and dg.ReexecutionOptions(parent_run_id=again))
        sys.exit(0 if result.success else 1)


def killed(instance, way):
    """kill -9 of Dagster while the job runs, and a re-execution: how many payloads began, and at most at once."""
    name, most = 'killed_' + way.replace('-', '_'), 0
    note = '%s/cases/%s' % (DIR, name)

    def start(*more):
        return subprocess.Popen([sys.executable, ME, 'execute', name, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = start()
    while not starts(note) and first.poll() is None:
        time.sleep(.1)
    first.kill()
    first.wait()
    run = [r for r in instance.get_runs() if r.job_name == name + '_job'][0].run_id
    second = start(run)
    while second.poll() is None:
        most = max(most, sum(os.path.exists('/proc/' + pid) for pid in starts(note)))
        time.sleep(.1)
    return 'payloads begun %d, at once %d, re-execution %s' % (len(starts(note)), most, 'SUCCESS' if second.returncode == 0 else 'FAILURE')


def faults():
    cases = {'prints a byte 0xff': {'hex': '61ff62'}, 'prints a line of 6 MB': {'line': 6 << 20}}
    say('\n| fault | %s |\n|---|---|---|' % ' | '.join(WAYS))
    with dg.DagsterInstance.get() as instance:
        for name, extras in cases.items():
            cells = []
            for way in WAYS:
                _, success, well, run_id = materialize(instance, way, 'f%d_%s' % (len(name), way.replace('-', '_')), extras)
                whole = captured(run_id) >= extras.get('line', 3)
                cells.append('step %s, its report %s, its output %s' % ('SUCCESS' if success else 'FAILURE', 'there' if well else 'lost',
                                                                       'there' if whole else 'lost'))
            say('| the payload %s | %s |' % (name, ' | '.join(cells)))
        say('| kill -9 of Dagster, re-execution | %s |' % ' | '.join(killed(instance, way) for way in WAYS))


if __name__ == '__main__':
    if sys.argv[1] == 'execute':
        execute(*sys.argv[2:])
    if sys.argv[1] != 'execute':
        REPORT.append(os.fdopen(os.dup(1), 'w', encoding='utf-8'))
        os.dup2(2, 1)  # what jobs print
        {'asset': asset, 'submit': submit, 'follow': follow, 'bytes': bytes_, 'faults': faults}[sys.argv[1]]()
