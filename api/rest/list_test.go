package rest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"holdfast/kv"
)

// listed is a list as a client reads it.
type listed struct {
	KVs []struct {
		Key            *string
		KeyBase64      []byte  `json:"key_base64"`
		Value          *[]byte `json:"value"`
		CreateRevision int64   `json:"create_revision"`
		ModRevision    int64   `json:"mod_revision"`
		Version        int64
		Lease          string
	}
	Revision int64
	Count    int64
	More     bool
	Next     string
}

func (r reply) list(t *testing.T) (l listed) {
	t.Helper()
	r.want(t, 200)
	d := json.NewDecoder(strings.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		t.Fatalf("%q: %v", r.body, err)
	}
	return l
}

func (l listed) keys() (out []string) {
	for _, item := range l.KVs {
		out = append(out, string(item.KeyBase64))
	}
	return out
}

func wantKeys(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("keys %q, want %q", got, want)
	}
}

func TestAListShowsTheKeysUnderAPrefix(t *testing.T) {
	n := serve(t)
	for _, key := range []string{"a", "p", "p/b", "p/a", "p0", "\xff"} {
		n.put(key, "value of "+key)
	}
	n.put("p/a", "")
	r := n.call("GET", "/v1/kv/p/?prefix", "")
	l := r.list(t)
	wantKeys(t, l.keys(), "p/a", "p/b")
	if l.Revision != 8 || l.Count != 2 || l.More || l.Next != "" {
		t.Errorf("%+v", l)
	}
	a, b := l.KVs[0], l.KVs[1]
	if *a.Key != "p/a" || len(*a.Value) != 0 || a.CreateRevision != 5 || a.ModRevision != 8 || a.Version != 2 {
		t.Errorf("%+v", a)
	}
	if string(*b.Value) != "value of p/b" {
		t.Errorf("%+v", b)
	}
	r.wantHeaders(t, map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "ETag": "", "Holdfast-Revision": "8", "Age": "0"})
	wantKeys(t, n.call("GET", "/v1/kv/p?prefix", "").list(t).keys(), "p", "p/a", "p/b", "p0")
	wantKeys(t, n.call("GET", "/v1/kv/?prefix", "").list(t).keys(), "a", "p", "p/a", "p/b", "p0", "\xff")
	wantKeys(t, n.call("GET", "/v1/kv/%ff?prefix=true", "").list(t).keys(), "\xff")
	none := n.call("GET", "/v1/kv/none?prefix=1", "")
	if none.body != `{"kvs":[],"revision":8,"count":0,"more":false}`+"\n" {
		t.Errorf("an empty list is %q", none.body)
	}
	if r := n.call("HEAD", "/v1/kv/p?prefix", "").want(t, 200); r.body != "" {
		t.Errorf("HEAD has a body: %q", r.body)
	}
	n.call("GET", "/v1/kv/p?prefix=false", "").want(t, 200).wantHeaders(t, map[string]string{"ETag": `"3"`})
}

func TestAKeyThatIsNotTextIsShownInBase64Only(t *testing.T) {
	n := serve(t)
	n.put("\xc3\x28\"\\\n", "v")
	n.put("q\"\\\n\u2028\x7f", "v")
	l := n.call("GET", "/v1/kv/?prefix", "").list(t)
	if *l.KVs[0].Key != "q\"\\\n\u2028\x7f" {
		t.Errorf("key %q", *l.KVs[0].Key)
	}
	if l.KVs[1].Key != nil || string(l.KVs[1].KeyBase64) != "\xc3\x28\"\\\n" {
		t.Errorf("%+v", l.KVs[1])
	}
}

func TestAListOfKeysOnly(t *testing.T) {
	n := serve(t)
	n.put("a", large(1000))
	r := n.call("GET", "/v1/kv/?prefix&keys_only", "")
	if l := r.list(t); l.KVs[0].Value != nil || *l.KVs[0].Key != "a" || l.KVs[0].ModRevision != 2 {
		t.Errorf("%s", r.body)
	}
}

func TestPagesOfAListAreOfOneRevision(t *testing.T) {
	n := serve(t)
	for i := range 100 {
		n.put(fmt.Sprintf("p/%02d", i), "v")
	}
	var got []string
	path := "/v1/kv/p/?prefix&limit=7"
	pages := 0
	for next := ""; ; pages++ {
		l := n.call("GET", path+next, "").list(t)
		if l.Revision != 101 || l.Count != 100 {
			t.Fatalf("page %d: revision %d, count %d; want 101 and 100", pages, l.Revision, l.Count)
		}
		got = append(got, l.keys()...)
		if l.More != (l.Next != "") {
			t.Fatalf("page %d: more %v, next %q", pages, l.More, l.Next)
		}
		if !l.More {
			break
		}
		next = "&after=" + l.Next
		// Others write on, before and behind where the list is.
		n.put("p/00/new", "v")
		n.put("p/99/new", "v")
		if _, err := n.store.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("p/98")}}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 100 || pages != 14 {
		t.Errorf("%d keys on %d pages, want the 100 of revision 101 on 15", len(got), pages+1)
	}
	for i, key := range got {
		if key != fmt.Sprintf("p/%02d", i) {
			t.Fatalf("place %d: %q", i, key)
		}
	}
}

func TestAPageIsBoundedInKeys(t *testing.T) {
	n := serve(t)
	for i := range listKeysMax + 10 {
		n.put(fmt.Sprintf("%04d", i), "")
	}
	for _, limit := range []string{"", "&limit=999999999999", "&limit=1000"} {
		l := n.call("GET", "/v1/kv/?prefix"+limit, "").list(t)
		if len(l.KVs) != listKeysMax || !l.More || l.Count != listKeysMax+10 {
			t.Errorf("%s: %d keys, more %v, count %d", limit, len(l.KVs), l.More, l.Count)
		}
	}
	l := n.call("GET", "/v1/kv/?prefix&keys_only", "").list(t)
	if len(l.KVs) != listKeysMax || !l.More {
		t.Errorf("keys only: %d keys, more %v", len(l.KVs), l.More)
	}
	l = n.call("GET", "/v1/kv/?prefix&after="+l.Next, "").list(t)
	if len(l.KVs) != 10 || l.More || l.Count != listKeysMax+10 {
		t.Errorf("last page: %d keys, more %v, count %d", len(l.KVs), l.More, l.Count)
	}
}

func TestAPageIsBoundedInBytes(t *testing.T) {
	n := serve(t)
	const size, count = 300 << 10, 40
	for i := range count {
		n.put(fmt.Sprintf("%02d", i), large(size))
	}
	var got []string
	for next := ""; ; {
		r := n.call("GET", "/v1/kv/?prefix"+next, "")
		if bound := (listBytesMax + size*listFirst) * 4 / 3; len(r.body) > bound {
			t.Fatalf("a page of %d bytes, want at most %d", len(r.body), bound)
		}
		l := r.list(t)
		got = append(got, l.keys()...)
		if !l.More {
			break
		}
		next = "&after=" + l.Next
	}
	if len(got) != count {
		t.Errorf("%d keys, want %d", len(got), count)
	}
}

func TestAListWhoseRevisionIsGoneSaysSo(t *testing.T) {
	n := serve(t)
	for i := range 10 {
		n.put(fmt.Sprint(i), "v")
	}
	l := n.call("GET", "/v1/kv/?prefix&limit=3", "").list(t)
	last := n.put("0", "w")
	if _, err := n.store.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Compact{Revision: last}}}); err != nil {
		t.Fatal(err)
	}
	p := n.call("GET", "/v1/kv/?prefix&limit=3&after="+l.Next, "").refused(t, 410, "compacted")
	if p["oldest_revision"] != float64(last) {
		t.Errorf("%v, want the oldest revision, %d", p, last)
	}
}

func TestAListOfAnotherHistoryIsNotGoneOnWith(t *testing.T) {
	one, other := serve(t), serve(t)
	for _, n := range []*node{one, other} {
		for i := range 10 {
			n.put(fmt.Sprint(i), "v")
		}
	}
	l := one.call("GET", "/v1/kv/?prefix&limit=3", "").list(t)
	other.call("GET", "/v1/kv/?prefix&limit=3&after="+l.Next, "").refused(t, 410, "compacted")
}

func TestWhatIsNoCursorIsRefused(t *testing.T) {
	n := serve(t)
	n.put("p/1", "v")
	n.put("p/2", "v")
	l := n.call("GET", "/v1/kv/p/?prefix&limit=1", "").list(t)
	for _, token := range []string{"", "x", "p/1", "!!", base64.RawURLEncoding.EncodeToString(make([]byte, 40)), l.Next[:20], "%00"} {
		n.call("GET", "/v1/kv/p/?prefix&after="+token, "").refused(t, 400, "invalid")
	}
	n.call("GET", "/v1/kv/q/?prefix&after="+l.Next, "").refused(t, 400, "invalid") // of another prefix
	for _, limit := range []string{"0", "-1", "x", "", "1.5"} {
		n.call("GET", "/v1/kv/p/?prefix&limit="+limit, "").refused(t, 400, "invalid")
	}
	n.call("GET", "/v1/kv/p/?prefix=perhaps", "").refused(t, 400, "invalid")
}

// A list needs a fresh answer once; what follows is pinned to that revision, and can come from anywhere.
func TestOnlyTheFirstReadOfAPageHasToBeFresh(t *testing.T) {
	n := serve(t)
	for i := range 50 {
		n.put(fmt.Sprintf("%02d", i), "v")
	}
	var queries []kv.Query
	n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
		queries = append(queries, q)
		return n.store.Read(ctx, q)
	}
	l := n.call("GET", "/v1/kv/?prefix&limit=40&consistency=linearizable", "").list(t)
	if len(l.KVs) != 40 || len(queries) != 2 {
		t.Fatalf("%d keys in %d reads", len(l.KVs), len(queries))
	}
	if queries[0].MaxAge != 0 || queries[1].MaxAge != kv.Unlimited || queries[1].Ops[0].(kv.Range).Revision != 51 || queries[1].MinRevision != 51 {
		t.Errorf("%+v", queries)
	}
}

func TestAListThatFailsInTheMiddleIsAnError(t *testing.T) {
	n := serve(t)
	for i := range 50 {
		n.put(fmt.Sprintf("%02d", i), "v")
	}
	reads := 0
	n.between.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
		if reads++; reads > 1 {
			return kv.Page{}, &kv.Error{Code: kv.NoLeader, Detail: "gone"}
		}
		return n.store.Read(ctx, q)
	}
	n.call("GET", "/v1/kv/?prefix", "").refused(t, 503, "no-leader")
}

func FuzzCursor(f *testing.F) {
	f.Add("", []byte("p"))
	f.Add(cursor{revision: 7, listed: 3, key: []byte("p/1")}.String(), []byte("p/"))
	f.Fuzz(func(t *testing.T, token string, prefix []byte) {
		c, err := parseCursor(token, prefix)
		if err != nil {
			if kv.CodeOf(err) != kv.Invalid {
				t.Errorf("%q: %v", token, err)
			}
			return
		}
		if c.revision <= 0 || c.listed < 0 || !bytes.HasPrefix(c.key, prefix) {
			t.Errorf("%q: %+v", token, c)
		}
		again, err := parseCursor(c.String(), prefix)
		if err != nil || again.revision != c.revision || again.listed != c.listed || again.epoch != c.epoch || !bytes.Equal(again.key, c.key) {
			t.Errorf("%q: %+v becomes %+v, %v", token, c, again, err)
		}
	})
}

// What is written by hand is what encoding/json reads.
func FuzzJSONStrings(f *testing.F) {
	for _, s := range []string{"", "a", "\"\\\n\x00\x1f\x7f", "é\u2028", "\xff", "\xe2\x82", "a\xc3", "\U0001f600"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if b := appendString(nil, s); json.Unmarshal(b, &got) != nil || got != strings.ToValidUTF8(s, "\ufffd") && got != string([]rune(s)) {
			t.Errorf("%q is written as %s and read as %q", s, b, got)
		}
		if b := appendString(nil, []byte(s)); bytes.ContainsAny(b, "\n\r") {
			t.Errorf("%q is written with a line break: %q", s, b)
		}
		var item listedKey
		b := append(appendKey([]byte("{"), []byte(s)), '}')
		if err := json.Unmarshal(b, &item); err != nil || string(item.KeyBase64) != s || item.Key != nil && *item.Key != s {
			t.Errorf("key %q is written as %s: %v", s, b, err)
		}
	})
}

type listedKey struct {
	Key       *string
	KeyBase64 []byte `json:"key_base64"`
}
