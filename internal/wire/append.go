package wire

import "encoding/binary"

func appendStart(dst []byte, k kind) []byte { return append(dst, Version, byte(k)) }

func appendUint(dst []byte, n uint64) []byte { return binary.AppendUvarint(dst, n) }

func appendInt[T ~int | ~int64](dst []byte, n T) []byte { return binary.AppendVarint(dst, int64(n)) }

func appendBytes[T ~string | ~[]byte](dst []byte, b T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendList[T any](dst []byte, items []T, item func([]byte, *T) []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(items)))
	for i := range items {
		dst = item(dst, &items[i])
	}
	return dst
}

// bit returns f if set, else 0.
func bit(set bool, f byte) byte {
	if set {
		return f
	}
	return 0
}
