package compat

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// talkLimit is how long one conversation may take.
const talkLimit = 30 * time.Second

// talk is a conversation of one client with one side: what the client was told, in order.
type talk struct {
	*clientv3.Client
	side *side
	ctx  context.Context // ends with the conversation

	mu  sync.Mutex
	log strings.Builder
}

// conversation is a script of calls, the same for both sides.
type conversation struct {
	name string
	hold func(k *talk) error // an error is one of the script, or something that did not come

	// gaps are what the agent refuses and etcd does not, with the reason, by what the call is called.
	gaps map[string]string
}

// converse holds conversations one after the other on one pair, and compares what was said. Each begins on an empty store,
// at the same revision on both sides, so that no difference is the consequence of an earlier one.
func converse(t *testing.T, list []conversation) {
	t.Helper()
	p := newPair(t)
	for _, c := range list {
		t.Run(c.name, func(t *testing.T) {
			p.level(t)
			etcd, subject := newTalk(t, p.etcd), newTalk(t, p.subject)
			began := time.Now()
			etcdErr, subjectErr := p.both(func(s *side) error {
				if s == p.etcd {
					return c.hold(etcd)
				}
				return c.hold(subject)
			})
			if took := time.Since(began); took > slowRow {
				t.Logf("took %v", took.Round(time.Millisecond))
			}
			if etcdErr != nil {
				t.Fatalf("etcd: %v\nafter\n%s", etcdErr, etcd)
			}
			a, b := c.withoutGaps(t, etcd.String(), subject.String())
			if d := diff(a, b); d != "" {
				t.Errorf("%s differs:\n%s", subjectName(), d)
			}
			if subjectErr != nil {
				t.Errorf("%s: %v", subjectName(), subjectErr)
			}
		})
	}
}

// withoutGaps leaves out what is known to be refused, after looking whether it is.
func (c conversation) withoutGaps(t *testing.T, etcd, subject string) (a, b string) {
	t.Helper()
	if subjectName() != "agent" {
		return etcd, subject // etcd has no gaps
	}
	for what, why := range c.gaps {
		line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(what) + `: (.*)\n`)
		if m := line.FindStringSubmatch(subject); m == nil || !strings.HasPrefix(m[1], "error") {
			t.Errorf("a gap (%s) has to be refused: %s: %q", why, what, m)
		}
		if m := line.FindStringSubmatch(etcd); m == nil || strings.HasPrefix(m[1], "error") {
			t.Errorf("no gap (%s), etcd refuses it too: %s: %q", why, what, m)
		}
		t.Logf("gap: %s: %s: %s", c.name, what, why)
		etcd, subject = line.ReplaceAllString(etcd, ""), line.ReplaceAllString(subject, "")
	}
	return etcd, subject
}

func newTalk(t *testing.T, s *side) *talk {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), talkLimit, fmt.Errorf("not done within %v", talkLimit))
	t.Cleanup(cancel)
	return &talk{Client: dial(t, s.addr), side: s, ctx: ctx}
}

// level empties both stores and brings them to the same revision.
func (p *pair) level(t *testing.T) {
	t.Helper()
	at := map[*side]int64{}
	for _, s := range []*side{p.etcd, p.subject} {
		r, err := empty(t.Context(), dial(t, s.addr))
		if err != nil {
			t.Fatalf("empty %s: %v", s.name, err)
		}
		at[s] = r
	}
	for s, rev := range at {
		c := dial(t, s.addr)
		for range max(at[p.etcd], at[p.subject]) - rev + 1 {
			if _, err := c.Put(t.Context(), "level", ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Delete(t.Context(), "level"); err != nil {
			t.Fatal(err)
		}
	}
}

// empty ends all leases and deletes all keys. It returns the revision.
func empty(ctx context.Context, c *clientv3.Client) (int64, error) {
	leases, err := c.Leases(ctx)
	if err != nil {
		return 0, err
	}
	for _, l := range leases.Leases {
		if _, err := c.Revoke(ctx, l.ID); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) { // it may run out meanwhile
			return 0, err
		}
	}
	r, err := c.Delete(ctx, "", clientv3.WithFromKey())
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

func (k *talk) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.side.normal("", k.log.String())
}

// say notes the answer to a call.
func (k *talk) say(what string, answer any, err error) {
	text := told(answer)
	if err != nil {
		text = told(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	fmt.Fprintf(&k.log, "%s: %s\n", what, text)
}

// told is an answer, as it is compared.
func told(answer any) string {
	switch a := answer.(type) {
	case nil:
		return "nothing"
	case error:
		return toldError(a)
	case *clientv3.PutResponse:
		return dump((*pb.PutResponse)(a))
	case *clientv3.GetResponse:
		return dump((*pb.RangeResponse)(a))
	case *clientv3.DeleteResponse:
		return dump((*pb.DeleteRangeResponse)(a))
	case *clientv3.TxnResponse:
		return dump((*pb.TxnResponse)(a))
	case *clientv3.CompactResponse:
		return dump((*pb.CompactionResponse)(a))
	case *clientv3.LeaseGrantResponse:
		return fmt.Sprintf("%s lease %d ttl %d error %q", dump(a.ResponseHeader), a.ID, a.TTL, a.Error)
	case *clientv3.LeaseRevokeResponse:
		return dump((*pb.LeaseRevokeResponse)(a))
	case *clientv3.LeaseKeepAliveResponse:
		return fmt.Sprintf("%s lease %d ttl %d", dump(a.ResponseHeader), a.ID, a.TTL)
	case clientv3.WatchResponse:
		var b strings.Builder
		fmt.Fprintf(&b, "%s compact %d canceled %v created %v error %v", dump(a.Header), a.CompactRevision, a.Canceled, a.Created, a.Err())
		for _, e := range a.Events {
			b.WriteString("\n    " + dump(e))
		}
		return b.String()
	case proto.Message:
		return dump(a)
	default:
		return fmt.Sprint(a)
	}
}

// toldError has the code too: clients act on it.
func toldError(err error) string {
	if e := (rpctypes.EtcdError{}); errors.As(err, &e) {
		return fmt.Sprintf("error %v: %s", e.Code(), e.Error())
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return fmt.Sprintf("error %v: %s", s.Code(), s.Message())
	}
	return "error: " + err.Error()
}

// events notes n events of a watch, however they are put into answers, and returns the last answer.
func (k *talk) events(what string, w clientv3.WatchChan, n int) (last clientv3.WatchResponse, err error) {
	for n > 0 {
		r, err := k.next(w)
		if err != nil {
			return r, fmt.Errorf("%s: %w, with %d events to come", what, err, n)
		}
		last = r
		if len(r.Events) == 0 {
			k.say(what, r, nil)
			if r.Canceled {
				return r, nil
			}
			continue
		}
		for _, e := range r.Events {
			k.say(what, e, nil)
			n--
		}
	}
	return last, nil
}

// next is the next answer of a watch.
func (k *talk) next(w clientv3.WatchChan) (clientv3.WatchResponse, error) {
	select {
	case r, ok := <-w:
		if !ok {
			return r, errors.New("the watch has ended")
		}
		return r, nil
	case <-k.ctx.Done():
		return clientv3.WatchResponse{}, context.Cause(k.ctx)
	}
}

// another is a second client of the same side.
func (k *talk) another() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{k.side.addr}, DialTimeout: 5 * time.Second, Logger: k.GetLogger()})
}
