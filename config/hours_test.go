package config

import (
	"testing"
	"time"
)

func TestHoursOfTheDay(t *testing.T) {
	for _, c := range []struct {
		hours string
		in    []string
		out   []string
	}{
		{"22:00-06:00", []string{"22:00", "23:59", "00:00", "05:59"}, []string{"06:00", "12:00", "21:59"}},
		{"01:30-02:00", []string{"01:30", "01:59"}, []string{"01:29", "02:00", "13:45"}},
		{"22:00-24:00", []string{"22:00", "23:59"}, []string{"00:00", "21:59"}},
		{"00:00-24:00", []string{"00:00", "12:00", "23:59"}, nil},
		{"18:00-00:00", []string{"18:00", "23:59"}, []string{"00:00", "17:59"}},
	} {
		link := Link{BulkHours: []string{c.hours}}
		for want, times := range map[bool][]string{true: c.in, false: c.out} {
			for _, text := range times {
				at, err := time.Parse("15:04", text)
				if err != nil {
					t.Fatal(err)
				}
				if got := link.BulkFree(at); got != want {
					t.Errorf("%s has %s: %v, want %v", c.hours, text, got, want)
				}
			}
		}
	}
	for _, text := range []string{"", "22-06", "22:00", "22:00-25:00", "22:61-06:00", "06:00-06:00", "24:00-00:00", "9:00-10:00", "22:00-06:00,"} {
		if h, err := ParseHours(text); err == nil {
			t.Errorf("%q is taken for %+v", text, h)
		}
	}
	if (Link{}).BulkFree(time.Now()) {
		t.Error("without hours there are some")
	}
}
