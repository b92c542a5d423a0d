package enroll

import (
	"bufio"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/transport"
)

// request is what a box asks with, answer what it gets; both are JSON in one frame.
type request struct {
	Token string         `json:"token"` // id
	Proof string         `json:"proof"` // secret
	Node  string         `json:"node"`
	Name  string         `json:"name"`
	Role  transport.Role `json:"role"`
	CSR   []byte         `json:"csr"`
	Renew *renewal       `json:"renew,omitempty"` // nil: the box joins
}

type answer struct {
	Certificate []byte           `json:"certificate,omitempty"`
	CA          []byte           `json:"ca,omitempty"` // that has issued it
	Trust       *transport.Trust `json:"trust,omitempty"`
	Now         time.Time        `json:"now,omitzero"`        // of the cluster
	Endpoints   []string         `json:"endpoints,omitempty"` // where members answer
	Error       string           `json:"error,omitempty"`
	Code        kv.Code          `json:"code,omitempty"`
}

// Bounds of the exchange.
const (
	requestMax  = 16 << 10
	answerMax   = 64 << 10
	nameMax     = 255
	joinTimeout = 15 * time.Second
	casTries    = 16 // boxes that join with one token at the same instant
)

// CertificateLife is how long a node's certificate is valid.
const CertificateLife = 365 * 24 * time.Hour

// Issuer signs certificates: the CA.
type Issuer interface {
	IssueCSR(der []byte, g transport.Grant, now time.Time) ([]byte, error)
	Issue(pub crypto.PublicKey, g transport.Grant, now time.Time) ([]byte, error)
	Certificate() []byte
}

// Desk is where boxes join: a member that holds the CA.
type Desk struct {
	Store     Store
	CA        Issuer
	Endpoints func() []string  // where members answer, for the box to remember
	Now       func() time.Time // judged time
	Life      time.Duration    // of certificates; 0: CertificateLife
	Log       *slog.Logger
}

// Stream is the one stream of a joining connection.
type Stream interface {
	io.Reader
	io.Writer
	Close() error
	Binding() []byte // see transport.Stream
}

// Serve answers one box.
func (d *Desk) Serve(ctx context.Context, st Stream, from string) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	frame, err := wire.ReadFrame(bufio.NewReader(io.LimitReader(st, requestMax)))
	if err != nil {
		return fmt.Errorf("read the request of %s: %w", from, err)
	}
	var q request
	var a answer
	if err := json.Unmarshal(frame, &q); err != nil {
		a.Error, a.Code = "the request cannot be read; is the box of another version?", kv.Invalid
	} else if q.Renew != nil {
		if a, err = d.renew(ctx, q, st.Binding()); err != nil {
			a = answer{Error: err.Error(), Code: kv.CodeOf(err)}
			d.Log.Warn("certificate not renewed", "from", from, "node", q.Node, "error", err)
		} else {
			d.Log.Info("certificate renewed", "from", from, "node", q.Node)
		}
	} else if a, err = d.admit(ctx, q); err != nil {
		a = answer{Error: err.Error(), Code: kv.CodeOf(err)}
		d.Log.Warn("box not admitted", "from", from, "node", q.Node, "token", q.Token, "error", err)
	} else {
		d.Log.Info("box admitted", "from", from, "node", q.Node, "name", q.Name, "role", string(q.Role), "token", q.Token)
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return errors.Join(wire.WriteFrame(st, b), st.Close())
}

// admit decides, takes a use of the token, and signs. A box whose answer was lost asks again with the same key and takes
// no second use.
func (d *Desk) admit(ctx context.Context, q request) (answer, error) {
	if len(q.Name) > nameMax || transport.CheckNodeID(q.Node) != nil {
		return answer{}, kv.Errorf(kv.Invalid, "the request names no node id, or a name longer than %d bytes", nameMax)
	}
	if err := d.barred(ctx, q.Node); err != nil {
		return answer{}, err
	}
	csr, err := x509.ParseCertificateRequest(q.CSR)
	if err != nil {
		return answer{}, kv.Errorf(kv.Invalid, "the certificate request cannot be read: %v", err)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	key := hex.EncodeToString(sum[:])
	var t TokenRecord
	for try := 0; ; try++ {
		if t, err = d.judge(ctx, q); err != nil {
			return answer{}, err
		}
		again, err := d.known(ctx, q, key)
		if err != nil {
			return answer{}, err
		}
		if again {
			break
		}
		if t.Uses > 0 && t.Used >= t.Uses {
			return answer{}, kv.Errorf(kv.PermissionDenied, "the token was made for %d boxes and has been used by as many; make another (agent token create)", t.Uses)
		}
		used := t
		used.Used++
		err = set(ctx, d.Store, tokenRecords+t.ID, used, t.version)
		if err == nil {
			err = set(ctx, d.Store, nodeRecords+q.Node, NodeRecord{ID: q.Node, Name: q.Name, Role: q.Role, Scope: t.Scope,
				Token: t.ID, Key: key, Joined: d.Now().UTC(), CA: hashOf(d.CA.Certificate()), Until: d.Now().Add(d.life()).UTC(), Issued: d.Now().UTC()}, 0)
			if err != nil {
				return answer{}, err
			}
			break
		}
		if kv.CodeOf(err) != kv.PreconditionFailed || try == casTries {
			return answer{}, err
		}
	}
	cert, err := d.CA.IssueCSR(q.CSR, transport.Grant{Node: q.Node, Role: q.Role, Scope: t.Scope, Life: d.life()}, d.Now())
	if err != nil {
		return answer{}, cannotIssue(err)
	}
	return d.answer(cert), nil
}

// judge finds the token and checks what it is good for. A wrong secret and an unknown token look alike.
func (d *Desk) judge(ctx context.Context, q request) (TokenRecord, error) {
	all, err := Tokens(ctx, d.Store)
	if err != nil {
		return TokenRecord{}, err
	}
	i := slices.IndexFunc(all, func(t TokenRecord) bool { return t.ID == q.Token })
	hash := Token{secret: q.Proof}.hash()
	if i < 0 || subtle.ConstantTimeCompare([]byte(all[i].Hash), []byte(hash)) != 1 {
		return TokenRecord{}, kv.Errorf(kv.Unauthenticated, "the cluster does not know this token: it is wrong, or was revoked; make another (agent token create)")
	}
	t := all[i]
	switch {
	case !t.Expires.IsZero() && d.Now().After(t.Expires):
		return t, kv.Errorf(kv.Unauthenticated, "the token expired at %s; make another (agent token create)", t.Expires.UTC().Format(time.RFC3339))
	case t.Role != transport.None && t.Role != q.Role:
		return t, kv.Errorf(kv.PermissionDenied, "the token is for a %s, the box wants to be a %s", t.Role, q.Role)
	case q.Role != transport.Proxy:
		return t, kv.Errorf(kv.Unsupported, "this version cannot take in further members yet; join as a proxy (--mode=proxy)")
	}
	return t, nil
}

// known reports whether the box has joined before with this key. Another key under a node id that is taken is refused.
func (d *Desk) known(ctx context.Context, q request, key string) (bool, error) {
	nodes, err := Nodes(ctx, d.Store)
	if err != nil {
		return false, err
	}
	for _, n := range nodes {
		if n.ID != q.Node {
			continue
		}
		if n.Key != key || n.Role != q.Role {
			return false, kv.Errorf(kv.PermissionDenied, "node id %s has joined before with another key or as a %s: its identity was copied or damaged; give this box a new data dir", q.Node, n.Role)
		}
		return true, nil
	}
	return false, nil
}
