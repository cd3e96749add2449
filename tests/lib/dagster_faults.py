"""Faults with real Dagster: `dagster dev` as people run it, its own launcher and queue, everything that a person does in the UI done by
its GraphQL. Cases run side by side. Needs the environment of scripts/dagster-env, and in the environment DAGSTER_HOME, CASES (an empty
directory that jobs see), SLURMRAY_MOUNT, STATE, CONFIG and SLURMRAY (of the mount), TESTBED (scripts/testbed).

usage: dagster_faults.py [-n PARTITIONS] [-s SECONDS] [CASE...]   prints `ok NAME` or `not ok NAME`, reasons behind `# `

Each case is judged alike: how often its payload started, what Dagster's event log has of its reports, and how Dagster and slurmray
say that it ended. PARTITIONS are those of the backfill, SECONDS the time for which sshd is away.
"""
import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request

import dagster as dg

HERE = os.path.dirname(os.path.abspath(__file__))
ASSETS = os.path.join(HERE, 'dagster_fault_assets.py')
MNT, CASES, STATE, SLURMRAY = (os.environ[k] for k in ('SLURMRAY_MOUNT', 'CASES', 'STATE', 'SLURMRAY'))
PATIENCE = 300
LOCAL = threading.BoundedSemaphore(2)  # jobs that this machine has cores for
tty = threading.Lock()
failed = []


def until(f, what, patience=PATIENCE):
    end = time.time() + patience
    while True:
        value = f()
        if value:
            return value
        if time.time() > end:
            raise AssertionError('waited in vain for ' + what)
        time.sleep(.3)


def read(path, name):
    with open('%s/%s' % (path, name), encoding='utf-8', errors='replace') as f:
        return f.read().strip()


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


# --- Dagster ---

class Dev:
    """`dagster dev`: webserver, daemon and code server."""

    def __init__(self):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]
        self.log = os.environ['DAGSTER_HOME'] + '/dev.log'
        self.process = None

    def start(self):
        with open(self.log, 'a', encoding='utf-8') as log:
            self.process = subprocess.Popen([sys.executable, '-m', 'dagster', 'dev', '-f', ASSETS, '-h', '127.0.0.1', '-p', str(self.port)],
                                            stdout=log, stderr=log, cwd=CASES, start_new_session=True)
        until(self.ready, 'dagster dev')

    def __enter__(self):
        self.start()
        return self

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError('dagster dev ended: ' + read(os.path.dirname(self.log), 'dev.log')[-2000:])
        try:
            said = self.ask('{repositoriesOrError {__typename ... on RepositoryConnection {nodes {name location {name}}}}}')
        except OSError:
            return False
        if 'DagsterInvalid' in read(os.path.dirname(self.log), 'dev.log'):
            raise AssertionError(read(os.path.dirname(self.log), 'dev.log')[-2000:])
        return said['repositoriesOrError'].get('nodes')

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)

    def ask(self, query, **variables):
        data = json.dumps({'query': query, 'variables': variables}).encode()
        request = urllib.request.Request('http://127.0.0.1:%d/graphql' % self.port, data, {'Content-Type': 'application/json'})
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)
        if said.get('errors'):
            raise AssertionError(str(said['errors']))
        return said['data']

    def do(self, mutation, parameter, kind, value, selection):
        """The result of a mutation; anything but success is an error."""
        said = self.ask('mutation ($p: %s) { it: %s(%s: $p) { __typename ... on PythonError { message } %s } }' %
                        (kind, mutation, parameter, selection), p=value)['it']
        if 'Success' not in said['__typename']:
            raise AssertionError('%s: %s' % (mutation, said))
        return said

    def launch(self, job, **tags):
        return self.do('launchRun', 'executionParams', 'ExecutionParams!', {
            'selector': {'repositoryLocationName': os.path.basename(ASSETS), 'repositoryName': '__repository__', 'jobName': job},
            'executionMetadata': {'tags': [{'key': k, 'value': v} for k, v in tags.items()]},
        }, '... on LaunchRunSuccess { run { runId } }')['run']['runId']

    def again(self, run_id, strategy='FROM_FAILURE'):
        return self.do('launchRunReexecution', 'reexecutionParams', 'ReexecutionParams', {'parentRunId': run_id, 'strategy': strategy},
                       '... on LaunchRunSuccess { run { runId } }')['run']['runId']

    def terminate(self, run_id, policy='SAFE_TERMINATE'):
        said = self.ask('mutation ($r: String!, $p: TerminateRunPolicy) { it: terminateRun(runId: $r, terminatePolicy: $p) { __typename '
                        '... on TerminateRunFailure { message } } }', r=run_id, p=policy)['it']
        if said['__typename'] != 'TerminateRunSuccess':
            raise AssertionError(str(said))

    def backfill(self, asset, partitions, **tags):
        return self.do('launchPartitionBackfill', 'backfillParams', 'LaunchBackfillParams!', {
            'assetSelection': [{'path': [asset]}], 'partitionNames': partitions,
            'tags': [{'key': k, 'value': v} for k, v in tags.items()]}, '... on LaunchBackfillSuccess { backfillId }')['backfillId']

    def backfill_status(self, ident):
        return self.ask('query ($b: String!) { it: partitionBackfillOrError(backfillId: $b) { ... on PartitionBackfill { status } } }',
                        b=ident)['it']['status']


# --- a case ---

class Case:
    """A Dagster run and its re-executions, all with the tag `case`."""

    def __init__(self, dev, instance, name, cluster):
        self.dev, self.instance, self.name, self.cluster, self.ids = dev, instance, name, cluster, []

    def launch(self, job='steady_job', spec=None, **tags):
        self.ids.append(self.dev.launch(job, case=self.name, cluster=self.cluster, **({'spec': json.dumps(spec)} if spec else {}), **tags))
        return self

    def again(self):
        self.ids.append(self.dev.again(self.ids[-1]))
        return self

    def terminate(self, **options):
        self.dev.terminate(self.ids[-1], **options)
        return self

    def go(self):
        open('%s/%s.go' % (CASES, self.name), 'w', encoding='utf-8').close()
        return self

    def starts(self, asset='steady'):
        path = '%s/%s-%s.starts' % (CASES, self.name, asset)
        if not os.path.exists(path):
            return []
        with open(path, encoding='utf-8') as f:
            return f.read().split()

    def started(self, asset='steady', count=1):
        until(lambda: len(self.starts(asset)) >= count or self.run().is_finished, self.name + ': its job')
        if len(self.starts(asset)) < count:
            raise AssertionError('%s: no job started; %s' % (self.name, self.told()))
        return self

    def run(self, which=-1):
        return self.instance.get_run_by_id(self.ids[which])

    def ended(self, want):
        until(lambda: self.run().is_finished, '%s: its end; it is %s' % (self.name, self.run().status))
        if self.run().status.value != want:
            raise AssertionError('%s: %s, not %s\n%s' % (self.name, self.run().status.value, want, self.told()))
        return self

    def became(self, want):
        until(lambda: self.run().status.value == want, '%s: %s' % (self.name, want))
        return self

    def events(self, which=-1):
        return list(self.instance.all_logs(self.ids[which]))

    def told(self):
        return '\n'.join('%s %s' % (e.dagster_event.event_type_value if e.dagster_event else '-', (
            e.dagster_event.event_specific_data.error if e.dagster_event and e.dagster_event.is_step_failure else e.message))
            for e in self.events() if not e.message.startswith('message '))

    def worker(self):
        """The process of the run."""
        def pid():
            said = [e.message for e in self.events() if 'Started process for' in e.message]
            return said and int(said[-1].rsplit('pid: ', 1)[1].rstrip(').'))
        return until(pid, self.name + ': the process of its run')

    def step_process(self, step='steady'):
        """The process of a step of the multiprocess executor."""
        def pid():
            found = [e.dagster_event.engine_event_data.metadata.get('pid') for e in self.events() if e.dagster_event and e.dagster_event.step_key == step
                     and e.dagster_event.event_type_value == 'STEP_WORKER_STARTED']
            return found and found[-1] and int(found[-1].value)
        return until(pid, self.name + ': the process of its step')

    def jobs(self, step):
        """Status words of the runs that the series made for a step."""
        found = [d for d in os.listdir(MNT + '/runs') if d.startswith(step + '-' + self.ids[0][:13])]
        return [read('%s/runs/%s' % (MNT, d), 'status') for d in sorted(found)]

    def job_is(self, want, step='steady'):
        until(lambda: self.jobs(step) == [want], '%s: a job that is %s' % (self.name, want))
        return self

    def judge(self, statuses, starts=1, jobs=('succeeded',), asset='steady', reported=True):
        """One execution, all events once, the right final states."""
        if len(jobs) == 1:
            self.job_is(jobs[0], asset)
        wrong = {}
        got = {'status of Dagster': ([self.instance.get_run_by_id(i).status.value for i in self.ids], statuses),
               'starts': (len(self.starts(asset)), starts), 'jobs': (self.jobs(asset), list(jobs))}
        reports = [e.dagster_event for i in range(len(self.ids)) for e in self.events(i) if e.dagster_event and e.dagster_event.step_key == asset]
        mats = [e for e in reports if e.event_type_value == 'ASSET_MATERIALIZATION']
        checks = [e for e in reports if e.event_type_value == 'ASSET_CHECK_EVALUATION']
        got['materializations, checks'] = ((len(mats), len(checks)), (1, 1) if reported else (0, 0))
        if mats and reported:
            sent = mats[0].materialization.metadata['sent'].value
            got['messages'] = (self.messages(asset), ['message %d' % i for i in range(sent)])
        for what, (have, want) in got.items():
            if have != want:
                wrong[what] = '%s: %s: %.300r, not %.300r' % (self.name, what, have, want)
        if wrong:
            raise AssertionError('\n'.join([*wrong.values(), self.told()[-3000:]]))

    def messages(self, step):
        """What the job sent by pipes.log, as it arrived in the last try of the last run that has this step: each try reads all of it."""
        for which in reversed(range(len(self.ids))):
            said = []
            for e in self.events(which):
                kind = e.dagster_event.event_type_value if e.dagster_event and e.dagster_event.step_key == step else ''
                if kind in ('STEP_START', 'STEP_RESTARTED'):
                    said = []
                if e.step_key == step and e.user_message.startswith('message '):
                    said.append(e.user_message)
            if said:
                return said
        return []


cases = {}


def case(cluster, alone=False):
    def add(f):
        cases[f.__name__] = (f, cluster, alone)
        return f
    return add


@case('local')
def step_killed(c):
    """kill -9 of the process of a step, then re-execution: the job goes on, and is found"""
    c.launch('steady_processes').started()
    os.kill(c.step_process(), signal.SIGKILL)
    c.ended('FAILURE')
    c.job_is('running')
    c.again().go().ended('SUCCESS').judge(['FAILURE', 'SUCCESS'])


@case('demo')
def step_killed_retried(c):
    """kill -9 of the process of a step that has a retry policy: the next try goes on with the job"""
    c.launch('stubborn_processes').started('stubborn')
    os.kill(c.step_process('stubborn'), signal.SIGKILL)
    until(lambda: any(e.dagster_event and e.dagster_event.is_step_restarted for e in c.events()), 'another try')
    c.go().ended('SUCCESS').judge(['SUCCESS'], asset='stubborn')


@case('demo')
def stumbles(c):
    """a step that fails after its job is tried again, and takes the results of that job"""
    c.launch('stubborn_job').started('stubborn').go().ended('SUCCESS').judge(['SUCCESS'], asset='stubborn')


@case('demo')
def run_killed(c):
    """kill -9 of the process of a run, then re-execution: the job goes on, and is found"""
    c.launch().started()
    os.kill(c.worker(), signal.SIGKILL)
    c.ended('FAILURE').job_is('running')
    c.again().go().ended('SUCCESS').judge(['FAILURE', 'SUCCESS'])


@case('demo')
def run_stopped(c):
    """SIGTERM to the process of a run, then re-execution: the job goes on, and is found"""
    c.launch().started()
    os.kill(c.worker(), signal.SIGTERM)
    c.ended('FAILURE')
    c.job_is('running')
    c.again().go().ended('SUCCESS').judge(['FAILURE', 'SUCCESS'])


@case('demo')
def forced(c):
    """force-terminate of a run that is well: the job is cancelled"""
    c.launch('steady_processes').started().terminate(policy='MARK_AS_CANCELED_IMMEDIATELY').ended('CANCELED')
    c.judge(['CANCELED'], jobs=['cancelled'], reported=False)
    until(lambda: not alive(c.worker()), 'the end of its process')


@case('demo')
def canceled(c):
    """terminate in the UI while the job runs: it is cancelled"""
    c.launch().started().terminate().ended('CANCELED').judge(['CANCELED'], jobs=['cancelled'], reported=False)


@case('demo')
def canceled_pending(c):
    """terminate in the UI while the job waits in the queue of Slurm: it never starts"""
    c.launch(spec={'hold': True}).job_is('pending').terminate().ended('CANCELED')
    c.judge(['CANCELED'], starts=0, jobs=['cancelled'], reported=False)


@case('demo')
def canceled_queued(c):
    """terminate in the UI while the run waits in the queue of Dagster: there is no job"""
    first = Case(c.dev, c.instance, c.name + '_lane', c.cluster).launch(lane='one').started()
    c.launch(lane='one').became('QUEUED').terminate().ended('CANCELED')
    first.go().ended('SUCCESS').judge(['SUCCESS'])
    c.judge(['CANCELED'], starts=0, jobs=[], reported=False)


@case('demo')
def from_failure(c):
    """re-execution from failure of a run of two steps: the first one is left alone, the second one goes on with its job"""
    c.launch('pair_processes').started().go().started('second')
    os.unlink('%s/%s.go' % (CASES, c.name))  # may be too late for a job that has started: then it has ended
    os.kill(c.step_process('second'), signal.SIGKILL)
    c.ended('FAILURE').again().go().ended('SUCCESS')
    c.judge(['FAILURE', 'SUCCESS'], asset='second')
    c.judge(['FAILURE', 'SUCCESS'])


def worker():
    try:
        text = read(STATE, 'worker.pid')
        return int(text) if text else 0
    except (OSError, ValueError):
        return 0


@case('local')
def worker_killed(c):
    """kill -9 of slurmray's worker, ten times during one step: nobody notices"""
    c.launch().started()
    for _ in range(10):
        pid = until(worker, 'a worker')
        os.kill(pid, signal.SIGKILL)
        until(lambda: worker() not in (0, pid), 'another worker')  # pylint: disable=cell-var-from-loop
        read(MNT, 'status')
        time.sleep(.3)
    c.go().ended('SUCCESS').judge(['SUCCESS'])


@case('demo', alone=True)
def outage(c):
    """sshd gone for a while in the middle of a step, and while another one is submitted: nobody notices"""
    other = Case(c.dev, c.instance, c.name + '_submitted', c.cluster)
    c.launch().started()
    subprocess.run([os.environ['TESTBED'], 'sshd-stop'], check=True, timeout=60, stdout=subprocess.DEVNULL)
    other.launch()
    time.sleep(options.seconds)
    subprocess.run([os.environ['TESTBED'], 'sshd-start'], check=True, timeout=60, stdout=subprocess.DEVNULL)
    other.started().go().ended('SUCCESS').judge(['SUCCESS'])
    c.go().ended('SUCCESS').judge(['SUCCESS'])


@case('demo', alone=True)
def mount_killed(c):
    """kill -9 of the whole mount in the middle of two steps, one of whose jobs ends meanwhile, and a new one ten seconds later: the steps
    are tried again and find their jobs"""
    local = Case(c.dev, c.instance, c.name + '_local', 'local')
    c.launch()
    local.launch('steady_processes').started()
    c.started()
    pid = worker()
    with open('/proc/%d/stat' % pid, encoding='ascii') as f:
        keeper = int(f.read().rsplit(')', 1)[1].split()[1])
    os.kill(keeper, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    subprocess.run(['umount', '-l', MNT], check=True)
    time.sleep(3)
    local.go()
    time.sleep(7)
    subprocess.run([SLURMRAY, 'mount', MNT, '--config', os.environ['CONFIG'], '--state', STATE], check=True, timeout=60,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    c.go()
    for one in c, local:
        one.ended('SUCCESS').judge(['SUCCESS'])


@case('demo', alone=True)
def dagster_killed(c):
    """kill -9 of all of Dagster, and force-terminate when it is back: the sensor cancels the job"""
    c.launch().started()
    pid = c.worker()
    os.killpg(c.dev.process.pid, signal.SIGKILL)
    until(lambda: not alive(pid), 'the end of the process of its run')
    c.dev.process.wait(30)
    c.dev.start()
    assert c.run().status.value == 'STARTED', c.run().status
    c.terminate(policy='MARK_AS_CANCELED_IMMEDIATELY').ended('CANCELED').judge(['CANCELED'], jobs=['cancelled'], reported=False)


@case('demo')
def backfill(c):
    """a backfill: each partition once"""
    keys = ['p%03d' % i for i in range(options.n)]
    ident = c.go().dev.backfill('hundred', keys, case=c.name, cluster=c.cluster)
    until(lambda: c.dev.backfill_status(ident) not in ('REQUESTED', 'FAILING', 'CANCELING'), 'the end of the backfill', PATIENCE + 15 * options.n)
    assert c.dev.backfill_status(ident) == 'COMPLETED_SUCCESS', c.dev.backfill_status(ident)
    runs = c.instance.get_runs(dg.RunsFilter(tags={'dagster/backfill': ident}))
    got = sorted((r.tags['dagster/partition'], r.status.value) for r in runs)
    assert got == [(k, 'SUCCESS') for k in keys], got
    for r in runs:
        one = Case(c.dev, c.instance, c.name, c.cluster)
        one.ids = [r.run_id]
        starts = one.starts('hundred-' + r.tags['dagster/partition'])
        events = [e.dagster_event.event_type_value for e in one.events() if e.dagster_event]
        have = len(starts), events.count('ASSET_MATERIALIZATION'), events.count('ASSET_CHECK_EVALUATION')
        assert have == (1, 1, 1), '%s: %s' % (r.tags['dagster/partition'], have)


# --- running ---

def attempt(dev, name):
    f, cluster, _ = cases[name]
    began, wrong = time.time(), ''
    # Each thread has connections of its own.
    with dg.DagsterInstance.get() as instance:
        try:
            if cluster == 'local':
                with LOCAL:
                    f(Case(dev, instance, name, cluster))
            else:
                f(Case(dev, instance, name, cluster))
        except Exception as e:  # pylint: disable=broad-except
            wrong = str(e) + '\n' + traceback.format_exc()[-1500:]
    with tty:
        print('%s %s: %s' % ('not ok' if wrong else 'ok', cluster, ' '.join(f.__doc__.split())), flush=True)
        for line in wrong.splitlines():
            print('# ' + line, flush=True)
        print('%s %.1f s' % (name, time.time() - began), file=sys.stderr, flush=True)
    if wrong:
        failed.append(name)


def main():
    wanted = list(options.cases or cases)
    with Dev() as dev:
        wanted.sort(key='backfill'.__ne__)  # its daemon looks every half minute
        threads = [threading.Thread(target=attempt, args=(dev, name)) for name in wanted if not cases[name][2]]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for name in wanted:
            if cases[name][2]:
                attempt(dev, name)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('-n', type=int, default=4)
    parser.add_argument('-s', dest='seconds', type=int, default=10)
    parser.add_argument('cases', nargs='*')
    options = parser.parse_args()
    main()
