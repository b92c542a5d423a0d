package mvcc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

var (
	full1    = kv.Alarm{Member: 1, Kind: kv.AlarmNoSpace}
	full2    = kv.Alarm{Member: 2, Kind: kv.AlarmNoSpace}
	corrupt1 = kv.Alarm{Member: 1, Kind: kv.AlarmCorrupt}
)

func (g *rig) alarms(want ...kv.Alarm) {
	g.t.Helper()
	page, err := g.s.Read(kv.Query{Ops: []kv.Op{kv.Alarms{}}})
	must(g.t, err)
	for _, got := range [][]kv.Alarm{page.Ops[0].Alarms, g.s.Alarms(), g.do(kv.Alarms{})[0].Alarms} {
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			g.t.Fatalf("alarms: got %v, want %v", got, want)
		}
	}
}

func TestAlarmsAreRaisedOnceAndNeverMoveTheRevision(t *testing.T) {
	g := newRig(t, Options{})
	before := g.s.Revision()
	g.alarms()
	for _, a := range []kv.Alarm{full2, corrupt1, full1, full2} {
		if res := g.do(kv.SetAlarm{Alarm: a, Raise: true}); !reflect.DeepEqual(res[0].Alarms, []kv.Alarm{a}) {
			t.Errorf("raise %v: got %v", a, res)
		}
	}
	g.alarms(full1, corrupt1, full2)
	for _, want := range [][]kv.Alarm{{corrupt1}, nil} {
		if res := g.do(kv.SetAlarm{Alarm: corrupt1}); !reflect.DeepEqual(res[0].Alarms, want) {
			t.Errorf("disarm: got %v, want %v", res[0].Alarms, want)
		}
	}
	g.alarms(full1, full2)
	g.do(kv.SetAlarm{Alarm: full1}, kv.SetAlarm{Alarm: corrupt1, Raise: true}, kv.SetAlarm{Alarm: full2})
	g.alarms(corrupt1)
	if got := g.s.Revision(); got != before {
		t.Errorf("the revision went from %d to %d", before, got)
	}
	g.refuse(kv.Invalid, kv.SetAlarm{Alarm: kv.Alarm{Member: 1}, Raise: true})
	g.refuse(kv.Corrupt, kv.Txn{Then: []kv.Op{kv.SetAlarm{Alarm: full1}}})
	g.do(kv.SetAlarm{Alarm: corrupt1})
	g.refuse(kv.Invalid, kv.Txn{Then: []kv.Op{kv.SetAlarm{Alarm: full1}}})
}

func TestAlarmsAreBounded(t *testing.T) {
	g := newRig(t, Options{})
	for i := range uint64(MaxAlarms) {
		g.do(kv.SetAlarm{Alarm: kv.Alarm{Member: i, Kind: kv.AlarmNoSpace}, Raise: true})
	}
	g.refuse(kv.TooManyOps, kv.SetAlarm{Alarm: kv.Alarm{Member: MaxAlarms, Kind: kv.AlarmNoSpace}, Raise: true})
	g.do(kv.SetAlarm{Alarm: full1, Raise: true}) // stands already
}

// What etcd's capped and corrupt appliers refuse is refused, and nothing else.
func TestAlarmsRefuseWhatEtcdRefuses(t *testing.T) {
	nested := kv.Txn{Else: []kv.Op{kv.Txn{Then: []kv.Op{put("a", "2")}}}}
	ops := []struct {
		op            kv.Op
		full, corrupt bool // refused while that alarm stands
	}{
		{put("a", "1"), true, true},
		{nested, true, true},
		{kv.LeaseGrant{ID: 9, TTL: 60}, true, true},
		{del("b", ""), false, true},
		{kv.Txn{Then: []kv.Op{del("b", ""), get("a")}}, false, true},
		{get("a"), false, true},
		{kv.Compact{Revision: 2}, false, true},
		{kv.SetRecord{Name: []byte("r"), Value: []byte("v"), Have: -1}, false, false},
		{kv.LeaderTerm{Nonce: 5}, false, false},
		{kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 1}}, false, false},
		{kv.OpenQueue{Origin: [16]byte{9}}, false, false},
		{kv.SetFeature{Level: kv.FeatureNewest}, false, false},
		{kv.Audit{Term: 5}, false, false},
		{kv.Alarms{}, false, false},
		{kv.SetAlarm{Alarm: full2, Raise: true}, false, false},
	}
	for _, alarm := range []kv.Alarm{full1, corrupt1} {
		for _, o := range ops {
			g := newRig(t, Options{})
			g.put("b", "1")
			g.put("b", "2")
			g.do(kv.SetAlarm{Alarm: alarm, Raise: true})
			want := kv.OK
			switch {
			case alarm == full1 && o.full:
				want = kv.NoSpace
			case alarm == corrupt1 && o.corrupt:
				want = kv.Corrupt
			}
			door := g.s.Barred(kv.Command{Ops: []kv.Op{o.op}})
			if (door != nil) != (want != kv.OK) {
				t.Errorf("%v, %T: the door says %v, want %v", alarm, o.op, door, want)
			}
			if want == kv.OK {
				g.do(o.op)
				continue
			}
			if err := g.refuse(want, o.op); !strings.Contains(err.Detail, "0000000000000001") {
				t.Errorf("%v, %T: %q does not name the replica", alarm, o.op, err.Detail)
			}
			if _, err := g.s.Read(kv.Query{Ops: []kv.Op{get("b")}}); err != nil {
				t.Errorf("%v: a read is refused: %v", alarm, err)
			}
			g.do(kv.SetAlarm{Alarm: alarm})
			if err := g.s.Barred(kv.Command{Ops: []kv.Op{o.op}}); err != nil {
				t.Errorf("%v, %T: refused after the alarm was disarmed: %v", alarm, o.op, err)
			}
		}
	}
}

func TestCorruptOutweighsNoSpace(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.SetAlarm{Alarm: full1, Raise: true}, kv.SetAlarm{Alarm: kv.Alarm{Member: 9, Kind: kv.AlarmCorrupt}, Raise: true})
	g.refuse(kv.Corrupt, put("a", "1"))
	g.do(kv.SetAlarm{Alarm: kv.Alarm{Member: 9, Kind: kv.AlarmCorrupt}})
	g.refuse(kv.NoSpace, put("a", "1"))
}

// A queued write that an alarm refuses keeps its place: it is sent again once the alarm is over, and applies then.
func TestAlarmUsesUpNoSequence(t *testing.T) {
	for _, alarm := range []kv.Alarm{full1, corrupt1} {
		g := newRig(t, Options{})
		g.do(openQueue(0).Ops...)
		if out := g.command(queued(1, 1, "a", "1")); out.Err != nil {
			t.Fatal(out.Err)
		}
		g.do(kv.SetAlarm{Alarm: alarm, Raise: true})
		code := kv.NoSpace
		if alarm.Kind == kv.AlarmCorrupt {
			code = kv.Corrupt
		}
		for range 2 {
			out := g.command(each(queued(1, 2, "a", "2"), queued(1, 3, "a", "3")))
			if got := out.Result.Ops[0].Each; kv.CodeOf(got[0].Err) != code || kv.CodeOf(got[1].Err) != kv.SequenceGap {
				t.Fatalf("%v: got %v and %v", alarm, got[0].Err, got[1].Err)
			}
		}
		if out := g.command(queued(1, 1, "a", "1")); out.Err != nil || out.Result.Revision != 2 {
			t.Errorf("%v: what was applied before is answered %+v", alarm, out)
		}
		g.do(kv.SetAlarm{Alarm: alarm})
		out := g.command(each(queued(1, 2, "a", "2"), queued(1, 3, "a", "3")))
		if got := out.Result.Ops[0].Each; got[0].Err != nil || got[1].Err != nil || g.list(0) != "a=3@4" {
			t.Errorf("%v: afterwards %v, %v, %q", alarm, got[0].Err, got[1].Err, g.list(0))
		}
	}
}

func TestDoorRefusesABatchOnlyIfNothingOfItWouldPass(t *testing.T) {
	g := newRig(t, Options{})
	g.do(kv.SetAlarm{Alarm: full1, Raise: true})
	if err := g.s.Barred(each(queued(1, 1, "a", "1"), queued(1, 2, "b", "1"))); kv.CodeOf(err) != kv.NoSpace {
		t.Errorf("got %v", err)
	}
	skip := kv.Command{ID: kv.ID{Seq: kv.Seq{Origin: origin, Epoch: 1, N: 3}}, Ops: []kv.Op{kv.Skip{From: 3}}}
	if err := g.s.Barred(each(queued(1, 1, "a", "1"), skip)); err != nil {
		t.Errorf("got %v", err)
	}
	if err := g.s.Barred(each()); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
}

// Alarms and the level survive a flush, a crash with replay, and a snapshot, and the refusals with them.
func TestAlarmsSurviveRestartAndSnapshot(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	g.do(kv.SetFeature{Level: kv.FeatureNewest}, kv.SetAlarm{Alarm: full1, Raise: true}, kv.SetAlarm{Alarm: corrupt1, Raise: true})
	must(t, g.s.Flush())
	g.do(kv.SetAlarm{Alarm: corrupt1}) // in memory only
	other := newRig(t, Options{})
	must(t, other.s.Restore(dump(t, g.s), nil))
	other.index = other.s.Applied()
	g.s.crash()
	g.open()
	g.index = g.s.Applied()
	for _, s := range []*rig{g, other} {
		s.alarms(full1)
		s.refuse(kv.NoSpace, put("a", "2"))
		if s.s.Feature() != kv.FeatureNewest {
			t.Errorf("the level is %d", s.s.Feature())
		}
		s.do(kv.SetAlarm{Alarm: full1})
		s.put("a", "2")
	}
}

// A file is marked as soon as a version without levels and alarms would get it wrong, and not before.
func TestFormatRisesWithTheFeatureLevel(t *testing.T) {
	format := func(g *rig) (n uint32) {
		t.Helper()
		must(t, g.s.layers.Load().file.db.View(func(tx *bbolt.Tx) (err error) {
			n, err = readFormat(tx.Bucket(bucketMeta))
			return err
		}))
		return n
	}
	g := newRig(t, Options{})
	for level, want := range []uint32{formatFirst, formatLeases, formatLeases} {
		g.do(kv.SetFeature{Level: uint64(level)})
		g.put("a", "1")
		must(t, g.s.Flush())
		if got := format(g); got != want {
			t.Errorf("level %d: format %d, want %d", level, got, want)
		}
		b, err := io.ReadAll(dump(t, g.s))
		must(t, err)
		if got := binary.BigEndian.Uint32(b[len(snapshotMagic):]); got != want {
			t.Errorf("level %d: snapshot version %d, want %d", level, got, want)
		}
		other := newRig(t, Options{})
		must(t, other.s.Restore(bytes.NewReader(b), nil))
		if got := format(other); got != want || other.s.Feature() != uint64(level) {
			t.Errorf("level %d: restored as format %d, level %d", level, got, other.s.Feature())
		}
	}
	g.do(kv.SetFeature{Level: 0})
	if g.s.Feature() != kv.FeatureNewest {
		t.Errorf("the level fell to %d", g.s.Feature())
	}
}

// A replica that does not know the cluster's level stops; it does not answer, and does not go on.
func TestNewerFeatureLevelStopsTheReplica(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	_, err := g.s.Apply([]Entry{{g.index + 1, kv.Command{Ops: []kv.Op{kv.SetFeature{Level: kv.FeatureNewest + 1}}}}})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint("feature level ", kv.FeatureNewest+1)) || !strings.Contains(err.Error(), "install a newer version") {
		t.Fatalf("got %v", err)
	}
	if _, err := g.s.Apply([]Entry{{g.index + 2, kv.Command{Ops: []kv.Op{put("a", "2")}}}}); err == nil {
		t.Error("it went on")
	}
}
