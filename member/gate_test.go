package member

import (
	"path/filepath"
	"testing"

	"holdfast/kv"
	"holdfast/mvcc"
)

// What a member of the cluster may not know does not enter the log before the level says that it does.
func TestNewKindsOfCommandsWaitForTheFeatureLevel(t *testing.T) {
	s, err := mvcc.Open(filepath.Join(t.TempDir(), stateName), mvcc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := &Member{store: s}
	grant := kv.Command{Ops: []kv.Op{kv.LeaseGrant{ID: 1, TTL: 60}}}
	gated := []kv.Command{
		grant,
		{Ops: []kv.Op{kv.LeaseRevoke{ID: 1}}},
		{Ops: []kv.Op{kv.SetAlarm{Alarm: kv.Alarm{Member: 1, Kind: kv.AlarmNoSpace}, Raise: true}}},
		{Ops: []kv.Op{kv.Each{Commands: []kv.Command{put("a", "1"), grant}}}},
	}
	for _, c := range gated {
		wantRefusal(t, m.gate(&c), kv.Unsupported, "feature level 1", "is at 0")
	}
	plain := put("a", "1")
	if err := m.gate(&plain); err != nil {
		t.Errorf("a put: %v", err)
	}
	if _, err := s.Apply([]mvcc.Entry{{Index: 1, Command: kv.Command{Ops: []kv.Op{kv.SetFeature{Level: kv.FeatureAdmin}}}}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range gated {
		if err := m.gate(&c); err != nil {
			t.Errorf("%T: %v", c.Ops[0], err)
		}
	}
}
