#!/bin/sh
# secret_env on the cluster of this machine: the cases are in tests/lib/secret_env.py. Then what a kill left.
# TEST_SECONDS=15
. "$(dirname "$0")/../lib/tap.sh"

: >"$T/die"
SLURMRAY_TEST_DIE=$T/die # workers that are killed are replaced without a pause
CLUSTER=local
PLACES=$T/jobs
export SLURMRAY_TEST_DIE CLUSTER PLACES T
mkdir -m 700 "$PLACES"
mount_local <<X
[defaults]
cluster = local
[cluster local]
directory = $PLACES
X
tap_from 150 python3 "$ROOT/tests/lib/secret_env.py" "$MNT" "$STATE" stages files cancelled equal deaths upload

# In the section of a cluster: a default like others, that nobody sees.
ok "umount" stop_mount
mkdir -p "$STATE/secrets/4711"
echo left >"$STATE/secrets/4711/A"
printf 'secret_env.SITE = from-the-Config\n' >>"$T/config"
start_mount "$MNT" "$T/config" "$STATE"
is "what a kill left is swept" "$(ls "$STATE/secrets")" ""
printf '{"command": "printf %%s \\"$SITE\\" | rev"}' >"$MNT/runs/new"
id=$(basename "$(readlink "$MNT/last")")
is "a default of the configuration" "$(timeout 20 cat "$MNT/runs/$id/wait") $(timeout 20 cat "$MNT/runs/$id/log" | rev)" "succeeded 0 from-the-Config"
is "is in no document" "$(grep -rl from-the-Config "$STATE" "$MNT/runs/$id/effective" "$MNT/runs/$id/script" "$PLACES" | wc -l)" 0
not_ok "submit takes no secret as an argument" slurmray submit --mount "$MNT" secret_env.A=value -- true
like "and says so" "$err" 'others see the arguments'
ok "umount" stop_mount
done_testing
