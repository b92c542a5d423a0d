package mvcc

import (
	"encoding/binary"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// A write with a retry key applies once, however often it comes: how it ended is an entry of the side table, and the
// write that comes again is answered by it. The newest RetriesKept are kept. There is no time in this: what is forgotten
// is a function of the log.
const (
	sideRetry     = 'i' // | retry key(16) -> retried
	sideRetrySlot = 's' // | slot(4) -> retry key(16) that has it; taken in turn
	sideRetryNext = 'n' // -> how many there have ever been (uvarint)
)

const (
	// RetriesKept is how many writes with a retry key the cluster remembers. With small answers they take about 2 MB on
	// disk, and at most RetriesKept times retryAnswerMax more.
	RetriesKept = 1 << 14

	// retryAnswerMax is the largest answer that is kept, in bytes as encoded. Of a larger one only the revision is.
	retryAnswerMax = 1 << 10
)

// retried is how a write with a retry key ended.
type retried struct {
	print [16]byte // of its ops
	out   kv.Outcome
	whole bool // the answer is there, and not only its revision
}

// applyKeyed applies a command that has a retry key exactly once, however often it comes.
func (s *Store) applyKeyed(r *reader, c kv.Command) (kv.Outcome, error) {
	if c.ID.Key == [16]byte{} {
		return s.applyOne(r, c)
	}
	past, err := r.retried(c.ID.Key)
	if err != nil {
		return kv.Outcome{}, err
	}
	print := printOf(c)
	if past != nil {
		if refused, err := s.permits(r, &c); err != nil || refused != nil {
			return s.refuse(refused), err // the answer may show what was there
		}
		return past.again(print), nil
	}
	if refused := barred(s.state.Alarms, c); refused != nil {
		return s.refuse(refused), nil // nothing became of it yet: it may come again once the alarm is over
	}
	out, err := s.applyOne(r, c)
	if err != nil {
		return out, err
	}
	return out, s.remember(r, c.ID.Key, retried{print: print, out: out})
}

// retried is how the write with a retry key ended, nil if there was none or it is forgotten.
func (r *reader) retried(retry [16]byte) (*retried, error) {
	if retry == [16]byte{} {
		return nil, nil
	}
	b, err := r.side(retriedKey(retry))
	if err != nil || b == nil {
		return nil, err
	}
	p, err := parseRetried(b)
	return &p, err
}

func retriedKey(retry [16]byte) string { return string(sideRetry) + string(retry[:]) }

// remember keeps an outcome, in the place of the oldest one if all are taken.
func (s *Store) remember(r *reader, retry [16]byte, p retried) error {
	b, err := r.side(string(sideRetryNext))
	if err != nil {
		return err
	}
	var n uint64
	if b != nil {
		var w int
		if n, w = binary.Uvarint(b); w != len(b) {
			return corruptf("the number of retry keys is malformed")
		}
	}
	slot := string(binary.BigEndian.AppendUint32([]byte{sideRetrySlot}, uint32(n%RetriesKept))) //nolint:gosec // RetriesKept at most
	oldest, err := r.side(slot)
	if err != nil {
		return err
	}
	if oldest != nil {
		s.setSide(r, string(sideRetry)+string(oldest), nil)
	}
	s.setSide(r, slot, append([]byte(nil), retry[:]...))
	s.setSide(r, string(sideRetryNext), binary.AppendUvarint(nil, n+1))
	s.setSide(r, retriedKey(retry), p.append(nil))
	return nil
}

// again is the answer to a write that comes again.
func (p *retried) again(print [16]byte) kv.Outcome {
	switch {
	case p.print != print:
		return kv.Outcome{Err: kv.Errorf(kv.Reused, "the retry key was used for another request")}
	case !p.whole:
		e := kv.Errorf(kv.OutcomeUnknown, "it was applied at revision %d when it came first; its answer was larger than %d bytes and is not kept", p.out.Result.Revision, retryAnswerMax)
		e.Revision = p.out.Result.Revision
		return kv.Outcome{Err: e}
	}
	return p.out
}

const retriedWhole byte = 1

// append appends the fingerprint(16), flags(1) and the outcome as internal/wire has it, with no text in it: the text of a
// refusal may differ between versions, and what replicas keep may not.
func (p *retried) append(b []byte) []byte {
	b = append(b, p.print[:]...)
	kept := kv.Outcome{Result: kv.Result{Header: p.out.Result.Header}}
	if p.out.Err != nil {
		kept.Err = &kv.Error{Code: p.out.Err.Code, Revision: p.out.Err.Revision}
	} else {
		kept.Result.Ops = p.out.Result.Ops
		if whole := wire.AppendOutcome(append(b, retriedWhole), kept); len(whole) <= retryAnswerMax {
			return whole
		}
		kept.Result.Ops = nil
		return wire.AppendOutcome(append(b, 0), kept)
	}
	return wire.AppendOutcome(append(b, retriedWhole), kept)
}

func parseRetried(b []byte) (p retried, err error) {
	if len(b) < len(p.print)+1 {
		return p, corruptf("the outcome under a retry key is cut short")
	}
	b = b[copy(p.print[:], b):]
	p.whole = b[0]&retriedWhole != 0
	if p.out, err = wire.DecodeOutcome(b[1:]); err != nil {
		return p, corruptf("the outcome under a retry key is malformed: %v", err)
	}
	if p.out.Err != nil {
		p.out.Err.Detail = "refused when it came first"
	}
	return p, nil
}
