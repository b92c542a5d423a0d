package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
		faults = append(append(faults, l.faults...), c.verifyWhole(nil)...) // as Load puts them together
		mustBeValid(t, &c, join(faults))
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

func TestAbsurdFilesAreRefusedInTime(t *testing.T) {
	fill := func(part string) string { return strings.Repeat(part, fileMax/len(part)) }
	var keys, tomlKeys, bomb strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&keys, "k%d: 1\n", i)
		fmt.Fprintf(&tomlKeys, "k%d=1\n", i)
	}
	bomb.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 20 {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i+1, i+1, i, i, i, i, i, i, i, i)
	}
	for name, c := range map[string]struct{ format, content string }{
		"many keys":       {"yaml", keys.String()},
		"many toml keys":  {"toml", tomlKeys.String()},
		"alias bomb":      {"yaml", bomb.String()},
		"deep yaml":       {"yaml", fill("[")},
		"deep yaml maps":  {"yaml", fill("{a: ")},
		"deep indents":    {"yaml", fill("- ")},
		"deep json":       {"json", fill("[")},
		"deep json maps":  {"json", fill(`{"a":`)},
		"deep toml":       {"toml", "a = " + fill("[")},
		"deep toml maps":  {"toml", "a = " + fill("{a=")},
		"dotted toml key": {"toml", fill("a.") + "a = 1"},
		"toml tables":     {"toml", fill("[[a]]\n")},
		"a long key":      {"yaml", fill("k") + ": 1"},
		"a long list":     {"yaml", "listen: [" + fill("http://127.0.0.1:1,") + "]"},
		"a long value":    {"yaml", "name: " + fill("n")},
		"quotes":          {"yaml", "name: \"" + fill("\\t")},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			l := loader{schema: settings()}
			values, faults := l.schema.decode([]byte(c.content), c.format, "x")
			l.add(values)
			l.merge()
			faults = append(faults, l.faults...)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if len(faults) == 0 || len(faults) > fileFaultsMax+1 {
				t.Errorf("got %d faults, want some and not too many", len(faults))
			}
			if size := len(join(faults).Error()); size > 128<<10 {
				t.Errorf("the message has %d bytes", size)
			}
		})
	}
}
