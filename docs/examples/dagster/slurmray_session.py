"""An allocation that stays, as a resource of Dagster, and Ray Client to a cluster in one. Copy this file next to slurmray_dagster.py.

    defs = dg.Definitions([model], resources={'warm': Session(name='warm', spec={'cluster': 'hpc', 'nodes': 2, 'ray': True, 'time': '8:00:00'})})
"""
import contextlib, json, os, threading  # noqa: E401
import dagster as dg
from slurmray_dagster import MOUNT, read


class Session(dg.ConfigurableResource):
    """Each process that uses it has a lease, and the last one leaves one for `linger` seconds: for the steps that come next."""
    name: str
    spec: dict = {}
    linger: int = 60

    @contextlib.contextmanager
    def yield_for_execution(self, context):
        with lease('%s/sessions/%s' % (MOUNT, self.name), '%s.%d' % (context.run_id, os.getpid()), self.spec, self.linger):
            yield self


@contextlib.contextmanager
def lease(path, owner, spec, linger):
    """The session lives while this goes on. Its spec, written again, is the session that is there, or the next one of that name."""
    mine, done = '%s/leases/%s' % (path, owner), threading.Event()

    def renew():  # a process that is killed renews no more
        while not done.wait(100):
            with contextlib.suppress(OSError):  # the mount is away for a moment
                os.utime(mine)

    while True:
        begin({**spec, 'name': os.path.basename(path), 'scope': 'lease'})
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            put(mine, 'ttl 300')
            break
    threading.Thread(target=renew, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        with contextlib.suppress(OSError):  # the session has ended
            put(path + '/leases/linger', 'ttl %d' % linger)
            os.unlink(mine)


def put(path, text):
    with open(path, 'wb', buffering=0) as f:
        f.write(text.encode() + b'\n')


def begin(spec):
    with open(os.open(MOUNT + '/sessions/new', os.O_RDWR), 'r+b', buffering=0) as f:
        try:
            f.write(json.dumps(spec).encode())
        except OSError as e:
            raise dg.Failure('sessions/%s: %s' % (spec['name'], f.read(65536).decode() or e), allow_retries=False)


def ray_of(path):
    """ray.init from this process, in a `with`; `path` is runs/ID or sessions/NAME of a mount. One cluster for a process: Ray keeps its token."""
    said = read(path, 'ray/ready')  # waits until all nodes are there
    if said != 'ready':
        raise dg.Failure('%s/ray: %s' % (path, said))
    token = read(path, 'ray/token')
    os.environ.update({'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': token} if token else {'RAY_AUTH_MODE': 'disabled'})
    import ray
    for left in (2, 1, 0):
        try:
            return ray.init(read(path, 'ray/client'))
        except ConnectionAbortedError:  # on a busy node Ray's server for this client did not come up
            if not left:
                raise
