package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestImportsFollowTheHouse(t *testing.T) {
	pkgs := source(t, filepath.Join("..", ".."))
	for _, want := range []string{"kv", "internal/wire", "internal/arch"} {
		if !slices.ContainsFunc(pkgs, func(p pkg) bool { return p.path == want && p.doc != "" }) {
			t.Errorf("%s was not read: the test looks in the wrong place", want)
		}
	}
	for _, v := range violations(pkgs) {
		t.Error(v)
	}
}

// source reads the packages below root, all files of them, whatever their build tags. Folders with a go.mod are other
// modules; the root itself holds no package of the product.
func source(t *testing.T, root string) []pkg {
	t.Helper()
	byPath := map[string]*pkg{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, path)
		}
		within, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil || within == "." || filepath.Ext(path) != ".go" {
			return err
		}
		within = filepath.ToSlash(within)
		if byPath[within] == nil {
			byPath[within] = &pkg{path: within}
		}
		return addFile(byPath[within], path)
	})
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for _, p := range byPath {
		pkgs = append(pkgs, *p)
	}
	slices.SortFunc(pkgs, func(a, b pkg) int { return strings.Compare(a.path, b.path) })
	return pkgs
}

func skipDir(root, path string) error {
	name := filepath.Base(path)
	if path == root {
		return nil
	}
	if name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func addFile(p *pkg, path string) error {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	test := strings.HasSuffix(path, "_test.go")
	if !test {
		p.name = f.Name.Name
	} else if p.name == "" {
		p.name = strings.TrimSuffix(f.Name.Name, "_test") // a package of tests alone
	}
	if doc := f.Doc.Text(); doc != "" && (!test || p.doc == "") {
		p.doc = doc
	}
	for _, path := range imports(f) {
		if test {
			p.testImports = append(p.testImports, path)
		} else {
			p.imports = append(p.imports, path)
		}
	}
	return nil
}

func imports(f *ast.File) []string {
	var paths []string
	for _, spec := range f.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

func TestPlantedViolationsAreReported(t *testing.T) {
	good := func(path, name string) pkg {
		return pkg{path: path, name: name, doc: "Package " + name + " is for the test."}
	}
	with := func(p pkg, imports ...string) pkg { p.imports = imports; return p }
	tests := func(p pkg, imports ...string) pkg { p.testImports = imports; return p }
	for name, tc := range map[string]struct {
		pkg  pkg
		want string // part of the one sentence, "" for none
	}{
		"standard library":                 {with(good("kv", "kv"), "bytes", "net/http"), ""},
		"vocabulary imports wire":          {with(good("kv", "kv"), "holdfast/internal/wire"), "kv imports internal/wire; of ours it may import nothing"},
		"vocabulary imports a library":     {with(good("kv", "kv"), "golang.org/x/sync/errgroup"), "kv imports golang.org/x/sync/errgroup"},
		"api imports member":               {with(good("api", "api"), "holdfast/member"), "api imports member"},
		"rest imports member":              {with(good("api/rest", "rest"), "holdfast/api", "holdfast/member"), "api/rest imports member"},
		"member imports api":               {with(good("member", "member"), "holdfast/api"), "member imports api"},
		"member imports proxy":             {with(good("member", "member"), "holdfast/proxy"), "member imports proxy"},
		"member imports transport":         {with(good("member", "member"), "holdfast/transport"), "member imports transport"},
		"member is tested by the contract": {tests(good("member", "member"), "holdfast/api/apitest", "holdfast/member"), ""},
		"member reads config":              {with(good("member", "member"), "holdfast/config"), "member imports config"},
		"queue imports proxy":              {with(good("queue", "queue"), "holdfast/proxy"), "queue imports proxy"},
		"proxy imports its cache":          {with(good("proxy", "proxy"), "holdfast/proxy/cache", "holdfast/kv"), ""},
		"cache stands on mvcc":             {with(good("proxy/cache", "cache"), "holdfast/mvcc"), ""},
		"transport imports kv":             {with(good("transport", "transport"), "holdfast/kv"), "transport imports kv"},
		"config imports agent":             {with(good("config", "config"), "holdfast/agent"), "config imports agent"},
		"agent knows everybody":            {with(good("agent", "agent"), "holdfast/member", "holdfast/api/rest", "holdfast/config"), ""},
		"agent imports main":               {with(good("agent", "agent"), "holdfast/cmd/agent"), "agent imports cmd/agent"},
		"product imports a harness":        {with(good("agent", "agent"), "holdfast/test/linear"), "agent imports test/linear"},
		"test imports out of order":        {tests(good("mvcc", "mvcc"), "holdfast/member"), "a test of mvcc imports member"},
		"viper outside config":             {with(good("agent", "agent"), "github.com/spf13/viper"), "whose home is config"},
		"dragonboat outside member":        {with(good("mvcc", "mvcc"), "github.com/lni/dragonboat/v4/statemachine"), "whose home is member"},
		"quic-go outside transport":        {with(good("client", "client"), "github.com/quic-go/quic-go"), "whose home is transport"},
		"grpc outside etcd":                {with(good("api/rest", "rest"), "google.golang.org/grpc/codes"), "whose home is api/etcd"},
		"messages of etcd's locks":         {with(good("api/etcd", "etcd"), "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"), ""},
		"etcd itself":                      {with(good("api/etcd", "etcd"), "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock"), "whose home is nothing"},
		"bbolt outside mvcc":               {with(good("member", "member"), "go.etcd.io/bbolt"), "whose home is mvcc"},
		"bbolt in a test of member":        {tests(good("member", "member"), "go.etcd.io/bbolt"), ""},
		"cobra outside cmd":                {with(good("agent", "agent"), "github.com/spf13/cobra"), "whose home is cmd/..."},
		"metrics in the store":             {with(good("mvcc", "mvcc"), "github.com/prometheus/client_golang/prometheus"), "mvcc imports"},
		"test library in the product":      {with(good("mvcc", "mvcc"), "pgregory.net/rapid"), "mvcc imports pgregory.net/rapid"},
		"unknown library":                  {with(good("agent", "agent"), "example.com/left-pad"), "has no home yet"},
		"name that only begins alike":      {with(good("mvcc", "mvcc"), "go.etcd.io/bboltx"), "has no home yet"},
		"unknown package":                  {good("utils", "utils"), "utils is in no row"},
		"no package comment":               {pkg{path: "kv", name: "kv"}, "kv has no package comment"},
		"comment of another form":          {pkg{path: "kv", name: "kv", doc: "Some values."}, "not with \"Package kv \""},
		"comment of a command":             {pkg{path: "cmd/agent", name: "main", doc: "Command agent runs a node."}, ""},
		"command with a package's comment": {pkg{path: "cmd/agent", name: "main", doc: "Package main runs a node."}, "not with \"Command agent \""},
	} {
		t.Run(name, func(t *testing.T) {
			got := violations([]pkg{tc.pkg})
			switch {
			case tc.want == "" && len(got) > 0:
				t.Errorf("reported: %q", got)
			case tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)):
				t.Errorf("got %q, want one sentence with %q", got, tc.want)
			}
		})
	}
}

func TestNoRowIsHiddenBehindAnother(t *testing.T) {
	for i, r := range ours {
		path := strings.TrimSuffix(r.pkg, "/...")
		first := slices.IndexFunc(ours, func(r rule) bool { return match(r.pkg, path) })
		if first != i && ours[first].pkg == r.pkg {
			t.Errorf("%s has two rows", r.pkg)
		}
		if first < i && strings.HasSuffix(ours[first].pkg, "/...") {
			t.Errorf("%s is hidden behind %s", r.pkg, ours[first].pkg)
		}
	}
}

func TestSourceSeesEveryBuildTag(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("queue/queue.go", "// Package queue waits.\npackage queue\nimport \"fmt\"\n")
	write("queue/queue_windows.go", "//go:build never\n\npackage queue\nimport (\n_ \"os\"\nx \"holdfast/proxy\")\n")
	write("queue/queue_test.go", "package queue_test\nimport \"testing\"\n")
	write("queue/testdata/x.go", "package x\nimport \"holdfast/agent\"\n")
	write("other/go.mod", "module other\n")
	write("other/other.go", "package other\n")
	pkgs := source(t, root)
	if len(pkgs) != 1 {
		t.Fatalf("%+v", pkgs)
	}
	p := pkgs[0]
	slices.Sort(p.imports)
	if p.path != "queue" || p.name != "queue" || p.doc != "Package queue waits.\n" ||
		!slices.Equal(p.imports, []string{"fmt", "holdfast/proxy", "os"}) || !slices.Equal(p.testImports, []string{"testing"}) {
		t.Fatalf("%+v", p)
	}
	if got := violations(pkgs); len(got) != 1 {
		t.Fatalf("%q", got)
	}
}
