package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"holdfast/kv"
)

// A token of etcd's Authenticate is a JSON Web Token that any member, and any proxy with a mirrored policy, can verify:
// nothing is kept for it. See docs/adr/0014 for why, and how that differs from etcd's simple tokens.
//
// It names a user and the revision of the policy it was given at. It is void once it has expired, the user was deleted or
// has another password, or authentication was turned off since.
const (
	tokenHead = `{"alg":"EdDSA","typ":"JWT"}` //nolint:gosec // what every token begins with

	// DefaultTokenTTL is how long a token is good for.
	DefaultTokenTTL = time.Hour

	// tokenMax is the longest that is looked at.
	tokenMax = 4 << 10
)

var (
	encoding    = base64.RawURLEncoding
	tokenPrefix = encoding.EncodeToString([]byte(tokenHead)) + "."
)

// claims is the payload, with the names that etcd has for it.
type claims struct {
	User     string `json:"username"`
	Revision uint64 `json:"revision"`
	Issued   int64  `json:"iat"` // seconds since 1970
	Expires  int64  `json:"exp"`
}

// Sign gives a user a token, which is good from now on for ttl.
func (p *Policy) Sign(user string, now time.Time, ttl time.Duration) (string, error) {
	if !p.HasKey() {
		return "", kv.Errorf(kv.Internal, "there is no key to sign tokens with yet")
	}
	payload, err := json.Marshal(claims{User: user, Revision: p.revision, Issued: now.Unix(), Expires: now.Add(ttl).Unix()})
	if err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	signed := tokenPrefix + encoding.EncodeToString(payload)
	return signed + "." + encoding.EncodeToString(ed25519.Sign(p.private, []byte(signed))), nil
}

// open verifies the signature of a token, and nothing else.
func open(public ed25519.PublicKey, token string) (c claims, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if len(token) > tokenMax || i < len(tokenPrefix) || !strings.HasPrefix(token, tokenPrefix) || len(public) != ed25519.PublicKeySize {
		return c, false
	}
	signature, err := encoding.DecodeString(token[i+1:])
	if err != nil || !ed25519.Verify(public, []byte(token[:i]), signature) {
		return c, false
	}
	payload, err := encoding.DecodeString(token[len(tokenPrefix):i])
	return c, err == nil && json.Unmarshal(payload, &c) == nil
}

func errToken(format string, args ...any) *kv.Error {
	return kv.Errorf(kv.Unauthenticated, "the token is no good: "+format, args...)
}

// accept judges what a signed token says.
func (p *Policy) accept(c claims, now time.Time) (kv.By, error) {
	u := p.users[c.User]
	switch {
	case now.Unix() >= c.Expires:
		return kv.By{}, errToken("it has expired")
	case u == nil:
		return kv.By{}, errToken("its user is gone")
	case c.Revision < u.Created || c.Revision < u.Changed || c.Revision < p.since:
		return kv.By{}, errToken("its user has been changed, or authentication was off, since it was given")
	}
	return kv.By{Principal: c.User, AuthRevision: p.revision}, nil
}

// Device tokens are "HFD1.<id>.<secret>".
const (
	deviceMark  = "HFD1."
	secretBytes = 32
	maxIDBytes  = 64
)

// NewDevice makes a token for a device. Only the hash of its secret is kept, in d; the text is shown once.
func NewDevice(d *kv.Device) (id, text string) {
	var random [8 + secretBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	id = hex.EncodeToString(random[:8])
	secret := encoding.EncodeToString(random[8:])
	d.Hash = sha256.Sum256([]byte(secret))
	return id, deviceMark + id + "." + secret
}

func validID(id string) bool {
	if id == "" || len(id) > maxIDBytes {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// device judges a device token.
func (p *Policy) device(token string, now time.Time) (kv.By, error) {
	id, secret, ok := strings.Cut(token[len(deviceMark):], ".")
	d := p.devices[id]
	if !ok || d == nil {
		return kv.By{}, errToken("there is no such device token, or it was revoked")
	}
	hash := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(hash[:], d.Hash[:]) != 1 {
		return kv.By{}, errToken("its secret is wrong")
	}
	if d.Expires != 0 && now.Unix() >= d.Expires {
		return kv.By{}, errDeviceExpired(id)
	}
	return kv.By{Principal: kv.DevicePrincipal + id, AuthRevision: p.revision}, nil
}

// ends is when the token of a device does, in seconds since 1970; 0: it does not, or the principal is none.
func (p *Policy) ends(principal string) int64 {
	d, _ := p.Device(principal)
	if d == nil {
		return 0
	}
	return d.Expires
}

func errDeviceExpired(id string) *kv.Error { return errToken("the device token %s has expired", id) }

// Text is by which two policies are told apart.
func (p *Policy) Text() string {
	p = p.or()
	return revisionText(p.revision, p.enabled, p.public != nil)
}

func revisionText(revision uint64, enabled, key bool) string {
	return fmt.Sprintf("%d %t %t", revision, enabled, key)
}
