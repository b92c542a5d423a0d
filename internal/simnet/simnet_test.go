package simnet

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// send writes n packets of size bytes, gap apart, from one socket to a node.
func send(t *testing.T, n *Net, from net.PacketConn, to string, count, size int, gap time.Duration) {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp", n.Addr(to))
	if err != nil {
		t.Fatal(err)
	}
	for range count {
		if _, err := from.WriteTo(make([]byte, size), addr); err != nil {
			t.Fatal(err)
		}
		time.Sleep(gap)
	}
}

// count reads until nothing has come for a second.
func count(t *testing.T, c net.PacketConn) (got int, last net.Addr) {
	t.Helper()
	buf := make([]byte, 2000)
	for {
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return got, last
		}
		got, last = got+1, from
	}
}

func TestDelayIsWhatWasSet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(t, 1)
		a, b := n.Node("a"), n.Node("b")
		n.OneWay("a", "b").Delay(40 * time.Millisecond)
		start := time.Now()
		send(t, n, a, "b", 1, 100, 0)
		if _, from, err := b.ReadFrom(make([]byte, 100)); err != nil || from.String() != n.Addr("a") {
			t.Fatalf("read from %v: %v, want from %s", from, err, n.Addr("a"))
		}
		if took := time.Since(start); took != 40*time.Millisecond {
			t.Errorf("took %v, want 40ms", took)
		}
	})
}

func TestLossIsTheShareSetAndRepeats(t *testing.T) {
	for _, burst := range []int{1, 4} {
		bubble(t, func(t *testing.T) {
			var lost [2]int
			for i := range lost {
				n := New(t, 7)
				a, b := n.Node("a"), n.Node("b")
				n.Link("a", "b").Loss(0.05).Burst(burst)
				done := make(chan int)
				go func() { got, _ := count(t, b); done <- got }()
				send(t, n, a, "b", 20000, 10, time.Millisecond)
				lost[i] = 20000 - <-done
				if s := n.OneWay("a", "b").Stats(); s.Packets != 20000 || s.Lost != lost[i] || s.Bytes != 200000 {
					t.Errorf("stats %+v with %d lost", s, lost[i])
				}
				_, _ = a.Close(), b.Close()
			}
			if lost[0] < 850 || lost[0] > 1150 || lost[0] != lost[1] {
				t.Errorf("burst %d: lost %v of 20000, want about 1000 and twice the same", burst, lost)
			}
		})
	}
}

func TestCutIsPerDirectionAndHeals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(t, 1)
		a, b := n.Node("a"), n.Node("b")
		n.CutOneWay("a", "b")
		send(t, n, a, "b", 3, 10, 0)
		send(t, n, b, "a", 3, 10, 0)
		if got, _ := count(t, b); got != 0 {
			t.Errorf("%d packets passed the cut", got)
		}
		if got, _ := count(t, a); got != 3 {
			t.Errorf("%d packets passed the other way, want 3", got)
		}
		n.Heal("a", "b")
		send(t, n, a, "b", 3, 10, 0)
		if got, _ := count(t, b); got != 3 {
			t.Errorf("%d packets passed after healing, want 3", got)
		}
	})
}

func TestMovedNodeSendsFromItsNewAddressOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(t, 1)
		a, b := n.Node("a"), n.Node("b")
		old, err := net.ResolveUDPAddr("udp", n.Addr("a"))
		if err != nil {
			t.Fatal(err)
		}
		now := n.Move("a")
		send(t, n, a, "b", 1, 10, 0)
		if _, from := count(t, b); from == nil || from.String() != now {
			t.Errorf("packet came from %v, want %s", from, now)
		}
		if _, err := b.WriteTo([]byte("x"), old); err != nil {
			t.Fatal(err)
		}
		if got, _ := count(t, a); got != 0 {
			t.Error("the old address still works")
		}
		send(t, n, b, "a", 1, 10, 0)
		if got, _ := count(t, a); got != 1 {
			t.Error("the new address does not work")
		}
	})
}

func TestANATForgetsWhoIsSilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(t, 1)
		n.NAT("a", 20*time.Second)
		a, b := n.Node("a"), n.Node("b")
		send(t, n, a, "b", 1, 10, 0)
		_, first := count(t, b)
		answer := func() int {
			if _, err := b.WriteTo([]byte("x"), first); err != nil {
				t.Fatal(err)
			}
			got, _ := count(t, a)
			return got
		}
		time.Sleep(15 * time.Second)
		if answer() != 1 {
			t.Error("a mapping was lost before its time")
		}
		time.Sleep(10 * time.Second)
		if answer() != 0 {
			t.Error("a mapping outlived its time")
		}
		send(t, n, a, "b", 1, 10, 0)
		if _, second := count(t, b); second == nil || second.String() == first.String() {
			t.Errorf("the node comes from %v again", second)
		}
	})
}

func TestRateSpacesPacketsAndDropsBeyondTheBuffer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(t, 1)
		a, b := n.Node("a"), n.Node("b")
		n.OneWay("a", "b").Delay(0).Rate(1_000_000)
		start := time.Now()
		send(t, n, a, "b", 100, 972, 0) // 8 ms each: 800 ms at once into a buffer of 200 ms
		got, _ := count(t, b)
		took := time.Since(start) - time.Second
		if got < 25 || got > 27 || took < 200*time.Millisecond || took > 220*time.Millisecond {
			t.Errorf("%d of 100 arrived in %v, want about 26 in 208ms", got, took)
		}
	})
}

func TestRestartedNodeKeepsItsAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(t, 1)
		a, b := n.Node("a"), n.Node("b")
		addr := n.Addr("b")
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		send(t, n, a, "b", 1, 10, time.Millisecond)
		b = n.Node("b")
		send(t, n, a, "b", 1, 10, 0)
		if got, _ := count(t, b); got != 1 || n.Addr("b") != addr {
			t.Errorf("%d packets at %s, want the second one at %s", got, n.Addr("b"), addr)
		}
	})
}
