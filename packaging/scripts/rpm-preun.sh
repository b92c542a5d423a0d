if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now holdfast.socket holdfast-backup.timer holdfast.service >/dev/null 2>&1 || :
fi
