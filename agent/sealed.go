package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// sealed is the form of the small files of a data dir: a body with the kind and version of the file and a checksum over
// the body's bytes, in JSON so that a person can read it. A changed, cut or foreign file does not open.
type sealed struct {
	Kind    string          `json:"kind"`
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"`
	Body    json.RawMessage `json:"body"`
}

// sealedMax bounds what is read of such a file, in bytes.
const sealedMax = 64 << 10

var (
	// errDamaged is the cause when a file is not what was once written.
	errDamaged = errors.New("damaged")
	// errNewer is the cause when a newer version of the program wrote the file.
	errNewer = errors.New("written by a newer version")
)

// seal encodes body.
func seal(kind string, version int, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	text, err := json.Marshal(sealed{Kind: kind, Version: version, SHA256: checksum(raw), Body: raw})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	return append(text, '\n'), nil
}

// unseal decodes text into body. Its error wraps errDamaged or errNewer.
func unseal(kind string, version int, text []byte, body any) error {
	var s sealed
	if err := strict(text, &s); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if s.Kind != kind {
		return fmt.Errorf("%w: it is a %q, not a %q", errDamaged, s.Kind, kind)
	}
	if got := checksum(s.Body); got != s.SHA256 {
		return fmt.Errorf("%w: checksum is %.12s, recorded %.12s", errDamaged, got, s.SHA256)
	}
	if s.Version > version {
		return fmt.Errorf("%w: format %d, this version reads up to %d", errNewer, s.Version, version)
	}
	if s.Version < 1 {
		return fmt.Errorf("%w: format %d", errDamaged, s.Version)
	}
	if err := strict(s.Body, body); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// strict decodes exactly one JSON value without fields that nobody knows.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("%d bytes too many", len(rest))
	}
	return nil
}

func checksum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// readSealed reads a sealed file. A file that is not there is fs.ErrNotExist.
func readSealed(path, kind string, version int, body any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > sealedMax {
		return fmt.Errorf("%s: %w: not a file of at most %d bytes", path, errDamaged, sealedMax)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := unseal(kind, version, text, body); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeSealed puts a sealed file in the place of path; see writeFile.
func writeSealed(path, kind string, version int, body any) error {
	text, err := seal(kind, version, body)
	if err != nil {
		return err
	}
	return writeFile(path, text)
}

// writeFile puts a file with this content in the place of path. After a crash at any instant path has the old content
// or the new one, and once writeFile has returned it has the new one.
func writeFile(path string, content []byte) error {
	// A fixed name: what a crash leaves behind is used up by the next attempt. The data dir's lock keeps others out.
	temp := path + ".new"
	if err := writeSynced(temp, content); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
