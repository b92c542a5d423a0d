package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"time"
)

// transfer is a snapshot that comes in over several stripes.
type transfer struct {
	out *io.PipeWriter

	mu      sync.Mutex
	changed chan struct{} // closed when anything below does, then replaced
	passed  uint64        // pieces handed over
	held    map[uint64][]byte
	status  byte
	stripes int
	alone   time.Time // since when there is no stripe
}

// transfers are those of a peer. One that has ended is kept for a while, so that a sender that did not hear of the end
// is told again.
type transfers struct {
	mu sync.Mutex
	by map[transferID]*transfer
}

// join returns the transfer of an id, to which it adds a stripe. With too many there is none.
func (l *link) join(id transferID) (*transfer, error) {
	ts := &l.peer.transfers
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := time.Now()
	going := 0
	for other, t := range ts.by {
		t.mu.Lock()
		over := t.stripes == 0 && now.Sub(t.alone) > transferStall
		if t.status == statusGoing {
			going++
		}
		t.mu.Unlock()
		if over {
			delete(ts.by, other)
		}
	}
	t := ts.by[id]
	if t == nil {
		if going >= maxBulk || len(ts.by) >= 4*maxBulk {
			return nil, errors.New("too many snapshots at once")
		}
		if _, err := l.net.enter(l.peer.node); err != nil { // Close waits for the goroutine
			return nil, err
		}
		t = &transfer{changed: make(chan struct{}), held: make(map[uint64][]byte)}
		in, out := io.Pipe()
		t.out = out
		if ts.by == nil {
			ts.by = make(map[transferID]*transfer)
		}
		ts.by[id] = t
		go func() {
			defer l.net.wg.Done()
			l.net.consume(t, in, l.peer.node)
		}()
	}
	t.mu.Lock()
	t.stripes++
	t.mu.Unlock()
	return t, nil
}

func (t *transfer) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stripes--
	t.alone = time.Now()
	t.tell()
}

func (t *transfer) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// put takes a piece.
func (t *transfer) put(number uint64, data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if number > t.passed+2*pieceWindow {
		return fmt.Errorf("piece %d after %d: %w", number, t.passed, errFormat)
	}
	if number > t.passed && t.status == statusGoing {
		t.held[number] = data
	}
	t.tell()
	return nil
}

// consume hands over what comes, in order, until the snapshot is whole, refused, or has no stripe for too long.
func (n *Net) consume(t *transfer, in *io.PipeReader, node string) {
	var wg sync.WaitGroup
	wg.Go(func() { t.feed(n.closing) })
	err := n.takeChunks(in)
	_ = in.CloseWithError(io.ErrClosedPipe) // ends feed
	t.mu.Lock()
	t.status = statusWhole
	if err != nil {
		t.status = statusRefused
	}
	clear(t.held)
	t.tell()
	t.mu.Unlock()
	wg.Wait()
	if err != nil && !errors.Is(err, errClosed) {
		n.metrics.dropped("snapshot", 1)
		n.opts.Log.Warn("a snapshot from another member did not arrive; the leader sends another one", "peer", node, "err", err)
	}
}

// feed writes the pieces, in order, to whoever puts the chunks together.
func (t *transfer) feed(closing <-chan struct{}) {
	timer := time.NewTimer(transferStall)
	defer timer.Stop()
	for {
		t.mu.Lock()
		data, ok := t.held[t.passed+1]
		changed := t.changed
		t.mu.Unlock()
		if ok {
			if _, err := t.out.Write(data); err != nil {
				return
			}
			t.mu.Lock()
			delete(t.held, t.passed+1)
			t.passed++
			t.tell()
			t.mu.Unlock()
			timer.Reset(transferStall)
			continue
		}
		select {
		case <-changed:
			t.mu.Lock()
			over := t.status != statusGoing
			t.mu.Unlock()
			if over {
				return
			}
		case <-timer.C:
			_ = t.out.CloseWithError(fmt.Errorf("nothing came for %s", transferStall))
			return
		case <-closing:
			_ = t.out.CloseWithError(errClosed)
			return
		}
	}
}

// serveStripe takes the pieces that come on a stripe.
func (l *link) serveStripe(s Stream) {
	defer giveUp(s, codeDone)
	var id transferID
	if _, err := io.ReadFull(s, id[:]); err != nil {
		return
	}
	t, err := l.join(id)
	if err != nil {
		l.net.metrics.dropped("snapshots_full", 1)
		giveUp(s, codeRefused)
		return
	}
	defer t.leave()
	var mu sync.Mutex
	var came []uint64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // acknowledges
		told := uint64(0)
		for {
			t.mu.Lock()
			status, passed, changed := t.status, t.passed, t.changed
			t.mu.Unlock()
			mu.Lock()
			numbers := came
			came = nil
			mu.Unlock()
			if len(numbers) > 0 || passed >= told+pieceWindow/8 || status != statusGoing {
				body := binary.AppendUvarint([]byte{status}, passed)
				for _, n := range numbers {
					body = binary.AppendUvarint(body, n)
				}
				if _, err := s.Write(append(appendFrameHeader(nil, len(body)), body...)); err != nil {
					return
				}
				told = passed
			}
			if status != statusGoing {
				<-stop // the sender closes once it knows
				return
			}
			select {
			case <-changed:
			case <-stop:
				return
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	if s.SetReadDeadline(time.Time{}) != nil {
		return
	}
	for {
		frame, err := readFrame(s, nil, pieceFrame)
		if err != nil {
			return
		}
		number, data, err := splitPiece(frame)
		if err != nil {
			l.net.metrics.dropped("refused", 1)
			return
		}
		mu.Lock()
		came = append(came, number)
		mu.Unlock()
		if t.put(number, data) != nil {
			l.net.metrics.dropped("refused", 1)
			return
		}
	}
}

// splitPiece takes a frame of a stripe apart.
func splitPiece(frame []byte) (number uint64, data []byte, err error) {
	number, size := binary.Uvarint(frame)
	if size <= 0 || number == 0 || len(frame) < size+4 {
		return 0, nil, fmt.Errorf("piece of %d bytes: %w", len(frame), errFormat)
	}
	sum, data := binary.BigEndian.Uint32(frame[size:]), frame[size+4:]
	if crc32.Checksum(data, castagnoli) != sum {
		return 0, nil, fmt.Errorf("piece %d: %w", number, errPiece)
	}
	return number, data, nil
}
