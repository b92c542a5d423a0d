package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxAskFrame is the longest question, and the longest answer.
	maxAskFrame = 1 << 20
	// maxAsks is how many questions of one peer are answered at a time; one that finds no place is refused. A member asks
	// a few at a time.
	maxAsks = 16
	// askWait is how long an answer may take, and then to get away.
	askWait = 30 * time.Second
)

// Ask sends a question to a node, on a stream of its own, and returns what it answers. Without a connection, or while its
// link is lost, it fails at once. A node of a version that answers nothing refuses it.
func (n *Net) Ask(ctx context.Context, node string, request []byte) ([]byte, error) {
	answer, err := n.ask(ctx, node, request)
	if err != nil {
		n.metrics.asks.WithLabelValues("failed").Inc()
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	n.metrics.asks.WithLabelValues("answered").Inc()
	return answer, nil
}

func (n *Net) ask(ctx context.Context, node string, request []byte) ([]byte, error) {
	if len(request) > maxAskFrame {
		return nil, fmt.Errorf("question of %d bytes: %w", len(request), errFrame)
	}
	p, err := n.peer(node)
	if err != nil {
		return nil, err
	}
	l, err := p.usable()
	if err != nil {
		return nil, err
	}
	s, err := l.conn.Open(ctx)
	if err != nil {
		return nil, err
	}
	s.SetUrgency(swiftUrgency)
	stop := context.AfterFunc(ctx, func() { giveUp(s, codeDone) })
	defer stop()
	b := hello{kindAsk, n.opts.Cluster, n.boot}.append(nil)
	b = append(appendFrameHeader(b, len(request)), request...)
	answer, err := exchange(s, b)
	switch {
	case err == nil:
		s.CancelRead(codeDone)
		return answer, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF):
		err = errors.New("it ended the stream without an answer")
	}
	giveUp(s, codeDone)
	return nil, err
}

func exchange(s Stream, question []byte) ([]byte, error) {
	if _, err := s.Write(question); err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil { // before the answer comes: the peer gives up reading then
		return nil, err
	}
	return readFrame(s, nil, maxAskFrame)
}

func giveUp(s Stream, code uint64) {
	s.CancelWrite(code)
	s.CancelRead(code)
}

// acceptStreams takes the streams that both sides write: snapshots and questions.
func (l *link) acceptStreams(ctx context.Context, g *errgroup.Group) error {
	for {
		s, err := l.conn.Accept(ctx)
		if err != nil {
			return fmt.Errorf("wait for a stream of node %s: %w", l.peer.node, err)
		}
		select {
		case l.streams <- struct{}{}:
		default:
			l.net.metrics.dropped("streams_full", 1)
			giveUp(s, codeRefused)
			continue
		}
		g.Go(func() error {
			defer func() { <-l.streams }()
			l.serveStream(ctx, s)
			return nil // the connection is none the worse
		})
	}
}

// serveStream serves what a stream turns out to be.
func (l *link) serveStream(ctx context.Context, s Stream) {
	h, err := l.welcomeStream(s)
	switch {
	case err != nil:
		if isRefusal(err) { // else the peer has given it up before it had begun: it went another way
			l.net.metrics.dropped("refused", 1)
			l.net.opts.Log.Debug("a stream of another member was refused", "peer", l.peer.node, "err", err)
		}
		giveUp(s, codeRefused)
	case h.kind == kindLives:
		if err := l.serveLives(ctx, s); err != nil {
			l.net.metrics.dropped("refused", 1)
			giveUp(s, codeRefused)
			return
		}
		s.CancelRead(codeDone)
	case l.wait(ctx) != nil:
		giveUp(s, codeRefused)
	case !l.net.admits(l.peer, h.boot.life()):
		l.net.metrics.dropped("refused", 1)
		giveUp(s, codeRefused)
	case h.kind == kindStripe:
		l.serveStripe(s)
	case h.kind == kindSlices:
		if err := l.serveSlices(s, h.boot.life()); isRefusal(err) {
			l.net.metrics.dropped("refused", 1)
			l.net.opts.Log.Debug("slices of another member were refused", "peer", l.peer.node, "err", err)
		}
	default:
		l.serveAsk(ctx, s)
	}
}

// welcomeStream reads the hello of a stream that both sides write.
func (l *link) welcomeStream(s Stream) (hello, error) {
	if err := s.SetReadDeadline(time.Now().Add(helloWait)); err != nil {
		return hello{}, err
	}
	h, err := readHello(s)
	switch {
	case err != nil:
		return h, err
	case h.cluster != l.net.opts.Cluster:
		return h, fmt.Errorf("stream of cluster %016x: %w", h.cluster, errCluster)
	case h.kind == kindLives && len(l.net.opts.Lives) > 0:
	case h.kind == kindSlices && l.net.opts.Dialect < dialectSlices:
		return h, fmt.Errorf("a stream of %s: %w", h.kind, errFormat)
	case h.kind != kindAsk && h.kind != kindStripe && h.kind != kindSlices:
		return h, fmt.Errorf("the %s lane on a stream of two directions: %w", h.kind, errFormat)
	}
	return h, nil
}

// serveAsk answers a question.
func (l *link) serveAsk(ctx context.Context, s Stream) {
	select {
	case l.asks <- struct{}{}:
		defer func() { <-l.asks }()
	default:
		l.net.metrics.dropped("asks_full", 1)
		giveUp(s, codeRefused)
		return
	}
	if err := l.answerAsk(ctx, s); err != nil {
		l.net.metrics.dropped("ask", 1)
		l.net.opts.Log.Debug("a question of another member was not answered", "peer", l.peer.node, "err", err)
		giveUp(s, codeRefused)
		return
	}
	s.CancelRead(codeDone)
}

func (l *link) answerAsk(ctx context.Context, s Stream) error {
	s.SetUrgency(swiftUrgency)
	request, err := readFrame(s, nil, maxAskFrame) // within helloWait
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	answer := l.net.answer(ctx, request)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(answer) > maxAskFrame {
		return fmt.Errorf("answer of %d bytes: %w", len(answer), errFrame)
	}
	if err := s.SetWriteDeadline(time.Now().Add(askWait)); err != nil {
		return err
	}
	if _, err := s.Write(append(appendFrameHeader(nil, len(answer)), answer...)); err != nil {
		return err
	}
	return s.Close()
}
