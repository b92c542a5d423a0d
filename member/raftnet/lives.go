package raftnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Life is one start of a member.
type Life = nonce

// NewLife draws one.
func NewLife() (l Life) {
	copy(l[:], newNonce())
	return l
}

// MaxLives is how many starts members tell each other of.
const MaxLives = 256

// Before anything else goes over a connection, each end tells the other its lives, the present one first, on a stream of
// its own, and hears whether it is taken for the node that it says it is. A node whose lives do not include the last one
// that the other knew of runs with a copy of an older state of that node's data dir. One whose lives do may run with a
// copy of the newest state: it is turned away if the life before still answers. Else two would acknowledge for one.
//
// A version from before this refuses the stream, and tells nothing of itself: it is taken for what its certificate says.

// ErrCopied says that another node runs with this one's identity, or has.
var ErrCopied = errors.New("this node is a copy")

const (
	// maxLivesFrame is the longest frame of these streams.
	maxLivesFrame = 8 + MaxLives*len(Life{})
	// aliveWait is how long the life before may take to answer. One that has ended on the same address is known to
	// have within a round trip, by the reset that QUIC has for it.
	aliveWait = time.Second
	// endedWait is how much later than its streams a connection may say that it has ended.
	endedWait = 50 * time.Millisecond
)

const (
	verdictWelcome = 1
	verdictCopied  = 2
)

// begin takes the link into use once both ends have told their lives.
func (l *link) begin(ctx context.Context) error {
	if err := l.acquaint(ctx); err != nil {
		return err
	}
	l.peer.attach(l)
	close(l.cleared)
	l.net.fetch(l.peer)
	return nil
}

func (l *link) acquaint(ctx context.Context) error {
	if len(l.net.opts.Lives) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, helloWait)
	defer cancel()
	verdict, err := l.introduce(ctx)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("tell node %s the lives of this one: %w", l.peer.node, context.Cause(ctx))
	case err != nil:
		select {
		case <-l.conn.Done():
			return errEnded
		case <-time.After(endedWait): // the stream was refused, and not the connection
			l.peer.takeUnmet()
			return nil
		}
	case verdict == verdictCopied:
		err := fmt.Errorf("%w: member %s has known a later start of this node, or knows one that still answers", ErrCopied, l.peer.node)
		l.net.opts.Copied(err)
		return err
	}
	select {
	case <-l.met:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hear the lives of node %s: %w", l.peer.node, context.Cause(ctx))
	}
}

// introduce tells the peer the lives of this node.
func (l *link) introduce(ctx context.Context) (verdict byte, err error) {
	s, err := l.conn.Open(ctx)
	if err != nil {
		return 0, err
	}
	s.SetUrgency(swiftUrgency)
	stop := context.AfterFunc(ctx, func() { giveUp(s, codeDone) })
	defer stop()
	lives := appendLives(nil, l.net.opts.Replica, l.net.opts.Lives)
	b := hello{kindLives, l.net.opts.Cluster, l.net.boot}.append(nil)
	b = append(appendFrameHeader(b, len(lives)), lives...)
	answer, err := exchange(s, b)
	if err == nil && len(answer) != 1 {
		err = fmt.Errorf("verdict of %d bytes: %w", len(answer), errFormat)
	}
	if err != nil {
		giveUp(s, codeDone)
		return 0, err
	}
	s.CancelRead(codeDone)
	return answer[0], nil
}

// serveLives hears the lives of the peer and says what comes of it.
func (l *link) serveLives(ctx context.Context, s Stream) error {
	b, err := readFrame(s, nil, maxLivesFrame) // within helloWait
	if err != nil {
		return err
	}
	replica, lives, err := parseLives(b)
	if err != nil {
		return err
	}
	verdict := l.meet(ctx, replica, lives)
	if err := s.SetWriteDeadline(time.Now().Add(helloWait)); err != nil {
		return err
	}
	if _, err := s.Write(append(appendFrameHeader(nil, 1), verdict)); err != nil {
		return err
	}
	return s.Close()
}

// meet decides whether who tells these lives is the peer.
func (l *link) meet(ctx context.Context, replica uint64, lives []Life) (verdict byte) {
	p := l.peer
	p.meeting.Lock()
	defer p.meeting.Unlock()
	p.mu.Lock()
	known, sameReplica, before := p.life, p.replica == replica, p.link
	p.mu.Unlock()
	if known != (Life{}) && known != lives[0] {
		forked := sameReplica && !slices.Contains(lives, known)
		if forked || before != nil && before != l && before.answers(ctx) {
			l.net.metrics.dropped("copied", 1)
			l.net.opts.Log.Warn("turned away what runs with another member's identity: a copy of its data dir, or that put back to an "+
				"older state; see which of the two is to go", "peer", p.node, "forked", forked)
			return verdictCopied
		}
	}
	p.mu.Lock()
	p.life, p.replica, p.unmet = lives[0], replica, false
	p.mu.Unlock()
	l.once.Do(func() { close(l.met) })
	return verdictWelcome
}

// answers reports whether the peer at the other end is still there.
func (l *link) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveWait)
	defer cancel()
	_, err := l.introduce(ctx)
	return err == nil
}

// takeUnmet lets in what comes from a peer that tells nothing of its lives.
func (p *peer) takeUnmet() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unmet = true
}

// admits reports whether a life is the one that was welcome.
func (n *Net) admits(p *peer, life [8]byte) bool {
	if len(n.opts.Lives) == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unmet || p.life.life() == life
}

// Lives travel as the id of the replica that they were of and 16 bytes each.
func appendLives(b []byte, replica uint64, lives []Life) []byte {
	b = binary.BigEndian.AppendUint64(b, replica)
	for _, l := range lives[:min(len(lives), MaxLives)] {
		b = append(b, l[:]...)
	}
	return b
}

func parseLives(b []byte) (replica uint64, lives []Life, err error) {
	const size = len(Life{})
	if len(b) < 8+size || (len(b)-8)%size != 0 {
		return 0, nil, fmt.Errorf("lives in %d bytes: %w", len(b), errFormat)
	}
	replica = binary.BigEndian.Uint64(b)
	for b = b[8:]; len(b) > 0; b = b[size:] {
		lives = append(lives, Life(b[:size]))
	}
	if slices.Contains(lives, Life{}) {
		return 0, nil, fmt.Errorf("a life of zeros: %w", errFormat)
	}
	return replica, lives, nil
}
