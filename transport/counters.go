package transport

import "maps"

// Counters is what an endpoint has seen since it was made.
type Counters struct {
	// Now.
	Open        int // connections, both ways
	Incoming    int // of those and handshakes, the ones that peers opened
	Handshaking int // incoming handshakes under way
	WindowBytes uint64
	OverTCP     int // connections whose packets travel over TCP
	Lost        int // connections that are lost

	// Since the start.
	Opened           uint64            // connections, both ways
	Dials            uint64            // attempts to open one, one for each address
	DialsFailed      uint64            //
	HandshakesFailed uint64            // incoming
	Refused          map[string]uint64 // handshakes in which one end refused the other, by reason
	Retries          uint64            // incoming attempts sent through address validation, under load
	Busy             uint64            // incoming attempts refused at MaxConns or MaxHandshakes
	Full             uint64            // connections closed because only places for members were left, or none to join

	MappingsFull uint64 // measurements of peers that were turned away at the limit

	TCPFull uint64         // TCP connections of peers that were closed at the limit
	Moves   map[Way]uint64 // connections of this node that changed to a way while they lived

	Reroutes uint64 // changes of the network of this machine that connections had to follow

	WireBytes uint64 // both ways, as the links have carried them: see Health.WireBytes; failed dials at what they take

	Losses           uint64 // times a link was found lost
	BytesSent        uint64 // QUIC packets, without UDP and IP
	BytesReceived    uint64
	PacketsSent      uint64
	PacketsReceived  uint64
	PacketsLost      uint64
	DatagramsSent    uint64
	DatagramsDropped uint64 // by newest-wins, before they were sent
}

// add adds what one connection has done.
func (n *Counters) add(h Health) {
	n.WireBytes += h.WireBytes
	n.Losses += h.Losses
	n.BytesSent += h.BytesSent
	n.BytesReceived += h.BytesReceived
	n.PacketsSent += h.PacketsSent
	n.PacketsReceived += h.PacketsReceived
	n.PacketsLost += h.PacketsLost
	n.DatagramsSent += h.DatagramsSent
	n.DatagramsDropped += h.DatagramsDropped
}

// Counters takes stock now. It never blocks on the network.
func (e *Endpoint) Counters() Counters {
	e.mu.Lock()
	n := e.totals
	n.Refused, n.Moves = maps.Clone(e.totals.Refused), maps.Clone(e.totals.Moves)
	open := make([]*Conn, 0, len(e.conns))
	for c := range e.conns {
		open = append(open, c)
	}
	e.mu.Unlock()
	for _, c := range open {
		h := c.Health()
		n.add(h)
		if h.Way == OverTCP {
			n.OverTCP++
		}
		if h.Lost {
			n.Lost++
		}
	}
	n.Open = len(open)
	_, n.TCPFull = e.relays.counts()
	e.adm.mu.Lock()
	defer e.adm.mu.Unlock()
	n.Incoming, n.Handshaking, n.WindowBytes = e.adm.conns, e.adm.handshaking, e.adm.windowSum
	n.Retries, n.Busy, n.Full = e.adm.retries, e.adm.busy, e.adm.full
	return n
}
