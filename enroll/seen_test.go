package enroll

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What a node tells of devices fits a frame, whatever their number and the length of their ids.
func TestTheNewestSightsOfDevicesFitAFrame(t *testing.T) {
	at := map[string]time.Time{}
	for i := range 3 * seenMax {
		at[strings.Repeat("i", 58)+fmt.Sprintf("%06d", i)] = time.Unix(1<<33+int64(i), 0)
	}
	s := NewLastSeen(at)
	s.Merge(LastSeen{"newest": 1 << 40, "oldest": 1})
	b, err := json.Marshal(Report{Devices: s})
	if err != nil || len(b) > controlFrameMax*9/10 || len(s) != seenMax {
		t.Errorf("%d devices in %d bytes, %v", len(s), len(b), err)
	}
	if s.At("newest").IsZero() || !s.At("oldest").IsZero() {
		t.Error("the oldest is kept, or the newest is not")
	}
	s.Merge(LastSeen{"newest": 7})
	if s.At("newest") != time.Unix(1<<40, 0) {
		t.Errorf("seen again at %v, before it was seen", s.At("newest"))
	}
}
