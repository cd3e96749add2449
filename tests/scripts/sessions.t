#!/bin/bash
# A session without Slurm: the script of its job, the scripts of its steps, and the shell functions that put them into its
# queue and ask for them, with stand-ins for scontrol, squeue and srun; in both shells.
. "$(dirname "$0")/../lib/tap.sh" || exit 99

UUID=6f1c2a34
STATE=$HOME/.slurmray/$UUID
HOLD=$STATE/runs/9/a1
mkdir -p "$HOLD" "$STATE/ends" "$T/bin"
PATH=$T/bin:$PATH
stand_in() { # stand_in NAME: its text comes from standard input
	{
		echo '#!/bin/sh'
		cat
	} >"$T/bin/$1"
	chmod +x "$T/bin/$1"
}
stand_in scontrol <<END
if [ "\$1 \$2" = 'show hostnames' ]; then printf 'n1\nn2\n' && exit; fi
printf '   Comment=slurmray:$UUID/9/a1\n   JobState=%s Reason=None\n' "\$(cat '$T/state')"
END
stand_in squeue <<END
echo "55|\$(cat '$T/state')|None|n1|0 1 4|slurmray:$UUID/9/a1|/x"
END
# shellcheck disable=SC2016 # for the stand-in
stand_in srun <<'END'
while case $1 in -*) ;; *) false ;; esac; do
	case $1 in --nodelist=*) export SLURMD_NODENAME="${1#*=}" ;; esac
	shift
done
exec "$@"
END
echo RUNNING >"$T/state"
"$BUILD/tools/schedtool" prelude >"$T/prelude"

ask() { # ask SHELL FUNCTION ARGUMENT...: in a shell that has the functions
	local shell=$1
	shift
	# shellcheck disable=SC2016 # for that shell
	SR_DIR=$STATE/ends IN=$T/in timeout -k 1 30 "$shell" -c '. "$0"; "$@"' "$T/prelude" "$@"
}
script() { # script NUMBER COMMAND
	sed -e "s|runs/10/a1|runs/$1/a1|g; s|10\\.a1|$1.a1|g; s|10/a1|$1/a1|g; s|run=10 |run=$1 |" -e "s|-c hostname\$|-c '$2'|" \
		"$ROOT/tests/data/scripts/step.sh"
}
step() { # step SHELL NUMBER COMMAND [CPUS [MEM GPUS TASKS]]: as the driver submits one that has files
	script "$2" "$3" >"$T/in"
	ask "$1" st_submit "$STATE/runs/$2/a1" "$STATE/ends" "slurmray:$UUID/$2/a1" "$(wc -c <"$T/in")" 0 '' "$HOLD" "55.s$2" \
		"$2/a1 ${4:-1} 0 ${5:-0} ${6:--} ${7:-${4:-1}}"
}
many() { # many SHELL NUMBER:COMMAND...: as the driver submits those that have none
	local shell=$1 i
	shift
	set -- "$@"
	: >"$T/in"
	for i; do
		script "${i%%:*}" "${i#*:}" >"$T/one"
		cat "$T/one" >>"$T/in"
		set -- "$@" "${i%%:*}/a1:$(wc -c <"$T/one"):1 0 0 - 1"
		shift
	done
	ask "$shell" st_many "$HOLD" "$STATE/ends" "$STATE" 55 "$@"
}
verify() { # verify SHELL NUMBER: the lines that judge
	ask "$1" st_verify "$STATE/runs/$2/a1" "$STATE/ends/$2.a1" "$2/a1" "$HOLD" "slurmray:$UUID/9/a1" 55 '1 0 0 - 1' | sed -n \
		-e 's/^job *//p' -e '/^started/p' -e '/^record/s/.* rc=\([^ ]*\) .*limit=\(.*\)/record \1 \2/p'
}
verb() { # verb SHELL VERB NUMBER ARGUMENT
	ask "$1" st_verb "$2" "$STATE/runs/$3/a1" "$3/a1" "$HOLD" "slurmray:$UUID/9/a1" 55 "55.s$3" "$4"
}
code() { # code NUMBER: the one in its exit record
	sed -n 's/.* rc=\([^ ]*\) .*/\1/p' "$STATE/ends/$1.a1" 2>/dev/null
}
has_code() { [ "$(code "$1")" = "$2" ]; }
begun() { [ -L "$STATE/runs/$1/a1/started" ]; }

step dash 20 'echo early' >"$T/out"
is "a step is queued before its session runs" "$(cat "$T/out") $(readlink "$STATE/runs/20/a1/claim")" "ok 55.s20 55.s20"
# shellcheck disable=SC2097,SC2098 # the variables are for the job
SLURM_JOB_ID=55 SLURM_JOB_NODELIST='n[1-2]' SLURM_JOB_CPUS_PER_NODE='2(x2)' SLURM_JOB_GPUS=0,1 SLURM_MEM_PER_NODE=1000 \
	CUDA_VISIBLE_DEVICES=0,1 in_background sh "$ROOT/tests/data/scripts/session.sh" >"$HOLD/stdout" 2>"$HOLD/stderr"
ok "and runs when it does" eventually 30 has_code 20 0
is "with its output" "$(cat "$STATE/runs/20/a1/stdout")" early
like "the session has counted its processors" "$(cat "$HOLD/stdout")" 'with 4 CPUs'

n=30
for shell in dash bash; do
	a=$((n + 1)) b=$((n + 2)) c=$((n + 3)) d=$((n + 4)) e=$((n + 5))
	n=$((n + 10))
	is "$shell: queued" "$(step $shell $a 'echo x >>ran; exit 3')" "ok 55.s$a"
	ok "$shell: its code" eventually 30 has_code $a 3
	is "$shell: queued again, it is the same" "$(step $shell $a 'echo x >>ran; exit 3')" "ok 55.s$a"
	printf '\n%s\n' "$a/a1 1 0 ." >>"$HOLD/queue"
	is "$shell: a whole run of three processors" "$(step $shell $b 'trap "exit 8" USR1; while :; do sleep 0.1; done' 3)" "ok 55.s$b"
	ok "$shell: begins" eventually 30 begun $b
	is "$shell: no second start" "$(cat "$STATE/runs/$a/a1/work/ran")" x
	printf '%s' "broken/a1 1 0" >>"$HOLD/queue" # a writer that died: the next line ends it
	is "$shell: two more have no room" "$(step $shell $c 'exit 0' 2) $(step $shell $d 'exit 0' 2)" "ok 55.s$c ok 55.s$d"
	ok "$shell: a row for each" eventually 20 sh -c \
		"grep -q '^$b/a1 RUNNING' '$HOLD/steps' && grep -q '^$c/a1 PENDING' '$HOLD/steps' && grep -q '^$d/a1 PENDING' '$HOLD/steps'"
	is "$shell: as the poll has them" "$(ask $shell st_queue | sed -n "s/^\(55\.s[0-9]*\)|\([A-Z]*\)|.*|\(slurmray:[^|]*\)|\$/\1 \2 \3/p" | sort)" \
		"$(printf '55.s%s %s slurmray:%s/%s/a1\n' $b RUNNING $UUID $b $c PENDING $UUID $c $d PENDING $UUID $d)"
	like "$shell: and what the runner says" "$(ask $shell st_queue | grep '^@')" \
		"^@55\|slurmray:$UUID/9/a1\|[0-9]+\|nodes n1[^|]*;quiet_since -;idle [0-9]+;live [0-9]+;waiting 2;beat [0-9]+;\$"
	is "$shell: asked for by themselves" "$(verify $shell $b | head -n 2 | tail -n 1), $(verify $shell $c)" \
		"JobState=RUNNING, JobState=PENDING Reason=Session"
	is "$shell: what waits is cancelled" "$(verb $shell cancel $c 2) $(verify $shell $c | tr '\n' ' ')" \
		"ok
cancelled before it started started void JobState=COMPLETED "
	is "$shell: what waits cannot be signalled" "$(verb $shell signal $d USR1)" "busy
the run has not started: there is nothing to signal"
	is "$shell: what runs can" "$(verb $shell signal $b USR1)" ok
	ok "$shell: and makes room" eventually 30 has_code $d 0
	is "$shell: its record" "$(code $b) $(verify $shell $b | tr '\n' ' ')" "8 record 8 - started 55.s$b JobState=COMPLETED "
	not_ok "$shell: what was cancelled did not run" test -e "$STATE/ends/$c.a1"
	is "$shell: one that does not listen" "$(step $shell $e 'trap "" TERM; (trap "" TERM; sleep 4741) & sleep 4742; sleep 4743')" "ok 55.s$e"
	ok "$shell: runs" eventually 30 begun $e
	is "$shell: is cancelled" "$(verb $shell cancel $e 1)" ok
	ok "$shell: with a record" eventually 30 test -e "$STATE/ends/$e.a1"
	ok "$shell: and is gone" eventually 10 sh -c '! pgrep -f "sleep 474[123]"'
done

# --- many at once ---

n=60
for shell in dash bash; do
	n=$((n + 10))
	is "$shell: three in one request" "$(many $shell "$n:echo a" "$((n + 1)):exit 4" "$((n + 2)):printf x; printf y >\&2")" \
		"$(printf 'run %s/a1\nok 55.s%s\n' $n $n $((n + 1)) $((n + 1)) $((n + 2)) $((n + 2)))"
	ok "$shell: the first one" eventually 30 has_code $n 0
	ok "$shell: the second one" eventually 30 has_code $((n + 1)) 4
	ok "$shell: the third one" eventually 30 has_code $((n + 2)) 0
	is "$shell: with their streams" "$(cat "$STATE/runs/$n/a1/stdout" "$STATE/runs/$((n + 2))/a1/stdout" "$STATE/runs/$((n + 2))/a1/stderr")" \
		"a
xy"
	like "$shell: counted" "$(cat "$STATE/ends/$((n + 2)).a1")" ' out=1 err=1 .*manifest=1 '
	mkdir -p "$STATE/runs/$((n + 3))/a1" "$STATE/runs/$((n + 4))/a1" && ln -s void "$STATE/runs/$((n + 3))/a1/started"
	printf half >"$STATE/runs/$((n + 4))/a1/script"
	is "$shell: again, one that was taken back, one that was cut" "$(many $shell "$n:echo b" "$((n + 3)):exit 5" "$((n + 4)):exit 6" | tr '\n' ' ')" \
		"run $n/a1 ok 55.s$n run $((n + 3))/a1 void run $((n + 4))/a1 ok 55.s$((n + 4)) "
	ok "$shell: what was cut is whole" eventually 30 has_code $((n + 4)) 6
	is "$shell: and the others did not start" "$(cat "$STATE/runs/$n/a1/stdout")$(code $((n + 3)))" a
	: >"$STATE/runs/$((n + 5))"
	like "$shell: one that cannot be written" "$(many $shell "$((n + 5)):true" "$((n + 6)):exit 9" 2>/dev/null | tr '\n' ' ')" \
		"^run $((n + 5))/a1 unsure cannot write the script .* run $((n + 6))/a1 ok 55.s$((n + 6)) \$"
	ok "$shell: is alone in that" eventually 30 has_code $((n + 6)) 9
	is "$shell: the session is no more" "$(HOLD=$STATE/runs/99/a1 many $shell "$((n + 7)):true" | tr '\n' ' ')" "run $((n + 7))/a1 void "
	is "$shell: nor where there are blanks in the path" \
		"$(STATE="$HOME/a b/$UUID" HOLD="$HOME/a b/$UUID/runs/99/a1" many $shell "$((n + 7)):true" | tr '\n' ' ')" "run $((n + 7))/a1 void "
	mkdir -p "$STATE/runs/$((n + 8))/a1"
	echo 'exit 0' >"$STATE/runs/$((n + 8))/a1/script" # as if the disk were full when it was to start
	printf '\n%s\n' "$((n + 8))/a1 1 0 0 - 1 ." >>"$HOLD/queue"
	eventually 10 grep -q "^$((n + 8))/a1 " "$HOLD/steps"
	ok "$shell: one that ended before it began" eventually 10 sh -c "! grep -q '^$((n + 8))/a1 ' '$HOLD/steps'"
	script $((n + 8)) 'exit 3' >"$STATE/runs/$((n + 8))/a1/script"
	is "$shell: waits" "$(verify $shell $((n + 8)))" "JobState=PENDING Reason=Session"
	ok "$shell: and is begun again" eventually 30 has_code $((n + 8)) 3
	mkdir -p "$STATE/runs/$((n + 9))/a1"
	is "$shell: one whose session has no job starts nowhere" "$(ask $shell st_homeless "$STATE/runs/$((n + 9))/a1" | tr '\n' ' ')" "void "
	is "$shell: one that has started, has" "$(ask $shell st_homeless "$STATE/runs/$((n + 8))/a1")" "ok 55.s$((n + 8))"
done

# --- steps of another state directory ---

OTHER=$HOME/.slurmray/bbbb2222-0000
share() { # share SHELL UUID/NUM/aATTEMPT/PRINT ATTACH
	ask "$1" st_share "$HOME/.slurmray" "$2" w.1 "$3" | tr '\n' ' '
}
theirs() { # theirs SHELL NUMBER COMMAND
	script "$2" "$3" | sed "s|$UUID|${OTHER##*/}|g" >"$T/in"
	ask "$1" st_many "$HOLD" "$OTHER/ends" "$OTHER" 55 "$2/a1:$(wc -c <"$T/in"):1 0 0 - 1"
}
is "nobody has begun it: attach" "$(share dash "${OTHER##*/}/4/a1/p" 1)" \
	"refused no mount of yours has a session w.1 that is shared and has not ended "
mkdir -p "$STATE/runs/3/a1"
not_ok "the first one begins it" ask bash st_share "$HOME/.slurmray" "$UUID/3/a1/p" w.1 0
like "and until it has, nobody else does" "$(share dash "${OTHER##*/}/4/a1/p" 0)" '^unsure the session w.1 is being begun'
ln -s void "$STATE/runs/3/a1/started"
not_ok "one that never began is as good as none" ask bash st_share "$HOME/.slurmray" "$UUID/9/a1/p" w.1 0
not_ok "asked again, it is the same" ask dash st_share "$HOME/.slurmray" "$UUID/9/a1/p" w.1 0
for shell in dash bash; do
	is "$shell: another finds it" "$(share $shell "${OTHER##*/}/4/a1/p" 0)" "ok 55 shared $UUID/9/a1 "
	like "$shell: with another spec it is another" "$(share $shell "${OTHER##*/}/4/a1/q" 0)" '^refused .* begun with another spec'
	is "$shell: who attaches needs none" "$(share $shell "${OTHER##*/}/4/a1/q" 1)" "ok 55 shared $UUID/9/a1 "
done
is "their step" "$(theirs dash 20 'echo theirs; exit 7' | tr '\n' ' ')" "run 20/a1 ok 55.s20.bbbb2222 "
ok "has a record of their own" eventually 30 grep -q ' job=55.s20.bbbb2222 rc=7 ' "$OTHER/ends/20.a1"
is "and an output; ours of that number is ours" "$(cat "$OTHER/runs/20/a1/stdout" "$STATE/runs/20/a1/stdout" | tr '\n' ' ')" "theirs early "
theirs bash 21 'until [ -e ../../../../go ]; do sleep 0.1; done' >/dev/null
step bash 170 'until [ -e ../../../../go ]; do sleep 0.1; done' >/dev/null
ok "one of each" eventually 20 sh -c "grep -q '^bbbb2222-0000:21/a1 RUNNING' '$HOLD/steps' && grep -q '^170/a1 RUNNING' '$HOLD/steps'"
rows() { # rows SHELL BASE
	# shellcheck disable=SC2016 # for that shell
	SR_DIR=$2/ends timeout -k 1 30 "$1" -c '. "$0"; st_queue' "$T/prelude" | sed -n 's/|.*|\(slurmray:[^|]*\)|$/ \1/; /^55\.s/p' | tr '\n' ' '
}
for shell in dash bash; do
	is "$shell: who asks sees the own ones" "$(rows $shell "$OTHER")and $(rows $shell "$STATE")" \
		"55.s21.bbbb2222 slurmray:bbbb2222-0000/21/a1 and 55.s170 slurmray:$UUID/170/a1 "
done
is "theirs is asked for" "$(ask dash st_verify "$OTHER/runs/21/a1" "$OTHER/ends/21.a1" bbbb2222-0000:21/a1 "$HOLD" "slurmray:$UUID/9/a1" 55 | sed -n 's/^job *//p')" \
	JobState=RUNNING
is "and cancelled" "$(ask bash st_verb cancel "$OTHER/runs/21/a1" bbbb2222-0000:21/a1 "$HOLD" "slurmray:$UUID/9/a1" 55 55.s21.bbbb2222 2)" ok
ok "alone" eventually 30 test -e "$OTHER/ends/21.a1"
not_ok "not ours" test -e "$STATE/ends/170.a1"
: >"$STATE/go"
ok "which ends by itself" eventually 30 has_code 170 0
rm "$STATE/go"

# --- room ---

# shellcheck disable=SC2016 # for the step
show='echo $CUDA_VISIBLE_DEVICES,$SLURM_STEP_GPUS,${SLURMD_NODENAME:-n1}; until [ -e ../../../../go ]; do sleep 0.1; done'
step bash 180 "$show" 1 600 1 1 >/dev/null
step bash 181 "$show" 1 600 1 1 >/dev/null
step bash 182 "$show" 1 200 1 1 >/dev/null
step bash 183 "$show" 1 300 0 1 >/dev/null
said() { cat "$STATE/runs/$1/a1/stdout" 2>/dev/null; }
says() { [ "$(said "$1")" = "$2" ]; }
ok "a device of its own" eventually 30 says 180 '0,0,n1'
ok "no memory here: the other node" eventually 30 says 181 '0,0,n2'
ok "the next device" eventually 30 says 182 '1,1,n1'
ok "none at all" eventually 30 says 183 ',,n2'
# more than a node has: the session may be sooner with its refusal than the submission with its answer
is "is taken, or refused already" "$(printf '%s\n' "$(step bash 184 'exit 0' 3 0 - 1)" "$(step bash 185 'exit 0' 1 1001 - 1)" "$(step bash 186 'exit 0' 1 0 3 1)" |
	grep -cx -e 'ok 55\.s18[456]' -e void)" 3
step bash 187 'exit 0' 1 0 2 1 >/dev/null
step bash 188 'exit 0' 1 0 - 1 >/dev/null
ok "is refused" eventually 30 sh -c "[ -e '$STATE/ends/184.a1' ] && [ -e '$STATE/ends/185.a1' ] && [ -e '$STATE/ends/186.a1' ]"
like "with a record that says why" "$(cat "$STATE/ends/185.a1")" 'rc=- .*fault=refused reason=it%20needs%20more.*1001%20MiB'
not_ok "and never starts" test -e "$STATE/runs/185/a1/begun.0"
ok "what has no room now waits, and so does the one behind it" eventually 20 sh -c \
	"grep -q '^187/a1 PENDING' '$HOLD/steps' && grep -q '^188/a1 PENDING' '$HOLD/steps'"
like "the session says how it is" "$(tr '\n' ';' <"$HOLD/session")" '^nodes n1 n2;up [0-9]+;quiet_since -;idle [0-9]+;live 4;waiting 2;beat [0-9]+;$'
: >"$STATE/go"
ok "then it starts" eventually 30 has_code 187 0
ok "and the next" eventually 30 has_code 188 0
is "a step elsewhere has a record too" "$(eventually 30 has_code 181 0 && code 181) $(said 181)" "0 0,0,n2"
rm "$STATE/go"
step bash 190 'trap "exit 9" INT; while :; do sleep 0.1; done' >/dev/null
ok "a step runs" eventually 30 begun 190
eventually 10 test -s "$STATE/runs/190/a1/pid"
sleep 0.3
is "INT reaches it" "$(verb bash signal 190 INT)" ok
ok "and its trap" eventually 30 has_code 190 9
step bash 191 '(trap "" HUP; sleep 4745) \& exit 0' >/dev/null
ok "a step that leaves something behind" eventually 30 has_code 191 0
ok "leaves nothing behind" eventually 10 sh -c '! pgrep -f "sleep 474[5]"'

# --- on another node ---

far='trap "sleep 1; echo saved; exit 7" TERM; trap "echo usr" USR1; echo $SLURMD_NODENAME; while :; do sleep 0.1; done'
step bash 193 'until [ -e ../../../../go ]; do sleep 0.1; done' 2 0 - 1 >/dev/null
step bash 194 "$far" 2 0 - 1 >/dev/null
ok "a step goes to the other node" eventually 30 says 194 n2
is "a signal" "$(verb bash signal 194 USR1)" ok
ok "reaches it there" eventually 30 says 194 "n2
usr"
is "it is cancelled" "$(verb bash cancel 194 30)" ok
ok "and has its grace" eventually 30 has_code 194 7
is "for what it had to do" "$(said 194 | tail -n 1)" saved
step bash 195 '(trap "" TERM; sleep 4746) \& trap "" TERM; echo $SLURMD_NODENAME; sleep 4746; sleep 4746' 2 0 - 1 >/dev/null
ok "another one" eventually 30 says 195 n2
is "that does not listen" "$(verb bash cancel 195 1)" ok
ok "ends after it" eventually 30 test -e "$STATE/ends/195.a1"
ok "all of it" eventually 10 sh -c '! pgrep -f "sleep 474[6]"'
: >"$STATE/go"
ok "the room is free" eventually 30 has_code 193 0
not_ok "nothing is kept for what has ended" sh -c "ls '$HOLD'/new/in.*"

# --- leases ---

holders() { cut -d' ' -f1 "$HOLD/leases" | sort | tr '\n' ' '; }
held_by() { [ "$(holders)" = "$1" ]; }
printf '\n%s\n' 'lease a.b@c:1 600 .' 'lease d 2 .' 'lease bad;name 9 .' 'lease e x .' >>"$HOLD/orders"
ok "leases are kept" eventually 20 held_by 'a.b@c:1 d '
like "with what is left of them" "$(cat "$HOLD/leases")" '^a.b@c:1 (600|59[0-9]) [0-9]+'
ok "one runs out" eventually 20 held_by 'a.b@c:1 '
printf '\n%s\n' 'unlease a.b@c:1 - .' >>"$HOLD/orders"
ok "one is given back" eventually 20 held_by ''
is "and this session goes on" "$(step bash 192 'exit 2') $(eventually 30 has_code 192 2 && echo 2)" "ok 55.s192 2"

# --- the end ---

step bash 60 'sleep 4744' >/dev/null
ok "a step runs" eventually 30 begun 60
step bash 61 'echo never' 4 >/dev/null
ok "another one waits" eventually 20 grep -q '^61/a1 PENDING' "$HOLD/steps"
pkill -TERM -f "$ROOT/tests/data/scripts/session.sh"
ok "a session that is told to end does" eventually 30 test -e "$STATE/ends/9.a1"
is "with the code of that" "$(code 9)" 143
like "what ran has a record that says why it ended" "$(cat "$STATE/ends/60.a1")" ' rc=143 .*limit=session'
not_ok "what waited did not begin" test -e "$STATE/runs/61/a1/started"
echo CANCELLED >"$T/state"
not_ok "who asks for the session now begins the next" ask dash st_share "$HOME/.slurmray" "${OTHER##*/}/4/a1/p" w.1 0
is "it is" "$(readlink "$HOME/.slurmray/shared/w.1.3")" "${OTHER##*/}/4/a1/p"
is "and never will" "$(verify dash 61 | tr '\n' ' ')" "started void JobState=COMPLETED "
is "no verb reaches it" "$(verb dash signal 60 USR1)" "gone
the session has ended"
is "no rows are left" "$(ask dash st_queue | grep -c '^55\.s')" 0
# --- an order to a cluster in it, given when its keeper is about to end ---

mkdir "$T/hook" && cd "$T/hook" || exit 1
sed -n "/^cat >inner-hook <<'END_OF_FILE'/,/^END_OF_FILE\$/p" "$ROOT/tests/data/scripts/session_ray.sh" | sed '1d;$d' >inner-hook
mkdir spark.d && : >spark-settings
echo 'echo begun >>begun' >spark-keeper
# shellcheck disable=SC2016 # for that shell
ok "a keeper that ended, and one order" timeout 20 bash -c '_hold=$PWD; _leave() { :; }
	. ./inner-hook && wait "${_inner[spark]}" && _inner_look && : >spark.d/restart && _inner_look && wait "${_inner[spark]}"'
is "begin another" "$(cat begun)" "begun
begun"
done_testing
