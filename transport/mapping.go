package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// How long a NAT keeps a mapping is measured from outside in, which is what counts: the node opens a connection from a socket of
// its own, which has a mapping of its own, asks the peer to say something after so many seconds, and is silent. If that arrives
// the mapping was there. If not, the node asks at once, which makes another mapping: an answer tells that the first one was gone,
// none that the line is down and nothing is known.
//
// A request is a stream with two bytes up, the seconds, and one byte down.

const (
	// mappingMax bounds the measurements that a node answers at a time: a connection takes 54 kB.
	mappingMax = 256
	// mappingLife bounds one.
	mappingLife = 15 * time.Minute
	// mappingSilenceMax bounds the silence that may be asked for.
	mappingSilenceMax = 2 * time.Minute

	// mappingWarm is how old a flow is when the request goes out on it: Linux keeps a flow with traffic both ways four times longer
	// once it is older than 2 s (nf_conntrack_proto_udp.c), as that of a connection in use is.
	mappingWarm = 3 * time.Second
	// mappingQuiet is how long the request has to be acknowledged; then nothing goes out until the answer comes.
	mappingQuiet = 2 * time.Second
	// mappingGrace is how late the answer may be: one that was lost is sent again a few times within it.
	mappingGrace = 5 * time.Second
	// mappingRTTs are added to both for long ways.
	mappingRTTs = 4
	// mappingTries is how often a silence is tried that something broke.
	mappingTries = 3
)

// silences are tried, the longest first and then by halves: most NATs keep a mapping for longer than all of them (RFC 4787 asks for two
// minutes), and those that do not are found in four steps, at most four minutes.
var silences = []time.Duration{15 * time.Second, 20 * time.Second, 25 * time.Second, 30 * time.Second, 35 * time.Second, 45 * time.Second, 55 * time.Second, 65 * time.Second}

// verdict is the longest silence that a mapping has survived; zero: none of them.
type verdict struct{ survived time.Duration }

// every is the interval that keeps such a mapping, and short whether it does not.
func (v verdict) every() time.Duration {
	return min(max(v.survived-keepAliveMargin, keepAliveFloor), keepAliveCeiling)
}
func (v verdict) short() bool { return v.survived == 0 }

// errDisturbed is that something was sent while nothing was to be.
var errDisturbed = errors.New("the silence was broken")

// measureMapping measures the way that c takes.
func (e *Endpoint) measureMapping(ctx context.Context, c *Conn) (v verdict, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("measure how long a NAT keeps a mapping: %w", err)
		}
	}()
	socket, err := e.cfg.Spare(ctx)
	if err != nil {
		return v, err
	}
	defer func() { _ = socket.Close() }() // nothing is under way on it
	d, err := e.newDial(Mapping, Target{Node: c.peer.Node, AllowProxy: c.peer.Role == Proxy}, remoteOf(c), nil)
	if err != nil {
		return v, err
	}
	d.tr = e.transportOn(socket)
	defer closeTransport(d.tr)
	d.conf.KeepAlivePeriod, d.conf.DisablePathMTUDiscovery = 0, true
	m, err := d.connect(ctx)
	if err != nil {
		return v, err
	}
	defer func() {
		m.CloseWithError(CodeDone, "measured")
		<-m.Context().Done()
	}()
	lo, hi := -1, len(silences) // survived, and not
	for try := hi - 1; hi-lo > 1; try = (lo + hi) / 2 {
		ok, err := m.survives(ctx, silences[try])
		if err != nil {
			return v, err
		}
		if ok {
			lo = try
		} else {
			hi = try
		}
	}
	if lo >= 0 {
		v.survived = silences[lo]
	}
	return v, nil
}

// survives reports whether a packet comes through after a silence.
func (c *Conn) survives(ctx context.Context, silence time.Duration) (ok bool, err error) {
	for range mappingTries {
		if err := pause(ctx, mappingWarm); err != nil {
			return false, err
		}
		ok, err = c.wakeAfter(ctx, silence)
		if errors.Is(err, errDisturbed) {
			continue
		}
		if err != nil || ok {
			return ok, err
		}
		alive, err := c.wakeAfter(ctx, 0)
		if err == nil && !alive {
			err = errors.New("nothing comes back")
		}
		return false, err
	}
	return false, err
}

// wakeAfter asks the peer for a sign after a silence, and reports whether one came in time.
func (c *Conn) wakeAfter(ctx context.Context, silence time.Duration) (came bool, err error) {
	slack := mappingRTTs * c.linkCount().srtt
	s, err := c.OpenStream(ctx)
	if err != nil {
		return false, err
	}
	defer s.Abort(0)
	defer context.AfterFunc(ctx, func() { s.Abort(0) })()
	if err := s.SetDeadline(time.Now().Add(silence + mappingGrace + slack)); err != nil {
		return false, err
	}
	if _, err := s.Write(binary.BigEndian.AppendUint16(nil, uint16(silence/time.Second))); err != nil {
		return false, err
	}
	if err := s.Close(); err != nil {
		return false, err
	}
	if silence > 0 {
		if err := pause(ctx, mappingQuiet+slack); err != nil {
			return false, err
		}
		sent := c.linkCount().sent
		if err := pause(ctx, silence-mappingQuiet-slack-time.Second); err != nil {
			return false, err
		}
		if c.linkCount().sent != sent {
			return false, errDisturbed
		}
	}
	_, err = io.ReadFull(s, make([]byte, 1))
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, nil
	}
	return err == nil, err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answerMapping serves the measurement of a peer.
func (e *Endpoint) answerMapping(ctx context.Context, c *Conn) {
	defer e.mappings.Add(-1)
	if e.mappings.Add(1) > mappingMax {
		e.mu.Lock()
		e.totals.MappingsFull++
		e.mu.Unlock()
		c.CloseWithError(CodeFull, "too many measure at once (try later)")
		return
	}
	late := time.AfterFunc(mappingLife, func() { c.CloseWithError(CodeTooSlow, "measuring took too long") })
	defer late.Stop()
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		if err := s.wake(ctx); err != nil {
			s.Abort(0)
		}
	}
}

// wake answers one request.
func (s *Stream) wake(ctx context.Context) error {
	var ask [2]byte
	if err := s.SetReadDeadline(time.Now().Add(mappingGrace)); err != nil {
		return err
	}
	if _, err := io.ReadFull(s, ask[:]); err != nil {
		return err
	}
	silence := time.Duration(binary.BigEndian.Uint16(ask[:])) * time.Second
	if silence > mappingSilenceMax {
		return fmt.Errorf("a silence of %v: want at most %v: %w", silence, mappingSilenceMax, ErrTooLarge)
	}
	waiting, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	select {
	case <-waiting.Done():
	case <-s.given():
		return net.ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, err := s.Write(ask[:1]); err != nil {
		return err
	}
	return s.Close()
}
