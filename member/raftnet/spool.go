package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"
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

	// roomPieces is for how many pieces room is asked for at a time: a megabyte.
	roomPieces = 128

	spoolOut = "out-"
	spoolIn  = "in-"
)

var errPiece = errors.New("a piece of a snapshot is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNoRoom says that a snapshot would leave too little free on the disk.
var errNoRoom = errors.New("no room on the disk for a snapshot")

// room asks whether there is room for pieces up to number, of a file that has room up to another one, and tells up to which
// one there is. What is refused is logged once a minute: a leader tries again and again.
func (n *Net) room(has, number uint64) (upTo uint64, err error) {
	upTo = (number + roomPieces - 1) / roomPieces * roomPieces
	err = n.opts.Room(int64(upTo-has) * (pieceHeader + pieceSize)) //nolint:gosec // bounded by what may be sent ahead
	if err == nil {
		return upTo, nil
	}
	n.metrics.dropped("no_room", 1)
	if now := time.Now().UnixNano(); n.noRoomAt.Load() < now-int64(time.Minute) {
		n.noRoomAt.Store(now)
		n.opts.Log.Warn("a snapshot was given up for want of room on the disk; it is tried again, and goes on by itself when there is some", "err", err)
	}
	return 0, fmt.Errorf("%w: %w", errNoRoom, err)
}

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
