package raftnet

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// paper is one end of a path that loses, repeats and reorders.
type paper struct {
	other *paper
	in    chan []byte
	done  chan struct{}
	once  *sync.Once

	mu   sync.Mutex
	rand *rand.Rand
}

func papers(seed uint64) (a, b *paper) {
	done, once := make(chan struct{}), new(sync.Once)
	end := func(s uint64) *paper {
		return &paper{in: make(chan []byte, 4096), done: done, once: once, rand: rand.New(rand.NewPCG(seed, s))} //nolint:gosec // a test
	}
	a, b = end(1), end(2)
	a.other, b.other = b, a
	return a, b
}

func (p *paper) SendDatagram(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 1 + p.rand.IntN(2) { // twice as often as not
		if p.rand.IntN(10) == 0 {
			continue
		}
		time.AfterFunc(20*time.Millisecond+time.Duration(p.rand.IntN(20))*time.Millisecond, func() {
			select {
			case p.other.in <- b:
			default:
			}
		})
	}
	return nil
}

func (p *paper) Quality() courier.Quality { return courier.Quality{RTT: 60 * time.Millisecond} }
func (p *paper) Close(string)             { p.once.Do(func() { close(p.done) }) }

func (p *paper) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p.in:
		return b, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// mailBetween gives two ends a path that loses.
func mailBetween(t *testing.T, a, b *end, seed uint64) {
	t.Helper()
	there, back := papers(seed)
	var wg sync.WaitGroup
	wg.Go(func() { a.ServePath(t.Context(), b.node, there) })
	wg.Go(func() { b.ServePath(t.Context(), a.node, back) })
	t.Cleanup(func() { there.Close(""); wg.Wait() })
}

// TestDatagramsKeepWhatStreamsPromise sends over a path that loses a tenth, repeats half and changes the order.
func TestDatagramsKeepWhatStreamsPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		connect(t, a, b)
		mailBetween(t, a, b, seed)
		time.Sleep(time.Second)
		const count = 2000
		for i := range uint64(count) {
			size := 10
			if i%50 == 7 {
				size = 3000 // by stream
			}
			next, forwarded := entries(size), pb.Message{Type: pb.Propose, ShardID: 1, From: 1, To: 2, LogIndex: i}
			next.LogIndex = i
			if err := a.send(t, b, next); err != nil {
				t.Fatal(err)
			}
			if err := a.send(t, b, forwarded); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		appended, forwarded := b.took(pb.Replicate), b.took(pb.Propose)
		if !slices.IsSorted(appended) || len(appended) < count*99/100 || len(slices.Compact(slices.Clone(appended))) != len(appended) {
			t.Errorf("seed %d: %d of %d batches with entries came, sorted %t, want nearly all, once and in order",
				seed, len(appended), count, slices.IsSorted(appended))
		}
		slices.Sort(forwarded)
		if len(forwarded) != count || len(slices.Compact(forwarded)) != count {
			t.Errorf("seed %d: %d of %d proposals came, want each once", seed, len(forwarded), count)
		}
		if s := a.Mail()["b"]; s.First == 0 || s.RetriedCount == 0 {
			t.Errorf("seed %d: nothing went by datagram: %+v", seed, s)
		}
	})
}

// samples are messages with all that may travel.
func samples() []pb.Message {
	entry := pb.Entry{Term: 3, Index: 8, Type: pb.EncodedEntry, Key: 1 << 63, ClientID: 77, SeriesID: 1, RespondedTo: 2, Cmd: []byte("command")}
	return []pb.Message{
		aBeat, entries(10),
		{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, Term: 4, LogTerm: 3, LogIndex: 7, Commit: 6, Entries: []pb.Entry{entry, {Term: 4, Index: 9}, {Term: 4, Index: 12, Cmd: []byte{}}}},
		{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, Term: 4, LogTerm: 4, LogIndex: 9, Commit: 9},
		{Type: pb.ReplicateResp, ShardID: 1, From: 2, To: 1, Term: 4, LogIndex: 9, Reject: true, Hint: 7},
		{Type: pb.ReadIndexResp, ShardID: 1, From: 2, To: 1, Term: 4, LogIndex: 1 << 40, Hint: 1<<64 - 1, HintHigh: 1<<64 - 2},
	}
}

func TestALetterHasWhatTheBatchHad(t *testing.T) {
	for _, want := range samples() {
		full := pb.MessageBatch{Requests: []pb.Message{want}}
		encoded, err := full.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		brief, ok := appendBrief(make([]byte, maxLetterHeader), []pb.Message{want, want})
		if !ok {
			t.Fatalf("%+v has no brief form", want)
		}
		lane := laneOf(want)
		t.Logf("%s: %d bytes in full, %d in brief", want.Type, len(encoded), (len(brief)-maxLetterHeader)/2)
		for name, b := range map[string][]byte{
			"full":  append(appendLetter(nil, byte(lane), 9), encoded...),
			"brief": sealed(slices.Clone(brief), byte(lane)|briefBit, 9),
		} {
			l, err := openLetter(b, testCluster, "a")
			if err != nil || l.lane != lane || l.number != 9 || l.notice {
				t.Fatalf("%s: %+v, %v", name, l, err)
			}
			clear(b) // it must not be needed any more
			for _, got := range l.batch.Requests {
				if same := reflect.DeepEqual(got, want); !same && name == "brief" || got.LogIndex != want.LogIndex || len(got.Entries) != len(want.Entries) {
					t.Errorf("%s: got %+v, want %+v", name, got, want)
				}
			}
		}
		l, err := openLetter(sealed(slices.Clone(brief), kindNotice, 0), testCluster, "a")
		if isNotice(want) != (err == nil) || err == nil && (!l.notice || l.lane != kindLog || l.number != 0) {
			t.Errorf("as a notice: %+v, %v", l, err)
		}
	}
	if _, ok := appendBrief(nil, []pb.Message{{Snapshot: pb.Snapshot{Index: 1}}}); ok {
		t.Error("a snapshot is left out")
	}
}

// TestANoticeWaitsForNothing delivers notices among batches: those whose entries have come, and no others.
func TestANoticeWaitsForNothing(t *testing.T) {
	lane := &inLane{ordered: true, wake: make(chan struct{}, 1)}
	life := courier.Life{1}
	if err := lane.enter(life); err != nil {
		t.Fatal(err)
	}
	var came []uint64
	batch := func(n uint64) pb.MessageBatch { return pb.MessageBatch{Requests: []pb.Message{{LogIndex: n}}} }
	take := func(b pb.MessageBatch) { came = append(came, b.Requests[0].LogIndex) }
	notice := func(after uint64, want bool) {
		t.Helper()
		if got := lane.follows(life, after, func() { came = append(came, 100+after) }); got != want {
			t.Errorf("a notice after %d: %v, want %v", after, got, want)
		}
	}
	lane.deliver(life, 1, batch(1), time.Second, take)
	notice(1, true)
	notice(2, false)
	lane.deliver(life, 3, batch(3), time.Second, take)
	notice(3, false)
	lane.deliver(life, 2, batch(2), time.Second, take)
	notice(3, true)
	notice(1, true)
	if lane.follows(courier.Life{2}, 1, func() { came = append(came, 0) }) {
		t.Error("a notice of another life was handed over")
	}
	if want := []uint64{1, 101, 2, 3, 103, 101}; !slices.Equal(came, want) {
		t.Errorf("%v came, want %v", came, want)
	}
}

// TestWhatMattersLess has an answer said twice, and news of commits.
func TestWhatMattersLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer("b", courier.Life{1}, Options{Dialect: dialect})
		answer := pb.Message{Type: pb.ReplicateResp, ShardID: 1, From: 2, To: 1, Term: 4, LogIndex: 9}
		later, refused := answer, answer
		later.LogIndex, refused.Reject = 10, true
		commit := pb.Message{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, Term: 4, LogIndex: 9, Commit: 9}
		want := func(care courier.Care, messages ...pb.Message) {
			t.Helper()
			if got := p.care(messages); got != care {
				t.Errorf("care %d, want %d for %+v", got, care, messages)
			}
			p.said.note(time.Now(), messages)
		}
		want(courier.Sure, answer)
		want(courier.Once, answer)
		want(courier.Sure, later)
		want(courier.Once, answer)
		want(courier.Sure, refused)
		want(courier.Sure, later)
		time.Sleep(saidLately)
		want(courier.Sure, later)
		want(courier.Once, commit)
		want(courier.Sure, commit, entries(1))
		p.forwarded.Store(time.Now().UnixNano())
		want(courier.Vital, commit)
	})
}

// straight is a path to a courier that loses nothing.
type straight struct{ to func([]byte) }

func (s straight) SendDatagram(b []byte) error {
	time.AfterFunc(25*time.Millisecond, func() { s.to(b) })
	return nil
}
func (straight) Quality() courier.Quality {
	return courier.Quality{RTT: 50 * time.Millisecond, Loss: .05}
}

// TestAnOlderPeerGetsWhatItReads sends to one that says nothing of brief letters, and to one that does.
func TestAnOlderPeerGetsWhatItReads(t *testing.T) {
	for says := range 2 {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer("b", courier.Life{1}, Options{Dialect: dialect})
			older := courier.New(courier.Options{Life: courier.Life{2}, Dialect: says})
			var mu sync.Mutex
			var forms []byte
			older.Attach(straight{func(b []byte) {
				if _, _, err := p.post.Receive(b); err != nil {
					t.Error(err)
				}
			}})
			p.post.Attach(straight{func(b []byte) {
				_, letters, err := older.Receive(b)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, l := range letters {
					forms = append(forms, l[0])
				}
			}})
			time.Sleep(time.Second)
			commit, long := pb.Message{Type: pb.Replicate, ShardID: 1, From: 1, To: 2, Term: 4, LogIndex: 9, Commit: 9}, entries(3000)
			for _, m := range []pb.Message{aBeat, entries(10), commit} {
				if left := p.mail(laneOf(m), []pb.Message{m}); len(left) > 0 {
					t.Errorf("%s is left for a stream", m.Type)
				}
				time.Sleep(100 * time.Millisecond)
			}
			if left := p.mail(kindLog, []pb.Message{long}); len(left) != 1-says {
				t.Errorf("%d long messages are left for a stream", len(left))
			}
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			want := []byte{byte(kindSwift), byte(kindLog), byte(kindLog)}
			if says == 1 {
				want = []byte{byte(kindSwift) | briefBit, byte(kindLog) | briefBit, kindNotice, kindPart, kindPart, kindPart}
			}
			if !slices.Equal(forms, want) {
				t.Errorf("letters of the forms %x came, want %x", forms, want)
			}
		})
	}
}

func FuzzOpenLetter(f *testing.F) {
	for _, m := range samples() {
		batch := pb.MessageBatch{Requests: []pb.Message{m}}
		encoded, err := batch.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(appendLetter(nil, byte(kindLog), 7), encoded...))
		brief, _ := appendBrief(make([]byte, maxLetterHeader), batch.Requests)
		f.Add(sealed(slices.Clone(brief), byte(kindSwift)|briefBit, 7))
		f.Add(sealed(brief, kindNotice, 7))
	}
	f.Add([]byte{1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return // a courier hands over none
		}
		l, err := openLetter(b, testCluster, "a")
		if err != nil {
			return
		}
		if l.lane < kindSwift || l.lane > lanes || l.number == 0 && !l.notice || l.batch.DeploymentId != testCluster || l.batch.SourceAddress != "a" {
			t.Errorf("%+v", l)
		}
		if b[0] != kindNotice && b[0]&briefBit == 0 {
			return
		}
		again, ok := appendBrief(make([]byte, maxLetterHeader), l.batch.Requests)
		if !ok {
			t.Fatalf("%+v was read and cannot be written", l.batch)
		}
		same, err := openLetter(sealed(again, b[0], l.number), testCluster, "a")
		if err != nil || !reflect.DeepEqual(same, l) {
			t.Errorf("%+v, %v after %+v", same, err, l)
		}
	})
}

func FuzzPiece(f *testing.F) {
	f.Add(appendPiece(nil, piece{7, true, []byte("end")})[frameHeader:])
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := splitPiece(b)
		if err == nil && (p.number == 0 || len(p.data) == 0 || len(p.data) > pieceSize || !bytes.HasSuffix(b, p.data)) {
			t.Errorf("piece %d of %d bytes", p.number, len(p.data))
		}
		if _, _, numbers, err := parseAck(b); err == nil && len(numbers) > len(b) {
			t.Errorf("%d numbers in %d bytes", len(numbers), len(b))
		}
	})
}
