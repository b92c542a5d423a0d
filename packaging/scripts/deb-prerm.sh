#!/bin/sh
set -e
# On an upgrade the old process goes on until the new program has looked at the configuration.
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop holdfast.socket holdfast-backup.timer holdfast.service >/dev/null || true
fi
