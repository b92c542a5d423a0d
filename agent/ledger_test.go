package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/internal/sniff"
	"holdfast/kv"
)

func from(addr string) api.Caller {
	return api.Caller{Addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 4711)}
}

func testLedger(share, rate int) *ledger {
	return newLedger(share, rate, [uses]int64{useConnection: 8, useHandshake: 8, useRequest: 8, useWatch: 8, useBody: 8}, prometheus.NewRegistry())
}

// takes counts how often a client may have something.
func takes(l *ledger, c api.Caller, u use) (n int, last error) {
	for n < 100 && last == nil {
		if last = l.take(c, u); last == nil {
			n++
		}
	}
	return n, last
}

func TestAClientGetsItsShareAndLeavesTheRest(t *testing.T) {
	for u := range uses {
		l := testLedger(25, 0)
		a, err := takes(l, from("192.0.2.1"), u)
		if a != 2 || kv.CodeOf(err) != kv.RateLimited {
			t.Errorf("%s: one client got %d, then %v; want 2 of 8", u, a, err)
		}
		for i, want := range []int{2, 2, 2, 0} { // all have their share, and the last finds nothing left
			n, err := takes(l, from(fmt.Sprintf("192.0.2.%d", i+2)), u)
			if n != want || want == 0 && kv.CodeOf(err) != kv.Busy {
				t.Errorf("%s: client %d got %d, then %v; want %d", u, i, n, err, want)
			}
		}
		if n, _ := takes(l, api.Caller{Admin: true}, u); n != 100 {
			t.Errorf("%s: the administration socket got %d", u, n)
		}
		l.give(from("192.0.2.1"), u)
		if n, _ := takes(l, from("192.0.2.1"), u); n != 1 {
			t.Errorf("%s: what was given back was had %d times", u, n)
		}
		if l.refused[u].Load() == 0 {
			t.Errorf("%s: refusals are not counted", u)
		}
	}
}

func TestWhoSharesAnAccount(t *testing.T) {
	l := testLedger(25, 0)
	if n, _ := takes(l, from("2001:db8::1"), useRequest); n != 2 {
		t.Errorf("got %d", n)
	}
	if n, _ := takes(l, from("2001:db8::ffff"), useRequest); n != 0 {
		t.Errorf("another address of the same 64 bits got %d", n)
	}
	if n, _ := takes(l, from("2001:db8:0:1::1"), useRequest); n != 2 {
		t.Errorf("another network got %d", n)
	}
	for _, addr := range []string{"127.0.0.1", "::1"} {
		if n, _ := takes(testLedger(25, 0), from(addr), useRequest); n != 8 {
			t.Errorf("this machine at %s got %d, want all", addr, n)
		}
	}
	if n, _ := takes(testLedger(25, 0), api.Caller{Process: &api.Process{}}, useRequest); n != 8 {
		t.Errorf("a unix socket got %d, want all", n)
	}
}

func TestAccountsAreClosedWhenNothingIsOpen(t *testing.T) {
	l := testLedger(100, 0)
	for i := range 1000 {
		c := from(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String())
		if err := l.take(c, useConnection); err != nil {
			t.Fatal(err)
		}
		l.give(c, useConnection)
	}
	if len(l.clients) != 0 || l.total[useConnection] != 0 {
		t.Errorf("%d accounts, %d connections are left", len(l.clients), l.total[useConnection])
	}
}

func TestTheRateOfAClientIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLedger(100, 5)
		c := from("192.0.2.1")
		send := func() (n int, last error) {
			for range 20 {
				if last = l.take(c, useRequest); last != nil {
					return n, last
				}
				l.give(c, useRequest)
				n++
			}
			return n, last
		}
		n, err := send()
		e, _ := errors.AsType[*kv.Error](err)
		if n != 5 || e == nil || e.Code != kv.RateLimited || e.RetryAfter == 0 {
			t.Errorf("%d requests at once, then %v; want 5", n, err)
		}
		time.Sleep(400 * time.Millisecond)
		if n, _ := send(); n != 2 {
			t.Errorf("%d requests after 400 ms, want 2", n)
		}
		time.Sleep(time.Hour)
		if n, _ := send(); n != 5 {
			t.Errorf("%d requests after an hour, want a second's worth", n)
		}
		if l.limited.Load() != 3 {
			t.Errorf("counted %d refusals", l.limited.Load())
		}
	})
}

// Connections that come and go cost the node the more the faster they come, however few are open: TLS is agreed upon on each.
func TestTheRateOfConnectionsOfAClientIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		l := newLimiter(forClients, 100, newLedger(50, 0, [uses]int64{useConnection: 100}, reg), reg)
		l.ledger.opens.Store(10)
		open := func(addr string) (n int) {
			for range 30 {
				if c := l.admit(farConn{addr: addr}); c != nil {
					if c.beyond != nil {
						t.Fatalf("one got the answer %v", c.beyond)
					}
					_ = c.Close()
					n++
				}
			}
			return n
		}
		if n := open("192.0.2.1"); n != 10 {
			t.Errorf("%d connections at once, want 10", n)
		}
		if n := open("192.0.2.2"); n != 10 {
			t.Errorf("another client opened %d, want 10", n)
		}
		if n := open("127.0.0.1"); n != 30 {
			t.Errorf("this machine opened %d, want all", n)
		}
		time.Sleep(500 * time.Millisecond)
		if n := open("192.0.2.1"); n != 5 {
			t.Errorf("%d connections after half a second, want 5", n)
		}
		if got := l.ledger.hasty.Load(); got != 20+20+25 || l.open.Load() != 0 || len(l.ledger.clients) != 2 {
			t.Errorf("%d refused, %d open, %d accounts", got, l.open.Load(), len(l.ledger.clients))
		}
		time.Sleep(time.Minute)
		if l.ledger.sweep(time.Now()); len(l.ledger.clients) != 0 {
			t.Errorf("%d accounts are left", len(l.ledger.clients))
		}
	})
}

// Who was cut off for too much, or has sent what nobody takes, waits before it gets another connection.
func TestWhatIsDoneInVainCountsAsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLedger(100, 0)
		l.opens.Store(10)
		open := func(addr string) (n int) {
			for n < 20 && l.take(from(addr), useConnection) == nil {
				l.give(from(addr), useConnection)
				n++
			}
			return n
		}
		l.charge(from("192.0.2.1"), 4)
		if n := open("192.0.2.1"); n != 5 { // of 10, less the one of the charge itself
			t.Errorf("%d connections after a small charge", n)
		}
		for range 100 {
			l.charge(from("192.0.2.1"), excessCost)
			l.charge(from("127.0.0.1"), excessCost)
		}
		time.Sleep(chargeMost * time.Second)
		if n := open("192.0.2.1"); n != 0 {
			t.Errorf("%d connections while it still owes some", n)
		}
		if n, other := open("127.0.0.1"), open("192.0.2.2"); n != 20 || other != 10 {
			t.Errorf("this machine opened %d, another client %d", n, other)
		}
		time.Sleep(time.Second)
		if n := open("192.0.2.1"); n != 10 {
			t.Errorf("%d connections once that is over, want 10", n)
		}
	})
}

// A client that gives calls up without end does not get another burst with another connection.
func TestTheResetsOfAClientAreCountedOverItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLedger(100, 0)
		resets := func(c api.Caller) (n int) {
			for n <= 2*sniff.ResetBurst && l.reset(c) {
				n++
			}
			return n
		}
		if n := resets(from("192.0.2.1")); n != sniff.ResetBurst {
			t.Errorf("%d at once, want %d", n, sniff.ResetBurst)
		}
		if n := resets(from("192.0.2.2")); n != sniff.ResetBurst {
			t.Errorf("another client: %d at once, want %d", n, sniff.ResetBurst)
		}
		if n := resets(from("127.0.0.1")); n <= sniff.ResetBurst {
			t.Errorf("this machine: %d", n)
		}
		time.Sleep(time.Second)
		if n := resets(from("192.0.2.1")); n != sniff.ResetRate {
			t.Errorf("%d after a second, want %d", n, sniff.ResetRate)
		}
		time.Sleep(time.Hour)
		if l.sweep(time.Now()); len(l.clients) > 0 {
			t.Errorf("%d accounts are left", len(l.clients))
		}
	})
}

// farConn is a connection from somewhere.
type farConn struct {
	net.Conn
	addr string
}

func (c farConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.addr), 4711))
}
func (farConn) LocalAddr() net.Addr { return &net.TCPAddr{} }
func (farConn) Close() error        { return nil }

// One address that opens connections without end gets its share, a few answers that say so, and then nothing; others go on.
func TestAFloodOfConnectionsLeavesRoomForOthers(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := newLimiter(forClients, 8, newLedger(25, 0, [uses]int64{useConnection: 8}, reg), reg)
	var open []*limitedConn
	regular, answered := 0, 0
	for range 5000 {
		c := l.admit(farConn{addr: "192.0.2.1"})
		if c == nil {
			continue
		}
		open = append(open, c)
		if c.beyond == nil {
			regular++
		} else if answered++; kv.CodeOf(c.beyond) != kv.RateLimited {
			t.Fatalf("the answer is %v", c.beyond)
		}
	}
	if regular != 2 || answered != reserve {
		t.Errorf("%d connections served and %d answered; want 2 and %d", regular, answered, reserve)
	}
	if c := l.admit(farConn{addr: "192.0.2.2"}); c == nil || c.beyond != nil {
		t.Error("another client found no room")
	}
	for _, c := range open {
		_ = c.Close()
	}
	if l.open.Load() != 1 || l.beyond.Load() != 0 {
		t.Errorf("%d open, %d beyond after all were closed", l.open.Load(), l.beyond.Load())
	}
}

func TestBodiesUnderWayAreCountedAndGivenBack(t *testing.T) {
	l := newLedger(25, 0, [uses]int64{useBody: 40 << 10}, prometheus.NewRegistry())
	var during func()
	var got error
	h := l.bodies(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, got = io.Copy(io.Discard, r.Body); during != nil {
			during()
		}
	}))
	ask := func(addr string, size int, announced bool) error {
		r := httptest.NewRequestWithContext(api.WithCaller(t.Context(), from(addr)), http.MethodPut, "/", strings.NewReader(strings.Repeat("x", size)))
		if !announced {
			r.ContentLength = -1
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		return got
	}
	for _, announced := range []bool{true, false} {
		if err := ask("192.0.2.1", 10<<10, announced); err != nil {
			t.Errorf("its share: %v", err)
		}
		if err := ask("192.0.2.1", 10<<10+1, announced); kv.CodeOf(err) != kv.RateLimited {
			t.Errorf("more than its share: %v", err)
		}
		if err := ask("127.0.0.1", 40<<10, announced); err != nil {
			t.Errorf("on this machine: %v", err)
		}
	}
	during = func() {
		during = nil
		if err := ask("192.0.2.1", 5<<10, true); kv.CodeOf(err) != kv.RateLimited {
			t.Errorf("beside one under way: %v", err)
		}
		if err := ask("192.0.2.1", bodyFree, true); err != nil {
			t.Errorf("a small one beside it: %v", err)
		}
		if err := ask("192.0.2.2", 5<<10, true); err != nil {
			t.Errorf("by another client: %v", err)
		}
		if err := ask("127.0.0.1", 31<<10, true); kv.CodeOf(err) != kv.Busy {
			t.Errorf("more than the node has: %v", err)
		}
	}
	if err := ask("192.0.2.1", 10<<10, true); kv.CodeOf(err) != kv.Busy { // the last of those inside of it
		t.Error(err)
	}
	if l.total[useBody] != 0 || len(l.clients) > 0 || l.refused[useBody].Load() == 0 {
		t.Errorf("afterwards %d bytes are counted for %d clients, %d refused", l.total[useBody], len(l.clients), l.refused[useBody].Load())
	}
}

// What comes beyond the accounts that there may be shares one.
func TestClientsBeyondTheAccountsShareOne(t *testing.T) {
	l := newLedger(50, 0, [uses]int64{useWatch: 4 * clientsMax, useRequest: 8}, prometheus.NewRegistry())
	for i := range clientsMax {
		if err := l.take(from(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()), useWatch); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := takes(l, from("192.0.2.1"), useRequest); n != 4 {
		t.Errorf("the first beyond them got %d, want its share", n)
	}
	if n, err := takes(l, from("192.0.2.2"), useRequest); n != 0 || kv.CodeOf(err) != kv.RateLimited {
		t.Errorf("the second got %d, %v", n, err)
	}
	if len(l.clients) != clientsMax+1 {
		t.Errorf("%d accounts", len(l.clients))
	}
	l.give(from("192.0.2.1"), useRequest)
	if n, _ := takes(l, from("192.0.2.2"), useRequest); n != 1 {
		t.Errorf("what the first gave back the second got %d times", n)
	}
}

// opensLeft is how many connections a client may open at once now.
func opensLeft(l *ledger, addr string) (n int) {
	for l.take(from(addr), useConnection) == nil {
		l.give(from(addr), useConnection)
		n++
	}
	return n
}

// A body of which nobody takes the end costs its client connections, and one that is taken does not.
func TestABodyThatNobodyTakesIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(100, 0, [uses]int64{useBody: 1 << 20}, prometheus.NewRegistry())
		l.opens.Store(10)
		var limit int64
		h := l.bodies(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.CopyN(io.Discard, r.Body, limit) }))
		for addr, tc := range map[string]struct {
			read int64
			want int
		}{"192.0.2.1": {1 << 20, 10}, "192.0.2.2": {4 * vainBytes, 10 - 1 - 4}, "192.0.2.3": {vainBytes - 1, 10}} { // one for the charge itself
			limit = tc.read
			body := strings.NewReader(strings.Repeat("x", 8*vainBytes))
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(api.WithCaller(t.Context(), from(addr)), http.MethodPut, "/", body))
			if n := opensLeft(l, addr); n != tc.want {
				t.Errorf("who sent %d bytes of which %d were read may open %d connections, want %d", 8*vainBytes, tc.read, n, tc.want)
			}
		}
	})
}

// What a connection of HTTP/2 is told of its bounds, the ledger keeps.
func TestBoundsOfHTTP2AreTheLedgers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{cfg: settings(t), gate: newGate(), opts: withDefaults([]Options{{}})}
		a.cfg.Limits.Bodies, a.cfg.Limits.ClientShare, a.cfg.Limits.ConnectionRate = 1000, 50, 10
		l, b := a.openLedger(), a.bounds()
		one, other := farConn{addr: "192.0.2.1"}, farConn{addr: "192.0.2.2"}
		if err := b.Hold(one, 500); err != nil {
			t.Errorf("a client's share: %v", err)
		}
		if err := b.Hold(one, 1); kv.CodeOf(err) != kv.RateLimited {
			t.Errorf("more than that: %v", err)
		}
		if err := errors.Join(b.Hold(other, 100), b.Hold(one, -400), b.Hold(one, 400)); err != nil {
			t.Errorf("another, and what was given back: %v", err)
		}
		if l.total[useBody] != 600 {
			t.Errorf("%d bytes are counted, want 600", l.total[useBody])
		}
		n := 0
		for n <= sniff.ResetBurst && b.Reset(one) {
			n++
		}
		if n != sniff.ResetBurst || !b.Reset(other) {
			t.Errorf("%d resets were let through, want %d, and those of another client", n, sniff.ResetBurst)
		}
		if b.Timeout != a.cfg.Limits.BodyTimeout {
			t.Errorf("bodies have %v", b.Timeout)
		}
		if n := opensLeft(l, "192.0.2.1"); n != 10 {
			t.Errorf("before it is ended it opens %d connections", n)
		}
		time.Sleep(time.Second)
		b.Ended(one, sniff.ExcessResets)
		if time.Sleep(chargeMost * time.Second); opensLeft(l, "192.0.2.1") != 0 || opensLeft(l, "192.0.2.2") != 10 {
			t.Error("whose connection was ended opens others at once, or somebody else does not")
		}
	})
}
