package raftnet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/transport/courier"
)

const (
	swiftUrgency = 1
	logUrgency   = 3
	bulkUrgency  = 6

	// helloWait is how long a stream that a peer has opened may take to say what it is.
	helloWait = 10 * time.Second
	// maxStripes is how many streams with pieces of snapshots one connection may have.
	maxStripes = 4
)

// link is one connection to a peer in use.
type link struct {
	net    *Net
	peer   *peer
	conn   Conn
	queues [lanes]*queue

	underway underway // entries

	asks    chan struct{} // a place for each question that is answered; one that finds none is refused
	streams chan struct{} // a place for each question and each stripe

	cleared chan struct{} // closed once what comes may be taken
	met     chan struct{} // closed once the peer has told its lives, and is welcome
	once    sync.Once     // for met

	mu    sync.Mutex
	begun [lanes]bool // the peer has opened the stream of the lane
}

func newLink(n *Net, p *peer, c Conn) *link {
	return &link{net: n, peer: p, conn: c, queues: [lanes]*queue{newQueue(maxSwiftBytes), newQueue(maxLogBytes)},
		asks: make(chan struct{}, maxAsks), streams: make(chan struct{}, maxStripes+maxAsks+1),
		cleared: make(chan struct{}), met: make(chan struct{})}
}

// rtt is the smoothed round trip.
func (l *link) rtt() time.Duration {
	rtt, _, _ := l.peer.post.Link()
	return rtt
}

// broad reports whether a link is long, loses packets and is known to carry more than a stream does there. Nothing is put behind what a
// stream has there, which would never catch up: it leaves as a whole later, in datagrams or in slices.
func (l *link) broad() bool {
	rtt, loss, ok := l.peer.post.Link()
	return ok && rtt >= paceNear && loss >= nearLoss && l.peer.burst() > 0
}

// closeQueues closes the queues of a link that has ended.
func (n *Net) closeQueues(l *link) {
	for _, q := range l.queues {
		left := q.close()
		n.metrics.dropped("link", len(left))
		n.leftOver(l.peer, left)
	}
}

// over reports whether the queues are closed.
func (l *link) over() bool { return l.queues[0].over() }

var errEnded = errors.New("the connection has ended")

// run uses the connection until it ends, and closes it.
func (l *link) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.begin(ctx) })
	for i := range lanes {
		g.Go(func() error { return l.sendLane(ctx, kind(i+1)) })
	}
	g.Go(func() error { return l.acceptLanes(ctx, g) })
	g.Go(func() error { return l.acceptStreams(ctx, g) })
	g.Go(func() error { return l.watchLoss(ctx) })
	g.Go(func() error { l.beginBulk(ctx); return nil })
	g.Go(func() error { l.peer.post.Run(ctx); return nil })
	g.Go(func() error { l.net.keepQuiet(ctx, l.peer); return nil })
	g.Go(func() error { l.net.waitForHoles(ctx, l.peer); return nil })
	g.Go(func() error {
		defer func() { l.conn.Close(closeReason(ctx)) }() // ends whatever still waits on the connection
		select {
		case <-l.conn.Done():
			return errEnded
		case <-l.net.closing:
			return errClosed
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// closeReason is what the peer may read: nothing but what is wrong with what it sent.
func closeReason(ctx context.Context) string {
	for _, err := range []error{errFormat, errNewer, errCluster, errFrame, errClosed} {
		if errors.Is(context.Cause(ctx), err) {
			return err.Error()
		}
	}
	return ""
}

// watchLoss reports the peer once its link is lost. What waits for it stays, in case the link comes back: among it may be
// commands forwarded to the leader, which nobody sends again. What comes meanwhile waits aside.
func (l *link) watchLoss(ctx context.Context) error {
	grace := time.NewTimer(hushGrace)
	defer grace.Stop()
	for {
		lost, changed := l.conn.LossState()
		if lost {
			grace.Reset(hushGrace)
			l.net.unreachable(l.peer)
		} else {
			grace.Stop()
			l.net.fetch(l.peer)
		}
		select {
		case <-changed:
		case <-grace.C:
			l.peer.hush.end()
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sendLane writes what is queued on a lane to a stream that it opens for the first batch.
func (l *link) sendLane(ctx context.Context, lane kind) error {
	q := l.queues[lane-1]
	var out Outgoing
	var buf []byte
	var slicing slicing
	defer l.doneSlicing(&slicing)
	unused := time.NewTimer(sliceKept)
	defer unused.Stop()
	for {
		select {
		case <-q.ready:
		case <-unused.C:
			l.doneSlicing(&slicing)
			continue
		case <-ctx.Done():
			return nil
		}
		for {
			var last uint64
			if buf, last = q.take(buf[:0]); last == 0 {
				break
			}
			var begun bool
			if lane == kindLog {
				var whole bool
				if whole, begun = l.slice(ctx, &slicing, last, buf); whole {
					l.underway.took(last)
					unused.Reset(sliceKept)
					continue
				}
			}
			frames := buf
			unsent := func() {
				if !begun { // what went in slices may have arrived, and would go a second time
					l.net.leftOver(l.peer, unframe(frames))
				}
			}
			if out == nil {
				var err error
				if out, err = l.open(ctx, lane); err != nil {
					unsent()
					return err
				}
				buf = append(hello{lane, l.net.opts.Cluster, l.net.boot}.append(nil), frames...)
			}
			if written, err := l.write(ctx, out, lane, buf); err != nil {
				if written == 0 {
					unsent()
				}
				return fmt.Errorf("send to node %s: %w", l.peer.node, err)
			}
			if lane == kindLog {
				l.underway.took(last)
			}
			if cap(buf) > 2*joinBytes {
				buf = nil
			}
		}
	}
}

// write writes to the stream of a lane: long batches of entries at the pace of bulk, where that may be needed. It returns how many
// bytes the stream took.
func (l *link) write(ctx context.Context, out Outgoing, lane kind, b []byte) (written int, err error) {
	rtt := l.rtt()
	if lane != kindLog || len(b) < paceLong || rtt < paceNear {
		return out.Write(b)
	}
	pace := &l.peer.pace
	pace.begin(time.Now(), rtt, paceFirstLog, 0)
	defer pace.end()
	var seen uint64
	for len(b) > 0 {
		step := min(len(b), pace.slice())
		if err := pace.take(ctx, step); err != nil {
			return written, err
		}
		if rtt, packets := l.conn.Sample(); packets != seen {
			pace.sample(time.Now(), rtt)
			seen = packets
		}
		n, err := out.Write(b[:step])
		written += n
		if err != nil {
			return written, err
		}
		b = b[step:]
	}
	return written, nil
}

func (l *link) open(ctx context.Context, lane kind) (Outgoing, error) {
	out, err := l.conn.OpenUni(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a stream to node %s: %w", l.peer.node, err)
	}
	if lane == kindSwift {
		out.SetUrgency(swiftUrgency)
	} else {
		out.SetUrgency(logUrgency)
	}
	return out, nil
}

// acceptLanes takes the streams that the peer opens, one for each lane. There is no reason for another.
func (l *link) acceptLanes(ctx context.Context, g *errgroup.Group) error {
	for range lanes {
		in, err := l.conn.AcceptUni(ctx)
		if err != nil {
			return fmt.Errorf("wait for a stream of node %s: %w", l.peer.node, err)
		}
		g.Go(func() error {
			err := l.receive(ctx, in)
			in.CancelRead(codeRefused)
			if isRefusal(err) {
				l.net.metrics.dropped("refused", 1)
				l.net.opts.Log.Warn("what a member sent was refused and the connection closed; if it goes on, see "+
					"whether both run the same version and belong to the same cluster", "peer", l.peer.node, "err", err)
			}
			return err
		})
	}
	return nil
}

func isRefusal(err error) bool {
	return errors.Is(err, errFormat) || errors.Is(err, errNewer) || errors.Is(err, errCluster) || errors.Is(err, errFrame)
}

// receive hands over what comes on a lane until its stream ends.
func (l *link) receive(ctx context.Context, in Incoming) error {
	if err := in.SetReadDeadline(time.Now().Add(helloWait)); err != nil {
		return err
	}
	h, err := l.welcome(in)
	if err != nil {
		return err
	}
	if err := in.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if err := l.wait(ctx); err != nil {
		return err
	}
	if !l.net.admits(l.peer, h.boot.life()) {
		return errLife
	}
	lane := &l.peer.in[h.kind-1]
	if err := lane.enter(h.boot.life()); err != nil {
		return err
	}
	var buf []byte
	for {
		if buf, err = readFrame(in, buf, maxBatchFrame); err != nil {
			return fmt.Errorf("receive from node %s: %w", l.peer.node, err)
		}
		if err := l.takeFrame(lane, h.boot.life(), buf); err != nil {
			return err
		}
	}
}

// takeFrame hands over what is in a frame of a lane.
func (l *link) takeFrame(lane *inLane, life courier.Life, frame []byte) error {
	number, b, err := splitNumber(frame)
	if err != nil {
		return err
	}
	batch, err := decodeBatch(b, l.net.opts.Cluster, l.peer.node)
	if err != nil {
		return err
	}
	l.net.take(l.peer, lane, life, number, batch)
	return nil
}

// wait returns once both ends have told who they are.
func (l *link) wait(ctx context.Context) error {
	select {
	case <-l.cleared:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// welcome reads the hello of a lane, of which each may be opened once.
func (l *link) welcome(in Incoming) (hello, error) {
	h, err := readHello(in)
	switch {
	case err != nil:
		return h, err
	case h.cluster != l.net.opts.Cluster:
		return h, fmt.Errorf("stream of cluster %016x: %w", h.cluster, errCluster)
	case h.kind > lanes:
		return h, fmt.Errorf("a %s on a stream of one direction: %w", h.kind, errFormat)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun[h.kind-1] {
		return h, fmt.Errorf("a second stream of the %s lane: %w", h.kind, errFormat)
	}
	l.begun[h.kind-1] = true
	return h, nil
}
