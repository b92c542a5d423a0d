package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"holdfast/kv"
	"holdfast/transport"
)

// Dialer opens connections, and tunnels over them: a transport.Endpoint.
type Dialer interface {
	Dial(ctx context.Context, p transport.Protocol, t transport.Target) (*transport.Conn, error)
	OpenTunnel(ctx context.Context, under transport.Carrier, p transport.Protocol, t transport.Target) (*transport.Tunnel, error)
}

// conversation is the stream on which a box talks to a member, and its end.
type conversation struct {
	stream
	end func()
}

type stream interface {
	Stream
	Abort(code uint64)
}

// call begins one with a member: at any of addrs, or through one of those that are marked as proxies. The token's secret is hidden
// from those.
func call(ctx context.Context, d Dialer, addrs []string, caHash string) (conversation, error) {
	t := transport.Target{CAHash: caHash}
	through := transport.Target{CAHash: caHash, AllowProxy: true}
	for _, a := range addrs {
		one := transport.TargetOf(a)
		t.Addrs = append(t.Addrs, one.Addrs...)
		if one.AllowProxy {
			through.Addrs = append(through.Addrs, one.Addrs...)
		}
	}
	conn, err := d.Dial(ctx, transport.Join, t)
	if err != nil && len(through.Addrs) > 0 {
		var rerr error
		if conn, rerr = d.Dial(ctx, transport.Relay, through); rerr != nil {
			return conversation{}, errors.Join(err, rerr)
		}
		err = nil
	}
	if err != nil {
		return conversation{}, err
	}
	end := func() { conn.CloseWithError(transport.CodeDone, "") }
	st, err := conn.OpenStream(ctx)
	if err != nil {
		end()
		return conversation{}, err
	}
	stop := context.AfterFunc(ctx, func() { st.Abort(0) })
	c := conversation{st, func() { stop(); end() }}
	if conn.Protocol() == transport.Relay {
		tunnel, err := d.OpenTunnel(ctx, st, transport.Join, transport.Target{CAHash: caHash})
		if err != nil {
			c.end()
			return conversation{}, err
		}
		c.stream = tunnel
	}
	return c, nil
}

// Joined is what a box has got.
type Joined struct {
	Identity  *transport.Identity
	Endpoints []string        // where members answer
	Admission json.RawMessage // what Desk.Admit returned, for a member
}

// Wish is what a box asks for.
type Wish struct {
	Name string
	Role transport.Role
	// Fallback: a box that wants to be a member takes being a proxy if the cluster is full.
	Fallback   bool
	Addresses  []string // of a member, where other nodes reach it
	ClientURLs []string
}

// Refused is an answer that trying again does not change.
type Refused struct{ Err *kv.Error }

func (r *Refused) Error() string { return "the cluster refused: " + r.Err.Error() }

// Unwrap returns what the cluster said.
func (r *Refused) Unwrap() error { return r.Err }

// Join asks the cluster behind any of addrs to take the box in. The CA is pinned by the token before the secret leaves.
// A *Refused is final, and so is ErrFull; other errors are worth trying again.
func Join(ctx context.Context, d Dialer, addrs []string, t Token, id *transport.Identity, w Wish) (Joined, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	st, err := call(ctx, d, addrs, t.CAHash)
	if err != nil {
		return Joined{}, fmt.Errorf("join: %w", err)
	}
	defer st.end()
	csr, err := id.Request()
	if err != nil {
		return Joined{}, fmt.Errorf("join: %w", err)
	}
	q, err := json.Marshal(request{Token: t.ID, Proof: t.secret, Node: id.Node(), Name: w.Name, Role: w.Role, CSR: csr,
		Fallback: w.Fallback, Addresses: w.Addresses, ClientURLs: w.ClientURLs})
	if err != nil {
		return Joined{}, err
	}
	a, err := exchange(st, q)
	if _, final := errors.AsType[*Refused](err); final {
		return Joined{}, err
	}
	if err != nil {
		return Joined{}, fmt.Errorf("join: %w", err)
	}
	if a.Full {
		return Joined{}, ErrFull
	}
	got, err := a.joined(id)
	if err != nil {
		return Joined{}, fmt.Errorf("join: %w", err)
	}
	got.Admission = a.Admission
	return got, nil
}
