package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// A NAT between a node and the member that it has dialed forgets a flow that is silent for too long. From then on what the member
// sends is lost, until the node's next packet makes another mapping. So a node at rest speaks now and then, and how seldom it
// may depends on a box that nobody asks. How long that keeps a mapping is measured, on a connection of its own (see mapping.go):
// the one in use is never tried out.
//
//	pending --measured--> found --in doubt--> pending      the interval while pending: keepAliveFloor
//	   |                    ^                              while unknown: Config.KeepAlive
//	   +--no verdict--> unknown --measured--+
//
// What was found goes by the network that packets leave through, and is remembered over restarts. A shorter interval is taken at
// once, as soon as there is doubt; a longer one only by a measurement, and an interval that was found is measured again after
// keepAliveFresh. A doubt costs nothing to have: see Conn.keepAlive.

const (
	// keepAliveFloor is the shortest interval: RFC 8085, section 3.5, asks for no less. At 117 B of each exchange on the wire it is
	// 0.67 MB a day, at keepAliveCeiling 0.17 MB.
	keepAliveFloor = 15 * time.Second
	// keepAliveCeiling leaves 15 s of the idle timeout for what is lost on the way.
	keepAliveCeiling = 60 * time.Second
	// keepAliveMargin is how far below a silence that a mapping has survived the interval stays.
	keepAliveMargin = 5 * time.Second

	// A network is measured once a node has stayed in it for keepAliveWait, and up to keepAliveSpread longer: a vehicle does not
	// measure each cell that it passes, and a fleet does not come at once.
	keepAliveWait   = time.Minute
	keepAliveSpread = 2 * time.Minute
	// keepAliveAgain is the least time between two measurements, and up to half more. One costs about 10 kB.
	keepAliveAgain = time.Hour
	// keepAliveUnspoken is how long a peer is not asked again that does not speak the protocol, being of an older version.
	keepAliveUnspoken = 24 * time.Hour
	// keepAliveFresh is how long what was found counts before it is measured again.
	keepAliveFresh = 7 * 24 * time.Hour
	// keepAliveTrust is how long a doubt counts for nothing once a measurement has borne out the interval.
	keepAliveTrust = 24 * time.Hour
	// keepAliveLook is how often it is looked whether something is due.
	keepAliveLook = 10 * time.Second

	keepAliveFile = "keepalive.json"
	// maxNetworks bounds the networks that are remembered; the one measured longest ago goes.
	maxNetworks = 32
)

// keepText is the datagram that keeps a NAT's mapping: as long on the wire as a PING, which quic-go does not offer. It is
// acknowledged like any other and handed to nobody.
const keepText = "\x00"

// KeepAlive is how often this node speaks on uplinks at rest that it has dialed.
type KeepAlive struct {
	Every time.Duration // 0: never
	// Found is when it was measured; zero: it was not, on the present network.
	Found time.Time
	// Short says that not even the shortest interval keeps a mapping: what a peer sends to this node at rest may be late by it.
	Short bool
	// Measurements since the start, by their outcome: found, short, and failed for those without a verdict.
	Measurements map[string]uint64
}

// finding is what was found of a network, as the file has it.
type finding struct {
	Seconds int       `json:"seconds"` // the interval
	Short   bool      `json:"short,omitempty"`
	At      time.Time `json:"at"`
}

func (f finding) every() time.Duration { return time.Duration(f.Seconds) * time.Second }

// sane reports whether a finding can be one of this program.
func (f finding) sane() bool { return f.every() >= keepAliveFloor && f.every() <= keepAliveCeiling }

// keeper finds the interval. Its run is one goroutine of Endpoint.Run; the rest answers from memory.
type keeper struct {
	ep *Endpoint

	mu       sync.Mutex
	findings map[string]finding // by network
	network  string             // the present one; empty: there is no uplink yet
	due      time.Time          // of the next measurement
	tried    time.Time          // the last measurement on it; zero: none
	doubted  bool
	trust    time.Time // until then a doubt counts for nothing
	outcomes map[string]uint64
}

func newKeeper(e *Endpoint) (*keeper, error) {
	k := &keeper{ep: e, findings: make(map[string]finding), outcomes: make(map[string]uint64)}
	if e.cfg.SessionDir == "" || !k.measures() {
		return k, nil
	}
	data, err := readPrivate(e.cfg.SessionDir, keepAliveFile)
	if errors.Is(err, os.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &k.findings)
	}
	if err != nil {
		k.findings = make(map[string]finding)
		return k, fmt.Errorf("keep-alives found before are not used: %w", err)
	}
	for network, f := range k.findings {
		if !f.sane() {
			delete(k.findings, network)
		}
	}
	return k, nil
}

// measures reports whether this node finds its interval by itself.
func (k *keeper) measures() bool { return k.ep.cfg.Spare != nil && k.ep.cfg.KeepAlive > 0 }

// every is the present interval of connections over UDP.
func (k *keeper) every() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.everyLocked()
}

func (k *keeper) everyLocked() time.Duration {
	found, ok := k.findings[k.network]
	switch {
	case !k.measures(), k.network == "": // nothing leaves this machine over UDP
		return k.ep.cfg.KeepAlive
	case ok && !k.doubted:
		return found.every()
	case k.doubted || k.tried.IsZero():
		return min(keepAliveFloor, k.ep.cfg.KeepAlive)
	}
	return k.ep.cfg.KeepAlive
}

// KeepAlive answers from memory.
func (e *Endpoint) KeepAlive() KeepAlive {
	k := e.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	s := KeepAlive{Every: k.everyLocked(), Measurements: make(map[string]uint64, len(k.outcomes))}
	if f, ok := k.findings[k.network]; ok && !k.doubted && k.measures() {
		s.Found, s.Short = f.At, f.Short
	}
	for outcome, n := range k.outcomes {
		s.Measurements[outcome] = n
	}
	return s
}

// doubt is told that a mapping seems to have been lost in spite of the keep-alives.
func (k *keeper) doubt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.doubted || now.Before(k.trust) {
		return
	}
	if f, found := k.findings[k.network]; !found || f.Short {
		return // it is measured anyway, or no wonder
	}
	k.doubted = true
	k.due = now
	if soonest := k.tried.Add(keepAliveAgain); !k.tried.IsZero() && soonest.After(now) {
		k.due = soonest
	}
	k.ep.cfg.Log.Info("the keep-alive is measured anew: packets seem to find another way after each silence", "keep_alive", k.findings[k.network].every())
}

// run measures when that is due, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(keepAliveLook)
	defer tick.Stop()
	var seen *Conn
	for {
		changed := k.ep.RouteChange()
		if c := k.subject(); c != nil {
			if c != seen {
				k.arrive(c)
				seen = c
			}
			if k.isDue() {
				k.attempt(ctx, c, changed)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			seen = nil
		case <-tick.C:
		}
	}
}

// subject is the connection whose way is measured: an uplink that this node has dialed, else one to another member; nil if there
// is none over UDP that leaves this machine.
func (k *keeper) subject() (best *Conn) {
	rank := func(c *Conn) string { // an uplink comes first
		if c.protocol == Uplink {
			return "0" + c.peer.Node
		}
		return "1" + c.peer.Node
	}
	for _, c := range k.ep.open() {
		at, ok := c.qc.RemoteAddr().(*net.UDPAddr)
		switch {
		case !c.dialed, c.protocol != Uplink && c.protocol != Raft, c.Way() != OverUDP, c.Err() != nil, c.Early(), c.Lost():
		case !ok || at.IP.IsLoopback():
		case best == nil || rank(c) < rank(best):
			best = c
		}
	}
	return best
}

// arrive takes note of the network that the packets of c go through now.
func (k *keeper) arrive(c *Conn) {
	network := k.ep.cfg.Network(k.ep.cfg.Source(remoteOf(c).Addr()))
	k.mu.Lock()
	defer k.mu.Unlock()
	if network == k.network {
		return
	}
	now := time.Now()
	k.network, k.tried, k.doubted, k.trust = network, time.Time{}, false, time.Time{}
	k.due = now.Add(keepAliveWait + rand.N(keepAliveSpread)) //nolint:gosec // a moment, no secret
	if f, ok := k.findings[network]; ok {
		if age := now.Sub(f.At); age >= 0 && age < keepAliveFresh {
			k.due = now.Add(keepAliveFresh - age)
		}
	}
}

func remoteOf(c *Conn) netip.AddrPort {
	at, ok := c.qc.RemoteAddr().(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := at.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (k *keeper) isDue() bool {
	if k.ep.cfg.Sparing() {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return !time.Now().Before(k.due)
}

// attempt measures the way of c, and gives up when the network changes.
func (k *keeper) attempt(ctx context.Context, c *Conn, changed <-chan struct{}) {
	measuring, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-changed:
			cancel()
		case <-measuring.Done():
		}
	})
	verdict, err := k.ep.measureMapping(measuring, c)
	gone := measuring.Err() != nil
	cancel()
	watching.Wait()
	if gone {
		return // and so is what there was to find
	}
	k.settle(c, verdict, err)
}

// settle takes what a measurement came to.
func (k *keeper) settle(c *Conn, v verdict, err error) {
	log := k.ep.cfg.Log
	now := time.Now()
	k.mu.Lock()
	was, known := k.findings[k.network]
	k.tried = now
	k.due = now.Add(keepAliveAgain + rand.N(keepAliveAgain/2)) //nolint:gosec // a moment, no secret
	if err != nil {
		if errors.Is(err, ErrProtocol) {
			k.due = now.Add(keepAliveUnspoken)
		}
		k.outcomes["failed"]++
		next := k.due
		k.mu.Unlock()
		log.Debug("the keep-alive could not be measured", "upstream", c.RemoteAddr().String(), "next", next, "err", err)
		return
	}
	found := finding{Seconds: int(v.every() / time.Second), Short: v.short(), At: now}
	k.findings[k.network] = found
	k.forgetLocked()
	k.doubted = false
	k.due = now.Add(keepAliveFresh)
	if known && was.Seconds == found.Seconds {
		k.trust = now.Add(keepAliveTrust)
	}
	outcome := "found"
	if found.Short {
		outcome = "short"
	}
	k.outcomes[outcome]++
	k.mu.Unlock()
	if err := k.save(); err != nil {
		log.Warn("the keep-alive that was found is not kept over a restart", "err", err)
	}
	switch {
	case known && was.Seconds == found.Seconds && was.Short == found.Short:
	case found.Short:
		log.Warn("a NAT or firewall on the way to the node above forgets this node within 15 s: what is sent to it at rest may be 15 s late, and each keep-alive takes 1.5 kB, 9 MB a day; raise the router's timeout for UDP to 30 s or more",
			"upstream", c.RemoteAddr().String(), "keep_alive", found.every())
	default:
		log.Info("keep-alive found", "upstream", c.RemoteAddr().String(), "keep_alive", found.every(), "survived", v.survived)
	}
}

// forgetLocked lets the network go that was measured longest ago, if there are too many.
func (k *keeper) forgetLocked() {
	for len(k.findings) > maxNetworks {
		oldest := k.network
		for network, f := range k.findings {
			if f.At.Before(k.findings[oldest].At) {
				oldest = network
			}
		}
		delete(k.findings, oldest)
	}
}

// save writes the file: once for each measurement, a few times a year.
func (k *keeper) save() error {
	if k.ep.cfg.SessionDir == "" {
		return nil
	}
	k.mu.Lock()
	data, err := json.Marshal(k.findings)
	k.mu.Unlock()
	if err != nil {
		return err
	}
	return writeFile(k.ep.cfg.SessionDir, keepAliveFile, data)
}

// rest is what Endpoint.sampleIdle, which alone uses it, knows of the silence of a connection.
type rest struct {
	look     time.Time // the last one
	from     time.Time // nothing was sent since then
	sent     uint64    // packets
	asked    bool      // a keep-alive was sent at the last look
	received uint64    // bytes, by then
	renewed  int       // keep-alives in a row that were answered by a test of a new path
}

// pathTest is the least that a peer sends when it tests whether this node is where a packet came from: RFC 9000, section 8.2.1.
const pathTest = 1200

// keepAlive sends something if nothing was sent for the interval, to the half of samplePeriod: at the look at which it is due, not
// at the one after. It reports a doubt: a peer that answers one keep-alive after another by testing the path, which it does with
// 1200 bytes where the answer has 30, has seen each come from another address. Something else of that size may come within a
// sampling period of a keep-alive; twice in a row it is seldom, and a doubt costs no more than a measurement.
func (c *Conn) keepAlive(every time.Duration, now time.Time) (doubt bool) {
	s := c.qc.ConnectionStats()
	r := &c.rest
	if r.look.IsZero() {
		r.look = c.opened
	}
	if s.PacketsSent != r.sent {
		r.sent, r.from = s.PacketsSent, r.look
	}
	if r.asked {
		r.asked = false
		if s.BytesReceived-r.received >= pathTest {
			r.renewed++
		} else {
			r.renewed = 0
		}
		if r.renewed > 1 {
			doubt, r.renewed = true, 0
		}
	}
	r.look = now
	if every > 0 && now.Sub(r.from) > every-samplePeriod/2 {
		r.from, r.asked, r.received = now, true, s.BytesReceived
		if c.protocol == Uplink {
			c.datagrams.put([]byte(keepText))
		} else {
			c.probe() // which peers of older versions know
		}
	}
	return doubt
}

// keepAlives looks after the silence of all connections that this node has dialed.
func (e *Endpoint) keepAlives(open []*Conn, now time.Time) {
	if !e.keeper.measures() {
		return
	}
	found := e.keeper.every()
	for _, c := range open {
		switch every := found; {
		case !c.dialed || c.protocol == Mapping || c.Err() != nil:
		case c.Way() != OverUDP:
			c.keepAlive(e.cfg.KeepAlive, now)
		case c.protocol != Uplink && every >= e.cfg.KeepAlive: // quic-go sees to that
		case c.keepAlive(every, now):
			e.keeper.doubt()
		}
	}
}

// networkOf names a network by the address that this node has in it.
func networkOf(source netip.Addr) string { return source.String() }
