//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/test/linear"
)

// site is a cluster of boxes of which one at a time may be down, and devices that use whichever is open to them.
type site struct {
	t       *testing.T
	dir     string
	boxes   []*box
	token   string // a file
	history *linear.History

	mu       sync.Mutex
	open     []*box
	acked    time.Time     // when anything was last acknowledged
	longest  time.Duration // between two acknowledgements to anybody
	counters []*counter
	sharers  []*writer

	stopDevices func()
}

// box has one name and one pair of addresses for all its lives.
type box struct {
	*agent
	site *site
	name string
	peer string
	addr string
	data string
	more []string // settings of its own

	through []string     // by which it is launched; nil is the binary under test
	busy    sync.RWMutex // read-locked by each request under way
}

// newSite starts so many boxes, each launched through a command if there is one.
func newSite(t *testing.T, boxes int, through []string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), history: linear.NewHistory()}
	for n := range boxes {
		b := s.add(fmt.Sprint("box", n+1), through)
		b.start()
		if n == 0 {
			c := &cluster{t: t, dir: s.dir}
			s.token = c.file("token", strings.TrimSpace(mustRun(t, b.data, "token", "create")))
		}
	}
	s.boxes[0].waitVoters(boxes, startMax)
	return s
}

func (s *site) add(name string, through []string, more ...string) *box {
	s.t.Helper()
	b := &box{site: s, name: name, peer: freeUDP(s.t), addr: freeAddr(s.t), data: filepath.Join(s.dir, name), through: through, more: more}
	s.boxes = append(s.boxes, b)
	return b
}

// start starts the box on its data dir, which may be new, waits until it is ready, and opens it to devices.
func (b *box) start() {
	b.site.t.Helper()
	args := []string{"--name", b.name, "--peer-listen", b.peer, "--store-history", "1h", "--queue-prefixes", "count/queued/"}
	var others []string
	for _, o := range b.site.boxes {
		if o != b {
			others = append(others, o.peer)
		}
	}
	if b.site.token != "" {
		args = append(args, "--join", strings.Join(others, ","), "--token-file", b.site.token)
	}
	b.agent = launchIn(b.site.t, b.through, b.data, b.addr, append(args, b.more...)...)
	b.waitReady()
	b.site.mu.Lock()
	defer b.site.mu.Unlock()
	b.site.open = append(b.site.open, b)
}

// close takes the box from the devices. Requests under way go on; idle waits for them.
func (b *box) close() {
	b.site.mu.Lock()
	defer b.site.mu.Unlock()
	b.site.open = slices.DeleteFunc(b.site.open, func(o *box) bool { return o == b })
}

// idle waits until no request is under way on a box that was closed, and its queue is empty.
func (b *box) idle() {
	b.site.t.Helper()
	b.busy.Lock()
	defer b.busy.Unlock()
	b.waitDrained(startMax)
}

// with calls do with the address of a box that is open: that of the number chosen, if it is, for a choice of 0 or more,
// or any for a negative one. It does nothing if that box is closed.
func (s *site) with(choice int, do func(url string)) {
	s.mu.Lock()
	var b *box
	if choice < 0 {
		b = s.open[-choice%len(s.open)]
	} else if b = s.boxes[choice]; !slices.Contains(s.open, b) {
		s.mu.Unlock()
		return
	}
	b.busy.RLock() // a box that is open is never locked
	url := b.url
	s.mu.Unlock()
	defer b.busy.RUnlock()
	do(url)
}

func (s *site) ack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.acked.IsZero() {
		s.longest = max(s.longest, now.Sub(s.acked))
	}
	s.acked = now
}

// devices begin to count and to share keys, until finish.
func (s *site) devices(rng *rand.Rand) {
	ctx, stop := context.WithCancel(s.t.Context())
	var work sync.WaitGroup
	for n := range 3 {
		mine := rand.New(rand.NewPCG(rng.Uint64(), 0))
		for kind, next := range map[string]func() int{"direct": func() int { return -1 - mine.IntN(1<<20) }, "queued": func() int { return n }} {
			c := newCounter(fmt.Sprintf("count/%s/%d", kind, n))
			s.counters = append(s.counters, c)
			work.Go(func() { s.count(ctx, c, next) })
		}
		w := newWriter(n)
		s.sharers = append(s.sharers, w)
		other := rand.New(rand.NewPCG(rng.Uint64(), 1))
		work.Go(func() {
			for ctx.Err() == nil {
				s.with(-1-other.IntN(1<<20), func(url string) {
					w.share(ctx, other, url, fmt.Sprintf("shared/%d", other.IntN(sharedKeys)), s.history)
				})
				time.Sleep(sharingEvery)
			}
		})
	}
	s.stopDevices = func() { stop(); work.Wait() }
	s.t.Cleanup(s.stopDevices)
}

// count has a counter use one box after the other, or stay with one if it queues: only then is there an order to keep.
func (s *site) count(ctx context.Context, c *counter, next func() int) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: 1,
	}}
	for ctx.Err() == nil {
		s.with(next(), func(url string) {
			if acked, _ := c.next(ctx, client, url); acked { // an error is noted as unknown
				s.ack()
			}
		})
		time.Sleep(thinking)
	}
}

// finish ends the devices, and holds what the cluster has against what they were told, and its members against each other.
func (s *site) finish() {
	s.t.Helper()
	s.stopDevices()
	for _, b := range s.boxes {
		b.waitDrained(startMax)
	}
	all := history(s.t, http.DefaultClient, s.boxes[0].url, "count/")
	acked, queued, unknown := 0, 0, 0
	for _, c := range s.counters {
		c.verify(s.t, all)
		acked, queued, unknown = acked+len(c.revisions), queued+len(c.queued), unknown+len(c.unknown)
	}
	for _, w := range s.sharers {
		if len(w.surprises) > 0 {
			s.t.Error(strings.Join(w.surprises, "\n"))
		}
	}
	s.t.Logf("%d writes acknowledged, %d queued, %d unknown; %d operations on shared keys; longest time without an acknowledgement: %v",
		acked, queued, unknown, s.history.Len(), s.longest.Round(time.Millisecond))
	if acked < 50 {
		s.t.Errorf("%d acknowledged writes prove little", acked)
	}
	if err := s.history.Check(time.Minute); err != nil {
		s.t.Error(err)
	}
	s.same()
}

// same waits until all members have the same state, by its hash at one revision.
func (s *site) same() {
	s.t.Helper()
	at := s.boxes[0].status().Revision
	hashes := map[string]string{}
	for _, b := range s.boxes {
		if b.status().Member == nil {
			continue
		}
		eventually(s.t, startMax, func() string {
			r := b.do("POST", "/v3/maintenance/hashkv", fmt.Appendf(nil, `{"revision":%d}`, at))
			var got struct {
				Hash            uint32
				CompactRevision int64 `json:"compact_revision,string"`
			}
			if err := json.Unmarshal(r.body, &got); r.status != 200 || err != nil {
				return fmt.Sprintf("the hash of %s: %d %s %v", b.name, r.status, r.body, err)
			}
			hashes[b.name] = fmt.Sprint(got.Hash, " compacted at ", got.CompactRevision)
			return ""
		})
	}
	for name, h := range hashes {
		if h != hashes[s.boxes[0].name] {
			s.t.Errorf("at revision %d %s has another state: %v", at, name, hashes)
		}
	}
	if len(hashes) < 2 {
		s.t.Errorf("%d members were compared", len(hashes))
	}
}
