package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStreamsDeliverEverythingAtFivePercentLoss(t *testing.T) {
	for seed := range uint64(3) {
		bubble(t, seed, func(t *testing.T, w *world) {
			w.net.Link("a", "b").Delay(25 * time.Millisecond).Loss(0.05).Burst(int(seed) + 1)
			a, b := w.start("a"), w.start("b")
			got := make(chan []byte, 1)
			b.Listen(Raft, func(ctx context.Context, c *Conn) {
				s, err := c.AcceptUniStream(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				data, err := io.ReadAll(s)
				if err != nil {
					t.Error(err)
				}
				got <- data
			})
			c := w.dial(a, "b", Raft)
			want := make([]byte, 1<<20)
			rng := rand.NewChaCha8([32]byte{byte(seed)})
			_, _ = rng.Read(want)
			s, err := c.OpenUniStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if data := <-got; !bytes.Equal(data, want) {
				t.Errorf("seed %d: %d bytes arrived, or others", seed, len(data))
			}
			if h := c.Health(); h.Loss < 0.01 || h.Loss > 0.15 || h.PacketsLost == 0 || h.RTTSmoothed < 50*time.Millisecond {
				t.Errorf("seed %d: health %+v, want a loss of about 0.05 at 50ms", seed, h)
			}
		})
	}
}

func TestManyStreamsAtOnceAllGetAnswers(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.net.Link("a", "b").Loss(0.05)
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		c := w.dial(a, "b", Raft)
		var wg sync.WaitGroup
		for i := range 2 * maxStreams { // half of them wait for a place
			wg.Go(func() {
				if got, err := ask(c, fmt.Sprint(i), time.Minute); err != nil || got != fmt.Sprint(i) {
					t.Errorf("stream %d: %q, %v", i, got, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestDatagramsNeverBlockAndTheNewestWin(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.net.Link("a", "b").Delay(50 * time.Millisecond)
		a, b := w.start("a"), w.start("b")
		got := make(chan uint32, 10000)
		b.Listen(Raft, func(ctx context.Context, c *Conn) {
			for {
				p, err := c.ReceiveDatagram(ctx)
				if err != nil {
					return
				}
				got <- binary.BigEndian.Uint32(p)
			}
		})
		c := w.dial(a, "b", Raft)
		const n = 5000
		start := time.Now()
		for i := range uint32(n) {
			p := make([]byte, MaxDatagram)
			binary.BigEndian.PutUint32(p, i)
			if err := c.SendDatagram(p); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("sending blocked for %v", took)
		}
		time.Sleep(10 * time.Second)
		seen := make(map[uint32]bool)
		last := uint32(0)
		for len(got) > 0 {
			i := <-got
			if seen[i] || i < last {
				t.Errorf("datagram %d again or after %d", i, last)
			}
			seen[i], last = true, i
		}
		for i := uint32(n - datagramQueueLen); i < n; i++ {
			if !seen[i] {
				t.Errorf("datagram %d of %d is among the newest %d and was dropped", i, n, datagramQueueLen)
			}
		}
		h := c.Health()
		if h.DatagramsDropped == 0 || h.DatagramsSent+h.DatagramsDropped != n || int(h.DatagramsSent) != len(seen) || h.DatagramsQueued != 0 {
			t.Errorf("%d arrived, health %+v", len(seen), h)
		}
	})
}

func TestDatagramSizeIsBounded(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		c := w.dial(a, "b", Raft)
		for _, n := range []int{0, MaxDatagram + 1} {
			if err := c.SendDatagram(make([]byte, n)); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%d bytes: %v, want ErrTooLarge", n, err)
			}
		}
		for _, n := range []int{1, MaxDatagram} {
			if err := c.SendDatagram(make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			p, err := c.ReceiveDatagram(ctx)
			cancel()
			if err != nil || len(p) != n {
				t.Errorf("%d bytes: %d came back, %v", n, len(p), err)
			}
		}
		c.CloseWithError(CodeDone, "")
		if err := c.SendDatagram([]byte("x")); err == nil {
			t.Error("sent on a closed connection")
		}
	})
}

func TestProbeIsSeenByNobody(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, func(ctx context.Context, c *Conn) {
			if p, err := c.ReceiveDatagram(ctx); err == nil {
				t.Errorf("received %q", p)
			}
		})
		c := w.dial(a, "b", Raft)
		before := c.Health().PacketsReceived
		c.Probe()
		time.Sleep(time.Second)
		if after := c.Health().PacketsReceived; after == before {
			t.Error("the probe was not answered")
		}
	})
}

func TestCloseReasonReachesThePeer(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		long := strings.Repeat("ü", maxReason)
		b.Listen(Raft, func(ctx context.Context, c *Conn) {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.ReadAll(s)
			c.CloseWithError(CodeUser+7, "because: "+long)
		})
		c := w.dial(a, "b", Raft)
		_, err := ask(c, "go", time.Second)
		closed, ok := errors.AsType[*CloseError](err)
		if !ok || !closed.Remote || closed.Code != CodeUser+7 || !strings.HasPrefix(closed.Reason, "because: üü") || len(closed.Reason) > maxReason {
			t.Errorf("got %v", err)
		}
		<-c.Context().Done()
		if err := c.Err(); err == nil || err.Error() != closed.Error() {
			t.Errorf("Err is %v, want %v", err, closed)
		}
	})
}

func TestAbortedStreamTellsTheCode(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, func(ctx context.Context, c *Conn) {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			s.Abort(42)
			<-ctx.Done()
		})
		c := w.dial(a, "b", Raft)
		_, err := ask(c, "go", time.Second)
		aborted, ok := errors.AsType[*StreamError](err)
		if !ok || aborted.Code != 42 || !aborted.Remote || !errors.Is(err, ErrStreamAborted) {
			t.Errorf("got %v", err)
		}
		if c.Err() != nil {
			t.Errorf("the connection ended: %v", c.Err())
		}
	})
}

func TestReadDeadlineIsTold(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, func(ctx context.Context, _ *Conn) { <-ctx.Done() })
		if _, err := ask(w.dial(a, "b", Raft), "anyone?", 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPeerChangesItsAddressAndTheConnectionLives(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		conns := make(chan *Conn, 1)
		b.Listen(Raft, func(ctx context.Context, c *Conn) {
			conns <- c
			echo(ctx, c)
		})
		c := w.dial(a, "b", Raft)
		server := <-conns
		addr := w.net.Move("a")
		if got, err := ask(c, "from elsewhere", 5*time.Second); err != nil || got != "from elsewhere" {
			t.Fatalf("answer %q, %v", got, err)
		}
		if got := server.RemoteAddr().String(); got != addr {
			t.Errorf("the server sends to %s, want %s", got, addr)
		}
	})
}

func TestDialRacesAddressesAndKeepsTheFirstThatAnswers(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		start := time.Now()
		c, err := a.Dial(t.Context(), Raft, Target{Addrs: []string{"10.9.9.9:1", "nowhere:2", "b:2380", "b"}, Node: b.id.Node()})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 300*time.Millisecond {
			t.Errorf("took %v, want a stagger of 250ms and the handshake", took)
		}
		c.CloseWithError(CodeDone, "")

		_, err = a.Dial(t.Context(), Raft, Target{Addrs: []string{"10.9.9.9:1", "nowhere:2", "b", "b:70000"}})
		for _, want := range []string{"10.9.9.9:1: no answer from the peer", "look up nowhere: simnet: no node named nowhere",
			`"b": want host:port`, `"b:70000": want a port`} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q in it", err, want)
			}
		}
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
	})
}

func TestProtocolThatNobodyServesIsRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Uplink, echo)
		if _, err := a.Dial(t.Context(), Raft, w.target("b")); !errors.Is(err, ErrProtocol) {
			t.Errorf("got %v, want ErrProtocol", err)
		}
	})
}
