package failpoint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"
)

// What is not in All would be tested by nobody.
func TestAllHasEveryConstantOnce(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "failpoint.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[Point]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for _, v := range spec.Values {
			name, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			declared[Point(name)] = true
		}
		return true
	})
	listed := map[Point]bool{}
	for _, p := range All() {
		if listed[p] {
			t.Errorf("%s is listed twice", p)
		}
		listed[p] = true
		if !declared[p] {
			t.Errorf("%s is listed and not declared", p)
		}
	}
	for p := range declared {
		if !listed[p] {
			t.Errorf("%s is declared and not in All", p)
		}
	}
	if len(declared) < 10 {
		t.Errorf("%d points were found, is this test reading the right file?", len(declared))
	}
}
