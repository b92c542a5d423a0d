package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// The salt of Initial packets of QUIC version 1 (RFC 9001, section 5.2).
var quicSalt = []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}

const (
	quicIDLen     = 8
	quicDatagram  = 1200 // the least that a server takes
	quicNumberLen = 4
)

// quicInitial is a datagram that opens a connection as a client does and has the beginning of a ClientHello, of which the rest
// never comes: a server that takes it has to wait.
func quicInitial() ([]byte, error) {
	ids := make([]byte, 2*quicIDLen+32)
	_, _ = rand.Read(ids) // never fails
	head := []byte{0xc0 | quicNumberLen - 1, 0, 0, 0, 1, quicIDLen}
	head = append(head, ids[:quicIDLen]...)
	head = append(head, quicIDLen)
	head = append(head, ids[quicIDLen:2*quicIDLen]...)
	head = append(head, 0) // no token
	at := len(head) + 2    // of the packet number
	head = binary.BigEndian.AppendUint16(head, 0x4000|uint16(quicDatagram-at))
	head = append(head, make([]byte, quicNumberLen)...)

	hello := append([]byte{1, 0, 2, 0, 3, 3}, ids[2*quicIDLen:]...) // a ClientHello of 512 bytes
	payload := append([]byte{6, 0, 0x40, byte(len(hello))}, hello...)
	payload = append(payload, make([]byte, quicDatagram-len(head)-16-len(payload))...) // PADDING

	secret, err := hkdf.Extract(sha256.New, ids[:quicIDLen], quicSalt)
	if err != nil {
		return nil, err
	}
	if secret, err = expandLabel(secret, "client in", sha256.Size); err != nil {
		return nil, err
	}
	var keys [3][]byte
	for i, k := range []struct {
		label  string
		length int
	}{{"quic key", 16}, {"quic iv", 12}, {"quic hp", 16}} {
		if keys[i], err = expandLabel(secret, k.label, k.length); err != nil {
			return nil, err
		}
	}
	block, err := aes.NewCipher(keys[0])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	packet := aead.Seal(head, keys[1], payload, head) // the packet number is 0: the nonce is the IV
	mask, err := aes.NewCipher(keys[2])
	if err != nil {
		return nil, err
	}
	var m [aes.BlockSize]byte
	mask.Encrypt(m[:], packet[at+4:at+4+aes.BlockSize])
	packet[0] ^= m[0] & 0x0f
	for i := range quicNumberLen {
		packet[at+i] ^= m[1+i]
	}
	return packet, nil
}

// expandLabel is HKDF-Expand-Label of TLS 1.3 (RFC 8446, section 7.1) without a context.
func expandLabel(secret []byte, label string, length int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(info, byte(len(label)))
	info = append(append(info, label...), 0)
	key, err := hkdf.Expand(sha256.New, secret, string(info), length)
	if err != nil {
		return nil, fmt.Errorf("derive %s: %w", label, err)
	}
	return key, nil
}
