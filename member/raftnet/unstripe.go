package raftnet

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// intake is the snapshot that comes in. There is one at a time: a newer one, of the same member or of another that leads
// now, ends the one before.
type intake struct {
	mu    sync.Mutex
	now   *transfer
	ended []ended // the latest, for a sender that did not hear of the end
}

type ended struct {
	id     transferID
	status byte
}

// remember notes how a transfer has ended. in.mu is held.
func (in *intake) remember(id transferID, status byte) {
	if slices.ContainsFunc(in.ended, func(e ended) bool { return e.id == id }) {
		return
	}
	in.ended = append(in.ended, ended{id, status})
	in.ended = in.ended[max(0, len(in.ended)-maxEnded):]
}

// maxEnded is how many are remembered. One that is forgotten and still sent is refused, since it is not the present one.
const maxEnded = 64

// transfer is a snapshot that comes in over any number of stripes.
type transfer struct {
	id    transferID
	ready chan struct{} // closed once file and what is in it are known

	mu      sync.Mutex
	changed chan struct{} // closed when anything below does, then replaced
	file    *spool
	have    []uint64 // bits by number
	room    uint64   // up to which piece there is room
	passed  uint64   // all pieces up to this one are there
	last    uint64   // number of the last one; 0: not known
	revived bool     // it is from before a restart
	asked   bool     // a sender has come: whoever takes it runs by then
	feeding bool     // it is handed over
	status  byte
	news    time.Time
}

var (
	errForgotten = errors.New("nothing is known of the beginning of this snapshot")
	errStale     = errors.New("another snapshot has begun")
)

// join returns the transfer of an id; one that is fresh begins.
func (n *Net) join(id transferID, fresh bool, node string) (*transfer, error) {
	in := &n.intake
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.now != nil && in.now.id == id {
		in.now.ask()
		return in.now, nil
	}
	for _, e := range in.ended {
		if e.id == id {
			t := newTransfer(id)
			t.status = e.status
			close(t.ready)
			return t, nil
		}
	}
	if !fresh {
		return nil, errForgotten
	}
	t := newTransfer(id)
	t.asked = true
	var err error
	if t.room, err = n.room(0, 1); err != nil {
		return nil, err
	}
	if err := n.beginLocked(t, node, func() error {
		var err error
		t.file, err = createSpool(n.opts.Spool, spoolIn+hex.EncodeToString(id[:]), 0)
		return err
	}); err != nil {
		return nil, err
	}
	return t, nil
}

func newTransfer(id transferID) *transfer {
	return &transfer{id: id, ready: make(chan struct{}), changed: make(chan struct{}), news: time.Now()}
}

// beginLocked makes t the present transfer; its goroutine calls open first.
func (n *Net) beginLocked(t *transfer, node string, open func() error) error {
	if _, err := n.enter(node); err != nil { // Close waits for the goroutine
		return err
	}
	if before := n.intake.now; before != nil {
		if before.supersede() { // at once: a stripe of it that comes before its goroutine has ended must not begin it anew
			n.intake.remember(before.id, statusRefused)
		}
	}
	n.intake.now = t
	go func() {
		defer n.wg.Done()
		err := open()
		close(t.ready)
		if err == nil {
			err = n.consume(t)
		}
		n.finish(t, node, err)
	}()
	return nil
}

// supersede ends a transfer, unless it is being handed over or has ended, and reports whether it has.
func (t *transfer) supersede() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.status != statusGoing || t.feeding {
		return false
	}
	t.status = statusRefused
	t.tell()
	return true
}

// revive takes up the snapshot that came in when the node stopped, and clears away what is left of others.
func (n *Net) revive() error {
	entries, err := os.ReadDir(n.opts.Spool)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	var newest *transfer
	var name string
	var at time.Time
	for _, e := range entries {
		path := filepath.Join(n.opts.Spool, e.Name())
		info, err := e.Info()
		if err != nil {
			return err
		}
		number, found := strings.CutPrefix(e.Name(), spoolIn)
		id, err := hex.DecodeString(number)
		if found && err == nil && len(id) == len(transferID{}) && (newest == nil || info.ModTime().After(at)) {
			if newest != nil {
				err = os.Remove(name)
			}
			newest, name, at = newTransfer(transferID(id)), path, info.ModTime()
		} else {
			err = os.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	if newest == nil {
		return nil
	}
	n.intake.mu.Lock()
	defer n.intake.mu.Unlock()
	return n.beginLocked(newest, "", func() error { return newest.load(name) })
}

// load finds what a file has.
func (t *transfer) load(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // below the data dir
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.file, t.revived = &spool{file: f}, true
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for number := uint64(1); t.file.place(number) < info.Size(); number++ {
		p, err := t.file.get(number)
		if errors.Is(err, errPiece) {
			continue
		}
		if err != nil {
			return err
		}
		t.mark(p)
	}
	return nil
}

// mark notes that the file has a piece.
func (t *transfer) mark(p piece) {
	for uint64(len(t.have)) <= p.number/64 {
		t.have = append(t.have, 0)
	}
	t.have[p.number/64] |= 1 << (p.number % 64)
	for t.has(t.passed + 1) {
		t.passed++
	}
	if p.last {
		t.last = p.number
	}
	t.room = max(t.room, p.number)
}

func (t *transfer) has(number uint64) bool {
	return number/64 < uint64(len(t.have)) && t.have[number/64]&(1<<(number%64)) != 0
}

func (t *transfer) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *transfer) ask() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = true
	t.tell()
}

// put keeps a piece.
func (t *transfer) put(p piece, room func(has, number uint64) (uint64, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.number > t.passed+2*spoolPieces || t.last > 0 && p.number > t.last {
		return fmt.Errorf("piece %d after %d: %w", p.number, t.passed, errFormat)
	}
	t.news = time.Now()
	if t.status == statusGoing && !t.feeding && !t.has(p.number) {
		if p.number > t.room {
			var err error
			if t.room, err = room(t.room, p.number); err != nil {
				return err
			}
		}
		if err := t.file.put(p); err != nil { // under mu: the file is closed by whoever ends the transfer
			return err
		}
		t.mark(p)
	}
	t.tell()
	return nil
}

// lacks are the pieces below a number that are not there.
func (t *transfer) lacks(below uint64) (numbers []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := t.passed + 1; t.revived && n < min(below, t.passed+2*spoolPieces); n++ {
		if !t.has(n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// consume waits until the snapshot is there and hands it over.
func (n *Net) consume(t *transfer) error {
	timer := time.NewTimer(transferStall)
	defer timer.Stop()
	for {
		t.mu.Lock()
		whole, stale, changed := t.asked && t.last > 0 && t.passed == t.last, t.status == statusRefused, t.changed
		left := transferStall - time.Since(t.news)
		t.feeding = whole && !stale
		t.mu.Unlock()
		switch {
		case stale:
			return errStale
		case whole:
			return n.takeChunks(&spoolReader{file: t.file})
		case left <= 0:
			return fmt.Errorf("nothing came for %s", transferStall)
		}
		timer.Reset(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-n.closing:
			return errClosed
		}
	}
}

// finish ends a transfer with what has become of it. When the node stops its file stays, and it goes on afterwards.
func (n *Net) finish(t *transfer, node string, err error) {
	status := byte(statusWhole)
	if err != nil {
		status = statusRefused
	}
	n.intake.mu.Lock()
	if n.intake.now == t {
		n.intake.now = nil
	}
	n.intake.remember(t.id, status)
	n.intake.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.status == statusGoing && !errors.Is(err, errClosed) {
		t.status = status
	}
	t.tell()
	var ferr error
	switch {
	case t.file == nil:
	case errors.Is(err, errClosed):
		ferr = t.file.file.Close()
	default:
		ferr = t.file.remove()
	}
	if ferr != nil {
		n.opts.Log.Warn("the file of a snapshot that came in", "err", ferr)
	}
	if err != nil && !errors.Is(err, errClosed) && !errors.Is(err, errStale) {
		n.metrics.dropped("snapshot", 1)
		n.opts.Log.Warn("a snapshot from another member did not arrive; the leader sends another one", "peer", node, "err", err)
	}
}

// spoolReader reads the pieces one after the other.
type spoolReader struct {
	file *spool
	now  piece
}

func (r *spoolReader) Read(b []byte) (int, error) {
	if len(r.now.data) == 0 {
		if r.now.last {
			return 0, io.EOF
		}
		next, err := r.file.get(r.now.number + 1)
		if err != nil {
			return 0, err
		}
		r.now = next
	}
	n := copy(b, r.now.data)
	r.now.data = r.now.data[n:]
	return n, nil
}

var errChunk = errors.New("the chunk does not continue the snapshot")

// takeChunks hands over the chunks of one snapshot, up to the last.
func (n *Net) takeChunks(in io.Reader) error {
	var buf []byte
	for {
		var err error
		if buf, err = readFrame(in, buf, maxChunkFrame); err != nil {
			return err
		}
		c, err := decodeChunk(buf, n.opts.Cluster)
		if err != nil {
			return err
		}
		if !n.chunk(c) {
			return fmt.Errorf("chunk %d: %w", c.ChunkId, errChunk)
		}
		if c.IsLastChunk() {
			return nil
		}
	}
}

// serveStripe takes the pieces that come on a stripe.
func (l *link) serveStripe(s Stream) {
	defer giveUp(s, codeDone)
	var head [len(transferID{}) + 1 + 8]byte
	if _, err := io.ReadFull(s, head[:]); err != nil { // within helloWait
		return
	}
	id, heard, next := transferID(head[:]), head[len(transferID{})] == 1, binary.BigEndian.Uint64(head[len(transferID{})+1:])
	t, err := l.net.join(id, !heard, l.peer.node)
	if err != nil && !errors.Is(err, errNoRoom) {
		l.net.opts.Log.Warn("a snapshot of another member was refused", "peer", l.peer.node, "err", err)
	}
	if err != nil {
		_, _ = s.Write(appendAck(nil, statusRefused, 0, nil)) // one that does not arrive is said again on the next stripe
		return
	}
	select {
	case <-t.ready:
	case <-l.net.closing:
		return
	}
	if s.SetReadDeadline(time.Time{}) != nil {
		return
	}
	came := make(chan uint64, ackNumbers)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer giveUp(s, codeDone) // ends what is read below
		t.acknowledge(s, came, stop, t.lacks(next))
	})
	defer wg.Wait()
	defer close(stop)
	for {
		frame, err := readFrame(s, nil, pieceFrame)
		if err != nil {
			return
		}
		p, err := splitPiece(frame)
		if err == nil {
			err = t.put(p, l.net.room)
		}
		if errors.Is(err, errNoRoom) { // it has been said
			t.supersede()
			return
		}
		if err != nil {
			l.net.metrics.dropped("refused", 1)
			l.net.opts.Log.Warn("a piece of a snapshot was not kept, the leader sends all of it again", "peer", l.peer.node, "err", err)
			t.supersede()
			return
		}
		select {
		case came <- p.number:
		case <-l.net.closing:
			return
		}
	}
}

// acknowledge tells the sender of what comes on a stripe until stop is closed.
func (t *transfer) acknowledge(s Stream, came <-chan uint64, stop <-chan struct{}, lacks []uint64) {
	for len(lacks) > 0 {
		count := min(len(lacks), ackNumbers)
		if _, err := s.Write(appendAck(nil, statusLacks, 0, lacks[:count])); err != nil {
			return
		}
		lacks = lacks[count:]
	}
	told := uint64(0)
	var numbers []uint64
	for {
		t.mu.Lock()
		status, passed, changed := t.status, t.passed, t.changed
		t.mu.Unlock()
		for len(numbers) < ackNumbers && len(came) > 0 {
			numbers = append(numbers, <-came)
		}
		if len(numbers) > 0 || passed >= told+spoolPieces/8 || status != statusGoing {
			if _, err := s.Write(appendAck(nil, status, passed, numbers)); err != nil {
				return
			}
			told = passed
		}
		if status != statusGoing {
			<-stop // the sender closes once it knows
			return
		}
		numbers = numbers[:0]
		select {
		case n := <-came:
			numbers = append(numbers, n)
		case <-changed:
		case <-stop:
			return
		}
	}
}
