#!/bin/bash
# Makes the tar of a small Debian with these packages that the tests boot: root.sh TAR PACKAGE,PACKAGE...
# The tar is kept between runs; delete it to have it made again.
set -euo pipefail
tar=${1:?the tar to make}
[[ -s $tar ]] && exit 0

if ! command -v mmdebstrap >/dev/null; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends mmdebstrap
fi
mkdir -p "$(dirname "$tar")"
exec 9>"$tar.lock" # tests that run side by side want the same one
flock 9
[[ -s $tar ]] && exit 0
part=$(mktemp -d "$(dirname "$tar")/root.XXXXXX")
trap 'rm -rf "$part"' EXIT
mmdebstrap --quiet --variant=minbase --mode=root --include="${2:?packages}" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/zoneinfo/*' \
  bookworm "$part/root.tar"
mv "$part/root.tar" "$tar"
