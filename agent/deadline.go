package agent

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// readDeadline spares the runtime most of the timers that net/http sets on a connection, six for each request: for the
// time in which it is idle, for the header, for what is read meanwhile to see whether the client leaves, and none after each.
// One that is put off, or lifted, stays armed as it was. If it expires, whoever reads finds that out and goes on, with
// the deadline that is wanted by then armed.
type readDeadline struct {
	mu     sync.Mutex
	wanted time.Time // zero: none
	armed  time.Time // of the connection; zero: none. Never after wanted, unless that is zero
}

// armAhead is how far ahead a deadline is armed at first, however late it is: what is wanted next is rarely earlier than that
// then, and has nothing to change. A connection that is idle for longer wakes up once for it.
const armAhead = 5 * time.Second

// set is SetReadDeadline. What is earlier than before counts at once, for a Read under way too.
func (d *readDeadline) set(c net.Conn, t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if t.IsZero() {
		return nil
	}
	now := time.Now()
	if d.armed.After(now) && !t.Before(d.armed) {
		return nil
	}
	if ahead := now.Add(armAhead); t.After(ahead) {
		t = ahead
	}
	return d.arm(c, t)
}

// arm has the connection keep a deadline. d.mu is held.
func (d *readDeadline) arm(c net.Conn, t time.Time) error {
	d.armed = t
	return c.SetReadDeadline(t)
}

// early reports whether a Read has ended because of a deadline that is wanted no more. If so it may be tried again.
func (d *readDeadline) early(c net.Conn, err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wanted.IsZero() && !d.wanted.After(time.Now()) {
		return false
	}
	return d.arm(c, d.wanted) == nil
}

// Read is that of the connection.
func (c *limitedConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err == nil || n > 0 || !c.reading.early(c.Conn, err) {
			return n, err
		}
	}
}

// SetReadDeadline implements net.Conn.
func (c *limitedConn) SetReadDeadline(t time.Time) error { return c.reading.set(c.Conn, t) }

// SetDeadline implements net.Conn.
func (c *limitedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
