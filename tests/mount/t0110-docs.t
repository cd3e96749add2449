#!/bin/sh
# The documentation: every shell block of a page is run on a mount of its own; links, file names, key tables, man pages.
# TEST_SECONDS=33
. "$(dirname "$0")/../lib/tap.sh"

need_fuse
DOCS="$ROOT/tests/lib/docs.py"

TAP_TIMEOUT=200
run python3 "$DOCS" static
cp "$T/out" "$T/static"
tap_lines "$T/static"
is "all pages were looked at" "$err" ""

ok "docs/specs.md has the keys of the source" "$ROOT/scripts/gen-keys" --check
sed -n '/cluster_keys\[\] = {/,/^};/s/^\t{ "\([a-z_]*\)".*/\1/p' "$ROOT/backend/config_keys.c" >"$T/keys"
missing=
while read -r key; do
	grep -q "| \`$key\` |" "$ROOT/docs/configuration.md" || missing="$missing $key"
done <"$T/keys"
isnt "the source has keys" "$(wc -l <"$T/keys")" 0
is "docs/configuration.md has the keys of the source" "$missing" ""

if command -v mandoc >/dev/null; then
	for page in "$ROOT"/docs/*.[1-9]; do
		[ -e "$page" ] || continue
		run mandoc -T lint -W warning "$page"
		is "$(basename "$page") has no faults" "$out$err" ""
	done
else
	skip "the man pages have no faults" "mandoc is not installed"
fi

# Each page begins with an empty state, so that ids are what the page says.
pages=$(python3 "$DOCS" blocks)
isnt "there are blocks to run" "$pages" ""
for page in $pages; do
	name=$(basename "$page" .md)
	dir=$T/mnt-$name
	printf '[defaults]\ncluster = local\n' >"$T/config"
	start_mount "$dir" "$T/config" "$T/state-$name"
	SLURMRAY_MOUNT=$dir
	export SLURMRAY_MOUNT
	run python3 "$DOCS" run "$page" "$dir"
	cp "$T/out" "$T/page"
	tap_lines "$T/page"
	is "$page came to its end" "$err" ""
	stop_mount "$dir"
done
done_testing
