package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var (
	codeSpan = regexp.MustCompile("`[^`\n]+`")
	aCall    = regexp.MustCompile(`(?:^\s*|[/(;|&]\s*|\bholdfast\s+)agent((?: +[^\s|;&>#)]+)+)`)
	aWord    = regexp.MustCompile(`^[a-z][a-z-]*$`)
	aFlag    = regexp.MustCompile(`^--([a-z][a-z-]*)`)
	aSetting = regexp.MustCompile("`([a-z]+)\\.([a-z-]+)(?:: [^`]*)?`")
	aRow     = regexp.MustCompile("(?m)^\\| `([a-z.-]+)` \\|")
)

// TestDocsNameCommandsFlagsAndSettingsThatExist reads what README and docs/ have in code: blocks and spans.
func TestDocsNameCommandsFlagsAndSettingsThatExist(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var settings, sections []string
	for _, row := range aRow.FindAllStringSubmatch(string(reference), -1) {
		settings = append(settings, row[1])
		if section, _, nested := strings.Cut(row[1], "."); nested {
			sections = append(sections, section)
		}
	}
	root := completeRoot()
	calls, named := 0, 0
	for _, page := range append(pages, "../../README.md", "../../systemd/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range codeOf(string(text)) {
			line, _, _ = strings.Cut(line, " # ")
			for _, c := range aCall.FindAllStringSubmatch(line, -1) {
				calls++
				if words := strings.Fields(c[1]); words[0] == "failpoints" {
					continue // of the build with that tag
				} else if problem := misnamed(root, words); problem != "" {
					t.Errorf("%s: %q: %s", page, line, problem)
				}
			}
		}
		for _, s := range aSetting.FindAllStringSubmatch(string(text), -1) {
			if key := s[1] + "." + s[2]; slices.Contains(sections, s[1]) && !slices.Contains([]string{"go", "json", "md", "db"}, s[2]) {
				named++
				if !slices.Contains(settings, key) {
					t.Errorf("%s names the setting %s, which does not exist", page, key)
				}
			}
		}
	}
	if calls < 100 || named < 50 {
		t.Errorf("%d commands and %d settings: the pages were not understood", calls, named)
	}
}

func completeRoot() *cobra.Command {
	root := (&program{}).rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// codeOf returns the lines of a page's blocks, fenced or indented, and its spans of code.
func codeOf(text string) []string {
	var code []string
	fenced := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced, strings.HasPrefix(line, "    ") && !strings.Contains(line, "`"):
			code = append(code, line)
		default:
			for _, span := range codeSpan.FindAllString(line, -1) {
				code = append(code, strings.Trim(span, "`"))
			}
		}
	}
	return code
}

// misnamed says which word behind agent is neither a command nor one of its flags, as far as that can be told: from the first
// argument on only flags are looked at.
func misnamed(cmd *cobra.Command, words []string) string {
	commands := true
	for _, word := range words {
		if f := aFlag.FindStringSubmatch(word); f != nil {
			if cmd.Flag(f[1]) == nil && cmd.InheritedFlags().Lookup(f[1]) == nil && f[1] != "help" {
				return cmd.CommandPath() + " has no flag --" + f[1]
			}
			commands = false
			continue
		}
		if !commands || !aWord.MatchString(word) {
			commands = false
			continue
		}
		next, _, err := cmd.Find([]string{word})
		switch {
		case err == nil && next != cmd:
			cmd = next
		case cmd.HasSubCommands():
			return "there is no " + cmd.CommandPath() + " " + word
		default:
			commands = false
		}
	}
	return ""
}

func TestAPageThatIsWrongIsReported(t *testing.T) {
	root := completeRoot()
	for call, want := range map[string]string{
		"members ls": "", "kv get site/1 --consistency=local": "", "--data-dir /d": "", "promote third": "",
		"member ls": "there is no agent member", "members list": "there is no agent members list",
		"kv get k --consistent": "has no flag --consistent", "--datadir /d": "agent has no flag --datadir",
	} {
		if got := misnamed(root, strings.Fields(call)); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("agent %s: %q, want %q", call, got, want)
		}
	}
	if got := codeOf("a `b` c\n```sh\nd\n```\n    e\n"); !slices.Equal(got, []string{"b", "d", "    e"}) {
		t.Errorf("code is %q", got)
	}
}
