"""Both ends of forwarded connections, for t0350-forward.t.

`server` prints its port and serves until it is killed: "S N" is answered with N bytes and the end; "R" with the hash of
everything up to the end of what the client sends; "E" with what it sends, as it comes.
The others are clients and print what they found: down PORT N, up PORT N, echo PORT N, many PORT COUNT N, hold PORT FILE.
"""
import hashlib
import socket
import socketserver
import sys
import threading

BLOCK = bytes((i * 2654435761 >> 13) & 255 for i in range(65521))


def blocks(n):
    while n > 0:
        yield BLOCK[:n]
        n -= len(BLOCK)


def digest(n):
    h = hashlib.sha256()
    for b in blocks(n):
        h.update(b)
    return h.hexdigest()


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        what = self.rfile.readline().split()
        if what[0] == b"S":
            for b in blocks(int(what[1])):
                self.wfile.write(b)
        elif what[0] == b"R":
            h = hashlib.sha256()
            while True:
                b = self.rfile.read1(65536)
                if not b:
                    break
                h.update(b)
            self.wfile.write(h.hexdigest().encode())
        else:
            while True:
                b = self.rfile.read1(65536)
                if not b:
                    break
                self.wfile.write(b)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


def server():
    with Server(("127.0.0.1", 0), Handler) as s:
        print(s.server_address[1], flush=True)
        s.serve_forever()


def dial(port):
    s = socket.create_connection(("127.0.0.1", int(port)), 30)
    s.settimeout(90)
    return s


def everything(s):
    h, n = hashlib.sha256(), 0
    while True:
        b = s.recv(1 << 18)
        if not b:
            return n, h.hexdigest()
        h.update(b)
        n += len(b)


def down(port, n):
    with dial(port) as s:
        s.sendall(b"S %d\n" % n)
        return everything(s) == (n, digest(n))


def up(port, n):
    with dial(port) as s:
        s.sendall(b"R\n")
        for b in blocks(n):
            s.sendall(b)
        s.shutdown(socket.SHUT_WR)
        return s.makefile("rb").read() == digest(n).encode()


def echo(port, n):
    with dial(port) as s:
        def send():
            s.sendall(b"E\n")
            for b in blocks(n):
                s.sendall(b)
            s.shutdown(socket.SHUT_WR)
        t = threading.Thread(target=send)
        t.start()
        got = everything(s)
        t.join()
        return got == (n, digest(n))


def many(port, count, n):
    results = []

    def one(i):
        try:
            results.append(echo(port, n + i))
        except OSError as e:
            results.append(str(e))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results.count(True) if results.count(True) == count else results


def hold(port, path):
    """Keeps one open and says how it ended."""
    with dial(port) as s:
        s.sendall(b"E\nx")
        s.recv(1)
        with open(path, "w") as f:
            f.write("open\n")
        try:
            end = "data" if s.recv(1) else "end"
        except ConnectionResetError:
            end = "reset"
        with open(path, "w") as f:
            f.write(end + "\n")
        return end


def main():
    if sys.argv[1] == "server":
        server()
    port = int(sys.argv[2])
    rest = sys.argv[3:]
    f = {"down": down, "up": up, "echo": echo, "many": many, "hold": hold}[sys.argv[1]]
    try:
        print(f(port, *(rest if f is hold else map(int, rest))))
    except OSError as e:
        print("failed:", e)


main()
