package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandCase is what the tests below know of a command.
type commandCase struct {
	args  []string // one right way to call it, its arguments first
	needs int      // how many arguments it has to have
	takes int      // how many it may have at most; 0: as many as it needs
	stdin string
	says  string // what an agent answers; empty: {}
	form  string // why it has no -o, or prints the same whatever that says
	alone string // why it needs no agent
}

const (
	prints = "it prints one thing as it is"
	acts   = "it has nothing to show"
)

// everyCommand has a row for each command but run. A new command fails the tests until it has one, and with that row it is held
// to what all keep: see the tests.
var everyCommand = map[string]commandCase{
	"auth disable": {}, "auth enable": {}, "auth status": {},
	"cert ca":                {form: prints, says: `{"cas":[{"pem":"x"}]}`},
	"cert renew":             {},
	"cert rotate":            {},
	"cert show":              {},
	"check":                  {takes: 1, args: []string{"clock"}, alone: "that none is there is a finding"},
	"completion bash":        {form: prints, alone: prints},
	"completion fish":        {form: prints, alone: prints},
	"completion powershell":  {form: prints, alone: prints},
	"completion zsh":         {form: prints, alone: prints},
	"config check":           {form: acts, alone: "it reads files"},
	"config doc":             {form: prints, alone: prints},
	"config init":            {takes: 1, form: prints, alone: prints},
	"config show":            {alone: "it reads files"},
	"demote":                 {takes: 1, says: `{"kind":"demote","node":"n","done":true}`},
	"kv del":                 {args: []string{"k"}, needs: 1},
	"kv export":              {takes: 1, form: "its lines are JSON"},
	"kv get":                 {args: []string{"k"}, needs: 1},
	"kv import":              {args: []string{"-"}, needs: 1, form: acts, stdin: anExport},
	"kv ls":                  {takes: 1},
	"kv put":                 {args: []string{"k", "v"}, needs: 2},
	"kv watch":               {args: []string{"k"}, takes: 1, says: `{"type":"put","key":"k","key_base64":"aw==","mod_revision":2}`},
	"leave":                  {says: `{"kind":"leave","node":"n","done":true}`},
	"man":                    {form: prints, alone: prints},
	"members":                {},
	"members add":            {says: `{"token":"t"}`},
	"members ls":             {},
	"members remove":         {args: []string{"box.lan"}, needs: 1},
	"members set":            {args: []string{"--voters=3"}},
	"nodes":                  {},
	"nodes ls":               {},
	"nodes revoke":           {args: []string{"box.lan"}, needs: 1},
	"nodes scope":            {args: []string{"n", "--clear"}, needs: 1},
	"prepare-image":          {form: "it names what it removes", alone: "the agent has to be stopped"},
	"promote":                {takes: 1, says: `{"kind":"promote","node":"n","done":true}`},
	"queue":                  {},
	"queue discard":          {args: []string{"normal-1"}, needs: 1},
	"queue flush":            {},
	"queue ls":               {},
	"queue pause":            {},
	"queue resume":           {},
	"queue retry":            {args: []string{"normal-1"}, needs: 1},
	"queue show":             {args: []string{"normal-1"}, needs: 1},
	"queue status":           {},
	"queue wait":             {args: []string{"normal-1"}, needs: 1, says: `{"id":"normal-1","state":"committed"}`},
	"recover":                {alone: "the agent has to be stopped"},
	"reseal":                 {args: []string{"--open"}, form: "it names what it changes", alone: "the agent has to be stopped"},
	"role add":               {args: []string{"r"}, needs: 1},
	"role del":               {args: []string{"r"}, needs: 1},
	"role get":               {args: []string{"r"}, needs: 1},
	"role grant-permission":  {args: []string{"r", "read", "k"}, needs: 3, takes: 4},
	"role ls":                {},
	"role revoke-permission": {args: []string{"r", "k"}, needs: 2, takes: 3},
	"snapshot restore":       {args: []string{"no.backup"}, needs: 1, alone: "it reads a file"},
	"snapshot save":          {args: []string{"no.backup"}, needs: 1},
	"snapshot verify":        {args: []string{"no.backup"}, needs: 1, alone: "it reads a file"},
	"status":                 {},
	"support-bundle":         {args: []string{"-"}, takes: 1, form: "it writes a file", alone: "it says what it can without"},
	"token create":           {says: `{"token":"t"}`},
	"token ls":               {},
	"token revoke":           {args: []string{"abc"}, needs: 1},
	"user add":               {args: []string{"u"}, needs: 1, stdin: "secret\n"},
	"user del":               {args: []string{"u"}, needs: 1},
	"user get":               {args: []string{"u"}, needs: 1},
	"user grant-role":        {args: []string{"u", "r"}, needs: 2},
	"user ls":                {},
	"user passwd":            {args: []string{"u"}, needs: 1, stdin: "secret\n"},
	"user revoke-role":       {args: []string{"u", "r"}, needs: 2},
	"version":                {alone: prints},
}

// anExport is one of a single key.
const anExport = `{"export":{"format":1,"epoch":"e","revision":9,"prefix_base64":""}}
{"put":{"key":"a","value_base64":"MQ=="}}
{"end":{"keys":1,"sha256":"0a5caab3ab06506d96a9f91c34d4152e83c6d8d6f2dbdfb9d2df7d13e025fb35"}}
`

// commands calls f for each command that does something, by its path without the program's name.
func commands(t *testing.T, f func(path string, c *cobra.Command)) {
	t.Helper()
	root := (&program{}).rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		path := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "agent"), " ")
		groups := c.HasSubCommands() && path != "queue" && path != "nodes" && path != "members" // these do something by themselves
		if path == "" || path == "run" || path == "help" || c.Hidden || groups {
			return
		}
		f(path, c)
	}
	walk(root)
}

// eachCommand runs f for each command, with a world in which w.stdin is as the command wants it.
func eachCommand(t *testing.T, f func(t *testing.T, path string, c commandCase, w *world)) {
	t.Helper()
	commands(t, func(path string, _ *cobra.Command) {
		c, ok := everyCommand[path]
		if !ok {
			t.Errorf("agent %s is not in everyCommand: say there how it is called", path)
			return
		}
		c.takes = max(c.takes, c.needs)
		t.Run(path, func(t *testing.T) {
			w := newWorld(t)
			w.stdin = c.stdin
			f(t, path, c, w)
		})
	})
}

// call is the command line of a command: of its right arguments the first n, and more.
func (c commandCase) call(path string, n int, more ...string) []string {
	return slices.Concat(strings.Fields(path), c.args[:n], more)
}

func (c commandCase) whole(path string, more ...string) []string {
	return c.call(path, len(c.args), more...)
}

func TestEveryCommandIsKnownAndNoOther(t *testing.T) {
	left := maps.Clone(everyCommand)
	commands(t, func(path string, c *cobra.Command) {
		known, ok := left[path]
		if !ok {
			t.Errorf("agent %s is not in everyCommand", path)
		}
		delete(left, path)
		if (known.alone == "") != (c.Flags().Lookup("endpoint") != nil || c.InheritedFlags().Lookup("endpoint") != nil) && path != "check" && path != "support-bundle" {
			t.Errorf("agent %s talks to an agent and cannot be told to which, or the other way round", path)
		}
		if c.Short == "" || c.Flags().Lookup("help") == nil && c.InheritedFlags().Lookup("help") == nil && c.HelpTemplate() == "" {
			t.Errorf("agent %s does not say what it is", path)
		}
	})
	for path := range left {
		t.Errorf("there is no command agent %s", path)
	}
}

// What shows or lists anything does so as a table, JSON and YAML.
func TestEveryCommandHasItsForms(t *testing.T) {
	commands(t, func(path string, c *cobra.Command) {
		flag := c.Flags().Lookup("output")
		if flag == nil {
			flag = c.InheritedFlags().Lookup("output")
		}
		if flag == nil && everyCommand[path].form == "" {
			t.Errorf("agent %s has no -o table|json|yaml", path)
		} else if flag != nil && (flag.Shorthand != "o" || !strings.Contains(flag.Usage, "table, json or yaml")) {
			t.Errorf("agent %s: -o is %q", path, flag.Usage)
		}
	})
	eachCommand(t, func(t *testing.T, path string, c commandCase, w *world) {
		if c.form != "" || c.alone != "" && c.alone != prints && path != "config show" && path != "check" {
			return
		}
		said := c.says
		if said == "" {
			said = "{}"
		}
		f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", said+"\n"))
		if path == "snapshot save" {
			return // its report is of the file: see snapshot_test
		}
		to := []string{"--socket", f.socket}
		if c.alone != "" && path != "check" {
			to = nil
		}
		code, usage := exitDone, exitUsage
		switch path {
		case "kv watch":
			code = exitTemporary // the stream ends, which no agent does without a word
		case "config show":
			usage = exitConfig // its flags are the settings
		}
		out := w.runs(code, c.whole(path, append(to, "-o", "json")...)...)
		for line := range strings.Lines(out) {
			if path != "kv watch" { // lines of JSON
				line = out
			}
			if !json.Valid([]byte(line)) {
				t.Errorf("-o json is no JSON: %s", out)
			}
		}
		if out == "" {
			t.Error("-o json prints nothing")
		}
		if got := w.runs(code, c.whole(path, append(to, "-o", "yaml")...)...); got == out && len(got) > 5 || strings.HasPrefix(got, "{\"") {
			t.Errorf("-o yaml prints %s", got)
		}
		w.runs(usage, c.whole(path, append(to, "-o", "xml")...)...)
		w.says("must be table, json or yaml")
	})
}

// Whatever is wrong with a command line, no agent is asked, the exit code is 2, and the message names what explains it.
func TestEveryCommandExplainsItsUse(t *testing.T) {
	eachCommand(t, func(t *testing.T, path string, c commandCase, w *world) {
		f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", "{}"))
		usage := exitUsage
		if path == "config check" || path == "config show" { // their flags are the settings
			usage = exitConfig
		}
		wrong := func(args []string, texts ...string) {
			t.Helper()
			w.runs(usage, args...)
			if usage == exitUsage {
				texts = append(texts, "agent "+path)
			}
			w.says(texts...)
		}
		for n := range c.needs {
			wrong(c.call(path, n))
		}
		positional := 0
		for _, a := range c.args {
			if a == "-" || !strings.HasPrefix(a, "-") {
				positional++
			}
		}
		if path != "check" { // takes the names of as many checks as there are
			more := slices.Repeat([]string{"too-much"}, c.takes-positional+1)
			wrong(c.whole(path, more...))
		}
		wrong(c.whole(path, "--no-such-flag"), "no-such-flag")
		if asked := f.requests(); len(asked) > 0 {
			t.Errorf("the agent was asked %v", asked)
		}
	})
}

// Without an agent: 69, where it was looked for, and how to start one.
func TestEveryCommandSaysThatNoAgentIsThere(t *testing.T) {
	eachCommand(t, func(_ *testing.T, path string, c commandCase, w *world) {
		if c.alone != "" {
			return
		}
		w.runs(exitUnavailable, c.whole(path, "--socket", w.path("nobody.sock"))...)
		w.says("nobody.sock", "journalctl -u holdfast", "start it with: agent")
		w.stdin = c.stdin
		w.runs(exitUnavailable, c.whole(path)...)
		w.says("no agent here", "--socket, --data-dir or --endpoint")
	})
}

// An agent that refuses: 1 and its reason; one that cannot at present: 75 and that it is worth another try.
func TestEveryCommandPassesARefusalOn(t *testing.T) {
	eachCommand(t, func(t *testing.T, path string, c commandCase, w *world) {
		if c.alone != "" {
			return
		}
		no := newFakeAgent(t, w.path("no.sock"), answering(http.StatusForbidden, "application/problem+json", `{"title":"no","status":403,"detail":"not you, but root may","code":"permission-denied"}`))
		w.runs(exitRefused, c.whole(path, "--socket", no.socket)...)
		w.says("not you, but root may")
		later := newFakeAgent(t, w.path("later.sock"), answering(http.StatusServiceUnavailable, "application/problem+json", `{"title":"no leader","status":503,"code":"no-leader","retryable":true}`))
		w.runs(exitTemporary, c.whole(path, "--socket", later.socket)...)
		w.says("no leader", "try again")
		other := newFakeAgent(t, w.path("other.sock"), answering(http.StatusNotFound, "text/html", "<html>"))
		w.runs(exitRefused, c.whole(path, "--socket", other.socket)...)
		w.says("which no agent would: is it one?")
	})
}

// A configuration that is wrong: 78, with the place.
func TestEveryCommandThatGoesByTheConfigurationSaysWhatIsWrongWithIt(t *testing.T) {
	eachCommand(t, func(_ *testing.T, path string, c commandCase, w *world) {
		if strings.HasPrefix(path, "completion") || slices.Contains([]string{"check", "config doc", "config init", "man", "snapshot verify", "support-bundle", "version"}, path) {
			return // these go by none, or tell
		}
		w.write("etc/agent.yaml", "mode: chief\n")
		w.runs(exitConfig, c.whole(path)...)
		w.says("agent.yaml:1", "chief")
	})
}

// No flag has two meanings: -o, --socket and the like are the same everywhere.
func TestFlagsMeanTheSameEverywhere(t *testing.T) {
	short := map[string]string{}
	commands(t, func(path string, c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Shorthand == "" {
				return
			}
			if was, ok := short[f.Shorthand]; ok && was != f.Name {
				t.Errorf("agent %s: -%s is --%s here and --%s elsewhere", path, f.Shorthand, f.Name, was)
			}
			short[f.Shorthand] = f.Name
		})
	})
}
