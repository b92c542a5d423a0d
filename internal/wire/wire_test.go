package wire

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/kv"
)

// codec is one kind of message, for tests that hold for all of them.
type codec struct {
	kind  kind
	gen   func(*rapid.T) any
	enc   func([]byte, any) []byte
	dec   func([]byte) (any, error)
	value func() any // something with an item in every list
}

func codecOf[T any](k kind, gen func(*rapid.T) T, enc func([]byte, T) []byte, dec func([]byte) (T, error)) codec {
	return codec{
		kind: k,
		gen:  func(t *rapid.T) any { return gen(t) },
		enc:  func(dst []byte, v any) []byte { return enc(dst, v.(T)) },
		dec:  func(b []byte) (any, error) { return dec(b) },
		value: func() any {
			return rapid.Custom(gen).Filter(func(v T) bool { return len(enc(nil, v)) > 40 }).Example(7)
		},
	}
}

func codecs() []codec {
	return []codec{
		codecOf(kindCommand, genCommand, AppendCommand, DecodeCommand),
		codecOf(kindOutcome, genOutcome, AppendOutcome, DecodeOutcome),
		codecOf(kindQuery, genQuery, AppendQuery, DecodeQuery),
		codecOf(kindPage, genPage, AppendPage, DecodePage),
		codecOf(kindWatchSpec, genWatchSpec, AppendWatchSpec, DecodeWatchSpec),
		codecOf(kindWatchControl, genWatchControl, AppendWatchControl, DecodeWatchControl),
		codecOf(kindBatch, genBatch, AppendBatch, DecodeBatch),
		codecOf(kindError, func(t *rapid.T) *kv.Error { e := genError(t); return &e }, AppendError, DecodeError),
	}
}

func TestEveryKindHasACodecHere(t *testing.T) {
	if got, want := len(codecs()), int(kindEnd-1); got != want {
		t.Fatalf("%d codecs for %d kinds of message", got, want)
	}
}

func TestEveryOpIsGenerated(t *testing.T) {
	missing := map[opTag]bool{}
	for tag := tagPut; tag < tagEnd; tag++ {
		missing[tag] = true
	}
	commands := rapid.Custom(genCommand)
	for seed := range 2000 {
		for _, op := range commands.Example(seed).Ops {
			delete(missing, opTag(appendOp(nil, &op)[0]))
		}
	}
	if len(missing) > 0 {
		t.Fatalf("the generators make no op with a tag of %v", missing)
	}
}

func TestDecodingGivesBackWhatWasEncoded(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.kind.String(), rapid.MakeCheck(func(t *rapid.T) {
			want := c.gen(t)
			prefix := []byte("what was there")
			b := c.enc(slices.Clone(prefix), want)
			if !bytes.HasPrefix(b, prefix) {
				t.Fatal("what was in front is changed")
			}
			got, err := c.dec(b[len(prefix):])
			if err != nil {
				t.Fatalf("%v\nof %+v", err, want)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got  %+v\nwant %+v", got, want)
			}
		}))
	}
}

// damage changes b a little: most of what comes out is no message, some is.
func damage(t *rapid.T, b []byte) []byte {
	b = slices.Clone(b)
	for range rapid.IntRange(1, 3).Draw(t, "damages") {
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case 1:
			b = slices.Delete(b, at, at+1)
		case 2:
			b = slices.Insert(b, at, rapid.Byte().Draw(t, "byte"))
		case 3:
			b = b[:at+1]
		}
		if len(b) == 0 {
			return b
		}
	}
	return b
}

func TestDamagedBytesAreRefusedOrCanonical(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.kind.String(), rapid.MakeCheck(func(t *rapid.T) {
			checkCanonical(t, c, damage(t, c.enc(nil, c.gen(t))))
		}))
	}
}

// checkCanonical holds b against the promises that hold for any input.
func checkCanonical(t interface {
	Helper()
	Fatalf(string, ...any)
}, c codec, b []byte) {
	t.Helper()
	v, err := c.dec(b)
	if err != nil {
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNewer) {
			t.Fatalf("error of no kind: %v", err)
		}
		return
	}
	if again := c.enc(nil, v); !bytes.Equal(again, b) {
		t.Fatalf("%v: %x decodes, and encodes as %x\n%+v", c.kind, b, again, v)
	}
}

func TestEveryPrefixOfAMessageIsMalformed(t *testing.T) {
	for _, c := range codecs() {
		b := c.enc(nil, c.value())
		for n := range b {
			if _, err := c.dec(b[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v cut to %d of %d bytes: %v", c.kind, n, len(b), err)
			}
		}
		if _, err := c.dec(append(b, 0)); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%v with a byte too many: %v", c.kind, err)
		}
	}
}

func TestSecondSpellingsAreRefused(t *testing.T) {
	head := []byte{Version, byte(kindCommand)}
	term := []byte{1, byte(tagLeaseRevoke), 0} // one op, up to its term
	for name, b := range map[string][]byte{
		"length in two bytes":     slices.Concat(head, []byte{0, 0x80, 0x00, 0}),
		"zero in ten bytes":       slices.Concat(head, []byte{0, 0}, term, bytes.Repeat([]byte{0x80}, 9), []byte{0}),
		"term of 65 bits":         slices.Concat(head, []byte{0, 0}, term, bytes.Repeat([]byte{0xff}, 9), []byte{2}),
		"term of eleven bytes":    slices.Concat(head, []byte{0, 0}, term, bytes.Repeat([]byte{0xff}, 10), []byte{1}),
		"empty sequence":          slices.Concat(head, []byte{commandSeq}, make([]byte, 16), []byte{0, 0, 0, 0, 0}),
		"empty retry key":         slices.Concat(head, []byte{commandKey}, make([]byte, 16), []byte{0, 0}),
		"empty principal":         slices.Concat(head, []byte{commandBy, 0, 0, 0, 0, 0}),
		"empty last writer":       slices.Concat(head, []byte{0, 1, guardOr}, make([]byte, 19), make([]byte, 7)),
		"sorting by nothing":      slices.Concat(head, []byte{0, 0, 1, byte(tagRange), rangeSort, 0, 0, 0, 0, 0, 0}),
		"no bounds":               slices.Concat(head, []byte{0, 0, 1, byte(tagRange), rangeBounds, 0, 0, 0, 0, 0, 0, 0, 0}),
		"empty epoch":             slices.Concat([]byte{Version, byte(kindOutcome), 0, headerEpoch}, make([]byte, 24), []byte{0, 0, 0, 0}),
		"empty list of keys":      {Version, byte(kindOutcome), 0, 0, 0, 0, 0, 1, resultKVs, 0, 0},
		"empty list of results":   {Version, byte(kindOutcome), 0, 0, 0, 0, 0, 1, resultOps, 0, 0},
		"empty list of outcomes":  {Version, byte(kindOutcome), 0, 0, 0, 0, 0, 1, resultEach, 0, 0},
		"empty list of leases":    {Version, byte(kindOutcome), 0, 0, 0, 0, 0, 1, resultLeases, 0, 0},
		"a second of nanoseconds": slices.Concat([]byte{Version, byte(kindOutcome), outcomeQueued, receiptExpires, 0}, appendUint(nil, 1e9), make([]byte, 6)),
		"expiry never": slices.Concat([]byte{Version, byte(kindOutcome), outcomeQueued, receiptExpires},
			appendInt(nil, time.Time{}.Unix()), make([]byte, 7)),
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range codecs() {
				if kind(b[1]) != c.kind {
					continue
				}
				if v, err := c.dec(b); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%x: %+v, %v", b, v, err)
				}
				checkCanonical(t, c, b)
			}
		})
	}
}

func TestNewerFormatIsToldFromDamage(t *testing.T) {
	put := kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k")}}}
	b := AppendCommand(nil, put)
	flagsAt, opAt := 2, 5
	if b[opAt] != byte(tagPut) {
		t.Fatalf("the op is not where this test looks: %x", b)
	}
	for _, tc := range []struct {
		name string
		at   int
		to   byte
		want error
	}{
		{"next version", 0, Version + 1, ErrNewer},
		{"version 0", 0, 0, ErrMalformed},
		{"kind unknown", 1, byte(kindEnd), ErrNewer},
		{"kind 0", 1, 0, ErrMalformed},
		{"another kind", 1, byte(kindQuery), ErrMalformed},
		{"flag of the command", flagsAt, 0x80, ErrNewer},
		{"op unknown", opAt, byte(tagEnd), ErrNewer},
		{"op 0", opAt, 0, ErrMalformed},
		{"flag of the op", opAt + 1, 0x80, ErrNewer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := slices.Clone(b)
			b[tc.at] = tc.to
			_, err := DecodeCommand(b)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if errors.Is(tc.want, ErrNewer) && !strings.Contains(err.Error(), "newer version") {
				t.Fatalf("the message does not say what to do about it: %v", err)
			}
		})
	}
}

func TestEnumeratorsOfANewerVersionAreRefused(t *testing.T) {
	for name, c := range map[string]kv.Command{
		"lane":     {ID: kv.ID{Seq: kv.Seq{Lane: kv.LaneBulk + 1}}},
		"or":       {Guards: []kv.Guard{{Or: kv.Seq{N: 1, Lane: kv.LaneBulk + 1}}}},
		"guard":    {Guards: []kv.Guard{{Compare: kv.Compare{Target: kv.TargetLease + 1}}}},
		"relation": {Ops: []kv.Op{kv.Txn{Compares: []kv.Compare{{Relation: kv.NotEqual + 1}}}}},
		"sort":     {Ops: []kv.Op{kv.Range{Sort: kv.TargetLease + 1}}},
		"order":    {Ops: []kv.Op{kv.Txn{Else: []kv.Op{kv.Range{Order: kv.OrderDescend + 1}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := CheckCommand(c); kv.CodeOf(err) != kv.Invalid {
				t.Errorf("CheckCommand: %v", err)
			}
			if _, err := DecodeCommand(AppendCommand(nil, c)); !errors.Is(err, ErrNewer) {
				t.Errorf("DecodeCommand: %v", err)
			}
		})
	}
}

func TestOpsWithoutATagAreRefusedAtTheDoor(t *testing.T) {
	for name, op := range map[string]kv.Op{"nil": nil, "pointer": &kv.Put{}} {
		t.Run(name, func(t *testing.T) {
			nested := []kv.Op{kv.Txn{Then: []kv.Op{op}}}
			if err := CheckCommand(kv.Command{Ops: nested}); kv.CodeOf(err) != kv.Invalid {
				t.Errorf("CheckCommand: %v", err)
			}
			if err := CheckQuery(kv.Query{Ops: nested}); kv.CodeOf(err) != kv.Invalid {
				t.Errorf("CheckQuery: %v", err)
			}
			defer func() {
				if recover() == nil {
					t.Error("it was encoded")
				}
			}()
			AppendCommand(nil, kv.Command{Ops: nested})
		})
	}
}

func TestOpsThatStandAloneAreRefusedElsewhere(t *testing.T) {
	put := kv.Put{Key: []byte("k")}
	each := kv.Each{Commands: []kv.Command{{Ops: []kv.Op{put}}}}
	for _, op := range []kv.Op{each, kv.Skip{From: 1}} {
		for name, ops := range map[string][]kv.Op{
			"first of two":  {op, put},
			"second of two": {put, op},
			"in then":       {kv.Txn{Then: []kv.Op{op}}},
			"in else":       {kv.Txn{Else: []kv.Op{op}}},
		} {
			t.Run(fmt.Sprintf("%T %s", op, name), func(t *testing.T) {
				for _, c := range []kv.Command{{Ops: ops}, {Ops: []kv.Op{kv.Each{Commands: []kv.Command{{Ops: ops}}}}}} {
					if err := CheckCommand(c); kv.CodeOf(err) != kv.Invalid {
						t.Errorf("CheckCommand: %v", err)
					}
					if _, err := DecodeCommand(AppendCommand(nil, c)); !errors.Is(err, ErrMalformed) {
						t.Errorf("DecodeCommand: %v", err)
					}
				}
			})
		}
		if err := CheckCommand(kv.Command{Ops: []kv.Op{op}}); err != nil {
			t.Errorf("%T alone: %v", op, err)
		}
		q := kv.Query{Ops: []kv.Op{op}}
		if err := CheckQuery(q); kv.CodeOf(err) != kv.Invalid {
			t.Errorf("CheckQuery: %v", err)
		}
		if _, err := DecodeQuery(AppendQuery(nil, q)); !errors.Is(err, ErrMalformed) {
			t.Errorf("DecodeQuery: %v", err)
		}
	}
	nested := kv.Command{Ops: []kv.Op{kv.Each{Commands: []kv.Command{{Ops: []kv.Op{each}}}}}}
	if err := CheckCommand(nested); kv.CodeOf(err) != kv.Invalid {
		t.Errorf("CheckCommand of a batch in a batch: %v", err)
	}
	if _, err := DecodeCommand(AppendCommand(nil, nested)); !errors.Is(err, ErrMalformed) {
		t.Errorf("DecodeCommand of a batch in a batch: %v", err)
	}
}

func nest(depth int) []kv.Op {
	ops := []kv.Op{kv.Put{Key: []byte("k")}}
	for i := range depth {
		if i%2 == 0 {
			ops = []kv.Op{kv.Txn{Then: ops}}
		} else {
			ops = []kv.Op{kv.Txn{Else: ops}}
		}
	}
	return ops
}

func TestTransactionsNestToMaxDepth(t *testing.T) {
	for _, tc := range []struct {
		depth int
		ok    bool
	}{{0, true}, {1, true}, {MaxDepth, true}, {MaxDepth + 1, false}, {100_000, false}} {
		c := kv.Command{Ops: nest(tc.depth)}
		if err := CheckCommand(c); (err == nil) != tc.ok {
			t.Errorf("CheckCommand at depth %d: %v", tc.depth, err)
		}
		if _, err := DecodeCommand(AppendCommand(nil, c)); (err == nil) != tc.ok {
			t.Errorf("DecodeCommand at depth %d: %v", tc.depth, err)
		}
	}
	results := []kv.OpResult{{Count: 1}}
	for range MaxDepth + 1 {
		results = []kv.OpResult{{Ops: results}}
	}
	if _, err := DecodePage(AppendPage(nil, kv.Page{Ops: results})); !errors.Is(err, ErrMalformed) {
		t.Errorf("results nested too deep: %v", err)
	}
	if _, err := DecodePage(AppendPage(nil, kv.Page{Ops: results[0].Ops})); err != nil {
		t.Errorf("results at MaxDepth: %v", err)
	}
}

func TestSiblingsDoNotAddUpToDepth(t *testing.T) {
	var ops []kv.Op
	for range 3 * MaxDepth {
		ops = append(ops, kv.Txn{Then: []kv.Op{kv.Txn{}}})
	}
	if _, err := DecodeCommand(AppendCommand(nil, kv.Command{Ops: ops})); err != nil {
		t.Fatal(err)
	}
}

// hostile are messages that promise more than they hold, or hold what is dearest to keep.
func hostile() map[string][]byte {
	const size = 1 << 20
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	most := appendUint(nil, size/2)
	pad := make([]byte, size)
	var lies []byte // each list of then claims all that is left
	for range MaxDepth {
		lies = append(lies, byte(tagTxn), 0)
		lies = append(lies, most...)
	}
	return map[string][]byte{
		"value length": slices.Concat([]byte{Version, byte(kindCommand), 0, 0, 1, byte(tagPut), 0}, huge),
		"ops":          slices.Concat([]byte{Version, byte(kindCommand), 0, 0}, huge, pad),
		"guards":       slices.Concat([]byte{Version, byte(kindCommand), 0}, appendUint(nil, size/7), pad),
		"nested lies":  slices.Concat([]byte{Version, byte(kindCommand), 0, 0}, most, lies, pad),
		"results":      AppendPage(nil, kv.Page{Ops: make([]kv.OpResult, size/2)}),
		"keys":         AppendPage(nil, kv.Page{Ops: []kv.OpResult{{KVs: make([]kv.KeyValue, size/6)}}}),
		"events":       AppendBatch(nil, kv.Batch{Events: slices.Repeat([]kv.Event{{Prev: &kv.KeyValue{}}}, size/13)}),
		"watches":      AppendWatchSpec(nil, kv.WatchSpec{Watches: make([]kv.Watch, size/5)}),
		"lists":        AppendCommand(nil, kv.Command{Ops: slices.Repeat([]kv.Op{kv.LeaseList{}}, size)}),
		"txns":         AppendCommand(nil, kv.Command{Ops: slices.Repeat([]kv.Op{kv.Txn{}}, size/4)}),
		"ranges":       AppendCommand(nil, kv.Command{Ops: slices.Repeat([]kv.Op{kv.Range{}}, size/6)}),
		"ttls":         AppendCommand(nil, kv.Command{Ops: slices.Repeat([]kv.Op{kv.LeaseTTL{}}, size/3)}),
		"batches":      AppendCommand(nil, kv.Command{Ops: []kv.Op{kv.Each{Commands: make([]kv.Command, size/3)}}}),
		"outcomes":     AppendOutcome(nil, kv.Outcome{Result: kv.Result{Ops: []kv.OpResult{{Each: make([]kv.Outcome, size/6)}}}}),
		"guarded":      AppendCommand(nil, kv.Command{Guards: make([]kv.Guard, size/7)}),
	}
}

func TestDecodingAllocatesInProportionToItsInput(t *testing.T) {
	const small = 16 << 10 // reader, error text, size classes
	for name, b := range hostile() {
		t.Run(name, func(t *testing.T) {
			for _, c := range codecs() {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				_, _ = c.dec(b) // most of it is refused
				runtime.ReadMemStats(&after)
				if got := after.TotalAlloc - before.TotalAlloc; got > uint64(maxAmplification*len(b)+small) {
					t.Errorf("%v: %d bytes allocated for %d", c.kind, got, len(b))
				}
			}
		})
	}
}

func TestDecodedBytesCannotGrowIntoTheirNeighbours(t *testing.T) {
	b := AppendCommand(nil, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("key"), Value: []byte("value")}}})
	c, err := DecodeCommand(b)
	if err != nil {
		t.Fatal(err)
	}
	put := c.Ops[0].(kv.Put)
	_ = append(put.Key, "!!!!!"...)
	if string(put.Value) != "value" {
		t.Fatalf("appending to the key made the value %q", put.Value)
	}
}

func TestUnknownCodeStaysARefusal(t *testing.T) {
	e, err := DecodeError(AppendError(nil, &kv.Error{Code: kv.Code(kv.Codes), Detail: "new"}))
	if err != nil || e.Code != kv.Code(kv.Codes) || e.Detail != "new" {
		t.Fatalf("%+v, %v", e, err)
	}
}

func TestFingerprintsTellCommandsApart(t *testing.T) {
	a := AppendCommand(nil, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("ab"), Value: []byte("c")}}})
	b := AppendCommand(nil, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("a"), Value: []byte("bc")}}})
	if Fingerprint(a) == Fingerprint(b) || Fingerprint(a) != Fingerprint(slices.Clone(a)) {
		t.Fatalf("%x, %x", Fingerprint(a), Fingerprint(b))
	}
}

func TestARetryKeyIsFoundWithoutTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genCommand(t)
		b := AppendCommand(nil, c)
		if key := RetryKey(b); key != c.ID.Key {
			t.Fatalf("retry key %x of %+v", key, c)
		}
		RetryKey(b[:draw(t, rapid.IntRange(0, len(b)))]) // cut short, it is none
	})
	if key := RetryKey(nil); key != [16]byte{} {
		t.Errorf("of nothing: %x", key)
	}
}

// FuzzDecode feeds every decoder anything. Messages name their kind, so at most one of the decoders goes on.
func FuzzDecode(f *testing.F) {
	for _, c := range codecs() {
		f.Add(c.enc(nil, c.value()))
	}
	for _, b := range hostile() {
		f.Add(b[:min(len(b), 256)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range codecs() {
			checkCanonical(t, c, b)
		}
	})
}

// FuzzCommand drives the generators, so that the fuzzer explores values rather than bytes.
func FuzzCommand(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		c := genCommand(t)
		if err := CheckCommand(c); err != nil {
			t.Fatal(err)
		}
		got, err := DecodeCommand(AppendCommand(nil, c))
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Fatalf("got  %+v, %v\nwant %+v", got, err, c)
		}
		if key := RetryKey(AppendCommand(nil, c)); key != c.ID.Key {
			t.Fatalf("retry key %x, want %x", key, c.ID.Key)
		}
	}))
}
