package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"holdfast/kv"
)

// filled is a store with some history, part of it flushed.
func filled(t *testing.T, opts Options) *rig {
	t.Helper()
	g := newRig(t, opts)
	g.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 1, Nonce: [16]byte{2}}}, kv.LeaderTerm{Nonce: 3})
	for i := range 100 {
		g.put(fmt.Sprint("key", i%17), fmt.Sprint("value", i))
		if i%10 == 9 {
			g.do(del(fmt.Sprint("key", i%17), ""))
		}
		if i == 50 {
			g.compact(20)
			g.sweep()
		}
	}
	return g
}

func sameStore(t *testing.T, got, want *Store) {
	t.Helper()
	hg, rg, cg, err := got.hash(0)
	must(t, err)
	hw, rw, cw, err := want.hash(0)
	must(t, err)
	if hg != hw || rg != rw || cg != cw {
		t.Errorf("got hash %08x revision %d compact %d, want %08x %d %d", hg, rg, cg, hw, rw, cw)
	}
	if got.Epoch() != want.Epoch() || got.LeaderTerm() != want.LeaderTerm() || got.Applied() != want.Applied() {
		t.Errorf("got %v %d %d, want %v %d %d", got.Epoch(), got.LeaderTerm(), got.Applied(),
			want.Epoch(), want.LeaderTerm(), want.Applied())
	}
}

func TestSnapshotIsTheStoreAtItsMoment(t *testing.T) {
	g := filled(t, Options{})
	sn, err := g.s.Snapshot()
	must(t, err)
	before, _, _, err := g.s.hash(0)
	must(t, err)
	rev := g.s.Revision()
	g.put("later", "1")
	must(t, g.s.Flush())
	g.compact(g.s.Revision())
	g.sweep()
	var buf bytes.Buffer
	must(t, sn.WriteTo(&buf, nil))
	must(t, sn.Close())
	must(t, sn.Close())
	other := newRig(t, Options{})
	must(t, other.s.Restore(&buf, nil))
	if h, r, _, err := other.s.hash(0); err != nil || h != before || r != rev || sn.Revision() != rev {
		t.Errorf("got hash %08x at %d, want %08x at %d", h, r, before, rev)
	}
	checkFile(t, other.s)
	must(t, other.s.Close())
	other.open()
	if other.s.Revision() != rev || other.s.Applied() != sn.Applied() || other.s.Durable() != sn.Applied() {
		t.Errorf("after a restart: revision %d, applied %d", other.s.Revision(), other.s.Applied())
	}
	other.index = other.s.Applied()
	other.put("later", "1")
	other.compact(other.s.Revision())
	sameStore(t, other.s, g.s)
}

// A restore that dies at any step leaves the old store or the new one, and the next Open cleans up.
func TestCrashBetweenAnyTwoStepsOfARestore(t *testing.T) {
	src := filled(t, Options{})
	snapshot := dump(t, src.s)
	for _, step := range []string{"building", "synced", "renamed"} {
		g := newRig(t, Options{step: dieAt(step, 1)})
		g.put("old", "1")
		must(t, g.s.Flush())
		_, err := snapshot.Seek(0, io.SeekStart)
		must(t, err)
		if err := g.s.Restore(snapshot, nil); !errors.Is(err, errDied) {
			t.Fatalf("%s: got %v, want the death", step, err)
		}
		if step == "building" {
			// Nothing has happened yet, and the store goes on.
			g.put("old", "2")
		}
		g.s.crash()
		if step == "synced" {
			if _, err := os.Stat(restorePath(g.path)); err != nil {
				t.Errorf("the test does not leave the file it is about: %v", err)
			}
		}
		g.open()
		if step == "renamed" {
			sameStore(t, g.s, src.s)
		} else if got := g.list(0); got != "old=1@2" {
			t.Errorf("%s: got %q", step, got)
		}
		if _, err := os.Stat(restorePath(g.path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the unfinished file is still there: %v", step, err)
		}
		checkFile(t, g.s)
	}
}

func TestSnapshotAndRestoreStopWhenTold(t *testing.T) {
	g := filled(t, Options{})
	snapshot := dump(t, g.s)
	stop := make(chan struct{})
	close(stop)
	sn, err := g.s.Snapshot()
	must(t, err)
	if err := sn.WriteTo(io.Discard, stop); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("snapshot: got %v", err)
	}
	must(t, sn.Close())
	if err := g.s.Restore(snapshot, stop); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("restore: got %v", err)
	}
	g.put("goes", "on")
}

// No byte of a snapshot can change, and none can be missing, without the restore refusing it and leaving the store as
// it is.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	g := newRig(t, Options{})
	for i := range 5 {
		g.put(fmt.Sprint("key", i%2), fmt.Sprint(i))
	}
	good, err := io.ReadAll(dump(t, g.s))
	must(t, err)
	target := newRig(t, Options{})
	target.put("old", "1")
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if err := target.s.Restore(bytes.NewReader(bad), nil); err == nil {
			t.Fatalf("byte %d of %d was changed and not noticed", i, len(good))
		}
		if err := target.s.Restore(bytes.NewReader(good[:i]), nil); kv.CodeOf(err) != kv.Corrupt {
			t.Fatalf("cut at %d of %d: got %v", i, len(good), err)
		}
	}
	if got := target.list(0); got != "old=1@2" {
		t.Errorf("got %q", got)
	}
	must(t, target.s.Restore(bytes.NewReader(good), nil))
	sameStore(t, target.s, g.s)
}

// A snapshot whose list of keys is not the one of its records has right checksums all the same; the links between the
// records give it away.
func TestSnapshotWithAWrongIndexIsRefused(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	g.put("b", "1")
	g.put("b", "2")
	sn, err := g.s.Snapshot()
	must(t, err)
	defer sn.Close()
	for name, index := range map[string][]byte{
		"right": {2, 0, 4, 0}, "doubled": {2, 0, 2, 0}, "out of order": {4, 0, 2, 0}, "unknown": {2, 0, 5, 0},
		"not the newest": {2, 0, 3, 0}, "short": {2, 0}, "cut": {2, 0, 4},
	} {
		var buf bytes.Buffer
		buf.WriteString(snapshotMagic)
		buf.Write([]byte{0, 0, 0, formatVersion})
		fw := &frameWriter{w: &buf}
		fw.begin(frameState)
		fw.buf = sn.sweep.append(sn.state.append(fw.buf))
		must(t, fw.end())
		_, err := sn.writeRecords(fw)
		must(t, err)
		fw.begin(frameIndex)
		fw.buf = append(fw.buf, index...)
		must(t, fw.end())
		fw.begin(frameEnd)
		fw.buf = append(fw.buf, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, byte(len(index)/2))
		must(t, fw.end())
		other := newRig(t, Options{})
		err = other.s.Restore(&buf, nil)
		if name == "right" {
			must(t, err)
		} else if kv.CodeOf(err) != kv.Corrupt {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSnapshotOfANewerVersionIsRefused(t *testing.T) {
	g := filled(t, Options{})
	b, err := io.ReadAll(dump(t, g.s))
	must(t, err)
	b[len(snapshotMagic)+3] = formatVersion + 1
	err = g.s.Restore(bytes.NewReader(b), nil)
	if kv.CodeOf(err) != kv.Unsupported || !strings.Contains(err.Error(), fmt.Sprint("version ", formatVersion+1)) {
		t.Errorf("got %v", err)
	}
}

// Values larger than a frame, many records and the order of odd keys survive.
func TestLargeSnapshot(t *testing.T) {
	g := newRig(t, Options{})
	g.put("large", strings.Repeat("L", 3*frameBytes))
	for i := range 30_000 {
		g.index++
		if _, err := g.s.Apply([]Entry{{g.index, kv.Command{Ops: []kv.Op{put(fmt.Sprintf("k\x00%d", i*7919%30_000), strings.Repeat("v", 200))}}}}); err != nil {
			t.Fatal(err)
		}
	}
	other := newRig(t, Options{})
	must(t, other.s.Restore(dump(t, g.s), nil))
	sameStore(t, other.s, g.s)
	checkFile(t, other.s)
}

// An open snapshot of a file that was replaced can still be read, and does not hold up the restore.
func TestSnapshotOutlivesARestore(t *testing.T) {
	g := filled(t, Options{})
	want, err := io.ReadAll(dump(t, g.s))
	must(t, err)
	sn, err := g.s.Snapshot()
	must(t, err)
	must(t, g.s.Restore(bytes.NewReader(want), nil))
	var got bytes.Buffer
	must(t, sn.WriteTo(&got, nil))
	must(t, sn.Close())
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("the snapshot changed")
	}
}

func FuzzRestore(f *testing.F) {
	g := newReplica(f, f.TempDir(), "seed", Options{})
	for i := range 5 {
		_, err := g.s.Apply([]Entry{{uint64(i + 1), kv.Command{Ops: []kv.Op{put(fmt.Sprint("key", i%2), fmt.Sprint(i))}}}})
		must(f, err)
	}
	b, err := io.ReadAll(dump(f, g.s))
	must(f, err)
	g.s.crash()
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte(snapshotMagic))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, err := os.MkdirTemp(dir, "") //nolint:usetesting // one for each input, in the test's own
		must(t, err)
		defer os.RemoveAll(dir)
		r := newReplica(t, dir, "store", Options{})
		defer r.s.crash()
		// The checksums are made right, so that what is behind them is fuzzed too.
		if err := r.s.Restore(bytes.NewReader(resum(b)), nil); err != nil {
			if c := kv.CodeOf(err); c != kv.Corrupt && c != kv.Unsupported {
				t.Fatalf("got %v", err)
			}
			return
		}
		if _, _, _, err := r.s.hash(0); err != nil && kv.CodeOf(err) != kv.Corrupt {
			t.Fatal(err)
		}
		checkFile(t, r.s)
	})
}

// resum corrects the checksums of all frames that are whole.
func resum(b []byte) []byte {
	b = bytes.Clone(b)
	head := len(snapshotMagic) + 4
	if len(b) < head {
		return b
	}
	for at, n := head, uint64(0); at+4 <= len(b); n++ {
		size := int(uint32(b[at])<<24 | uint32(b[at+1])<<16 | uint32(b[at+2])<<8 | uint32(b[at+3]))
		end := at + 4 + size
		if size > len(b) || end+crcLen > len(b) {
			break
		}
		sum := frameSum(n, b[at+4:end])
		copy(b[end:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
		at = end + crcLen
	}
	return b
}
