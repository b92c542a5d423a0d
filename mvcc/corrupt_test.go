package mvcc

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// Flipped bytes anywhere in the file never end the process and never change what a key is said to hold: the answer is
// true, or kv.Corrupt. (What no checksum of ours can see is a page of bbolt that lost an entry as a whole; Hash differs
// then.)
func TestFlippedBytesAreNeverServed(t *testing.T) {
	g := newRig(t, Options{})
	truth := map[string]bool{}
	for i := range 300 {
		g.put(fmt.Sprintf("key%03d", i%150), fmt.Sprintf("%0100d", i))
		truth[fmt.Sprintf("key%03d=%0100d@%d", i%150, i, i+2)] = true
		truth[fmt.Sprintf("key%03d created %d at %d version %d", i%150, i%150+2, i+2, 1+i/150)] = true
	}
	must(t, g.s.Flush())
	used := int(g.s.Stats().FileBytes)
	must(t, g.s.Close())
	good, err := os.ReadFile(g.path)
	must(t, err)
	path := filepath.Join(t.TempDir(), "bad")
	refused := 0
	for at := 0; at < used; at += 79 {
		good[at] ^= 0x55
		must(t, os.WriteFile(path, good, 0o600))
		good[at] ^= 0x55
		s, err := Open(path, Options{})
		if err == nil {
			var page kv.Page
			if page, err = s.Read(kv.Query{Ops: []kv.Op{scan("\x00", "\x00")}}); err == nil {
				for _, p := range page.Ops[0].KVs {
					if !truth[show([]kv.KeyValue{p})] {
						t.Errorf("byte %d: got %s", at, show([]kv.KeyValue{p}))
					}
				}
			}
			if page, err := s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: []byte{0}, End: []byte{0}, KeysOnly: true}}}); err == nil {
				for _, p := range page.Ops[0].KVs {
					if s := fmt.Sprintf("%s created %d at %d version %d", p.Key, p.CreateRevision, p.ModRevision, p.Version); !truth[s] {
						t.Errorf("byte %d: got %s", at, s)
					}
				}
			}
			control := make(chan kv.WatchControl, 1)
			control <- kv.WatchControl{Progress: true}
			replay := kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte{0}, End: kv.FromKey(), From: 2}}, Control: control}
			for b, failed := range s.Watch(t.Context(), replay) {
				for _, e := range b.Events {
					if !truth[show([]kv.KeyValue{e.KV})] {
						t.Errorf("byte %d: got event %s", at, showEvents(b.Events))
					}
				}
				if failed != nil || b.Progress || b.Canceled {
					break
				}
			}
			s.crash()
		}
		if err != nil {
			refused++
			if c := kv.CodeOf(err); c != kv.Corrupt && c != kv.Unsupported {
				t.Errorf("byte %d: got %v (%v)", at, err, c)
			}
		}
	}
	// The rest is free pages, and history that a read of the newest revision does not see.
	if refused < used/79/5 {
		t.Errorf("only %d of %d flips were noticed", refused, used/79)
	}
}

func TestCutFileIsRefused(t *testing.T) {
	g := newRig(t, Options{})
	for i := range 300 {
		g.put(fmt.Sprintf("key%03d", i), fmt.Sprintf("%0100d", i))
	}
	must(t, g.s.Flush())
	used := g.s.Stats().FileBytes
	must(t, g.s.Close())
	good, err := os.ReadFile(g.path)
	must(t, err)
	for _, size := range []int64{1, 100, pageSize, 3 * pageSize, used / 2, used - 1} {
		must(t, os.WriteFile(g.path, good[:size], 0o600))
		if s, err := Open(g.path, Options{}); kv.CodeOf(err) != kv.Corrupt {
			t.Errorf("%d bytes: got %v, %v", size, s, err)
		}
	}
	must(t, os.WriteFile(g.path, good[:used], 0o600))
	g.open()
	if got, _ := g.s.Read(kv.Query{Ops: []kv.Op{scan("k", "l")}}); got.Ops[0].Count != 300 {
		t.Errorf("cut behind its last page: got %d keys", got.Ops[0].Count)
	}
}

func TestOtherFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	must(t, os.WriteFile(path, []byte(fmt.Sprintf("%09000d", 7)), 0o600))
	if _, err := Open(path, Options{}); kv.CodeOf(err) != kv.Corrupt {
		t.Errorf("got %v", err)
	}
}

// A record that was damaged stops the command that needs it, on this replica only: it is a fault, not an outcome.
func TestApplyStopsAtADamagedRecord(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	must(t, g.s.Flush())
	must(t, g.s.layers.Load().file.db.Update(func(tx *bbolt.Tx) error {
		key := appendRevKey(nil, revision{2, 0})
		bad := append([]byte(nil), tx.Bucket(bucketRev).Get(key)...)
		bad[len(bad)-1]++
		return tx.Bucket(bucketRev).Put(key, bad)
	}))
	if _, err := g.s.Read(kv.Query{Ops: []kv.Op{get("a")}}); kv.CodeOf(err) != kv.Corrupt {
		t.Errorf("read: got %v", err)
	}
	if _, err := g.s.Snapshot(); err != nil {
		t.Errorf("snapshot: %v", err)
	}
	if _, _, _, err := g.s.hash(0); kv.CodeOf(err) != kv.Corrupt {
		t.Errorf("hash: got %v", err)
	}
	p := put("a", "2")
	p.PrevKV = true
	out, err := g.s.Apply([]Entry{{2, kv.Command{Ops: []kv.Op{p}}}})
	if kv.CodeOf(err) != kv.Corrupt || out != nil {
		t.Errorf("apply: got %+v, %v", out, err)
	}
	if _, err := g.s.Apply([]Entry{{2, kv.Command{Ops: []kv.Op{put("b", "2")}}}}); err == nil {
		t.Error("the store went on")
	}
}
