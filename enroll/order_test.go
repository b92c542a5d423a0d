package enroll

import (
	"errors"
	"sync"
	"testing"
	"time"

	"holdfast/kv"
	"holdfast/transport"
)

func TestAnOrderReachesItsNodeAndIsAnswered(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		m1 := r.boxes["m1"]
		r.callRoll(m1, nil)
		p, q := r.add("p"), r.add("q")
		var mu sync.Mutex
		var taken []Order
		p.obey = func(o Order) Progress {
			mu.Lock()
			defer mu.Unlock()
			taken = append(taken, o)
			return Progress{Step: "at it", Error: "no", Code: kv.PreconditionFailed}
		}
		for _, b := range []*box{p, q} {
			r.enrol(b, transport.Proxy)
		}
		r.live(p, "m1", "p1", 0)
		time.Sleep(time.Second)
		want := Order{ID: "1", Kind: "promote", Token: "t"}
		got, connected := m1.roll.Order(t.Context(), p.id.Load().Node(), want)
		mu.Lock()
		if !connected || got.Step != "at it" || got.Error != "no" || got.Code != kv.PreconditionFailed || len(taken) != 1 || taken[0] != want {
			t.Errorf("%+v, %v; taken %+v", got, connected, taken)
		}
		mu.Unlock()
		if got, connected := m1.roll.Order(t.Context(), q.id.Load().Node(), want); connected {
			t.Errorf("a node that is not connected answers %+v", got)
		}
		if s := m1.roll.Call(t.Context()); len(s) != 1 || s[0].Report.Progress != nil {
			t.Errorf("seen %+v", s)
		}
	})
}

// TestASeatIsTakenByCertificate lets nodes that have joined ask for a seat without a token.
func TestASeatIsTakenByCertificate(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		r.full.Store(true)
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		node, m1 := p.id.Load().Node(), r.boxes["m1"]
		addrs := []string{r.net.Addr("m1")}
		ask := func() (Joined, error) {
			return TakeSeat(t.Context(), p.ep, addrs, p.id.Load(), Wish{Name: "p", Role: transport.Member, Addresses: []string{"p:2380"}})
		}
		if _, err := ask(); !errors.Is(err, ErrNoSeat) {
			t.Errorf("a proxy of old is told %v", err)
		}
		if err := m1.auth.Invite(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(); !errors.Is(err, ErrFull) {
			t.Errorf("a full cluster says %v", err)
		}
		r.full.Store(false)
		r.pass(CertificateLife * 3 / 4)
		r.pass(CertificateLife / 2) // its certificate has ended, as a token had long before
		got, err := ask()
		if err != nil || got.Identity.Info().Role != transport.Member || string(got.Admission) != "{}" {
			t.Fatalf("%+v, %v", got, err)
		}
		// With a seat it neither becomes a proxy behind the members' back nor is forgotten; without one it may.
		p.id.Store(got.Identity)
		r.seated = node
		_, err = StepBack(t.Context(), p.ep, addrs, p.id.Load())
		if kv.CodeOf(err) != kv.Busy || kv.CodeOf(Depart(t.Context(), p.ep, addrs, p.id.Load())) != kv.Busy {
			t.Errorf("a node with a seat: %v", err)
		}
		r.seated = ""
		if got, err = StepBack(t.Context(), p.ep, addrs, p.id.Load()); err != nil || got.Identity.Info().Role != transport.Proxy {
			t.Fatalf("%+v, %v", got, err)
		}
		p.id.Store(got.Identity)
		for range 2 { // an answer may be lost
			if err := Depart(t.Context(), p.ep, addrs, p.id.Load()); err != nil {
				t.Fatal(err)
			}
		}
		if nodes, err := Nodes(t.Context(), r.store); err != nil || len(nodes) != 1 {
			t.Errorf("%+v, %v; want m1 alone", nodes, err)
		}
	})
}
