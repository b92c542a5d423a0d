package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFiguresOfAFleetAreReadWithTheirParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.json")
	if err := os.WriteFile(path, []byte(`{"Boxes":10,"PutStorm":{"P99":0.5},"Name":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := flat(path)
	if err != nil || len(got) != 2 || got["Boxes"] != 10 || got["PutStorm.P99"] != 0.5 {
		t.Errorf("got %v, %v", got, err)
	}
}
