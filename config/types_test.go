package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSizesAreExact(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "0B": 0, "512": 512, "512B": 512, "1KiB": 1024, "1.5MiB": 1572864, "0.25KiB": 256, "64 MiB": 64 * MiB,
		"1kB": 1000, "1KB": 1000, "2MB": 2e6, "1.000001MB": 1000001, "3GB": 3e9, "1TB": 1e12, "7TiB": 7 * TiB,
		"9223372036854775807": 1<<63 - 1,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "MiB", "-1", "1M", "1.MiB", ".5MiB", "1e3", "0x10", "1.3KiB", "1 2", "1_000", "9223372036854775808", "8388608TiB", "9223372.9TB", "1,5MiB",
		"1.0000001MB", "+1", "1..5KiB", "1.-5KiB",
	} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

func TestTextOfASizeReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]Size{Byte, KiB, MiB, GiB, TiB}).Draw(t, "unit")
		s := Size(rapid.Int64Range(0, 1<<20).Draw(t, "n")) * unit
		if back, err := ParseSize(s.String()); err != nil || back != s {
			t.Fatalf("%d is %q is %d, %v", s, s, back, err)
		}
	})
}

func TestTextOfADurationReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1<<53).Draw(t, "d"))
		d = d.Truncate(rapid.SampledFrom([]time.Duration{1, time.Second, time.Minute, time.Hour}).Draw(t, "to"))
		if back, err := parseDuration(formatDuration(d)); err != nil || back != d {
			t.Fatalf("%v is %q is %v, %v", d, formatDuration(d), back, err)
		}
	})
	for d, want := range map[time.Duration]string{0: "0s", time.Second: "1s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", 168 * time.Hour: "168h", time.Hour + time.Second: "1h0m1s", 10 * time.Hour: "10h"} {
		if got := formatDuration(d); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAShareOfALargeDiskIsBounded(t *testing.T) {
	for text, want := range map[string]Size{"10%": GiB, "90%": GiB, "3GiB": 3 * GiB} {
		r, err := ParseReserve(text)
		if err != nil || r.Of(TiB) != want || r.String() != text {
			t.Errorf("%s of a TiB: got %v, %v (%v), want %v", text, r.Of(TiB), err, r, want)
		}
	}
	if got := (Reserve{Percent: 10}).Of(1000); got != 100 {
		t.Errorf("10%% of 1000: got %d", got)
	}
	for _, text := range []string{"0%", "91%", "%", "x", "10 %%"} {
		if _, err := ParseReserve(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	c := Config{Token: "hush"}
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", c.Token, "config", c)
	for _, got := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s %q", c, c, c.Token, c.Token), string(j), log.String()} {
		if strings.Contains(got, "hush") {
			t.Errorf("the secret is in %s", got)
		}
	}
	if c.Token.Reveal() != "hush" || Secret("").String() != "" {
		t.Error("a secret must reveal itself, and an empty one is nothing to hide")
	}
}
