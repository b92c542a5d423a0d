package enroll

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/wire"
	"holdfast/transport"
)

// The control stream of an uplink: one stream for as long as the connection lives, with frames of JSON.
//
//	node -> member   Hello, then a Report for each news that asks for one
//	member -> node   News: at once, and when something has changed
//
// By it a node hears of CAs and of members that were revoked, a member knows who is connected to it, and two boxes with
// one identity are told apart. Nothing of it is written to flash but a trust that is new.

// Hello is the first word of a node.
type Hello struct {
	Boot   string `json:"boot"` // random, another one each time that the node starts
	Report Report `json:"report"`
	List   bool   `json:"list,omitempty"` // the node asks for the list of nodes; nothing else is said on this stream
}

// Report is what a node tells of itself when it is asked.
type Report struct {
	Ask        uint64   `json:"ask,omitempty"` // of the News that is answered
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Mode       string   `json:"mode"`
	Revision   int64    `json:"revision"`
	AgeSeconds *float64 `json:"age_seconds,omitempty"` // proven age of a cache
	QueueDepth int      `json:"queue_depth"`
	QueueBytes int64    `json:"queue_bytes"`
	Feature    uint64   `json:"feature,omitempty"` // newest feature level that its version knows; 0: of one that does not say

	KeepAliveSeconds float64 `json:"keep_alive_seconds,omitempty"` // how often its links speak at rest, as measured; 0: not measured
	KeepAliveShort   bool    `json:"keep_alive_short,omitempty"`   // a NAT forgets it even sooner

	Progress *Progress `json:"progress,omitempty"` // of the Order that was asked with
	Devices  LastSeen  `json:"devices,omitempty"`  // if it was asked for
}

// News is what a member tells a node.
type News struct {
	Now     time.Time        `json:"now,omitzero"`
	Trust   *transport.Trust `json:"trust,omitempty"`   // nil: as before
	Revoked []string         `json:"revoked,omitempty"` // all members that were revoked, with Trust
	Ask     uint64           `json:"ask,omitempty"`     // a Report with this number is asked for
	Order   *Order           `json:"order,omitempty"`   // with Ask: what the node is to do
	Devices bool             `json:"devices,omitempty"` // with Ask: when the node has seen the tokens of devices last is asked for
	Refused string           `json:"refused,omitempty"` // the node is sent away, and why
	Leaving bool             `json:"leaving,omitempty"` // this member is about to go: the node had better use another one
	Members []string         `json:"members,omitempty"` // where members answer, with Trust
	Policy  string           `json:"policy,omitempty"`  // which policy the cluster has, for a node to tell whether it is its own
}

// controlFrameMax bounds a frame of the control stream.
const controlFrameMax = 256 << 10

// Link is the connection of a node.
type Link interface {
	Lost() bool
	Health() transport.Health
	Address() string
	Close(reason string)
}

// Seen is a node as a member knows it from its connection.
type Seen struct {
	Node      string    `json:"node"`
	Boot      string    `json:"boot,omitempty"`
	Connected bool      `json:"connected"`
	Lost      bool      `json:"lost,omitempty"`
	Address   string    `json:"address,omitempty"`
	RTTMillis float64   `json:"rtt_ms,omitempty"`
	Loss      float64   `json:"loss,omitempty"` // share of the packets to it
	Way       string    `json:"way,omitempty"`
	Sent      uint64    `json:"bytes_sent,omitempty"` // to it
	Received  uint64    `json:"bytes_received,omitempty"`
	At        time.Time `json:"at"` // of the last sign of life
	Report    Report    `json:"report"`
}

// RollOptions is what a Roll needs.
type RollOptions struct {
	// News is what nodes are told, and a channel that is closed when that has changed.
	News func() (News, <-chan struct{})
	// Elsewhere reports whether a node with another boot is connected to another member, and from where. It may take as
	// long as ctx lets it. Nil: there are no others.
	Elsewhere func(ctx context.Context, node, boot string) (address string, found bool)
	// List is the list of nodes, in parts of less than 64 KiB, for a node that asks. Nil: none is kept.
	List func(ctx context.Context) ([]json.RawMessage, error)
	Now  func() time.Time
	Log  *slog.Logger
}

// Roll is who is connected to this member, in memory.
type Roll struct {
	opts RollOptions

	mu       sync.Mutex
	sessions map[string]*session // by node
	away     map[string]Seen     // of nodes that were here before, at most awayMax
	going    bool                // Leave was called

	attending int    // sessions, also of nodes that have another one by now
	stop      func() // ends watchNews, and waits for it

	left chan struct{} // of one place: a session has ended
}

// Bounds of a Roll.
const (
	awayMax = 20_000
	// aliveWait is how long a node is given to show that it still runs when another one comes with its identity: some
	// round trips of a bad link. A box that has restarted is served meanwhile.
	aliveWait = 3 * time.Second
	// refusedLinger is how long a node that is sent away has to read why.
	refusedLinger = time.Second
	// reportWait is how long a node has to answer when the roll is called.
	reportWait = 2 * time.Second
)

// NewRoll returns an empty Roll.
func NewRoll(o RollOptions) *Roll {
	return &Roll{opts: o, sessions: make(map[string]*session), away: make(map[string]Seen), left: make(chan struct{}, 1)}
}

// Leave tells every node that is connected that this member is about to go, and waits until they have all turned to others, or
// ctx ends. Who has no other stays.
func (r *Roll) Leave(ctx context.Context) {
	r.mu.Lock()
	r.going = true
	r.mu.Unlock()
	for _, s := range r.present() {
		s.oweLeaving()
	}
	for {
		r.mu.Lock()
		n := len(r.sessions)
		r.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-r.left:
		case <-ctx.Done():
			return
		}
	}
}

// session is one node's control stream.
type session struct {
	roll *Roll
	node string
	boot string
	link Link

	w       io.Writer
	telling telling

	mu    sync.Mutex
	last  Report
	at    time.Time
	asked uint64
	waits map[uint64]chan Report // of one slot, for the report with that number
}

// ErrCopied says that a node was sent away, because another one has its identity.
var ErrCopied = errors.New("another node with this identity is connected")

// Attend begins to serve the control stream of a node, which in and out are of, and returns what listens on it until ctx or
// the stream ends; nil, if there is nothing to listen for. Listen has to be called: it is apart because it waits for as long
// as the node is connected, and the less is on the stack of who waits the less memory that takes.
func (r *Roll) Attend(ctx context.Context, node string, link Link, in *wire.Patient, out io.Writer) (listen func() error, err error) {
	var h Hello
	if err := readControl(in, &h); err != nil {
		return nil, fmt.Errorf("read the hello of node %s: %w", node, err)
	}
	if h.List {
		return nil, r.list(ctx, out)
	}
	s := &session{roll: r, node: node, boot: h.Boot, link: link, w: out, last: h.Report, at: r.opts.Now()}
	if err := r.enter(ctx, s); err != nil {
		return nil, err
	}
	if err := r.welcome(s); err != nil {
		s.end()
		return nil, err
	}
	return func() error { return s.listen(ctx, in) }, nil
}

// welcome tells a node what there is to tell.
func (r *Roll) welcome(s *session) error {
	for current := false; !current; {
		news, changed := r.opts.News()
		n, err := newNotice(news)
		if err != nil {
			return err
		}
		s.oweNews(n)
		select {
		case <-changed: // watchNews may have told of that before this did of what was
		default:
			current = true
		}
	}
	r.mu.Lock()
	going := r.going
	r.mu.Unlock()
	if going {
		s.oweLeaving()
	}
	return nil
}

// listen takes in what the node tells until ctx or the stream ends.
func (s *session) listen(ctx context.Context, in *wire.Patient) (err error) {
	for err == nil {
		if err = in.Await(); err == nil {
			err = s.take(in)
		}
	}
	s.end()
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil //nolint:nilerr // it was to end
	}
	return fmt.Errorf("control stream of node %s: %w", s.node, err)
}

func (s *session) take(in *wire.Patient) error {
	var rep Report
	err := readControl(in, &rep)
	if err == nil {
		s.heard(rep)
	}
	return err
}

func (s *session) end() {
	s.telling.end()
	s.roll.leave(s)
}

// enter makes s the session of its node, unless another node of that identity is alive.
func (r *Roll) enter(ctx context.Context, s *session) error {
	where, copied := r.duplicate(ctx, s)
	if copied {
		text := fmt.Sprintf("a node with the same identity is connected from %s: this data dir is a copy. Stop this node and give it a data dir of its own (agent prepare-image takes the identity out of a copy)", where)
		if s.send(News{Refused: text}) == nil {
			select { // it closes the connection when it has read that
			case <-ctx.Done():
			case <-time.After(refusedLinger):
			}
		}
		s.link.Close(text)
		r.opts.Log.Error("a second node with a copied identity was sent away: give it a data dir of its own, or revoke the node if you do not know the box",
			"node", s.node, "name", s.last.Name, "from", s.link.Address(), "first", where)
		return ErrCopied
	}
	r.attend()
	r.mu.Lock()
	was := r.sessions[s.node]
	r.sessions[s.node] = s
	delete(r.away, s.node)
	r.mu.Unlock()
	if was != nil && was.boot != s.boot {
		was.link.Close("the node has restarted and is connected anew")
	}
	return nil
}

// duplicate reports whether the node of another session, here or elsewhere, is alive beside this one.
func (r *Roll) duplicate(ctx context.Context, s *session) (address string, found bool) {
	if s.boot == "" {
		return "", false // of a version that does not say
	}
	if address, found = r.Alive(ctx, s.node, s.boot); found {
		return address, true
	}
	if r.opts.Elsewhere == nil {
		return "", false
	}
	return r.opts.Elsewhere(ctx, s.node, s.boot)
}

// Alive reports whether a node is connected here that started with another boot, and still answers.
func (r *Roll) Alive(ctx context.Context, node, boot string) (address string, found bool) {
	r.mu.Lock()
	s := r.sessions[node]
	r.mu.Unlock()
	if s == nil || s.boot == boot || s.boot == "" {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, aliveWait)
	defer cancel()
	_, found = s.ask(ctx, News{})
	return s.link.Address(), found
}

func (r *Roll) leave(s *session) {
	defer r.unattend()
	s.mu.Lock()
	seen := Seen{Node: s.node, Address: s.link.Address(), At: s.at, Report: s.last}
	s.mu.Unlock()
	if !s.link.Lost() {
		seen.At = r.opts.Now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[s.node] != s {
		return
	}
	delete(r.sessions, s.node)
	select {
	case r.left <- struct{}{}:
	default:
	}
	if len(r.away) >= awayMax {
		for id := range r.away { // any: the records name the nodes, this only dates them
			delete(r.away, id)
			break
		}
	}
	r.away[s.node] = seen
}

// Call asks every node that is connected for a report, and returns all that were seen since this member started, ordered
// by node. It takes reportWait at most.
func (r *Roll) Call(ctx context.Context) []Seen {
	ctx, cancel := context.WithTimeout(ctx, reportWait)
	defer cancel()
	r.mu.Lock()
	all := make([]Seen, 0, len(r.sessions)+len(r.away))
	for _, a := range r.away {
		all = append(all, a)
	}
	r.mu.Unlock()
	sessions := r.present()
	var asking sync.WaitGroup
	for _, s := range sessions {
		if !s.link.Lost() {
			asking.Go(func() { s.ask(ctx, News{}) })
		}
	}
	asking.Wait()
	for _, s := range sessions {
		all = append(all, s.seen())
	}
	slices.SortFunc(all, func(a, b Seen) int { return strings.Compare(a.Node, b.Node) })
	return all
}

func (s *session) seen() Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.link.Health()
	v := Seen{Node: s.node, Boot: s.boot, Connected: true, Lost: h.Lost, Address: s.link.Address(),
		RTTMillis: float64(h.RTTSmoothed) / float64(time.Millisecond), Loss: h.Loss, Way: string(h.Way), Sent: h.BytesSent, Received: h.BytesReceived,
		At: s.at, Report: s.last}
	if !v.Lost {
		v.At = s.roll.opts.Now()
	}
	return v
}

// ask asks for a report, with an order or the like in n, and tells whether it came.
func (s *session) ask(ctx context.Context, n News) (Report, bool) {
	s.mu.Lock()
	s.asked++
	n.Ask = s.asked
	came := make(chan Report, 1)
	if s.waits == nil {
		s.waits = make(map[uint64]chan Report)
	}
	s.waits[n.Ask] = came
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if delete(s.waits, n.Ask); len(s.waits) == 0 {
			s.waits = nil // a map that was used once keeps its room
		}
		s.mu.Unlock()
	}()
	if !s.oweAsk(n) {
		return Report{}, false
	}
	select {
	case r := <-came:
		return r, true
	case <-ctx.Done():
		return Report{}, false
	}
}

func (s *session) heard(r Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if came, ok := s.waits[r.Ask]; ok {
		came <- r
		delete(s.waits, r.Ask)
	}
	r.Progress, r.Devices = nil, nil
	s.last, s.at = r, s.roll.opts.Now()
}

// send is for what comes before anything is owed.
func (s *session) send(n News) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return wire.WriteFrame(s.w, b)
}

func readControl(r wire.ByteReader, v any) error {
	b, err := wire.ReadFrame(r)
	if err != nil {
		return err
	}
	if len(b) > controlFrameMax {
		return fmt.Errorf("a frame of %d bytes: at most %d", len(b), controlFrameMax)
	}
	return json.Unmarshal(b, v)
}

// Follow speaks the node's side of a control stream, on a new stream of an uplink, until it ends: it says hello, hands over news, reports when it
// is asked, by what the news ask for, and takes orders, which obey must not wait for. The error says why the member sent this node away, if it did,
// as ErrCopied.
func Follow(in *bufio.Reader, out io.Writer, boot string, report func(News) Report, heard func(News), obey func(Order) Progress) error {
	send := func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return wire.WriteFrame(out, b)
	}
	if err := wire.WriteFrame(out, wire.UplinkRequest{Verb: wire.UplinkNode}.Append(nil)); err != nil {
		return err
	}
	if err := send(Hello{Boot: boot, Report: report(News{})}); err != nil {
		return err
	}
	for {
		var n News
		if err := readControl(in, &n); err != nil {
			return err
		}
		if n.Refused != "" {
			return fmt.Errorf("%w: %s", ErrCopied, n.Refused)
		}
		if n.Ask == 0 {
			heard(n)
			continue
		}
		r := report(n)
		r.Ask = n.Ask
		if n.Order != nil {
			p := obey(*n.Order)
			r.Progress = &p
		}
		if err := send(r); err != nil {
			return err
		}
	}
}
