package member

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"holdfast/internal/wire"
	"holdfast/kv"
)

func TestPackedCommandsComeBackAsTheyWere(t *testing.T) {
	random := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random) // never fails
	command := func(value []byte) []byte {
		return wire.AppendCommand(nil, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: value}}})
	}
	for _, tc := range []struct {
		name   string
		value  []byte
		packed bool
	}{
		{"short", bytes.Repeat([]byte("a"), packFrom/2), false},
		{"long", bytes.Repeat([]byte("a"), packFrom), true},
		{"text", bytes.Repeat([]byte(`{"temperature":21.5,"unit":"C"}`), 500), true},
		{"random", random, false},
		{"beyond what the log takes", make([]byte, packMax), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := command(tc.value)
			_, entry := packCommand(nil, cmd)
			if packed := entry[0] == packedMark; packed != tc.packed {
				t.Errorf("packed: %v, want %v", packed, tc.packed)
			}
			if tc.packed && len(entry) > len(cmd)-len(cmd)/packGain {
				t.Errorf("%d bytes of %d are no gain", len(entry), len(cmd))
			}
			got, err := unpackCommand(entry, packMax)
			if err != nil || !bytes.Equal(got, cmd) {
				t.Errorf("unpack: %v, and %d bytes of %d, or others", err, len(got), len(cmd))
			}
		})
	}
}

func TestPackUsesItsBufferAgain(t *testing.T) {
	cmd := bytes.Repeat([]byte("ab"), 4<<10)
	buf, first := packCommand(nil, cmd)
	want := bytes.Clone(first)
	again, second := packCommand(buf, cmd)
	if &again[0] != &buf[0] || !bytes.Equal(second, want) {
		t.Error("the second command is in other memory, or differs")
	}
}

func TestDamagedPackedCommandsAreRefused(t *testing.T) {
	_, whole := packCommand(nil, bytes.Repeat([]byte("abcd"), 4<<10))
	for name, tc := range map[string]struct {
		entry []byte
		limit int
	}{
		"no kind":      {whole[:1], packMax},
		"other kind":   {append([]byte{packedMark, 'Z'}, whole[2:]...), packMax},
		"no block":     {whole[:2], packMax},
		"cut short":    {whole[:len(whole)-1], packMax},
		"beyond limit": {whole, 16<<10 - 1},
	} {
		if got, err := unpackCommand(tc.entry, tc.limit); !errors.Is(err, errPacked) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	_, whole := packCommand(nil, bytes.Repeat([]byte("abcd"), 1<<10))
	f.Add(whole)
	f.Fuzz(func(t *testing.T, entry []byte) {
		const limit = 1 << 20
		if got, err := unpackCommand(entry, limit); err == nil && len(got) > max(limit, len(entry)) {
			t.Errorf("%d bytes", len(got))
		}
	})
}

func TestLongCommandsAreKeptPacked(t *testing.T) {
	m := start(t, t.TempDir())
	value := strings.Repeat(`{"temperature":21.5,"unit":"C"}`, 3000)
	saved := func() uint64 {
		m.logs.db.mu.Lock()
		defer m.logs.db.mu.Unlock()
		return m.logs.db.bytes
	}
	before := saved()
	m.put("k", value)
	if n := saved() - before; n == 0 || n > uint64(len(value)/4) {
		t.Errorf("%d bytes in the log for a value of %d", n, len(value))
	}
	if got, _ := m.get("k"); got != value {
		t.Errorf("read back %d bytes of %d, or others", len(got), len(value))
	}
}
