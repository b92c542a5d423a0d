package raftnet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// begun is what ConnectBulk has come to.
type begun struct {
	s   interface{ Close() }
	err error
}

func beginBulk(ctx context.Context, a *end, to string) <-chan begun {
	done := make(chan begun, 1)
	go func() {
		s, err := a.ConnectBulk(ctx, to)
		done <- begun{s, err}
	}()
	synctest.Wait()
	return done
}

// TestOneSnapshotGoesAtATime begins others while one is under way: one waits, and what becomes of it depends on how the first ends.
func TestOneSnapshotGoesAtATime(t *testing.T) {
	for name, arrives := range map[string]bool{"the first arrives": true, "the first fails": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
				release := make(chan struct{})
				chunks := 0
				b.chunks = func(pb.Chunk) bool {
					chunks++
					<-release
					return arrives
				}
				connect(t, a, b)
				first, err := a.ConnectBulk(t.Context(), "b")
				if err != nil {
					t.Fatal(err)
				}
				sent := make(chan error, 1)
				go func() { sent <- first.SendChunk(chunk(0, 1, 1000)) }()
				time.Sleep(2 * stripeWait)

				second := beginBulk(t.Context(), a, "b")
				select {
				case got := <-second:
					t.Fatalf("the second did not wait: %v", got.err)
				default:
				}
				if third := <-beginBulk(t.Context(), a, "b"); !errors.Is(third.err, errTurn) {
					t.Errorf("the third: %v, want %v", third.err, errTurn)
				}
				if chunks != 1 {
					t.Errorf("%d chunks were taken, want the one of the first", chunks)
				}
				close(release)
				if err := <-sent; (err == nil) != arrives {
					t.Errorf("the first: %v", err)
				}
				first.Close()
				got := <-second
				if arrives {
					if !errors.Is(got.err, errArrived) {
						t.Errorf("the second: %v, want %v", got.err, errArrived)
					}
				} else if got.err != nil {
					t.Errorf("the second: %v, want its turn", got.err)
				} else {
					got.s.Close()
				}
				last := <-beginBulk(t.Context(), a, "b")
				if last.err != nil {
					t.Fatalf("one more: %v", last.err)
				}
				last.s.Close()
			})
		})
	}
}

// TestASnapshotThatIsClosedTwiceEndsOnlyItsOwnTurn closes one again when there is none, and when another one goes.
func TestASnapshotThatIsClosedTwiceEndsOnlyItsOwnTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		connect(t, a, b)
		first := <-beginBulk(t.Context(), a, "b")
		if first.err != nil {
			t.Fatal(first.err)
		}
		first.s.Close()
		first.s.Close()
		second := <-beginBulk(t.Context(), a, "b")
		if second.err != nil {
			t.Fatal(second.err)
		}
		first.s.Close()
		third := beginBulk(t.Context(), a, "b")
		select {
		case got := <-third:
			t.Fatalf("the third did not wait for the second: %v", got.err)
		default:
		}
		second.s.Close()
		if got := <-third; got.err != nil {
			t.Errorf("the third: %v", got.err)
		} else {
			got.s.Close()
		}
	})
}

// TestSnapshotThatWaitsEndsWithTheNode waits for a turn that does not come.
func TestSnapshotThatWaitsEndsWithTheNode(t *testing.T) {
	for name, end := range map[string]func(*end, context.CancelFunc) error{
		"its context": func(_ *end, cancel context.CancelFunc) error { cancel(); return nil },
		"the net":     func(a *end, _ context.CancelFunc) error { return a.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
				connect(t, a, b)
				first, err := a.ConnectBulk(t.Context(), "b")
				if err != nil {
					t.Fatal(err)
				}
				defer first.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				second := beginBulk(ctx, a, "b")
				if err := end(a, cancel); err != nil {
					t.Fatal(err)
				}
				if got := <-second; !errors.Is(got.err, context.Canceled) && !errors.Is(got.err, errClosed) {
					t.Errorf("%v, want that it has ended", got.err)
				}
			})
		})
	}
}

// TestEndOfASnapshotIsHeardOverTheNextConnection ends the connection when all pieces have come and been acknowledged, and the receiver is not
// done with them: the sender has nothing more to send.
func TestEndOfASnapshotIsHeardOverTheNextConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		release := make(chan struct{})
		b.chunks = func(pb.Chunk) bool { <-release; return true }
		wire, _ := connect(t, a, b)
		s, err := a.ConnectBulk(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		done := make(chan error, 1)
		go func() { done <- s.SendChunk(chunk(0, 1, 1000)) }()
		time.Sleep(2 * stripeWait) // there is no connection for bulk
		wire.Close("")
		synctest.Wait()
		close(release)
		synctest.Wait()
		connect(t, a, b)
		began := time.Now()
		if err := <-done; err != nil || time.Since(began) > 2*stripeWait {
			t.Errorf("%v after %s, want it within %s", err, time.Since(began), 2*stripeWait)
		}
	})
}

// TestStripeOfASupersededSnapshotDoesNotBeginItAnew has another stripe of a snapshot come right after a later one has begun, before any
// goroutine had time to clear up.
func TestStripeOfASupersededSnapshotDoesNotBeginItAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnd(t, "b", testCluster)
		if _, err := b.join(transferID{1}, true, "a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		later, err := b.join(transferID{2}, true, "a")
		if err != nil {
			t.Fatal(err)
		}
		again, err := b.join(transferID{1}, true, "a")
		if err != nil {
			t.Fatal(err)
		}
		again.mu.Lock()
		status := again.status
		again.mu.Unlock()
		if status != statusRefused {
			t.Errorf("status %d, want %d", status, statusRefused)
		}
		b.intake.mu.Lock()
		defer b.intake.mu.Unlock()
		if b.intake.now != later {
			t.Error("the later one is not the present one")
		}
	})
}

// TestWishForConnectionsIsToldOnEachConnection: what a peer was told on a connection that has ended, or by an earlier life of this
// node, does not stay.
func TestWishForConnectionsIsToldOnEachConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		connect(t, a, b)
		p, err := b.peer("a")
		if err != nil {
			t.Fatal(err)
		}
		p.bulk.setTheirs(5) // and that it is over was lost
		mailBetween(t, a, b, 1)
		time.Sleep(5 * bulkTellEvery)
		if conns, _, err := b.BulkWanted("a"); err != nil || conns != 0 {
			t.Errorf("%d connections are wanted, %v, want none", conns, err)
		}
	})
}
