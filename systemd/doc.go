// Package systemd has the unit and the user that packages install, as files, and the tests that keep them safe.
//
// The agent's side of the protocol (readiness, status, watchdog, passed sockets) is in package agent.
package systemd

import "embed"

// Files are the units, what belongs to them, and holdfast.sysusers.
//
//go:embed holdfast.service holdfast-backup.service holdfast-backup.timer holdfast.socket holdfast.preset restart-steps.conf holdfast.sysusers
var Files embed.FS
