package raftnet

import (
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// ends are the two hushes of a link: that of the leader, and that of the follower.
type hushEnds struct {
	leader, follower hush
	sent, answered   int // heartbeats and answers that travelled
	told             int // answers that the leader's replica was given
}

var aBeat = pb.Message{Type: pb.Heartbeat, ShardID: 1, From: 1, To: 2, Term: 3, Commit: 7}

// beat is one heartbeat of the leader's raft, over a link that loses nothing.
func (e *hushEnds) beat() {
	now := time.Now()
	rest, answers := e.leader.outgoing(now, []pb.Message{aBeat})
	e.told += len(answers)
	if len(rest) > 0 {
		e.sent++
		e.follower.incoming(now, rest)
		if back, _ := e.follower.outgoing(now, []pb.Message{{Type: pb.HeartbeatResp, ShardID: 1, From: 2, To: 1, Term: 3}}); len(back) > 0 {
			e.answered++
			e.leader.incoming(now, back)
		}
	}
	if ask, ok := e.leader.ask(now, time.Millisecond); ok {
		if answer, ok := e.follower.read(now, ask); ok {
			e.leader.read(now, answer)
		}
	}
}

func (e *hushEnds) run(d time.Duration) (sent int) {
	before := e.sent
	for began := time.Now(); time.Since(began) < d; time.Sleep(100 * time.Millisecond) {
		e.beat()
	}
	return e.sent - before
}

func quietEnds(t *testing.T) *hushEnds {
	t.Helper()
	e := &hushEnds{leader: newHush(), follower: newHush()}
	e.run(hushAfter + time.Second)
	e.told = 0
	if sent := e.run(time.Minute); sent != 0 || e.told < 500 {
		t.Fatalf("%d heartbeats travelled in a minute of quiet, %d were answered on the spot", sent, e.told)
	}
	if beat, _, next := e.follower.look(time.Now()); beat == nil || !sameBeat(*beat, aBeat) || time.Until(next) != hushBeat {
		t.Fatalf("the follower's replica hears %v, the next time in %v", beat, time.Until(next))
	}
	return e
}

func TestQuietEndsWithNews(t *testing.T) {
	entries := pb.Message{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, Term: 3, Entries: []pb.Entry{{Index: 8}}}
	read := pb.Message{Type: pb.Heartbeat, ShardID: 1, From: 1, To: 2, Term: 3, Commit: 7, Hint: 99}
	forwarded := pb.Message{Type: pb.Propose, ShardID: 1, From: 2, To: 1}
	for name, news := range map[string]func(e *hushEnds, now time.Time){
		"entries": func(e *hushEnds, now time.Time) { e.leader.outgoing(now, []pb.Message{entries}) },
		"a read":  func(e *hushEnds, now time.Time) { e.leader.outgoing(now, []pb.Message{read}) },
		"a commit": func(e *hushEnds, now time.Time) {
			next := aBeat
			next.Commit++
			e.leader.outgoing(now, []pb.Message{next})
		},
		"a proposal of the follower": func(e *hushEnds, now time.Time) { e.leader.incoming(now, []pb.Message{forwarded}) },
		"its word":                   func(e *hushEnds, now time.Time) { e.leader.read(now, note{what: noteLoud}) },
		"a lost link":                func(e *hushEnds, _ time.Time) { e.leader.end() },
	} {
		t.Run("for the leader/"+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := quietEnds(t)
				news(e, time.Now())
				if sent := e.run(time.Second); sent < 10 {
					t.Errorf("%d heartbeats travelled in the second after", sent)
				}
				e.run(2 * hushAfter)
				if sent := e.run(time.Second); sent != 0 {
					t.Errorf("%d heartbeats travelled in a second long after", sent)
				}
			})
		})
	}
	for name, news := range map[string]func(e *hushEnds, now time.Time){
		"entries":          func(e *hushEnds, now time.Time) { e.follower.incoming(now, []pb.Message{entries}) },
		"its own proposal": func(e *hushEnds, now time.Time) { e.follower.outgoing(now, []pb.Message{forwarded}) },
		"its leader's word": func(e *hushEnds, now time.Time) {
			e.follower.read(now, note{what: noteLoud})
		},
		"a lost link": func(e *hushEnds, _ time.Time) { e.follower.end() },
		"no renewal":  func(*hushEnds, time.Time) { time.Sleep(hushLife) },
	} {
		t.Run("for the follower/"+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := quietEnds(t)
				news(e, time.Now())
				if beat, _, _ := e.follower.look(time.Now()); beat != nil {
					t.Error("its replica still hears the leader")
				}
			})
		})
	}
}

func TestStalledRaftIsNotCovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEnds(t)
		time.Sleep(hushStall + time.Millisecond)
		if _, loud, _ := e.leader.look(time.Now()); !loud {
			t.Error("nobody would be told that the leader's raft has stalled")
		}
		if _, ok := e.leader.ask(time.Now().Add(hushRenew), time.Millisecond); ok {
			t.Error("the quiet would be renewed")
		}
	})
}

func TestWithoutAnAgreementTheLeaderSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEnds(t)
		e.follower = newHush() // started anew: it does not know the heartbeat
		if sent := e.run(hushLife + time.Second); sent == 0 {
			t.Error("no heartbeat travelled although nothing was renewed")
		}
	})
}

func TestALeaderThatSpeaksIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEnds(t)
		e.leader.end() // alone
		if e.answered = 0; e.run(5*time.Second) < 50 || e.answered < 50 {
			t.Errorf("of %d heartbeats %d were answered", e.sent, e.answered)
		}
		if rest, _ := e.follower.outgoing(time.Now(), []pb.Message{{Type: pb.HeartbeatResp, ShardID: 1, From: 2, To: 1, Term: 3}}); len(rest) > 0 {
			t.Error("what the replica was told here is answered over the link")
		}
	})
}

func TestAFollowerThatEndsTheQuietSaysSo(t *testing.T) {
	forwarded := pb.Message{Type: pb.Propose, ShardID: 1, From: 2, To: 1}
	for name, ends := range map[string]func(*hush){
		"a proposal":  func(h *hush) { h.outgoing(time.Now(), []pb.Message{forwarded}) },
		"a lost link": func(h *hush) { h.end() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := quietEnds(t)
				ends(&e.follower)
				_, loud, next := e.follower.look(time.Now())
				if loud || next.IsZero() || time.Until(next) > time.Second {
					t.Fatalf("the leader is told at once: %t; a look in %s", loud, time.Until(next))
				}
				time.Sleep(time.Until(next))
				for range 3 { // what cannot be sent is tried again
					if _, loud, next = e.follower.look(time.Now()); !loud || next.IsZero() {
						t.Fatalf("the leader is told: %t", loud)
					}
					time.Sleep(time.Until(next))
				}
				e.follower.told()
				if _, loud, next = e.follower.look(time.Now()); loud || !next.IsZero() {
					t.Errorf("once more: %t, in %s", loud, time.Until(next))
				}
				e = quietEnds(t)
				ends(&e.follower)
				e.leader.end() // the news came
				e.beat()
				time.Sleep(time.Second)
				if _, loud, _ := e.follower.look(time.Now()); loud {
					t.Error("a leader that speaks is told to")
				}
			})
		})
	}
}

func TestDoubtLeavesTheLeaderTimeToSpeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEnds(t)
		e.follower.wakeUp(time.Now())
		beat, loud, _ := e.follower.look(time.Now())
		if beat == nil || !loud {
			t.Fatalf("the replica hears the leader: %t, which is told: %t", beat != nil, loud)
		}
		e.follower.told()
		began := time.Now()
		for beat != nil && time.Since(began) < hushLife {
			time.Sleep(hushBeat)
			e.follower.wakeUp(time.Now()) // every candidate asks again
			if beat, loud, _ = e.follower.look(time.Now()); loud {
				t.Fatal("the leader is told again")
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a leader that is dead is heard for %s", took)
		}
	})
}

func FuzzParseNote(f *testing.F) {
	f.Add(note{noteAsk, 7, aBeat}.append(nil))
	f.Add([]byte{kindNote, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNote(b)
		if err != nil {
			return
		}
		if again, err := parseNote(n.append(nil)); err != nil || again.what != n.what || again.number != n.number || !sameBeat(again.beat, n.beat) {
			t.Errorf("%+v is %+v once written and read: %v", n, again, err)
		}
	})
}
