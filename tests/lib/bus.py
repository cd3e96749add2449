"""The machine goes to sleep: a system bus with a logind on it, as much as slurmray asks of them. See mnt.py.

D-Bus Specification 0.38, "Message Protocol" and "Authentication Protocol"; byte order of this machine.
"""
import array
import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
import time

from mnt import case, ended, is_, kill_worker, kills, main, ok, path, run, slurp, submit, text, until

LOGIND = "org.freedesktop.login1"
CALL, REPLY, SIGNAL = 1, 2, 4
ORDER = b"l" if sys.byteorder == "little" else b"B"
libc = ctypes.CDLL(None, use_errno=True)


def pad(data, to):
    return data + bytes(-len(data) % to)


def string(s):
    return struct.pack("=I", len(s)) + s.encode() + b"\0"


def message(kind, serial, fields, body=b""):
    """`fields`: (code, type, value), the types s, o, g, u."""
    out = b""
    for code, type_, value in fields:
        out = pad(out, 8) + bytes([code, 1]) + type_.encode() + b"\0"
        if type_ == "g":
            out += bytes([len(value)]) + value.encode() + b"\0"
        elif type_ == "u":
            out = pad(out, 4) + struct.pack("=I", value)
        else:
            out = pad(out, 4) + string(value)
    head = struct.pack("=cBBBIII", ORDER, kind, 0, 1, len(body), serial, len(out))
    return pad(head + out, 8) + body


class Bus:
    def __init__(self):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(os.environ["DBUS_SYSTEM_BUS_ADDRESS"].split("=", 1)[1])
        self.server.listen(1)
        self.server.settimeout(40)
        self.peer = None
        self.data = b""
        self.serial = 1

    def accept(self):
        """A client, until it has asked for a delay inhibitor and was given one: the pipe that tells when it lets go."""
        self.peer = self.server.accept()[0]
        self.peer.settimeout(30)
        self.data = b""
        greeting = self.until(b"NEGOTIATE_UNIX_FD\r\n")
        ok(greeting == b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\nNEGOTIATE_UNIX_FD\r\n", repr(greeting))
        self.peer.sendall(b"OK 0123456789abcdef\r\nAGREE_UNIX_FD\r\n")
        is_("the end of the greeting", self.until(b"BEGIN\r\n"), b"BEGIN\r\n")
        serial, member, args = self.call()
        is_("the first call", member, "Hello")
        self.peer.sendall(message(REPLY, 1, [(5, "u", serial), (8, "g", "s")], string(":1.1")))
        serial, member, args = self.call()
        is_("the second call", member, "AddMatch")
        ok("PrepareForSleep" in args[0], args[0])
        return self.inhibit()

    def inhibit(self):
        serial, member, args = self.call()
        is_("the call", (member, args[0], args[1], args[3]), ("Inhibit", "sleep", "slurmray", "delay"))
        ours, theirs = os.pipe()
        reply = message(REPLY, 7, [(5, "u", serial), (8, "g", "h"), (9, "u", 1)], struct.pack("=I", 0))
        self.peer.sendmsg([reply], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))])
        os.close(theirs)
        return ours

    def more(self, n):
        while len(self.data) < n:
            part = self.peer.recv(4096)
            ok(part, "the client went away")
            self.data += part

    def take(self, n):
        self.more(n)
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def until(self, end):
        while end not in self.data:
            self.more(len(self.data) + 1)
        return self.take(self.data.index(end) + len(end))

    def call(self):
        """The next call: serial, member, arguments (strings all)."""
        head = self.take(16)
        order, kind, _, version, body, serial, fields = struct.unpack("=cBBBIII", head)
        is_("kind of message", (order, kind, version), (ORDER, CALL, 1))
        raw = self.take(fields + -fields % 8)
        member, at = None, 0
        while at < fields:
            code, type_ = raw[at], raw[at + 2 : at + 3]
            at += 4
            if type_ == b"g":
                at += 1 + raw[at] + 1
            else:
                size = struct.unpack_from("=I", raw, at)[0]
                if code == 3:
                    member = raw[at + 4 : at + 4 + size].decode()
                at += 4 + size + 1
            at += -at % 8
        raw, args, at = self.take(body), [], 0
        while at < body:
            at += -at % 4
            size = struct.unpack_from("=I", raw, at)[0]
            args.append(raw[at + 4 : at + 4 + size].decode())
            at += 4 + size + 1
        return serial, member, args

    def prepare(self, asleep, pieces=1):
        data = message(SIGNAL, 9, [(1, "o", "/org/freedesktop/login1"), (2, "s", LOGIND + ".Manager"), (3, "s", "PrepareForSleep"),
                                   (7, "s", ":1.2"), (8, "g", "b")], struct.pack("=I", asleep))
        size = -(-len(data) // pieces)
        for at in range(0, len(data), size):
            self.peer.sendall(data[at : at + size])
            time.sleep(0.001)


bus = Bus()


def parked():
    return int(text(path("status")).split("parked ")[1].split()[0])


def reader(ident):
    return subprocess.Popen(["cat", run(ident, "wait")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def errno_of_read(ident):
    """Of read(2) itself: Python's own would try again after EINTR."""
    fd = os.open(run(ident, "wait"), os.O_RDONLY)
    n = libc.read(fd, ctypes.create_string_buffer(100), 100)
    code = ctypes.get_errno()
    os.close(fd)
    return 0 if n >= 0 else code


def let_go(pipe):
    """Until the other end was closed."""
    is_("nothing but the end is in the pipe", os.read(pipe, 1), b"")
    os.close(pipe)


@case
def sleeps():
    """before the machine sleeps readers get EINTR and nobody may wait; afterwards those that came again wait as before"""
    ident = submit("hold=true -- true")
    cat = reader(ident)
    pipe = bus.accept()
    is_("parked", parked(), 1)
    os.set_blocking(pipe, False)
    try:
        os.read(pipe, 1)
        ok(False, "the inhibitor was let go too early")
    except BlockingIOError:
        os.set_blocking(pipe, True)
    bus.prepare(True, pieces=30)
    let_go(pipe)
    is_("a reader that comes now", errno_of_read(ident), errno.EINTR)
    is_("another one", errno_of_read(ident), errno.EINTR)
    other = submit("true")  # a write is not a wait
    bus.prepare(True)  # told twice
    bus.prepare(False)
    pipe = bus.inhibit()
    until(lambda: parked() == 1, "cat waits again: parked %d" % parked())
    ended(other)
    with open(run(ident, "ctl"), "w", encoding="ascii") as f:
        f.write("release\n")
    out, err = cat.communicate(timeout=30)
    is_("cat", (cat.returncode, out, err), (0, b"succeeded 0\n", b""))
    os.close(pipe)


@kills
@case
def next_worker():
    """a worker that dies loses the inhibitor, and the next one asks for its own"""
    ident = submit("hold=true -- true")
    cat = reader(ident)
    until(lambda: parked() == 1, "cat waits")
    kill_worker()
    pipe = bus.accept()
    bus.prepare(True)
    let_go(pipe)
    # A bus that goes away cannot tell that the machine woke up.
    bus.peer.close()
    until(lambda: parked() == 1, "cat waits again")
    with open(run(ident, "ctl"), "w", encoding="ascii") as f:
        f.write("cancel\n")
    is_("cat", cat.communicate(timeout=30)[0][:10], b"cancelled ")


if __name__ == "__main__":
    main()
