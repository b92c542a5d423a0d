// Package atrest seals the small files of a data dir that hold keys, so that whoever has the disk and not the secret beside it
// has none of them.
//
// The secret is a file that the service manager hands over, best one that a TPM has bound to this machine; what it holds is
// random, and not a password that could be guessed. A sealed file is a PEM block:
//
//	version(1) | salt(32) | AES-256-GCM of the content
//
// The key is HKDF-SHA256 (RFC 5869) of the secret with the salt, which is drawn for each file that is written, so that no key
// meets two contents and the nonce may be fixed. The name of the file and the labels are authenticated: one file cannot stand
// for another. Labels are for those who have no secret: they can be read, and are only certain once the file was opened.
package atrest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// Seal is a secret that files are sealed with. A nil Seal seals nothing, and opens what is not sealed.
type Seal struct{ secret []byte }

// The bounds of a secret, in bytes without the newline at its end.
const (
	SecretMin = 16
	SecretMax = 4 << 10
)

// Read reads a secret. Newlines at its end do not count.
func Read(path string) (*Seal, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, SecretMax+3))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) < SecretMin || len(text) > SecretMax {
		return nil, fmt.Errorf("%s has %d bytes: want %d to %d random ones, as from openssl rand -hex 32", path, len(text), SecretMin, SecretMax)
	}
	return &Seal{text}, nil
}

const (
	blockType = "HOLDFAST SEALED"
	version   = 1
	saltSize  = 32
	context   = "holdfast sealed file 1\x00"
)

var begin = []byte("-----BEGIN " + blockType + "-----")

// IsSealed reports whether a file's content is sealed.
func IsSealed(content []byte) bool { return bytes.HasPrefix(content, begin) }

var (
	// ErrNoSeal is why a sealed file is not opened without a Seal.
	ErrNoSeal = errors.New("it is sealed, and there is no secret to open it with")
	// ErrWrongSeal is why one is not opened by the one at hand.
	ErrWrongSeal = errors.New("it was sealed with another secret, or is damaged")
)

// Close seals the content of the file with a name. Labels may be read by anybody; their names and values have to be fit for PEM.
// A nil Seal returns the content as it is.
func (s *Seal) Close(name string, content []byte, labels map[string]string) ([]byte, error) {
	if s == nil {
		return content, nil
	}
	box := make([]byte, 1+saltSize, 1+saltSize+len(content)+16)
	box[0] = version
	_, _ = rand.Read(box[1:]) // never fails
	aead, err := s.key(name, box[1:])
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	box = aead.Seal(box, make([]byte, aead.NonceSize()), content, bound(name, labels)) //nolint:gosec // the key is used this once
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Headers: labels, Bytes: box}), nil
}

// Open is the inverse of Close. What is not sealed it returns as it is. A file that does not open is ErrNoSeal or ErrWrongSeal.
func (s *Seal) Open(name string, content []byte) ([]byte, error) {
	if !IsSealed(content) {
		return content, nil
	}
	if s == nil {
		return nil, ErrNoSeal
	}
	block, rest := pem.Decode(content)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || len(block.Bytes) < 1+saltSize {
		return nil, fmt.Errorf("%w: it is cut short or has been edited", ErrWrongSeal)
	}
	if v := block.Bytes[0]; v != version {
		return nil, fmt.Errorf("it is sealed in the form %d: run the version that wrote it, or a newer one", v)
	}
	aead, err := s.key(name, block.Bytes[1:1+saltSize])
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	plain, err := aead.Open(nil, make([]byte, aead.NonceSize()), block.Bytes[1+saltSize:], bound(name, block.Headers)) //nolint:gosec // as Close has it
	if err != nil {
		return nil, ErrWrongSeal
	}
	return plain, nil
}

// Labels are those of a sealed file, nil of any other. Nothing proves them.
func Labels(content []byte) map[string]string {
	if !IsSealed(content) {
		return nil
	}
	if block, _ := pem.Decode(content); block != nil {
		return block.Headers
	}
	return nil
}

func (s *Seal) key(name string, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, s.secret, salt, context+name, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// bound is what is authenticated beside the content.
func bound(name string, labels map[string]string) []byte {
	b := []byte(context + name)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		b = append(b, "\x00"+key+"\x00"+labels[key]...)
	}
	return b
}
