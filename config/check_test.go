package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestListenersAreJudged(t *testing.T) {
	long := "unix:///" + strings.Repeat("s", 107)
	for _, c := range []struct {
		listen, part string // part of the fault, "" for none
	}{
		{"http://127.0.0.1:2379", ""},
		{"http://127.9.9.9:0", ""},
		{"http://localhost:2379", ""},
		{"http://[::1]:2379", ""},
		{"http://[::ffff:127.0.0.1]:2379", ""},
		{"unix:///run/x.sock", ""},
		{"unix:/run/x.sock", ""},
		{"http://127.0.0.1:0,http://127.0.0.1:0", ""},
		{"http://0.0.0.0:2379", "plaintext beyond this machine"},
		{"http://:2379", "plaintext beyond this machine"},
		{"http://[::]:2379", "plaintext beyond this machine"},
		{"http://192.168.1.1:2379", "--insecure"},
		{"http://localhost.example.com:2379", "plaintext beyond this machine"},
		{"https://127.0.0.1:2379", "needs a certificate: set tls.cert-file and tls.key-file, or tls.auto"},
		{"http://127.0.0.1", "must name a port"},
		{"http://127.0.0.1:", "must name a port"},
		{"http://127.0.0.1:70000", "from 0 to 65535"},
		{"http://127.0.0.1:02379", "from 0 to 65535"},
		{"127.0.0.1:2379", "must be http://host:port"},
		{"localhost:2379", "must be http://host:port"},
		{"tcp://127.0.0.1:2379", "must be http://host:port"},
		{"http://127.0.0.1:2379/v1", "a scheme, a host and a port only"},
		{"http://u:p@127.0.0.1:2379", "a scheme, a host and a port only"},
		{"unix://run/x.sock", "absolute path"},
		{"unix:", "absolute path"},
		{long, "has 108 bytes and the system allows 107"},
		{long[:len(long)-1], ""},
		{"http://127.0.0.1:1,http://127.0.0.1:1", "is taken by listen"},
	} {
		b := newBox(t)
		b.args = []string{"--listen=" + c.listen}
		_, err := b.try()
		if c.part == "" && err != nil || c.part != "" && (err == nil || !strings.Contains(err.Error(), c.part)) {
			t.Errorf("%s: got %v, want %q", c.listen, err, c.part)
		}
	}
}

func TestInsecureAllowsPlaintextBeyondLoopback(t *testing.T) {
	b := newBox(t)
	b.args = []string{"--listen=http://:2379", "--metrics-listen=http://0.0.0.0:9100"}
	b.refuses([]string{"listen", "flag --listen"}, []string{"metrics-listen", "flag --metrics-listen"})
	b.args = append(b.args, "--insecure")
	b.load()
	b.args = append(b.args, "--insecure=false")
	b.refuses([]string{"listen"}, []string{"metrics-listen"})
}

func TestListenersDoNotShareAnAddress(t *testing.T) {
	b := newBox(t)
	b.args = []string{"--metrics-listen=http://127.0.0.1:2379"}
	b.refuses([]string{"metrics-listen", "is taken by listen"})
	b.args = []string{"--socket=/run/a.sock", "--listen=unix:///run/a.sock"}
	b.refuses([]string{"listen", "is taken by socket"})
}

func TestALongSocketPathIsRefusedWithTheRemedy(t *testing.T) {
	b := newBox(t)
	b.args = []string{"--socket=/" + strings.Repeat("s", 107)}
	b.refuses([]string{"socket", "108 bytes", "/run/holdfast/agent.sock"})
	b.args = []string{"--socket=/" + strings.Repeat("s", 106)}
	b.load()
	b.args = []string{"--data-dir=/" + strings.Repeat("d", 96)} // and /agent.sock
	b.refuses([]string{"data-dir", "makes a socket path", "108 bytes", "--socket"})
	b.args = append(b.args, "--socket=/run/x.sock")
	b.load()
}

func TestTheSocketIsInTheDataDirUnlessSet(t *testing.T) {
	b := newBox(t)
	b.env = []string{"HOLDFAST_DATA_DIR=/var/lib/holdfast"}
	if got := b.load().Config.Socket; got != "/var/lib/holdfast/agent.sock" {
		t.Errorf("got %q", got)
	}
}

func TestTheRequestLimitHoldsValueAndKey(t *testing.T) {
	b := newBox(t)
	b.args = []string{"--limits-value=2MiB"}
	b.refuses([]string{"limits.request", "limits.value and limits.key"})
	b.args = append(b.args, "--limits-request=3MiB")
	b.load()
}

func TestContentsAreJudged(t *testing.T) {
	for arg, part := range map[string]string{
		"--name=" + strings.Repeat("n", 254):        "at most 253",
		"--name=a\nb":                               "printable",
		"--data-dir=~/x":                            "only a shell understands",
		"--data-dir=a\x00b":                         "zero byte",
		"--cors-origins=https://a.example/":         "must be an origin",
		"--cors-origins=*.example":                  "must be an origin",
		"--cors-origins=https://A.example":          "must be an origin",
		"--cors-origins=null":                       "must be an origin",
		"--metrics-listen=:9100":                    "must be http://host:port",
		"--limits-header-timeout=0s":                "must be from 100ms to 10m",
		"--link-redundancy=on":                      "must be one of auto, off",
		"--store-flush=11m":                         "must be from 100ms to 10m",
		"--cors-origins=https://a.example,ftp://b/": "has the entry \"ftp://b/\"",
	} {
		b := newBox(t)
		b.args = []string{arg}
		b.refuses([]string{part})
	}
}

func TestQueuePrefixesAreReadWhole(t *testing.T) {
	want := []QueuePrefix{{Prefix: "a/"}, {Prefix: "a/b/", Lane: "high", Guard: "none", Expires: time.Hour}, {}}
	for name, content := range map[string]string{
		"a.yaml": "queue:\n  prefixes: [a/, {prefix: a/b/, lane: high, guard: none, expires: 1h}, {prefix: ''}]\n",
		"b.toml": "[queue]\nprefixes = ['a/', {prefix = 'a/b/', lane = 'high', guard = 'none', expires = '1h'}, '']\n",
		"c.json": `{"queue": {"prefixes": ["a/", {"prefix": "a/b/", "lane": "high", "guard": "none", "expires": "1h"}, ""]}}`,
	} {
		b := newBox(t)
		b.args = []string{"--config", b.file(name, content)}
		got := b.load()
		if !slices.Equal(got.Config.Queue.Prefixes, want) {
			t.Errorf("%s: got %+v", name, got.Config.Queue.Prefixes)
		}
		shown := Settings(got.Config, got.Provenance)
		i := slices.IndexFunc(shown, func(s Setting) bool { return s.Key == "queue.prefixes" })
		if text := "a/,{prefix: a/b/, lane: high, guard: none, expires: 1h},"; shown[i].Value != text {
			t.Errorf("%s: shown as %q, want %q", name, shown[i].Value, text)
		}
	}
	b := newBox(t)
	b.args = []string{"--queue-prefixes=a/,b/", "--queue-prefixes=c/"}
	if got := b.load().Config.Queue.Prefixes; !slices.Equal(got, []QueuePrefix{{Prefix: "a/"}, {Prefix: "b/"}, {Prefix: "c/"}}) {
		t.Errorf("flags: got %+v", got)
	}
}

func TestQueuePrefixesAreJudged(t *testing.T) {
	for entries, part := range map[string]string{
		"{prefix: a, lan: x}":              "did you mean lane?",
		"{prefix: a, lane: x}":             "must be one of high",
		"{prefix: a, guard: x}":            "must be one of seen",
		"7":                                "must be text or a map with the keys prefix, lane, guard, on-full, expires, max-bytes",
		"{prefix: a, expires: x}":          "must be a duration",
		"{prefix: a, expires: none}":       "must be a duration", // it would be taken for queue.expires
		"{prefix: a, expires: 1ms}":        "must be at least 1s",
		"{lane: high}":                     "entry 1 has no prefix",
		"{prefix: a, on-full: x}":          "must be one of reject",
		"{prefix: a, max-bytes: x}":        "must be a size",
		"a/, b/, {prefix: a/, lane: bulk}": `the prefix "a/" twice`,
	} {
		b := newBox(t)
		b.file("agent.yaml", "queue: {prefixes: ["+entries+"]}\n")
		b.refuses([]string{"queue.prefixes", "agent.yaml:1", part})
	}
}

func TestAReadOnlyProxyQueuesNothing(t *testing.T) {
	b := newBox(t)
	b.args = []string{"--proxy-read-only", "--queue-prefixes=a/"}
	b.refuses([]string{"queue.prefixes", "proxy.read-only", "flag --queue-prefixes"})
}

func TestANamespaceIsForAProxy(t *testing.T) {
	b := newBox(t)
	b.args = []string{"--proxy-namespace=a/"}
	b.refuses([]string{"proxy.namespace", "needs mode proxy", "flag --proxy-namespace"})
	b.args = []string{"--mode=proxy", "--join=a:1", "--proxy-namespace=" + strings.Repeat("a", namespaceMax+1)}
	b.refuses([]string{"proxy.namespace", "at most 1024 are allowed"})
	b.args = []string{"--mode=proxy", "--join=a:1", "--proxy-namespace=a/"}
	if got := b.load().Config.Proxy.Namespace; got != "a/" {
		t.Errorf("got %q", got)
	}
}

func TestMirrorsDoNotOverlap(t *testing.T) {
	for list, part := range map[string]string{
		"a/,b/":       "",
		"a,b,c/a":     "",
		"a/,b/,a/":    `the entry "a/" twice`,
		"a/b/,a/":     `the entry "a/b/", which "a/" covers already`,
		"a/,b/,a/b/c": `the entry "a/b/c", which "a/" covers already`,
	} {
		b := newBox(t)
		b.args = []string{"--proxy-prefixes=" + list}
		if part == "" {
			b.load()
			continue
		}
		b.refuses([]string{"proxy.prefixes", part, "flag --proxy-prefixes"})
	}
	b := newBox(t)
	b.file("agent.yaml", "proxy: {prefixes: ['', a/]}\n")
	b.refuses([]string{`the entry "a/", which "" covers already`})
	b.file("agent.yaml", "proxy: {prefixes: ['']}\n")
	if got := b.load().Config.Proxy.Prefixes; !slices.Equal(got, []string{""}) {
		t.Errorf("every key: got %q", got)
	}
}

func TestAddressesOfOtherNodesAreJudged(t *testing.T) {
	for arg, part := range map[string]string{
		"--peer-listen=:2380":                            "",
		"--peer-listen=:0":                               "",
		"--peer-listen=192.0.2.7:2380":                   "",
		"--peer-listen=[::1]:1":                          "",
		"--peer-listen=":                                 "must be an address and a port",
		"--peer-listen=2380":                             "missing port",
		"--peer-listen=:70000":                           "from 0 to 65535",
		"--peer-listen=:x":                               "from 0 to 65535",
		"--peer-listen=::1:2380":                         "too many colons",
		"--peer-listen=http://:2380":                     "too many colons",
		"--peer-advertise=a.example:2380,[fd00::1]:1":    "",
		"--peer-advertise=a.example":                     "missing port",
		"--peer-advertise=:2380":                         "must name a host and a port",
		"--peer-advertise=a:0":                           "must name a host and a port",
		"--peer-advertise=0.0.0.0:2380":                  "none that can be dialed",
		"--peer-advertise=[::]:2380":                     "none that can be dialed",
		"--join=a.example:2380,192.0.2.7:2380,[::1]:1":   "",
		"--join=a.example:2380,b":                        `has the entry "b", which must be host:port`,
		"--join=srv:":                                    "must name a DNS service",
		"--join=srv:example.com,srv:_x._udp.example.com": "",
		"--join=a b:1":                                   "a character that no host has",
		"--join=u@a:1":                                   "a character that no host has",
	} {
		b := newBox(t)
		b.args = []string{arg}
		if part == "" {
			b.load()
			continue
		}
		key, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		b.refuses([]string{key + ":", part, "flag --" + key})
	}
}

func TestASecretThatEverybodyMayReadIsWarnedOf(t *testing.T) {
	b := newBox(t)
	path := b.file("token", "HF1")
	b.args = []string{"--token-file=" + path}
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o400: false, 0o644: true, 0o604: true, 0o602: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		got := b.load().Warnings
		if (len(got) == 1) != warned || warned && (!strings.Contains(got[0], path) || !strings.Contains(got[0], "chmod 0600")) {
			t.Errorf("mode %04o: got %q, want a warning %v", mode, got, warned)
		}
	}
	b.args = []string{"--token-file=" + path + ".gone"} // a node that has joined needs it no more
	if got := b.load().Warnings; len(got) != 0 {
		t.Errorf("got %q", got)
	}
	b.args = []string{"--token-file=~/token"}
	b.refuses([]string{"token-file", "only a shell understands"})
}

func TestATokenInThePlaceOfItsFileIsRefusedAndNotRepeated(t *testing.T) {
	b := newBox(t)
	b.args = []string{"--token-file=HF1" + strings.Repeat("a", 64) + "::0123.feed"}
	b.refuses([]string{"token-file: names a file", "HOLDFAST_TOKEN", "flag --token-file"})
	if _, err := b.try(); err == nil || strings.Contains(err.Error(), "feed") {
		t.Errorf("the token is repeated: %v", err)
	}
}

func TestValidateJudgesAConfigMadeByHand(t *testing.T) {
	c := Default()
	c.Complete("x")
	c.Mode, c.Limits.Watches, c.Listen, c.Store.History = "chief", 0, []string{"http://:1"}, -1
	got := Faults(c.Validate())
	var keys []string
	for _, f := range got {
		keys = append(keys, f.Key)
	}
	if want := []string{"mode", "store.history", "limits.watches", "listen"}; !slices.Equal(keys, want) {
		t.Errorf("got faults on %v, want %v", keys, want)
	}
}

func TestCompareTellsReloadFromRestart(t *testing.T) {
	old := Default()
	changed := old
	changed.LogLevel, changed.DataDir, changed.Token, changed.Listen = "debug", "/x", "hush", nil
	got := Compare(old, changed)
	want := []Change{
		{"data-dir", "holdfast.data", "/x", false},
		{"listen", "http://127.0.0.1:2379,http://[::1]:2379", "", false},
		{"token", "", "[redacted]", false},
		{"log-level", "info", "debug", true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Compare(old, Default()); got != nil {
		t.Errorf("the same: got %v", got)
	}
}

func TestDerivedNamesAreUniqueAndDescribed(t *testing.T) {
	flags, envs := map[string]bool{"config": true, "help": true}, map[string]bool{configEnv: true}
	for _, f := range settings() {
		if flags[f.flag()] || envs[f.env()] {
			t.Errorf("%s: its flag or its variable is taken", f.key)
		}
		flags[f.flag()], envs[f.env()] = true, true
		if f.help == "" || strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: its help must be a sentence without the full stop", f.key)
		}
		if injectedByKubernetes(f.env()) {
			t.Errorf("%s: %s would be taken for one of Kubernetes' variables", f.key, f.env())
		}
		if err := f.verify(f.of(new(Default()))); err != nil {
			t.Errorf("%s: the default %v", f.key, err)
		}
	}
}

func TestPathsOfFilesAreAsGiven(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "")
	if got := b.load().Files; !slices.Equal(got, []string{filepath.Join(b.dir, "agent.yaml")}) {
		t.Errorf("got %v", got)
	}
}
