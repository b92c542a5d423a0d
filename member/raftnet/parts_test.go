package raftnet

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"holdfast/transport/courier"
)

func TestPartsMakeTheLetter(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test
	var j joiner
	life := courier.Life{1}
	now := time.Now()
	for number := uint64(1); number < 200; number++ {
		letter := make([]byte, 1101+r.IntN(7000))
		for i := range letter {
			letter[i] = byte(r.Uint32())
		}
		parts := split(letter, number, 1100)
		if len(parts) < 2 {
			t.Fatalf("seed %d: %d bytes in %d parts", seed, len(letter), len(parts))
		}
		parts = append(parts, parts[r.IntN(len(parts))]) // one twice
		r.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
		var whole []byte
		for _, p := range parts {
			if len(p) > 1100 {
				t.Fatalf("seed %d: a part of %d bytes", seed, len(p))
			}
			got, err := j.take(life, now, p)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if got != nil && whole != nil {
				t.Fatalf("seed %d: the letter was made twice", seed)
			}
			if got != nil {
				whole = got
			}
		}
		if !bytes.Equal(whole, letter) {
			t.Fatalf("seed %d: %d bytes came of %d", seed, len(whole), len(letter))
		}
	}
	if len(j.open) > maxOpenLetters {
		t.Errorf("%d letters are kept", len(j.open))
	}
	if parts := split(make([]byte, 1100*maxParts), 1, 1100); parts != nil {
		t.Errorf("%d parts, at most %d are sent", len(parts), maxParts)
	}
}

func TestLettersWithoutAllPartsAreForgotten(t *testing.T) {
	var j joiner
	life := courier.Life{1}
	now := time.Now()
	part := func(number uint64, which int) []byte { return split(make([]byte, 2000), number, 1100)[which] }
	for number := uint64(1); number <= 3*maxOpenLetters; number++ {
		if whole, err := j.take(life, now, part(number, 0)); whole != nil || err != nil {
			t.Fatalf("%v, %v", whole, err)
		}
	}
	if len(j.open) != maxOpenLetters || j.open[2*maxOpenLetters] != nil || j.open[3*maxOpenLetters] == nil {
		t.Errorf("%d are kept, want the newest %d", len(j.open), maxOpenLetters)
	}
	now = now.Add(partsKept + 1)
	if _, err := j.take(life, now, part(1000, 1)); err != nil || len(j.open) != 1 {
		t.Errorf("%d are kept after a while, %v", len(j.open), err)
	}
	if whole, err := j.take(life, now, part(1000, 0)); len(whole) != 2000 || err != nil {
		t.Errorf("%d bytes, %v", len(whole), err)
	}
	for _, b := range [][]byte{{kindPart}, {kindPart, 1}, {kindPart, 1, 0, 2}, {kindPart, 1, 2, 2, 0}, {kindPart, 1, 0, 1, 0}, {kindPart, 1, 0, maxParts + 1, 0}} {
		if whole, err := j.take(life, now, b); err == nil {
			t.Errorf("%x is taken, %x", b, whole)
		}
	}
	if _, err := j.take(life, now, []byte{kindPart, 5, 0, 3, 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := j.take(life, now, []byte{kindPart, 5, 1, 4, 1}); err == nil {
		t.Error("parts of two letters are one")
	}
	if _, err := j.take(courier.Life{2}, now, []byte{kindPart, 5, 1, 4, 1}); err != nil || len(j.open) != 1 {
		t.Errorf("of the next life: %v, %d are kept", err, len(j.open))
	}
}
