package sniff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Bounds is what a connection of HTTP/2 may make its server hold and do. The servers bound what they queue for it and no
// more: gRPC gives a connection new flow-control credit for bytes that nobody has read yet, so that of unfinished calls one
// alone could hold as many as it likes.
//
// A connection beyond its bounds is told so (GOAWAY, ENHANCE_YOUR_CALM) and closed. A nil function bounds nothing.
type Bounds struct {
	// Hold counts bytes that unanswered calls of a gRPC connection hold here, beyond HeldFree: more, or fewer than before
	// where it is negative, which is never refused. An error ends the connection.
	Hold func(c net.Conn, bytes int64) error
	// Reset counts a call that a client gives up over c among those of all its connections, so that it does not get another
	// ResetBurst with each; false ends the connection.
	Reset func(c net.Conn) bool
	// Timeout is how long a gRPC connection may hold more than HeldFree of unanswered bodies, without a pause. 0: for ever.
	Timeout time.Duration
	// Ended hears that a connection was ended, and why.
	Ended func(c net.Conn, why Excess)
}

// Excess is what a connection had too much of.
type Excess string

// The excesses.
const (
	ExcessHeld     Excess = "bodies"   // refused by Hold
	ExcessSlow     Excess = "slow"     // Timeout
	ExcessResets   Excess = "resets"   // more than ResetRate
	ExcessSettings Excess = "settings" // more than SettingsRate
	ExcessControl  Excess = "control"  // more than ControlRate
)

// Excesses are all of them.
var Excesses = []Excess{ExcessHeld, ExcessSlow, ExcessResets, ExcessSettings, ExcessControl}

// What each connection may do.
const (
	// HeldFree is not counted: nearly all connections stay below.
	HeldFree = 64 << 10
	// StreamCost is what a call holds beside its body: its goroutine and its headers.
	StreamCost = 4 << 10

	// ResetRate is how many calls a second a client may give up (RST_STREAM). Each makes the server begin and end work for
	// little ("rapid reset", CVE-2023-44487).
	ResetRate = 1 << 10
	// ResetBurst is how many at once, as when all that wait for a lost leader run out of time.
	ResetBurst = 1 << 13

	// SettingsRate is of SETTINGS, of which clients send one or two. Each asks for an answer.
	SettingsRate = 16
	// SettingsBurst is how many at once.
	SettingsBurst = 64

	// ControlRate is of all else that carries no request: PING, WINDOW_UPDATE, PRIORITY, CONTINUATION, empty DATA. Clients
	// of gRPC ping and move windows with nearly every call.
	ControlRate = 1 << 15
	// ControlBurst is how many at once.
	ControlBurst = 1 << 15
)

// metered is a connection of HTTP/2 under Bounds. It reads frames as they pass, both ways, and changes none.
type metered struct {
	net.Conn
	bounds *Bounds
	calls  bool // of gRPC: what it holds is counted; else its server's flow control bounds that

	mu       sync.Mutex
	in, out  frames
	streams  map[uint32]int64 // bytes of the body of each open call
	last     uint32           // newest call
	body     int64            // sum of streams
	told     int64            // to Hold
	since    time.Time        // when body came above HeldFree; zero: it is below
	resets   bucket
	settings bucket
	control  bucket
	over     error // why it was ended

	bounded bool // a read deadline of ours is set; of Read alone
}

func newMetered(c net.Conn, b *Bounds, calls bool) net.Conn {
	if b == nil {
		return c
	}
	m := &metered{Conn: c, bounds: b, calls: calls, in: frames{left: len(preface)},
		resets:   bucket{rate: ResetRate, burst: ResetBurst},
		settings: bucket{rate: SettingsRate, burst: SettingsBurst},
		control:  bucket{rate: ControlRate, burst: ControlBurst},
	}
	if calls {
		m.streams = map[uint32]int64{}
	}
	return m
}

// NetConn is the connection below.
func (m *metered) NetConn() net.Conn { return m.Conn }

// CloseWrite lets net/http end a connection without losing the answer.
func (m *metered) CloseWrite() error {
	if half, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Read looks at what a client sends.
func (m *metered) Read(p []byte) (int, error) {
	if err := m.bound(); err != nil {
		return 0, err
	}
	n, err := m.Conn.Read(p)
	if m.bounded && errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, m.end(ExcessSlow, fmt.Errorf("requests of %d bytes and more were not whole within %v (limits.body-timeout)", HeldFree, m.bounds.Timeout))
	}
	if n == 0 {
		return n, err
	}
	m.mu.Lock()
	why, excess := m.received(p[:n])
	m.mu.Unlock()
	if excess != nil {
		return 0, m.end(why, excess)
	}
	return n, err
}

// bound sees to it that a read ends when the time of unfinished bodies does. Servers of gRPC set no read deadlines.
func (m *metered) bound() error {
	m.mu.Lock()
	since, over := m.since, m.over
	m.mu.Unlock()
	switch {
	case over != nil:
		return over
	case m.bounds.Timeout == 0:
	case !since.IsZero():
		m.bounded = true
		return m.Conn.SetReadDeadline(since.Add(m.bounds.Timeout))
	case m.bounded:
		m.bounded = false
		return m.Conn.SetReadDeadline(time.Time{})
	}
	return nil
}

// received counts what came. It is called with mu held.
func (m *metered) received(b []byte) (why Excess, err error) {
	var now time.Time
	for {
		f, more := m.in.next(&b)
		if !more {
			break
		}
		var rate *bucket
		switch f.kind {
		case http2.FrameHeaders:
			m.open(f.stream)
		case http2.FrameData:
			m.grow(f.stream, int64(f.length))
			if f.length == 0 && !f.flags.Has(http2.FlagDataEndStream) {
				rate, why = &m.control, ExcessControl
			}
		case http2.FrameRSTStream:
			m.close(f.stream)
			rate, why = &m.resets, ExcessResets
		case http2.FrameSettings:
			rate, why = &m.settings, ExcessSettings
		default:
			rate, why = &m.control, ExcessControl
		}
		if rate == nil {
			continue
		}
		if now.IsZero() {
			now = time.Now()
		}
		if !rate.spend(now) || why == ExcessResets && m.bounds.Reset != nil && !m.bounds.Reset(m.Conn) {
			return why, fmt.Errorf("more than %d frames of HTTP/2 a second that are %s", int(rate.rate), why)
		}
	}
	return ExcessHeld, m.tell()
}

// Write looks at what the server answers.
func (m *metered) Write(p []byte) (int, error) {
	if m.calls {
		m.mu.Lock()
		m.answered(p)
		err := m.over
		m.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
	return m.Conn.Write(p)
}

// answered lets go of what was answered: of a call that has ended all, and of one that goes on what came before an answer. What
// a server has not read of it then, its flow control bounds. It is called with mu held.
func (m *metered) answered(b []byte) {
	for {
		f, more := m.out.next(&b)
		if !more {
			break
		}
		switch {
		case f.kind == http2.FrameRSTStream, (f.kind == http2.FrameHeaders || f.kind == http2.FrameData) && f.flags.Has(http2.FlagHeadersEndStream):
			m.close(f.stream)
		case f.kind == http2.FrameData:
			m.grow(f.stream, -m.streams[f.stream])
		}
	}
	_ = m.tell() // fewer is not refused
}

func (m *metered) open(stream uint32) {
	if m.calls && stream > m.last {
		m.last = stream
		m.streams[stream] = 0
	}
}

func (m *metered) grow(stream uint32, by int64) {
	if has, ok := m.streams[stream]; ok {
		m.streams[stream] = has + by
		m.body += by
	}
}

func (m *metered) close(stream uint32) {
	m.body -= m.streams[stream]
	delete(m.streams, stream)
}

// tell has Hold know how much is held now. It is called with mu held.
func (m *metered) tell() error {
	if !m.calls || m.over != nil {
		return m.over
	}
	switch {
	case m.body <= HeldFree:
		m.since = time.Time{}
	case m.since.IsZero():
		m.since = time.Now()
	}
	held := max(0, m.body+StreamCost*int64(len(m.streams))-HeldFree)
	if held == m.told || m.bounds.Hold == nil {
		return nil
	}
	if err := m.bounds.Hold(m.Conn, held-m.told); err != nil {
		return err
	}
	m.told = held
	return nil
}

// goodbyeTimeout is how long the last word may take.
const goodbyeTimeout = time.Second

// end says why, if nothing else is being said, and lets nothing more through.
func (m *metered) end(why Excess, excess error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over != nil {
		return m.over
	}
	m.over = excess
	if m.bounds.Ended != nil {
		m.bounds.Ended(m.Conn, why)
	}
	if m.out.between() && m.Conn.SetWriteDeadline(time.Now().Add(goodbyeTimeout)) == nil {
		_, _ = m.Conn.Write(goAwayAll(excess.Error())) // a client that has gone needs no word
	}
	return excess
}

// Close gives back what was held.
func (m *metered) Close() error {
	m.mu.Lock()
	if m.told > 0 {
		_ = m.bounds.Hold(m.Conn, -m.told) // fewer is not refused
		m.told = 0
	}
	if m.over == nil {
		m.over = net.ErrClosed // what comes now is not counted any more
	}
	m.mu.Unlock()
	return m.Conn.Close()
}

// goAwayAll is a GOAWAY after which every call may have been begun.
func goAwayAll(why string) []byte {
	frame := goAway(why)
	binary.BigEndian.PutUint32(frame[frameHead:], 1<<31-1)
	return frame
}

// frames tells one frame from the next in bytes that pass in pieces.
type frames struct {
	head [frameHead]byte
	have int // of head
	left int // of a payload
}

// frame is the head of one.
type frame struct {
	length int
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
}

// between reports whether the last frame is whole.
func (s *frames) between() bool { return s.have == 0 && s.left == 0 }

// next takes the bytes up to the end of the next head from b; false: there is none in it.
func (s *frames) next(b *[]byte) (f frame, ok bool) {
	if skip := min(s.left, len(*b)); skip > 0 {
		*b, s.left = (*b)[skip:], s.left-skip
	}
	n := copy(s.head[s.have:], *b)
	*b = (*b)[n:]
	if s.have += n; s.have < frameHead {
		return f, false
	}
	s.have = 0
	f = frame{
		length: int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2]),
		kind:   http2.FrameType(s.head[3]), flags: http2.Flags(s.head[4]),
		stream: binary.BigEndian.Uint32(s.head[5:]) &^ (1 << 31),
	}
	s.left = f.length
	if skip := min(s.left, len(*b)); skip > 0 {
		*b, s.left = (*b)[skip:], s.left-skip
	}
	return f, true
}

// bucket lets rate things a second through, and burst at once.
type bucket struct {
	rate, burst float64
	used        float64
	at          time.Time
}

func (b *bucket) spend(now time.Time) bool {
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.used = max(0, b.used-passed*b.rate)
		b.at = now
	}
	b.used++
	return b.used <= b.burst
}
