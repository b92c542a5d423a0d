package agent

import (
	"strings"
	"testing"
	"time"
)

func TestALoopHangsIfItDoesNotGetOn(t *testing.T) {
	work := uint64(0)
	l := &loop{name: "the loop", work: func() uint64 { return work }}
	now := time.Now()
	look := func(after time.Duration) error { now = now.Add(after); return l.look(now) }
	for _, step := range []struct {
		what  string
		work  uint64
		after time.Duration
		hangs bool
	}{
		{"it waits", 0, time.Minute, false},
		{"it waits still", 0, time.Minute, false},
		{"it is at work", 1, time.Minute, false},
		{"it is looked at again at once", 1, lookLeast / 2, false},
		{"it is at that still", 1, time.Minute, true},
		{"and still", 1, time.Minute, true},
		{"it is at the next piece", 3, time.Minute, false},
		{"it waits again", 4, time.Minute, false},
		{"and goes on doing so", 4, time.Minute, false},
	} {
		work = step.work
		if err := look(step.after); (err != nil) != step.hangs {
			t.Errorf("%s: %v", step.what, err)
		} else if err != nil && !strings.Contains(err.Error(), "the loop has been at the same piece of work for 1m0s") && !strings.Contains(err.Error(), "2m0s") {
			t.Errorf("%s: %v", step.what, err)
		}
	}
}
