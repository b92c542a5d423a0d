// Package packaging has what the packages of Holdfast install besides the binary and the units of package systemd: the
// default configuration, as a file.
//
// make packages puts the packages (deb, rpm, apk, archlinux) and tarballs for amd64, arm64 and armhf into dist/, the same
// bytes each time. nfpm.yaml describes what all of them hold, nfpm-systemd.yaml what those for systemd add, nfpm-FORMAT.yaml
// what is particular to one; scripts/ has what they run:
//
//	/usr/bin/agent                       the binary; armhf's is a proxy only
//	/etc/holdfast/agent.yaml             agent.yaml, kept as it is on upgrade
//	/usr/lib/systemd/system/holdfast.*   from systemd/, none enabled: see holdfast.preset
//	/usr/lib/sysusers.d/holdfast.conf    from systemd/
//	/usr/lib/sysctl.d/60-holdfast.conf   sysctl.conf: room for UDP
//	/usr/lib/holdfast/after-upgrade      restarts a running agent, if the new program accepts its configuration
//	/usr/share/doc/holdfast/             licence, change log, sbom.cdx.json
//
// with manual pages and completions. Removing a package keeps /var/lib/holdfast; only a purge takes it away, and leaves
// /var/lib/holdfast-backup. Containerfile makes a container of the tarball.
package packaging

import "embed"

// Files is agent.yaml.
//
//go:embed agent.yaml
var Files embed.FS
