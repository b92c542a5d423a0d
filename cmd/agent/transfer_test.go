package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// listing answers a list in two pages.
func listing(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("after") == "" {
		w.Header().Set("Holdfast-Epoch", "e")
		fmt.Fprint(w, `{"kvs":[{"key":"a","key_base64":"YQ==","value":"MQ==","create_revision":2,"mod_revision":2,"version":1}],"revision":9,"count":3,"more":true,"next":"x"}`)
		return
	}
	fmt.Fprint(w, `{"kvs":[{"key_base64":"/w==","create_revision":2,"mod_revision":2,"version":1},`+
		`{"key":"l","key_base64":"bA==","value":"MQ==","lease":"0000000000000007","create_revision":2,"mod_revision":2,"version":1}],"revision":9,"count":3,"more":false}`)
}

func TestAnExportIsReadBackAndNoOther(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), listing)
	out := w.runs(0, "kv", "export", "--socket", f.socket, "p/")
	w.says("1 keys live under leases and were left out")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 || lines[0] != `{"export":{"format":1,"epoch":"e","revision":9,"prefix_base64":"cC8="}}` ||
		lines[1] != `{"put":{"key":"a","value_base64":"MQ=="}}` || lines[2] != `{"put":{"key_base64":"/w==","value_base64":""}}` {
		t.Fatalf("got %s", out)
	}
	var keys []string
	read := func(text string) error {
		keys = nil
		_, err := readExport(strings.NewReader(text), func(l batchLine) error { keys = append(keys, string(l.key())); return nil })
		return err
	}
	if err := read(out); err != nil || !slices.Equal(keys, []string{"a", "\xff"}) {
		t.Errorf("read back %q, %v", keys, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "no head": strings.Join(lines[1:], "\n"), "no end": strings.Join(lines[:3], "\n"), "a line less": lines[0] + "\n" + lines[1] + "\n" + lines[3],
		"changed": strings.Replace(out, "MQ==", "Mg==", 1), "more": out + lines[1] + "\n", "no JSON": "hello\n", "newer": strings.Replace(out, `"format":1`, `"format":2`, 1),
		"a delete": lines[0] + "\n" + `{"delete":{"key":"a"}}` + "\n" + lines[3],
	} {
		if err := read(bad); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

func FuzzReadExport(f *testing.F) {
	f.Add([]byte(`{"export":{"format":1}}` + "\n" + `{"end":{"keys":0,"sha256":""}}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = readExport(bytes.NewReader(b), func(batchLine) error { return nil })
	})
}

func TestABatchCountsWhatWasRefused(t *testing.T) {
	b := &batcher{}
	b.count([]byte("a"), 201, nil)
	b.count([]byte("b"), 404, &problem{Title: "No such key"})
	if err := b.outcome(); err != nil || b.written != 1 {
		t.Errorf("%d written, %v", b.written, err)
	}
	b.count([]byte("c"), 503, &problem{Title: "No leader", Retryable: true})
	if err := b.outcome(); asExit(err).code != exitTemporary {
		t.Errorf("what may go through later: %v", err)
	}
	for i := range 10 {
		b.count(fmt.Appendf(nil, "d%d", i), 413, &problem{Title: "Too large"})
	}
	err := b.outcome()
	if e := asExit(err); e.code != exitRefused || !strings.Contains(err.Error(), "11 keys were not written") || strings.Contains(err.Error(), "d7") || !strings.Contains(err.Error(), "key d0") {
		t.Errorf("got %v", err)
	}
}

func TestImportNeedsOneSource(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{{}, {"f", "--from", "http://x"}, {"f", "--follow"}, {"f", "--state", "s"}, {"--from", "nonsense"}, {"--from", "http://a/b"}} {
		w.runs(2, append([]string{"kv", "import", "--socket", w.path("none")}, args...)...)
	}
}

func TestThePositionOfAnImportIsOfOnePrefix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	at := position{Format: positionFormat, Cluster: "c", Prefix: []byte("p/"), Revision: 7, After: []byte("p/a")}
	if err := writePosition(path, at); err != nil {
		t.Fatal(err)
	}
	got, err := (&etcdSource{prefix: "p/", state: path}).load()
	if err != nil || got.Revision != 7 || string(got.After) != "p/a" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := (&etcdSource{prefix: "q/", state: path}).load(); err == nil {
		t.Error("that of another prefix was taken")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	s := &etcdSource{}
	if from, end := s.span(nil); !bytes.Equal(from, []byte{0}) || !bytes.Equal(end, []byte{0}) {
		t.Errorf("all keys are %q to %q", from, end)
	}
	s.prefix = "a\xff"
	if from, end := s.span([]byte("a\xffb")); string(from) != "a\xffb\x00" || string(end) != "b" {
		t.Errorf("behind a key: %q to %q", from, end)
	}
}

func TestOnlyTheOldestBackupsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := &saver{dir: dir, keep: 2}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 5 {
		if err := os.WriteFile(s.fileIn(now.Add(time.Duration(i)*time.Hour)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mine.backup"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.prune(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 3 || filepath.Base(left[0]) != "holdfast-20260102T060405Z.backup" || filepath.Base(left[2]) != "mine.backup" {
		t.Errorf("left are %q, %v", left, err)
	}
}

func TestSnapshotCommandsRefuseWhatMakesNoSense(t *testing.T) {
	w := newWorld(t)
	w.runs(2, "snapshot", "save")
	w.runs(2, "snapshot", "save", "f", "--keep", "3")
	w.runs(2, "snapshot", "save", "f", "--dir", "d")
	w.runs(2, "snapshot", "restore", "f", "--bump-revision", "-1")
	w.runs(78, "snapshot", "verify", w.path("none"))
	w.runs(78, "snapshot", "restore", w.write("text", "no backup"), "--data-dir", w.path("d"))
	w.runs(78, "recover", "--data-dir", w.path("empty"), "--dry-run")
	w.runs(2, "recover", "--yes", "--dry-run")
	w.runs(69, "snapshot", "save", w.path("f"), "--socket", w.path("none"))
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/octet-stream", "x"))
	w.stderr.reset()
	w.runs(1, "snapshot", "save", w.path("no/such/f"), "--socket", f.socket)
	w.says("the folder for the backup", w.path("no/such"))
}

func TestALineOfABatchIsOfOneOperation(t *testing.T) {
	b, err := json.Marshal(putLine([]byte("k"), nil))
	if err != nil || string(b) != `{"put":{"key":"k","value_base64":""}}` {
		t.Errorf("%s, %v", b, err)
	}
	b, err = json.Marshal(batchLine{Delete: opOn([]byte("\xff"))})
	if err != nil || string(b) != `{"delete":{"key_base64":"/w=="}}` {
		t.Errorf("%s, %v", b, err)
	}
}
