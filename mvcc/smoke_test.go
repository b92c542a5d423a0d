package mvcc

import (
	"path/filepath"
	"testing"

	"holdfast/kv"
)

func TestSmoke(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		out, err := s.Apply([]Entry{{uint64(i + 1), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte{'a', byte(i % 3)}, Value: []byte("v")}}}}})
		if err != nil || out[0].Err != nil {
			t.Fatal(err, out)
		}
		if i == 5 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	p, err := s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("a"), End: []byte("b")}}})
	t.Log(p, err, s.Stats())
	if len(p.Ops[0].KVs) != 3 {
		t.Fatal("want 3")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err = s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("a"), End: []byte("b")}}})
	t.Log(p, err, s.Stats())
}
