// Package packaging has what the packages of Holdfast install besides the binary and the units of package systemd: the
// default configuration, as a file.
//
// The packages themselves (deb, rpm, apk, archlinux) are going to be described here for nfpm, from one file:
//
//	/usr/bin/agent                            the binary
//	/etc/holdfast/agent.yaml                  agent.yaml, kept as it is on upgrade
//	/usr/lib/systemd/system/holdfast.service  from systemd/, and the backup's service and timer, not enabled
//	/usr/lib/sysusers.d/holdfast.conf         from systemd/
//	/usr/share/doc/holdfast/                  licence and change log
//
// Removing a package keeps /var/lib/holdfast; only a purge takes it away.
package packaging

import "embed"

// Files is agent.yaml.
//
//go:embed agent.yaml
var Files embed.FS
