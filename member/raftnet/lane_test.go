package raftnet

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// laneUnderTest notes what is handed over, by log index.
type laneUnderTest struct {
	inLane
	got []uint64
}

func newLane(ordered bool) *laneUnderTest {
	return &laneUnderTest{inLane: inLane{ordered: ordered, wake: make(chan struct{}, 1)}}
}

func (l *laneUnderTest) note(b pb.MessageBatch) {
	for _, m := range b.Requests {
		l.got = append(l.got, m.LogIndex)
	}
}

func (l *laneUnderTest) send(boot courier.Life, number uint64, hold time.Duration, mt pb.MessageType) verdict {
	return l.deliver(boot, number, pb.MessageBatch{Requests: []pb.Message{{Type: mt, LogIndex: number}}}, hold, l.note)
}

func TestLaneDeliversOnce(t *testing.T) {
	for ordered, want := range map[bool][]uint64{true: {1, 2, 5, 6, 1}, false: {1, 2, 5, 3, 6, 1}} {
		lane := newLane(ordered)
		first, second := courier.Life{1}, courier.Life{2}
		if err := lane.enter(first); err != nil {
			t.Fatal(err)
		}
		for _, n := range []uint64{1, 2, 2, 5, 3, 1, 6} {
			lane.send(first, n, 0, pb.Replicate)
		}
		if err := lane.enter(first); err != nil { // another connection of the same life
			t.Fatal(err)
		}
		if v := lane.send(first, 6, 0, pb.Replicate); v != repeated {
			t.Errorf("a batch repeated on another connection is %s", v)
		}
		if err := lane.enter(second); err != nil {
			t.Fatal(err)
		}
		if v := lane.send(first, 7, 0, pb.Replicate); v != ancient {
			t.Errorf("a batch from before the peer's restart is %s", v)
		}
		lane.send(second, 1, 0, pb.Replicate)
		if err := lane.enter(first); err == nil {
			t.Error("a stream from before the peer's restart was taken")
		}
		if !slices.Equal(lane.got, want) {
			t.Errorf("ordered %t: delivered %v, want %v", ordered, lane.got, want)
		}
	}
}

func TestOrderedLaneWaitsForAHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane := newLane(true)
		life := courier.Life{1}
		if err := lane.enter(life); err != nil {
			t.Fatal(err)
		}
		const hold = 60 * time.Millisecond
		expect := func(what string, want ...uint64) {
			t.Helper()
			if !slices.Equal(lane.got, want) {
				t.Fatalf("%s: delivered %v, want %v", what, lane.got, want)
			}
		}
		for _, n := range []uint64{1, 3, 4} {
			lane.send(life, n, hold, pb.Replicate)
		}
		expect("2 is missing", 1)
		lane.send(life, 2, hold, pb.Replicate)
		expect("2 has come", 1, 2, 3, 4)
		lane.send(life, 6, hold, pb.Replicate)
		time.Sleep(hold / 2)
		lane.send(life, 8, hold, pb.Replicate)
		if until := lane.expire(time.Now(), lane.note); time.Until(until) != hold/2 {
			t.Errorf("waits for %s, want %s", time.Until(until), hold/2)
		}
		time.Sleep(hold / 2)
		if until := lane.expire(time.Now(), lane.note); time.Until(until) != hold/2 {
			t.Errorf("waits for %s, want %s for what came later", time.Until(until), hold/2)
		}
		expect("5 has not come in time", 1, 2, 3, 4, 6)
		if v := lane.send(life, 5, hold, pb.Replicate); v != overtaken {
			t.Errorf("entries after their turn are %s", v)
		}
		lane.send(life, 7, hold, pb.Propose)
		expect("7 has come", 1, 2, 3, 4, 6, 7, 8)
		lane.send(life, 10, 0, pb.Replicate)
		if v := lane.send(life, 9, hold, pb.Propose); v != fresh {
			t.Errorf("a proposal after its turn is %s", v)
		}
		expect("a late proposal is not lost", 1, 2, 3, 4, 6, 7, 8, 10, 9)
		for n := uint64(12); n < 12+maxHeld+1; n++ {
			lane.send(life, n, hold, pb.Replicate)
		}
		if len(lane.held) != 0 || len(lane.got) != 9+maxHeld+1 || lane.bytes != 0 {
			t.Errorf("%d held, %d bytes, %d delivered: want an end of the wait with %d", len(lane.held), lane.bytes, len(lane.got), maxHeld)
		}
	})
}

// A copy of a peer's data dir that ran for a moment must not shut the peer itself out.
func TestALifeGoesOnOnceALaterOneIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane := newLane(true)
		peer, copied := courier.Life{1}, courier.Life{2}
		for _, life := range []courier.Life{peer, copied} {
			if err := lane.enter(life); err != nil {
				t.Fatal(err)
			}
		}
		lane.send(copied, 1, 0, pb.Replicate)
		time.Sleep(courier.Silence / 2)
		lane.send(copied, 2, 0, pb.Replicate)
		time.Sleep(courier.Silence - time.Second)
		if err := lane.enter(peer); err == nil {
			t.Error("the earlier life was taken while the later one spoke")
		}
		time.Sleep(time.Second)
		if err := lane.enter(peer); err != nil {
			t.Errorf("the earlier life is still shut out: %v", err)
		}
		if v := lane.send(peer, 9, 0, pb.Replicate); v != fresh {
			t.Errorf("its batch is %s", v)
		}
		if err := lane.enter(copied); err == nil {
			t.Error("the copy was taken again while the peer speaks")
		}
		if want := []uint64{1, 2, 9}; !slices.Equal(lane.got, want) {
			t.Errorf("delivered %v, want %v", lane.got, want)
		}
	})
}
