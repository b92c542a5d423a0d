#!/bin/bash
# Runs a file of the current folder with MicroPython, from a newer Debian, in a root of its own and on this network:
# micropython.sh FILE [ARGUMENT...]. CACHE keeps the root.
set -euo pipefail
root=${CACHE:?a folder to keep the root in}/micropython-root
if [[ ! -x $root/usr/bin/micropython ]]; then
  command -v mmdebstrap >/dev/null || { apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends mmdebstrap; }
  mkdir -p "$CACHE"
  part=$(mktemp -d "$CACHE/micropython.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  mmdebstrap --quiet --variant=extract --mode=root --include=base-files,micropython trixie "$part/root"
  chmod 0755 "$part/root"
  mv -T "$part/root" "$root"
  rmdir "$part"
fi
file=$1
shift
install -D -m 644 "$file" "$root/example/$file"
exec chroot "$root" /usr/bin/micropython "/example/$file" "$@"
