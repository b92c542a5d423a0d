package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	citedTest  = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")
	aTest      = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)\(`)
	aLink      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	aPromise   = regexp.MustCompile(`(?m)^(\d+)\. `)
	aHeading   = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInSlugs = regexp.MustCompile("[^a-z0-9 _-]")
)

// TestDocsNameTestsAndFilesThatExist holds the pages to the tree: a promise whose test was renamed is one that nobody can check.
func TestDocsNameTestsAndFilesThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	pages, tests := map[string]string{}, map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md" && !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path) //nolint:gosec // the tree that the test belongs to
		if filepath.Ext(path) == ".md" {
			pages[path] = string(b)
		}
		for _, f := range aTest.FindAllSubmatch(b, -1) {
			tests[string(f[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 20 || len(tests) < 1000 {
		t.Fatalf("%d pages and %d tests: this looks in the wrong place", len(pages), len(tests))
	}
	for path, text := range pages {
		for _, cited := range citedTest.FindAllStringSubmatch(text, -1) {
			if !tests[cited[1]] {
				t.Errorf("%s names %s, which is no test", path, cited[1])
			}
		}
		for _, l := range aLink.FindAllStringSubmatch(text, -1) {
			if problem := follow(path, l[1], pages); problem != "" {
				t.Errorf("%s links to %s: %s", path, l[1], problem)
			}
		}
	}
}

// follow says what is wrong with a link of a page. Those that leave the tree are not looked at.
func follow(page, link string, pages map[string]string) string {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return ""
	}
	file, heading, _ := strings.Cut(link, "#")
	target := page
	if file != "" {
		target = filepath.Join(filepath.Dir(page), filepath.FromSlash(file))
	}
	if _, err := os.Stat(target); err != nil {
		return "it is not there"
	}
	text, read := pages[target]
	if heading == "" || !read {
		return ""
	}
	for _, h := range aHeading.FindAllStringSubmatch(text, -1) {
		slug := strings.ReplaceAll(notInSlugs.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")
		if slug == heading {
			return ""
		}
	}
	return "it has no such heading"
}

func TestALinkThatLeadsNowhereIsReported(t *testing.T) {
	pages := map[string]string{"docs_test.go": "## A part, of `it`\n"}
	for link, want := range map[string]bool{
		"docs_test.go": true, "docs_test.go#a-part-of-it": true, "#a-part-of-it": true, "https://example.com/x": true, "../arch/": true,
		"docs_test.go#another": false, "none.md": false, "#none": false,
	} {
		if got := follow("docs_test.go", link, pages); (got == "") != want {
			t.Errorf("%s: %q", link, got)
		}
	}
}

// TestEveryPromiseNamesItsTest reads docs/semantics.md: each promise has a number of its own, which others go by and which it
// keeps wherever it stands, and names a test that checks it.
func TestEveryPromiseNamesItsTest(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "semantics.md"))
	if err != nil {
		t.Fatal(err)
	}
	promises := unchecked(string(page), func(n int, why string) { t.Errorf("promise %d: %s", n, why) })
	if promises < 130 {
		t.Errorf("%d promises: the page was not understood", promises)
	}
	var found []int
	unchecked("# A\n\n1. It is. (`TestIt`)\n2. It is\n   too.\n\n6. So\n   (`TestSo`)\n1. Again (`TestIt`)\n3. Or (`TestSo`)\n", func(n int, _ string) { found = append(found, n) })
	if !slices.Equal(found, []int{2, 6, 1}) {
		t.Errorf("of a page whose 2 names no test, whose 6 is beyond their number and whose 1 comes twice: %v", found)
	}
}

// unchecked tells of each promise that names no test or whose number is not its own, and counts all.
func unchecked(page string, tell func(n int, why string)) (promises int) {
	seen := map[int]bool{}
	starts := aPromise.FindAllStringSubmatchIndex(page, -1)
	for i, at := range starts {
		end := len(page)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		n, err := strconv.Atoi(page[at[2]:at[3]])
		if err != nil || n < 1 || n > len(starts) || seen[n] {
			tell(n, "the number is one that another has, or leaves a gap")
		} else if text, _, _ := strings.Cut(page[at[0]:end], "\n## "); !citedTest.MatchString(text) {
			tell(n, "it names no test")
		}
		seen[n] = true
	}
	return len(starts)
}
