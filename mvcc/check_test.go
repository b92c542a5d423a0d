package mvcc

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

func TestCheckRefusesWhatNoStoreCouldApply(t *testing.T) {
	long := strings.Repeat("k", MaxKeyBytes+1)
	deep := kv.Op(put("a", ""))
	for range txnDepthMax + 1 {
		deep = kv.Txn{Then: []kv.Op{deep}}
	}
	then := func(ops ...kv.Op) kv.Op { return kv.Txn{Then: ops} }
	for name, c := range map[string]struct {
		ops  []kv.Op
		want kv.Code
	}{
		"nothing":                      {nil, kv.OK},
		"put":                          {[]kv.Op{put("a", "1")}, kv.OK},
		"empty key":                    {[]kv.Op{put("", "1")}, kv.Invalid},
		"empty key of a delete":        {[]kv.Op{del("", "z")}, kv.Invalid},
		"empty key of a range":         {[]kv.Op{scan("", "z")}, kv.Invalid},
		"key too long":                 {[]kv.Op{put(long, "")}, kv.TooLarge},
		"key as long as allowed":       {[]kv.Op{put(long[1:], "")}, kv.OK},
		"value and ignored":            {[]kv.Op{kv.Put{Key: []byte("a"), Value: []byte("v"), IgnoreValue: true}}, kv.Invalid},
		"lease and ignored":            {[]kv.Op{kv.Put{Key: []byte("a"), Lease: 1, IgnoreLease: true}}, kv.Invalid},
		"put twice":                    {[]kv.Op{put("a", "1"), put("b", "1"), put("a", "2")}, kv.DuplicateKey},
		"put twice in a txn":           {[]kv.Op{then(put("a", "1"), put("a", "2"))}, kv.DuplicateKey},
		"put in both branches":         {[]kv.Op{kv.Txn{Then: []kv.Op{put("a", "1")}, Else: []kv.Op{put("a", "2")}}}, kv.OK},
		"put and delete in branches":   {[]kv.Op{kv.Txn{Then: []kv.Op{put("a", "1"), put("b", "1")}, Else: []kv.Op{del("a", "c")}}}, kv.OK},
		"branches and a put":           {[]kv.Op{kv.Txn{Then: []kv.Op{put("a", "1")}, Else: []kv.Op{del("b", "c")}}, put("b", "")}, kv.DuplicateKey},
		"branches and a delete":        {[]kv.Op{kv.Txn{Then: []kv.Op{put("a", "1")}, Else: []kv.Op{del("a", "c")}}, del("a", "")}, kv.DuplicateKey},
		"put, then in a txn":           {[]kv.Op{put("a", "1"), then(put("a", "2"))}, kv.DuplicateKey},
		"put in a txn, then":           {[]kv.Op{then(put("a", "1")), put("a", "2")}, kv.DuplicateKey},
		"put in two txns":              {[]kv.Op{then(put("a", "1")), then(put("a", "2"))}, kv.DuplicateKey},
		"put in an else, then":         {[]kv.Op{kv.Txn{Else: []kv.Op{put("a", "1")}}, put("a", "2")}, kv.DuplicateKey},
		"put and delete":               {[]kv.Op{put("b", "1"), del("a", "c")}, kv.DuplicateKey},
		"delete and put":               {[]kv.Op{del("a", "c"), put("b", "1")}, kv.DuplicateKey},
		"delete and put at the end":    {[]kv.Op{del("a", "c"), put("c", "1")}, kv.OK},
		"delete one and put it":        {[]kv.Op{del("a", ""), put("a", "1")}, kv.DuplicateKey},
		"delete one and put the next":  {[]kv.Op{del("a", ""), put("a\x00", "1")}, kv.OK},
		"delete from and put":          {[]kv.Op{del("a", "\x00"), put("z", "1")}, kv.DuplicateKey},
		"delete from and put before":   {[]kv.Op{del("b", "\x00"), put("a", "1")}, kv.OK},
		"delete in a txn and put":      {[]kv.Op{then(del("a", "c")), put("b", "1")}, kv.DuplicateKey},
		"put in a txn, delete in next": {[]kv.Op{then(put("b", "1")), then(del("a", "c"))}, kv.DuplicateKey},
		"joined deletes and put":       {[]kv.Op{del("a", "d"), del("b", "c"), put("cc", "1")}, kv.DuplicateKey},
		"deletes apart and put":        {[]kv.Op{del("a", "b"), del("c", "d"), put("bb", "1")}, kv.OK},
		"deletes overlap":              {[]kv.Op{del("a", "c"), del("b", "d"), del("b", "")}, kv.OK},
		"delete of nothing and put":    {[]kv.Op{del("c", "a"), put("b", "1")}, kv.OK},
		"too deep":                     {[]kv.Op{deep}, kv.TooManyOps},
		"compact in a txn":             {[]kv.Op{then(kv.Compact{Revision: 1})}, kv.Invalid},
		"sort target":                  {[]kv.Op{kv.Range{Key: []byte("a"), Sort: kv.TargetLease}}, kv.Invalid},
		"sort order":                   {[]kv.Op{kv.Range{Key: []byte("a"), Order: 9}}, kv.Invalid},
		"compare a key":                {[]kv.Op{kv.Txn{Compares: []kv.Compare{{Key: []byte("a")}}}}, kv.Invalid},
		"relation":                     {[]kv.Op{kv.Txn{Compares: []kv.Compare{{Key: []byte("a"), Target: kv.TargetMod, Relation: 9}}}}, kv.Invalid},
		"nil":                          {[]kv.Op{nil}, kv.Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			if got := codeOf(Check(kv.Command{Ops: c.ops})); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	guard := kv.Command{Guards: []kv.Guard{{Compare: kv.Compare{Key: []byte("a"), End: []byte("b"), Target: kv.TargetMod}, Or: kv.Seq{N: 1}}}}
	if got := codeOf(Check(guard)); got != kv.Invalid {
		t.Errorf("a guard of a range with Or: got %v, want %v", got, kv.Invalid)
	}
	if got := codeOf(CheckQuery(kv.Query{Ops: []kv.Op{put("a", "")}})); got != kv.Invalid {
		t.Errorf("a query that writes: got %v, want %v", got, kv.Invalid)
	}
}

func codeOf(err *kv.Error) kv.Code {
	if err == nil {
		return kv.OK
	}
	return err.Code
}

// A door that does not call Check must not be able to make replicas differ.
func TestApplyRefusesWhatCheckRefuses(t *testing.T) {
	g := newRig(t, Options{})
	_ = g.refuse(kv.DuplicateKey, put("a", "1"), put("a", "2"))
	_ = g.refuse(kv.Invalid, put("", "1"))
	_ = g.refuse(kv.Unsupported, put("a", "1"), nil)
	if got := g.list(0); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

// What a request of the usual size limit can hold must not keep Apply busy.
func TestCheckOfManyOpsIsQuick(t *testing.T) {
	var puts, dels []kv.Op
	for i := range 50_000 {
		puts = append(puts, put(fmt.Sprint(i), ""))
		dels = append(dels, del(fmt.Sprint(i), "\x00"))
	}
	start := time.Now()
	if err := Check(kv.Command{Ops: []kv.Op{kv.Txn{Then: puts, Else: dels}}}); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}
