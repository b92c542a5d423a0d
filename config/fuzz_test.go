package config

import (
	"strings"
	"testing"
)

// Whatever stands in a file is read or refused with a reason, and what was read is valid.
func FuzzFile(f *testing.F) {
	f.Add(uint8(0), Sample())
	f.Add(uint8(0), "store:\n  flush: 10s\nlisten: [http://127.0.0.1:1]\nx: &a [*a]\n<<: {name: y}\n")
	f.Add(uint8(1), "name = 'x'\nstore.flush = '10s'\n[limits]\nvalue = 1\n[[queue.prefixes]]\nprefix = 'a'\n")
	f.Add(uint8(2), `{"name":"x","queue":{"prefixes":["a",{"prefix":"b","lane":"high"}]},"limits":{"value":1e9}}`)
	f.Fuzz(func(t *testing.T, kind uint8, content string) {
		format := []string{"yaml", "toml", "json"}[kind%3]
		if len(content) > fileMax {
			t.Skip()
		}
		l := loader{schema: settings()}
		values, faults := l.schema.decode([]byte(content), format, "fuzz."+format)
		l.add(values)
		c, _ := l.merge()
		c.Complete("fuzz")
		mustBeValid(t, &c, join(append(faults, l.faults...)))
	})
}

// Whatever stands in the environment and on the command line is taken or refused with a reason.
func FuzzTexts(f *testing.F) {
	f.Add("HOLDFAST_LISTEN", "http://[::1%25lo]:1,unix:///x", "--store-flush=1s\x1f--limits-value\x1f1.5MiB")
	f.Add("HOLDFAST_QUEUE_DISK_RESERVE", "10%", "-c\x1f--\x1f--insecure\x1f--listen=")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, name, value, args string) {
		if name == configEnv || strings.Contains(args, "config") {
			t.Skip()
		}
		flags, flagErr := ParseFlags(strings.Split(args, "\x1f"))
		loaded, err := Load(Sources{Flags: flags, Environ: []string{name + "=" + value}, Dir: dir})
		for _, fault := range Faults(flagErr) {
			if fault.Problem == "" {
				t.Errorf("a fault without a problem: %+v", fault)
			}
		}
		mustBeValid(t, &loaded.Config, err)
	})
}

func mustBeValid(t *testing.T, c *Config, err error) {
	t.Helper()
	for _, f := range Faults(err) {
		if f.Problem == "" {
			t.Errorf("a fault without a problem: %+v", f)
		}
		if len(f.Error()) > 64<<10 {
			t.Errorf("a fault of %d bytes", len(f.Error()))
		}
	}
	if err == nil {
		if err := c.Validate(); err != nil {
			t.Errorf("loaded without a fault, but: %v", err)
		}
	}
}
