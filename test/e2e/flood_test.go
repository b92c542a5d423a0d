//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"holdfast/transport"
)

// Addresses in a network namespace of its own: the agent, who floods, and a client that behaves. None is loopback, where a
// client may have all.
const (
	floodTarget  = "10.99.0.1"
	floodSource  = "10.99.0.2"
	floodBystand = "10.99.0.3"
	floodEnv     = "HOLDFAST_E2E_FLOOD"
	floodNight   = "HOLDFAST_E2E_FLOODS" // set: all floods
	floodBegun   = 400                   // more than one address has connections
)

// floodHits counts connections, requests or frames of the flood that runs.
var floodHits atomic.Int64

// TestFloodsLeaveOthersServed floods an agent from one address, in every way that costs the sender little, while a client at
// another address writes. Every write of that one is acknowledged, /livez answers on the socket, and the process is the
// same afterwards. It counts and measures no time.
func TestFloodsLeaveOthersServed(t *testing.T) {
	if os.Getenv(floodEnv) == "" {
		script := fmt.Sprintf("ip link set lo up && ip addr add %s/24 dev lo && ip addr add %s/24 dev lo && ip addr add %s/24 dev lo && exec \"$@\"", floodTarget, floodSource, floodBystand)
		cmd := exec.Command("unshare", "--net", "sh", "-c", script, "sh", os.Args[0], "-test.run", "^TestFloodsLeaveOthersServed$", "-test.v", "-test.timeout", "5m")
		cmd.Env = append(os.Environ(), floodEnv+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var most syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	most.Cur = most.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	plain, secure, peers := floodTarget+":2379", floodTarget+":2378", floodTarget+":2380"
	a := start(t, filepath.Join(t.TempDir(), "d"), "127.0.0.1:2379", "--listen", "http://"+plain, "--listen", "https://"+secure, "--tls-auto", "--insecure",
		"--peer-listen", peers)
	b := newBystander(t, a, "http://"+plain)
	b.works("before any flood")
	for _, f := range []struct {
		name  string
		flood func(ctx context.Context, t *testing.T)
		night bool // too long for every change
	}{
		{"5,000 connections on which nothing is said", func(ctx context.Context, t *testing.T) { holdOpen(ctx, t, plain, 5000, nil) }, false},
		{"5,000 TLS handshakes that are not finished", func(ctx context.Context, t *testing.T) { holdOpen(ctx, t, secure, 5000, []byte{22, 3, 1, 2, 0}) }, false},
		{"slow headers", func(ctx context.Context, t *testing.T) {
			holdOpen(ctx, t, plain, 1000, []byte("GET / HTTP/1.1\r\nX-Slow: "))
		}, true},
		{"slow bodies", func(ctx context.Context, t *testing.T) {
			holdOpen(ctx, t, plain, 1000, []byte("PUT /v1/kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"))
		}, false},
		{"TLS handshakes", func(ctx context.Context, t *testing.T) { handshakes(ctx, secure) }, false},
		{"bodies that are too long", func(ctx context.Context, t *testing.T) { longBodies(ctx, plain) }, false},
		{"watches", func(ctx context.Context, t *testing.T) {
			holdOpen(ctx, t, plain, 1000, []byte("GET /v1/kv/by/?watch&prefix HTTP/1.1\r\nHost: x\r\n\r\n"))
		}, false},
		{"QUIC handshakes", func(ctx context.Context, t *testing.T) { quicHandshakes(ctx, t, peers) }, false},
		{"connections that come and go", func(ctx context.Context, t *testing.T) { comeAndGo(ctx, plain) }, true},
		{"requests without end", func(ctx context.Context, t *testing.T) { requestFlood(ctx, "http://"+plain) }, false},
		{"streams reset at once", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "text/plain", rapidReset) }, false},
		{"calls reset at once", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "application/grpc", rapidReset) }, false},
		{"settings", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "text/plain", settingsFlood) }, true},
		{"settings to gRPC", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "application/grpc", settingsFlood) }, true},
		{"calls whose bodies do not end", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "application/grpc", unfinished) }, false},
		{"requests whose bodies do not end", func(ctx context.Context, t *testing.T) { slowBodies(ctx, "http://"+plain) }, false},
		{"windows", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "application/grpc", windowFlood) }, true},
		{"pings", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "text/plain", pingFlood) }, true},
		{"pings to gRPC", func(ctx context.Context, t *testing.T) { frames(ctx, plain, "application/grpc", pingFlood) }, true},
	} {
		t.Run(f.name, func(t *testing.T) {
			if f.night && os.Getenv(floodNight) == "" {
				t.Skip("in .ci/nightly, which sets " + floodNight)
			}
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer stop()
			floodHits.Store(0)
			wg.Go(func() { f.flood(ctx, t) })
			b.t = t
			eventually(t, startMax, func() string {
				if n := floodHits.Load(); n < floodBegun {
					return fmt.Sprintf("the flood has not begun: %d of %d", n, floodBegun)
				}
				return ""
			})
			b.works("during the flood")
			stop()
			wg.Wait()
			b.works("after the flood")
			t.Logf("so far it took %d MiB of memory", a.residentMax()>>20)
		})
	}
	select {
	case <-a.exited:
		t.Error("the agent has ended")
	default:
	}
	if most := a.residentMax(); most > floodMemory {
		t.Errorf("it took %d MiB of memory, want at most %d", most>>20, floodMemory>>20)
	} else {
		t.Logf("it took %d MiB of memory", most>>20)
	}
}

// floodMemory is what the agent may take in all while it is flooded. A client's share of limits.bodies is 32 MiB; around it
// are copies that the collector has not taken yet, and buffers and goroutines of hundreds of connections. Without limits.bodies
// it was 1 GB within seconds.
const floodMemory = 400 << 20

// residentMax is the most memory that the process has had.
func (a *agent) residentMax() int64 {
	a.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		a.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		a.t.Fatalf("no VmHWM in %s: %v", text, err)
	}
	return kib << 10
}

// bystander is the client that behaves.
type bystander struct {
	t      *testing.T
	url    string
	client *http.Client
	socket *http.Client
	n      int
}

func newBystander(t *testing.T, a *agent, url string) *bystander {
	local := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(floodBystand)}, Timeout: 10 * time.Second}
	tr := &http.Transport{DialContext: local.DialContext, DisableKeepAlives: true}
	sock := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(a.dir, "agent.sock"))
	}}
	return &bystander{t: t, url: url, client: &http.Client{Transport: tr, Timeout: 30 * time.Second}, socket: &http.Client{Transport: sock, Timeout: 30 * time.Second}}
}

// works writes on connections of its own, each of which has to find its place.
func (b *bystander) works(when string) {
	b.t.Helper()
	for range 10 {
		b.n++
		r, err := call(b.t.Context(), b.client, "PUT", fmt.Sprintf("%s/v1/kv/by/%d", b.url, b.n), []byte("x"))
		if err != nil || r.status != 201 {
			b.t.Fatalf("%s: a PUT got %d %s, %v", when, r.status, r.body, err)
		}
		if r, err := call(b.t.Context(), b.socket, "GET", "http://agent/livez", nil); err != nil || r.status != 200 {
			b.t.Fatalf("%s: /livez on the socket got %d, %v", when, r.status, err)
		}
	}
}

func floodDial(ctx context.Context, addr string) (net.Conn, error) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(floodSource)}, Timeout: 5 * time.Second}
	return d.DialContext(ctx, "tcp", addr)
}

// holdOpen keeps n connections, and opens those anew that are closed on it, until ctx ends.
func holdOpen(ctx context.Context, t *testing.T, addr string, n int, first []byte) {
	var wg sync.WaitGroup
	var opened atomic.Int64
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := floodDial(ctx, addr)
				if err != nil {
					if linger(ctx, 100*time.Millisecond) {
						continue
					}
					return
				}
				opened.Add(1)
				floodHits.Add(1)
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				_, _ = c.Write(first)
				_, _ = io.Copy(io.Discard, c) // until it is closed
				stop()
				_ = c.Close()
				linger(ctx, 100*time.Millisecond)
			}
		})
	}
	wg.Wait()
	t.Logf("%d connections opened", opened.Load())
}

func linger(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// connectEach has n clients connect, do something with the connection and close it, over and over until ctx ends, which closes those
// that are open too.
func connectEach(ctx context.Context, addr string, n int, do func(c net.Conn)) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := floodDial(ctx, addr)
				if err != nil {
					linger(ctx, 10*time.Millisecond)
					continue
				}
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				do(c)
				stop()
				_ = c.Close()
			}
		})
	}
	wg.Wait()
}

func comeAndGo(ctx context.Context, addr string) {
	connectEach(ctx, addr, 16, func(net.Conn) { floodHits.Add(1) })
}

// handshakes agrees on keys and goes away, as fast as it can.
func handshakes(ctx context.Context, addr string) {
	connectEach(ctx, addr, 32, func(c net.Conn) {
		floodHits.Add(1)
		_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake()
	})
}

// longBodies sends values of 2 MiB. The node takes half a second over the end of each, so they are many.
func longBodies(ctx context.Context, addr string) {
	head := fmt.Sprintf("PUT /v1/kv/long HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", 2<<20)
	piece := make([]byte, 64<<10)
	connectEach(ctx, addr, 128, func(c net.Conn) {
		floodHits.Add(1)
		_, err := io.WriteString(c, head)
		for sent := 0; err == nil && sent < 2<<20; sent += len(piece) {
			_, err = c.Write(piece)
		}
	})
}

// quicHandshakes opens connections as a node does, and lets go of each once the first packet is out.
func quicHandshakes(ctx context.Context, t *testing.T, addr string) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(floodSource)})
				if err != nil {
					linger(ctx, 10*time.Millisecond)
					continue
				}
				for range 16 {
					short, cancel := context.WithTimeout(ctx, time.Millisecond)
					floodHits.Add(1)
					_, _ = quic.Dial(short, socket, to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{string(transport.Uplink)}}, &quic.Config{})
					cancel()
				}
				_ = socket.Close()
			}
		})
	}
	wg.Wait()
}

func requestFlood(ctx context.Context, url string) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return floodDial(ctx, addr) }, MaxIdleConnsPerHost: 64}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for ctx.Err() == nil {
				floodHits.Add(1)
				_, _ = call(ctx, &http.Client{Transport: tr}, "GET", url+"/v1/kv/by/1", nil)
			}
		})
	}
	wg.Wait()
}

// frames floods connections of HTTP/2 until ctx ends; one that is closed is replaced.
func frames(ctx context.Context, addr, contentType string, flood floodOfFrames) {
	connectEach(ctx, addr, 4, func(c net.Conn) { framesOn(c, contentType, flood) })
}

// floodOfFrames writes the frames of one more stream. Headers are those of a call, as the connection's encoder has them.
type floodOfFrames func(f *http2.Framer, headers []byte, stream uint32) error

// framesOn begins a connection with a call that stays open and floods it to its end.
func framesOn(c net.Conn, contentType string, flood floodOfFrames) {
	go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, nil)
	_ = f.WriteSettings()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	headers := func() []byte {
		block.Reset()
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.KV/Range"}, {":authority", "x"}, {"content-type", contentType}, {"te", "trailers"}} {
			_ = encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		return block.Bytes()
	}
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(), EndHeaders: true})
	for stream := uint32(3); err == nil && stream < 1<<30; stream += 2 {
		if err = flood(f, headers(), stream); err == nil {
			floodHits.Add(1)
		}
	}
}

func rapidReset(f *http2.Framer, headers []byte, i uint32) error {
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: headers, EndHeaders: true}); err != nil {
		return err
	}
	return f.WriteRSTStream(i, http2.ErrCodeCancel)
}

func settingsFlood(f *http2.Framer, _ []byte, i uint32) error {
	return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: i % 65536})
}

func pingFlood(f *http2.Framer, _ []byte, i uint32) error {
	return f.WritePing(false, [8]byte{byte(i)})
}

func windowFlood(f *http2.Framer, _ []byte, _ uint32) error { return f.WriteWindowUpdate(0, 1) }

// unfinished begins a call with a message of 2 MiB and sends a quarter of it, as flow control allows.
func unfinished(f *http2.Framer, headers []byte, i uint32) error {
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: headers, EndHeaders: true}); err != nil {
		return err
	}
	piece := append([]byte{0, 0, 0x1f, 0xff, 0xff}, make([]byte, 16<<10-5)...)
	for range 31 {
		if err := f.WriteData(i, false, piece); err != nil {
			return err
		}
		piece = make([]byte, 16<<10)
	}
	return nil
}

// slowBodies puts values over HTTP/2, as many as there is room for, of which only the end does not come.
func slowBodies(ctx context.Context, url string) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	for range 16 { // connections
		tr := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return floodDial(ctx, addr) }}
		defer tr.CloseIdleConnections() //nolint:gocritic // they all end together
		for range 64 {
			wg.Go(func() {
				for ctx.Err() == nil {
					floodHits.Add(1)
					r, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/v1/kv/slow", io.MultiReader(bytes.NewReader(make([]byte, 1000<<10)), endless{ctx}))
					if err != nil {
						return
					}
					if res, err := (&http.Client{Transport: tr}).Do(r); err == nil {
						_ = res.Body.Close()
					}
					linger(ctx, 10*time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
}

// endless has nothing to read until its context ends.
type endless struct{ ctx context.Context }

func (e endless) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}
