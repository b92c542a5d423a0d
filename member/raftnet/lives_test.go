package raftnet

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// start is an end that tells its lives, and what it has heard of being a copy.
type start struct {
	*end
	lives  []Life
	copied chan error
}

func begin(t *testing.T, node string, replica uint64, lives ...Life) *start {
	t.Helper()
	copied := make(chan error, 4)
	e := newEndWith(t, Options{Cluster: testCluster, Node: node, Replica: replica, Lives: lives, Copied: func(err error) { copied <- err }})
	return &start{e, lives, copied}
}

// again is the next start with the same data dir.
func (s *start) again(t *testing.T) *start {
	t.Helper()
	return begin(t, s.node, s.opts.Replica, append([]Life{NewLife()}, s.lives...)...)
}

func (s *start) isCopied() bool {
	select {
	case err := <-s.copied:
		return errors.Is(err, ErrCopied)
	default:
		return false
	}
}

// hears reports whether what from sends arrives at to.
func hears(t *testing.T, from, to *end) bool {
	t.Helper()
	was := len(to.took(pb.Heartbeat))
	if from.send(t, to, message(pb.Heartbeat)) != nil {
		return false
	}
	synctest.Wait()
	return len(to.took(pb.Heartbeat)) > was
}

func TestACopyIsTurnedAway(t *testing.T) {
	first := NewLife()
	for name, c := range map[string]struct {
		ended  bool // the node has, before the other one starts
		other  func(t *testing.T, node *start) *start
		copied bool
	}{
		"the node, started again":         {true, func(t *testing.T, n *start) *start { return n.again(t) }, false},
		"started often, far from here":    {true, func(t *testing.T, n *start) *start { return n.again(t).again(t).again(t) }, false},
		"a new seat with the same node":   {true, func(t *testing.T, n *start) *start { return begin(t, n.node, 9, NewLife()) }, false},
		"a copy of before, beside it":     {false, func(t *testing.T, n *start) *start { return begin(t, n.node, 2, NewLife(), first) }, true},
		"a copy of before, in its place":  {true, func(t *testing.T, n *start) *start { return begin(t, n.node, 2, NewLife(), first) }, true},
		"a copy of now, beside it":        {false, func(t *testing.T, n *start) *start { return n.again(t) }, true},
		"one without a record, beside it": {false, func(t *testing.T, n *start) *start { return begin(t, n.node, 2, NewLife()) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, node := begin(t, "a", 1, NewLife()), begin(t, "b", 2, NewLife(), first)
				w, _ := connect(t, peer.end, node.end)
				if !hears(t, peer.end, node.end) || !hears(t, node.end, peer.end) {
					t.Fatal("the two do not reach each other")
				}
				if c.ended {
					w.Close("")
					synctest.Wait()
				}
				other := c.other(t, node)
				connect(t, peer.end, other.end)
				if got := other.isCopied(); got != c.copied {
					t.Errorf("a copy: %t, want %t", got, c.copied)
				}
				if got := hears(t, other.end, peer.end); got == c.copied {
					t.Errorf("what it sends arrives: %t", got)
				}
				if node.isCopied() || peer.isCopied() {
					t.Error("another one is told that it is a copy")
				}
				if !c.ended && (!hears(t, peer.end, node.end) || !hears(t, node.end, peer.end)) {
					t.Error("the node itself is cut off")
				}
			})
		})
	}
}

// A version from before lives tells none and refuses the stream.
func TestAPeerWithoutLivesIsLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, now := newEnd(t, "a", testCluster), begin(t, "b", 2, NewLife())
		connect(t, old, now.end)
		time.Sleep(2 * endedWait)
		if !hears(t, old, now.end) || !hears(t, now.end, old) {
			t.Error("the two do not reach each other")
		}
	})
}

// A connection over which nothing is told, nor refused, is not kept.
func TestAPeerThatSaysNothingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := begin(t, "b", 2, NewLife())
		w, _ := wires()
		now.ServeConn(t.Context(), "a", w)
		select {
		case <-w.Done():
		default:
			t.Error("the connection stands")
		}
	})
}

func FuzzLives(f *testing.F) {
	f.Add(appendLives(nil, 3, []Life{{1}, {2}}))
	f.Add(appendLives(nil, 3, nil))
	f.Add(appendLives(nil, 3, make([]Life, MaxLives+1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		replica, lives, err := parseLives(b)
		if err != nil {
			return
		}
		if len(lives) == 0 || slices.Contains(lives, Life{}) {
			t.Fatalf("lives %x were taken", lives)
		}
		if again := appendLives(nil, replica, lives); len(lives) <= MaxLives && !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x", b, again)
		}
	})
}
