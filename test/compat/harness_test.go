package compat

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

func script1(t *testing.T, text string) (*script, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.ctl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return parseScript(path)
}

func TestCommandWithoutRowIsMissing(t *testing.T) {
	t.Parallel()
	known := commands{"get": {"rev", "prefix"}, "lease grant": nil, "lease list": nil, "watch": {"interactive", "prev-kv"}}
	s, err := script1(t, "etcdctl -w json get a --rev 2\n&w etcdctl watch -i\nuntested: watch --prev-kv: why not\netcdctl lease grant 5\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := missing(known, []*script{s}), []string{"get --prefix", "lease list"}; !slices.Equal(got, want) {
		t.Errorf("missing %q, want %q", got, want)
	}
}

func TestCommandIsFoundAmongFlags(t *testing.T) {
	t.Parallel()
	known := commands{"get": nil, "lease grant": nil}
	for text, want := range map[string]string{
		"get a": "get", "-w json get a --rev 2": "get", "--user u:p get a": "get", "--endpoints x --user u --password p lease grant 5": "lease grant", "nonsense": "",
	} {
		if got := known.path(strings.Fields(text)); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestHelpIsUnderstood(t *testing.T) {
	t.Parallel()
	subs, flags := parseHelp("A client.\n\nKey-value commands\n  get         Gets\n  make-mirror Makes\n\nFlags:\n  -h, --help         help\n  -i, --interactive  Asks\n      --prev-kv      Shows\n")
	if want := []string{"get", "make-mirror"}; !slices.Equal(subs, want) {
		t.Errorf("commands %q, want %q", subs, want)
	}
	if want := []string{"interactive", "prev-kv"}; !slices.Equal(flags, want) {
		t.Errorf("flags %q, want %q", flags, want)
	}
}

func TestBadScriptsAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"get a", "< x", "etcdctl get \"a", "gap: why\n", "untested: get", "limit: soon", "until w \"a"} {
		if s, err := script1(t, text); err == nil {
			t.Errorf("%q: no error, %d rows", text, len(s.rows))
		}
	}
}

func TestDifferencesAreShown(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("same\n", 20)
	if d := diff(long+"a\nb\n", long+"a\nb\n"); d != "" {
		t.Errorf("equal texts differ:\n%s", d)
	}
	d := diff(long+"a\nb\n"+long, long+"a\nc\n"+long)
	if want := "    ...\n    same\n    a\n  - b\n  + c\n    same\n    same\n"; d != want {
		t.Errorf("got\n%s\nwant\n%s", d, want)
	}
}

func TestOnlyTheServersOwnIsReplaced(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path, one, two string
		same           bool
	}{
		{"get", `{"header":{"cluster_id":1,"member_id":2,"revision":7,"raft_term":3}}`, `{"header":{"cluster_id":9,"member_id":8,"revision":7,"raft_term":1}}`, true},
		{"get", `{"header":{"cluster_id":1,"revision":7}}`, `{"header":{"cluster_id":1,"revision":8}}`, false},
		{"get", `{"header":{"cluster_id":1,"revision":7}}`, `{"header":{"revision":7}}`, false},
		{"lease grant", "lease 694d81417acd4a7f granted with TTL(100s)", "lease 32698dcdd0c5e0a1 granted with TTL(100s)", true},
		{"lease grant", "lease 694d81417acd4a7f granted with TTL(100s)", "lease 32698dcdd0c5e0a1 granted with TTL(99s)", false},
		{"lease list", "found 1 leases", "found 2 leases", false},
		{"endpoint health", "127.0.0.1:1111 is healthy: successfully committed proposal: took = 2.1ms", "127.0.0.1:2222 is healthy: successfully committed proposal: took = 13.002ms", true},
		{"endpoint health", "127.0.0.1:1111 is healthy", "127.0.0.1:2222 is unhealthy", false},
		{"endpoint status", "127.0.0.1:1111, 694d81417acd4a7f, 3.7.3, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 5, 5, , , false", "127.0.0.1:2222, 1234567890123456, 3.7.3, 3.7.0, 1.2 MB, 1 MB, 2%, 2.1 GB, true, false, 4, 77, 77, , , false", true},
		{"endpoint status", "127.0.0.1:1111, 694d81417acd4a7f, 3.7.3, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 5, 5, , , false", "127.0.0.1:2222, 1234567890123456, 3.7.3, 3.7.0, 1.2 MB, 1 MB, 2%, 2.1 GB, false, false, 4, 77, 77, , , false", false},
		{"lease timetolive", "attached keys([b a])", "attached keys([a b])", true},
		{"lease timetolive", "attached keys([b a])", "attached keys([a c])", false},
		{"get", "a 12345", "a 12346", false},
	} {
		one := &side{server: &server{addr: "127.0.0.1:1111", peer: "127.0.0.1:1112", dir: "/x/1"}, out: "/x/out"}
		two := &side{server: &server{addr: "127.0.0.1:2222", peer: "127.0.0.1:2223", dir: "/y/1"}, out: "/y/out"}
		a, b := one.normal(c.path, c.one), two.normal(c.path, c.two)
		if (a == b) != c.same {
			t.Errorf("%s: the same is %v, want %v\n%s\n%s", c.path, a == b, c.same, a, b)
		}
	}
}

// Two ids stay two, and the same id stays the same.
func TestIDsKeepTheirIdentity(t *testing.T) {
	t.Parallel()
	var a, b ids
	if x, y := a.name("7587869123456789012 694d81417acd4a7f 7587869123456789012"), b.name("1111111111111111111 32698dcdd0c5e0a1 1111111111111111111"); x != y {
		t.Errorf("%q and %q", x, y)
	}
	if x, y := a.name("7587869123456789012"), b.name("3633318237123456161"); x == y {
		t.Errorf("another id is the same: %q", x)
	}
	if x := a.name("694d81417acd4a7f"); x != a.name("7587863065422285439") {
		t.Errorf("the decimal form of an id is another: %q", x)
	}
}

func TestDumpHasEveryField(t *testing.T) {
	t.Parallel()
	r := &pb.RangeResponse{
		Header: &pb.ResponseHeader{ClusterId: 5, Revision: 3}, More: true, Count: 2,
		Kvs: []*mvccpb.KeyValue{{Key: []byte("a\x00"), Lease: 7}, {Key: []byte("b"), Value: make([]byte, 300)}},
	}
	got := dump(r)
	want := `{header:{cluster_id revision:3} kvs:[{key:"a\x00" lease:7} {key:"b" value:` +
		`"` + strings.Repeat(`\x00`, 20) + `"..."` + strings.Repeat(`\x00`, 20) + `" (300 bytes)}] more:true count:2}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
