#!/bin/sh
# slurmray submit, follow and doctor against a mount with the local cluster: ids, exit codes, bytes, the three forms, and
# mounts that go away and come back.
# shellcheck disable=SC2016,SC2119
. "$(dirname "$0")/../lib/tap.sh"

run slurmray sumbit -- true
is "a sub-command that is not there" "$status" 2
like "gets the one that was meant" "$err" "unknown sub-command 'sumbit': did you mean 'submit'"
run slurmray frobnicate
like "or none" "$err" "unknown sub-command 'frobnicate'\$"
run slurmray submit --help
is "--help behind a sub-command" "$status" 0
like "says where a job starts" "$out" 'workdir=\.'

mount_local
SLURMRAY_MOUNT=$MNT
export SLURMRAY_MOUNT
cd "$T" || exit 1

# --- submit ---

run slurmray submit -- 'exit 0'
is "submit prints the id and nothing else" "$out$err" 1
is "and succeeds" "$status" 0
run slurmray submit --mount "$MNT" -- printf '%s|' 'a  b' "c'd" '$HOME' '*'
id=$out
ok "it ends" eventually 10 grep -q succeeded "$MNT/runs/$id/status"
is "several words are executed as they are" "$(cat "$MNT/runs/$id/stdout")" "a  b|c'd|\$HOME|*|"
run slurmray submit --wait -- 'echo $((6 * 7)) | cat'
is "one word is text for a shell" "$(cat "$MNT/last/stdout")" 42
like "--wait prints the id, too" "$out" '^[0-9]+$'
run slurmray submit name=named tags=a,b env.WHO=me --wait -- 'echo "$WHO"; exit 9'
is "--wait exits with the job's code" "$status" 9
like "and says why" "$err" '^slurmray: .*code 9'
is "KEY=VALUE words are keys of the spec" "$(cat "$MNT/runs/$out/stdout")" me
ok "and tags" test -L "$MNT/by/tag/b/$out"
run slurmray submit --wait -- 'kill -USR1 $$'
is "128+N for signal N" "$status" 138

# --- refusals ---

before=$(wc -l <"$MNT/runs/list")
run slurmray submit nodes=two colour=red -- true
is "a bad spec exits 1" "$status" 1
is "prints no id" "$out" ''
is "and every mistake" "$(grep -c '^slurmray: ' "$T/err")" 2
run slurmray submit cluster=elsewhere -- true
is "what only the daemon knows is refused as well" "$status" 1
like "with its sentence" "$err" "^slurmray: .*elsewhere"
run slurmray submit true
is "a file that is not there" "$status" 1
run slurmray submit echo hello
is "a command without -- is wrong usage" "$status" 2
like "that says so" "$err" 'behind --: slurmray submit -- echo hello'
run slurmray submit nodes=1 true
like "also with one word" "$err" 'slurmray submit nodes=1 -- true'
run slurmray submit /bin/true
is "a program is no spec" "$status" 1
like "and how to run it" "$err" 'write -- /bin/true'
run sh -c 'echo "nodes=1 true" >"$SLURMRAY_MOUNT/runs/new"'
isnt "keys in front of a command without -- are refused" "$status" 0
like "get the line as it has to be" "$(tail -n 1 "$MNT/errors")" 'nodes=1 -- true'
run slurmray submit --nodes=2 -- true
is "options of sbatch are KEY=VALUE" "$status" 2
run slurmray submit
is "nothing at all is wrong usage" "$status" 2
run slurmray submit --mount "$T" -- true
is "a directory that is no mount" "$status" 1
like "gets the command that mounts" "$err" 'slurmray mount'
is "none of these became a run" "$(wc -l <"$MNT/runs/list")" "$before"

# --- files ---

printf '#!/bin/sh\n#SBATCH --job-name=from-script\necho "this is $0" >/dev/null\necho out; echo err >&2\n' >job.sh
run slurmray submit --wait job.sh
is "a batch script" "$status $(cat "$MNT/runs/$out/stdout")" "0 out"
like "whose #SBATCH lines count" "$(cat "$MNT/runs/$out/info")" '^name from-script$'
run slurmray submit --wait name=mine job.sh
like "unless KEY=VALUE says otherwise" "$(cat "$MNT/runs/$out/info")" '^name mine$'
printf '#!/bin/sh\necho cut' >cut.sh
run slurmray submit cut.sh
is "a script that was cut off is refused" "$status$out" 1
echo 'name=liner -- echo from a line' >line
run slurmray submit --wait line
is "a line" "$(cat "$MNT/runs/$out/stdout")" "from a line"
run sh -c 'echo "{\"command\": [\"echo\", \"from  json\"]}" | slurmray submit --wait -'
is "JSON on standard input" "$(cat "$MNT/runs/$out/stdout")" "from  json"
echo '{"command": "true"} {"command": "true"}' >two.json
run slurmray submit two.json
is "two documents are two runs" "$(echo "$out" | wc -l)" 2
echo '{"command": "true"} {"command": "true", "nodes": "x"}' >half.json
before=$(wc -l <"$MNT/runs/list")
run slurmray submit half.json
is "one that is wrong takes the other with it" "$status $out $(wc -l <"$MNT/runs/list")" "1  $before"
mkdir -p sub
printf '#!/bin/sh\necho payload runs\n' >sub/payload.sh
(cd sub && slurmray submit --wait payload=payload.sh) >"$T/out" 2>"$T/err"
is "a local path is relative to where one stands" "$(cat "$MNT/runs/$(cat "$T/out")/stdout")" "payload runs"
{
	echo '#!/bin/sh'
	yes '# a line of a long "script"' | head -n 9000
	echo 'echo long'
} >long.sh
run slurmray submit --wait long.sh
is "a spec that is larger than one write" "$status $(cat "$MNT/runs/$out/stdout")" "0 long"

printf '#!/bin/sh\nprintf "%%s|" "$@"\n' >args.sh
run slurmray submit --wait args.sh --lr 0.1 'a  b' "it's" name=x '' --wait
is "words behind a script are its arguments" "$(cat "$MNT/runs/$out/stdout")" "--lr|0.1|a  b|it's|name=x||--wait|"
run sh -c "cat args.sh | slurmray submit --wait - one two"
is "of one on standard input, too" "$(cat "$MNT/runs/$out/stdout")" "one|two|"
echo 'echo line' >line
run slurmray submit line one two
is "a line takes none" "$status" 1
run slurmray submit --wait payload=args.sh args='a "b c"'
is "nor are they lost for a payload" "$(cat "$MNT/runs/$out/stdout")" "a|b c|"
printf '#SBATCH -N 1\nhostname\n' >none.sh
run slurmray submit none.sh
like "a script needs its first line" "$err" 'does not look like a batch script.*#!/bin/bash'

# --- where a job starts ---

run slurmray submit --wait -- pwd
is "in its own directory" "$(cat "$MNT/runs/$out/stdout")" "$(readlink -f "$STATE"/local/*/runs/"$out"/a1/work)"
run slurmray submit --wait workdir=. -- pwd
is "workdir=. is the caller's directory" "$(cat "$MNT/runs/$out/stdout")" "$(pwd -P)"
(cd sub && slurmray submit --wait chdir=.. ../args.sh) >"$T/out" 2>"$T/err"
like "and any other is relative to it" "$(cat "$MNT/runs/$(cat "$T/out")/spec")" "\"workdir\":\"$(pwd -P)\""
printf '#!/bin/sh\n#SBATCH --chdir=sub\npwd\n' >chdir.sh
run slurmray submit --wait chdir.sh
is "that of a script, too" "$(cat "$MNT/runs/$out/stdout")" "$(pwd -P)/sub"
run sh -c 'echo "workdir=. -- pwd" >"$SLURMRAY_MOUNT/runs/new"'
isnt "a document cannot know it" "$status" 0
like "and is told so" "$(tail -n 1 "$MNT/errors")" "workdir' must be a directory of the cluster as an absolute path.*slurmray submit"

# --- paths that are not there ---

refused() { # NAME SPEC PATTERN: by the write, with a row
	rows=$(wc -l <"$MNT/errors")
	if sh -c 'echo "$1" >"$SLURMRAY_MOUNT/runs/new"' sh "$2" 2>/dev/null; then
		fail "$1" "it was accepted: $2"
	else
		like "$1" "$(tail -n +$((rows + 1)) "$MNT/errors")" "$3"
	fi
}
refused "files that are not there" 'files=/nofile,/etc/passwd -- true' '"why":"files: /nofile: No such file or directory"'
refused "a payload" 'payload=/nofile' '"why":"payload: /nofile: No such file or directory"'
refused "a workdir of this machine" 'workdir=/nodir -- true' '"why":"workdir: /nodir: No such file or directory"'
refused "an input of this machine" 'input=/nofile workdir=/etc/passwd -- true' \
	'workdir: /etc/passwd: Not a directory\\ninput: /nofile: No such'
refused "files of the mount itself" "files=$MNT/runs/1/results/x -- true" 'in the mount that is to ship it'
ln -sf "$MNT/runs/1/spec" link
run slurmray submit --wait files=link -- cat link
is "a file that takes its time is left to the start" "$status $(cat "$MNT/runs/$out/stdout")" "0 $(cat "$MNT/runs/1/spec")"
mkdir gone
first=$(slurmray submit -- sleep 60)
id=$(slurmray submit workdir=gone afterany="$first" -- true)
rmdir gone
echo cancel >"$MNT/runs/$first/ctl"
is "one that goes away meanwhile ends the job" "$(cat "$MNT/runs/$id/wait")" "failed -"
like "which says what was not there" "$(cat "$MNT/runs/$id/why")" "^slurmray: workdir: $(pwd -P)/gone: No such file or directory\$"
printf '#!/bin/sh\n#SBATCH --output=logs/%%j.out\necho logged\n' >logs.sh
run slurmray submit --wait logs.sh
is "an output in a directory that is not there: it is made" "$status $(cat "$MNT/runs/$out/log" "$MNT/runs/$out/work/logs/"*.out)" "0 logged
logged"
printf '#!/bin/sh\n#SBATCH --output=%s/nowhere/%%j.out\ntrue\n' "$T" >logs.sh
run slurmray submit --wait logs.sh
is "outside of the job's directory" "$status" 126
like "it is not, and that is said" "$(cat "$MNT/runs/$out/why")" '^output: .*/nowhere/.*\.out: No such file or directory: the job was not started'

# --- follow ---

run slurmray submit --follow -- 'echo one; sleep 0.3; echo two; echo bad >&2; printf three; exit 4'
is "--follow exits with the job's code" "$status" 4
is "standard output is the job's, to the byte" "$out" 'one
two
three'
like "standard error has the job's" "$err" '^bad$'
like "and why" "$err" '^slurmray: .*code 4'
seq 1 200000 >"$T/big"
slurmray submit --follow -- "cat $T/big" >"$T/copy" 2>/dev/null
ok "a megabyte is copied exactly" cmp "$T/big" "$T/copy"
run slurmray follow last
is "follow last" "$status $(tail -n 1 "$T/out")" "0 200000"
run slurmray follow 1
is "follow ID of an ended run" "$status$out$err" 0
run slurmray follow named
is "follow NAME" "$status$out" 9me
run slurmray follow "$MNT/runs/1"
is "follow DIRECTORY" "$status" 0
run slurmray follow nobody
is "of no run" "$status" 1
like "points to the list" "$err" 'runs/list'
mkdir "$MNT/runs/draft1"
run slurmray follow draft1
is "of a draft" "$status" 1
like "says how to submit it" "$err" 'draft1/spec'
{
	slurmray submit --follow -- "yes | head -n 100000" 2>/dev/null
	echo $? >"$T/code"
} | head -n 1 >"$T/first"
is "a closed pipe ends it" "$(cat "$T/first") $(cat "$T/code")" "y 141"

id=$(slurmray submit -- 'echo begun; exec sleep 30')
for signal in INT:130 TERM:143; do
	# shells start background processes with SIGINT ignored
	in_background env --default-signal=INT slurmray follow "$id" >"$T/followed" 2>&1
	follower=$pid
	ok "it shows what is there at once" eventually 10 grep -q begun "$T/followed"
	kill "-${signal%:*}" "$follower"
	wait "$follower"
	is "SIG${signal%:*} ends follow" "$?" "${signal#*:}"
done
is "and not the job" "$(cat "$MNT/runs/$id/status")" running
in_background timeout -k 5 20 slurmray follow "$id" >"$T/followed" 2>&1
follower=$pid
echo cancel >"$MNT/runs/$id/ctl"
wait "$follower"
isnt "the end of a cancelled run is no success" "$?" 0
like "and is named" "$(cat "$T/followed")" 'cancelled'

id=$(slurmray submit hold=true -- echo started)
in_background timeout -k 5 20 slurmray follow "$id" >"$T/followed" 2>"$T/follower.err"
follower=$pid
ok "a run that waits: follow says so" eventually 10 grep -q "^slurmray: run $id is pending: held" "$T/follower.err"
echo release >"$MNT/runs/$id/ctl"
wait "$follower"
is "and then shows its output" "$? $(cat "$T/followed")" "0 started"

# --- mounts that go away ---

id=$(slurmray submit -- 'i=0; while [ ! -e '"$T"'/enough ]; do i=$((i + 1)); echo "line $i"; sleep 0.02; done; exit 6')
slurmray follow "$id" >"$T/copy" 2>"$T/follower.err" &
follower=$!
slurmray submit --wait -- "while [ ! -e $T/enough ]; do sleep 0.1; done; exit 3" >"$T/waiter.out" 2>"$T/waiter.err" &
waiter=$!
tap_pids="$tap_pids $follower $waiter"
ok "a live job is followed" eventually 10 grep -q 'line 5$' "$T/copy"
worker=$(sed -n 's/^pid //p' "$MNT/status")
kill -KILL "$worker"
lines=$(wc -l <"$T/copy")
more() {
	[ "$(wc -l <"$T/copy")" -gt $((lines + 20)) ]
}
ok "and goes on when the worker is replaced" eventually 20 more
is "without a word" "$(cat "$T/follower.err")" ''
ok "the mount is taken away" stop_mount
ok "follow says so" eventually 10 grep -q 'waiting for it to come back' "$T/follower.err"
ok "and so does --wait" eventually 10 grep -q 'waiting for it to come back' "$T/waiter.err"
is "once" "$(grep -c waiting "$T/follower.err")" 1
start_mount "$MNT" "$T/config" "$STATE"
lines=$(wc -l <"$T/copy")
ok "it goes on when the mount is back" eventually 20 more
keeper=$mount_pid
worker=$(sed -n 's/^pid //p' "$MNT/status")
kill -KILL "$keeper" "$worker"
umount -l "$MNT" 2>/dev/null || fusermount3 -uz "$MNT"
start_mount "$MNT" "$T/config" "$STATE"
lines=$(wc -l <"$T/copy")
ok "and when both were killed" eventually 20 more
: >"$T/enough"
wait "$follower"
is "the code comes through" "$?" 6
wait "$waiter"
is "of --wait, too" "$?" 3
ok "the copy has every byte once" cmp "$T/copy" "$MNT/runs/$id/stdout"

# --- doctor ---

run slurmray doctor --config "$T/config" --state "$STATE"
unlike "doctor finds nothing bad about this mount" "$(echo "$out" | grep -F "$MNT")" '^bad'
like "names who has the state directory" "$out" "^ok   state directory $STATE: yours, in use by process [0-9]+, mounted on $MNT"
like "sees that the mount answers" "$out" "^ok   mounted on $MNT, and it answers"
like "knows the local cluster" "$out" '^ok   cluster local: this machine, [0-9]+ processors'
is "writes nothing but findings" "$(printf '%s\n' "$out" | grep -cvE '^(ok  |note|bad ) |^     ')" 0
printf '[cluster x]\ntype = slurm\ncolour = red\n' >bad.conf
run slurmray doctor --config bad.conf --state "$STATE"
is "mistakes in the configuration are bad" "$status" 1
is "all of them" "$(printf '%s\n' "$out" | grep -c '^bad  configuration: bad.conf:')" 2
run slurmray doctor --config "$T/config" --state "$STATE" nowhere
like "a cluster that is not there" "$out" '^bad  there is no cluster nowhere; the configuration has: local'
chmod 755 "$STATE"
run slurmray doctor --config "$T/config" --state "$STATE" local
like "a state directory that is open to others" "$out" "^bad  .*chmod 700 $STATE"
chmod 700 "$STATE"
ok "unmount" stop_mount
run slurmray doctor --config "$T/config" --state "$STATE" local
like "the journal is opened when nobody has it" "$out" "^ok   state directory $STATE: yours, not in use, its journal can be opened"
printf '[cluster far]\ntype = slurm\nhost = 127.0.0.1\nport = 1\n' >far.conf
run slurmray doctor --config far.conf --state "$STATE" far
is "a cluster that cannot be reached is bad" "$status" 1
like "with what ssh makes of it" "$out" '^ok   cluster far: 127.0.0.1 is .*@127.0.0.1 port 1$'
like "and why" "$out" '^bad  127.0.0.1: '
done_testing
