package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// box is a machine to load settings on: a directory of files, an environment, a command line.
type box struct {
	t    *testing.T
	dir  string
	env  []string
	args []string
}

func newBox(t *testing.T) *box {
	t.Helper()
	return &box{t: t, dir: t.TempDir()}
}

func (b *box) file(name, content string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *box) try() (Loaded, error) {
	b.t.Helper()
	flags, flagErr := ParseFlags(b.args)
	loaded, err := Load(Sources{
		Flags: flags, Environ: b.env, Dir: b.dir,
		Hostname: func() (string, error) { return "edge-7", nil },
	})
	return loaded, errors.Join(flagErr, err)
}

func (b *box) load() Loaded {
	b.t.Helper()
	loaded, err := b.try()
	if err != nil {
		b.t.Fatalf("load: %v", err)
	}
	return loaded
}

// refuses asserts that loading fails with exactly these faults, each given as parts of its line.
func (b *box) refuses(want ...[]string) {
	b.t.Helper()
	_, err := b.try()
	faults := Faults(err)
	if len(faults) != len(want) {
		b.t.Errorf("got %d faults, want %d:\n%v", len(faults), len(want), err)
		return
	}
	for i, parts := range want {
		for _, part := range parts {
			if f := faults[i]; !strings.Contains(f.Error(), part) {
				b.t.Errorf("fault %d is %q, want %q in it", i+1, f, part)
			}
		}
	}
}

func TestWithoutSettingsTheDefaultsRunAnAgent(t *testing.T) {
	b := newBox(t)
	got := b.load()
	want := Default()
	want.Complete("edge-7")
	if !reflect.DeepEqual(got.Config, want) {
		t.Errorf("got %+v\nwant %+v", got.Config, want)
	}
	c := got.Config
	if c.Mode != ModeAuto || c.Name != "edge-7" || c.Socket != "holdfast.data/agent.sock" || c.Limits.Request != 3*MiB/2 ||
		c.Store.History != 10*time.Minute || !slices.Equal(c.Listen, []string{"http://127.0.0.1:2379", "http://[::1]:2379"}) {
		t.Errorf("unexpected defaults: %+v", c)
	}
	if len(got.Provenance)+len(got.Warnings)+len(got.Files) != 0 {
		t.Errorf("got provenance %v, warnings %v, files %v, want none", got.Provenance, got.Warnings, got.Files)
	}
	if err := c.Validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
}

func TestEachLayerIsStrongerThanTheOneBefore(t *testing.T) {
	b := newBox(t)
	steps := []struct {
		add   func()
		level string
		from  string
	}{
		{func() {}, "info", ""},
		{func() { b.file("agent.yaml", "name: main\nlog-level: debug\n") }, "debug", "agent.yaml:2"},
		{func() { b.file("agent.d/10-a.yaml", "log-level: warn\n") }, "warn", "10-a.yaml:1"},
		{func() { b.file("agent.d/9-b.yaml", "log-level: error\n") }, "error", "9-b.yaml:1"}, // lexical: after 10-a
		{func() { b.env = []string{"HOLDFAST_LOG_LEVEL=info"} }, "info", "environment HOLDFAST_LOG_LEVEL"},
		{func() { b.args = []string{"--log-level", "debug"} }, "debug", "flag --log-level"},
	}
	for _, s := range steps {
		s.add()
		got := b.load()
		from := got.Provenance["log-level"].String()
		if got.Config.LogLevel != s.level || !strings.HasSuffix(from, s.from) {
			t.Errorf("got %s from %q, want %s from %q", got.Config.LogLevel, from, s.level, s.from)
		}
	}
	if got := b.load(); got.Config.Name != "main" || len(got.Files) != 3 {
		t.Errorf("got name %q from files %v: a weaker file's other values must stay", got.Config.Name, got.Files)
	}
}

func TestAStrongerListReplacesTheWhole(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "listen: [http://127.0.0.1:1, http://127.0.0.1:2, http://127.0.0.1:3]\n")
	b.file("agent.d/x.yaml", "listen: [http://127.0.0.1:4]\n")
	if got := b.load().Config.Listen; !slices.Equal(got, []string{"http://127.0.0.1:4"}) {
		t.Errorf("file over file: got %v", got)
	}
	b.env = []string{"HOLDFAST_LISTEN=http://127.0.0.1:5, http://127.0.0.1:6"}
	if got := b.load().Config.Listen; !slices.Equal(got, []string{"http://127.0.0.1:5", "http://127.0.0.1:6"}) {
		t.Errorf("variable over files: got %v", got)
	}
	b.args = []string{"--listen=http://127.0.0.1:7,http://127.0.0.1:8", "--listen", "http://127.0.0.1:9"}
	want := []string{"http://127.0.0.1:7", "http://127.0.0.1:8", "http://127.0.0.1:9"}
	if got := b.load().Config.Listen; !slices.Equal(got, want) {
		t.Errorf("flags over all: got %v, want %v", got, want)
	}
	b.args = []string{"--listen="}
	if got := b.load().Config.Listen; len(got) != 0 {
		t.Errorf("an empty flag: got %v, want none", got)
	}
}

func TestFormatsSayTheSame(t *testing.T) {
	files := map[string]string{
		"a.yaml": "name: x\ninsecure: true\nstore:\n  flush: 10s\n  disk-reserve: 1GiB\n  history: 0\nlimits: {watches: 5, value: 2048}\ncors:\n  origins: [\"https://a.example\"]\n",
		"a.yml":  "name: x\ninsecure: 'true'\nstore.flush: 10s\nstore.disk-reserve: 1024MiB\nstore: {history: 0s}\nlimits: {watches: '5', value: 2KiB}\ncors.origins: https://a.example\n",
		"a.toml": "name = 'x'\ninsecure = true\nstore.flush = '10s'\nstore.disk-reserve = 1_073_741_824\nstore.history = 0\n[limits]\nwatches = 5\nvalue = '2KiB'\n[cors]\norigins = ['https://a.example']\n",
		"a.json": `{"name":"x","insecure":true,"store":{"flush":"10s","disk-reserve":1073741824,"history":0},"limits":{"watches":5,"value":"2KiB"},"cors":{"origins":["https://a.example"]}}`,
	}
	for name, content := range files {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.args = []string{"--config", b.file(name, content)}
			c := b.load().Config
			want := Default()
			want.Name, want.Insecure, want.CORS.Origins = "x", true, []string{"https://a.example"}
			want.Store.Flush, want.Store.DiskReserve, want.Store.History = 10*time.Second, GiB, 0
			want.Limits.Watches, want.Limits.Value = 5, 2*KiB
			want.Complete("")
			if !reflect.DeepEqual(c, want) {
				t.Errorf("got %+v\nwant %+v", c, want)
			}
		})
	}
}

func TestTheMainFileIsTheOneNamed(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "name: default\n")
	named := b.file("other/my.toml", "name = 'named'\n")
	b.file("other/agent.d/1.yaml", "log-level: warn\n")
	b.env = []string{"HOLDFAST_CONFIG=" + named}
	got := b.load()
	if got.Config.Name != "named" || got.Config.LogLevel != "warn" {
		t.Errorf("by variable: got %q, %q from %v", got.Config.Name, got.Config.LogLevel, got.Files)
	}
	b.args = []string{"--config=" + b.file("agent.yaml", "name: flag\n")}
	if got := b.load().Config.Name; got != "flag" {
		t.Errorf("a flag is stronger than the variable: got %q", got)
	}
	b.args = []string{"--config=" + filepath.Join(b.dir, "none.yaml")}
	b.refuses([]string{"none.yaml", "no such file"})
	if _, err := b.try(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want the cause in it", err)
	}
	b.args = []string{"--config=" + b.file("agent.conf", "")}
	b.refuses([]string{"agent.conf", ".yaml, .yml, .toml or .json"})
}

func TestADropInThatIsNotReadIsNamed(t *testing.T) {
	b := newBox(t)
	b.file("agent.d/a.toml", "name = 'x'")
	b.file("agent.d/b.yaml.dpkg-old", "name: y")
	b.file("agent.d/.c.yaml", "name: z")
	got := b.load()
	if len(got.Files) != 0 || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "a.toml is not read") {
		t.Errorf("got files %v, warnings %q", got.Files, got.Warnings)
	}
}

func TestUnknownNamesAreRefusedWithTheNearestKnown(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "lisen: []\nstore:\n  flsh: 1s\nflush: 2s\nzzzzzzzzzzzz: 1\ntoken: secret\nstor: {flush: 1s}\n")
	b.env = []string{"HOLDFAST_LOG_LEVELL=debug", "HOLDFAST_=x"}
	b.args = []string{"--lisen", "http://x", "--mod=member", "--qqqqqqqqqq", "--token", "HF1secret", "-x"}
	b.refuses(
		[]string{"--lisen", "did you mean --listen?"},
		[]string{"--mod", "did you mean --mode?"},
		[]string{"--qqqqqqqqqq: there is no such flag"},
		[]string{"--token: is a secret and no flag", "--token-file FILE", "HOLDFAST_TOKEN"},
		[]string{"-x", "two dashes"},
		[]string{"lisen", "agent.yaml:1", "did you mean listen?"},
		[]string{"store.flsh", "agent.yaml:3", "did you mean store.flush?"},
		[]string{"flush", "agent.yaml:4", "did you mean store.flush?"},
		[]string{"zzzzzzzzzzzz: there is no such key (", "agent.yaml:5"},
		[]string{"token: is a secret", "agent.yaml:6", "HOLDFAST_TOKEN"},
		[]string{"stor: there is no such key: did you mean store?", "agent.yaml:7"},
		[]string{"HOLDFAST_LOG_LEVELL", "did you mean HOLDFAST_LOG_LEVEL?"},
		[]string{"HOLDFAST_: there is no such variable"},
	)
}

func TestKubernetesVariablesAreIgnoredWithOneWarning(t *testing.T) {
	b := newBox(t)
	b.env = []string{"HOLDFAST_SERVICE_HOST=10.0.0.1", "HOLDFAST_SERVICE_PORT_CLIENT=2379", "HOLDFAST_PORT=tcp://10.0.0.1:2379", "HOLDFAST_PORT_2379_TCP_ADDR=10.0.0.1"}
	if got := b.load().Warnings; len(got) != 1 || !strings.Contains(got[0], "HOLDFAST_PORT, HOLDFAST_PORT_2379_TCP_ADDR, HOLDFAST_SERVICE_HOST") {
		t.Errorf("got %q, want one warning", got)
	}
}

func TestAnEmptyVariableIsNotSet(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "name: file\n")
	b.env = []string{"HOLDFAST_NAME=", "HOLDFAST_LOG_LEVEL=", "HOLDFAST_NO_SUCH_THING=", "HOLDFAST_CONFIG=", "OTHER=1"}
	if got := b.load(); got.Config.Name != "file" || len(got.Provenance) != 1 {
		t.Errorf("got %q, %v", got.Config.Name, got.Provenance)
	}
}

func TestAKeyWithoutValueInAFileIsNotSet(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "name: main\nstore:\nlimits:\n  value:\n")
	b.file("agent.d/a.yaml", "name:\n")
	if got := b.load(); got.Config.Name != "main" || got.Config.Limits.Value != MiB {
		t.Errorf("got %q, %v", got.Config.Name, got.Config.Limits.Value)
	}
}

func TestEveryFaultOfEveryLayerIsReported(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "mode: chief\nstore:\n  flush: 5\n  disk-reserve: lots\nlimits: 7\ninsecure: maybe\nname: 42\n")
	b.file("agent.d/bad.yaml", "a: [\n")
	b.env = []string{"HOLDFAST_MODE=member", "HOLDFAST_LIMITS_WATCHES=0"}
	b.args = []string{"--limits-connections=many", "--data-dir=", "--log-format", "xml"}
	b.refuses(
		[]string{"limits: is a section", "agent.yaml:5"},
		[]string{"bad.yaml", "cannot be read as YAML", "line"},
		// Then setting by setting within each layer: the file, the environment, the flags.
		[]string{`mode: "chief" must be one of auto, member, proxy`, "agent.yaml:1"}, // though a variable overrides it
		[]string{`name: "42" must be text`, "agent.yaml:7"},
		[]string{`insecure: "maybe" must be true or false`, "agent.yaml:6"},
		[]string{`store.flush: "5" must be a duration with a unit`, "agent.yaml:3"},
		[]string{`store.disk-reserve: "lots" must be a size`, "agent.yaml:4"},
		[]string{`limits.watches: "0" must be from 1 to 1000000`, "environment HOLDFAST_LIMITS_WATCHES"},
		[]string{"data-dir: must not be empty", "flag --data-dir"},
		[]string{`log-format: "xml" must be one of`, "flag --log-format"},
		[]string{`limits.connections: "many" must be a whole number`, "flag --limits-connections"},
	)
}

func TestSyntaxErrorsNameTheLine(t *testing.T) {
	for name, content := range map[string]string{
		"a.yaml": "name: x\nlisten: [a\nb: {",
		"b.toml": "name = 'x'\nlisten = = 2\n",
		"c.json": "{\"name\": \"x\",\n \"listen\": }",
	} {
		b := newBox(t)
		b.args = []string{"--config", b.file(name, content)}
		_, err := b.try()
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), ":2)") && !strings.Contains(err.Error(), "line ") {
			t.Errorf("%s: got %v, want the file and a line", name, err)
		}
	}
}

func TestLinesAreFoundInEveryFormat(t *testing.T) {
	for name, content := range map[string]string{
		"a.yaml": "store:\n  history: 1h\n  flush: never\n",
		"b.toml": "name = 'x'\n[store]\nflush = 'never'\n",
		"c.json": "{\n\"store\": {\n\t\"flush\": \"never\"}}\n",
	} {
		b := newBox(t)
		b.args = []string{"--config", b.file(name, content)}
		b.refuses([]string{"store.flush", name + ":3"})
	}
}

func TestASettingTwiceInOneFileIsRefused(t *testing.T) {
	for name, content := range map[string]string{
		"a.yaml": "store:\n  flush: 1s\nstore.flush: 2s\n",
		"b.json": `{"name": "a", "name": "b"}`,
		"c.toml": "'store.flush' = '1s'\n[store]\nflush = '2s'\n",
	} {
		b := newBox(t)
		b.args = []string{"--config", b.file(name, content)}
		b.refuses([]string{"is set twice", name})
	}
	for name, content := range map[string]string{"a.yaml": "name: a\nname: b\n", "b.toml": "name = 'a'\nname = 'b'\n"} {
		b := newBox(t)
		b.args = []string{"--config", b.file(name, content)}
		if _, err := b.try(); err == nil {
			t.Errorf("%s: a key that stands there twice was read", name)
		}
	}
	b := newBox(t)
	b.file("agent.yaml", "name: a\n---\nname: b\n")
	b.refuses([]string{"more than one document"})
}

func TestFilesAreBounded(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "name: x #"+strings.Repeat("y", fileMax))
	b.refuses([]string{"agent.yaml", "larger than 64KiB"})
	b = newBox(t)
	for i := range dropInsMax + 1 {
		b.file("agent.d/"+string(rune('a'+i%26))+strings.Repeat("x", i/26)+".yaml", "")
	}
	b.refuses([]string{"agent.d has 257 files, at most 256"})
	b = newBox(t)
	b.env = []string{"HOLDFAST_CORS_ORIGINS=" + strings.Repeat("http://a.example,", listMax+1)}
	b.refuses([]string{"cors.origins", "1025 entries"})
}

func TestSecretsNeverShow(t *testing.T) {
	b := newBox(t)
	b.env = []string{"HOLDFAST_TOKEN=hush-hush", "HOLDFAST_TOKENN=hush-hush"}
	b.args = []string{"--token=hush-hush"}
	_, err := b.try()
	if err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("got %v, want faults without the secret", err)
	}
	if flags, _ := ParseFlags(nil); flags.Lookup("token") != nil {
		t.Error("there is a flag for a secret")
	}
}

func TestTypesAreChecked(t *testing.T) {
	for content, part := range map[string]string{
		"insecure: 1\n":                        "must be true or false",
		"name: 2024-01-01\n":                   "put it in quotes",
		"name: [a]\n":                          "a single value",
		"listen: {a: b}\n":                     "entry 1 must be text",
		"listen: [1]\n":                        "entry 1 must be text",
		"limits: {value: -1}\n":                "must not be negative",
		"limits: {value: 1.5}\n":               "must be a size",
		"limits: {value: true}\n":              "must be a size",
		"limits: {watches: 1.5}\n":             "must be a whole number",
		"store: {history: -1s}\n":              "must not be negative",
		"store: {history: [1s]}\n":             "a single value",
		"store: {flush: 1}\n":                  "with a unit",
		"store: {disk-reserve: 9999999TiB}\n":  "is more than 8191PiB",
		"store: {disk-reserve: 1.0000001KB}\n": "must be a size",
		"store: {disk-reserve: 1}\n":           "must be at least 1MiB",
		"store: {1: 2}\n":                      "store.1: there is no such key",
		"1: 2\n":                               "1: there is no such key",
		"[a, b]\n":                             "cannot be read as YAML",
		"Name: a\n":                            "did you mean name?",
	} {
		b := newBox(t)
		b.file("agent.yaml", content)
		b.refuses([]string{part})
	}
}

func TestAMissingHostNameIsAWarning(t *testing.T) {
	got, err := Load(Sources{Dir: t.TempDir(), Hostname: func() (string, error) { return "", errors.New("no name") }})
	if err != nil || len(got.Warnings) != 1 {
		t.Errorf("got warnings %q, error %v", got.Warnings, err)
	}
}

// systemd hands a token, or the secret of a seal, over in a folder; anything else that was said about it goes before that.
func TestACredentialIsTheFileOfASetting(t *testing.T) {
	for name, one := range map[string]struct {
		variable string
		get      func(Config) string
	}{
		"token":         {"HOLDFAST_TOKEN_FILE", func(c Config) string { return c.TokenFile }},
		"holdfast.seal": {"HOLDFAST_SEAL_FILE", func(c Config) string { return c.SealFile }},
	} {
		dir := t.TempDir()
		environ := []string{"CREDENTIALS_DIRECTORY=" + dir}
		if loaded, err := Load(Sources{Dir: t.TempDir(), Environ: environ}); err != nil || one.get(loaded.Config) != "" {
			t.Errorf("%s: without one: %q, %v", name, one.get(loaded.Config), err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("x"), 0o400); err != nil {
			t.Fatal(err)
		}
		loaded, err := Load(Sources{Dir: t.TempDir(), Environ: environ})
		if err != nil || one.get(loaded.Config) != path {
			t.Errorf("%s: the file is %q, %v", name, one.get(loaded.Config), err)
		}
		loaded, err = Load(Sources{Dir: t.TempDir(), Environ: append(environ, one.variable+"="+path+"x")})
		if one.get(loaded.Config) != path+"x" {
			t.Errorf("%s: the variable does not win: %q, %v", name, one.get(loaded.Config), err)
		}
	}
}

// systemd hands secrets over in a folder; anything else that was said about them goes before it.
func TestCredentialsAreFilesOfSecrets(t *testing.T) {
	dir := t.TempDir()
	environ := []string{"CREDENTIALS_DIRECTORY=" + dir}
	if loaded, err := Load(Sources{Dir: t.TempDir(), Environ: environ}); err != nil || loaded.Config.TokenFile != "" || loaded.Config.TLS.KeyFile != "" {
		t.Errorf("without one: %q, %q, %v", loaded.Config.TokenFile, loaded.Config.TLS.KeyFile, err)
	}
	for _, name := range []string{"token", "tls-key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	token, key, cert := filepath.Join(dir, "token"), filepath.Join(dir, "tls-key"), filepath.Join(dir, "tls-cert")
	loaded, err := Load(Sources{Dir: t.TempDir(), Environ: append(environ, "HOLDFAST_TLS_CERT_FILE=/etc/holdfast/cert.pem")})
	if c := loaded.Config; err != nil || c.TokenFile != token || c.TLS.KeyFile != key || c.TLS.CertFile != "/etc/holdfast/cert.pem" {
		t.Errorf("token-file is %q, tls.key-file %q, tls.cert-file %q, %v", c.TokenFile, c.TLS.KeyFile, c.TLS.CertFile, err)
	}
	if _, err = Load(Sources{Dir: t.TempDir(), Environ: environ}); err == nil || !strings.Contains(err.Error(), "tls.cert-file") {
		t.Errorf("a key without its certificate: %v", err)
	}
	if err := os.WriteFile(cert, []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	loaded, err = Load(Sources{Dir: t.TempDir(), Environ: append(environ, "HOLDFAST_TOKEN_FILE="+token+"x", "HOLDFAST_TLS_KEY_FILE="+key+"x")})
	if c := loaded.Config; err != nil || c.TokenFile != token+"x" || c.TLS.KeyFile != key+"x" || c.TLS.CertFile != cert {
		t.Errorf("the variables do not win: %q, %q, %q, %v", c.TokenFile, c.TLS.KeyFile, c.TLS.CertFile, err)
	}
}
