package linear

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// did is an operation of a written history, from one instant to another; to 0 stands for an unknown outcome.
type did struct {
	from, to int64
	op       Op
	answer   Answer
}

func history(ops []did) *History {
	h := NewHistory()
	for i, d := range ops {
		to, a := d.to, d.answer
		if to == 0 {
			to, a = math.MaxInt64, Answer{unknown: true}
		}
		h.ops = append(h.ops, porcupine.Operation{ClientId: i, Input: d.op, Call: d.from, Output: a, Return: to})
	}
	return h
}

func TestHistoriesAreToldApart(t *testing.T) {
	put, get, del, cas := Put("k", "a"), Get("k"), Delete("k"), CAS("k", "c", 2)
	unknown := Answer{}
	for _, tc := range []struct {
		name string
		ok   bool
		ops  []did
	}{
		{"nothing", true, nil},
		{"read of an absent key", true, []did{{1, 2, get, Absent()}}},
		{"read of a value nobody wrote", false, []did{{1, 2, get, Found("a", 2)}}},
		{"write and read", true, []did{{1, 2, put, Wrote(2)}, {3, 4, get, Found("a", 2)}}},
		{"lost write", false, []did{{1, 2, put, Wrote(2)}, {3, 4, get, Absent()}}},
		{"write read under another revision", false, []did{{1, 2, put, Wrote(2)}, {3, 4, get, Found("a", 3)}}},
		{"stale read", false, []did{{1, 2, put, Wrote(2)}, {3, 4, Put("k", "b"), Wrote(3)}, {5, 6, get, Found("a", 2)}}},
		{"concurrent read of the old value", true, []did{{1, 2, put, Wrote(2)}, {3, 9, Put("k", "b"), Wrote(3)}, {5, 6, get, Found("a", 2)}}},
		{"new value, then the old one", false, []did{{1, 2, put, Wrote(2)}, {3, 9, Put("k", "b"), Wrote(3)}, {4, 5, get, Found("b", 3)}, {6, 7, get, Found("a", 2)}}},
		{"revisions against real time", false, []did{{1, 2, put, Wrote(3)}, {3, 4, Put("k", "b"), Wrote(2)}}},
		{"revision given twice", false, []did{{1, 4, put, Wrote(2)}, {1, 4, Put("k", "b"), Wrote(2)}}},
		{"keys do not disturb each other", true, []did{{1, 2, put, Wrote(2)}, {3, 4, Get("other"), Absent()}}},

		{"unknown write, read", true, []did{{1, 0, put, unknown}, {3, 4, get, Found("a", 2)}}},
		{"unknown write, not there", true, []did{{1, 0, put, unknown}, {3, 4, get, Absent()}}},
		{"unknown write, not there, then there", true, []did{{1, 0, put, unknown}, {3, 4, get, Absent()}, {5, 6, get, Found("a", 2)}}},
		{"unknown write, there, then gone", false, []did{{1, 0, put, unknown}, {3, 4, get, Found("a", 2)}, {5, 6, get, Absent()}}},
		{"unknown write, read under two revisions", false, []did{{1, 0, put, unknown}, {3, 4, get, Found("a", 2)}, {5, 6, get, Found("a", 3)}}},
		{"unknown write, read below the floor", false, []did{{1, 2, Put("k", "b"), Wrote(5)}, {3, 0, put, unknown}, {4, 5, get, Found("a", 4)}}},
		{"unknown write read before its call", false, []did{{1, 2, get, Found("a", 2)}, {3, 0, put, unknown}}},

		{"delete", true, []did{{1, 2, put, Wrote(2)}, {3, 4, del, Wrote(3)}, {5, 6, get, Absent()}}},
		{"delete comes back", false, []did{{1, 2, put, Wrote(2)}, {3, 4, del, Wrote(3)}, {5, 6, get, Found("a", 2)}}},
		{"delete of nothing", true, []did{{1, 2, del, Absent()}}},
		{"delete of nothing that is there", false, []did{{1, 2, put, Wrote(2)}, {3, 4, del, Absent()}}},
		{"delete of something that is not there", false, []did{{3, 4, del, Wrote(3)}}},
		{"unknown delete, gone", true, []did{{1, 2, put, Wrote(2)}, {3, 0, del, unknown}, {5, 6, get, Absent()}}},
		{"unknown delete, still there", true, []did{{1, 2, put, Wrote(2)}, {3, 0, del, unknown}, {5, 6, get, Found("a", 2)}}},

		{"cas", true, []did{{1, 2, put, Wrote(2)}, {3, 4, cas, Wrote(3)}, {5, 6, get, Found("c", 3)}}},
		{"cas on nothing", true, []did{{1, 2, CAS("k", "c", 0), Wrote(2)}, {3, 4, get, Found("c", 2)}}},
		{"cas on nothing that is there", false, []did{{1, 2, put, Wrote(2)}, {3, 4, CAS("k", "c", 0), Wrote(3)}}},
		{"cas over a write it had not seen", false, []did{{1, 2, put, Wrote(2)}, {3, 4, Put("k", "b"), Wrote(3)}, {5, 6, cas, Wrote(4)}}},
		{"both of two cas from one revision", false, []did{{1, 2, put, Wrote(2)}, {3, 9, cas, Wrote(3)}, {3, 9, CAS("k", "d", 2), Wrote(4)}}},
		{"one of two cas from one revision", true, []did{{1, 2, put, Wrote(2)}, {3, 9, cas, Wrote(3)}, {3, 9, CAS("k", "d", 2), Mismatch(3)}}},
		{"cas refused for no reason", false, []did{{1, 2, put, Wrote(2)}, {3, 4, cas, Mismatch(2)}}},
		{"cas refused with a revision that was never there", false, []did{{1, 2, put, Wrote(2)}, {3, 4, CAS("k", "c", 1), Mismatch(9)}}},
		{"refused cas has written", false, []did{{1, 2, put, Wrote(2)}, {3, 4, CAS("k", "c", 1), Mismatch(2)}, {5, 6, get, Found("c", 3)}}},
		{"unknown cas, written", true, []did{{1, 2, put, Wrote(2)}, {3, 0, cas, unknown}, {5, 6, get, Found("c", 3)}}},
		{"unknown cas, not written", true, []did{{1, 2, put, Wrote(2)}, {3, 0, cas, unknown}, {5, 6, get, Found("a", 2)}}},
		{"unknown cas that cannot have held", false, []did{{1, 2, put, Wrote(3)}, {3, 0, cas, unknown}, {5, 6, get, Found("c", 4)}}},
		{"unknown cas on an unknown write, written", true, []did{{1, 0, put, unknown}, {3, 0, cas, unknown}, {5, 6, get, Found("c", 3)}}},
		{"unknown cas on an unknown write, not written", true, []did{{1, 0, put, unknown}, {3, 0, cas, unknown}, {5, 6, get, Found("a", 5)}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := history(tc.ops).Check(10 * time.Second)
			drawn := regexp.MustCompile(`\S+\.html`).FindString(fmt.Sprint(err))
			if drawn != "" {
				defer os.Remove(drawn)
			}
			switch {
			case tc.ok && err != nil:
				t.Fatal(err)
			case !tc.ok && !errors.Is(err, ErrNotLinearizable):
				t.Fatalf("accepted: %v", err)
			case !tc.ok && drawn == "":
				t.Fatalf("nothing is drawn: %v", err)
			}
		})
	}
}

// store is a correct register, or one that serves a read from the past now and then.
type store struct {
	mu         sync.Mutex
	rev        int64
	value, old map[string]Answer
	stale      func() bool
}

func (s *store) do(op Op) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op.Kind == KindGet {
		if s.stale() {
			return s.old[op.Key]
		}
		return s.value[op.Key]
	}
	s.rev++
	s.old[op.Key] = s.value[op.Key]
	s.value[op.Key] = Found(op.Value, s.rev)
	return Wrote(s.rev)
}

func record(stale func() bool) *History {
	h := NewHistory()
	s := &store{rev: 1, value: map[string]Answer{}, old: map[string]Answer{}, stale: stale}
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(client)))
			for i := range 200 {
				op := Get(fmt.Sprintf("k%d", rng.IntN(3)))
				if rng.IntN(2) == 0 {
					op = Put(op.Key, fmt.Sprintf("%d.%d", client, i))
				}
				call := h.Begin(client, op)
				switch a := s.do(op); {
				case op.Kind == KindPut && rng.IntN(20) == 0:
					call.Unknown()
				default:
					call.Done(a)
				}
			}
		})
	}
	wg.Wait()
	return h
}

func TestRecordedHistoryOfACorrectStoreIsAccepted(t *testing.T) {
	if err := record(func() bool { return false }).Check(time.Minute); err != nil {
		t.Fatal(err)
	}
}

func TestRecordedHistoryWithStaleReadsIsRefused(t *testing.T) {
	reads := 0
	err := record(func() bool { reads++; return reads >= 200 }).Check(time.Minute)
	if !errors.Is(err, ErrNotLinearizable) {
		t.Fatalf("got %v", err)
	}
	os.Remove(regexp.MustCompile(`\S+\.html`).FindString(err.Error()))
}

func TestReadsWithoutAnAnswerAndRefusedWritesAreForgotten(t *testing.T) {
	h := NewHistory()
	h.Begin(0, Get("k")).Unknown()
	h.Begin(0, Put("k", "v")).Refused()
	if h.Len() != 0 {
		t.Fatalf("%d operations recorded", h.Len())
	}
	call := h.Begin(0, Put("k", "v"))
	call.Done(Wrote(2))
	defer func() {
		if recover() == nil {
			t.Error("a call ended twice")
		}
	}()
	call.Unknown()
}
