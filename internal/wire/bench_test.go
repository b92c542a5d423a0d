package wire

import (
	"testing"

	"holdfast/kv"
)

func put128() kv.Command {
	return kv.Command{ID: kv.ID{Key: fixtureID(1)}, Ops: []kv.Op{kv.Put{Key: []byte("site/42/temp"), Value: make([]byte, 128)}}}
}

func BenchmarkAppendPut128(b *testing.B) {
	c, buf := put128(), make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendCommand(buf[:0], c)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodePut128(b *testing.B) {
	buf := AppendCommand(nil, put128())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeCommand(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

func TestEncodingAPutIntoABufferAllocatesNothing(t *testing.T) {
	c, buf := put128(), make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { buf = AppendCommand(buf[:0], c) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
