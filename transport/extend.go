package transport

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// extension is a socket that an endpoint serves beside its first one.
type extension struct {
	conn net.PacketConn
	tr   *quic.Transport
	ln   *quic.EarlyListener
	tcp  net.Listener // nil: none
}

// Extend serves peers at another UDP socket too, and over TCP at tcp if that is not nil, until Run ends: for a node that only
// dialed and is now to be found. This node dials from its first socket as before. The sockets are the endpoint's from then on, also
// if Extend fails; conn may be nil if there is a tcp.
func (e *Endpoint) Extend(ctx context.Context, conn net.PacketConn, tcp net.Listener) (err error) {
	x := extension{conn: conn, tcp: tcp}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	if conn != nil {
		x.tr = e.transportOn(conn)
		if x.ln, err = x.tr.ListenEarly(e.serverTLS(), e.quicConfig()); err != nil {
			return fmt.Errorf("listen on %s: %w", conn.LocalAddr(), explain(err))
		}
	}
	select {
	case e.extend <- x:
		return nil
	case <-e.stopped:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close gives up the sockets. Their errors are of no use: nothing is under way on them.
func (x extension) close() {
	if x.ln != nil {
		_ = x.ln.Close()
	}
	if x.tr != nil {
		_ = x.tr.Close()
	}
	if x.conn != nil {
		_ = x.conn.Close()
	}
	if x.tcp != nil {
		_ = x.tcp.Close()
	}
}

// extensions is what Run serves beside its first socket.
type extensions struct {
	all    []extension
	cancel context.CancelFunc
	wg     sync.WaitGroup // what adds to all, and the accepting
}

// takeExtensions begins to serve what Extend hands over.
func (e *Endpoint) takeExtensions(ctx context.Context) *extensions {
	accepting, cancel := context.WithCancel(ctx)
	m := &extensions{cancel: cancel}
	m.wg.Go(func() {
		for {
			select {
			case <-accepting.Done():
				return
			case x := <-e.extend:
				m.all = append(m.all, x)
				m.wg.Go(func() { x.accept(accepting, e) })
				if x.tcp != nil {
					e.wg.Go(func() { e.relays.run(ctx, x.tcp) })
				}
			}
		}
	})
	return m
}

func (x extension) accept(ctx context.Context, e *Endpoint) {
	if x.ln == nil {
		return
	}
	if err := e.acceptAll(ctx, x.ln); ctx.Err() == nil {
		e.cfg.Log.Error("other nodes are no longer served at this address; restart the agent", "address", x.conn.LocalAddr().String(), "err", err)
	}
}

// stop takes no more peers. The connections that there are go on.
func (m *extensions) stop() {
	m.cancel()
	m.wg.Wait()
	for _, x := range m.all {
		if x.ln != nil {
			_ = x.ln.Close() // refuses handshakes under way; always nil
		}
	}
}

// close gives up the sockets, once the connections have ended.
func (m *extensions) close() {
	for _, x := range m.all {
		x.close()
	}
}
