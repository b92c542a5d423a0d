#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload >/dev/null || true
fi
if command -v deb-systemd-helper >/dev/null; then
	case "$1" in
	remove) deb-systemd-helper mask holdfast.service holdfast.socket holdfast-backup.timer >/dev/null || true ;;
	purge)
		deb-systemd-helper purge holdfast.service holdfast.socket holdfast-backup.timer >/dev/null || true
		deb-systemd-helper unmask holdfast.service holdfast.socket holdfast-backup.timer >/dev/null || true
		;;
	esac
fi
if [ "$1" = purge ]; then
	# Removing has kept the data. The user stays, so that nobody else gets its number.
	rm -rf /var/lib/holdfast /etc/holdfast
	if [ -d /var/lib/holdfast-backup ]; then
		echo "holdfast: backups are left in /var/lib/holdfast-backup" >&2
	fi
fi
