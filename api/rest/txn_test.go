package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/wire"
	"holdfast/kv"
)

func (n *node) txn(body string) reply { return n.call("POST", "/v1/txn", body) }

func TestATransactionTakesOneBranch(t *testing.T) {
	n := serve(t)
	const lock = `{"compare":[{"key":"lock","mod_revision":0}],
		"then":[{"put":{"key":"lock","value":"me"}},{"put":{"key_base64":"/w==","value_base64":"AP8="}}],
		"else":[{"get":{"key":"lock"}}]}`
	r := n.txn(lock).want(t, 200)
	if want := `{"succeeded":true,"results":[{"put":{"created":true}},{"put":{"created":true}}],"revision":2}` + "\n"; r.body != want {
		t.Errorf("%s, want %s", r.body, want)
	}
	r.wantHeaders(t, map[string]string{"Holdfast-Revision": "2", "Holdfast-Epoch": n.epoch(), "Content-Type": "application/json", "Holdfast-Age": ""})
	n.wantStored("lock", "me")
	n.wantStored("\xff", "\x00\xff")
	r = n.txn(lock).want(t, 200)
	if want := `{"succeeded":false,"results":[{"get":{"kvs":[{"key":"lock","key_base64":"bG9jaw==","value_base64":"bWU=","create_revision":2,"mod_revision":2,"version":1}],"count":1,"more":false}}],"revision":2}` + "\n"; r.body != want {
		t.Errorf("%s, want %s", r.body, want)
	}
}

func TestWhatAConditionLooksAt(t *testing.T) {
	n := serve(t)
	n.put("p/a", "5")
	n.put("p/b", "6")
	n.put("p/b", "7") // revisions 2, 4; versions 1, 2
	for condition, holds := range map[string]bool{
		`"key":"p/a","version":1`:                                        true,
		`"key":"p/b","version":1`:                                        false,
		`"key":"p/b","version":1,"is":"greater"`:                         true,
		`"key":"p/b","create_revision":3`:                                true,
		`"key":"p/b","mod_revision":4`:                                   true,
		`"key":"p/b","is":"less","mod_revision":4`:                       false,
		`"key":"p/b","mod_revision":3,"is":"not_equal"`:                  true,
		`"key":"p/b","value":"7"`:                                        true,
		`"key":"p/b","value_base64":"Nw=="`:                              true,
		`"key":"p/b","value":"6","is":"greater"`:                         true,
		`"key":"p/b","lease":"0"`:                                        true,
		`"key":"p/b","lease":"1"`:                                        false,
		`"key":"none","version":0`:                                       true,
		`"key":"none","value":""`:                                        false,
		`"key":"p/","prefix":true,"version":0,"is":"greater"`:            true,
		`"key":"p/","prefix":true,"version":1`:                           false,
		`"key":"","prefix":true,"mod_revision":5,"is":"less"`:            true,
		`"key":"p/a","end":"p/b","version":1`:                            true,
		`"key":"p/a","end_base64":"AA==","value":"4","is":"greater"`:     true,
		`"key":"p/b","end_base64":"AA==","value":"7"`:                    true,
		`"key":"q","end_base64":"AA==","create_revision":0,"is":"equal"`: true,
	} {
		r := n.txn(`{"compare":[{`+condition+`}]}`).want(t, 200)
		if got := r.object(t)["succeeded"]; got != holds {
			t.Errorf("%s: %v, want %v", condition, got, holds)
		}
	}
}

func TestTransactionsNest(t *testing.T) {
	n := serve(t)
	n.put("a", "old")
	r := n.txn(`{"then":[
		{"txn":{"compare":[{"key":"a","value":"old"}],
			"then":[{"delete":{"key":"a","prev_kv":true}},{"txn":{"else":[{"put":{"key":"never","value":""}}]}}],
			"else":[{"put":{"key":"never","value":""}}]}},
		{"txn":{"compare":[{"key":"a","value":"new"}],"else":[{"put":{"key":"b","value":"1","prev_kv":true}}]}},
		{"get":{"key":"","prefix":true,"keys_only":true}}]}`).want(t, 200)
	want := `{"succeeded":true,"results":[` +
		`{"txn":{"succeeded":true,"results":[{"delete":{"deleted":1,"prev_kvs":[{"key":"a","key_base64":"YQ==","value_base64":"b2xk","create_revision":2,"mod_revision":2,"version":1}]}},{"txn":{"succeeded":true,"results":[]}}]}},` +
		`{"txn":{"succeeded":false,"results":[{"put":{"created":true}}]}},` +
		`{"get":{"kvs":[{"key":"b","key_base64":"Yg==","create_revision":3,"mod_revision":3,"version":1}],"count":1,"more":false}}],"revision":3}` + "\n"
	if r.body != want {
		t.Errorf("got  %s\nwant %s", r.body, want)
	}
	n.wantStored("b", "1")
}

// What a transaction says is what the node is asked, member by member.
func TestATransactionIsPassedOnWhole(t *testing.T) {
	n := serve(t)
	var asked []kv.Op
	n.between.do = func(_ context.Context, c kv.Command) (kv.Result, error) {
		asked = c.Ops
		return kv.Result{}, kv.Errorf(kv.NoLeader, "enough")
	}
	n.between.read = func(_ context.Context, q kv.Query) (kv.Page, error) {
		asked = q.Ops
		return kv.Page{}, kv.Errorf(kv.NoLeader, "enough")
	}
	for body, want := range map[string]kv.Op{
		`{"put":{"key":"a","value":"v","lease":"7fffffffffffffff","prev_kv":true}}`: kv.Put{Key: []byte("a"), Value: []byte("v"), Lease: 1<<63 - 1, PrevKV: true},
		`{"put":{"key":"a","ignore_value":true,"lease":"FFFFFFFFFFFFFFFF"}}`:        kv.Put{Key: []byte("a"), IgnoreValue: true, Lease: -1},
		`{"put":{"key":"a","value":"","ignore_lease":true}}`:                        kv.Put{Key: []byte("a"), Value: []byte{}, IgnoreLease: true},
		`{"put":{"key":"a","value":"\ud83d\ude00"}}`:                                kv.Put{Key: []byte("a"), Value: []byte("😀")},
		`{"delete":{"key":"a/","prefix":true,"prev_kv":true}}`:                      kv.Delete{Key: []byte("a/"), End: []byte("a0"), PrevKV: true},
		`{"delete":{"key":"","prefix":true}}`:                                       kv.Delete{Key: []byte{0}, End: []byte{0}},
		`{"get":{"key":"a"}}`:                                                       kv.Range{Key: []byte("a"), Limit: listKeysMax},
		`{"get":{"key":"a","end":"b","limit":99999,"revision":7,"keys_only":true,"sort":"mod_revision","order":"descending"}}`: kv.Range{
			Key: []byte("a"), End: []byte("b"), Limit: listKeysMax, Revision: 7, KeysOnly: true, Sort: kv.TargetMod, Order: kv.OrderDescend},
		`{"get":{"key":"a","count_only":true,"min_mod_revision":1,"max_mod_revision":2,"min_create_revision":3,"max_create_revision":4}}`: kv.Range{
			Key: []byte("a"), Limit: listKeysMax, CountOnly: true, MinMod: 1, MaxMod: 2, MinCreate: 3, MaxCreate: 4},
	} {
		n.txn(`{"else":[`+body+`]}`).refused(t, 503, "no-leader")
		if got := fmt.Sprintf("%#v", asked[0].(kv.Txn).Else[0]); got != fmt.Sprintf("%#v", want) {
			t.Errorf("%s\nasked %s\nwant  %#v", body, got, want)
		}
	}
}

// A transaction that only reads is a read: as fresh as asked for, and with the headers that say how fresh it was.
func TestATransactionThatOnlyReadsIsARead(t *testing.T) {
	n := serve(t)
	n.put("a", "1")
	n.between.do = func(context.Context, kv.Command) (kv.Result, error) {
		return kv.Result{}, errors.New("it was sent as a command")
	}
	var last kv.Query
	n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
		last = q
		return n.store.Read(ctx, q)
	}
	const body = `{"compare":[{"key":"a","version":1}],"then":[{"get":{"key":"a"}},{"txn":{"else":[{"get":{"key":"a"}}]}}]}`
	r := n.call("POST", "/v1/txn?consistency=local", body).want(t, 200)
	if !last.LocalOnly || last.MaxAge != kv.Unlimited {
		t.Errorf("asked %+v", last)
	}
	r.wantHeaders(t, map[string]string{"Holdfast-Source": "member", "Holdfast-Age": "0", "Holdfast-Revision": "2"})
	n.call("POST", "/v1/txn?wait=1ms", body, "Holdfast-Min-Revision", "3").refused(t, 504, "revision-timeout")
	n.call("POST", "/v1/txn?index=1", body).refused(t, 400, "invalid")
	const write = `{"then":[{"txn":{"else":[{"delete":{"key":"a"}}]}}]}`
	for _, query := range []string{"?consistency=local", "?write=sync", "?x"} {
		n.call("POST", "/v1/txn"+query, write).refused(t, 400, "invalid")
	}
	n.call("POST", "/v1/txn", write, "If-Match", `"2"`).refused(t, 400, "invalid")
	n.call("POST", "/v1/txn", write, "If-None-Match", "*").refused(t, 400, "invalid")
}

func TestARefusedTransactionSaysWhere(t *testing.T) {
	n := serve(t)
	for body, want := range map[string]string{
		``:            "the JSON ends too early",
		`{`:           "the JSON ends too early",
		`[]`:          "an object was to stand here",
		`null`:        "an object was to stand here",
		`{"then"}`:    "not JSON",
		`{"when":[]}`: "when (at byte 7): there is no such member here; it may be one of compare, then and else",
		`{"then":[{"put":{"kye":"a","value":"1"}}]}`:           "then[0].put.kye (at byte 22): there is no such member",
		`{"then":[{"get":{"key":"a"}},{"get":{"key":1}}]}`:     "then[1].get.key (at byte 44): a string was to stand here",
		`{"then":[],"then":[]}`:                                "then (at byte 17): given twice",
		`{"then":[{"put":{"key":"a","key":"b","value":"1"}}]}`: "then[0].put.key (at byte 32): given twice",
		`{"then":[]} {}`: "something stands behind",
		`{"then":[{}]}`:  "then[0] (at byte 11): an operation is missing",
		`{"then":[{"put":{"key":"a","value":"1"},"get":{"key":"a"}}]}`: "then[0].get (at byte 45): one operation is one object",
		`{"then":[{"post":{}}]}`:                                                     "one of put, get, delete and txn",
		`{"then":[{"put":{"value":"1"}}]}`:                                           "the key is missing",
		`{"then":[{"put":{"key":"a"}}]}`:                                             "the value is missing",
		`{"then":[{"put":{"key":"","value":"1"}}]}`:                                  "the key is empty",
		`{"then":[{"put":{"key":"a","key_base64":"YQ==","value":"1"}}]}`:             "give key or key_base64, not both",
		`{"then":[{"put":{"key":"a","value":"1","value_base64":"YQ=="}}]}`:           "give value or value_base64, not both",
		`{"then":[{"put":{"key":"a","value":"1","ignore_value":true}}]}`:             "a value is given, and to be ignored",
		`{"then":[{"put":{"key":"a","value":"1","lease":"1","ignore_lease":true}}]}`: "a lease is given, and to be ignored",
		`{"then":[{"put":{"key":"a","value":"1","lease":7}}]}`:                       "then[0].put.lease",
		`{"then":[{"put":{"key":"a","value":"1","lease":"0"}}]}`:                     "up to 16 hexadecimal digits",
		`{"then":[{"put":{"key":"a","value":"1","prefix":true}}]}`:                   "no such member",
		`{"then":[{"put":{"key":"a","value":1}}]}`:                                   "a string was to stand here",
		`{"then":[{"put":{"key_base64":"Y","value":"1"}}]}`:                          "not base64",
		`{"then":[{"put":{"key_base64":"YR==","value":"1"}}]}`:                       "not base64", // bits that nothing shows
		`{"then":[{"get":{"key":"b","end":"a"}}]}`:                                   "no key lies between them",
		`{"then":[{"get":{"key":"b","end":""}}]}`:                                    "the end is empty",
		`{"then":[{"get":{"key":"b","end":"c","prefix":true}}]}`:                     "give prefix or an end, not both",
		`{"then":[{"get":{"key":"b","end":"c","end_base64":"ZA=="}}]}`:               "give end or end_base64, not both",
		`{"then":[{"get":{"key":"b","limit":0}}]}`:                                   "a whole number of at least 1",
		`{"then":[{"get":{"key":"b","limit":1.5}}]}`:                                 "a whole number of at least 1",
		`{"then":[{"get":{"key":"b","limit":99999999999999999999}}]}`:                "a whole number of at least 1",
		`{"then":[{"get":{"key":"b","sort":"size"}}]}`:                               `"size" is none of key version create_revision mod_revision value`,
		`{"then":[{"get":{"key":"b","keys_only":1}}]}`:                               "true or false was to stand here",
		`{"compare":[{"key":"a"}]}`:                                                  "it does not say what of the key is compared",
		`{"compare":[{"version":1}]}`:                                                "the key is missing",
		`{"compare":[{"key":"a","version":1,"lease":"1"}]}`:                          "a condition looks at one thing",
		`{"compare":[{"key":"a","version":1,"is":"<"}]}`:                             `"<" is none of equal greater less not_equal`,
		`{"compare":[{"key":"a","version":-1}]}`:                                     "a whole number of at least 0",
		`{"compare":[{"key":"a","lease":"x"}]}`:                                      `"0" is none`,
		"{\"then\":[{\"put\":{\"key\":\"\xff\",\"value\":\"1\"}}]}":                  "not UTF-8",
		`{"then":[{"put":{"key":"\ud800","value":"1"}}]}`:                            "at byte 24: half of a surrogate pair",
		`{"then":[{"put":{"key":"\udc00\ud800","value":"1"}}]}`:                      "half of a surrogate pair",
		`{"` + large(1000) + `":1}`:                                                  "xxxxxxxxxx... (at byte",
	} {
		p := n.txn(body).refused(t, 400, "invalid")
		if detail := fmt.Sprint(p["detail"]); !strings.Contains(detail, want) || len(detail) > 400 {
			t.Errorf("%.80s\nsaid %s\nwant %s", body, detail, want)
		}
	}
	n.txn(`{"then":[{"put":{"key":"a","value":"1"}},{"put":{"key":"a","value":"2"}}]}`).refused(t, 400, "duplicate-key")
	n.wantEmpty()
}

func TestATransactionHasLimits(t *testing.T) {
	n := serve(t, func(o *Options) { o.OpsMax, o.KeyMax, o.ValueMax, o.RequestMax = 4, 5, 6, 500 })
	get := func(count int) string {
		return strings.TrimSuffix(strings.Repeat(`{"get":{"key":"a"}},`, count), ",")
	}
	n.txn(`{"then":[`+get(4)+`]}`).want(t, 200)
	n.txn(`{"then":[`+get(5)+`]}`).refused(t, 400, "too-many-ops")
	n.txn(`{"then":[`+get(2)+`],"else":[`+get(3)+`]}`).refused(t, 400, "too-many-ops")
	n.txn(`{"then":[{"txn":{"then":[`+get(3)+`]}}]}`).want(t, 200)
	n.txn(`{"then":[{"txn":{"then":[`+get(4)+`]}}]}`).refused(t, 400, "too-many-ops")
	compare := `{"key":"a","version":1}`
	n.txn(`{"compare":[`+strings.Repeat(compare+",", 3)+compare+`]}`).want(t, 200)
	n.txn(`{"compare":[`+strings.Repeat(compare+",", 4)+compare+`]}`).refused(t, 400, "too-many-ops")
	n.txn(`{"then":[{"get":{"key":"abcde"}}]}`).want(t, 200)
	n.txn(`{"then":[{"get":{"key":"abcdef"}}]}`).refused(t, 413, "too-large")
	n.txn(`{"then":[{"get":{"key":"a","end":"bbbbbb"}}]}`).refused(t, 413, "too-large")
	n.txn(`{"then":[{"put":{"key":"a","value":"1234567"}}]}`).refused(t, 413, "too-large")
	n.txn(`{"compare":[{"key":"a","value":"1234567"}]}`).refused(t, 413, "too-large")
	n.txn(`{"then":[{"put":{"key":"a","value":"12345"}}]}`+strings.Repeat(" ", 500)).refused(t, 413, "too-large")
	n.wantEmpty()
	n.txn(`{"then":[{"put":{"key":"abcde","value":"123456"}}]}`).want(t, 200)

	n = serve(t)
	nested := func(depth int) string {
		return strings.Repeat(`{"then":[{"txn":`, depth) + "{}" + strings.Repeat("}]}", depth)
	}
	n.txn(nested(wire.MaxDepth-1)).want(t, 200)
	n.txn(nested(wire.MaxDepth)).refused(t, 400, "too-many-ops")
}

func TestATransactionsBodyIsReadWhole(t *testing.T) {
	n := serve(t)
	const body = `{"then":[{"put":{"key":"a","value":"1"}}]}`
	n.call("POST", "/v1/txn", body, "Content-Encoding", "gzip").refused(t, 415, "unsupported-encoding")
	conn, br := n.raw("POST /v1/txn HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body)+1, body)
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	n.answer(br).refused(t, 400, "invalid")
	n.wantEmpty()
}

// What is taken, says what it means: shown again by our own hand it is taken as the same. What is refused is refused as
// a fault of the request. Nothing panics.
func FuzzTxn(f *testing.F) {
	for _, body := range []string{
		`{"compare":[{"key":"a","mod_revision":0,"is":"less"},{"key":"","prefix":true,"value_base64":"AA=="}],"then":[{"put":{"key":"a","value":"1"}}],"else":[{"get":{"key":"a","end":"b"}}]}`,
		`{"then":[{"txn":{"then":[{"delete":{"key_base64":"/w==","prev_kv":true}}]}}]}`,
		`{"then":[{"put":{"key":"\ud83d\ude00","value":"\\u0000","lease":"ff"}}]}`,
		`{"then":[{"get":{"key":"a","limit":1,"sort":"value","order":"descending"}}]}`, `{}`, `[`, `{"a":"\ud800"}`, "\xff",
	} {
		f.Add([]byte(body))
	}
	h := New(Options{Backend: &between{}, Reporter: reporter{}})
	f.Fuzz(func(t *testing.T, body []byte) {
		txn, err := h.parseTxn(body)
		if err != nil {
			switch kv.CodeOf(err) {
			case kv.Invalid, kv.TooLarge, kv.TooManyOps:
			default:
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("%q was taken and is not JSON", body)
		}
		if err := wire.CheckCommand(kv.Command{Ops: []kv.Op{txn}}); err != nil {
			t.Fatalf("%q was taken, and cannot be sent: %v", body, err)
		}
		again, err := h.parseTxn([]byte(showTxn(txn)))
		if err != nil || fmt.Sprintf("%#v", again) != fmt.Sprintf("%#v", txn) {
			t.Fatalf("%q\nis   %#v\nshown %s\nis   %#v (%v)", body, txn, showTxn(txn), again, err)
		}
	})
}

// showTxn writes a transaction as a request has it, in the form with the least words.
func showTxn(t kv.Txn) string {
	list := func(ops []kv.Op) string {
		var out []string
		for _, op := range ops {
			out = append(out, showOp(op))
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	var compares []string
	for _, c := range t.Compares {
		what := map[kv.Target]string{kv.TargetVersion: "version", kv.TargetCreate: "create_revision", kv.TargetMod: "mod_revision"}[c.Target]
		switch c.Target {
		case kv.TargetValue:
			what = fmt.Sprintf(`"value_base64":%s`, asJSON(c.Value))
		case kv.TargetLease:
			what = fmt.Sprintf(`"lease":"%x"`, uint64(c.Num))
		default:
			what = fmt.Sprintf(`%q:%d`, what, c.Num)
		}
		compares = append(compares, fmt.Sprintf(`{%s,"is":%q,%s}`, showSpan(c.Key, c.End), relations[c.Relation].name, what))
	}
	members := []string{}
	if t.Compares != nil {
		members = append(members, `"compare":[`+strings.Join(compares, ",")+`]`)
	}
	if t.Then != nil {
		members = append(members, `"then":`+list(t.Then))
	}
	if t.Else != nil {
		members = append(members, `"else":`+list(t.Else))
	}
	return "{" + strings.Join(members, ",") + "}"
}

func showOp(op kv.Op) string {
	switch op := op.(type) {
	case kv.Put:
		s := showSpan(op.Key, nil) + fmt.Sprintf(`,"prev_kv":%v,"ignore_value":%v,"ignore_lease":%v`, op.PrevKV, op.IgnoreValue, op.IgnoreLease)
		if op.Value != nil {
			s += `,"value_base64":` + asJSON(op.Value)
		}
		if op.Lease != 0 {
			s += fmt.Sprintf(`,"lease":"%x"`, uint64(op.Lease))
		}
		return `{"put":{` + s + `}}`
	case kv.Delete:
		return fmt.Sprintf(`{"delete":{%s,"prev_kv":%v}}`, showSpan(op.Key, op.End), op.PrevKV)
	case kv.Range:
		s := fmt.Sprintf(`%s,"limit":%d,"keys_only":%v,"count_only":%v,"sort":%q`, showSpan(op.Key, op.End), op.Limit, op.KeysOnly, op.CountOnly, sorts[op.Sort].name)
		if op.Order != kv.OrderNone {
			s += `,"order":"` + orders[op.Order-1].name + `"`
		}
		for name, v := range map[string]int64{"revision": op.Revision, "min_mod_revision": op.MinMod, "max_mod_revision": op.MaxMod,
			"min_create_revision": op.MinCreate, "max_create_revision": op.MaxCreate} {
			if v > 0 {
				s += fmt.Sprintf(`,%q:%d`, name, v)
			}
		}
		return `{"get":{` + s + `}}`
	case kv.Txn:
		return `{"txn":` + showTxn(op) + `}`
	}
	panic(fmt.Sprintf("%T", op))
}

func showSpan(key, end []byte) string {
	s := `"key_base64":` + asJSON(key)
	if len(end) > 0 {
		s += `,"end_base64":` + asJSON(end)
	}
	return s
}

// asJSON shows bytes in base64.
func asJSON(b []byte) string {
	out, _ := json.Marshal(b) // never fails
	return string(out)
}
