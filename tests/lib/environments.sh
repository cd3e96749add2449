# shellcheck shell=bash
# Archives of environments for tests; after tap.sh.

# What `pixi-pack --create-executable` makes, laid out as that does it, without packages: a script, in base64 a tar with
# pixi-pack.json, and where the unpacker would be another few bytes. It leaves env/ and activate.sh where it stands.
pixi_archive() { # pixi_archive FILE BYTES [PLATFORM]: of about that size, and unlike any other
	local dir=$T/pixi-archive
	rm -rf "$dir"
	mkdir -p "$dir/channel"
	printf '{"version":"1","pixi-pack-version":"0.7.0","platform":"%s"}\n' "${3:-$(platform_here)}" >"$dir/pixi-pack.json"
	head -c $(($2 * 3 / 4)) /dev/urandom >"$dir/channel/data"
	{
		cat <<'SCRIPT'
#!/usr/bin/env bash
set -euo pipefail
mkdir -p env/conda-meta env/bin
printf '#!/bin/sh\nexec /usr/bin/python3 "$@"\n' >env/bin/python3
chmod 755 env/bin/python3
cat >activate.sh <<END
export PATH="$PWD/env/bin:\$PATH"
export CONDA_PREFIX="$PWD/env"
END
echo "the environment is in $PWD/env"
exit 0
@@END_HEADER@@
SCRIPT
		tar -C "$dir" --format=ustar -cf - pixi-pack.json channel | base64
		echo @@END_ARCHIVE@@
		echo unpacker | base64
	} >"$1"
	rm -rf "$dir"
}

platform_here() {
	case $(uname -m) in
	x86_64) echo linux-64 ;;
	*) echo "linux-$(uname -m)" ;;
	esac
}

platform_elsewhere() {
	case $(uname -m) in
	x86_64) echo linux-aarch64 ;;
	*) echo linux-64 ;;
	esac
}

# A prefix as conda makes it, with a python that says who it is: prefix DIR
prefix() {
	mkdir -p "$1/bin" "$1/conda-meta" "$1/etc/conda/activate.d"
	# shellcheck disable=SC2016
	printf '#!/bin/sh\necho "python of $CONDA_PREFIX"\n' >"$1/bin/python3"
	chmod 755 "$1/bin/python3"
	echo 'export ACTIVATED=yes' >"$1/etc/conda/activate.d/a.sh"
}
