package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// plan is what a founder is told: who it is, and who all are, in the order of their replica ids from 1.
type plan struct {
	Cluster  uint64
	Replica  uint64
	Founders []founder
}

type founder struct {
	Node string // its node id, as members write it
	Peer string // its UDP address
}

const planFile = "trio.json"

func (p plan) save(dir string) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, planFile), b, 0o600)
}

func loadPlan(dir string) (p plan, err error) {
	b, err := os.ReadFile(filepath.Join(dir, planFile)) //nolint:gosec // as asked
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%s in %s: %w", planFile, dir, err)
	}
	return p, nil
}
