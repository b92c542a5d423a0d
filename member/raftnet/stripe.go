package raftnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A snapshot goes over several connections of its own where one loses packets, because such a one has a window of a few:
// on 50 ms with 5 % lost it carries 1.7 Mbit/s whatever the link could. The chunks, framed, are one sequence of bytes, cut
// into numbered pieces; each connection takes the next piece when it can, at the pace of them all. The receiver says which
// pieces it has, so those that were under way on a connection that ended go over another one, and what it has kept need
// not be sent again after it has restarted.
//
// A stripe is a stream: a hello, the id of the transfer (8 bytes), a byte that is 1 once a piece of it has been
// acknowledged, the number of the first piece that was never sent (8 bytes), and frames, each with the number of a piece
// (uvarint), a byte that is 1 for the last one, its CRC-32C (4 bytes) and its bytes. Frames the other way are a status
// (1 byte), how many pieces from the first on are there (uvarint), and numbers (uvarints): of pieces that have come on this
// stripe since the last frame, or with statusLacks of those sent before that are not there.
const (
	// pieceFrame is above a piece with what goes before it, ackFrame above a frame the other way, which has ackNumbers at
	// most.
	pieceFrame = pieceSize + 64
	ackFrame   = 16 << 10
	ackNumbers = 1000
	// stripeWait is how long a transfer waits for a connection of its own before it makes do with that of all the rest.
	stripeWait = 10 * time.Second
	// transferStall is how long a transfer may make no progress: a link may be cut for so long without all beginning anew.
	transferStall = 10 * time.Minute

	// The number of connections is what it takes to fill a link of stripeRate at the measured loss: a connection of
	// quic-go carries 1.68 packets a round trip and square root of the loss. A transfer begins with one: see pace.worth.
	stripeRate  = 100e6
	stripeMin   = 2
	stripeMax   = 16
	stripeShare = 1.68 * 1452 * 8

	// stripeRetry is the pause before another stripe on a connection on which one has ended.
	stripeRetry = time.Second
)

type transferID [8]byte

// Status of a transfer, as its receiver says.
const (
	statusGoing = iota
	statusWhole
	statusRefused
	statusLacks
)

// stripes is how many connections a snapshot to the peer is worth.
func (p *peer) stripes() int {
	rtt, loss, _ := p.post.Link()
	return min(max(int(math.Ceil(stripeRate*rtt.Seconds()*math.Sqrt(loss)/stripeShare)), stripeMin), stripeMax)
}

// striped sends the chunks of one snapshot over all connections for bulk that there are.
type striped struct {
	net  *Net
	peer *peer
	id   transferID
	file *spool
	ctx  context.Context // of the transfer
	stop context.CancelFunc
	wg   sync.WaitGroup
	once sync.Once // for Close: a second end of the turn would be that of another snapshot

	tail []byte // of what was given, less than a piece; the last chunk files it

	mu       sync.Mutex
	changed  chan struct{} // closed when anything below does, then replaced
	filed    uint64        // number of the last piece in the file
	room     uint64        // up to which piece there is room
	next     uint64        // the first piece that was never sent
	again    []uint64      // those to be sent again
	out      map[uint64]bool
	heard    bool   // a piece has been acknowledged
	passed   uint64 // how many pieces the receiver has, from the first on
	progress time.Time
	status   byte
	broken   error // the file could not be read
	shared   Conn  // that of all the rest, if there is none for bulk
}

// openStriped begins a transfer.
func (n *Net) openStriped(ctx context.Context, p *peer) (*striped, error) {
	room, err := n.room(0, 1)
	if err != nil {
		return nil, fmt.Errorf("keep a snapshot for node %s: %w", p.node, err)
	}
	s := &striped{net: n, peer: p, changed: make(chan struct{}), next: 1, room: room, out: make(map[uint64]bool), progress: time.Now()}
	copy(s.id[:], newNonce())
	file, err := createSpool(n.opts.Spool, fmt.Sprintf("%s%x", spoolOut, s.id), spoolPieces)
	if err != nil {
		return nil, fmt.Errorf("keep a snapshot for node %s: %w", p.node, err)
	}
	s.file = file
	rtt, _, _ := p.post.Link()
	p.pace.begin(time.Now(), rtt, paceFirstTrip, paceCalm)
	s.ctx, s.stop = context.WithCancel(ctx)
	s.want(1)
	s.wg.Go(s.run)
	s.wg.Go(s.measure)
	return s, nil
}

func (s *striped) want(conns int) {
	if s.peer.bulk.want(s, conns) {
		s.peer.tellBulk()
	}
}

// run keeps a stripe on each connection until the transfer ends.
func (s *striped) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := make(map[Conn]bool)
	alone := time.NewTimer(stripeWait)
	defer alone.Stop()
	for {
		conns, changed := s.conns()
		for _, c := range conns {
			if !running[c] {
				running[c] = true
				wg.Go(func() { s.keepStripe(c) })
			}
		}
		select {
		case <-changed:
		case <-alone.C:
			if s.peer.bulk.short() { // what it was told may not have arrived
				s.peer.tellBulk()
			}
			if len(conns) == 0 {
				s.makeDo()
			}
			alone.Reset(stripeWait)
		case <-s.ctx.Done():
			return
		}
	}
}

// makeDo uses the connection of all the rest.
func (s *striped) makeDo() {
	l, err := s.peer.usable()
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shared = l.conn
}

// conns are the connections to use, and a channel that is closed when those for bulk change.
func (s *striped) conns() ([]Conn, <-chan struct{}) {
	conns, changed := s.peer.bulk.all()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shared == nil {
		return conns, changed
	}
	select {
	case <-s.shared.Done():
		s.shared = nil
	default:
		conns = append(conns, s.shared)
	}
	return conns, changed
}

// keepStripe keeps a stripe on a connection until it ends or the transfer does.
func (s *striped) keepStripe(c Conn) {
	for {
		s.stripe(c)
		timer := time.NewTimer(stripeRetry)
		select {
		case <-timer.C:
			continue
		case <-c.Done():
		case <-s.ctx.Done():
		}
		timer.Stop()
		return
	}
}

// measure tells the pace how long round trips are, and asks for more connections when it is time.
func (s *striped) measure() {
	packets := make(map[Conn]uint64)
	timer := time.NewTimer(0)
	defer timer.Stop()
	conns, since := 1, time.Now()
	for {
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
		open, _ := s.conns()
		s.peer.samplePace(open, packets)
		most := s.peer.stripes()
		if limit := s.net.limit.bound(); limit > 0 && limit < paceWide {
			most = 1
		}
		if n := s.peer.pace.worth(conns, most, time.Since(since)); n > conns {
			conns, since = n, time.Now()
			s.want(conns)
		}
		timer.Reset(measureEvery)
	}
}

// measureEvery is how often round trips are looked at.
const measureEvery = 10 * time.Millisecond

// stripe sends pieces on a connection until it ends or the transfer does. What the receiver may not have got goes back.
func (s *striped) stripe(c Conn) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	st, err := c.Open(ctx)
	if err != nil {
		return
	}
	st.SetUrgency(bulkUrgency)
	defer context.AfterFunc(ctx, func() { giveUp(st, codeDone) })()
	taken := make(map[uint64]bool) // under way here; s.mu guards it
	var acks sync.WaitGroup
	acks.Go(func() {
		defer cancel()
		s.listen(st, taken)
	})
	s.mu.Lock()
	b := append(hello{kindStripe, s.net.opts.Cluster, s.net.boot}.append(nil), s.id[:]...)
	b = append(b, flag(s.heard))
	b = binary.BigEndian.AppendUint64(b, s.next)
	s.mu.Unlock()
	for { // the head goes at once, pieces or not: the receiver may have more to say than that it has them
		if s.write(ctx, st, b) != nil {
			break
		}
		number, ok := s.take(ctx, taken)
		if !ok {
			break
		}
		p, err := s.file.get(number)
		if err != nil {
			s.fail(err)
			break
		}
		b = appendPiece(b[:0], p)
	}
	cancel()
	acks.Wait()
	s.giveBack(taken)
}

// write sends b at the pace of the transfer, and as its limit wants.
func (s *striped) write(ctx context.Context, st Stream, b []byte) error {
	for len(b) > 0 {
		step, err := s.net.limit.take(ctx, min(len(b), s.peer.pace.slice()))
		if err != nil {
			return err
		}
		if err := s.peer.pace.take(ctx, step); err != nil {
			return err
		}
		if _, err := st.Write(b[:step]); err != nil {
			return err
		}
		s.peer.bulkSent.Add(uint64(step))
		b = b[step:]
	}
	return nil
}

// listen takes what the receiver says on a stripe until that ends.
func (s *striped) listen(st Stream, taken map[uint64]bool) {
	var buf []byte
	for {
		var err error
		if buf, err = readFrame(st, buf, ackFrame); err != nil {
			return
		}
		status, passed, numbers, err := parseAck(buf)
		if err != nil {
			return
		}
		s.note(status, passed, numbers, taken)
	}
}

// take chooses a piece to send, and waits for one.
func (s *striped) take(ctx context.Context, taken map[uint64]bool) (number uint64, ok bool) {
	for {
		s.mu.Lock()
		switch {
		case len(s.again) > 0:
			number, s.again = s.again[0], s.again[1:]
		case s.next <= s.filed:
			number = s.next
			s.next++
		}
		if number > 0 {
			taken[number], s.out[number] = true, true
			s.mu.Unlock()
			return number, true
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, false
		}
	}
}

func (s *striped) giveBack(taken map[uint64]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range taken {
		delete(s.out, n)
		s.requeue(n)
	}
	s.tell()
}

// requeue has a piece sent again, unless it is about to be.
func (s *striped) requeue(number uint64) {
	if at, there := slices.BinarySearch(s.again, number); !there && !s.out[number] && number < s.next {
		s.again = slices.Insert(s.again, at, number)
	}
}

// note takes what the receiver says.
func (s *striped) note(status byte, passed uint64, numbers []uint64, taken map[uint64]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if passed > s.passed && passed <= s.filed {
		s.passed, s.progress, s.heard = passed, time.Now(), true
	}
	switch {
	case status == statusLacks:
		for _, n := range numbers {
			s.requeue(n)
		}
	default:
		for _, n := range numbers {
			if taken[n] {
				delete(taken, n)
				delete(s.out, n)
				s.progress, s.heard = time.Now(), true
			}
		}
	}
	if status == statusWhole || status == statusRefused {
		s.status = status
	}
	s.tell()
}

func (s *striped) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
	s.tell()
}

func (s *striped) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until ok, which is called with mu held, says so.
func (s *striped) await(ok func() bool) error {
	timer := time.NewTimer(transferStall)
	defer timer.Stop()
	for {
		s.mu.Lock()
		done, status, broken, changed := ok(), s.status, s.broken, s.changed
		left := transferStall - time.Since(s.progress)
		s.mu.Unlock()
		switch {
		case broken != nil:
			return fmt.Errorf("snapshot to node %s: %w", s.peer.node, broken)
		case status == statusRefused:
			return fmt.Errorf("node %s did not take a snapshot", s.peer.node)
		case done:
			return nil
		case left <= 0:
			return fmt.Errorf("a snapshot to node %s made no progress for %s: %w", s.peer.node, transferStall, os.ErrDeadlineExceeded)
		}
		timer.Reset(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-s.net.closing:
			return errClosed
		}
	}
}

// SendChunk keeps a chunk, and blocks while spoolPieces wait to arrive; the last one returns when the receiver has the whole
// snapshot and has found it good. After an error the snapshot has failed.
func (s *striped) SendChunk(c pb.Chunk) error {
	size := c.Size()
	if size > maxChunkFrame {
		return fmt.Errorf("chunk of %d bytes: %w", size, errFrame)
	}
	data, err := c.Marshal()
	if err != nil {
		return fmt.Errorf("encode a chunk: %w", err)
	}
	s.tail = append(appendFrameHeader(s.tail, len(data)), data...)
	for len(s.tail) > pieceSize { // the last piece is not empty
		if err := s.keep(s.tail[:pieceSize], false); err != nil {
			return err
		}
		s.tail = s.tail[pieceSize:]
	}
	s.tail = append([]byte(nil), s.tail...)
	s.net.metrics.chunks.Inc()
	if !c.IsLastChunk() {
		return nil
	}
	if err := s.keep(s.tail, true); err != nil {
		return err
	}
	return s.await(func() bool { return s.status == statusWhole })
}

// keep files a piece, when there is a place for it.
func (s *striped) keep(data []byte, last bool) error {
	if err := s.await(func() bool { return s.filed < s.passed+spoolPieces }); err != nil {
		return err
	}
	p := piece{s.filed + 1, last, data} // nobody else changes filed and room
	if p.number <= spoolPieces && p.number > s.room {
		var err error
		if s.room, err = s.net.room(s.room, p.number); err != nil {
			return fmt.Errorf("keep a snapshot for node %s: %w", s.peer.node, err)
		}
	}
	if err := s.file.put(p); err != nil {
		return fmt.Errorf("keep a snapshot for node %s: %w", s.peer.node, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filed++
	s.tell()
	return nil
}

// Close ends the transfer; a snapshot that is not whole is given up. Only the first call does anything, and others wait for it.
func (s *striped) Close() { s.once.Do(s.end) }

func (s *striped) end() {
	s.stop()
	s.wg.Wait()
	s.peer.pace.end()
	if s.peer.bulk.release(s) {
		s.peer.tellBulk()
	}
	if err := s.file.remove(); err != nil {
		s.net.opts.Log.Warn("the file of a snapshot that was sent stays", "err", err)
	}
	s.mu.Lock()
	whole := s.status == statusWhole
	s.mu.Unlock()
	s.peer.turns.end(whole)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func appendPiece(b []byte, p piece) []byte {
	var number [binary.MaxVarintLen64]byte
	size := binary.PutUvarint(number[:], p.number)
	b = appendFrameHeader(b, size+1+4+len(p.data))
	b = append(append(b, number[:size]...), flag(p.last))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(p.data, castagnoli))
	return append(b, p.data...)
}

// splitPiece takes a frame of a stripe apart.
func splitPiece(frame []byte) (p piece, err error) {
	number, size := binary.Uvarint(frame)
	if size <= 0 || number == 0 || len(frame) <= size+5 || len(frame) > size+5+pieceSize || frame[size] > 1 {
		return p, fmt.Errorf("piece of %d bytes: %w", len(frame), errFormat)
	}
	p = piece{number, frame[size] == 1, frame[size+5:]}
	if crc32.Checksum(p.data, castagnoli) != binary.BigEndian.Uint32(frame[size+1:]) {
		return p, fmt.Errorf("piece %d: %w", number, errPiece)
	}
	return p, nil
}

func appendAck(b []byte, status byte, passed uint64, numbers []uint64) []byte {
	body := binary.AppendUvarint([]byte{status}, passed)
	for _, n := range numbers {
		body = binary.AppendUvarint(body, n)
	}
	return append(appendFrameHeader(b, len(body)), body...)
}

func parseAck(b []byte) (status byte, passed uint64, numbers []uint64, err error) {
	bad := errors.New("acknowledgement of pieces")
	if len(b) < 2 || b[0] > statusLacks {
		return 0, 0, nil, fmt.Errorf("%w: %w", bad, errFormat)
	}
	status, b = b[0], b[1:]
	for first := true; len(b) > 0; first = false {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return 0, 0, nil, fmt.Errorf("%w: %w", bad, errFormat)
		}
		b = b[size:]
		if first {
			passed = n
		} else {
			numbers = append(numbers, n)
		}
	}
	return status, passed, numbers, nil
}
