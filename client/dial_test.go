package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeConn is a connection that carries nothing: it is up, lost or closed.
type fakeConn struct {
	mu      sync.Mutex
	lost    bool
	rtt     time.Duration
	loss    float64
	changed chan struct{}
	done    chan struct{}
	once    sync.Once
	answers <-chan time.Time // of Alive; nil: no sign of life comes
}

func (c *fakeConn) OpenStream(context.Context) (Stream, error) {
	return nil, errors.New("carries nothing")
}
func (c *fakeConn) Line() (time.Duration, float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rtt, c.loss
}
func (c *fakeConn) Alive(ctx context.Context) error {
	c.mu.Lock()
	answers := c.answers
	c.mu.Unlock()
	select {
	case <-answers:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (c *fakeConn) Done() <-chan struct{} { return c.done }
func (c *fakeConn) Err() error            { return errors.New("closed") }
func (c *fakeConn) Close(string)          { c.once.Do(func() { close(c.done) }) }

func (c *fakeConn) LossState() (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost, c.changed
}

func (c *fakeConn) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
	close(c.changed)
	c.changed = make(chan struct{})
}

// town is where the endpoints are: how long each takes to answer, never if it is not there.
type town struct {
	mu     sync.Mutex
	takes  map[string]time.Duration
	loses  map[string]float64 // on the way to each
	dialed []string
	moved  chan struct{} // closed and replaced when the network of this machine changes
	conns  map[string][]*fakeConn
}

func (w *town) dial(ctx context.Context, at string, _ func(Conn)) (Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, at)
	takes, there := w.takes[at]
	loss := w.loses[at]
	w.mu.Unlock()
	var answer <-chan time.Time
	if there {
		answer = time.After(takes)
	}
	select {
	case <-answer:
	case <-ctx.Done():
		if !there || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, ctx.Err()
		}
		// It answered at the very moment it was given up.
	}
	c := &fakeConn{rtt: takes, loss: loss, changed: make(chan struct{}), done: make(chan struct{})}
	w.mu.Lock()
	w.conns[at] = append(w.conns[at], c)
	w.mu.Unlock()
	return c, nil
}

// open counts the connections to an endpoint that nobody has closed.
func (w *town) open(at string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns[at] {
		select {
		case <-c.done:
		default:
			n++
		}
	}
	return n
}

func inTown(t *testing.T, takes map[string]time.Duration, f func(w *town, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{takes: takes, moved: make(chan struct{}), conns: map[string][]*fakeConn{}}
		c, err := New(Options{Dial: w.dial, Endpoints: []string{"a", "b", "c"}, Rerouted: w.rerouted})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		f(w, c)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for at := range w.conns {
			if n := w.open(at); n != 0 {
				t.Errorf("%d connections to %s are left open", n, at)
			}
		}
	})
}

func at(t *testing.T, c *Client, after time.Duration, want string) {
	t.Helper()
	time.Sleep(after)
	synctest.Wait()
	if got := c.State().Endpoint; got != want {
		t.Errorf("connected to %q, want %q", got, want)
	}
}

func TestALostMemberIsLeftForAnother(t *testing.T) {
	inTown(t, map[string]time.Duration{"a": 0, "b": 100 * time.Millisecond}, func(w *town, c *Client) {
		at(t, c, time.Millisecond, "a")
		w.conns["a"][0].lose()
		at(t, c, 2400*time.Millisecond, "a") // it may come back
		at(t, c, 300*time.Millisecond, "b")
		if got := c.Endpoints(); !slices.Equal(got, []string{"b", "a", "c"}) {
			t.Errorf("the order is %v", got)
		}
	})
}

func TestTheNextEndpointDoesNotWaitForADeadOne(t *testing.T) {
	inTown(t, map[string]time.Duration{"b": 200 * time.Millisecond}, func(w *town, c *Client) {
		at(t, c, 1600*time.Millisecond, "")
		at(t, c, 200*time.Millisecond, "b")
		if !slices.Equal(w.dialed, []string{"a", "b"}) {
			t.Errorf("dialed %v", w.dialed)
		}
	})
}

func TestTheSlowerOfTwoAnswersIsClosed(t *testing.T) {
	inTown(t, map[string]time.Duration{"a": 2 * time.Second, "b": 400 * time.Millisecond}, func(w *town, c *Client) {
		at(t, c, 1950*time.Millisecond, "b")
		if w.open("a") != 0 || w.open("b") != 1 || len(w.conns["a"]) != 1 {
			t.Errorf("%d connections to a and %d to b are open", w.open("a"), w.open("b"))
		}
	})
}

func TestWhenNobodyAnswersEachIsSaid(t *testing.T) {
	inTown(t, nil, func(w *town, c *Client) {
		at(t, c, 9*time.Second, "")
		err := c.State().Err
		for _, e := range []string{"a: ", "b: ", "c: "} {
			if err == nil || !strings.Contains(err.Error(), e) {
				t.Errorf("%v does not name %s", err, e)
			}
		}
	})
}

func TestAMemberThatIsAboutToGoIsLeftFirst(t *testing.T) {
	inTown(t, map[string]time.Duration{"a": 0, "b": 100 * time.Millisecond}, func(w *town, c *Client) {
		at(t, c, time.Millisecond, "a")
		l, _, err := c.current() // a request under way
		if err != nil {
			t.Fatal(err)
		}
		c.Leave(w.conns["a"][0])
		at(t, c, 50*time.Millisecond, "a") // until the other one has answered
		at(t, c, 60*time.Millisecond, "b")
		if w.open("a") != 1 || !isClosed(l.retired) {
			t.Error("the link was closed under a request")
		}
		l.leave()
		synctest.Wait()
		if w.open("a") != 0 {
			t.Error("the link is still open, and nobody uses it")
		}
		c.Leave(w.conns["a"][0]) // of long ago
		at(t, c, time.Second, "b")
	})
}

func TestAMemberThatIsAboutToGoIsKeptIfThereIsNoOther(t *testing.T) {
	inTown(t, map[string]time.Duration{"a": 0}, func(w *town, c *Client) {
		at(t, c, time.Millisecond, "a")
		c.Leave(w.conns["a"][0])
		at(t, c, 20*time.Second, "a")
		w.conns["a"][0].lose() // the loss is found as ever
		at(t, c, 10*time.Second, "a")
		if len(w.conns["a"]) != 2 {
			t.Errorf("%d connections", len(w.conns["a"]))
		}
	})
}

func TestANearerMemberIsMovedToAndAlikeOnesAreNot(t *testing.T) {
	inTown(t, map[string]time.Duration{"a": 60 * time.Millisecond, "b": 45 * time.Millisecond, "c": 20 * time.Millisecond}, func(w *town, c *Client) {
		at(t, c, time.Second, "a")
		at(t, c, 2*time.Minute, "c")
		if n := w.open("a") + w.open("b"); n != 0 {
			t.Errorf("%d connections beside it", n)
		}
		dialed := len(w.dialed)
		at(t, c, 22*time.Hour, "c")
		if n := len(w.dialed) - dialed; n != 0 {
			t.Errorf("%d dials in nearly a day of calm", n)
		}
		w.mu.Lock()
		w.takes["b"] = 16 * time.Millisecond // nearer, but not by enough
		w.mu.Unlock()
		at(t, c, 25*time.Hour, "c")
		w.conns["c"][0].slow(300 * time.Millisecond)
		at(t, c, time.Hour, "b")
	})
}

// slow makes a link slower.
func (c *fakeConn) slow(rtt time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rtt = rtt
}

// spoil has a link lose packets.
func (c *fakeConn) spoil(loss float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loss = loss
}

func TestALineThatLosesPacketsIsAsGoodAsALongerOne(t *testing.T) {
	const rtt = 30 * time.Millisecond
	inTown(t, map[string]time.Duration{"a": rtt, "b": rtt + 10*time.Millisecond, "c": rtt / 3}, func(w *town, c *Client) {
		w.mu.Lock()
		w.loses = map[string]float64{"c": 0.6} // 4 times as long
		w.mu.Unlock()
		at(t, c, time.Second, "a")
		at(t, c, 2*time.Minute, "a")
		w.conns["a"][0].spoil(0.1) // a half more: no reason to look
		at(t, c, time.Hour, "a")
		if len(w.dialed) != 3 {
			t.Errorf("dialed %v, want each once", w.dialed)
		}
		w.conns["a"][0].spoil(0.4) // 3 times as long
		at(t, c, time.Hour, "b")
	})
}

func TestReadsGoOutEarlyOnlyWhileSomethingIsKnownToAnswer(t *testing.T) {
	inTown(t, map[string]time.Duration{"a": time.Second}, func(w *town, c *Client) {
		early := func(want bool) {
			t.Helper()
			conn := &fakeConn{changed: make(chan struct{}), done: make(chan struct{})}
			c.tryEarly(conn)
			uses := func() (bool, error) {
				l, err := c.liveEarly(context.Background())
				if l == nil {
					return false, err
				}
				defer l.leave()
				return l.Conn == Conn(conn), err
			}
			if got, err := uses(); got != want {
				t.Errorf("early %v (%v), want %v", got, err, want)
			}
			conn.Close("")
			if got, _ := uses(); got {
				t.Error("a connection that has ended is used")
			}
		}
		early(true) // before the first one
		at(t, c, 2*time.Second, "a")
		early(false) // there is one
		w.conns["a"][0].Close("the member stops")
		synctest.Wait()
		early(true)
		at(t, c, 10*time.Second, "a")
		w.conns["a"][1].lose()
		time.Sleep(2600 * time.Millisecond)
		synctest.Wait()
		early(false) // requests are answered at once, that nothing answers
	})
}

func (w *town) rerouted() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved
}

// move changes the network of this machine.
func (w *town) move() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.moved)
	w.moved = make(chan struct{})
}

func TestAfterAChangeOfNetworkTheLinkThatComesAlongIsKept(t *testing.T) {
	const rtt = 60 * time.Millisecond
	inTown(t, map[string]time.Duration{"a": rtt, "b": rtt}, func(w *town, c *Client) {
		at(t, c, time.Second, "a")
		w.conns["a"][0].answers = time.After(rtt)
		w.move()
		at(t, c, 5*time.Second, "a")
		if len(w.dialed) != 1 {
			t.Errorf("dialed %v: a handshake for nothing", w.dialed)
		}
	})
}

func TestAfterAChangeOfNetworkAnotherMemberIsFoundInTwoRoundTripsMore(t *testing.T) {
	const rtt = 60 * time.Millisecond
	inTown(t, map[string]time.Duration{"a": rtt, "b": rtt}, func(w *town, c *Client) {
		at(t, c, time.Second, "a")
		w.mu.Lock()
		delete(w.takes, "a") // not to be reached from there
		w.mu.Unlock()
		w.move()
		at(t, c, 2*rtt+proveFor+rtt+time.Millisecond, "b")
		at(t, c, 11*time.Second, "b")
		if n := w.open("a"); n != 0 {
			t.Error("the link that did not come along is left open")
		}
	})
}

func TestAfterAChangeOfNetworkTheLinkMayWinLate(t *testing.T) {
	const rtt = 60 * time.Millisecond
	inTown(t, map[string]time.Duration{"a": rtt, "b": time.Second}, func(w *town, c *Client) {
		at(t, c, time.Second, "a")
		w.conns["a"][0].answers = time.After(400 * time.Millisecond)
		w.move()
		at(t, c, 5*time.Second, "a")
		if len(w.dialed) != 2 || w.open("b") != 0 {
			t.Errorf("dialed %v, %d connections to b", w.dialed, w.open("b"))
		}
	})
}

func TestAClientThatIsDownDialsWhenTheNetworkChanges(t *testing.T) {
	inTown(t, nil, func(w *town, c *Client) {
		at(t, c, 10*time.Minute, "") // the pause is long by now
		w.mu.Lock()
		w.takes = map[string]time.Duration{"a": 50 * time.Millisecond}
		dialed := len(w.dialed)
		w.mu.Unlock()
		w.move() // in a pause or in the midst of a dial, which is given up
		at(t, c, 100*time.Millisecond, "a")
		if n := len(w.dialed) - dialed; n > 2 {
			t.Errorf("%d dials", n)
		}
	})
}

// Whoever has waited for a member is connected within the longest pause, and not at one moment with all others.
func TestClientsThatWaitedForTheClusterDoNotComeAtOnce(t *testing.T) {
	const clients, outage, step = 100, 20 * time.Minute, 100 * time.Millisecond
	var came []time.Duration // since the member is back
	var longest time.Duration
	for range clients {
		inTown(t, map[string]time.Duration{}, func(w *town, c *Client) {
			longest = c.opts.MaxBackoff + c.opts.DialTimeout + 2*c.opts.HeadStart // a pause, and a round of dials that nobody answers
			time.Sleep(outage)
			w.mu.Lock()
			w.takes["a"] = time.Millisecond
			w.mu.Unlock()
			back := time.Now()
			for c.State().Endpoint == "" && time.Since(back) < time.Hour {
				time.Sleep(step)
			}
			came = append(came, time.Since(back))
		})
	}
	slices.Sort(came)
	if late := came[clients-1]; late > longest+step {
		t.Errorf("one came after %v, want %v at the most", late, longest)
	}
	most := 0
	for i := range came { // a round takes between 23 and 38 s: within a second come three, with a deviation of two
		n, _ := slices.BinarySearch(came[i:], came[i]+time.Second)
		most = max(most, n)
	}
	if most > 20 {
		t.Errorf("%d of %d came within a second", most, clients)
	}
}
