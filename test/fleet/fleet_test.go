package main

import (
	"testing"
	"time"
)

func TestTheBusiestPartOfTheTimeIsFound(t *testing.T) {
	at := func(all ...time.Duration) []time.Duration { return all }
	for _, c := range []struct {
		times []time.Duration
		want  float64
	}{
		{at(1, 2, 30, 31, 32, 60, 90, 100), 3.0 / 8},
		{at(5), 1},
		{at(7, 7, 7, 7), 1},
	} {
		if got := busiest(c.times, 10); got != c.want {
			t.Errorf("%v: %v, want %v", c.times, got, c.want)
		}
	}
}

func TestAFleetThatLostSomethingFails(t *testing.T) {
	for name, f := range map[string]figures{
		"lost": {Lost: 1}, "doubled": {Doubled: 1}, "slow": {PutStorm: latency{P99: 1.5}}, "in step": {Boxes: spreadFrom, BusiestTen: 0.9},
	} {
		if err := (&fleet{figures: f}).judge(); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
	if err := (&fleet{figures: figures{Boxes: spreadFrom, BusiestTen: 0.3, PutStorm: latency{P99: 0.2, Max: 3}}}).judge(); err != nil {
		t.Error(err)
	}
}

// What is sent while a region is lost does not arrive, either way.
func TestALostRegionDropsEverything(t *testing.T) {
	var r region
	a, err := r.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := r.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	send := func(text string) {
		if _, err := a.WriteTo([]byte(text), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	r.lost.Store(true)
	send("lost")
	r.lost.Store(false)
	send("arrives")
	buf := make([]byte, 16)
	_ = b.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, _, err := b.ReadFrom(buf); err != nil || string(buf[:n]) != "arrives" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}
