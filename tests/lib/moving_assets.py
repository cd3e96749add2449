"""The example of docs/from-dagster-slurm.md with stock Dagster, and steps that die side by side and are tried again. More of
that is in tests/lib/dagster_project.py. Needs the environment of scripts/dagster-env.

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


def page(home):
    """What the page's second example defines."""
    with open(TOP + '/docs/from-dagster-slurm.md', encoding='utf-8') as f:
        block = re.search(r'```python norun: tests/real/t0660[^\n]*\n(.*?)\n```', f.read(), re.S).group(1)
    code = compile(block.replace('/home/me', home).replace("'16G'", "'100M'"), 'from-dagster-slurm.md', 'exec')
    there = {}
    exec(code, there)  # pylint: disable=exec-used
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
        pipes.report_asset_materialization(metadata={'asset': asset, 'who': pipes.get_extra('who')})


# --- a process of Dagster ---

def step(mnt, where, asset_name, run_id, parent=None):
    import dagster as dg
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run

    from slurmray_dagster import run

    @dg.asset(name=asset_name)
    def it(context: dg.AssetExecutionContext):
        yield from run(context, [sys.executable, os.path.abspath(__file__), 'job', where, asset_name], time='10', mount=mnt,
                       extras={'who': asset_name})

    job_def = dg.Definitions(assets=[it], jobs=[dg.define_asset_job('j', executor_def=dg.in_process_executor)]).resolve_job_def('j')
    with dg.DagsterInstance.get() as instance:
        more = {'parent_run_id': parent, 'root_run_id': parent, 'tags': {
            'dagster/parent_run_id': parent, 'dagster/root_run_id': parent}} if parent else {}
        dagster_run = instance.create_run_for_job(job_def, run_id=run_id, **more)
        result = execute_run(InMemoryJob(job_def), dagster_run, instance)
        found = reported(result)
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

    def status(self):
        try:
            with open('%s/runs/%s-%s/status' % (self.mnt, self.asset, self.id[:13]), encoding='ascii') as f:
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

    def go(self):
        with open('%s/go_%s' % (self.where, self.asset), 'w', encoding='ascii'):
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


def reported(result):
    """Metadata of the materializations that the jobs gave."""
    return [{k: v.value for k, v in e.materialization.metadata.items() if not k.startswith('slurmray/')}
            for e in result.all_events if e.is_step_materialization]


def the_example(mnt, where):
    import dagster as dg

    with open(where + '/train.py', 'w', encoding='ascii') as f:
        f.write("import os\nfrom dagster_pipes import open_dagster_pipes\nwith open_dagster_pipes() as pipes:\n"
                "    pipes.report_asset_materialization(metadata={'epochs': pipes.get_extra('epochs'), 'mode': os.environ['MODE']})\n")
    there = page(where)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([there['model']], instance=instance, raise_on_error=False)
    report('the example of the page', success=(result.success, True), found=(reported(result), [{'epochs': 3, 'mode': 'full'}]))


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


def main():
    if sys.argv[1] == 'job':
        job(*sys.argv[2:])
    else:
        import dagster as dg

        with dg.DagsterInstance.get():  # its database is made by one, before there are several
            pass
        sys.path.insert(0, TOP + '/docs/examples/dagster')
        os.environ['SLURMRAY_MOUNT'] = sys.argv[2]
        for case in killed, the_example:
            try:
                case(*sys.argv[2:])
            except Exception as e:  # pylint: disable=broad-except
                report(case.__name__, error=('%s: %s' % (type(e).__name__, e), None))


main()
sys.exit(1 if failed else 0)
