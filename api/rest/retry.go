package rest

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"

	"holdfast/kv"
)

// retryKey is what an Idempotency-Key is to the cluster: a write with one applies once, however often it comes, and is
// answered as it was the first time. Zero is none.
type retryKey [16]byte

// retryKeyMax is the longest Idempotency-Key, in bytes.
const retryKeyMax = 255

// parseRetryKey reads the header Idempotency-Key: 1 to 255 visible characters, in quotes or not. It is the client's own to
// see that it is used by one request alone, so it should be random.
func parseRetryKey(h http.Header) (k retryKey, err error) {
	given := h["Idempotency-Key"]
	if given == nil {
		return k, nil
	}
	if len(given) > 1 {
		return k, kv.Errorf(kv.Invalid, "Idempotency-Key is given %d times", len(given))
	}
	text := strings.TrimSpace(given[0])
	if n := len(text); n > 1 && text[0] == '"' && text[n-1] == '"' {
		text = text[1 : n-1]
	}
	if text == "" || len(text) > retryKeyMax || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return k, kv.Errorf(kv.Invalid, "Idempotency-Key is 1 to %d visible ASCII characters, such as a random UUID", retryKeyMax)
	}
	return hashRetryKey([]byte("Idempotency-Key " + text)), nil
}

// part is the key of the nth of several commands that a request sends, which it sends alike when it comes again.
func (k retryKey) part(n int) retryKey {
	if k.none() {
		return k
	}
	return hashRetryKey(binary.BigEndian.AppendUint64(k[:], uint64(n))) //nolint:gosec // a count
}

func (k retryKey) none() bool { return k == retryKey{} }

// leaseID is the id of a lease that a command with this key makes: one that comes again has to ask for the same.
func (k retryKey) leaseID() int64 {
	if k.none() {
		return newLeaseID()
	}
	return max(int64(binary.BigEndian.Uint64(k[:8])>>1), 1) //nolint:gosec // 63 bits
}

func hashRetryKey(b []byte) (k retryKey) {
	sum := sha256.Sum256(b)
	copy(k[:], sum[:])
	return k
}
