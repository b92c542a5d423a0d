package mvcc

import (
	"bytes"
	"fmt"

	"pgregory.net/rapid"

	"holdfast/kv"
)

// The generators draw from few keys, so that commands meet; some of them are what an encoding could trip over.
var testKeys = []string{"a", "a\x00", "a\x00\x01", "a\x00\xff", "a\x01", "aa", "ab", "b", "\x00", "\x00\x00", "\xff", "\xff\xff", "k1", "k2", "k3"}

func genKey(t *rapid.T) []byte { return []byte(rapid.SampledFrom(testKeys).Draw(t, "key")) }

func genEnd(t *rapid.T) []byte {
	switch rapid.IntRange(0, 3).Draw(t, "end kind") {
	case 0:
		return nil
	case 1:
		return kv.FromKey()
	default:
		return genKey(t)
	}
}

func genPut(t *rapid.T) kv.Put {
	p := kv.Put{Key: genKey(t), PrevKV: rapid.Bool().Draw(t, "prev")}
	switch rapid.IntRange(0, 19).Draw(t, "put kind") {
	case 0:
		p.IgnoreValue = true
	case 1:
		p.IgnoreLease, p.Value = true, []byte("i")
	case 2:
		p.Lease = 7 // there is no such lease
	case 3:
	case 5, 6, 7, 8:
		p.Lease = genLease(t)
		p.Value = []byte("l")
	case 4:
		p.Value = bytes.Repeat([]byte{'L'}, rapid.IntRange(1000, 20000).Draw(t, "large"))
	default:
		p.Value = []byte(fmt.Sprint("v", rapid.IntRange(0, 99).Draw(t, "value")))
	}
	return p
}

func genLease(t *rapid.T) int64 { return rapid.SampledFrom([]int64{1, 2, 3, 0x6c00}).Draw(t, "lease") }

func genRevision(t *rapid.T, m *model) int64 {
	if rapid.IntRange(0, 2).Draw(t, "now") == 0 {
		return 0
	}
	return rapid.Int64Range(max(m.compact-2, 0), m.rev+1).Draw(t, "revision")
}

func genRange(t *rapid.T, m *model) kv.Range {
	r := kv.Range{
		Key: genKey(t), End: genEnd(t), Revision: genRevision(t, m),
		Limit:    rapid.SampledFrom([]int64{0, 0, 1, 2, 5}).Draw(t, "limit"),
		KeysOnly: rapid.IntRange(0, 4).Draw(t, "keys") == 0, CountOnly: rapid.IntRange(0, 4).Draw(t, "count") == 0,
		Sort:  rapid.SampledFrom([]kv.Target{0, 0, 0, kv.TargetVersion, kv.TargetCreate, kv.TargetMod, kv.TargetValue}).Draw(t, "sort"),
		Order: rapid.SampledFrom([]kv.Order{0, 0, kv.OrderAscend, kv.OrderDescend}).Draw(t, "order"),
	}
	for _, f := range []*int64{&r.MinMod, &r.MaxMod, &r.MinCreate, &r.MaxCreate} {
		if rapid.IntRange(0, 7).Draw(t, "filter") == 0 {
			*f = rapid.Int64Range(0, m.rev).Draw(t, "bound")
		}
	}
	return r
}

func genCompare(t *rapid.T, m *model) kv.Compare {
	c := kv.Compare{
		Key:      genKey(t),
		Target:   kv.Target(rapid.IntRange(int(kv.TargetVersion), int(kv.TargetLease)).Draw(t, "target")),
		Relation: kv.Relation(rapid.IntRange(0, int(kv.NotEqual)).Draw(t, "relation")),
		Num:      rapid.Int64Range(0, 3).Draw(t, "num"),
		Value:    []byte(fmt.Sprint("v", rapid.IntRange(0, 99).Draw(t, "value"))),
	}
	if rapid.IntRange(0, 3).Draw(t, "ranged") == 0 {
		c.End = genEnd(t)
	}
	if c.Target == kv.TargetMod || c.Target == kv.TargetCreate {
		c.Num = rapid.Int64Range(0, m.rev).Draw(t, "rev")
	}
	return c
}

func genOps(t *rapid.T, m *model, depth int) (ops []kv.Op) {
	for range rapid.IntRange(0, 4).Draw(t, "ops") {
		switch k := rapid.IntRange(0, 9).Draw(t, "op"); {
		case k < 4:
			ops = append(ops, genPut(t))
		case k < 6:
			ops = append(ops, kv.Delete{Key: genKey(t), End: genEnd(t), PrevKV: rapid.Bool().Draw(t, "prev")})
		case k < 8 || depth >= 3:
			ops = append(ops, genRange(t, m))
		default:
			ops = append(ops, genTxn(t, m, depth+1))
		}
	}
	return ops
}

func genTxn(t *rapid.T, m *model, depth int) kv.Txn {
	var txn kv.Txn
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		txn.Compares = append(txn.Compares, genCompare(t, m))
	}
	txn.Then, txn.Else = genOps(t, m, depth), genOps(t, m, depth)
	return txn
}

func genCommand(t *rapid.T, m *model) kv.Command {
	var c kv.Command
	if rapid.IntRange(0, 5).Draw(t, "guarded") == 0 {
		c.Guards = []kv.Guard{{Compare: genCompare(t, m)}}
	}
	switch k := rapid.IntRange(0, 35).Draw(t, "command"); {
	case k < 14:
		c.Ops = []kv.Op{genPut(t)}
	case k < 19:
		c.Ops = []kv.Op{kv.Delete{Key: genKey(t), End: genEnd(t), PrevKV: rapid.Bool().Draw(t, "prev")}}
	case k < 23:
		c.Ops = []kv.Op{genTxn(t, m, 0)}
	case k < 25:
		c.Ops = genOps(t, m, 0)
	case k < 27:
		c.Ops = []kv.Op{kv.Compact{
			Revision: rapid.Int64Range(m.compact, m.rev+1).Draw(t, "compact"),
			Term:     rapid.SampledFrom([]uint64{0, 0, 1, 2}).Draw(t, "term"),
		}}
	case k < 28:
		c.Ops = []kv.Op{kv.LeaderTerm{Nonce: rapid.Uint64Range(1, 3).Draw(t, "nonce")}}
	case k < 29:
		c.Ops = []kv.Op{kv.OpenEpoch{Epoch: kv.Epoch{Cluster: rapid.Uint64Range(1, 9).Draw(t, "cluster")}}}
	case k < 30:
		id := genLease(t)
		p := genPut(t)
		p.Lease = id
		c.Ops = []kv.Op{kv.LeaseGrant{ID: id, TTL: 5}, p}
	case k < 34:
		c.Ops = []kv.Op{kv.LeaseGrant{ID: genLease(t), TTL: rapid.Int64Range(-1, 4).Draw(t, "ttl")}}
	default:
		c.Ops = []kv.Op{kv.LeaseRevoke{ID: genLease(t), Term: rapid.SampledFrom([]uint64{0, 0, 1, 2}).Draw(t, "term")}}
	}
	return c
}
