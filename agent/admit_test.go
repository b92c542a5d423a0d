package agent

import (
	"path/filepath"
	"testing"
	"time"

	"holdfast/config"
)

func TestPackagedConfigurationIsSound(t *testing.T) {
	got, err := config.Load(config.Sources{
		Dir:      filepath.Join("..", "packaging"),
		Hostname: func() (string, error) { return "box", nil },
	})
	if err != nil || len(got.Files) != 1 || len(got.Warnings) > 0 {
		t.Fatalf("loaded %q with %q, %v", got.Files, got.Warnings, err)
	}
	want := config.Default()
	want.DataDir, want.Socket, want.Name = "/var/lib/holdfast", "/run/holdfast/agent.sock", "box"
	for _, c := range config.Compare(want, got.Config) {
		t.Errorf("%s is %s, want %s", c.Key, c.New, c.Old)
	}
}

func TestARecordedProxyGoesOnAndGetsItsFolderBack(t *testing.T) {
	d := openDir(t, t.TempDir())
	id, err := d.ensureNodeID()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.writeRecord(record{Mode: asProxy, Wanted: asAuto, NodeID: id.String()}); err != nil {
		t.Fatal(err)
	}
	p, err := admit(d, config.Config{Mode: asAuto}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.make(); err != nil || p.node != id || p.record.Mode != asProxy {
		t.Fatalf("node %v as %s, %v, want %v as a proxy", p.node, p.record.Mode, err, id)
	}
	if there, err := d.look(proxyName); err != nil || there == absent {
		t.Errorf("%s/ is %v, %v", proxyName, there, err)
	}
}

func TestLonelyIdentityIsKept(t *testing.T) {
	d := openDir(t, t.TempDir())
	id, err := d.ensureNodeID() // a start that got no further
	if err != nil {
		t.Fatal(err)
	}
	if node, err := prepare(d, config.Config{Mode: asAuto}); err != nil || node != id {
		t.Errorf("node %v, %v; want %v", node, err, id)
	}
}
