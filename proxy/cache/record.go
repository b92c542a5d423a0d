package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"holdfast/kv"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A value on disk is a CRC-32C of key and rest, four numbers, and the value itself.
func appendValue(dst []byte, v kv.KeyValue) []byte {
	dst = append(dst, 0, 0, 0, 0)
	at := len(dst)
	for _, n := range []int64{v.CreateRevision, v.ModRevision, v.Version, v.Lease} {
		dst = binary.AppendVarint(dst, n)
	}
	dst = append(dst, v.Value...)
	sum := crc32.Update(crc32.Checksum(v.Key, castagnoli), castagnoli, dst[at:])
	binary.LittleEndian.PutUint32(dst[at-4:], sum)
	return dst
}

func decodeValue(key, b []byte) (v kv.KeyValue, err error) {
	damaged := &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("cache: the record of key %q is damaged", key)}
	if len(b) < 8 || crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b[4:]) != binary.LittleEndian.Uint32(b) {
		return v, damaged
	}
	b = b[4:]
	v.Key = key
	for _, dst := range []*int64{&v.CreateRevision, &v.ModRevision, &v.Version, &v.Lease} {
		n, size := binary.Varint(b)
		if size <= 0 {
			return v, damaged
		}
		*dst, b = n, b[size:]
	}
	v.Value = bytes.Clone(b)
	return v, nil
}

// state is what is known about the contents as a whole.
type state struct {
	epoch kv.Epoch
	spans []Span
	bytes int64
	floor int64 // absent in records of format 1
}

const epochLen = 24

func appendEpoch(dst []byte, e kv.Epoch) []byte {
	return append(binary.BigEndian.AppendUint64(dst, e.Cluster), e.Nonce[:]...)
}

func decodeEpoch(b []byte) (e kv.Epoch, ok bool) {
	if len(b) < epochLen {
		return e, false
	}
	e.Cluster = binary.BigEndian.Uint64(b)
	copy(e.Nonce[:], b[8:])
	return e, true
}

func (s state) append(dst []byte) []byte {
	dst = appendEpoch(dst, s.epoch)
	dst = binary.AppendVarint(dst, s.bytes)
	dst = binary.AppendUvarint(dst, uint64(len(s.spans)))
	for _, p := range s.spans {
		dst = append(binary.AppendUvarint(dst, uint64(len(p.Key))), p.Key...)
		dst = append(binary.AppendUvarint(dst, uint64(len(p.End))), p.End...)
		dst = binary.AppendVarint(dst, p.Revision)
	}
	return binary.AppendVarint(dst, s.floor)
}

func decodeState(b []byte) (s state, err error) {
	if b == nil {
		return s, nil
	}
	bad := &kv.Error{Code: kv.Corrupt, Detail: "cache: its state record is damaged"}
	epoch, ok := decodeEpoch(b)
	if !ok {
		return s, bad
	}
	s.epoch = epoch
	r := bytes.NewReader(b[epochLen:])
	if s.bytes, err = binary.ReadVarint(r); err != nil {
		return s, bad
	}
	n, err := binary.ReadUvarint(r)
	if err != nil || n > uint64(len(b)) {
		return s, bad
	}
	for range n {
		var p Span
		for _, dst := range []*[]byte{&p.Key, &p.End} {
			size, err := binary.ReadUvarint(r)
			if err != nil || size > uint64(r.Len()) {
				return s, bad
			}
			*dst = make([]byte, size)
			if _, err := r.Read(*dst); err != nil && size > 0 {
				return s, bad
			}
		}
		if p.Revision, err = binary.ReadVarint(r); err != nil {
			return s, bad
		}
		s.spans = append(s.spans, p)
	}
	if r.Len() == 0 {
		return s, nil
	}
	if s.floor, err = binary.ReadVarint(r); err != nil {
		return s, bad
	}
	return s, nil
}
