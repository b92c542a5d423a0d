package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"

	"holdfast/internal/wire"
)

// What a member tells the nodes that are connected to it. A node at rest costs no goroutine for that: one is there while
// there is something to tell, and one for the whole Roll looks for news.

// asksMax bounds what a node is asked and has not been sent; when it is reached the node takes nothing, and is not asked.
const asksMax = 4

// notice is news on their way to many nodes, and what is in them but the time: who was told the same is not told again.
// Records change with every node that joins or renews its certificate, which is nothing to the ten thousand others.
type notice struct {
	frame []byte
	print [sha256.Size]byte
}

func newNotice(n News) (*notice, error) {
	frame, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	n.Now = time.Time{}
	same, err := json.Marshal(n)
	return &notice{frame, sha256.Sum256(same)}, err
}

// telling is what a session has yet to send.
type telling struct {
	wg sync.WaitGroup // of the goroutine that sends

	mu      sync.Mutex
	busy    bool // there is that goroutine
	ended   bool
	told    [sha256.Size]byte // print of the newest notice that was taken up
	news    *notice
	asks    []News
	leaving bool
}

// owe has the session send what add adds to its debts. Add may refuse; after end all is refused.
func (s *session) owe(add func(t *telling) bool) bool {
	t := &s.telling
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || !add(t) {
		return false
	}
	if !t.busy {
		t.busy = true
		t.wg.Go(s.tell)
	}
	return true
}

func (s *session) oweNews(n *notice) {
	s.owe(func(t *telling) bool {
		if t.told == n.print {
			return false
		}
		t.told, t.news = n.print, n
		return true
	})
}

// oweAsk reports whether the node will be asked.
func (s *session) oweAsk(n News) bool {
	return s.owe(func(t *telling) bool {
		if len(t.asks) == asksMax {
			return false
		}
		t.asks = append(t.asks, n)
		return true
	})
}

func (s *session) oweLeaving() {
	s.owe(func(t *telling) bool { t.leaving = true; return true })
}

// tell sends what is owed until there is nothing more.
func (s *session) tell() {
	for {
		frame, err := s.telling.next()
		if frame == nil && err == nil {
			return
		}
		if err != nil || wire.WriteFrame(s.w, frame) != nil {
			return // still busy, so that nobody goes on; the reader finds out why
		}
	}
}

// next takes the next thing to send, nil if there is none.
func (t *telling) next() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ended:
	case t.news != nil:
		frame := t.news.frame
		t.news = nil
		return frame, nil
	case len(t.asks) > 0:
		ask := t.asks[0]
		if t.asks = t.asks[1:]; len(t.asks) == 0 {
			t.asks = nil
		}
		return json.Marshal(ask)
	case t.leaving:
		t.leaving = false
		return json.Marshal(News{Leaving: true})
	}
	t.busy = false
	return nil, nil
}

// end waits for what is being sent. It is called when the stream has ended, or is about to be given up.
func (t *telling) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.wg.Wait()
}

// attend counts a session in. While there is one, news are looked for.
func (r *Roll) attend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attending++; r.attending > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.watchNews(ctx) }()
	r.stop = func() { cancel(); <-done }
}

// unattend counts a session out, and waits for what the last one leaves.
func (r *Roll) unattend() {
	stop := func() {}
	r.mu.Lock()
	if r.attending--; r.attending == 0 {
		stop = r.stop
	}
	r.mu.Unlock()
	stop()
}

// watchNews tells all sessions when there are news for them.
func (r *Roll) watchNews(ctx context.Context) {
	for {
		news, changed := r.opts.News()
		if n, err := newNotice(news); err != nil {
			r.opts.Log.Error("nodes are not told the news, which cannot be encoded", "err", err)
		} else {
			for _, s := range r.present() {
				s.oweNews(n)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// present is the sessions of all nodes that are connected.
func (r *Roll) present() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*session, 0, len(r.sessions))
	for _, s := range r.sessions {
		all = append(all, s)
	}
	return all
}
