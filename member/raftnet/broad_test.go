package raftnet

import (
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

func TestCutMessagesAreThoseOfALeaderThatSendsThemInTurn(t *testing.T) {
	whole := pb.Message{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, Term: 4, LogIndex: 10, LogTerm: 2, Commit: 9}
	for i := range uint64(100) {
		whole.Entries = append(whole.Entries, pb.Entry{Index: 11 + i, Term: 3 + i/50, Cmd: make([]byte, 100+10*(i%7))})
	}
	const most, all = 4 << 10, 20 << 10
	cut := cutLong([]pb.Message{whole}, most, all)
	if len(cut) < 4 {
		t.Fatalf("%d messages", len(cut))
	}
	last, term := whole.LogIndex, whole.LogTerm
	for _, m := range cut {
		if m.LogIndex != last || m.LogTerm != term {
			t.Fatalf("entries after %d of term %d, want %d of %d", m.LogIndex, m.LogTerm, last, term)
		}
		size := 0
		for _, e := range m.Entries {
			if e.Index != last+1 {
				t.Fatalf("entry %d after %d", e.Index, last)
			}
			last, term, size = e.Index, e.Term, size+entryOverhead+len(e.Cmd)
		}
		if size == 0 || size > most || m.Term != whole.Term || m.Commit != whole.Commit || m.To != whole.To || m.Type != whole.Type {
			t.Errorf("%d bytes in a message: %+v", size, m)
		}
	}
	if last != 110 {
		t.Errorf("the last entry is %d, want 110", last)
	}
	for _, c := range []struct {
		name      string
		most, all int
	}{{"more than may go at once", most, 10 << 10}, {"short enough", 100 << 10, 200 << 10}} {
		if got := cutLong([]pb.Message{whole}, c.most, c.all); len(got) != 1 || len(got[0].Entries) != 100 {
			t.Errorf("%s: %d messages", c.name, len(got))
		}
	}
	huge := pb.Message{Type: pb.Replicate, Entries: []pb.Entry{{Index: 1, Cmd: make([]byte, 100)}, {Index: 2, Cmd: make([]byte, 9000)}, {Index: 3}}}
	if cut := cutLong([]pb.Message{huge}, most, all); len(cut) != 3 || len(cut[1].Entries) != 1 {
		t.Errorf("an entry that is longer than a message: %d messages", len(cut))
	}
}
