package raftnet

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A letter is a batch in a datagram, without what the connection proves: cluster and sender. It has one of three forms:
//
//	full    lane (1 byte), number in the lane (uvarint), the batch as the library encodes it
//	brief   lane with briefBit, number in the lane, messages in a form of our own
//	notice  kindNotice, the last number in the lane of entries (uvarint), messages in that form
//
// The library encodes each field of a message, most of which are zero, and the snapshot that it does not have: 60 bytes of
// nothing in an answer of 12. Brief letters and notices go only to a peer that has said that it reads them (dialect).
//
// A notice is the news that entries are committed, and has no number: it is sent once, and nothing waits for one that was
// lost, since the next message of the leader says the same. It is handed over if all entries before it were.
const (
	briefBit   = 0x40
	kindNotice = 0x20

	// dialect says what this version reads: with dialectBrief all of the above, with dialectSlices long batches in slices too.
	dialect       = dialectSlices
	dialectBrief  = 1
	dialectSlices = 2
)

// maxLetterHeader is above what is before the messages.
const maxLetterHeader = 1 + binary.MaxVarintLen64

func appendLetter(b []byte, form byte, number uint64) []byte {
	return binary.AppendUvarint(append(b, form), number)
}

// letter is one that was opened.
type letter struct {
	lane   kind
	notice bool
	number uint64 // of the batch in its lane; of a notice that of the batch it follows
	batch  pb.MessageBatch
}

func openLetter(b []byte, cluster uint64, node string) (l letter, err error) {
	form := b[0]
	switch {
	case form == kindNotice:
		l.lane, l.notice = kindLog, true
	case kind(form&^briefBit) >= kindSwift && kind(form&^briefBit) <= lanes:
		l.lane = kind(form &^ briefBit)
	default:
		return l, fmt.Errorf("letter of form %#x: %w", form, errFormat)
	}
	number, n := binary.Uvarint(b[1:])
	if n <= 0 || number == 0 && !l.notice {
		return l, fmt.Errorf("letter without a number: %w", errFormat)
	}
	l.number, b = number, b[1+n:]
	if l.notice || form&briefBit != 0 {
		if l.batch.Requests, err = parseBrief(b); err != nil {
			return l, err
		}
	} else if l.batch, err = parseFull(b); err != nil {
		return l, err
	}
	l.batch.DeploymentId, l.batch.SourceAddress, l.batch.BinVer = cluster, node, raftio.TransportBinVersion
	for _, m := range l.batch.Requests {
		if l.notice && !isNotice(m) {
			return l, fmt.Errorf("%s in a notice: %w", m.Type, errFormat)
		}
	}
	return l, checkMessages(l.batch)
}

func parseFull(b []byte) (batch pb.MessageBatch, err error) {
	if !wellFormed(b, requestsField) {
		return batch, fmt.Errorf("letter: %w", errFormat)
	}
	if err = decode(func() error { return batch.Unmarshal(b) }); err != nil {
		return batch, fmt.Errorf("letter: %w", err)
	}
	if batch.DeploymentId != 0 || batch.SourceAddress != "" || batch.BinVer != 0 {
		return batch, fmt.Errorf("letter that names its sender: %w", errFormat)
	}
	return batch, nil
}

// isNotice reports whether a message says nothing but what is committed.
func isNotice(m pb.Message) bool { return m.Type == pb.Replicate && len(m.Entries) == 0 }

// A brief message is its type (1 byte), which fields follow (1 byte, see below), To, From, ShardID and Term, those fields,
// and if there are entries their number and each of them: which fields follow (1 byte), those fields, and if there is
// a command its length and so many bytes. Numbers are uvarints, but for Key and ClientID, which are drawn at random and have 8 bytes.
const (
	hasLogTerm = 1 << iota // else it is Term
	hasLogIndex
	hasCommit
	hasHint
	hasHintHigh
	isReject
	hasEntries
)

const (
	hasTerm  = 1 << iota // else it is that of the message
	hasIndex             // else it follows the one before, the first LogIndex
	hasType
	hasKey
	hasClient
	hasSeries
	hasResponded
	hasCommand
)

// appendBrief appends messages in that form; ok is false if there is one that does not fit it.
func appendBrief(b []byte, messages []pb.Message) (_ []byte, ok bool) {
	for _, m := range messages {
		if !pb.IsEmptySnapshot(m.Snapshot) || m.Type < 0 || m.Type > 0xff {
			return b, false
		}
		b = append(b, byte(m.Type), 0)
		fields := &fieldBits{at: len(b) - 1}
		for _, v := range []uint64{m.To, m.From, m.ShardID, m.Term} {
			b = binary.AppendUvarint(b, v)
		}
		b = fields.number(b, hasLogTerm, m.LogTerm, m.Term)
		b = fields.number(b, hasLogIndex, m.LogIndex, 0)
		b = fields.number(b, hasCommit, m.Commit, 0)
		b = fields.number(b, hasHint, m.Hint, 0)
		b = fields.number(b, hasHintHigh, m.HintHigh, 0)
		if m.Reject {
			b[fields.at] |= isReject
		}
		b = fields.number(b, hasEntries, uint64(len(m.Entries)), 0)
		for i, e := range m.Entries {
			b = appendBriefEntry(b, e, m.Term, m.LogIndex+uint64(i)+1) //nolint:gosec // positive
		}
	}
	return b, true
}

func appendBriefEntry(b []byte, e pb.Entry, term, index uint64) []byte {
	fields := &fieldBits{at: len(b)}
	b = append(b, 0)
	b = fields.number(b, hasTerm, e.Term, term)
	b = fields.number(b, hasIndex, e.Index, index)
	b = fields.number(b, hasType, uint64(e.Type), 0) //nolint:gosec // as it came
	b = fields.fixed(b, hasKey, e.Key)
	b = fields.fixed(b, hasClient, e.ClientID)
	b = fields.number(b, hasSeries, e.SeriesID, 0)
	b = fields.number(b, hasResponded, e.RespondedTo, 0)
	if e.Cmd != nil {
		b[fields.at] |= hasCommand
		b = append(binary.AppendUvarint(b, uint64(len(e.Cmd))), e.Cmd...)
	}
	return b
}

// fieldBits notes which fields follow in the byte at a place.
type fieldBits struct{ at int }

func (f *fieldBits) number(b []byte, bit byte, v, unless uint64) []byte {
	if v == unless {
		return b
	}
	b[f.at] |= bit
	return binary.AppendUvarint(b, v)
}

func (f *fieldBits) fixed(b []byte, bit byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	b[f.at] |= bit
	return binary.BigEndian.AppendUint64(b, v)
}

// briefReader takes brief messages apart. After its end, or what is no number, all it reads is zero and bad is set.
type briefReader struct {
	b   []byte
	bad bool
}

func (r *briefReader) byte() (v byte) {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v, r.b = r.b[0], r.b[1:]
	return v
}

func (r *briefReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *briefReader) number(fields, bit byte, unless uint64) uint64 {
	if fields&bit == 0 {
		return unless
	}
	return r.uvarint()
}

func (r *briefReader) fixed(fields, bit byte) uint64 {
	if fields&bit == 0 {
		return 0
	}
	if len(r.b) < 8 {
		r.bad, r.b = true, nil
		return 0
	}
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

// parseBrief reads messages. They share no memory with b.
func parseBrief(b []byte) (messages []pb.Message, err error) {
	r := &briefReader{b: b}
	for len(r.b) > 0 && !r.bad {
		m := pb.Message{Type: pb.MessageType(r.byte())}
		fields := r.byte()
		m.To, m.From, m.ShardID, m.Term = r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint()
		m.LogTerm = r.number(fields, hasLogTerm, m.Term)
		m.LogIndex = r.number(fields, hasLogIndex, 0)
		m.Commit = r.number(fields, hasCommit, 0)
		m.Hint = r.number(fields, hasHint, 0)
		m.HintHigh = r.number(fields, hasHintHigh, 0)
		m.Reject = fields&isReject != 0
		count := r.number(fields, hasEntries, 0)
		if fields&^(hasEntries<<1-1) != 0 || count > uint64(len(r.b)) { // each has a byte at least
			r.bad = true
			break
		}
		for i := uint64(0); i < count && !r.bad; i++ {
			m.Entries = append(m.Entries, r.entry(m.Term, m.LogIndex+i+1))
		}
		messages = append(messages, m)
	}
	if r.bad || len(messages) == 0 {
		return nil, fmt.Errorf("messages in a letter: %w", errFormat)
	}
	return messages, nil
}

func (r *briefReader) entry(term, index uint64) (e pb.Entry) {
	fields := r.byte()
	e.Term = r.number(fields, hasTerm, term)
	e.Index = r.number(fields, hasIndex, index)
	e.Type = pb.EntryType(r.number(fields, hasType, 0)) //nolint:gosec // as it was sent
	e.Key, e.ClientID = r.fixed(fields, hasKey), r.fixed(fields, hasClient)
	e.SeriesID = r.number(fields, hasSeries, 0)
	e.RespondedTo = r.number(fields, hasResponded, 0)
	if fields&hasCommand == 0 {
		return e
	}
	size := r.uvarint()
	if size > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return e
	}
	e.Cmd = bytes.Clone(r.b[:size:size])
	if e.Cmd == nil {
		e.Cmd = []byte{}
	}
	r.b = r.b[size:]
	return e
}
