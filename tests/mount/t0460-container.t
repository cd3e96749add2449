#!/bin/sh
# A container that uses a mount of the host: mount and process namespaces of its own, another user, /dev/fuse not needed. What the
# host mounts anew comes in when the directory above it is bound with rslave.
if [ -z "${IN_NAMESPACE:-}" ] && [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
	IN_NAMESPACE=1 exec unshare -m "$0" "$@" # what is mounted here goes with us
fi
. "$(dirname "$0")/../lib/tap.sh"

[ -n "${IN_NAMESPACE:-}" ] || skip_all "only root can make namespaces"
for dir in "$T" "$(dirname "$T")" "$(dirname "$(dirname "$T")")"; do
	case $dir in
	*/slurmray-test.* | */slurmray-run.*) chmod o+x "$dir" ;;
	esac
done

USER_INSIDE=54321
SHARE=$T/share
MNT=$SHARE/cluster
mkdir -p "$MNT" "$T/volume" "$T/bound" "$T/private"
{ mount --bind "$SHARE" "$SHARE" && mount --make-shared "$SHARE"; } || skip_all "nothing can be mounted here"
tap_mounts=$SHARE

setpriv --reuid 54322 --regid 54322 --clear-groups test -d "$MNT" || skip_all "other users cannot get to $MNT"

# container PROPAGATION COMMAND: leaves $container, the pid of its first process; COMMAND mounts what it is to see.
container() {
	in_background unshare -m -p -f --kill-child --propagation "$1" sh -c "$2 && exec sleep 600"
	unshare_pid=$pid
	eventually 20 first_process || fail "a container starts"
}

first_process() {
	read -r container _ <"/proc/$unshare_pid/task/$unshare_pid/children" || true # there is no newline
	[ -n "$container" ] && grep -q '^sleep' "/proc/$container/comm"
}

# inside UID COMMAND...
inside() {
	inside_uid=$1
	shift
	timeout -k 2 60 nsenter -t "$container" -m -p setpriv --reuid "$inside_uid" --regid "$inside_uid" --clear-groups --inh-caps=-all "$@"
}

: >"$T/config"
start_mount "$MNT" "$T/config" "$STATE" --allow-other --allow-uid $USER_INSIDE
# As docker run -v SHARE:VOLUME:rslave does, and as one that binds the mount itself.
container slave "mount --rbind '$SHARE' '$T/volume' && mount --bind '$MNT' '$T/bound'"
VOLUME=$T/volume/cluster

# --- who gets in ---

ok "the user of the container sees the tree" inside $USER_INSIDE cat "$VOLUME/README" "$T/bound/status"
# shellcheck disable=SC2016
run inside 0 python3 -c 'if 1:
	import json, os, sys
	os.setgroups([])
	os.setresgid(54321, 54321, 54321)
	os.setresuid(54321, 54321, 54321)
	run = sys.argv[1] + "/runs/step"
	os.mkdir(run)
	open(run + "/events", "w").close()
	open(run + "/context", "w").write("{}")
	with open(run + "/spec", "w") as f:
		json.dump({"command": "id -u; echo $SLURMRAY_RUN", "pipes": True}, f)
	print(open(run + "/wait").read().strip())
	print(open(run + "/log").read().split())
	os.unlink(run + "/context")
	os.unlink(run + "/events")
	print(open(run + "/events").read() == "", os.stat(run + "/log").st_uid == 0)' "$VOLUME"
is "it makes a draft as Dagster does, submits and waits; jobs run as the user of the mount" "$out$err" "succeeded 0
['0', 'step']
True True"
for place in "$VOLUME" "$T/bound"; do
	for way in "cat $place/README" "ls $place" "stat $place/runs" "cat $place/runs/step/log" "mkdir $place/runs/other" \
		"tee $place/runs/new" "rmdir $place/runs/step"; do
		# shellcheck disable=SC2086
		run inside 54322 $way </dev/null
		like "another user: ${way%% *} is refused" "$status $err" '^[12] .*Permission denied'
	done
done
is "nothing came of it" "$(ls "$MNT/runs")" "check
list
new
step
template"
ok "root of the container may: it is root" inside 0 cat "$VOLUME/README"

# A container of an ordinary user: root there is that user here.
if setpriv --reuid $USER_INSIDE --regid $USER_INSIDE --clear-groups unshare -U -r -m true 2>/dev/null; then
	for uid in $USER_INSIDE 54322; do
		run setpriv --reuid "$uid" --regid "$uid" --clear-groups unshare -U -r -m sh -c "mount --rbind '$SHARE' '$T/volume'; cat '$VOLUME/status'"
		is "root of a rootless container is user $uid of the host" "$(grep -c '^version' "$T/out")" "$([ "$uid" = 54322 ] && echo 0 || echo 1)"
	done
else
	diag "no rootless container: users may not make user namespaces here"
fi

# --- what a container notices of restarts ---

run inside $USER_INSIDE sh -c "exec 3<>$VOLUME/runs/new; echo 'until [ -e $T/go ]; do sleep 0.1; done; echo done' >&3; read -r id <&3; echo \$id"
id=$out
for place in "$VOLUME" "$T/bound"; do
	in_background inside $USER_INSIDE cat "$place/runs/$id/wait" "$place/runs/$id/log.follow" >"$T/reader$(basename "$place")" 2>&1
done
parked() {
	[ "$(sed -n 's/^parked //p' "$MNT/status")" -ge 2 ]
}
ok "two readers inside wait" eventually 30 parked
kill_worker() {
	old=$(cat "$STATE/worker.pid")
	kill -KILL "$old"
	eventually 30 another_worker
}
another_worker() {
	[ -s "$STATE/worker.pid" ] && [ "$(cat "$STATE/worker.pid")" != "$old" ]
}
ok "kill -9 of the worker" kill_worker
ok "and again" kill_worker
ok "the container goes on" inside $USER_INSIDE cat "$VOLUME/README"
run inside 54322 cat "$VOLUME/README"
like "and others are still refused" "$err" 'Permission denied'
touch "$T/go"
for place in cluster bound; do
	ok "its readers in $place never noticed" eventually 30 grep -q "done" "$T/reader$place"
	is "and read what there was" "$(cat "$T/reader$place")" "succeeded 0
done"
done

# --- a new mount ---

slave=$container
container private "mount --rbind '$SHARE' '$T/private'"
ok "umount while containers have it" stop_mount
start_mount "$MNT" "$T/config" "$STATE" --allow-other --allow-uid $USER_INSIDE
not_ok "a private container keeps the old mount, which is dead" inside $USER_INSIDE cat "$T/private/cluster/status"
container=$slave
ok "where the directory above is bound with rslave the new mount comes in" inside $USER_INSIDE grep step "$VOLUME/runs/list"
not_ok "where the mount itself is bound it does not" inside $USER_INSIDE cat "$T/bound/status"
done_testing
