package uplink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"holdfast/api/apitest"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// until is the end of what a peer sends, once it is told.
type until struct{ end chan error }

func (u until) Read([]byte) (int, error) { return 0, <-u.end }

// A watch goes on when its peer has said that it will ask for no more, and ends when the peer has gone, or the connection.
func TestAWatchEndsWithWhoAskedForIt(t *testing.T) {
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		end  error
		last bool // what the peer sends ends so that its watch goes on
	}{"no more will be asked": {io.EOF, true}, "the peer has gone": {gone, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := &earlyConn{requests: make(chan Stream, 1), confirmed: make(chan struct{})}
				close(conn.confirmed)
				var b bytes.Buffer
				spec := kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte("k")}}}
				req := wire.UplinkRequest{Verb: wire.UplinkWatch, Body: wire.AppendWatchSpec(nil, spec)}
				if err := wire.WriteFrame(&b, req.Append(nil)); err != nil {
					t.Fatal(err)
				}
				rest := until{make(chan error, 1)}
				s := &asked{Reader: io.MultiReader(&b, rest)}
				conn.requests <- s
				ctx, cancel := context.WithCancel(t.Context())
				data, done := apitest.NewMemory(), make(chan struct{})
				go func() {
					New(data, nil).Serve(ctx, conn, Peer{Node: "p", Scope: []string{""}})
					close(done)
				}()
				put := func() (told bool) {
					t.Helper()
					was := s.answered()
					if _, err := data.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k")}}}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					return s.answered() > was
				}
				synctest.Wait()
				if !put() {
					t.Error("no event came")
				}
				rest.end <- c.end
				synctest.Wait()
				if put() != c.last {
					t.Errorf("an event came: %v, want %v", !c.last, c.last)
				}
				cancel()
				<-done
			})
		})
	}
}
