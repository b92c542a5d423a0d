package etcd

import (
	"errors"
	"io"
)

// uncompressed takes no message that is compressed with gzip, as etcd takes none. One of a few kilobytes could be a thousand times as
// long once it is read, and what a client makes the node hold is counted as it arrives (limits.bodies).
//
// gRPC has a registry of compressors for the whole program, which whoever is linked in may add to: the exporter of traces brings
// gzip. So it is refused and not just left out.
type uncompressed struct{}

// Do implements grpc.Decompressor.
func (uncompressed) Do(io.Reader) ([]byte, error) { return nil, errCompressed }

// Type implements grpc.Decompressor.
func (uncompressed) Type() string { return "gzip" }

var errCompressed = errors.New("this server takes no compressed messages: send them as they are")
