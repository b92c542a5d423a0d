package atrest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func secret(t *testing.T, text string) *Seal {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatIsSealedOpensWithItsSecretAlone(t *testing.T) {
	s := secret(t, "0123456789abcdef\n")
	same, other := secret(t, "0123456789abcdef"), secret(t, "0123456789abcdeg")
	for _, content := range [][]byte{nil, []byte("x"), []byte("a key in the clear"), bytes.Repeat([]byte("key "), 10_000)} {
		sealed, err := s.Close("node.pem", content, map[string]string{"Node": "00ff", "Joined": "yes"})
		if err != nil || !IsSealed(sealed) || len(content) > 8 && bytes.Contains(sealed, content) { // one byte is there by chance
			t.Fatalf("sealed %d bytes as %q, %v", len(content), sealed, err)
		}
		if again, _ := s.Close("node.pem", content, nil); bytes.Equal(again, sealed) {
			t.Error("two files are sealed with one key")
		}
		if l := Labels(sealed); l["Node"] != "00ff" || l["Joined"] != "yes" {
			t.Errorf("labels %v", l)
		}
		if got, err := same.Open("node.pem", sealed); err != nil || !bytes.Equal(got, content) {
			t.Errorf("opened %d bytes, %v", len(got), err)
		}
		for name, try := range map[string]struct {
			with    *Seal
			name    string
			content []byte
			want    error
		}{
			"without a secret":   {nil, "node.pem", sealed, ErrNoSeal},
			"another secret":     {other, "node.pem", sealed, ErrWrongSeal},
			"as another file":    {s, "ca.pem", sealed, ErrWrongSeal},
			"with another label": {s, "node.pem", bytes.Replace(sealed, []byte("00ff"), []byte("00fe"), 1), ErrWrongSeal},
			"cut short":          {s, "node.pem", sealed[:len(sealed)-40], ErrWrongSeal},
			"with more behind":   {s, "node.pem", append(bytes.Clone(sealed), sealed...), ErrWrongSeal},
		} {
			if got, err := try.with.Open(try.name, try.content); !errors.Is(err, try.want) {
				t.Errorf("%s: opened %d bytes, %v, want %v", name, len(got), err, try.want)
			}
		}
	}
}

func TestWithoutASealAllIsAsItIs(t *testing.T) {
	var none *Seal
	s := secret(t, strings.Repeat("s", SecretMax))
	for _, seal := range []*Seal{none, s} { // what was written before there was a secret
		if got, err := seal.Open("f", []byte("plain")); err != nil || string(got) != "plain" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got, err := none.Close("f", []byte("plain"), nil); err != nil || string(got) != "plain" || Labels(got) != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestASecretIsLongEnough(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "short": strings.Repeat("s", SecretMin-1) + "\r\n", "long": strings.Repeat("s", SecretMax+1)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	s := &Seal{[]byte("0123456789abcdef")}
	sealed, err := s.Close("f", []byte("content"), map[string]string{"Node": "1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte("plain"))
	f.Add(begin)
	f.Fuzz(func(t *testing.T, b []byte) {
		Labels(b)
		got, err := s.Open("f", b)
		switch {
		case err == nil && IsSealed(b) && string(got) != "content":
			t.Errorf("opened %q, which nobody sealed", got)
		case err == nil && !IsSealed(b) && !bytes.Equal(got, b):
			t.Errorf("changed what is not sealed")
		}
	})
}
