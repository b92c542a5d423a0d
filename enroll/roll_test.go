package enroll

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/wire"
	"holdfast/transport"
)

// nodeLink is a connection as a Roll sees it.
type nodeLink struct{ *transport.Conn }

func (l nodeLink) Address() string  { return l.RemoteAddr().String() }
func (l nodeLink) Close(why string) { l.CloseWithError(transport.CodeNotAllowed, why) }

// callRoll lets a member keep a Roll of its uplinks, as api/uplink does.
func (r *realm) callRoll(b *box, elsewhere func(context.Context, string, string) (string, bool)) {
	b.roll = NewRoll(RollOptions{Now: r.now, Log: slog.New(slog.DiscardHandler), Elsewhere: elsewhere, News: func() (News, <-chan struct{}) {
		changed := b.auth.News()
		trust := b.auth.Trust().Trust()
		return News{Now: b.auth.Time(), Trust: &trust, Revoked: b.auth.RevokedMembers()}, changed
	}})
	b.ep.Listen(transport.Uplink, func(ctx context.Context, c *transport.Conn) {
		for {
			st, err := c.AcceptStream(ctx)
			if err != nil {
				return
			}
			in := wire.NewPatient(st)
			if _, err := wire.ReadFrame(in); err != nil { // the request
				return
			}
			if listen, err := b.roll.Attend(ctx, c.Peer().Node, nodeLink{c}, in, st); err == nil {
				_ = listen()
			}
		}
	})
}

// life is one run of a box: its uplink and its side of the control stream.
type life struct {
	conn *transport.Conn
	done chan error // what Follow returned

	mu   sync.Mutex
	news []News
}

func (r *realm) live(b *box, to, boot string, depth int) *life {
	r.t.Helper()
	c, err := r.uplink(b, to)
	if err != nil {
		r.t.Fatal(err)
	}
	st, err := c.OpenStream(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	l := &life{conn: c, done: make(chan error, 1)}
	go func() {
		l.done <- Follow(bufio.NewReader(st), st, boot, func(n News) Report {
			rep := Report{Name: b.name, Mode: "proxy", Version: "1", QueueDepth: depth}
			if n.Devices {
				rep.Devices = LastSeen{"everywhere": int64(depth), b.name: 1}
			}
			return rep
		}, func(n News) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.news = append(l.news, n)
		}, b.obey)
	}()
	return l
}

func (l *life) last() News {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.news) == 0 {
		return News{}
	}
	return l.news[len(l.news)-1]
}

func TestTheRollIsCalledWhenAsked(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		m1 := r.boxes["m1"]
		r.callRoll(m1, nil)
		p, q := r.add("p"), r.add("q")
		r.enrol(p, transport.Proxy)
		r.enrol(q, transport.Proxy)
		lp, lq := r.live(p, "m1", "p1", 3), r.live(q, "m1", "q1", 0)
		time.Sleep(time.Second)
		if n := lp.last(); n.Trust == nil || len(n.Trust.Roots) != 1 || n.Now.IsZero() {
			t.Errorf("told %+v", n)
		}
		seen := map[string]Seen{}
		for _, s := range m1.roll.Call(t.Context()) {
			seen[s.Report.Name] = s
		}
		if s := seen["p"]; !s.Connected || s.Lost || s.Report.QueueDepth != 3 || s.Address == "" || len(seen) != 2 {
			t.Errorf("seen %+v", seen)
		}
		if s := m1.roll.Devices(t.Context()); len(s) != 3 || s.At("everywhere") != time.Unix(3, 0) || s.At("q") != time.Unix(1, 0) || !s.At("r").IsZero() {
			t.Errorf("devices were seen at %v", s)
		}
		// One whose link is cut is not waited for long, and stays known when it has gone.
		r.net.Cut("q", "m1")
		time.Sleep(time.Minute)
		began := time.Now()
		for _, s := range m1.roll.Call(t.Context()) {
			if s.Report.Name == "q" && s.Connected && !s.Lost {
				t.Errorf("seen as connected: %+v", s)
			}
		}
		if took := time.Since(began); took > reportWait+time.Second {
			t.Errorf("called for %v", took)
		}
		time.Sleep(2 * time.Minute)
		for _, s := range m1.roll.Call(t.Context()) {
			if s.Report.Name == "q" && (s.Connected || time.Since(s.At) < time.Minute) {
				t.Errorf("seen %+v at %v", s, time.Now())
			}
		}
		// News come by themselves.
		if _, err := m1.auth.Rotate(t.Context(), Rotation{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := lp.last(); n.Trust == nil || len(n.Trust.Roots) != 2 {
			t.Errorf("after a rotation it was told %+v", n)
		}
		for _, l := range []*life{lp, lq} {
			l.conn.CloseWithError(transport.CodeDone, "")
			<-l.done //nolint:errcheck // it was cut off here
		}
	})
}

// A cluster's records change whenever a node joins or renews its certificate. The others, thousands on metered links, hear
// nothing of that.
func TestNodesAreToldWhatIsNewToThemOnly(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		m1 := r.boxes["m1"]
		r.callRoll(m1, nil)
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		lp := r.live(p, "m1", "p1", 0)
		time.Sleep(time.Second)
		told := func() int {
			lp.mu.Lock()
			defer lp.mu.Unlock()
			return len(lp.news)
		}
		if n := told(); n != 1 {
			t.Fatalf("told %d times at first, want once", n)
		}
		for _, name := range []string{"q", "s"} {
			changed := m1.auth.News()
			r.enrol(r.add(name), transport.Proxy)
			<-changed
			time.Sleep(time.Second)
		}
		if n := told(); n != 1 {
			t.Errorf("told %d times after others have joined, want once", n)
		}
		if _, err := m1.auth.Rotate(t.Context(), Rotation{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := told(); n != 2 || len(lp.last().Trust.Roots) != 2 {
			t.Errorf("told %d times, last %+v, after a rotation", n, lp.last())
		}
		lp.conn.CloseWithError(transport.CodeDone, "")
		<-lp.done //nolint:errcheck // it was cut off here
	})
}

func TestASecondNodeWithACopiedIdentityIsSentAway(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		m1 := r.boxes["m1"]
		r.callRoll(m1, nil)
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		clone := r.add("clone")
		clone.id.Store(p.id.Load())
		first := r.live(p, "m1", "boot 1", 0)
		time.Sleep(time.Second)
		second := r.live(clone, "m1", "boot 2", 0)
		err := <-second.done
		if !errors.Is(err, ErrCopied) || !strings.Contains(err.Error(), "agent prepare-image") {
			t.Errorf("the copy was told %v", err)
		}
		time.Sleep(2 * refusedLinger)
		if second.conn.Context().Err() == nil {
			t.Error("its connection is open")
		}
		if first.conn.Err() != nil {
			t.Errorf("the first was cut off too: %v", first.conn.Err())
		}
		// The first one starts again: its old connection is dead, and the new one is taken.
		p.stop()
		p = r.add("p")
		again := r.live(p, "m1", "boot 3", 0)
		time.Sleep(aliveWait + time.Second)
		if n := again.last(); n.Trust == nil || again.conn.Err() != nil {
			t.Errorf("after a restart: %+v, %v", n, again.conn.Err())
		}
		again.conn.CloseWithError(transport.CodeDone, "")
		_, _ = <-again.done, <-first.done
	})
}

func TestACopyAtAnotherMemberIsFoundToo(t *testing.T) {
	inRealm(t, func(t *testing.T, r *realm) {
		m1 := r.boxes["m1"]
		r.callRoll(m1, nil)
		r.add("m2")
		r.enrol(r.boxes["m2"], transport.Member)
		r.boxes["m2"].stop()
		m2 := r.member("m2", false)
		r.callRoll(m2, m1.roll.Alive)
		p := r.add("p")
		r.enrol(p, transport.Proxy)
		clone := r.add("clone")
		clone.id.Store(p.id.Load())
		first := r.live(p, "m1", "boot 1", 0)
		time.Sleep(time.Second)
		second := r.live(clone, "m2", "boot 2", 0)
		if err := <-second.done; !errors.Is(err, ErrCopied) {
			t.Errorf("the copy was told %v", err)
		}
		// The same run of a node may be at both for a moment, when it changes members.
		moved := r.live(p, "m2", "boot 1", 0)
		time.Sleep(time.Second)
		if moved.conn.Err() != nil || moved.last().Trust == nil {
			t.Errorf("a node that moves: %v", moved.conn.Err())
		}
		for _, l := range []*life{first, moved} {
			l.conn.CloseWithError(transport.CodeDone, "")
			<-l.done //nolint:errcheck // it was cut off here
		}
	})
}
