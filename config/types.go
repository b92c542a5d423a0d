package config

import (
	"errors"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes. Its text is a number with a unit: 64MiB, 1.5MiB (1024 based) or 64MB (1000 based).
type Size int64

// Sizes.
const (
	Byte Size = 1
	KiB       = 1024 * Byte
	MiB       = 1024 * KiB
	GiB       = 1024 * MiB
	TiB       = 1024 * GiB
)

var sizeUnits = []struct {
	name string
	size Size
}{
	{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3},
	{"B", Byte},
}

var (
	errSize = errors.New(`must be a size with a unit, as "64MiB", "1GB" or "512B"`)
	errHuge = errors.New("is more than 8191PiB")
)

// ParseSize reads a Size from text. A number without a unit is bytes.
func ParseSize(text string) (Size, error) {
	digits, unit := strings.TrimSpace(text), Byte
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(digits, u.name); ok {
			digits, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && n > math.MaxInt64/uint64(unit):
		return 0, errHuge
	case err != nil || strings.HasSuffix(digits, "."):
		return 0, errSize
	}
	part, err := fractionOf(fraction, unit)
	if err != nil {
		return 0, err
	}
	if part > math.MaxInt64-Size(n)*unit {
		return 0, errHuge
	}
	return Size(n)*unit + part, nil
}

// fractionOf is 0.digits of a unit: 512KiB for "5" of a MiB. Six digits keep the product within 63 bits.
func fractionOf(digits string, unit Size) (Size, error) {
	if digits == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || len(digits) > 6 {
		return 0, errSize
	}
	part, divisor := Size(n)*unit, Size(1)
	for range len(digits) {
		divisor *= 10
	}
	if part%divisor != 0 {
		return 0, errors.New("is not a whole number of bytes")
	}
	return part / divisor, nil
}

// String is the shortest exact text that ParseSize reads back, in 1024 based units.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText makes a Size look in JSON and YAML as it does in a file.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reserve is an amount of free disk space: a Size, or a share of the disk when Percent is not 0.
type Reserve struct {
	Percent int
	Size    Size
}

// reserveMax bounds a Reserve that is a share: on a large disk ten percent would be absurd.
const reserveMax = GiB

// ParseReserve reads "10%" or a Size.
func ParseReserve(text string) (Reserve, error) {
	digits, ok := strings.CutSuffix(strings.TrimSpace(text), "%")
	if !ok {
		size, err := ParseSize(text)
		if err != nil {
			return Reserve{}, errors.New(`must be a size or a share, as "1GiB" or "10%"`)
		}
		return Reserve{Size: size}, nil
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > 90 {
		return Reserve{}, errors.New(`must be a share from "1%" to "90%", or a size`)
	}
	return Reserve{Percent: n}, nil
}

// Of returns the bytes to keep free on a disk of the given size.
func (r Reserve) Of(disk Size) Size {
	if r.Percent == 0 {
		return r.Size
	}
	return min(disk/100*Size(r.Percent), reserveMax)
}

func (r Reserve) String() string {
	if r.Percent == 0 {
		return r.Size.String()
	}
	return strconv.Itoa(r.Percent) + "%"
}

// MarshalText makes a Reserve look in JSON and YAML as it does in a file.
func (r Reserve) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Secret is text that is never printed: not by fmt, not by slog, not in JSON or YAML.
type Secret string

const redacted = "[redacted]"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString keeps %#v from printing the secret.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText keeps encoders from printing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue keeps slog from printing the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// parseDuration reads a duration as Go writes it. A bare 0 is a duration too.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(text))
	switch {
	case err != nil:
		return 0, errors.New(`must be a duration with a unit, as "5s", "10m" or "168h"`)
	case d < 0:
		return 0, errors.New("must not be negative")
	}
	return d, nil
}

// formatDuration is Duration.String without the zero parts: 10m rather than 10m0s.
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
