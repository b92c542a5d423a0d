package sniff

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// metering is a metered connection with what it told.
type metering struct {
	t      *testing.T
	server net.Conn // metered
	client net.Conn
	held   int64
	most   int64 // Hold refuses more
	ended  []Excess
}

var errHeld = errors.New("too much is held")

func meter(t *testing.T, most int64, timeout time.Duration) *metering {
	t.Helper()
	client, server := net.Pipe()
	m := &metering{t: t, client: client, most: most}
	m.server = newMetered(server, &Bounds{
		Timeout: timeout,
		Ended:   func(_ net.Conn, why Excess) { m.ended = append(m.ended, why) },
		Hold: func(c net.Conn, n int64) error {
			if c != server {
				t.Error("another connection is counted")
			}
			if n > 0 && m.held+n > m.most {
				return errHeld
			}
			m.held += n
			if m.held < 0 {
				t.Errorf("%d bytes are held", m.held)
			}
			return nil
		},
	}, true)
	t.Cleanup(func() { _ = m.server.Close(); _ = client.Close() })
	return m
}

// sent is what a client sends, in frames.
func sent(write func(f *http2.Framer)) []byte {
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	write(http2.NewFramer(&b, nil))
	return b.Bytes()
}

// body is n bytes of one.
func body(f *http2.Framer, stream uint32, n int) {
	for n > 0 {
		some := min(n, 16<<10)
		_ = f.WriteData(stream, false, make([]byte, some))
		n -= some
	}
}

// receive has the server read all of b, at most step bytes at a time.
func (m *metering) receive(b []byte, step int) error {
	m.t.Helper()
	go func() { _, _ = m.client.Write(b) }()
	buf := make([]byte, step)
	for got := 0; got < len(b); {
		n, err := m.server.Read(buf)
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}

// answer has the server write frames.
func (m *metering) answer(write func(f *http2.Framer)) {
	m.t.Helper()
	var b bytes.Buffer
	write(http2.NewFramer(&b, nil))
	go func() { _, _ = io.CopyN(io.Discard, m.client, int64(b.Len())) }()
	for _, piece := range [][]byte{b.Bytes()[:3], b.Bytes()[3:]} {
		if _, err := m.server.Write(piece); err != nil {
			m.t.Fatal(err)
		}
	}
}

func TestWhatIsNotAnsweredIsCounted(t *testing.T) {
	const large = 300 << 10
	for _, step := range []int{1, 7, 1000, 1 << 20} {
		m := meter(t, 1<<30, 0)
		want := func(bytes, calls int64) {
			t.Helper()
			if want := max(0, bytes+calls*StreamCost-HeldFree); m.held != want {
				t.Errorf("%d bytes of %d calls: %d are held, want %d", bytes, calls, m.held, want)
			}
		}
		if err := m.receive(sent(func(f *http2.Framer) {
			_ = f.WriteSettings()
			for _, stream := range []uint32{1, 3, 5} {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte("head"), EndHeaders: true})
			}
			body(f, 1, large)
			body(f, 3, large)
			body(f, 77, large) // of no call
		}), step); err != nil {
			t.Fatal(err)
		}
		want(2*large, 3)
		m.answer(func(f *http2.Framer) { _ = f.WriteData(1, false, []byte("x")) }) // it goes on
		want(large, 3)
		m.answer(func(f *http2.Framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("end"), EndHeaders: true, EndStream: true})
		})
		want(large, 2)
		m.answer(func(f *http2.Framer) { _ = f.WriteRSTStream(3, http2.ErrCodeCancel) })
		want(0, 1)
		_ = m.server.Close()
		if m.held != 0 || len(m.ended) > 0 {
			t.Errorf("%d bytes are held after the end; ended because of %v", m.held, m.ended)
		}
	}
}

func TestACallThatIsGivenUpIsNotHeld(t *testing.T) {
	m := meter(t, 1<<30, 0)
	if err := m.receive(sent(func(f *http2.Framer) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("head"), EndHeaders: true})
		body(f, 1, 1<<20)
		_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
	}), 4096); err != nil {
		t.Fatal(err)
	}
	if m.held != 0 {
		t.Errorf("%d bytes are held", m.held)
	}
}

// told is the GOAWAY that a client gets.
func (m *metering) told() <-chan *http2.GoAwayFrame {
	got := make(chan *http2.GoAwayFrame, 1)
	go func() {
		f, err := http2.NewFramer(nil, m.client).ReadFrame()
		if away, ok := f.(*http2.GoAwayFrame); ok && err == nil {
			got <- away
		}
		close(got)
	}()
	return got
}

func TestWhoHasTooMuchIsEndedAndTold(t *testing.T) {
	headers := func(f *http2.Framer, stream uint32) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte("head"), EndHeaders: true})
	}
	many := func(n int, write func(f *http2.Framer, i int)) func(f *http2.Framer) {
		return func(f *http2.Framer) {
			for i := range n {
				write(f, i)
			}
		}
	}
	for _, tc := range []struct {
		why   Excess
		flood func(f *http2.Framer)
	}{
		{ExcessHeld, many(100, func(f *http2.Framer, i int) { headers(f, uint32(2*i+1)); body(f, uint32(2*i+1), 64<<10) })}, //nolint:gosec // it is small
		{ExcessResets, many(ResetBurst+ResetRate+1, func(f *http2.Framer, i int) {
			headers(f, uint32(2*i+1))                                //nolint:gosec // it is small
			_ = f.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel) //nolint:gosec // it is small
		})},
		{ExcessSettings, many(SettingsBurst+SettingsRate+1, func(f *http2.Framer, _ int) { _ = f.WriteSettings() })},
		{ExcessControl, many(ControlBurst+ControlRate+1, func(f *http2.Framer, _ int) { _ = f.WritePing(false, [8]byte{}) })},
		{ExcessControl, many(ControlBurst+ControlRate+1, func(f *http2.Framer, _ int) { _ = f.WriteWindowUpdate(0, 1) })},
		{ExcessControl, func(f *http2.Framer) {
			headers(f, 1)
			many(ControlBurst+ControlRate+1, func(f *http2.Framer, _ int) { _ = f.WriteData(1, false, nil) })(f)
		}},
	} {
		why, flood := tc.why, tc.flood
		synctest.Test(t, func(t *testing.T) { // no time passes
			m := meter(t, 4<<20, 0)
			told := m.told()
			err := m.receive(sent(flood), 32<<10)
			if err == nil {
				t.Fatalf("%s: it goes on", why)
			}
			if !slices.Equal(m.ended, []Excess{why}) {
				t.Errorf("%s: ended because of %v", why, m.ended)
			}
			away := <-told
			if away == nil || away.ErrCode != http2.ErrCodeEnhanceYourCalm || away.LastStreamID != 1<<31-1 || string(away.DebugData()) != err.Error() {
				t.Errorf("%s: told %v of %v", why, away, err)
			}
			if _, again := m.server.Read(make([]byte, 1)); again == nil {
				t.Errorf("%s: it is read on", why)
			}
			if _, again := m.server.Write(goAway("x")); again == nil {
				t.Errorf("%s: it is answered", why)
			}
			_ = m.server.Close()
			if m.held != 0 {
				t.Errorf("%s: %d bytes are held after the end", why, m.held)
			}
		})
	}
}

func TestRatesOfPatientClientsAreLetThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter(t, 0, 0)
		for range 20 {
			if err := m.receive(sent(func(f *http2.Framer) {
				for range ResetRate {
					_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
				}
				for range ControlRate {
					_ = f.WriteWindowUpdate(0, 1)
				}
			})[map[bool]int{true: 0, false: len(preface)}[m.server.(*metered).in.left > 0]:], 32<<10); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestBodiesHaveTheirTime(t *testing.T) {
	for name, c := range map[string]struct {
		size int
		want bool // is ended
	}{"large": {HeldFree + 1, true}, "small": {HeldFree, false}} {
		synctest.Test(t, func(t *testing.T) {
			m := meter(t, 1<<30, time.Minute)
			told := m.told()
			if err := m.receive(sent(func(f *http2.Framer) {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("head"), EndHeaders: true})
				body(f, 1, c.size)
			}), 4096); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			time.AfterFunc(time.Hour, func() { _ = m.client.Close() })
			_, err := m.server.Read(make([]byte, 1))
			if took := time.Since(begin); c.want != (took == time.Minute) || c.want != slices.Equal(m.ended, []Excess{ExcessSlow}) {
				t.Errorf("%s: %v after %v, ended because of %v", name, err, took, m.ended)
			}
			if away := <-told; (away != nil) != c.want {
				t.Errorf("%s: told %v", name, away)
			}
		})
	}
}

// FuzzFrames cuts bytes into pieces: the frames found are those that are found at once, and nothing negative is held.
func FuzzFrames(f *testing.F) {
	f.Add(sent(func(f *http2.Framer) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("head"), EndHeaders: true})
		body(f, 1, 40<<10)
		_ = f.WritePing(true, [8]byte{})
	}), uint64(1))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 255, 0, 0, 128, 0, 0, 1}, uint64(2))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		all := func(pieces [][]byte) (found []frame) {
			var s frames
			for _, p := range pieces {
				for {
					f, ok := s.next(&p)
					if !ok {
						break
					}
					found = append(found, f)
				}
			}
			return found
		}
		var pieces [][]byte
		rng := rand.New(rand.NewPCG(seed, 0))
		for rest := b; len(rest) > 0; {
			n := 1 + rng.IntN(min(len(rest), 40))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		if whole, cut := all([][]byte{b}), all(pieces); !slices.Equal(whole, cut) {
			t.Fatalf("%v in one piece, %v in pieces", whole, cut)
		}
		held := int64(0)
		m := newMetered(nil, &Bounds{Hold: func(_ net.Conn, n int64) error { held += n; return nil }}, true).(*metered)
		m.in.left = 0
		for i, p := range pieces {
			if i%3 == 2 {
				m.answered(p)
			} else if _, err := m.received(p); err != nil {
				return
			}
			if held < 0 || m.body < 0 {
				t.Fatalf("%d bytes are held, %d of bodies", held, m.body)
			}
		}
	})
}
