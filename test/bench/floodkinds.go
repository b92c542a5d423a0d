package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// floodArg makes this program a flood: floodArg, its name, the address of the server.
const floodArg = "flood"

// flood is one way to be a nuisance from one address. Each is well above what the server lets one client have.
type flood struct {
	name string
	args []string // of the server
	free bool     // what it does is allowed: the ratio is shown, and nothing is demanded
	run  func(ctx context.Context, f *flooder)
}

// held is how many connections are held, of which one client may have 256.
const held = 2000

var floods = []flood{
	{name: "nothing, the cores busy", free: true, run: func(ctx context.Context, f *flooder) { f.spin(ctx) }}, // what a busy machine alone does to the tail
	{name: "new connections", run: func(ctx context.Context, f *flooder) { f.paced(ctx, 16, 10_000, f.comeAndGo) }},
	{name: "idle connections", run: func(ctx context.Context, f *flooder) { f.hold(ctx, floodPlain, nil) }},
	{name: "TLS handshakes", run: func(ctx context.Context, f *flooder) { f.paced(ctx, 64, 5_000, f.shake) }},
	{name: "half-open TLS handshakes", run: func(ctx context.Context, f *flooder) { f.hold(ctx, floodSecure, []byte{22, 3, 1, 2, 0}) }},
	{name: "slow headers", run: func(ctx context.Context, f *flooder) { f.hold(ctx, floodPlain, []byte("GET / HTTP/1.1\r\nX-Slow: ")) }},
	{name: "slow bodies", run: func(ctx context.Context, f *flooder) {
		f.hold(ctx, floodPlain, []byte("PUT /v1/kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"))
	}},
	{name: "requests", free: true, run: func(ctx context.Context, f *flooder) { f.paced(ctx, 64, 0, f.requests()) }},
	{name: "requests beyond limits.rate", args: []string{"--limits-rate", "1000"}, run: func(ctx context.Context, f *flooder) { f.paced(ctx, 64, 0, f.requests()) }},
	{name: "big bodies", run: func(ctx context.Context, f *flooder) { f.paced(ctx, 16, 0, f.bigBody) }},
	{name: "watches", run: func(ctx context.Context, f *flooder) {
		f.hold(ctx, floodPlain, []byte("GET /v1/kv/bench/?watch&prefix HTTP/1.1\r\nHost: x\r\n\r\n"))
	}},
	{name: "streams", run: func(ctx context.Context, f *flooder) { f.frames(ctx, "application/grpc", unfinished) }},
	{name: "streams reset", run: func(ctx context.Context, f *flooder) { f.frames(ctx, "text/plain", rapidReset) }},
	{name: "calls reset", run: func(ctx context.Context, f *flooder) { f.frames(ctx, "application/grpc", rapidReset) }},
	{name: "QUIC initials", run: func(ctx context.Context, f *flooder) { f.paced(ctx, 4, 20_000, f.initials()) }},
}

// flooder is the side of the flood.
type flooder struct {
	server string
	hits   atomic.Int64
}

// serveFlood floods until it is killed, and says how often it has hit.
func serveFlood(name, server string) error {
	var most syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most); err != nil {
		return err
	}
	most.Cur = most.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &most); err != nil {
		return err
	}
	f := &flooder{server: server}
	for _, one := range floods {
		if one.name != name {
			continue
		}
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { one.run(ctx, f) })
		for { // until nobody reads any more
			if _, err := fmt.Fprintln(os.Stdout, f.hits.Load()); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return fmt.Errorf("no flood %q", name)
}

func (f *flooder) dial(ctx context.Context, port string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(floodFrom)}, Timeout: 5 * time.Second}
	return d.DialContext(ctx, "tcp", net.JoinHostPort(f.server, port))
}

// paced has workers do something, rate times a second in all; 0 is as fast as they go.
func (f *flooder) paced(ctx context.Context, workers, rate int, do func(ctx context.Context, worker int) error) {
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			next := time.Now()
			for ctx.Err() == nil {
				if rate > 0 {
					next = next.Add(time.Second * time.Duration(workers) / time.Duration(rate))
					if late := time.Since(next); late > time.Second {
						next = time.Now() // no burst afterwards
					}
					if sleepUntil(ctx, next) != nil {
						return
					}
				}
				f.hits.Add(1)
				if do(ctx, i) != nil && sleep(ctx, time.Millisecond) != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// spin keeps all cores busy, as far as nobody else wants them.
func (f *flooder) spin(ctx context.Context) {
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for ctx.Err() == nil {
				f.hits.Add(1)
			}
		})
	}
	wg.Wait()
}

func (f *flooder) comeAndGo(ctx context.Context, _ int) error {
	c, err := f.dial(ctx, floodPlain)
	if err != nil {
		return err
	}
	return c.Close()
}

func (f *flooder) shake(ctx context.Context, _ int) error {
	c, err := f.dial(ctx, floodSecure)
	if err != nil {
		return err
	}
	return handshake(c)
}

// handshake agrees on keys, and closes the connection.
func handshake(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return errors.Join(err, c.Close())
	}
	return errors.Join(tls.Client(c, anyServer).Handshake(), c.Close())
}

// hold keeps connections on which little is said, and opens those anew that are closed.
func (f *flooder) hold(ctx context.Context, port string, first []byte) {
	f.paced(ctx, held, 0, func(ctx context.Context, _ int) error {
		c, err := f.dial(ctx, port)
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = c.Close() })() // whoever floods needs no word
		_, _ = c.Write(first)
		_, _ = io.Copy(io.Discard, c) // until it is closed
		_ = c.Close()
		return sleep(ctx, 100*time.Millisecond)
	})
}

// requests is for workers that each get a key over a connection that is kept for as long as the server does.
func (f *flooder) requests() func(context.Context, int) error {
	var conns [64]*httpConn
	return func(ctx context.Context, i int) error {
		if conns[i] == nil {
			c, err := f.dial(ctx, floodPlain)
			if err != nil {
				return err
			}
			conns[i] = &httpConn{conn: c, in: bufio.NewReaderSize(c, 4<<10), out: []byte("GET /v1/kv/bench/00000001 HTTP/1.1\r\nHost: bench\r\n\r\n")}
		}
		if _, _, err := conns[i].do(); err != nil {
			_ = conns[i].Close() // it is of no use any more
			conns[i] = nil
			return err
		}
		return nil
	}
}

// bigBody sends a value of 2 MiB, twice as long as limits.value.
func (f *flooder) bigBody(ctx context.Context, _ int) error {
	c, err := f.dial(ctx, floodPlain)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "PUT /v1/kv/big HTTP/1.1\r\nHost: bench\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n"); err != nil {
		return err
	}
	piece := make([]byte, 64<<10)
	for range 32 {
		if _, err := c.Write(piece); err != nil {
			return err
		}
	}
	_, err = io.WriteString(c, "\r\n0\r\n\r\n")
	return err
}

// frames floods connections of HTTP/2; one that is closed is replaced.
func (f *flooder) frames(ctx context.Context, contentType string, one func(*http2.Framer, []byte, uint32) error) {
	f.paced(ctx, 8, 0, func(ctx context.Context, _ int) error {
		c, err := f.dial(ctx, floodPlain)
		if err != nil {
			return err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { _ = c.Close() })()
		go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
		return f.flood(c, contentType, one)
	})
}

func (f *flooder) flood(c net.Conn, contentType string, one func(*http2.Framer, []byte, uint32) error) error {
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return err
	}
	w := http2.NewFramer(c, nil)
	if err := w.WriteSettings(); err != nil {
		return err
	}
	var head bytes.Buffer
	e := hpack.NewEncoder(&head)
	for i := uint32(1); i < 1<<30; i += 2 {
		head.Reset()
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.KV/Range"}, {":authority", "x"}, {"content-type", contentType}, {"te", "trailers"}} {
			if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
				return err
			}
		}
		if err := one(w, head.Bytes(), i); err != nil {
			return err
		}
		f.hits.Add(1)
	}
	return nil
}

func rapidReset(w *http2.Framer, head []byte, i uint32) error {
	if err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: head, EndHeaders: true}); err != nil {
		return err
	}
	return w.WriteRSTStream(i, http2.ErrCodeCancel)
}

// unfinished begins a call with a message of 2 MiB and sends a piece of it.
func unfinished(w *http2.Framer, head []byte, i uint32) error {
	if err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: head, EndHeaders: true}); err != nil {
		return err
	}
	return w.WriteData(i, false, append([]byte{0, 0, 0x1f, 0xff, 0xff}, make([]byte, 1<<10)...))
}

// initials is for workers that each open QUIC connections that they do not go on with, from a socket of their own.
func (f *flooder) initials() func(context.Context, int) error {
	var socks [4]net.Conn
	return func(ctx context.Context, i int) error {
		if socks[i] == nil {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(floodFrom)}}
			c, err := d.DialContext(ctx, "udp", net.JoinHostPort(f.server, floodPeer))
			if err != nil {
				return err
			}
			socks[i] = c
		}
		packet, err := quicInitial()
		if err != nil {
			return err
		}
		_, err = socks[i].Write(packet)
		return err
	}
}
