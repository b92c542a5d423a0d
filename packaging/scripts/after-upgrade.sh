#!/bin/sh
# Called by the packages when /usr/bin/agent has been replaced: restarts a running agent, if the new program accepts the
# configuration that the old one runs with. If not, the old one goes on, and this says what to do. Never fails: a package
# that is half installed would help nobody.
set -u
[ -d /run/systemd/system ] || exit 0
systemctl --system daemon-reload || true
pid=$(systemctl show -p MainPID --value holdfast.service 2>/dev/null) || exit 0
[ "${pid:-0}" -gt 0 ] || exit 0

if ! /usr/bin/agent config check --pid "$pid"; then
	echo "holdfast: the new version does not accept the configuration (above). The old one is left running." >&2
	echo "holdfast: mend it, see that \"agent config check --pid $pid\" is content, then: systemctl restart holdfast" >&2
	exit 0
fi
if command -v deb-systemd-invoke >/dev/null; then
	restart="deb-systemd-invoke restart" # asks policy-rc.d
else
	restart="systemctl restart"
fi
$restart holdfast.service || echo "holdfast: the restart failed: journalctl -u holdfast says why" >&2
