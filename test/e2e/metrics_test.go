//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// family is one metric as a scrape describes it.
type family struct{ kind, help string }

// scrape reads /metrics of an agent, without what the Go runtime and the scrape itself add.
func scrape(a *agent) map[string]family {
	a.t.Helper()
	all := map[string]family{}
	for line := range strings.Lines(string(a.do("GET", "/metrics", nil).body)) {
		word := strings.SplitN(strings.TrimSpace(line), " ", 4)
		if len(word) < 4 || word[0] != "#" || regexp.MustCompile(`^(go|process|promhttp)_`).MatchString(word[2]) {
			continue
		}
		f := all[word[2]]
		if word[1] == "HELP" {
			f.help = word[3]
		} else {
			f.kind = word[3]
		}
		all[word[2]] = f
	}
	return all
}

// TestMetricsAreThoseOfTheDocument holds docs/metrics.md against what a member and a proxy serve, both ways. With
// WRITE=1 it prints the table that should stand there.
func TestMetricsAreThoseOfTheDocument(t *testing.T) {
	c := newCluster(t)
	m := c.member()
	p := start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), c.proxyArgs(c.file("token", joinToken(t, c.memberDir(), "1h").Token))...)
	p.waitSynced()
	p.expect(201, "PUT", "/v1/kv/q/1", "x", "")
	p.expect(200, "GET", "/v1/kv/q/1", "", "x")
	m.expect(200, "GET", "/v1/kv/q/1", "", "x")

	member, proxy := scrape(m), scrape(p)
	names := map[string]string{}
	for name := range member {
		names[name] = "member"
	}
	for name := range proxy {
		if names[name] == "" {
			names[name] = "proxy"
		} else {
			names[name] = "both"
		}
	}
	var want []string
	for name, on := range names {
		f := member[name]
		if on == "proxy" {
			f = proxy[name]
		}
		want = append(want, "| `"+name+"` | "+strings.Join([]string{f.kind, on, f.help}, " | ")+" |")
	}
	slices.Sort(want)
	if os.Getenv("WRITE") != "" {
		t.Logf("the table:\n%s", strings.Join(want, "\n"))
	}
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	always, _, _ := strings.Cut(string(text), "\n## Later\n")
	var have []string
	for line := range strings.Lines(always) {
		if strings.HasPrefix(line, "| `") {
			have = append(have, strings.TrimSpace(line))
		}
	}
	for _, row := range want {
		if !slices.Contains(have, row) {
			t.Errorf("docs/metrics.md lacks the row\n%s", row)
		}
	}
	for _, row := range have {
		if !slices.Contains(want, row) {
			t.Errorf("docs/metrics.md has a row that no agent serves\n%s", row)
		}
	}
}
