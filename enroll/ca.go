package enroll

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/kv"
	"holdfast/transport"
)

// The records of the cluster's CA:
//
//	ca/trust              the CAs that nodes go by: one, or two while one takes the place of the other
//	ca/key/<hash>/<node>  the key of a CA, sealed to a member
//
// No key is anywhere in the clear but on the founder, until the cluster has it.
const (
	trustName  = "ca/trust"
	keyRecords = "ca/key/"
)

// CARecord is a CA that nodes go by.
type CARecord struct {
	Hash        string    `json:"hash"` // what tokens pin it by
	Certificate []byte    `json:"certificate"`
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until,omitzero"` // of one that is replaced: when it is dropped
	Brought     bool      `json:"brought,omitempty"`
}

// TrustRecord is the CAs that nodes go by. The first one issues.
type TrustRecord struct {
	CAs     []CARecord `json:"cas"`
	Bridges [][]byte   `json:"bridges,omitempty"`

	version int64
}

// Trust is the record as nodes keep it.
func (r TrustRecord) Trust() transport.Trust {
	t := transport.Trust{Bridges: r.Bridges}
	for _, ca := range r.CAs {
		t.Roots = append(t.Roots, ca.Certificate)
	}
	return t
}

// keyRecord is a CA's key, sealed to the member that the record's name says.
type keyRecord struct {
	Box []byte `json:"box"`
}

func keyName(hash, node string) string { return keyRecords + hash + "/" + node }

// readTrust reads the CAs. There are none in a cluster that is just being founded.
func readTrust(ctx context.Context, s Store) (TrustRecord, error) {
	all, err := records(ctx, s, trustName, func(r *TrustRecord, v int64) { r.version = v })
	if err != nil || len(all) == 0 {
		return TrustRecord{}, err
	}
	return all[0], nil
}

// change is a record as it is to be, if it is at version have; value nil removes it.
type change struct {
	name  string
	value any
	have  int64
}

// anyVersion changes a record however it is.
const anyVersion = -1

// commit makes all the changes or none.
func commit(ctx context.Context, s Store, changes ...change) error {
	var c kv.Command
	for _, ch := range changes {
		op := kv.SetRecord{Name: []byte(ch.name), Have: ch.have}
		if ch.value != nil {
			b, err := json.Marshal(ch.value)
			if err != nil {
				return err
			}
			op.Value = b
		}
		c.Ops = append(c.Ops, op)
	}
	_, err := s.Do(ctx, c)
	return err
}

// seal is a CA's key for a member.
func seal(ca *transport.CA, sealingKey []byte) (keyRecord, error) {
	pem, err := ca.Marshal()
	if err != nil {
		return keyRecord{}, err
	}
	box, err := transport.SealTo(sealingKey, pem)
	return keyRecord{Box: box}, err
}

// unseal is the inverse of seal, on the member that it was sealed to.
func unseal(id *transport.Identity, r keyRecord, cluster string) (*transport.CA, error) {
	pem, err := id.OpenSealed(r.Box)
	if err != nil {
		return nil, err
	}
	return transport.ParseCA(pem, cluster)
}

// local reads from the replica at hand, as far as it has come.
type local struct{ Store }

func (l local) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	q.MaxAge, q.LocalOnly = kv.Unlimited, true
	return l.Store.Read(ctx, q)
}

// DefaultOverlap is how long a CA that is replaced is still trusted: as long as a box may be away and still come back by
// itself.
const DefaultOverlap = 30 * 24 * time.Hour

// maxOverlap bounds it: the certificates of a CA do not live longer.
const maxOverlap = CertificateLife

// Rotation is what a rotation is asked for with.
type Rotation struct {
	Next    *transport.CA // nil: a new one is made
	Overlap time.Duration // 0: DefaultOverlap
}

// Rotate has a new CA take the place of the present one, which is trusted for a while longer. Nodes take over by
// themselves as soon as they hear of it.
func (a *Authority) Rotate(ctx context.Context, r Rotation) (TrustRecord, error) {
	if r.Overlap == 0 {
		r.Overlap = DefaultOverlap
	}
	if r.Overlap < 0 || r.Overlap > maxOverlap {
		return TrustRecord{}, kv.Errorf(kv.Invalid, "overlap %v: want more than nothing and at most %v, the life of a certificate", r.Overlap, maxOverlap)
	}
	was, err := readTrust(ctx, a.opts.Store)
	if err != nil {
		return was, err
	}
	if len(was.CAs) == 0 {
		return was, kv.Errorf(kv.Busy, "the cluster is being founded and has no CA yet: try again")
	}
	if len(was.CAs) > 1 {
		return was, kv.Errorf(kv.Invalid, "CA %.16s is being replaced already, until %s: wait, or end that now with agent cert rotate --finish",
			was.CAs[1].Hash, was.CAs[1].Until.UTC().Format(time.RFC3339))
	}
	present := a.held(was.CAs[0].Hash)
	if present == nil {
		return was, errNotHeld()
	}
	next, brought := r.Next, r.Next != nil
	if next == nil {
		if next, err = transport.NewCA(present.Cluster()); err != nil {
			return was, err
		}
	}
	if next.Hash() == present.Hash() {
		return was, kv.Errorf(kv.Invalid, "that CA is in use already")
	}
	now := a.opts.Now().UTC().Truncate(time.Second)
	if next.Ends().Before(now) {
		return was, kv.Errorf(kv.Invalid, "that CA ended at %s", next.Ends().UTC().Format(time.RFC3339))
	}
	bridge, err := present.Bridge(next.Certificate())
	if err != nil {
		return was, err
	}
	nodes, err := Nodes(ctx, a.opts.Store)
	if err != nil {
		return was, err
	}
	old := was.CAs[0]
	old.Until = now.Add(r.Overlap)
	is := TrustRecord{CAs: []CARecord{{Hash: next.Hash(), Certificate: next.Certificate(), Since: now, Brought: brought}, old}, Bridges: [][]byte{bridge}}
	changes := []change{{trustName, is, was.version}}
	for _, n := range nodes {
		if n.Role != transport.Member || len(n.Seal) == 0 {
			continue
		}
		box, err := seal(next, n.Seal)
		if err != nil {
			return was, fmt.Errorf("seal the CA's key to member %s: %w", n.ID, err)
		}
		changes = append(changes, change{keyName(next.Hash(), n.ID), box, 0})
	}
	if err := commit(ctx, a.opts.Store, changes...); err != nil {
		return was, err
	}
	a.opts.Log.Info("the cluster's CA is being replaced", "new", next.Hash(), "old", old.Hash, "old_trusted_until", old.Until)
	a.Poke()
	return is, nil
}

// Finish drops a CA that is being replaced before its time. Nodes without a certificate of the new one have to join again
// with a token: unless force is set they are a reason to refuse.
func (a *Authority) Finish(ctx context.Context, force bool) (TrustRecord, error) {
	was, err := readTrust(ctx, a.opts.Store)
	if err != nil {
		return was, err
	}
	if len(was.CAs) < 2 {
		return was, kv.Errorf(kv.Invalid, "no CA is being replaced")
	}
	nodes, err := Nodes(ctx, a.opts.Store)
	if err != nil {
		return was, err
	}
	var behind []string
	for _, n := range nodes {
		if n.CA != was.CAs[0].Hash {
			behind = append(behind, n.Name)
		}
	}
	if len(behind) > 0 && !force {
		return was, kv.Errorf(kv.Invalid, "%d nodes have no certificate of the new CA yet and would have to join again with a token, %s among them: wait for them, or use --force",
			len(behind), behind[0])
	}
	return a.drop(ctx, was)
}

// drop ends the trust in a CA that was replaced. What was revoked before its successor took over needs no record any more:
// its certificates are of the dropped CA.
func (a *Authority) drop(ctx context.Context, was TrustRecord) (TrustRecord, error) {
	old, is := was.CAs[1], TrustRecord{CAs: was.CAs[:1]}
	keys, err := keyNames(ctx, a.opts.Store, old.Hash)
	if err != nil {
		return was, err
	}
	changes := []change{{trustName, is, was.version}}
	for _, k := range keys {
		changes = append(changes, change{k, nil, anyVersion})
	}
	if err := commit(ctx, a.opts.Store, changes...); err != nil {
		return was, err
	}
	a.opts.Log.Info("CA dropped: its certificates prove nothing any more", "ca", old.Hash)
	a.Poke()
	return is, a.forget(ctx, was.CAs[0].Since)
}

// keyNames are the names of the sealed keys of a CA.
func keyNames(ctx context.Context, s Store, hash string) ([]string, error) {
	page, err := s.Read(ctx, kv.Query{Ops: []kv.Op{kv.Records{Prefix: []byte(keyRecords + hash + "/")}}})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range page.Ops[0].KVs {
		names = append(names, string(r.Key))
	}
	return names, nil
}

func errNotHeld() error {
	return kv.Errorf(kv.Busy, "this member has not been given the key of the cluster's CA yet; the leader does that within seconds, so try again or ask another member")
}
