package apitest

import (
	"fmt"
	"math/rand/v2"

	"holdfast/kv"
)

// modelClaims send the same commands to the node and to Memory, and compare everything that can be seen.
var modelClaims = []claim{
	{name: "any commands are answered as the model answers them", fresh: true, test: func(n *node) {
		seed := n.seed()
		g := &generator{Rand: generate(seed, 0)}
		m := NewMemory()
		w := n.watch(kv.Watch{Key: kv.FromKey(), End: kv.FromKey(), From: 2})
		for i := range 600 {
			c := g.command(m.revision)
			got, err := n.b.Do(n.ctx, c)
			want, wantErr := m.Do(n.ctx, c)
			if kv.CodeOf(err) != kv.CodeOf(wantErr) {
				n.Fatalf("seed %d, command %d %s: %v, want %v", seed, i, show(c), err, wantErr)
			}
			if err != nil {
				continue
			}
			if got.Revision != want.Revision || len(got.Ops) != len(want.Ops) {
				n.Fatalf("seed %d, command %d %s: revision %d, want %d", seed, i, show(c), got.Revision, want.Revision)
			}
			for j := range got.Ops {
				if !sameOp(got.Ops[j], want.Ops[j]) {
					n.Fatalf("seed %d, command %d %s: op %d answered\n%+v, want\n%+v", seed, i, show(c), j, got.Ops[j], want.Ops[j])
				}
			}
		}
		events := w.events(0, len(m.events))
		for i, want := range m.events {
			if !sameEvent(events[i], want) {
				n.Fatalf("seed %d, event %d:%s\nwant:%s", seed, i, showEvents(events[i:i+1]), showEvents(m.events[i:i+1]))
			}
		}
		for revision := int64(1); revision <= m.revision; revision += 1 + int64(g.IntN(5)) {
			q := kv.Query{Ops: []kv.Op{kv.Range{Key: kv.FromKey(), End: kv.FromKey(), Revision: revision}}}
			got, err := n.b.Read(n.ctx, q)
			want, wantErr := m.Read(n.ctx, q)
			if err != nil || wantErr != nil || !sameOp(got.Ops[0], want.Ops[0]) {
				n.Fatalf("seed %d: revision %d shows %+v (%v), want %+v (%v)", seed, revision, got.Ops, err, want.Ops, wantErr)
			}
		}
	}},
}

// seed draws what the chance of a claim is made of, and says so.
func (n *node) seed() uint64 {
	seed := rand.Uint64() //nolint:gosec // a test is to be repeatable, not unpredictable
	n.Logf("seed %d", seed)
	return seed
}

// generate returns the chance of one of several goroutines.
func generate(seed uint64, goroutine int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(goroutine))) //nolint:gosec // as above
}

// generator makes commands of every shape on few keys.
type generator struct{ *rand.Rand }

func show(c kv.Command) string { return fmt.Sprintf("%+v", c) }

// command makes a command that changes no key twice: what is then refused, and how, has claims of its own.
func (g *generator) command(revision int64) kv.Command {
	for {
		c := kv.Command{Ops: g.ops(revision, 3, 2)}
		switch g.IntN(16) {
		case 0:
			c.Ops = []kv.Op{kv.LeaseRevoke{ID: g.lease()}}
		case 1:
			return kv.Command{Ops: []kv.Op{kv.LeaseKeepAlive{ID: g.lease()}}}
		case 2, 3:
			c.Ops = append([]kv.Op{kv.LeaseGrant{ID: g.lease(), TTL: 1000}}, c.Ops...)
		case 4:
			c.Ops = []kv.Op{kv.LeaseList{}, kv.LeaseTTL{ID: g.lease(), Keys: g.flip()}}
			return c
		}
		for range g.IntN(5) / 3 {
			c.Guards = append(c.Guards, kv.Guard{Compare: g.compare(revision)})
		}
		if validate(c.Ops) == nil {
			return c
		}
	}
}

func (g *generator) ops(revision int64, most, depth int) []kv.Op {
	var out []kv.Op
	for range 1 + g.IntN(most) {
		switch k := g.IntN(10); {
		case k < 4:
			p := kv.Put{Key: g.key(), Value: g.value(), PrevKV: g.flip()}
			if g.IntN(8) == 0 {
				p.Value, p.IgnoreValue = nil, true
			}
			switch g.IntN(6) {
			case 0:
				p.Lease = g.lease()
			case 1:
				p.IgnoreLease = true
			}
			out = append(out, p)
		case k < 6:
			key, end := g.span()
			out = append(out, kv.Delete{Key: key, End: end, PrevKV: g.flip()})
		case k < 8 || depth == 0:
			out = append(out, g.query(revision))
		default:
			t := kv.Txn{Then: g.ops(revision, 2, depth-1), Else: g.ops(revision, 2, depth-1)}
			for range g.IntN(3) {
				t.Compares = append(t.Compares, g.compare(revision))
			}
			out = append(out, t)
		}
	}
	return out
}

func (g *generator) query(revision int64) kv.Range {
	key, end := g.span()
	r := kv.Range{Key: key, End: end, KeysOnly: g.IntN(4) == 0, CountOnly: g.IntN(6) == 0, Limit: int64(g.IntN(4))}
	if g.flip() {
		r.Revision = 1 + g.Int64N(revision)
	}
	r.Order = kv.Order(g.IntN(3)) // by key: by anything else there are equals, whose order is open
	return r
}

func (g *generator) compare(revision int64) kv.Compare {
	c := kv.Compare{Key: g.key(), Target: kv.Target(1 + g.IntN(5)), Relation: kv.Relation(g.IntN(4))}
	if g.IntN(4) == 0 {
		c.Key, c.End = g.span()
	}
	switch c.Target {
	case kv.TargetVersion:
		c.Num = g.Int64N(4)
	case kv.TargetValue:
		c.Value = g.value()
	case kv.TargetLease:
		c.Num = g.Int64N(4)
	default:
		c.Num = g.Int64N(revision + 1)
	}
	return c
}

func (g *generator) key() []byte   { return []byte{'k', byte('0' + g.IntN(8))} }
func (g *generator) value() []byte { return []byte{byte('a' + g.IntN(4))} }
func (g *generator) lease() int64  { return 1 + g.Int64N(3) }
func (g *generator) flip() bool    { return g.IntN(2) == 0 }

func (g *generator) span() (key, end []byte) {
	switch g.IntN(4) {
	case 0:
		return g.key(), g.key()
	case 1:
		return g.key(), kv.FromKey()
	default:
		return g.key(), nil
	}
}
