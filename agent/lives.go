package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"holdfast/member/raftnet"
)

// livesFile, in identity, has the starts of this node as the member that it is. With it other members tell this node from a
// copy of its data dir; see raftnet.
const (
	livesFile    = "lives.json"
	livesKind    = "lives"
	livesVersion = 1

	// firstReplica is the id of the replica that founds a cluster.
	firstReplica = 1
)

type livesRecord struct {
	Cluster uint64   `json:"cluster"`
	Replica uint64   `json:"replica"`
	Lives   []string `json:"lives"` // in hex, the newest first
}

// beginLife draws a new life and returns it, followed by those before, once it is on disk. A file that is damaged counts as
// none: then the others may turn this node away, but never take a copy for it.
func (d *dataDir) beginLife(cluster, replica uint64, log *slog.Logger) ([]raftnet.Life, error) {
	path := d.join(identityName, livesFile)
	var was livesRecord
	switch err := readSealed(path, livesKind, livesVersion, &was); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, errDamaged):
		log.Warn("the record of this node's starts is damaged and begins anew", "err", err)
		was = livesRecord{}
	default:
		return nil, storageError(fmt.Errorf("read this node's starts: %w", err))
	}
	if was.Cluster != cluster || was.Replica != replica {
		was = livesRecord{Cluster: cluster, Replica: replica}
	}
	lives := []raftnet.Life{raftnet.NewLife()}
	for _, text := range was.Lives {
		var l raftnet.Life
		if b, err := hex.DecodeString(text); err == nil && copy(l[:], b) == len(b) && len(lives) < raftnet.MaxLives {
			lives = append(lives, l)
		}
	}
	now := livesRecord{Cluster: cluster, Replica: replica}
	for _, l := range lives {
		now.Lives = append(now.Lives, hex.EncodeToString(l[:]))
	}
	if err := writeSealed(path, livesKind, livesVersion, now); err != nil {
		return nil, storageError(fmt.Errorf("record this start: %w", err))
	}
	return lives, nil
}
