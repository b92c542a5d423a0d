package agent

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/internal/sniff"
	"holdfast/kv"
)

// ledger bounds what clients take of this node at one time: each in all, and each client its share of it, so that one
// that floods leaves room for the others. A client is a network of api.Caller. Clients on this machine, over loopback or a
// unix socket, have no share of their own but the whole, and the administration socket is not counted at all: it stays open to the person who looks into it.
type ledger struct {
	share atomic.Int64       // percent that one client may take
	rate  atomic.Int64       // requests a second of one client, 0: as it likes
	opens atomic.Int64       // connections that one client may open a second, 0: as many as it likes
	max   [uses]atomic.Int64 // in all; 0: as many as there are

	mu      sync.Mutex
	total   [uses]int64
	clients map[netip.Prefix]*account

	refused [uses]atomic.Int64
	limited atomic.Int64 // by rate
	hasty   atomic.Int64 // by opens
}

// use is what a client takes.
type use int

const (
	useConnection use = iota
	useHandshake      // of TLS, not finished
	useRequest        // under way
	useWatch
	useBody // bytes of requests that were not answered yet
	uses
)

func (u use) String() string {
	return [...]string{useConnection: "connections", useHandshake: "handshakes", useRequest: "requests", useWatch: "watches", useBody: "bodies"}[u]
}

// account is what one client has.
type account struct {
	has      [uses]int64
	requests pace
	opens    pace
	resets   pace
}

// idle reports whether there is nothing to remember of a client.
func (a *account) idle(now time.Time) bool {
	return a.has == [uses]int64{} && a.requests.full(now, time.Second) && a.opens.full(now, (1+chargeMost)*time.Second) &&
		a.resets.full(now, sniff.ResetBurst/sniff.ResetRate*time.Second)
}

// pace is how fast a client does something.
type pace struct {
	tokens float64 // of what it may do at once, at the time of at
	at     time.Time
}

// spend takes one of a rate, of which burst may come at once.
func (p *pace) spend(rate, burst float64, now time.Time) bool {
	if rate == 0 {
		return true
	}
	if p.at.IsZero() {
		p.tokens = burst
	} else if passed := now.Sub(p.at).Seconds(); passed > 0 {
		p.tokens = min(burst, p.tokens+passed*rate)
	}
	p.at = now
	if p.tokens < 1 {
		return false
	}
	p.tokens--
	return true
}

// full reports whether all that was spent has grown back, which takes at most so long.
func (p *pace) full(now time.Time, after time.Duration) bool {
	return p.at.IsZero() || now.Sub(p.at) > after
}

// clientsMax bounds the accounts. Those with nothing open are let go; beyond it new clients share one account, that of
// the zero prefix.
const clientsMax = 1 << 16

func newLedger(shares int, rate int, most [uses]int64, reg prometheus.Registerer) *ledger {
	l := &ledger{clients: map[netip.Prefix]*account{}}
	l.share.Store(int64(shares))
	l.rate.Store(int64(rate))
	for u := range uses {
		l.max[u].Store(most[u])
		reg.MustRegister(counter("holdfast_agent_client_refusals_total", "Refused because one client, or all together, had their share; limit says of what.", prometheus.Labels{"limit": u.String()}, &l.refused[u]))
	}
	reg.MustRegister(
		counter("holdfast_agent_client_refusals_total", "Refused because one client, or all together, had their share; limit says of what.", prometheus.Labels{"limit": "rate"}, &l.limited),
		counter("holdfast_agent_client_refusals_total", "Refused because one client, or all together, had their share; limit says of what.", prometheus.Labels{"limit": "connection-rate"}, &l.hasty),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_agent_clients", Help: "Client addresses that have something open."}, func() float64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sweep(time.Now())
			return float64(len(l.clients))
		}),
	)
	return l
}

// clientOf is whose share a caller takes from; false: it has none.
func clientOf(c api.Caller) (netip.Prefix, bool) {
	n := c.Network()
	return n, n.IsValid() && !c.Addr.Addr().IsLoopback()
}

// some is so much of a use, in words.
func (u use) some(n int64) string {
	if u == useBody {
		return fmt.Sprintf("%d bytes of requests", n)
	}
	return fmt.Sprintf("%d %s", n, u)
}

// take counts one more use in, or refuses it. What was taken is given back by give.
func (l *ledger) take(c api.Caller, u use) error { return l.takeMany(c, u, 1) }

// takeMany is take for n at once: all of them or none.
func (l *ledger) takeMany(c api.Caller, u use, n int64) error {
	if c.Admin {
		return nil
	}
	client, shares := clientOf(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.max[u].Load()
	if most > 0 && l.total[u]+n > most {
		l.refused[u].Add(1)
		return kv.Errorf(kv.Busy, "this node has %s under way, which is its limit (limits.%s)", u.some(l.total[u]), u)
	}
	if !shares {
		l.total[u] += n
		return nil
	}
	a := l.account(client)
	if rate := float64(l.opens.Load()); u == useConnection && !a.opens.spend(rate, rate, time.Now()) {
		l.hasty.Add(1)
		return errTooHasty
	}
	if most > 0 && a.has[u]+n > max(1, most*l.share.Load()/100) {
		l.refused[u].Add(1)
		return kv.Errorf(kv.RateLimited, "this client has %s under way, its share of this node (limits.client-share)", u.some(a.has[u]))
	}
	if rate := float64(l.rate.Load()); u == useRequest && !a.requests.spend(rate, rate, time.Now()) {
		l.limited.Add(1)
		err := kv.Errorf(kv.RateLimited, "this client sends more than %d requests a second (limits.rate)", l.rate.Load())
		err.RetryAfter = time.Second
		return err
	}
	l.total[u] += n
	a.has[u] += n
	return nil
}

// reset counts a call that a client has given up; false: it gives up too many, over all its connections.
func (l *ledger) reset(c api.Caller) bool {
	client, shares := clientOf(c)
	if c.Admin || !shares {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.account(client).resets.spend(sniff.ResetRate, sniff.ResetBurst, time.Now())
}

// charge counts connections that a client has not opened, for what it did in vain. It may owe as many as chargeMost.
func (l *ledger) charge(c api.Caller, connections float64) {
	client, shares := clientOf(c)
	rate := float64(l.opens.Load())
	if c.Admin || !shares || rate == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(client)
	a.opens.spend(rate, rate, time.Now())
	a.opens.tokens = max(a.opens.tokens-connections, -chargeMost*rate)
}

// chargeMost is for how many seconds a client may have to wait before it gets another connection.
const chargeMost = 10

// errTooHasty is for a client that opens connections too fast. It is not told: a word for each would cost what is to be saved.
var errTooHasty = kv.Errorf(kv.RateLimited, "this client opens more connections a second than it may (limits.connection-rate): keep them open and use them again")

// account finds a client's, or opens one.
func (l *ledger) account(p netip.Prefix) *account {
	a, ok := l.clients[p]
	if ok {
		return a
	}
	if len(l.clients) >= clientsMax {
		l.sweep(time.Now())
	}
	if len(l.clients) >= clientsMax {
		p = netip.Prefix{}
		if a, ok = l.clients[p]; ok {
			return a
		}
	}
	a = &account{}
	l.clients[p] = a
	return a
}

// sweep closes accounts that are idle.
func (l *ledger) sweep(now time.Time) {
	for p, a := range l.clients {
		if a.idle(now) {
			delete(l.clients, p)
		}
	}
}

// give gives back what take counted in.
func (l *ledger) give(c api.Caller, u use) { l.giveMany(c, u, 1) }

// giveMany is give for n at once.
func (l *ledger) giveMany(c api.Caller, u use, n int64) {
	if c.Admin {
		return
	}
	client, shares := clientOf(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total[u] -= n
	if !shares {
		return
	}
	a, ok := l.clients[client]
	if !ok { // it was one too many
		if a, ok = l.clients[netip.Prefix{}]; !ok {
			return
		}
	}
	if a.has[u] -= n; a.has == [uses]int64{} && a.idle(time.Now()) {
		delete(l.clients, client)
	}
}
