package queue

import (
	"testing"

	"holdfast/kv"
)

// What the cluster refuses for an alarm is over when the alarm is: it has to be sent again, and ends nothing.
func TestAlarmsEndNoQueuedWrite(t *testing.T) {
	for _, code := range []kv.Code{kv.NoSpace, kv.Corrupt} {
		if s, again := verdict(&kv.Error{Code: code}); s != Queued || !again {
			t.Errorf("%v: %v, again %v", code, s, again)
		}
	}
}
