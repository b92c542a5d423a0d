systemd-sysusers holdfast.conf || exit 1
if [ "$1" -ge 2 ]; then
	/usr/lib/holdfast/after-upgrade
elif [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload || :
	systemctl --no-reload preset holdfast.service holdfast.socket holdfast-backup.timer >/dev/null 2>&1 || :
	/usr/lib/systemd/systemd-sysctl 60-holdfast.conf >/dev/null 2>&1 || :
fi
