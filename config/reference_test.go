package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTheSampleChangesNothing(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", Sample())
	got := b.load()
	if len(got.Provenance) != 0 || len(got.Warnings) != 0 {
		t.Errorf("got %v, %v", got.Provenance, got.Warnings)
	}
}

func TestTheSampleHasEveryDefault(t *testing.T) {
	// What a user gets who removes the # of every setting.
	content := regexp.MustCompile(`(?m)^( *)#(\S|  - )`).ReplaceAllString(Sample(), "$1$2")
	b := newBox(t)
	b.file("agent.yaml", content)
	got := b.load()
	want := Default()
	want.Complete("edge-7")
	want.CORS.Origins, want.PeerAdvertise, want.Join, want.Proxy.Prefixes = []string{}, []string{}, []string{}, []string{}
	want.TLS.Names, want.Link.BulkHours = []string{}, []string{}
	want.Queue.Prefixes = []QueuePrefix{}
	if !reflect.DeepEqual(got.Config, want) {
		t.Errorf("got %+v\nwant %+v", got.Config, want)
	}
	for _, f := range settings() {
		if _, there := got.Provenance[f.key]; there == f.envOnly {
			t.Errorf("%s: in the sample %v, secret %v", f.key, there, f.envOnly)
		}
	}
}

func TestTheSampleIsReadable(t *testing.T) {
	for i, line := range strings.Split(Sample(), "\n") {
		if len(line) > lineMax {
			t.Errorf("line %d has %d letters", i+1, len(line))
		}
	}
}

func TestTheReferencePageIsCurrent(t *testing.T) {
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != Reference() {
		t.Error("docs/configuration.md differs from the settings: run agent config doc > docs/configuration.md")
	}
}

func TestTheReferenceListsAllSettings(t *testing.T) {
	page := Reference()
	for _, f := range settings() {
		if !strings.Contains(page, "| `"+f.key+"` |") {
			t.Errorf("%s is not listed", f.key)
		}
	}
}

func TestTheReferenceSaysWhereASecretGoes(t *testing.T) {
	if line := "The join token; token-file wins over it. A secret: it is read from the variable `HOLDFAST_TOKEN` only. |"; !strings.Contains(Reference(), line) {
		t.Errorf("want %q in\n%s", line, Reference())
	}
}

// A HUP must take over what is said to be reloadable, and that is for the agent to do.
func TestOnlyWhatAReloadAppliesIsCalledReloadable(t *testing.T) {
	var reloadable []string
	for _, f := range settings() {
		if f.reload {
			reloadable = append(reloadable, f.key)
		}
	}
	if want := []string{"log-level", "link.bulk-rate", "link.bulk-hours", "limits.client-share", "limits.connections", "limits.rate", "limits.connection-rate"}; !slices.Equal(reloadable, want) {
		t.Errorf("got %v, want %v: add what agent.Reload has learned", reloadable, want)
	}
}

func TestSettingsNameValueAndOrigin(t *testing.T) {
	b := newBox(t)
	b.file("agent.yaml", "\nlimits: {value: 2048}\n")
	b.args = []string{"--join=a:1"}
	b.env = []string{"HOLDFAST_TOKEN=hush"}
	got := b.load()
	want := map[string]string{
		"mode": "auto default", "limits.value": "2KiB agent.yaml:2", "join": "a:1 flag --join", "token": "[redacted] environment HOLDFAST_TOKEN",
		"name": "edge-7 default", "listen": "http://127.0.0.1:2379,http://[::1]:2379 default",
	}
	for _, s := range Settings(got.Config, got.Provenance) {
		if w, ok := want[s.Key]; ok && !strings.HasSuffix(w, strings.TrimPrefix(s.Origin.String(), b.dir+"/")) || ok && !strings.HasPrefix(w, s.Value+" ") {
			t.Errorf("%s is %s from %s, want %s", s.Key, s.Value, s.Origin, w)
		}
		delete(want, s.Key)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
