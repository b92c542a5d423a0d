package mvcc

import (
	"encoding/binary"

	"holdfast/auth"
	"holdfast/kv"
)

// state is what a flush commits beside the records: where the log stands, and what the log says about the store.
type state struct {
	Applied  uint64 // index of the newest entry in the file
	Revision int64
	Compact  int64 // 0 if there was no compaction
	Epoch    kv.Epoch
	Term     uint64 // nonce of the newest LeaderTerm

	// These are kept in the side table.
	Alarms  []kv.Alarm // that stand, in order; never changed in place
	Feature uint64     // level of the cluster

	Policy *auth.Policy // who may do what; nil is that of a new cluster
}

func (s *state) control() control { return control{s.Compact, s.Epoch, s.Term, s.Feature} }

const stateLen = crcLen + 8 + 8 + 8 + 8 + 16 + 8

func (s *state) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, s.Applied)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Revision))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Compact))
	b = binary.BigEndian.AppendUint64(b, s.Epoch.Cluster)
	b = append(b, s.Epoch.Nonce[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Term)
	binary.BigEndian.PutUint32(b[start:], checksum(metaState, b[start+crcLen:]))
	return b
}

func (s *state) parse(b []byte) error {
	if len(b) != stateLen || binary.BigEndian.Uint32(b) != checksum(metaState, b[crcLen:]) {
		return corruptf("the state record fails its checksum")
	}
	b = b[crcLen:]
	*s = state{
		Applied:  binary.BigEndian.Uint64(b),
		Revision: int64(binary.BigEndian.Uint64(b[8:])),
		Compact:  int64(binary.BigEndian.Uint64(b[16:])),
		Term:     binary.BigEndian.Uint64(b[48:]),
	}
	s.Epoch.Cluster = binary.BigEndian.Uint64(b[24:])
	copy(s.Epoch.Nonce[:], b[32:])
	if s.Revision < 1 || s.Compact < 0 || s.Compact > s.Revision {
		return corruptf("the state record has revision %d and compact revision %d", s.Revision, s.Compact)
	}
	return nil
}

// sweep is how far the space of compacted revisions has been freed.
type sweep struct {
	Done   int64    // everything that a compaction at Done gives up is gone
	Target int64    // the compaction under way, Done if none is
	Next   revision // where it goes on
}

const sweepLen = crcLen + 8 + 8 + revKeyLen

func (s *sweep) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Done))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Target))
	b = appendRevKey(b, s.Next)
	binary.BigEndian.PutUint32(b[start:], checksum(metaSweep, b[start+crcLen:]))
	return b
}

func (s *sweep) parse(b []byte) error {
	if len(b) != sweepLen || binary.BigEndian.Uint32(b) != checksum(metaSweep, b[crcLen:]) {
		return corruptf("the sweep record fails its checksum")
	}
	b = b[crcLen:]
	next, err := parseRevKey(b[16:])
	if err != nil {
		return err
	}
	*s = sweep{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:])), next}
	return nil
}
