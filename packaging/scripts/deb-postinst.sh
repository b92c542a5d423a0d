#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
systemd-sysusers holdfast.conf
if command -v deb-systemd-helper >/dev/null; then
	for unit in holdfast.service holdfast.socket holdfast-backup.timer; do
		deb-systemd-helper unmask "$unit" >/dev/null || true
		# Enabled before it was removed, it is again; else only a person enables it.
		if deb-systemd-helper debian-installed "$unit" && deb-systemd-helper --quiet was-enabled "$unit"; then
			deb-systemd-helper enable "$unit" >/dev/null || true
		fi
		deb-systemd-helper update-state "$unit" >/dev/null || true
	done
fi
if [ -n "${2:-}" ]; then
	/usr/lib/holdfast/after-upgrade
elif [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload >/dev/null || true
	/usr/lib/systemd/systemd-sysctl /usr/lib/sysctl.d/60-holdfast.conf >/dev/null 2>&1 || true
fi
