package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// dialerEnv makes this test binary a program that opens idle connections, so that their other ends can be weighed alone.
const dialerEnv = "HOLDFAST_TEST_DIALER"

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(dialerEnv)); err == nil {
		if err := dialIdle(n, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dialIdle opens n connections with the identity in dir, says so, and holds them until its input ends.
func dialIdle(n int, dir, addr string) error {
	id, err := LoadIdentity(dir, nil)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	ep, err := New(Config{Conn: conn, Identity: func() *Identity { return id }})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = ep.Run(ctx) })
	for range n {
		if _, err := ep.Dial(ctx, Uplink, Target{Addrs: []string{addr}}); err != nil {
			cancel()
			return err
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	cancel()
	wg.Wait()
	return err
}

// serveBench runs an endpoint on loopback until the benchmark ends.
func serveBench(b *testing.B, ca *CA, h Handler) *Endpoint {
	b.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	id := newIdentity(b, ca, Grant{})
	ep, err := New(Config{Conn: conn, Identity: func() *Identity { return id }})
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range []Protocol{Raft, Uplink} {
		if h != nil {
			ep.Listen(p, h)
		}
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- ep.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		_ = conn.Close()
	})
	return ep
}

// BenchmarkIdleConnections weighs the accepting end of an idle connection whose handler waits for a stream.
func BenchmarkIdleConnections(b *testing.B) {
	const n = 2000
	for b.Loop() {
		ca := mustCA(b, "c1")
		dir := b.TempDir()
		if err := newIdentity(b, ca, Grant{Role: Proxy}).Save(dir, nil); err != nil {
			b.Fatal(err)
		}
		ep := serveBench(b, ca, func(ctx context.Context, c *Conn) { _, _ = c.AcceptStream(ctx) })
		before := inUse()
		self, err := filepath.Abs(os.Args[0])
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command(self, dir, ep.Addr().String()) //nolint:gosec // this test itself
		cmd.Env = append(os.Environ(), dialerEnv+"="+strconv.Itoa(n))
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
			b.Fatalf("dialer said %q, %v", line, err)
		}
		time.Sleep(12 * time.Second) // handshake state is let go of after ten seconds
		b.ReportMetric(float64(inUse()-before)/n, "B/conn")
		b.ReportMetric(float64(ep.Counters().Open), "conns")
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// answer gives 50 bytes for each request.
func answer(ctx context.Context, c *Conn) {
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		go func() {
			if _, err := io.ReadAll(s); err != nil {
				return
			}
			_, _ = s.Write(make([]byte, 50))
			_ = s.Close()
		}()
	}
}

func BenchmarkStreamRoundTrip(b *testing.B) {
	for _, parallel := range []int{1, 32} {
		b.Run(fmt.Sprintf("parallel=%d", parallel), func(b *testing.B) {
			ca := mustCA(b, "c1")
			server := serveBench(b, ca, answer)
			c, err := serveBench(b, ca, nil).Dial(b.Context(), Raft, Target{Addrs: []string{server.Addr().String()}})
			if err != nil {
				b.Fatal(err)
			}
			msg := string(make([]byte, 300))
			b.ReportAllocs()
			b.SetParallelism(max(parallel/runtime.GOMAXPROCS(0), 1))
			if parallel == 1 {
				for b.Loop() {
					if _, err := ask(c, msg, time.Minute); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := ask(c, msg, time.Minute); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkDatagram(b *testing.B) {
	ca := mustCA(b, "c1")
	server := serveBench(b, ca, echo)
	c, err := serveBench(b, ca, nil).Dial(b.Context(), Raft, Target{Addrs: []string{server.Addr().String()}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.SendDatagram(make([]byte, 300)); err != nil {
			b.Fatal(err)
		}
		if _, err := c.ReceiveDatagram(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHandshake(b *testing.B) {
	ca := mustCA(b, "c1")
	server := serveBench(b, ca, func(ctx context.Context, _ *Conn) { <-ctx.Done() })
	client := serveBench(b, ca, nil)
	for b.Loop() {
		c, err := client.Dial(b.Context(), Raft, Target{Addrs: []string{server.Addr().String()}})
		if err != nil {
			b.Fatal(err)
		}
		c.CloseWithError(CodeDone, "")
	}
}
