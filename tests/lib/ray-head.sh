# shellcheck shell=bash
# A Ray head of a test alone, and an sshd in front of it; after tap.sh and faults.sh, in bash. Leaves $python, $ray, $base (the first
# of its ports), $R (its directory), $T/token.

need_ray() {
	python=$("$ROOT/scripts/ray-env" 2>"$T/ray-env.log") || {
		diag "$(tail -n 5 "$T/ray-env.log")"
		skip_all 'Ray cannot be installed here'
	}
	# shellcheck disable=SC2034 # for the tests
	ray=$(dirname "$python")/ray
	base=$((21000 + $$ % 400 * 16))
	until ports_free; do base=$((21000 + (base - 21000 + 16) % 6400)); done
	head_pid=
	R=$(mktemp -d /tmp/sr-XXXXXX) # sockets in it have at most 107 bytes
	"$BUILD/tools/raystart" >"$T/ray-start"
	(umask 077 && head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$T/token")
	trap 'head_down; rm -rf "$R"; tap_exit' EXIT
}

ports_free() {
	local i
	for i in $(seq 0 12); do
		if (exec 3<>"/dev/tcp/127.0.0.1/$((base + i))") 2>/dev/null || (exec 3<>"/dev/tcp/127.0.0.10/$((base + i))") 2>/dev/null; then
			return 1
		fi
	done
}

head_up() { # as Ray's own test benches do it: everything on one address of this machine
	mkdir -p "$R"
	env RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$T/token" RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 \
		SLURMRAY_PATIENCE=140 RAY_DASHBOARD_STARTUP_TIMEOUT_S=140 RAY_agent_register_timeout_ms=140000 \
		AUTOSCALER_METRIC_PORT=$((base + 11)) DASHBOARD_METRIC_PORT=$((base + 12)) setsid "$python" "$T/ray-start" start --head \
		--block --disable-usage-stats --temp-dir="$R" --node-ip-address=127.0.0.10 --port=$base --num-cpus=1 \
		--dashboard-host=127.0.0.1 --dashboard-port=$((base + 1)) --dashboard-agent-listen-port=$((base + 2)) \
		--ray-client-server-port=$((base + 3)) --node-manager-port=$((base + 4)) --object-manager-port=$((base + 5)) \
		--runtime-env-agent-port=$((base + 6)) --dashboard-agent-grpc-port=$((base + 7)) --metrics-export-port=$((base + 9)) \
		--min-worker-port=0 --max-worker-port=0 --object-store-memory=80000000 \
		>>"$T/head.log" 2>&1 </dev/null &
	head_pid=$!
	tap_pids="$tap_pids $head_pid"
}

# head_ready CLUSTER: until a node is there. A raylet that ended all the same leaves a head without a node, which is replaced then.
# $head_tries: how many it took.
head_ready() {
	head_tries=1
	until eventually 150 head_has_node "$1" && ! raylet_died; do
		[ $head_tries -lt 5 ] || return 1
		head_tries=$((head_tries + 1))
		diag "no node came: $(tail -n 20 "$R/session_latest/logs/raylet.err" 2>/dev/null | grep -o 'Check failed.*' | cut -c1-100)"
		head_down
		head_up
	done
}
raylet_died() { grep -qs 'Check failed' "$R/session_latest/logs/raylet.err"; }
head_has_node() { # or never will
	raylet_died || timeout 10 grep -q ALIVE "$MNT/clusters/$1/nodes"
}

head_down() {
	[ -n "$head_pid" ] || return 0
	kill -TERM "$head_pid" 2>/dev/null
	eventually 20 gone "$head_pid" || kill -KILL -- "-$head_pid" 2>/dev/null
}

gone() { ! kill -0 "$1" 2>/dev/null; }

of_head() { # of_head NAME: the process of our head, by its session's directory
	pgrep -f "$1.*$R/" | head -n 1
}

api() { # api METHOD PATH
	timeout 10 curl -s -X "$1" -H "Authorization: Bearer $(cat "$T/token")" "http://127.0.0.1:$((base + 1))$2"
}

up() { # up [CLUSTER]
	timeout 5 grep -qx 'link up' "$MNT/clusters/${1:-lab}/status"
}

sid() { cat "$MNT/runs/$1/job_id"; }

run_sh() { # run_sh FILE KEY...: a run of a script, whatever bytes it prints
	submit "{\"command\": [\"/bin/bash\", \"$1\"]${2:+, $2}}"
}

# The drivers that are there: processes of this head's jobs that are wrappers of ours.
drivers() {
	local dir
	for dir in "$R"/session_*/logs/slurmray/*/runs/*/*; do
		[ -s "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null && echo "$dir"
	done
	return 0
}

# An sshd on port $((base + 8)) that lets this user in by $T/ssh/id; more lines of its configuration on standard input.
ssh_up() {
	local pam=no dir=$T/ssh
	[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
	case $(getent shadow "$(id -un)" 2>/dev/null | cut -d: -f2) in '!'*) pam=yes ;; esac
	[ -d "$dir" ] || mkdir -m 700 "$dir"
	[ -f "$dir/host_key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
	[ -f "$dir/id" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/id"
	cp "$dir/id.pub" "$dir/authorized_keys"
	cat >"$dir/sshd_config" - <<-CONF
		Port $((base + 8))
		ListenAddress 127.0.0.1
		HostKey $dir/host_key
		PidFile $dir/pid
		AuthorizedKeysFile $dir/authorized_keys
		UsePAM $pam
		StrictModes no
		PasswordAuthentication no
		KbdInteractiveAuthentication no
		UseDNS no
		LogLevel VERBOSE
	CONF
	cat >"$dir/config" <<-CONF
		Host gate
			HostName 127.0.0.1
			Port ${1:-$((base + 8))}
			User $(id -un)
			IdentityFile $dir/id
			IdentitiesOnly yes
			UserKnownHostsFile $dir/known_hosts
			StrictHostKeyChecking yes
	CONF
	echo "[127.0.0.1]:${1:-$((base + 8))} $(cut -d' ' -f1,2 "$dir/host_key.pub")" >"$dir/known_hosts"
	rm -f "$dir/pid"
	/usr/sbin/sshd -f "$dir/sshd_config" -E "$dir/log" && eventually 20 test -s "$dir/pid" || return 1
	tap_pids="$tap_pids $(cat "$dir/pid")"
}

ssh_down() {
	local pid
	pid=$(cat "$T/ssh/pid")
	kill "$pid"
	eventually 10 gone "$pid"
}
