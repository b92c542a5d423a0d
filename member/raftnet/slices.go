package raftnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"holdfast/transport/courier"
)

// A batch with entries that is too long for a letter goes over a stream, and a connection that loses packets carries few bytes: at
// 5 % and 50 ms a value of 1 MiB takes ten seconds. There such a batch is cut into slices, which go over connections of their
// own, those for bulk, each taken by whichever connection has room; what a slow one holds up goes over another one too. The next batch
// waits until the peer has said that it has all of it. Where that does not work the whole batch goes over the stream of its lane,
// under the same number: the peer takes the first that is whole. On a long link, which may be a thin one, it is done where what has arrived lately
// shows that it is not.
//
// Slices are on a stream that both sides write: a hello, the number of the batch in its lane, the bytes of the frame that it would be
// on that lane (4), and frames of slices: which one (4 bytes), and its bytes, sliceSize but for the last. Frames the other way are
// which one has come (4 bytes), or sliceWhole once all have.
const (
	sliceSize = 4 << 10
	// sliceLeast is the length from which on a batch is cut.
	sliceLeast = 16 << 10
	// slicePerConn is for how many bytes one more connection is made: its handshake takes about 5 kB.
	slicePerConn = 16 << 10
	// sliceFirstTrip is how many bytes a round trip are sent at first. On a link of 1 Mbit/s they take a quarter of a second.
	sliceFirstTrip = 32 << 10
	// sliceWait is how long a batch waits for the first connection, and slicePause how long none is cut after that was in vain, or
	// has shown that the link is thin.
	sliceWait  = time.Second
	slicePause = time.Minute
	// sliceStall is how long nothing may be acknowledged, beside four round trips.
	sliceStall = 2 * time.Second
	// ackSlack is how much later than a round trip QUIC acknowledges.
	ackSlack = 25 * time.Millisecond
	// sliceKept is how long the connections stay after the last batch.
	sliceKept = time.Minute
	// sliceRepeats is over how many connections a slice goes at most.
	sliceRepeats = 3
	sliceFrame   = 4 + sliceSize
	sliceWhole   = 1<<32 - 1
)

// sliced is one batch on its way.
type sliced struct {
	link     *link
	head     []byte // of each stream
	body     []byte
	patience time.Duration // for an acknowledgement, before a slice goes over another connection too
	stall    time.Duration // without any

	began time.Time // with the first connection; send alone uses it

	mu       sync.Mutex
	changed  chan struct{} // closed when anything below does, then replaced
	sent     []sentSlice
	next     int // the first one that was never sent
	oldest   int // the first one that may not have been acknowledged
	left     int // not yet acknowledged
	progress time.Time
}

type sentSlice struct {
	at    time.Time
	times int
	acked bool
}

// slicing is what a link knows of its batches in slices; the goroutine of its lane alone uses it.
type slicing struct {
	until  time.Time // none is cut before
	wanted int       // connections
}

// slice sends a frame of the lane of entries in slices, if the link is one on which that is better. It reports whether the peer is known
// to have all of it, and whether it may have: some of it was sent.
func (l *link) slice(ctx context.Context, s *slicing, number uint64, frame []byte) (whole, begun bool) {
	body := frame[frameHeader:]
	rtt, loss, ok := l.peer.post.Link()
	trip, thin := float64(sliceFirstTrip), false
	if rtt >= paceNear {
		carries := l.peer.post.Carries()
		trip, thin = carries*rtt.Seconds(), carries < burstLeast
	}
	if len(body) < sliceLeast || !ok || loss < nearLoss || rtt < nearRTT || thin ||
		min(l.peer.post.Dialect(), l.net.opts.Dialect) < dialectSlices || time.Now().Before(s.until) {
		return false, false
	}
	if n := min(max(len(body)/slicePerConn, stripeMin), l.peer.stripes()); n > s.wanted {
		s.wanted = n
		l.wantSlices(n)
	}
	l.peer.pace.begin(time.Now(), rtt, trip, 0)
	defer l.peer.pace.end()
	b := l.cut(number, body, rtt)
	begun, whole = b.send(ctx)
	now := time.Now()
	if took := now.Sub(b.began) - 2*rtt; !begun || whole && float64(len(body)) < took.Seconds()*oneCarries(rtt, loss) {
		s.until = now.Add(slicePause)
	}
	return whole, begun
}

// oneCarries is how many bytes a second a connection carries that loses packets. A link that takes no more is thin: there slices cost
// handshakes and repeats, and gain nothing.
func oneCarries(rtt time.Duration, loss float64) float64 {
	return stripeShare / 8 / (rtt.Seconds() * math.Sqrt(loss))
}

// cut makes slices of what would be the frame of a batch.
func (l *link) cut(number uint64, body []byte, rtt time.Duration) *sliced {
	b := &sliced{link: l, body: body, patience: 2*rtt + ackSlack, stall: 4*rtt + sliceStall, changed: make(chan struct{}), progress: time.Now()}
	b.head = hello{kindSlices, l.net.opts.Cluster, l.net.boot}.append(nil)
	b.head = binary.BigEndian.AppendUint64(b.head, number)
	b.head = binary.BigEndian.AppendUint32(b.head, uint32(len(body))) //nolint:gosec // bounded by maxBatchFrame
	b.left = (len(body) + sliceSize - 1) / sliceSize
	b.sent = make([]sentSlice, b.left)
	return b
}

func (l *link) wantSlices(n int) {
	if l.peer.bulk.want(l, n) {
		l.peer.tellBulk()
	}
}

// doneSlicing lets the connections go.
func (l *link) doneSlicing(s *slicing) {
	if s.wanted == 0 {
		return
	}
	s.wanted = 0
	if l.peer.bulk.release(l) {
		l.peer.tellBulk()
	}
}

// send sends slices over all connections that there are until the peer has all of them, or none was acknowledged for too long. It
// tells whether there was a connection.
func (b *sliced) send(ctx context.Context) (some, whole bool) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	running := make(map[Conn]bool)
	packets := make(map[Conn]uint64)
	began := time.Now()
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		conns, connsChanged := b.link.peer.bulk.all()
		for _, c := range conns {
			if !running[c] {
				if len(running) == 0 {
					b.began = time.Now()
				}
				running[c] = true
				wg.Go(func() { b.over(ctx, c) })
			}
		}
		b.mu.Lock()
		left, changed, progress := b.left, b.changed, b.progress
		b.mu.Unlock()
		now := time.Now()
		switch {
		case left == 0:
			return true, true
		case len(running) == 0 && now.Sub(began) > sliceWait:
			return false, false
		case now.Sub(progress) > b.stall:
			return true, false
		}
		select {
		case <-changed:
		case <-connsChanged:
		case <-tick.C:
			b.link.peer.samplePace(conns, packets)
		case <-ctx.Done():
			return true, false
		}
	}
}

// over sends slices over a connection until ctx ends, the connection does, or all have come.
func (b *sliced) over(ctx context.Context, c Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := c.Open(ctx)
	if err != nil {
		return
	}
	st.SetUrgency(logUrgency)
	var acks sync.WaitGroup
	defer acks.Wait()
	defer context.AfterFunc(ctx, func() { giveUp(st, codeDone) })()
	defer giveUp(st, codeDone)
	acks.Go(func() {
		defer cancel()
		b.listen(st)
	})
	mine := make([]bool, len(b.sent))
	out := slices.Clone(b.head)
	for {
		i, ok := b.take(ctx, mine)
		if !ok {
			return
		}
		part := b.body[i*sliceSize : min((i+1)*sliceSize, len(b.body))]
		out = appendFrameHeader(out, 4+len(part))
		out = binary.BigEndian.AppendUint32(out, uint32(i)) //nolint:gosec // bounded by maxBatchFrame
		out = append(out, part...)
		if b.write(ctx, st, out) != nil {
			return
		}
		out = nil
	}
}

func (b *sliced) write(ctx context.Context, st Stream, p []byte) error {
	pace := &b.link.peer.pace
	for len(p) > 0 {
		step := min(len(p), pace.slice())
		if err := pace.take(ctx, step); err != nil {
			return err
		}
		if _, err := st.Write(p[:step]); err != nil {
			return err
		}
		p = p[step:]
	}
	return nil
}

// take chooses a slice for a connection and waits for one: the next, or one that was sent over another connection and should have been
// acknowledged by now.
func (b *sliced) take(ctx context.Context, mine []bool) (i int, ok bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		b.mu.Lock()
		now := time.Now()
		i, wait := b.choose(now, mine)
		if i >= 0 {
			b.sent[i].at = now
			b.sent[i].times++
			mine[i] = true
			b.mu.Unlock()
			return i, true
		}
		changed := b.changed
		b.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return 0, false
		}
	}
}

// choose returns a slice, or -1 and how long to wait. b.mu is held.
func (b *sliced) choose(now time.Time, mine []bool) (i int, wait time.Duration) {
	if b.next < len(b.sent) {
		b.next++
		return b.next - 1, 0
	}
	wait = time.Hour
	for i := b.oldest; i < len(b.sent); i++ {
		switch s := b.sent[i]; {
		case s.acked && i == b.oldest:
			b.oldest++
		case s.acked || mine[i] || s.times >= sliceRepeats:
		case now.Sub(s.at) >= b.patience:
			return i, 0
		default:
			wait = min(wait, b.patience-now.Sub(s.at))
		}
	}
	return -1, wait
}

// listen takes what the peer says on a stream until that ends.
func (b *sliced) listen(st Stream) {
	var buf []byte
	for {
		var err error
		if buf, err = readFrame(st, buf, 4); err != nil || len(buf) != 4 {
			return
		}
		if !b.note(binary.BigEndian.Uint32(buf)) {
			return
		}
	}
}

// note takes an acknowledgement; it reports whether it can be one.
func (b *sliced) note(which uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case which == sliceWhole:
		b.left = 0
	case int(which) >= b.next:
		return false // it was never sent
	case b.sent[which].acked:
		return true
	default:
		b.sent[which].acked = true
		b.left--
	}
	b.progress = time.Now()
	close(b.changed)
	b.changed = make(chan struct{})
	return true
}

// samplePace tells the pace how long round trips on connections are. packets are those seen of each.
func (p *peer) samplePace(conns []Conn, packets map[Conn]uint64) {
	var least time.Duration
	for _, c := range conns {
		rtt, count := c.Sample()
		if count != packets[c] && rtt > 0 && (least == 0 || rtt < least) {
			least = rtt
		}
		packets[c] = count
	}
	p.pace.sample(time.Now(), least)
}

// slicesIn is the batch in slices that comes in from a peer: one at a time, since its sender waits for it.
type slicesIn struct {
	mu     sync.Mutex
	life   courier.Life
	number uint64
	size   int
	parts  [][]byte // nil where one has not come
	left   int
}

// errOver is what becomes of slices of a batch that its sender is done with: a stream of it may come later than those of the next. It is
// no fault of the sender's.
var errOver = errors.New("the batch is over")

// begin makes a batch the one that comes in, unless it is, or a later one was; whole says that it has come already.
func (in *slicesIn) begin(life courier.Life, number uint64, size int) (whole bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if life == in.life && number == in.number {
		if size != in.size {
			return false, fmt.Errorf("slices of a batch of %d bytes, which had %d: %w", size, in.size, errFormat)
		}
		return in.left == 0, nil
	}
	if life == in.life && number < in.number {
		return false, fmt.Errorf("slices of batch %d after those of %d: %w", number, in.number, errOver)
	}
	count := (size + sliceSize - 1) / sliceSize
	in.life, in.number, in.size, in.parts, in.left = life, number, size, make([][]byte, count), count
	return false, nil
}

// put takes a slice. It returns all of the batch with the last one, and whether it is whole.
func (in *slicesIn) put(life courier.Life, number uint64, i int, part []byte) (frame []byte, whole bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if life != in.life || number != in.number {
		return nil, false, fmt.Errorf("slice of batch %d: %w", number, errOver)
	}
	if in.left == 0 {
		return nil, true, nil
	}
	if i >= len(in.parts) || len(part) != min(sliceSize, in.size-i*sliceSize) {
		return nil, false, fmt.Errorf("slice %d of %d with %d bytes: %w", i, len(in.parts), len(part), errFormat)
	}
	if in.parts[i] != nil {
		return nil, false, nil
	}
	in.parts[i] = bytes.Clone(part)
	if in.left--; in.left > 0 {
		return nil, false, nil
	}
	frame = bytes.Join(in.parts, nil)
	in.parts = nil
	return frame, true, nil
}

// serveSlices takes slices of a batch.
func (l *link) serveSlices(s Stream, life courier.Life) error {
	defer giveUp(s, codeDone)
	var head [8 + 4]byte
	if _, err := io.ReadFull(s, head[:]); err != nil { // within helloWait
		return err
	}
	number, size := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint32(head[8:])
	if number == 0 || size == 0 || size > maxBatchFrame {
		return fmt.Errorf("slices of batch %d of %d bytes: %w", number, size, errFormat)
	}
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	lane := &l.peer.in[kindLog-1]
	if err := lane.enter(life); err != nil {
		return err
	}
	in := &l.peer.slices
	whole, err := in.begin(life, number, int(size))
	if err != nil {
		return err
	}
	var buf []byte
	if whole {
		if _, err := s.Write(appendSliceAck(nil, sliceWhole)); err != nil {
			return err
		}
	}
	for { // until the sender, which has heard what it wants to, ends it: to end it here could take an acknowledgement back
		if buf, err = readFrame(s, buf, sliceFrame); err != nil {
			return err
		}
		if len(buf) <= 4 {
			return fmt.Errorf("slice of %d bytes: %w", len(buf), errFormat)
		}
		i := binary.BigEndian.Uint32(buf)
		var frame []byte
		if frame, whole, err = in.put(life, number, int(i), buf[4:]); err != nil {
			return err
		}
		if frame != nil {
			if err := l.takeFrame(lane, life, frame); err != nil {
				return err
			}
		}
		if whole {
			i = sliceWhole
		}
		if _, err := s.Write(appendSliceAck(nil, i)); err != nil {
			return err
		}
	}
}

func appendSliceAck(b []byte, which uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(b, 4), which)
}
