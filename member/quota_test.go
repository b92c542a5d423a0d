package member

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

// fill puts values until one is refused for want of room.
func (m *testMember) fill() (keys int, err error) {
	m.t.Helper()
	value := bytes.Repeat([]byte("x"), 32<<10)
	for keys = range 10_000 {
		c := kv.Command{Ops: []kv.Op{kv.Put{Key: fmt.Appendf(nil, "fill/%05d", keys), Value: value}}}
		if _, err = m.Do(m.t.Context(), c); err != nil {
			return keys, err
		}
	}
	m.t.Fatal("10,000 values of 32 KiB and no quota")
	return keys, nil
}

func TestQuotaRefusesWritesAndLetsThemGoOnByItself(t *testing.T) {
	const quota = 4 << 20
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Quota = quota })
	keys, err := m.fill()
	wantRefusal(t, err, kv.NoSpace, "store.quota", "nothing was stored", "delete keys and compact")
	if alarms := m.Condition().Alarms; len(alarms) != 1 || alarms[0] != (kv.Alarm{Member: m.id.Replica, Kind: kv.AlarmNoSpace}) {
		t.Errorf("alarms: %v", alarms)
	}
	if why := m.Status().WritesRefused; !strings.Contains(why, "store.quota") {
		t.Errorf("status says %q", why)
	}
	if keys < quota/(40<<10) {
		t.Errorf("refused after %d values of 32 KiB, the quota is %d bytes", keys, quota)
	}
	if _, found := m.get("fill/00000"); !found {
		t.Error("reads are refused too")
	}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.LeaseGrant{ID: 7, TTL: 60}}}); kv.CodeOf(err) != kv.NoSpace {
		t.Errorf("lease grant: %v", err)
	}
	// A member that restarts finds the alarm.
	m.close()
	m = start(t, m.cfg.Dir, quiet, func(c *Config) { c.Quota = quota })
	_, err = m.Do(t.Context(), put("a", "1"))
	wantRefusal(t, err, kv.NoSpace, "store.quota")

	res, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("fill/"), End: []byte("fill0")}}})
	if err != nil || res.Ops[0].Count != int64(keys) {
		t.Fatalf("delete: %+v, %v", res.Ops, err)
	}
	_, err = m.Do(t.Context(), put("a", "1"))
	wantRefusal(t, err, kv.NoSpace, "store.quota") // the history has them still
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Compact{Revision: res.Revision}}}); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "writes go on", func() bool {
		_, err := m.Do(t.Context(), put("a", "1"))
		return err == nil
	})
	if alarms := m.Condition().Alarms; len(alarms) != 0 {
		t.Errorf("alarms: %v", alarms)
	}
	// And it holds again.
	if _, err = m.fill(); kv.CodeOf(err) != kv.NoSpace {
		t.Errorf("the second time: %v", err)
	}
}

// An operator may disarm the alarm; a member that is still beyond its quota raises it again.
func TestDisarmedAlarmComesBackWhileThereIsNoRoom(t *testing.T) {
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Quota = 1 << 20 })
	_, err := m.fill()
	wantRefusal(t, err, kv.NoSpace, "store.quota")
	own := kv.Alarm{Member: m.id.Replica, Kind: kv.AlarmNoSpace}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.SetAlarm{Alarm: own}}}); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "the alarm stands again", m.alarmed)
}

// The alarm of another member is not this one's to disarm.
func TestQuotaLeavesAlarmsOfOthersAlone(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	others := kv.Alarm{Member: m.id.Replica + 1, Kind: kv.AlarmNoSpace}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.SetAlarm{Alarm: others, Raise: true}}}); err != nil {
		t.Fatal(err)
	}
	if err := m.lookAtQuota(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := m.Do(t.Context(), put("a", "1"))
	wantRefusal(t, err, kv.NoSpace, fmt.Sprintf("%016x", others.Member))
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.SetAlarm{Alarm: others}}}); err != nil {
		t.Fatal(err)
	}
	m.put("a", "1")
}

func TestCommandsOfTheLeaderAreNotTakenFromClients(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	for _, op := range []kv.Op{kv.SetFeature{Level: 1}, kv.Audit{Term: m.store.LeaderTerm()}, kv.LeaderTerm{Nonce: 1}} {
		_, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{op}})
		wantRefusal(t, err, kv.Invalid, "proposed by a leader only")
	}
}
