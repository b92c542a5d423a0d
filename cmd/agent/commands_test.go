package main

import (
	"encoding/json"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"holdfast/config"
)

const statusBody = `{"name":"edge-7","mode":"member","state":"serving","ready":true,"listen":["http://a","http://b"],"revision":7,"member":{"leader":"1","log_bytes":5242880}}`

func TestStatusShowsWhatTheAgentReports(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", statusBody+"\n"))
	want := `name              edge-7
mode              member
state             serving
ready             true
listen            http://a, http://b
revision          7
member.leader     1
member.log_bytes  5242880 (5MiB)
`
	if got := w.runs(0, "status", "--socket", f.socket); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if r := f.request(t); r.method != "GET" || r.uri != "/v1/status" {
		t.Errorf("asked %+v", r)
	}
	if got := w.runs(0, "status", "-o", "json", "--socket", f.socket); got != statusBody+"\n" {
		t.Errorf("got %s", got)
	}
	want = `name: "edge-7"
mode: "member"
state: "serving"
ready: true
listen:
  - "http://a"
  - "http://b"
revision: 7
member:
  leader: "1"
  log_bytes: 5242880
`
	if got := w.runs(0, "status", "-o", "yaml", "--socket", f.socket); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestStatusNamesTheLeaderThatIsMissing(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"member":{"replica_id":"1","term":3}}`))
	want := `member.replica_id  1
member.leader      none: no quorum, so local reads only
member.term        3
`
	if got := w.runs(0, "status", "--socket", f.socket); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestAuthIsNotEnabledWithoutRootAndSaysWhatItTakes(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(400, "application/json", `{"code":9,"message":"etcdserver: root user does not exist"}`))
	w.runs(1, "auth", "enable", "--socket", f.socket)
	w.says("root user does not exist", "agent user add root, then agent user grant-role root root")
}

const proxyStatus = `{"name":"edge-7","mode":"proxy","ready":true,"proxy":{"joined":true,"upstream":"192.0.2.1:2380","uplink_lost":true,` +
	`"uplink_error":"no packet for 3s","synced":true,"age_seconds":93.500123456,"cache_bytes":2048,"mirrors":[{"prefix":"site/","covered":true,"revision":7},` +
	`{"prefix":"","covered":false,"revision":0,"reason":"larger than the cache"}]},"queue":{"depth":12,"bytes":5242880,"oldest_seconds":1.036024118,"news":[]},` +
	`"links":[{"node":"ab","lost":true,"rtt_ms":1.5,"bytes_sent":4096}]}`

func TestStatusOfAProxyCanBeRead(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", proxyStatus))
	want := `name                  edge-7
mode                  proxy
ready                 true
proxy.joined          true
proxy.upstream        192.0.2.1:2380
proxy.uplink_lost     true
proxy.uplink_error    no packet for 3s
proxy.synced          true
proxy.age_seconds     93.5 (1m33s)
proxy.cache_bytes     2048 (2KiB)
queue.depth           12
queue.bytes           5242880 (5MiB)
queue.oldest_seconds  1.036
queue.news            []

proxy.mirrors
PREFIX  COVERED  REVISION  REASON
site/   true     7         -
""      false    0         larger than the cache

links
NODE  LOST  RTT_MS  BYTES_SENT
ab    true  1.5     4096 (4KiB)
`
	if got := w.runs(0, "status", "--socket", f.socket); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := w.runs(0, "status", "-o", "json", "--socket", f.socket); got != proxyStatus+"\n" {
		t.Errorf("got %s", got)
	}
}

func TestYAMLOfAnyDocument(t *testing.T) {
	for doc, want := range map[string]string{
		`{}`: "{}\n", `[]`: "[]\n", `null`: "null\n", `"a: b"`: "\"a: b\"\n", `12345678901234567890`: "12345678901234567890\n",
		`{"a":{},"b":[],"c":{"d":[1,{"e":2,"f":[3]},[4,5]]}}`: "a: {}\nb: []\nc:\n  d:\n    - 1\n    - e: 2\n      f:\n        - 3\n    - - 4\n      - 5\n",
		`{"true":1,"9":2,"a-b":3,"":4,"x9":5}`:                "\"true\": 1\n\"9\": 2\n\"a-b\": 3\n\"\": 4\nx9: 5\n",
	} {
		var b strings.Builder
		if err := outputYAML.printJSON(&b, []byte(doc)); err != nil || b.String() != want {
			t.Errorf("%s: got\n%s%v\nwant\n%s", doc, b.String(), err, want)
		}
	}
	for _, doc := range []string{"", "{", `{"a"}`, `[1`, "nonsense"} {
		if err := outputYAML.printJSON(&strings.Builder{}, []byte(doc)); err == nil {
			t.Errorf("%q was taken", doc)
		}
	}
}

func TestConfigInitWritesASampleThatIsGood(t *testing.T) {
	w := newWorld(t)
	if got := w.runs(0, "config", "init"); got != config.Sample() {
		t.Errorf("got %q", got)
	}
	path := w.path("agent.yaml")
	w.runs(0, "config", "init", path)
	if got := w.runs(0, "config", "check", "--config", path); got != "the configuration is good ("+path+")\n" {
		t.Errorf("got %q", got)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.runs(1, "config", "init", path)
	w.says("exists already")
	if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
		t.Errorf("the file is %q, %v", content, err)
	}
	w.runs(1, "config", "init", w.path("no/such/dir.yaml"))
	w.runs(2, "config", "init", "a", "b")
}

func TestConfigCheckFindsEverything(t *testing.T) {
	w := newWorld(t)
	if got := w.runs(0, "config", "check"); got != "the configuration is good (no file)\n" {
		t.Errorf("got %q", got)
	}
	w.env = []string{"HOLDFAST_PORT=tcp://x"}
	w.runs(0, "config", "check")
	w.says("Kubernetes")
	w.write("etc/agent.yaml", "mode: chief\nxyz: 1\n")
	w.env = []string{"HOLDFAST_LOG_LEVEL=loud"}
	if got := w.runs(78, "config", "check", "--lisen=x", "--link-redundancy=on"); got != "" {
		t.Errorf("printed %q", got)
	}
	w.says("--lisen", `mode: "chief"`, "agent.yaml:1", "xyz", "agent.yaml:2", "HOLDFAST_LOG_LEVEL", "link.redundancy", "auto, off")
	if lines := strings.Count(w.stderr.String(), "\n"); lines != 5 {
		t.Errorf("got %d lines, want one for each fault:\n%s", lines, w.stderr)
	}
	w.runs(78, "config", "check", "x")
}

func TestConfigShowNamesOrigins(t *testing.T) {
	w := newWorld(t)
	w.write("etc/agent.yaml", "\nstore: {flush: 10s}\n")
	w.env = []string{"HOLDFAST_NAME=edge-7"}
	got := w.runs(0, "config", "show", "--log-level=warn")
	for _, line := range []string{
		"KEY VALUE FROM", "mode auto default", "name edge-7 environment HOLDFAST_NAME", "store.flush 10s " + w.path("etc/agent.yaml") + ":2", "log-level warn flag --log-level",
	} {
		if !hasLine(got, line) {
			t.Errorf("got\n%s\nwant the line %q", got, line)
		}
	}
	var list []struct{ Key, Value, From string }
	if err := json.Unmarshal([]byte(w.runs(0, "config", "show", "-o", "json")), &list); err != nil || len(list) < 20 || list[0].Key != "mode" || list[0].From != "default" {
		t.Errorf("got %+v, %v", list, err)
	}
	if got := w.runs(0, "config", "show", "-o", "yaml"); !strings.HasPrefix(got, "- key: \"mode\"\n  value: \"auto\"\n  from: \"default\"\n") {
		t.Errorf("got %s", got)
	}
	w.runs(78, "config", "show", "--bogus", "-o", "json")
	if strings.Contains(w.stderr.String(), "-o") {
		t.Errorf("-o is a flag of this command: %s", w.stderr)
	}
}

func hasLine(text, words string) bool {
	for line := range strings.Lines(text) {
		if strings.Join(strings.Fields(line), " ") == words {
			return true
		}
	}
	return false
}

func TestConfigDocIsTheReferencePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if got := newWorld(t).runs(0, "config", "doc"); got != string(page) {
		t.Error("docs/configuration.md is not what agent config doc prints")
	}
}

func TestVersion(t *testing.T) {
	w := newWorld(t)
	got := w.runs(0, "version")
	if !hasLine(got, "go "+runtime.Version()) || !hasLine(got, "platform "+runtime.GOOS+"/"+runtime.GOARCH) || !strings.HasPrefix(got, "version ") {
		t.Errorf("got %s", got)
	}
	var b build
	if err := json.Unmarshal([]byte(w.runs(0, "version", "-o", "json")), &b); err != nil || b != buildOf() {
		t.Errorf("got %+v, %v", b, err)
	}
}

func TestVersionComesFromTheLinkerOrTheBuild(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}}
	b := build{}
	b.fill(info)
	if b.Version != "v1.2.3" || b.Commit != "abc+changes" {
		t.Errorf("got %+v", b)
	}
	b = build{Version: "9", Commit: "def"}
	b.fill(info)
	if b.Version != "9" || b.Commit != "def" {
		t.Errorf("what the linker says must stay: %+v", b)
	}
	b = build{}
	if b.fill(&debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}); b != (build{}) {
		t.Errorf("got %+v", b)
	}
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := w.runs(0, "completion", shell); !strings.Contains(got, "agent") {
			t.Errorf("%s: got %q", shell, got)
		}
	}
	if got := w.runs(0, "__complete", "kv", "w"); !strings.HasPrefix(got, "watch\t") {
		t.Errorf("got %q", got)
	}
}

const help = `Holdfast, a key-value agent for edge nodes.

Without a command it runs a node, as "agent run" does; no configuration is needed.

Usage:
  agent [flags]
  agent [command]

Run a node:
  run            Run a node; the default
  status         Show how the agent is doing
  check          Look for what is wrong with this machine and its agent, and say what to do about it
  config         Write, check and show the configuration
  version        Print the version

Keys and values:
  kv             Read, write and watch keys
  queue          Look at the writes that wait for the cluster

The cluster:
  members        List the members of the cluster, add and remove them
  nodes          List the members and proxies of the cluster, and shut one out
  token          Make and end the tokens with which nodes join and devices are let in
  promote        Make a proxy a member
  demote         Make a member a proxy
  leave          Take this node out of its cluster
  cert           Show and renew this node's certificate, and replace the cluster's CA

Who may do what:
  auth           Turn authentication on or off, or tell whether it is on
  user           Make and change users, as etcdctl user does
  role           Make and change roles, as etcdctl role does

When it matters:
  snapshot       Take, verify and restore backups
  recover        Make a cluster of one of a member whose cluster has lost its quorum for good
  support-bundle Collect what somebody who helps from afar needs, without secrets
  reseal         Seal the keys of a stopped agent with another secret, or with none
  prepare-image  Take the identity out of a data directory, so that an image of this machine can be copied

Others:
  completion     Generate the autocompletion script for the specified shell
  help           Help about any command
  man            Print the manual page, or write all of them into a folder

Flags, used most:
`

func TestHelp(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}} {
		if got := w.runs(0, args...); !strings.HasPrefix(got, help) {
			t.Errorf("%v: got\n%s\nwant\n%s", args, got, help)
		}
	}
	if got := w.runs(0, "--help"); strings.Contains(got, "--limits-txn-ops") || !strings.Contains(got, "--join") {
		t.Errorf("the help of all has not the flags that are used most, and only those:\n%s", got)
	}
	for _, args := range [][]string{{"run", "-h"}, {"config", "check", "-h"}, {"config", "show", "-h"}} {
		got := w.runs(0, args...)
		for _, flag := range []string{"--limits-txn-ops ", "--join ", "--help "} {
			if strings.Count(got, flag) != 1 {
				t.Errorf("%v: %s is there %d times in\n%s", args, flag, strings.Count(got, flag), got)
			}
		}
	}
	for _, c := range completeRoot().Commands() {
		if got := w.runs(0, "--help"); !c.Hidden && !strings.Contains(got, "\n  "+c.Name()+" ") {
			t.Errorf("the help of all does not list %s", c.Name())
		}
	}
	for _, args := range [][]string{{"run", "-h"}, {"kv", "-h"}, {"kv", "get", "-h"}, {"help", "kv", "watch"}, {"config", "show", "--help"}} {
		if got := w.runs(0, args...); !strings.Contains(got, "Usage:\n  agent ") {
			t.Errorf("%v: got %s", args, got)
		}
	}
}

func TestEveryChapterOfHelpNamesCommandsThatExist(t *testing.T) {
	root := completeRoot()
	for _, chapter := range chapters {
		for _, name := range chapter.commands {
			if c, _, err := root.Find([]string{name}); err != nil || c == root {
				t.Errorf("%s: there is no command %s", chapter.title, name)
			}
		}
	}
}
