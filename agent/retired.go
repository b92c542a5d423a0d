package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"holdfast/internal/failpoint"
)

// retiredName is where a member goes that this node no longer is: retired/<replica id>/, the newest alone. Nothing reads
// it; it is there for the person who wants something back.
const retiredName = "retired"

// retireMember puts the folder of a removed member aside, and deletes the one before. Cut short, it is to be called again.
func (d *dataDir) retireMember(replica uint64) error {
	name := strconv.FormatUint(replica, 10)
	if err := d.makeFolder(retiredName); err != nil {
		return err
	}
	there, err := d.look(memberName)
	if err != nil {
		return err
	}
	if there != absent {
		if err := os.RemoveAll(d.join(retiredName, name)); err != nil { // never there: replica ids are not used again
			return storageError(fmt.Errorf("make room for the retired member: %w", err))
		}
		if err := os.Rename(d.join(memberName), d.join(retiredName, name)); err != nil {
			return storageError(fmt.Errorf("retire %s: %w", memberName, err))
		}
		if err := syncDir(d.path); err != nil {
			return storageError(err)
		}
		if err := syncDir(d.join(retiredName)); err != nil {
			return storageError(err)
		}
	}
	if err := d.step(failpoint.DemoteRetired); err != nil {
		return err
	}
	all, err := os.ReadDir(d.join(retiredName))
	if err != nil {
		return storageError(err)
	}
	for _, one := range all {
		if one.Name() == name {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.join(retiredName), one.Name())); err != nil {
			return storageError(fmt.Errorf("delete what was retired before: %w", err))
		}
	}
	return nil
}
