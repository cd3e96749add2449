#!/bin/bash
# tests/tools/proxy: bytes, delay, rate, counters and faults. The peer is a small echo server in Python.
. "$(dirname "$0")/../lib/tap.sh"

PROXY=$BUILD/tools/proxy
[ -x "$PROXY" ] || skip_all "there is no $PROXY; run make tools"
command -v python3 >/dev/null || skip_all "python3 is not installed"

cat >"$T/echo.py" <<'END'
import socket, sys, threading
def serve(c):
    try:
        while data := c.recv(65536):
            c.sendall(data)
        c.sendall(b"end")
    except OSError:
        pass
    c.close()
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], file=open(sys.argv[1] + ".new", "w"), flush=True)
import os
os.rename(sys.argv[1] + ".new", sys.argv[1])
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
END
cat >"$T/talk.py" <<'END'
# talk.py PORT TURNS SIZE: sends SIZE bytes TURNS times and reads the echo; then half-closes and reads what is left
import socket, sys, time
port, turns, size = map(int, sys.argv[1:4])
c = socket.create_connection(("127.0.0.1", port), timeout=10)
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
start = time.monotonic()
for i in range(turns):
    data = bytes((i + k) % 251 for k in range(min(size, 1000))) * (size // min(size, 1000))
    c.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = c.recv(65536)
        if not piece:
            sys.exit("the connection ended")
        got += piece
    if got != data:
        sys.exit("other bytes came back")
ms = int((time.monotonic() - start) * 1000)
c.shutdown(socket.SHUT_WR)
rest = b""
while piece := c.recv(100):
    rest += piece
if rest != b"end":
    sys.exit(f"at the end came {rest}")
print(ms)
END

in_background python3 "$T/echo.py" "$T/echo.port"
eventually 10 test -s "$T/echo.port"
in_background "$PROXY" 0 "$(cat "$T/echo.port")" --stats "$T/stats" --control "$T/control"
eventually 10 test -s "$T/stats"

stat_of() { # stat_of KEY
	sed -n "s/^$1 //p" "$T/stats"
}

has() { # has KEY VALUE
	[ "$(stat_of "$1")" = "$2" ]
}

sent=0
control() { # a command, and wait until it has taken effect
	sent=$((sent + 1))
	echo "$1" >"$T/control"
	eventually 5 has commands $sent
}

port=$(stat_of port)
talk() {
	timeout 20 python3 "$T/talk.py" "$port" "$@"
}

ok "bytes go through and come back, ends too" talk 10 100
ok "the connection is counted" eventually 2 has connections 1
ok "round trips are counted" eventually 2 has flips 9
ok "bytes are counted" eventually 2 has client_bytes 1000
ok "both ways" eventually 2 has server_bytes 1003
ok "and that it ended" eventually 2 has open 0
ok "a megabyte in one go" talk 1 1000000

ok "a delay can be set" control "delay 20"
run talk 5 100
is "bytes still go through" "$status" 0
ok "five round trips take at least 5 * 2 * 20 ms" test "$out" -ge 200
control "delay 0"
control "rate 1000000"
run talk 1 200000
is "with a rate, bytes still go through" "$status" 0
ok "200 kB at 1 MB/s take at least 190 ms" test "$out" -ge 190
control "rate 0"

exec 3<>"/dev/tcp/127.0.0.1/$port"
echo one >&3
run timeout 5 head -n 1 <&3
is "a connection that stays" "$out" one
ok "it can be stalled" control stall
echo two >&3
read -r -t 0.3 line <&3
is "nothing comes back then" "${line:-}" ""
ok "until it goes on" control go
line=
read -r -t 5 line <&3
is "then what was sent arrives" "$line" two
ok "it can be cut" control cut
read -r -t 5 line <&3
status=$?
is "then reading ends with an error, not a time-out" "$status" 1
exec 3>&-

ok "new connections can be refused" control refuse
not_ok "then connecting fails" talk 1 10
control go
ok "and accepted again" talk 1 10
control reset
ok "counters can be set to zero" has connections 0
ok "and it can be told to quit" control quit
done_testing
