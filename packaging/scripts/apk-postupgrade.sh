#!/bin/sh
rc-service -q holdfast status >/dev/null 2>&1 || exit 0
pid=$(cat /run/openrc/options/holdfast/child_pid 2>/dev/null) || pid= # of the supervisor's child
if /usr/bin/agent config check ${pid:+--pid "$pid"}; then
	rc-service holdfast restart || echo "holdfast: the restart failed: /var/log/holdfast.log says why" >&2
else
	echo "holdfast: the new version does not accept the configuration (above). The old one is left running: mend it, then rc-service holdfast restart" >&2
fi
exit 0
