package transport

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// natted puts a node behind a NAT, with whatever socket it opens, and lets it measure.
func (w *world) natted(name string, keeps time.Duration) func(*Config) {
	w.nat(name, keeps)
	return func(c *Config) {
		c.Spare = func(context.Context) (net.PacketConn, error) { return w.net.Node(name + "-spare"), nil }
	}
}

// nat makes the NAT in front of a node keep mappings for another time.
func (w *world) nat(name string, keeps time.Duration) {
	w.net.NAT(name, keeps)
	w.net.NAT(name+"-spare", keeps)
}

// uplink connects a to b and returns both ends, with a stream from b to a.
func (w *world) uplink(a, b *node, to string) (client, server *Conn, down *SendStream, up *ReceiveStream) {
	w.t.Helper()
	accepted := make(chan *Conn, 1)
	b.Listen(Uplink, func(ctx context.Context, c *Conn) {
		accepted <- c
		<-ctx.Done()
	})
	client = w.dial(a, to, Uplink)
	server = <-accepted
	var err error
	if down, err = server.OpenUniStream(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	if _, err := down.Write([]byte{0}); err != nil {
		w.t.Fatal(err)
	}
	if up, err = client.AcceptUniStream(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(up, make([]byte, 1)); err != nil {
		w.t.Fatal(err)
	}
	return client, server, down, up
}

// measured waits for the outcome of the next measurement.
func (w *world) measured(a *node, outcome string) KeepAlive {
	w.t.Helper()
	before := a.KeepAlive().Measurements[outcome]
	for range 12 * 60 {
		time.Sleep(10 * time.Second)
		if k := a.KeepAlive(); k.Measurements[outcome] > before {
			return k
		}
	}
	w.t.Fatalf("no measurement with the outcome %s within two hours: %+v", outcome, a.KeepAlive())
	return KeepAlive{}
}

// late is how long news take that b sends to a after a silence of all else.
func (w *world) late(down *SendStream, up *ReceiveStream, silence time.Duration) time.Duration {
	w.t.Helper()
	time.Sleep(silence)
	began := time.Now()
	if _, err := down.Write([]byte{1}); err != nil {
		w.t.Fatal(err)
	}
	if err := up.SetReadDeadline(began.Add(5 * time.Minute)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(up, make([]byte, 1)); err != nil {
		w.t.Fatalf("news after a silence of %v: %v", silence, err)
	}
	return time.Since(began)
}

func TestTheKeepAliveIsFoundJustBelowWhatANATKeeps(t *testing.T) {
	for _, c := range []struct {
		keeps, every time.Duration
		short        bool
	}{
		{10 * time.Second, 15 * time.Second, true},
		{20 * time.Second, 15 * time.Second, false},
		{30 * time.Second, 20 * time.Second, false},
		{45 * time.Second, 30 * time.Second, false},
		{120 * time.Second, 60 * time.Second, false},
		{0, 60 * time.Second, false},
	} {
		t.Run(c.keeps.String(), func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world) {
				w.net.Link("a", "b").Delay(40 * time.Millisecond)
				w.net.Link("a-spare", "b").Delay(40 * time.Millisecond)
				a, b := w.start("a", w.natted("a", c.keeps)), w.start("b")
				client, server, down, up := w.uplink(a, b, "b")
				outcome := "found"
				if c.short {
					outcome = "short"
				}
				got := w.measured(a, outcome)
				if got.Every != c.every || got.Short != c.short || got.Found.IsZero() {
					t.Errorf("found %+v, want %v, short: %v", got, c.every, c.short)
				}
				if s := w.net.Link("a-spare", "b").Stats(); s.Bytes+28*s.Packets > 24<<10 {
					t.Errorf("the measurement cost %d bytes in %d packets", s.Bytes, s.Packets)
				}
				time.Sleep(time.Minute)
				at := server.RemoteAddr().String()
				// A silence of any length, against the keep-alives' beat.
				for i := range 40 {
					most := time.Second
					if c.short {
						most = keepAliveFloor + 10*time.Second
					}
					silence := time.Duration(i)*7*time.Second + 311*time.Millisecond
					if took := w.late(down, up, silence); took > most {
						t.Errorf("after a silence of %v news took %v, want at most %v", silence, took, most)
					}
				}
				if now := server.RemoteAddr().String(); now != at && !c.short {
					t.Errorf("the mapping was lost: the node came from %s and now from %s", at, now)
				}
				if client.Err() != nil || client.monitor.losses != 0 {
					t.Errorf("the connection in use suffered: %v, lost %d times", client.Err(), client.monitor.losses)
				}
				before := w.net.Link("a", "b").Stats()
				time.Sleep(2 * time.Hour)
				s := w.net.Link("a", "b").Stats()
				day := 12 * (s.Bytes - before.Bytes + 28*(s.Packets-before.Packets))
				t.Logf("a day at rest takes %d bytes", day)
				if limit := int(24*time.Hour/c.every) * 125; day > limit && !c.short {
					t.Errorf("a day at rest takes %d bytes, want at most %d", day, limit)
				}
			})
		})
	}
}

func TestTheKeepAliveIsFoundOnALossyLink(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		w.net.Link("a", "b").Delay(150 * time.Millisecond).Loss(0.1)
		w.net.Link("a-spare", "b").Delay(150 * time.Millisecond).Loss(0.1)
		a, b := w.start("a", w.natted("a", 45*time.Second)), w.start("b")
		w.uplink(a, b, "b")
		if got := w.measured(a, "found"); got.Every > 40*time.Second {
			t.Errorf("found %+v with a NAT that keeps a mapping for 45 s", got)
		}
	})
}

func TestAKeepAliveThatWasFoundOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	bubble(t, 1, func(t *testing.T, w *world) {
		kept := func(c *Config) { c.SessionDir = dir }
		for _, name := range []string{"a", "b"} {
			w.role(name, Grant{Life: 30 * 24 * time.Hour})
		}
		a, b := w.start("a", w.natted("a", 45*time.Second), kept), w.start("b")
		w.uplink(a, b, "b")
		found := w.measured(a, "found")
		a.stop()
		a = w.start("a", w.natted("a", 45*time.Second), kept)
		w.uplink(a, b, "b")
		time.Sleep(keepAliveLook)
		if got := a.KeepAlive(); got.Every != found.Every || got.Found.Unix() != found.Found.Unix() {
			t.Errorf("after the restart %+v, want %+v", got, found)
		}
		time.Sleep(time.Hour)
		if got := a.KeepAlive(); len(got.Measurements) != 0 {
			t.Errorf("measured again after an hour: %v", got.Measurements)
		}
		time.Sleep(keepAliveFresh)
		if got := a.KeepAlive(); got.Measurements["found"] != 1 || !got.Found.After(found.Found) {
			t.Errorf("what was found is not measured again after its time: %+v", got)
		}
	})
}

func TestEachNetworkHasItsKeepAlive(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		var source atomic.Pointer[netip.Addr]
		in := func(n *node, addr string) {
			at := netip.MustParseAddr(addr)
			source.Store(&at)
			if n != nil && !n.Rerouted() {
				t.Fatal("the change was not found")
			}
		}
		in(nil, "10.9.0.1")
		a := w.start("a", w.natted("a", 45*time.Second), func(c *Config) { c.Source = func(netip.Addr) netip.Addr { return *source.Load() } })
		b := w.start("b")
		w.uplink(a, b, "b")
		if got := w.measured(a, "found"); got.Every != 30*time.Second {
			t.Fatalf("found %+v", got)
		}
		w.nat("a", 30*time.Second)
		in(a, "10.9.0.2")
		time.Sleep(time.Second)
		if got := a.KeepAlive(); got.Every != keepAliveFloor || !got.Found.IsZero() {
			t.Errorf("in a network that was not measured: %+v", got)
		}
		if got := w.measured(a, "found"); got.Every != 20*time.Second {
			t.Errorf("found in the other network %+v", got)
		}
		w.nat("a", 45*time.Second)
		in(a, "10.9.0.1")
		time.Sleep(time.Second)
		if got := a.KeepAlive(); got.Every != 30*time.Second || got.Found.IsZero() {
			t.Errorf("back in the first network: %+v", got)
		}
	})
}

func TestANATThatHasBecomeImpatientIsNoticed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a", w.natted("a", 120*time.Second)), w.start("b")
		_, _, down, up := w.uplink(a, b, "b")
		if got := w.measured(a, "found"); got.Every != keepAliveCeiling {
			t.Fatalf("found %+v", got)
		}
		time.Sleep(2 * time.Hour)
		w.nat("a", 25*time.Second)
		eventually(t, 4*keepAliveCeiling, "the interval is in doubt", func() bool { return a.KeepAlive().Every == keepAliveFloor })
		if got := w.measured(a, "found"); got.Every != 15*time.Second {
			t.Errorf("found %+v with a NAT that keeps a mapping for 25 s", got)
		}
		for i := range 20 {
			if took := w.late(down, up, time.Duration(i)*11*time.Second); took > time.Second {
				t.Errorf("news took %v", took)
			}
		}
	})
}

func TestWithoutAVerdictTheKeepAliveStaysAsItWas(t *testing.T) {
	for what, prepare := range map[string]func(w *world, a, b *node){
		"the peer is of an older version": func(w *world, _, b *node) {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.handlers, Mapping)
		},
		"too many measure":       func(w *world, _, b *node) { b.mappings.Store(mappingMax) },
		"the line of it is down": func(w *world, _, b *node) { w.net.Cut("a-spare", "b") },
		"the line of it goes down": func(w *world, _, b *node) {
			go func() {
				for b.Counters().Open < 2 {
					time.Sleep(time.Second)
				}
				time.Sleep(20 * time.Second)
				w.net.Cut("a-spare", "b")
			}()
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world) {
				a, b := w.start("a", w.natted("a", 120*time.Second)), w.start("b")
				client, _, _, _ := w.uplink(a, b, "b")
				if got := a.KeepAlive(); got.Every != defaultKeepAlive {
					t.Errorf("before there is an uplink to go by: %+v", got)
				}
				time.Sleep(keepAliveLook)
				if got := a.KeepAlive(); got.Every != keepAliveFloor {
					t.Errorf("while it is not known whether it can be measured: %+v", got)
				}
				prepare(w, a, b)
				if got := w.measured(a, "failed"); got.Every != defaultKeepAlive || !got.Found.IsZero() {
					t.Errorf("without a verdict: %+v", got)
				}
				if client.Err() != nil || client.monitor.losses != 0 {
					t.Errorf("the connection in use suffered: %v, lost %d times", client.Err(), client.monitor.losses)
				}
				if what == "too many measure" && b.Counters().MappingsFull == 0 {
					t.Error("that it was turned away was not counted")
				}
				metrics := prometheus.NewPedanticRegistry()
				metrics.MustRegister(a.Metrics())
				if _, err := metrics.Gather(); err != nil {
					t.Errorf("metrics: %v", err)
				}
			})
		})
	}
}

func TestAMappingIsAnsweredForProxiesAndNobodyElse(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.role("p", Grant{Role: Proxy, Scope: []string{""}})
		p, b := w.start("p"), w.start("b")
		if _, err := p.Dial(t.Context(), Mapping, w.target("b")); err == nil {
			t.Error("a node that serves no uplinks answers measurements")
		}
		b.Listen(Uplink, echo)
		c := w.dial(p, "b", Mapping)
		began := time.Now()
		if came, err := c.wakeAfter(t.Context(), 20*time.Second); err != nil || !came || time.Since(began).Round(time.Second) != 20*time.Second {
			t.Errorf("woken after %v: %v", time.Since(began), err)
		}
		if came, err := c.wakeAfter(t.Context(), mappingSilenceMax+time.Second); came || err == nil {
			t.Error("a silence beyond the limit was kept")
		}
		time.Sleep(mappingLife)
		if c.Err() == nil {
			t.Error("a measurement lives longer than its limit")
		}
		b.Listen(Uplink, nil)
		if _, err := p.Dial(t.Context(), Mapping, w.target("b")); err == nil {
			t.Error("a node that serves no uplinks any more answers measurements")
		}
	})
}
