package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"holdfast/kv"
)

// decoder reads one JSON document, strictly: a member that is not known, or given twice, is refused with its place, and
// so is text that JSON could only show as another one. Requests are decided by what they hold, so nothing in them is
// passed over.
type decoder struct {
	d    *json.Decoder
	path []byte // of the value being read, such as then[0].put.key
}

func newDecoder(body []byte) (*decoder, error) {
	if !utf8.Valid(body) {
		return nil, kv.Errorf(kv.Invalid, "the JSON is not UTF-8; give bytes that are not text in base64")
	}
	if at := loneSurrogate(body); at >= 0 {
		return nil, kv.Errorf(kv.Invalid, "at byte %d: half of a surrogate pair is no character; give bytes that are not text in base64", at)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return &decoder{d: d}, nil
}

// loneSurrogate returns where a \u escape stands that is half a character, which package json would replace by another
// one; -1 if there is none. In JSON a backslash stands inside strings only.
func loneSurrogate(b []byte) int {
	for i := 0; i+1 < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		unit, ok := escapedUnit(b[i:])
		switch {
		case !ok || unit < 0xd800 || unit > 0xdfff:
			i++
		case unit < 0xdc00:
			if low, ok := escapedUnit(b[min(i+6, len(b)):]); !ok || low < 0xdc00 || low > 0xdfff {
				return i
			}
			i += 11
		default:
			return i
		}
	}
	return -1
}

func escapedUnit(b []byte) (unit uint64, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return unit, err == nil
}

// errorf is a fault of the value being read.
func (d *decoder) errorf(format string, args ...any) error {
	return d.refuse(kv.Invalid, format, args...)
}

func (d *decoder) refuse(code kv.Code, format string, args ...any) error {
	e := kv.Errorf(code, format, args...)
	where := "at byte " + strconv.FormatInt(d.d.InputOffset(), 10)
	if len(d.path) > 0 {
		where = string(d.path) + " (" + where + ")"
	}
	e.Detail = where + ": " + e.Detail
	return e
}

// errUnknown refuses the member being read; known are those that may stand beside it.
func (d *decoder) errUnknown(known string) error {
	return d.errorf("there is no such member here; it may be one of %s", known)
}

func (d *decoder) token() (json.Token, error) {
	t, err := d.d.Token()
	switch {
	case err == nil:
		return t, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, d.errorf("the JSON ends too early")
	}
	return nil, d.errorf("not JSON: %w", err)
}

func (d *decoder) delim(want json.Delim, what string) error {
	t, err := d.token()
	if err == nil && t != want {
		err = d.errorf("%s was to stand here", what)
	}
	return err
}

// object reads an object; member reads the value of the member whose name it is given.
func (d *decoder) object(member func(name string) error) error {
	if err := d.delim('{', "an object"); err != nil {
		return err
	}
	var names []string
	for d.d.More() {
		t, err := d.token()
		if err != nil {
			return err
		}
		name, _ := t.(string) // More and Token let nothing else through here
		end := d.enter("." + shortened(name))
		if slices.Contains(names, name) {
			return d.errorf("given twice")
		}
		names = append(names, name)
		if err := member(name); err != nil {
			return err
		}
		d.path = d.path[:end]
	}
	_, err := d.token()
	return err
}

// array reads an array; item reads one of its values.
func (d *decoder) array(item func() error) error {
	if err := d.delim('[', "an array"); err != nil {
		return err
	}
	for i := 0; d.d.More(); i++ {
		end := d.enter("[" + strconv.Itoa(i) + "]")
		if err := item(); err != nil {
			return err
		}
		d.path = d.path[:end]
	}
	_, err := d.token()
	return err
}

// enter makes the path longer and returns its length before.
func (d *decoder) enter(step string) int {
	end := len(d.path)
	if end == 0 {
		step = strings.TrimPrefix(step, ".")
	}
	d.path = append(d.path, step...)
	return end
}

// shortened is a name in a message: those that are known are short.
func shortened(name string) string {
	const most = 40
	if len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "..."
	}
	return name
}

func (d *decoder) text() (string, error) {
	t, err := d.token()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", d.errorf("a string was to stand here")
	}
	return s, nil
}

func (d *decoder) base64() ([]byte, error) {
	s, err := d.text()
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, d.errorf("not base64 with the alphabet of + and /, and padding")
	}
	return b, nil
}

func (d *decoder) flag() (bool, error) {
	t, err := d.token()
	if err != nil {
		return false, err
	}
	v, ok := t.(bool)
	if !ok {
		return false, d.errorf("true or false was to stand here")
	}
	return v, nil
}

// number reads a whole number of at least least.
func (d *decoder) number(least int64) (int64, error) {
	t, err := d.token()
	if err != nil {
		return 0, err
	}
	if v, ok := t.(json.Number); ok {
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil && n >= least {
			return n, nil
		}
	}
	return 0, d.errorf("a whole number of at least %d was to stand here", least)
}

// end refuses what stands behind the document.
func (d *decoder) end() error {
	if _, err := d.d.Token(); !errors.Is(err, io.EOF) {
		return d.errorf("something stands behind the JSON document")
	}
	return nil
}
