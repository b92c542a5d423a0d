package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/api/etcd"
	"holdfast/config"
	"holdfast/internal/sniff"
)

// drainMax bounds the end of the doors: requests that run get most of it to finish, what then still runs is cut off.
const (
	drainMax    = 10 * time.Second
	requestsMax = 8 * time.Second
)

// headerMax is the most bytes of header that a request may have.
const headerMax = 64 << 10

// What one connection of HTTP/2 may hold here: requests at a time, and bytes that nobody has read yet. At a round trip of
// 50 ms a request gets 5 MB/s through.
const (
	streamsMax   = 128
	connBuffer   = 512 << 10
	streamBuffer = 256 << 10
)

// doors serves HTTP/1.1 and HTTP/2 (by prior knowledge) on every listener, and gRPC on those that have etcd's API.
type doors struct {
	log     *slog.Logger
	gate    *gate
	etcd    *etcd.Server                     // nil: no listener has it
	secure  func(net.Conn) (net.Conn, error) // speaks TLS on a connection; nil: no listener is https
	bounds  *sniff.Bounds                    // of connections of HTTP/2
	charge  func(http.Handler) http.Handler  // counts the bodies of requests; nil: nobody does
	force   context.Context                  // ended to cut a drain short
	servers []*server
	ran     atomic.Bool // Run was called
}

type server struct {
	door  *door
	http  *http.Server
	split *sniff.Splitter // between http and etcd; nil: all is http's
	grpc  net.Listener    // of the connections that begin with a call
	calls bool            // those are etcd's; else http's too
}

// add puts a server behind a door. onShutdown may be nil.
func (ds *doors) add(d *door, l *limiter, h http.Handler, limits config.Limits, onShutdown func()) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler:           ds.closing(ds.charged(h)),
		Protocols:         &protocols,
		ReadHeaderTimeout: limits.HeaderTimeout,
		IdleTimeout:       limits.IdleTimeout, // the body's time is kept by the handler that reads it
		MaxHeaderBytes:    headerMax,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streamsMax, MaxReceiveBufferPerConnection: connBuffer, MaxReceiveBufferPerStream: streamBuffer},
		ConnContext:       l.mark,
		ErrorLog:          slog.NewLogLogger(httpLog{ds.log.Handler()}, slog.LevelDebug),
	}
	if onShutdown != nil {
		srv.RegisterOnShutdown(onShutdown)
	}
	d.listener = l.listener(d.listener)
	s := &server{door: d, http: srv}
	ds.servers = append(ds.servers, s)
	if d.url.TLS {
		s.share(limits, ds.secure, ds.bounds)
	}
}

func (ds *doors) charged(h http.Handler) http.Handler {
	if ds.charge == nil {
		return h
	}
	return ds.charge(h)
}

// share has the connections of a door told apart, after TLS where that is spoken.
func (s *server) share(limits config.Limits, secure func(net.Conn) (net.Conn, error), bounds *sniff.Bounds) {
	s.split = sniff.New(s.door.listener, limits.HeaderTimeout, secure, bounds)
	s.door.listener, s.grpc = s.split.HTTP(), s.split.GRPC()
}

// addEtcd is add for a door that has etcd's API besides.
func (ds *doors) addEtcd(d *door, l *limiter, h http.Handler, limits config.Limits, onShutdown func()) {
	ds.add(d, l, h, limits, onShutdown)
	s := ds.servers[len(ds.servers)-1]
	if s.split == nil {
		s.share(limits, nil, ds.bounds)
	}
	s.grpc, s.calls = l.turnAway(s.grpc), true
}

// closing tells clients not to use a connection again that will not be served again.
func (ds *doors) closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ds.gate.isDraining() || whyBeyond(r.Context()) != nil {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// Run serves until ctx ends, then drains: new requests are refused, running ones are waited for.
func (ds *doors) Run(ctx context.Context, ready func()) error {
	ds.ran.Store(true)
	var wg sync.WaitGroup
	defer wg.Wait()
	failed := make(chan error, 2*len(ds.servers))
	for _, s := range ds.servers {
		if s.split != nil {
			wg.Go(s.split.Run)
			wg.Go(func() {
				serve := s.http.Serve
				if s.calls {
					serve = ds.etcd.Serve
				}
				if err := serve(s.grpc); err != nil && !errors.Is(err, http.ErrServerClosed) {
					failed <- fmt.Errorf("serve gRPC on %s: %w", s.door.listener.Addr(), err)
				}
			})
		}
		wg.Go(func() {
			if err := s.http.Serve(s.door.listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s on %s: %w", s.door.purpose, s.door.listener.Addr(), err)
			}
		})
	}
	ready()
	var failure error
	select {
	case failure = <-failed:
	case <-ctx.Done():
	}
	return errors.Join(failure, ds.drain())
}

// giveUp ends what was made ready to serve, if Run was never called: a part before the doors has failed, or the agent was stopped
// before their turn.
func (ds *doors) giveUp() {
	if ds.etcd != nil && !ds.ran.Load() {
		ds.etcd.Close(context.Background()) // has nothing to wait for
	}
}

// drain ends serving within drainMax. Requests cut off are logged, not an error: each got an answer it cannot mistake
// for success, or none.
func (ds *doors) drain() error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ds.force, drainMax)
	defer cancel()
	requests, done := context.WithTimeout(ctx, requestsMax)
	if ds.etcd != nil {
		ds.etcd.EndStreams()
	}
	left := ds.gate.drain(requests)
	done()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var cut int
	var errs []error
	if ds.etcd != nil {
		wg.Go(func() {
			if ds.etcd.Close(ctx) {
				mu.Lock()
				defer mu.Unlock()
				cut++
			}
		})
	}
	for _, s := range ds.servers {
		wg.Go(func() {
			err := s.http.Shutdown(ctx)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() != nil {
				cut++
				err = s.http.Close()
			}
			if err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if left > 0 || cut > 0 {
		ds.log.Warn("doors closed on running requests", "requests", left, "after", time.Since(begin).Round(time.Millisecond).String())
	}
	return errors.Join(errs...)
}

// httpLog gives the lines of net/http a level: a panic in a handler is ours, the rest is what clients do.
type httpLog struct{ slog.Handler }

func (h httpLog) Handle(ctx context.Context, r slog.Record) error {
	line := []byte(r.Message)
	fresh := slog.NewRecord(r.Time, slog.LevelDebug, "client connection failed", 0)
	if bytes.Contains(line, []byte("panic serving")) {
		fresh.Level, fresh.Message = slog.LevelError, "handler panicked"
	}
	if bytes.Contains(line, []byte("Accept error")) {
		fresh.Level, fresh.Message = slog.LevelWarn, "connections cannot be accepted"
	}
	if !h.Handler.Enabled(ctx, fresh.Level) {
		return nil
	}
	fresh.AddAttrs(slog.String("detail", r.Message))
	return h.Handler.Handle(ctx, fresh)
}

// Enabled lets every line come to Handle, where its level is known.
func (h httpLog) Enabled(context.Context, slog.Level) bool { return true }
