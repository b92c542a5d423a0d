package main

import (
	"net"
	"sync/atomic"
)

// region is the network between a fleet and the cluster, which can be lost as a whole.
type region struct{ lost atomic.Bool }

// socket is a proxy's UDP socket in a region. While that is lost, what it sends and what it is sent is dropped.
type socket struct {
	net.PacketConn
	region *region
}

// listen opens a socket on the loopback.
func (r *region) listen() (*socket, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &socket{conn, r}, nil
}

func (s *socket) WriteTo(p []byte, to net.Addr) (int, error) {
	if s.region.lost.Load() {
		return len(p), nil
	}
	return s.PacketConn.WriteTo(p, to)
}

func (s *socket) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.PacketConn.ReadFrom(p)
		if err != nil || !s.region.lost.Load() {
			return n, from, err
		}
	}
}
