systemd-sysusers holdfast.conf || true
