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

	// Of a box that wants to be a member.
	Fallback   bool     `json:"fallback,omitempty"` // it takes being a proxy if the cluster is full
	Addresses  []string `json:"addresses,omitempty"`
	ClientURLs []string `json:"client_urls,omitempty"`

	// Renew proves a node that has joined. It asks for another certificate of the same role, or, if Role is given, of that one;
	// or, with Depart, to be forgotten. Nil: the box joins.
	Renew  *renewal `json:"renew,omitempty"`
	Depart bool     `json:"depart,omitempty"`
	// With Renew: a certificate for https, and no other.
	Server *serverWish `json:"server,omitempty"`
}

type answer struct {
	Certificate []byte           `json:"certificate,omitempty"`
	CA          []byte           `json:"ca,omitempty"` // that has issued it
	Trust       *transport.Trust `json:"trust,omitempty"`
	Now         time.Time        `json:"now,omitzero"`        // of the cluster
	Endpoints   []string         `json:"endpoints,omitempty"` // where members answer
	Server      []byte           `json:"server,omitempty"`    // certificate for https

	Admission json.RawMessage `json:"admission,omitempty"` // of a member
	Full      bool            `json:"full,omitempty"`      // no member is wanted

	Error string  `json:"error,omitempty"`
	Code  kv.Code `json:"code,omitempty"`
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

// Applicant is a box that wants to be a member.
type Applicant struct {
	Node       string
	Name       string
	Addresses  []string // where other nodes reach it, as host:port
	ClientURLs []string
}

// ErrFull says that the cluster has all the members it wants.
var ErrFull = errors.New("the cluster has all the members it wants")

// Desk is where boxes join: a member that holds the CA.
type Desk struct {
	Store Store
	CA    Issuer
	// Admit gives a box a seat among the members, or returns ErrFull. What it returns is for the box's member. Nil: no
	// members are taken in.
	Admit func(ctx context.Context, a Applicant) (json.RawMessage, error)
	// Seated reports whether a node has a seat among the members. Nil: nobody has.
	Seated    func(node string) bool
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
			d.Log.Warn("certificate not renewed", "from", from, "node", q.Node, "as", string(q.Role), "error", err)
		} else if !q.Depart {
			d.Log.Info("certificate renewed", "from", from, "node", q.Node, "as", string(q.Role), "https", q.Server != nil)
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
	if err := q.check(); err != nil {
		return answer{}, err
	}
	if r, ok := d.CA.(interface{ Ready() error }); ok && r.Ready() != nil {
		return answer{}, r.Ready()
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
	t, err := d.judge(ctx, q)
	if err != nil {
		return answer{}, err
	}
	was, err := d.known(ctx, q, key)
	if err != nil {
		return answer{}, err
	}
	if was == nil && t.spent() {
		return answer{}, errSpent(t)
	}
	var a answer
	mayLater := false // it may take a seat without the token, which ends sooner
	if q.Role == transport.Member {
		mayLater = t.Role != transport.Proxy
		if a, err = d.seat(ctx, &q, t); err != nil || a.Full {
			return a, err
		}
	}
	if was == nil {
		if t, err = d.use(ctx, q, t); err != nil {
			return answer{}, err
		}
	}
	scope := t.Scope
	if q.Role == transport.Member {
		scope = nil // a member has it all
	}
	if was == nil || was.Role != q.Role || mayLater && !was.Seat {
		rec := NodeRecord{Seat: mayLater || was != nil && was.Seat, ID: q.Node, Name: q.Name, Role: q.Role, Scope: scope, Token: t.ID, Key: key, Joined: d.Now().UTC(),
			CA: hashOf(d.CA.Certificate()), Until: d.Now().Add(d.life()).UTC(), Issued: d.Now().UTC()}
		var have int64
		if was != nil {
			have = was.version
		}
		if err := set(ctx, d.Store, nodeRecords+q.Node, rec, have); err != nil {
			return answer{}, err
		}
	}
	cert, err := d.CA.IssueCSR(q.CSR, transport.Grant{Node: q.Node, Role: q.Role, Scope: scope, Life: d.life()}, d.Now())
	if err != nil {
		return answer{}, cannotIssue(err)
	}
	admission := a.Admission
	a = d.answer(cert)
	a.Admission = admission
	return a, nil
}

// Bounds of what a box says of itself.
const (
	addressesMax = 16
	addressMax   = 512
)

func (q request) check() error {
	if len(q.Name) > nameMax || transport.CheckNodeID(q.Node) != nil {
		return kv.Errorf(kv.Invalid, "the request names no node id, or a name longer than %d bytes", nameMax)
	}
	for _, list := range [][]string{q.Addresses, q.ClientURLs} {
		if len(list) > addressesMax || slices.ContainsFunc(list, func(a string) bool { return len(a) > addressMax }) {
			return kv.Errorf(kv.Invalid, "the request names more than %d addresses, or one longer than %d bytes", addressesMax, addressMax)
		}
	}
	return nil
}

// seat finds a box that wants to be a member a place, or makes it ask to be a proxy if it takes that too.
func (d *Desk) seat(ctx context.Context, q *request, t TokenRecord) (a answer, err error) {
	err = ErrFull
	if t.Role != transport.Proxy {
		if d.Admit == nil {
			return a, kv.Errorf(kv.Unsupported, "this member takes in no further members")
		}
		a.Admission, err = d.Admit(ctx, Applicant{Node: q.Node, Name: q.Name, Addresses: q.Addresses, ClientURLs: q.ClientURLs})
	}
	switch {
	case !errors.Is(err, ErrFull):
		return a, err
	case !q.Fallback || t.Role == transport.Member:
		return answer{Full: true}, nil
	}
	q.Role = transport.Proxy
	return answer{}, nil
}

// use takes a use of the token. Its record may change meanwhile, as when many boxes join with one token.
func (d *Desk) use(ctx context.Context, q request, t TokenRecord) (TokenRecord, error) {
	for try := 0; ; try++ {
		if t.spent() {
			return t, errSpent(t)
		}
		used := t
		used.Used++
		err := set(ctx, d.Store, tokenRecords+t.ID, used, t.version)
		if kv.CodeOf(err) != kv.PreconditionFailed || try == casTries {
			return t, err
		}
		if t, err = d.judge(ctx, q); err != nil {
			return t, err
		}
	}
}

func (t TokenRecord) spent() bool { return t.Uses > 0 && t.Used >= t.Uses }

func errSpent(t TokenRecord) error {
	return kv.Errorf(kv.PermissionDenied, "the token was made for %d boxes and has been used by as many; make another (agent token create)", t.Uses)
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
	case q.Role != transport.Proxy && q.Role != transport.Member:
		return t, kv.Errorf(kv.Invalid, "the box wants to be a %q, which this version does not know", q.Role)
	case t.Role != transport.None && t.Role != q.Role && !(q.Role == transport.Member && q.Fallback):
		return t, kv.Errorf(kv.PermissionDenied, "the token is for a %s, the box wants to be a %s; make one for that (agent token create --role %s)", t.Role, q.Role, q.Role)
	}
	return t, nil
}

// known returns the record of a box that has joined before with this key, nil for a new one. Another key under a node id
// that is taken is refused.
func (d *Desk) known(ctx context.Context, q request, key string) (*NodeRecord, error) {
	n, found, err := node(ctx, d.Store, q.Node)
	if err != nil || !found {
		return nil, err
	}
	if n.Key != key {
		return nil, kv.Errorf(kv.PermissionDenied, "node id %s has joined before with another key: its identity was copied or damaged; give this box a new data dir", q.Node)
	}
	return &n, nil
}
