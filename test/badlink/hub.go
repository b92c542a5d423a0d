//go:build linux

package main

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Host is one namespace. Up and Down shape its whole access line, all peers together.
type Host struct {
	Name, NS string
	Addr     netip.Addr
	fd       int // its TUN device, from attach on
	up, down shaper
	UpRate   float64 // bits a second, 0: unlimited
	DownRate float64
	UpDrop   uint64
	DownDrop uint64
}

// Hub carries packets between hosts:
//
//	read(a) -> forward: access line of a, link a>b -> due queue -> deliver: access line of b -> write(b)
//
// Its goroutines end when it is closed and, those that read, when their namespace is gone, for which close cannot wait
// as long as a process is in it; the daemon's end is theirs at the latest.
type Hub struct {
	mtu   int
	start time.Time
	wake  int         // eventfd: the queue has a new head
	free  chan []byte // buffers to use again; full: the garbage collector's

	mu     sync.Mutex // guards what follows, and all hosts and links
	hosts  []*Host
	links  [][]*Link // [from][to]; nil on the diagonal
	route  map[uint32]int
	due    packets
	seq    uint64
	closed bool

	unroutable uint64
	writeErr   uint64
	late       lateness
}

// newHub makes a hub whose hosts have no namespaces yet.
func newHub(names []string, mtu int, seed uint64, p Params) (*Hub, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	h := &Hub{mtu: mtu, route: map[uint32]int{}, start: time.Now(), free: make(chan []byte, 8192), wake: wake}
	for i, n := range names {
		h.hosts = append(h.hosts, &Host{Name: n})
		row := make([]*Link, len(names))
		for j := range names {
			if i != j {
				row[j] = newLink(seed*1000003+uint64(i*1009+j), p)
			}
		}
		h.links = append(h.links, row)
	}
	return h, nil
}

// run starts carrying.
func (h *Hub) run() {
	debug.SetGCPercent(-1) // a collection waits for threads that a busy machine may not run
	debug.SetMemoryLimit(512 << 20)
	runtime.GOMAXPROCS(len(h.hosts) + 4) // every thread that waits in a system call keeps its P
	for i := range h.hosts {
		go h.read(i)
	}
	go h.deliver()
}

// close stops carrying and removes the namespaces. It may be called twice.
func (h *Hub) close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.poke()
	var errs []error
	for _, ho := range h.hosts {
		if ho.NS == "" {
			continue
		}
		if _, err := os.Stat(netnsDir + ho.NS); err == nil {
			errs = append(errs, ip(ctx, "netns", "del", ho.NS))
		}
	}
	return errors.Join(errs...)
}

func (h *Hub) getBuf() []byte {
	select {
	case b := <-h.free:
		return b
	default:
		return make([]byte, h.mtu+64)
	}
}

func (h *Hub) putBuf(b []byte) {
	if cap(b) > h.mtu { // not a short copy made for a duplicate
		select {
		case h.free <- b[:cap(b)]:
		default:
		}
	}
}

// nowNS is the time by which packets are due.
func nowNS() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has this clock
	}
	return ts.Nano()
}

// poke wakes deliver.
func (h *Hub) poke() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(h.wake, one[:]) // it fails only when the counter is full, and then deliver is awake
}

// read takes packets from one host. It is a plain blocking loop on a thread of its own.
func (h *Hub) read(src int) {
	runtime.LockOSThread()
	fd := h.hosts[src].fd
	buf := h.getBuf()
	for {
		n, err := unix.Read(fd, buf[:cap(buf)])
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil || n == 0 {
			return // the namespace is gone
		}
		if h.forward(src, buf[:n]) {
			buf = h.getBuf()
		}
	}
}

// forward decides what becomes of one packet; it says whether it keeps the buffer.
func (h *Hub) forward(src int, b []byte) (kept bool) {
	now := nowNS()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	dst, ok := h.routeOf(src, b)
	if !ok {
		h.unroutable++
		return false
	}
	ho, l := h.hosts[src], h.links[src][dst]
	switch b[9] {
	case unix.IPPROTO_TCP:
		l.S.TCPBytes += uint64(len(b))
	case unix.IPPROTO_UDP:
		l.S.UDPBytes += uint64(len(b))
		if l.hit(l.P.UDPLoss) {
			l.S.InPkts++
			l.S.InBytes += uint64(len(b))
			l.S.Lost++
			return false
		}
	}
	t := now
	if ho.UpRate > 0 {
		if t, ok = ho.up.pass(now, len(b), ho.UpRate, accessQueue(ho.UpRate)); !ok {
			ho.UpDrop++
			return false
		}
	}
	at, n := l.admit(t, len(b))
	for i, due := range at[:n] {
		p := &packet{at: due, seq: h.seq, src: src, dst: dst, buf: b}
		h.seq++
		if i > 0 {
			p.buf = append([]byte(nil), b...)
		}
		h.push(p)
	}
	return n > 0
}

// routeOf finds the receiver of a packet. An address added inside a namespace is learned from its first packet.
func (h *Hub) routeOf(src int, b []byte) (dst int, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return 0, false
	}
	from, to := binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	if _, known := h.route[from]; !known {
		h.route[from] = src
	}
	dst, ok = h.route[to]
	return dst, ok && dst != src
}

// accessQueue is the queue of an access line: 100 ms of it, and 8 full packets at least.
func accessQueue(rate float64) int { return max(int(rate/8*0.1), 8*1500) }

func (h *Hub) push(p *packet) {
	first := len(h.due) == 0 || p.at < h.due[0].at
	heap.Push(&h.due, p)
	if first {
		h.poke()
	}
}

// deliver hands packets to the receivers when they are due.
func (h *Hub) deliver() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0) // without it packets are 50 us later
	fds := []unix.PollFd{{Fd: int32(h.wake), Events: unix.POLLIN}}
	var drain [8]byte
	for {
		p, wait, ok := h.next()
		switch {
		case !ok:
			return
		case wait > 0:
			ts := unix.NsecToTimespec(wait)
			_, _ = unix.Ppoll(fds, &ts, nil) // interrupted or not, next looks again
			_, _ = unix.Read(h.wake, drain[:])
		case p != nil:
			if _, err := unix.Write(h.hosts[p.dst].fd, p.buf); err != nil {
				h.mu.Lock()
				h.writeErr++
				h.mu.Unlock()
			}
			h.putBuf(p.buf)
		}
	}
}

// next returns a packet that is due, or how long to wait for one, or neither if the head of the queue went on to the
// access line of its receiver. It is not ok once the hub is closed.
func (h *Hub) next() (p *packet, wait int64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, 0, false
	}
	if len(h.due) == 0 {
		return nil, int64(time.Second), true
	}
	now := nowNS()
	if wait = h.due[0].at - now; wait > 0 {
		return nil, wait, true
	}
	p = heap.Pop(&h.due).(*packet)
	ho := h.hosts[p.dst]
	if !p.down && ho.DownRate > 0 {
		p.down = true
		if p.at, ok = ho.down.pass(p.at, len(p.buf), ho.DownRate, accessQueue(ho.DownRate)); ok {
			heap.Push(&h.due, p)
		} else {
			ho.DownDrop++
		}
		return nil, 0, true
	}
	h.late.add(now - p.at)
	s := &h.links[p.src][p.dst].S
	s.OutPkts++
	s.OutBytes += uint64(len(p.buf))
	return p, 0, true
}
