"""The example of docs/from-dagster-slurm.md with stock Dagster, and what its readers know from there: steps that die, are tried again,
run side by side, are terminated. Needs the environment of scripts/dagster-env.

usage: moving_assets.py check MNT DIR                   prints `ok NAME` or `not ok NAME`, reasons behind `# `; DIR is for this test
       moving_assets.py job DIR ASSET                   the job of it
"""
import json
import os
import re
import signal
import sys
import time
import traceback
import uuid

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATIENCE = 120
failed = []


def page(mnt, home):
    """What the page's second example defines, on our mount."""
    with open(TOP + '/docs/from-dagster-slurm.md', encoding='utf-8') as f:
        block = re.search(r'```python norun: tests/real/t0660[^\n]*\n(.*?)\n```', f.read(), re.S).group(1)
    block = block.replace("os.path.expanduser('~/hpc')", repr(mnt)).replace('/home/me', home).replace("'mem': '16G'", "'mem': '100M'")
    there = {}
    exec(compile(block, 'from-dagster-slurm.md', 'exec'), there)  # pylint: disable=exec-used
    return there


# --- the job ---

def job(where, asset):
    from dagster_pipes import open_dagster_pipes

    with open(where + '/ledger', 'a', encoding='ascii') as f:
        f.write(asset + '\n')
    with open_dagster_pipes() as pipes:
        for i in range(20):
            pipes.log.info('early %d' % i)
        until(lambda: os.path.exists('%s/go_%s' % (where, asset)), 'go')
        if os.path.exists('%s/fail_%s' % (where, asset)):
            os.unlink('%s/fail_%s' % (where, asset))
            print('no luck', file=sys.stderr)
            sys.exit(3)
        pipes.report_asset_materialization(metadata={'asset': asset, 'who': pipes.get_extra('who')})


# --- a process of Dagster ---

def step(mnt, where, asset_name, run_id, parent=None):
    import dagster as dg
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run

    run = page(mnt, where)['run']

    @dg.asset(name=asset_name)
    def it(context: dg.AssetExecutionContext):
        yield from run(context, {'command': [sys.executable, os.path.abspath(__file__), 'job', where, asset_name], 'time': '10'},
                       extras={'who': asset_name})

    job_def = dg.Definitions(assets=[it], jobs=[dg.define_asset_job('j', executor_def=dg.in_process_executor)]).resolve_job_def('j')
    with dg.DagsterInstance.get() as instance:
        more = {}
        if parent:
            root = instance.get_run_by_id(parent).root_run_id or parent
            more = {'parent_run_id': parent, 'root_run_id': root, 'tags': {'dagster/is_resume_retry': 'true'}}
        dagster_run = instance.create_run_for_job(job_def, run_id=run_id, **more)
        result = execute_run(InMemoryJob(job_def), dagster_run, instance)
        found = [{k: v.value for k, v in e.materialization.metadata.items()} for e in result.all_events if e.is_step_materialization]
        logs = [r.user_message for r in instance.all_logs(run_id) if r.user_message.startswith('early ')]
        why = [str(e.step_failure_data.error) for e in result.all_events if e.is_step_failure]
    return {'success': result.success, 'found': found, 'early': len(logs), 'why': why}


def until(cond, what):
    end = time.monotonic() + PATIENCE
    while not cond():
        if time.monotonic() > end:
            raise RuntimeError('never: ' + what)
        time.sleep(0.05)


class Step:
    """A process with one Dagster run of an asset. It is forked: to import Dagster takes longer than all else."""

    def __init__(self, mnt, where, asset, parent=None):
        self.mnt, self.where, self.asset, self.id = mnt, where, asset, str(uuid.uuid4())
        self.answer = '%s/answer_%s' % (where, self.id)
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                with open(self.answer + '.log', 'wb', 0) as f:
                    os.dup2(f.fileno(), 1)
                    os.dup2(f.fileno(), 2)
                answer = json.dumps(step(mnt, where, asset, self.id, parent))
                with open(self.answer, 'w', encoding='utf-8') as f:
                    f.write(answer)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def job(self, number=1, first=None):
        return '%s/runs/%s-%s-%d' % (self.mnt, self.asset, (first or self.id)[:8], number)

    def status(self, **more):
        try:
            with open(self.job(**more) + '/status', encoding='ascii') as f:
                return f.read().strip()
        except FileNotFoundError:
            return None

    def began(self, times=1):
        try:
            with open(self.where + '/ledger', encoding='ascii') as f:
                return f.read().split().count(self.asset) == times
        except FileNotFoundError:
            return times == 0

    def running(self):
        until(lambda: self.status() == 'running' and self.began(), '%s runs: %s' % (self.asset, self.status()))

    def go(self, fail=False):
        for name in (['fail'] if fail else []) + ['go']:
            with open('%s/%s_%s' % (self.where, name, self.asset), 'w', encoding='ascii'):
                pass

    def end(self, sig):
        os.kill(self.pid, sig)
        self.over()

    def over(self):
        until(lambda: os.waitpid(self.pid, os.WNOHANG)[0], 'the process of %s ends' % self.asset)

    def result(self):
        self.over()
        name = self.answer if os.path.exists(self.answer) else self.answer + '.log'
        with open(name, encoding='utf-8') as f:
            text = f.read()
        return json.loads(text) if name == self.answer else text[-1500:]

    def good(self):
        return {'success': True, 'found': [{'asset': self.asset, 'who': self.asset}], 'early': 20, 'why': []}


# --- cases ---

def report(name, **have_want):
    wrong = ['%s: %.600r, not %.300r' % (k, h, w) for k, (h, w) in have_want.items() if h != w]
    print('%s %s' % ('not ok' if wrong else 'ok', name), flush=True)
    for text in wrong:
        print('# ' + text.replace('\n', ' '), flush=True)
    failed.extend(wrong)


def the_example(mnt, where):
    import dagster as dg

    with open(where + '/train.py', 'w', encoding='ascii') as f:
        f.write("import os\nfrom dagster_pipes import open_dagster_pipes\nwith open_dagster_pipes() as pipes:\n"
                "    pipes.report_asset_materialization(metadata={'epochs': pipes.get_extra('epochs'), 'mode': os.environ['MODE']})\n")
    there = page(mnt, where)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([there['model']], instance=instance, raise_on_error=False)
    found = [{k: v.value for k, v in e.materialization.metadata.items()} for e in result.all_events if e.is_step_materialization]
    report('the example of the page', success=(result.success, True), found=(found, [{'epochs': 3, 'mode': 'full'}]))


def killed(mnt, where):
    """Three at once: killed, terminated by SIGTERM as a restart does it, and one that is killed and whose job ends meanwhile."""
    steps = [Step(mnt, where, a) for a in ('killed', 'stopped', 'missed')]
    for s in steps:
        s.running()
    for s, sig in zip(steps, (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        s.end(sig)
    report('Dagster is killed, or stopped as by a restart: the jobs go on', status=([s.status() for s in steps], ['running'] * 3))
    steps[2].go()
    until(lambda: steps[2].status() == 'succeeded', 'it ends without Dagster')
    again = [Step(mnt, where, s.asset, parent=s.id) for s in steps]
    third = Step(mnt, where, 'missed')  # another materialization
    for s in steps[:2]:
        s.go()
    report('tried again, each step finds its own job, and all it said', results=([s.result() for s in again], [s.good() for s in again]))
    report('a new materialization of one is a new job', result=(third.result(), third.good()), status=(third.status(), 'succeeded'))
    report('each job ran once', began=([steps[0].began(), steps[1].began(), steps[2].began(2)], [True] * 3))


def job_fails(mnt, where):
    first = Step(mnt, where, 'fails')
    first.running()
    first.go(fail=True)
    result = first.result()
    report('a job that fails: the step fails and says why', success=(result['success'], False),
           why=(['exited with code 3' in w and 'no luck' in w for w in result['why']], [True]), early=(result['early'], 20))
    second = Step(mnt, where, 'fails', parent=first.id)
    report('tried again it is a new job', result=(second.result(), second.good()), began=(second.began(2), True),
           status=(second.status(first=first.id, number=2), 'succeeded'))


def terminated(mnt, where):
    import dagster as dg

    s = Step(mnt, where, 'terminated')
    s.running()
    with dg.DagsterInstance.get() as instance:
        instance.report_run_canceling(instance.get_run_by_id(s.id))
    s.end(signal.SIGTERM)
    until(lambda: s.status() == 'cancelled', 'Terminate cancels the job: %s' % s.status())
    report('Terminate in Dagster cancels the job', status=(s.status(), 'cancelled'))


def main():
    if sys.argv[1] == 'job':
        job(*sys.argv[2:])
    else:
        import dagster  # pylint: disable=unused-import

        for case in killed, job_fails, terminated, the_example:
            try:
                case(*sys.argv[2:])
            except Exception as e:  # pylint: disable=broad-except
                report(case.__name__, error=('%s: %s' % (type(e).__name__, e), None))


main()
sys.exit(1 if failed else 0)
