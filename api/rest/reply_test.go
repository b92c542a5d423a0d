package rest

import (
	"testing"
	"time"
)

func TestAgesAreInSecondsToTheMillisecondRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1:                              "0.001",
		time.Millisecond:               "0.001",
		10 * time.Millisecond:          "0.01",
		100 * time.Millisecond:         "0.1",
		1020*time.Millisecond - 1:      "1.02",
		time.Second:                    "1",
		10 * time.Second:               "10",
		100*time.Second + 1:            "100.001",
		1000*time.Hour + 5*time.Minute: "3600300",
		59*time.Second + 999*time.Millisecond + 1: "60",
	} {
		if got := string(appendSeconds([]byte("0"), d)); got != "0"+want {
			t.Errorf("%v: %q, want 0 and %s", d, got, want)
		}
	}
}
