package servertls

import (
	"crypto/tls"
	"crypto/x509"
)

// Conn is a connection on which TLS is spoken.
type Conn struct {
	*tls.Conn
	keeper *Keeper
	shown  []*x509.Certificate
}

// Client is the certificate that the client has shown and that was found good, nil for none.
func (c *Conn) Client() *x509.Certificate {
	if len(c.shown) == 0 {
		return nil
	}
	return c.shown[0]
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	if c.shown != nil {
		c.keeper.forget(c)
	}
	return c.Conn.Close()
}
