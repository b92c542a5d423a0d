package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// A snapshot is kept in a file on both sides while it travels: by the sender so that the state it is taken from is not
// held for as long as the link takes, by the receiver because the library forgets one of which no chunk has come for
// 90 s. It is cut into numbered pieces, which begin with 1. Each has a place in the file, of a header and pieceSize bytes:
// its number, 8 bytes; flags, 1; length, 3; CRC-32C of its bytes, 4. A place without the number of its piece holds none, so the
// file itself says which pieces have come, after a restart too. Nothing is synced: what a power cut tears is sent again.
const (
	pieceSize   = 8 << 10
	pieceHeader = 16
	// spoolPieces is how many pieces a sender keeps: 64 MiB. A longer snapshot goes on as its beginning arrives.
	spoolPieces = 8 << 10

	spoolOut = "out-"
	spoolIn  = "in-"
)

var errPiece = errors.New("a piece of a snapshot is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// piece is a part of a snapshot.
type piece struct {
	number uint64
	last   bool // of the snapshot
	data   []byte
}

// spool is the file. Its methods may be called concurrently for different pieces.
type spool struct {
	file   *os.File
	places uint64 // they are used again and again; 0: one for each piece
}

func createSpool(dir, name string, places uint64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // below the data dir
	if err != nil {
		return nil, err
	}
	return &spool{f, places}, nil
}

func (s *spool) place(number uint64) int64 {
	n := number - 1
	if s.places > 0 {
		n %= s.places
	}
	return int64(n) * (pieceHeader + pieceSize) //nolint:gosec // bounded by maxPieces
}

// put keeps a piece, of pieceSize bytes at most.
func (s *spool) put(p piece) error {
	b := make([]byte, pieceHeader, pieceHeader+len(p.data))
	binary.BigEndian.PutUint64(b, p.number)
	binary.BigEndian.PutUint32(b[8:], uint32(len(p.data))) //nolint:gosec // at most pieceSize
	if p.last {
		b[8] = 1
	}
	binary.BigEndian.PutUint32(b[12:], crc32.Checksum(p.data, castagnoli))
	_, err := s.file.WriteAt(append(b, p.data...), s.place(p.number))
	return err
}

// get reads a piece. One that is not there is errPiece.
func (s *spool) get(number uint64) (p piece, err error) {
	b := make([]byte, pieceHeader+pieceSize)
	n, err := s.file.ReadAt(b, s.place(number))
	if err != nil && !errors.Is(err, io.EOF) {
		return p, err
	}
	b = b[:n]
	if n < pieceHeader || binary.BigEndian.Uint64(b) != number {
		return p, fmt.Errorf("piece %d: %w", number, errPiece)
	}
	p.number, p.last = number, b[8] == 1
	size := int(binary.BigEndian.Uint32(b[8:]) & 0xffffff)
	if size > n-pieceHeader {
		return p, fmt.Errorf("piece %d: %w", number, errPiece)
	}
	p.data = b[pieceHeader : pieceHeader+size]
	if crc32.Checksum(p.data, castagnoli) != binary.BigEndian.Uint32(b[12:]) {
		return p, fmt.Errorf("piece %d: %w", number, errPiece)
	}
	return p, nil
}

// remove closes the file and deletes it.
func (s *spool) remove() error {
	return errors.Join(s.file.Close(), os.Remove(s.file.Name()))
}
