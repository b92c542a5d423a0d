package enroll

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/kv"
	"holdfast/transport"
)

// Store is where records are kept: the cluster.
type Store interface {
	Do(ctx context.Context, c kv.Command) (kv.Result, error)
	Read(ctx context.Context, q kv.Query) (kv.Page, error)
}

// The names of records. They are part of the format.
const (
	tokenRecords = "token/"
	nodeRecords  = "node/"
)

// TokenRecord is what the cluster knows of a token.
type TokenRecord struct {
	ID      string         `json:"id"`
	Hash    string         `json:"hash"`           // SHA-256 of the secret
	Role    transport.Role `json:"role,omitempty"` // empty for any
	Scope   []string       `json:"scope"`          // key prefixes a proxy may touch
	Expires time.Time      `json:"expires"`
	Uses    int            `json:"uses"` // how many nodes may join with it, 0 for any number
	Used    int            `json:"used"`
	Created time.Time      `json:"created"`

	version int64
}

// NodeRecord is what the cluster knows of a node that has joined.
type NodeRecord struct {
	ID     string         `json:"id"`
	Name   string         `json:"name"`
	Role   transport.Role `json:"role"`
	Scope  []string       `json:"scope,omitempty"`
	Token  string         `json:"token,omitempty"` // id of the token it joined with
	Key    string         `json:"key"`             // SHA-256 of its public key
	Joined time.Time      `json:"joined"`

	CA     string    `json:"ca,omitempty"`    // hash of the CA of its newest certificate
	Until  time.Time `json:"until,omitzero"`  // end of that
	Issued time.Time `json:"issued,omitzero"` // of that
	Seal   []byte    `json:"seal,omitempty"`  // of a member: what secrets are sealed to it with

	// Seat: the node may take a seat among the members with its own certificate. It has joined with a token for one, has been
	// one, or an operator has said so on a member.
	Seat bool `json:"seat,omitempty"`

	version int64
}

// records reads all records under a prefix.
func records[T any](ctx context.Context, s Store, prefix string, version func(*T, int64)) ([]T, error) {
	page, err := s.Read(ctx, kv.Query{Ops: []kv.Op{kv.Records{Prefix: []byte(prefix)}}})
	if err != nil {
		return nil, err
	}
	all := make([]T, 0, len(page.Ops[0].KVs))
	for _, r := range page.Ops[0].KVs {
		var v T
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return nil, fmt.Errorf("record %s: %w", r.Key, err)
		}
		version(&v, r.Version)
		all = append(all, v)
	}
	return all, nil
}

// set writes a record that must be at version have.
func set(ctx context.Context, s Store, name string, v any, have int64) error {
	var b []byte
	if v != nil {
		var err error
		if b, err = json.Marshal(v); err != nil {
			return err
		}
	}
	_, err := s.Do(ctx, kv.Command{Ops: []kv.Op{kv.SetRecord{Name: []byte(name), Value: b, Have: have}}})
	return err
}

// Tokens lists the tokens of the cluster.
func Tokens(ctx context.Context, s Store) ([]TokenRecord, error) {
	return records(ctx, s, tokenRecords, func(t *TokenRecord, v int64) { t.version = v })
}

// Nodes lists the nodes that have joined.
func Nodes(ctx context.Context, s Store) ([]NodeRecord, error) {
	return records(ctx, s, nodeRecords, func(n *NodeRecord, v int64) { n.version = v })
}

// node finds the record of one node, without a look at the others: ten thousand that join or renew each read one.
func node(ctx context.Context, s Store, id string) (n NodeRecord, found bool, err error) {
	all, err := records(ctx, s, nodeRecords+id, func(n *NodeRecord, v int64) { n.version = v }) // no id begins another
	if err != nil || len(all) == 0 {
		return n, false, err
	}
	return all[0], true, nil
}

// MaxTokens bounds the tokens of a cluster. Expired ones count until they are removed, which happens at once where there is no
// room for a new one.
const MaxTokens = 1000

// CreateToken makes a token and returns it with its secret, which is nowhere else.
func CreateToken(ctx context.Context, s Store, caHash string, r TokenRecord) (Token, error) {
	all, err := Tokens(ctx, s)
	if err != nil {
		return Token{}, err
	}
	if len(all) >= MaxTokens {
		gone, err := RemoveExpired(ctx, s, r.Created, 1)
		if err != nil {
			return Token{}, err
		}
		if len(gone) == 0 {
			return Token{}, kv.Errorf(kv.RateLimited, "the cluster has %d tokens, its limit; revoke some (agent token ls, agent token revoke)", len(all))
		}
	}
	t := newToken(caHash)
	r.ID, r.Hash = t.ID, t.hash()
	return t, set(ctx, s, tokenRecords+t.ID, r, 0)
}

// RevokeToken ends a token. Nodes that joined with it stay.
func RevokeToken(ctx context.Context, s Store, id string) error {
	all, err := Tokens(ctx, s)
	if err != nil {
		return err
	}
	for _, t := range all {
		if t.ID == id {
			return set(ctx, s, tokenRecords+id, nil, t.version)
		}
	}
	return kv.Errorf(kv.KeyNotFound, "no token %q; agent token ls lists those there are", id)
}

// RemoveExpired removes the tokens that expired before a time, the oldest first, most of them at the most, and returns their ids.
// Each is named in the log, so that no replica goes by its own clock, and one that was changed meanwhile stays.
func RemoveExpired(ctx context.Context, s Store, before time.Time, most int) (gone []string, err error) {
	all, err := Tokens(ctx, s)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(t TokenRecord) bool { return t.Expires.IsZero() || !t.Expires.Before(before) })
	slices.SortFunc(all, func(a, b TokenRecord) int { return cmp.Or(a.Expires.Compare(b.Expires), strings.Compare(a.ID, b.ID)) })
	for _, t := range all[:min(len(all), most)] {
		switch err := set(ctx, s, tokenRecords+t.ID, nil, t.version); {
		case kv.CodeOf(err) == kv.PreconditionFailed:
		case err != nil:
			return gone, err
		default:
			gone = append(gone, t.ID)
		}
	}
	return gone, nil
}

// RemoveGone removes the proxies whose certificate had ended so long before a time that they cannot renew it any more (RenewGrace), those
// that are gone longest first, most of them at the most, and returns their names and ids. What has to be kept for another reason, as that
// it is connected, here says so. A box that comes back nevertheless needs a new token and an empty data dir, as it did already.
func RemoveGone(ctx context.Context, s Store, before time.Time, most int, here func(id string) bool) (gone []string, err error) {
	all, err := Nodes(ctx, s)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(n NodeRecord) bool {
		return n.Role != transport.Proxy || n.Until.IsZero() || !n.Until.Add(RenewGrace).Before(before) || here(n.ID)
	})
	slices.SortFunc(all, func(a, b NodeRecord) int { return cmp.Or(a.Until.Compare(b.Until), strings.Compare(a.ID, b.ID)) })
	for _, n := range all[:min(len(all), most)] {
		switch err := set(ctx, s, nodeRecords+n.ID, nil, n.version); {
		case kv.CodeOf(err) == kv.PreconditionFailed: // it was changed meanwhile
		case err != nil:
			return gone, err
		default:
			gone = append(gone, n.Name+" "+n.ID)
		}
	}
	return gone, nil
}
