package agent

import (
	"runtime/debug"
	"time"

	"holdfast/enroll"
)

// tokenOffice makes, lists and ends join tokens on a member.
type tokenOffice struct {
	store  enroll.Store
	caHash string
	now    func() time.Time
}

// buildTime is when this program was built, as far as it knows; no certificate is judged by an earlier time.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}
