package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// The form of a snapshot, in the version that the format of the file has:
//
//	"HFMVCC\r\n" | version(4) | frames
//	frame: length(4) | kind(1) payload | crc32c(4) over the number of the frame, kind and payload
//	kinds: 's' the state and sweep records
//	       'r' records in order of revision: revision key(12) | length (uvarint) | record, as in bucket rev
//	       'i' the newest record of each key, in order of key: main, sub (uvarints)
//	       'x' entries of the side table in order of key: key length, key, value length, value, as in bucket side
//	       'e' the numbers of records(8) and of keys(8), and the end
//
// The index is sent as an order only: its entries are in the records, and the receiver can write both buckets from end
// to end without sorting.
const (
	snapshotMagic = "HFMVCC\r\n"

	frameState   = 's'
	frameRecords = 'r'
	frameIndex   = 'i'
	frameSides   = 'x'
	frameEnd     = 'e'

	// frameBytes is when a frame is sent; frameMax is the longest that is read, for one very large value.
	frameBytes = 256 << 10
	frameMax   = 1 << 30
)

// Snapshot is the store at one moment. While it is open the file cannot reuse space that was in use then. It must be
// closed, by the one goroutine that uses it.
type Snapshot struct {
	file  *file
	tx    *bbolt.Tx
	state state
	sweep sweep
}

// Snapshot flushes and holds on to what is in the file then.
func (s *Store) Snapshot() (*Snapshot, error) { return s.pin(true) }

// pin is Snapshot; unless index is set it does not write for the sake of the applied index alone.
func (s *Store) pin(index bool) (*Snapshot, error) {
	if err := s.flush(index); err != nil {
		return nil, err
	}
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if s.isClosed() {
		return nil, errClosed()
	}
	f := s.layers.Load().file
	tx, err := f.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", s.path, err)
	}
	f.refs.Add(1)
	return &Snapshot{file: f, tx: tx, state: s.saved, sweep: s.sweep}, nil
}

// Applied is the index of the newest entry in the snapshot.
func (sn *Snapshot) Applied() uint64 { return sn.state.Applied }

// Revision is the newest revision in the snapshot.
func (sn *Snapshot) Revision() int64 { return sn.state.Revision }

// Epoch is the history that the snapshot is of.
func (sn *Snapshot) Epoch() kv.Epoch { return sn.state.Epoch }

// Close lets go of the file.
func (sn *Snapshot) Close() error {
	if sn.tx == nil {
		return nil
	}
	err := sn.tx.Rollback()
	sn.tx = nil
	return errors.Join(err, sn.file.release())
}

// WriteTo writes the snapshot, every record of it verified. It ends with kv.Stopping when stop is closed; nil is never.
func (sn *Snapshot) WriteTo(w io.Writer, stop <-chan struct{}) error {
	fw := &frameWriter{w: w, stop: stop}
	err := guard(func() error { return sn.write(fw) })
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

func (sn *Snapshot) write(fw *frameWriter) error {
	format, err := readFormat(sn.tx.Bucket(bucketMeta))
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32([]byte(snapshotMagic), format)
	if _, err := fw.w.Write(head); err != nil {
		return err
	}
	fw.begin(frameState)
	fw.buf = sn.state.append(fw.buf)
	fw.buf = sn.sweep.append(fw.buf)
	if err := fw.end(); err != nil {
		return err
	}
	n, err := sn.writeRecords(fw)
	if err != nil {
		return err
	}
	keys, err := sn.writeIndex(fw)
	if err != nil {
		return err
	}
	if err := sn.writeSides(fw); err != nil {
		return err
	}
	fw.begin(frameEnd)
	fw.buf = binary.BigEndian.AppendUint64(fw.buf, n)
	fw.buf = binary.BigEndian.AppendUint64(fw.buf, keys)
	return fw.end()
}

func (sn *Snapshot) writeRecords(fw *frameWriter) (n uint64, err error) {
	fw.begin(frameRecords)
	c := sn.tx.Bucket(bucketRev).Cursor()
	for k, b := c.First(); k != nil; k, b = c.Next() {
		if err := verifyRecord(k, b); err != nil {
			return n, err
		}
		n++
		fw.buf = append(fw.buf, k...)
		fw.buf = binary.AppendUvarint(fw.buf, uint64(len(b)))
		fw.buf = append(fw.buf, b...)
		if err := fw.endIfLong(frameRecords); err != nil {
			return n, err
		}
	}
	return n, fw.end()
}

func (sn *Snapshot) writeIndex(fw *frameWriter) (n uint64, err error) {
	fw.begin(frameIndex)
	c := sn.tx.Bucket(bucketKey).Cursor()
	var v version
	for k, b := c.First(); k != nil; k, b = c.Next() {
		if err := parseIndexEntry(&v, k, b); err != nil {
			return n, err
		}
		n++
		fw.buf = binary.AppendUvarint(fw.buf, uint64(v.rev.main))
		fw.buf = binary.AppendUvarint(fw.buf, uint64(v.rev.sub))
		if err := fw.endIfLong(frameIndex); err != nil {
			return n, err
		}
	}
	return n, fw.end()
}

func (sn *Snapshot) writeSides(fw *frameWriter) error {
	b := sn.tx.Bucket(bucketSide)
	if b == nil {
		return nil
	}
	fw.begin(frameSides)
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if _, err := openSide(k, v); err != nil {
			return err
		}
		for _, part := range [2][]byte{k, v} {
			fw.buf = binary.AppendUvarint(fw.buf, uint64(len(part)))
			fw.buf = append(fw.buf, part...)
		}
		if err := fw.endIfLong(frameSides); err != nil {
			return err
		}
	}
	return fw.end()
}

// frameWriter writes one frame at a time from its buffer.
type frameWriter struct {
	w    io.Writer
	stop <-chan struct{}
	buf  []byte
	n    uint64
}

func (fw *frameWriter) begin(kind byte) {
	fw.buf = append(fw.buf[:0], 0, 0, 0, 0, kind)
}

func (fw *frameWriter) endIfLong(kind byte) error {
	if len(fw.buf) < frameBytes {
		return nil
	}
	err := fw.end()
	fw.begin(kind)
	return err
}

func (fw *frameWriter) end() error {
	select {
	case <-fw.stop:
		return kv.Errorf(kv.Stopping, "stopped by the caller")
	default:
	}
	body := fw.buf[4:]
	if len(body) > frameMax {
		return kv.Errorf(kv.TooLarge, "a value of %d bytes is too large for a snapshot", len(body))
	}
	binary.BigEndian.PutUint32(fw.buf, uint32(len(body)))
	fw.buf = binary.BigEndian.AppendUint32(fw.buf, frameSum(fw.n, body))
	fw.n++
	_, err := fw.w.Write(fw.buf)
	return err
}

func frameSum(n uint64, body []byte) uint32 {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], n)
	return checksum(number[:], body)
}

// frameReader reads what a frameWriter wrote. What it allocates is bounded by what it is given.
type frameReader struct {
	r    io.Reader
	stop <-chan struct{}
	buf  bytes.Buffer
	n    uint64
}

// header returns the version, which is the format of the file that comes of it.
func (fr *frameReader) header() (format uint32, err error) {
	head := make([]byte, len(snapshotMagic)+4)
	if _, err := io.ReadFull(fr.r, head); err != nil {
		return 0, damaged("its header is missing (%v)", err)
	}
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return 0, damaged("it does not begin like one")
	}
	format = binary.BigEndian.Uint32(head[len(snapshotMagic):])
	if format < formatFirst || format > formatVersion {
		return 0, kv.Errorf(kv.Unsupported, "the snapshot has version %d and this version reads up to %d: upgrade this node first", format, formatVersion)
	}
	return format, nil
}

// next returns the kind and the payload of the next frame, valid until the next call.
func (fr *frameReader) next() (kind byte, payload []byte, err error) {
	select {
	case <-fr.stop:
		return 0, nil, kv.Errorf(kv.Stopping, "stopped by the caller")
	default:
	}
	var head [4]byte
	if _, err := io.ReadFull(fr.r, head[:]); err != nil {
		return 0, nil, damaged("it ends before its end (%v)", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > frameMax {
		return 0, nil, damaged("frame %d claims %d bytes", fr.n, n)
	}
	fr.buf.Reset()
	if _, err := io.CopyN(&fr.buf, fr.r, int64(n)+crcLen); err != nil {
		return 0, nil, damaged("it ends inside frame %d (%v)", fr.n, err)
	}
	b := fr.buf.Bytes()
	body, sum := b[:n], b[n:]
	if binary.BigEndian.Uint32(sum) != frameSum(fr.n, body) {
		return 0, nil, damaged("frame %d fails its checksum", fr.n)
	}
	fr.n++
	return body[0], body[1:], nil
}

// damaged is for a snapshot that cannot be read to its end.
func damaged(format string, args ...any) *kv.Error {
	return kv.Errorf(kv.Corrupt, "the snapshot is damaged: "+format, args...)
}
