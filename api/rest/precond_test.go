package rest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"holdfast/kv"
)

// Each case acts on key "k" at revision 3, or on key "none", which does not exist.
func TestPreconditions(t *testing.T) {
	for _, c := range []struct {
		method, key, name, value string
		status                   int
	}{
		{"PUT", "k", "If-Match", `"3"`, 200},
		{"PUT", "k", "If-Match", `"2"`, 412},
		{"PUT", "k", "If-Match", `*`, 200},
		{"PUT", "k", "If-Match", `"2", "3"`, 200},
		{"PUT", "k", "If-Match", `"3","9"`, 200},
		{"PUT", "k", "If-Match", `"1" , "2","9"`, 412},
		{"PUT", "k", "If-Match", `W/"3"`, 412}, // the comparison is strong
		{"PUT", "k", "If-Match", `W/"3", "3"`, 200},
		{"PUT", "k", "If-Match", `"03"`, 412}, // another tag
		{"PUT", "k", "If-Match", `"abc"`, 412},
		{"PUT", "k", "If-Match", `"+3"`, 412},
		{"PUT", "k", "If-Match", `""`, 412},
		{"PUT", "k", "If-Match", `,, "3" ,`, 200}, // empty elements of a list are allowed
		{"PUT", "k", "If-Match", `3`, 400},
		{"PUT", "k", "If-Match", ``, 400},
		{"PUT", "k", "If-Match", `"3`, 400},
		{"PUT", "k", "If-Match", `"3" "4"`, 400},
		{"PUT", "k", "If-Match", `"3", *`, 400},
		{"PUT", "k", "If-Match", `w/"3"`, 400},
		{"PUT", "none", "If-Match", `*`, 412},
		{"PUT", "none", "If-Match", `"3"`, 412},
		{"PUT", "none", "If-Match", `"0"`, 412}, // no key has that tag
		{"PUT", "k", "If-None-Match", `*`, 412},
		{"PUT", "none", "If-None-Match", `*`, 201},
		{"PUT", "k", "If-None-Match", `"3"`, 412},
		{"PUT", "k", "If-None-Match", `W/"3"`, 412}, // the comparison is weak
		{"PUT", "k", "If-None-Match", `"2", "4"`, 200},
		{"PUT", "k", "If-None-Match", `"2", "3"`, 412},
		{"PUT", "none", "If-None-Match", `"3"`, 201},
		{"PUT", "k", "If-None-Match", `3`, 400},
		{"DELETE", "k", "If-Match", `"3"`, 200},
		{"DELETE", "k", "If-Match", `"2"`, 412},
		{"DELETE", "k", "If-Match", `*`, 200},
		{"DELETE", "none", "If-Match", `*`, 412},
		{"DELETE", "k", "If-None-Match", `*`, 412},
		{"DELETE", "none", "If-None-Match", `*`, 404},
		{"GET", "k", "If-None-Match", `"3"`, 304},
		{"GET", "k", "If-None-Match", `W/"3"`, 304},
		{"GET", "k", "If-None-Match", `"1", "3"`, 304},
		{"GET", "k", "If-None-Match", `*`, 304},
		{"GET", "k", "If-None-Match", `"2"`, 200},
		{"GET", "none", "If-None-Match", `*`, 404},
		{"GET", "none", "If-None-Match", `"3"`, 404},
		{"GET", "k", "If-None-Match", `3`, 400},
		{"HEAD", "k", "If-None-Match", `"3"`, 304},
		{"GET", "k", "If-Match", `"3"`, 200},
		{"GET", "k", "If-Match", `"2"`, 412},
		{"GET", "none", "If-Match", `*`, 412},
		{"GET", "k", "If-Match", `W/"3"`, 412},
	} {
		t.Run(fmt.Sprintf("%s %s %s %s", c.method, c.key, c.name, c.value), func(t *testing.T) {
			n := serve(t)
			n.put("k", "1")
			n.put("k", "2")
			r := n.call(c.method, "/v1/kv/"+c.key, "new", c.name, c.value).want(t, c.status)
			switch c.status {
			case 412:
				want := map[string]float64{"k": 3, "none": 0}[c.key]
				p := r.refused(t, 412, "precondition-failed")
				if p["mod_revision"] != want || p["outcome"] != "none" {
					t.Errorf("%s, want the current revision, %v", r.body, want)
				}
				fallthrough
			case 400, 304:
				if c.status == 304 && (r.header.Get("ETag") != `"3"` || r.body != "") {
					t.Errorf("304 with ETag %q and body %q", r.header.Get("ETag"), r.body)
				}
				n.wantStored("k", "2")
				if _, there := n.stored("none"); there {
					t.Error("the key was made")
				}
			}
		})
	}
}

func TestBothPreconditionsMustHold(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	n.call("PUT", "/v1/kv/k", "v", "If-Match", `*`, "If-None-Match", `"2"`).refused(t, 412, "precondition-failed")
	n.call("PUT", "/v1/kv/k", "v", "If-Match", `"2"`, "If-None-Match", `"9"`).want(t, 200)
}

func TestHeadersOnSeveralLinesAreOneList(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	n.call("PUT", "/v1/kv/k", "v", "If-Match", `"8"`, "If-Match", `"2"`).want(t, 200)
	n.call("GET", "/v1/kv/k", "", "If-None-Match", `"8"`, "If-None-Match", `"3"`).want(t, 304)
}

func TestTagsAreBounded(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	list := strings.Repeat(`"9", `, tagsMax)
	n.call("PUT", "/v1/kv/k", "v", "If-None-Match", list).want(t, 200)
	n.call("PUT", "/v1/kv/k", "v", "If-None-Match", list+`"9"`).refused(t, 400, "invalid")
}

// A list that has the key's revision somewhere takes one more attempt, not one for each.
func TestAListOfTagsTakesTwoAttempts(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	attempts := 0
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		attempts++
		return n.store.Do(ctx, c)
	}
	n.call("PUT", "/v1/kv/k", "v", "If-Match", `"90", "80", "70", "2", "60"`).want(t, 200)
	if attempts != 2 {
		t.Errorf("%d attempts, want 2", attempts)
	}
	attempts = 0
	n.call("PUT", "/v1/kv/k", "v", "If-Match", `"90", "80", "70"`).want(t, 412)
	if attempts != 1 {
		t.Errorf("%d attempts, want 1", attempts)
	}
}

// The key changes from one listed revision to another between the attempts.
func TestAListOfTagsFollowsTheKey(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	n.between.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
		r, err := n.store.Do(ctx, c)
		if err != nil && c.Guards[0].Num == 9 {
			n.put("k", "2") // 3
		}
		return r, err
	}
	n.call("PUT", "/v1/kv/k", "v", "If-Match", `"9", "2", "3"`).want(t, 200)
	n.wantStored("k", "v")
}

func FuzzPreconditions(f *testing.F) {
	for _, v := range []string{`"3"`, `*`, `W/"3", "4"`, `"`, `,`, `"a"b`, `"3",W/"3"`, "\"\x7f\""} {
		f.Add(v, int64(3))
	}
	f.Fuzz(func(t *testing.T, value string, revision int64) {
		weak, errWeak := parseTags("X", []string{value}, true)
		strong, errStrong := parseTags("X", []string{value}, false)
		if (errWeak == nil) != (errStrong == nil) {
			t.Fatalf("%q: %v, %v", value, errWeak, errStrong)
		}
		if errWeak != nil {
			if kv.CodeOf(errWeak) != kv.Invalid {
				t.Errorf("%q: %v", value, errWeak)
			}
			return
		}
		if revision <= 0 && weak.has(revision) && revision != 0 && !weak.any {
			t.Errorf("%q matches revision %d", value, revision)
		}
		if strong.has(revision) && !weak.has(revision) {
			t.Errorf("%q matches %d strongly and not weakly", value, revision)
		}
		if revision > 0 && !weak.any && weak.has(revision) != strings.Contains(value, `"`+strconv.FormatInt(revision, 10)+`"`) {
			t.Errorf("%q has %d: %v", value, revision, weak.has(revision))
		}
		if guards := (&precond{match: strong}).guards([]byte("k")); len(guards) != 1 {
			t.Errorf("%q: %d guards for If-Match", value, len(guards))
		}
	})
}

func TestConditionsOfHTTPThatAreNotServedAreIgnored(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	r := n.call("GET", "/v1/kv/k", "", "If-Modified-Since", "Mon, 02 Jan 2034 15:04:05 GMT", "Range", "bytes=0-0", "If-Range", `"2"`).want(t, http.StatusOK)
	if r.body != "1" {
		t.Errorf("body %q", r.body)
	}
}
