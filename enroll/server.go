package enroll

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"holdfast/kv"
	"holdfast/transport"
)

// serverWish is what a node asks for a certificate of its https listeners with, along with the proof of a renewal.
type serverWish struct {
	CSR   []byte   `json:"csr"`
	Names []string `json:"names"`
}

// ServerIssuer signs certificates of servers; an Authority does.
type ServerIssuer interface {
	IssueServer(csr []byte, node string, names []string, life time.Duration, now time.Time) ([]byte, error)
}

// IssueServer is CA.IssueServer of the CA that issues now.
func (a *Authority) IssueServer(csr []byte, node string, names []string, life time.Duration, now time.Time) ([]byte, error) {
	ca, err := a.issuing()
	if err != nil {
		return nil, err
	}
	return ca.IssueServer(csr, node, names, life, now)
}

// RequestServer asks the cluster behind any of addrs for a certificate of this node's https listeners. A *Refused is final
// for these names, other errors are worth trying again.
func RequestServer(ctx context.Context, d Dialer, addrs []string, id *transport.Identity, csr []byte, names []string) ([]byte, error) {
	a, err := prove(ctx, d, addrs, id, request{Server: &serverWish{csr, names}})
	if err != nil {
		return nil, fmt.Errorf("ask for a server's certificate: %w", err)
	}
	if len(a.Server) == 0 {
		return nil, &Refused{kv.Errorf(kv.Unsupported, "the member that was asked is of a version that issues no certificates of servers")}
	}
	return a.Server, nil
}

// server issues the certificate of a node's https listeners. A proxy is no more trusted than its box: what is the name or
// address of another node is left out, for by it the proxy could pose as that one.
func (d *Desk) server(ctx context.Context, n NodeRecord, w serverWish, now time.Time) (answer, error) {
	issuer, ok := d.CA.(ServerIssuer)
	if !ok {
		return answer{}, kv.Errorf(kv.Unsupported, "this member issues no certificates of servers")
	}
	if err := w.check(); err != nil {
		return answer{}, err
	}
	if n.Role != transport.Member {
		taken, err := d.taken(ctx, n.ID)
		if err != nil {
			return answer{}, err
		}
		w.Names = slices.DeleteFunc(w.Names, func(name string) bool { return taken[strings.ToLower(name)] })
		if len(w.Names) == 0 {
			return answer{}, kv.Errorf(kv.PermissionDenied, "all the names are those of other nodes: a proxy gets no certificate for them")
		}
	}
	der, err := issuer.IssueServer(w.CSR, n.ID, w.Names, d.life(), now)
	if err != nil {
		return answer{}, cannotIssue(err)
	}
	trust := d.trust()
	return answer{Server: der, Trust: &trust, Now: now.UTC().Truncate(time.Second)}, nil
}

func (w serverWish) check() error {
	if len(w.Names) == 0 || len(w.Names) > transport.NamesMax || slices.ContainsFunc(w.Names, func(n string) bool { return n == "" || len(n) > nameMax }) {
		return kv.Errorf(kv.Invalid, "a server's certificate is for one to %d names of at most %d bytes", transport.NamesMax, nameMax)
	}
	return nil
}

// taken are the names and addresses of other nodes. What every box has is nobody's.
func (d *Desk) taken(ctx context.Context, self string) (map[string]bool, error) {
	nodes, err := Nodes(ctx, d.Store)
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, n := range nodes {
		if n.ID != self && n.Name != "" {
			taken[strings.ToLower(n.Name)] = true
		}
	}
	for _, at := range d.Endpoints() {
		if host, _, err := net.SplitHostPort(at); err == nil {
			taken[strings.ToLower(host)] = true
		}
	}
	for name := range taken {
		if ip := net.ParseIP(name); name == "localhost" || ip != nil && ip.IsLoopback() {
			delete(taken, name)
		}
	}
	return taken, nil
}
