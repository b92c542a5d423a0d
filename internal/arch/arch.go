// Package arch holds the import rules of the house: which of our packages may know which, and the one home of each
// library. They are two tables, held against the source by a test that runs with all the others.
//
// Imports go from the outside in and never back:
//
//	cmd/agent - agent -+- api/rest, api/etcd, api/uplink, api/ops - api -+
//	                   +- member - mvcc ---------------------------------+
//	                   +- queue, proxy (cache), client - internal/wire --+- kv
//	                   +- config, transport, internal/service: know none of ours
//
// A refused import is rarely answered by a new row. Usually the importer should declare a small interface of what it
// needs, and agent, which knows everybody, should pass the implementation in.
package arch

import (
	"fmt"
	"slices"
	"strings"
)

// module is the path of this module.
const module = "holdfast"

// rule says what a package may import of ours. Patterns are paths within the module; "x/..." is x and everything below.
type rule struct {
	pkg string
	may []string // in every file
}

// ours has a row for each of our packages; the first row that matches counts.
var ours = []rule{
	// the vocabulary; standard library only
	{"kv", nil},

	// kv <-> bytes
	{"internal/wire", []string{"kv"}},

	// what a node is, seen by its servers; the servers know a node by that and nothing else
	{"api", []string{"kv", "internal/wire"}},
	{"api/apitest", []string{"kv", "api", "internal/wire"}},
	{"api/etcd", []string{"kv", "api", "auth", "internal/liblog", "internal/wire"}},
	{"api/uplink", []string{"kv", "api", "internal/relay", "internal/wire"}},
	{"api/...", []string{"kv", "api", "internal/wire"}},

	// who may do what
	{"auth", []string{"kv", "internal/relay", "internal/wire"}},

	// nodes and what stands in front of them; they fit api.Backend by shape and never import api or each other
	{"mvcc", []string{"kv", "internal/wire", "auth"}},
	{"member", []string{"kv", "internal/failpoint", "internal/liblog", "internal/wire", "auth", "mvcc", "member/nodehost"}},
	{"member/...", []string{"kv", "internal/wire", "mvcc", "member/...", "transport/courier"}},
	{"proxy/cache", []string{"kv", "internal/wire", "mvcc"}},
	{"proxy", []string{"kv", "internal/failpoint", "internal/relay", "internal/wire", "proxy/cache"}},
	{"queue", []string{"kv", "internal/gcpace", "internal/wire"}},
	{"client", []string{"kv", "internal/wire"}},

	// how a box becomes a node
	{"enroll", []string{"kv", "internal/wire", "transport"}},

	// leaves, and what fits transport to those who only know the shape of it
	{"internal/bridge", []string{"internal/wire", "api/uplink", "client", "member/raftnet", "transport"}},
	{"transport/courier", nil},
	{"transport", []string{"transport/courier", "internal/atrest"}},
	{"config", nil},
	{"internal/atrest", nil},
	{"internal/failpoint", nil},
	{"internal/namespace", []string{"kv", "api", "internal/relay"}},
	{"internal/pivot", []string{"kv", "api", "internal/relay"}},
	{"internal/relay", []string{"kv"}},
	{"internal/service", nil},
	{"internal/simnet", nil},
	{"internal/tracing", []string{"kv", "internal/liblog", "internal/relay"}},
	{"internal/sniff", nil},
	{"internal/servertls", nil},
	{"internal/budget", nil},
	{"internal/gcpace", nil},
	{"internal/journald", nil},
	{"internal/liblog", nil},
	{"internal/netwatch", nil},
	{"internal/arch", nil},
	{"systemd", nil},
	{"packaging", nil},
	{"packaging/sbom", nil},

	// who puts them together; only agent and cmd read config
	{"agent", []string{"kv", "auth", "internal/wire", "internal/atrest", "internal/failpoint", "internal/liblog", "internal/namespace", "internal/pivot", "internal/relay", "internal/service", "internal/bridge", "internal/budget", "internal/netwatch", "internal/sniff", "internal/servertls", "internal/tracing", "config", "api/...", "mvcc", "member/...", "proxy/...",
		"queue", "client", "enroll", "transport", "transport/courier"}},
	{"examples/...", []string{"kv", "config", "agent"}},
	{"cmd/...", []string{"kv", "internal/wire", "internal/failpoint", "internal/gcpace", "internal/journald", "config", "api", "agent", "client", "cmd/..."}},

	// harnesses may know everything but main
	{"test/...", []string{"kv", "auth", "enroll", "api/...", "mvcc", "member/...", "proxy/...", "queue", "client", "transport", "config",
		"agent", "internal/...", "test/..."}},
}

// inTests is what the _test files of any package may import besides: the contract every node kind passes, and the
// simulated link.
var inTests = []string{"api/apitest", "internal/simnet", "test/linear"}

// library is a dependency and its homes.
type library struct {
	path  string   // import path prefix
	homes []string // our packages that may import it in every file
	tests []string // and those whose _test files may
}

// anywhere is every package of ours but kv and api, which others link for their types alone.
var anywhere = []string{"agent", "api/...", "client", "cmd/...", "config", "enroll", "internal/...", "member/...", "mvcc", "proxy/...",
	"queue", "test/...", "transport"}

// libraries has a row for each dependency that our code imports; a new one is also a row in docs/adr/0005.
var libraries = []library{
	{path: "github.com/lni/dragonboat/v4", homes: []string{"member/..."}, tests: []string{"test/cluster"}}, // to send a snapshot
	{path: "github.com/lni/vfs", homes: []string{"member/..."}},
	{path: "github.com/cespare/xxhash/v2", homes: []string{"member/..."}},
	{path: "github.com/golang/snappy", homes: []string{"member"}}, // how dragonboat packs the entries of its log
	{path: "go.etcd.io/bbolt", homes: []string{"mvcc", "proxy/cache"}, tests: []string{"member/...", "test/..."}},
	{path: "github.com/quic-go/quic-go", homes: []string{"transport", "internal/simnet"}, tests: []string{"test/..."}},
	{path: "google.golang.org/grpc", homes: []string{"api/etcd"}, tests: []string{"test/...", "agent"}},
	{path: "google.golang.org/protobuf", homes: []string{"api/etcd"}, tests: []string{"test/..."}},
	{path: "github.com/grpc-ecosystem/grpc-gateway/v2", homes: []string{"api/etcd"}},
	{path: "golang.org/x/crypto/bcrypt", homes: []string{"auth"}},
	{path: "golang.org/x/net", homes: []string{"internal/sniff"}, tests: []string{"test/e2e", "agent"}}, // to send frames as they should not be
	// of etcd's server the messages of two services, and nothing that would bring the server itself
	{path: "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb", homes: []string{"api/etcd"}, tests: []string{"test/...", "agent"}},
	{path: "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb", homes: []string{"api/etcd"}, tests: []string{"test/...", "agent"}},
	{path: "go.etcd.io/etcd/server/v3"},
	{path: "go.etcd.io/etcd", homes: []string{"api/etcd"}, tests: []string{"test/...", "agent"}},
	{path: "go.opentelemetry.io/otel", homes: []string{"internal/tracing"}},
	{path: "github.com/go-logr/logr", homes: []string{"internal/tracing"}}, // OpenTelemetry's own log
	{path: "go.opentelemetry.io/proto/otlp", tests: []string{"test/..."}},
	{path: "github.com/spf13/viper", homes: []string{"config"}},
	{path: "github.com/pelletier/go-toml/v2", homes: []string{"config"}},                              // viper's own parsers, for
	{path: "go.yaml.in/yaml/v3", homes: []string{"config"}, tests: []string{"api/rest", "packaging"}}, // line numbers and duplicates; to read the OpenAPI document
	{path: "github.com/spf13/pflag", homes: []string{"config", "cmd/..."}},
	{path: "golang.org/x/term", homes: []string{"cmd/..."}},
	{path: "github.com/spf13/cobra", homes: []string{"cmd/..."}},

	// Whoever has something to count owns its metrics and registers them where it is told to. The store and the
	// vocabulary report numbers to their owners instead; a program that links client gets no metrics library.
	{
		path:  "github.com/prometheus/client_golang",
		homes: []string{"agent", "api/...", "member/...", "proxy", "queue", "transport", "test/..."},
	},
	{path: "github.com/prometheus/client_model", tests: []string{"..."}}, // to read metrics back

	{path: "golang.org/x/sys", homes: anywhere},
	{path: "golang.org/x/sync", homes: anywhere},
	{path: "golang.org/x/text", homes: anywhere},

	{path: "pgregory.net/rapid", homes: []string{"api/apitest", "test/..."}, tests: []string{"..."}},
	{path: "go.uber.org/goleak", homes: []string{"api/apitest", "test/..."}, tests: []string{"..."}},
	{path: "github.com/anishathalye/porcupine", homes: []string{"api/apitest", "test/..."}, tests: []string{"..."}},
}

// pkg is a package of ours as its source has it, whatever the build tags.
type pkg struct {
	path        string // within the module
	name        string
	doc         string // package comment, "" for none
	imports     []string
	testImports []string // of _test files
}

// violations holds packages against the tables and returns a sentence for each fault.
func violations(pkgs []pkg) []string {
	var found []string
	for _, p := range pkgs {
		if fault := docFault(p); fault != "" {
			found = append(found, fault)
		}
		row := slices.IndexFunc(ours, func(r rule) bool { return match(r.pkg, p.path) })
		if row < 0 {
			found = append(found, fmt.Sprintf("%s is in no row of the table in internal/arch: say there what it may import", p.path))
			continue
		}
		for _, path := range p.imports {
			found = append(found, importFault(p.path, path, ours[row].may, false)...)
		}
		for _, path := range p.testImports {
			found = append(found, importFault(p.path, path, slices.Concat(ours[row].may, inTests, []string{p.path}), true)...)
		}
	}
	return found
}

func importFault(from, path string, may []string, test bool) []string {
	file := from
	if test {
		file = "a test of " + from
	}
	first, _, _ := strings.Cut(path, "/")
	switch {
	case first == module:
		within := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
		if !matchAny(may, within) {
			return []string{fmt.Sprintf("%s imports %s; of ours it may import %s", file, within, listed(may))}
		}
	case strings.Contains(first, "."):
		i := slices.IndexFunc(libraries, func(l library) bool { return path == l.path || strings.HasPrefix(path, l.path+"/") })
		if i < 0 {
			return []string{fmt.Sprintf("%s imports %s, which has no home yet: a row in internal/arch and in docs/adr/0005", file, path)}
		}
		lib := libraries[i]
		if !matchAny(lib.homes, from) && !(test && matchAny(lib.tests, from)) {
			return []string{fmt.Sprintf("%s imports %s, whose home is %s", file, path, listed(lib.homes))}
		}
	}
	return nil
}

// docFault asks for a package comment in the form that go doc shows well.
func docFault(p pkg) string {
	want := "Package " + p.name + " "
	if p.name == "main" {
		want = "Command " + p.path[strings.LastIndexByte(p.path, '/')+1:] + " "
	}
	switch {
	case p.doc == "":
		return fmt.Sprintf("%s has no package comment: a sentence that begins with %q and says what it is for", p.path, want)
	case !strings.HasPrefix(strings.ReplaceAll(p.doc, "\n", " "), want):
		return fmt.Sprintf("the comment of %s begins with %.20q, not with %q", p.path, p.doc, want)
	}
	return ""
}

func match(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	return pattern == path
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, path) })
}

func listed(patterns []string) string {
	if len(patterns) == 0 {
		return "nothing"
	}
	return strings.Join(patterns, ", ")
}
