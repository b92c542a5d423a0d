package kv

import (
	"encoding/hex"
	"fmt"
)

// ParseNodeID returns the 128 bits of a node id, which is written as 32 lower-case hexadecimal digits. They are the
// origin under which the node queues.
func ParseNodeID(id string) (b [16]byte, err error) {
	if len(id) != 2*len(b) {
		return b, fmt.Errorf("node id %q: want 32 hexadecimal digits", id)
	}
	if _, err := hex.Decode(b[:], []byte(id)); err != nil {
		return b, fmt.Errorf("node id %q: want 32 hexadecimal digits", id)
	}
	return b, nil
}
