package mvcc

import (
	"cmp"
	"encoding/binary"
	"slices"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// Alarms and the feature level are in the side table, and in memory as a part of the state, because each command is
// judged by them:
//
//	'a' | member(8), kind(1) -> nothing
//	'f' -> feature level (uvarint)
const (
	sideAlarm   = 'a'
	sideFeature = 'f'
)

// MaxAlarms is how many alarms may stand: a few for each member there will ever be.
const MaxAlarms = 64

// Barred reports why alarms refuse a command, nil if none does. It is a function of the log: Apply refuses by it on every
// replica alike, and a door may before the command enters the log. The rule is etcd's.
//
//	no-space  what would make the state grow is refused: Put, also inside a Txn, and LeaseGrant
//	corrupt   what touches keys or leases is refused, reading in a command included
//
// What the cluster keeps for itself (terms, epochs, records, skips, alarms) is never refused. Of a batch each command is
// judged when it is its turn; a batch is refused as a whole if nothing of it would pass.
func (s *Store) Barred(c kv.Command) *kv.Error { return barred(*s.alarms.Load(), c) }

func barred(alarms []kv.Alarm, c kv.Command) *kv.Error {
	if len(alarms) == 0 {
		return nil
	}
	if each, ok := batch(c); ok {
		var first *kv.Error
		for _, one := range each.Commands {
			err := barred(alarms, one)
			if err == nil {
				return nil
			}
			first = cmp.Or(first, err)
		}
		return first
	}
	var full, corrupt *kv.Alarm
	for i, a := range alarms {
		switch a.Kind {
		case kv.AlarmNoSpace:
			full = &alarms[i]
		case kv.AlarmCorrupt:
			corrupt = &alarms[i]
		}
	}
	switch {
	case corrupt != nil && slices.ContainsFunc(c.Ops, touchesKeys):
		return kv.Errorf(kv.Corrupt, "replica %016x raised the alarm corrupt: the members do not hold the same, so only "+
			"reads are served; find the wrong one (compare hashes), replace it, then disarm the alarm", corrupt.Member)
	case full != nil && slices.ContainsFunc(c.Ops, grows):
		return kv.Errorf(kv.NoSpace, "nothing was stored: the state of replica %016x has reached its quota (store.quota); "+
			"delete keys and compact, or raise the quota there: writes go on when there is room", full.Member)
	}
	return nil
}

// grows reports whether an op may make the state grow.
func grows(op kv.Op) bool {
	switch op := op.(type) {
	case kv.Put, kv.LeaseGrant:
		return true
	case kv.Txn:
		return slices.ContainsFunc(op.Then, grows) || slices.ContainsFunc(op.Else, grows)
	}
	return false
}

// touchesKeys reports whether an op is about what clients store.
func touchesKeys(op kv.Op) bool {
	switch op.(type) {
	case kv.Put, kv.Delete, kv.Range, kv.Txn, kv.Compact, kv.LeaseGrant, kv.LeaseRevoke:
		return true
	}
	return false
}

// Alarms returns the alarms that stand, in order of member and kind. They must not be changed.
func (s *Store) Alarms() []kv.Alarm { return *s.alarms.Load() }

// Feature is the feature level of the cluster, as far as it is applied here.
func (s *Store) Feature() uint64 { return s.feature.Load() }

func compareAlarms(a, b kv.Alarm) int {
	return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Kind, b.Kind))
}

// setAlarm stages an alarm. Lists of alarms are never changed: others have them.
func (x *exec) setAlarm(op kv.SetAlarm) (res kv.OpResult, err error) {
	i, stands := slices.BinarySearchFunc(x.alarms, op.Alarm, compareAlarms)
	if op.Raise || stands {
		res.Alarms = []kv.Alarm{op.Alarm}
	}
	if op.Raise == stands {
		return res, nil
	}
	alarms := slices.Clone(x.alarms)
	if op.Raise {
		if len(alarms) >= MaxAlarms {
			return kv.OpResult{}, kv.Errorf(kv.TooManyOps, "%d alarms stand already, the limit: disarm those of members that are gone", MaxAlarms)
		}
		x.alarms = slices.Insert(alarms, i, op.Alarm)
		x.stageSide(alarmKey(op.Alarm), []byte{})
		return res, nil
	}
	x.alarms = slices.Delete(alarms, i, i+1)
	x.stageSide(alarmKey(op.Alarm), nil)
	return res, nil
}

// listAlarms answers kv.Alarms.
func (x *exec) listAlarms() (res kv.OpResult, err error) {
	if x.write {
		res.Alarms = x.alarms
		return res, nil
	}
	keys, _, err := x.r.sidesUnder(string(sideAlarm))
	if err != nil {
		return res, err
	}
	for _, k := range keys {
		a, err := parseAlarmKey([]byte(k))
		if err != nil {
			return res, err
		}
		res.Alarms = append(res.Alarms, a)
	}
	return res, nil
}

// setFeature stages a feature level. One that this version does not know ends this replica: what follows may have a
// meaning that it would get wrong.
func (x *exec) setFeature(op kv.SetFeature) error {
	if op.Level > kv.FeatureNewest {
		return &faultError{newerFeature(op.Level)}
	}
	if op.Level > x.control.feature {
		x.control.feature = op.Level
		x.stageSide(string(sideFeature), binary.AppendUvarint(nil, op.Level))
	}
	return nil
}

func newerFeature(level uint64) *kv.Error {
	return kv.Errorf(kv.Unsupported, "the cluster has feature level %d and this version knows up to %d: "+
		"install a newer version and start again, the data is intact", level, kv.FeatureNewest)
}

// faultError keeps a kv.Error from being taken for a refusal: it is this replica's, and the others go on.
type faultError struct{ why *kv.Error }

func (e *faultError) Error() string { return e.why.Error() }

func alarmKey(a kv.Alarm) string {
	b := binary.BigEndian.AppendUint64([]byte{sideAlarm}, a.Member)
	return string(append(b, byte(a.Kind)))
}

func parseAlarmKey(k []byte) (kv.Alarm, error) {
	if len(k) != 1+8+1 {
		return kv.Alarm{}, corruptf("an alarm is malformed")
	}
	return kv.Alarm{Member: binary.BigEndian.Uint64(k[1:]), Kind: kv.AlarmKind(k[9])}, nil
}

// loadSides reads the alarms and the feature level of a file.
func (s *state) loadSides(b *bbolt.Bucket) error {
	if b == nil {
		return nil
	}
	if v := b.Get([]byte{sideFeature}); v != nil {
		v, err := openSide([]byte{sideFeature}, v)
		if err != nil {
			return err
		}
		level, w := binary.Uvarint(v)
		if w != len(v) || w <= 0 {
			return corruptf("the feature level is malformed")
		}
		if level > kv.FeatureNewest {
			return newerFeature(level)
		}
		s.Feature = level
	}
	if err := s.loadPolicy(b); err != nil {
		return err
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte{sideAlarm}); len(k) > 0 && k[0] == sideAlarm; k, v = c.Next() {
		if _, err := openSide(k, v); err != nil {
			return err
		}
		a, err := parseAlarmKey(k)
		if err != nil {
			return err
		}
		s.Alarms = append(s.Alarms, a)
	}
	return nil
}
