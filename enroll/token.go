// Package enroll is how a box becomes a node of a cluster: join tokens, and the exchange in which a box without a
// certificate shows one and gets its certificate.
//
// A token is HF1<ca-hash>::<id>.<secret>. Its first half pins the cluster's CA, so the secret is sent to nobody else;
// the cluster keeps a hash of the secret, in a replicated record with role, scope, end and number of uses. The secret
// has 128 random bits, which no slow hash would make safer.
package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const (
	tokenPrefix = "HF1"
	idBytes     = 6
	secretBytes = 16
	caHashHex   = 64
)

// Token is what an operator carries to a new box.
type Token struct {
	CAHash string // SHA-256 of the CA's public key, in hexadecimal
	ID     string // names the token; not secret
	secret string
}

// newToken draws id and secret.
func newToken(caHash string) Token {
	b := make([]byte, idBytes+secretBytes)
	_, _ = rand.Read(b) // never fails: the program would have ended
	return Token{CAHash: caHash, ID: hex.EncodeToString(b[:idBytes]), secret: hex.EncodeToString(b[idBytes:])}
}

// Reveal is the token with its secret, for the operator and nobody else.
func (t Token) Reveal() string { return tokenPrefix + t.CAHash + "::" + t.ID + "." + t.secret }

// String names the token without its secret, for logs.
func (t Token) String() string {
	return tokenPrefix + t.CAHash[:min(len(t.CAHash), 8)] + "...::" + t.ID
}

func (t Token) hash() string {
	sum := sha256.Sum256([]byte(t.secret))
	return hex.EncodeToString(sum[:])
}

// ErrToken says that a text is no token.
var ErrToken = errors.New("not a join token")

// ParseToken reads what Reveal wrote. Errors do not repeat the text: it may be a secret with a typing error.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Token{}, fmt.Errorf("%w: there is nothing in it", ErrToken)
	}
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: it does not begin with %s", ErrToken, tokenPrefix)
	}
	ca, rest, ok := strings.Cut(rest, "::")
	id, secret, ok2 := strings.Cut(rest, ".")
	switch {
	case !ok || !ok2:
		return Token{}, fmt.Errorf("%w: want %s<ca-hash>::<id>.<secret>; was it copied whole?", ErrToken, tokenPrefix)
	case !isHex(ca, caHashHex):
		return Token{}, fmt.Errorf("%w: its hash of the CA has %d characters, want %d hexadecimal digits; was it copied whole?", ErrToken, len(ca), caHashHex)
	case !isHex(id, 2*idBytes) || !isHex(secret, 2*secretBytes):
		return Token{}, fmt.Errorf("%w: its id or its secret is damaged; was it copied whole?", ErrToken)
	}
	return Token{CAHash: ca, ID: id, secret: secret}, nil
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil && s == strings.ToLower(s)
}
