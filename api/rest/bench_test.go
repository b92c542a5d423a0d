package rest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"holdfast/kv"
)

// instant answers at once, so that what is measured is the door.
type instant struct {
	between
	value []byte
}

func (b *instant) Do(context.Context, kv.Command) (kv.Result, error) {
	return kv.Result{Header: kv.Header{Revision: 123456}, Ops: []kv.OpResult{{}}}, nil
}

func (b *instant) Read(context.Context, kv.Query) (kv.Page, error) {
	return kv.Page{Header: kv.Header{Revision: 123456}, Ops: []kv.OpResult{{KVs: []kv.KeyValue{{Value: b.value, ModRevision: 12345}}, Count: 1}}}, nil
}

// bare is what net/http itself takes for the same work.
func bare(value []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			if _, err := io.ReadAll(r.Body); err != nil {
				return
			}
			_, _ = w.Write([]byte("{\"revision\":123456}\n"))
			return
		}
		_, _ = w.Write(value)
	})
}

// sink is a ResponseWriter that keeps nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

func BenchmarkHandler(b *testing.B) {
	value := bytes.Repeat([]byte("x"), 128)
	h := New(Options{Backend: &instant{value: value}, Reporter: reporter{}})
	b.Run("GET", func(b *testing.B) {
		r := httptest.NewRequest(http.MethodGet, "/v1/kv/site/42/temp", nil)
		b.ReportAllocs()
		for b.Loop() {
			h.ServeHTTP(&sink{header: http.Header{}}, r)
		}
	})
	b.Run("PUT", func(b *testing.B) {
		body := bytes.NewReader(value)
		r := httptest.NewRequest(http.MethodPut, "/v1/kv/site/42/temp", body)
		b.ReportAllocs()
		for b.Loop() {
			body.Reset(value)
			h.ServeHTTP(&sink{header: http.Header{}}, r)
		}
	})
}

// cpu is the CPU time of the process, which a busy machine distorts less than the time on the wall.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The same over loopback, next to the bare handler: 8 connections, each with one request on its way. Both include the
// client's half.
func BenchmarkServer(b *testing.B) {
	value := bytes.Repeat([]byte("x"), 128)
	get := []byte("GET /v1/kv/site/42/temp HTTP/1.1\r\nHost: x\r\n\r\n")
	put := append([]byte("PUT /v1/kv/site/42/temp HTTP/1.1\r\nHost: x\r\nContent-Length: 128\r\n\r\n"), value...)
	for _, c := range []struct {
		name    string
		request []byte
		handler http.Handler
	}{
		{"GET/bare", get, bare(value)},
		{"GET/rest", get, New(Options{Backend: &instant{value: value}, Reporter: reporter{}})},
		{"PUT/bare", put, bare(value)},
		{"PUT/rest", put, New(Options{Backend: &instant{value: value}, Reporter: reporter{}})},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := httptest.NewServer(c.handler)
			defer s.Close()
			b.SetParallelism(4)
			b.ReportAllocs()
			before := cpu(b)
			defer func() { b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op") }()
			b.RunParallel(func(pb *testing.PB) {
				conn, err := net.Dial("tcp", s.Listener.Addr().String())
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close()
				buf := make([]byte, 4096)
				for pb.Next() { // a reply fits one read
					if _, err := conn.Write(c.request); err != nil {
						b.Error(err)
						return
					}
					if _, err := conn.Read(buf); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
