//go:build linux

package main

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

type packet struct {
	at   int64 // due time, ns
	seq  uint64
	dst  int
	src  int
	down bool // has passed the receiver's downlink shaper
	buf  []byte
}

type pktHeap []*packet

func (h pktHeap) Len() int { return len(h) }
func (h pktHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h pktHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *pktHeap) Push(x any)   { *h = append(*h, x.(*packet)) }
func (h *pktHeap) Pop() any {
	o := *h
	p := o[len(o)-1]
	*h = o[:len(o)-1]
	return p
}

// Host is one namespace. Up and Down shape its whole access line, all peers together.
type Host struct {
	Name, NS string
	Addr     netip.Addr
	fd       int
	up, down shaper
	UpRate   float64
	DownRate float64
	UpDrop   uint64
	DownDrop uint64
}

type Hub struct {
	mu    sync.Mutex
	hosts []*Host
	links [][]*Link // [from][to]; nil on the diagonal
	route map[uint32]int
	mtu   int
	start time.Time
	seed  uint64

	q      pktHeap
	seq    uint64
	wake   int // eventfd
	closed bool

	unroutable uint64
	writeErr   uint64
	late       [24]uint64 // histogram of lateness, log2 of microseconds
	maxLate    int64

	free chan []byte // buffers to use again
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

func nowNS() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

func sh(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %v: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// openTUN makes the device "eth0" inside the namespace and gives its descriptor.
func openTUN(ns string) (int, error) {
	type res struct {
		fd  int
		err error
	}
	c := make(chan res)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		fd, err := func() (int, error) {
			n, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return 0, err
			}
			defer unix.Close(n)
			if err := unix.Setns(n, unix.CLONE_NEWNET); err != nil {
				return 0, err
			}
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return 0, err
			}
			ifr, _ := unix.NewIfreq("eth0")
			ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
				unix.Close(fd)
				return 0, err
			}
			return fd, nil
		}()
		c <- res{fd, err}
	}()
	r := <-c
	return r.fd, r.err
}

func newHub(names []string, prefix string, subnet netip.Prefix, mtu int, seed uint64, p Params) (*Hub, error) {
	h := &Hub{mtu: mtu, route: map[uint32]int{}, start: time.Now(), seed: seed, free: make(chan []byte, 8192)}
	var err error
	if h.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	addr := subnet.Masked().Addr()
	for i, n := range names {
		addr = addr.Next()
		if !subnet.Contains(addr) {
			return nil, fmt.Errorf("%s is too small", subnet)
		}
		ho := &Host{Name: n, NS: prefix + n, Addr: addr}
		if _, err := os.Stat("/run/netns/" + ho.NS); err == nil {
			return h, fmt.Errorf("namespace %s exists already (use other names or --prefix, or remove it: ip netns del %s)", ho.NS, ho.NS)
		}
		if err := sh("ip", "netns", "add", ho.NS); err != nil {
			return h, err
		}
		h.hosts = append(h.hosts, ho)
		if ho.fd, err = openTUN(ho.NS); err != nil {
			return h, fmt.Errorf("tun in %s: %w", ho.NS, err)
		}
		sh("ip", "netns", "exec", ho.NS, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
		for _, a := range [][]string{
			{"link", "set", "lo", "up"},
			{"link", "set", "eth0", "mtu", fmt.Sprint(mtu), "txqueuelen", "5000"},
			{"addr", "add", fmt.Sprintf("%s/%d", addr, subnet.Bits()), "dev", "eth0"},
			{"link", "set", "eth0", "up"},
			{"route", "add", "default", "dev", "eth0"},
		} {
			if err := sh(append([]string{"ip", "-n", ho.NS}, a...)...); err != nil {
				return h, err
			}
		}
		a4 := addr.As4()
		h.route[binary.BigEndian.Uint32(a4[:])] = i
	}
	for i := range names {
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

func (h *Hub) run() {
	debug.SetGCPercent(-1) // a collection waits for threads that a busy machine may not run
	debug.SetMemoryLimit(512 << 20)
	runtime.GOMAXPROCS(len(h.hosts) + 4) // every thread that waits in a system call keeps its P
	for i := range h.hosts {
		go h.read(i)
	}
	go h.deliver()
}

func (h *Hub) poke() {
	one := uint64(1)
	unix.Write(h.wake, (*[8]byte)(unsafe.Pointer(&one))[:])
}

// read takes packets from one namespace. It is a plain blocking loop on a thread of its own.
func (h *Hub) read(src int) {
	runtime.LockOSThread()
	ho := h.hosts[src]
	buf := h.getBuf()
	for {
		n, err := unix.Read(ho.fd, buf[:cap(buf)])
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return
		}
		if h.forward(src, buf[:n]) {
			buf = h.getBuf()
		}
	}
}

// forward takes one packet; it says whether it keeps the buffer.
func (h *Hub) forward(src int, b []byte) (kept bool) {
	now := nowNS()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	if len(b) < 20 || b[0]>>4 != 4 {
		h.unroutable++
		return false
	}
	from, to := binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	if _, ok := h.route[from]; !ok {
		h.route[from] = src // an address added inside the namespace
	}
	dst, ok := h.route[to]
	if !ok || dst == src {
		h.unroutable++
		return false
	}
	ho, l := h.hosts[src], h.links[src][dst]
	switch b[9] {
	case unix.IPPROTO_TCP:
		l.S.TCPBytes += uint64(len(b))
	case unix.IPPROTO_UDP:
		l.S.UDPBytes += uint64(len(b))
	}
	t := now
	if ho.UpRate > 0 {
		if t, ok = ho.up.pass(now, len(b), ho.UpRate, accessQueue(ho.UpRate)); !ok {
			ho.UpDrop++
			return false
		}
	}
	at, n := l.admit(t, len(b))
	for i := range n {
		p := &packet{at: at[i], seq: h.seq, src: src, dst: dst, buf: b}
		h.seq++
		if i > 0 {
			p.buf = append([]byte(nil), b...)
		}
		h.push(p)
	}
	return n > 0
}

func accessQueue(rate float64) int { return max(int(rate/8*0.1), 8*1500) }

func (h *Hub) push(p *packet) {
	first := len(h.q) == 0 || p.at < h.q[0].at
	heap.Push(&h.q, p)
	if first {
		h.poke()
	}
}

// deliver hands packets to the receivers when they are due.
func (h *Hub) deliver() {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)
	var drain [8]byte
	fds := []unix.PollFd{{Fd: int32(h.wake), Events: unix.POLLIN}}
	for {
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			return
		}
		now := nowNS()
		wait := int64(time.Second)
		var p *packet
		if len(h.q) > 0 {
			if wait = h.q[0].at - now; wait <= 0 {
				p = heap.Pop(&h.q).(*packet)
				ho := h.hosts[p.dst]
				if !p.down && ho.DownRate > 0 {
					p.down = true
					t, ok := ho.down.pass(p.at, len(p.buf), ho.DownRate, accessQueue(ho.DownRate))
					if ok {
						p.at = t
						heap.Push(&h.q, p)
					} else {
						ho.DownDrop++
					}
					h.mu.Unlock()
					continue
				}
				late := now - p.at
				h.maxLate = max(h.maxLate, late)
				k := 0
				for v := late / 1000; v > 0 && k < len(h.late)-1; v >>= 1 {
					k++
				}
				h.late[k]++
				s := &h.links[p.src][p.dst].S
				s.OutPkts++
				s.OutBytes += uint64(len(p.buf))
			}
		}
		h.mu.Unlock()
		if p == nil {
			ts := unix.NsecToTimespec(wait)
			unix.Ppoll(fds, &ts, nil)
			unix.Read(h.wake, drain[:])
			continue
		}
		if _, err := unix.Write(h.hosts[p.dst].fd, p.buf); err != nil {
			h.mu.Lock()
			h.writeErr++
			h.mu.Unlock()
		}
		h.putBuf(p.buf)
	}
}

func (h *Hub) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.poke()
	for _, ho := range h.hosts {
		sh("ip", "netns", "del", ho.NS)
	}
}

func (h *Hub) index(name string) (int, error) {
	for i, ho := range h.hosts {
		if ho.Name == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no host %q", name)
}

// targets turns "a-b", "a>b", "a", "a>", ">a", "all" or "a,b|c" into link directions.
func (h *Hub) targets(t string) (out [][2]int, err error) {
	each := func(f func(i, j int) bool) {
		for i := range h.hosts {
			for j := range h.hosts {
				if i != j && f(i, j) {
					out = append(out, [2]int{i, j})
				}
			}
		}
	}
	if t == "all" {
		each(func(i, j int) bool { return true })
		return
	}
	if strings.Contains(t, "|") {
		group := map[int]int{}
		for g, part := range strings.Split(t, "|") {
			for _, n := range strings.Split(part, ",") {
				i, err := h.index(n)
				if err != nil {
					return nil, err
				}
				group[i] = g + 1
			}
		}
		each(func(i, j int) bool { return group[i] != 0 && group[j] != 0 && group[i] != group[j] })
		return
	}
	if a, b, ok := strings.Cut(t, ">"); ok {
		i, j := -1, -1
		if a != "" {
			if i, err = h.index(a); err != nil {
				return
			}
		}
		if b != "" {
			if j, err = h.index(b); err != nil {
				return
			}
		}
		each(func(x, y int) bool { return (i < 0 || x == i) && (j < 0 || y == j) })
		return
	}
	if i, e := h.index(t); e == nil {
		each(func(x, y int) bool { return x == i || y == i })
		return
	}
	// Host names may themselves contain a dash: try each one as the separator.
	for k := range t {
		if t[k] == '-' {
			i, e1 := h.index(t[:k])
			j, e2 := h.index(t[k+1:])
			if e1 == nil && e2 == nil && i != j {
				return [][2]int{{i, j}, {j, i}}, nil
			}
		}
	}
	return nil, fmt.Errorf("bad target %q (a-b, a>b, a, a>, >a, a,b|c, all)", t)
}

// command answers one request of the client.
func (h *Hub) command(args []string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch args[0] {
	case "set":
		if len(args) < 4 || len(args)%2 != 0 {
			return "", fmt.Errorf("set TARGET KEY VALUE [KEY VALUE]...")
		}
		if k := args[2]; k == "uprate" || k == "downrate" {
			i, err := h.index(args[1])
			if err != nil {
				return "", err
			}
			for n := 2; n < len(args); n += 2 {
				r, err := parseRate(args[n+1])
				if err != nil {
					return "", err
				}
				switch args[n] {
				case "uprate":
					h.hosts[i].UpRate = r
				case "downrate":
					h.hosts[i].DownRate = r
				default:
					return "", fmt.Errorf("uprate and downrate do not mix with link parameters")
				}
			}
			return "", nil
		}
		ts, err := h.targets(args[1])
		if err != nil {
			return "", err
		}
		for _, t := range ts {
			l := h.links[t[0]][t[1]]
			p := l.P
			for n := 2; n < len(args); n += 2 {
				if err := p.Set(args[n], args[n+1]); err != nil {
					return "", err
				}
			}
			if p.Rate != l.P.Rate {
				l.sh.freeAt = min(l.sh.freeAt, nowNS()+int64(100*time.Millisecond))
			}
			if p.OutUp != l.P.OutUp || p.OutDown != l.P.OutDown {
				l.outNext, l.out = 0, false
			}
			l.P = p
			l.lastAt = min(l.lastAt, nowNS()+int64(p.Delay+p.Jitter))
		}
		return "", nil
	case "partition", "heal":
		list := args[1:]
		if len(list) == 0 {
			if args[0] == "partition" {
				return "", fmt.Errorf("partition TARGET...")
			}
			list = []string{"all"}
		}
		for _, t := range list {
			ts, err := h.targets(t)
			if err != nil {
				return "", err
			}
			for _, x := range ts {
				h.links[x[0]][x[1]].P.Cut = args[0] == "partition"
			}
		}
		return "", nil
	case "drop": // packets in flight
		n := len(h.q)
		h.q = nil
		return fmt.Sprintf("%d packets in flight dropped\n", n), nil
	case "show":
		var b strings.Builder
		for _, ho := range h.hosts {
			fmt.Fprintf(&b, "%s\tnetns %s\taddr %s", ho.Name, ho.NS, ho.Addr)
			if ho.UpRate > 0 || ho.DownRate > 0 {
				fmt.Fprintf(&b, "\tuprate %gkbit downrate %gkbit", ho.UpRate/1e3, ho.DownRate/1e3)
			}
			b.WriteByte('\n')
		}
		for i, row := range h.links {
			for j, l := range row {
				if l != nil {
					fmt.Fprintf(&b, "%s>%s\t%s\n", h.hosts[i].Name, h.hosts[j].Name, l.P)
				}
			}
		}
		return b.String(), nil
	case "stats":
		return h.stats(args[1:])
	}
	return "", fmt.Errorf("unknown command %q", args[0])
}

func (h *Hub) lateness(q float64) int64 {
	var total, sum uint64
	for _, n := range h.late {
		total += n
	}
	for k, n := range h.late {
		if sum += n; float64(sum) >= q*float64(total) {
			return 1 << k
		}
	}
	return 0
}

func (h *Hub) stats(flags []string) (string, error) {
	has := func(f string) bool {
		for _, x := range flags {
			if x == f {
				return true
			}
		}
		return false
	}
	var b strings.Builder
	if has("--json") {
		writeJSON(&b, h)
	} else {
		fmt.Fprintf(&b, "%-14s %9s %12s %9s %12s %7s %7s %7s %6s %6s %6s %9s\n", "link", "in_pkts", "in_bytes", "out_pkts", "out_bytes", "lost", "qdrop", "cut", "mtu", "dup", "reord", "maxq_ms")
		for i, row := range h.links {
			for j, l := range row {
				if l == nil || (l.S.InPkts == 0 && !has("--all")) {
					continue
				}
				s := l.S
				fmt.Fprintf(&b, "%-14s %9d %12d %9d %12d %7d %7d %7d %6d %6d %6d %9.1f\n", h.hosts[i].Name+">"+h.hosts[j].Name,
					s.InPkts, s.InBytes, s.OutPkts, s.OutBytes, s.Lost, s.QueueDrop, s.CutDrop, s.MTUDrop, s.Dup, s.Reordered, float64(s.MaxQueueUS)/1e3)
			}
		}
		for _, ho := range h.hosts {
			if ho.UpDrop+ho.DownDrop > 0 {
				fmt.Fprintf(&b, "%s access line: %d dropped up, %d dropped down\n", ho.Name, ho.UpDrop, ho.DownDrop)
			}
		}
		fmt.Fprintf(&b, "emulator lateness us: p50<=%d p99<=%d p99.9<=%d max=%d; in flight %d, unroutable %d, write errors %d\n",
			h.lateness(.5), h.lateness(.99), h.lateness(.999), h.maxLate/1000, len(h.q), h.unroutable, h.writeErr)
	}
	if has("--reset") {
		for _, row := range h.links {
			for _, l := range row {
				if l != nil {
					l.S = Stats{}
				}
			}
		}
		for _, ho := range h.hosts {
			ho.UpDrop, ho.DownDrop = 0, 0
		}
		h.late, h.maxLate, h.unroutable, h.writeErr = [24]uint64{}, 0, 0, 0
	}
	return b.String(), nil
}
