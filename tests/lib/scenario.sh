#!/bin/bash
# scenario.sh MNT: what users do, through the files alone, on whatever cluster the mount's default is. What it prints
# is the same on every cluster (ids, times and `why` do not appear), so that one file of expected output serves all:
# tests/data/scenario.expected. Needs bash, coreutils, rsync, tar, make, python3, and slurmray on the PATH.
set -u
MNT=$1
W=$(mktemp -d)
trap 'rm -rf "$W"; kill $(jobs -p) 2>/dev/null' EXIT
cd "$W" || exit 1
LIMIT=${SCENARIO_LIMIT:-60}

# Every command has a limit: a hang is a line in the output, not a hang of the test.
t() { timeout -k 2 "$LIMIT" "$@"; local rc=$?; [ $rc -ge 124 ] && [ $rc -le 125 ] && echo "HANG: $*"; return $rc; }
head1() { printf '== %s\n' "$1"; }
submit() { # submit SPEC-TEXT: leaves the id in $id
	exec 3<>"$MNT/runs/new"
	printf '%s\n' "$1" >&3
	read -r id <&3
	exec 3>&-
}
ended() { t cat "$MNT/runs/$1/wait"; }
until_status() { # until_status ID WORD
	for _ in $(seq 600); do
		[ "$(cat "$MNT/runs/$1/status")" = "$2" ] && return
		sleep 0.05
	done
	echo "never $2: $(cat "$MNT/runs/$1/status")"
}
refused() { # refused NAME SPEC-TEXT: errno's name and the text that is read back
	printf '%s: ' "$1"
	python3 - "$MNT/runs/new" "$2" <<'P'
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    os.write(fd, sys.argv[2].encode('utf-8', 'surrogateescape'))
    print('accepted')
except OSError as e:
    print(errno.errorcode[e.errno])
    print(os.read(fd, 65536).decode(), end='')
os.close(fd)
P
}

head1 "one line"
submit 'echo hello'; ended "$id"; cat "$MNT/runs/$id/log" "$MNT/runs/$id/exit_code" "$MNT/runs/$id/status"
submit 'name=greet env.WHO="the world" time=5 -- echo "hello, $WHO"'; ended "$id"; cat "$MNT/runs/$id/stdout"
submit "printf '%s|' srun -n4 -- ./a.out"; ended "$id"; cat "$MNT/runs/$id/stdout"; echo

head1 "json"
submit '{"command": ["printf", "%s\n", "a b", "c'"'"'d", "$HOME"], "tags": ["t1"], "streams": "merged"}'
ended "$id"; cat "$MNT/runs/$id/log"; wc -c <"$MNT/runs/$id/stderr"
exec 3<>"$MNT/runs/new"
cat >&3 <<'J'
{
  "command": "echo from several lines",
  "time": "0:05:00"
}
J
read -r id <&3; read -r word _ <&3; exec 3>&-; echo "$word"; ended "$id"; cat "$MNT/runs/$id/log"
exec 3<>"$MNT/runs/new"; printf '{"command":"echo 1"}{"command":"echo 2"}' >&3; read -r a <&3; read -r b <&3; exec 3>&-
ended "$a"; ended "$b"; cat "$MNT/runs/$a/log" "$MNT/runs/$b/log"

head1 "script"
printf '#!/bin/bash\n#SBATCH --job-name=batch --time=5\n#SBATCH -n 1\necho "in $0" | sed "s,/.*/,,"\nexit 4\n' >job.sbatch
cat job.sbatch >"$MNT/runs/new"; echo "cat $?"
id=$(basename "$(readlink "$MNT/runs/last")"); ended "$id"; cmp job.sbatch "$MNT/runs/$id/spec" && echo "spec as written"
ls "$MNT/by/name/batch" | grep -cx "$id"
cp "$MNT/runs/$id/spec" "$MNT/runs/new"; id2=$(readlink "$MNT/runs/last"); [ "$id2" != "$id" ] && ended "$id2"
printf '#!/bin/sh\nrm -rf ./data/' >cut.sh; cat cut.sh >"$MNT/runs/new" 2>/dev/null; echo "cut script: $?"

head1 "submit"
id=$(slurmray submit --mount "$MNT" name=cli -- sh -c 'echo out; echo err >&2; exit 3'); ended "$id"
slurmray follow --mount "$MNT" "$id" 2>err; echo "follow $?"; head -n 1 err

mkdir -p in/sub; echo shipped >in/sub/x; echo one >one.txt; printf '#!/bin/sh\ncat one.txt in/sub/x\n' >payload.sh
id=$(slurmray submit --mount "$MNT" files=one.txt,in payload=payload.sh); ended "$id"; cat "$MNT/runs/$id/log"

head1 "following"
submit 'for i in $(seq 15); do echo line $i; sleep 0.2; done'
t cat "$MNT/runs/$id/log.follow" >followed & f=$!
{ tail -f -n +1 --pid=$$ "$MNT/runs/$id/log" >tailed; } & tl=$!
ended "$id"; wait $f; sleep 2.5; kill $tl; wait $tl 2>/dev/null
cmp followed "$MNT/runs/$id/log" && cmp tailed "$MNT/runs/$id/log" && wc -l <followed

head1 "200 readers"
submit 'sleep 1; exit 5'
for _ in $(seq 200); do cat "$MNT/runs/$id/wait" >>waited & done; wait
sort waited | uniq -c | sed 's/^ *//'

head1 "codes"
for c in 'exit 0' 'exit 1' 'kill -9 $$' 'kill -TERM $$' 'sh -c "kill -11 \$\$"; exit $?'; do submit "$c"; ended "$id"; done
printf 'not there: '; submit 'no-such-command-at-all'; ended "$id"

head1 "cancel"
submit 'hold=true -- echo never'; until_status "$id" pending; echo cancel >"$MNT/runs/$id/ctl"; ended "$id"
submit 'sleep 100 & sleep 100'; until_status "$id" running; exec 3<>"$MNT/runs/$id/ctl"; echo cancel >&3; t head -c 2 <&3; echo; exec 3>&-; ended "$id" | cut -d ' ' -f 1
echo cancel >"$MNT/runs/$id/ctl" 2>/dev/null; echo "again $?"
submit 'hold=true -- echo released'; until_status "$id" pending; echo release >"$MNT/runs/$id/ctl"; ended "$id"; cat "$MNT/runs/$id/log"
submit 'trap "echo got it; exit 9" USR1; echo ready; while :; do sleep 0.1; done'; until_status "$id" running
for _ in $(seq 200); do grep -q ready "$MNT/runs/$id/log" && break; sleep 0.1; done
echo 'signal USR1' >"$MNT/runs/$id/ctl"; ended "$id"; cat "$MNT/runs/$id/log"

head1 "bytes"
submit 'printf "a\0b\377no newline"'; ended "$id"; od -An -c "$MNT/runs/$id/stdout"
submit 'head -c 50000000 /dev/zero | tr "\0" "x" > $SLURMRAY_RESULTS/big; mkdir $SLURMRAY_RESULTS/d; echo small > $SLURMRAY_RESULTS/d/small; ln -s d/small $SLURMRAY_RESULTS/link; ln -s /etc/passwd $SLURMRAY_RESULTS/out; sha256sum < $SLURMRAY_RESULTS/big'
ended "$id"; t sha256sum <"$MNT/runs/$id/results/big" | cmp - "$MNT/runs/$id/stdout" && echo same
cat "$MNT/runs/$id/results/d/small" "$MNT/runs/$id/results/link"; ls "$MNT/runs/$id/results"; stat -c '%s %F' "$MNT/runs/$id/results/big" "$MNT/runs/$id/results/d"
big=$id

head1 "walking a live tree"
submit 'for i in $(seq 60); do echo $i; sleep 0.2; done'; live=$id; until_status "$live" running
mkdir copy; t cp -r "$MNT/runs/$live" "$MNT/runs/$a" copy; echo "cp $?"; t rsync -a "$MNT/runs/$a" "$MNT/runs/$live" rs; echo "rsync $?"
t tar -cf t.tar -C "$MNT/runs" "$a" "$live" 2>/dev/null; rc=$?; [ $rc -le 1 ] && echo "tar 0"; t grep -r -q 'no such text' "$MNT/runs/$live" "$MNT/runs/$a"; echo "grep $?"
t find -L "$MNT/runs/$a" "$MNT/runs/$live" "$MNT/by/status" -name status | grep -c "/$a/status"; cmp copy/"$a"/log "$MNT/runs/$a/log" && echo "copied"
t rmdir "$MNT/runs/$live" 2>&1 | sed 's/.*: //'; t rm -rf "$MNT/runs/$live" 2>/dev/null; cat "$MNT/runs/$live/status"; echo cancel >"$MNT/runs/$live/ctl"; ended "$live" | cut -d ' ' -f 1

head1 "make"
printf 'copy: %s/results/d/small\n\t@cat $< > $@\n' "$MNT/runs/$big" >Makefile; t make -s; cat copy 2>/dev/null || ls copy >/dev/null
printf 'made: %s/results/d/small\n\t@cat $< > $@\n' "$MNT/runs/$big" >Makefile; t make -s; cat made; t make -q; echo "again $?"

head1 "draft"
n=draft_$$_$RANDOM; mkdir "$MNT/runs/$n"; echo "mkdir $?"; mkdir "$MNT/runs/$n" 2>&1 | sed 's/.*: //'; cat "$MNT/runs/$n/status"
mkdir "$MNT/runs/$n/files/sub"; echo data >"$MNT/runs/$n/files/sub/in"; cp job.sbatch "$MNT/runs/$n/files/"; ls "$MNT/runs/$n/files"
t cat "$MNT/runs/$n/wait" 2>&1 | sed 's/.*: //'
echo 'nodes=x -- true' >"$MNT/runs/$n/spec" 2>/dev/null; echo "bad $?"; cat "$MNT/runs/$n/status"
echo 'cat sub/in; ls; cat sub/in > $SLURMRAY_RESULTS/copied' >"$MNT/runs/$n/spec"; echo "spec $?"; ended "$n"; cat "$MNT/runs/$n/log" "$MNT/runs/$n/results/copied"
echo 'cat sub/in; ls; cat sub/in > $SLURMRAY_RESULTS/copied' >"$MNT/runs/$n/spec"; echo "same again $?"; echo 'true' >"$MNT/runs/$n/spec" 2>&1 | sed 's/.*: //'; (echo x >"$MNT/runs/$n/files/late") 2>/dev/null; echo "late $?"
rmdir "$MNT/runs/$n"; echo "rmdir $?"; ls "$MNT/runs/$n" >/dev/null 2>&1; echo "gone $?"
k=key-$$-$RANDOM; submit "key=$k -- echo once"; one=$id; submit "key=$k -- echo once"; [ "$one" = "$id" ] && echo "same run"
ended "$one"; refused "other spec" "key=$k -- echo twice
" | sed "s/$k/KEY/; s/run [0-9]*/run N/"

head1 "bad specs"
refused "unknown key" 'nodez=2 -- true
'
refused "all errors at once" '{"command": "x", "nodes": "many", "tiem": 5, "time": "soon"}
'
refused "two commands" '{"command": "x", "script": "#!/bin/sh\n"}
'
refused "empty" '{}
'
refused "later" '{"command": "x", "retries": 3}
'
refused "relative file" '{"command": "x", "files": ["a"]}
'
refused "two lines" 'echo 1
echo 2
'
refused "junk after json" '{"command": "x"} y
'
refused "too deep" "$(printf '{"a":%.0s' $(seq 70))"
refused "dependency" 'afterok=999999 -- true
'
refused "unknown cluster" 'cluster=nowhere -- true
' | sed 's/; there is:.*//'
grep -c '"text"' "$MNT/errors" >errors.n; [ "$(cat errors.n)" -ge 10 ] && echo "errors are kept"

head1 "check"
exec 3<>"$MNT/runs/check"; echo 'nodes=1 -- hostname' >&3; t cat <&3 >checked; exec 3>&-; grep -c '"nodes"' checked; grep -c '^#!/bin/sh' checked

head1 "dependencies"
submit 'sleep 1; exit 0'; first=$id; submit "afterok=$first -- echo after"; ended "$id"; cat "$MNT/runs/$id/log"; cat "$MNT/runs/$first/status"
submit 'exit 1'; first=$id; submit "afterok=$first -- echo never"; ended "$id"

head1 "nonblocking, signals"
submit 'sleep 60'; until_status "$id" running
python3 - "$MNT/runs/$id" <<'P'
import errno, os, select, signal, subprocess, sys, time
d = sys.argv[1]
for f in ('wait', 'log.follow'):
    fd = os.open(d + '/' + f, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.read(fd, 100)
        print('read something')
    except OSError as e:
        print(f, errno.errorcode[e.errno])
    p = select.poll()
    p.register(fd, select.POLLIN)
    print(f, 'poll', p.poll(100))
    os.close(fd)
c = subprocess.Popen(['cat', d + '/wait'], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
time.sleep(0.3)
c.send_signal(signal.SIGINT)
print('cat', c.wait(5))
fd = os.open(d + '/wait', os.O_RDONLY | os.O_NONBLOCK)
p = select.poll()
p.register(fd, select.POLLIN)
p.poll(0)
os.system('echo cancel > %s/ctl' % d)
print('woken', len(p.poll(20000)), os.read(fd, 100).split()[0].decode())
P

head1 "sets"
tag=tag_$$_$RANDOM; for c in 'exit 0' 'exit 0' 'exit 1'; do submit "tags=$tag -- $c"; done; t cat "$MNT/by/tag/$tag/wait"; ls "$MNT/by/tag/$tag" | wc -l
grep -l . "$MNT/by/tag/$tag"/*/status | wc -l; t cat "$MNT/by/tag/$tag/wait-any" | cut -d ' ' -f 2,3
echo done
