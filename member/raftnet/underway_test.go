package raftnet

import (
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// following is a message with the entries behind before, up to last.
func following(term, before, last uint64) pb.Message {
	m := message(pb.Replicate)
	m.Term, m.LogIndex, m.LogTerm = term, before, 1
	for i := before + 1; i <= last; i++ {
		m.Entries = append(m.Entries, pb.Entry{Index: i, Term: 2})
	}
	return m
}

func TestEntriesOnTheirWayAreNotQueuedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 600 * time.Millisecond
		var u underway
		first := []pb.Message{following(3, 100, 200)}
		if rest, busy := u.news(first, rtt); len(rest) != 1 || busy {
			t.Fatalf("%d messages, busy %t, before anything was sent", len(rest), busy)
		}
		u.queued(1, 20<<10, first)
		for _, c := range []struct {
			name         string
			m            pb.Message
			before, last uint64 // of what is left; 0: nothing
		}{
			{"the same", following(3, 100, 200), 0, 0},
			{"a part", following(3, 150, 200), 0, 0},
			{"more", following(3, 100, 203), 200, 203},
			{"what follows", following(3, 200, 201), 200, 201},
			{"from before", following(3, 90, 200), 90, 200},
			{"another leader's", following(4, 100, 200), 100, 200},
		} {
			rest, busy := u.news([]pb.Message{c.m}, rtt)
			switch {
			case !busy:
				t.Errorf("%s: not busy", c.name)
			case c.last == 0 && len(rest) > 0:
				t.Errorf("%s: queued again", c.name)
			case c.last > 0 && (len(rest) != 1 || rest[0].LogIndex != c.before || rest[0].LogIndex+uint64(len(rest[0].Entries)) != c.last ||
				rest[0].Entries[0].Index != c.before+1):
				t.Errorf("%s: %+v is left, want the entries behind %d up to %d", c.name, rest, c.before, c.last)
			case c.name == "more" && rest[0].LogTerm != 2:
				t.Errorf("what follows entry 200 follows one of term %d, want 2", rest[0].LogTerm)
			}
		}
		if rest, _ := u.news([]pb.Message{following(3, 200, 210), following(3, 200, 210)}, rtt); len(rest) != 1 {
			t.Errorf("of two equal messages %d are left", len(rest))
		}
		time.Sleep(time.Hour) // as long as it takes
		if rest, _ := u.news(first, rtt); len(rest) > 0 {
			t.Error("queued again while it waits for the connection")
		}
		u.took(1)
		time.Sleep(2*rtt + underwaySlack + time.Millisecond)
		if rest, busy := u.news(first, rtt); len(rest) != 1 || busy {
			t.Error("not sent again, though the follower ought to have answered by now")
		}
	})
}

func TestWhatTheConnectionTookBeforeItWasNotedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u underway
		u.took(7)
		u.queued(7, 20<<10, []pb.Message{following(3, 1, 9)})
		time.Sleep(underwaySlack + time.Millisecond)
		if _, busy := u.news(nil, 0); busy {
			t.Error("taken for being on its way for ever")
		}
	})
}
